r"""Finds equations in the text of a chain, such as `48/2 = 24`, `12 * $0.50 = $6.00`, `3x + 5 = 20`, and checks them.

    [e] = equations("She sold 48/2 = 24 clips.");  e.value  ->  Fraction(24, 1);  holds(e)  ->  True

Text is never executed. A side is read by `eval/grader/reader.py` into nodes, exact arithmetic gives its value, and
SymPy, given numbers built from those nodes, proves that two sides differ. Only `+ - * /` and parentheses are read, so
all work is bounded. Units of up to two words may follow a number; percent is a hundredth.

Left out: powers, roots, several unknowns, congruences. An equation that cannot be read, or a match that is only a part
of what the text states (`$350 000 x 5/100`), is not reported.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from eval.grader.nodes import Call, Name, Node, Number, Unreadable
from eval.grader.reader import read_answer
from eval.grader.values import TooMuch, Undefined, exact

# Possessive, with bounds on each repetition: a number or unit is never split again, so that the work is linear in the
# text. Groups are atomic instead, since possessive groups do not match as they should before Python 3.11.5 (gh-106052).
# An equation is on one line
_DIGITS = r"(?>\d{1,3}(?>(?:,\d{3}){1,5})(?![\d,])|\d{1,20}+)(?>(?:\.\d{1,20}+)?)|\.\d{1,20}+"
_GAP = r"[ \t]{0,3}+"
_TIMES = rf"x(?={_GAP}[($£€.\d])"
# A verb or a conjunction is not a unit: `3 countries is -48 + 21 = -27`
_WORD = r"(?!(?:is|are|was|were|because|so|since|if|then|and|or|to)\b)[A-Za-z]{2,30}+"
_UNIT = rf"(?>(?: ?+(?!{_TIMES})/?{_WORD}(?>(?:/[A-Za-z]{{2,30}}+)?)){{0,2}})"
_TERM = rf"(?>\({{0,4}}+{_GAP}(?>(?:-{_GAP})?)\({{0,4}}+[$£€]?+(?:{_DIGITS})(?>(?: ?%)?){_UNIT}(?>(?:{_GAP}\)){{0,4}}))"
_OPERATOR = rf"{_GAP}(?:[-+*/×÷·−–]|{_TIMES}){_GAP}"
_EQUATION = re.compile(
    rf"(?<![\w.,)])(?P<left>(?>{_TERM}(?:{_OPERATOR}{_TERM}){{1,12}})){_GAP}={_GAP}[$£€]?+ ?+"
    rf"(?P<right>-?+ ?+[$£€]?+(?:{_DIGITS})(?>(?:/\d{{1,20}}+)?)(?>(?: ?%)?))(?!{_OPERATOR}[($£€.\d])(?!{_GAP}=)"
)
_SIDE = r"(?:[-+*/()., \d]|(?<![A-Za-z\\])[a-zA-Z](?![A-Za-z])){1,60}"
_ALGEBRA = re.compile(rf"(?P<left>(?>{_SIDE}))=(?P<right>(?>{_SIDE}))")
_PIECE = re.compile(
    rf"(?P<number>(?:{_DIGITS})(?:\s?%)?)|(?P<times>(?<![A-Za-z]){_TIMES})|(?P<unit>/?[A-Za-z]+(?:/[A-Za-z]+)*)"
    r"|(?P<sign>[-+*/×÷·−–()])"
)
_PLAIN = {"×": "*", "·": "*", "x": "*", "÷": "/", "−": "-", "–": "-"}
_LETTER = re.compile(r"[a-zA-Z]")
# Text before or after a match that shows that it is part of something else
_CUT_BEFORE = re.compile(
    r"(?:[*/×÷^·+−–<>≤≥≠≡}\]]|\d,?|\d\.(?=\Z)|\\(?:times|cdot|div|equiv|pm)|\b[xX]|(?:%|\d|half|third|quarter) of)\s*\Z"
)  # `$350 [000 x 5 = ..`
_CUT_BEHIND = re.compile(
    r"[A-Za-z^]|[ \t]?\d{3}\b|\.\.|…"  # `= 35m`, `= $16 000`, `= 16.66...`
    r"|[ \t]*(?:[*/×÷·^+(]|\\(?:times|cdot|frac|pmod|equiv|left))"  # `= 4 (x + 1)`, `= 10^{2}`
    r"|[ \t]*(?:and \d+/\d|with\b|R\s?\d|remainder|\(?mod\b)|[ \t][A-Za-z]+ [-+*/×] "  # `= 1 and 1/3`
)
_RESIDUE = re.compile(
    r"\bmod\b|\\p?mod|\bmodulo|congruen|\bdigits?\b|remainder", re.I
)  # `7 + 5 = 2 (mod 10)`, last digits
_CLOCK = re.compile(r"(?<![\d.])0\d")  # `0900 - 0130 = 0730`
_DIVIDED_TWICE = re.compile(r"/ ([\d.]+) / ([\d.]+)")  # `2 / 1/4` is 8
FLOAT = Fraction(1, 10**15)  # relative error of a number that a program printed: `2000 / 75 = 26.666666666666668`
LONGEST = 20_000  # characters of a text that are searched


@dataclass(frozen=True, slots=True)
class Written:
    """A number or an operator, and its position in the text."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Equation:
    """One equation of a text."""

    start: int
    end: int
    left: str  # plain arithmetic: no units, no currency, no separators
    right: str
    numbers: tuple[Written, ...]  # of the left side, with an unknown of both; a leading sign is part of a number
    operators: tuple[Written, ...]  # of the left side, as + - * /
    result: Written | None  # the number on the right; None if there is an unknown
    unknown: str = ""  # its letter

    @property
    def value(self) -> Fraction:
        """The value of the left side. Only for an equation without an unknown."""
        value = value_of(self.left)
        assert value is not None, self.left
        return value


