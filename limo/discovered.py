"""What a search for losses found: finalists beside the baseline, in one file, as tables, and in one sentence."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from limo.archive import entries, write_archive
from limo.noise import Gain, Noise, Scores, fitness, gains


def concluded(folder: Path, baseline: str, floor: Noise, seeds: int, finalists: Sequence[int]) -> dict[str, Any]:
    """What `discovered.json` keeps: the noise, every fitness, what was refused, the finalists' intervals."""
    tried = entries(folder)
    write_archive(folder, tried)
    last: dict[str, list[Scores]] = {
        one.name: list(one.confirmed.values()) for one in tried if one.number in finalists and one.confirmed
    }
    more = [[fitness(s) for s in one.scores.values()] for one in tried]
    ranked = gains(last, baseline, more) if baseline in last else []
    half = floor.half(seeds)
    scored = [
        {
            "number": one.number,
            "name": one.name,
            "known": one.known,
            "fitness": one.fitness,
            "above_noise": one.fitness > floor.mean + half,
            "warmup": one.report["warmup"],
        }
        for one in tried
        if one.fitness is not None
    ]
    return {
        "baseline": baseline,
        "noise": {**asdict(floor), "half": half},
        "tried": scored,
        "refused": [{"number": o.number, "name": o.name, "why": o.why_not} for o in tried if o.why_not],
        "baseline_confirmed": fmean(fitness(s) for s in last[baseline]) if baseline in last else None,
        "confirmed": [{**asdict(gain), "beats": gain.beats} for gain in ranked],
        "verdict": verdict(ranked, baseline),
    }


def verdict(ranked: Sequence[Gain], baseline: str) -> str:
    """In one sentence which finalists are better than the baseline, if any is."""
    if not ranked:
        return f"No new loss was trained to its end: there is nothing to compare with {baseline}."
    better = [gain.name for gain in ranked if gain.beats]
    if not better:
        return f"None of {len(ranked)} finalists beats {baseline} by more than noise on fresh data."
    beat = "beats" if len(better) == 1 else "beat"
    return f"{', '.join(better)} of {len(ranked)} finalists {beat} {baseline} by more than noise on fresh data."


def show(found: Mapping[str, Any]) -> None:
    """Print the search and the finalists as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    half, mean = found["noise"]["half"], found["noise"]["mean"]
    table = Table("no.", "loss", "fitness", f"to {found['baseline']}", "beyond noise", title="search, in its order")
    for one in found["tried"]:
        by = one["fitness"] - mean
        beyond = "yes" if by > half else "worse" if by < -half else "no"
        name = one["name"] + (" (known)" if one["known"] else "") + (" after a warm-up" if one["warmup"] else "")
        table.add_row(str(one["number"]), name, f"{one['fitness']:.4f}", f"{by:+.4f}", beyond)
    console.print(table)
    console.print(f"noise: a difference of less than {half:.4f} means nothing; {len(found['refused'])} losses refused")
    if found["confirmed"]:
        table = Table("loss", "fitness", f"to {found['baseline']}", "95 % interval", title="finalists on fresh data")
        table.add_row(found["baseline"], f"{found['baseline_confirmed']:.4f}", "", "")
        for gain in found["confirmed"]:
            interval = f"{gain['low']:+.4f} to {gain['high']:+.4f}"
            table.add_row(gain["name"], f"{gain['mean']:.4f}", f"{gain['difference']:+.4f}", interval)
        console.print(table)
    console.print(found["verdict"])
