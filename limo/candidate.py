"""A loss written by somebody who is not trusted, a language model for example: read, never executed.

    loss = candidate('''
    def smooth_margin(chosen, rejected, reference_chosen, reference_rejected, beta):
        x = beta * ((chosen - rejected) - (reference_chosen - reference_rejected))
        return torch.nn.functional.softplus(-x) + 0.1 * torch.tanh(x) ** 2
    ''')

The text is parsed by Python's own parser into a syntax tree, of which only arithmetic, comparisons, assignments,
`if`, loops over `range` of a small constant, and calls of the functions in `FUNCTIONS` are known; anything else is
refused with its line. The tree is then walked here, operation by operation, on tensors: there is no `exec`, `eval`,
`compile` or `getattr` of a name in it, so no text can reach anything that is not in this file. Numbers are floats,
every step costs fuel, and no operation makes more numbers than it is given. `limo/sandbox.py` is the second wall.

Left out: subscripts, methods of other shapes, random numbers, other functions of one's own, classes, strings.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from limo import preference
from limo.errors import UserError

ROLES = ("chosen", "rejected", "reference_chosen", "reference_rejected")
PUBLISHED = tuple(f"{who}_{what}_logps" for who in ("policy", "reference") for what in ("chosen", "rejected"))
MAX_CHARS, MAX_NODES, MAX_DEPTH, MAX_FUEL, MAX_LOOP = 20_000, 600, 40, 5_000, 16
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


def candidate(text: str) -> "Candidate":
    """The loss that a text describes. Raises Refused for anything but one function of the known parts."""
    if len(text) > MAX_CHARS:
        raise Refused(f"the text has {len(text):,} characters; {MAX_CHARS:,} are read")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"not Python: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from None
    if _depth(tree) > MAX_DEPTH or sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise Refused(f"too much of it: at most {MAX_NODES} parts, {MAX_DEPTH} deep")
    functions = [part for part in tree.body if not _is_text(part)]
    if len(functions) != 1 or not isinstance(functions[0], ast.FunctionDef):
        where = next((part for part in functions if not isinstance(part, ast.FunctionDef)), None)
        raise _refused(where, "beside one function") if where else Refused("there must be one function, and no more")
    found = Candidate(functions[0])
    found.check()
    return found


def from_file(
    chosen: Any, rejected: Any, reference_chosen: Any, reference_rejected: Any, beta: float, *, path: str
) -> Any:
    """The loss that a file describes, as a recipe takes it: `{_target_: limo.candidate.from_file, path: ...}`.

    Raises UserError if there is no such file, Refused as `candidate` does.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the loss '{path}': {error}") from None
    try:
        return _parsed(text)(chosen, rejected, reference_chosen, reference_rejected, beta)
    except Refused as refused:
        raise Refused(f"{path}: {refused}") from None


@cache
def _parsed(text: str) -> "Candidate":
    return candidate(text)


def _depth(tree: ast.AST) -> int:
    """Levels of the tree, without recursion."""
    level, depth = [tree], 0
    while level and depth <= MAX_DEPTH:
        level, depth = [child for node in level for child in ast.iter_child_nodes(node)], depth + 1
    return depth


def _is_text(part: ast.AST) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def _refused(node: ast.AST, what: str = "") -> Refused:
    kind = type(node).__name__
    return Refused(f"line {getattr(node, 'lineno', '?')}: {kind} is not allowed{f' {what}' if what else ''}")


