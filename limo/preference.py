"""Losses of preference training: what is asked of the margin between a chosen and a rejected completion.

Every loss is a function of four summed log-probabilities (pairs,) in nats and of beta, and gives one value a pair:

    loss(chosen, rejected, reference_chosen, reference_rejected, beta) -> (pairs,)

A recipe names one by its dotted path, `loss: limo.preference.dpo`, with its own constants where it has some,
`loss: {_target_: limo.preference.discopop, tau: 0.05}`; any function of this signature will do. Throughout,

    rho = (chosen - rejected) - (reference_chosen - reference_rejected),  x = beta rho,  u = x / tau
    logistic(x) = log(1 + exp(-x)),  hinge(x) = max(0, 1 - x),  exponential(x) = exp(-x)

DiscoPOP's losses (arXiv 2406.08414) follow the code they were found with, where the paper's text differs: they are
named as there. At discovery beta = tau = 0.05, so u = rho. Those that weigh by statistics of the batch (dbaql, aql,
aqfl) mean another thing at another batch size: give each device as many pairs as they were found with, if you can.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    PairLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]

STEEPEST = 30.0  # -x beyond which exp(-x) goes on as its tangent: e^30 is a slope that no step survives, but a number


def margin(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
) -> "torch.Tensor":
    """rho (pairs,) in nats: how much more than its reference the policy prefers the chosen one."""
    return (chosen - rejected) - (reference_chosen - reference_rejected)


def logistic(x: "torch.Tensor") -> "torch.Tensor":
    """log(1 + exp(-x)), finite for any x."""
    import torch

    return torch.nn.functional.softplus(-x)


def hinge(x: "torch.Tensor") -> "torch.Tensor":
    """max(0, 1 - x)."""
    import torch

    return torch.relu(1 - x)


def exponential(x: "torch.Tensor") -> "torch.Tensor":
    """exp(-x), from x = -30 downwards its tangent there: exp overflows float32 at 88, and its square far earlier."""
    import torch

    return torch.exp(-x.clamp(min=-STEEPEST)) * (1 - (x + STEEPEST).clamp(max=0))


def dpo(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
) -> "torch.Tensor":
    """logistic(x). DPO: arXiv 2305.18290, eq. 7."""
    return logistic(beta * margin(chosen, rejected, reference_chosen, reference_rejected))


def slic(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
) -> "torch.Tensor":
    """hinge(x). SLiC (arXiv 2305.10425) on the margin over a reference, as RSO has it (arXiv 2309.06657)."""
    return hinge(beta * margin(chosen, rejected, reference_chosen, reference_rejected))


def ipo(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
) -> "torch.Tensor":
    """(rho - 1 / (2 beta))^2. IPO: arXiv 2310.12036, eq. 17; TRL's `ipo` takes means over tokens instead of sums."""
    return (margin(chosen, rejected, reference_chosen, reference_rejected) - 1 / (2 * beta)) ** 2


def kto_pair(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
) -> "torch.Tensor":
    """Half of sigmoid(beta (z- - c)) + sigmoid(beta (r - z+)): KTO (arXiv 2402.01306, eq. 8) where rows come in pairs.

    c and r are the log-ratios to the reference of chosen and rejected, z+ and z- the means of c and r over the batch,
    at least 0 and without a gradient. The mean of a pair's two losses, where the first implementation gave 2 (pairs,).
    """
    import torch

    c, r = chosen - reference_chosen, rejected - reference_rejected
    of_chosen, of_rejected = (ratio.mean().clamp(min=0).detach() for ratio in (c, r))
    return (torch.sigmoid(beta * (of_rejected - c)) + torch.sigmoid(beta * (r - of_chosen))) / 2


