"""The engine for OpenAI-compatible servers: vLLM, SGLang, `transformers serve`, llama.cpp, or a provider.

    engine: {_target_: limo.engines.server.ServerEngine, model: Qwen/Qwen3-32B, serve: vllm, tensor_parallel: 4}
    engine: {_target_: limo.engines.server.ServerEngine, model: Qwen/Qwen3-32B, base_urls: [http://node1:8000/v1]}

With `serve` the engine starts a server on this machine's GPUs (`limo/engines/serve.py`); with `base_urls` it uses
running servers, and sends each request to the address with the fewest open requests. Every sample is a separate request
with its own seed, so sample i of a prompt is reproducible if the server honours `seed`.

A failed request is retried, at another address if there is one. A request that keeps failing is refused with its
reason. The run ends only when no server can be expected to answer. docs/engines.md describes every setting.

Not covered: multimodal models. Limits on requests per minute are left to the server, which answers with status 429.
"""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from limo.chat import CLOSE, OPEN, carry_opening, prompt_ids, turn_end
from limo.console import clock, say
from limo.data import content_id
from limo.engines.connection import Connection, Keys, Reply, ServerError, check_address, context_room, describe, is_lost
from limo.engines.protocol import FREE, Completion, Finish, Price, Request, Sampling, Take, loading, random_key, refuse
from limo.engines.serve import LocalServer, command_line, find_program
from limo.errors import UserError
from limo.model import fingerprint, load_tokenizer, model_folder, tokenizer_folder
from limo.recipe import is_trusted

PROGRAMS = "programs"  # with --trust programs, a recipe may choose the server program and its options
BYTES_PER_TOKEN = 4  # to estimate tokens if a server does not count them
CONTROL = re.compile(r"<[|｜][^\s<>|｜]{1,40}[|｜]>|</?s>|<(start|end)_of_turn>|\[/?INST\]")
SHOWN = 300  # most characters shown of a server's message
NEVER_ANSWERED = 20  # refusals in a row before the first answer: the settings are wrong, not the prompts
IN_A_ROW = 200  # refusals in a row that end a run after the first answer
UNUSABLE = (401, 402)  # status codes of a wrong key or account
NOT_THERE = (*range(300, 400), 403, 404, 405)  # a wrong path or model; from an address that has answered, a bad prompt
PASSING = (408, 409, 425, 429)  # status codes below 500 after which the same request may succeed
WELL = 3  # most failures in a row that are counted for a server that still lists its models
LONGEST_PAUSE = 60.0  # seconds between two tries


