"""Whether one read answer equals another: each rule a function, the first that has a say decides.

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
    decide,
    may_be_said,
    needed,
    same_unit,
    walk,
)
from eval.grader.terms import negative
from eval.grader.values import by_degrees, by_value, degrees, exact, is_radians, names, proportional

MAX_UNLIKE = 20  # members of a list that are written unlike, each compared with each
MAX_WORDS = 4  # more are a sentence that may say anything


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Of parts that must all be right."""
    seen = set(verdicts)
    return "wrong" if "wrong" in seen else "unsure" if "unsure" in seen else "correct"


def matched(given: Sequence[Node], reference: Sequence[Node], kind: Kind) -> Verdict:
    """Whether each member of one is one member of the other. Members written alike pair off first, which is fast."""
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
    ours, theirs = names(given), names(reference)
    other = {"c": "C", "C": "c"}.get("".join(ours - theirs), "")  # of an integration
    if other and {other} == theirs - ours < theirs and _adds(given, other.swapcase()) and _adds(reference, other):
        return by_value(renamed(given, Name(other.swapcase()), Name(other)), reference, kind)
    ruling = by_value(given, reference, kind)
    one_each = ours != theirs and len(ours) == len(theirs) == 1 and ours | theirs <= {"k", "m", "n"}
    if one_each and all(Name("pi") in walk(n) for n in (given, reference)):  # 2k pi and 2n pi are the same angles
        return by_value(renamed(given, Name(*ours), Name(*theirs)), reference, kind)
    return ruling


def _adds(node: Node, name: str) -> bool:
    return isinstance(node, Call) and node.what == "+" and Name(name) in node.args


# Each rule: (given, reference, kind) -> a verdict, or None where it has no say

Rule = Callable[[Node, Node, Kind], Ruling | None]


