"""Reads other people's files row by row: JSONL, JSON, Parquet, CSV, TSV, Excel, compressed or not, and folders of them.

    for number, row in read_rows("problems.jsonl"): ...

A row that cannot be parsed is yielded as a `Dropped` with its reason. Files are parsed (`limo/sources/parse.py`) in a
process whose time and memory limits follow from the file's size, so a small file that unpacks to a huge one ends with a
one-line error; small JSON cannot grow and is parsed in this process. Memory does not grow with the file, except for
JSON arrays and encodings other than UTF-8, which are read whole. `limo/sources/columns.py` decides what columns mean.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limo.console import say
from limo.data import Dropped, check_regular, match_pattern
from limo.errors import UserError
from limo.processes import Died, TimedOut, Workers, limit_time

Raw = tuple[int, Any]  # row number from 1, and the parsed row or the `Dropped` that says why it could not be parsed
MAX_BYTES = 2**20  # of one row; a 32k-token chain takes about 130 kB
COLUMNS = 10_000  # of one row
ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".xlsx")
PACKED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
SMALL = 2**20  # bytes of a JSON file that is parsed in this process
SECONDS, PACE, SHEETS = 5.0, 400_000, 100_000  # limit in CPU seconds: SECONDS + bytes / PACE, for Excel bytes / SHEETS
MEMORY, GROWTH = 2**32, 100  # limit on memory in bytes: MEMORY + GROWTH * the file's bytes
KEPT = 2**26  # bytes of a file above which the process that has read it is ended, to free its memory
WORKERS = Workers("limo.sources.parse", 64)  # at most 64 files are open at once, in nested loops


def read_rows(
    path: str | Path, max_bytes: int = MAX_BYTES, encoding: str = "utf-8", sheet: str | None = None
) -> Iterator[Raw]:
    """Read numbered rows of a file, of all files of a pattern, or of a folder. The kind of a file follows from its
    ending.

    `sheet` names a sheet of an Excel file that has several. Raises UserError if there is no such file, its kind is
    unknown, or the whole file cannot be read.
    """
    files = _list_files(str(path))
    rows = (row for file in files for _, row in _read_file(file, max_bytes, encoding, sheet))
    yield from enumerate(rows, 1) if len(files) > 1 else _read_file(files[0], max_bytes, encoding, sheet)


def _list_files(path: str) -> list[Path]:
    """List the files of a path, a pattern, or a folder. A folder saved by `datasets` counts as one file."""
    where = Path(path).expanduser()
    with limit_time(SECONDS, f"looking for '{path}'"):  # links may lead in circles
        found = [where] if where.exists() else match_pattern(path)
    if where.is_dir() and not (where / "state.json").exists() and not (where / "dataset_dict.json").exists():
        inside = [file for file in sorted(where.rglob("*")) if file.is_file() and ending(file) in ENDINGS]
        found = [file for file in inside if not any(map(_is_hidden, file.relative_to(where).parts))]
        if hidden := len(inside) - len(found):
            say(f"{path}: {hidden} hidden files are not read")
        if not found:
            raise UserError(f"'{path}' has no {', '.join(ENDINGS)} file, and is not a folder saved by datasets")
    if not found:
        here = "" if where.is_absolute() else f" in {Path.cwd()}, where this command was started"
        raise UserError(f"no such file or folder '{path}'{here}")
    for file in found:
        check_regular(file)
    return found


def _is_hidden(name: str) -> bool:
    """Whether a name is that of a leftover file or folder of a system, an editor or an unfinished copy."""
    return name.startswith((".", "~$", "__MACOSX"))


def ending(path: Path) -> str:
    """The ending that shows a file's kind, without the ending of its compression."""
    endings = [ending.lower() for ending in path.suffixes]
    return endings[-2] if len(endings) > 1 and endings[-1] in PACKED else (endings or [""])[-1]


def _read_file(path: Path, max_bytes: int, encoding: str, sheet: str | None) -> Iterator[Raw]:
    if path.is_file() and ending(path) not in ENDINGS:
        raise UserError(
            f"'{path}' is neither a folder nor a file that ends with {', '.join(ENDINGS)} "
            f"(or one of these followed by {', '.join(PACKED)})"
        )
    asked = str(path.absolute()), max_bytes, encoding, sheet
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json") and size <= SMALL:
        from limo.sources.parse import parse

        yield from parse(str(path), *asked[1:])
        return
    pace = SHEETS if ending(path) == ".xlsx" else PACE
    seconds, memory = SECONDS + size / pace, MEMORY + GROWTH * size
    with WORKERS.session(keep=size < KEPT) as ask:
        question: tuple[Any, ...] = (asked, memory)
        while True:
            try:
                rows, error, more, took = ask(question, seconds)
            except TimedOut:
                raise UserError(f"{path}: reading its {size:,} bytes takes too long and was stopped") from None
            except Died:
                raise UserError(f"{path}: the process that read its {size:,} bytes has died") from None
            yield from rows
            if error:
                raise UserError(error.replace(asked[0], str(path)))
            if not more:
                return
            question, seconds = (), max(seconds - took, 0.01)


def shortened(value: Any, chars: int = 2000) -> Any:
    """Return a row unchanged, or the beginning of its text if it is huge or cannot be written as JSON."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        value = text = repr(value)
    return value if len(text) <= chars else text[:chars] + f"... ({len(text)} characters)"


def bounded(row: Any, max_bytes: int) -> Any:
    """Return a row, or a `Dropped` if it is too long or has too many columns."""
    if isinstance(row, dict) and len(row) > COLUMNS:
        return Dropped("", "", "too many columns", f"{len(row):,}; the limit is {COLUMNS:,}")
    size = sum(len(v) for v in row.values() if isinstance(v, str)) if isinstance(row, dict) else 0
    if size <= max_bytes:
        return row
    detail = f"{size:,} characters; the limit is max_bytes={max_bytes:,}"
    return Dropped("", "", "row too long", detail, data=shortened(row))
