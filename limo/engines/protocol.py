"""The protocol of engines, which turn chats into completions, and the scripted engine that tests use.

    completions = sample(engine, prompts, Sampling(n=4, temperature=0.7, top_p=0.95, max_tokens=512, seed=0))

An engine pulls requests (a prompt and the index of the sample) whenever it has room, and yields each completion as soon
as it is finished, in any order. So later requests may depend on earlier completions: `curation/stages/attempts.py`
stops asking about a problem once its decision is certain. Sample i of a prompt is independent of the other samples and
reproducible: its randomness comes from (seed, prompt, i) alone. A prompt whose last message is the assistant's is an
unfinished turn: the model continues it, and the completion is the new text. `limo/engines/ledger.py` keeps what was
sampled; `engines/local.py` runs a local model, `engines/server.py` asks servers. Recipes name an engine by its
dotted path; docs/engines.md compares them.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from limo.console import progress
from limo.data import Message, content_id
from limo.errors import UserError

Prompt = tuple[Message, ...]
T = TypeVar("T")
Finish = Literal["stop", "length", "refused"]
OPEN = 4096  # prompts in progress at once in a stream: enough for any engine's batch, little memory


@dataclass
class Loading:
    """Counts the seconds that this process has spent on starting engines: imports, conversion, weights."""

    seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time of the block, in which an engine is started."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start


loading = Loading()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are sampled."""

    n: int  # completions per prompt
    temperature: float  # 0 is greedy
    top_p: float  # nucleus: the smallest set of tokens with at least this probability
    max_tokens: int  # a completion of this many tokens without an end is cut off
    seed: int
    stop: tuple[str, ...] = ()  # texts that end a completion; not part of it

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UserError(f"sampling needs n >= 1, max_tokens >= 1, temperature >= 0, 0 < top_p <= 1: {self}")
        object.__setattr__(self, "stop", tuple(self.stop))


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one completion."""

    prompt: Prompt
    index: int  # of the sample among those of its prompt
    at: int = 0  # a number chosen by the caller to recognise the completion


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of a request."""

    text: str
    tokens: int  # generated, end token and hidden reasoning included; for a refusal, tokens charged nevertheless
    finish: Finish  # "length": cut off, never to be mistaken for a finished one; "refused": not sampled at all
    why: str = ""  # reason of a refusal: the prompt does not fit, the server rejects it
    asked: int = field(default=0, compare=False)  # tokens of the prompt
    lost: int = field(default=0, compare=False)  # number of earlier replies that were lost but perhaps charged


@dataclass(frozen=True, slots=True)
class Price:
    """What a provider charges, in dollars for a million tokens."""

    input: float = 0.0
    output: float = 0.0

    def of(self, asked: int, generated: int) -> float:
        """The price in dollars of `asked` prompt tokens and `generated` completion tokens."""
        return (asked * self.input + generated * self.output) / 1e6


FREE = Price()  # for engines on your own machine, which cost hours only


def refuse(why: str, tokens: int = 0, asked: int = 0, lost: int = 0) -> Completion:
    """Make a refused completion, with the reason and with what it cost."""
    return Completion("", tokens, "refused", why, asked, lost)


Take = Callable[[int], Sequence[Request]]  # returns at most so many requests; empty if there are none at the moment


class Engine(Protocol):
    """The protocol of every engine."""

    @property
    def fingerprint(self) -> str:
        """A name of the weights, the chat template and the precision. Engines with equal names share samples in the
        ledger.
        """

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """Yields each request with its completion, once, as soon as it is finished.

        Calls `take` whenever there is room, and again after each completion. Ends when nothing is in progress and
        `take` returns nothing.
        """


