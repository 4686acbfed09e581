"""Whether one read answer equals another: each rule a function, the first that has a say decides.

`compare` is the entry. Whole numbers and fractions are exact; values that are not rational are compared by
`values.py`. The rules in words, with examples: docs/grading.md.
"""

from collections.abc import Callable, Sequence
from functools import partial

from eval.grader.exact import exact
from eval.grader.expression import Based, Call, Clock, Group, Matrix, Name, Node, Number, Quantity, Relation, Words
from eval.grader.forms import FREE, plain_form
from eval.grader.intervals import interval_parts, intervals, is_inequality, variable
from eval.grader.labels import label_of, last_side, usual
from eval.grader.reader import negative
from eval.grader.scalars import by_degrees, by_value, degrees, is_radians
from eval.grader.units import may_be_said, needed, same_unit
from eval.grader.values import names, proportional
from eval.grader.verdicts import Kind, Told, all_of, matched, told


def compare(given: Node, reference: Node, kind: Kind = "math") -> Told:
    """Whether a read answer equals a read reference. Raises TooMuch or Undefined where values cannot be worked out."""
    if given == reference:
        return "correct", "structure"
    given, reference = plain_form(given), plain_form(reference)
    if given == reference:
        return "correct", "structure"
    for rule in _RULES:
        found = rule(given, reference, kind)
        if found is not None:
            return found
    return by_value(given, reference, kind)


# Each rule: (given, reference, kind) -> a verdict, or None where it has no say

Rule = Callable[[Node, Node, Kind], Told | None]


def _by_modulus(given: Node, reference: Node, kind: Kind) -> Told | None:
    if not (isinstance(reference, Call) and reference.what == "mod"):
        residue = last_side(given.args[0]) if isinstance(given, Call) and given.what == "mod" else None
        return compare(residue, reference, kind) if residue is not None else None
    if not (isinstance(given, Call) and given.what == "mod"):
        return "wrong", "a residue without its modulus"
    a, b = last_side(given.args[0]), last_side(reference.args[0])
    if a is None or b is None:
        return "wrong", "a congruence that is no value"
    values = [exact(node) for node in (a, given.args[1], b, reference.args[1])]
    if None in values or not values[1]:
        return told(given == reference, "residue")
    x, modulus, y, other = (v for v in values if v is not None)
    return told(modulus == other and (x - y) % modulus == 0, "residue")


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
    return matched(found, wanted, partial(_same_interval, kind=kind)), "intervals"


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
    value = _value_of(given) or _stated_value(given)
    if value is None:
        return "wrong", "an equation for a value"
    return compare(value, reference, kind)


def _stated_value(given: Relation) -> Node | None:
    """The value in `a + b = 5`, `|z| = 5` and `5 = x`: the side without a variable, where the other has one."""
    if len(given.sides) != 2 or given.signs[0] not in ("=", "approx"):
        return None
    left, right = given.sides
    if names(left) and not names(right) and not isinstance(left, Group):
        return right
    return left if isinstance(right, Name) and not names(left) else None


def _to_relation(given: Node, reference: Relation, kind: Kind) -> Told:
    label, value = label_of(reference), _value_of(reference)
    if not isinstance(given, Relation):
        if "approx" in reference.signs:
            candidates = [s for s in reference.sides if s != label]
            return told(any(compare(given, c, kind)[0] == "correct" for c in candidates), "value")
        return compare(given, value, kind) if value is not None else ("wrong", "a value for an equation")
    if value is not None:
        name, found = label_of(given), _value_of(given)
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
    return told(sign != 0 and given.signs[0] == asked, "equation", "another equation")


def _value_of(relation: Relation) -> Node | None:
    """What `x = 2 + 3 = 5` says x is; None if it is no such statement, or a false one."""
    if any(s not in ("=", "approx", "equiv", "in") for s in relation.signs):
        return None
    label = label_of(relation)
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
        if not isinstance(given, Group):
            return None
        parts = given.parts if given.brackets in FREE else ()
        same = len(parts) > 1 and all(compare(part, reference, kind)[0] == "correct" for part in parts)
        return ("correct", "one value said twice") if same else ("wrong", "several answers for one")
    if isinstance(given, Matrix) and reference.brackets in ("()", "<>") and 1 in _shape(given):
        entries = [entry for row in given.rows for entry in row]
        return _in_order(entries, reference.parts, kind)
    if not isinstance(given, Group):
        return "wrong", "one answer for several"
    if reference.brackets in FREE:
        if given.brackets not in FREE:
            return "wrong", "another kind of bracket"
        return _members(given, reference, kind)
    named = _named_values(given) if given.brackets in FREE else None
    if named is not None:
        in_order = _in_order(named, reference.parts, kind)
        return in_order if reference.brackets in ("()", "<>") else ("wrong", "no interval")
    if given.brackets != reference.brackets and {given.brackets, reference.brackets} != {"()", "<>"}:
        return "wrong", "another kind of bracket"
    return _in_order(given.parts, reference.parts, kind)


