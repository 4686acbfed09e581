"""Whether one read answer equals another: each rule a function, the first that has a say decides.

`compare` is the entry. Whole numbers and fractions are exact; values that are not rational are compared by
`eval/values.py`. The rules in words, with examples: docs/grading.md.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Literal

from eval.expression import Based, Call, Clock, Group, Matrix, Name, Node, Number, Quantity, Relation, Words, walk
from eval.forms import FREE, plain_form
from eval.intervals import interval_parts, intervals, is_inequality, variable
from eval.reader import negative
from eval.units import needed, same_unit
from eval.values import TooMuch, Undefined, approximately, exact, names, proportional, same_value

Verdict = Literal["correct", "wrong", "unsure"]
Kind = Literal["math", "physics", "choice"]
Told = tuple[Verdict, str]
MAX_PARTS = 200  # of a list
ROUNDED = Fraction(1, 500)  # a decimal reference may be a rounded value if its last place is this fine, relatively
PHYSICS = Fraction(1, 50)  # and in scientific notation or a physics benchmark if it is this fine


def compare(given: Node, reference: Node, kind: Kind = "math") -> Told:
    """Whether a read answer equals a read reference. Raises TooMuch or Undefined where values cannot be worked out."""
    if given == reference:
        return "correct", "structure"
    given, reference = plain_form(given), plain_form(reference)
    if given == reference:
        return "correct", "structure"
    for rule in _RULES:
        told = rule(given, reference, kind)
        if told is not None:
            return told
    return _scalars(given, reference, kind)


def _told(same: bool, how: str, why: str = "") -> Told:
    return ("correct", how) if same else ("wrong", why or how)


def tolerance(reference: Node, kind: Kind = "math") -> Fraction:
    """How far an answer may be from a reference: half a unit of its last place where it can be a rounded value.

    That is: a decimal whose last place is at most ROUNDED of it (3.14, but not 2.5, which is more likely exact), any
    number in scientific notation with a decimal point or a negative exponent, and any decimal of a physics benchmark;
    the last two to PHYSICS of the value at most. Zero for everything else: integers and fractions are exact.
    """
    if isinstance(reference, Call) and reference.what in ("%", "neg", "deg", "rad"):
        return tolerance(reference.args[0], kind) / (100 if reference.what == "%" else 1)
    if not isinstance(reference, Number) or reference.step is None or not reference.value:
        return Fraction(0)
    half, size = reference.step / 2, abs(reference.value)
    if reference.scientific or kind == "physics":
        return min(half, size * PHYSICS)
    return half if half <= size * ROUNDED else Fraction(0)


# Each rule: (given, reference, kind) -> a verdict, or None where it has no say

Rule = Callable[[Node, Node, Kind], Told | None]


def _by_modulus(given: Node, reference: Node, kind: Kind) -> Told | None:
    if not (isinstance(reference, Call) and reference.what == "mod"):
        return None
    if not (isinstance(given, Call) and given.what == "mod"):
        return "wrong", "a residue without its modulus"
    (a, m), (b, n) = given.args, reference.args
    a, b = _last_side(a), _last_side(b)
    values = [exact(node) for node in (a, m, b, n)]
    if None in values or not values[1]:
        return _told(given == reference, "residue")
    x, modulus, y, other = (v for v in values if v is not None)
    return _told(modulus == other and (x - y) % modulus == 0, "residue")


def _last_side(node: Node) -> Node:
    return node.sides[-1] if isinstance(node, Relation) else node


def _by_interval(given: Node, reference: Node, kind: Kind) -> Told | None:
    """Intervals, their unions, and the inequalities that say the same."""
    wanted = intervals(reference)
    if wanted is None and is_inequality(given):
        wanted = interval_parts(reference)  # beside an inequality, a pair is an interval
    if wanted is None:
        return None
    if not isinstance(given, Relation | Group | Call | Name):
        return "wrong", "no interval"
    found = interval_parts(given) if is_inequality(reference) else intervals(given)
    if found is None:
        return None if isinstance(reference, Relation) else ("wrong", "no interval")
    name, asked = variable(given), variable(reference)
    if name and asked and name != asked:
        return "wrong", "an inequality in another variable"
    return _matched(found, wanted, kind, _same_interval), "intervals"


def _same_interval(given: Node, reference: Node, kind: Kind) -> Told:
    if not (isinstance(given, Group) and isinstance(reference, Group)):
        return compare(given, reference, kind)
    if given.brackets != reference.brackets:
        return "wrong", "another kind of bracket"
    return _in_order(given.parts, reference.parts, kind)


def _by_equation(given: Node, reference: Node, kind: Kind) -> Told | None:
    if isinstance(reference, Relation):
        return _to_relation(given, reference, kind)
    if not isinstance(given, Relation):
        return None
    value = _value_of(given)
    if value is None:
        return "wrong", "an equation for a value"
    return compare(value, reference, kind)


def _to_relation(given: Node, reference: Relation, kind: Kind) -> Told:
    label, value = _label(reference), _value_of(reference)
    if not isinstance(given, Relation):
        if "approx" in reference.signs:
            candidates = [s for s in reference.sides if s != label]
            return _told(any(compare(given, c, kind)[0] == "correct" for c in candidates), "value")
        return compare(given, value, kind) if value is not None else ("wrong", "a value for an equation")
    if value is not None:
        name, found = _label(given), _value_of(given)
        if found is not None and name == label:
            return compare(found, value, kind)
        if found is not None and not names(value) and not names(found):
            return "wrong", "another name"
    if len(given.sides) != 2 or len(reference.sides) != 2:
        return "wrong", "another relation"
    return _proportional(given, reference)


def _proportional(given: Relation, reference: Relation) -> Told:
    """Two equations or inequalities are one if their sides' differences are proportional."""
    turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    a, b = (Call("+", (r.sides[0], negative(r.sides[1]))) for r in (given, reference))
    sign = proportional(a, b)
    asked = reference.signs[0] if sign >= 0 else turned.get(reference.signs[0], reference.signs[0])
    return _told(sign != 0 and given.signs[0] == asked, "equation", "another equation")


