"""The pages of archives, streamed: WARC and WET, Parquet, JSONL, HTML files; from here or wherever fsspec reaches.

    for page in opened("s3://commoncrawl/crawl-data/.../CC-MAIN-00000.warc.gz", Columns(...), most=10_000_000): ...

A page comes as it is stored, undecoded: what is done with it is for a process that may be killed
(`curation/mammoth2/pageworker.py`). Memory does not grow with the archive. Where an archive breaks off, what came
before is kept and a `Dropped` says what is missing.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from curation.mammoth2.storage import first_line, kind_of, stream_of
from limo.data import Dropped, parsed
from limo.errors import UserError
from limo.files import shortened

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


def opened(path: str, columns: Columns | None, most: int) -> Iterator[Raw | Dropped]:
    """The pages of one archive, streamed; of a page, `most` bytes at most are read.

    Raises UserError where the whole archive is of no use: it is not there, or a column is missing.
    """
    kind = kind_of(path)
    if kind in ("parquet", "jsonl") and columns is None:
        raise UserError(
            f"'{path}': say with pages.columns which column holds the page: {{page: html, kind: html, url: url}}"
        )
    with stream_of(path) as file:
        packed = path.lower().endswith(".gz")
        if kind == "parquet":
            assert columns
            yield from _parquet(path, file, columns, most)
            return
        stream = Unpacked(file) if packed else file
        if kind == "warc":
            yield from _warc(path, stream, most)
        elif kind == "html":
            yield _whole(path, stream, most)
        else:
            assert columns
            yield from _jsonl(path, stream, columns, most)
        if isinstance(stream, Unpacked) and stream.error and (stream.given or kind != "warc"):
            yield Dropped("", "", "archive breaks off", f"{stream.error} after {stream.given:,} bytes", path)


class Unpacked(io.RawIOBase):
    """A gzip stream of any number of members, which ends at what cannot be unpacked and remembers why."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.stream, self.error, self.given = gzip.GzipFile(fileobj=file, mode="rb"), "", 0

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none at the end, and where the rest cannot be unpacked."""
        if self.error:
            return b""
        try:
            data = self.stream.read1(size if size >= 0 else 1 << 20)
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
            self.error = first_line(error)
            return b""
        self.given += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        """See `read`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _warc(path: str, stream: Any, most: int) -> Iterator[Raw | Dropped]:
    """The responses (WARC) and conversions (WET) of a stream."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    number = 0
    records = iter(ArchiveIterator(stream))
    while True:
        try:
            record = next(records, None)
            if record is None:
                break
            if record.format != "warc":  # the reader takes any line for one of the older format's
                raise ValueError("here stands no WARC record")
            if record.rec_type not in ("response", "conversion", "resource"):
                continue
            number += 1
            page = _record(number, record, most, path)
        except (
            ArchiveLoadFailed,
            OSError,
            EOFError,
            ValueError,
            KeyError,
            AttributeError,
            TypeError,
            IndexError,
        ) as error:
            if not (isinstance(stream, Unpacked) and stream.error and number):
                reason = "archive breaks off" if number else "not a WARC file"
                yield Dropped("", "", reason, f"{first_line(error)}, after {number:,} pages", path, number + 1)
            return
        if page is not None:
            yield page
    if not number and isinstance(stream, Unpacked) and stream.error:
        yield Dropped("", "", "not a WARC file", stream.error, path)
    elif not number:
        yield Dropped("", "", "no page in the archive", "", path)


def _record(number: int, record: Any, most: int, path: str) -> Raw | Dropped | None:
    """A page; None for a record that holds none."""
    from warcio.bufferedreaders import ChunkedDataReader

    url, http = record.rec_headers.get_header("WARC-Target-URI") or "", record.http_headers
    said = (http.get_header if http else record.rec_headers.get_header)("Content-Type") or ""
    media, _, rest = said.lower().partition(";")
    status = http.get_statuscode() if http else "200"
    if media.strip() not in PAGES or not status.startswith("2"):
        return None
    stream = record.raw_stream
    if http and "chunked" in (http.get_header("Transfer-Encoding") or "").lower():
        stream = ChunkedDataReader(stream, decomp_type=None)
    body = _up_to(stream, most + 1)
    if len(body) > most:
        return Dropped("", "", "page too long", f"the limit is max_bytes={most:,}", path, number, {"url": url})
    if getattr(record.raw_stream, "limit", 0) > 0 and stream is record.raw_stream:
        return Dropped("", "", "archive breaks off", "the page has no end", path, number, {"url": url})
    charset = rest.partition("charset=")[2].strip(" \"'")[:40]
    text = record.rec_type == "conversion" or media.strip() == "text/plain"
    packed, robots = ((http.get_header(name) or "") if http else "" for name in ("Content-Encoding", "X-Robots-Tag"))
    date = record.rec_headers.get_header("WARC-Date") or ""
    return Raw(number, url, body, "text" if text else "html", packed, charset, robots.lower()[:200], date)


def _up_to(stream: Any, most: int) -> bytes:
    """The first bytes of a stream whose reads may give fewer than asked."""
    pieces, size = list[bytes](), 0
    while size < most and (piece := stream.read(min(most - size, 1 << 20))):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _whole(path: str, stream: Any, most: int) -> Raw | Dropped:
    """An HTML file, which is one page."""
    body = _up_to(stream, most + 1)
    url = path if "://" in path else Path(path).absolute().as_uri()
    if len(body) > most:
        return Dropped("", "", "page too long", f"the limit is max_bytes={most:,}", path, 1, {"url": url})
    return Raw(1, url, body, "html")


def _jsonl(path: str, stream: Any, columns: Columns, most: int) -> Iterator[Raw | Dropped]:
    lines = io.BufferedReader(stream) if isinstance(stream, Unpacked) else stream
    number = 0
    limit = 2 * most + 10_000  # escapes make a line longer than its page
    while line := lines.readline(limit):
        number += 1
        if not line.endswith(b"\n") and len(line) == limit:
            while (rest := lines.readline(limit)) and not rest.endswith(b"\n"):
                pass
            yield Dropped("", "", "page too long", f"the limit is max_bytes={most:,}", path, number)
            continue
        try:
            row = parsed(line)
        except (ValueError, RecursionError) as error:
            shown = shortened(line[:200].decode("utf-8", "replace"))
            yield Dropped("", "", "invalid JSON", first_line(error), path, number, shown)
            continue
        yield _row(path, number, row, columns, most)
    if not number and not getattr(stream, "error", ""):
        yield Dropped("", "", "no page in the archive", "", path)


def _row(path: str, number: int, row: Any, columns: Columns, most: int) -> Raw | Dropped:
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
    if len(body) > most:
        return Dropped(
            "", "", "page too long", f"{len(body):,}; the limit is max_bytes={most:,}", path, number, {"url": url}
        )
    return Raw(number, url, body, columns.kind)


def _parquet(path: str, file: Any, columns: Columns, most: int) -> Iterator[Raw | Dropped]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if columns.page not in names:
                raise UserError(f"'{path}' has no column '{columns.page}' but {', '.join(names)}: set pages.columns")
            wanted = [name for name in (columns.page, columns.url) if name in names]
            for batch in table.iter_batches(batch_size=64, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield _row(path, number, row, columns, most)
        if not number:
            yield Dropped("", "", "no page in the archive", "", path)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = "archive breaks off" if number else "not a Parquet file"
        yield Dropped("", "", reason, f"{first_line(error)}, after {number:,} pages", path, number + 1)
