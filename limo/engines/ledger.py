"""Stores samples on disk, so that none is paid for twice: a content-addressed store around any engine.

    engine = Cached(TransformersEngine(...), folder)

A sample is named by the model's fingerprint, the messages, the sampling settings without n and max_tokens, and its
index. It is on disk as soon as it is finished, so a killed run loses only samples in progress, a rerun is free, going
from 4 to 32 attempts pays for 28, and a larger `max_tokens` pays only for samples that were cut off. The name does not
depend on the run, the pool or the grader: rows may be added and reordered, and a better grader can judge old samples.

There is one SQLite file per model, shared by the processes of one machine. If one process is making a sample, others
wait for it instead of paying again. `limo ledgers` lists these files and adds those of other machines.
"""

import fcntl
import math
import sqlite3
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from limo.data import content_id
from limo.engines.protocol import FREE, Completion, Engine, Price, Request, Sampling, Take
from limo.errors import UserError
from limo.machine import samples_folder

FORMAT = 3  # PRAGMA user_version of a ledger
# One name may hold several completions: a finished one, and one cut off at each `cap` tried before
SCHEMA = """
CREATE TABLE IF NOT EXISTS completion (
    name BLOB NOT NULL, cap INTEGER NOT NULL, text BLOB NOT NULL, tokens INTEGER NOT NULL, finish TEXT NOT NULL,
    checksum INTEGER NOT NULL, asked INTEGER NOT NULL, PRIMARY KEY (name, cap)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS model (fingerprint TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS named (fingerprint TEXT, name TEXT, PRIMARY KEY (fingerprint, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS paid (run TEXT PRIMARY KEY, samples INTEGER NOT NULL, tokens INTEGER NOT NULL,
    dollars REAL NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID;
"""
# SQLite's names of errors that a user can fix. A file-size limit and some network disks appear as failed writes
USER_ERRORS = {
    "SQLITE_FULL": "no space left on the disk for the samples in",
    "SQLITE_IOERR": "no space left on the disk, or it fails, for the samples in",
    "SQLITE_READONLY": "may not write the samples in",
    "SQLITE_CANTOPEN": "may not write the samples in",
    "SQLITE_BUSY": "another process has held for a minute the samples in",
}
DAMAGED = (
    "{path} is damaged or not a ledger: {error}. Move it away; what can be read of it is kept by "
    "sqlite3 FILE .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 NEW.sqlite; limo ledgers add NEW.sqlite"
)
HANDED_OUT = 1000  # known completions yielded before the engine gets its turn: limits the memory for waiting ones
POLL = 0.5  # seconds between two checks for samples that another process is making


@dataclass
class Spent:
    """What this process has sampled so far."""

    sampled: int = 0  # completions paid for
    tokens: int = 0  # tokens of these completions
    asked: int = 0  # tokens of their prompts
    dollars: float = 0.0  # for prompts and completions, if the engine has a price
    found: int = 0  # completions that the ledger had
    found_tokens: int = 0  # tokens of these completions
    spared: int = 0  # completions that were not needed, since the decision was certain before

    def since(self, before: "Spent") -> "Spent":
        """What was spent since an earlier copy was taken."""
        return Spent(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))