def _label(relation: Relation) -> Node | None:
    """The left side of `x = 5`, `AB = 5` or `f(x) = 5`, where it is only a name for the value."""
    first = relation.sides[0]
    if relation.signs[0] not in ("=", "approx", "equiv", "in"):
        return None
    if isinstance(first, Name):
        return None if first.text in ("pi", "e", "i", "oo") or first in walk(relation.sides[-1]) else first
    if (
        isinstance(first, Group)
        and isinstance(relation.sides[-1], Group)
        and len(first.parts) == len(relation.sides[-1].parts)
    ):
        named = [p.text for p in first.parts if isinstance(p, Name)]
        return first if named == sorted(named) and len(named) == len(first.parts) else None
    if isinstance(first, Call) and first.what == "*":
        factors = _factors(first)
        capitals = [f for f in factors if isinstance(f, Name) and f.text[0].isupper()]
        called = isinstance(factors[0], Name) and factors[0].text.rstrip("'") in "fghFGHPpTSauyQ"
        if len(capitals) == len(factors) <= 4 and not set(factors) & set(walk(relation.sides[-1])):
            return first
        if called and len(factors) == 2 and factors[0] not in set(walk(relation.sides[-1])):
            return first
    return None


def _factors(node: Node) -> list[Node]:
    if isinstance(node, Call) and node.what == "*":
        return _factors(node.args[0]) + _factors(node.args[1])
    return [node]


def _value_of(relation: Relation) -> Node | None:
    """What `x = 2 + 3 = 5` says x is; None if it is no such statement, or a false one."""
    if any(s not in ("=", "approx", "equiv", "in") for s in relation.signs):
        return None
    label = _label(relation)
    sides = relation.sides if label is None else relation.sides[1:]
    signs = relation.signs if label is None else relation.signs[1:]
    if label is None and names(sides[0]) and (len(sides) == 2 or not _all_same(sides)):
        return None
    if len(sides) == 1:
        return sides[0]
    exact_sides = [s for i, s in enumerate(sides) if i == 0 or signs[i - 1] == "="]
    if not _all_same(exact_sides):
        return None
    return exact_sides[-1]


def _all_same(sides: Sequence[Node]) -> bool:
    return all(compare(side, sides[0])[0] == "correct" for side in sides[1:])


