"""Reads other people's files row by row: JSONL, JSON, Parquet, CSV, and folders saved by `datasets`.

    for number, row in read_rows("problems.jsonl"): ...

A row that cannot be parsed is yielded as a `Dropped` with its reason. Memory does not grow with the file, except for
JSON arrays, which are read whole. What the columns mean is decided in `limo/sources.py`.
"""

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from limo.data import Dropped, parsed
from limo.errors import UserError

Raw = tuple[int, Any]  # row number from 1, and the parsed row or the `Dropped` that says why it could not be parsed
MAX_BYTES = 2**20  # of one row; a 32k-token chain takes about 130 kB


def read_rows(path: str | Path, max_bytes: int = MAX_BYTES) -> Iterator[Raw]:
    """Numbered rows of a file, by its ending, or of a folder saved by `datasets`.

    Raises UserError if there is no such file, its kind is unknown, or the whole of it cannot be read.
    """
    where = Path(path).expanduser()
    if not where.exists():
        raise UserError(f"no such file or folder '{path}'")
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv}
    read = _saved_dataset if where.is_dir() else readers.get(where.suffix.lower())
    if read is None:
        raise UserError(f"'{path}' is none of {', '.join(readers)}, nor a folder saved by datasets")
    if where.is_file():
        try:
            with where.open("rb") as file:
                begin = file.read(2)
        except PermissionError:
            raise UserError(f"may not read '{path}'. Change its permissions") from None
        if begin in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{path} is UTF-16: save it as UTF-8")
    yield from read(where, max_bytes)


def shortened(value: Any, chars: int = 2000) -> Any:
    """A row as it is, or the beginning of its text where it is huge or cannot be written as JSON."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        text = repr(value)
    else:
        if len(text) <= chars:
            return value
    return text if len(text) <= chars else text[:chars] + f"... ({len(text)} characters)"


def _jsonl(path: Path, max_bytes: int) -> Iterator[Raw]:
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(max_bytes + 1):
            number += 1
            if len(line) > max_bytes and not line.endswith(b"\n"):
                size = len(line)
                while (rest := lines.readline(max_bytes)) and not rest.endswith(b"\n"):
                    size += len(rest)
                detail = f"{size + len(rest):,} bytes; the limit is max_bytes={max_bytes:,}"
                yield number, Dropped("", "", "row too long", detail, data=line[:200].decode("utf-8", "replace"))
            elif line.strip():
                yield number, _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        # Windows editors put a byte-order mark at the beginning of a file; joined files have it in the middle
        return parsed(line.decode("utf-8-sig").strip().encode())
    except UnicodeDecodeError as error:
        detail, reason = f"byte {error.start} of the line", "invalid UTF-8"
    except json.JSONDecodeError as error:
        detail, reason = f"{error.msg} at character {error.pos + 1}", "invalid JSON"
    except (RecursionError, ValueError) as error:  # nesting without end; integers of more than 4300 digits
        detail, reason = str(error), "invalid JSON"
    return Dropped("", "", reason, detail, data=shortened(line.decode("utf-8", "replace").strip()))


def _json(path: Path, max_bytes: int) -> Iterator[Raw]:
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")  # a bad byte costs its row, not the file
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):  # JSON lines under the wrong name
            yield from _jsonl(path, max_bytes)
            return
        raise UserError(
            f"{path}: not JSON: {error}. Repair it, or save it as JSONL, where only the bad row is dropped"
        ) from None
    if isinstance(rows, dict):
        rows = next((v for v in rows.values() if isinstance(v, list)), [rows])
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds a {type(rows).__name__}, not a list of rows")
    for number, row in enumerate(rows, 1):
        yield number, bounded(row, max_bytes)


def bounded(row: Any, max_bytes: int) -> Any:
    """A row, or the `Dropped` that says that it is too long."""
    size = sum(len(v) for v in row.values() if isinstance(v, str)) if isinstance(row, dict) else 0
    if size <= max_bytes:
        return row
    detail = f"{size:,} characters; the limit is max_bytes={max_bytes:,}"
    return Dropped("", "", "row too long", detail, data=shortened(row))


def _parquet(path: Path, max_bytes: int) -> Iterator[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            rows = chain.from_iterable(batch.to_pylist() for batch in table.iter_batches(batch_size=500))
            for number, row in enumerate(rows, 1):
                yield number, bounded(row, max_bytes)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable Parquet file: {reason}") from None


def _csv(path: Path, max_bytes: int) -> Iterator[Raw]:
    csv.field_size_limit(2**31 - 1)  # a longer row is dropped below, with its reason
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        header = lines.readline(max_bytes)
        lines.seek(0)
        # Spreadsheets write semicolons where the comma is a decimal sign
        reader = csv.DictReader(lines, delimiter=max(",;\t", key=header.count))
        try:
            for number, row in enumerate(reader, 1):
                if None in row:
                    detail = f"{len(row[None])} more than the header"
                    yield number, Dropped("", "", "too many columns", detail, data=shortened(row))
                else:
                    yield number, bounded(row, max_bytes)
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _saved_dataset(path: Path, max_bytes: int) -> Iterator[Raw]:
    from datasets import Dataset, load_from_disk

    try:
        rows = load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError(f"'{path}' is no folder saved by datasets: {error}") from None
    if not isinstance(rows, Dataset):
        raise UserError(f"'{path}' holds the splits {', '.join(rows)}; name one: path={path}/{next(iter(rows))}")
    for number, row in enumerate(rows, 1):
        yield number, bounded(row, max_bytes)
