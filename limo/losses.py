"""Losses as pure functions of tensors, and the weights of rows; the trainers call them and add nothing.

Here are those of tokens and rows; `limo/preference.py` has those of pairs.

    python -m limo.losses plot      # preference losses over the margin: what to know before training with one
"""

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from limo.errors import UserError

if TYPE_CHECKING:
    import torch

Weighting = Literal["tokens", "weights", "rows"]
Centring = Literal["rewards", "weights"]


def learned_positions(labels: "torch.Tensor") -> "torch.Tensor":
    """The positions (n,) whose next token is learned in at least one row of labels (rows, length), -100 elsewhere."""
    return (labels[:, 1:] != -100).any(0).nonzero()[:, 0]


def token_log_probs(logits: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
    """Log-probabilities (rows, n) in nats of tokens `wanted` (rows, n) under `logits` (rows, n, vocabulary).

    Zero where `wanted` is -100.
    """
    import torch

    negative = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none"
    )
    return -negative.view(wanted.shape)


def token_loss(log_probs: "torch.Tensor", kind: str) -> "torch.Tensor":
    """The loss of each token from its log-probability, in nats: `nll`, or `dft`.

    dft scales by the token's probability, without a gradient through it (arXiv 2508.05629, eq. 9).
    """
    return -log_probs if kind == "nll" else -log_probs * log_probs.exp().detach()


def weighted_loss(losses: "torch.Tensor", weights: "torch.Tensor | None", whole: Any) -> "torch.Tensor":
    """Sum of token `losses` (rows, n), each times its weight of the same shape, divided by `whole`.

    `whole` belongs to the complete optimizer step, over all forward passes and ranks, so that the loss does not depend
    on how the step is split. A step whose whole is 0 has the loss 0.
    """
    import torch

    total = (losses if weights is None else losses * weights).sum()
    divisor = torch.as_tensor(whole, device=total.device, dtype=total.dtype)
    return total / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


def row_weight(weight: float, learned: int, weighting: Weighting) -> tuple[float, float]:
    """(weight of each token of a row, the row's share of what the step's loss is divided by).

    With w the row's weight, n its learned tokens and l the sum of their losses, a step's loss is

        tokens    sum of w l / sum of n          a weight of 2 counts double
        weights   sum of w l / sum of w n        only the ratios of weights count
        rows      sum of w l / n, over the rows  each row counts alike, however long; reward-weighted regression as in
                                                 RISE (arXiv 2407.18219, eq. 4)
    """
    if weighting == "tokens":
        return weight, float(learned)
    if weighting == "weights":
        return weight, weight * learned
    return weight / learned, 1.0


def reward_weights(rewards: Sequence[float], tau: float, centring: Centring | None) -> list[float]:
    """Weights of the attempts at one problem from their `rewards` (attempts,), for reward-weighted regression.

    With r the reward of an attempt, mean the average over all attempts at this problem, tau the temperature:

        None      exp(r / tau)                          RISE (arXiv 2407.18219, eq. 3.6 in its NeurIPS version)
                                                        and its released code
        rewards   exp((r - mean r) / tau)               advantage-weighted regression (arXiv 1910.00177), which the
                                                        paper likens its centring to
        weights   exp(r / tau) - mean exp(r / tau)      the paper's words taken literally; below zero for attempts that
                                                        are worse than the mean

    The released code has no centring, and the paper does not say which of the two it means. Raises UserError unless tau
    is above 0 and large enough for exp to be a number.

    >>> [round(w, 3) for w in reward_weights([0, 1], 0.4, None)]
    [1.0, 12.182]
    """
    if not tau > 0:
        raise UserError(f"tau must be above 0, not {tau}: it divides the rewards")
    mean = math.fsum(rewards) / len(rewards) if centring == "rewards" else 0.0
    try:
        weights = [math.exp((r - mean) / tau) for r in rewards]
    except OverflowError:
        raise UserError(f"tau={tau} is too small for rewards up to {max(rewards)}: exp(r / tau) overflows") from None
    if centring != "weights":
        return weights
    middle = math.fsum(weights) / len(weights)
    return [w - middle for w in weights]


if __name__ == "__main__":
    from limo.errors import reported
    from limo.lossplot import main

    with reported():
        main(sys.argv[1:])
