"""A loss whose text is not trusted, such as one from a language model: parsed and evaluated, never executed.

    loss = Candidate('''
    def smooth_margin(chosen, rejected, reference_chosen, reference_rejected, beta):
        x = beta * ((chosen - rejected) - (reference_chosen - reference_rejected))
        return torch.nn.functional.softplus(-x) + 0.1 * torch.tanh(x) ** 2
    ''')

Python's own parser reads the text. Its tree is translated once into nested calls of functions from the tables below.
Everything else is refused with its line. There is no `exec`, `eval`, `compile`, or `getattr` of a name from the text.
Without loops, the size of the text bounds the work. Numbers are floats, and no result may have more elements than an
input. `discover/sandbox.py` adds a process without rights around the first use.

Left out: loops, subscripts, random numbers, other functions, classes, strings.
"""

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from limo.errors import UserError
from limo.training import preference
from limo.training.preference import PairLogProbs

MAX_CHARS, MAX_NODES, MAX_DEPTH, MAX_NUMBER = 20_000, 600, 40, 1e30
INPUTS = ("chosen", "rejected", "reference_chosen", "reference_rejected")
PLACES = ("torch", "F", "torch.nn.functional")
RESERVED = ("torch", "F", "self", "math")


class Refused(UserError):
    """Raised when a candidate's code is rejected. Holds the reason and the line."""

    code = 3  # exit code of a command that it ends: the candidate is at fault, not the machine


class Candidate:
    """A preference loss (`limo/training/preference.py`) from its text; `code` is safe to keep in a file.

    Raises Refused for a text that is not one function of the known parts.
    """

    def __init__(self, text: str) -> None:
        function = _parse_function(text)
        self.__name__, self.run = _check_name(function.name, function), _block(function.body)
        function.returns = None  # annotations and defaults would run where the file is imported
        for argument in function.args.args:
            argument.annotation = None
        self.code = ast.unparse(function) + "\n"

    def __call__(self, pairs: PairLogProbs, beta: float) -> torch.Tensor:
        """The loss. Raises Refused for what only values show, such as a division by zero."""
        values = _Values({name: getattr(pairs, name) for name in INPUTS}, beta=float(beta))
        values.like = pairs.chosen
        if (value := self.run(values)) is None:
            raise Refused("the function ends without a return")
        return _as_tensor(value, values.like)


def from_file(pairs: PairLogProbs, beta: float, *, path: str) -> torch.Tensor:
    """The loss in a file, for a recipe: `{_target_: limo.discover.candidate.from_file, path: ...}`.

    Raises UserError for an unreadable file, and Refused for a text that is not a loss.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the loss '{path}': {error}") from None
    try:
        return _load(text)(pairs, beta)
    except Refused as refused:
        raise Refused(f"{path}: {refused}") from None


_load = cache(Candidate)


@dataclass(frozen=True, slots=True)
class Function:
    """A function that a candidate may call."""

    call: Callable[..., Any]
    least: int = 1  # positional arguments; of a method, the value before the dot is the first
    most: int = 1
    keywords: tuple[str, ...] = ()
    tensors: int = 1  # so many leading arguments become tensors where they are numbers


def _truth(value: Any) -> bool:
    """A condition. Raises ValueError for a batch, which has no single truth."""
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        raise ValueError("a condition on a whole batch; torch.where decides pair by pair")
    return bool(value)


def _variance(x: torch.Tensor, unbiased: bool = True) -> torch.Tensor:
    """0 for a single number."""
    return x.var(correction=1 if unbiased else 0) if x.numel() > 1 else torch.zeros_like(x.sum())


def _named(names: str, *arguments: Any) -> dict[str, Function]:
    """torch's functions of these names."""
    found = {name: getattr(torch, name, None) or getattr(functional, name) for name in names.split()}
    return {name: Function(call, *arguments) for name, call in found.items()}


OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.Pow: operator.pow, ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne},
    ast.Not: lambda x: torch.logical_not(x) if isinstance(x, torch.Tensor) else not x,
    ast.And: lambda *values: all(map(_truth, values)),
    ast.Or: lambda *values: any(map(_truth, values)),
    ast.IfExp: lambda test, then, other: then if _truth(test) else other,
}
FUNCTIONS: dict[str, Function] = {
    **_named("abs exp expm1 log log1p log2 sqrt rsqrt square sign sin cos atan erf neg reciprocal floor"),
    **_named("sigmoid logsigmoid tanh relu gelu silu softsign mish zeros_like ones_like isfinite logical_not"),
    **_named("mean sum median detach"),
    **_named("pow atan2 fmod add sub mul div full_like", 2, 2),
    **_named("minimum maximum logaddexp logical_and logical_or", 2, 2, (), 2),
    **_named("clamp clip", 1, 3, ("min", "max")),
    **_named("softplus", 1, 3, ("beta", "threshold")),
    **_named("leaky_relu", 1, 2, ("negative_slope",)),
    **_named("elu", 1, 2, ("alpha",)),
    **_named("hardtanh", 1, 3, ("min_val", "max_val")),
    **_named("nan_to_num", 1, 1, ("nan",)),
    "softmax": Function(lambda x, dim=0: torch.softmax(x, 0), 1, 1, ("dim",)),
    "std": Function(lambda x, unbiased=True: _variance(x, unbiased).clamp(min=1e-12).sqrt(), 1, 1, ("unbiased",)),
    "var": Function(_variance, 1, 1, ("unbiased",)),
    "min": Function(lambda x, *y: torch.minimum(x, *y) if y else x.min(), 1, 2, (), 2),
    "max": Function(lambda x, *y: torch.maximum(x, *y) if y else x.max(), 1, 2, (), 2),
    "where": Function(lambda test, x, y: torch.where(test.bool(), x, y), 3, 3, (), 3),
    "lerp": Function(lambda x, y, weight: x + weight * (y - x), 3, 3, (), 3),
    "float": Function(lambda x: x),
    "logistic": Function(preference.logistic),
    "hinge": Function(preference.hinge),
    "exponential": Function(preference.exponential),
    "margin": Function(lambda *inputs: preference.PairLogProbs(*inputs).margin, 4, 4, (), 4),
}
BARE = ("abs", "min", "max", "float", "logistic", "hinge", "exponential", "margin")  # called without `torch.`


class _Values(dict[str, Any]):
    """The variables of one call: numbers, truths, tensors."""

    like: torch.Tensor  # an input, whose type and size results have


Evaluate = Callable[[_Values], Any]  # the value of a part; of a block None where it returns nothing


def _parse_function(text: str) -> ast.FunctionDef:
    """The one function of a text, within the limits of size and depth."""
    if len(text) > MAX_CHARS:
        raise Refused(f"the text has {len(text):,} characters; the limit is {MAX_CHARS:,}")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"not Python: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from None
    level: list[ast.AST] = [tree]
    nodes = depth = 0
    while level:  # without recursion
        nodes, depth = nodes + len(level), depth + 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise Refused(f"too long: at most {MAX_NODES} parts, {MAX_DEPTH} levels deep")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    parts = [part for part in tree.body if not _is_docstring(part)]
    if len(parts) != 1 or not isinstance(function := parts[0], ast.FunctionDef):
        raise Refused("there must be one function and nothing beside it")
    if function.decorator_list or getattr(function, "type_params", None):
        raise Refused(f"line {function.lineno}: decorators and type parameters are not allowed")
    given = function.args
    more = given.posonlyargs or given.kwonlyargs or given.vararg or given.kwarg or given.defaults
    if more or tuple(argument.arg for argument in given.args) != (*INPUTS, "beta"):
        raise Refused(f"line {function.lineno}: the function takes {', '.join(INPUTS)}, beta, without defaults")
    return function


def _block(body: Sequence[ast.stmt]) -> Evaluate:
    steps = [_statement(part) for part in body if not _is_docstring(part)]

    def run(values: _Values) -> Any:
        return next((found for step in steps if (found := step(values)) is not None), None)

    return run


def _statement(node: ast.stmt) -> Evaluate:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return _assign(name, node, _expression(value))
        case ast.AugAssign(target=ast.Name(id=name) as target, op=op, value=value) if type(op) in OPERATORS:
            return _assign(name, node, _operation(op, node, target, value))
        case ast.Return(value=ast.expr() as value):
            return _expression(value)
        case ast.If(test=test, body=body, orelse=orelse):
            decide, then, other = _call(Function(_truth, tensors=0), node, [test]), _block(body), _block(orelse)
            return lambda values: then(values) if decide(values) else other(values)
    raise _refusal(node)


