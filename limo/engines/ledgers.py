"""The ledgers of samples: what they hold, and how to add the samples of other machines.

    limo ledgers                 # each model's samples in $LIMO_CACHE/samples
    limo ledgers add /mnt/node7  # adds those of another machine: of a folder of ledgers, or of one file

A sample that both machines have stays as it is. The readable part of a damaged file can be saved and then added:

    sqlite3 FILE .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 NEW.sqlite
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from limo.command import run_function
from limo.console import Table, print_table
from limo.data import content_id
from limo.engines.ledger import DAMAGED, checksum, explain_errors, open_ledger
from limo.errors import UserError
from limo.machine import samples_folder


def list_models(folder: Path) -> Table:
    """List the ledgers of a folder with their contents: model, samples, tokens, number of samples that were cut off,
    megabytes.
    """
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


def add(into: Path, paths: Sequence[Path]) -> tuple[int, int]:
    """Add the samples of another ledger, except rows with a wrong checksum. Returns how many samples were new, and how
    many rows were damaged.

    Raises UserError for a path without a ledger, and for a file that is damaged.
    """
    into.mkdir(parents=True, exist_ok=True)
    added = damaged = 0
    for path in _files(paths):
        try:
            with closing(sqlite3.connect(path)) as store:
                (model,) = store.execute("SELECT fingerprint FROM model").fetchone()
                rows = store.execute("SELECT * FROM completion").fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError, TypeError) as error:
            raise UserError(DAMAGED.format(path=path, error=error)) from None
        whole = [row for row in rows if isinstance(row[2], bytes) and row[5] == checksum(*row[:5])]
        with closing(open_ledger(into / f"{content_id(model)}.sqlite")) as store:
            store.execute("INSERT OR IGNORE INTO model VALUES (?)", (model,))
            before = store.total_changes
            store.executemany("INSERT OR IGNORE INTO completion VALUES (?, ?, ?, ?, ?, ?, ?)", whole)
            store.commit()
            added += store.total_changes - before
        damaged += len(rows) - len(whole)
    return added, damaged


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        found = sorted(filter(Path.is_file, path.glob("*.sqlite") if path.is_dir() else [path]))
        if not found:
            raise UserError(f"no ledger in '{path}': give a folder of .sqlite files, or one .sqlite file")
        yield from found


def ledgers(words: list[str], *, into: Path | None = None) -> None:
    """The command `limo ledgers`: print what a folder holds; with `add` and paths, add the ledgers at these paths.

    Raises UserError for any other word than `add`.
    """
    folder = into or samples_folder()
    if not words:
        print_table(list_models(folder))
        return
    if words[0] != "add" or not words[1:]:
        raise UserError("limo ledgers takes no arguments, limo ledgers add takes ledgers; into= names the folder")
    added, damaged = add(folder, [Path(word) for word in words[1:]])
    print(f"{added:,} samples added to {folder}; {damaged:,} damaged rows left out")  # noqa: T201


if __name__ == "__main__":
    run_function(ledgers, "limo ledgers", __doc__)