def _by_several(given: Node, reference: Node, kind: Kind) -> Told | None:
    """Lists and sets, whose order is free; tuples and intervals, whose order and brackets are not."""
    if not isinstance(reference, Group):
        if isinstance(given, Group) and given.brackets in FREE:
            return "wrong", "several answers for one"
        return ("wrong", "several answers for one") if isinstance(given, Group) else None
    if isinstance(given, Matrix) and reference.brackets in ("()", "<>") and 1 in _shape(given):
        entries = [entry for row in given.rows for entry in row]
        return _in_order(entries, reference.parts, kind)
    if not isinstance(given, Group):
        return "wrong", "one answer for several"
    if reference.brackets in FREE:
        if given.brackets not in FREE:
            return "wrong", "another kind of bracket"
        return _matched(given.parts, reference.parts, kind), "members in any order"
    if given.brackets in FREE and all(isinstance(p, Relation) and isinstance(_label(p), Name) for p in given.parts):
        values = sorted((str(_label(p)), i, _value_of(p)) for i, p in enumerate(given.parts) if isinstance(p, Relation))
        found = [v for _, _, v in values if v is not None]
        return (
            _in_order(found, reference.parts, kind) if reference.brackets in ("()", "<>") else ("wrong", "no interval")
        )
    if given.brackets != reference.brackets and {given.brackets, reference.brackets} != {"()", "<>"}:
        return "wrong", "another kind of bracket"
    return _in_order(given.parts, reference.parts, kind)


def _shape(matrix: Matrix) -> tuple[int, int]:
    return len(matrix.rows), len(matrix.rows[0])


def _in_order(given: Sequence[Node], reference: Sequence[Node], kind: Kind) -> Told:
    if len(given) != len(reference):
        return "wrong", "another number of parts"
    return _all(compare(g, r, kind)[0] for g, r in zip(given, reference, strict=True)), "parts in order"


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    seen = set(verdicts)
    return "wrong" if "wrong" in seen else "unsure" if "unsure" in seen else "correct"


def _matched(
    given: Sequence[Node], reference: Sequence[Node], kind: Kind, same: Callable[[Node, Node, Kind], Told] | None = None
) -> Verdict:
    """Whether each member of one is one member of the other. Members written alike pair off first, which is fast."""
    if len(given) != len(reference):
        return "wrong"
    left, missing = list(given), list[Node]()
    for part in reference:
        if part in left:
            left.remove(part)
        else:
            missing.append(part)
    if len(missing) > MAX_PARTS // 10:
        return "unsure"
    doubtful = False
    for part in missing:
        verdicts = [(same or compare)(g, part, kind)[0] for g in left]
        if "correct" not in verdicts:
            if "unsure" not in verdicts:
                return "wrong"
            doubtful = True
            continue
        left.pop(verdicts.index("correct"))
    return "unsure" if doubtful else "correct"


def _by_matrix(given: Node, reference: Node, kind: Kind) -> Told | None:
    if not isinstance(reference, Matrix):
        return ("wrong", "a matrix for a value") if isinstance(given, Matrix) else None
    if isinstance(given, Group) and given.brackets in ("()", "<>") and 1 in _shape(reference):
        return _in_order(given.parts, [entry for row in reference.rows for entry in row], kind)
    if not isinstance(given, Matrix) or _shape(given) != _shape(reference):
        return "wrong", "no matrix of this shape"
    pairs = [(g, r) for a, b in zip(given.rows, reference.rows, strict=True) for g, r in zip(a, b, strict=True)]
    return _all(compare(g, r, kind)[0] for g, r in pairs), "matrix"


def _by_kind(given: Node, reference: Node, kind: Kind) -> Told | None:
    """Words, times of day, ratios and numbers in a base equal only their own kind."""
    if isinstance(reference, Words) or isinstance(given, Words):
        return _told(given == reference, "words")
    if isinstance(reference, Clock) or isinstance(given, Clock):
        if isinstance(given, Call) and given.what == "ratio" and isinstance(reference, Clock):
            at = _seconds(given)
            whole_day = at is not None and not 3600 <= at < 13 * 3600  # as 16:30 or 00:20 can only be written
            return _told(whole_day and at == reference.seconds, "time of day")
        return _told(given == reference, "time of day")
    if isinstance(reference, Based):
        same = isinstance(given, Based) and given == reference
        return _told(same, "base", "not in the base of the reference")
    if isinstance(reference, Call) and reference.what == "ratio":
        return _ratios(given, reference, kind)
    if isinstance(given, Call) and given.what == "ratio" and len(given.args) == 2:
        return compare(Call("/", given.args), reference, kind)
    return None


def _seconds(ratio: Call) -> int | None:
    """`16:30` as a time of the day."""
    values = [exact(a) for a in ratio.args]
    if any(v is None or v.denominator != 1 for v in values) or not 2 <= len(values) <= 3:
        return None
    hours, minutes, seconds = [*(int(v) for v in values if v is not None), 0][:3]
    return hours * 3600 + minutes * 60 + seconds


