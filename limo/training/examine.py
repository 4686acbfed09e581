"""A preference loss before it is trained with: value and slope over rho, and reasons not to train with it.

    curve = examine_loss(load_loss({"_target_": "limo.training.preference.discopop", "tau": 0.05}, "loss"), beta=0.05)
    curve.start_slope, curve.problems

rho is the policy's margin over its reference. Every pair begins at rho = 0, so the sign of the slope there decides the
first steps. The slope is computed where all pairs of a batch have the same rho, as they have at the first step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limo.errors import UserError
from limo.recipe import bind
from limo.training.preference import PairLogProbs, PairLoss

REACH = 12.0  # |beta rho| over which values and slopes are computed
POINTS = 151  # over the reach, and again over a twentieth of it around the start, where bends often are
FAR = 1e4  # |beta rho| up to which they must be finite
SMALL = 1e-9  # slopes below this count as 0


@dataclass(frozen=True)
class LossCurve:
    """A loss over rho."""

    rho: list[float]
    value: list[float]
    slope: list[float]  # d loss / d rho
    start_slope: float  # at rho = 0
    problems: list[str]  # reasons not to train with it as it is


def load_loss(loss: str | Mapping[str, Any], where: str) -> PairLoss:
    """The function that a recipe names: a dotted path, or a node with its constants.

    Raises UserError if there is no such function, or a constant is missing or unknown.
    """
    return bind({"_target_": loss} if isinstance(loss, str) else loss, where)


def at_margin(rho: Any) -> PairLogProbs:
    """Pairs (pairs,) with these margins, half of each from the chosen completion; the reference has 0."""
    zero = rho.detach() * 0
    return PairLogProbs(rho / 2, -rho / 2, zero, zero)


def examine_loss(loss: PairLoss, beta: float) -> LossCurve:
    """Value and slope of a loss, and its problems.

    Raises UserError if it cannot be called with pairs and beta, or does not return one value per pair.
    """
    if beta <= 0:
        raise UserError(f"beta must be above 0, not {beta}")
    steps = [2 * at / (POINTS - 1) - 1 for at in range(POINTS)]
    rho = sorted({step * reach / beta for step in steps for reach in (REACH, REACH / 20)})
    try:
        value, slope = _measure_slopes(loss, beta, rho)
        far = _measure_slopes(loss, beta, [-FAR / beta, FAR / beta])
    except (TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise UserError(f"the loss cannot be called: {str(error).splitlines()[0]}") from None
    start, problems = slope[rho.index(0.0)], list[str]()
    if start > SMALL:
        problems.append(
            f"its slope at rho = 0, where every pair begins, is {start:+.4f} (DPO's is {-beta / 2:+.4f}): the first "
            "steps prefer the rejected completion"
        )
    elif start >= -SMALL:
        problems.append("its slope at rho = 0, where every pair begins, is 0: training does not start")
    if not all(map(math.isfinite, [*value, *slope, *far[0], *far[1]])):
        problems.append(f"it is not finite everywhere up to |beta rho| = {FAR:g}, and one such pair ends a training")
    return LossCurve(rho, value, slope, start, problems)


def _measure_slopes(loss: PairLoss, beta: float, rho: Sequence[float]) -> tuple[list[float], list[float]]:
    """Values and slopes d loss / d rho, both (len(rho),), each from a batch of two pairs at that rho."""
    import torch

    batches = torch.tensor(rho, dtype=torch.float32)[:, None].repeat(1, 2).requires_grad_()
    values = [loss(at_margin(batch), beta) for batch in batches]
    if (shape := tuple(values[0].shape)) != (2,):
        raise UserError(f"a preference loss returns one value per pair: for 2 pairs it gave {shape}")
    value = torch.stack(values)
    (slope,) = torch.autograd.grad(value.sum(), batches)
    return value[:, 0].tolist(), slope.mean(1).tolist()
