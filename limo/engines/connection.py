"""One request to an OpenAI-compatible server, with limits: its key, its reply, and what its failures mean.

The `openai` SDK speaks the protocol. This module adds what it lacks: a limit of bytes per reply, no compressed bodies
(3 GB may unpack from 3 MB), keys that never appear in texts, and replies in the shapes that servers really send.
"""

import base64
import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import cycle
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from limo.engines.protocol import Completion, Finish
from limo.errors import UserError

BYTES_PER_TOKEN = 4  # of an estimate, where a server does not count
POOL = 16  # connections of one pool
LONGEST_TOKEN = 128  # bytes; a count below one token for so many bytes is absurd
CONTROL = re.compile(r"<[|｜][^\s<>|｜]{1,40}[|｜]>|</?s>|<(start|end)_of_turn>|\[/?INST\]")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum (model|input|prompt|sequence) length|max_model_len"
    r"|(prompt|input|request|messages?)\b.{0,60}\btoo (long|large|many)|too many (input )?tokens",
    re.I | re.S,
)
LIMIT = re.compile(r"maximum context length (?:is|of) (\d+)", re.I)
PROMPT = re.compile(r"(\d+) (?:input tokens|in the messages|tokens from the input)", re.I)


class Keys:
    """The key in an environment variable. Raises UserError if the variable is not set or holds no key."""

    def __init__(self, variable: str | None) -> None:
        self.key, self._spelled = "", set[str]()
        if variable is None:
            return
        if not VARIABLE.fullmatch(variable):  # it may be the key itself: do not repeat it
            raise UserError("engine.api_key_env must be the name of an environment variable, not the key")
        self.key = os.environ.get(variable, "").strip()
        if not self.key:
            raise UserError(f"the environment variable {variable} is not set; engine.api_key_env says it holds the key")
        if not re.fullmatch(r"[!-~]+", self.key):
            raise UserError(f"the environment variable {variable} holds no key: keys are ASCII without spaces")
        self._spelled = {self.key, json.dumps(self.key)[1:-1], *_base64_forms(self.key)}

    def hide(self, text: str) -> str:
        """A server's text without the key: some echo the headers of a request in their errors."""
        for spelled in self._spelled:
            text = text.replace(spelled, "***")
        return text


def _base64_forms(key: str) -> list[str]:
    """The middle of the key's base64 at each of three alignments, as it stands in the base64 of a longer text."""
    forms = [base64.b64encode(b"\0" * shift + key.encode()).decode() for shift in range(3)]
    middles = [form[0 if shift == 0 else 4 : -4] for shift, form in enumerate(forms)]
    return [form for middle in middles if len(middle) >= 8 for form in (middle, middle.translate({43: "-", 47: "_"}))]


def check_address(url: str, has_key: bool, allow_insecure: bool) -> None:
    """Raise UserError for a base URL that is none, holds a secret, or would send a key unencrypted to another host."""
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:  # no such port, half an IPv6 address
        host = None
    if not host:
        raise UserError("engine.base_urls must be addresses such as http://localhost:8000/v1")
    names = " ".join(name.lower() for name, _ in parse_qsl(parts.query))
    if parts.username or parts.password or any(word in names for word in ("key", "token", "sig")):
        raise UserError(f"engine.base_urls: the address of {host} holds a secret; name its variable with api_key_env")
    if has_key and parts.scheme == "http" and not _is_this_machine(host) and not allow_insecure:
        raise UserError(
            f"engine.base_urls: the key would go to {host} unencrypted; use https, or set engine.allow_insecure=true"
        )


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def open_client(url: str, key: str, timeout: float, limit: int, concurrency: int) -> Any:
    """An `openai.AsyncOpenAI` for one address whose replies have `limit` bytes at most.

    Raises UserError if the SDK is not installed.
    """
    try:
        import httpx2
        import openai
    except ImportError:
        raise UserError("an OpenAI-compatible server needs the SDK: pip install 'limo-toolkit[openai]'") from None

    class Limited(httpx2.AsyncByteStream):
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __aiter__(self) -> AsyncIterator[bytes]:
            total = 0
            async for piece in self.inner:
                total += len(piece)
                if total > limit:
                    raise OversizedReplyError(f"the reply has more than {limit:,} bytes")
                yield piece

        async def aclose(self) -> None:
            await self.inner.aclose()

    class Transport(httpx2.AsyncBaseTransport):
        """Small pools in turn: a pool looks at all of its connections at every request."""

        def __init__(self) -> None:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
            secure = httpx2.create_ssl_context()
            count = -(-concurrency // POOL)
            self.pools = [httpx2.AsyncHTTPTransport(verify=secure, limits=limits) for _ in range(count)]
            self.turn = cycle(self.pools)

        async def handle_async_request(self, request: Any) -> Any:
            request.headers["Accept-Encoding"] = "identity"
            response = await next(self.turn).handle_async_request(request)
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                await response.aclose()
                raise OversizedReplyError("the reply is compressed, though that was not accepted")
            response.stream = Limited(response.stream)
            return response

        async def aclose(self) -> None:
            for pool in self.pools:
                await pool.aclose()

    client = httpx2.AsyncClient(transport=Transport(), timeout=httpx2.Timeout(timeout, connect=10.0))
    return openai.AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=0, http_client=client)


