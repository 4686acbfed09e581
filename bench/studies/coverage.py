"""How often does the interval of `eval/intervals.py` hold? Simulated differences of two sets, trained several times.

    python -m bench.studies.coverage          # two minutes; prints the table of docs/evaluation.md

Each problem has a chance of being solved, from a beta distribution with the mean `accuracy`; each training moves all
chances by its own normal deviate of `sd` points, and each problem of each training by another of 10 points. One
completion is sampled. The true difference is what 64 trainings on 4,000 problems give.
"""

from typing import Any

import numpy as np

from eval.intervals import difference
from limo.console import Table, print_table, terminal

REPEATS = 1500
GAIN, SPREAD, MIXED = 0.10, 1.5, 0.10  # of the second set; of the problems' chances; of a problem within a training


def simulate(rng: Any, trainings: int, problems: int, accuracy: float, sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong (trainings, problems) of two sets on the same problems."""
    chances = rng.beta(accuracy * SPREAD, (1 - accuracy) * SPREAD, size=problems)
    found = []
    for gain in (0.0, GAIN):
        shift = gain + rng.normal(0, sd, (trainings, 1)) + rng.normal(0, MIXED, (trainings, problems))
        found.append((rng.random((trainings, problems)) < np.clip(chances + shift, 0, 1)).astype(float))
    return found[0], found[1]


def hold(rng: Any, trainings: int, problems: int, accuracy: float, sd: float) -> tuple[float, float]:
    """The share of intervals that hold the true difference, and their mean half width."""
    wide = [simulate(rng, 64, 4000, accuracy, sd) for _ in range(20)]
    truth, held, widths = float(np.mean([b.mean() - a.mean() for a, b in wide])), 0, 0.0
    for _ in range(REPEATS):
        a, b = simulate(rng, trainings, problems, accuracy, sd)
        found = difference(
            *([dict(zip(map(str, range(problems)), row, strict=True)) for row in s] for s in (a, b)), 0, 0
        )
        held += found.low <= truth <= found.high
        widths += (found.high - found.low) / 2
    return held / REPEATS, widths / REPEATS


def main() -> None:
    """The command `python -m bench.studies.coverage`."""
    rng, rows = np.random.default_rng(0), []
    for accuracy in (0.2, 0.5):
        for sd in (0.0, 0.03, 0.06):
            for trainings in (2, 3, 5):
                for problems in (100, 300):
                    held, width = hold(rng, trainings, problems, accuracy, sd)
                    shown = f"{100 * accuracy:.0f}", f"{100 * sd:.0f}", trainings, problems
                    rows.append((*shown, f"{100 * held:.1f}", f"{100 * width:.1f}"))
    head = ("accuracy, %", "SD of a training, points", "trainings each", "problems", "held, %", "half width, points")
    print_table(Table(head, rows, range(6), f"{REPEATS} simulations each"), terminal(110))


if __name__ == "__main__":
    main()
