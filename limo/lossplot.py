"""A preference loss as it looks before anybody trains with it: value and slope over rho, and what to know of it.

    python -m limo.losses plot                                     # all of limo/preference.py, beta = tau = 0.05
    python -m limo.losses plot limo.preference.discopop my.module.loss beta=0.1 tau=0.05 out=losses.png

rho is the margin of the policy's preference over its reference's (`limo/preference.py`). Every pair begins at rho = 0:
what counts there is the sign of the slope, since a step goes down it. The slope is taken where all pairs of a batch
have the same rho, as they do at the first step.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limo.errors import UserError
from limo.recipe import bind, resolve

NAMES = ("dpo", "slic", "ipo", "kto_pair", "dbaql", "aql", "padll", "aqfl", "cell", "discopop", "pfl")
SPAN = 12.0  # of beta rho over temperature 1, to either side, that is looked at for minima
POINTS = 2401
FAR = 1e4  # of |beta rho|, as far as values and slopes must be finite
SMALL = 1e-9

Loss = Callable[..., Any]


@dataclass(frozen=True)
class Look:
    """A loss over rho."""

    rho: list[float]
    value: list[float]
    slope: list[float]  # d loss / d rho
    at_start: float  # the slope at rho = 0
    minima: list[float]  # rho of minima inside the span: pairs are drawn to them, whatever lies beyond
    maxima: list[float]
    wrong: list[str]  # what keeps one from training with it as it is
    notes: list[str]


def resolved(loss: str | Mapping[str, Any], where: str, **constants: float) -> Loss:
    """The function that a recipe names: a dotted path, or a node with constants of its own.

    `constants` are given to a function that takes them and was given none. Raises UserError if there is no such
    function, or a constant is missing or not its own.
    """
    node = {"_target_": loss} if isinstance(loss, str) else dict(loss)
    if constants:
        own = inspect.signature(resolve(str(node["_target_"]), where)).parameters.values()
        known = {p.name for p in own if p.kind is p.KEYWORD_ONLY}
        node = {key: value for key, value in constants.items() if key in known} | node
    return bind(node, where)


def curve(loss: Loss, beta: float, rho: Sequence[float]) -> tuple[list[float], list[float]]:
    """Values and slopes d loss / d rho (len(rho),), each of a batch of two pairs at that rho.

    Raises UserError if the loss gives more or fewer.
    """
    import torch

    batches = torch.tensor(rho, dtype=torch.float32)[:, None].repeat(1, 2).requires_grad_()
    zero = torch.zeros(2)

    def batch(r: Any) -> Any:
        value = loss(r / 2, -r / 2, zero, zero, beta)
        if tuple(value.shape) != (2,):
            raise UserError(f"a preference loss gives one value a pair: for 2 pairs it gave {tuple(value.shape)}")
        return value

    try:
        value = torch.func.vmap(batch)(batches)
    except (RuntimeError, UserError):  # it decides by values, which vmap cannot follow, or fails at a pair by itself
        value = torch.stack([batch(r) for r in batches])
    (slope,) = torch.autograd.grad(value.sum(), batches)
    return value[:, 0].tolist(), slope.mean(1).tolist()


def look_at(loss: Loss, beta: float) -> Look:
    """Value and slope of a loss, its minima and maxima, and what a person must know before training with it.

    Raises UserError if it cannot be called with four tensors and beta, or does not give one value a pair.
    """
    if beta <= 0:
        raise UserError(f"beta must be above 0, not {beta}")
    reach = SPAN / beta
    rho = [reach * (2 * at / (POINTS - 1) - 1) for at in range(POINTS)]
    near = [reach / 20 * (2 * at / (POINTS - 1) - 1) for at in range(POINTS)]  # bends are often close to the start
    try:
        value, slope = curve(loss, beta, rho)
        at_start = curve(loss, beta, [0.0])[1][0]
        bends = {at: sign for span in (near, rho) for at, sign in _bends(span, curve(loss, beta, span)[1])}
        far = curve(loss, beta, [-FAR / beta, FAR / beta])
    except (TypeError, RuntimeError, IndexError) as error:
        raise UserError(f"the loss cannot be called: {str(error).splitlines()[0]}") from None
    minima = _apart([at for at, sign in sorted(bends.items()) if sign > 0], reach / POINTS * 3)
    maxima = _apart([at for at, sign in sorted(bends.items()) if sign < 0], reach / POINTS * 3)
    ends = [*value, *slope, *far[0], *far[1]]
    wrong, notes = _said(at_start, beta, minima, maxima, all(abs(x) < float("inf") for x in ends))
    return Look(rho, value, slope, at_start, minima, maxima, wrong, notes)


def _bends(rho: Sequence[float], slope: Sequence[float]) -> list[tuple[float, int]]:
    """Where the slope changes sign: +1 from falling to rising, a minimum; -1 a maximum."""
    found, before = [], 0.0
    for at, now in zip(rho, slope, strict=True):
        if abs(now) <= SMALL:
            continue
        if before and (before > 0) != (now > 0):
            found.append((at, 1 if now > 0 else -1))
        before = now
    return found


def _apart(places: Sequence[float], least: float) -> list[float]:
    kept: list[float] = []
    for place in places:
        if not kept or place - kept[-1] > least:
            kept.append(place)
    return kept


def _said(
    at_start: float, beta: float, minima: list[float], maxima: list[float], finite: bool
) -> tuple[list[str], list[str]]:
    wrong, notes = [], []
    trap = [at for at in minima if at < 0]
    if at_start > SMALL:
        text = (
            f"its slope at rho = 0, where every pair begins, is {at_start:+.4f} (DPO's is {-beta / 2:+.4f}): the first "
            "steps push towards the rejected one"
        )
        if trap:
            hill = min((at for at in maxima if at > trap[-1]), default=float("inf"))
            text += f", down to rho = {trap[-1]:.2f}, and pairs below rho = {hill:.2f} stay there"
        wrong.append(text)
    elif abs(at_start) <= SMALL:
        wrong.append("its slope at rho = 0, where every pair begins, is 0: nothing is learned from there")
    if not finite:
        wrong.append(f"it is not finite everywhere up to |beta rho| = {FAR:g}, and one such pair ends a training")
    if trap and not wrong:
        notes.append(f"a minimum at rho = {trap[-1]:.2f} holds pairs that got there")
    if right := [at for at in minima if at > 0]:
        notes.append(f"it wants a margin of {right[0]:.2f} nats, and no more")
    return wrong, notes


def plot(*losses: str, beta: float = 0.05, tau: float = 0.05, out: str = "losses.png") -> dict[str, Look]:
    """Draw losses into a PNG, one picture each, and print what is to be known of them.

    Args: dotted paths, none for all of `limo/preference.py`; `tau` goes to those that take one. Raises UserError for a
    path that names no such function.
    """
    paths = losses or tuple(f"limo.preference.{name}" for name in NAMES)
    looks = {path.rpartition(".")[2]: look_at(resolved(path, "plot", tau=tau), beta) for path in paths}
    draw(looks, beta, tau, Path(out))
    return looks


def draw(looks: Mapping[str, Look], beta: float, tau: float, file: Path) -> None:
    """One picture for each loss: value and slope over rho, with its minima, maxima and the start."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(3, len(looks))
    down = -(-len(looks) // across)
    figure = Figure(figsize=(4.4 * across, 3.1 * down), layout="constrained")
    FigureCanvasAgg(figure)
    panes = figure.subplots(down, across, squeeze=False).flatten()
    reach = 6 * max(tau, beta) / beta
    for pane, (name, look) in zip(panes, looks.items(), strict=False):
        shown = [at for at, rho in enumerate(look.rho) if abs(rho) <= max(reach, look.rho[-1] / 12)]
        rho = [look.rho[at] for at in shown]
        pane.plot(rho, [look.value[at] for at in shown], color="#1f5fa8", label="loss")
        pane.axvline(0, color="#999999", linewidth=0.8)
        pane.set_title(name + (" - starts the wrong way" if look.wrong else ""), fontsize=10)
        pane.set_xlabel("rho (nats)", fontsize=8)
        pane.set_ylabel("loss", fontsize=8)
        slopes = pane.twinx()
        slopes.plot(rho, [look.slope[at] for at in shown], color="#c05a1c", linestyle="--", label="slope")
        slopes.axhline(0, color="#c05a1c", linewidth=0.5)
        slopes.set_ylabel("d loss / d rho", fontsize=8, color="#c05a1c")
        slopes.plot([0], [look.at_start], "o", color="#c05a1c", markersize=4)
        for axis in (pane, slopes):
            axis.tick_params(labelsize=7)
    for pane in panes[len(looks) :]:
        pane.set_visible(False)
    figure.suptitle(
        f"beta = {beta:g}, tau = {tau:g}: loss (solid), slope (dashed), slope at the start (dot)", fontsize=10
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def main(arguments: Sequence[str]) -> None:
    """`plot [dotted path ...] [beta=0.05] [tau=0.05] [out=losses.png]`. Raises UserError for anything else."""
    usage = "python -m limo.losses plot [limo.preference.discopop ...] [beta=0.05] [tau=0.05] [out=losses.png]"
    if not arguments or arguments[0] != "plot":
        raise UserError(f"usage: {usage}")
    given = dict(a.split("=", 1) for a in arguments[1:] if "=" in a)
    if unknown := sorted(set(given) - {"beta", "tau", "out"}):
        raise UserError(f"plot has no setting '{unknown[0]}': {usage}")
    try:
        numbers = {key: float(given[key]) for key in ("beta", "tau") if key in given}
    except ValueError:
        raise UserError(f"beta and tau are numbers: {usage}") from None
    if any(value <= 0 for value in numbers.values()):
        raise UserError(f"beta and tau are above 0: {usage}")
    out = given.get("out", "losses.png")
    looks = plot(*(a for a in arguments[1:] if "=" not in a), **numbers, out=out)
    _print(looks)
    print(out)  # noqa: T201


def _print(looks: Mapping[str, Look]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("loss", "at 0", "slope at 0", "minima", "maxima", "to know", title="loss over rho")
    for name, look in looks.items():
        middle = look.value[len(look.value) // 2]
        places = [", ".join(f"{at:.2f}" for at in found) for found in (look.minima, look.maxima)]
        table.add_row(name, f"{middle:.4f}", f"{look.at_start:+.4f}", *places, "; ".join([*look.wrong, *look.notes]))
    Console().print(table)
