"""Streams the pages of archives: WARC, WET and HTML files, local or at an fsspec address; local Parquet and JSONL.

    for page in read_archive("s3://commoncrawl/crawl-data/.../CC-MAIN-00000.warc.gz", None, most=10_000_000): ...

A page is returned as stored, undecoded: it is parsed in a process that may be killed (`pageworker.py`). Memory does not
grow with the archive. After a damaged WARC record, reading continues with the next record; of any other damaged
archive, the pages before the damage are kept. A `Dropped` reports the missing part.
"""

import glob
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from limo.data import Dropped
from limo.errors import UserError
from limo.sources.files import read_rows, shortened

KINDS = {
    **dict.fromkeys((".warc", ".wet", ".warc.wet"), "warc"),
    **dict.fromkeys((".parquet", ".jsonl", ".ndjson"), "rows"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
}
PIECE = 2**20  # bytes of a damaged archive that are searched at once for the next record
PAGES = ("text/html", "application/xhtml+xml", "text/plain", "")  # media types of records that are read
RECORD = re.compile(rb"\x1f\x8b\x08|(?<=\n)WARC/1")  # the possible beginning of a record, compressed or not


@dataclass(frozen=True, slots=True)
class PageColumns:
    """The columns of Parquet and JSONL: one holds the page, as html or as text."""

    page: str
    kind: Literal["html", "text"]
    url: str


@dataclass(frozen=True, slots=True)
class Raw:
    """A page as stored in an archive."""

    number: int  # of the record or row in its archive, from 1
    url: str
    body: bytes | str
    kind: str  # html or text
    packed: str = ""  # the HTTP Content-Encoding
    charset: str = ""  # of the HTTP header
    robots: str = ""  # the HTTP X-Robots-Tag
    date: str = ""  # when it was fetched


def find_archives(path: str) -> list[str]:
    """List the archives of a path: a file, a folder and its subfolders, a pattern, or an address that fsspec can open.

    Raises UserError if there are none, or they cannot be listed.
    """
    if "://" in path:
        listed = _in_store(path)
    elif (where := Path(path).expanduser()).is_file():
        listed = [str(where)]
    elif where.is_dir():
        listed = [str(file) for file in where.rglob("*") if file.is_file() and not file.is_symlink()]
    else:
        listed = [file for file in glob.glob(str(where), recursive=True) if Path(file).is_file()]  # noqa: PTH207
    if not (listed := sorted(file for file in listed if _kind_of(file))):
        raise UserError(f"there is no archive of pages at '{path}': nothing there ends with {', '.join(KINDS)}")
    return listed


def _kind_of(path: str) -> str:
    """The kind of an archive according to the ending of its name; empty for an unknown ending."""
    name = path.lower().removesuffix(".gz")
    kind = next((kind for ending, kind in KINDS.items() if name.endswith(ending)), "")
    return "" if kind == "rows" and (path.lower().endswith(".gz") or "://" in path) else kind


def _in_store(path: str) -> list[str]:
    import fsspec

    try:
        files, stripped = fsspec.core.url_to_fs(path)
        names = files.glob(stripped) if any(sign in path for sign in "*?[") else files.find(stripped)
        return [str(files.unstrip_protocol(name)) for name in names]
    except Exception as error:  # noqa: BLE001 - each store has its error types
        raise UserError(
            f"cannot list '{path}': {_first_line(error)}. Check the address, the network and the keys"
        ) from None


def _open(path: str) -> Any:
    if "://" not in path:
        return Path(path).open("rb")
    import fsspec

    try:
        return fsspec.open(path, "rb").open()
    except Exception as error:  # noqa: BLE001 - each store has its error types
        raise UserError(f"cannot open '{path}': {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def read_archive(path: str, columns: PageColumns | None, most: int) -> Iterator[Raw | Dropped]:
    """Stream the pages of one archive. At most `most` bytes of each page are read.

    Raises UserError if the whole archive cannot be used: it is missing, or a column is missing.
    """
    readers = {"html": _read_html, "warc": _read_warc}
    empty = True
    for page in readers.get(_kind_of(path), partial(_read_columns, columns=columns))(path, most):
        empty = False
        if isinstance(page, Raw) and len(page.body) > most:
            detail = f"the limit is max_bytes={most:,}"
            yield Dropped("", "", "page too long", detail, path, page.number, {"url": page.url})
        else:
            yield page
    if empty:
        yield Dropped("", "", "no page in the archive", "", path)


def _read_html(path: str, most: int) -> Iterator[Raw | Dropped]:
    with _open(path) as file:
        stream = gzip.GzipFile(fileobj=file) if path.lower().endswith(".gz") else file
        try:
            body = stream.read(most + 1)
        except (OSError, EOFError, zlib.error) as error:
            yield Dropped("", "", "archive breaks off", _first_line(error), path)
        else:
            yield Raw(1, path if "://" in path else Path(path).absolute().as_uri(), body, "html")


def _read_warc(path: str, most: int) -> Iterator[Raw | Dropped]:
    """Stream the responses of a WARC file, or the conversions of a WET file. After a damaged record, reading continues
    at the next readable one.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    kinds = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    number = at = 0
    with _open(path) as file:
        while at >= 0:
            file.seek(at)
            try:
                for record in ArchiveIterator(file, auto_decode="transfer"):
                    at = record.stream_pos
                    if record.record_type & kinds:
                        page = _read_record(path, record, number + 1, most)
                        number += 1
                        yield page
                return
            except (OSError, ValueError) as error:
                begun, at = at, _find_record(file, at + 1)
                if at >= 0:
                    reason, detail = "damaged record", f"{_first_line(error)}; the next one begins at byte {at:,}"
                else:
                    reason, detail = "archive breaks off", f"{_first_line(error)}, after byte {begun:,}"
                number += 1
                yield Dropped("", "", reason if number > 1 or at >= 0 else "not a WARC file", detail, path, number)


def _find_record(file: Any, at: int) -> int:
    """The position of the first readable record at or after a byte; -1 if there is none."""
    from fastwarc.warc import ArchiveIterator

    while True:
        file.seek(at)
        piece = file.read(PIECE)
        for found in RECORD.finditer(piece):
            file.seek(at + found.start())
            with suppress(OSError, StopIteration):
                next(ArchiveIterator(file)).reader.consume()
                return int(at + found.start())
        if len(piece) < PIECE:
            return -1
        at += PIECE - len("\nWARC/1")


def _read_record(path: str, record: Any, number: int, most: int) -> Raw | Dropped:
    """Read a record as a page. Raises ValueError for an incomplete record."""
    http, length, body = record.http_headers, record.content_length, record.reader.read(most + 1)
    url, get = record.headers.get("WARC-Target-URI") or "", http.get if http else dict[str, str]().get
    chunked = (get("Transfer-Encoding") or "").strip().lower() == "chunked"  # decoded, so it is shorter
    if "Content-Length" not in record.headers or (len(body) < min(length, most) and not chunked):
        raise ValueError(f"the record has no end: {len(body):,} of {length:,} bytes")

    def drop(detail: str) -> Dropped:
        return Dropped("", "", "not a page", detail[:200], path, number, {"url": url[:2000]})

    stated = get("Content-Type") if http else record.headers.get("Content-Type")
    media, _, rest = (stated or "").lower().partition(";")
    if http and (http.status_code or 0) // 100 != 2:
        return drop(f"status {http.status_code}")
    if media.strip() not in PAGES:
        return drop(media.strip())
    return Raw(
        number,
        url=url,
        body=body,
        kind="text" if "plain" in media else "html",
        packed=get("Content-Encoding") or "",
        charset=rest.partition("charset=")[2].strip(" \"'")[:40],
        robots=(get("X-Robots-Tag") or "").lower()[:200],
        date=record.headers.get("WARC-Date") or "",
    )


def _read_columns(path: str, most: int, columns: PageColumns | None) -> Iterator[Raw | Dropped]:
    """The pages of a local Parquet or JSONL file."""
    if columns is None:
        raise UserError(
            f"'{path}': say with pages.columns which column holds the page: {{page: html, kind: html, url: url}}"
        )
    number, rows = 0, read_rows(path, most)
    while True:
        try:
            number, row = next(rows)
        except StopIteration:
            return
        except UserError as error:
            reason = "archive breaks off" if number else "cannot be read"
            yield Dropped("", "", reason, _first_line(error), path, number + 1)
            return
        yield replace(row, file=path, row=number) if isinstance(row, Dropped) else _page(path, number, row, columns)


def _page(path: str, number: int, row: Any, columns: PageColumns) -> Raw | Dropped:
    """Read a page from a row's columns. Raises UserError if the file's first row lacks these columns."""
    if not isinstance(row, dict):
        return Dropped("", "", "not an object", type(row).__name__, path, number, shortened(row, 200))
    if number == 1 and columns.page not in row:
        raise UserError(f"'{path}' has no column '{columns.page}' but {', '.join(row) or 'none'}: set pages.columns")
    body: Any = row.get(columns.page)
    url: Any = row.get(columns.url) or ""
    for name, value, kinds in ((columns.page, body, str | bytes), (columns.url, url, str)):
        if not isinstance(value, kinds):
            detail = f"{name} is {type(value).__name__}"
            return Dropped("", "", "wrong type", detail, path, number, {"url": str(url)[:200]})
    return Raw(number, url, body, columns.kind)
