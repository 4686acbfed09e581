"""What the text of a loss may be made of: tables of operations and functions, and the look at each part before it runs.

Anything that is not in these tables is refused with its line (`limo/candidate.py`).
"""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from limo.errors import UserError

MAX_LOOP = 16  # times that a loop goes round
ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.Mod: operator.mod,
}
COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
# By the name after torch., F. or torch.nn.functional., or after the dot of a value: how many values, which keywords
FUNCTIONS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    **dict.fromkeys(("abs", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "square", "sign"), (1, 1, ())),
    **dict.fromkeys(("sigmoid", "logsigmoid", "tanh", "relu", "gelu", "silu", "softsign", "mish"), (1, 1, ())),
    **dict.fromkeys(("sin", "cos", "atan", "erf", "neg", "reciprocal", "zeros_like", "ones_like"), (1, 1, ())),
    **dict.fromkeys(("logistic", "hinge", "exponential"), (1, 1, ())),  # of limo/preference.py, finite everywhere
    "margin": (4, 4, ()),  # of limo/preference.py: rho
    **dict.fromkeys(("mean", "sum", "median", "detach", "float", "floor", "isfinite", "logical_not"), (1, 1, ())),
    **dict.fromkeys(("std", "var"), (1, 1, ("unbiased",))),
    **dict.fromkeys(("min", "max"), (1, 2, ())),
    **dict.fromkeys(("minimum", "maximum", "pow", "logaddexp", "full_like", "atan2", "fmod"), (2, 2, ())),
    **dict.fromkeys(("logical_and", "logical_or", "add", "sub", "mul", "div"), (2, 2, ())),
    **dict.fromkeys(("clamp", "clip"), (1, 3, ("min", "max"))),
    "where": (3, 3, ()),
    "lerp": (3, 3, ()),
    "softplus": (1, 3, ("beta", "threshold")),
    "leaky_relu": (1, 2, ("negative_slope",)),
    "elu": (1, 2, ("alpha",)),
    "hardtanh": (1, 3, ("min_val", "max_val")),
    "softmax": (1, 1, ("dim",)),
    "nan_to_num": (1, 1, ("nan",)),
}
PLACES = ("torch", "F", "torch.nn.functional")
MATH = {name: getattr(math, name) for name in ("exp", "log", "sqrt", "tanh", "log1p", "fabs")}
MATH_CONSTANTS = {"pi": math.pi, "e": math.e}


class Refused(UserError):
    """The candidate's text is none that is run; says what and where."""

    code = 3  # of a command that ends with it: the candidate's fault and nobody else's


def refused(node: ast.AST, what: str = "") -> Refused:
    """The error about a part that is not known, with its line."""
    kind = type(node).__name__
    return Refused(f"line {getattr(node, 'lineno', '?')}: {kind} is not allowed{f' {what}' if what else ''}")


def check_name(name: str, node: ast.AST) -> None:
    """Raise Refused for a name that is not plain ASCII, or that begins or ends as Python's own do."""
    if name.startswith("_") or name.endswith("__") or not name.isascii():
        raise Refused(f"line {getattr(node, 'lineno', '?')}: the name {name!r} is not allowed")


def check_target(target: ast.expr) -> None:
    """Raise Refused for anything but a plain name on the left of an assignment."""
    if not isinstance(target, ast.Name):
        raise refused(target, "on the left of =")
    check_name(target.id, target)
    if target.id in ("torch", "F", "self", "math", "range"):
        raise Refused(f"line {target.lineno}: {target.id} cannot be given another meaning")


def times(node: ast.expr) -> range:
    """The range of a loop, whose bounds are written numbers."""
    match node:
        case ast.Call(func=ast.Name(id="range"), args=args, keywords=[]) if 1 <= len(args) <= 3:
            bounds = [a.value for a in args if isinstance(a, ast.Constant) and type(a.value) is int]
            if len(bounds) == len(args) and all(abs(b) < 10_000 for b in bounds) and 0 not in bounds[2:]:
                times = range(*bounds)
                if len(times) <= MAX_LOOP:
                    return times
    raise Refused(f"line {node.lineno}: loops go over range(n) with a written n of at most {MAX_LOOP}")


def check(node: ast.expr) -> None:
    """Raise Refused if an expression has a part that is not known."""
    match node:
        case ast.Constant(value=value):
            if isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 1e30):
                return
            raise Refused(f"line {node.lineno}: the constant {str(value)[:20]!r} is not allowed")
        case ast.Name(id=name):
            check_name(name, node)
            return
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
            check(operand)
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            check(left)
            check(right)
            return
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            check(left)
            check(right)
            return
        case ast.BoolOp(values=values):
            for value_ in values:
                check(value_)
            return
        case ast.IfExp(test=test, body=body, orelse=orelse):
            for part in (test, body, orelse):
                check(part)
            return
        case ast.Attribute(value=ast.Name(id="self"), attr="beta"):
            return
        case ast.Attribute(value=ast.Name(id="math"), attr=attr) if attr in MATH_CONSTANTS:
            return
        case ast.Call(func=function, args=args, keywords=keywords):
            _check_call(node, function, args, keywords)
            return
    raise refused(node)


def _check_call(node: ast.Call, function: ast.expr, args: list[ast.expr], keywords: list[ast.keyword]) -> None:
    for argument in args:
        check(argument)  # a starred one is refused there
    for keyword in keywords:
        check(keyword.value)
    match function:
        case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in MATH and len(args) == 1 and not keywords:
            return
        case ast.Name(id="abs" | "min" | "max" | "float" | "logistic" | "hinge" | "exponential" | "margin" as name):
            own = 0
        case ast.Attribute(value=place, attr=name) if dotted(place) in PLACES:
            own = 0
        case ast.Attribute(value=value, attr=name) if not (
            isinstance(value, ast.Name) and value.id in ("torch", "F", "self")
        ):
            check(value)
            own = 1
        case _:
            raise refused(function, "as a function")
    if name not in FUNCTIONS:
        raise Refused(
            f"line {node.lineno}: the function {name[:40]!r} is not known; there are {', '.join(sorted(FUNCTIONS))}"
        )
    least, most, known = FUNCTIONS[name]
    if not least <= len(args) + own <= most or any(k.arg not in known for k in keywords):
        raise Refused(f"line {node.lineno}: {name} takes {least} to {most} values{f' and {known}' if known else ''}")


def dotted(node: ast.expr) -> str:
    """`torch.nn.functional` and its like as written; empty for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{dotted(value)}.{attr}"
    return ""
