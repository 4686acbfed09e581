"""What a read expression is worth where it is rational: exactly, within bounds."""

import math
from collections.abc import Callable
from fractions import Fraction

from eval.grader.expression import Based, Call, Node, Number

MAX_BITS = 200_000  # of an exact integer


class TooMuch(ArithmeticError):
    """A value that would need unbounded work, or has none that is known here."""


class Undefined(ArithmeticError):
    """No real value at this point."""


def exact(node: Node) -> Fraction | None:
    """The value of a rational expression; None if it is not one, or not by arithmetic alone.

    Raises TooMuch for a number beyond MAX_BITS, Undefined for a division by zero.
    """
    if isinstance(node, Number | Based):
        return node.value
    if not isinstance(node, Call):
        return None
    rule = _EXACT.get(node.what)
    if rule is None:
        return None
    values = []
    for arg in node.args:
        value = exact(arg)
        if value is None:
            return None
        values.append(value)
    return rule(*values)


def _divided(a: Fraction, b: Fraction) -> Fraction:
    if not b:
        raise Undefined("division by zero")
    return a / b


def size(value: Fraction) -> int:
    """Bits of the larger of numerator and denominator."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _power(base: Fraction, power: Fraction) -> Fraction | None:
    if power.denominator != 1:
        return None
    if base in (0, 1, -1):
        if not base and power < 0:
            raise Undefined("division by zero")
        return base ** (int(power) % 2) if base == -1 else Fraction(1) if not power else base
    if size(base) * abs(int(power)) > MAX_BITS:
        raise TooMuch("a power out of bounds")
    return base ** int(power)


def _product(a: Fraction, b: Fraction) -> Fraction:
    if size(a) + size(b) > MAX_BITS:
        raise TooMuch("a product out of bounds")
    return a * b


def _factorial(n: Fraction) -> Fraction | None:
    if n.denominator != 1 or n < 0:
        return None
    if n > 2000:
        raise TooMuch("a factorial out of bounds")
    return Fraction(math.factorial(int(n)))


def _double_factorial(n: Fraction) -> Fraction | None:
    if n.denominator != 1 or n < 0:
        return None
    if n > 2000:
        raise TooMuch("a factorial out of bounds")
    return Fraction(math.prod(range(int(n), 0, -2)))


def _binomial(n: Fraction, k: Fraction) -> Fraction | None:
    if n.denominator != 1 or k.denominator != 1 or n < 0 or k < 0:
        return None
    if n > 2000:
        raise TooMuch("a binomial out of bounds")
    return Fraction(math.comb(int(n), int(k)))


def _whole(f: Callable[..., int]) -> Callable[..., Fraction | None]:
    def of(*values: Fraction) -> Fraction | None:
        return None if any(v.denominator != 1 for v in values) else Fraction(f(*map(int, values)))

    return of


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "+": lambda *values: sum(values, Fraction(0)),
    "*": _product,
    "of": _product,
    "/": _divided,
    "neg": lambda a: -a,
    "^": _power,
    "%": lambda a: a / 100,
    "rad": lambda a: a,
    "!": _factorial,
    "!!": _double_factorial,
    "binom": _binomial,
    "abs": abs,
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "gcd": _whole(math.gcd),
    "lcm": _whole(math.lcm),
}
