"""Several servers of one model: which one takes the next request, which are put aside, when a run must end.

A server takes requests up to its limit of concurrent ones, and the freest takes the next. After some failures in a row
it is put aside, for longer each time, and then tried with one request (a circuit breaker); an answer brings it back. A
server that asks to wait is left alone for that long. Once every server has failed for the run's patience without any
sign of life, the run is over: one error that says which address, what it said, and what to do.
"""

import asyncio
import os
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from limo.errors import UserError
from limo.progress import clock, say
from limo.replies import Failure

IN_A_ROW = 5  # failures after which a server is put aside
LONGEST = 60.0  # seconds of one wait of our own choosing
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SPARE = 100  # retries that a run may always make; each answer earns one more, up to this and some for each place


@dataclass
class Limits:
    """Requests and tokens that a key may have in any 60 seconds; None is no limit."""

    requests: int | None
    tokens: int | None
    seconds: float = 60.0
    sent: deque[list[float]] = field(default_factory=deque)  # time and tokens of what was sent within `seconds`
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # first come, first served

    async def wait(self, tokens: int, pause: Callable[[float], Awaitable[None]]) -> list[float]:
        """Wait until a request that may take so many tokens is within the limits. Returns its entry, for `settle`."""
        async with self.lock:
            while (delay := self._delay(tokens)) > 0:
                await pause(delay)
            self.sent.append([time.monotonic(), tokens])
            return self.sent[-1]

    @staticmethod
    def settle(entry: list[float], tokens: int) -> None:
        """What a request really took takes the place of what it might have."""
        entry[1] = tokens

    def _delay(self, tokens: int) -> float:
        now = time.monotonic()
        while self.sent and self.sent[0][0] + self.seconds <= now:
            self.sent.popleft()
        count, total = len(self.sent), sum(entry[1] for entry in self.sent) if self.tokens is not None else 0
        for then, spent in self.sent:  # the oldest leave first; one that is too large by itself goes when it is alone
            fits = self.tokens is None or total + tokens <= self.tokens
            if fits and (self.requests is None or count < self.requests):
                break
            count, total, now = count - 1, total - spent, then + self.seconds
        return now - time.monotonic()


@dataclass(eq=False)
class Server:
    """One address and how it fares. Times are those of `time.monotonic`."""

    url: str
    free: int  # requests that it may be given
    limits: Limits
    headers: dict[str, str] = field(default_factory=dict, repr=False)  # has the key
    failures: int = 0  # in a row
    openings: int = 0  # times in a row that it was put aside
    until: float = 0.0  # put aside until then
    since: float | None = None  # without a sign of life since this failure
    probe: object = None  # the task that finds out, with one request, how a server that was put aside fares
    dead: bool = False  # its key, path or model is wrong
    said: str = ""  # at the last failure

    @property
    def open(self) -> bool:
        """Whether it is put aside for its failures."""
        return self.failures >= IN_A_ROW

    def ready(self, now: float) -> bool:
        """Whether it can take a request."""
        return not self.dead and self.free > 0 and now >= self.until and not (self.open and self.probe)


