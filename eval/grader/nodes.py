"""The nodes of a parsed answer, which `reader.py` makes and `compare.py` compares; numbers and units.

The operation of a `Call` is one of `+ * / ^ neg ± ∓ ! % deg rad of ∪ ∩ ∖ ratio`, or a function such as `sin`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

Verdict = Literal["correct", "wrong", "unsure"]
Ruling = tuple[Verdict, str]  # and the rule that decided
# How a reference is meant. math: its sign of percent and its unit may be left out, as MATH's own graders allow; strict:
# they must be said; physics: as strict, and decimals are measurements; choice: a letter
Kind = Literal["math", "strict", "physics", "choice"]


def rule_by(same: bool, how: str, why: str = "") -> Ruling:
    """The ruling of a comparison that is certain. `why` names the rule if the answer is wrong."""
    return ("correct", how) if same else ("wrong", why or how)


@dataclass(frozen=True, slots=True)
class Number:
    """A number with its exact value. `step` is one unit of the last decimal place (1/100 for 3.14), or None without
    decimals.
    """

    value: Fraction
    step: Fraction | None = None
    scientific: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """A variable or a constant: `x`, `x_1`, `pi`, `e`, `i`, `oo`."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation or a function on its arguments."""

    what: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Several answers: brackets `""` for a bare list, `&` and `|` for "and" and "or", else as written (`()`, `{}`)."""

    brackets: str
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries; a vector is a matrix of one row or one column."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """`sides[0] signs[0] sides[1] ...`; signs are `= != < <= > >= in approx equiv`."""

    sides: tuple[Node, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words: lower case, single spaces, no punctuation."""

    text: str


@dataclass(frozen=True, slots=True)
class Based:
    """A number written in a base other than ten, by a subscript."""

    value: Fraction
    base: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day written with a.m. or p.m., as minutes since midnight."""

    minutes: int


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with a unit, as the unit is written."""

    value: Node
    unit: str


Node = Number | Name | Call | Group | Matrix | Relation | Words | Based | Clock | Quantity


