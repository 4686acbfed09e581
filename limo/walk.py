"""A loss that was looked at (`limo/allowed.py`), worked out on tensors, operation by operation."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from limo import preference
from limo.allowed import ARITHMETIC, COMPARISONS, MATH, MATH_CONSTANTS, PLACES, Refused, dotted, refused, times

MAX_FUEL = 5_000  # operations of one call


class Walk:
    """One call of a candidate."""

    def __init__(self, names: Mapping[str, Any], like: Any) -> None:
        import torch

        self.torch, self.names, self.like, self.fuel = torch, dict(names), like, MAX_FUEL
        self.most = like.numel()

    def is_tensor(self, value: Any) -> bool:
        """Whether a value is one, or a number."""
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
                    for at in times(iterated):
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
        raise refused(node)

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
                if dotted(place) not in PLACES:
                    values = [self.value(place), *values]
            case _:
                raise refused(node)
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
