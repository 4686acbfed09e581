"""The language of candidate losses: tables of the operations and functions that a text may use.

`limo/discover/candidate.py` reads texts by these tables and refuses everything else with its line.
"""

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from limo.errors import UserError
from limo.training import preference


class Refused(UserError):
    """Raised when a candidate's code is rejected. Holds the reason and the line."""

    code = 3  # exit code of a command that it ends: the candidate is at fault, not the machine


@dataclass(frozen=True, slots=True)
class Function:
    """A function that a candidate may call."""

    call: Callable[..., Any]
    least: int = 1  # positional arguments; of a method, the value before the dot is the first
    most: int = 1
    keywords: tuple[str, ...] = ()
    tensors: int = 1  # so many leading arguments become tensors where they are numbers


def truth(value: Any) -> bool:
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
    ast.And: lambda *values: all(map(truth, values)),
    ast.Or: lambda *values: any(map(truth, values)),
    ast.IfExp: lambda test, then, other: then if truth(test) else other,
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
MATH = {name: Function(getattr(math, name), tensors=0) for name in ("exp", "log", "sqrt", "tanh", "log1p", "fabs")}
MATH_CONSTANTS = {"pi": math.pi, "e": math.e}