def equations(text: str) -> list[Equation]:
    """The readable equations of a text, in order."""
    text = text[:LONGEST]
    known = [e for match in _EQUATION.finditer(text) if (e := _arithmetic(match))]
    taken = [(e.start, e.end) for e in known]
    for match in _ALGEBRA.finditer(text):
        equation = None if any(match.start() < e and s < match.end() for s, e in taken) else _algebra(match)
        if equation:
            known.append(equation)
    return sorted(known, key=lambda e: e.start)


def _arithmetic(match: re.Match[str]) -> Equation | None:
    start, end = match.span("left")
    text = match.string
    while text[start] == " " or (text[start] == "(" and text[start:end].count("(") > text[start:end].count(")")):
        start += 1  # `(5 + 3 = 8)`: the bracket is around the equation
    left, numbers, operators = _pieces(text, start, end)
    right, results, _ = _pieces(text, *match.span("right"))
    if not operators or value_of(left) is None or value_of(right) is None or _is_part(match, start, f"{left} {right}"):
        return None
    result = Written(results[0].start, match.end("right"), text[results[0].start : match.end("right")])
    return Equation(start, match.end(), left, right, numbers, operators, result)


def _is_part(match: re.Match[str], start: int, plain: str) -> bool:
    """Whether a match must be rejected: the text `plain` at `start` is part of a longer expression, or is no
    equation.
    """
    text, before = match.string, match.string[max(0, start - 40) : start]
    if text[start] == "-" and text[start + 1 : start + 2] == " " and before.strip(" \t") and before[-1] != "\n":
        return True  # `X - 3*6 = 77`, `Yams - 6 x 2 = 12`
    line = text[text.rfind("\n", 0, start) + 1 : (text.find("\n", match.end()) + 1 or len(text) + 1) - 1]
    return bool(
        _CUT_BEFORE.search(before.rsplit("\n", 1)[-1])
        or _CUT_BEHIND.match(text, match.end())
        or _CLOCK.search(plain)
        or _RESIDUE.search(line)
    )