def walk(node: Node) -> Iterator[Node]:
    """Yield the node and all its descendants."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(below(node))


def below(node: Node) -> tuple[Node, ...]:
    """The children of a node."""
    if isinstance(node, Call):
        return node.args
    if isinstance(node, Group):
        return node.parts
    if isinstance(node, Relation):
        return node.sides
    if isinstance(node, Matrix):
        return tuple(entry for row in node.rows for entry in row)
    return (node.value,) if isinstance(node, Quantity) else ()


def written(node: Node) -> str:
    """Format a node on one line for people: `1/2`, `{1, 2}`, `5 cm`."""
    parts = [written(part) for part in below(node)]
    if isinstance(node, Number):
        return str(node.value)
    if isinstance(node, Call):
        if node.what in ("+", "*", "/", "^", "∪", "∩", "∖") and len(parts) > 1:
            return "(" + f" {node.what} ".join(parts) + ")"
        return f"-{parts[0]}" if node.what == "neg" else f"{node.what}({', '.join(parts)})"
    if isinstance(node, Group):
        joined = {"&": " and ", "|": " or "}.get(node.brackets, ", ").join(parts)
        return f"{node.brackets[0]}{joined}{node.brackets[1]}" if len(node.brackets) == 2 else joined
    if isinstance(node, Relation):
        return parts[0] + "".join(f" {sign} {side}" for sign, side in zip(node.signs, parts[1:], strict=True))
    if isinstance(node, Matrix):
        return "[" + "; ".join(", ".join(map(written, row)) for row in node.rows) + "]"
    if isinstance(node, Quantity):
        return f"{parts[0]} {node.unit}"
    if isinstance(node, Clock):
        return f"{node.minutes // 60}:{node.minutes % 60:02d}"
    return f"{node.value} in base {node.base}" if isinstance(node, Based) else node.text


def rebuilt(node: Node, change: Callable[[Node], Node]) -> Node:
    """Apply a change to every part of the formulas in a node, inner parts first."""
    if isinstance(node, Call):
        node = Call(node.what, tuple(rebuilt(arg, change) for arg in node.args))
    elif isinstance(node, Group):
        node = Group(node.brackets, tuple(rebuilt(part, change) for part in node.parts))
    elif isinstance(node, Relation):
        node = Relation(tuple(rebuilt(side, change) for side in node.sides), node.signs)
    return change(node)


SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
         "eleven": 11, "twelve": 12, "sixteen": 16, "bin": 2, "oct": 8, "hex": 16}  # fmt: skip
NUMERALS = {word: Fraction(i) for i, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split())}  # fmt: skip
NUMERALS |= {
    word: Fraction(10 * i) for i, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), 3)
}


class Unreadable(ValueError):
    """Raised for a text that the grammar does not cover."""


MAX_LENGTH = 2000  # characters of an answer
MAX_EXPONENT = 10_000  # of ten, in a number like 1e400


# -- numbers as written

_DIGITS = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?!\d)(?:\.\d+)?")  # 1,234.5
_EXPONENT = re.compile(r"[eE]([-+]?\d{1,6})(?![\d.a-zA-Z])")  # 4.5e33
_BARRED = re.compile(
    r"(\d*+)\.(\d*+)(?:\\overline\s*\{(\d+)\}|\\dot\s*\{?(\d)\}?|(?<=\.)\((\d+)\))"
)  # 0.1\overline{6}, 0.(36)
_DOTTED = re.compile(r"(\d*+)\.(\d++)(?:\.\.\.|\\[lc]?dots)")  # 0.333...
_FRACTION = re.compile(r" ?\\frac *(?:\{ *(\d+) *\}|(\d)) *(?:\{ *(\d+) *\}|(\d))|(?<=\d) (\d+) ?/ ?(\d+)(?![\d.])")


def read_number(text: str, at: int, *, thousands: bool) -> tuple[Number, int]:
    """Read the number that begins at `at`. Returns it and its end. `thousands` allows commas between groups of digits.

    Raises Unreadable for an exponent out of bounds.
    """
    barred = _BARRED.match(text, at)
    if barred:
        return _with_period(barred[1], barred[2], barred[3] or barred[4] or barred[5]), barred.end()
    dotted = _DOTTED.match(text, at)
    parts = _period(dotted[2]) if dotted else None
    if dotted and parts:
        return _with_period(dotted[1], *parts), dotted.end()
    match = (_THOUSANDS.match(text, at) if thousands else None) or _DIGITS.match(text, at)
    assert match is not None, text[at : at + 20]
    exponent = _EXPONENT.match(text, match.end())
    if exponent and abs(int(exponent[1])) > MAX_EXPONENT:
        raise Unreadable("an exponent out of bounds")
    number = written_number(match.group().replace(",", ""), int(exponent[1]) if exponent else None)
    return _mixed(number, text, exponent.end() if exponent else match.end())


def written_number(written: str, exponent: int | None = None) -> Number:
    """The number of a written integer or decimal, with the step of its last decimal place."""
    whole, dot, decimals = written.partition(".")
    value = Fraction(int((whole or "0") + decimals), 10 ** len(decimals))
    step = Fraction(1, 10 ** len(decimals)) if dot else None
    if exponent is None:
        return Number(value, step)
    power = Fraction(10) ** exponent
    step = step * power if step is not None else power if exponent < 0 else None
    return Number(value * power, step, scientific=True)


def _mixed(whole: Number, text: str, at: int) -> tuple[Number, int]:
    """Read a mixed number: a whole number followed by a proper fraction, `1\\frac12` or `1 1/2`."""
    match = _FRACTION.match(text, at) if whole.step is None and not whole.scientific else None
    if not match:
        return whole, at
    top, bottom = [int(g) for g in match.groups() if g]
    return (Number(whole.value + Fraction(top, bottom)), match.end()) if top < bottom else (whole, at)


def _period(decimals: str) -> tuple[str, str] | None:
    """Split the digits after the decimal point into the non-repeating part and the repeating block. A block counts as
    repeating if it is one digit that occurs three times at the end, or several digits that occur twice.
    """
    match = re.fullmatch(r"(\d*?)(?:(\d)\2{2,}|(\d{2,8}?)\3+)", decimals)
    return (match[1], match[2] or match[3]) if match else None


def _with_period(whole: str, before: str, period: str) -> Number:
    """The value of a recurring decimal. A repeating block p of n digits adds p/(10^n - 1) units of the last place
    before it.
    """
    value = Fraction(int((whole or "0") + before), 10 ** len(before))
    return Number(value + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(before)))


def in_base(digits: str, base: int) -> int:
    """The value of digits in a base of 2 to 36. Raises Unreadable for a digit that the base does not have."""
    sign, digits = (-1, digits[1:]) if digits.startswith("-") else (1, digits)
    try:
        return sign * int(digits, base)
    except ValueError:
        raise Unreadable(f"'{digits}' in base {base}") from None


# -- units: which spellings are one, what each measures, and what it is worth in others
# Symbols keep their case (`mW` is not `MW`), words do not. A word that is not a unit here (`apples`) is a count: it is
# compared as a word.

_Unit = tuple[str, Fraction]  # what it measures, and its worth in the first unit of that kind

# What is measured, then the symbol and the words that take the prefixes below
_MEASURED = """
    length m meter metre; mass g gram gramme; time s second; current A ampere amp; temperature K kelvin;
    amount mol mole; energy J joule; force N newton; power W watt; pressure Pa pascal; frequency Hz hertz;
    voltage V volt; charge C coulomb; electronvolt eV electronvolt; volume L liter litre; field T tesla;
    capacitance F farad
