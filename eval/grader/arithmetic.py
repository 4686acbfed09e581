"""What a read expression is worth: exactly where it is rational, else at one point to so many digits; within bounds."""

import math
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from eval.grader.nodes import Based, Call, Name, Node, Number

MAX_BITS = 200_000  # of an exact integer
MAX_FACTORIAL = 2000  # of an exact factorial or binomial
MAX_MAGNITUDE = 10**12  # bits of the exponent of a value
FAR = 10**30  # beyond which no value is rounded


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
    rule = _EXACT.get(node.what) if isinstance(node, Call) else None
    if rule is None or not isinstance(node, Call):
        return None
    values = []
    for arg in node.args:
        value = exact(arg)
        if value is None:
            return None
        values.append(value)
    try:
        return rule(*values)
    except ZeroDivisionError:
        raise Undefined("division by zero") from None


def size(value: Fraction) -> int:
    """Bits of the larger of numerator and denominator."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _power(base: Fraction, power: Fraction) -> Fraction | None:
    if power.denominator != 1:
        return None
    if size(base) * abs(int(power)) > MAX_BITS:
        raise TooMuch("a power out of bounds")
    return base ** int(power)


def _product(a: Fraction, b: Fraction) -> Fraction:
    if size(a) + size(b) > MAX_BITS:
        raise TooMuch("a product out of bounds")
    return a * b


def _counted(count: Callable[..., int]) -> Callable[..., Fraction | None]:
    """A function of natural numbers, with bounds."""

    def of(*values: Fraction) -> Fraction | None:
        if any(v.denominator != 1 or v < 0 for v in values):
            return None
        if max(values) > MAX_FACTORIAL:
            raise TooMuch("a factorial out of bounds")
        return Fraction(count(*map(int, values)))

    return of


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "+": lambda *values: sum(values, Fraction(0)),
    "*": _product,
    "of": _product,
    "/": lambda a, b: a / b,
    "neg": lambda a: -a,
    "^": _power,
    "%": lambda a: a / 100,
    "rad": lambda a: a,
    "!": _counted(math.factorial),
    "binom": _counted(math.comb),
    "gcd": _counted(math.gcd),
    "abs": abs,
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
}


def value_at(
    node: Node, point: Mapping[str, Fraction], digits: int, *, complex_: bool = False, log_base: int = 0
) -> Any:
    """The value of an expression at a point; real only unless `complex_` is set.

    `log_base` is that of a logarithm that is written without one, 0 for e. Raises TooMuch beyond the bounds, Undefined
    where there is no such value.
    """
    return _Evaluator(digits, complex_, point, log_base).value(node)


class _Local(threading.local):
    """mpmath's contexts keep their precision as state: every thread has its own."""

    def __init__(self) -> None:
        self.context = mpmath.MPContext()


_local = _Local()


