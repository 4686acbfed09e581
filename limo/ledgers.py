"""The ledgers of samples: what they hold, whether they are whole, and several as one.

    limo ledgers                             # each model's samples in $LIMO_CACHE/samples
    limo ledgers merge /mnt/node7/samples    # adds what these folders have and this one lacks
    limo ledgers check                       # reads every page and every text
    limo ledgers salvage damaged.sqlite      # the whole rows of damaged files, merged into the folder

A merge is a union by name: what both have stays as it is here. Two machines that made the same sample may differ in
its text, where their arithmetic does; such samples are counted.
"""

import argparse
import sqlite3
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from limo.data import content_id
from limo.engines.ledger import checksum, open_ledger
from limo.errors import UserError, reported
from limo.machine import samples_folder

COLUMNS = "name, cap, text, tokens, finish, checksum"
NAME_BYTES = 16  # of a sample's name
MOST_RANGES = 20_000  # of names, into which a damaged ledger is cut

Row = tuple[bytes, int, bytes, int, str, int]


@dataclass(frozen=True, slots=True)
class Holding:
    """What a ledger holds."""

    model: str  # fingerprint
    samples: int
    tokens: int
    cut: int  # of the samples, cut off by their length limit
    size: int  # bytes on the disk


def holdings(folder: Path) -> list[Holding]:
    """What each ledger of a folder holds."""
    found = []
    for path in sorted(folder.glob("*.sqlite")):
        with closing(open_ledger(path)) as store:
            count, tokens, cut = store.execute(
                "SELECT count(*), ifnull(sum(tokens), 0), ifnull(sum(finish = 'length'), 0) FROM completion"
            ).fetchone()
            found.append(Holding(_model(store, path), count, tokens, cut, path.stat().st_size))
    return found


def merge(into: Path, others: Sequence[Path]) -> tuple[int, int]:
    """Add to the ledgers in `into` what those in `others` have besides. Returns how many samples, and how many differ.

    Raises UserError if a folder holds no ledger or one cannot be read; ledgers merged before it stay merged.
    """
    added = differing = 0
    for path in _files(others):
        try:
            with closing(_read_only(path)) as other:
                more, different = _add(into, _model(other, path), other.execute(f"SELECT {COLUMNS} FROM completion"))
        except (sqlite3.DatabaseError, zlib.error) as error:
            raise UserError(f"{path} is not a readable ledger: {error}. Try limo ledgers salvage") from None
        added, differing = added + more, differing + different
    return added, differing


def salvage(into: Path, damaged: Sequence[Path]) -> tuple[int, int]:
    """Add every row whose checksum holds from damaged ledgers. Returns samples added, and rows that were not whole.

    Raises UserError for a file of which nothing can be read.
    """
    added = lost = 0
    for path in _files(damaged):
        with closing(_read_only(path)) as store:
            try:
                model = _model(store, path)
            except sqlite3.DatabaseError:
                raise UserError(f"{path}: even its first page is damaged; nothing can be read") from None
            rows, broken = list[Row](), 0
            for row in _readable(store):
                whole = row[5] == checksum(*row[:5])
                rows += [row] * whole
                broken += not whole
        added, lost = added + _add(into, model, rows)[0], lost + broken
    return added, lost


def _readable(store: sqlite3.Connection) -> Iterator[Row]:
    """The rows that SQLite can reach: a range of names that meets a damaged page is halved, widest first."""
    query = f"SELECT {COLUMNS} FROM completion WHERE name BETWEEN ? AND ? ORDER BY name"
    ranges = deque([(0, 2 ** (8 * NAME_BYTES))])
    for _ in range(MOST_RANGES):
        if not ranges:
            return
        low, high = ranges.popleft()
        try:
            found = store.execute(query, (low.to_bytes(NAME_BYTES), (high - 1).to_bytes(NAME_BYTES))).fetchall()
        except (sqlite3.DatabaseError, OverflowError, UnicodeDecodeError):
            middle = (low + high) // 2
            ranges += [(low, middle), (middle, high)]
        else:
            yield from (row for row in found if isinstance(row[0], bytes) and isinstance(row[2], bytes))


