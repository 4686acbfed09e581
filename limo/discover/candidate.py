"""A loss whose text is not trusted, such as one from a language model: parsed and evaluated, never executed.

    loss = Candidate('''
    def smooth_margin(chosen, rejected, reference_chosen, reference_rejected, beta):
        x = beta * ((chosen - rejected) - (reference_chosen - reference_rejected))
        return torch.nn.functional.softplus(-x) + 0.1 * torch.tanh(x) ** 2
    ''')

Python's own parser reads the text, and its tree is evaluated with functions from the tables below. Everything else is
refused with its line. There is no `exec`, `eval`, `compile`, or `getattr` of a name from the text. There are no loops
and no branches, so the size of the text bounds the work, and one call evaluates all of it. Numbers are floats, and no
result may have more elements than an input. `discover/checks.py` adds a process without rights around the first use.

Left out: `if`, loops, subscripts, random numbers, other functions, classes, strings.
"""

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from limo.data import read_text
from limo.errors import UserError
from limo.training import preference
from limo.training.preference import PairLogProbs

MAX_CHARS, MAX_NODES, MAX_DEPTH, MAX_NUMBER = 20_000, 600, 40, 1e30
INPUTS = ("chosen", "rejected", "reference_chosen", "reference_rejected")
PLACES = ("torch", "F", "torch.nn.functional")
RESERVED = ("torch", "F", "self", "math")


class LossRefused(UserError):
    """Raised when a candidate's code is rejected. Holds the reason and the line."""

    code = 3  # exit code of a command that it ends: the candidate is at fault, not the machine


class Candidate:
    """A preference loss (`limo/training/preference.py`) from its text; `code` is safe to keep in a file.

    Raises LossRefused for a text that is not one function; forbidden operations in it are refused in the first call.
    """

    def __init__(self, text: str) -> None:
        function = _parse_function(text)
        self.__name__ = _check_name(function.name, function)
        self.body = [part for part in function.body if not _is_docstring(part)]
        function.returns = None  # annotations and defaults would run where the file is imported
        for argument in function.args.args:
            argument.annotation = None
        self.code = ast.unparse(function) + "\n"

    def __call__(self, pairs: PairLogProbs, beta: float) -> torch.Tensor:
        """The loss. Raises LossRefused for forbidden operations, and for errors such as a division by zero."""
        values = {name: getattr(pairs, name) for name in INPUTS} | {"beta": float(beta)}
        return _Evaluation(values, pairs.chosen).run(self.body)


def from_file(pairs: PairLogProbs, beta: float, /, *, path: str) -> torch.Tensor:
    """The loss in a file, for a recipe: `{_target_: limo.discover.candidate.from_file, path: ...}`."""
    text = read_text(path, "the loss")
    try:
        return _load(text)(pairs, beta)
    except LossRefused as refused:
        raise LossRefused(f"{path}: {refused}") from None


_load = cache(Candidate)


@dataclass(frozen=True, slots=True)
class Function:
    """A function that a candidate may call."""

    call: Callable[..., Any]
    least: int = 1  # fewest positional arguments; for a method, the value before the dot is the first
    most: int = 1
    keywords: tuple[str, ...] = ()
    tensors: int = 1  # so many leading arguments are converted to tensors if they are numbers


def _variance(x: torch.Tensor, unbiased: bool = True) -> torch.Tensor:
    """The variance of the numbers; 0 for a single one."""
    return x.var(correction=1 if unbiased else 0) if x.numel() > 1 else torch.zeros_like(x.sum())


def _named(names: str, *arguments: Any) -> dict[str, Function]:
    found = {name: getattr(torch, name, None) or getattr(functional, name) for name in names.split()}
    return {name: Function(call, *arguments) for name, call in found.items()}


OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.Pow: operator.pow, ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne},
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