class Servers:
    """All servers of an engine, while it samples."""

    def __init__(self, servers: Sequence[Server], patience: float, backoff: float) -> None:
        self.all, self.patience, self.backoff = list(servers), patience, backoff
        self.over: UserError | None = None
        self.credit = self.most_credit = SPARE + 10 * sum(server.free for server in servers)
        self.answered = 0
        self._changed = asyncio.Event()

    async def place(self, avoid: Server | None) -> Server:
        """A server that takes one request now, rather not `avoid`. Raises UserError once the run is over."""
        while True:
            if self.over:
                raise self.over
            now = time.monotonic()
            if ready := [server for server in self.all if server.ready(now)]:
                chosen = max(ready, key=lambda s: (s is not avoid or len(ready) == 1, s.free, random.random()))
                chosen.free -= 1
                if chosen.open:
                    chosen.probe = asyncio.current_task()
                return chosen
            waits = [server.until - now for server in self.all if server.until > now]
            await self._change(min(waits, default=LONGEST))

    def leave(self, server: Server) -> None:
        """A request has left the server, however it went."""
        server.free += 1
        if server.probe is asyncio.current_task():
            server.probe = None
        self._notify()

    def lives(self, server: Server) -> None:
        """The server has shown a sign of life."""
        if server.openings > 1:
            say(f"{server.url} answers again")
        server.failures = server.openings = 0
        server.since = None

    def answer(self, server: Server) -> None:
        """The server has completed a request."""
        self.lives(server)
        self.answered += 1
        self.credit = min(self.credit + 1, self.most_credit)

    def hold(self, server: Server, failure: Failure) -> None:
        """The server asks to be left alone for a while."""
        now = time.monotonic()
        server.said, server.since = str(failure), server.since or now
        wait = failure.wait if failure.wait is not None else self.jitter(3)
        if wait > self.patience:
            server.since = now - wait
            server.said = f"{failure}; it asks to wait {clock(wait)}"
        server.until = max(server.until, now + wait)
        self._end_if_down()

    def fail(self, server: Server, failure: Failure) -> None:
        """The server has failed a request."""
        now = time.monotonic()
        was_open, probed = server.open, server.probe is asyncio.current_task()
        server.failures += 1
        server.said, server.since = str(failure), server.since or now
        if failure.wait is not None:
            server.until = max(server.until, now + failure.wait)
        if server.open and (probed or not was_open):
            if server.openings == 1:  # the first is over in a moment, and common
                say(f"{server.url} is put aside for a while: {server.said}")
            server.until = max(server.until, now + min(LONGEST, self.backoff * 2**server.openings))
            server.openings += 1
        self._end_if_down()

    def put_out(self, server: Server, failure: Failure) -> None:
        """The server can take nothing of ours: the key, the path or the model is wrong."""
        if not server.dead and len(self.all) > 1:
            say(f"{server.url} is left out: {failure}")
        server.dead, server.said = True, str(failure)
        self._end_if_down()

    def pay(self) -> None:
        """Account for a retry that the server may charge; too many of them end the run."""
        self.credit -= 1
        if self.credit < 0:
            said = "; ".join(f"{s.url}: {s.said}" for s in self.all if s.said)
            self.end(f"more requests fail than succeed, so no more are sent. Last failures: {said}")

    def end(self, why: str) -> UserError:
        """No more requests: the run is over, with the error that is returned. What was sampled is in the ledger."""
        self.over = self.over or UserError(
            f"{why}. What was sampled is kept: run the same command again to go on where it was"
        )
        self._notify()
        return self.over

    def jitter(self, tries: int) -> float:
        """Seconds to wait after so many tries: any up to a bound that doubles, so that waiters do not come together."""
        return random.uniform(0, min(LONGEST, self.backoff * 2**tries))

    async def pause(self, seconds: float) -> None:
        """Wait, unless the run ends. Raises UserError once it is over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.over:
            await self._change(left)
        if self.over:
            raise self.over

    def _end_if_down(self) -> None:
        now = time.monotonic()
        down = [server.dead or (server.since is not None and now - server.since > self.patience) for server in self.all]
        if all(down):
            self.end(
                "; ".join(f"{s.url}: {s.said}{'' if s.dead else self._how_long(s, now)}" for s in self.all) + _ADVICE
            )

    @staticmethod
    def _how_long(server: Server, now: float) -> str:
        return f" (for {clock(now - (server.since or now))})"

    async def _change(self, seconds: float) -> None:
        """Wait until a server's state changes, or so long."""
        changed = self._changed
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), seconds)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


_ADVICE = ". Check that the server runs, base_urls (they end in /v1 as a rule), model and api_key_env"


def address(url: str) -> str:
    """A base URL without a slash at its end. Raises UserError for one that is none, or that has a key in it."""
    wrong = UserError("engine.base_urls must be addresses such as http://localhost:8000/v1")
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise wrong
    except ValueError:  # no such port, half an IPv6 address
        raise wrong from None
    names = {name.lower() for name, _ in parse_qsl(parts.query)}
    if parts.username or parts.password or any(word in name for name in names for word in ("key", "token", "sig")):
        raise UserError(f"engine.base_urls: the address of {parts.hostname} has a secret in it; name its variable with "
                        "api_key_env")  # fmt: skip
    return url.rstrip("/")


def keys(named: str | list[str] | None, urls: list[str]) -> list[tuple[str, str]]:
    """For each URL the variable and the key in it; two empty texts where none is needed.

    Raises UserError for a variable that is not set, and for a key in place of its name.
    """
    variables = named if isinstance(named, list) else [named or ""] * len(urls)
    if len(variables) != len(urls):
        raise UserError(
            f"engine.api_key_env names {len(variables)} variables for {len(urls)} base_urls: one, or as many"
        )
    for variable in filter(None, variables):
        if not VARIABLE.fullmatch(variable):  # it may be the key itself: do not repeat it
            raise UserError("engine.api_key_env must be the name of an environment variable, not the key")
        if not os.environ.get(variable, "").strip():
            raise UserError(f"the environment variable {variable} is not set; engine.api_key_env says it holds the key")
        if not re.fullmatch(r"[!-~]+", os.environ[variable].strip()):
            raise UserError(f"the environment variable {variable} holds no key: keys are ASCII without spaces")
    return [(variable, os.environ.get(variable, "").strip() if variable else "") for variable in variables]
