"""One form for what can be written in several ways: both signs of ±, a name carried along a list, sets as intervals."""

import re
from fractions import Fraction
from itertools import pairwise

from eval.grader.nodes import NUMERALS, Call, Group, Matrix, Name, Node, Number, Quantity, Relation, Words, walk
from eval.grader.reader import negative
from eval.grader.values import approximately

FREE = ("", "{}", "&", "|")  # brackets of what has no order
_EMPTY = {"no solution", "no solutions", "none", "empty set", "the empty set", "no real solution", "no real solutions"}
OO = Name("oo")
REALS = Group("()", (Call("neg", (OO,)), OO))


def plain_form(node: Node) -> Node:
    """±, number words and sets of one in the form in which they are compared."""
    if isinstance(node, Words):
        if node.text == "infinity":
            return OO
        if node.text == "dne":
            return Words("does not exist")
        if node.text in NUMERALS:
            return Number(NUMERALS[node.text])
        if node.text in _EMPTY:
            return Name("∅")
        if node.text in ("all real numbers", "all reals", "real numbers"):
            return REALS
        return Words(re.sub(r"^(?:the|an|a) (?=\w\w)", "", node.text))
    if isinstance(node, Name) and node.text == "mathbb R":
        return REALS
    if isinstance(node, Relation) and _signed(node.sides[-1]) and set(node.signs) == {"="}:
        return Group("", tuple(Relation((*node.sides[:-1], v), node.signs) for v in _both_signs(node.sides[-1])))
    if _signed(node) and not (isinstance(node, Group) and node.brackets in FREE):
        return Group("", tuple(_both_signs(node)))
    if isinstance(node, Call) and node.what == "∪":  # of finite sets
        sides = [plain_form(arg) for arg in node.args]
        if all(isinstance(side, Group) and side.brackets == "{}" for side in sides):
            node = Group("{}", tuple(part for side in sides if isinstance(side, Group) for part in side.parts))
    scaled = _scaled(node)
    if scaled is not None:
        return scaled
    if isinstance(node, Group) and node.brackets in FREE:
        parts = tuple(v for part in node.parts for v in (_both_signs(part) if _signed(part) else [part]))
        parts = _with_name_carried(parts)
        if node.brackets == "{}":  # a set has each member once
            parts = tuple(dict.fromkeys(parts))
        alone = len(parts) == 1 and not isinstance(parts[0], Group) and parts[0] != Name("∅")
        return parts[0] if alone else Group(node.brackets, parts)
    return node


def _scaled(node: Node) -> Matrix | None:
    """A number times a matrix, as the matrix that it is."""
    if not isinstance(node, Call) or node.what not in ("*", "/", "neg"):
        return None
    matrices = [arg for arg in node.args if isinstance(arg, Matrix)]
    if len(matrices) != 1 or (node.what == "/" and node.args[0] is not matrices[0]):
        return None
    rows = matrices[0].rows
    return Matrix(
        tuple(tuple(Call(node.what, tuple(e if a is matrices[0] else a for a in node.args)) for e in r) for r in rows)
    )


def _with_name_carried(parts: tuple[Node, ...]) -> tuple[Node, ...]:
    """`x = 1, 2` says x = 1, x = 2."""
    first = parts[0] if parts else None
    if not isinstance(first, Relation) or first.signs != ("=",) or any(isinstance(p, Relation) for p in parts[1:]):
        return parts
    return (first, *(Relation((first.sides[0], p), ("=",)) for p in parts[1:]))


def _signed(node: Node) -> bool:
    return isinstance(node, Call | Quantity | Group) and any(
        isinstance(n, Call) and n.what in ("±", "∓") for n in walk(node)
    )


def _both_signs(node: Node) -> list[Node]:
    """What ± stands for: all upper signs, then all lower ones."""
    return [_signs_chosen(node, upper) for upper in (True, False)]