def _parse_function(text: str) -> ast.FunctionDef:
    """Parse a text that holds a single function, within the limits of size and depth."""
    if len(text) > MAX_CHARS:
        raise LossRefused(f"the text has {len(text):,} characters; the limit is {MAX_CHARS:,}")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LossRefused(f"not Python: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from None
    level: list[ast.AST] = [tree]
    nodes = depth = 0
    while level:  # without recursion
        nodes, depth = nodes + len(level), depth + 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise LossRefused(f"too long: at most {MAX_NODES} parts, {MAX_DEPTH} levels deep")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    parts = [part for part in tree.body if not _is_docstring(part)]
    if len(parts) != 1 or not isinstance(function := parts[0], ast.FunctionDef):
        raise LossRefused("there must be one function and nothing beside it")
    if function.decorator_list or getattr(function, "type_params", None):
        raise LossRefused(f"line {function.lineno}: decorators and type parameters are not allowed")
    given = function.args
    more = given.posonlyargs or given.kwonlyargs or given.vararg or given.kwarg or given.defaults
    if more or tuple(argument.arg for argument in given.args) != (*INPUTS, "beta"):
        raise LossRefused(f"line {function.lineno}: the function takes {', '.join(INPUTS)}, beta, without defaults")
    return function


@dataclass(frozen=True, slots=True)
class _Evaluation:
    values: dict[str, Any]  # its variables: numbers, truths, tensors
    like: torch.Tensor  # an input, whose type and size results have

    def run(self, body: Sequence[ast.stmt]) -> torch.Tensor:
        for part in body:
            match part:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.values[_check_name(name, part)] = self.evaluate(value)
                case ast.AugAssign(target=ast.Name(id=name) as target, op=op, value=value):
                    self.values[_check_name(name, part)] = self.operate(op, part, target, value)
                case ast.Return(value=ast.expr() as value) if part is body[-1]:
                    return self.as_tensor(self.evaluate(value))
                case _:
                    raise _refusal(part)
        raise LossRefused("the function ends without a return")

    def evaluate(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() as constant):
                return constant
            case ast.Constant(value=int() | float() as number) if abs(number) < MAX_NUMBER:
                return float(number)
            case ast.Name(id=name):
                if _check_name(name, node) not in self.values:
                    raise LossRefused(f"{name[:40]!r} has no value")
                return self.values[name]
            case ast.UnaryOp(op=op, operand=operand):
                return self.operate(op, node, operand)
            case ast.BinOp(left=left, op=op, right=right) | ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.operate(op, node, left, right)
            case ast.Call():
                return self.call_named(node)
        raise _refusal(node)

    def call_named(self, node: ast.Call) -> Any:
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
            raise LossRefused(f"line {node.lineno}: the function {name[:40]!r} is not known; there are {known}")
        found = FUNCTIONS[name]
        if not found.least <= len(args) <= found.most or any(k.arg not in found.keywords for k in node.keywords):
            more = f" and {', '.join(found.keywords)}" if found.keywords else ""
            raise LossRefused(f"line {node.lineno}: {name} takes {found.least} to {found.most} values{more}")
        return self.call(found, node, args, node.keywords)

    def operate(self, op: ast.AST, node: ast.expr | ast.stmt, *arguments: ast.expr) -> Any:
        if type(op) not in OPERATORS:
            raise _refusal(node)
        return self.call(Function(OPERATORS[type(op)], tensors=0), node, arguments)

    def call(
        self,
        function: Function,
        node: ast.expr | ast.stmt,
        arguments: Sequence[ast.expr],
        keywords: Sequence[ast.keyword] = (),
    ) -> Any:
        given = [self.evaluate(argument) for argument in arguments]
        given[: function.tensors] = map(self.as_tensor, given[: function.tensors])
        named = {str(keyword.arg): self.evaluate(keyword.value) for keyword in keywords}
        try:
            result = function.call(*given, **named)
        except (ArithmeticError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise LossRefused(f"line {node.lineno}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
        if isinstance(result, complex) or (isinstance(result, torch.Tensor) and result.numel() > self.like.numel()):
            raise LossRefused(f"line {node.lineno}: complex numbers and values larger than the batch are not allowed")
        # True + True is an integer, and integers grow without bound
        return float(result) if isinstance(result, int) and not isinstance(result, bool) else result

    def as_tensor(self, value: Any) -> torch.Tensor:
        """Convert a number to a tensor of shape () and of the inputs' type. True and False become 1 and 0."""
        if isinstance(value, torch.Tensor):
            return value.to(self.like.dtype) if value.dtype is torch.bool else value
        return torch.as_tensor(value, dtype=self.like.dtype, device=self.like.device)


def _check_name(name: str, node: ast.AST) -> str:
    if name in RESERVED or name.startswith("_") or name.endswith("__") or not name.isascii():
        raise LossRefused(f"line {getattr(node, 'lineno', '?')}: the name {name[:40]!r} is not allowed here")
    return name


def _is_docstring(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def _refusal(node: ast.AST, where: str = "") -> LossRefused:
    return LossRefused(f"line {getattr(node, 'lineno', '?')}: {type(node).__name__} is not allowed{where}")
