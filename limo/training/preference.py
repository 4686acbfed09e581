"""Preference losses: functions of the margin rho, by which the policy prefers the chosen completion more than its
reference does.

    def my_loss(pairs: PairLogProbs, beta: float, *, tau: float) -> torch.Tensor:  # one value per pair, (pairs,)
        return logistic(beta * pairs.margin / tau)

A recipe names a loss by its dotted path, `loss: limo.training.preference.dpo`, with its constants where it has some,
`loss: {_target_: limo.training.preference.discopop, tau: 0.05}`. Any function of this signature works. Below,

    rho = pairs.margin,  x = beta rho,  u = x / tau
    logistic(x) = log(1 + exp(-x)),  hinge(x) = max(0, 1 - x),  exponential(x) = exp(-x)

DiscoPOP's losses (arXiv 2406.08414) have the paper's names. Where the paper's text differs from its code, they follow
the code. They were found at beta = tau = 0.05, so u = rho. The weights of dbaql, aql and aqfl are statistics of the
batch, so these losses change with the batch size per device.

A loss is examined before it is trained with. Every pair begins at rho = 0, so the sign of the slope there decides the
first steps. The slope is computed with the same rho for all pairs of a batch, as at the first step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limo.errors import UserError
from limo.recipe import bind

if TYPE_CHECKING:
    import torch

REACH = 12.0  # |beta rho| over which values and slopes are computed
POINTS = 151  # points over the reach, and again over a twentieth of it around the start, where kinks often are
FAR = 1e4  # |beta rho| up to which values and slopes must be finite
SMALL = 1e-9  # slopes below this count as 0
MAX_EXPONENT = 30.0  # exponential(x) is linear where -x is larger: exp overflows float32 at 88, its square at 44


@dataclass(frozen=True)
class PairLogProbs:
    """Log-probabilities of a batch of pairs, each (pairs,), in nats, summed over the tokens of a completion."""

    chosen: "torch.Tensor"  # of the chosen completions, under the trained policy
    rejected: "torch.Tensor"
    reference_chosen: "torch.Tensor"  # under the reference, which is fixed
    reference_rejected: "torch.Tensor"

    @property
    def margin(self) -> "torch.Tensor":
        """rho (pairs,) in nats: how much more than its reference the policy prefers the chosen completion."""
        return (self.chosen - self.rejected) - (self.reference_chosen - self.reference_rejected)


PairLoss = Callable[[PairLogProbs, float], "torch.Tensor"]  # called with the batch and beta


def logistic(x: "torch.Tensor") -> "torch.Tensor":
    """log(1 + exp(-x)), finite for any x."""
    import torch

    return torch.nn.functional.softplus(-x)


def hinge(x: "torch.Tensor") -> "torch.Tensor":
    """max(0, 1 - x)."""
    return (1 - x).relu()


def exponential(x: "torch.Tensor") -> "torch.Tensor":
    """exp(-x), and below x = -30 its tangent there, which is finite."""
    return (-x.clamp(min=-MAX_EXPONENT)).exp() * (1 - (x + MAX_EXPONENT).clamp(max=0))


def dpo(pairs: PairLogProbs, beta: float, /) -> "torch.Tensor":
    """logistic(x). DPO: arXiv 2305.18290, eq. 7."""
    return logistic(beta * pairs.margin)


def slic(pairs: PairLogProbs, beta: float, /) -> "torch.Tensor":
    """hinge(x). SLiC (arXiv 2305.10425) on the margin over a reference, as in RSO (arXiv 2309.06657)."""
    return hinge(beta * pairs.margin)


def ipo(pairs: PairLogProbs, beta: float, /) -> "torch.Tensor":
    """(rho - 1 / (2 beta))^2. IPO: arXiv 2310.12036, eq. 17; TRL's `ipo` takes means over tokens instead of sums."""
    return (pairs.margin - 1 / (2 * beta)) ** 2


def kto_pair(pairs: PairLogProbs, beta: float, /) -> "torch.Tensor":
    """Half of sigmoid(beta (z- - c)) + sigmoid(beta (r - z+)): KTO (arXiv 2402.01306, eq. 8) for rows in pairs.

    c and r are the log-ratios of chosen and rejected, z+ and z- the batch means of c and r, at least 0 and constant.
    """
    c, r = pairs.chosen - pairs.reference_chosen, pairs.rejected - pairs.reference_rejected
    of_chosen, of_rejected = (ratio.mean().clamp(min=0).detach() for ratio in (c, r))
    return ((beta * (of_rejected - c)).sigmoid() + (beta * (r - of_chosen)).sigmoid()) / 2


def discopop(pairs: PairLogProbs, beta: float, /, *, tau: float) -> "torch.Tensor":
    """(1 - sigmoid(u)) logistic(x) + sigmoid(u) exponential(x). LRML, called DiscoPOP: arXiv 2406.08414, section 4.

    Computed as sigmoid(-u) logistic(x) + exp(log sigmoid(u) - x), which is equal and finite. The published expression
    sigmoid(u) exp(-x) is 0 times infinity where x < -88.7 in float32, for tau < 1.

    At rho = 0, where every pair begins, its slope is positive (+0.039 at beta = tau = 0.05; DPO's is -0.025). The first
    steps prefer the rejected completion, and so do all steps between its minimum at u = -2.37 and its maximum at
    u = +1.44. `examine_loss` reports a wrong start of any loss.
    """
    import torch

    x = beta * pairs.margin
    if tau < 1:  # noqa: SIM108 - the exponent below is then at most about 0; with a larger tau it has no bound
        tail = (torch.nn.functional.logsigmoid(x / tau) - x).exp()
    else:
        tail = (x / tau).sigmoid() * exponential(x)
    return (-x / tau).sigmoid() * logistic(x) + tail


