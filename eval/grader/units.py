r"""Units of answers: which spellings are one unit, what it measures, and what it is worth in others.

    same_unit("m/s", "meters per second")  ->  Fraction(1)
    same_unit("km", "m")  ->  Fraction(1000)

Symbols keep their case (`mW` is not `MW`), words do not. A word that is no unit here (`apples`) is a count: it is
compared as a word.
"""

import re
from fractions import Fraction
from functools import lru_cache

_Unit = tuple[str, Fraction]  # what it measures, and its worth in the first unit of that kind

# What is measured, then the symbol and the words that take the prefixes below
_BASES = """
    length m meter metre; mass g gram gramme; time s second; current A ampere amp; temperature K kelvin;
    amount mol mole; energy J joule; force N newton; power W watt; pressure Pa pascal; frequency Hz hertz;
    voltage V volt; charge C coulomb; electronvolt eV electronvolt; volume L liter litre; field T tesla;
    capacitance F farad
"""
_PREFIXES = {"": ("", 0), "p": ("pico", -12), "n": ("nano", -9), "u": ("micro", -6), "m": ("milli", -3),
             "c": ("centi", -2), "d": ("deci", -1), "k": ("kilo", 3), "M": ("mega", 6), "G": ("giga", 9)}  # fmt: skip
_OTHERS: dict[str, _Unit] = {
    word: (kind, Fraction(worth))
    for kind, worth, words in (
        ("length", "0.0254", "in inch inche inches"),
        ("length", "0.3048", "ft foot feet"),
        ("length", "0.9144", "yd yard"),
        ("length", "1609.344", "mi mile"),
        ("mass", "453.59237", "lb pound"),
        ("mass", "28.349523125", "oz ounce"),
        ("mass", "1000000", "ton tonne"),
        ("time", "1", "sec"),
        ("time", "60", "min minute"),
        ("time", "3600", "h hr hour"),
        ("time", "86400", "day"),
        ("time", "604800", "week"),
        ("month", "1", "month"),
        ("month", "12", "year yr"),
        ("volume", "1", "l"),
        ("volume", "0.001", "ml"),
        ("money", "1", "dollar usd buck"),
        ("money", "0.01", "cent cts"),
        ("angle", "1", "degree deg"),
    )
    for word in words.split()
}
_SYMBOLS: dict[str, _Unit] = {}
_WORDS: dict[str, _Unit] = dict(_OTHERS)
for _kind, _symbol, *_names in (base.split() for base in _BASES.split(";")):
    for _short, (_long, _power) in _PREFIXES.items():
        _SYMBOLS.setdefault(_short + _symbol, (_kind, Fraction(10) ** _power))
        _WORDS.update({_long + name: (_kind, Fraction(10) ** _power) for name in _names})
_SYMBOLS.update(_OTHERS)  # `min`, `ft` and the like, before any prefix is seen in them
_KINDS = {kind for kind, _ in (*_SYMBOLS.values(), *_WORDS.values())} - {"angle"}
_NOTHING = {"unit", "", "u"}  # a unit that says nothing
_MONEY = {"dollar", "pound sterling", "euro", "yen"}


@lru_cache(maxsize=10_000)
def unit(text: str) -> tuple[tuple[tuple[str, int], ...], Fraction]:
    """What a unit measures, as powers of kinds in order, and its worth: `km/h` -> ((length, 1), (time, -1)), 1000/3600.

    Words that are no known unit stand for themselves with the worth 1.
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
    """What one of the given unit is worth in the reference's; None if they measure different things."""
    (kinds, worth), (wanted, whole) = unit(given), unit(reference)
    if kinds == wanted:
        return worth / whole
    things, asked = given.lower().split(), reference.lower().split()  # marbles, red marbles
    fewer, more = sorted((things, asked), key=len)
    same_thing = fewer and fewer[-1] == more[-1] and set(fewer) <= set(more)
    return Fraction(1) if same_thing and not (needed(given) or needed(reference)) else None


def needed(reference: str) -> bool:
    """Whether an answer without this unit says too little.

    A measure does (5 m is not 5); a count (`14 triangles`), `square units` and the sign of a currency do not.
    """
    if reference.lower().rstrip("s") in _MONEY:
        return False
    return any(kind in _KINDS for kind, _ in unit(reference)[0])


# What may stand behind a number whose reference has no unit: a measure, or a counted thing in the plural
_PLURALS = set(
    "celsius fahrenheit euro eur yen sterling mph kph rpm bpm th st nd rd people children men women feet fish sheep "
    "units unit sq square cubic".split()
)
_NO_THING = set(
    "less plus minus versus times gross yes pass guess perhaps always whereas across unless is was has does ones twos "
    "threes fours fives sixes sevens eights nines tens dozens hundreds thousands millions billions trillions squares "
    "cubes roots factors halves thirds quarters degrees radians series fails works divides satisfies seems gives "
    "equals in that at for to by with than".split()
)
_AMBIGUOUS = {"K", "M", "B", "C", "A", "T", "F", "i", "e"}  # letters that are as likely a scale, a choice or a name


def may_be_said(text: str) -> bool:
    """Whether these words behind a number only say what it counts or measures, and change nothing of its value.

    Units of the table do, and a noun in the plural (`5 apples`, `14 right triangles`); `5 less`, `5 tenths` do not.
    """
    words = re.findall(r"[^\W\d_]+", text)
    if not words or len(words) > 5 or text.strip() in _AMBIGUOUS:
        return False
    if any("\u4e00" <= c <= "\u9fff" for c in text):
        return not set(text) & set("万亿百千十半倍分")
    if len(words) > 1 and _NO_THING & {word.lower() for word in words}:
        return False
    if all(_known(word) or word.lower() in _PLURALS or word.lower() == "per" for word in words):
        return True
    nouns = [w.lower() for w in words]
    if any(w in _NO_THING or w.endswith("ths") for w in nouns):
        return False
    return any((w.endswith("s") and len(w) > 3) or w in _PLURALS for w in nouns)
