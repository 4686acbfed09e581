"""Losses as pure functions of tensors; the trainers call them and add nothing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def learned_positions(labels: "torch.Tensor") -> "torch.Tensor":
    """The positions (n,) whose next token is learned in at least one row of labels (rows, length), -100 elsewhere."""
    return (labels[:, 1:] != -100).any(0).nonzero()[:, 0]


def next_token_loss(
    logits: "torch.Tensor", labels: "torch.Tensor", positions: "torch.Tensor", tokens: Any
) -> "torch.Tensor":
    """Negative log-likelihood of the learned tokens in nats, summed and divided by `tokens`.

    `logits` (rows, n, vocabulary) belong to `positions` (n,) of `labels` (rows, length). `tokens` counts the learned
    tokens of the whole optimizer step, so that the loss does not depend on how the step is split into micro-batches.
    """
    import torch

    wanted = labels[:, positions + 1]
    total = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum"
    )
    return total / torch.as_tensor(tokens, device=total.device).clamp(min=1)
