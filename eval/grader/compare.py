"""Decides whether one parsed answer equals another. Each rule is a function, and the first rule that applies decides.

`compare` is the entry. Whole numbers and fractions are exact; values that are not rational are compared by
`values.py`. The rules in words, with examples: docs/grading.md.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import pairwise

from eval.grader.forms import FREE, is_set, label_of, plain_form, renamed, same_set, usual
from eval.grader.nodes import (
    Based,
    Call,
    Clock,
    Group,
    Kind,
    Matrix,
    Name,
    Node,
    Number,
    Quantity,
    Relation,
    Ruling,
    Verdict,
    Words,
    below,
    changes_value,
    may_be_said,
    needed,
    negative,
    rebuilt,
    rule_by,
    same_unit,
    walk,
)
from eval.grader.values import by_degrees, by_value, degrees, exact, is_radians, names, proportional

MAX_UNLIKE = 20  # members of a list that are written unlike, each compared with each
MAX_WORDS = 4  # more are a sentence that may say anything


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine the verdicts of parts that must all be right."""
    seen = set(verdicts)
    return "wrong" if "wrong" in seen else "unsure" if "unsure" in seen else "correct"


def pair_off(given: Sequence[Node], reference: Sequence[Node], kind: Kind) -> Verdict:
    """Whether the members of two collections can be paired so that each pair is equal. Members that are written alike
    are paired first, which is fast.
    """
    if len(given) != len(reference):
        return "wrong"
    left, missing = list(given), list[Node]()
    for part in reference:
        if part in left:
            left.remove(part)
        else:
            missing.append(part)
    if len(missing) > MAX_UNLIKE:
        return "unsure"
    doubtful = False
    for part in missing:
        verdicts = [compare(g, part, kind)[0] for g in left]
        if "correct" in verdicts:
            left.pop(verdicts.index("correct"))
        elif "unsure" in verdicts:
            doubtful = True
        else:
            return "wrong"
    return "unsure" if doubtful else "correct"


def compare(given: Node, reference: Node, kind: Kind = "math") -> Ruling:
    """Whether a read answer equals a read reference. Raises TooMuch or Undefined where values cannot be worked out."""
    given, reference = plain_form(given), plain_form(reference)
    if given == reference:
        return "correct", "structure"
    for rule in _RULES:
        found = rule(given, reference, kind)
        if found is not None:
            return found
    return by_value(_in_parameters_of(reference, given), reference, kind)


def _in_parameters_of(reference: Node, given: Node) -> Node:
    """Rename a free parameter of the given answer as in the reference: `2k\\pi` for `2n\\pi`, `x + c` for `x + C`."""
    ours, theirs = names(given) - names(reference), names(reference) - names(given)
    if not len(ours) == len(theirs) == 1:
        return given
    angles = ours | theirs <= {"k", "m", "n"} and all(Name("pi") in walk(node) for node in (given, reference))
    sums = isinstance(given, Call) and isinstance(reference, Call) and given.what == reference.what == "+"
    constants = ours | theirs == {"c", "C"} and sums and len(names(reference)) > 1
    return renamed(given, Name(*ours), Name(*theirs)) if angles or constants else given


# Each rule: (given, reference, kind) -> a verdict, or None where it has no say

Rule = Callable[[Node, Node, Kind], Ruling | None]


