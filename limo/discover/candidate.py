"""A loss whose text is not trusted, such as one from a language model: parsed and evaluated, never executed.

    loss = Candidate('''
    def smooth_margin(chosen, rejected, reference_chosen, reference_rejected, beta):
        x = beta * ((chosen - rejected) - (reference_chosen - reference_rejected))
        return torch.nn.functional.softplus(-x) + 0.1 * torch.tanh(x) ** 2
    ''')

Python's own parser reads the text. Its tree is translated once into a tree of `Call`, `Assign` and `Branch`, in which
every operation is a function from the tables of `discover/language.py`. Everything else is refused with its line. Each
use of the loss evaluates that tree on tensors. There is no `exec`, `eval`, `compile`, or `getattr` of a name from the
text. Without loops, the size of the text bounds the work. Numbers are floats, and no result may have more elements than
an input. `discover/sandbox.py` adds a process without rights around the first use.

Left out: loops, subscripts, random numbers, other functions, classes, strings.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from limo.discover.language import BARE, FUNCTIONS, MATH, MATH_CONSTANTS, OPERATORS, Function, Refused, truth
from limo.errors import UserError
from limo.training.preference import PairLogProbs

MAX_CHARS, MAX_NODES, MAX_DEPTH, MAX_NUMBER = 20_000, 600, 40, 1e30
INPUTS = ("chosen", "rejected", "reference_chosen", "reference_rejected")
PUBLISHED = tuple(f"{name}_logps" for name in ("policy_chosen", "policy_rejected", *INPUTS[2:]))
PLACES = ("torch", "F", "torch.nn.functional")
RESERVED = ("torch", "F", "self", "math")


class Candidate:
    """A preference loss (`limo/training/preference.py`) from its text; `code` is safe to keep in a file.

    Raises Refused for a text that is not one function of the known parts.
    """

    def __init__(self, text: str) -> None:
        function = _parse_function(text)
        self.inputs = _read_inputs(function)  # its own names of INPUTS
        self.__name__, self.body = _check_name(function.name, function), _block(function.body)
        function.returns = None  # annotations and defaults would run where the file is imported
        for argument in function.args.args:
            argument.annotation = None
        self.code = ast.unparse(function) + "\n"

    def __call__(self, pairs: PairLogProbs, beta: float) -> torch.Tensor:
        """The loss. Raises Refused for what only values show, such as a division by zero."""
        names = dict(zip(self.inputs, (getattr(pairs, name) for name in INPUTS), strict=True))
        evaluation = _Evaluation({"beta": float(beta), **names}, pairs.chosen)
        if (value := evaluation.run(self.body)) is None:
            raise Refused("the function ends without a return")
        return evaluation.as_tensor(value)


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
class Call:
    """An operation or a function of the tables."""

    function: Function
    arguments: "tuple[Expression, ...]"
    keywords: "tuple[tuple[str, Expression], ...]"
    line: int


@dataclass(frozen=True, slots=True)
class Assign:
    """A variable gets a value; without a name, the value is returned."""

    name: str | None
    value: "Expression"


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`; the test is a truth."""

    test: Call
    then: "Block"
    other: "Block"


Expression = float | str | Call  # a number or truth, the name of a variable, or a call
Block = tuple[Assign | Branch, ...]


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
    return function


def _read_inputs(function: ast.FunctionDef) -> tuple[str, ...]:
    given = function.args
    names = tuple(a.arg for a in given.args)
    inputs = names[names[:1] == ("self",) : len(names) - (names[-1:] == ("beta",))]
    more = given.posonlyargs or given.kwonlyargs or given.vararg or given.kwarg or given.defaults
    if more or inputs not in (INPUTS, PUBLISHED):
        raise Refused(f"line {function.lineno}: the function takes {', '.join(INPUTS)}, beta, without defaults")
    return inputs


def _block(body: Sequence[ast.stmt]) -> Block:
    return tuple(_statement(part) for part in body if not _is_docstring(part))


def _statement(node: ast.stmt) -> Assign | Branch:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return Assign(_check_name(name, node), _expression(value))
        case ast.AugAssign(target=ast.Name(id=name), op=op, value=value) if type(op) in OPERATORS:
            return Assign(_check_name(name, node), _operation(op, node, name, _expression(value)))
        case ast.Return(value=ast.expr() as value):
            return Assign(None, _expression(value))
        case ast.If(test=test, body=then, orelse=other):
            call = Call(Function(truth, tensors=0), (_expression(test),), (), node.lineno)
            return Branch(call, _block(then), _block(other))
    raise _refusal(node)