def _add(into: Path, model: str, rows: "Iterator[Row] | sqlite3.Cursor | list[Row]") -> tuple[int, int]:
    """Add rows to a model's ledger. Returns how many were new, and how many differ from what is there."""
    into.mkdir(parents=True, exist_ok=True)
    added = differing = 0
    with closing(open_ledger(into / f"{content_id(model)}.sqlite")) as store:
        store.execute("INSERT OR IGNORE INTO model VALUES (?)", (model,))
        for row in rows:
            new = store.execute("INSERT OR IGNORE INTO completion VALUES (?, ?, ?, ?, ?, ?)", row).rowcount
            added += new
            if not new:
                known = store.execute("SELECT text FROM completion WHERE name = ? AND cap = ?", row[:2]).fetchone()
                differing += zlib.decompress(known[0]) != zlib.decompress(row[2])
        store.commit()
    return added, differing


def check(folder: Path) -> list[str]:
    """What is wrong with the ledgers of a folder: pages, indexes, rows whose checksum does not hold."""
    wrong = []
    for path in sorted(folder.glob("*.sqlite")):
        try:
            with closing(open_ledger(path)) as store:
                (result,) = store.execute("PRAGMA integrity_check").fetchone()
                if result != "ok":
                    wrong.append(f"{path}: {result}")
                for row in store.execute(f"SELECT {COLUMNS} FROM completion"):
                    if row[5] != checksum(*row[:5]):
                        wrong.append(f"{path}: sample {row[0].hex()} is damaged")
        except (sqlite3.DatabaseError, UserError) as error:
            wrong.append(f"{path}: {error}")
    return wrong


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        found = sorted(path.glob("*.sqlite")) if path.is_dir() else [path] if path.is_file() else []
        if not found:
            raise UserError(f"no ledger in '{path}': give a folder of .sqlite files, or one .sqlite file")
        yield from found


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)


def _model(store: sqlite3.Connection, path: Path) -> str:
    row = store.execute("SELECT fingerprint FROM model").fetchone()
    return str(row[0]) if row else f"unknown ({path.name})"


def main() -> None:
    """The command `python -m limo.ledgers`."""
    parser = argparse.ArgumentParser(
        prog="limo ledgers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=("show", "merge", "check", "salvage"), default="show")
    parser.add_argument("paths", nargs="*", type=Path, help="ledgers to merge or salvage from")
    parser.add_argument("--into", type=Path, help="folder to show, check or merge into (default: $LIMO_CACHE/samples)")
    args = parser.parse_args()
    with reported():
        _run(args.action, args.paths, args.into or samples_folder())


def _run(action: str, paths: Sequence[Path], into: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    if bool(paths) != (action in ("merge", "salvage")):
        raise UserError(f"'{action}' takes {'no' if paths else 'the'} ledgers as arguments; --into names the folder")
    if action == "merge":
        added, differing = merge(into, paths)
        console.print(f"{added:,} samples added to {into}; {differing:,} that differ in text stay as they are there")
    elif action == "salvage":
        added, lost = salvage(into, paths)
        console.print(f"{added:,} samples added to {into}; {lost:,} damaged rows left out")
    elif action == "check":
        if wrong := check(into):
            raise UserError("; ".join(wrong[:20]))
        console.print(f"{into}: {len(list(into.glob('*.sqlite')))} ledgers, all whole")
    else:
        table = Table(title=str(into), title_justify="left")
        for head in ("model", "samples", "tokens", "cut off", "MB"):
            table.add_column(head, justify="left" if head == "model" else "right")
        for h in holdings(into):
            table.add_row(h.model, f"{h.samples:,}", f"{h.tokens:,}", f"{h.cut:,}", f"{h.size / 1e6:.1f}")
        console.print(table)


if __name__ == "__main__":
    main()