def _by_set(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Compare sets of numbers: intervals, their unions, and inequalities with the same solutions."""
    same = same_set(given, reference) if is_set(given) or is_set(reference) else None
    return None if same is None else rule_by(same, "intervals")


def _by_equation(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Compare an equation with a value, an equation with an equation, or a value with an equation."""
    if isinstance(reference, Relation):
        return _to_relation(given, reference, kind)
    if not isinstance(given, Relation):
        return None
    value = _value_of(given) or _stated_value(given)
    if value is None:
        return "wrong", "an equation for a value"
    ruling, first = compare(value, reference, kind), given.sides[0]
    unsolved = isinstance(first, Call) and first.what in ("+", "*", "/", "^") and len(names(first) - {"..."}) == 1
    plain = not isinstance(value, Matrix) and all(isinstance(n, Name | Number) for n in below(first))
    if unsolved and ruling[0] == "correct" and not names(value) and plain:
        return "unsure", "an equation that is not solved"  # x^2 = 5 for 5
    return ruling


def _value_of(relation: Relation) -> Node | None:
    """The value that `x = 2 + 3 = 5` gives x; None for any other form, or if one of its equalities is false."""
    if any(s not in ("=", "approx", "equiv", "in") for s in relation.signs):
        return None
    start = 0 if label_of(relation) is None else 1
    sides = relation.sides[start:]
    if not start and names(sides[0]) and not (names(sides[-1]) and _all_same(sides)):
        return None
    exact_sides = [side for side, sign in zip(sides, ("=", *relation.signs[start:]), strict=True) if sign == "="]
    return exact_sides[-1] if _all_same(exact_sides) else None


def _stated_value(given: Relation) -> Node | None:
    """The value that `a + b = 5`, `|z| = 5` or `n = 4 + 1 = 5` states: the last side, if the first side has a
    variable.
    """
    first, last = given.sides[0], given.sides[-1]
    if any(sign not in ("=", "approx", "equiv") for sign in given.signs) or isinstance(first, Group):
        return None
    closed = [side for side in given.sides if not names(side)]
    return last if names(first) and not names(last) and _all_same(closed) else None


def _all_same(sides: Sequence[Node]) -> bool:
    return all(compare(side, sides[0])[0] == "correct" for side in sides[1:])


def _to_relation(given: Node, reference: Relation, kind: Kind) -> Ruling:
    label, value = label_of(reference), _value_of(reference)
    if not isinstance(given, Relation):
        if "approx" in reference.signs:
            values = reference.sides[bool(names(reference.sides[0])) :]
            return rule_by(any(compare(given, value, kind)[0] == "correct" for value in values), "value")
        return compare(given, value, kind) if value is not None else ("wrong", "a value for an equation")
    found, name = _value_of(given), label_of(given)
    if value is not None and found is not None:
        functions = [n for n in (name, label) if isinstance(n, Call) and n.what == "of" and isinstance(n.args[1], Name)]
        same_function = len(functions) == 2 and functions[0].args[0] == functions[1].args[0]
        if same_function and functions[1].args[1] not in walk(found):  # f(t) = 2t for f(x) = 2x
            found, name = renamed(found, functions[0].args[1], functions[1].args[1]), label
        if name == label or (len(functions) == 1 and Name("y") in (name, label)):  # y = 2x for f(x) = 2x
            return compare(found, value, kind)
        if not names(value) and not names(found):
            return "wrong", "another name"
    if len(given.sides) != 2 or len(reference.sides) != 2:
        return "wrong", "another relation"
    # Two equations or inequalities are one if their sides' differences are proportional
    turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    sign = proportional(*(Call("+", (r.sides[0], negative(r.sides[1]))) for r in (given, reference)))
    asked = reference.signs[0] if sign >= 0 else turned.get(reference.signs[0], reference.signs[0])
    return rule_by(sign != 0 and given.signs[0] == asked, "equation", "another equation")


def _by_several(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Compare several values: lists and sets in any order; tuples and intervals in the same order and with the same
    brackets.
    """
    if not isinstance(reference, Group):
        if not isinstance(given, Group):
            return None
        if isinstance(reference, Call) and reference.what == "of" and isinstance(reference.args[1], Group):  # P(1, 2)
            return compare(given, reference.args[1], kind)
        parts = given.parts if given.brackets in FREE else ()
        last = parts[-1] if parts else None
        if isinstance(last, Relation) and _named_values(Group("", parts[:-1])) and isinstance(last.sides[0], Call):
            return compare(last, reference, kind)  # m = 3, n = 4, m + n = 7
        same = len(parts) > 1 and all(compare(part, reference, kind)[0] == "correct" for part in parts)
        return ("correct", "one value said twice") if same else ("wrong", "several answers for one")
    if not isinstance(given, Group):
        if isinstance(given, Call) and given.what == "of" and isinstance(given.args[0], Name):  # P(1, 2)
            return compare(given.args[1], reference, kind)
        same = reference.brackets == "|" and _all_same(reference.parts)  # \\frac38 or 0.375
        return compare(given, reference.parts[0], kind) if same else ("wrong", "one answer for several")
    free = [group.brackets in FREE for group in (given, reference)]
    named = [_named_values(group) if is_free else None for group, is_free in zip((given, reference), free, strict=True)]
    if all(free) and (named[1] is None or named[0] is not None):
        return pair_off(given.parts, reference.parts, kind), "members in any order"
    # x = 1, y = 2 is (1, 2), in the order of the names
    ours, theirs = (values or group.parts for values, group in zip(named, (given, reference), strict=True))
    brackets = {group.brackets for group, values in zip((given, reference), named, strict=True) if values is None}
    if brackets <= {"()", "<>"} or len(brackets) == 1 or (named[1] and given.brackets in FREE):
        return _in_order(ours, theirs, kind)
    return "wrong", "another kind of bracket"


def _named_values(group: Group) -> list[Node] | None:
    """The values of a list such as `x = 1, y = 2`, in the usual order of such names; None for any other form."""
    pairs = [(label_of(p), _value_of(p)) for p in group.parts if isinstance(p, Relation)]
    names_ = [label.text for label, _ in pairs if isinstance(label, Name)]
    values = [value for _, value in pairs if value is not None]
    if not len(group.parts) == len(pairs) == len(names_) == len(set(names_)) == len(values):
        return None
    order = sorted(range(len(names_)), key=lambda i: names_[i]) if usual(names_) else range(len(names_))
    return [values[i] for i in order]


def _in_order(given: Sequence[Node], reference: Sequence[Node], kind: Kind) -> Ruling:
    if len(given) != len(reference):
        return "wrong", "another number of parts"
    return all_of(compare(g, r, kind)[0] for g, r in zip(given, reference, strict=True)), "parts in order"


def _by_matrix(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Compare matrices entry by entry. A vector may also be a tuple, and a matrix a list of lists."""
    given, reference = _as_matrix(given), _as_matrix(reference)
    if not isinstance(given, Matrix) and not isinstance(reference, Matrix):
        return None
    if any(isinstance(node, Call) and any(isinstance(n, Matrix) for n in walk(node)) for node in (given, reference)):
        return "unsure", "matrices that are not worked out"
    shapes = [[len(row) for row in node.rows] if isinstance(node, Matrix) else None for node in (given, reference)]
    vectors = [_vector(given), _vector(reference)]
    if shapes[0] != shapes[1] and (None in vectors or None not in shapes):
        return "wrong", "no matrix of this shape"
    return _in_order(below(given), below(reference), kind)


def _as_matrix(node: Node) -> Node:
    """Convert a list of lists such as `[[1, 2], [3, 4]]` to a matrix."""
    if not isinstance(node, Group) or node.brackets != "[]":
        return node
    rows = tuple(part.parts for part in node.parts if isinstance(part, Group) and part.brackets == "[]")
    return Matrix(rows) if len(rows) == len(node.parts) and len({len(row) for row in rows}) == 1 else node


def _vector(node: Node) -> tuple[Node, ...] | None:
    if isinstance(node, Matrix) and 1 in (len(node.rows), len(node.rows[0])):
        return below(node)
    return node.parts if isinstance(node, Group) and node.brackets in ("()", "<>", "[]") else None


def _by_kind(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Compare words, times of day, ratios, and numbers in another base. Each equals only its own kind."""
    if isinstance(given, Words) and not isinstance(reference, Words) and len(given.text.split()) > MAX_WORDS:
        return "unsure", "a sentence for a value"
    if isinstance(reference, Words) or isinstance(given, Words):
        return rule_by(given == reference, "words")
    if isinstance(reference, Clock) or isinstance(given, Clock):
        ours, theirs = _minutes(given), _minutes(reference)
        return rule_by(bool(ours) and ours <= theirs, "time of day")
    if isinstance(reference, Based):
        return rule_by(given == reference, "base", "not in the base of the reference")
    if isinstance(reference, Call) and reference.what == "mod":
        return _residues(given, reference)
    if isinstance(given, Call) and given.what == "mod":
        return compare(given.args[0], reference, kind)
    if isinstance(reference, Call) and reference.what == "ratio":
        return _ratios(given, reference, kind)
    if isinstance(given, Call) and given.what == "ratio" and len(given.args) == 2:
        return compare(Call("/", given.args), reference, kind)
    return None


def _minutes(node: Node) -> set[Fraction]:
    """The minutes since midnight that a time can mean: one for 4:30 p.m., 16:30 and 00:20, two for 4:30."""
    if isinstance(node, Clock) or not (isinstance(node, Call) and node.what == "ratio"):
        return {Fraction(node.minutes)} if isinstance(node, Clock) else set()
    hours, minutes = exact(node.args[0]), exact(node.args[1])
    if hours is None or minutes is None:
        return set()
    return {60 * (hours % 12 + half) + minutes for half in (0, 12)} if 1 <= hours < 13 else {60 * hours + minutes}


def _residues(given: Node, reference: Call) -> Ruling:
    """Compare residues: `3 \\pmod 7` equals `10 \\pmod 7`. For 3 alone the verdict is unsure, since it depends on the
    question.
    """
    said = isinstance(given, Call) and given.what == "mod"
    value, *modulus = [exact(arg) for arg in given.args] if said and isinstance(given, Call) else [exact(given)]
    wanted, wanted_modulus = map(exact, reference.args)
    if value is None and not said and wanted_modulus and len(names(given)) == 1:  # 7k + 3
        terms = [exact(renamed(given, Name(*names(given)), Number(Fraction(k)))) for k in range(3)]
        steps = {b - a for a, b in pairwise(terms) if a is not None and b is not None}
        if terms[0] is not None and wanted is not None and len(steps) == 1:
            same = steps <= {wanted_modulus, -wanted_modulus} and (terms[0] - wanted) % wanted_modulus == 0
            return rule_by(same, "residue")
    if value is None or wanted is None or not wanted_modulus or None in modulus:
        return "unsure", "a residue that is not a number"
    same = (value - wanted) % wanted_modulus == 0 and modulus in ([], [wanted_modulus])
    return ("unsure", "without the modulus") if same and not said else rule_by(same, "residue")


def _ratios(given: Node, reference: Call, kind: Kind) -> Ruling:
    """Compare ratios: `3:2` equals `6:4` and `3/2`. Ratios of three terms are equal if all terms are in proportion."""
    if not (isinstance(given, Call) and given.what == "ratio"):
        if len(reference.args) != 2 or isinstance(given, Group):
            return "wrong", "no ratio"
        return compare(given, Call("/", reference.args), kind)
    ours, theirs = given.args, reference.args
    if all(exact(term) != 0 for term in (*given.args, *reference.args)):  # 12:00 is not a multiple of 5:00
        ours, theirs = (tuple(Call("/", (term, args[0])) for term in args) for args in (ours, theirs))
    return _in_order(ours, theirs, kind)[0], "ratio"


def _by_unit(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Compare units and percent signs. If the reference has none, the answer may still have one."""
    if isinstance(reference, Quantity):
        if isinstance(given, Quantity):
            worth = same_unit(given.unit, reference.unit)
            if worth is None:
                return "wrong", "not the unit of the reference"
            value = given.value if worth == 1 else Call("*", (given.value, Number(worth)))
            return compare(value, reference.value, kind)
        if _is_percent(given) or degrees(given) is not None or is_radians(given):
            return "wrong", "not the unit of the reference"
        if needed(reference.unit) and kind != "math":
            return "wrong", "without the unit of the reference"
        return compare(given, reference.value, kind)
    if isinstance(given, Quantity):
        if _is_percent(reference) or degrees(reference) is not None:
            return "wrong", "not the unit of the reference"
        ruling = compare(given.value, reference, kind)
        if ruling[0] != "correct" or may_be_said(given.unit):
            return ruling
        return ("wrong" if changes_value(given.unit) else "unsure"), "words behind the value that may change it"
    if isinstance(reference, Call) and reference.what == "%" and not _is_percent(given):
        if degrees(given) is not None:
            return "wrong", "not the unit of the reference"
        if kind == "math" and compare(given, reference.args[0], kind)[0] == "correct":
            return "correct", "percent left out"
    if isinstance(given, Call) and given.what == "%" and not _is_percent(reference):
        # 50 % for 50, as its unit, but 50 % for 0.5, as its value: never both for one reference
        fixed = exact(reference)
        if fixed is not None and abs(fixed) > 1:
            return compare(given.args[0], reference, kind)[0], "percent as the unit"
    return None


def _is_percent(node: Node) -> bool:
    return isinstance(node, Call) and node.what == "%"


def _by_count(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Compare `C(10, 4)` and `P(10, 4)` as numbers of combinations and permutations, unless they can be points."""
    ours, theirs = rebuilt(given, _counted), rebuilt(reference, _counted)
    return compare(ours, theirs, kind) if (ours != given) != (theirs != reference) else None


def _counted(node: Node) -> Node:
    match node:
        case Call("of", (Name("C" | "P" as what), Group("()", (n, k)))):
            chosen = Call("binom", (n, k))
            return chosen if what == "C" else Call("*", (chosen, Call("!", (k,))))
    return node


def _by_arrow(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """If only one of the two has a vector arrow, the verdict is unsure: `a` may be the vector `\\vec{a}` or its
    length.
    """
    arrows = {name for name in names(given) ^ names(reference) if name.startswith("vec ")}
    for name in arrows:
        given, reference = (renamed(node, Name(name), Name(name[4:])) for node in (given, reference))
    same = arrows and compare(given, reference, kind)[0] == "correct"
    return ("unsure", "a vector or its length") if same else None


_RULES: tuple[Rule, ...] = (
    _by_set,
    _by_equation,
    _by_matrix,
    _by_several,
    _by_count,
    _by_arrow,
    _by_kind,
    _by_unit,
    by_degrees,
)
