r"""The final answer that a completion gives, as it wrote it.

    extract("... so it is \\boxed{5}, as \\boxed{5} shows.")  ->  "5"

What marks an answer beyond doubt comes first (a box, `####`), then "the answer is", then the last thing said. Text
inside an unfinished `<think>` is no answer: the model had not begun to give one.
"""

import re

from eval.reader import FUNCTIONS
from eval.scanner import MAX_LENGTH
from limo.marks import Box, after_hashes, boxed

TAIL = 20_000  # characters of a completion's end in which an unmarked answer is looked for


def extract(text: str) -> str | None:
    """The final answer of a completion; None if it gives none.

    In this order: what `explicit` finds; what follows "the answer is"; all of an `<answer>`; a completion that is one
    bare expression; the formula, letter or number that the last line ends with; the last number.
    """
    text = after_thinking(text)
    stated = explicit(text)
    if stated is not None:
        return stated or None
    tagged = _tagged(text)
    within = (text if tagged is None else tagged)[-TAIL:]
    said = _after_announcement(within)
    if said is not None:
        return said
    if tagged is not None:
        return tagged[: MAX_LENGTH + 1] or None
    return _last_said(within)


def explicit(text: str) -> str | None:
    r"""The answer in the last complete `\boxed{}`, or after `####`, within `<answer>` tags if there are any.

    These mark a final answer beyond doubt, even where the completion was cut off afterwards. Several boxes with only
    "and", a comma or a name between them are several answers, or a hedge. Empty if it is empty; None if there is none.
    """
    text = after_thinking(text)
    tagged = _tagged(text)
    text = text if tagged is None else tagged
    boxes = boxed(text)
    if boxes:
        return _joined(text, boxes)[: MAX_LENGTH + 1]
    found = after_hashes(text)
    return found if found is None else found[: MAX_LENGTH + 1]


def after_thinking(text: str) -> str:
    """What follows the thinking, all of it if there is none, nothing if it is unfinished."""
    if "think>" not in text:
        return text
    _, closed, after = text.rpartition("</think>")
    if "<think>" in after:
        return ""
    return after if closed else text


def _tagged(text: str) -> str | None:
    if "</answer>" not in text:
        return None
    inside = text.rpartition("</answer>")[0].rpartition("<answer>")
    return inside[2].strip() if inside[1] else None


# What may stand between boxes that belong together: separators, the name of the next one, and marks of math
_CONNECTING = re.compile(
    r"\\text\s*\{\s*,?\s*(?:and|or)\s*\}|"
    r"\\q?quad|\\[()\[\],;! ]|\b(?:and|or)\b|[a-zA-Z](?:_\{?\w{1,3}\}?)?\s*=|[\s$,;*&]"
)
_SEPARATING = re.compile(r"[,;]|\band\b|\bor\b")
_NAMED = re.compile(r"([a-zA-Z](?:_\{?\w{1,3}\}?)?) ?= ?\$?$")


def _joined(text: str, boxes: list[Box]) -> str:
    """The last box, with those directly before it that only a separator separates."""
    taken, words = [boxes[-1]], list[str]()
    for box in reversed(boxes[:-1]):
        between = text[box.end : taken[0].start]
        if len(between) > 40 or _CONNECTING.sub("", between) or not _SEPARATING.search(between):
            break
        taken.insert(0, box)
        words.append(between)
    if len({box.text for box in taken}) == 1:
        return taken[0].text
    named = [_NAMED.search(text, max(0, box.start - 12), box.start) for box in taken]
    if all(named):
        return ", ".join(f"{n[1]} = {box.text}" for n, box in zip(named, taken, strict=True) if n)
    either = any(re.search(r"\bor\b", word) for word in words)
    return (" or " if either else ", ").join(box.text for box in taken)


# "the answer is", in English and Chinese, and headings; the last one counts
_ANNOUNCED = re.compile(
    r"(?:answer\s*(?:is|:|=)|answer\s*(?:should|must|will)\s*be|答案\s*(?:是|为|：|:)|故选|选择?项?\s*(?=[A-J]\b))"
    r"\s*(?:therefore|thus|simply|option|choice)?\s*:?\s*(?:\*\*)?\s*",
    re.IGNORECASE,
)
_MATH = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


def _after_announcement(text: str) -> str | None:
    ends = [match.end() for match in _ANNOUNCED.finditer(text)]
    return _tidy(text[ends[-1] :].partition("\n")[0]) if ends else None


def _tidy(said: str) -> str | None:
    """What follows "the answer is", without Markdown, a sentence's end, or the sentence that goes on."""
    said = said.strip().strip("*`").strip()
    math = _MATH.match(said)
    if math and not re.match(r"\$\s*\d[\d,.]*\s*[^\d$]*$", said):
        rest = said[math.end() :].strip(" .,;:*")
        if not re.match(r"(?:and|or)\b|%|percent|[ap]\.?m\b", rest):
            said = next(group for group in math.groups() if group)
    said = re.split(r"(?<=[\w)}%*])[.;](?:\s|$)|,\s+(?=[a-z]{3})(?!and |or )| because | since | so |\*\*", said)[0]
    said = re.sub(r"[.,;:*\s]+$", "", said)
    return said[: MAX_LENGTH + 1] or None


# Possessive quantifiers: a run of digits is read once, however long
_NUMBER = re.compile(r"(?<![\w.,^/{\\])[-−+]?\s?\$?(?:\d[\d,]*+\.?\d*+|\.\d++)(?:/\d++)?(?:\\?%|(?:e[-+]?\d++))?(?!\w)")
_ALONE = re.compile(r"[-+\d\\a-zA-Z(\[{|$.].{0,200}", re.DOTALL)
_LETTER_LAST = re.compile(r"(?:^|\s)(?:option |choice )?\(?([A-J])\)?[.!]?\**$")


def _last_said(text: str) -> str | None:
    """The answer of a completion that announces none."""
    line = text.rstrip().rpartition("\n")[2].strip().strip("*").strip()
    if line == text.strip().strip("*").strip() and _is_expression(line):
        left, equals, right = re.sub(r"[.\s]+$", "", line).rpartition("=")
        return right.strip() if equals and not re.search(r"[a-zA-Z]", left) else f"{left}{equals}{right}"
    formulas = [next(g for g in m.groups() if g) for m in _MATH.finditer(line)] if len(line) <= 4 * MAX_LENGTH else []
    if formulas and not re.search(r"\d", line[line.rfind(formulas[-1]) + len(formulas[-1]) :]):
        return formulas[-1].strip()[: MAX_LENGTH + 1]
    if re.search(r"\\(?:frac|sqrt|pi|begin)", line) and "=" in line:
        return re.sub(r"[.\s]+$", "", line.rpartition("=")[2])[: MAX_LENGTH + 1].strip()
    letter = _LETTER_LAST.search(line)
    if letter:
        return letter[1]
    numbers = _NUMBER.findall(text)
    return _tidy(numbers[-1]) if numbers else None


def _is_expression(line: str) -> bool:
    """Whether a line is an expression or a word or two rather than a sentence."""
    if not _ALONE.fullmatch(line) or len(line) > 200:
        return False
    bare = re.sub(r"\\[a-zA-Z]+|\\text\{[^{}]*\}", " ", line)
    words = re.findall(r"[a-zA-Z]{2,}", bare)
    return set(words) <= FUNCTIONS | {"pi", "or", "and"}
