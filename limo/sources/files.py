"""Reads other people's files row by row: JSONL, JSON, Parquet, CSV, TSV, Excel, packed or not, and folders of them.

    for number, row in read_rows("problems.jsonl"): ...

A row that cannot be parsed is yielded as a `Dropped` with its reason. Memory does not grow with the file, except for
JSON arrays, Excel, and other encodings than UTF-8, which are read whole: a small packed file that grows large is
refused. What the columns mean is decided in `limo/sources/__init__.py`.
"""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, product
from pathlib import Path
from typing import Any

from limo.data import Dropped, match_pattern, parsed
from limo.errors import UserError, need_package

Raw = tuple[int, Any]  # row number from 1, and the parsed row or the `Dropped` that says why it could not be parsed
MAX_BYTES = 2**20  # of one row; a 32k-token chain takes about 130 kB
DEPTH = 100  # objects and lists within each other in a row
GROWN = 2**26  # bytes that rows of a Parquet file, a line of a CSV file, or any small file may take at once
GROWTH = 100  # times the bytes of its file that a column of Parquet, or a file that is read whole, may take


def read_rows(path: str | Path, max_bytes: int = MAX_BYTES, encoding: str = "utf-8") -> Iterator[Raw]:
    """Numbered rows of a file, by its ending, of all files of a pattern, or of a folder.

    Raises UserError if there is no such file, its kind is unknown, or the whole of it cannot be read.
    """
    files = _list_files(str(path))
    rows = (row for file in files for _, row in _read_file(file, max_bytes, encoding))
    yield from enumerate(rows, 1) if len(files) > 1 else _read_file(files[0], max_bytes, encoding)


def _list_files(path: str) -> list[Path]:
    """The files of a path, a pattern, or a folder of shards; a folder saved by `datasets` is one."""
    where = Path(path).expanduser()
    found = [where] if where.exists() else match_pattern(path)
    if where.is_dir() and not (where / "state.json").exists() and not (where / "dataset_dict.json").exists():
        found = [file for file in sorted(where.rglob("*")) if file.is_file() and _ending(file) in READERS]
        if not found:
            raise UserError(f"'{path}' has no {', '.join(READERS)} file, and is no folder saved by datasets")
    if not found:
        raise UserError(f"no such file or folder '{path}'")
    return found


def _ending(path: Path) -> str:
    """The ending that says what is in a file, without that of its packing."""
    endings = [ending.lower() for ending in path.suffixes]
    return endings[-2] if len(endings) > 1 and endings[-1] in PACKED else (endings or [""])[-1]


def _read_file(path: Path, max_bytes: int, encoding: str) -> Iterator[Raw]:
    if path.is_dir():
        yield from _saved_dataset(path, max_bytes)
        return
    read = READERS.get(_ending(path))
    if read is None:
        raise UserError(f"'{path}' is none of {', '.join(READERS)} (or {', '.join(PACKED)} more), nor a folder of them")
    try:
        yield from read(path, max_bytes, encoding)
    except PermissionError:
        raise UserError(f"may not read '{path}'. Change its permissions") from None


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked, as UTF-8. Raises UserError where they are none or cannot be unpacked."""
    import pyarrow as pa

    packing = PACKED.get(path.suffix.lower())
    try:
        with io.BufferedReader(pa.input_stream(str(path), compression=packing)) if packing else path.open("rb") as file:
            if encoding.lower().replace("-", "") == "utf8":
                if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise UserError(f"{path} is UTF-16: save it as UTF-8, or set encoding: utf-16")
                yield file
            else:
                yield io.BufferedReader(io.BytesIO(_read_whole(file, path).decode(encoding).encode()))
    except LookupError:
        raise UserError(f"there is no encoding '{encoding}'") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {encoding}: byte {error.start + 1}") from None
    except (pa.ArrowException, OSError) as error:
        if not packing or isinstance(error, PermissionError):
            raise
        raise UserError(f"{path} cannot be unpacked: {str(error).splitlines()[0]}") from None


def _read_whole(file: io.BufferedReader, path: Path) -> bytes:
    data = file.read(_most_unpacked(path) + 1)
    _refuse_growth(path, len(data))
    return data


def _most_unpacked(path: Path) -> int:
    return max(GROWN, GROWTH * path.stat().st_size)


def _refuse_growth(path: Path, held: int, what: str = "") -> None:
    """Raise UserError for a small file that grows large."""
    if held > _most_unpacked(path):
        raise UserError(f"{path}: {path.stat().st_size:,} bytes hold {held:,}{what}: not read")


def shortened(value: Any, chars: int = 2000) -> Any:
    """A row as it is, or the beginning of its text where it is huge or cannot be written as JSON."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        value = text = repr(value)
    return value if len(text) <= chars else text[:chars] + f"... ({len(text)} characters)"


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
        return _shallow(parsed(line.decode("utf-8-sig").strip().encode()))
    except UnicodeDecodeError as error:
        detail, reason = f"byte {error.start + 1} of the row: save it as UTF-8 or set encoding: cp1252", "not UTF-8"
    except json.JSONDecodeError as error:
        detail, reason = f"{error.msg} at character {error.pos + 1}", "invalid JSON"
    except (RecursionError, ValueError) as error:  # nesting without end; integers of more than 4300 digits
        detail, reason = str(error), "invalid JSON"
    return Dropped("", "", reason, detail, data=shortened(line.decode("utf-8", "replace").strip()))