def _signs_chosen(node: Node, upper: bool) -> Node:
    if isinstance(node, Group):
        return Group(node.brackets, tuple(_signs_chosen(part, upper) for part in node.parts))
    if isinstance(node, Quantity):
        return Quantity(_signs_chosen(node.value, upper), node.unit)
    if not isinstance(node, Call):
        return node
    args = tuple(_signs_chosen(arg, upper) for arg in node.args)
    if node.what not in ("±", "∓"):
        return Call(node.what, args)
    last = args[-1] if (node.what == "±") == upper else negative(args[-1])
    return Call("+", (args[0], last)) if len(args) == 2 else last


def is_inequality(node: Node) -> bool:
    """Whether a node is an inequality, or several."""
    parts = node.parts if isinstance(node, Group) and node.brackets in ("", "&", "|") else (node,)
    return all(isinstance(p, Relation) and _says_range(p) for p in parts)


def _says_range(relation: Relation) -> bool:
    if relation.signs == ("in",):
        return not (isinstance(relation.sides[1], Group) and relation.sides[1].brackets == "{}")
    return bool(set(relation.signs) & {"<", "<=", ">", ">="})


def variable(node: Node) -> str | None:
    """The variable of an inequality, None for an interval."""
    for part in walk(node):
        if isinstance(part, Relation):
            return next((s.text for s in part.sides if isinstance(s, Name) and s.text != "oo"), None)
    return None


def intervals(node: Node) -> list[Node] | None:
    """A set of numbers as intervals, each a Group of two ends; None for what is no such set.

    A pair in parentheses alone may be a point: it is left to the rule for tuples unless it is part of a union.
    """
    if isinstance(node, Call) and node.what == "∪":
        parts = [interval_parts(arg) for arg in node.args]
        return None if any(p is None for p in parts) else [i for p in parts if p is not None for i in p]
    if isinstance(node, Call) and node.what == "∖":
        return _without_points(*node.args)
    if isinstance(node, Relation):
        return _interval_of(_without_bars(node))
    if isinstance(node, Group) and node.brackets in ("", "|") and len(node.parts) > 1:
        ranges = [interval_parts(part) for part in node.parts if isinstance(part, Group) and part.brackets not in FREE]
        if len(ranges) == len(node.parts) and any(map(_endless_part, node.parts)):
            return [i for r in ranges if r is not None for i in r]
    if isinstance(node, Group) and node.brackets in ("", "&", "|") and all(isinstance(p, Relation) for p in node.parts):
        found = [_interval_of(p) for p in node.parts if isinstance(p, Relation)]
        if len({variable(p) for p in node.parts}) > 1:
            return None  # `x > 1, y < 3` is no interval
        if any(f is None for f in found):
            return None
        each = [i for f in found if f is not None for i in f]
        together = node.brackets == "&" or (node.brackets == "" and _is_one_range(each))
        return _crossed(each) if together else each
    if node == REALS or (isinstance(node, Group) and node.brackets in ("(]", "[)")):
        return [node]
    if (
        isinstance(node, Group)
        and node.brackets in ("()", "[]")
        and len(node.parts) == 2
        and any(map(endless, node.parts))
    ):
        return [node]
    return None


def _endless_part(node: Node) -> bool:
    return isinstance(node, Group) and any(map(endless, node.parts))


def _without_bars(relation: Relation) -> Relation:
    """`|x| < 2` as `-2 < x < 2`."""
    first, last = relation.sides[0], relation.sides[-1]
    bars = isinstance(first, Call) and first.what == "abs" and isinstance(first.args[0], Name)
    if len(relation.sides) != 2 or not bars or relation.signs[0] not in ("<", "<="):
        return relation
    assert isinstance(first, Call)
    return Relation((Call("neg", (last,)), first.args[0], last), relation.signs * 2)


