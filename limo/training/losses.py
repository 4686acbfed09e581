"""Token losses and row weights as pure functions, which the trainers call.

Losses of pairs are in `limo/training/preference.py`.
"""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Weighting = Literal["tokens", "weights", "rows"]


def loss_positions(labels: "torch.Tensor") -> "torch.Tensor":
    """Positions (n,) whose next token is a loss token in at least one row of labels (rows, length), -100 elsewhere."""
    return (labels[:, 1:] != -100).any(0).nonzero()[:, 0]


def token_log_probs(logits: "torch.Tensor", wanted: "torch.Tensor") -> "torch.Tensor":
    """Log-probabilities (rows, n) in nats of tokens `wanted` (rows, n), 0 where that is -100."""
    import torch

    negative = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none"
    )
    return -negative.view(wanted.shape)


def token_loss(log_probs: "torch.Tensor", kind: str) -> "torch.Tensor":
    """The loss of each token in nats: `nll`, or `dft`, which scales by the probability (arXiv 2508.05629, eq. 9)."""
    return -log_probs if kind == "nll" else -log_probs * log_probs.exp().detach()


def weighted_loss(losses: "torch.Tensor", weights: "torch.Tensor | None", whole: Any) -> "torch.Tensor":
    """Sum of token `losses` (rows, n), each times its weight, divided by `whole`; 0 where that is 0.

    `whole` belongs to the complete optimizer step, so that the loss does not depend on how the step is split.
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
