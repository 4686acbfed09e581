r"""Whether a given answer equals the reference: every rule in one place, cheapest first.

    equal("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}")  ->  ("correct", "value")

The order of the arguments matters: the reference is trusted, the answer is not. docs/grading.md states each rule with
examples. Layers, each able to stop: plain numbers; normalised text; choice letters; structure (lists, sets, tuples,
intervals, matrices, equations, units, times, words, part by part); exact rationals; values to fifty digits at random
points; SymPy in a worker that is killed on time. Nothing that a model wrote is ever executed.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from eval.expression import Based, Call, Clock, Group, Matrix, Name, Node, Number, Quantity, Relation, Words, walk
from eval.reader import MAX_LENGTH, NUMERALS, Unreadable, negative, read, written_number
from eval.spelling import normalise, squeezed
from eval.symbolic import same_by_sympy
from eval.units import needed, same_unit
from eval.values import TooMuch, Undefined, approximately, exact, names, proportional, same_value

Verdict = Literal["correct", "wrong", "unsure"]
Kind = Literal["math", "physics", "choice"]
Told = tuple[Verdict, str]
MAX_PARTS = 200  # of a list
ROUNDED = Fraction(1, 500)  # a decimal reference may be a rounded value if its last place is this fine, relatively
PHYSICS = Fraction(1, 50)  # and in scientific notation or a physics benchmark if it is this fine

_PLAIN = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


@lru_cache(maxsize=200_000)
def equal(given: str, reference: str, kind: Kind = "math") -> Told:
    """Whether a given answer equals the reference, and the rule that told. The order of arguments matters.

    Args: both as written, LaTeX or plain. `kind` "physics" takes every decimal reference as a rounded measurement,
    "choice" takes a single letter behind any words. "unsure" means that the reference could not be read or that the
    answer could not be worked out within bounds. Never raises; takes about a second at the very most.
    """
    if not reference.strip():
        return "unsure", "empty reference"
    if len(given) > MAX_LENGTH:
        return "wrong", "longer than any answer"
    plain = _plain(given), _plain(reference)
    if plain[0] is not None and plain[1] is not None:
        return _numbers(plain[0], plain[1], kind), "number"
    left, right = normalise(given), normalise(reference)
    if not left:
        return "wrong", "empty answer"
    if squeezed(left) == squeezed(right):
        return "correct", "text"
    if not right:
        return "unsure", "the reference has no content"
    try:
        return _by_choice(left, right) or _by_structure(left, right, kind)
    except RecursionError:
        return "unsure", "nested too deeply"


@lru_cache(maxsize=50_000)
def _plain(text: str) -> Number | None:
    """An integer or decimal that needs no reader."""
    text = text.strip()
    if len(text) > 400 or not text.isascii() or not _PLAIN.fullmatch(text):
        return None
    number = written_number(text.lstrip("+-").replace(",", ""), None)
    return negative(number) if text[0] == "-" else number  # type: ignore[return-value]


def _numbers(given: Number, reference: Number, kind: Kind) -> Verdict:
    same = given.value == reference.value or abs(given.value - reference.value) <= tolerance(reference, kind)
    return "correct" if same else "wrong"


def tolerance(reference: Node, kind: Kind = "math") -> Fraction:
    """How far an answer may be from a reference: half a unit of its last place where it can be a rounded value.

    That is: a decimal whose last place is at most ROUNDED of it (3.14, but not 2.5, which is more likely exact), any
    number in scientific notation with a decimal point or a negative exponent, and any decimal of a physics benchmark;
    the last two to PHYSICS of the value at most. Zero for everything else: integers and fractions are exact.
    """
    if isinstance(reference, Call) and reference.what in ("%", "neg", "deg"):
        return tolerance(reference.args[0], kind) / (100 if reference.what == "%" else 1)
    if not isinstance(reference, Number) or reference.step is None or not reference.value:
        return Fraction(0)
    half, size = reference.step / 2, abs(reference.value)
    if reference.scientific or kind == "physics":
        return min(half, size * PHYSICS)
    return half if half <= size * ROUNDED else Fraction(0)


# -- choice letters

_LETTER = re.compile(r"\(?([A-J])(?:\)|\.|:|\))? *")
_WITH_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])[.:)]) *(\S.*)")
_CHOSEN = re.compile(r"(?:(?:option|choice|answer) *:? *(?:is)? *)?(?:\(([A-Ja-j])\)|([A-Ja-j])[.:)]?)(?= |$)(.*)",
                     re.IGNORECASE)  # fmt: skip
_SEVERAL = re.compile(r"[A-J](?:(?:, ?| and |,? and | )?[A-J])+")


def _by_choice(given: str, reference: str) -> Told | None:
    """Letters of a multiple choice: with or without their text, never two for one."""
    reference, given = _bare(reference), _bare(given)
    letters = re.sub(r"[^A-J]", "", reference)
    if _SEVERAL.fullmatch(reference) and list(letters) == sorted(set(letters)):
        found = sorted(re.sub(r"\b(?:and|AND)\b|[^A-J]", "", given))
        full = re.fullmatch(r"[(]?[A-J](?:[(),. ]|and|[A-J])*", given)
        return ("correct" if full and found == list(letters) else "wrong"), "choice"
    if _LETTER.fullmatch(reference + " "):
        return ("correct" if _chosen(given) == letters else "wrong"), "choice"
    match = _WITH_TEXT.fullmatch(reference)
    if not match:
        return None
    letter, text = match[1] or match[2], match[3]
    said = _CHOSEN.fullmatch(given)
    if said is None:
        return equal(given, text)[0], "choice by its text"
    same = (said[1] or said[2]).upper() == letter
    rest = said[3].strip()
    return ("correct" if same and (not rest or equal(rest, text)[0] == "correct") else "wrong"), "choice"


def _chosen(given: str) -> str | None:
    """The one letter that an answer chooses; None if it chooses none, or several."""
    match = _CHOSEN.fullmatch(given)
    if match is None:
        return None
    letter, rest = match[1] or match[2], match[3]
    marked = match[1] or given[match.end(2) : match.end(2) + 1] in (".", ":", ")")
    if rest.strip() and not (marked and letter.isupper()):
        return None
    return None if re.search(r"(?:^|[ (,])[A-J](?:[ ).,:]|$)", rest) else letter.upper()


def _bare(text: str) -> str:
    return re.sub(r"\\text *\{([^{}]*)\}|\\text ", lambda m: m[1] or "", text).strip().strip("{}").strip()


# -- structure

Comparison = tuple[Node, Node, Kind]


def _by_structure(left: str, right: str, kind: Kind) -> Told:
    reference = _read(right)
    if reference is None:
        return _without_reader(left, right)
    given = _read(left, any(isinstance(n, Quantity) for n in walk(reference)))
    if given is None:
        if isinstance(reference, Words) or not re.search(r"\\(?:int|sum|prod|lim)(?![a-z])", left):
            return "wrong", "not readable as an answer"
        return "unsure", "too much to work out"
    try:
        return compare(given, reference, kind)
    except TooMuch as error:
        return "unsure", f"not within bounds: {error}"
    except Undefined:
        return same_by_sympy(left, right)


@lru_cache(maxsize=50_000)
def _read(text: str, short_units: bool = False) -> Node | None:
    try:
        return read(text, short_units=short_units)
    except Unreadable:
        return None


def _without_reader(left: str, right: str) -> Told:
    """A reference that the reader does not know: as words, or by SymPy's reading."""
    words = re.sub(r"\\text|[^a-z0-9]+", " ", right.lower()).split()
    if not re.search(r"[\\=^_+*/]", right.replace("\\text", "")) and any(w.isalpha() and len(w) > 2 for w in words):
        same = words == re.sub(r"\\text|[^a-z0-9]+", " ", left.lower()).split()
        return ("correct" if same else "wrong"), "words"
    if _texts(left) != _texts(right):  # SymPy would read past words
        return "unsure", "the reference is not readable"
    return same_by_sympy(left, right)