class Candidate:
    """A loss (`limo/preference.py`) that is walked on each call; `name` is that of its function."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self.function, self.name, self.__name__ = function, function.name, function.name
        self.parameters = self._parameters()

    def _parameters(self) -> dict[str, str]:
        """Our names of the four inputs and beta by the candidate's own."""
        given = self.function.args
        names = [a.arg for a in given.args]
        if given.posonlyargs or given.kwonlyargs or given.vararg or given.kwarg or given.defaults:
            raise Refused(
                f"line {self.function.lineno}: the function takes {', '.join((*ROLES, 'beta'))}, without defaults"
            )
        if names in ([*ROLES, "beta"], [*ROLES]):
            return dict(zip(names, names, strict=True))
        ours = ("chosen", "rejected", "reference_chosen", "reference_rejected")
        if names in ([*PUBLISHED], ["self", *PUBLISHED], ["self", *ROLES]):
            return dict(zip([n for n in names if n != "self"], ours, strict=True))
        raise Refused(
            f"line {self.function.lineno}: the function takes {', '.join((*ROLES, 'beta'))}, not {', '.join(names)}"
        )

    def check(self) -> None:
        """Raise Refused for any part that is not known."""
        if self.function.decorator_list:
            raise _refused(self.function.decorator_list[0], "as a decorator")
        if getattr(self.function, "type_params", None):
            raise Refused(f"line {self.function.lineno}: type parameters are not allowed")
        for name in (self.name, *self.parameters):
            _check_name(name, self.function)
        self._check_block(self.function.body)
        if not any(isinstance(node, ast.Return) for node in ast.walk(self.function)):
            raise Refused("the function returns nothing")

    def _check_block(self, body: list[ast.stmt]) -> None:
        for part in body:
            match part:
                case ast.Assign(targets=[target], value=value):
                    _check_target(target)
                    _check(value)
                case ast.AugAssign(target=ast.Name() as target, op=op, value=value) if type(op) in ARITHMETIC:
                    _check_target(target)
                    _check(value)
                case ast.Return(value=ast.expr() as value):
                    _check(value)
                case ast.If(test=test, body=body_, orelse=orelse):
                    _check(test)
                    self._check_block(body_)
                    self._check_block(orelse)
                case ast.For(target=ast.Name() as target, iter=iterated, body=body_, orelse=[]):
                    _check_target(target)
                    _times(iterated)
                    self._check_block(body_)
                case ast.Pass():
                    pass
                case _ if _is_text(part):
                    pass
                case _:
                    raise _refused(part)

    def __call__(self, chosen: Any, rejected: Any, reference_chosen: Any, reference_rejected: Any, beta: float) -> Any:
        """See `limo/preference.py`. Raises Refused for what only values show: a shape, a number beyond all bounds."""
        given = dict(zip((*ROLES, "beta"), (chosen, rejected, reference_chosen, reference_rejected, beta), strict=True))
        names = {own: given[ours] for own, ours in self.parameters.items()}
        walk = _Walk({"beta": float(beta), **names}, chosen)
        returned, value = walk.block(self.function.body)
        if not returned:
            raise Refused("the function came to its end without a return")
        return value if walk.is_tensor(value) else walk.tensor(value)


def _check_name(name: str, node: ast.AST) -> None:
    if name.startswith("_") or name.endswith("__") or not name.isascii():
        raise Refused(f"line {getattr(node, 'lineno', '?')}: the name {name!r} is not allowed")


def _check_target(target: ast.expr) -> None:
    if not isinstance(target, ast.Name):
        raise _refused(target, "on the left of =")
    _check_name(target.id, target)
    if target.id in ("torch", "F", "self", "math", "range"):
        raise Refused(f"line {target.lineno}: {target.id} cannot be given another meaning")


def _times(node: ast.expr) -> range:
    """The range of a loop, whose bounds are written numbers."""
    match node:
        case ast.Call(func=ast.Name(id="range"), args=args, keywords=[]) if 1 <= len(args) <= 3:
            bounds = [a.value for a in args if isinstance(a, ast.Constant) and type(a.value) is int]
            if len(bounds) == len(args) and all(abs(b) < 10_000 for b in bounds) and 0 not in bounds[2:]:
                times = range(*bounds)
                if len(times) <= MAX_LOOP:
                    return times
    raise Refused(f"line {node.lineno}: loops go over range(n) with a written n of at most {MAX_LOOP}")


def _check(node: ast.expr) -> None:
    """Raise Refused if an expression has a part that is not known."""
    match node:
        case ast.Constant(value=value):
            if isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 1e30):
                return
            raise Refused(f"line {node.lineno}: the constant {str(value)[:20]!r} is not allowed")
        case ast.Name(id=name):
            _check_name(name, node)
            return
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() | ast.Not(), operand=operand):
            _check(operand)
            return
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            _check(left)
            _check(right)
            return
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            _check(left)
            _check(right)
            return
        case ast.BoolOp(values=values):
            for value_ in values:
                _check(value_)
            return
        case ast.IfExp(test=test, body=body, orelse=orelse):
            for part in (test, body, orelse):
                _check(part)
            return
        case ast.Attribute(value=ast.Name(id="self"), attr="beta"):
            return
        case ast.Attribute(value=ast.Name(id="math"), attr=attr) if attr in MATH_CONSTANTS:
            return
        case ast.Call(func=function, args=args, keywords=keywords):
            _check_call(node, function, args, keywords)
            return
    raise _refused(node)


