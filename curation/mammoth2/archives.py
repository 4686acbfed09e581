"""The pages of archives, streamed: WARC, WET and HTML files, from here or wherever fsspec reaches; Parquet and JSONL.

    for page in read_archive("s3://commoncrawl/crawl-data/.../CC-MAIN-00000.warc.gz", None, most=10_000_000): ...

A page comes as it is stored, undecoded: it is parsed in a process that may be killed
(`curation/mammoth2/pageworker.py`). Memory does not grow with the archive. Where an archive breaks off, what came
before is kept and a `Dropped` says what is missing.
"""

import glob
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limo.data import Dropped
from limo.errors import UserError
from limo.files import read_rows, shortened

KINDS = {
    **dict.fromkeys((".warc", ".wet", ".warc.wet"), "warc"),
    **dict.fromkeys((".parquet", ".jsonl", ".ndjson"), "rows"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
}
PAGES = ("text/html", "application/xhtml+xml", "text/plain", "")  # media types of records that are read


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of Parquet and JSONL: one holds the page, as html or as text."""

    page: str
    kind: str  # html or text
    url: str


@dataclass(frozen=True, slots=True)
class Raw:
    """A page as an archive holds it."""

    number: int  # of the record or row in its archive, from 1
    url: str
    body: bytes | str
    kind: str  # html or text
    packed: str = ""  # the HTTP Content-Encoding
    charset: str = ""  # of the HTTP header
    robots: str = ""  # the HTTP X-Robots-Tag
    date: str = ""  # when it was fetched


def find_archives(path: str) -> list[str]:
    """The archives of a path: a file, a folder with all below it, a pattern, or an address that fsspec knows.

    Raises UserError if there are none, or they cannot be listed.
    """
    if "://" in path:
        listed = _in_store(path)
    elif (where := Path(path).expanduser()).is_file():
        if not _kind_of(path):
            raise UserError(f"'{path}' is no archive of pages: its name must end with {', '.join(KINDS)}, or .gz more")
        return [str(where)]
    elif where.is_dir():
        listed = [str(file) for file in where.rglob("*") if file.is_file() and not file.is_symlink()]
    else:
        listed = [file for file in glob.glob(str(where), recursive=True) if Path(file).is_file()]  # noqa: PTH207
    if not (listed := sorted(file for file in listed if _kind_of(file))):
        raise UserError(f"there is no archive of pages at '{path}': nothing there ends with {', '.join(KINDS)}")
    return listed


def _kind_of(path: str) -> str:
    """What an archive is, by its ending; empty for another ending."""
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


class _Gzip(gzip.GzipFile):
    """A gzip file that ends at what cannot be unpacked and remembers why."""

    error = ""
    given = 0

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes; none at the end, and where the rest cannot be unpacked."""
        if self.error:
            return b""
        try:
            data = self.read1(size if size and size > 0 else 1 << 20)
        except (EOFError, zlib.error, OSError) as error:
            self.error = _first_line(error)
            return b""
        self.given += len(data)
        return data


def read_archive(path: str, columns: Columns | None, most: int) -> Iterator[Raw | Dropped]:
    """The pages of one archive, streamed; of a page, `most` bytes at most are read.

    Raises UserError where the whole archive is of no use: it is missing, or a column is.
    """
    kind = _kind_of(path)
    if kind == "rows":
        yield from _read_columns(path, columns, most)
        return
    with _open(path) as file:
        stream = _Gzip(fileobj=file) if path.lower().endswith(".gz") else file
        if kind == "warc":
            pages = _read_warc(path, stream, most)
        else:
            url = path if "://" in path else Path(path).absolute().as_uri()
            pages = iter([Raw(1, url, b"".join(_pieces(stream, most + 1)), "html")])
        empty = True
        for page in pages:
            empty = False
            if isinstance(page, Raw) and len(page.body) > most:
                yield Dropped(
                    "", "", "page too long", f"the limit is max_bytes={most:,}", path, page.number, {"url": page.url}
                )
            else:
                yield page
        if isinstance(stream, _Gzip) and stream.error:
            if kind == "warc" and empty:
                yield Dropped("", "", "not a WARC file", stream.error, path)
            else:
                yield Dropped("", "", "archive breaks off", f"{stream.error} after {stream.given:,} bytes", path)
        elif empty:
            yield Dropped("", "", "no page in the archive", "", path)


def _pieces(stream: Any, most: int) -> Iterator[bytes]:
    """The first `most` bytes of a stream whose reads may give fewer than asked."""
    while most and (piece := stream.read(min(most, 1 << 20))):
        most -= len(piece)
        yield piece


def _read_warc(path: str, stream: Any, most: int) -> Iterator[Raw | Dropped]:
    """The responses (WARC) and conversions (WET) of a stream."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    kinds = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    number = 0
    try:
        for record in ArchiveIterator(stream, record_types=kinds, auto_decode="transfer", stream_detect=False):
            number += 1
            http = record.http_headers
            said = (http or record.headers).get("Content-Type") or ""
            media, _, rest = said.lower().partition(";")
            body = record.reader.read(most + 1)
            chunked = http is not None and http.get("Transfer-Encoding")
            if len(body) < min(record.content_length, most) and not chunked:
                yield Dropped("", "", "archive breaks off", "the page has no end", path, number)
                return
            url = record.headers.get("WARC-Target-URI") or ""
            failed = http is not None and (http.status_code or 0) // 100 != 2
            if failed or media.strip() not in PAGES:
                detail = f"status {http.status_code}" if failed else media.strip()[:100]
                yield Dropped("", "", "not a page", detail, path, number, {"url": url[:2000]})
                continue
            yield Raw(
                number,
                url=url,
                body=body,
                kind="text" if record.record_type == WarcRecordType.conversion or "plain" in media else "html",
                packed=http.get("Content-Encoding") or "" if http else "",
                charset=rest.partition("charset=")[2].strip(" \"'")[:40],
                robots=(http.get("X-Robots-Tag") or "").lower()[:200] if http else "",
                date=record.headers.get("WARC-Date") or "",
            )
    except (OSError, ValueError) as error:
        if not getattr(stream, "error", ""):
            reason = "archive breaks off" if number else "not a WARC file"
            yield Dropped("", "", reason, f"{_first_line(error)}, after {number:,} pages", path, number + 1)


def _read_columns(path: str, columns: Columns | None, most: int) -> Iterator[Raw | Dropped]:
    """The pages of a local Parquet or JSONL file."""
    if columns is None:
        raise UserError(
            f"'{path}': say with pages.columns which column holds the page: {{page: html, kind: html, url: url}}"
        )
    number = 0
    for number, row in _until_broken(path, most):
        yield replace(row, file=path, row=number) if isinstance(row, Dropped) else _page(path, number, row, columns)
    if not number:
        yield Dropped("", "", "no page in the archive", "", path)


def _until_broken(path: str, most: int) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        for number, row in read_rows(path, most):
            yield number, row
    except UserError as error:
        yield number + 1, Dropped("", "", "archive breaks off" if number else "cannot be read", _first_line(error))


def _page(path: str, number: int, row: Any, columns: Columns) -> Raw | Dropped:
    """A page from a row's columns. Raises UserError if a first row has no such columns."""
    if not isinstance(row, dict):
        return Dropped("", "", "not an object", type(row).__name__, path, number, shortened(row, 200))
    if columns.page not in row:
        if number == 1:
            raise UserError(
                f"'{path}' has no column '{columns.page}' but {', '.join(row) or 'none'}: set pages.columns"
            )
        return Dropped("", "", "missing field", f"no column {columns.page}", path, number)
    body, url = row[columns.page], row.get(columns.url) or ""
    if not isinstance(body, str | bytes) or not isinstance(url, str):
        name, wrong = (columns.url, url) if isinstance(body, str | bytes) else (columns.page, body)
        return Dropped("", "", "wrong type", f"{name} is {type(wrong).__name__}", path, number, {"url": str(url)[:200]})
    return Raw(number, url, body, columns.kind)
