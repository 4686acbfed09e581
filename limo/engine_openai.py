"""The engine that asks servers with OpenAI's chat completions: vLLM, SGLang, llama.cpp, a provider, or several of one.

    engine:
      _target_: limo.engine_openai.OpenAIEngine
      model: Qwen/Qwen3-32B
      base_urls: [http://node1:8000/v1, http://node2:8000/v1]
      api_key_env: OPENAI_API_KEY   # the name of the variable, never the key

Each sample is a request of its own with a seed of its own, so sample i of a prompt is the same again wherever the
server honours `seed`. A failed request is tried again, elsewhere if there is an elsewhere; one that fails for good is
refused with its reason; servers that are all down end the run (`limo/servers.py`). docs/engines.md has every setting.

What only a local engine can promise: a server renders its own chat template, so text such as `<|im_end|>` in a problem
may become a control token there. Such prompts are refused, unless `control_text: send` takes the risk.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from limo.background import Loop, driven
from limo.connections import Clients
from limo.data import content_id
from limo.engine import Completion, Request, Sampling, Take, random_key
from limo.errors import UserError
from limo.progress import say
from limo.replies import BYTES_PER_TOKEN, Failure, Reply, completion, prompt_tokens
from limo.servers import Limits, Server, Servers, address, keys

NEVER, IN_A_ROW = 20, 200  # refusals before the first answer, or after: it is the settings, not the prompts
CONTROL = re.compile(r"<[|｜][^\s<>|｜]{1,40}[|｜]>|</?s>|<(start|end)_of_turn>|\[/?INST\]")


class OpenAIEngine:
    """Chat servers behind the `Engine` protocol.

    Args: `model` as the servers name it; `base_urls` up to where `/chat/completions` follows; `api_key_env` the
    environment variable that holds the key (a list: one for each URL); `revision` what you know of the weights, since
    a server's name for a model says nothing of them; `concurrency` requests under way at each URL;
    `requests_per_minute` and `tokens_per_minute` of each key; `context` tokens of the model, for a server that does not
    refuse longer prompts itself; `stream` takes completions in pieces; `timeout` seconds of silence (without `stream`,
    of a whole completion); `tries` of a request; `patience` seconds for which all servers may fail; `backoff` seconds
    after the first failure, doubled each time; `control_text` whether prompts that spell control tokens are refused;
    `continues` whether the server goes on with an assistant's turn that has begun when asked by vLLM's and SGLang's
    `continue_final_message`: where it does not, such a prompt is refused, since most servers would end the turn and
    begin another;
    `rename` request fields to other names, or to null to leave one out; `extra` fields of every request.

    Raises UserError for settings that cannot be, and if a key is not set.
    """

    def __init__(
        self,
        *,
        model: str,
        base_urls: list[str],
        api_key_env: str | list[str] | None = None,
        revision: str = "",
        concurrency: int = 32,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        context: int | None = None,
        stream: bool = True,
        timeout: float = 300.0,
        tries: int = 6,
        patience: float = 300.0,
        backoff: float = 1.0,
        control_text: Literal["refuse", "send"] = "refuse",
        continues: bool = False,
        rename: dict[str, str | None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        positive: dict[str, float | None] = {
            "concurrency": concurrency,
            "timeout": timeout,
            "tries": tries,
            "patience": patience,
        }
        positive |= {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        for name, value in positive.items():
            if value is not None and value <= 0:
                raise UserError(f"engine.{name} must be above 0, not {value}")
        self.urls = [address(url) for url in base_urls]
        if not self.urls:
            raise UserError("engine.base_urls names no server, such as [http://localhost:8000/v1]")
        self._keys = keys(api_key_env, self.urls)
        self._spelled = {form for _, key in self._keys if key for form in (key, json.dumps(key)[1:-1])}
        self.model, self.revision, self.concurrency = model, revision, concurrency
        self.per_minute = requests_per_minute, tokens_per_minute
        self.context, self.stream, self.timeout, self.tries = context, stream, timeout, tries
        self.patience, self.backoff, self.control_text, self.continues = patience, backoff, control_text, continues
        self.rename, self.extra = rename or {}, extra or {}

    @property
    def fingerprint(self) -> str:
        """The model as served and what was stated of it. Not the address: any server of the same model will do."""
        more = {"extra": self.extra, "without": sorted(k for k, v in self.rename.items() if v is None)}
        settings = f"/{content_id(more)}" if any(more.values()) else ""
        return f"openai/{self.model}@{self.revision or 'unstated'}{settings}"

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `Engine.complete`. Raises UserError once no server can be expected to answer any more."""
        room = self.concurrency * len(self.urls)
        if not (first := take(room)):
            return
        asking = _Asking(self, sampling)
        with Loop() as loop:
            try:
                yield from driven(loop, asking.answer, room, take, first)
            finally:
                loop.cancel()
                loop.run(asking.clients.close())
                asking.report()

    def servers(self) -> Servers:
        """The servers as they are before the first request."""
        limits = {variable: Limits(*self.per_minute) for variable, _ in self._keys}
        return Servers(
            [
                Server(url, self.concurrency, limits[variable], {"Authorization": f"Bearer {key}"} if key else {})
                for url, (variable, key) in zip(self.urls, self._keys, strict=True)
            ],
            self.patience,
            self.backoff,
        )

    def hidden(self, text: str) -> str:
        """A server's text without the keys: some echo the request's headers in their errors."""
        for spelled in self._spelled:
            text = text.replace(spelled, "***")
        return text

    def body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        """The request as it is sent."""
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m["role"], "content": m["content"]} for m in request.prompt],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": random_key(request, sampling) >> 97,  # 31 bits: what every server takes
        }
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        if _begun(request):
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        if self.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return {name: value for old, value in fields.items() if (name := self.rename.get(old, old))} | self.extra


