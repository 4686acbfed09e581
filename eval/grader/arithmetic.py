"""What a read expression is worth: exactly where it is rational, else at one point to so many digits; within bounds."""

import math
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from eval.grader.nodes import Based, Call, Name, Node, Number

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


MAX_MAGNITUDE = 10**12  # bits of the exponent of a value


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
            if size(node.value) > 20_000:
                raise TooMuch("a number out of bounds")
            return self.mp.mpf(node.value.numerator) / node.value.denominator
        if isinstance(node, Name):
            return self.name(node.text)
        if not isinstance(node, Call):
            raise TooMuch("no value")
        return self.call(node)

    def name(self, name: str) -> Any:
        if name == "pi":
            return +self.mp.pi
        if name == "e":
            return +self.mp.e
        if name == "i":
            return self.mp.j
        if name in self.point:
            value = self.point[name]
            return self.mp.mpf(value.numerator) / value.denominator
        raise TooMuch(f"the name {name}")

    def call(self, node: Call) -> Any:
        rule = _NUMERIC.get(node.what)
        if rule is None:
            raise TooMuch(f"the operation {node.what}")
        args = [self.value(arg) for arg in node.args]
        try:
            value = self.odd_root(node, args) or rule(self, *args)
        except ZeroDivisionError:
            raise Undefined("division by zero") from None
        except (ValueError, OverflowError, TypeError) as error:
            raise Undefined(str(error)) from None
        if not self.mp.isfinite(value):
            raise Undefined("not finite")
        if self.mp.mag(value) > MAX_MAGNITUDE if value else False:
            raise TooMuch("a value out of bounds")
        if isinstance(value, self.mp.mpc) and not self.complex:
            if abs(value.imag) > abs(value.real) * self.mp.mpf(10) ** (8 - self.mp.dps):
                raise Undefined("not real")
            value = value.real
        return value

    def power(self, base: Any, power: Any) -> Any:
        if not base and self.mp.re(power) <= 0 and power != 0:
            raise Undefined("division by zero")
        if base and self.mp.mag(power) > 60:
            raise TooMuch("a power out of bounds")
        return self.mp.power(base, power)

    def odd_root(self, node: Call, args: list[Any]) -> Any:
        """A negative number to the power p/q with q odd, as in school: (-8)^(1/3) = -2; None for anything else."""
        if node.what != "^" or self.complex or isinstance(args[0], self.mp.mpc) or args[0] >= 0:
            return None
        power = exact(node.args[1])
        if power is None or power.denominator == 1 or power.denominator % 2 == 0 or power.denominator > 99:
            return None
        return self.power(self.real_root(args[0], self.mp.mpf(power.denominator)), self.mp.mpf(power.numerator))

    def real_root(self, value: Any, index: Any) -> Any:
        """The real root of a negative number where the index is odd, as in school; else the principal one."""
        if self.mp.im(value) == 0 and self.mp.re(value) < 0 and index == self.mp.nint(index) and int(index) % 2:
            return -self.mp.root(-self.mp.re(value), int(index))
        return self.power(value, 1 / index)

    def trigonometric(self, f: str, x: Any) -> Any:
        if x and self.mp.mag(x) > 200:
            raise TooMuch("an angle out of bounds")
        return getattr(self.mp, f)(x)

    def natural_or_ten(self, x: Any, base: Any = None) -> Any:
        """A logarithm whose base is not written is one of ten or of e: the caller tries both."""
        if base is None:
            base = self.mp.mpf(self.log_base) if self.log_base else None
        return self.mp.ln(x) if base is None else self.mp.ln(x) / self.mp.ln(base)

    def factorial(self, x: Any) -> Any:
        if abs(x) > 10_000:
            raise TooMuch("a factorial out of bounds")
        return self.mp.factorial(x)

    def rounded(self, f: str, x: Any) -> Any:
        if abs(x) > self.mp.mpf(10) ** 30:
            raise TooMuch("a number out of bounds")
        return getattr(self.mp, f)(x)

    def whole(self, f: Callable[..., int], *args: Any) -> Any:
        if any(a != self.mp.nint(a) or abs(a) > 10**30 for a in args):
            raise Undefined("not whole")
        return self.mp.mpf(f(*(int(a) for a in args)))

    def cis(self, x: Any) -> Any:
        return self.trigonometric("cos", x) + self.mp.j * self.trigonometric("sin", x)


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
    "gamma": lambda e, a: e.factorial(a - 1),
    "binom": lambda e, n, k: e.mp.binomial(n, k) if max(abs(n), abs(k)) < 10_000 else _too_much(),
    "sqrt": lambda e, a: e.mp.sqrt(a),
    "cbrt": lambda e, a: e.real_root(a, e.mp.mpf(3)),
    "root": _Evaluator.real_root,
    "abs": lambda _, a: abs(a),
    "norm": lambda _, a: abs(a),
    "exp": lambda e, a: e.power(+e.mp.e, a),
    "ln": lambda e, a: e.mp.ln(a),
    "log": _Evaluator.natural_or_ten,
    "lg": lambda e, a: e.mp.ln(a) / e.mp.ln(10),
    "floor": lambda e, a: e.rounded("floor", a),
    "ceil": lambda e, a: e.rounded("ceil", a),
    "max": lambda _, *args: max(args),
    "min": lambda _, *args: min(args),
    "gcd": lambda e, *args: e.whole(math.gcd, *args),
    "lcm": lambda e, *args: e.whole(math.lcm, *args),
    "cis": _Evaluator.cis,
    "Re": lambda e, a: e.mp.re(a),
    "Im": lambda e, a: e.mp.im(a),
}
for _ours, _theirs in {
    **{f: f for f in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{f"arc{f}": f"a{f}" for f in ("sin", "cos", "tan", "cot", "sinh", "cosh", "tanh")},
}.items():
    _NUMERIC[_ours] = lambda e, a, theirs=_theirs: e.trigonometric(theirs, a)


def _too_much() -> Any:
    raise TooMuch("out of bounds")