"""
_PREFIXES = {"": ("", 0), "p": ("pico", -12), "n": ("nano", -9), "u": ("micro", -6), "m": ("milli", -3),
             "c": ("centi", -2), "d": ("deci", -1), "k": ("kilo", 3), "M": ("mega", 6), "G": ("giga", 9)}  # fmt: skip
_OTHERS: dict[str, _Unit] = {
    word: (kind, Fraction(worth))
    for kind, worth, *words in (
        row.split()
        for row in """
        length 0.0254 in inch inche inches; length 0.3048 ft foot feet; length 0.9144 yd yard; length 1609.344 mi mile;
        mass 453.59237 lb pound; mass 28.349523125 oz ounce; mass 1000000 ton tonne; time 1 sec; time 60 min minute;
        time 3600 h hr hour; time 86400 day; time 604800 week; month 1 month; month 12 year yr; volume 1 l;
        volume 0.001 ml; money 1 dollar usd buck; money 0.01 cent cts; angle 1 degree deg""".split(";")
    )
    for word in words
}
_SYMBOLS: dict[str, _Unit] = {}
_WORDS: dict[str, _Unit] = dict(_OTHERS)
for _kind, _symbol, *_names in (base.split() for base in _MEASURED.split(";")):
    for _short, (_long, _power) in _PREFIXES.items():
        _SYMBOLS.setdefault(_short + _symbol, (_kind, Fraction(10) ** _power))
        _WORDS.update({_long + name: (_kind, Fraction(10) ** _power) for name in _names})
_SYMBOLS.update(_OTHERS)  # `min`, `ft` and the like, before any prefix is seen in them
_KINDS = {kind for kind, _ in (*_SYMBOLS.values(), *_WORDS.values())} - {"angle"}
_NOTHING = {"unit", "", "u"}  # a unit that says nothing
_MONEY = {"dollar", "pound sterling", "euro", "yen", "rupee"}


@lru_cache(maxsize=10_000)
def unit(text: str) -> tuple[tuple[tuple[str, int], ...], Fraction]:
    """What a unit measures, as sorted powers of dimensions, and its factor: `km/h` -> ((length, 1), (time, -1)),
    1000/3600.

    Words that are no known unit are their own dimension, with the factor 1.
    """
    text = re.sub(r"\\cdot|[*{}]|(?<!\^)-", " ", re.sub(r"\s*\^\s*", "^", text.replace(".", " ")))
    text = re.sub(r"\bper\b|\ban?\b(?= \w+$)", "/", text, flags=re.IGNORECASE).replace("mph", "mile / hour")
    text = re.sub(r"\b(?:square|sq)\s+(\w+)", r"\1^2", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:cubic|cu)\s+(\w+)", r"\1^3", text, flags=re.IGNORECASE)
    powers: dict[str, int] = {}
    worth, sign = Fraction(1), 1
    for word in re.findall(r"/|[^\s/]+", text):
        if word == "/":
            sign = -1
            continue
        name, _, power = word.partition("^")
        kind, value = _known(name) or (name.lower().removesuffix("s" * (len(name) > 3)), Fraction(1))
        exponent = sign * (int(power) if re.fullmatch(r"-?\d", power) else 1)
        powers[kind] = powers.get(kind, 0) + exponent
        worth *= value**exponent
    return tuple(sorted((k, p) for k, p in powers.items() if p and k not in _NOTHING)), worth


def _known(name: str) -> _Unit | None:
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    low = name.lower()
    for word in (low, low.removesuffix("s"), low.removesuffix("es")):
        if word in _WORDS and (len(word) > 2 or word in _OTHERS):
            return _WORDS[word]
    return None


def same_unit(given: str, reference: str) -> Fraction | None:
    """The factor from the given unit to that of the reference; None if they measure different things."""
    (kinds, worth), (wanted, whole) = unit(given), unit(reference)
    if kinds == wanted:
        return worth / whole
    things, asked = given.lower().split(), reference.lower().split()  # marbles, red marbles
    fewer, more = sorted((things, asked), key=len)
    same_thing = fewer and fewer[-1] == more[-1] and set(fewer) <= set(more)
    return Fraction(1) if same_thing and not (needed(given) or needed(reference)) else None


def needed(reference: str) -> bool:
    """Whether an answer must state this unit.

    A unit of measurement must be stated (5 m is not 5). Counted things (`14 triangles`), `square units` and currency
    signs need not.
    """
    if reference.lower().rstrip("s") in _MONEY:
        return False
    return any(kind in _KINDS for kind, _ in unit(reference)[0])


# What may stand behind a number whose reference has no unit: a measure, or a counted thing in the plural
_PLURALS = set(
    "celsius fahrenheit euro eur yen yuan won rupee sterling mph kph rpm bpm th st nd rd people children men women "
    "feet fish sheep units unit sq square cubic".split()
)
_NO_THING = set(
    "less plus minus versus times gross yes pass guess perhaps always whereas across unless is was has does ones twos "
    "threes fours fives sixes sevens eights nines tens dozens hundreds thousands millions billions trillions squares "
    "cubes roots factors halves thirds quarters degrees radians series fails works divides satisfies seems gives "
    "equals in that at for to by with than".split()
)
_AMBIGUOUS = {"K", "M", "B", "C", "A", "T", "F", "i", "e"}  # letters that are as likely a scale, a choice or a name


def may_be_said(text: str) -> bool:
    """Whether words after a number only say what is counted or measured, so that they do not change its value.

    This holds for units of the table and for plural nouns (`5 apples`, `14 right triangles`), but not for `5 less` or
    `5 tenths`.
    """
    words = re.findall(r"[^\W\d_]+", text)
    if not words or len(words) > 5 or text.strip() in _AMBIGUOUS:
        return False
    if any("\u4e00" <= c <= "\u9fff" for c in text):
        return not set(text) & set("万亿百千十半倍分")
    nouns = [word.lower() for word in words]
    if len(words) > 1 and _NO_THING & set(nouns):
        return False
    if all(_known(word) or word.lower() in _PLURALS or word.lower() == "per" for word in words):
        return True
    return not changes_value(text) and any((w.endswith("s") and len(w) > 3) or w in _PLURALS for w in nouns)


def changes_value(text: str) -> bool:
    """Whether words after a number are known to change its value: `5 less`, `5 tenths`."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    return any(word in _NO_THING or word.endswith("ths") for word in words)