def _texts(text: str) -> list[str]:
    return [" ".join(words.lower().split()) for words in re.findall(r"\\text\s*\{([^{}]*)\}", text)]


def compare(given: Node, reference: Node, kind: Kind = "math") -> Told:
    """Whether a read answer equals a read reference. Raises TooMuch or Undefined where values cannot be worked out."""
    if given == reference:
        return "correct", "structure"
    given, reference = _plain_form(given), _plain_form(reference)
    for rule in _RULES:
        told = rule(given, reference, kind)
        if told is not None:
            return told
    return _scalars(given, reference, kind)


def _told(same: bool, how: str, why: str = "") -> Told:
    return ("correct", how) if same else ("wrong", why or how)


def _plain_form(node: Node) -> Node:
    """±, unions, number words and sets of one in the form in which they are compared."""
    if isinstance(node, Words):
        if node.text in NUMERALS:
            return Number(NUMERALS[node.text])
        if node.text in _EMPTY:
            return Name("∅")
        if node.text in ("all real numbers", "all reals", "real numbers"):
            return _REALS
        return Words(re.sub(r"^(?:the|an|a) (?=\w\w)", "", node.text))
    if isinstance(node, Name) and node.text == "mathbb R":
        return _REALS
    if isinstance(node, Relation) and _signed(node.sides[-1]) and set(node.signs) == {"="}:
        return Group("", tuple(Relation((*node.sides[:-1], v), node.signs) for v in _both_signs(node.sides[-1])))
    if _signed(node):
        return Group("", tuple(_both_signs(node)))
    if isinstance(node, Group) and node.brackets in ("", "{}", "&"):
        parts = tuple(v for part in node.parts for v in (_both_signs(part) if _signed(part) else [part]))
        parts = _with_name_carried(parts)
        return parts[0] if len(parts) == 1 and not isinstance(parts[0], Group) else Group(node.brackets, parts)
    return node


