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

# base symbol, words for it: kind and worth; both take the prefixes below
_BASES: dict[str, tuple[str, str, Fraction]] = {
    "m": ("meter metre", "length", Fraction(1)),
    "g": ("gram gramme", "mass", Fraction(1, 1000)),
    "s": ("second", "time", Fraction(1)),
    "A": ("ampere amp", "current", Fraction(1)),
    "K": ("kelvin", "temperature", Fraction(1)),
    "mol": ("mole", "amount", Fraction(1)),
    "J": ("joule", "energy", Fraction(1)),
    "N": ("newton", "force", Fraction(1)),
    "W": ("watt", "power", Fraction(1)),
    "Pa": ("pascal", "pressure", Fraction(1)),
    "Hz": ("hertz", "frequency", Fraction(1)),
    "V": ("volt", "voltage", Fraction(1)),
    "C": ("coulomb", "charge", Fraction(1)),
    "eV": ("electronvolt", "electronvolt", Fraction(1)),
    "L": ("liter litre", "volume", Fraction(1)),
    "T": ("tesla", "field", Fraction(1)),
    "F": ("farad", "capacitance", Fraction(1)),
}
_PREFIXES = {"f": ("femto", -15), "p": ("pico", -12), "n": ("nano", -9), "u": ("micro", -6), "m": ("milli", -3),
             "c": ("centi", -2), "d": ("deci", -1), "k": ("kilo", 3), "M": ("mega", 6), "G": ("giga", 9),
             "T": ("tera", 12)}  # fmt: skip
_OTHERS: dict[str, _Unit] = {}
for _words, _kind, _worth in (
    ("in inch inche inches", "length", "254/10000"),
    ("ft foot feet", "length", "3048/10000"),
    ("yd yard", "length", "9144/10000"),
    ("mi mile", "length", "1609344/1000"),
    ("lb pound", "mass", "45359237/100000000"),
    ("oz ounce", "mass", "45359237/1600000000"),
    ("ton tonne", "mass", "1000"),
    ("sec", "time", "1"),
    ("min minute", "time", "60"),
    ("h hr hour", "time", "3600"),
    ("day", "time", "86400"),
    ("week", "time", "604800"),
    ("month", "month", "1"),
    ("year yr", "month", "12"),
    ("l", "volume", "1"),
    ("ml", "volume", "1/1000"),
    ("dollar usd buck", "money", "1"),
    ("cent cts", "money", "1/100"),
    ("degree deg", "angle", "1"),
):
    _OTHERS.update(dict.fromkeys(_words.split(), (_kind, Fraction(_worth))))
SYMBOLS: dict[str, _Unit] = {base: (kind, worth) for base, (_, kind, worth) in _BASES.items()}
WORDS: dict[str, _Unit] = dict(_OTHERS)
for _base, (_names, _kind, _size) in _BASES.items():
    for _short, (_long, _power) in _PREFIXES.items():
        SYMBOLS.setdefault(_short + _base, (_kind, _size * Fraction(10) ** _power))
        WORDS.update({_long + name: (_kind, _size * Fraction(10) ** _power) for name in _names.split()})
    WORDS.update(dict.fromkeys(_names.split(), (_kind, _size)))
SYMBOLS.update(_OTHERS)  # `min`, `ft` and the like, before any prefix is seen in them
_NOTHING = {"unit", "", "u"}  # a unit that says nothing
_MONEY = {"dollar", "pound sterling", "euro", "yen"}


@lru_cache(maxsize=10_000)
def unit(text: str) -> tuple[tuple[tuple[str, int], ...], Fraction]:
    """What a unit measures, as powers of kinds in order, and its worth: `km/h` -> ((length, 1), (time, -1)), 1000/3600.

    Words that are no known unit stand for themselves with the worth 1.
    """
    text = re.sub(r"\\cdot|[*{}]", " ", text.replace(".", " "))
    text = re.sub(r"\s*\^\s*", "^", text)
    text = re.sub(r"(?<!\^)-", " ", text)
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
        kind, value = _known(name) or (_singular(name.lower()), Fraction(1))
        exponent = sign * (int(power) if re.fullmatch(r"-?\d", power) else 1)
        powers[kind] = powers.get(kind, 0) + exponent
        worth *= value**exponent
    return tuple(sorted((k, p) for k, p in powers.items() if p and k not in _NOTHING)), worth


def _known(name: str) -> _Unit | None:
    if name in SYMBOLS:
        return SYMBOLS[name]
    low = name.lower()
    for word in (low, low.removesuffix("s"), low.removesuffix("es")):
        if word in WORDS and (len(word) > 2 or word in _OTHERS):
            return WORDS[word]
    return None


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


def same_unit(given: str, reference: str) -> Fraction | None:
    """What one of the given unit is worth in the reference's; None if they measure different things."""
    (kinds, worth), (wanted, whole) = unit(given), unit(reference)
    return worth / whole if kinds == wanted else None


def needed(reference: str) -> bool:
    """Whether an answer without this unit says too little.

    A measure does (5 m is not 5); a count (`14 triangles`), `square units` and the sign of a currency do not.
    """
    if reference.lower().rstrip("s") in _MONEY:
        return False
    return any(kind in _KINDS for kind, _ in unit(reference)[0])


_KINDS = {kind for kind, _ in (*SYMBOLS.values(), *WORDS.values())} - {"angle"}

# What may stand behind a number whose reference has no unit: a measure, or a counted thing in the plural
_PLURALS = set(
    "mph kph rpm bpm th st nd rd people children men women feet fish sheep units unit sq square cubic".split()
)
_NO_THING = set(
    "less plus minus versus times gross yes pass guess perhaps always whereas across unless is was has does ones twos "
    "threes fours fives sixes sevens eights nines tens dozens hundreds thousands millions billions trillions squares "
    "cubes roots factors halves thirds quarters degrees radians series".split()
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
    if all(_known(word) or word.lower() in _PLURALS or word.lower() == "per" for word in words):
        return True
    nouns = [w.lower() for w in words]
    if any(w in _NO_THING or w.endswith("ths") for w in nouns):
        return False
    return any((w.endswith("s") and len(w) > 3) or w in _PLURALS for w in nouns)