def negative(node: Node) -> Node:
    """A node with the other sign."""
    if isinstance(node, Number):
        return Number(-node.value, node.step, node.scientific)
    if isinstance(node, Based):
        return Based(-node.value, node.base)
    if isinstance(node, Quantity):
        return Quantity(negative(node.value), node.unit)
    if isinstance(node, Call) and node.what == "%":
        return Call("%", (negative(node.args[0]),))
    return Call("neg", (node,))


def time_of_day(hours: int, minutes: int, half: str) -> Clock:
    """The time of day in the half "a" (a.m.) or "p" (p.m.)."""
    return Clock((hours % 12 + (12 if half in "pP" else 0)) * 60 + minutes)


def product_of(left: Node, right: Node) -> Node:
    """The product of two nodes. `4.5 \\times 10^{33}` becomes a single number with the precision of its decimals."""
    if isinstance(left, Number) and not left.scientific and isinstance(right, Call) and right.what == "^":
        base, power = right.args
        if base == Number(Fraction(10)) and isinstance(power, Number) and power.value.denominator == 1:
            exponent = int(power.value)
            if abs(exponent) <= MAX_EXPONENT:
                scale = Fraction(10) ** exponent
                step = left.step * scale if left.step is not None else scale if exponent < 0 else None
                return Number(left.value * scale, step, scientific=True)
    return Call("*", (left, right))