_EMPTY = {"no solution", "no solutions", "none", "empty set", "the empty set", "no real solution", "no real solutions"}
_OO = Name("oo")
_REALS = Group("()", (Call("neg", (_OO,)), _OO))


def _with_name_carried(parts: tuple[Node, ...]) -> tuple[Node, ...]:
    """`x = 1, 2` says x = 1, x = 2."""
    first = parts[0] if parts else None
    if not isinstance(first, Relation) or first.signs != ("=",) or any(isinstance(p, Relation) for p in parts[1:]):
        return parts
    return (first, *(Relation((first.sides[0], p), ("=",)) for p in parts[1:]))


def _signed(node: Node) -> bool:
    return isinstance(node, Call | Quantity) and any(isinstance(n, Call) and n.what in ("±", "∓") for n in walk(node))


def _both_signs(node: Node) -> list[Node]:
    """What ± stands for: all upper signs, then all lower ones."""
    return [_signs_chosen(node, upper) for upper in (True, False)]


def _signs_chosen(node: Node, upper: bool) -> Node:
    if isinstance(node, Quantity):
        return Quantity(_signs_chosen(node.value, upper), node.unit)
    if not isinstance(node, Call):
        return node
    args = tuple(_signs_chosen(arg, upper) for arg in node.args)
    if node.what not in ("±", "∓"):
        return Call(node.what, args)
    last = args[-1] if (node.what == "±") == upper else negative(args[-1])
    return Call("+", (args[0], last)) if len(args) == 2 else last


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
    wanted = _intervals(reference)
    if wanted is None and _is_inequality(given):
        wanted = _interval_parts(reference)  # beside an inequality, a pair is an interval
    if wanted is None:
        return None
    if not isinstance(given, Relation | Group | Call | Name):
        return "wrong", "no interval"
    found = _intervals(given)
    if found is None:
        return None if isinstance(reference, Relation) else ("wrong", "no interval")
    name, asked = _variable(given), _variable(reference)
    if name and asked and name != asked:
        return "wrong", "an inequality in another variable"
    return _matched(found, wanted, kind, _same_interval), "intervals"


def _same_interval(given: Node, reference: Node, kind: Kind) -> Told:
    if not (isinstance(given, Group) and isinstance(reference, Group)):
        return compare(given, reference, kind)
    if given.brackets != reference.brackets:
        return "wrong", "another kind of bracket"
    return _in_order(given.parts, reference.parts, kind)


def _is_inequality(node: Node) -> bool:
    parts = node.parts if isinstance(node, Group) and node.brackets in ("", "&") else (node,)
    return all(isinstance(p, Relation) and set(p.signs) & {"<", "<=", ">", ">=", "in"} for p in parts)


def _variable(node: Node) -> str | None:
    """The variable of an inequality, None for an interval."""
    for part in walk(node):
        if isinstance(part, Relation):
            return next((s.text for s in part.sides if isinstance(s, Name) and s.text != "oo"), None)
    return None


def _intervals(node: Node) -> list[Node] | None:
    """A set of numbers as intervals, each a Group of two ends; None for what is no such set.

    A pair in parentheses alone may be a point: it is left to the rule for tuples unless it is part of a union.
    """
    if isinstance(node, Call) and node.what == "∪":
        parts = [_interval_parts(arg) for arg in node.args]
        return None if any(p is None for p in parts) else [i for p in parts if p is not None for i in p]
    if isinstance(node, Call) and node.what == "∖":
        return _without_points(*node.args)
    if isinstance(node, Relation):
        return _interval_of(node)
    if isinstance(node, Group) and node.brackets in ("", "&") and all(isinstance(p, Relation) for p in node.parts):
        found = [_interval_of(p) for p in node.parts if isinstance(p, Relation)]
        if any(f is None for f in found):
            return None
        each = [i for f in found if f is not None for i in f]
        return _crossed(each) if node.brackets == "&" or _is_one_range(each) else each
    if node == _REALS or (isinstance(node, Group) and node.brackets in ("(]", "[)")):
        return [node]
    if (
        isinstance(node, Group)
        and node.brackets in ("()", "[]")
        and len(node.parts) == 2
        and any(map(_endless, node.parts))
    ):
        return [node]
    return None


