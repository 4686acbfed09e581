"""What an answer can be once read: the nodes that `reader.py` makes and `compare.py` compares. Nothing here computes.

`Call` names what is done in one word: `+ * / ^ neg ± ∓ ! % deg rad of ∪ ∩ ∖ ratio`, or a function such as `sin`.
"""

from __future__ import annotations

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


class Unreadable(ValueError):
    """The text is not an answer that this grammar knows."""
