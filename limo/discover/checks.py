"""What is checked of a candidate loss before anybody trains with it, and what is kept of any loss that is trained with.

One finite value per pair, and finite slopes in policy and reference, at random inputs, at rho = 0 where every pair
begins, and up to |beta rho| = 10,000; a lower loss for a larger margin. The language of candidates has nothing that
depends on a pair's place in the batch. A loss need not use the reference. The validator published with arXiv 2406.08414
refuses KTO, whose output is twice as long, losses without a reference, and since a reformatting DPO; all known losses
pass here.
"""

from collections.abc import Sequence
from typing import Any

import torch

from limo.discover.archive import CheckResult
from limo.discover.candidate import Candidate, Refused
from limo.errors import UserError
from limo.training.examine import FAR, at_margin, examine_loss
from limo.training.preference import PairLogProbs, PairLoss

PAIRS = 10  # of a random batch
LARGE = 5.0  # beta rho at which the loss must be lower than at minus that
# Chosen and rejected log-ratios and the reference's own margin, all times beta; the first is the start
PROBES = [(0.0, 0.0, 0.0), (-1.5, 0.5, 0.3), (-0.5, -0.5, -0.4), (-0.2, 0.3, 1.0), (0.1, 0.0, 0.2), (0.2, -0.6, -1.0)]
PROBES += [(0.8, 0.8, 0.5), (1.0, -0.5, -0.2), (1.5, -0.7, 0.6)]
SAME = 1e-3  # difference, relative to the largest, below which two losses train alike


def check_text(text: str, beta: float) -> CheckResult:
    """Check a candidate in this process. The result of a text that is refused has the reason."""
    try:
        loss = Candidate(text)
        _check(loss, beta)
        return describe(loss, beta, loss.__name__, loss.code)
    except UserError as error:
        return CheckResult(refused=str(error)[:500])
    except (RecursionError, MemoryError, OverflowError) as error:
        return CheckResult(refused=type(error).__name__)


def describe(loss: PairLoss, beta: float, name: str, code: str = "") -> CheckResult:
    """The result for a loss that may be trained with. Raises Refused or UserError if it cannot be evaluated."""
    curve = examine_loss(loss, beta)
    points: dict[str, list[float | None]] = {"rho": [*curve.rho], "value": [*curve.value], "slope": [*curve.slope]}
    return CheckResult(name, code, "", curve.problems, curve.start_slope, points, probe(loss, beta))


def probe(loss: PairLoss, beta: float) -> list[float]:
    """Values and slopes at fixed points, equal for losses that differ by a constant or a factor only.

    An adaptive optimizer does not see those differences. Raises Refused if one is not finite.
    """
    c, r, margin = (torch.tensor(column, dtype=torch.float64) / beta for column in zip(*PROBES, strict=True))
    found: list[torch.Tensor] = []
    for sign in (1, -1):  # a loss may decide by the mean of the batch
        pairs = PairLogProbs(sign * c + margin, sign * r, margin, torch.zeros_like(r))
        values, slopes = _evaluate(loss, pairs, beta, "the probes")
        found += [values - values[0], *(s / beta for s in slopes[:2] if s is not None)]
    together = torch.cat(found)
    return [round(x, 6) for x in (together / together.abs().max().clamp(min=1e-12)).tolist()]


def train_alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two results of `probe` belong to the same loss."""
    return len(one) == len(other) > 0 and all(abs(a - b) <= SAME for a, b in zip(one, other, strict=True))


def _check(loss: PairLoss, beta: float) -> None:
    """Raise Refused with the first check that fails."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(PAIRS, generator=generator) for _ in range(4)]
    _, slopes = _evaluate(loss, PairLogProbs(*inputs), beta, "random inputs")
    if slopes[0] is None or slopes[1] is None:
        raise Refused("it has no slope in the policy's log-probabilities")
    _evaluate(loss, PairLogProbs(*(i[:1] for i in inputs)), beta, "a batch of one pair")
    _evaluate(loss, PairLogProbs(*(torch.zeros(PAIRS) for _ in range(4))), beta, "rho = 0, where every pair begins")
    for x in (FAR, -FAR, 88.8, -88.8):
        for part in (1.0, 0.5):  # all of it in the chosen completion, or half of it in the rejected one
            far = [torch.full((PAIRS,), x / beta * p) for p in (part, part - 1, 0.0, 0.0)]
            _evaluate(loss, PairLogProbs(*far), beta, f"beta rho = {x:g}")
    worse, better = (loss(at_margin(torch.full((2,), x / beta)), beta)[0] for x in (-LARGE, LARGE))
    if not worse > better:
        raise Refused(f"a pair with beta rho = {LARGE:g} has no lower loss than one with {-LARGE:g}")


def _evaluate(loss: PairLoss, pairs: PairLogProbs, beta: float, where: str) -> tuple[torch.Tensor, list[Any]]:
    """Values (pairs,) and the slopes of the four inputs, None for one that is not used.

    Raises Refused where one is not finite, or the loss is not one value per pair.
    """
    inputs = [i.clone().requires_grad_() for i in vars(pairs).values()]
    values = loss(PairLogProbs(*inputs), beta)
    if values.shape != inputs[0].shape:
        raise Refused(
            f"it gives {tuple(values.shape)} for {tuple(inputs[0].shape)} pairs; one value per pair is needed"
        )
    if not values.isfinite().all():
        raise Refused(f"it is not finite at {where}")
    if not values.requires_grad:
        raise Refused("it has no slope in any of its inputs")
    slopes = torch.autograd.grad(values.sum(), inputs, allow_unused=True)
    if any(s is not None and not s.isfinite().all() for s in slopes):
        raise Refused(f"it has a slope that is not finite at {where}")
    return values.detach(), list(slopes)
