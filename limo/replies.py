"""What a chat server said, as a completion or as a reason why there is none.

Nothing here does input or output. Servers differ: usage counts are missing or absurd, a chain of thought comes in a
field of its own, a stream ends in the middle, a prompt that is too long is an error in one of several wordings. All
that is settled here, and what cannot be settled is a `Failure` that says what may be done about it.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from limo.engine import Completion, Finish, Sampling

BYTES_PER_TOKEN = 4  # of an estimate, where a server does not count
LONGEST_TOKEN = 128  # bytes; a count below a token for so many is absurd
SAID = 300  # characters of a server's own words that are kept

# again: the same request may succeed; busy: the server asked to wait; unreachable: it never got the request; unusable:
# the key, the path or the model is wrong; refused: this request is; shorter: it fits with a smaller limit
Fate = Literal["again", "busy", "unreachable", "unusable", "refused", "too long", "shorter"]

_TOO_LONG = re.compile(
    r"context[ _](length|window|size)|maximum (model|input|prompt|sequence) length|max_model_len"
    r"|(prompt|input|request|messages?)\b.{0,60}\btoo (long|large|many)|too many (input )?tokens",
    re.I | re.S,
)
_LIMIT = re.compile(r"maximum context length (?:is|of) (\d+)", re.I)
_PROMPT = re.compile(r"(\d+) (?:input tokens|in the messages|tokens from the input)", re.I)


class Failure(Exception):
    """A request that brought no completion."""

    def __init__(self, fate: Fate, kind: str, said: str = "", *, lost: bool = False, wait: float | None = None) -> None:
        super().__init__()
        self.fate, self.kind, self.said = fate, kind, said  # kind is a word or a status, by which failures are counted
        self.lost = lost  # the server may have made a completion, and charge for it, that did not arrive
        self.wait = wait  # seconds that the server asks for
        self.room = 0  # of "shorter": tokens that a completion may have

    def __str__(self) -> str:
        return f"{self.kind}: {self.said}" if self.said else self.kind


@dataclass(slots=True)
class Reply:
    """A whole answer, read but not yet judged."""

    text: str = ""
    thought: str = ""  # a chain of thought that came in a field of its own
    finish: str | None = None
    usage: Any = None


class Stream:
    """Puts together the reply of a stream of server-sent events. `hidden` is applied to each line before it is read."""

    def __init__(self, hidden: Callable[[str], str] = str) -> None:
        self.reply, self.hidden = Reply(), hidden
        self._rest, self._events, self._other = b"", 0, list[str]()
        self._text, self._thought = list[str](), list[str]()

    def feed(self, piece: bytes) -> bool:
        """Take in some bytes. Returns whether they brought text or an end. Raises Failure for an error in them."""
        *lines, self._rest = (self._rest + piece).split(b"\n")  # only there: texts may hold other ends of lines
        return sum(self._line(line) for line in lines) > 0

    def _line(self, line: bytes) -> bool:
        text = self.hidden(line.decode("utf-8", "replace"))
        if not text.startswith("data:"):
            self._other.append(text)
            return False
        self._events += 1
        if (data := text[5:].strip()) == "[DONE]":
            return False
        event = _parsed(data)
        self.reply.usage = event.get("usage") or self.reply.usage
        choice = _first(event.get("choices"))
        if choice is None:
            return False
        said, thought = _texts(choice.get("delta"))
        self._text.append(said)
        self._thought.append(thought)
        self.reply.finish = choice.get("finish_reason") or self.reply.finish
        return bool(said or thought or self.reply.finish)

    def ended(self) -> Reply:
        """The reply, once the stream has ended. Raises Failure if it ended before the completion did."""
        self._line(self._rest)
        if not self._events and (whole := "\n".join(self._other).strip()):
            return read_body(whole)  # some servers do not stream, whatever they are asked
        if self.reply.finish is None:
            raise Failure("again", "cut off", "the stream ended before the completion", lost=True)
        self.reply.text, self.reply.thought = "".join(self._text), "".join(self._thought)
        return self.reply


def read_body(body: str) -> Reply:
    """The reply in a whole body. Raises Failure for an error, nonsense, or a body without a completion."""
    answer = _parsed(body)
    choice = _first(answer.get("choices"))
    if choice is None:
        raise Failure("again", "no choices", "the server answered without a completion", lost=True)
    text, thought = _texts(choice.get("message"))
    finish = choice.get("finish_reason")
    if not isinstance(finish, str):
        raise Failure("again", "no end", "the completion has no finish_reason", lost=True)
    return Reply(text, thought, finish, answer.get("usage"))


def refusal(status: int, text: str, headers: Mapping[str, str]) -> Failure:
    """What an HTTP status other than 200 means for the request and the server."""
    said, kind = _said(text), str(status)
    wait = retry_after(headers.get("retry-after"))
    if status in (400, 413, 422) and _TOO_LONG.search(text):
        return _too_long(said, text)
    if status == 429 or (status == 503 and wait is not None):
        return Failure("busy", kind, said, wait=wait)
    if status in (401, 402, 404, 405) or status < 400:  # key, account, path or model; a redirect is a wrong path
        return Failure("unusable", kind, said)
    if status in (408, 409, 425) or status >= 500:
        return Failure("again", kind, said, wait=wait)
    return Failure("refused", kind, said)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which has a number or a date; None if it has neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def completion(reply: Reply, sampling: Sampling) -> tuple[Completion, bool]:
    """The completion of a reply, and whether its number of tokens is an estimate.

    A chain of thought from a field of its own stands before the rest in `<think>` tags. Stop strings end the text even
    where a server leaves them in.
    """
    text = _joined(reply)
    if reply.finish not in ("stop", "length"):
        return Completion("", 0, "refused", f"the server ended the completion with {str(reply.finish)!r}"), False
    finish: Finish = "stop" if reply.finish == "stop" else "length"
    ends = [text.find(stop) for stop in sampling.stop if stop in text]
    if ends:
        text, finish = text[: min(ends)], "stop"
    counted = _count(reply.usage, "completion_tokens")
    size = len(text.encode("utf-8", "replace"))
    if counted is None or not max(1, size / LONGEST_TOKEN) <= counted <= sampling.max_tokens:
        guess = sampling.max_tokens if finish == "length" else max(1, round(size / BYTES_PER_TOKEN))
        return Completion(text, min(guess, sampling.max_tokens), finish), True
    return Completion(text, counted, finish), False


def prompt_tokens(reply: Reply) -> int | None:
    """How many tokens the prompt had, by the server's count."""
    return _count(reply.usage, "prompt_tokens")


