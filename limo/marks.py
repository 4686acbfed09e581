r"""Finds marked answers in a text: `\boxed{...}` and `#### n`. Used for pools, chains and completions."""

import re
from typing import NamedTuple

MAX_BOXES = 20  # the last boxes of a text, which are looked at
MAX_BOX = 8000  # characters of a box


class Box(NamedTuple):
    """A complete `\\boxed{...}`: its content and its position."""

    text: str
    start: int
    end: int


_BOX = re.compile(r"\\f?box(?:ed)?\s*(?:\{|(?=[\d(\\a-zA-Z-]))|\\framebox\s*\{")
_BARE_BOX = re.compile(r"(?:\x08oxed|(?<![a-zA-Z])boxed)\{")  # of JSON without escapes, where `\b` is a backspace
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def boxed(text: str) -> list[Box]:
    """The complete boxes of a text, outermost only, the last MAX_BOXES of them. Linear in the text."""
    starts = list(_BOX.finditer(text)) if "box" in text else []
    starts = starts or (list(_BARE_BOX.finditer(text)) if "oxed{" in text else [])
    found, inside_of = list[Box](), -1
    for match in starts[-MAX_BOXES:]:
        if match.start() < inside_of:
            continue
        if not match.group().endswith("{"):
            bare = re.compile(r"\s*(-?[\d.,]*\d|\\[a-zA-Z]+|[a-zA-Z])").match(text, match.end())
            if bare:
                found.append(Box(bare[1], match.start(), bare.end()))
            continue
        end = _closing(text, match.end())
        if end is not None:
            content = text[match.end() : end].strip()
            found.append(Box(_unboxed(content), match.start(), end + 1))
            inside_of = end
    return found


def _closing(text: str, start: int) -> int | None:
    """The position of the brace that closes the one before `start`; None if it is not within MAX_BOX characters."""
    depth = 1
    for brace in _BRACE.finditer(text, start, start + MAX_BOX):
        if brace.group() == "{":
            depth += 1
        elif brace.group() == "}":
            depth -= 1
            if not depth:
                return brace.start()
    return None


def _unboxed(content: str) -> str:
    inner = boxed(content) if "box" in content else []
    return inner[0].text if len(inner) == 1 and not content[: inner[0].start].strip() else content


def last_boxed(text: str) -> str | None:
    """The content of the last complete box; None if there is none."""
    boxes = boxed(text)
    return boxes[-1].text if boxes else None


_ANNOUNCED = re.compile(r"(?:^|[.!?:]\s+|\bso )\W*(?:the |final )+answer is:?\s*(\S[^\n]{0,80}?)\W*$", re.IGNORECASE)


def announced(text: str) -> str | None:
    """The answer after "The answer is:" at the end of a text; None if the phrase is missing, or more text follows."""
    found = _ANNOUNCED.search(text.rstrip().rpartition("\n")[2][-200:])
    return found[1] if found and len(found[1].split()) <= 4 else None


def after_hashes(text: str) -> str | None:
    """The text after the last `####` on the last line, as in GSM8K; None if there is none."""
    found = text.rstrip().rpartition("\n")[2].rpartition("####")
    return (found[2].strip() or None) if found[1] else None
