"""Token losses and row weights as pure functions, which the trainers call.

Losses of pairs are in `limo/training/preference.py`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


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