def _interval_parts(node: Node) -> list[Node] | None:
    if isinstance(node, Group) and len(node.parts) == 2 and node.brackets in ("()", "[]", "(]", "[)"):
        return [node]
    if isinstance(node, Group) and node.brackets == "{}":
        return list(node.parts)
    return _intervals(node)


def _endless(node: Node) -> bool:
    return node == _OO or node == Call("neg", (_OO,))


def _interval_of(relation: Relation) -> list[Node] | None:
    """The intervals of `a < x <= b`, `x > a`, `x != a` or `x in S`."""
    sides, signs = relation.sides, relation.signs
    if signs == ("in",):
        return _intervals(sides[1]) or (
            [sides[1]] if isinstance(sides[1], Group) and sides[1].brackets != "{}" else None
        )
    lone = [isinstance(s, Name) and s.text not in ("pi", "e", "i", "oo") for s in sides]
    if sum(lone) != 1:
        return None
    at = lone.index(True)
    if signs == ("!=",):
        return _without_points(_REALS, Group("{}", (sides[1 - at],)))
    if any(s not in ("<", "<=", ">", ">=") for s in signs):
        return None
    if any(sides[at] in walk(s) for i, s in enumerate(sides) if i != at):
        return None
    if len(sides) == 2:
        greater = (signs[0][0] == ">") == (at == 0)
        closed = len(signs[0]) == 2
        bound = sides[1 - at]
        if greater:
            return [Group("[)" if closed else "()", (bound, _OO))]
        return [Group("(]" if closed else "()", (Call("neg", (_OO,)), bound))]
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
    if _endless(a.parts[0]):
        a, b = b, a
    if _endless(a.parts[0]) or not _endless(a.parts[1]) or not _endless(b.parts[0]) or _endless(b.parts[1]):
        return None
    low, high = approximately(a.parts[0]), approximately(b.parts[1])
    if low is None or high is None or low >= high:
        return None
    return [Group(a.brackets[0] + b.brackets[1], (a.parts[0], b.parts[1]))]


def _without_points(whole: Node, points: Node) -> list[Node] | None:
    if _plain_form(whole) != _REALS or not (isinstance(points, Group) and points.brackets == "{}"):
        return None
    order = [(approximately(p), p) for p in points.parts]
    if any(value is None for value, _ in order):
        return None
    cuts = [p for _, p in sorted(order, key=lambda pair: pair[0] or Fraction(0))]
    ends = [Call("neg", (_OO,)), *cuts, _OO]
    return [Group("()", pair) for pair in pairwise(ends)]


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
    free = ("", "{}", "&")
    if not isinstance(reference, Group):
        if isinstance(given, Group) and given.brackets in free:
            return "wrong", "several answers for one"
        return ("wrong", "several answers for one") if isinstance(given, Group) else None
    if isinstance(given, Matrix) and reference.brackets in ("()", "<>") and 1 in _shape(given):
        entries = [entry for row in given.rows for entry in row]
        return _in_order(entries, reference.parts, kind)
    if not isinstance(given, Group):
        return "wrong", "one answer for several"
    if reference.brackets in free:
        if given.brackets not in free:
            return "wrong", "another kind of bracket"
        return _matched(given.parts, reference.parts, kind), "members in any order"
    if given.brackets in free and all(isinstance(p, Relation) and isinstance(_label(p), Name) for p in given.parts):
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
            return _told(_seconds(given) == reference.seconds and reference.seconds >= 13 * 3600, "time of day")
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
        assert isinstance(given, Call)
        if compare(given.args[0], reference, kind)[0] == "correct":
            return "correct", "with the percent sign that the reference leaves out"
    return None


def _is_percent(node: Node) -> bool:
    return isinstance(node, Call) and node.what == "%"


def _by_degrees(given: Node, reference: Node, kind: Kind) -> Told | None:
    """A degree sign may be left out or said; otherwise degrees are worth pi/180 each."""
    ours, theirs = _degrees(given), _degrees(reference)
    if ours is None and theirs is None:
        return None
    if ours is not None and theirs is not None:
        return _scalars(ours, theirs, kind)
    verdict, how = _scalars(ours or given, theirs or reference, kind)
    return (verdict, how) if verdict == "correct" else _scalars(given, reference, kind)


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