def _members(given: Group, reference: Group, kind: Kind) -> Told:
    """Members in any order; values for the reference's names, `x=1, y=2`, in the order of the names."""
    wanted = _named_values(reference)
    if wanted is not None and not any(isinstance(part, Relation) for part in given.parts):
        return _in_order(given.parts, wanted, kind)
    return matched(given.parts, reference.parts, partial(compare, kind=kind)), "members in any order"


def _named_values(group: Group) -> list[Node] | None:
    """The values of `x = 1, y = 2`, in the order in which such names are usually put; None if it is no such list."""
    pairs = [(label_of(p), _value_of(p)) for p in group.parts if isinstance(p, Relation)]
    names_ = [label.text for label, _ in pairs if isinstance(label, Name)]
    values = [value for _, value in pairs if value is not None]
    if not len(group.parts) == len(pairs) == len(names_) == len(set(names_)) == len(values):
        return None
    order = sorted(range(len(names_)), key=lambda i: names_[i]) if usual(names_) else range(len(names_))
    return [values[i] for i in order]


def _shape(matrix: Matrix) -> tuple[int, int]:
    return len(matrix.rows), len(matrix.rows[0])


def _in_order(given: Sequence[Node], reference: Sequence[Node], kind: Kind) -> Told:
    if len(given) != len(reference):
        return "wrong", "another number of parts"
    return all_of(compare(g, r, kind)[0] for g, r in zip(given, reference, strict=True)), "parts in order"


def _by_matrix(given: Node, reference: Node, kind: Kind) -> Told | None:
    if not isinstance(reference, Matrix):
        vector = isinstance(reference, Group) and reference.brackets in ("()", "<>")
        return ("wrong", "a matrix for a value") if isinstance(given, Matrix) and not vector else None
    if isinstance(given, Group) and given.brackets in ("()", "<>") and 1 in _shape(reference):
        return _in_order(given.parts, [entry for row in reference.rows for entry in row], kind)
    if not isinstance(given, Matrix) or _shape(given) != _shape(reference):
        return "wrong", "no matrix of this shape"
    pairs = [(g, r) for a, b in zip(given.rows, reference.rows, strict=True) for g, r in zip(a, b, strict=True)]
    return all_of(compare(g, r, kind)[0] for g, r in pairs), "matrix"


def _by_kind(given: Node, reference: Node, kind: Kind) -> Told | None:
    """Words, times of day, ratios and numbers in a base equal only their own kind."""
    if isinstance(reference, Words) or isinstance(given, Words):
        return told(given == reference, "words")
    if isinstance(reference, Clock) or isinstance(given, Clock):
        if isinstance(given, Call) and given.what == "ratio" and isinstance(reference, Clock):
            at = _seconds(given)
            whole_day = at is not None and not 3600 <= at < 13 * 3600  # as 16:30 or 00:20 can only be written
            return told(whole_day and at == reference.seconds, "time of day")
        return told(given == reference, "time of day")
    if isinstance(reference, Based):
        same = isinstance(given, Based) and given == reference
        return told(same, "base", "not in the base of the reference")
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
    if any(exact(term) == 0 for term in (*given.args, *reference.args)):  # 12:00 is no multiple of 5:00
        return _in_order(given.args, reference.args, kind)
    first, wanted = given.args[0], reference.args[0]
    return (
        all_of(
            compare(Call("*", (g, wanted)), Call("*", (r, first)), kind)[0]
            for g, r in zip(given.args[1:], reference.args[1:], strict=True)
        ),
        "ratio",
    )


def _by_unit(given: Node, reference: Node, kind: Kind) -> Told | None:
    """Units and percent count where the reference has them; where it has none, they may be said."""
    if isinstance(reference, Quantity):
        if not isinstance(given, Quantity):
            if _is_percent(given) or degrees(given) is not None or is_radians(given):
                return "wrong", "not the unit of the reference"
            if needed(reference.unit) and kind != "math":
                return "wrong", "without the unit of the reference"
            return compare(given, reference.value, kind)
        worth = same_unit(given.unit, reference.unit)
        if worth is None:
            return "wrong", "not the unit of the reference"
        value = given.value if worth == 1 else Call("*", (given.value, Number(worth)))
        return compare(value, reference.value, kind)
    if isinstance(given, Quantity):
        if not may_be_said(given.unit):
            return "wrong", "words behind the value that change it"
        return compare(given.value, reference, kind)
    if _is_percent(reference) and not _is_percent(given) and kind == "math":
        assert isinstance(reference, Call)
        if compare(given, reference.args[0], kind)[0] == "correct":
            return "correct", "percent left out"
    if _is_percent(given) and not _is_percent(reference):
        # 50 % for 50, as its unit, but 50 % for 0.5, as its value: never both for one reference
        fixed = exact(reference)
        if fixed is not None and abs(fixed) > 1:
            assert isinstance(given, Call)
            return compare(given.args[0], reference, kind)[0], "percent as the unit"
    return None


def _is_percent(node: Node) -> bool:
    return isinstance(node, Call) and node.what == "%"


_RULES: tuple[Rule, ...] = (
    _by_modulus,
    _by_interval,
    _by_equation,
    _by_matrix,
    _by_several,
    _by_kind,
    _by_unit,
    by_degrees,
)
