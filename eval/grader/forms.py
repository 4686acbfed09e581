"""One form for what can be written in several ways: both signs of ±, a name carried along a list, sets as intervals."""

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from eval.grader.nodes import NUMERALS, Call, Group, Matrix, Name, Node, Number, Quantity, Relation, Words, walk
from eval.grader.terms import negative
from eval.grader.values import approximately

FREE = ("", "{}", "&", "|")  # brackets of what has no order
OO = Name("oo")
REALS = Group("()", (Call("neg", (OO,)), OO))
_MEANINGS: dict[str, Node] = {
    "infinity": OO,
    "dne": Words("does not exist"),
    **dict.fromkeys(("all real numbers", "all reals", "real numbers"), REALS),
    **dict.fromkeys(("no solution", "no solutions", "none", "empty set", "no real solution", "no real solutions"),
                    Name("∅")),
    **{word: Number(value) for word, value in NUMERALS.items()},
}  # fmt: skip


def plain_form(node: Node) -> Node:
    """±, number words and sets of one in the form in which they are compared."""
    if isinstance(node, Words):
        text = re.sub(r"^(?:the|an|a) (?=\w\w)", "", node.text)
        return _MEANINGS.get(text) or Words(text)
    if node == Name("mathbb R"):
        return REALS
    if isinstance(node, Relation) and _signed(node.sides[-1]) and set(node.signs) == {"="}:
        return Group("", tuple(Relation((*node.sides[:-1], v), node.signs) for v in _both_signs(node.sides[-1])))
    if _signed(node) and not (isinstance(node, Group) and node.brackets in FREE):
        return Group("", tuple(_both_signs(node)))
    if isinstance(node, Call) and node.what == "∪":  # of finite sets
        sides = [plain_form(arg) for arg in node.args]
        if all(isinstance(side, Group) and side.brackets == "{}" for side in sides):
            node = Group("{}", tuple(part for side in sides if isinstance(side, Group) for part in side.parts))
    if isinstance(node, Call) and node.what in ("*", "/", "neg") and isinstance(node.args[node.what == "*"], Matrix):
        return _scaled(node)
    if isinstance(node, Group) and node.brackets in FREE:
        parts = tuple(v for part in node.parts for v in (_both_signs(part) if _signed(part) else [part]))
        if node.brackets == "{}":  # a set has each member once
            parts = tuple(dict.fromkeys(parts))
        alone = len(parts) == 1 and parts[0] != Name("∅")
        return parts[0] if alone else Group(node.brackets, parts)
    return node


def _scaled(node: Call) -> Node:
    """`\\frac12 \\begin{pmatrix}...`: a number times a matrix, as the matrix that it is."""
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
        return _joined(map(interval_parts, node.args))
    if isinstance(node, Call) and node.what == "∖":
        return _without_points(*node.args)
    if isinstance(node, Relation):
        return _interval_of(node)
    if not isinstance(node, Group):
        return None
    if node.brackets in ("", "&", "|") and all(isinstance(p, Relation) for p in node.parts):
        if len({variable(p) for p in node.parts}) > 1:
            return None  # `x > 1, y < 3` is no interval
        each = _joined(_interval_of(p) for p in node.parts if isinstance(p, Relation))
        crossed = _crossed(each) if each and node.brackets != "|" else None
        return crossed if crossed or node.brackets == "&" else each
    if node.brackets == "|":  # `(-\\infty, -1) \\text{ or } (1, \\infty)`
        return _joined(map(intervals, node.parts))
    ends = node.brackets in ("()", "[]") and len(node.parts) == 2 and any(map(endless, node.parts))
    return [node] if ends or node.brackets in ("(]", "[)") else None


def _joined(each: Iterable[list[Node] | None]) -> list[Node] | None:
    joined = list[Node]()
    for found in each:
        if found is None:
            return None
        joined += found
    return joined


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


def _crossed(intervals: list[Node]) -> list[Node] | None:
    """The part that two half-lines share, `x > 1` and `x < 5`; None if that is not one interval."""
    halves = [i for i in intervals if isinstance(i, Group)]
    above = [i for i in halves if endless(i.parts[1])]
    below = [i for i in halves if endless(i.parts[0])]
    if not len(intervals) == 2 == len(halves) == len(above) + len(below) == 2 * len(above):
        return None
    low, high = approximately(above[0].parts[0]), approximately(below[0].parts[1])
    if low is None or high is None or low >= high:
        return None
    return [Group(above[0].brackets[0] + below[0].brackets[1], (above[0].parts[0], below[0].parts[1]))]


def _without_points(whole: Node, points: Node) -> list[Node] | None:
    """An interval, cut at points inside of it: `\\mathbb{R} \\setminus \\{3\\}`."""
    whole = plain_form(whole)
    if not isinstance(whole, Group) or len(whole.parts) != 2:
        return None
    if not isinstance(points, Group) or points.brackets != "{}":
        return None
    low, high = (
        math.inf * sign if endless(end) else approximately(end) for sign, end in zip((-1, 1), whole.parts, strict=True)
    )
    cuts = [(approximately(point), point) for point in points.parts]
    if low is None or high is None or any(value is None or not low < value < high for value, _ in cuts):
        return None
    inner = [point for _, point in sorted(cuts, key=lambda pair: pair[0] or Fraction(0))]
    pieces = list(pairwise([whole.parts[0], *inner, whole.parts[1]]))
    opening = [whole.brackets[0]] + ["("] * len(inner)
    closing = [")"] * len(inner) + [whole.brackets[1]]
    return [Group(o + c, piece) for o, c, piece in zip(opening, closing, pieces, strict=True)]