def _shallow(value: Any) -> Any:
    """The value. Raises RecursionError where it is nested so deep that it could be read, but not be written."""
    level = [value]
    for _ in range(DEPTH + 1):
        nested = [
            outer.values() if isinstance(outer, dict) else outer for outer in level if isinstance(outer, dict | list)
        ]
        if not (level := list(chain.from_iterable(nested))):
            return value
    raise RecursionError(f"nested more than {DEPTH} deep")


def _json(path: Path, max_bytes: int, encoding: str) -> Iterator[Raw]:
    with _opened(path, encoding) as file:
        text = _read_whole(file, path).decode("utf-8-sig", "surrogateescape")  # a bad byte costs its row, not the file
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):  # JSON lines under the wrong name
            yield from _jsonl(path, max_bytes, encoding)
            return
        raise UserError(
            f"{path}: not JSON: {error}. Repair it, or save it as JSONL, where only the bad row is dropped"
        ) from None
    if isinstance(rows, dict):
        rows = next((v for v in rows.values() if isinstance(v, list)), [rows])
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds a {type(rows).__name__}, not a list of rows")
    for number, row in enumerate(rows, 1):
        try:
            yield number, bounded(_shallow(row), max_bytes)
        except RecursionError as error:
            yield number, Dropped("", "", "invalid JSON", str(error))


def bounded(row: Any, max_bytes: int) -> Any:
    """A row, or the `Dropped` that says that it is too long."""
    size = sum(len(v) for v in row.values() if isinstance(v, str)) if isinstance(row, dict) else 0
    if size <= max_bytes:
        return row
    detail = f"{size:,} characters; the limit is max_bytes={max_bytes:,}"
    return Dropped("", "", "row too long", detail, data=shortened(row))


def _parquet(path: Path, max_bytes: int, encoding: str) -> Iterator[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        texts = [field.name for field in pq.read_schema(path) if pa.types.is_string(field.type)]
        with pq.ParquetFile(path, read_dictionary=texts) as table:  # a value that recurs is held once
            for group, at in product(range(table.num_row_groups), range(len(table.schema))):
                column = table.metadata.row_group(group).column(at)
                values = column.num_values if table.schema.column(at).max_repetition_level else 0
                held = max(column.total_uncompressed_size, values)
                _refuse_growth(path, held, f" of the column '{column.path_in_schema}'")
            rows = chain.from_iterable(map(_rows_of, table.iter_batches(batch_size=500)))
            for number, row in enumerate(rows, 1):
                yield number, bounded(row, max_bytes)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable Parquet file: {reason}") from None


def _rows_of(batch: Any) -> Iterator[Any]:
    """The rows of a batch, of which only as many as may take `GROWN` bytes are in memory at once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    shared = [column.dictionary for column in batch.columns if pa.types.is_dictionary(column.type)]
    widest = sum(pc.max(pc.binary_length(text)).as_py() or 0 for text in shared if pa.types.is_string(text.type))
    step = max(1, min(len(batch), GROWN // max(widest, 1)))
    for start in range(0, len(batch), step):
        yield from batch.slice(start, step).to_pylist()


def _csv(path: Path, max_bytes: int, encoding: str) -> Iterator[Raw]:
    csv.field_size_limit(GROWN)  # a shorter row that is too long is dropped below, with its reason
    with _opened(path, encoding) as file:
        header = file.peek().split(b"\n")[0]
        lines = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        # Spreadsheets write semicolons where the comma is a decimal sign
        reader = csv.DictReader(_lines_of(lines), delimiter=max(",;\t", key=header.decode("utf-8", "replace").count))
        try:
            for number, row in enumerate(reader, 1):
                if None in row:
                    detail = f"{len(row[None])} more than the header"
                    yield number, Dropped("", "", "too many columns", detail, data=shortened(row))
                else:
                    yield number, bounded(row, max_bytes)
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _lines_of(file: io.TextIOWrapper) -> Iterator[str]:
    while line := file.readline(GROWN + 1):
        if len(line) > GROWN:
            raise csv.Error(f"a line of more than {GROWN:,} characters")
        yield line


def _excel(path: Path, max_bytes: int, encoding: str) -> Iterator[Raw]:
    import pandas as pd

    need_package("openpyxl", "excel", f"'{path}'")
    try:
        with zipfile.ZipFile(path) as packed:
            _refuse_growth(path, sum(each.file_size for each in packed.infolist()))
        table = pd.read_excel(path)
    except UserError:
        raise
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable Excel file: {error}") from None
    for number, row in enumerate(table.astype(object).where(table.notna(), None).to_dict("records"), 1):
        yield number, bounded(row, max_bytes)


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


Reader = Callable[[Path, int, str], Iterator[Raw]]
READERS: dict[str, Reader] = {
    **{".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet},
    **{".csv": _csv, ".tsv": _csv, ".xlsx": _excel},
}
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
