"""The ledgers of samples: what they hold, and how to add the samples of other or damaged ones.

    limo ledgers                          # each model's samples in $LIMO_CACHE/samples
    limo ledgers salvage damaged.sqlite   # adds every sample that is whole to that folder
    limo ledgers salvage /mnt/node7       # the same for all ledgers of another machine

A sample that both have stays as it is in the folder.
"""

import argparse
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from limo.data import content_id
from limo.engines.ledger import checksum, explain_errors, open_ledger
from limo.errors import UserError, reported
from limo.machine import samples_folder
from limo.tables import Table, print_table

COLUMNS = "name, cap, text, tokens, finish, checksum"
NAME_BYTES = 16  # of a sample's name
MOST_RANGES = 20_000  # of names, into which a damaged ledger is cut

Row = tuple[bytes, int, bytes, int, str, int]


def list_models(folder: Path) -> Table:
    """What each ledger of a folder holds: model, samples, their tokens, how many were cut off, and megabytes."""
    rows = []
    for path in sorted(folder.glob("*.sqlite")):
        with explain_errors(path), closing(open_ledger(path)) as store:
            counts = store.execute(
                "SELECT count(*), ifnull(sum(tokens), 0), ifnull(sum(finish = 'length'), 0) FROM completion"
            ).fetchone()
            size = f"{path.stat().st_size / 1e6:.1f}"
            rows.append([_model(store, path), *(f"{count:,}" for count in counts), size])
    return Table(("model", "samples", "tokens", "cut off", "MB"), rows, numbers=range(1, 5), title=str(folder))


def salvage(into: Path, paths: Sequence[Path]) -> tuple[int, int]:
    """Add every sample whose checksum holds. Returns how many were new, and how many rows were damaged.

    A damaged ledger of the folder itself is renamed to `.damaged` and written anew. Raises UserError for a path without
    a ledger, and for a file of which nothing can be read.
    """
    added = damaged = 0
    for path in _files(paths):
        with closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)) as store:
            try:
                model = _model(store, path)
            except sqlite3.DatabaseError:
                raise UserError(f"{path}: no ledger, or even its first page is damaged; nothing can be read") from None
            rows = list(_readable(store))
        whole = [row for row in rows if row[5] == checksum(*row[:5])]
        target = into / f"{content_id(model)}.sqlite"
        if path.resolve() == target.resolve():  # a new file takes its place
            path.rename(path.with_suffix(".damaged"))
            for log in ("-wal", "-shm"):
                Path(f"{path}{log}").unlink(missing_ok=True)
        added, damaged = added + _add(target, model, whole), damaged + len(rows) - len(whole)
    return added, damaged


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


def _add(target: Path, model: str, rows: Sequence[Row]) -> int:
    """Add rows to a model's ledger. Returns how many were new."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(open_ledger(target)) as store:
        store.execute("INSERT OR IGNORE INTO model VALUES (?)", (model,))
        before = store.total_changes
        store.executemany("INSERT OR IGNORE INTO completion VALUES (?, ?, ?, ?, ?, ?)", rows)
        store.commit()
        return store.total_changes - before


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        found = sorted(path.glob("*.sqlite")) if path.is_dir() else [path] if path.is_file() else []
        if not found:
            raise UserError(f"no ledger in '{path}': give a folder of .sqlite files, or one .sqlite file")
        yield from found


def _model(store: sqlite3.Connection, path: Path) -> str:
    row = store.execute("SELECT fingerprint FROM model").fetchone()
    return str(row[0]) if row else f"unknown ({path.name})"


def main() -> None:
    """The command `limo ledgers`."""
    parser = argparse.ArgumentParser(
        prog="limo ledgers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=("show", "salvage"), default="show")
    parser.add_argument("paths", nargs="*", type=Path, help="ledgers to salvage, or folders of them")
    parser.add_argument("--into", type=Path, help="folder to show or add to (default: $LIMO_CACHE/samples)")
    args = parser.parse_args()
    into = args.into or samples_folder()
    with reported():
        if bool(args.paths) != (args.action == "salvage"):
            raise UserError("limo ledgers takes no paths, limo ledgers salvage takes ledgers; --into names the folder")
        if args.action == "show":
            print_table(list_models(into))
        else:
            added, damaged = salvage(into, args.paths)
            print(f"{added:,} samples added to {into}; {damaged:,} damaged rows left out")  # noqa: T201


if __name__ == "__main__":
    main()