def _ratios(given: Node, reference: Call, kind: Kind) -> Told:
    """`3:2` equals `6:4` and `3/2`; of three terms, all in proportion."""
    if not (isinstance(given, Call) and given.what == "ratio"):
        if len(reference.args) != 2 or isinstance(given, Group):
            return "wrong", "no ratio"
        return compare(given, Call("/", reference.args), kind)
    if len(given.args) != len(reference.args):
        return "wrong", "another number of terms"
    first, wanted = given.args[0], reference.args[0]
    return (
        _all(
            compare(Call("*", (g, wanted)), Call("*", (r, first)), kind)[0]
            for g, r in zip(given.args[1:], reference.args[1:], strict=True)
        ),
        "ratio",
    )


def _by_unit(given: Node, reference: Node, kind: Kind) -> Told | None:
    """Units and percent count where the reference has them; where it has none, they may be said."""
    if isinstance(reference, Quantity):
        if not isinstance(given, Quantity):
            if needed(reference.unit):
                return "wrong", "without the unit of the reference"
            return compare(given, reference.value, kind)
        worth = same_unit(given.unit, reference.unit)
        if worth is None:
            return "wrong", "not the unit of the reference"
        value = given.value if worth == 1 else Call("*", (given.value, Number(worth)))
        return compare(value, reference.value, kind)
    if isinstance(given, Quantity):
        return compare(given.value, reference, kind)
    if _is_percent(given) and not _is_percent(reference):
        # 50 % for 50, as its unit, but 50 % for 0.5, as its value: never both for one reference
        fixed = exact(reference)
        if fixed is not None and abs(fixed) > 1:
            assert isinstance(given, Call)
            return compare(given.args[0], reference, kind)[0], "percent as the unit"
    return None


def _is_percent(node: Node) -> bool:
    return isinstance(node, Call) and node.what == "%"


def _by_degrees(given: Node, reference: Node, kind: Kind) -> Told | None:
    """A degree sign may be left out or said; otherwise degrees are worth pi/180 each."""
    ours, theirs = _degrees(given), _degrees(reference)
    if (ours is None and theirs is None) or _is_radians(given):
        return None
    if ours is not None and theirs is not None:
        return _scalars(ours, theirs, kind)
    verdict, how = _scalars(ours or given, theirs or reference, kind)
    return (verdict, how) if verdict == "correct" else _scalars(given, reference, kind)


def _is_radians(node: Node) -> bool:
    return isinstance(node, Call) and node.what == "rad"


def _degrees(node: Node) -> Node | None:
    """How many degrees an angle is, if it is written in degrees."""
    if not isinstance(node, Call):
        return None
    if node.what == "deg":
        return node.args[0]
    if node.what in ("neg", "+"):
        parts = [_degrees(arg) for arg in node.args]
        return None if any(p is None for p in parts) else Call(node.what, tuple(p for p in parts if p is not None))
    if node.what == "*":
        inner = _degrees(node.args[1])
        return None if inner is None else Call("*", (node.args[0], inner))
    return None


_RULES: tuple[Rule, ...] = (
    _by_modulus,
    _by_interval,
    _by_equation,
    _by_matrix,
    _by_several,
    _by_kind,
    _by_unit,
    _by_degrees,
)


def _scalars(given: Node, reference: Node, kind: Kind) -> Told:
    """Two values: exactly where both are rational, within the reference's own precision, to fifty digits otherwise."""
    special = [n.text for e in (given, reference) for n in walk(e) if isinstance(n, Name) and n.text in _NO_NUMBER]
    if special:
        return "wrong", f"not the same as {special[-1]}"
    try:
        found, wanted = exact(given), exact(reference)
    except Undefined:
        return "wrong", "division by zero"
    except TooMuch:  # as exact numbers: their first digits may tell them apart, but not prove them equal
        if same_value(given, reference):
            raise
        return "wrong", "value"
    within = tolerance(reference, kind)
    if found is not None and wanted is not None:
        return _told(found == wanted or abs(found - wanted) <= within, "number")
    if within:
        near = approximately(given)
        value = exact(reference)
        if near is not None and value is not None and abs(near - value) <= within:
            return "correct", "the reference is this value, rounded"
    return _told(same_value(given, reference), "value")


_NO_NUMBER = {"oo", "∅", "...", "mathbb R", "mathbb Z", "mathbb C", "mathbb Q", "mathbb N"}