def _assign(name: str, node: ast.stmt, value: Evaluate) -> Evaluate:
    _check_name(name, node)
    return lambda values: values.update({name: value(values)})


def _expression(node: ast.expr) -> Evaluate:
    match node:
        case ast.Constant(value=bool() as constant):
            return _constant(constant)
        case ast.Constant(value=int() | float() as number) if abs(number) < MAX_NUMBER:
            return _constant(float(number))
        case ast.Name(id=name):
            return _variable(_check_name(name, node))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return _operation(op, node, operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _operation(op, node, left, right)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            return _operation(op, node, left, right)
        case ast.BoolOp(op=op, values=parts):
            return _operation(op, node, *parts)
        case ast.IfExp(test=test, body=then, orelse=other):
            return _operation(node, node, test, then, other)
        case ast.Call():
            return _function_call(node)
    raise _refusal(node)


def _function_call(node: ast.Call) -> Evaluate:
    args = list(node.args)
    match node.func:
        case ast.Name(id=name) if name in BARE:
            pass
        case ast.Attribute(value=place, attr=name) if ast.unparse(place) in PLACES:
            pass
        case ast.Attribute(value=value, attr=name):
            args.insert(0, value)
        case _:
            raise _refusal(node.func, " as a function")
    if name not in FUNCTIONS:
        known = ", ".join(sorted(FUNCTIONS))
        raise Refused(f"line {node.lineno}: the function {name[:40]!r} is not known; there are {known}")
    found = FUNCTIONS[name]
    if not found.least <= len(args) <= found.most or any(k.arg not in found.keywords for k in node.keywords):
        more = f" and {', '.join(found.keywords)}" if found.keywords else ""
        raise Refused(f"line {node.lineno}: {name} takes {found.least} to {found.most} values{more}")
    return _call(found, node, args, node.keywords)


def _operation(op: ast.AST, node: ast.expr | ast.stmt, *arguments: ast.expr) -> Evaluate:
    return _call(Function(OPERATORS[type(op)], tensors=0), node, arguments)


def _call(
    function: Function, node: ast.expr | ast.stmt, arguments: Sequence[ast.expr], keywords: Sequence[ast.keyword] = ()
) -> Evaluate:
    parts = [_expression(argument) for argument in arguments]
    named = {str(keyword.arg): _expression(keyword.value) for keyword in keywords}

    def run(values: _Values) -> Any:
        given, more = [part(values) for part in parts], {name: part(values) for name, part in named.items()}
        given[: function.tensors] = [_as_tensor(value, values.like) for value in given[: function.tensors]]
        try:
            result = function.call(*given, **more)
        except (ArithmeticError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise Refused(f"line {node.lineno}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
        if isinstance(result, complex) or (isinstance(result, torch.Tensor) and result.numel() > values.like.numel()):
            raise Refused(f"line {node.lineno}: complex numbers and values larger than the batch are not allowed")
        # True + True is an integer, and integers grow without bound
        return float(result) if isinstance(result, int) and not isinstance(result, bool) else result

    return run


def _constant(value: float) -> Evaluate:
    return lambda _: value


def _variable(name: str) -> Evaluate:
    def read(values: _Values) -> Any:
        if name not in values:
            raise Refused(f"{name[:40]!r} has no value")
        return values[name]

    return read


def _as_tensor(value: Any, like: torch.Tensor) -> torch.Tensor:
    """A number as a tensor () of the inputs' type; truths become 0 and 1."""
    if isinstance(value, torch.Tensor):
        return value.to(like.dtype) if value.dtype is torch.bool else value
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _check_name(name: str, node: ast.AST) -> str:
    if name in RESERVED or name.startswith("_") or name.endswith("__") or not name.isascii():
        raise Refused(f"line {getattr(node, 'lineno', '?')}: the name {name[:40]!r} is not allowed here")
    return name


def _is_docstring(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def _refusal(node: ast.AST, where: str = "") -> Refused:
    return Refused(f"line {getattr(node, 'lineno', '?')}: {type(node).__name__} is not allowed{where}")
