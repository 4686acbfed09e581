"""A loss written by somebody who is not trusted, a language model for example: read, never executed.

    loss = candidate('''
    def smooth_margin(chosen, rejected, reference_chosen, reference_rejected, beta):
        x = beta * ((chosen - rejected) - (reference_chosen - reference_rejected))
        return torch.nn.functional.softplus(-x) + 0.1 * torch.tanh(x) ** 2
    ''')

The text is parsed by Python's own parser into a syntax tree, of which only arithmetic, comparisons, assignments,
`if`, loops over `range` of a small constant, and calls of the functions in `limo/allowed.py` are known; anything else
is refused with its line. The tree is then walked here, operation by operation, on tensors: there is no `exec`, `eval`,
`compile` or `getattr` of a name in it, so no text can reach anything that is not in those tables. Numbers are floats,
every step costs fuel, and no operation makes more numbers than it is given. `limo/sandbox.py` is the second wall.

Left out: subscripts, methods of other shapes, random numbers, other functions of one's own, classes, strings.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Any

from limo.allowed import ARITHMETIC, Refused, check, check_name, check_target, refused, times
from limo.errors import UserError
from limo.walk import Walk

ROLES = ("chosen", "rejected", "reference_chosen", "reference_rejected")
PUBLISHED = tuple(f"{who}_{what}_logps" for who in ("policy", "reference") for what in ("chosen", "rejected"))
MAX_CHARS, MAX_NODES, MAX_DEPTH = 20_000, 600, 40


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
        raise refused(where, "beside one function") if where else Refused("there must be one function, and no more")
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
            raise refused(self.function.decorator_list[0], "as a decorator")
        if getattr(self.function, "type_params", None):
            raise Refused(f"line {self.function.lineno}: type parameters are not allowed")
        for name in (self.name, *self.parameters):
            check_name(name, self.function)
        self._check_block(self.function.body)
        if not any(isinstance(node, ast.Return) for node in ast.walk(self.function)):
            raise Refused("the function returns nothing")

    def _check_block(self, body: list[ast.stmt]) -> None:
        for part in body:
            match part:
                case ast.Assign(targets=[target], value=value):
                    check_target(target)
                    check(value)
                case ast.AugAssign(target=ast.Name() as target, op=op, value=value) if type(op) in ARITHMETIC:
                    check_target(target)
                    check(value)
                case ast.Return(value=ast.expr() as value):
                    check(value)
                case ast.If(test=test, body=body_, orelse=orelse):
                    check(test)
                    self._check_block(body_)
                    self._check_block(orelse)
                case ast.For(target=ast.Name() as target, iter=iterated, body=body_, orelse=[]):
                    check_target(target)
                    times(iterated)
                    self._check_block(body_)
                case ast.Pass():
                    pass
                case _ if _is_text(part):
                    pass
                case _:
                    raise refused(part)

    def __call__(self, chosen: Any, rejected: Any, reference_chosen: Any, reference_rejected: Any, beta: float) -> Any:
        """See `limo/preference.py`. Raises Refused for what only values show: a shape, a number beyond all bounds."""
        given = dict(zip((*ROLES, "beta"), (chosen, rejected, reference_chosen, reference_rejected, beta), strict=True))
        names = {own: given[ours] for own, ours in self.parameters.items()}
        walk = Walk({"beta": float(beta), **names}, chosen)
        returned, value = walk.block(self.function.body)
        if not returned:
            raise Refused("the function came to its end without a return")
        return value if walk.is_tensor(value) else walk.tensor(value)