def _check_call(node: ast.Call, function: ast.expr, args: list[ast.expr], keywords: list[ast.keyword]) -> None:
    for argument in args:
        _check(argument)  # a starred one is refused there
    for keyword in keywords:
        _check(keyword.value)
    match function:
        case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in MATH and len(args) == 1 and not keywords:
            return
        case ast.Name(id="abs" | "min" | "max" | "float" | "logistic" | "hinge" | "exponential" | "margin" as name):
            own = 0
        case ast.Attribute(value=place, attr=name) if _path(place) in PLACES:
            own = 0
        case ast.Attribute(value=value, attr=name) if not (
            isinstance(value, ast.Name) and value.id in ("torch", "F", "self")
        ):
            _check(value)
            own = 1
        case _:
            raise _refused(function, "as a function")
    if name not in FUNCTIONS:
        raise Refused(
            f"line {node.lineno}: the function {name[:40]!r} is not known; there are {', '.join(sorted(FUNCTIONS))}"
        )
    least, most, known = FUNCTIONS[name]
    if not least <= len(args) + own <= most or any(k.arg not in known for k in keywords):
        raise Refused(f"line {node.lineno}: {name} takes {least} to {most} values{f' and {known}' if known else ''}")


def _path(node: ast.expr) -> str:
    """`torch.nn.functional` and its like as written; empty for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{_path(value)}.{attr}"
    return ""


class _Walk:
    """One call of a candidate."""

    def __init__(self, names: Mapping[str, Any], like: Any) -> None:
        import torch

        self.torch, self.names, self.like, self.fuel = torch, dict(names), like, MAX_FUEL
        self.most = like.numel()

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, self.torch.Tensor)

    def tensor(self, value: Any) -> Any:
        """A number as a tensor () of the inputs' kind."""
        return (
            value
            if self.is_tensor(value)
            else self.torch.as_tensor(value, dtype=self.like.dtype, device=self.like.device)
        )

    def block(self, body: list[ast.stmt]) -> tuple[bool, Any]:
        """Walk statements; whether one returned, and what."""
        for part in body:
            self._burn(part)
            match part:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.names[name] = self.value(value)
                case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                    self.names[name] = self._made(
                        ARITHMETIC[type(op)], part, self._named(name, part), self.value(value)
                    )
                case ast.Return(value=ast.expr() as value):
                    return True, self.value(value)
                case ast.If(test=test, body=body_, orelse=orelse):
                    returned, value_ = self.block(body_ if self._truth(test) else orelse)
                    if returned:
                        return True, value_
                case ast.For(target=ast.Name(id=name), iter=iterated, body=body_):
                    for at in _times(iterated):
                        self.names[name] = float(at)
                        returned, value_ = self.block(body_)
                        if returned:
                            return True, value_
        return False, None

    def value(self, node: ast.expr) -> Any:
        """Walk an expression."""
        self._burn(node)
        match node:
            case ast.Constant(value=value):
                return value if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
            case ast.Name(id=name):
                return self._named(name, node)
            case ast.UnaryOp(op=op, operand=operand):
                value = self.value(operand)
                if isinstance(op, ast.Not):
                    return self.torch.logical_not(value) if self.is_tensor(value) else not value
                return self._made(operator.neg if isinstance(op, ast.USub) else operator.pos, node, value)
            case ast.BinOp(left=left, op=op, right=right):
                return self._made(ARITHMETIC[type(op)], node, self.value(left), self.value(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._made(COMPARISONS[type(op)], node, self.value(left), self.value(right))
            case ast.BoolOp(op=op, values=values):
                truths = [self._truth(value_) for value_ in values]
                return all(truths) if isinstance(op, ast.And) else any(truths)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.value(body if self._truth(test) else orelse)
            case ast.Attribute(value=ast.Name(id="self")):
                return self.names["beta"]
            case ast.Attribute(attr=attr):
                return MATH_CONSTANTS[attr]
            case ast.Call():
                return self._call(node)
        raise _refused(node)

    def _burn(self, node: ast.AST) -> None:
        self.fuel -= 1
        if self.fuel < 0:
            raise Refused(f"line {getattr(node, 'lineno', '?')}: more than {MAX_FUEL:,} operations")

    def _named(self, name: str, node: ast.AST) -> Any:
        if name not in self.names:
            raise Refused(f"line {getattr(node, 'lineno', '?')}: {name[:40]!r} has no value")
        return self.names[name]

    def _truth(self, node: ast.expr) -> bool:
        value = self.value(node)
        if self.is_tensor(value) and value.numel() != 1:
            raise Refused(f"line {node.lineno}: a condition on a whole batch; torch.where decides pair by pair")
        return bool(value)

    def _made(self, function: Callable[..., Any], node: ast.AST, *values: Any, **more: Any) -> Any:
        """The result of an operation, within bounds. Raises Refused for one that cannot be."""
        try:
            made = function(*values, **more)
        except (ArithmeticError, TypeError, ValueError, RuntimeError, IndexError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Refused(f"line {getattr(node, 'lineno', '?')}: {said}") from None
        if isinstance(made, complex) or (self.is_tensor(made) and made.numel() > self.most):
            raise Refused(f"line {getattr(node, 'lineno', '?')}: a value that no loss needs")
        # True + True is a whole number, and those grow without bound
        return float(made) if isinstance(made, int) and not isinstance(made, bool) else made

    def _call(self, node: ast.Call) -> Any:
        values = [self.value(a) for a in node.args]
        more = {str(k.arg): self.value(k.value) for k in node.keywords}
        match node.func:
            case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in MATH:
                number = values[0].item() if self.is_tensor(values[0]) and values[0].numel() == 1 else values[0]
                return self._made(MATH[name], node, number)
            case ast.Name(id=name):
                pass
            case ast.Attribute(value=place, attr=name):
                if _path(place) not in PLACES:
                    values = [self.value(place), *values]
            case _:
                raise _refused(node)
        return self._made(self._known(name), node, *values, **more)

    def _known(self, name: str) -> Callable[..., Any]:
        """The function of a name in `FUNCTIONS`, written out where torch's own takes more than we allow."""
        torch = self.torch
        plain = torch.nn.functional
        first = self.tensor
        own: dict[str, Callable[..., Any]] = {
            "detach": lambda x: first(x).detach(),
            "float": lambda x: first(x).to(self.like.dtype),
            "std": lambda x, unbiased=True: torch.sqrt(_variance(torch, first(x), unbiased).clamp(min=1e-12)),
            "var": lambda x, unbiased=True: _variance(torch, first(x), unbiased),
            "min": lambda x, y=None: first(x).min() if y is None else torch.minimum(first(x), first(y)),
            "max": lambda x, y=None: first(x).max() if y is None else torch.maximum(first(x), first(y)),
            "minimum": lambda x, y: torch.minimum(first(x), first(y)),
            "maximum": lambda x, y: torch.maximum(first(x), first(y)),
            "where": lambda c, x, y: torch.where(first(c).bool(), first(x), first(y)),
            "lerp": lambda x, y, w: first(x) + first(w) * (first(y) - first(x)),
            "full_like": lambda x, value: torch.full_like(x, float(value)),
            "softmax": lambda x, dim=0: torch.softmax(first(x), 0),
            "nan_to_num": lambda x, nan=0.0: torch.nan_to_num(first(x), nan=float(nan)),
            "clip": torch.clamp,
            "logistic": lambda x: preference.logistic(first(x)),
            "hinge": lambda x: preference.hinge(first(x)),
            "exponential": lambda x: preference.exponential(first(x)),
            "margin": preference.margin,
        }
        if name in own:
            return own[name]
        found: Callable[..., Any] = vars(plain).get(name) or vars(torch)[name]
        return lambda x, *rest, **more: found(first(x), *rest, **more)


def _variance(torch: Any, x: Any, unbiased: Any) -> Any:
    """0 of a single number, which has none."""
    return x.var(correction=1 if unbiased else 0) if x.numel() > 1 else torch.zeros_like(x.sum())
