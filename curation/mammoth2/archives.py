"""The pages of archives, streamed: WARC, WET and HTML files, from here or wherever fsspec reaches; Parquet and JSONL.

    for page in read_archive("s3://commoncrawl/crawl-data/.../CC-MAIN-00000.warc.gz", None, most=10_000_000): ...

A page comes as it is stored, undecoded: it is parsed in a process that may be killed
(`curation/mammoth2/pageworker.py`). Memory does not grow with the archive. Where a packed WARC file is damaged, reading
continues with the next record; where any other archive is, what came before is kept. A `Dropped` says what is missing.
"""

import glob
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
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
PIECE = 2**16  # bytes of a packed archive that are read at once
SWALLOWED = 2**20  # bytes of a damaged record in which the next one is looked for
HEAD = 4096  # bytes that tell whether a record, or a chunk, begins there
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


class _Gzip:
    """A gzip file as streams that each begin at a member; a WARC file has one for each record. `begin` comes first.

    A stream ends at what cannot be unpacked, or fails its checksum, and `error` says why; `skip` finds the next record.
    """

    def __init__(self, file: Any) -> None:
        self.file, self.packed, self.taken = file, b"", 0  # the bytes not yet unpacked, how many were read
        self.member = b""  # the bytes of the current member, or the last of them, and what was read behind it
        self.unpacker: Any = None
        self.unpacked, self.given, self.next = b"", 0, False
        self.error = self.later = ""  # `later` is the error of the next stream

    def begin(self) -> bool:
        """Begin the next stream; false at the end of the file."""
        self.given, self.next, self.error, self.later = 0, False, self.later, ""
        self.unpacked = self.unpacked or (b"" if self.error else self._unpack())
        return bool(self.unpacked or self.error)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; none where a member begins with a record, or the rest cannot be unpacked."""
        if not (self.unpacked or self.error or self.next):
            member = self.unpacker
            self.unpacked = self._unpack()
            if member is not self.unpacker and self.given and (self.error or self.unpacked.startswith(b"WARC/")):
                self.next, self.error, self.later = True, "", self.error
        if self.next or not self.unpacked:
            return b""
        size = size if size > 0 else PIECE
        data, self.unpacked = self.unpacked[:size], self.unpacked[size:]
        self.given += len(data)
        return data

    def tell(self) -> int:
        """The bytes of this stream that were read."""
        return self.given

    def _unpack(self) -> bytes:
        try:
            while True:
                if not self.unpacker or self.unpacker.eof:
                    while not (packed := self.packed.lstrip(b"\0")):  # there may be zeros between
                        self.packed = self.member = b""
                        if not self._fill():
                            return b""
                    self.packed = self.member = packed
                    self.unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
                data: bytes = self.unpacker.decompress(self.packed, PIECE)
                self.packed = self.unpacker.unconsumed_tail or self.unpacker.unused_data
                if data:
                    return data
                if not (self.unpacker.eof or self.packed or self._fill()):
                    raise EOFError("it ends within a compressed record")
        except (EOFError, zlib.error, OSError) as error:
            self.error = _first_line(error)
            return b""

    def _fill(self) -> bool:
        more = self.file.read(PIECE)
        self.packed, self.taken = self.packed + more, self.taken + len(more)
        self.member = self.member + more if len(self.member) < SWALLOWED else self.packed
        return bool(more)

    def skip(self) -> tuple[int, bool]:
        """Go to the next member that begins with a record. Returns the bytes passed over, and whether there is one.

        It is looked for from the beginning of this member: what is damaged may be unpacked into the next one.
        """
        left, begun = self.taken - len(self.packed), self.taken - len(self.member)
        self.packed, self.unpacker, self.unpacked = self.member[1:], None, b""
        while True:
            more, keep = self._fill(), len(self.packed)
            for found in re.finditer(rb"\x1f\x8b\x08", self.packed):
                head = self.packed[found.start() : found.start() + HEAD]
                if more and len(head) < HEAD:
                    keep = found.start()
                    break
                if _begins_record(head):
                    self.packed = self.packed[found.start() :]
                    return self.taken - len(self.packed) - begun, True
            if not more:
                self.packed = b""
                return self.taken - left, False
            self.packed = self.packed[min(keep, len(self.packed) - 2) :]


def _begins_record(packed: bytes) -> bool:
    with suppress(zlib.error):
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed, 5) == b"WARC/"
    return False


def read_archive(path: str, columns: Columns | None, most: int) -> Iterator[Raw | Dropped]:
    """The pages of one archive, streamed; of a page, `most` bytes at most are read.

    Raises UserError where the whole archive is of no use: it is missing, or a column is.
    """
    kind = _kind_of(path)
    if kind == "rows":
        yield from _read_columns(path, columns, most)
        return
    with _open(path) as file:
        stream = _Gzip(file) if path.lower().endswith(".gz") else file
        if kind == "html":
            pages = _read_html(path, stream, most)
        else:
            pages = _read_members(path, stream, most) if isinstance(stream, _Gzip) else _read_plain(path, stream, most)
        empty = True
        for page in pages:
            empty = False
            if isinstance(page, Raw) and len(page.body) > most:
                detail = f"the limit is max_bytes={most:,}"
                yield Dropped("", "", "page too long", detail, path, page.number, {"url": page.url})
            else:
                yield page
        if empty:
            yield Dropped("", "", "no page in the archive", "", path)


def _read_html(path: str, stream: Any, most: int) -> Iterator[Raw | Dropped]:
    body, packed = b"", isinstance(stream, _Gzip)
    if not packed or stream.begin():
        while len(body) <= most and (piece := stream.read(PIECE)):
            body += piece
    url = path if "://" in path else Path(path).absolute().as_uri()
    if body or not packed:
        yield Raw(1, url, body, "html")
    if packed and stream.error:
        yield Dropped("", "", "archive breaks off", f"{stream.error} after {len(body):,} bytes", path)


def _read_members(path: str, stream: _Gzip, most: int) -> Iterator[Raw | Dropped]:
    """The pages of a packed WARC file. A damaged record is dropped, and the next one looked for."""
    number = 0
    while stream.begin():
        held = None  # the last page of a stream counts once its end is unpacked and its checksum right
        try:
            for page, _ in _read_records(path, stream, most, number):
                if held:
                    yield held
                    number += 1
                held = page
        except (OSError, ValueError) as error:
            stream.error = stream.error or _first_line(error)
        if not stream.error:
            if held:
                yield held
                number += 1
            continue
        why, (passed, more) = stream.error, stream.skip()
        if more:
            number += 1
            detail = f"{why}; {passed:,} bytes passed over"
            yield Dropped("", "", "record cannot be unpacked", detail, path, number)
        else:
            detail = f"{why}, after {number:,} pages; {passed:,} bytes remain unread"
            yield Dropped("", "", "archive breaks off" if number else "not a WARC file", detail, path, number + 1)


def _read_plain(path: str, file: Any, most: int) -> Iterator[Raw | Dropped]:
    """The pages of a WARC file that is not packed. Nothing says where the next record begins after a damaged one."""
    number = end = 0
    try:
        for page, end in _read_records(path, file, most, 0):  # noqa: B007
            number += 1
            yield page
    except (OSError, ValueError) as error:
        detail = f"{_first_line(error)}, after {number:,} pages; at most {file.seek(0, 2) - end:,} bytes remain unread"
        yield Dropped("", "", "archive breaks off" if number else "not a WARC file", detail, path, number + 1)


def _read_records(path: str, stream: Any, most: int, number: int) -> Iterator[tuple[Raw | Dropped, int]]:
    """The responses (WARC) and conversions (WET) of a stream, each with about where it ends; `number` came before.

    Raises OSError or ValueError for what is no record.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    kinds = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    for record in ArchiveIterator(stream, record_types=kinds, auto_decode="none", stream_detect=False):
        number += 1
        http, length = record.http_headers, record.content_length
        said = (http or record.headers).get("Content-Type") or ""
        media, _, rest = said.lower().partition(";")
        body = record.reader.read(most + 1)
        end = record.stream_pos + length
        if len(body) < min(length, most):
            detail = f"the page has no end: {len(body):,} of {length:,} bytes"
            yield Dropped("", "", "archive breaks off", detail, path, number), end
            return
        url = record.headers.get("WARC-Target-URI") or ""
        if len(body) <= most and http and (http.get("Transfer-Encoding") or "").strip().lower() == "chunked":
            try:
                body = _unchunk(body)
            except ValueError as error:
                yield (
                    Dropped("", "", "broken transfer encoding", str(error)[:200], path, number, {"url": url[:2000]}),
                    end,
                )
                continue
        failed = http is not None and (http.status_code or 0) // 100 != 2
        if failed or media.strip() not in PAGES:
            detail = f"status {http.status_code}" if failed else media.strip()[:100]
            yield Dropped("", "", "not a page", detail, path, number, {"url": url[:2000]}), end
            continue
        page = Raw(
            number,
            url=url,
            body=body,
            kind="text" if record.record_type == WarcRecordType.conversion or "plain" in media else "html",
            packed=http.get("Content-Encoding") or "" if http else "",
            charset=rest.partition("charset=")[2].strip(" \"'")[:40],
            robots=(http.get("X-Robots-Tag") or "").lower()[:200] if http else "",
            date=record.headers.get("WARC-Date") or "",
        )
        yield page, end


def _unchunk(body: bytes) -> bytes:
    """The content of a body in HTTP's chunked transfer encoding. Raises ValueError if it is none, or has no end."""
    parts, at = list[bytes](), 0
    while True:
        line, end, _ = body[at : at + HEAD].partition(b"\r\n")
        size = line.partition(b";")[0].strip()
        if not end or not re.fullmatch(rb"[0-9a-fA-F]{1,16}", size):
            raise ValueError(f"no length of a chunk at byte {at + 1:,}")
        at += len(line) + 2
        if not (length := int(size, 16)):
            return b"".join(parts)
        if at + length > len(body):
            raise ValueError(f"a chunk of {length:,} bytes at byte {at + 1:,} has no end")
        parts.append(body[at : at + length])
        at += length + 2


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
