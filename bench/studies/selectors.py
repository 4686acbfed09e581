"""The leaderboard of selectors: every score beside random chains and an oracle, on pools of known truth, by dose.

    python -m bench.studies.selectors FOLDER            # a 0.6M model, trainings of seconds; hours, and it resumes
    python -m bench.studies.selectors FOLDER recipe=selectors_135m   # some of the scores, the embedded 135M model
    python -m bench.studies.selectors FOLDER recipe=selectors_teachers    # several teachers; a minute a block
    python -m bench.studies.selectors FOLDER table      # what is finished, and the picture for docs/selectors.md
    python -m bench.studies.selectors bench/data/selectors.jsonl table    # what that page is made from

A block is a pool of new sums, new problems to measure on and a new order; every selector is trained on each, with as
many rows and steps as random chains, and its difference to them is paired by block (`bench/studies/study.py`). The
interval of one selector is t's with blocks - 1 degrees of freedom; it holds for that selector alone.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from bench.data.tiny import make_model
from bench.studies.demo import t_interval
from bench.studies.study import RECIPES, study
from limo.console import Table, print_table, terminal
from limo.errors import reported
from limo.machine import set_environment
from limo.recipe import compose, compose_arguments
from limo.sources.known_truth import FILLER, STYLES, make_problem, write_chain

STEPS = 2600  # of learning sums from scratch: right on 95 % of new ones, which is too many (docs/selectors.md)
PICTURE = Path(__file__).parents[2] / "docs" / "selectors.svg"


def draw(random: Random) -> tuple[str, str]:
    """A problem and its clean chain, to learn from."""
    problem = make_problem("sums", random)
    return problem.question, write_chain(problem, "clean")


def words() -> list[str]:
    """Texts with every word of a chain."""
    problem = make_problem("sums", Random(0))
    return [problem.question, *FILLER, *(write_chain(problem, style) for style in STYLES)]


def blocks(folder: Path) -> dict[float, list[Mapping[str, Any]]]:
    """By dose the finished blocks, each by arm: of a run's folder, or of a file with a block a line."""
    found: dict[float, list[Mapping[str, Any]]] = {}
    if folder.is_file():
        for block in map(json.loads, folder.read_text(encoding="utf-8").splitlines()):
            found.setdefault(block["spoiled"], []).append(block["arms"])
        return found
    for place in sorted(folder.glob("selectors*/spoiled-*/block-*")):
        scores = {path.parent.name: json.loads(path.read_text()) for path in place.glob("*/score.json")}
        if {"random", "oracle", "default"} <= set(scores):
            found.setdefault(int(place.parent.name.partition("-")[2]) / 100, []).append(scores)
    return found


def gains(found: Sequence[Mapping[str, Any]], arm: str) -> list[float]:
    """An arm's difference to random in each block that has both, in points."""
    return [100 * (one[arm]["accuracy"] - one["random"]["accuracy"]) for one in found if arm in one]


def table(folder: Path) -> None:
    """By dose the gain of each selector over random with its interval, and the share of good chains; the best first."""
    found = blocks(folder)
    doses = sorted(found, reverse=True)
    arms = [arm for arm in next(iter(found.values()))[0] if arm != "random"]
    means = {arm: fmean(fmean(gains(found[dose], arm)) for dose in doses) for arm in arms}
    rows = []
    for arm in sorted(arms, key=lambda arm: -means[arm]):
        every = [gain for dose in doses for gain in gains(found[dose], arm)]
        cells = [_shown(every)]
        for dose in doses:
            good = fmean(one[arm]["good"] for one in found[dose] if arm in one)
            cells += [_shown(gains(found[dose], arm)), f"{100 * good:.0f}"]
        rows.append((arm, *cells))
    head = ["all blocks, points", *(name for d in doses for name in (f"{100 * d:.0f} % spoiled, points", "good, %"))]
    counts = ", ".join(f"{len(found[dose])} at {100 * dose:.0f} %" for dose in doses)
    base = ", ".join(f"{100 * fmean(o['random']['accuracy'] for o in found[dose]):.1f} %" for dose in doses)
    title = f"Gain over random chains ({base} right), blocks: {counts}"
    print_table(Table(("selector", *head), rows, range(1, 1 + len(head)), title), terminal(140))
    if len(doses) > 1:
        picture(found, sorted(arms, key=lambda arm: means[arm]))


def _shown(values: Sequence[float]) -> str:
    low, high = t_interval(values) if len(values) > 1 else (math.nan, math.nan)
    interval = f" ({low:+.1f} to {high:+.1f})" if len(values) > 2 else ""  # of two blocks it says nothing
    return f"{fmean(values):+.1f}{interval}"


def picture(found: Mapping[float, Sequence[Mapping[str, Any]]], arms: Sequence[str]) -> None:
    """The gains over all blocks with their intervals, and by dose, as docs/selectors.svg."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "limo"
    doses = sorted(found, reverse=True)
    every = [one for dose in doses for one in found[dose]]
    parts = {"all blocks": every, **{f"{100 * dose:.0f} % spoiled": found[dose] for dose in doses}}
    figure, axes = plt.subplots(1, len(parts), figsize=(11, 0.22 * len(arms) + 1), sharey=True)
    for axis, (title, blocks_) in zip(axes, parts.items(), strict=True):
        for at, arm in enumerate(arms):
            values = gains(blocks_, arm)
            low, high = t_interval(values) if len(values) > 2 else (fmean(values), fmean(values))
            known = len(values) > 2
            colour = "#1a7f37" if known and low > 0 else "#b42318" if known and high < 0 else "#6b7280"
            axis.plot([low, high], [at, at], color=colour, linewidth=2)
            axis.plot(fmean(values), at, "o", color=colour, markersize=4)
        axis.axvline(0, color="#111827", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("points over random chains", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_yticks(range(len(arms)), arms)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    """The command `python -m bench.studies.selectors`."""
    set_environment()
    folder = Path(sys.argv[1])
    if "table" not in sys.argv:
        given = [f"runs={folder}", *sys.argv[2:]]
        if not any(argument.startswith("recipe=") for argument in given):
            given = ["recipe=selectors", *given]
        if "recipe=selectors_135m" not in given:
            make_model(folder / "model", STEPS, words(), draw)
            given = [*given, f"student={folder / 'model'}"]
        recipe = compose(*compose_arguments([*RECIPES, *given]))
        Path(recipe["out"]).mkdir(parents=True, exist_ok=True)
        study(recipe, Path(recipe["out"]))
    table(folder)


if __name__ == "__main__":
    with reported():
        main()
