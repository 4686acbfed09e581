"""Samples in files that one worker appends to and any machine may read: shards of the ledger.

The ledger itself is SQLite, which several machines must not share: its locks and its write-ahead log need one machine's
memory. A shard is a file of records, each with its length and a checksum, on the disk before the sample counts. What a
killed worker left half written is not read. `python -m limo.ledgers merge` makes a ledger of them.

A file is called `<block>.<generation>.shard`. Where two workers have drawn one sample, because one was taken for dead
and was not, the later generation's stands: it is the one that later decisions were made on.
"""

import os
import re
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import orjson

from limo.data import content_id
from limo.ledger import opened, samples_folder
from limo.progress import say

HEAD = struct.Struct(">II")  # bytes of a record, their checksum
NAME = re.compile(r"(.+)\.(\d+)\.shard")
INSERT = "INSERT OR IGNORE INTO completion VALUES (?, ?, ?, ?, ?)"

Kept = tuple[str, bytes, int, str, int, str]  # fingerprint, name, cap, text, tokens, finish


class Shard:
    """A new file of samples. Raises FileExistsError if there is one: each has one writer, once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("xb", buffering=0)

    def append(self, kept: Kept) -> None:
        """Write one sample; it is on the disk when this returns."""
        fingerprint, name, *rest = kept
        text = zlib.compress(orjson.dumps([fingerprint, name.hex(), *rest]))
        record = HEAD.pack(len(text), zlib.crc32(text)) + text
        if self._file.write(record) != len(record):
            raise OSError(28, "No space left on device")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End it."""
        self._file.close()


def read(path: Path) -> Iterator[Kept]:
    """The samples of a shard, up to the first record that is not whole."""
    with path.open("rb") as file:
        while len(head := file.read(HEAD.size)) == HEAD.size:
            size, checksum = HEAD.unpack(head)
            text = file.read(size)
            if len(text) < size or zlib.crc32(text) != checksum:
                return
            fingerprint, name, cap, said, tokens, finish = orjson.loads(zlib.decompress(text))
            yield fingerprint, bytes.fromhex(name), cap, said, tokens, finish


def shards_in(folder: Path, block: str = "*") -> list[Path]:
    """The shards anywhere below a folder, later generations of a block first."""
    found = [(path, match) for path in folder.rglob(f"{block}.*.shard") if (match := NAME.fullmatch(path.name))]
    return [path for path, m in sorted(found, key=lambda f: (str(f[0].parent), f[1][1], -int(f[1][2])))]


def absorb(into: Path, shards: Iterable[Path]) -> tuple[int, int]:
    """Add to the ledgers in `into` what the shards have besides. Returns how many, and how many stay as they differ.

    Of samples that several shards have, the first shard's is taken: give them as `shards_in` does.
    """
    into.mkdir(parents=True, exist_ok=True)
    stores: dict[str, sqlite3.Connection] = {}
    block, seen = "", set[tuple[str, bytes, int]]()
    added = differing = 0
    try:
        for path in shards:
            if (of := str(path).rsplit(".", 2)[0]) != block:  # a sample's shards are those of one block
                block, seen = of, set()
            for fingerprint, name, cap, text, tokens, finish in read(path):
                if (fingerprint, name, cap) in seen:
                    continue
                seen.add((fingerprint, name, cap))
                store = stores.get(fingerprint) or stores.setdefault(fingerprint, _store(into, fingerprint))
                packed = zlib.compress(text.encode("utf-8", "replace"))
                new = store.execute(INSERT, (name, cap, packed, tokens, finish)).rowcount
                added += new
                differing += not new and _text(store, name, cap) != text
        for store in stores.values():
            store.commit()
    finally:
        for store in stores.values():
            store.close()
    return added, differing


def take_in(folder: Path) -> None:
    """Put what the shards below a folder hold into this machine's ledger, and say so."""
    if shards := shards_in(folder):
        say(f"{absorb(samples_folder(), shards)[0]:,} samples of workers added to the ledger")


def _store(into: Path, fingerprint: str) -> sqlite3.Connection:
    store = opened(into / f"{content_id(fingerprint)}.sqlite")
    store.execute("INSERT OR IGNORE INTO model VALUES (?)", (fingerprint,))
    return store


def _text(store: sqlite3.Connection, name: bytes, cap: int) -> str:
    (text,) = store.execute("SELECT text FROM completion WHERE name = ? AND cap = ?", (name, cap)).fetchone()
    return zlib.decompress(text).decode()


def known(folder: Path, names: Iterable[bytes]) -> Iterator[Kept]:
    """What the ledgers of a folder hold under these names, whichever model's."""
    listed = list(names)
    for path in sorted(folder.glob("*.sqlite")):
        with closing(opened(path)) as store:
            row = store.execute("SELECT fingerprint FROM model").fetchone()
            for name in listed if row else ():
                for cap, text, tokens, finish in store.execute(
                    "SELECT cap, text, tokens, finish FROM completion WHERE name = ?", (name,)
                ):
                    yield row[0], name, cap, zlib.decompress(text).decode(), tokens, finish