def _too_long(said: str, text: str) -> Failure:
    """Too long whatever comes, or only with so large a limit for the completion."""
    limit, prompt = _LIMIT.search(text), _PROMPT.search(text)
    if limit and prompt and int(prompt[1]) < int(limit[1]):
        failure = Failure("shorter", "over the context", said)
        failure.room = int(limit[1]) - int(prompt[1])
        return failure
    return Failure("too long", "over the context", said)


def _parsed(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        raise Failure("again", "not JSON", f"the server sent {text[:60]!r}", lost=True) from None
    if not isinstance(answer, dict):
        raise Failure("again", "not JSON", f"the server sent {text[:60]!r}", lost=True)
    if answer.get("error"):  # in a stream, or under status 200 by some gateways
        raise Failure("again", "an error", _said(text), lost=True)
    return answer


def _first(choices: Any) -> dict[str, Any] | None:
    """One was asked for: of several, the first that says it is number 0."""
    listed = [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
    return next((c for c in listed if c.get("index", 0) == 0), None)


def _texts(message: Any) -> tuple[str, str]:
    """Text and thought of a message or of a piece of one."""
    if not isinstance(message, dict):
        return "", ""
    thought = message.get("reasoning_content") or message.get("reasoning")  # two names of one field
    text = message.get("content")
    return text if isinstance(text, str) else "", thought if isinstance(thought, str) else ""


def _joined(reply: Reply) -> str:
    if not reply.thought:
        return reply.text
    if not reply.text and reply.finish == "length":  # it was still thinking
        return f"<think>\n{reply.thought}"
    return f"<think>\n{reply.thought.strip()}\n</think>\n\n{reply.text.lstrip()}"


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _said(text: str) -> str:
    """The message in an error's body, or the beginning of the body, in one line."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = text
    for key in ("error", "message", "detail"):
        if isinstance(answer, dict) and answer.get(key):
            answer = answer[key]
    return " ".join(str(answer).split())[:SAID]
