"""Samples that were paid for stay paid for: a content-addressed store around any engine.

    engine = Cached(TransformersEngine(...), folder)

A sample is named by the model's fingerprint, the messages, the sampling without n, and its index. It is on the disk as
soon as it is finished, so a killed run loses only what was in flight, a rerun is free, and going from 4 to 32 attempts
pays for 28. One SQLite file per model; several processes on one machine may share it.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from limo.data import content_id
from limo.engine import Completion, Engine, Request, Sampling

SCHEMA = """CREATE TABLE IF NOT EXISTS sample (
    name BLOB PRIMARY KEY, text BLOB NOT NULL, tokens INTEGER NOT NULL, finish TEXT NOT NULL) WITHOUT ROWID"""


def cache_folder() -> Path:
    """Where samples and converted models are kept: `$LIMO_CACHE`, else `~/.cache/limo`."""
    return Path(os.environ.get("LIMO_CACHE") or Path.home() / ".cache" / "limo").expanduser()


@dataclass
class Spent:
    """What this process has asked of engines so far: completions paid for, their tokens, and completions found."""

    sampled: int = 0
    tokens: int = 0
    found: int = 0

    def since(self, before: "Spent") -> "Spent":
        """What came on top of an earlier copy."""
        return Spent(self.sampled - before.sampled, self.tokens - before.tokens, self.found - before.found)


spent = Spent()


class Cached:
    """An engine that asks the one inside only for what the ledger lacks."""

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self.engine = engine
        self.folder = folder or cache_folder() / "samples"

    @property
    def fingerprint(self) -> str:
        """That of the engine inside."""
        return self.engine.fingerprint

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """First everything that is known, then what the engine adds. Refusals are not kept: they cost nothing."""
        settings = {k: v for k, v in asdict(sampling).items() if k != "n"}
        names = [bytes.fromhex(content_id([r.prompt, settings, r.index], 16)) for r in requests]
        with self._open() as store:
            missing = []
            for position, name in enumerate(names):
                row = store.execute("SELECT text, tokens, finish FROM sample WHERE name = ?", (name,)).fetchone()
                if row is None:
                    missing.append(position)
                else:
                    spent.found += 1
                    yield position, Completion(zlib.decompress(row[0]).decode(), row[1], row[2])
            if not missing:
                return
            for inner, completion in self.engine.complete([requests[p] for p in missing], sampling):
                position = missing[inner]
                if completion.finish != "refused":
                    packed = zlib.compress(completion.text.encode("utf-8", "replace"))
                    row = (names[position], packed, completion.tokens, completion.finish)
                    store.execute("INSERT OR IGNORE INTO sample VALUES (?, ?, ?, ?)", row)
                    store.commit()
                    spent.sampled += 1
                    spent.tokens += completion.tokens
                yield position, completion

    def _open(self) -> "_Closing":
        self.folder.mkdir(parents=True, exist_ok=True)
        return _Closing(self.folder / f"{content_id(self.fingerprint)}.sqlite")


class _Closing:
    """A connection that is closed at the end of the block, whatever happens in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> sqlite3.Connection:
        self.store = sqlite3.connect(self.path, timeout=60)
        self.store.execute("PRAGMA journal_mode=WAL")
        self.store.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing; a power cut the last moments
        self.store.execute(SCHEMA)
        return self.store

    def __exit__(self, *_: object) -> None:
        self.store.close()