def interval_parts(node: Node) -> list[Node] | None:
    """As `intervals`, where a pair in brackets is an interval for certain."""
    if isinstance(node, Group) and len(node.parts) == 2 and node.brackets in ("()", "[]", "(]", "[)"):
        return [node]
    if isinstance(node, Group) and node.brackets == "{}":
        return list(node.parts)
    return intervals(node)


def endless(node: Node) -> bool:
    """Whether an end is plus or minus infinity."""
    return node == OO or node == Call("neg", (OO,))


def _interval_of(relation: Relation) -> list[Node] | None:
    """The intervals of `a < x <= b`, `x > a`, `x != a` or `x in S`."""
    sides, signs = relation.sides, relation.signs
    if signs == ("in",):
        return intervals(sides[1]) or (
            [sides[1]] if isinstance(sides[1], Group) and sides[1].brackets != "{}" else None
        )
    lone = [isinstance(s, Name) and s.text not in ("pi", "e", "i", "oo") for s in sides]
    if sum(lone) != 1:
        return None
    at = lone.index(True)
    if signs == ("!=",):
        return _without_points(REALS, Group("{}", (sides[1 - at],)))
    if any(s not in ("<", "<=", ">", ">=") for s in signs):
        return None
    if any(sides[at] in walk(s) for i, s in enumerate(sides) if i != at):
        return None
    if len(sides) == 2:
        greater = (signs[0][0] == ">") == (at == 0)
        closed = len(signs[0]) == 2
        bound = sides[1 - at]
        if greater:
            return [Group("[)" if closed else "()", (bound, OO))]
        return [Group("(]" if closed else "()", (Call("neg", (OO,)), bound))]
    if len(sides) != 3 or at != 1 or signs[0][0] != signs[1][0]:
        return None
    low, high, first, last = sides[0], sides[2], signs[0], signs[1]
    if first[0] == ">":
        low, high, first, last = high, low, last, first
    return [Group(("[" if len(first) == 2 else "(") + ("]" if len(last) == 2 else ")"), (low, high))]


def _is_one_range(intervals: list[Node]) -> bool:
    """Whether two half-lines, `x > 1, x < 5`, are meant to hold together."""
    if len(intervals) != 2:
        return False
    crossed = _crossed(intervals)
    return crossed is not None and len(crossed) == 1 and crossed[0] not in intervals


def _crossed(intervals: list[Node]) -> list[Node] | None:
    """The part that two half-lines share; None if that is not one interval."""
    if len(intervals) != 2 or not all(isinstance(i, Group) for i in intervals):
        return None
    a, b = (i for i in intervals if isinstance(i, Group))
    if endless(a.parts[0]):
        a, b = b, a
    if endless(a.parts[0]) or not endless(a.parts[1]) or not endless(b.parts[0]) or endless(b.parts[1]):
        return None
    low, high = approximately(a.parts[0]), approximately(b.parts[1])
    if low is None or high is None or low >= high:
        return None
    return [Group(a.brackets[0] + b.brackets[1], (a.parts[0], b.parts[1]))]


def _without_points(whole: Node, points: Node) -> list[Node] | None:
    """An interval, cut at the points that it is said to lack."""
    whole = plain_form(whole)
    if not isinstance(whole, Group) or not (isinstance(points, Group) and points.brackets == "{}"):
        return None
    order = [(approximately(p), p) for p in points.parts]
    if len(whole.parts) != 2 or any(value is None for value, _ in order):
        return None
    low, high = (None if endless(end) else approximately(end) for end in whole.parts)
    for value, _ in order:
        assert value is not None
        if (low is not None and value <= low) or (high is not None and value >= high):
            return None
    cuts = [p for _, p in sorted(order, key=lambda pair: pair[0] or Fraction(0))]
    pieces = list(pairwise([whole.parts[0], *cuts, whole.parts[1]]))
    opening = [whole.brackets[0]] + ["("] * len(cuts)
    closing = [")"] * len(cuts) + [whole.brackets[1]]
    return [Group(o + c, piece) for o, c, piece in zip(opening, closing, pieces, strict=True)]