def _expression(node: ast.expr) -> Expression:
    match node:
        case ast.Constant(value=bool() as value):
            return value
        case ast.Constant(value=int() | float() as value) if abs(value) < MAX_NUMBER:
            return float(value)
        case ast.Name(id=name):
            return _check_name(name, node)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return _operation(op, node, _expression(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _operation(op, node, _expression(left), _expression(right))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            return _operation(op, node, _expression(left), _expression(right))
        case ast.BoolOp(op=op, values=values):
            return _operation(op, node, *map(_expression, values))
        case ast.IfExp(test=test, body=then, orelse=other):
            return _operation(node, node, *map(_expression, (test, then, other)))
        case ast.Attribute(value=ast.Name(id="self"), attr="beta"):
            return "beta"
        case ast.Attribute(value=ast.Name(id="math"), attr=name) if name in MATH_CONSTANTS:
            return MATH_CONSTANTS[name]
        case ast.Call():
            return _function_call(node)
    raise _refusal(node)


def _function_call(node: ast.Call) -> Call:
    table, args = FUNCTIONS, list(node.args)
    match node.func:
        case ast.Name(id=name) if name in BARE:
            pass
        case ast.Attribute(value=place, attr=name) if ast.unparse(place) in PLACES:
            pass
        case ast.Attribute(value=ast.Name(id="math"), attr=name):
            table = MATH
        case ast.Attribute(value=value, attr=name):
            args.insert(0, value)
        case _:
            raise _refusal(node.func, " as a function")
    if name not in table:
        known = ", ".join(sorted(table))
        raise Refused(f"line {node.lineno}: the function {name[:40]!r} is not known; there are {known}")
    found = table[name]
    if not found.least <= len(args) <= found.most or any(k.arg not in found.keywords for k in node.keywords):
        more = f" and {', '.join(found.keywords)}" if found.keywords else ""
        raise Refused(f"line {node.lineno}: {name} takes {found.least} to {found.most} values{more}")
    keywords = tuple((str(k.arg), _expression(k.value)) for k in node.keywords)
    return Call(found, tuple(map(_expression, args)), keywords, node.lineno)


def _operation(op: ast.AST, node: ast.expr | ast.stmt, *arguments: Expression) -> Call:
    return Call(Function(OPERATORS[type(op)], tensors=0), arguments, (), node.lineno)


def _check_name(name: str, node: ast.AST) -> str:
    if name in RESERVED or name.startswith("_") or name.endswith("__") or not name.isascii():
        raise Refused(f"line {getattr(node, 'lineno', '?')}: the name {name[:40]!r} is not allowed here")
    return name


def _is_docstring(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def _refusal(node: ast.AST, where: str = "") -> Refused:
    return Refused(f"line {getattr(node, 'lineno', '?')}: {type(node).__name__} is not allowed{where}")


class _Evaluation:
    """One call of a candidate, with its variables."""

    def __init__(self, names: dict[str, Any], like: torch.Tensor) -> None:
        self.names, self.like = names, like

    def as_tensor(self, value: Any) -> torch.Tensor:
        """A number as a tensor () of the inputs' type; truths become 0 and 1."""
        if isinstance(value, torch.Tensor):
            return value.to(self.like.dtype) if value.dtype is torch.bool else value
        return torch.as_tensor(value, dtype=self.like.dtype, device=self.like.device)

    def run(self, body: Block) -> Any:
        """The value that a block returns; None if it returns nothing."""
        for statement in body:
            if isinstance(statement, Branch):
                found = self.run(statement.then if self.value(statement.test) else statement.other)
                if found is not None:
                    return found
            elif statement.name is None:
                return self.value(statement.value)
            else:
                self.names[statement.name] = self.value(statement.value)
        return None

    def value(self, node: Expression) -> Any:
        """A number, a truth or a tensor."""
        if isinstance(node, str):
            if node not in self.names:
                raise Refused(f"{node[:40]!r} has no value")
            return self.names[node]
        if not isinstance(node, Call):
            return node
        function = node.function
        values = [self.value(argument) for argument in node.arguments]
        keywords = {name: self.value(value) for name, value in node.keywords}
        values[: function.tensors] = map(self.as_tensor, values[: function.tensors])
        try:
            result = function.call(*values, **keywords)
        except (ArithmeticError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise Refused(f"line {node.line}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
        if isinstance(result, complex) or (isinstance(result, torch.Tensor) and result.numel() > self.like.numel()):
            raise Refused(f"line {node.line}: complex numbers and values larger than the batch are not allowed")
        # True + True is an integer, and integers grow without bound
        return float(result) if isinstance(result, int) and not isinstance(result, bool) else result
