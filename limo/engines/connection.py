"""Sends single requests to an OpenAI-compatible server, limits the size of replies, and interprets failures.

A reply is one JSON value or a stream of them, and is read whole, up to a limit in bytes. Compressed bodies are refused,
since 3 MB may unpack to 3 GB. Keys are removed from all messages.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2

from limo.data import dump, parsed
from limo.engines.protocol import Finish
from limo.errors import UserError

SECRET = 8  # characters from which a key is hidden; a shorter one, such as EMPTY, may be an ordinary word of a text
MOST_TOKENS = 2**22  # a server's token count above this is ignored
POOL = 16  # connections of one client, few because its pool checks all of them at every request
TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum (model|input|prompt|sequence) length|max_model_len"
    r"|(prompt|input|request|messages?)\b.{0,60}\btoo (long|large|many)|too many (input )?tokens",
    re.I | re.S,
)
LIMIT = re.compile(r"maximum context length (?:is|of) (\d+)", re.I)
PROMPT = re.compile(r"(\d+) (?:input tokens|in the messages|tokens from the input)", re.I)


class Keys:
    """The key in an environment variable. Raises UserError if the variable is not set, or holds something that is no
    key.
    """

    def __init__(self, variable: str | None) -> None:
        self.key, self._echo = "", re.compile("(?!)")
        if variable is None:
            return
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):  # it may be the key itself, so do not print it
            raise UserError("engine.api_key_env must be the name of an environment variable, not the key")
        self.key = os.environ.get(variable, "").strip()
        if not self.key:
            raise UserError(f"the environment variable {variable} is not set; engine.api_key_env says it holds the key")
        if not re.fullmatch(r"[!-~]+", self.key):
            raise UserError(f"the environment variable {variable} holds no key: keys are ASCII without spaces")
        if len(self.key) >= SECRET:
            self._echo = re.compile(re.escape(self.key), re.I)

    def hide(self, text: str) -> str:
        """A server's text with the key removed, in upper or lower case: some servers echo request headers in errors."""
        return self._echo.sub("***", text)


def check_address(url: str, has_key: bool, allow_insecure: bool) -> None:
    """Raise UserError if `url` is not an address, holds a secret, or would send a key unencrypted to another host."""
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
    here = re.fullmatch(r"localhost|127(\.\d+){3}|::1", host)
    if has_key and parts.scheme == "http" and not here and not allow_insecure:
        raise UserError(
            f"engine.base_urls: the key would go to {host} unencrypted; use https, or set engine.allow_insecure=true"
        )


