"""The result of a search for losses: finalists compared with the baseline, as JSON, as lines, and in one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from limo.discover.archive import read_entries
from limo.discover.noise import Gain, Noise, fitness, gains


def summarize(folder: Path, baseline: str, floor: Noise, seeds: int, finalists: Sequence[int]) -> dict[str, Any]:
    """The content of `discovered.json`: noise, all fitnesses, reasons of refusals, intervals of the finalists.

    `seeds` is the number of trainings of a loss in the search; `finalists` has numbers, the baseline's among them.
    """
    tried = read_entries(folder)
    last = {entry.name: entry.confirmed for entry in tried if entry.number in finalists and entry.confirmed}
    repeated = [[fitness(scores) for scores in entry.scores] for entry in tried]
    ranked = gains(last, baseline, repeated) if baseline in last else []
    half = floor.half(seeds)
    scored = [
        {
            "number": entry.number,
            "name": entry.name,
            "known": entry.known,
            "fitness": entry.fitness,
            "above_noise": entry.fitness > floor.mean + half,
            "warmup": entry.checks.warmup if entry.checks else 0.0,
        }
        for entry in tried
        if entry.fitness is not None
    ]
    return {
        "baseline": baseline,
        "noise": {**asdict(floor), "half": half},
        "tried": scored,
        "refused": [{"number": e.number, "name": e.name, "why": e.why_not} for e in tried if e.why_not],
        "baseline_confirmed": fmean(fitness(s) for s in last[baseline]) if baseline in last else None,
        "confirmed": [{**asdict(gain), "beats": gain.beats} for gain in ranked],
        "verdict": write_verdict(ranked, baseline),
    }


def write_verdict(ranked: Sequence[Gain], baseline: str) -> str:
    """One sentence that names the finalists that are better than the baseline."""
    if not ranked:
        return f"No new loss was trained to its end: there is nothing to compare with {baseline}."
    better = [gain.name for gain in ranked if gain.beats]
    if not better:
        return f"None of {len(ranked)} finalists beats {baseline} by more than noise on fresh data."
    beat = "beats" if len(better) == 1 else "beat"
    return f"{', '.join(better)} of {len(ranked)} finalists {beat} {baseline} by more than noise on fresh data."


def show(found: Mapping[str, Any]) -> None:
    """Print each loss with its difference to the baseline, then the finalists and the verdict."""
    half, mean, baseline = found["noise"]["half"], found["noise"]["mean"], found["baseline"]
    lines = [f"losses in the order of the search; differences to {baseline} below {half:.4f} mean nothing"]
    for one in found["tried"]:
        about = "known" if one["known"] else "new"
        about += ", after a warm-up" if one["warmup"] else ""
        lines.append(f"{one['number']:4} {one['name']:24} {one['fitness']:.4f} {one['fitness'] - mean:+.4f}  {about}")
    lines += [f"{one['number']:4} {one['name']:24} refused: {one['why']}" for one in found["refused"]]
    for gain in found["confirmed"]:
        interval = f"95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}"
        lines.append(
            f"fresh data: {gain['name']} {gain['mean']:.4f}, {gain['difference']:+.4f} to {baseline}, {interval}"
        )
    print("\n".join([*lines, found["verdict"]]))  # noqa: T201
