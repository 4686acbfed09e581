"""Evaluates parsed expressions, and decides whether two have the same value: tolerances, angles, numbers and functions.

Rational values are exact; others are computed to fifty digits. Nothing here is symbolic: two formulas that agree to
forty digits at arbitrary points count as the same. All work is bounded. A value beyond the bounds raises TooMuch, which
makes the verdict unsure.
"""

import math
import random
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from eval.grader import nodes
from eval.grader.nodes import Based, Call, Kind, Name, Node, Number, Ruling, rule_by, walk
from eval.grader.symbolic import same_by_sympy

MAX_BITS = 200_000  # of an exact integer
MAX_MAGNITUDE = 10**12  # bits of the exponent of a value
FAR = 10**30  # beyond which no value is rounded
MAX_NODES = 400  # of an expression that is evaluated at points
DIGITS = 50
SLACK = 12  # of these, what rounding may cost
MAX_DIGITS = 2000  # to which a value is worked out, the second look included
MAX_GAMMA_DIGITS = 300  # the same where a factorial or a binomial of what is not whole is far slower
CLEARLY = 1e-15  # relative difference of which no rounding is capable
NEARLY_NOTHING = 1e-20  # a value below may be the noise of a zero
COUNTED = set("kmnpqrN")  # variables that stand for whole numbers beside a floor or a power of -1
MINUS_ONE = Number(Fraction(-1))
SYMBOLIC = {"sum", "prod", "int", "lim", "diff"}  # operations that only SymPy works out
CONSTANTS = {"pi", "e", "i", "oo"}


class TooMuch(ArithmeticError):
    """Raised for a value that takes too much work, or that this module cannot compute."""


class Undefined(ArithmeticError):
    """Raised if there is no real value at a point."""


