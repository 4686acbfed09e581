r"""Units of answers: which spellings are one unit, what it measures, and what it is worth in others.

    same_unit("m/s", "meters per second")  ->  Fraction(1)
    same_unit("km", "m")  ->  Fraction(1000)

A word that stands in no table here (`apples`) is a count: it is compared as a word.
"""

import re
from fractions import Fraction
from functools import lru_cache

# name -> (what it measures, its worth in the first unit of that kind)
_TABLE: dict[str, tuple[str, Fraction]] = {}
for _kind, _units in {
    "length": "m meter metre=1 km kilometer kilometre=1000 cm centimeter centimetre=1/100 "
    "mm millimeter millimetre=1/1000 nm nanometer=1/1000000000 dm decimeter=1/10 in inch inche=254/10000 "
    "ft foot feet=3048/10000 yd yard=9144/10000 mi mile=1609344/1000",
    "mass": "kg kilogram=1 g gram=1/1000 mg milligram=1/1000000 lb pound=45359237/100000000 "
    "oz ounce=45359237/1600000000 ton tonne=1000",
    "time": "s sec second=1 ms millisecond=1/1000 min minute=60 h hr hour=3600 day=86400 week=604800",
    "month": "month=1 year yr=12",
    "volume": "l liter litre=1 ml milliliter millilitre=1/1000",
    "money": "dollar usd buck=1 cent cts ¢=1/100",
    "energy": "j joule=1 kj kilojoule=1000",
    "power": "w watt=1 kw kilowatt=1000",
    "force": "n newton=1",
    "pressure": "pa pascal=1 kpa kilopascal=1000",
    "frequency": "hz hertz=1",
    "charge": "c coulomb=1",
    "voltage": "v volt=1",
    "electronvolt": "ev=1 kev=1000 mev=1000000 gev=1000000000",
    "temperature": "k kelvin=1",
    "angle": "degree deg=1",
    "amount": "mol mole=1",
}.items():
    _names: list[str] = []
    for _word in _units.split():
        _name, _, _worth = _word.partition("=")
        _names.append(_name)
        if _worth:
            _TABLE.update(dict.fromkeys(_names, (_kind, Fraction(_worth))))
            _names = []
_NOTHING = {"unit", "", "u", "sq unit"}  # a unit that says nothing
_SIGNS_OF_MONEY = {"dollar", "pound sterling", "euro", "yen"}


@lru_cache(maxsize=10_000)
def unit(text: str) -> tuple[tuple[tuple[str, int], ...], Fraction]:
    """What a unit measures, as powers of kinds in order, and its worth: `km/h` -> ((length, 1), (time, -1)), 1000/3600.

    Words that are no known unit stand for themselves with the worth 1.
    """
    text = text.lower().replace("\\cdot", " ").replace("*", " ").replace("-", " ").replace("{", "").replace("}", "")
    text = re.sub(r"\s*\^\s*", "^", text.replace(".", " "))
    text = re.sub(r"\bper\b|\ban?\b(?= \w+$)", "/", text).replace("mph", "mile / hour")
    text = re.sub(r"\b(?:square|sq)\s+(\w+)", r"\1^2", text)
    text = re.sub(r"\b(?:cubic|cu)\s+(\w+)", r"\1^3", text)
    powers: dict[str, int] = {}
    worth, sign = Fraction(1), 1
    for word in re.findall(r"/|[^\s/]+", text):
        if word == "/":
            sign = -1
            continue
        name, _, power = word.partition("^")
        kind, value = _known(name)
        exponent = sign * (int(power) if re.fullmatch(r"-?\d", power) else 1)
        powers[kind] = powers.get(kind, 0) + exponent
        worth *= value**exponent
    return tuple(sorted((k, p) for k, p in powers.items() if p and k not in _NOTHING)), worth


def _known(name: str) -> tuple[str, Fraction]:
    if name in _TABLE:
        return _TABLE[name]
    for ending in ("es", "s"):
        if name.endswith(ending) and name[: -len(ending)] in _TABLE:
            return _TABLE[name[: -len(ending)]]
    return name[:-1] if name.endswith("s") and len(name) > 3 else name, Fraction(1)


def same_unit(given: str, reference: str) -> Fraction | None:
    """What one of the given unit is worth in the reference's; None if they measure different things."""
    (kinds, worth), (wanted, whole) = unit(given), unit(reference)
    return worth / whole if kinds == wanted else None


def needed(reference: str) -> bool:
    """Whether an answer without this unit says too little.

    A measure does (5 m is not 5); a count (`14 triangles`), `square units` and the sign of a currency do not.
    """
    kinds = unit(reference)[0]
    if reference.lower().rstrip("s") in _SIGNS_OF_MONEY:
        return False
    return any(kind in _KINDS for kind, _ in kinds)


_KINDS = {kind for kind, _ in _TABLE.values()} - {"angle"}
