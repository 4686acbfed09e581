"""The ledgers of samples: what they hold, and how to add the samples of other or damaged ones.

    limo ledgers                          # each model's samples in $LIMO_CACHE/samples
    limo ledgers salvage damaged.sqlite   # adds every sample of it that SQLite can read, and that is whole
    limo ledgers salvage /mnt/node7       # the same for all ledgers of another machine

A sample that both have stays as it is in the folder. Where SQLite reads nothing of a file, `sqlite3 FILE .recover` may.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from limo.command import run_function
from limo.console import Table, print_table
from limo.data import content_id
from limo.engines.ledger import checksum, explain_errors, open_ledger
from limo.errors import UserError
from limo.machine import samples_folder

RANGES = 4096  # of names, read one by one: damage costs its own range
Row = tuple[Any, ...]  # name, cap, text, tokens, finish, checksum, tokens of the prompt


def list_models(folder: Path) -> Table:
    """What each ledger of a folder holds: the model, its samples, their tokens, how many were cut off, megabytes."""
    rows = []
    for path in sorted(folder.glob("*.sqlite")):
        with explain_errors(path), closing(open_ledger(path)) as store:
            counts = store.execute(
                "SELECT count(*), ifnull(sum(tokens), 0), ifnull(sum(finish = 'length'), 0) FROM completion"
            ).fetchone()
            names = ", ".join(name for (name,) in store.execute("SELECT name FROM named ORDER BY name") if name)
            found = store.execute("SELECT fingerprint FROM model").fetchone()
            model = [names or "unknown", found[0] if found else path.name]
            rows.append([*model, *(f"{count:,}" for count in counts), f"{path.stat().st_size / 1e6:.1f}"])
    head = ("model", "fingerprint", "samples", "tokens", "cut off", "MB")
    return Table(head, rows, numbers=range(2, 6), title=str(folder))


def salvage(into: Path, paths: Sequence[Path]) -> tuple[int, int]:
    """Add every sample whose checksum holds. Returns how many were new, and how many rows were damaged.

    A damaged ledger of the folder itself is renamed to `.damaged` and written anew. Raises UserError for a path without
    a ledger, and if SQLite can read none of the files.
    """
    added = damaged = 0
    files, unreadable = list(_files(paths)), list[Path]()
    for path in files:
        try:
            model, rows = _read(path)
        except sqlite3.DatabaseError:
            unreadable.append(path)
            continue
        whole = [row for row in rows if isinstance(row[2], bytes) and row[5] == checksum(*row[:5])]
        target = into / (f"{content_id(model)}.sqlite" if model else path.name)
        if path.resolve() == target.resolve():  # a new file takes its place
            path.rename(path.with_suffix(".damaged"))
            for log in ("-wal", "-shm"):
                Path(f"{path}{log}").unlink(missing_ok=True)
        added += _add(target, model, whole)
        damaged += len(rows) - len(whole)
    if len(unreadable) == len(files):
        raise UserError(f"{unreadable[0]}: no ledger, or too damaged: nothing can be read. `sqlite3 FILE .recover` may")
    return added, damaged


def _read(path: Path) -> tuple[str | None, list[Row]]:
    """The model of a ledger, if that can be read, and all rows that can. Raises DatabaseError if there is none."""
    model, rows, failure = None, list[Row](), sqlite3.DatabaseError("empty")
    with closing(sqlite3.connect(path)) as store:
        with suppress(sqlite3.DatabaseError, TypeError):
            (model,) = store.execute("SELECT fingerprint FROM model").fetchone()
        bounds = [(at * 2**16 // RANGES).to_bytes(2) for at in range(RANGES)]
        for first, end in zip(bounds, [*bounds[1:], b"\xff" * 17], strict=True):
            try:
                for row in store.execute("SELECT * FROM completion WHERE name >= ? AND name < ?", (first, end)):
                    rows.append((*row, 0)[:7])  # older formats have no tokens of prompts
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                failure = sqlite3.DatabaseError(str(error))
                if not rows and "no such table" in str(error):
                    break
    if not rows:
        raise failure
    return model, rows


def _add(target: Path, model: str | None, rows: Sequence[Row]) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(open_ledger(target)) as store:
        if model:
            store.execute("INSERT OR IGNORE INTO model VALUES (?)", (model,))
        before = store.total_changes
        store.executemany("INSERT OR IGNORE INTO completion VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        store.commit()
        return store.total_changes - before


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        found = sorted(filter(Path.is_file, path.glob("*.sqlite") if path.is_dir() else [path]))
        if not found:
            raise UserError(f"no ledger in '{path}': give a folder of .sqlite files, or one .sqlite file")
        yield from found


def ledgers(words: list[str], *, into: Path | None = None) -> None:
    """The command `limo ledgers`: shows what a folder holds; with `salvage` and paths, adds what those hold.

    Raises UserError for other words.
    """
    folder = into or samples_folder()
    if not words:
        print_table(list_models(folder))
        return
    if words[0] != "salvage" or not words[1:]:
        raise UserError("limo ledgers takes no arguments, limo ledgers salvage takes ledgers; into= names the folder")
    added, damaged = salvage(folder, [Path(word) for word in words[1:]])
    print(f"{added:,} samples added to {folder}; {damaged:,} damaged rows left out")  # noqa: T201


if __name__ == "__main__":
    run_function(ledgers, "limo ledgers", __doc__)
