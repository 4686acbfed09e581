"""Token losses and row weights as pure functions, which the trainers call.

Losses of pairs are in `limo/training/preference.py`.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from limo.errors import UserError

if TYPE_CHECKING:
    import torch

Weighting = Literal["tokens", "weights", "rows"]
Centring = Literal["rewards", "weights"]


def loss_positions(labels: "torch.Tensor") -> "torch.Tensor":
    """Positions (n,) whose next token is a loss token in at least one row of labels (rows, length), -100 elsewhere."""
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
    on how the step is split. The loss is 0 where `whole` is 0.
    """
    import torch

    total = (losses if weights is None else losses * weights).sum()
    divisor = torch.as_tensor(whole, device=total.device, dtype=total.dtype)
    return total / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


def row_weight(weight: float, loss_tokens: int, weighting: Weighting) -> tuple[float, float]:
    """(weight of each token of a row, the row's part of the divisor of the step's loss).

    With w the row's weight, n its loss tokens and l the sum of their losses, a step's loss is

        tokens    sum of w l / sum of n        a row of weight 2 counts twice
        weights   sum of w l / sum of w n      only the ratios of weights count
        rows      sum of w l / n, over rows    each row counts alike, however long: reward-weighted regression as in
                                               RISE (arXiv 2407.18219, eq. 4)
    """
    if weighting == "tokens":
        return weight, float(loss_tokens)
    if weighting == "weights":
        return weight, weight * loss_tokens
    return weight / loss_tokens, 1.0


def reward_weights(rewards: Sequence[float], tau: float, centring: Centring | None) -> list[float]:
    """Weights of the attempts at one problem from their `rewards` (attempts,), for reward-weighted regression.

    With r the reward of an attempt, mean the average over all attempts at this problem, tau the temperature:

        None      exp(r / tau)                       RISE (arXiv 2407.18219, eq. 3.6 in its NeurIPS version) and its
                                                     released code
        rewards   exp((r - mean r) / tau)            advantage-weighted regression (arXiv 1910.00177), to which the
                                                     paper compares its centring
        weights   exp(r / tau) - mean exp(r / tau)   the paper's words taken literally; negative for attempts that are
                                                     worse than the mean

    The released code has no centring, and the paper does not state which of the two it means. Raises UserError unless
    tau is above 0 and large enough for exp not to overflow.

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
