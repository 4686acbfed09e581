r"""Sets of real numbers: intervals, unions, inequalities, `\mathbb{R} \setminus \{3\}`.

Two are equal if they have the same members among the ends of both, and between and beyond these.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from eval.grader.nodes import Call, Group, Name, Node, Relation
from eval.grader.values import DIGITS, Undefined, approximately, names, value_at

OO = Name("oo")
REALS = Group("()", (Call("neg", (OO,)), OO))
TINY = Fraction(1, 10**30)  # ends that are nearer are one, worked out in two ways
_ORDER = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (1, 0), "!=": (-1, 1)}
_COMBINED: dict[str, Callable[..., bool]] = {
    "∪": lambda *found: any(found),
    "∩": lambda *found: all(found),
    "∖": lambda first, second: first and not second,
}


@dataclass(frozen=True, slots=True)
class Reals:
    """A set: whether it has a member, and the ends that are known."""

    has: Callable[[Fraction], bool]
    ends: tuple[Fraction, ...]


def is_set(node: Node) -> bool:
    """Whether a node can only mean a set of numbers: a pair in brackets alone may be a point or a list."""
    if isinstance(node, Relation):
        within = node.sides[-1]
        points = isinstance(within, Group) and within.brackets == "{}"
        return (node.signs == ("in",) and not points) or any(sign in _ORDER for sign in node.signs)
    if isinstance(node, Group) and node.brackets in ("", "&", "|"):
        return all(map(is_set, node.parts))
    if isinstance(node, Group):
        ends = (
            node.brackets in ("()", "[]")
            and len(node.parts) == 2
            and (OO in node.parts or REALS.parts[0] in node.parts)
        )
        return ends or node.brackets in ("(]", "[)")
    return isinstance(node, Call) and node.what in _COMBINED


def variables(node: Node) -> set[str]:
    """The variables of inequalities, none for intervals."""
    return {name for name in names(node) if not name.startswith("mathbb")}


def same_set(a: Node, b: Node) -> bool | None:
    """Whether two sets have the same members; None if one is no set of numbers that can be worked out."""
    left, right = real_set(a), real_set(b)
    if left is None or right is None or not left.ends + right.ends or len(variables(a) | variables(b)) > 1:
        return None
    return all(left.has(x) == right.has(x) for x in _samples(left.ends + right.ends))


def _samples(ends: tuple[Fraction, ...]) -> list[Fraction]:
    """The ends, and numbers between and beyond them."""
    between = [(low + high) / 2 for low, high in pairwise(sorted(ends)) if high - low > TINY]
    beyond = [end + sign * step for end in ends for sign in (-1, 1) for step in (Fraction(1, 10**6), 1, 10**6)]
    return [*ends, *between, *beyond]


def real_set(node: Node) -> Reals | None:
    """The set that a node means; None if it is no set, or not one of numbers without variables."""
    if isinstance(node, Relation):
        return _of_relation(node)
    if isinstance(node, Call) and node.what in _COMBINED:
        return _combined([real_set(arg) for arg in node.args], _COMBINED[node.what])
    if node == Name("mathbb R"):
        return Reals(lambda _: True, ())
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
    """`[1, 3)`; None where an end is no number, or the first is not the smaller."""
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
    """The sign of a - b, 0 where they are as good as equal."""
    return 0 if abs(a - b) <= float(TINY) * max(1, abs(a), abs(b)) else 1 if a > b else -1


def _of_relation(relation: Relation) -> Reals | None:
    """The set of `a < x <= b`, `|x| > a`, `x != a` or `x in S`."""
    if relation.signs == ("in",) and isinstance(relation.sides[0], Name):
        return real_set(relation.sides[1])
    found = variables(relation)
    if len(found) != 1 or not set(relation.signs) <= set(_ORDER):
        return None
    (name,) = found

    def has(x: Fraction) -> bool:
        try:
            values = [value_at(side, {name: x}, DIGITS) for side in relation.sides]
        except Undefined:
            return False
        compared = [_compared(a, b) for a, b in pairwise(values)]
        return all(found in _ORDER[sign] for found, sign in zip(compared, relation.signs, strict=True))

    closed = [approximately(side) for side in relation.sides if not names(side)]
    return Reals(has, tuple(end for end in closed if end is not None))
