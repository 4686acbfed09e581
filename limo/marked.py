"""Texts that a judge is shown between marks, and the verdict that its reply must end with.

A text may contain anything, orders to the judge and finished verdicts too. The marks carry a code that occurs in none
of the texts, so that no text can close its own; the verdict must repeat it, so that a judge who only quotes gives none.
"""

import json
import re
from itertools import count
from typing import Any

from limo.data import content_id
from limo.engine import Completion


def code_of(*texts: str) -> str:
    """A short code that occurs in none of the texts; for the same texts it is always the same."""
    codes = ("x" + content_id([number, *texts], 4) for number in count())
    return next(code for code in codes if not any(code in text.lower() for text in texts))


def verdict_of(reply: Completion, code: str) -> dict[str, Any] | None:
    """The JSON object, none inside it, that ends the reply, less its code; the end of a code block may follow.

    None for a reply that was cut off, ends otherwise, names a key twice, or has another code.

    >>> verdict_of(Completion('Fine. {"code": "x12", "score": 7}', 9, "stop"), "x12")
    {'score': 7}
    """
    found = re.search(r"\{[^{}]*\}$", reply.text.rstrip().removesuffix("```").rstrip())
    if reply.finish != "stop" or found is None:
        return None
    try:
        pairs = json.loads(found[0], object_pairs_hook=list)
    except (ValueError, RecursionError):  # lists in lists without end
        return None
    verdict = dict(pairs)
    return verdict if len(pairs) == len(verdict) and verdict.pop("code", None) == code else None
