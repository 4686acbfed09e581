"""What an answer can be once read: the nodes that `reader.py` makes and `compare.py` compares, and numbers as written.

`Call` names what is done in one word: `+ * / ^ neg ± ∓ ! % deg rad of ∪ ∩ ∖ ratio`, or a function such as `sin`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Verdict = Literal["correct", "wrong", "unsure"]
Ruling = tuple[Verdict, str]  # and the rule that decided
# How a reference is meant. math: its sign of percent and its unit may be left out, as MATH's own graders allow; strict:
# they must be said; physics: as strict, and decimals are measurements; choice: a letter
Kind = Literal["math", "strict", "physics", "choice"]


def decide(same: bool, how: str, why: str = "") -> Ruling:
    """The ruling for what is certain; `why` names the rule where the answer is wrong."""
    return ("correct", how) if same else ("wrong", why or how)


@dataclass(frozen=True, slots=True)
class Number:
    """A written number, exactly. `step` is one unit of the last place of a decimal (1/100 for 3.14), else None."""

    value: Fraction
    step: Fraction | None = None
    scientific: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """A variable or a constant: `x`, `x_1`, `pi`, `e`, `i`, `oo`."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation or a function on its arguments."""

    what: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Several answers: brackets `""` for a bare list, `&` and `|` for "and" and "or", else as written (`()`, `{}`)."""

    brackets: str
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries; a vector is a matrix of one row or one column."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """`sides[0] signs[0] sides[1] ...`; signs are `= != < <= > >= in approx equiv`."""

    sides: tuple[Node, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words: small letters, single spaces, no punctuation."""

    text: str


@dataclass(frozen=True, slots=True)
class Based:
    """A number written in a base other than ten, by a subscript."""

    value: Fraction
    base: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day with its half: minutes since midnight."""

    minutes: int


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with a unit, in the unit's own words."""

    value: Node
    unit: str


Node = Number | Name | Call | Group | Matrix | Relation | Words | Based | Clock | Quantity


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(below(node))


def below(node: Node) -> tuple[Node, ...]:
    """The nodes directly below a node."""
    if isinstance(node, Call):
        return node.args
    if isinstance(node, Group):
        return node.parts
    if isinstance(node, Relation):
        return node.sides
    if isinstance(node, Matrix):
        return tuple(entry for row in node.rows for entry in row)
    return (node.value,) if isinstance(node, Quantity) else ()


SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
         "eleven": 11, "twelve": 12, "sixteen": 16, "bin": 2, "oct": 8, "hex": 16}  # fmt: skip
NUMERALS = {word: Fraction(i) for i, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split())}  # fmt: skip
NUMERALS |= {
    word: Fraction(10 * i) for i, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), 3)
}


class Unreadable(ValueError):
    """The text is not an answer that this grammar knows."""


MAX_LENGTH = 2000  # characters of an answer
MAX_EXPONENT = 10_000  # of ten, in a number like 1e400


# -- numbers as written

_DIGITS = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?!\d)(?:\.\d+)?")  # 1,234.5
_EXPONENT = re.compile(r"[eE]([-+]?\d{1,6})(?![\d.a-zA-Z])")  # 4.5e33
_BARRED = re.compile(r"(\d*+)\.(\d*+)(?:\\(?:overline|bar)\s*\{(\d+)\}|\\dot\s*\{?(\d)\}?)")  # 0.1\overline{6}
_DOTTED = re.compile(r"(\d*+)\.(\d++)(?:\.\.\.|\\[lc]?dots)")  # 0.333...
_FRACTION = re.compile(r" ?\\frac *(?:\{ *(\d+) *\}|(\d)) *(?:\{ *(\d+) *\}|(\d))|(?<=\d) (\d+) ?/ ?(\d+)(?![\d.])")


def read_number(text: str, at: int, *, thousands: bool) -> tuple[Number, int]:
    """The number that begins at `at`, and where it ends; `thousands` says whether commas may group its digits.

    Raises Unreadable for an exponent out of bounds.
    """
    barred = _BARRED.match(text, at)
    if barred:
        return _with_period(barred[1], barred[2], barred[3] or barred[4]), barred.end()
    dotted = _DOTTED.match(text, at)
    parts = _period(dotted[2]) if dotted else None
    if dotted and parts:
        return _with_period(dotted[1], *parts), dotted.end()
    match = (_THOUSANDS.match(text, at) if thousands else None) or _DIGITS.match(text, at)
    assert match is not None, text[at : at + 20]
    exponent = _EXPONENT.match(text, match.end())
    if exponent and abs(int(exponent[1])) > MAX_EXPONENT:
        raise Unreadable("an exponent out of bounds")
    number = written_number(match.group().replace(",", ""), int(exponent[1]) if exponent else None)
    return _mixed(number, text, exponent.end() if exponent else match.end())


def written_number(written: str, exponent: int | None = None) -> Number:
    """An integer or decimal as written, with the step of its last place if it has one."""
    whole, dot, decimals = written.partition(".")
    value = Fraction(int((whole or "0") + decimals), 10 ** len(decimals))
    step = Fraction(1, 10 ** len(decimals)) if dot else None
    if exponent is None:
        return Number(value, step)
    power = Fraction(10) ** exponent
    step = step * power if step is not None else power if exponent < 0 else None
    return Number(value * power, step, scientific=True)


def _mixed(whole: Number, text: str, at: int) -> tuple[Number, int]:
    """A whole number and a proper fraction behind it: `1\\frac12` and `1 1/2`."""
    match = _FRACTION.match(text, at) if whole.step is None and not whole.scientific else None
    if not match:
        return whole, at
    top, bottom = [int(g) for g in match.groups() if g]
    return (Number(whole.value + Fraction(top, bottom)), match.end()) if 0 < top < bottom else (whole, at)


def _period(decimals: str) -> tuple[str, str] | None:
    """The digits before the period and the period, if the last digits repeat: one digit thrice, several twice."""
    match = re.fullmatch(r"(\d*?)(?:(\d)\2{2,}|(\d{2,8}?)\3+)", decimals)
    return (match[1], match[2] or match[3]) if match else None


def _with_period(whole: str, before: str, period: str) -> Number:
    """After the digits a, a period p of n digits is worth p/(10^n - 1) of a unit of the last place before it."""
    value = Fraction(int((whole or "0") + before), 10 ** len(before))
    return Number(value + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(before)))


def in_base(digits: str, base: int) -> int:
    """The value of digits in a base of 2 to 36. Raises Unreadable for a digit that the base does not have."""
    sign, digits = (-1, digits[1:]) if digits.startswith("-") else (1, digits)
    try:
        return sign * int(digits, base)
    except ValueError:
        raise Unreadable(f"'{digits}' in base {base}") from None