def _by_set(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Intervals, their unions, and the inequalities that say the same."""
    if not (is_set(given) or is_set(reference)):
        return None
    if isinstance(given, Group) and isinstance(reference, Group) and given.brackets == reference.brackets != "":
        ruling = _in_order(given.parts, reference.parts, kind)
        if ruling[0] == "correct":
            return ruling
    same = same_set(given, reference)
    if same is None:
        return ("wrong", "no interval") if is_set(reference) and not isinstance(reference, Relation) else None
    return decide(same, "intervals")


def _by_equation(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    if isinstance(reference, Relation):
        return _to_relation(given, reference, kind)
    if not isinstance(given, Relation):
        return None
    value = _value_of(given) or _stated_value(given)
    if value is None:
        return "wrong", "an equation for a value"
    ruling, first = compare(value, reference, kind), given.sides[0]
    unsolved = isinstance(first, Call) and first.what in ("+", "*", "/", "^") and len(names(first)) == 1
    unsolved = unsolved and not any(isinstance(n, Group | Words | Call) for n in below(first))  # C(10, 3) = 120
    if unsolved and ruling[0] == "correct" and not names(value) and not isinstance(value, Matrix):
        return "unsure", "an equation that is not solved"  # x^2 = 5 for 5
    return ruling


def _stated_value(given: Relation) -> Node | None:
    """The value in `a + b = 5`, `|z| = 5`, `5 = x`, `n = 4 + 1 = 5`: the last side, where the first has a variable."""
    first, last = given.sides[0], given.sides[-1]
    if any(sign not in ("=", "approx", "equiv") for sign in given.signs) or isinstance(first, Group):
        return None
    closed = [side for side in given.sides if not names(side)]
    return last if names(first) and not names(last) and _all_same(closed) else None


def _to_relation(given: Node, reference: Relation, kind: Kind) -> Ruling:
    label, value = label_of(reference), _value_of(reference)
    if not isinstance(given, Relation):
        if "approx" in reference.signs:
            candidates = [s for s in reference.sides if s != label]
            return decide(any(compare(given, c, kind)[0] == "correct" for c in candidates), "value")
        return compare(given, value, kind) if value is not None else ("wrong", "a value for an equation")
    if value is not None:
        name, found = label_of(given), _value_of(given)
        if found is not None and (renamed := _in_names_of(label, name, found)) is not None:
            return compare(renamed, value, kind)
        if found is not None and not names(value) and not names(found):
            return "wrong", "another name"
    if len(given.sides) != 2 or len(reference.sides) != 2:
        return "wrong", "another relation"
    return _proportional(given, reference)


def _in_names_of(label: Node | None, name: Node | None, value: Node) -> Node | None:
    """A named value in the names of a label: `f(y) = y` and `y = x` are `f(x) = x`; None if it names another one."""
    if name == label:
        return value
    functions = [n for n in (name, label) if isinstance(n, Call) and n.what == "of" and isinstance(n.args[1], Name)]
    if len(functions) == 2 and functions[0].args[0] == functions[1].args[0]:
        ours, theirs = (function.args[1] for function in functions)
        return None if theirs in walk(value) else renamed(value, ours, theirs)
    return value if functions and Name("y") in (name, label) and Name("y") not in functions[0].args else None


def _proportional(given: Relation, reference: Relation) -> Ruling:
    """Two equations or inequalities are one if their sides' differences are proportional."""
    turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    a, b = (Call("+", (r.sides[0], negative(r.sides[1]))) for r in (given, reference))
    sign = proportional(a, b)
    asked = reference.signs[0] if sign >= 0 else turned.get(reference.signs[0], reference.signs[0])
    return decide(sign != 0 and given.signs[0] == asked, "equation", "another equation")


def _value_of(relation: Relation) -> Node | None:
    """What `x = 2 + 3 = 5` says x is; None if it is no such statement, or a false one."""
    if any(s not in ("=", "approx", "equiv", "in") for s in relation.signs):
        return None
    start = 0 if label_of(relation) is None else 1
    sides = relation.sides[start:]
    if not start and names(sides[0]) and not (names(sides[-1]) and _all_same(sides)):
        return None
    exact_sides = [side for side, sign in zip(sides, ("=", *relation.signs[start:]), strict=True) if sign == "="]
    return exact_sides[-1] if _all_same(exact_sides) else None


def _all_same(sides: Sequence[Node]) -> bool:
    return all(compare(side, sides[0])[0] == "correct" for side in sides[1:])


def _by_several(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Lists and sets, whose order is free; tuples and intervals, whose order and brackets are not."""
    if not isinstance(reference, Group):
        if not isinstance(given, Group):
            return None
        parts = given.parts if given.brackets in FREE else ()
        if len(parts) > 1 and _named_values(Group("", parts[:-1])) and isinstance(parts[-1], Relation):
            first = parts[-1].sides[0]  # m = 3, n = 4, m + n = 7
            if isinstance(first, Call) and names(first) <= {n for part in parts[:-1] for n in names(part)}:
                return compare(parts[-1], reference, kind)
        same = len(parts) > 1 and all(compare(part, reference, kind)[0] == "correct" for part in parts)
        return ("correct", "one value said twice") if same else ("wrong", "several answers for one")
    if isinstance(given, Call) and given.what in ("*", "of") and isinstance(given.args[1], Group):  # P(1, 2)
        point = isinstance(given.args[0], Name) and given.args[0].text.isupper()
        return compare(given.args[1], reference, kind) if point else ("wrong", "one answer for several")
    if not isinstance(given, Group):
        same = reference.brackets == "|" and _all_same(reference.parts)  # \\frac38 or 0.375
        return compare(given, reference.parts[0], kind) if same else ("wrong", "one answer for several")
    if reference.brackets in FREE:
        if given.brackets not in FREE:
            named = _named_values(reference) if given.brackets == "()" else None
            return _in_order(given.parts, named, kind) if named else ("wrong", "another kind of bracket")
        return _members(given, reference, kind)
    named = _named_values(given) if given.brackets in FREE else None
    if named is not None:
        in_order = _in_order(named, reference.parts, kind)
        return in_order if reference.brackets in ("()", "<>") else ("wrong", "no interval")
    if given.brackets != reference.brackets and {given.brackets, reference.brackets} != {"()", "<>"}:
        return "wrong", "another kind of bracket"
    return _in_order(given.parts, reference.parts, kind)


def _members(given: Group, reference: Group, kind: Kind) -> Ruling:
    """Members in any order; values for the reference's names, `x=1, y=2`, in the order of the names."""
    wanted = _named_values(reference)
    if wanted is not None and not any(isinstance(part, Relation) for part in given.parts):
        return _in_order(given.parts, wanted, kind)
    return matched(given.parts, reference.parts, kind), "members in any order"


def _named_values(group: Group) -> list[Node] | None:
    """The values of `x = 1, y = 2`, in the order in which such names are usually put; None if it is no such list."""
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
    """Matrices entry by entry; a vector also as a tuple, a matrix as a list of lists."""
    given, reference = _as_matrix(given), _as_matrix(reference)
    if not isinstance(given, Matrix) and not isinstance(reference, Matrix):
        return None
    if any(isinstance(node, Call) and any(isinstance(n, Matrix) for n in walk(node)) for node in (given, reference)):
        return "unsure", "matrices that are not worked out"
    vectors = [_vector(given), _vector(reference)]
    if isinstance(given, Matrix) and isinstance(reference, Matrix):
        if [len(row) for row in given.rows] != [len(row) for row in reference.rows]:
            return "wrong", "no matrix of this shape"
        return _in_order(below(given), below(reference), kind)
    if vectors[0] is None or vectors[1] is None:
        return "wrong", "no matrix of this shape"
    return _in_order(vectors[0], vectors[1], kind)


def _as_matrix(node: Node) -> Node:
    """`[[1, 2], [3, 4]]` as the matrix that it is."""
    if not isinstance(node, Group) or node.brackets != "[]":
        return node
    rows = tuple(part.parts for part in node.parts if isinstance(part, Group) and part.brackets == "[]")
    return Matrix(rows) if len(rows) == len(node.parts) and len({len(row) for row in rows}) == 1 else node


def _vector(node: Node) -> tuple[Node, ...] | None:
    if isinstance(node, Matrix) and 1 in (len(node.rows), len(node.rows[0])):
        return below(node)
    return node.parts if isinstance(node, Group) and node.brackets in ("()", "<>", "[]") else None


def _by_kind(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Words, times of day, ratios and numbers in a base equal only their own kind."""
    if isinstance(given, Words) and not isinstance(reference, Words) and len(given.text.split()) > MAX_WORDS:
        return "unsure", "a sentence for a value"
    if isinstance(reference, Words) or isinstance(given, Words):
        return decide(given == reference, "words")
    if isinstance(reference, Clock) or isinstance(given, Clock):
        if isinstance(given, Call) and given.what == "ratio" and isinstance(reference, Clock):  # 16:30, 00:20
            at = [exact(term) for term in given.args]
            is_whole_day = len(at) == 2 and at[0] is not None and not 1 <= at[0] < 13
            return decide(is_whole_day and at == [*divmod(reference.minutes, 60)], "time of day")
        if isinstance(given, Clock) and isinstance(reference, Call) and reference.what == "ratio":  # 3:30 p.m. for 3:30
            at = [exact(term) for term in reference.args]
            return decide(at in ([*divmod(given.minutes % 720, 60)], [*divmod(given.minutes, 60)]), "time of day")
        return decide(given == reference, "time of day")
    if isinstance(reference, Based):
        same = isinstance(given, Based) and given == reference
        return decide(same, "base", "not in the base of the reference")
    if isinstance(reference, Call) and reference.what == "mod":
        return _residues(given, reference)
    if isinstance(given, Call) and given.what == "mod":
        return compare(given.args[0], reference, kind)
    if isinstance(reference, Call) and reference.what == "ratio":
        return _ratios(given, reference, kind)
    if isinstance(given, Call) and given.what == "ratio" and len(given.args) == 2:
        return compare(Call("/", given.args), reference, kind)
    return None


def _residues(given: Node, reference: Call) -> Ruling:
    """`3 \\pmod 7` equals `10 \\pmod 7`; whether 3 is enough depends on the question."""
    said = isinstance(given, Call) and given.what == "mod"
    value, *modulus = [exact(arg) for arg in given.args] if said and isinstance(given, Call) else [exact(given)]
    wanted, wanted_modulus = map(exact, reference.args)
    if value is None and not said and wanted_modulus and len(names(given)) == 1:  # 7k + 3
        terms = [exact(renamed(given, Name(*names(given)), Number(Fraction(k)))) for k in range(3)]
        steps = {b - a for a, b in pairwise(terms) if a is not None and b is not None}
        if terms[0] is not None and wanted is not None and len(steps) == 1:
            same = steps <= {wanted_modulus, -wanted_modulus} and (terms[0] - wanted) % wanted_modulus == 0
            return decide(same, "residue")
    if value is None or wanted is None or not wanted_modulus or None in modulus:
        return "unsure", "a residue that is no number"
    same = (value - wanted) % wanted_modulus == 0 and modulus in ([], [wanted_modulus])
    return ("unsure", "without the modulus") if same and not said else decide(same, "residue")


def _ratios(given: Node, reference: Call, kind: Kind) -> Ruling:
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


def _by_unit(given: Node, reference: Node, kind: Kind) -> Ruling | None:
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
    said = isinstance(given, Quantity) or degrees(given) is not None
    if said and (_is_percent(reference) or (isinstance(given, Quantity) and degrees(reference) is not None)):
        return "wrong", "not the unit of the reference"
    if isinstance(given, Quantity):
        ruling = compare(given.value, reference, kind)
        if ruling[0] != "correct" or may_be_said(given.unit):
            return ruling
        return ("wrong" if changes_value(given.unit) else "unsure"), "words behind the value that may change it"
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
    _by_set,
    _by_equation,
    _by_matrix,
    _by_several,
    _by_kind,
    _by_unit,
    by_degrees,
)