def sample(
    engine: Engine, prompts: Sequence[Prompt], sampling: Sampling, what: str = "sampling"
) -> list[list[Completion]]:
    """Sample `sampling.n` completions for each prompt, in order, with a progress bar. Equal prompts are sampled
    once.
    """
    first: dict[str, int] = {}
    same = [first.setdefault(content_id(prompt, 16), at) for at, prompt in enumerate(prompts)]
    # Longest first: lack of memory shows at once, and the rows of a batch have similar lengths
    order = sorted(first.values(), key=lambda at: (-sum(len(m["content"]) for m in prompts[at]), at))
    waiting = deque(Request(prompts[at], index, at) for at in order for index in range(sampling.n))
    done: dict[tuple[int, int], Completion] = {}
    with progress(what, len(waiting), "completion") as advance:
        for request, completion in engine.complete(taker(waiting), sampling):
            assert (request.at, request.index) not in done, f"{request} was answered twice"
            done[request.at, request.index] = completion
            advance(1)
    missing = len(order) * sampling.n - len(done)
    assert not missing, f"{missing} requests got no answer"
    return [[done[at, index] for index in range(sampling.n)] for at in same]


def taker(waiting: deque[Request]) -> Take:
    """Make a `Take` that empties a queue, first in first out."""
    return lambda room: [waiting.popleft() for _ in range(min(room, len(waiting)))]


def stream(
    engine: Engine, asked: Iterable[tuple[Prompt, int]], sampling: Sampling, what: str = "sampling"
) -> Iterator[list[Completion]]:
    """Yield n completions for each (prompt, n), in order, with at most some thousand prompts in memory."""
    source, waiting = Source(enumerate(asked)), deque[Request]()
    under_way: dict[int, dict[int, Completion]] = {}
    wanted: dict[int, int] = {}

    def take(room: int) -> Sequence[Request]:
        while len(waiting) < room and len(wanted) < OPEN and (item := source.next()):
            at, (prompt, n) = item
            wanted[at], under_way[at] = n, {}
            waiting.extend(Request(prompt, index, at) for index in range(n))
        return taker(waiting)(room)

    def finished() -> Iterator[list[Completion]]:
        while wanted and len(under_way[at := next(iter(wanted))]) == wanted[at]:
            del wanted[at]
            yield [completion for _, completion in sorted(under_way.pop(at).items())]

    with progress(what, None, "completion") as advance:
        while not source.ended:  # again if the engine ended early because some thousand prompts in a row asked for 0
            for request, completion in engine.complete(take, sampling):
                under_way[request.at][request.index] = completion
                advance(1)
                yield from finished()
            yield from finished()
            assert not wanted, f"{len(wanted)} prompts got no answer"


class Source(Generic[T]):
    """An iterator that can be asked whether it has ended."""

    def __init__(self, values: Iterable[T]) -> None:
        self.values, self.ended = iter(values), False

    def next(self) -> T | None:
        """The next value, or None at the end."""
        value = next(self.values, None)
        self.ended = value is None
        return value


def random_key(request: Request, sampling: Sampling) -> int:
    """The 128-bit seed of a sample's random stream, computed from (seed, prompt, index)."""
    name = f"{sampling.seed}/{content_id(request.prompt, 16)}/{request.index}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big")


class Scripted:
    """An engine whose replies are a function of (question, sample index): for tests and dry runs.

    The function returns a text or a `Completion`. A token is a word; `context` is the most words of a prompt.
    """

    def __init__(
        self,
        reply: Callable[[str, int], str | Completion],
        fingerprint: str = "scripted",
        batch_size: int = 1,
        context: int | None = None,
    ) -> None:
        self.reply, self.fingerprint, self.batch_size, self.context = reply, fingerprint, batch_size, context
        self.asked: list[Request] = []

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `Engine.complete`."""
        while requests := take(self.batch_size):
            for request in requests:
                self.asked.append(request)
                yield request, self._reply(request, sampling)

    def _reply(self, request: Request, sampling: Sampling) -> Completion:
        asked = sum(len(m["content"].split()) for m in request.prompt)
        if self.context is not None and asked >= self.context:
            return refuse(f"the prompt has {asked} tokens, the model takes {self.context}")
        answer = self.reply(request.prompt[-1]["content"], request.index)
        if isinstance(answer, Completion):
            return answer
        if ends := [answer.find(stop) for stop in sampling.stop if stop in answer]:
            answer = answer[: min(ends)]
        words = answer.split(" ")
        if len(words) <= sampling.max_tokens:
            return Completion(answer, len(words), "stop", asked=asked)
        return Completion(" ".join(words[: sampling.max_tokens]), sampling.max_tokens, "length", asked=asked)