spent = Spent()
counted: set[bytes] | None = None  # names counted so far, if each sample is to be counted once


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may pay for, including its restarts; None sets no limit. Raises UserError for an invalid limit."""

    samples: int | None = None
    tokens: int | None = None  # generated
    dollars: float | None = None  # of engines with a price
    hours: float | None = None  # of sampling; samples under way are finished

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"curate.budget.{name} must be 0 or more, not {value}; null sets no limit")


@dataclass
class Budget:
    """Counts what a run has paid for and what is in progress, and decides whether it may begin more samples.

    A sample in progress counts with an upper bound. For the prompt that is one token per byte, plus an allowance for
    the chat template. For the completion it is `max_tokens`, or the largest number that a server has reported so far if
    that is higher, since hidden reasoning can exceed `max_tokens`. A finished sample counts with the tokens that the
    server reports.
    """

    run: str = ""
    limits: Limits = Limits()
    samples: int = 0
    tokens: int = 0
    dollars: float = 0.0
    seconds: float = 0.0
    longest: int = 0  # tokens of the longest completion so far
    around: int = 256  # prompt tokens beyond the bytes of its text; more if a server has counted more
    running: dict[bytes, tuple[int, int, Price]] = field(default_factory=dict)  # by name: bytes, max_tokens, price
    refused: tuple[int, int, Price] = (0, 0, FREE)  # the sample that did not fit

    def begin(self, name: bytes, request: Request, max_tokens: int, price: Price) -> bool:
        """Count a sample as in progress; False if, with all others in progress, it might exceed a limit."""
        size = sum(len(message["content"].encode("utf-8", "replace")) for message in request.prompt)
        limits, self.running[name] = self.limits, (size, max_tokens, price)
        if limits == Limits():
            return True
        tokens, dollars = map(sum, zip(*map(self.most, self.running.values()), strict=True))
        fits = (
            (limits.samples is None or self.samples + len(self.running) <= limits.samples)
            and (limits.tokens is None or self.tokens + tokens <= limits.tokens)
            and (limits.dollars is None or self.dollars + dollars <= limits.dollars)
            and (limits.hours is None or self.seconds < 3600 * limits.hours)
        )
        if not fits:
            self.refused = self.running.pop(name)
        return fits

    def most(self, sample: tuple[int, int, Price]) -> tuple[int, float]:
        """The most tokens and dollars that a sample may take, by its bytes, max_tokens and price."""
        size, max_tokens, price = sample
        tokens = max(max_tokens, self.longest)
        return tokens, price.of(size + self.around, tokens)

    def book(self, name: bytes, completion: Completion, price: Price, seconds: float) -> tuple[int, int, float]:
        """Count a finished sample; lost replies count with their upper bound. Returns samples, tokens and dollars."""
        sample = self.running.pop(name)
        self.longest = max(self.longest, completion.tokens)
        self.around = max(self.around, completion.asked - sample[0])
        most, dearest = self.most(sample)
        samples = completion.lost + bool(completion.asked or completion.tokens)
        tokens = completion.tokens + completion.lost * most
        dollars = price.of(completion.asked, completion.tokens) + completion.lost * dearest
        self.samples, self.tokens = self.samples + samples, self.tokens + tokens
        self.dollars, self.seconds = self.dollars + dollars, self.seconds + seconds
        return samples, tokens, dollars

    def explain(self) -> str:
        """The error message of a run whose budget does not allow the last refused sample."""
        limits = [f"{value:,} {what}" for what, value in asdict(self.limits).items() if value is not None]
        tokens, dollars = self.most(self.refused)
        cost, more = (
            (f", ${self.dollars:,.2f}", f" and ${dollars:,.4f}") if self.limits.dollars is not None else ("", "")
        )
        return (
            f"the run's budget of {' and '.join(limits)} is used up: {self.samples:,} samples with "
            f"{self.tokens:,} tokens{cost} are paid for and kept, and the next may take {tokens:,}{more}. "
            "To resume, raise curate.budget"
        )


budget = Budget()


@contextmanager
def within_budget(run: str, limits: Limits) -> Iterator[None]:
    """Context manager: charge everything that is sampled inside the `with` block to `run`, and begin no sample that
    could exceed the limits.

    A block nested in another one of the same run shares the outer limits.
    """
    global budget, counted
    if budget.run == run:
        yield
        return
    budget = Budget(run, limits)
    for path in sorted(samples_folder().glob("*.sqlite")):
        with explain_errors(path), closing(open_ledger(path)) as store:
            known = store.execute("SELECT samples, tokens, dollars, seconds FROM paid WHERE run = ?", (run,)).fetchone()
            for name, value in zip(("samples", "tokens", "dollars", "seconds"), known or (), strict=False):
                setattr(budget, name, getattr(budget, name) + value)
    try:
        yield
    finally:
        counted, budget = None, Budget()


def sample_name(request: Request, sampling: Sampling) -> bytes:
    """The 16-byte name under which a sample is kept."""
    settings = {k: v for k, v in asdict(sampling).items() if k not in ("n", "max_tokens")}
    return bytes.fromhex(content_id([request.prompt, settings, request.index], 16))


def checksum(name: bytes, cap: int, text: bytes, tokens: int, finish: str) -> int:
    """The CRC-32 of a whole row, to recognise damaged rows."""
    return zlib.crc32(f"{cap}/{tokens}/{finish}/".encode() + name + text)


class Cached:
    """An engine that asks the wrapped engine only for samples that the ledger lacks."""

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self.engine = engine
        self.folder = folder or samples_folder()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the wrapped engine."""
        return self.engine.fingerprint

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Yield known samples at once and the rest from the engine. Refusals are not kept.

        Raises UserError once the run's budget is used up; running samples are finished and kept before that.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{content_id(self.fingerprint)}.sqlite"
        with explain_errors(path), closing(open_ledger(path)) as store:
            store.execute("INSERT OR IGNORE INTO model VALUES (?)", (self.fingerprint,))
            name = str(getattr(self.engine, "model", ""))  # as in the recipe: one content may have several names
            store.execute("INSERT OR IGNORE INTO named VALUES (?, ?)", (self.fingerprint, name))
            store.commit()
            session = _Session(store, path, take, sampling, getattr(self.engine, "price", FREE))
            try:
                yield from self._complete(session, sampling)
            finally:
                session.release()

    def _complete(self, session: "_Session", sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        moved = True
        while moved:
            moved = False
            for request, completion in self.engine.complete(session.take_missing, sampling):
                session.finish(request, completion)
                yield request, completion
                while session.known:
                    yield session.known.popleft()
                moved = True
            while session.known:
                yield session.known.popleft()
                moved = True
            if session.elsewhere and not moved:
                time.sleep(POLL)
                moved = True
            elif session.held and not moved:
                raise UserError(budget.explain())


@dataclass(eq=False)
class _Session:
    """One call of `Cached.complete`: requests that are known, held for lack of budget, running here or elsewhere."""

    store: sqlite3.Connection
    path: Path
    take: Take
    sampling: Sampling
    price: Price
    known: deque[tuple[Request, Completion]] = field(default_factory=deque)
    held: deque[Request] = field(default_factory=deque)
    elsewhere: dict[bytes, Request] = field(default_factory=dict)  # claimed by another process
    begun: dict[bytes, list[Request]] = field(default_factory=dict)  # by name, with requests for the same sample
    looked: float = 0.0
    timed: float = field(default_factory=time.monotonic)  # up to when the run's seconds are counted

    def take_missing(self, room: int) -> list[Request]:
        """Take up to `room` requests that are not in the ledger and fit into the budget."""
        self._look_elsewhere()
        while len(self.held) < room and len(self.known) < HANDED_OUT and (asked := self.take(room - len(self.held))):
            for request in asked:
                name = sample_name(request, self.sampling)
                if name in self.begun:
                    self.begun[name].append(request)
                elif completion := self._look_up(name):
                    self.known.append((request, completion))
                else:
                    self.begun[name] = []
                    self.held.append(request)
        return self._start(room)

    def _start(self, room: int) -> list[Request]:
        """Start up to `room` held requests. Each is claimed before it is looked up, since another process writes a
        sample first and then releases its claim.
        """
        started = list[Request]()
        while self.held and len(started) < room:
            request = self.held.popleft()
            name = sample_name(request, self.sampling)
            if not lock_sample(self.path, name):
                self.elsewhere[name] = request
            elif completion := self._look_up(name):  # another process has finished it since
                release_claim(self.path, name)
                self.known.append((request, completion))
                self._answer_waiting(name, completion)
            elif budget.begin(name, request, self.sampling.max_tokens, self.price):
                started.append(request)
            else:
                release_claim(self.path, name)
                self.held.appendleft(request)
                break
        return started

    def finish(self, request: Request, completion: Completion) -> None:
        """Store a completion and count its cost. A refusal is not stored, but counted, since it may have cost
        something.
        """
        name = sample_name(request, self.sampling)
        if completion.finish != "refused":
            keep_completion(self.store, name, self.sampling.max_tokens, completion)
        self._count_paid(name, completion)
        self.store.commit()
        release_claim(self.path, name)
        self._answer_waiting(name, completion)

    def release(self) -> None:
        """Release the claims on unfinished samples."""
        for name in self.begun:
            budget.running.pop(name, None)
            release_claim(self.path, name)

    def _answer_waiting(self, name: bytes, completion: Completion) -> None:
        for other in self.begun.pop(name):
            _count_found(name, completion.tokens)
            self.known.append((other, completion))

    def _look_elsewhere(self) -> None:
        """Check the samples that other processes were making: read the finished ones, and make the abandoned ones
        here.
        """
        if not self.elsewhere or time.monotonic() - self.looked < POLL:
            return
        self.looked = time.monotonic()
        for name, request in list(self.elsewhere.items()):
            if completion := self._look_up(name):
                del self.elsewhere[name]
                self.known.append((request, completion))
                self._answer_waiting(name, completion)
            elif lock_sample(self.path, name):
                release_claim(self.path, name)
                del self.elsewhere[name]
                self.held.append(request)

    def _look_up(self, name: bytes) -> Completion | None:
        """Look up a stored sample that ended within this limit, or was cut off exactly at it.

        A sample that was cut off before its limit has filled the model's context, so a larger limit does not help.
        """
        for cap, text, tokens, finish, check, asked in self.store.execute(
            "SELECT cap, text, tokens, finish, checksum, asked FROM completion WHERE name = ?", (name,)
        ):
            if check != checksum(name, cap, text, tokens, finish):
                raise UserError(DAMAGED.format(path=self.path, error="a sample's checksum does not hold"))
            ended = finish == "stop" or tokens < cap
            if cap == self.sampling.max_tokens or (ended and tokens <= self.sampling.max_tokens):
                _count_found(name, tokens)
                return Completion(zlib.decompress(text).decode(), tokens, finish, asked=asked)
        return None

    def _count_paid(self, name: bytes, completion: Completion) -> None:
        now = time.monotonic()
        seconds, self.timed = now - self.timed, now
        samples, tokens, dollars = budget.book(name, completion, self.price, seconds)
        if not samples:
            return
        if budget.run:
            self.store.execute(
                "INSERT INTO paid VALUES (?, ?, ?, ?, ?) ON CONFLICT (run) DO UPDATE SET samples = samples + "
                "excluded.samples, tokens = tokens + excluded.tokens, dollars = dollars + excluded.dollars, "
                "seconds = seconds + excluded.seconds",
                (budget.run, samples, tokens, dollars, seconds),
            )
        spent.sampled += samples
        spent.tokens += tokens
        spent.asked += completion.asked
        spent.dollars += dollars
        if counted is not None and completion.finish != "refused":
            counted.add(name)


@cache
def _claims(path: Path) -> IO[bytes]:
    """The lock file beside a ledger, open as long as this process lives: closing it would release its locks."""
    return path.with_suffix(".claims").open("ab")


def lock_sample(path: Path, name: bytes) -> bool:
    """Lock the byte of a sample's name, as long as this process lives; False if another process has locked it."""
    try:
        fcntl.lockf(_claims(path), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int.from_bytes(name[:7]))
    except (BlockingIOError, PermissionError):
        return False
    return True


def release_claim(path: Path, name: bytes) -> None:
    """Release a claim after the sample was written or abandoned."""
    fcntl.lockf(_claims(path), fcntl.LOCK_UN, 1, int.from_bytes(name[:7]))


def open_ledger(path: Path) -> sqlite3.Connection:
    """A ledger, created if missing. Raises UserError for a damaged file, another kind of file or another format."""
    store = sqlite3.connect(path.resolve().as_uri(), uri=True, timeout=60)
    try:
        # In one statement and one transaction: another process may be creating the same file
        version, tables = store.execute(
            "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        ).fetchone()
        if version not in (0, FORMAT) or (version == 0 and tables):
            raise UserError(
                f"{path} is a ledger of format {version}, this version reads {FORMAT}. Move it to another folder"
            )
        store.execute("PRAGMA journal_mode=WAL")
        store.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing; a power cut loses the last moments
        store.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
    except (UserError, sqlite3.OperationalError):
        store.close()
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        store.close()
        raise UserError(DAMAGED.format(path=path, error=error)) from None
    return store


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Convert SQLite errors of the block to UserError: a full disk, missing permissions, a damaged file."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        for start, why in USER_ERRORS.items():
            if name.startswith(start):
                raise UserError(
                    f"{why} '{path}'. Finished samples are kept: fix that, or set LIMO_CACHE to another folder, and "
                    "run the same command again"
                ) from None
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed" in str(error):
            raise UserError(DAMAGED.format(path=path, error=error)) from None
        raise


def keep_completion(store: sqlite3.Connection, name: bytes, cap: int, completion: Completion) -> None:
    """Add a completion to a ledger without committing."""
    text = zlib.compress(completion.text.encode("utf-8", "replace"))
    row = (name, cap, text, completion.tokens, completion.finish)
    values = (*row, checksum(*row), completion.asked)
    store.execute("INSERT OR IGNORE INTO completion VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def _count_found(name: bytes, tokens: int) -> None:
    if counted is None or name not in counted:
        spent.found += 1
        spent.found_tokens += tokens
    if counted is not None:
        counted.add(name)
