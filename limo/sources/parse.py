"""Parses one file into numbered rows. Run as a worker by `limo/sources/files.py`, which limits its time and memory.

A row that cannot be parsed becomes a `Dropped` with its reason. Raises UserError if the whole file cannot be parsed,
and for two columns of one name, several sheets or several lists, among which a person must choose.
"""

import csv
import io
import json
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from limo.data import Dropped, parsed
from limo.errors import UserError, need_package
from limo.processes import serve_questions
from limo.sources.files import PACKED, Raw, bounded, ending, shortened

DEPTH = 100  # most levels of nested objects and lists in a row
FIELD = 2**26  # most characters of a field or a line of a CSV file
ROWS, CHARACTERS, PAUSE = 500, 2**20, 1.0  # limits of one message to the caller: rows, characters (about), seconds
CELL_ERRORS = ("#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!")  # results of failed formulas
TWICE = "two columns are called"


def parse(path: str, max_bytes: int, encoding: str, sheet: str | None) -> Iterator[Raw]:
    """Parse the rows of a file, or of a folder saved by `datasets`. Raises UserError if it cannot be parsed."""
    file = Path(path)
    try:
        if file.is_dir():
            rows: Iterable[Any] = _saved_dataset(file)
        elif ending(file) == ".xlsx":
            rows = _excel(file, sheet)
        else:
            yield from READERS[ending(file)](file, max_bytes, encoding)
            return
        yield from ((number, bounded(row, max_bytes)) for number, row in enumerate(rows, 1))
    except PermissionError:
        raise UserError(f"may not read '{path}'. Change its permissions") from None


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[io.BufferedReader]:
    """Open a file, unpacked and as UTF-8. Raises UserError if it is not text or cannot be unpacked."""
    import pyarrow as pa

    packing = PACKED.get(path.suffix.lower())
    try:
        with io.BufferedReader(pa.input_stream(str(path), compression=packing)) if packing else path.open("rb") as file:
            if encoding.lower().replace("-", "") == "utf8":
                if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise UserError(f"{path} is UTF-16: save it as UTF-8, or set encoding: utf-16")
                yield file
            else:
                yield io.BufferedReader(io.BytesIO(file.read().decode(encoding).encode()))
    except LookupError:
        raise UserError(f"there is no encoding '{encoding}'") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {encoding}: byte {error.start + 1}") from None
    except (pa.ArrowException, OSError) as error:
        if not packing or isinstance(error, PermissionError):
            raise
        raise UserError(f"{path} cannot be unpacked: {str(error).splitlines()[0]}") from None


def _jsonl(path: Path, max_bytes: int, encoding: str) -> Iterator[Raw]:
    with _opened(path, encoding) as lines:
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
        text = line.decode("utf-8-sig").strip().encode()
        row = parsed(text)
        if isinstance(row, dict) and any(text.count(f'"{key}"'.encode()) > 1 for key in row):
            row = json.loads(text, object_pairs_hook=_object)  # slower, but notices a repeated key
        return _checked(row)
    except UnicodeDecodeError as error:
        detail, reason = f"byte {error.start + 1} of the row: save it as UTF-8 or set encoding: cp1252", "not UTF-8"
    except json.JSONDecodeError as error:
        detail, reason = f"{error.msg} at character {error.pos + 1}", "invalid JSON"
    except (RecursionError, ValueError) as error:  # nesting without end; integers of more than 4300 digits
        detail, reason = str(error), "invalid JSON"
    return Dropped("", "", reason, detail, data=shortened(line.decode("utf-8", "replace").strip()))