def exact(node: Node) -> Fraction | None:
    """The exact value of an expression; None if it is not rational, or needs more than arithmetic.

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
    """The number of bits of the numerator or the denominator, whichever is larger."""
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


def _counted(count: Callable[..., int], bits: Callable[..., int]) -> Callable[..., Fraction | None]:
    """A function of natural numbers, with a bound on the bits of its value."""

    def of(*values: Fraction) -> Fraction | None:
        if any(v.denominator != 1 or v < 0 for v in values):
            return None
        if bits(*map(int, values)) > MAX_BITS:
            raise TooMuch("a factorial out of bounds")
        return Fraction(count(*map(int, values)))

    return of


_PLAIN: dict[str, Callable[..., Any]] = {  # of fractions and of mpmath's numbers alike
    "+": lambda *values: sum(values[1:], values[0]),
    "/": lambda a, b: a / b,
    "neg": lambda a: -a,
    "%": lambda a: a / 100,
    "rad": lambda a: a,
    "abs": abs,
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
}
_EXACT: dict[str, Callable[..., Fraction | None]] = {
    **_PLAIN,
    "*": _product,
    "of": _product,
    "^": _power,
    "!": _counted(math.factorial, lambda n: n * n.bit_length()),
    "binom": _counted(math.comb, lambda n, k: min(k, max(n - k, 0)) * n.bit_length()),
    "gcd": _counted(math.gcd, lambda *_: 0),
    "lcm": _counted(math.lcm, lambda *values: sum(n.bit_length() for n in values)),
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
}


def value_at(
    node: Node, point: Mapping[str, Fraction], digits: int, *, complex_: bool = False, log_base: int = 0
) -> Any:
    """The value of an expression at a point; real only unless `complex_` is set.

    `log_base` is that of a logarithm that is written without one, 0 for e. Raises TooMuch beyond the bounds, Undefined
    where there is no such value.
    """
    return _Evaluator(digits, complex_, point, log_base).value(node)


_local = threading.local()  # mpmath's contexts keep their precision as state: every thread has its own


class _Evaluator:
    """Values of expressions at one point, to `digits` digits; real only unless `complex_` is set."""

    def __init__(self, digits: int, complex_: bool, point: Mapping[str, Fraction], log_base: int) -> None:
        if not hasattr(_local, "context"):
            _local.context = mpmath.MPContext()
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
        """Check that a value is finite and within bounds; convert it to a real one unless complex ones are allowed."""
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
        """The root of a number: the real one if the number is negative and the index odd, as in school; otherwise the
        principal one.
        """
        if self.mp.im(value) == 0 and self.mp.re(value) < 0 and index == self.mp.nint(index) and int(index) % 2:
            return -self.mp.root(-self.mp.re(value), int(index))
        return self.power(value, 1 / index)

    def log(self, x: Any, base: Any = None) -> Any:
        """The value of a logarithm. Without a base it may be to base 10 or e: the caller tries both."""
        base = base or self.log_base
        return self.mp.ln(x) / self.mp.ln(base) if base else self.mp.ln(x)

    def bounded(self, f: str, most: int, *args: Any) -> Any:
        """Call a function of mpmath. Raises TooMuch for arguments beyond a bound."""
        if max(map(abs, args)) > most:
            raise TooMuch(f"{f} of a number out of bounds")
        return getattr(self.mp, f)(*args)


_NUMERIC: dict[str, Callable[..., Any]] = {
    **{what: lambda _, *args, f=f: f(*args) for what, f in _PLAIN.items()},
    "*": lambda _, a, b: a * b,
    "of": lambda _, a, b: a * b,  # as good as any function of its argument, the same on both sides
    "^": _Evaluator.power,
    "deg": lambda e, a: a * e.mp.pi / 180,
    "!": lambda e, x: e.bounded("factorial", 10_000, x),
    "binom": lambda e, n, k: e.bounded("binomial", 10_000, n, k),
    "sqrt": lambda e, a: e.mp.sqrt(a),
    "root": _Evaluator.root,
    "exp": lambda e, a: e.power(+e.mp.e, a),
    "ln": lambda e, a: e.mp.ln(a),
    "log": _Evaluator.log,
    "lg": lambda e, a: e.log(a, 10),
    "Re": lambda e, a: e.mp.re(a),
    "Im": lambda e, a: e.mp.im(a),
}
_NUMERIC |= {f: lambda e, a, f=f: e.bounded(f, FAR, a) for f in ("floor", "ceil")}
_NUMERIC |= {
    ours: lambda e, a, f=f: e.bounded(f, 2**200, a)
    for ours, f in {
        **{f: f for f in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
        **{f"arc{f}": f"a{f}" for f in ("sin", "cos", "tan", "cot")},
        "cis": "expj",
    }.items()
}


# -- equal values


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
    if calls & SYMBOLIC:
        raise Undefined("for SymPy")
    bare_log = any(isinstance(n, Call) and n.what == "log" and len(n.args) == 1 for e in (a, b) for n in walk(e))
    variables = sorted(names(a) | names(b))
    if names(a) != names(b) and not calls & {"/", "neg", "^", "*", "of"}:
        return False
    imaginary = any(isinstance(n, Name) and n.text == "i" for e in (a, b) for n in walk(e)) or "cis" in calls
    numbers = [n for e in (a, b) for n in walk(e) if isinstance(n, Number)]
    minus_one = any(
        Call("^", (MINUS_ONE, n.args[1])) == n for e in (a, b) for n in walk(e) if isinstance(n, Call) and n.what == "^"
    )
    if variables and (calls & {"floor", "ceil"} or minus_one) and COUNTED.issuperset(variables):
        points = _counted_points(variables, [int(n.value) for n in numbers if 1 < n.value < FAR])
    else:
        points = _points(variables) if variables else [{}]
    return any(_agree(a, b, points, imaginary, base) for base in ((0, 10) if bare_log else (0,)))


def _agree(a: Node, b: Node, points: list[dict[str, Fraction]], imaginary: bool, log_base: int) -> bool:
    """Whether two expressions agree at a point: as real values if both are real, otherwise by principal values."""
    for complex_ in (True,) if imaginary else (False, True):
        met = 0
        for point in points:
            try:
                if not _agree_at(a, b, point, complex_, log_base):
                    return False
                met += 1
            except Undefined:
                continue
        if met >= min(3, len(points)):
            return True
    if len(points) == 1:
        return False
    raise Undefined("no point at which both have a value")


def _counted_points(variables: list[str], written: list[int]) -> list[dict[str, Fraction]]:
    """Whole numbers to compare functions at: the first hundred, and those near the numbers that occur in the
    expressions.
    """
    draw = random.Random(20_250_206)
    ones = [*range(1, 101), *(n + i for n in written[:20] for i in (-1, 0, 1))]
    return [{v: Fraction(n if len(variables) == 1 else draw.randrange(1, n + 9)) for v in variables} for n in ones]


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
    """Whether two values agree in all but SLACK of their digits. If that is not clear, more digits are computed."""
    digits = DIGITS + 2 * max((_written_digits(n) for e in (a, b) for n in walk(e)), default=0)
    slow = any(isinstance(n, Call) and n.what in ("!", "binom") for e in (a, b) for n in walk(e))
    if 4 * digits > (MAX_GAMMA_DIGITS if slow else MAX_DIGITS):
        raise TooMuch("numbers out of bounds")

    def compared(digits: int) -> tuple[Any, Any]:
        """The larger absolute value of the two, and their distance."""
        left, right = (value_at(e, point, digits, complex_=complex_, log_base=log_base) for e in (a, b))
        return max(abs(left), abs(right)), abs(left - right)

    largest, apart = compared(digits)
    if apart <= largest * mpmath.mpf(10) ** (SLACK - digits):
        return True
    if apart > largest * CLEARLY and largest > NEARLY_NOTHING:
        return False
    # Cancellation leaves noise, which shrinks when the work is done to more digits; a real difference does not
    _, still_apart = compared(4 * digits)
    return bool(still_apart <= apart * mpmath.mpf(10) ** -digits)


def _written_digits(node: Node) -> int:
    """The number of digits that the expressions write, or that a power in them has. As many must be computed, since a
    difference may lie in the last one.
    """
    if isinstance(node, Number | Based):
        return size(node.value) * 3 // 10
    if isinstance(node, Call) and node.what == "^" and all(isinstance(arg, Number) for arg in node.args):
        base, power = (arg.value for arg in node.args if isinstance(arg, Number))
        return int(size(base) * abs(power) * 3 // 10)
    return 0


def proportional(a: Node, b: Node) -> int:
    """The sign of the constant c for which a = c b at every point; 0 if there is no such constant.

    Raises TooMuch or Undefined as `same_value` does.
    """
    variables, ratios = sorted(names(a) | names(b)), []
    for point in _points(variables)[:8]:
        try:
            left, right = value_at(a, point, DIGITS), value_at(b, point, DIGITS)
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
    """The value of an expression as a fraction, correct to about forty digits; None if it is no real number."""
    try:
        value = exact(node)
        if value is not None:
            return value
        found = value_at(node, {}, DIGITS)
        if getattr(found, "imag", 0) or abs(found) > 1e300:
            return None
        return Fraction(int(found.real * 10**60), 10**60)
    except (TooMuch, Undefined):
        return None


ROUNDED = Fraction(1, 500)  # a decimal reference may be a rounded value if its last place is this fine, relatively
COMPUTED = Fraction(1, 10**6)  # a physics reference with a finer last place was printed by a program, not measured
COMPUTED_TO = Fraction(1, 200)
PRINTED = 12  # digits of an answer that a program printed: 0.333333333333
PHYSICS = Fraction(1, 50)  # and in scientific notation or a physics benchmark if it is this fine
_NO_VALUE = nodes.Words | nodes.Group | nodes.Matrix | nodes.Relation | nodes.Clock | nodes.Quantity
_NO_NUMBER = {"oo", "∅", "...", *(f"mathbb {letter}" for letter in "RZCQN")}


def tolerance(reference: Node, kind: Kind = "math") -> Fraction:
    """How far an answer may be from a reference: half a unit of its last place where it can be a rounded value.

    That is: a decimal whose last place is at most ROUNDED of it (3.14, but not 2.5, which is more likely exact), any
    number in scientific notation with a decimal point or a negative exponent, and any decimal of a physics benchmark.
    In the last two cases the tolerance is at most PHYSICS times the value. For everything else it is zero: integers and
    fractions are exact.
    """
    if isinstance(reference, Call) and reference.what in ("%", "neg", "deg", "rad"):
        return tolerance(reference.args[0], kind) / (100 if reference.what == "%" else 1)
    if not isinstance(reference, Number) or reference.step is None or not reference.value:
        return Fraction(0)
    half, size = reference.step / 2, abs(reference.value)
    if kind == "physics" and reference.step < size * COMPUTED:
        return size * COMPUTED_TO
    if reference.scientific or kind == "physics":
        return min(half, size * PHYSICS)
    return half if half <= size * ROUNDED else Fraction(0)


def _printed_to(given: Node, reference: Node) -> Fraction:
    """One unit of the last place, if the answer has at least PRINTED digits and the reference has fewer."""
    if not isinstance(given, Number) or given.step is None or isinstance(reference, Number):
        return Fraction(0)
    return given.step if abs(given.value) >= given.step * 10 ** (PRINTED - 1) else Fraction(0)


def by_value(given: Node, reference: Node, kind: Kind) -> Ruling:
    """Compare two values: exactly if both are rational, up to the precision of the reference, and otherwise to fifty
    digits.
    """
    if isinstance(given, Number) and isinstance(reference, Number):
        apart = abs(given.value - reference.value)
        return rule_by(not apart or apart <= tolerance(reference, kind), "number")
    special = [n.text for e in (given, reference) for n in walk(e) if isinstance(n, Name) and n.text in _NO_NUMBER]
    if special and not any(isinstance(n, Call) and n.what in SYMBOLIC for e in (given, reference) for n in walk(e)):
        return "wrong", f"not the same as {special[-1]}"
    if any(isinstance(n, _NO_VALUE) for n in walk(given)):
        return "wrong", "not a value"
    try:
        found, wanted = exact(given), exact(reference)
    except Undefined:
        return "wrong", "division by zero"
    except TooMuch:  # as exact numbers: their first digits may tell them apart, but not prove them equal
        if same_value(given, reference):
            raise
        return "wrong", "value"
    within = tolerance(reference, kind) or _printed_to(given, reference)
    if found is not None and wanted is not None:
        return rule_by(found == wanted or abs(found - wanted) <= within, "number")
    if within:
        near, value = approximately(given), approximately(reference)
        if near is None or value is None:
            return "unsure", "a rounded value of what cannot be worked out"
        if abs(near - value) <= within:
            return "correct", "rounded"
    try:
        return rule_by(same_value(given, reference), "value")
    except Undefined:
        return same_by_sympy(given, reference)


def by_degrees(given: Node, reference: Node, kind: Kind) -> Ruling | None:
    """Compare angles. The degree sign may be missing on one side; otherwise a degree is pi/180."""
    ours, theirs = degrees(given), degrees(reference)
    if (ours is None and theirs is None) or is_radians(given):
        return None
    if ours is not None and (theirs is not None or is_radians(reference)):
        return by_value(given, reference, kind) if theirs is None else by_value(ours, theirs, kind)
    verdict, how = by_value(ours or given, theirs or reference, kind)
    return (verdict, how) if verdict == "correct" else by_value(given, reference, kind)


def is_radians(node: Node) -> bool:
    """Whether an expression states that it is in radians."""
    return isinstance(node, Call) and node.what == "rad"


def degrees(node: Node) -> Node | None:
    """How many degrees an angle is, if it is written in degrees."""
    if not isinstance(node, Call):
        return None
    if node.what == "deg":
        return node.args[0]
    if node.what in ("neg", "+"):
        parts = [degrees(arg) for arg in node.args]
        if node.what == "+" and any(parts):  # 180^\circ - 2\alpha: the names are angles in degrees as well
            parts = [part or (arg if names(arg) else None) for part, arg in zip(parts, node.args, strict=True)]
        return None if any(p is None for p in parts) else Call(node.what, tuple(p for p in parts if p is not None))
    if node.what == "*":
        inner = degrees(node.args[1])
        return None if inner is None else Call("*", (node.args[0], inner))
    return None
