"""Turning chats into completions: one protocol, and the scripted engine that tests use.

    completions = sample(engine, prompts, Sampling(n=4, temperature=0.7, top_p=0.95, max_tokens=512, seed=0))

An engine takes requests (a prompt and the index of the sample) and yields each completion as soon as it is finished,
in any order. Sample i of a prompt is independent of the other samples and, on one machine and batch, reproducible: its
randomness comes from (seed, prompt, i) alone. `limo/ledger.py` keeps what was sampled; `limo/engine_transformers.py`
runs a local model. Engines are described in recipes by their dotted path.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from limo.data import Message, content_id
from limo.errors import UserError
from limo.progress import progress

Prompt = tuple[Message, ...]
Finish = Literal["stop", "length", "refused"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

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
    """One completion that is wanted."""

    prompt: Prompt
    index: int  # of the sample among those of its prompt


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back."""

    text: str
    tokens: int  # generated, the end token included
    finish: Finish  # "length": cut off, never to be mistaken for a finished one; "refused": not sampled at all
    why: str = ""  # of a refusal: the prompt does not fit, the server would not answer it


class Engine(Protocol):
    """What every engine offers."""

    @property
    def fingerprint(self) -> str:
        """Names the weights, the chat template and the precision: equal names may share samples."""

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """Yields (position in `requests`, completion), each once, as soon as it is finished."""


def sample(
    engine: Engine, prompts: Sequence[Prompt], sampling: Sampling, what: str = "sampling"
) -> list[list[Completion]]:
    """`sampling.n` completions for each prompt, in order, with a progress bar."""
    requests = [Request(prompt, index) for prompt in prompts for index in range(sampling.n)]
    done: list[Completion | None] = [None] * len(requests)
    with progress(what, len(requests), "completion") as advance:
        for position, completion in engine.complete(requests, sampling):
            assert done[position] is None, f"request {position} was answered twice"
            done[position] = completion
            advance(1)
    missing = [i for i, completion in enumerate(done) if completion is None]
    assert not missing, f"{len(missing)} requests got no answer, the first is {missing[0]}"
    kept = [completion for completion in done if completion is not None]
    return [kept[i : i + sampling.n] for i in range(0, len(kept), sampling.n)]


def random_key(request: Request, sampling: Sampling) -> int:
    """The seed of one sample's own random stream: 128 bits from (seed, prompt, index)."""
    name = f"{sampling.seed}/{content_id(request.prompt, 16)}/{request.index}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big")


class Scripted:
    """An engine that answers by a function of (question, sample index): for tests and dry runs.

    The function returns a text, or a whole `Completion` to play a cut-off one. `asked` is what was really requested.
    """

    def __init__(self, reply: Callable[[str, int], str | Completion], fingerprint: str = "scripted") -> None:
        self.reply = reply
        self.fingerprint = fingerprint
        self.asked: list[Request] = []

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """See `Engine.complete`."""
        for position, request in enumerate(requests):
            self.asked.append(request)
            answer = self.reply(request.prompt[-1]["content"], request.index)
            if isinstance(answer, Completion):
                yield position, answer
                continue
            words = answer.split(" ")
            cut = len(words) > sampling.max_tokens
            yield position, Completion(" ".join(words[: sampling.max_tokens]), len(words), "length" if cut else "stop")
