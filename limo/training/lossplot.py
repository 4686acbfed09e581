"""Shows a preference loss before it is trained with: value and slope over rho, minima, and problems.

    python -m limo.losses plot                                     # all of training/preference.py, beta = tau = 0.05
    python -m limo.losses plot limo.training.preference.discopop my.module.loss beta=0.1 tau=0.05 out=losses.png

rho is the policy's margin over its reference. Every pair begins at rho = 0, so the sign of the slope there decides the
first steps. The slope is computed where all pairs of a batch have the same rho, as they have at the first step.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from limo.errors import UserError
from limo.recipe import bind, resolve
from limo.training.preference import PairLogProbs, PairLoss

NAMES = ("dpo", "slic", "ipo", "kto_pair", "dbaql", "aql", "padll", "aqfl", "cell", "discopop", "pfl")
REACH = 12.0  # |beta rho| within which minima are searched
POINTS = 601  # over the reach, and again over a twentieth of it around the start, where bends often are
FAR = 1e4  # |beta rho| up to which values and slopes must be finite
SMALL = 1e-9  # slopes below this count as 0
USAGE = "python -m limo.losses plot [limo.training.preference.discopop ...] [beta=0.05] [tau=0.05] [out=losses.png]"


@dataclass(frozen=True)
class LossCurve:
    """A loss over rho."""

    rho: list[float]
    value: list[float]
    slope: list[float]  # d loss / d rho
    start_slope: float  # at rho = 0
    minima: list[float]  # rho of minima within the reach, at which pairs stay
    maxima: list[float]
    problems: list[str]  # reasons not to train with it as it is
    notes: list[str]


def load_loss(loss: str | Mapping[str, Any], where: str, **constants: float) -> PairLoss:
    """The function that a recipe names: a dotted path, or a node with its constants.

    `constants` go to a function that has parameters of these names and was given no other value. Raises UserError if
    there is no such function, or a constant is missing or unknown.
    """
    node = {"_target_": loss} if isinstance(loss, str) else dict(loss)
    if constants:
        parameters = inspect.signature(resolve(str(node["_target_"]), where)).parameters.values()
        known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        node = {key: value for key, value in constants.items() if key in known} | node
    return bind(node, where)


def at_margin(rho: Any) -> PairLogProbs:
    """Pairs (pairs,) with these margins, half of each from the chosen completion; the reference has 0."""
    zero = rho.detach() * 0
    return PairLogProbs(rho / 2, -rho / 2, zero, zero)


def slopes_over(loss: PairLoss, beta: float, rho: Sequence[float]) -> tuple[list[float], list[float]]:
    """Values and slopes d loss / d rho, both (len(rho),), each from a batch of two pairs at that rho.

    Raises UserError if the loss does not return one value per pair.
    """
    import torch

    batches = torch.tensor(rho, dtype=torch.float32)[:, None].repeat(1, 2).requires_grad_()

    def batch(r: Any) -> Any:
        value = loss(at_margin(r), beta)
        if tuple(value.shape) != (2,):
            raise UserError(f"a preference loss returns one value per pair: for 2 pairs it gave {tuple(value.shape)}")
        return value

    try:
        value = torch.func.vmap(batch)(batches)
    except (RuntimeError, UserError):  # vmap cannot follow a decision by values, or the loss fails at every batch
        value = torch.stack([batch(r) for r in batches])
    (slope,) = torch.autograd.grad(value.sum(), batches)
    return value[:, 0].tolist(), slope.mean(1).tolist()


def examine_loss(loss: PairLoss, beta: float) -> LossCurve:
    """Value and slope of a loss, its minima and maxima, and its problems.

    Raises UserError if it cannot be called with pairs and beta, or does not return one value per pair.
    """
    if beta <= 0:
        raise UserError(f"beta must be above 0, not {beta}")
    steps = [2 * at / (POINTS - 1) - 1 for at in range(POINTS)]
    rho = sorted({step * reach / beta for step in steps for reach in (REACH, REACH / 20)})
    try:
        value, slope = slopes_over(loss, beta, rho)
        far = slopes_over(loss, beta, [-FAR / beta, FAR / beta])
    except (TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise UserError(f"the loss cannot be called: {str(error).splitlines()[0]}") from None
    start = slope[rho.index(0.0)]
    minima, maxima = _find_extrema(rho, slope)
    finite = all(map(math.isfinite, [*value, *slope, *far[0], *far[1]]))
    trap = max((at for at in minima if at < 0), default=None)
    problems = _find_problems(start, beta, trap, maxima, finite)
    notes = [f"a minimum at rho = {trap:.2f} keeps the pairs that reach it"] if trap and not problems else []
    if above := [at for at in minima if at > 0]:
        notes.append(f"it increases beyond a margin of {above[0]:.2f} nats")
    return LossCurve(rho, value, slope, start, minima, maxima, problems, notes)


def _find_extrema(rho: Sequence[float], slope: Sequence[float]) -> tuple[list[float], list[float]]:
    """rho of minima and of maxima: where the slope changes its sign, by linear interpolation."""
    minima, maxima = list[float](), list[float]()
    points = [(at, s) for at, s in zip(rho, slope, strict=True) if abs(s) > SMALL]
    for (left, before), (right, after) in pairwise(points):
        if (before > 0) != (after > 0):
            (maxima if before > 0 else minima).append(left - before * (right - left) / (after - before))
    return minima, maxima


def _find_problems(start: float, beta: float, trap: float | None, maxima: list[float], finite: bool) -> list[str]:
    problems = []
    if start > SMALL:
        text = (
            f"its slope at rho = 0, where every pair begins, is {start:+.4f} (DPO's is {-beta / 2:+.4f}): the first "
            "steps prefer the rejected completion"
        )
        if trap is not None:
            hill = min((at for at in maxima if at > trap), default=math.inf)
            text += f", down to rho = {trap:.2f}, and pairs below rho = {hill:.2f} stay there"
        problems.append(text)
    elif abs(start) <= SMALL:
        problems.append("its slope at rho = 0, where every pair begins, is 0: training does not start")
    if not finite:
        problems.append(f"it is not finite everywhere up to |beta rho| = {FAR:g}, and one such pair ends a training")
    return problems


def plot(*losses: str, beta: float = 0.05, tau: float = 0.05, out: str = "losses.png") -> dict[str, LossCurve]:
    """Draw losses into a PNG, one picture each, and return their curves by name.

    Args: dotted paths, none for all of `training/preference.py`; `tau` is passed to losses that take one. Raises
    UserError for a path that names no function.
    """
    paths = losses or tuple(f"limo.training.preference.{name}" for name in NAMES)
    curves = {path.rpartition(".")[2]: examine_loss(load_loss(path, "plot", tau=tau), beta) for path in paths}
    draw(curves, beta, tau, Path(out))
    return curves


def draw(curves: Mapping[str, LossCurve], beta: float, tau: float, file: Path) -> None:
    """One picture for each loss: value and slope over rho, and the slope at the start."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(3, len(curves))
    down = -(-len(curves) // across)
    figure = Figure(figsize=(4.4 * across, 3.1 * down), layout="constrained")
    FigureCanvasAgg(figure)
    panes = figure.subplots(down, across, squeeze=False).flatten()
    reach = max(6 * max(tau, beta), REACH / 12) / beta
    for pane, (name, curve) in zip(panes, curves.items(), strict=False):
        shown = [at for at, rho in enumerate(curve.rho) if abs(rho) <= reach]
        rho = [curve.rho[at] for at in shown]
        pane.plot(rho, [curve.value[at] for at in shown], color="#1f5fa8")
        pane.axvline(0, color="#999999", linewidth=0.8)
        pane.set_title(name + (" - starts the wrong way" if curve.problems else ""), fontsize=10)
        pane.set_xlabel("rho (nats)", fontsize=8)
        pane.set_ylabel("loss", fontsize=8)
        slopes = pane.twinx()
        slopes.plot(rho, [curve.slope[at] for at in shown], color="#c05a1c", linestyle="--")
        slopes.axhline(0, color="#c05a1c", linewidth=0.5)
        slopes.set_ylabel("d loss / d rho", fontsize=8, color="#c05a1c")
        slopes.plot([0], [curve.start_slope], "o", color="#c05a1c", markersize=4)
        for axis in (pane, slopes):
            axis.tick_params(labelsize=7)
    for pane in panes[len(curves) :]:
        pane.set_visible(False)
    title = f"beta = {beta:g}, tau = {tau:g}: loss (solid), slope (dashed), slope at the start (dot)"
    figure.suptitle(title, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def main(arguments: Sequence[str]) -> None:
    """`plot [dotted path ...] [beta=0.05] [tau=0.05] [out=losses.png]`. Raises UserError for anything else."""
    if not arguments or arguments[0] != "plot":
        raise UserError(f"usage: {USAGE}")
    given = dict(a.split("=", 1) for a in arguments[1:] if "=" in a)
    if unknown := sorted(set(given) - {"beta", "tau", "out"}):
        raise UserError(f"plot has no setting '{unknown[0]}': {USAGE}")
    try:
        numbers = {key: float(given[key]) for key in ("beta", "tau") if key in given}
    except ValueError:
        raise UserError(f"beta and tau are numbers: {USAGE}") from None
    if any(value <= 0 for value in numbers.values()):
        raise UserError(f"beta and tau are above 0: {USAGE}")
    out = given.get("out", "losses.png")
    _print(plot(*(a for a in arguments[1:] if "=" not in a), **numbers, out=out))
    print(out)  # noqa: T201


def _print(curves: Mapping[str, LossCurve]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("loss", "at 0", "slope at 0", "minima", "maxima", "problems and notes", title="loss over rho")
    for name, curve in curves.items():
        start = curve.value[curve.rho.index(0.0)]
        extrema = [", ".join(f"{at:.2f}" for at in found) for found in (curve.minima, curve.maxima)]
        text = "; ".join([*curve.problems, *curve.notes])
        table.add_row(name, f"{start:.4f}", f"{curve.start_slope:+.4f}", *extrema, text)
    Console().print(table)
