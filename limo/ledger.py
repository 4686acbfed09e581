"""Samples that were paid for stay paid for: a content-addressed store around any engine.

    engine = Cached(TransformersEngine(...), folder)

A sample is named by the model's fingerprint, the messages, the sampling without n and max_tokens, and its index. It is
on the disk as soon as it is finished, so a killed run loses only what was in flight, a rerun is free, going from 4 to
32 attempts pays for 28, and a larger `max_tokens` pays only for those that were cut off. Nothing of a run, a pool or
a grader is in the name: rows may be added and reordered, and a better grader judges what is there. One SQLite file per
model; several processes on one machine may share it, and `python -m limo.ledgers merge` joins those of several.
"""

import os
import sqlite3
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from limo.data import content_id
from limo.engine import Completion, Engine, Request, Sampling, Take
from limo.errors import UserError

# Several completions may have one name: a finished one, and one that was cut off at each `cap` tried before
SCHEMA = """
CREATE TABLE IF NOT EXISTS completion (
    name BLOB NOT NULL, cap INTEGER NOT NULL, text BLOB NOT NULL, tokens INTEGER NOT NULL, finish TEXT NOT NULL,
    PRIMARY KEY (name, cap)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS model (fingerprint TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS paid (run TEXT PRIMARY KEY, samples INTEGER NOT NULL, tokens INTEGER NOT NULL) WITHOUT ROWID;
"""
# SQLite's names of what a person can put right. A file-size limit and some network disks show as failed writes
TROUBLE = {
    "SQLITE_FULL": "no space left on the disk for the samples in",
    "SQLITE_IOERR": "no space left on the disk, or it fails, for the samples in",
    "SQLITE_READONLY": "may not write the samples in",
    "SQLITE_CANTOPEN": "may not write the samples in",
    "SQLITE_BUSY": "another process has held for a minute the samples in",
}
KEPT = "What was finished is kept: put that right, or set LIMO_CACHE to another folder, and run the same command again"
HANDED = 1000  # known completions handed out before the engine gets its turn: bounds what waits in memory


def cache_folder() -> Path:
    """Where samples and converted models are kept: `$LIMO_CACHE`, else `~/.cache/limo`."""
    return Path(os.environ.get("LIMO_CACHE") or Path.home() / ".cache" / "limo").expanduser()


def samples_folder() -> Path:
    """Where the ledgers are: `$LIMO_SAMPLES`, else in the cache."""
    return Path(os.environ.get("LIMO_SAMPLES") or cache_folder() / "samples").expanduser()


@dataclass
class Spent:
    """What this process has asked of engines so far."""

    sampled: int = 0  # completions paid for
    tokens: int = 0  # of these
    found: int = 0  # completions that the ledger had
    found_tokens: int = 0  # of these
    spared: int = 0  # completions that were not needed, since the decision was certain before

    def since(self, before: "Spent") -> "Spent":
        """What came on top of an earlier copy."""
        return Spent(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))


spent = Spent()
counted: set[bytes] | None = None  # where a sample is to be counted once, whoever asks for it: names so far


