"""One form for what can be written in several ways: both signs of ±, a name carried along a list, a scaled matrix."""

import re

from eval.grader.expression import Call, Group, Matrix, Name, Node, Number, Quantity, Relation, Words, walk
from eval.grader.numerals import NUMERALS
from eval.grader.reader import negative

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