def dbaql(pairs: PairLogProbs, beta: float, /, *, tau: float) -> "torch.Tensor":
    """v logistic(x / 0.9) + (1 - v) exponential(0.9 x), v = sigmoid(batch variance of u). arXiv 2406.08414."""
    x = beta * pairs.margin
    v = _variance(x / tau).sigmoid()
    return v * logistic(x / 0.9) + (1 - v) * exponential(0.9 * x)


def aql(pairs: PairLogProbs, beta: float, /, *, tau: float) -> "torch.Tensor":
    """q logistic(x) + (1 - q) hinge(x), q = sigmoid(tau m - x), m = 0.5 + 0.01 (sigmoid(mean u) - 0.5). See dbaql."""
    x = beta * pairs.margin
    m = 0.5 + 0.01 * ((x / tau).mean().sigmoid() - 0.5)
    q = (tau * m - x).sigmoid()
    return q * logistic(x) + (1 - q) * hinge(x)


def aqfl(pairs: PairLogProbs, beta: float, /, *, tau: float) -> "torch.Tensor":
    """r logistic(x) + (1 - r) hinge(x), r = sigmoid(0.1 |u - a|). See dbaql.

    a = 0.95 std(u) mean(sigmoid(-u)) + 0.05 sigmoid(mean u). At the first step all u are equal, where the slope of a
    standard deviation is infinite; here it is 0.
    """
    x = beta * pairs.margin
    u = x / tau
    a = _variance(u).clamp(min=1e-12).sqrt() * (-u).sigmoid().mean()
    a = a + 0.05 * (u.mean().sigmoid() - a)
    r = (0.1 * (u - a).abs()).sigmoid()
    return r * logistic(x) + (1 - r) * hinge(x)


def padll(pairs: PairLogProbs, beta: float, /) -> "torch.Tensor":
    """0.9 logistic(x), and half of that where rho < 0. See dbaql."""
    rho = pairs.margin
    return 0.9 * (1 - 0.5 * (rho < 0).to(rho)) * logistic(beta * rho)


def cell(pairs: PairLogProbs, beta: float, /) -> "torch.Tensor":
    """Half of logistic(x) + exponential(x). See dbaql."""
    x = beta * pairs.margin
    return 0.5 * logistic(x) + 0.5 * exponential(x)


def pfl(pairs: PairLogProbs, beta: float, /, *, tau: float) -> "torch.Tensor":
    """0.5 logistic(u) where the policy alone prefers the chosen completion, else 2 hinge(u). See dbaql."""
    u = beta * pairs.margin / tau
    return (0.5 * logistic(u)).where(pairs.chosen > pairs.rejected, 2 * hinge(u))


def _variance(u: "torch.Tensor") -> "torch.Tensor":
    """The unbiased variance (); 0 for a single pair."""
    return u.var() if u.numel() > 1 else u.new_zeros(())


@dataclass(frozen=True)
class Examined:
    """The result of `examine_loss`."""

    start_slope: float  # d loss / d rho at rho = 0
    problems: list[str]  # reasons not to train with the loss as it is


def load_loss(loss: str | Mapping[str, Any], where: str) -> PairLoss:
    """The function that a recipe names: a dotted path, or a node with its constants."""
    return bind({"_target_": loss} if isinstance(loss, str) else loss, where)


def at_margin(rho: Any) -> PairLogProbs:
    """Pairs with the margins `rho` (pairs,), half of each from the chosen completion; the reference's are 0."""
    zero = rho.detach() * 0
    return PairLogProbs(rho / 2, -rho / 2, zero, zero)


def examine_loss(loss: PairLoss, beta: float) -> Examined:
    """The slope at rho = 0, and the loss's problems."""
    if beta <= 0:
        raise UserError(f"beta must be above 0, not {beta}")
    steps = [2 * at / (POINTS - 1) - 1 for at in range(POINTS)]
    rho = [0.0, -FAR / beta, FAR / beta, *(step * reach / beta for step in steps for reach in (REACH, REACH / 20))]
    try:
        values, slopes = _measure_slopes(loss, beta, rho)
    except (TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise UserError(f"the loss cannot be called: {str(error).splitlines()[0]}") from None
    start, problems = slopes[0], list[str]()
    if start > SMALL:
        problems.append(
            f"its slope at rho = 0, where every pair begins, is {start:+.4f} (DPO's is {-beta / 2:+.4f}): the first "
            "steps prefer the rejected completion"
        )
    elif start >= -SMALL:
        problems.append("its slope at rho = 0, where every pair begins, is 0: training does not start")
    if not all(map(math.isfinite, [*values, *slopes])):
        problems.append(f"it is not finite everywhere up to |beta rho| = {FAR:g}, and one such pair ends a training")
    return Examined(start, problems)


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