def _algebra(match: re.Match[str]) -> Equation | None:
    letters = set(_LETTER.findall(match[0]))
    if len(letters) != 1 or not re.search(r"\d", match[0]):
        return None
    unknown = letters.pop()
    spans = [_trim(match, side) for side in ("left", "right")]
    sides = [match.string[a:b] for a, b in spans]
    if not all(_linear(side, unknown) for side in sides):
        return None
    numbers = [n for a, b in spans for n in _pieces(match.string, a, b)[1]]
    operators = _pieces(match.string, *spans[0])[2]
    return Equation(spans[0][0], spans[1][1], sides[0], sides[1], tuple(numbers), operators, None, unknown)


def _trim(match: re.Match[str], side: str) -> tuple[int, int]:
    """The range of a side without spaces and commas around it, and without the full stop of the sentence."""
    start, end = match.span(side)
    text = match.string
    while start < end and text[start] in " ,.":
        start += 1
    while start < end and text[end - 1] in " ,.":
        end -= 1
    return start, end


def _linear(side: str, unknown: str) -> bool:
    """Whether a side can be read and has a value for some value of the unknown."""
    node = _read(side)
    return node is not None and _at(node, {unknown: Fraction(1)}) is not None


def _pieces(text: str, start: int, end: int) -> tuple[str, tuple[Written, ...], tuple[Written, ...]]:
    """Read a stretch of text as arithmetic. Returns its plain form, its numbers, and its operators."""
    plain, numbers, operators = list[str](), list[Written](), list[Written]()
    sign: re.Match[str] | None = None  # a minus in front of a number, which is not an operator
    for piece in _PIECE.finditer(text, start, end):
        if piece["unit"]:
            continue
        if piece["number"]:
            at = sign.start() if sign else piece.start()
            numbers.append(Written(at, piece.end(), text[at : piece.end()]))
            plain.append(("-" if sign else "") + piece["number"].replace(",", "").replace(" ", ""))
            sign = None
            continue
        mark = _PLAIN.get(piece[0], piece[0])
        if mark == "-" and (not plain or plain[-1] in "(+-*/"):
            sign = piece
            continue
        if mark in "+-*/":
            operators.append(Written(piece.start(), piece.end(), mark))
        plain.append(mark)
    return " ".join(plain), tuple(numbers), tuple(operators)


def _read(text: str) -> Node | None:
    try:
        return read_answer(text)
    except (Unreadable, RecursionError):
        return None


def value_of(text: str) -> Fraction | None:
    """The value of plain arithmetic, or None if it has none.

    >>> value_of("1/2 * 390"), value_of("20% * 50"), value_of("1/0")
    (Fraction(195, 1), Fraction(10, 1), None)
    """
    node = _read(text)
    try:
        return exact(node) if node is not None else None
    except (TooMuch, Undefined):
        return None


def _at(node: Node, where: Mapping[str, Fraction]) -> Fraction | None:
    """The value of a side when its unknown has the value `at`."""

    def put(inner: Node) -> Node:
        if isinstance(inner, Name) and inner.text in where:
            return Number(where[inner.text])
        return Call(inner.what, tuple(put(arg) for arg in inner.args)) if isinstance(inner, Call) else inner

    try:
        return exact(put(node))
    except (TooMuch, Undefined):
        return None


