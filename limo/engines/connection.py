"""One request to an OpenAI-compatible server, with limits: its key, its reply, and what its failures mean.

A reply is read whole, one JSON value or a stream of them, with one limit of bytes. Compressed bodies are refused, since
3 GB may unpack from 3 MB. Keys never appear in texts.
"""

import base64
import html
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import cycle
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx2

from limo.data import dump, parsed
from limo.engines.protocol import Completion, Finish
from limo.errors import UserError

SECRET = 8  # characters of a key that is one; a shorter one, such as EMPTY, is a word that a text may hold
SPACE = b" \t\r\n\\"
NO_DIGITS = bytes(sorted(set(range(256)) - set(b"0123456789abcdef")))
ESCAPED = re.compile(r"\\{1,4}(?:u00|x)([0-9a-fA-F]{2})")
LINE_END = r"(?:\s|\\{1,4}[rn]){0,4}"
POOL = 16  # connections of one client: its pool looks at all of them at every request
BYTES_PER_TOKEN = 4  # of an estimate, where a server does not count
CONTROL = re.compile(r"<[|｜][^\s<>|｜]{1,40}[|｜]>|</?s>|<(start|end)_of_turn>|\[/?INST\]")
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
        self.key, self._spelled, self._hex = "", re.compile("(?!)"), b""
        self._folded = list[bytes]()
        if variable is None:
            return
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):  # it may be the key itself: do not repeat it
            raise UserError("engine.api_key_env must be the name of an environment variable, not the key")
        self.key = os.environ.get(variable, "").strip()
        if not self.key:
            raise UserError(f"the environment variable {variable} is not set; engine.api_key_env says it holds the key")
        if not re.fullmatch(r"[!-~]+", self.key):
            raise UserError(f"the environment variable {variable} holds no key: keys are ASCII without spaces")
        if len(self.key) >= SECRET:
            middles = _base64_middles(self.key)
            self._folded = [form.encode().translate(None, SPACE) for form in (self.key, *middles)]
            self._hex = self.key.encode().hex().encode()
            spelled = [_spelled(form, LINE_END) + r"[\w+/=-]{0,4}" for form in middles]
            hexadecimal = "[ :,-]?".join(rf"(?:\\x)?(?i:{ord(c):02x})" for c in self.key)
            self._spelled = re.compile("|".join((_spelled(self.key), hexadecimal, *spelled)))

    def hide(self, text: str) -> str:
        """A server's text without the key: some echo the headers of a request in their errors.

        It is found as it is and in JSON, URL, HTML, hexadecimal and base64 encoding. A server that wants to can write
        it otherwise.
        """
        return self._spelled.sub("***", text) if self._may_hold_key(text) else text

    def _may_hold_key(self, text: str) -> bool:
        """Whether the text without escapes and white space holds a form of the key: quick, unlike the expression."""
        plain = unquote(unquote(html.unescape(ESCAPED.sub(r"%\1", text))))
        data = plain.encode("utf-8", "replace")
        folded = data.replace(b"\\n", b"").replace(b"\\r", b"").translate(None, SPACE)
        digits = text.encode("utf-8", "replace").lower().translate(None, NO_DIGITS)
        return any(form in folded for form in self._folded) or bool(self._hex and self._hex in digits)


def _spelled(text: str, between: str = "") -> str:
    """An expression for a text of which any character may be escaped as in JSON, URLs, or HTML."""
    return between.join(
        rf"(?:%(?:25){{0,2}}(?i:{ord(c):02x})|\\{{1,4}}(?:u00|x)(?i:{ord(c):02x})|&\#0{{0,4}}{ord(c)};?"
        rf"|&\#[xX]0{{0,4}}(?i:{ord(c):02x});?|{re.escape(html.escape(c))}|\\{{0,4}}{re.escape(c)})"
        for c in text
    )


def _base64_middles(key: str) -> list[str]:
    """The middle of the key's base64 at each of three alignments, as it stands in the base64 of a longer text."""
    forms = [base64.b64encode(b"\0" * shift + key.encode()).decode() for shift in range(3)]
    middles = [form[0 if shift == 0 else 4 : -4] for shift, form in enumerate(forms)]
    return list(dict.fromkeys(form for middle in middles for form in (middle, middle.translate({43: "-", 47: "_"}))))


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