@dataclass
class Budget:
    """What a run may pay for, over all its restarts; None is no limit."""

    run: str = ""
    samples: int | None = None
    tokens: int | None = None
    paid_samples: int = 0
    paid_tokens: int = 0

    under_way: int = 0  # samples begun

    def room(self, max_tokens: int) -> int:
        """How many more samples may be begun, each of which may take `max_tokens`: the limits are never passed."""
        left = float("inf")
        if self.samples is not None:
            left = self.samples - self.paid_samples - self.under_way
        if self.tokens is not None:
            left = min(left, (self.tokens - self.paid_tokens) // max_tokens - self.under_way)
        return int(max(0, min(left, 2**31)))


budget = Budget()


def allow(run: str, samples: int | None, tokens: int | None) -> None:
    """From here on, what is paid for counts for `run`, and no more than these completions and tokens are begun."""
    global budget
    budget = Budget(run, samples, tokens)
    for path in sorted(samples_folder().glob("*.sqlite")):
        with told(path), closing(opened(path)) as store:
            row = store.execute("SELECT samples, tokens FROM paid WHERE run = ?", (run,)).fetchone()
            budget.paid_samples += row[0] if row else 0
            budget.paid_tokens += row[1] if row else 0


@contextmanager
def within(run: str, samples: int | None, tokens: int | None) -> Iterator[None]:
    """As `allow`, for a block: what is sampled after it counts for no run."""
    global counted
    allow(run, samples, tokens)
    try:
        yield
    finally:
        counted = None
        allow("", None, None)


def sample_name(request: Request, sampling: Sampling) -> bytes:
    """The name under which a sample is kept, 16 bytes."""
    settings = {k: v for k, v in asdict(sampling).items() if k not in ("n", "max_tokens")}
    return bytes.fromhex(content_id([request.prompt, settings, request.index], 16))


class Cached:
    """An engine that asks the one inside only for what the ledger lacks."""

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self.engine = engine
        self.folder = folder or samples_folder()

    @property
    def fingerprint(self) -> str:
        """That of the engine inside."""
        return self.engine.fingerprint

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """What is known comes at once, the rest from the engine. Refusals are not kept: they cost nothing.

        Raises UserError once the run's budget is used up; what was under way by then is finished and kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{content_id(self.fingerprint)}.sqlite"
        with told(path), closing(opened(path)) as store:
            store.execute("INSERT OR IGNORE INTO model VALUES (?)", (self.fingerprint,))
            store.commit()
            asked = _Asked(store, take, sampling)
            try:
                yield from self._completed(asked, sampling)
            finally:
                budget.under_way -= asked.under_way

    def _completed(self, asked: "_Asked", sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        moved = True
        while moved:
            moved = False
            for request, completion in self.engine.complete(asked.missing, sampling):
                asked.finish(request, completion)
                yield request, completion
                yield from asked.handed()
                moved = True
            for pair in asked.handed():
                yield pair
                moved = True
            if asked.held and not moved:
                raise UserError(_used_up(sampling))


class _Asked:
    """What is asked of a `Cached` engine: known at once, given to the engine inside, or held for want of budget."""

    def __init__(self, store: sqlite3.Connection, take: Take, sampling: Sampling) -> None:
        self.store, self.take, self.sampling = store, take, sampling
        self.known = deque[tuple[Request, Completion]]()
        self.held = deque[Request]()
        self.begun: dict[bytes, list[Request]] = {}  # by name, with those that ask for the same and wait
        self.under_way = 0

    def missing(self, room: int) -> list[Request]:
        """Up to `room` requests that the ledger lacks, as far as the budget goes."""
        while len(self.held) < room and len(self.known) < HANDED and (requests := self.take(room - len(self.held))):
            for request in requests:
                name = sample_name(request, self.sampling)
                if name in self.begun:
                    self.begun[name].append(request)
                elif completion := _lookup(self.store, name, self.sampling):
                    self.known.append((request, completion))
                else:
                    self.begun[name] = []
                    self.held.append(request)
        count = min(room, len(self.held), budget.room(self.sampling.max_tokens))
        self.under_way += count
        budget.under_way += count
        return [self.held.popleft() for _ in range(count)]

    def finish(self, request: Request, completion: Completion) -> None:
        """Keep what the engine gave."""
        self.under_way -= 1
        budget.under_way -= 1
        name = sample_name(request, self.sampling)
        _keep(self.store, name, self.sampling, completion)
        for other in self.begun.pop(name):
            _count_found(name, completion.tokens)
            self.known.append((other, completion))

    def handed(self) -> Iterator[tuple[Request, Completion]]:
        """What is known and waits."""
        while self.known:
            yield self.known.popleft()


def opened(path: Path) -> sqlite3.Connection:
    """A ledger, made if it is not there. Raises UserError if that file is none."""
    store = sqlite3.connect(path.resolve().as_uri(), uri=True, timeout=60)
    try:
        store.execute("PRAGMA journal_mode=WAL")
        store.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing; a power cut the last moments
        store.executescript(SCHEMA)
    except sqlite3.OperationalError:
        store.close()
        raise
    except sqlite3.DatabaseError as error:
        store.close()
        raise UserError(f"{path} is no ledger of samples: {error}. Move it away; the others stay usable") from None
    return store


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Around work with a ledger: a full disk or a folder that may not be written to becomes a UserError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        name = getattr(error, "sqlite_errorname", "")
        for start, why in TROUBLE.items():
            if name.startswith(start):
                raise UserError(f"{why} '{path}'. {KEPT}") from None
        raise


def _lookup(store: sqlite3.Connection, name: bytes, sampling: Sampling) -> Completion | None:
    """What is kept of a sample: it as it ended within this limit, or as it was cut off at just this limit.

    One that was cut off before its limit had filled the model's context, and no larger limit changes that.
    """
    for cap, text, tokens, finish in store.execute(
        "SELECT cap, text, tokens, finish FROM completion WHERE name = ?", (name,)
    ):
        ended = finish == "stop" or tokens < cap
        if cap == sampling.max_tokens or (ended and tokens <= sampling.max_tokens):
            _count_found(name, tokens)
            return Completion(zlib.decompress(text).decode(), tokens, finish)
    return None


def _count_found(name: bytes, tokens: int) -> None:
    if counted is None or name not in counted:
        spent.found += 1
        spent.found_tokens += tokens
    if counted is not None:
        counted.add(name)


def _keep(store: sqlite3.Connection, name: bytes, sampling: Sampling, completion: Completion) -> None:
    if completion.finish == "refused":
        return
    text = zlib.compress(completion.text.encode("utf-8", "replace"))
    row = (name, sampling.max_tokens, text, completion.tokens, completion.finish)
    store.execute("INSERT OR IGNORE INTO completion VALUES (?, ?, ?, ?, ?)", row)
    if budget.run:
        store.execute(
            "INSERT INTO paid VALUES (?, 1, ?) ON CONFLICT (run) DO UPDATE SET samples = samples + 1, "
            "tokens = tokens + excluded.tokens",
            (budget.run, completion.tokens),
        )
    store.commit()
    spent.sampled += 1
    spent.tokens += completion.tokens
    if counted is not None:
        counted.add(name)
    budget.paid_samples += 1
    budget.paid_tokens += completion.tokens


def _used_up(sampling: Sampling) -> str:
    limits = [f"{n:,} {what}" for n, what in ((budget.samples, "samples"), (budget.tokens, "tokens")) if n is not None]
    return (
        f"the run's budget of {' and '.join(limits)} is used up: {budget.paid_samples:,} samples with "
        f"{budget.paid_tokens:,} tokens are paid for and kept, and the next may take {sampling.max_tokens:,}. "
        "To go on where it was, raise curate.budget"
    )
