"""Encloses the texts that a model is shown in marks, and reads the JSON object that must end its reply.

A text may contain anything, even instructions to the model or finished verdicts. The marks carry a code that occurs in
none of the texts, so no text can close its marks. A verdict must repeat the code, so a quoted text cannot be a verdict.
"""

import json
import re
from itertools import count
from typing import Any

from limo.data import content_id
from limo.engines.protocol import Completion

LONGEST = 20_000  # characters of an object that ends a reply
SHOWN = 200  # characters of a reply that cannot be read


def code_of(*texts: str) -> str:
    """A short code that occurs in none of the texts. The same texts give the same code."""
    codes = ("x" + content_id([number, *texts], 4) for number in count())
    return next(code for code in codes if not any(code in text.lower() for text in texts))


def read_last_object(text: str) -> dict[str, Any] | None:
    """The JSON object that ends a text, or the code block at its end; None if there is none, or it repeats a key."""
    text = text.rstrip().removesuffix("```").rstrip()[-LONGEST:]
    found = _decode_last(text)
    if found is None or any(isinstance(value, str) and re.search("[\b\f]", value) for value in found.values()):
        # LaTeX with single backslashes: \sqrt is not a JSON escape, and \frac begins with the escape of a form feed
        return _decode_last(re.sub(r"(\\[\"\\/n]|\\u[0-9a-fA-F]{4})|\\", lambda m: m[1] or r"\\", text))
    return found


def _decode_last(text: str) -> dict[str, Any] | None:
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=_unique)
    for found in re.finditer(r"\{", text):
        try:
            value, end = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        if end == len(text):
            return dict(value)
    return None


def verdict_of(reply: Completion, code: str) -> dict[str, Any] | None:
    """The JSON object that ends the reply, without its code. None if the reply was cut off or has another code, or if
    the object repeats a key or holds a list or another object.
    """
    verdict = read_last_object(reply.text) if reply.finish == "stop" else None
    if verdict is None or any(isinstance(value, dict | list) for value in verdict.values()):
        return None
    return verdict if verdict.pop("code", None) == code else None


def shorten(reply: Completion) -> str:
    """The beginning of an unreadable reply, for messages."""
    if reply.finish == "refused":
        return f"not sampled: {reply.why}"
    return ("cut off: " if reply.finish == "length" else "") + " ".join(reply.text.split())[:SHOWN]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found