class ServerError(Exception):
    """A reply without a whole completion: the reason, and of an HTTP error its status and the wait it asks for."""

    def __init__(self, why: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.status, self.retry_after = status, retry_after


@dataclass(slots=True)
class Reply:
    """A whole reply."""

    text: str
    finish: Finish
    refusal: str | None  # why the server or the model made no completion
    model: str  # that the server says has answered
    prompt_tokens: int | None
    completion_tokens: int | None


class Connection:
    """The connections to one address, for up to `concurrency` requests at once."""

    def __init__(self, url: str, key: str, timeout: float, concurrency: int) -> None:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        times, secure = httpx2.Timeout(timeout, connect=10.0), httpx2.create_ssl_context()
        self.url = url.rstrip("/")
        self.clients = [
            httpx2.AsyncClient(headers=headers, limits=limits, timeout=times, verify=secure)
            for _ in range(-(-concurrency // POOL))
        ]
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
            wait = response.headers.get("retry-after", "")
            raise ServerError(_words_of(bytes(data)), response.status_code, _seconds(wait))
        try:
            return read_reply(_events(bytes(data)) if body.get("stream") else [parsed(bytes(data))])
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ServerError(f"the reply is no completion: {error}") from None

    async def is_alive(self) -> bool:
        """Whether the server lists its models, which costs nothing."""
        try:
            response = await next(self.turn).get(f"{self.url}/models", timeout=10)
        except httpx2.HTTPError:
            return False
        return response.status_code == 200

    async def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            await client.aclose()


def _events(data: bytes) -> Iterator[Any]:
    """The values of a stream of server-sent events."""
    for line in data.split(b"\n"):
        value = line.removeprefix(b"data:").strip()
        if value and value != b"[DONE]" and line.startswith(b"data:"):
            yield parsed(value)


def read_reply(events: Iterable[Any]) -> Reply:
    """The pieces of a completion put together. Raises ServerError if they are an error, or not a whole completion.

    A chain of thought from a separate field stands in `<think>` tags before the text.
    """
    text = thought = refused = model = ""
    finish, usage = None, dict[str, Any]()
    for event in events:
        if error := event.get("error"):  # under status 200, by some gateways
            raise ServerError(str(error.get("message") if isinstance(error, dict) else error))
        usage, model = event.get("usage") or usage, str(event.get("model") or model)
        # One was asked for: of several, the first that says it is number 0
        choice = next((c for c in event.get("choices") or () if not c.get("index")), None)
        if choice is None:
            continue
        message = choice.get("message") or choice.get("delta") or {}
        text += _text_of(choice.get("text") or message.get("content"))
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
    if finish not in ("stop", "length"):
        why = why or f"the server ended the completion with '{finish}'"
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return Reply(
        text, "stop" if finish == "stop" else "length", why, model, *(c if type(c) is int else None for c in counts)
    )


def _text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of strings and of parts with a text."""
    if isinstance(content, list):
        return "".join(_text_of(part.get("text") if isinstance(part, dict) else part) for part in content)
    # Half of a surrogate pair has no UTF-8
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""


def count_tokens(text: str, counted: int | None, finish: Finish, max_tokens: int) -> int:
    """The server's count of tokens, or an estimate where it is missing or absurd."""
    if counted is not None and 1 <= counted <= max_tokens:
        return counted
    size = len(text.encode("utf-8", "replace"))
    return max_tokens if finish == "length" else min(max(1, round(size / BYTES_PER_TOKEN)), max_tokens)


def refuse(why: str) -> Completion:
    """A completion that was not sampled, with the reason."""
    return Completion("", 0, "refused", why)


def context_room(failure: Exception) -> int | None:
    """For a prompt over the context: tokens left for a completion, 0 if none; None for any other failure."""
    text = str(failure)
    if getattr(failure, "status", None) not in (400, 413, 422) or not TOO_LONG.search(text):
        return None
    limit, prompt = LIMIT.search(text), PROMPT.search(text)
    return max(0, int(limit[1]) - int(prompt[1])) if limit and prompt else 0


def describe(failure: Exception) -> str:
    """A failure in one line: its status or kind, and the server's own words, which may hold the key."""
    if isinstance(failure, TimeoutError | httpx2.TimeoutException):
        return "no answer in time"
    kind = getattr(failure, "status", None) or type(failure).__name__
    return f"{kind}: {' '.join(str(failure).split())}"


def _words_of(data: bytes) -> str:
    """What an error's body says."""
    try:
        said = parsed(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")
    for key in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return said if isinstance(said, str) else json.dumps(said)


def _seconds(header: str) -> float | None:
    """The wait that a Retry-After header asks for; None if it gives none, or nonsense."""
    try:
        wait = float(header)
    except ValueError:
        return None
    return wait if math.isfinite(wait) and wait >= 0 else None