class OversizedReplyError(Exception):
    """A reply over the limit of bytes, or compressed."""


class IncompleteReplyError(Exception):
    """A reply without a completion, or without its end."""


@dataclass(slots=True)
class Reply:
    """A whole reply."""

    text: str
    finish: Finish
    refusal: str | None = None  # why the server or the model made no completion
    model: str = ""  # that the server says has answered
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


async def read_reply(client: Any, body: dict[str, Any], stream: bool) -> Reply:
    """Send one request and read its reply. Raises the SDK's errors and IncompleteReplyError."""
    fields = {k: v for k, v in body.items() if k in ("model", "messages", "prompt")}
    extra = {k: v for k, v in body.items() if k not in fields}
    create = client.completions.create if "prompt" in body else client.chat.completions.create
    answer = await create(**fields, stream=stream, extra_body=extra)
    joined = _Joined()
    if stream:
        async for event in answer:
            joined.add(event)
    else:
        joined.add(answer)
    return joined.reply()


class _Joined:
    """The pieces of a reply put together; a reply that is not streamed is one piece."""

    def __init__(self) -> None:
        self.text, self.thought, self.refusal = list[str](), list[str](), list[str]()
        self.finish: Any = None
        self.model, self.usage = "", None

    def add(self, event: Any) -> None:
        """Take in one event. Raises IncompleteReplyError if it is an error or no completion."""
        if error := getattr(event, "error", None):  # under status 200, by some gateways
            raise IncompleteReplyError(str(error.get("message") if isinstance(error, dict) else error)[:300])
        self.usage = getattr(event, "usage", None) or self.usage
        self.model = str(getattr(event, "model", "") or self.model)[:200]
        choices = getattr(event, "choices", None)
        # One was asked for: of several, the first that says it is number 0
        choice = next((c for c in choices or () if (getattr(c, "index", 0) or 0) == 0), None)
        if choice is None:
            return
        message = getattr(choice, "message", None) or getattr(choice, "delta", None)
        self.text.append(_text_of(getattr(choice, "text", None) or getattr(message, "content", None)))
        for name in ("reasoning_content", "reasoning"):  # two names of one field
            if thought := _text_of(getattr(message, name, None)):
                self.thought.append(thought)
                break
        self.refusal.append(_text_of(getattr(message, "refusal", None)))
        self.finish = getattr(choice, "finish_reason", None) or self.finish

    def reply(self) -> Reply:
        """The whole reply. A chain of thought from a field of its own stands in `<think>` tags before the text."""
        if not isinstance(self.finish, str):
            raise IncompleteReplyError("the reply ended before the completion did")
        text, thought, refused = "".join(self.text), "".join(self.thought), "".join(self.refusal)
        if thought and not text and self.finish == "length":
            text = f"<think>\n{thought}"
        elif thought:
            text = f"<think>\n{thought.strip()}\n</think>\n\n{text.lstrip()}"
        why = f"the model refused: {refused}" if refused and not text else None
        if self.finish not in ("stop", "length"):
            why = why or f"the server ended the completion with '{self.finish}'"
        counts = [_count(self.usage, name) for name in ("prompt_tokens", "completion_tokens")]
        return Reply(text, "stop" if self.finish == "stop" else "length", why, self.model, *counts)


def _text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of strings and of parts with a text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text_of(part.get("text") if isinstance(part, dict) else part) for part in content)
    return _text_of(content.text) if hasattr(content, "text") else ""


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else getattr(usage, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def refuse(why: str) -> Completion:
    """A completion that was not sampled, with the reason."""
    return Completion("", 0, "refused", why)


def count_tokens(text: str, counted: int | None, finish: Finish, max_tokens: int) -> int:
    """The server's count of tokens, or an estimate where it is missing or absurd."""
    size = len(text.encode("utf-8", "replace"))
    if counted is not None and max(1, size / LONGEST_TOKEN) <= counted <= max_tokens:
        return counted
    return max_tokens if finish == "length" else min(max(1, round(size / BYTES_PER_TOKEN)), max_tokens)


def status_of(failure: Exception) -> int | None:
    """The HTTP status of a failure, or None where there was no whole response."""
    status = getattr(failure, "status_code", None)
    return status if isinstance(status, int) else None


def context_room(failure: Exception) -> int | None:
    """For a prompt over the context: tokens left for a completion, 0 if none; None for any other failure."""
    text = str(getattr(failure, "message", failure)) + str(getattr(failure, "body", ""))
    if status_of(failure) not in (400, 413, 422) or not TOO_LONG.search(text):
        return None
    limit, prompt = LIMIT.search(text), PROMPT.search(text)
    return max(0, int(limit[1]) - int(prompt[1])) if limit and prompt else 0


def describe(failure: Exception) -> str:
    """A failure in one line: its status or kind, and the server's own words."""
    said: Any = getattr(failure, "body", None)
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    if isinstance(failure, TimeoutError) or type(failure).__name__ == "APITimeoutError":
        said = "no answer in time"
    elif not isinstance(said, str):
        said = json.dumps(said)[:300] if said else str(failure)
    kind = status_of(failure) or type(failure).__name__.removesuffix("Error").removeprefix("API")
    return f"{kind}: {' '.join(said.split())[:300]}"
