"""The ledgers of samples: what is in them, whether they are sound, and those of several machines as one.

    python -m limo.ledgers                          # each model's samples in $LIMO_CACHE/samples
    python -m limo.ledgers merge /mnt/node7/samples # adds what these folders have and this one lacks
    python -m limo.ledgers merge runs/limo/work     # the same of what workers have drawn (limo/shards.py)
    python -m limo.ledgers check                    # reads every page and every text

A merge is a union by name: what both have stays as it is here. Two machines that drew the same sample may differ in
its text, where their arithmetic does; such samples are counted.
"""

import argparse
import sqlite3
import sys
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from limo.data import content_id
from limo.errors import UserError, reported
from limo.ledger import opened, samples_folder
from limo.shards import absorb, shards_in


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
        with closing(opened(path)) as store:
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
    for folder in others:
        paths = sorted(folder.glob("*.sqlite")) if folder.is_dir() else [folder] if folder.is_file() else []
        shards = shards_in(folder) if folder.is_dir() else []
        if not paths and not shards:
            raise UserError(f"no ledger in '{folder}': give a folder of .sqlite files or shards, or one .sqlite file")
        more, other = absorb(into, shards)
        added, differing = added + more, differing + other
        for path in paths:
            more, other = _merge_one(into, path)
            added, differing = added + more, differing + other
    return added, differing


def _merge_one(into: Path, path: Path) -> tuple[int, int]:
    into.mkdir(parents=True, exist_ok=True)
    # Read-only, so that a folder that may not be written to can be read
    address = path.resolve().as_uri() + "?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as other:
            model = _model(other, path)
            other.execute("SELECT name, cap, text, tokens, finish FROM completion LIMIT 1")
        with closing(opened(into / f"{content_id(model)}.sqlite")) as store:
            store.execute("INSERT OR IGNORE INTO model VALUES (?)", (model,))
            store.commit()
            store.execute("ATTACH ? AS other", (address,))
            both = store.execute(
                "SELECT a.text, b.text FROM completion a JOIN other.completion b USING (name, cap) "
                "WHERE a.text != b.text"
            )
            differing = sum(zlib.decompress(here) != zlib.decompress(there) for here, there in both)
            before = store.total_changes
            store.execute(
                "INSERT OR IGNORE INTO completion SELECT name, cap, text, tokens, finish FROM other.completion"
            )
            added = store.total_changes - before
            store.commit()
    except (sqlite3.DatabaseError, zlib.error) as error:
        raise UserError(f"{path} is not a readable ledger: {error}") from None
    return added, differing


def check(folder: Path) -> list[str]:
    """What is wrong with the ledgers of a folder: pages, indexes, texts that do not unpack."""
    wrong = []
    for path in sorted(folder.glob("*.sqlite")):
        try:
            with closing(opened(path)) as store:
                (said,) = store.execute("PRAGMA integrity_check").fetchone()
                if said != "ok":
                    wrong.append(f"{path}: {said}")
                for name, text in store.execute("SELECT name, text FROM completion"):
                    try:
                        zlib.decompress(text).decode()
                    except (zlib.error, UnicodeDecodeError) as error:
                        wrong.append(f"{path}: sample {name.hex()}: {error}")
        except (sqlite3.DatabaseError, UserError) as error:
            wrong.append(f"{path}: {error}")
    return wrong


def _model(store: sqlite3.Connection, path: Path) -> str:
    row = store.execute("SELECT fingerprint FROM model").fetchone()
    return str(row[0]) if row else f"unknown ({path.name})"


def main() -> None:
    """The command `python -m limo.ledgers`."""
    parser = argparse.ArgumentParser(
        prog="python -m limo.ledgers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=("show", "merge", "check"), default="show")
    parser.add_argument("folders", nargs="*", type=Path, help="ledgers to merge from")
    parser.add_argument("--into", type=Path, help="folder to show, check or merge into (default: $LIMO_CACHE/samples)")
    args = parser.parse_args()
    with reported():
        _run(args.action, args.folders, args.into or samples_folder())


def _run(action: str, folders: Sequence[Path], into: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    if folders and action != "merge":
        raise UserError(f"'{action}' takes no folder; name another one with --into")
    if action == "merge":
        if not folders:
            raise UserError("merge needs the folders to merge from")
        added, differing = merge(into, folders)
        console.print(
            f"{added:,} samples added to {into}; {differing:,} that both have differ in text and stay as here"
        )
        return
    if action == "check":
        wrong = check(into)
        if wrong:
            raise UserError("; ".join(wrong))
        console.print(f"{into}: {len(list(into.glob('*.sqlite')))} ledgers, all sound")
        return
    table = Table(title=str(into), title_justify="left")
    for head in ("model", "samples", "tokens", "cut off", "MB"):
        table.add_column(head, justify="left" if head == "model" else "right")
    for h in holdings(into):
        table.add_row(h.model, f"{h.samples:,}", f"{h.tokens:,}", f"{h.cut:,}", f"{h.size / 1e6:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
