"""The ledgers of samples: what they hold, and how to add the samples of other or damaged ones.

    limo ledgers                          # each model's samples in $LIMO_CACHE/samples
    limo ledgers salvage damaged.sqlite   # adds every sample that is whole to that folder
    limo ledgers salvage /mnt/node7       # the same for all ledgers of another machine

A sample that both have stays as it is in the folder.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from limo.arguments import run_function
from limo.data import content_id
from limo.engines.ledger import checksum, explain_errors, open_ledger
from limo.errors import UserError
from limo.machine import samples_folder
from limo.tables import Table, print_table

COLUMNS = 6  # of a completion: name, cap, text, tokens, finish, checksum
PAGE = 4096  # bytes of SQLite's pages
INTERIOR, LEAF = 2, 10  # kinds of pages that hold rows
SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)  # bytes of a value, by its serial type

Row = tuple[Any, ...]


def list_models(folder: Path) -> Table:
    """What each ledger of a folder holds: the model, its samples, their tokens, how many were cut off, megabytes."""
    rows = []
    for path in sorted(folder.glob("*.sqlite")):
        with explain_errors(path), closing(open_ledger(path)) as store:
            counts = store.execute(
                "SELECT count(*), ifnull(sum(tokens), 0), ifnull(sum(finish = 'length'), 0) FROM completion"
            ).fetchone()
            size = f"{path.stat().st_size / 1e6:.1f}"
            rows.append([*_model(store, path), *(f"{count:,}" for count in counts), size])
    head = ("model", "fingerprint", "samples", "tokens", "cut off", "MB")
    return Table(head, rows, numbers=range(2, 6), title=str(folder))


def salvage(into: Path, paths: Sequence[Path]) -> tuple[int, int]:
    """Add every sample whose checksum holds. Returns how many were new, and how many rows were damaged.

    A damaged ledger of the folder itself is renamed to `.damaged` and written anew. Raises UserError for a path without
    a ledger, and if no file has a page that can be read.
    """
    added = damaged = 0
    files = list(_files(paths))
    unreadable = list[Path]()
    for path in files:
        records = list(_scan(path))
        if not records:
            unreadable.append(path)
            continue
        rows = [row for row in records if len(row) == COLUMNS]
        whole = {row[:2]: row for row in rows if _is_whole(row)}
        model = next((row[0] for row in records if len(row) == 1 and isinstance(row[0], str)), None)
        target = into / (f"{content_id(model)}.sqlite" if model else path.name)
        if path.resolve() == target.resolve():  # a new file takes its place
            path.rename(path.with_suffix(".damaged"))
            for log in ("-wal", "-shm"):
                Path(f"{path}{log}").unlink(missing_ok=True)
        added += _add(target, model, list(whole.values()))
        damaged += len({row[:2] for row in rows} - whole.keys())
    if len(unreadable) == len(files):
        raise UserError(f"{unreadable[0]}: no ledger, or no page of it is whole; nothing can be read")
    return added, damaged


def _is_whole(row: Row) -> bool:
    kinds = tuple(map(type, row))
    return kinds == (bytes, int, bytes, int, str, int) and row[5] == checksum(*row[:5])


def _scan(path: Path) -> Iterator[Row]:
    """The records on the pages of a database and of its log, also of one that SQLite refuses.

    The tables have no row id, so they are stored as indexes are: https://sqlite.org/fileformat2.html, sections 1.6, 2.
    """
    log = Path(f"{path}-wal")
    frames = log.read_bytes() if log.exists() else b""
    newer = {
        int.from_bytes(frames[at : at + 4]): frames[at + 24 : at + 24 + PAGE]
        for at in range(32, len(frames), 24 + PAGE)
        if frames[at + 8 : at + 16] == frames[16:24]  # others are left from before the log was begun anew
    }
    with path.open("rb") as file:

        def read(number: int) -> bytes:
            file.seek(max(0, number - 1) * PAGE)
            return file.read(PAGE)

        for number in range(1, path.stat().st_size // PAGE + 1):
            yield from _records(read(number), read)
        for page in newer.values():
            yield from _records(page, lambda number: newer.get(number) or read(number))


def _records(page: bytes, read: Callable[[int], bytes]) -> Iterator[Row]:
    if len(page) < PAGE or page[0] not in (INTERIOR, LEAF):
        return
    head, child = (12, 4) if page[0] == INTERIOR else (8, 0)
    for number in range(int.from_bytes(page[3:5])):
        at = int.from_bytes(page[head + 2 * number : head + 2 * number + 2]) + child
        try:
            yield _record(_payload(page, at, read))
        except (IndexError, ValueError):  # of a damaged cell
            continue


def _payload(page: bytes, at: int, read: Callable[[int], bytes]) -> bytes:
    """The bytes of a cell, with those on its overflow pages."""
    size, at = _varint(page, at)
    most, least = (PAGE - 12) * 64 // 255 - 23, (PAGE - 12) * 32 // 255 - 23
    split = least + (size - least) % (PAGE - 4)
    held = size if size <= most else split if split <= most else least
    found, following = [page[at : at + held]], int.from_bytes(page[at + held : at + held + 4])
    left = size - held
    while left > 0:
        more = read(following)
        if not following or len(more) < PAGE:
            raise ValueError("an overflow page is missing")
        found.append(more[4 : 4 + left])
        left, following = left - (PAGE - 4), int.from_bytes(more[:4])
    return b"".join(found)


def _record(payload: bytes) -> Row:
    """The values of a record: integers, texts and blobs."""
    end, at = _varint(payload, 0)
    types, values = list[int](), list[Any]()
    while at < end:
        kind, at = _varint(payload, at)
        types.append(kind)
    for kind in types:
        size = (kind - 12) // 2 if kind >= 12 else SIZES[kind]
        value, at = payload[at : at + size], at + size
        if kind < 12:
            values.append(kind - 8 if kind in (8, 9) else int.from_bytes(value, signed=True))
        else:
            values.append(value.decode() if kind % 2 else value)
    return tuple(values)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """SQLite's integer of one to nine bytes at a place, and the place after it."""
    value = 0
    for number in range(8):
        value = value << 7 | data[at + number] & 0x7F
        if data[at + number] < 0x80:
            return value, at + number + 1
    return value << 8 | data[at + 8], at + 9


def _add(target: Path, model: str | None, rows: Sequence[Row]) -> int:
    """Add rows to a model's ledger. Returns how many were new."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(open_ledger(target)) as store:
        if model:
            store.execute("INSERT OR IGNORE INTO model VALUES (?)", (model,))
        before = store.total_changes
        store.executemany("INSERT OR IGNORE INTO completion VALUES (?, ?, ?, ?, ?, ?)", rows)
        store.commit()
        return store.total_changes - before


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        found = (
            sorted(filter(Path.is_file, path.glob("*.sqlite"))) if path.is_dir() else [path] if path.is_file() else []
        )
        if not found:
            raise UserError(f"no ledger in '{path}': give a folder of .sqlite files, or one .sqlite file")
        yield from found


def _model(store: sqlite3.Connection, path: Path) -> tuple[str, str]:
    """The names under which recipes had a ledger's model, and what its samples are kept by."""
    names = [name for (name,) in store.execute("SELECT name FROM named ORDER BY name") if name]
    row = store.execute("SELECT fingerprint FROM model").fetchone()
    return ", ".join(names) or "unknown", str(row[0]) if row else path.name


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