class _Twice(dict[str, Any]):
    """A JSON object that has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(Counter(key for key, _ in pairs))


def _checked(row: Any) -> Any:
    """Return a row unchanged. Raises ValueError for a repeated key, and RecursionError if it is nested so deep that it
    could not be written again.
    """
    if isinstance(row, _Twice):
        raise ValueError(f"{TWICE} '{max(row, key=row.__getitem__)}'")
    level = [row]
    for _ in range(DEPTH + 1):
        nested = [
            outer.values() if isinstance(outer, dict) else outer for outer in level if isinstance(outer, dict | list)
        ]
        if not (level := list(chain.from_iterable(nested))):
            return row
    raise RecursionError(f"nested more than {DEPTH} deep")


def _json(path: Path, max_bytes: int, encoding: str) -> Iterator[Raw]:
    with _opened(path, encoding) as file:
        text = file.read().decode("utf-8-sig", "surrogateescape")  # a bad byte costs its row, not the file
    try:
        rows = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):  # JSON lines under the wrong name
            yield from _jsonl(path, max_bytes, encoding)
            return
        raise UserError(
            f"{path}: not JSON: {error}. Repair it, or save it as JSONL, where only the bad row is dropped"
        ) from None
    if isinstance(rows, dict):
        lists = {key: v for key, v in rows.items() if isinstance(v, list) and any(isinstance(row, dict) for row in v)}
        if len(lists) > 1:
            raise UserError(
                f"{path} holds the lists {', '.join(lists)}: save the one that is meant as a file of its own"
            )
        rows = next(iter(lists.values()), [rows])
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds a {type(rows).__name__}, not a list of rows")
    for number, row in enumerate(rows, 1):
        try:
            yield number, bounded(_checked(row), max_bytes)
        except (RecursionError, ValueError) as error:
            yield number, Dropped("", "", "invalid JSON", str(error))


def _refuse_twice(path: Path, names: Iterable[Any], where: str = "") -> None:
    """Raise UserError for two columns of one name, since it is unknown which of them is meant."""
    twice = next((name for name, count in Counter(names).items() if count > 1 and name not in (None, "")), None)
    if twice is not None:
        raise UserError(f"{path}{where}: {TWICE} '{twice}': rename or remove one")


def _parquet(path: Path, max_bytes: int, encoding: str) -> Iterator[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            _refuse_twice(path, table.schema_arrow.names)
            # Few rows at once: the file may store one large value once for many rows
            rows = chain.from_iterable(batch.to_pylist() for batch in table.iter_batches(batch_size=16))
            for number, row in enumerate(rows, 1):
                yield number, bounded(row, max_bytes)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable Parquet file: {reason}") from None


def _csv(path: Path, max_bytes: int, encoding: str) -> Iterator[Raw]:
    csv.field_size_limit(FIELD)  # a shorter row that is too long is dropped below, with its reason
    with _opened(path, encoding) as file:
        header = file.peek().split(b"\n")[0]
        lines = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        # Spreadsheets write semicolons in locales where the comma is the decimal sign
        reader = csv.DictReader(_lines_of(lines), delimiter=max(",;\t", key=header.decode("utf-8", "replace").count))
        try:
            _refuse_twice(path, (name.strip() for name in reader.fieldnames or ()))
            for number, row in enumerate(reader, 1):
                if None in row:
                    detail = f"{len(row[None])} more than the header"
                    yield number, Dropped("", "", "too many columns", detail, data=shortened(row))
                else:
                    yield number, bounded(row, max_bytes)
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _lines_of(file: io.TextIOWrapper) -> Iterator[str]:
    while line := file.readline(FIELD + 1):
        if len(line) > FIELD:
            raise csv.Error(f"a line of more than {FIELD:,} characters")
        yield line


def _excel(path: Path, sheet: str | None) -> Iterator[Any]:
    """Read the rows below the header of the named sheet, or of the only sheet that has rows."""
    need_package("openpyxl", "excel", f"'{path}'")
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        filled = {name: rows for name in book.sheetnames if (rows := _filled(book[name]))}
        if sheet is None and len(filled) > 1:
            raise UserError(f"{path} has the sheets {', '.join(filled)}: say which, sheet: {next(iter(filled))}")
        if sheet is not None and sheet not in book.sheetnames:
            raise UserError(f"{path} has no sheet '{sheet}'; there are {', '.join(book.sheetnames)}")
        header, *rows = filled.get(sheet, [()]) if sheet is not None else next(iter(filled.values()), [()])
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign files can make a parser raise anything
        raise UserError(f"{path}: not a readable Excel file: {str(error) or type(error).__name__}") from None
    _refuse_twice(path, (name.strip() if isinstance(name, str) else name for name in header))
    yield from (
        {str(name): value for name, value in zip(header, row, strict=False) if name is not None} for row in rows
    )


def _filled(sheet: Any) -> list[tuple[Any, ...]]:
    """The rows of a sheet that contain a value, without empty cells at their ends. Empty for a sheet without a
    table.
    """
    found = list[tuple[Any, ...]]()
    for row in sheet.iter_rows(values_only=True):
        size = len(row)
        while size and row[size - 1] is None:
            size -= 1
        if size:
            found.append(tuple(None if value in CELL_ERRORS else value for value in row[:size]))
    return found if len(found) > 1 else []


def _saved_dataset(path: Path) -> Any:
    from datasets import Dataset, load_from_disk

    try:
        rows = load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError(f"'{path}' is not a folder saved by datasets: {error}") from None
    if not isinstance(rows, Dataset):
        raise UserError(f"'{path}' holds the splits {', '.join(rows)}; name one: path={path}/{next(iter(rows))}")
    return rows


Reader = Callable[[Path, int, str], Iterator[Raw]]
READERS: dict[str, Reader] = {
    **{".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet},
    **{".csv": _csv, ".tsv": _csv},
}
_path, _rows = "", iter(list[Raw]())


def answer(question: tuple[Any, ...]) -> tuple[list[Raw], str, bool, float]:
    """Answer a question of the parent process: the next rows of the open file, the error that ended it, if any, whether
    there may be more rows, and the seconds taken.

    A non-empty question opens another file: it holds the arguments of `parse`, and the limit on memory in bytes.
    """
    global _path, _rows
    begun, found, error, more, room = time.process_time(), list[Raw](), "", True, CHARACTERS
    if question:
        asked, memory = question
        resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.RLIM_INFINITY))
        _path, _rows = asked[0], parse(*asked)
    try:
        while more and room > 0 and len(found) < ROWS and time.process_time() - begun < PAUSE:
            row = next(_rows, None)
            more = row is not None
            if row is not None:
                found.append(row)
                room -= sum(len(v) for v in row[1].values() if isinstance(v, str)) if isinstance(row[1], dict) else 500
    except UserError as known:
        error = str(known)
    except MemoryError:
        error = f"{_path}: it takes too much memory: it is given up"
    except Exception as unknown:  # noqa: BLE001 - foreign files can make a parser raise anything
        error = f"{_path}: not readable: {type(unknown).__name__}: {' '.join(str(unknown).split())[:200]}"
    if not more or error:
        _rows = iter(())
    return found, error, more and not error, time.process_time() - begun


if __name__ == "__main__":
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # each thread would reserve memory
    serve_questions(answer)