def holds(equation: Equation, at: Fraction | None = None) -> bool | None:
    """Whether an equation is true. For an equation with an unknown, `at` is the unknown's value. None if it cannot be
    decided.

    A right side with decimals may be rounded to its last place, or truncated there after a division: `10 / 3 = 3.33`
    holds. A whole number may be an integer quotient (`11 / 5 = 2`): None. Percent may be a hundredth or a word (`100 -
    5 = 95%`), and `2 / 1/4` may divide by a quarter: an equation is false only if every reading of it is false.
    """
    if equation.unknown:
        if at is None:
            return None
        sides = [_at(node, {equation.unknown: at}) for node in map(_read, (equation.left, equation.right)) if node]
        return None if None in sides or len(sides) < 2 else sides[0] == sides[1]
    verdicts = [
        _agree(left, right, "/" in equation.left)
        for left in _readings(equation.left)
        for right in _readings(equation.right)
    ]
    return True if True in verdicts else None if None in verdicts else False


def _readings(side: str) -> list[str]:
    """All values that a side can have, since some notations are ambiguous."""
    sides = [side, _DIVIDED_TWICE.sub(r"/ ( \1 / \2 )", side)]
    sides += [each.replace("%", "") for each in sides]
    return [each for each in dict.fromkeys(sides) if value_of(each) is not None]


def _agree(left: str, right: str, divided: bool) -> bool | None:
    """Whether the left side equals the right side, up to rounding to the last decimal that the right side writes."""
    value, stated, place = value_of(left), value_of(right), _last_place(right)
    assert value is not None and stated is not None
    gap = abs(value - stated)
    if gap <= max(place / 2, abs(value) * FLOAT) or (divided and gap < place and abs(stated) < abs(value)):
        return True
    if divided and not place and stated.denominator == 1 and gap < 1:
        return None
    return False


def _last_place(written: str) -> Fraction:
    """The place value of the last written decimal, such as 0.01 for 3.14; 0 for a whole number or a fraction."""
    _, dot, decimals = written.rstrip("%").partition(".")
    worth = Fraction(1, 10 ** len(decimals)) if dot else Fraction(0)
    return worth / 100 if written.endswith("%") else worth


def proved_different(one: str, other: str) -> bool:
    """Whether SymPy proves that two expressions differ: their exact difference is not 0.

    >>> proved_different("48 / 2", "25"), proved_different("48 / 2", "24")
    (True, False)
    """
    import sympy

    nodes = [_read(one), _read(other)]
    sides = [_sympy(node) for node in nodes if node is not None]
    if len(sides) < 2 or None in sides:
        return False
    return sympy.simplify(sides[0] - sides[1]).is_zero is False


def _sympy(node: Node) -> Any:
    """Convert a node to a SymPy expression, built from numbers and never from text. None if it contains more than + - *
    /.
    """
    import sympy

    if isinstance(node, Number):
        return sympy.Rational(node.value.numerator, node.value.denominator)
    if isinstance(node, Name):
        return sympy.Symbol(node.text)
    if not isinstance(node, Call) or node.what not in ("+", "*", "of", "/", "neg", "%"):
        return None
    args = [_sympy(arg) for arg in node.args]
    if None in args:
        return None
    match node.what:
        case "+":
            return sympy.Add(*args)
        case "/":
            return args[0] / args[1]
        case "neg":
            return -args[0]
        case "%":
            return args[0] / 100
        case _:
            return sympy.Mul(*args)


def numbers_in(text: str) -> list[Written]:
    """Every number of a text, including those in boxes, with the sign directly before it."""
    return [
        Written(m.start(), m.end(), m[0])
        for m in re.finditer(rf"(?<![\w.])-(?:{_DIGITS})|(?<![\w.])(?:{_DIGITS})", text[:LONGEST])
    ]


def number(written: str) -> Fraction:
    """The value of a written number, which may have separators. Raises ValueError if it is not a number."""
    value = value_of(written.replace(",", "").replace(" ", "").lstrip("$£€"))
    if value is None:
        raise ValueError(f"{written!r} is not a number")
    return value


def replaced(text: str, changes: Sequence[tuple[int, int, str]]) -> str:
    """A text with parts replaced, each given by start, end and new text; they must not overlap."""
    for start, end, new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    return text