class _Evaluator:
    """Values of expressions at one point, to `digits` digits; real only unless `complex_` is set."""

    def __init__(self, digits: int, complex_: bool, point: Mapping[str, Fraction], log_base: int) -> None:
        self.mp: Any = _local.context
        self.mp.dps = digits
        self.complex, self.point, self.log_base = complex_, point, log_base

    def value(self, node: Node) -> Any:
        if isinstance(node, Number | Based):
            return self.number(node.value)
        if isinstance(node, Name):
            return self.name(node.text)
        if not isinstance(node, Call):
            raise TooMuch("no value")
        rule = _NUMERIC.get(node.what)
        if rule is None:
            raise TooMuch(f"the operation {node.what}")
        args = [self.value(arg) for arg in node.args]
        try:
            return self.checked(rule(self, *args))
        except (ZeroDivisionError, ValueError, OverflowError, TypeError) as error:
            raise Undefined(str(error)) from None

    def number(self, value: Fraction) -> Any:
        if size(value) > 20_000:
            raise TooMuch("a number out of bounds")
        return self.mp.mpf(value.numerator) / value.denominator

    def name(self, name: str) -> Any:
        if name in ("pi", "e"):
            return +getattr(self.mp, name)
        if name == "i":
            return self.mp.j
        if name not in self.point:
            raise TooMuch(f"the name {name}")
        return self.number(self.point[name])

    def checked(self, value: Any) -> Any:
        """A finite value within bounds, as a real one unless complex ones are asked for."""
        if not self.mp.isfinite(value):
            raise Undefined("not finite")
        if value and self.mp.mag(value) > MAX_MAGNITUDE:
            raise TooMuch("a value out of bounds")
        if isinstance(value, self.mp.mpc) and not self.complex:
            if abs(value.imag) > abs(value.real) * self.mp.mpf(10) ** (8 - self.mp.dps):
                raise Undefined("not real")
            return value.real
        return value

    def power(self, base: Any, power: Any) -> Any:
        if not base and self.mp.re(power) <= 0 and power != 0:
            raise Undefined("division by zero")
        if base and self.mp.mag(power) > 60:
            raise TooMuch("a power out of bounds")
        return self.mp.power(base, power)

    def root(self, value: Any, index: Any) -> Any:
        """The real root of a negative number where the index is odd, as in school; else the principal one."""
        if self.mp.im(value) == 0 and self.mp.re(value) < 0 and index == self.mp.nint(index) and int(index) % 2:
            return -self.mp.root(-self.mp.re(value), int(index))
        return self.power(value, 1 / index)

    def trigonometric(self, f: str, x: Any) -> Any:
        if x and self.mp.mag(x) > 200:
            raise TooMuch("an angle out of bounds")
        return getattr(self.mp, f)(x)

    def log(self, x: Any, base: Any = None) -> Any:
        """A logarithm whose base is not written is one of ten or of e: the caller tries both."""
        base = base or self.log_base
        return self.mp.ln(x) / self.mp.ln(base) if base else self.mp.ln(x)

    def factorial(self, x: Any) -> Any:
        if abs(x) > 10_000:
            raise TooMuch("a factorial out of bounds")
        return self.mp.factorial(x)

    def binomial(self, n: Any, k: Any) -> Any:
        if max(abs(n), abs(k)) > 10_000:
            raise TooMuch("a binomial out of bounds")
        return self.mp.binomial(n, k)

    def rounded(self, f: str, x: Any) -> Any:
        if abs(x) > FAR:
            raise TooMuch("a number out of bounds")
        return getattr(self.mp, f)(x)


_NUMERIC: dict[str, Callable[..., Any]] = {
    "+": lambda _, *args: sum(args[1:], args[0]),
    "*": lambda _, a, b: a * b,
    "of": lambda _, a, b: a * b,  # as good as any function of its argument, the same on both sides
    "/": lambda _, a, b: a / b,
    "neg": lambda _, a: -a,
    "^": _Evaluator.power,
    "%": lambda _, a: a / 100,
    "rad": lambda _, a: a,
    "deg": lambda e, a: a * e.mp.pi / 180,
    "!": _Evaluator.factorial,
    "binom": _Evaluator.binomial,
    "sqrt": lambda e, a: e.mp.sqrt(a),
    "root": _Evaluator.root,
    "abs": lambda _, a: abs(a),
    "exp": lambda e, a: e.power(+e.mp.e, a),
    "ln": lambda e, a: e.mp.ln(a),
    "log": _Evaluator.log,
    "lg": lambda e, a: e.log(a, 10),
    "max": lambda _, *args: max(args),
    "min": lambda _, *args: min(args),
    "Re": lambda e, a: e.mp.re(a),
    "Im": lambda e, a: e.mp.im(a),
}
_NUMERIC |= {f: lambda e, a, f=f: e.rounded(f, a) for f in ("floor", "ceil")}
_NUMERIC |= {
    ours: lambda e, a, f=f: e.trigonometric(f, a)
    for ours, f in {
        **{f: f for f in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
        **{f"arc{f}": f"a{f}" for f in ("sin", "cos", "tan", "cot")},
        "cis": "expj",
    }.items()
}