class ServerError(Exception):
    """A reply without a whole completion: the reason, and for an HTTP error its status and the seconds to wait."""

    def __init__(self, why: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.status, self.retry_after = status, retry_after


@dataclass(slots=True)
class Reply:
    """A complete reply of a server."""

    text: str
    finish: Finish
    refusal: str | None  # why the server or the model made no completion
    prompt_tokens: int | None  # None if the server gives no count, or an absurd one
    completion_tokens: int | None


class Connection:
    """The connections to one address, for up to `concurrency` requests at once."""

    def __init__(self, url: str, headers: dict[str, str], timeout: float, concurrency: int) -> None:
        settings: dict[str, Any] = {
            "headers": {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers},
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            "timeout": httpx2.Timeout(timeout, connect=10.0),
            "verify": httpx2.create_ssl_context(),
        }
        self.url = url.rstrip("/")
        self.clients = [httpx2.AsyncClient(**settings) for _ in range(-(-concurrency // POOL))]
        self.turn = cycle(self.clients)

    async def ask(self, body: dict[str, Any], limit: int) -> Reply:
        """Send one request and read its reply of at most `limit` bytes. Raises ServerError and httpx2's errors."""
        path = "/completions" if "prompt" in body else "/chat/completions"
        async with next(self.turn).stream("POST", self.url + path, content=dump(body)) as response:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise ServerError("the reply is compressed, though that was not accepted")
            data = bytearray()
            async for piece in response.aiter_raw():
                data += piece
                if len(data) > limit:
                    raise ServerError(f"the reply has more than {limit:,} bytes")
        if response.status_code != 200:
            wait = re.fullmatch(r"\d+(\.\d+)?", response.headers.get("retry-after", ""))  # an invalid value is ignored
            raise ServerError(_words_of(bytes(data)), response.status_code, float(wait[0]) if wait else None)
        try:
            return read_reply(bytes(data).split(b"\n") if body.get("stream") else [b"data:" + bytes(data)])
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ServerError(f"the reply is not a completion: {error}") from None

    async def is_alive(self) -> bool:
        """Whether the server answers a request for its list of models, which costs nothing."""
        try:
            response = await next(self.turn).get(f"{self.url}/models", timeout=10)
        except httpx2.HTTPError:
            return False
        return response.status_code == 200

    async def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            await client.aclose()


def read_reply(lines: Iterable[bytes]) -> Reply:
    """A completion from its server-sent events. Raises ServerError if they report an error or end too early.

    A chain of thought from a separate field is put in `<think>` tags before the text.
    """
    text, thought, refused, null = "", "", "", True
    finish, usage = None, dict[str, Any]()
    for line in lines:
        value = line.removeprefix(b"data:").strip()
        if not value or value == b"[DONE]" or not line.startswith(b"data:"):
            continue
        event = parsed(value)
        if error := event.get("error"):  # some gateways send errors with status 200
            raise ServerError(str(error.get("message") if isinstance(error, dict) else error))
        usage = event["usage"] if isinstance(event.get("usage"), dict) else usage
        # One completion was asked for: of several, take the first with index 0
        choice = next((c for c in event.get("choices") or () if not c.get("index")), None)
        if choice is None:
            continue
        message = choice.get("message") or choice.get("delta") or {}
        content = message.get("content") if choice.get("text") is None else choice["text"]
        null = null and content is None
        text += _text_of(content)
        thought += _text_of(message.get("reasoning_content") or message.get("reasoning"))
        refused += _text_of(message.get("refusal"))
        finish = choice.get("finish_reason") or finish
    if not isinstance(finish, str):
        raise ServerError("the reply ended before the completion did")
    if thought and not text and finish == "length":
        text = f"<think>\n{thought}"
    elif thought:
        text = f"<think>\n{thought.strip()}\n</think>\n\n{text.lstrip()}"
    why = f"the model refused: {refused}" if refused and not text else None
    counted = map(usage.get, ("prompt_tokens", "completion_tokens"))
    counts = [n if type(n) is int and 0 < n <= MOST_TOKENS else None for n in counted]  # None if missing or absurd
    if null and not thought and counts[1] != 1:  # vLLM's parser of thoughts has null for the end mark alone
        why = why or f"the server sent no text (content: null), and ended with '{finish}'"
    if finish not in ("stop", "length"):
        why = why or f"the server ended the completion with '{finish}'"
    return Reply(text, "stop" if finish == "stop" else "length", why, *counts)


def _text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of strings and of parts with a text."""
    if isinstance(content, list):
        return "".join(_text_of(part.get("text") if isinstance(part, dict) else part) for part in content)
    # A lone surrogate cannot be encoded as UTF-8
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""


def context_room(failure: Exception) -> int | None:
    """If a request failed because it exceeds the context: the number of tokens left for a completion, perhaps 0.
    Otherwise None.
    """
    text = str(failure)
    if getattr(failure, "status", None) not in (400, 413, 422) or not TOO_LONG.search(text):
        return None
    limit, prompt = LIMIT.search(text), PROMPT.search(text)
    return max(0, int(limit[1]) - int(prompt[1])) if limit and prompt else 0


def is_lost(failure: Exception) -> bool:
    """Whether the server may have generated and charged a completion that did not arrive."""
    refused = getattr(failure, "status", None) is not None
    return not refused and not isinstance(failure, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.WriteError)


def describe(failure: Exception) -> str:
    """Describe a failure in one line: its status or kind, and the server's message, which may contain the key."""
    if isinstance(failure, TimeoutError | httpx2.TimeoutException):
        return "no answer in time"
    kind = getattr(failure, "status", None) or type(failure).__name__
    return f"{kind}: {' '.join(str(failure).split())}"


def _words_of(data: bytes) -> str:
    try:
        said = parsed(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return said if isinstance(said, str) else json.dumps(said)