def discopop(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
    *,
    tau: float,
) -> "torch.Tensor":
    """(1 - sigmoid(u)) logistic(x) + sigmoid(u) exponential(x). LRML, called DiscoPOP: arXiv 2406.08414, section 4.

    Written as sigmoid(-u) logistic(x) + exp(log sigmoid(u) - x), which is the same and finite: as it stands,
    sigmoid(u) exp(-x) is 0 times infinity once x < -88.7 in float32, for tau < 1.

    At rho = 0, where every pair begins, its slope is positive (+0.039 at beta = tau = 0.05, DPO's is -0.025): the
    first steps prefer the rejected one, and between its minimum at u = -2.37 and its maximum at u = +1.44 they go on
    doing so. `limo.lossplot.warnings` says it of any loss.
    """
    import torch

    x = beta * margin(chosen, rejected, reference_chosen, reference_rejected)
    if tau < 1:  # then the exponent below is at most about 0; it grows without bound otherwise
        tail = torch.exp(torch.nn.functional.logsigmoid(x / tau) - x)
    else:
        tail = torch.sigmoid(x / tau) * exponential(x)
    return torch.sigmoid(-x / tau) * logistic(x) + tail


def dbaql(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
    *,
    tau: float,
) -> "torch.Tensor":
    """v logistic(x / 0.9) + (1 - v) exponential(0.9 x), v = sigmoid(variance of u of the batch). arXiv 2406.08414."""
    import torch

    x = beta * margin(chosen, rejected, reference_chosen, reference_rejected)
    v = torch.sigmoid(_variance(x / tau))
    return v * logistic(x / 0.9) + (1 - v) * exponential(0.9 * x)


def aql(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
    *,
    tau: float,
) -> "torch.Tensor":
    """q logistic(x) + (1 - q) hinge(x), q = sigmoid(tau m - x), m = 0.5 + 0.01 (sigmoid(mean of u) - 0.5). As dbaql."""
    import torch

    x = beta * margin(chosen, rejected, reference_chosen, reference_rejected)
    m = 0.5 + 0.01 * (torch.sigmoid((x / tau).mean()) - 0.5)
    q = torch.sigmoid(tau * m - x)
    return q * logistic(x) + (1 - q) * hinge(x)


def aqfl(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
    *,
    tau: float,
) -> "torch.Tensor":
    """r logistic(x) + (1 - r) hinge(x), r = sigmoid(0.1 |u - a|). As dbaql.

    a = 0.95 std(u) mean(sigmoid(-u)) + 0.05 sigmoid(mean of u). At the first step all u are equal, where the slope of a
    standard deviation is infinite; here it is 0.
    """
    import torch

    x = beta * margin(chosen, rejected, reference_chosen, reference_rejected)
    u = x / tau
    a = torch.sqrt(_variance(u).clamp(min=1e-12)) * torch.sigmoid(-u).mean()
    a = a + 0.05 * (torch.sigmoid(u.mean()) - a)
    r = torch.sigmoid(0.1 * (u - a).abs())
    return r * logistic(x) + (1 - r) * hinge(x)


def padll(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
) -> "torch.Tensor":
    """0.9 logistic(x), and half of that where rho < 0. As dbaql."""
    rho = margin(chosen, rejected, reference_chosen, reference_rejected)
    return 0.9 * (1 - 0.5 * (rho < 0).to(rho)) * logistic(beta * rho)


def cell(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
) -> "torch.Tensor":
    """Half of logistic(x) + exponential(x). As dbaql."""
    x = beta * margin(chosen, rejected, reference_chosen, reference_rejected)
    return 0.5 * logistic(x) + 0.5 * exponential(x)


def pfl(
    chosen: "torch.Tensor",
    rejected: "torch.Tensor",
    reference_chosen: "torch.Tensor",
    reference_rejected: "torch.Tensor",
    beta: float,
    *,
    tau: float,
) -> "torch.Tensor":
    """0.5 logistic(u) where the policy alone prefers the chosen one (chosen > rejected), else 2 hinge(u). As dbaql."""
    import torch

    u = beta * margin(chosen, rejected, reference_chosen, reference_rejected) / tau
    return torch.where(chosen > rejected, 0.5 * logistic(u), 2 * hinge(u))


def _variance(u: "torch.Tensor") -> "torch.Tensor":
    """The unbiased variance (); 0 of a single pair, which has none."""
    return u.var() if u.numel() > 1 else u.new_zeros(())