@dataclass(frozen=True, kw_only=True)
class ServerEngine:
    """OpenAI-compatible servers behind the `Engine` protocol. Raises UserError for settings that cannot work."""

    model: str  # as the servers name it; a folder or Hub name where `serve` starts one
    base_urls: list[str] = field(default_factory=list)  # of running servers, up to /v1
    serve: Literal["vllm", "sglang", "transformers"] | None = None  # start one on this machine instead
    serve_python: str | None = None  # the Python of the environment in which that server is installed
    serve_args: list[str] = field(default_factory=list)  # further options for the server's command line
    tensor_parallel: int = 1  # GPUs that share one copy of the model, with `serve`
    data_parallel: int = 1  # copies of the model, with `serve`
    start_timeout: float = 1800.0  # seconds until a started server must be healthy
    send: Literal["messages", "tokens"] = "messages"  # tokens: prompts are rendered here, as in training
    tokenizer: str | None = None  # of the prompts, with send=tokens; null is `model`
    api_key_env: str | None = None  # name of the environment variable that holds the key
    allow_insecure: bool = False  # send the key over plain http to another machine
    revision: str = ""  # your label for the weights: a server's model name does not identify them
    concurrency: int = 64  # requests at once to each address
    context: int | None = None  # tokens of the model, for servers that do not refuse longer prompts themselves
    stream: bool = False  # receive completions in pieces, for gateways that cut silent connections
    timeout: float = 3600.0  # seconds that one completion may take
    tries: int = 5  # attempts at one request
    patience: float = 300.0  # seconds for which all servers may fail before the run ends
    backoff: float = 1.0  # seconds after the first failure, doubled each time
    extra: dict[str, Any] = field(default_factory=dict)  # further fields of every request; null leaves one out
    price: Price = FREE  # of a provider's tokens

    def __post_init__(self) -> None:
        for name in ("concurrency", "timeout", "tries", "patience", "tensor_parallel", "data_parallel"):
            if not getattr(self, name) > 0:
                raise UserError(f"engine.{name} must be above 0, not {getattr(self, name)}")
        if bool(self.serve) == bool(self.base_urls):
            raise UserError("engine needs either serve: vllm, sglang or transformers, or base_urls of running servers")
        if (self.serve_python or self.serve_args) and not is_trusted(PROGRAMS):
            raise UserError(
                "engine.serve_python and engine.serve_args say which program is run, and what it loads: add --trust "
                f"{PROGRAMS} if you trust what this recipe names"
            )
        if self.send == "tokens" and self.serve == "transformers":
            raise UserError("engine.send=tokens: `transformers serve` takes messages only")
        self._keys  # noqa: B018 - a missing key is reported before any work
        for url in self.base_urls:
            check_address(url, bool(self.api_key_env), self.allow_insecure)

    def check_program(self) -> None:
        """Raise UserError where the server that `serve` starts is not installed."""
        if self.serve:
            find_program(command_line(self.serve, "", 0, (1, 1), (), self.serve_python))

    def headers(self) -> dict[str, str]:
        """The request headers that hold the key."""
        return {"Authorization": f"Bearer {self._keys.key}"} if self._keys.key else {}

    @cached_property
    def _keys(self) -> Keys:
        return Keys(self.api_key_env)

    @cached_property
    def _local(self) -> LocalServer | None:
        if self.serve is None:
            return None
        sizes = (self.tensor_parallel, self.data_parallel)
        return LocalServer(
            self.serve, self._served_model, sizes, self.serve_args, self.serve_python, self.start_timeout
        )

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(tokenizer_folder(self.tokenizer or self.model))

    @cached_property
    def _served_model(self) -> str:
        return str(model_folder(self.model)) if self.serve else self.model

    @cached_property
    def fingerprint(self) -> str:
        """A name of the model and of the settings that change its samples. The address is not part of it: all servers
        of a model share samples.
        """
        name = f"openai/{self.model}@{self.revision or 'unstated'}"
        if self.serve:
            name = f"{self.serve}/{fingerprint(model_folder(self.model))}"
        settings = {"extra": self.extra, "send": self.send, "serve_args": self.serve_args}
        changed = {key: value for key, value in settings.items() if value and value != "messages"}
        return name + (f"/{content_id(changed)}" if changed else "")

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `Engine.complete`. Raises UserError when no server is expected to answer any more."""
        room = self.concurrency * max(len(self.base_urls), self.data_parallel)
        if not (first := take(room)):
            return
        urls = self.base_urls
        if self._local:
            with loading.timed():
                urls = [self._local.start()]
        client = _Client(self, urls, sampling)
        try:
            yield from client.answer_all(room, take, first)
        finally:
            if faults := +client.faults:
                say(f"{self.model}: " + ", ".join(f"{count:,} x {what}" for what, count in faults.most_common()))

    def body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        """The fields of one request."""
        fields: dict[str, Any] = {
            "model": self._served_model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": random_key(request, sampling) >> 97,  # 31 bits, which every server accepts
        }
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        if self.send == "tokens":
            fields["prompt"] = prompt_ids(self._tokenizer, request.prompt)
            fields["stop_token_ids"] = [turn_end(self._tokenizer)]
            fields["skip_special_tokens"] = False
        else:
            # A lone surrogate cannot be encoded as UTF-8
            texts = [m["content"].encode("utf-8", "replace").decode() for m in request.prompt]
            fields["messages"] = [{"role": m["role"], "content": t} for m, t in zip(request.prompt, texts, strict=True)]
        if self.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return {name: value for name, value in (fields | self.extra).items() if value is not None}


@dataclass(eq=False)
class _Address:
    """The address of one server and its recent failures. Times are from `time.monotonic`."""

    url: str
    connection: Connection
    running: int = 0
    answered: int = 0
    limited: int = 0  # replies with status 429
    failures: int = 0  # in a row
    resting_until: float = 0.0
    unusable: bool = False  # its key, path or model is wrong
    last_error: str = ""


class _Client:
    """One call of `ServerEngine.complete`, in one event loop."""

    def __init__(self, engine: ServerEngine, urls: list[str], sampling: Sampling) -> None:
        self.engine, self.sampling = engine, sampling
        self.limit = 2**20 + 2048 * sampling.max_tokens  # bytes of one reply, the framing of a stream included
        self.addresses = [
            _Address(url, Connection(url, engine.headers(), engine.timeout, engine.concurrency))
            for url in dict.fromkeys(urls)
        ]
        self.over: UserError | None = None
        self.last_answer = time.monotonic()
        self.refused_in_a_row = 0
        self.faults = Counter[str]()

    def answer_all(self, room: int, take: Take, first: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion as soon as it is finished, `room` requests at a time.

        `take` is called in the caller's thread; `first` are requests already taken. Once the run has ended, no more are
        taken, but running requests are finished and yielded, since they are paid for. Requests proceed only while the
        caller waits: an event loop in another thread would compete for the interpreter's lock, at half the rate.
        """
        with asyncio.Runner() as runner, ThreadPoolExecutor(1, "limo-engine") as thread:
            run: Callable[[Coroutine[Any, Any, Any]], Any] = runner.run
            if _has_loop():  # in a notebook the caller's thread has a running loop already
                run = lambda work: thread.submit(runner.run, work).result()  # noqa: E731
            running = dict[asyncio.Task[Completion], Request]()

            async def step(asked: Sequence[Request]) -> list[tuple[Request, asyncio.Task[Completion]]]:
                """Start requests, and wait until one is finished."""
                running.update({asyncio.create_task(self.answer(request)): request for request in asked})
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                return [(running.pop(task), task) for task in done]

            async def end() -> None:
                for task in running:  # the caller stopped iterating, or a bug
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                for address in self.addresses:
                    await address.connection.close()

            asked = first
            try:
                while asked or running:
                    for request, task in run(step(asked)):
                        if task.exception() is None or task.exception() is not self.over:
                            yield request, task.result()
                    asked = () if self.over else take(room - len(running))
            finally:
                run(end())
            if self.over:
                raise self.over

    async def answer(self, request: Request) -> Completion:
        """Send one request. Returns its completion or refusal. Raises UserError once the run has ended."""
        engine = self.engine
        if engine.send == "messages":
            spelled = next((found for m in request.prompt if (found := CONTROL.search(m["content"]))), None)
            if spelled:
                return refuse(f"the prompt spells the control token {spelled[0]!r}; a server may obey it (send=tokens)")
            if request.prompt[-1]["role"] == "assistant":
                return refuse("the prompt ends in an unfinished turn of the assistant, which needs engine.send=tokens")
        body = engine.body(request, self.sampling)
        if engine.context is not None and len(body.get("prompt", ())) >= engine.context:
            return refuse(f"the prompt has {len(body['prompt'])} tokens, the model takes {engine.context}")
        tries, lost, avoid = 0, 0, None
        while True:
            try:
                address = await self._choose(avoid)
            except UserError:
                if not lost:
                    raise
                return refuse("the run ended", lost=lost)  # the error is raised after possible costs are counted
            answered, limited = address.answered, address.limited
            address.running += 1
            try:
                async with asyncio.timeout(engine.timeout):
                    reply = await address.connection.ask(body, self.limit)
                return replace(self._accept(address, reply, request), lost=lost)
            except Exception as error:  # noqa: BLE001 - a failed reply ends its request, never the run
                failure, avoid = error, address
                lost += is_lost(error)
            finally:
                address.running -= 1
            decided = self._decide(address, body, failure)
            if decided is None:
                alone = address.limited - limited < 2  # the only request with status 429 at that time
                if alone and (address.answered > answered or await self._is_alive(address)):
                    tries += 1
                else:
                    self._end_if_silent()
                if tries >= engine.tries:
                    decided = self._refuse(address, failure, f", after {tries} tries")
            if decided is not None:
                return replace(decided, lost=lost)

    async def _choose(self, avoid: _Address | None) -> _Address:
        """Choose the address with the fewest open requests among those that have not failed recently, if possible
        another one than `avoid`.
        """
        while not self.over:
            now = time.monotonic()
            usable = [a for a in self.addresses if not a.unusable]
            if ready := [a for a in usable if a.resting_until <= now]:
                return min(ready, key=lambda a: (a is avoid, a.running, random.random()))
            await asyncio.sleep(min(max(0.0, min(a.resting_until for a in usable) - now), 1.0) + 0.001)
        raise self.over

    def _accept(self, address: _Address, reply: Reply, request: Request) -> Completion:
        address.failures, self.refused_in_a_row = 0, 0
        address.answered += 1
        self.last_answer = time.monotonic()
        engine, sampling = self.engine, self.sampling
        said = sum(len(message["content"].encode("utf-8", "replace")) for message in request.prompt)
        asked = reply.prompt_tokens or max(1, said // BYTES_PER_TOKEN)
        if engine.context is not None and asked >= engine.context:
            return refuse(f"the prompt has {asked} tokens, the model takes {engine.context}", 0, asked)
        if reply.refusal is not None:
            return refuse(engine._keys.hide(reply.refusal), reply.completion_tokens or 0, asked)
        text, finish = engine._keys.hide(reply.text), reply.finish
        if engine.send == "tokens":
            text = text.removesuffix(engine._tokenizer.decode([turn_end(engine._tokenizer)]))
        if ends := [text.find(stop) for stop in sampling.stop if stop in text]:
            text, finish = text[: min(ends)], "stop"
        tokens = reply.completion_tokens or estimate_tokens(text, finish, sampling.max_tokens)
        if engine.send == "tokens":
            text = carry_opening(engine._tokenizer, request.prompt, text)
        elif CLOSE in text and OPEN not in text:  # the server's template wrote the opening tag
            text = f"{OPEN}\n{text}"
        self.faults["missing or absurd token counts, estimated"] += reply.completion_tokens is None
        self.faults["more tokens than max_tokens, counted as the server does (hidden reasoning?)"] += (
            tokens > sampling.max_tokens
        )
        return Completion(text, tokens, finish, asked=asked)

    def _decide(self, address: _Address, body: dict[str, Any], failure: Exception) -> Completion | None:
        """Record a failure. Returns a refusal if a retry cannot help, None if the request should be tried again."""
        status: int | None = getattr(failure, "status", None)
        wait: float | None = getattr(failure, "retry_after", None)
        text, now = self._describe(failure), time.monotonic()
        if (room := context_room(failure)) is not None:  # it may fit with a smaller limit, as in a local engine
            if 0 < room < body.get("max_tokens", 0):
                body["max_tokens"] = room
                return None
            return refuse(f"the server replied {text}")
        unusable = status in UNUSABLE or (status in NOT_THERE and not address.answered)
        too_long = wait is not None and wait > self.engine.patience
        final = status is not None and 300 <= status < 500 and not unusable and status not in PASSING
        if final or (too_long and len(self.addresses) == 1):
            return self._refuse(address, failure, "")
        self.faults[str(status or text.partition(":")[0])] += 1
        address.failures += address.resting_until <= now  # simultaneous failures count once
        address.last_error = text
        address.limited += status == 429
        if unusable:
            if not address.unusable and len(self.addresses) > 1:
                say(f"{address.url} is not used any more: {text}")
            address.unusable = True
            self._end_if_silent()
        elif status is not None or not isinstance(failure, ServerError):  # after part of a reply the server is healthy
            backoff = min(LONGEST_PAUSE, self.engine.backoff * 2 ** min(max(address.failures - 1, 0), 10))
            pause = backoff * random.uniform(0.5, 1) if wait is None or too_long else wait
            address.resting_until = max(address.resting_until, now + pause)
        return None

    def _end_if_silent(self) -> None:
        """End the run if no address can be used, or none has responded for `patience` seconds."""
        starting = self.engine._local is not None and self.engine._local.starting
        silent = time.monotonic() - self.last_answer > self.engine.patience and not starting
        if all(a.unusable for a in self.addresses) or silent:
            self._end("; ".join(f"{a.url}: {a.last_error}" for a in self.addresses if a.last_error))

    def _refuse(self, address: _Address, failure: Exception, after: str) -> Completion:
        """Refuse one request. After too many refusals in a row, end the run."""
        text = self._describe(failure)
        self.refused_in_a_row += 1
        if self.refused_in_a_row >= (IN_A_ROW if any(a.answered for a in self.addresses) else NEVER_ANSWERED):
            self._end(f"{self.refused_in_a_row} requests were refused in a row, the last by {address.url}: {text}")
        if self.over:
            raise self.over
        return refuse(f"the server replied {text}{after}")

    def _end(self, why: str) -> None:
        self.over = self.over or UserError(
            f"{why}. Check that the server runs, and base_urls (they usually end in /v1), model and api_key_env. "
            "Finished samples are kept: run the same command again to resume"
        )

    async def _is_alive(self, address: _Address) -> bool:
        """Whether a server responds. Restarts a local server that has died, once."""
        local = self.engine._local
        if local and not local.is_running():
            try:
                await asyncio.to_thread(local.restart)
            except UserError as error:
                self._end(str(error))
            self.last_answer, address.resting_until = time.monotonic(), 0.0
            return False
        if not await address.connection.is_alive():
            return False
        address.failures, self.last_answer = min(address.failures, WELL), time.monotonic()
        return True

    def _describe(self, failure: Exception) -> str:
        asked = getattr(failure, "retry_after", None)
        wait = f"; it asks to wait {clock(asked)}" if asked is not None and asked > self.engine.patience else ""
        return self.engine._keys.hide(describe(failure))[:SHOWN] + wait  # cutting before hiding could leave half a key


def estimate_tokens(text: str, finish: Finish, max_tokens: int) -> int:
    """Estimated tokens of a completion, for servers that do not count them."""
    size = len(text.encode("utf-8", "replace"))
    return max_tokens if finish == "length" else min(max(1, round(size / BYTES_PER_TOKEN)), max_tokens)


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