def _begun(request: Request) -> bool:
    return request.prompt[-1]["role"] == "assistant"


class _Asking:
    """One run of `complete`; it lives in the loop's thread."""

    def __init__(self, engine: OpenAIEngine, sampling: Sampling) -> None:
        self.engine, self.sampling, self.servers = engine, sampling, engine.servers()
        self.clients = Clients(engine.timeout)
        self.failures, self.retries = Counter[str](), 0
        self.lost = self.estimated = self.refused = 0

    async def answer(self, request: Request) -> Completion:
        """The completion of one request, or its refusal, after as many tries as it takes."""
        spelled = next((found for m in request.prompt if (found := CONTROL.search(m["content"]))), None)
        if spelled and self.engine.control_text == "refuse":
            why = f"the prompt spells the control token {spelled[0]!r}, which a server may take for one"
            return Completion("", 0, "refused", why)
        if _begun(request) and not self.engine.continues:
            why = "the prompt ends in a turn that has begun; set engine.continues where the server goes on with one"
            return Completion("", 0, "refused", why)
        body, tries, server = self.engine.body(request, self.sampling), 0, None
        while True:
            server = await self.servers.place(avoid=server)
            try:
                reply: Reply | Failure = await self._reply(server, body)
            except Failure as failure:
                reply = failure
                tries += await self._counts(server, failure, body)
            finally:
                self.servers.leave(server)
            if isinstance(reply, Reply):
                self.servers.answer(server)
                self.refused = 0
                return self._judged(reply)
            if reply.fate in ("refused", "too long") or tries >= self.engine.tries:
                return self._refusal(server, reply, tries)
            self.retries += 1
            if reply.fate == "again":
                self.servers.pay()
                await self.servers.pause(self.servers.jitter(tries))

    async def _reply(self, server: Server, body: Mapping[str, Any]) -> Reply:
        """What the server replies, within the limits of its key."""
        asked = sum(len(m["content"]) for m in body["messages"]) // BYTES_PER_TOKEN
        entry = await server.limits.wait(asked + self.sampling.max_tokens, self.servers.pause)
        try:
            reply = await self.clients.post(server, body, self.engine.stream, self.engine.hidden, self.servers.lives)
        except asyncio.CancelledError:  # the run ends while the server is at work
            self.lost += 1
            raise
        used = completion(reply, self.sampling)[0].tokens
        server.limits.settle(entry, (prompt_tokens(reply) or asked) + used)
        return reply

    def _judged(self, reply: Reply) -> Completion:
        asked = prompt_tokens(reply)
        if self.engine.context is not None and asked is not None and asked >= self.engine.context:
            why = f"the prompt has {asked} tokens, the model takes {self.engine.context}"
            return Completion("", 0, "refused", why)
        made, estimated = completion(reply, self.sampling)
        self.estimated += estimated
        text, why = self.engine.hidden(made.text), self.engine.hidden(made.why)
        return Completion(text, made.tokens, made.finish, why)

    async def _counts(self, server: Server, failure: Failure, body: dict[str, Any]) -> int:
        """Let the server's record have the failure. Returns 1 if it is held against the request, else 0."""
        if failure.fate not in ("refused", "too long"):
            self.failures[failure.kind] += 1
        self.lost += failure.lost
        match failure.fate:
            case "refused" | "too long" | "shorter":
                self.servers.lives(server)
                name = self.engine.rename.get("max_tokens", "max_tokens")
                if failure.fate == "shorter" and name and failure.room < body[name]:
                    body[name] = failure.room  # as a local engine does: as long as the context allows
                elif failure.fate == "shorter":
                    failure.fate = "too long"
            case "busy":
                self.servers.hold(server, failure)
            case "unusable":
                self.servers.put_out(server, failure)
            case _:
                self.servers.fail(server, failure)
        # A request that never arrived has done nothing wrong; nor has one whose server answers nobody
        return int(failure.fate == "again" and (self.servers.answered > 0 or await self.clients.alive(server)))

    def _refusal(self, server: Server, failure: Failure, tries: int) -> Completion:
        """What is said of a request that is given up. Ends the run where it is plain that no other will fare better."""
        self.refused += failure.fate != "too long"
        if self.refused >= (IN_A_ROW if self.servers.answered else NEVER):
            raise self.servers.end(
                f"{self.refused} requests were refused in a row, the last by {server.url}: {failure}"
            )
        after = f", after {tries} tries" if tries else ""
        return Completion("", 0, "refused", self.engine.hidden(f"the server said {failure}{after}"))

    def report(self) -> None:
        """One line on what went wrong on the way, if anything did."""
        parts = []
        if self.retries:
            kinds = ", ".join(f"{count} x {kind}" for kind, count in self.failures.most_common())
            parts.append(f"{self.retries:,} retries: {kinds}")
        if self.lost:
            parts.append(f"{self.lost:,} answers were lost on the way, for which a provider may charge")
        if self.estimated:
            parts.append(f"the token counts of {self.estimated:,} completions were missing or absurd and are estimates")
        if parts:
            say(f"{self.engine.model}: {'; '.join(parts)}")
