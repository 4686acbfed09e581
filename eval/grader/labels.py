"""What an equation has on its left where that is only a name for the value: `x`, `AB`, `f(x)`, `Area`, `dy/dx`."""

from collections.abc import Sequence

from eval.grader.expression import Call, Group, Name, Node, Relation, Words, walk
from eval.grader.reader import FUNCTIONS


def label_of(relation: Relation) -> Node | None:
    """The left side of `x = 5`, `AB = 5`, `f(x) = 5` or `Area = 5`, where it is only a name for the value."""
    first = relation.sides[0]
    if relation.signs[0] not in ("=", "approx", "equiv", "in"):
        return None
    if isinstance(first, Words):
        return first
    inside = set(walk(relation.sides[-1]))
    if isinstance(first, Name):
        return None if first.text in ("pi", "e", "i", "oo") or first in inside else first
    if isinstance(first, Group):
        return _of_several(first, relation.sides[-1])
    if not isinstance(first, Call):
        return None
    if first.what == "abs":  # |AB| = 5
        inner = label_of(Relation((first.args[0], relation.sides[-1]), ("=",)))
        return first if isinstance(inner, Call) else None
    if first.what == "of" or (first.what in FUNCTIONS and all(isinstance(a, Name) for a in first.args)):
        return None if set(walk(first.args[0])) & inside and first.what == "of" else first
    if first.what == "/" and all(isinstance(_factors(arg)[0], Name) for arg in first.args):
        both = [_factors(arg)[0] for arg in first.args]
        return first if both == [Name("d"), Name("d")] else None  # dy/dx
    return first if _is_segment(first) and not set(_factors(first)) & inside else None


def _of_several(first: Group, last: Node) -> Node | None:
    """`(x, y) = (1, 2)`, unless the names stand in another order than the usual one."""
    named = [part.text for part in first.parts if isinstance(part, Name)]
    if not isinstance(last, Group) or not len(named) == len(first.parts) == len(last.parts):
        return None
    return first if named == sorted(named) or not usual(named) else None


def _is_segment(product: Call) -> bool:
    """`AB`, `ABC`, `\\angle ABC`, `m\\angle ABC`: capitals that name one thing."""
    factors = [f.text for f in _factors(product) if isinstance(f, Name)]
    if len(factors) != len(_factors(product)):
        return False
    while factors and (factors[0] in ("angle", "triangle") or factors[:2] in (["m", "angle"], ["m", "triangle"])):
        factors.pop(0)
    return 1 <= len(factors) <= 5 and all(len(f) == 1 and f.isupper() for f in factors)


def _factors(node: Node) -> list[Node]:
    if isinstance(node, Call) and node.what == "*":
        return _factors(node.args[0]) + _factors(node.args[1])
    return [node]


def usual(names: Sequence[str]) -> bool:
    """Whether names have an order of their own: x, y, z or a, b, c; others stand in the order they are written."""
    return any(set(names) <= set(known) for known in ("xyz", "abcd", "uvw", "pqrs"))


def last_side(node: Node) -> Node | None:
    """What `x \\equiv 5` says x is, or the node itself where it says nothing of a name."""
    if not isinstance(node, Relation):
        return node
    return node.sides[-1] if isinstance(node.sides[0], Name) else None
