"""What a read expression is worth where it is not rational: to many digits, at fixed points.

`same_value` tells whether two expressions are the same number or the same function; rational ones are compared exactly.
Nothing here is symbolic: two formulas that agree to forty digits at points that nobody chose are the same formula. All
work is bounded; what would go beyond the bounds raises TooMuch, and is the third verdict, not a wrong one.
"""

import math
import random
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from eval.exact import TooMuch, Undefined, exact, size
from eval.expression import Based, Call, Name, Node, Number, walk

MAX_NODES = 400  # of an expression that is evaluated at points
MAX_MAGNITUDE = 10**12  # bits of the exponent of a value
DIGITS = 50
SLACK = 12  # of these, what rounding may cost
MAX_DIGITS = 2000  # to which a value is worked out, the second look included
MAX_GAMMA_DIGITS = 300  # the same where a factorial or a binomial of what is not whole is in it, which is far slower
CLEARLY = 1e-15  # relative difference of which no rounding is capable
NEARLY_NOTHING = 1e-20  # a value below may be the noise of a zero
CONSTANTS = {"pi", "e", "i", "oo"}


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


def names(node: Node) -> set[str]:
    """The variables of an expression."""
    return {n.text for n in walk(node) if isinstance(n, Name)} - CONSTANTS


def same_value(a: Node, b: Node) -> bool:
    """Whether two expressions are the same number, or the same function of their variables.

    Numbers are worked out to DIGITS digits, or more where they are written with more; functions at fourteen fixed
    points of both signs, at those where both have a real value, and on principal values where they never do. Raises
    TooMuch if it cannot be told within bounds, Undefined if there is no point at which both have a value.
    """
    if sum(1 for _ in walk(a)) + sum(1 for _ in walk(b)) > MAX_NODES:
        raise TooMuch("too long")
    calls = {n.what for e in (a, b) for n in walk(e) if isinstance(n, Call)}
    bare_log = any(isinstance(n, Call) and n.what == "log" and len(n.args) == 1 for e in (a, b) for n in walk(e))
    variables = sorted(names(a) | names(b))
    if names(a) != names(b) and not calls & {"/", "neg", "^", "*", "of"}:
        return False
    imaginary = any(isinstance(n, Name) and n.text == "i" for e in (a, b) for n in walk(e)) or "cis" in calls
    return any(_agree(a, b, variables, imaginary, base) for base in ((0, 10) if bare_log else (0,)))


def _agree(a: Node, b: Node, variables: list[str], imaginary: bool, log_base: int) -> bool:
    if not variables:
        return _same_number(a, b, imaginary, log_base)
    for complex_ in (True,) if imaginary else (False, True):
        met = 0
        for point in _points(variables):
            try:
                if not _agree_at(a, b, point, complex_, log_base):
                    return False
                met += 1
            except Undefined:
                continue
        if met >= 3:
            return True
    raise Undefined("no point at which both have a value")


def _same_number(a: Node, b: Node, imaginary: bool, log_base: int) -> bool:
    """Two numbers: as real ones where both are, as complex ones with principal values otherwise."""
    for complex_ in (True,) if imaginary else (False, True):
        try:
            return _agree_at(a, b, {}, complex_, log_base)
        except Undefined:
            continue
    return False


def _points(variables: list[str]) -> list[dict[str, Fraction]]:
    """Fourteen points: four positive, four of both signs, four of small whole numbers, two far out."""
    draw = random.Random(20_250_206)
    positive = [{v: Fraction(draw.randrange(10**6, 3 * 10**7), 10**7) for v in variables} for _ in range(4)]
    signed = [{v: draw.choice((-1, 1)) * Fraction(draw.randrange(10**6, 9 * 10**7), 10**7) for v in variables}
              for _ in range(4)]  # fmt: skip
    signed[0] = {v: -abs(x) for v, x in signed[0].items()}
    whole = [{v: Fraction(draw.randrange(2, 14)) for v in variables} for _ in range(4)]
    far = [{v: sign * Fraction(draw.randrange(10**9, 2 * 10**9), 10**6) for v in variables} for sign in (1, -1)]
    return positive + signed + whole + far


def _agree_at(a: Node, b: Node, point: Mapping[str, Fraction], complex_: bool, log_base: int) -> bool:
    """Whether two values agree to all but SLACK of their digits; where that is in doubt, what more digits say."""
    digits = DIGITS + 2 * max((_written_digits(n) for e in (a, b) for n in walk(e)), default=0)
    slow = any(isinstance(n, Call) and n.what in ("!", "gamma", "binom") for e in (a, b) for n in walk(e))
    if 4 * digits > (MAX_GAMMA_DIGITS if slow else MAX_DIGITS):
        raise TooMuch("numbers out of bounds")
    largest, apart = _compared(_Evaluator(digits, complex_, point, log_base), a, b)
    if apart <= largest * mpmath.mpf(10) ** (SLACK - digits):
        return True
    if apart > largest * CLEARLY and largest > NEARLY_NOTHING:
        return False
    # Cancellation leaves noise, which shrinks when the work is done to more digits; a real difference does not
    _, still_apart = _compared(_Evaluator(4 * digits, complex_, point, log_base), a, b)
    return bool(still_apart <= apart * mpmath.mpf(10) ** -digits)


def _compared(at: _Evaluator, a: Node, b: Node) -> tuple[Any, Any]:
    """The larger size of two values, and how far they are apart."""
    left, right = at.value(a), at.value(b)
    return max(abs(left), abs(right)), abs(left - right)


def _written_digits(node: Node) -> int:
    """Digits that a number is written with, or that a power of numbers has: what hides behind them must be seen."""
    if isinstance(node, Number | Based):
        return size(node.value) * 3 // 10
    if isinstance(node, Call) and node.what == "^" and all(isinstance(arg, Number) for arg in node.args):
        base, power = (arg.value for arg in node.args if isinstance(arg, Number))
        return int(size(base) * abs(power) * 3 // 10)
    return 0


def proportional(a: Node, b: Node) -> int:
    """The sign of c if a = c b for one constant c at every point, 0 if there is none.

    Raises TooMuch or Undefined as `same_value` does.
    """
    variables, ratios = sorted(names(a) | names(b)), []
    for point in _points(variables)[:8]:
        at = _Evaluator(DIGITS, False, point, 0)
        try:
            left, right = at.value(a), at.value(b)
        except Undefined:
            continue
        if not right or not left:
            return 0
        ratios.append(left / right)
    if len(ratios) < 3:
        raise Undefined("no point at which both have a value")
    apart = max(abs(r - ratios[0]) for r in ratios)
    return 0 if apart > abs(ratios[0]) * mpmath.mpf(10) ** (SLACK - DIGITS) else 1 if ratios[0] > 0 else -1


def approximately(node: Node) -> Fraction | None:
    """A real number without variables as a fraction of some forty digits; None if it is not one."""
    try:
        value = exact(node)
        if value is not None:
            return value
        if names(node):
            return None
        found = _Evaluator(DIGITS, False, {}, 0).value(node)
        if abs(found) > 1e300:
            return None
        return Fraction(int(found * 10**60), 10**60)
    except (TooMuch, Undefined):
        return None
