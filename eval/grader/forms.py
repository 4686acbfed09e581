r"""Brings parsed answers into the form in which they are compared: words, signs, lists and systems, and sets of real
numbers.

Sets are intervals, unions, inequalities, `\mathbb{R} \setminus \{3\}`: two are equal if they have the same members
among the ends of both, and between and beyond these.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from itertools import pairwise
from typing import Any

from eval.grader.nodes import (
    NUMERALS,
    SCALES,
    Call,
    Group,
    Matrix,
    Name,
    Node,
    Number,
    Quantity,
    Relation,
    Words,
    may_be_said,
    negative,
    rebuilt,
    walk,
)
from eval.grader.terms import FUNCTIONS
from eval.grader.values import DIGITS, SYMBOLIC, TooMuch, Undefined, approximately, names, value_at

OO = Name("oo")
REALS = Group("()", (Call("neg", (OO,)), OO))
MAX_ENDS = 100
TINY = Fraction(1, 10**30)  # ends that are nearer are one, worked out in two ways
_ORDER = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (1, 0), "!=": (-1, 1)}
_COMBINED: dict[str, Callable[..., bool]] = {
    "∪": lambda *found: any(found),
    "∩": lambda *found: all(found),
    "∖": lambda first, second: first and not second,
}
MAX_IN_FULL = 500  # members of a list with three dots
FREE = ("", "{}", "&", "|")  # brackets of what has no order
_MEANINGS: dict[str, Node] = {
    "infinity": OO,
    "dne": Words("does not exist"),
    **dict.fromkeys(("all real numbers", "all reals", "real numbers"), REALS),
    **dict.fromkeys(("none", "empty set"), Name("∅")),
    **{word: Number(Fraction(value)) for word, value in (NUMERALS | SCALES).items()},
}
_PARTS = dict(
    zip("half halve third quarter fourth fifth sixth eighth tenth".split(), (2, 2, 3, 4, 4, 5, 6, 8, 10), strict=True)
)
_WINNER = re.compile(r" (?:(?:always )?wins|has a winning strategy)$|(?<=many) solutions$")
_NO_SOLUTION = re.compile(r"(?:there (?:is|are) )?no (?:real )?(?:solution|root)s?(?: exists?)?")
_VARIABLE = re.compile(r"\b((?:integer|number|prime|odd|even)s?) [a-z]$")  # all integers n


def plain_form(node: Node) -> Node:
    """Bring a node into the form for comparison: ±, number words, and sets with one member."""
    if isinstance(node, Words):
        text = re.sub(r"^(?:the|an|a|exactly) (?=\w\w)", "", _VARIABLE.sub(r"\1", node.text))
        number, _, things = text.replace("-", " ").partition(" ")
        if number in NUMERALS and (things in SCALES or things.rstrip("s") in _PARTS):  # two thirds
            return Number(NUMERALS[number] * SCALES.get(things, 1) / _PARTS.get(things.rstrip("s"), 1))
        if number in NUMERALS and may_be_said(things):
            return Quantity(Number(NUMERALS[number]), things)  # three solutions
        if _NO_SOLUTION.fullmatch(text):
            return Name("∅")
        return _MEANINGS.get(text) or Words(_WINNER.sub("", re.sub(r"^(?:all|every|any) (?=\w\w)", "", text)))
    if isinstance(node, Relation) and set(node.signs) == {"="} and len(node.sides) > 2:  # x = y = 0
        *named, last = node.sides
        if all(isinstance(side, Name) for side in named) and not isinstance(last, Name):
            return Group("", tuple(Relation((side, last), ("=",)) for side in named))
    if isinstance(node, Relation) and node.signs == ("=",) and isinstance(node.sides[1], Name) and names(node.sides[1]):
        return node if names(node.sides[0]) else Relation(node.sides[::-1], node.signs)  # 2 = x
    if isinstance(node, Call) and node.what == "^" and node.args[1] == Name("T") and isinstance(node.args[0], Matrix):
        return Matrix(tuple(zip(*node.args[0].rows, strict=True)))
    if isinstance(node, Quantity) and isinstance(node.value, Name) and node.unit.startswith("is "):
        return plain_form(Words(node.unit[3:].lower()))  # n is odd
    if node == Name("mathbb R") or (isinstance(node, Relation) and node.sides[1:] == (Name("mathbb R"),)):
        return REALS
    if _signed(node) and not (isinstance(node, Group) and node.brackets in FREE):
        return Group("", tuple(_both_signs(node)))
    if isinstance(node, Call) and node.what in ("*", "/", "neg") and isinstance(node.args[node.what == "*"], Matrix):
        return _scaled(node)
    if isinstance(node, Group) and node.brackets in FREE:
        parts = tuple(v for part in node.parts for v in (_both_signs(part) if _signed(part) else [part]))
        parts = _in_full(_as_systems(parts))
        if node.brackets == "{}":  # a set has each member once
            parts = tuple(dict.fromkeys(parts))
        alone = len(parts) == 1 and parts[0] != Name("∅")
        return parts[0] if alone else Group(node.brackets, parts)
    return node


def _as_systems(parts: tuple[Node, ...]) -> tuple[Node, ...]:
    """Convert `x = 1, y = 2 or x = 2, y = 1` to two systems of equations."""
    labels = [label_of(part) if isinstance(part, Relation) else None for part in parts]
    n = labels.index(labels[0], 1) if labels and labels[0] in labels[1:] else 0
    if n < 2 or None in labels or labels != labels[:n] * (len(labels) // n):
        return parts
    return tuple(Group("", parts[i : i + n]) for i in range(0, len(parts), n))


def _in_full(parts: tuple[Node, ...]) -> tuple[Node, ...]:
    """Write out a list such as `1, 2, ..., 10`. Of an infinite list only the first two members stay."""
    at = parts.index(Name("...")) if Name("...") in parts else 0
    first = [part.value for part in parts[:at] if isinstance(part, Number)]
    steps = {b - a for a, b in pairwise(first)}
    if at < 2 or len(first) != at or len(steps) != 1 or steps == {0} or len(parts) > at + 2:
        return parts
    (step,), last = steps, parts[-1]
    count = (last.value - first[0]) / step if isinstance(last, Number) else Fraction(-1)
    if count.denominator != 1 or not at <= count <= MAX_IN_FULL:
        return (*parts[:2], *parts[at:])
    return tuple(Number(first[0] + i * step) for i in range(int(count) + 1))


def _scaled(node: Call) -> Node:
    """Multiply out a number times a matrix, such as `\\frac12 \\begin{pmatrix}...`."""
    at = int(node.what == "*")
    matrix = node.args[at]
    assert isinstance(matrix, Matrix)
    if any(isinstance(arg, Matrix) for i, arg in enumerate(node.args) if i != at):
        return node
    rows = [[Call(node.what, (*node.args[:at], entry, *node.args[at + 1 :])) for entry in row] for row in matrix.rows]
    return Matrix(tuple(map(tuple, rows)))


def _signed(node: Node) -> bool:
    return isinstance(node, Call | Quantity | Group) and any(
        isinstance(n, Call) and n.what in ("±", "∓") for n in walk(node)
    )


def _both_signs(node: Node) -> list[Node]:
    """The two values of an expression with ±: once with all upper signs, once with all lower ones."""
    return [_signs_chosen(node, upper) for upper in (True, False)]


def _signs_chosen(node: Node, upper: bool) -> Node:
    def chosen(node: Node) -> Node:
        if not (isinstance(node, Call) and node.what in ("±", "∓")):
            return node
        last = node.args[-1] if (node.what == "±") == upper else negative(node.args[-1])
        return Call("+", (node.args[0], last)) if len(node.args) == 2 else last

    return rebuilt(node, chosen)


def renamed(node: Node, old: Node, new: Node) -> Node:
    """Replace one name in a node by another."""
    return rebuilt(node, lambda n: new if n == old else n)


def label_of(relation: Relation) -> Node | None:
    """The left side of `x = 5`, `AB = 5`, `f(x) = 5` or `Area = 5`, if it only names the value."""
    first = relation.sides[0]
    if relation.signs[0] not in ("=", "approx", "equiv", "in"):
        return None
    if isinstance(first, Words):
        return first
    inside = set(walk(relation.sides[-1]))
    if isinstance(first, Name):
        return None if first.text in ("pi", "e", "i", "oo") or first in inside else first
    if isinstance(first, Group):  # (x, y) = (1, 2), but not (y, x) = (1, 2)
        named = [part.text for part in first.parts if isinstance(part, Name)]
        in_order = named == sorted(named) or not usual(named)
        return first if in_order and len(named) == len(first.parts) else None
    if not isinstance(first, Call):
        return None
    if first.what in {"∪", "∩", "∖"} | SYMBOLIC:
        return first
    if first.what == "of" or (first.what in FUNCTIONS and all(isinstance(a, Name) for a in first.args)):
        function = {n for n in walk(first.args[0]) if isinstance(n, Name)}
        return None if function & inside and first.what == "of" else first
    parts = {n for n in walk(first) if isinstance(n, Name)}  # AB, \\angle ABC, AB/CD
    figure = all(n.text.isupper() or n.text in ("angle", "triangle", "m") for n in parts)
    return first if parts and figure and not parts & inside else None


def usual(names: Sequence[str]) -> bool:
    """Whether names have a usual order, such as x, y, z or a, b, c. Other names keep the order in which they are
    written.
    """
    return any(set(names) <= set(known) for known in ("xyz", "abcd", "uvw", "pqrs"))


# -- sets of real numbers


@dataclass(frozen=True, slots=True)
class Reals:
    """A set of real numbers: a test of membership, and the known ends of its intervals."""

    has: Callable[[Fraction], bool]
    ends: tuple[Fraction, ...]


def is_set(node: Node) -> bool:
    """Whether a node can only mean a set of numbers. A pair in brackets is not such a node: it may be a point or a
    list.
    """
    if isinstance(node, Relation):
        within = node.sides[-1]
        points = isinstance(within, Group) and within.brackets == "{}"
        return (node.signs == ("in",) and not points) or any(sign in _ORDER for sign in node.signs)
    if isinstance(node, Group) and node.brackets in ("", "&", "|"):
        return any(map(is_set, node.parts)) and all(is_set(p) or isinstance(p, Relation) for p in node.parts)
    if isinstance(node, Group):
        ends = (
            node.brackets in ("()", "[]")
            and len(node.parts) == 2
            and (OO in node.parts or REALS.parts[0] in node.parts)
        )
        return ends or node.brackets in ("(]", "[)")
    return isinstance(node, Call) and node.what in _COMBINED


def variables(node: Node) -> set[str]:
    """The variables of inequalities. Intervals and named sets such as R have none."""
    sets = {
        arg.text
        for n in walk(node)
        if isinstance(n, Call) and n.what in _COMBINED
        for arg in n.args
        if isinstance(arg, Name)
    }
    return {name for name in names(node) - sets if not name.startswith("mathbb")}


def same_set(a: Node, b: Node) -> bool | None:
    """Whether two sets have the same members; None if one of them is no set of numbers, or cannot be computed."""
    left, right = real_set(a), real_set(b)
    if left is None or right is None or not left.ends + right.ends or len(variables(a) | variables(b)) > 1:
        return None
    return all(left.has(x) == right.has(x) for x in _samples(left.ends + right.ends))


def _samples(ends: tuple[Fraction, ...]) -> list[Fraction]:
    """The numbers at which two sets are compared: their ends, and numbers between and beyond the ends."""
    ends = tuple(dict.fromkeys(ends))
    if len(ends) > MAX_ENDS:
        raise TooMuch("a set of too many pieces")
    between = [(low + high) / 2 for low, high in pairwise(sorted(ends)) if high - low > TINY]
    beyond = [end + sign * step for end in ends for sign in (-1, 1) for step in (Fraction(1, 10**6), 1, 10**6)]
    return [*ends, *between, *beyond]


def real_set(node: Node) -> Reals | None:
    """The set of numbers that a node means; None if it is no set, or contains variables."""
    if isinstance(node, Relation):
        return _of_relation(node)
    if isinstance(node, Call) and node.what in _COMBINED:
        return _combined([real_set(arg) for arg in node.args], _COMBINED[node.what])
    if node == Name("mathbb R"):
        return Reals(lambda _: True, ())
    if isinstance(node, Name) and node.text.isupper():  # A, as any set: half of some numbers
        return Reals(lambda x: sha256(f"{node.text} {x}".encode()).digest()[0] % 2 > 0, tuple(map(Fraction, range(64))))
    if not isinstance(node, Group):
        return None
    if node.brackets in ("()", "[]", "(]", "[)"):
        return _interval(node)
    if any(isinstance(part, Relation | Group) for part in node.parts):
        either = _combined([real_set(part) for part in node.parts], _COMBINED["∪"])
        both = _combined([real_set(part) for part in node.parts], _COMBINED["∩"])
        if either is None or both is None or node.brackets in ("|", "{}"):
            return either
        # `x > 1, x < 5` are both meant, `x < 1, x > 5` are two cases
        return both if node.brackets == "&" or any(map(both.has, _samples(both.ends))) else either
    points = [approximately(part) for part in node.parts]
    known = tuple(point for point in points if point is not None)
    return Reals(lambda x: any(abs(x - p) <= TINY for p in known), known) if len(known) == len(points) else None


def _combined(sets: list[Reals | None], how: Callable[..., bool]) -> Reals | None:
    found = [each for each in sets if each is not None]
    if len(found) != len(sets):
        return None
    return Reals(lambda x: how(*(each.has(x) for each in found)), tuple(end for each in found for end in each.ends))


def _end(node: Node, sign: int) -> Any:  # a fraction, an infinity, or None
    return sign * math.inf if node in (OO, REALS.parts[0]) else approximately(node)


def _interval(node: Group) -> Reals | None:
    """The set of an interval such as `[1, 3)`; None if an end is not a number, or the first end is not the
    smaller one.
    """
    if len(node.parts) != 2:
        return None
    low, high = _end(node.parts[0], -1), _end(node.parts[1], 1)
    if low is None or high is None or low >= high:
        return None

    def has(x: Fraction) -> bool:
        at_end = (abs(x - low) <= TINY and "(", abs(x - high) <= TINY and ")")
        return (low < x < high and not any(at_end)) or (any(at_end) and not set(at_end) & set(node.brackets))

    return Reals(has, tuple(end for end in (low, high) if isinstance(end, Fraction)))


def _compared(a: Any, b: Any) -> int:
    """The sign of a - b; 0 if they differ by rounding only."""
    return 0 if abs(a - b) <= float(TINY) * max(1, abs(a), abs(b)) else 1 if a > b else -1


def _of_relation(relation: Relation) -> Reals | None:
    """The set of numbers that satisfy `a < x <= b`, `|x| > a`, `x != a` or `x in S`."""
    if relation.signs == ("in",) and isinstance(relation.sides[0], Name):
        return real_set(relation.sides[1])
    found = variables(relation)
    if len(found) != 1 or not set(relation.signs) <= {*_ORDER, "="}:
        return None
    (name,) = found

    def has(x: Fraction) -> bool:
        try:
            values = [value_at(side, {name: x}, DIGITS) for side in relation.sides]
        except Undefined:
            return False
        compared = [_compared(a, b) for a, b in pairwise(values)]
        return all(found in _ORDER.get(sign, (0,)) for found, sign in zip(compared, relation.signs, strict=True))

    closed = [approximately(side) for side in relation.sides if not names(side)]
    return Reals(has, tuple(end for end in closed if end is not None))
