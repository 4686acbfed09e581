"""What exact early stopping saves, on recorded samples and on simulated pools.

    LIMO_DATA=... python -m bench.peers.early_stopping

The kept set is compared with that of all attempts each time; the command fails if one problem differs.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from curation.stages.stopping import Window
from eval.grade import grade
from tests.stopping import attempts_needed

LIMO_HARD, LIMO_EASY = (32, 1, 3), (4, 0, 0)
POOLS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "mostly easy, Beta(2, 0.7)": lambda draw, n: draw.beta(2, 0.7, n),
    "uniform": lambda draw, n: draw.uniform(size=n),
    "easy or hard, Beta(0.4, 0.4)": lambda draw, n: draw.beta(0.4, 0.4, n),
    "after the weak model, Beta(0.5, 1)": lambda draw, n: draw.beta(0.5, 1, n),
    "very hard, Beta(0.2, 2)": lambda draw, n: draw.beta(0.2, 2, n),
}
CUT_OFF = 0.05  # share of attempts that are cut off, in the simulated pools


def saved(outcomes: Sequence[str], window: Window) -> tuple[int, float]:
    """How many are kept, and the share of attempts that are not drawn. Exits if early stopping decides otherwise."""
    drawn = kept = 0
    for sequence in outcomes:
        needed = attempts_needed(sequence, window)
        early = window.certain(sequence[:needed].count("r"), sequence[:needed].count("u"), needed)
        whole = window.keeps(sequence.count("r"), sequence.count("u"))
        if early != whole:
            sys.exit(f"early stopping decides otherwise: {sequence} {window}")
        drawn, kept = drawn + needed, kept + whole
    return kept, 1 - drawn / (len(outcomes) * window.n)


def recorded(data: Path) -> dict[str, list[str]]:
    """Outcomes of recorded samples: 100 MATH problems with 8 each, 1,319 of GSM8K with 4 models' one each."""
    found: dict[str, list[str]] = {"MATH, 8 recorded samples": [], "GSM8K, 4 models": []}
    for line in (data / "samples" / "math_cot_100.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        verdicts = [grade(chain, row["gt"]).verdict for chain in row["code"]]
        found["MATH, 8 recorded samples"].append("".join(v[0] if v != "correct" else "r" for v in verdicts))
    for line in (data / "samples" / "gsm8k_model_solutions.jsonl").open(encoding="utf-8"):
        solved = [m["is_correct"] for m in json.loads(line).values() if isinstance(m, dict)]
        found["GSM8K, 4 models"].append("".join("r" if s else "w" for s in solved))
    return found


def simulated(draw: np.random.Generator, rates: np.ndarray, n: int) -> list[str]:
    """Outcomes of n attempts at each problem."""
    signs = np.where(draw.uniform(size=(len(rates), n)) < rates[:, None], "r", "w")
    signs[draw.uniform(size=signs.shape) < CUT_OFF] = "u"
    return ["".join(row) for row in signs.tolist()]


def main() -> None:
    """Print the table."""
    print(f"{'attempts':<36} {'window':<16} {'problems':>8} {'kept':>6} {'saved %':>8}")
    draw = np.random.default_rng(0)
    work: list[tuple[str, Window, list[str]]] = []
    if folder := os.environ.get("LIMO_DATA"):
        for name, outcomes in recorded(Path(folder)).items():
            n = len(outcomes[0])
            work += [(name, Window(n, 1, max(1, n // 8), "keep"), outcomes), (name, Window(n, 0, 0, "keep"), outcomes)]
            work += [(name, Window(n, 1, n - 1, "keep"), outcomes)]
    for name, pool in POOLS.items():
        rates = pool(draw, 20_000)
        for n, low, high in (LIMO_EASY, LIMO_HARD):
            for unknown in ("keep", "drop") if n == 32 else ("keep",):
                work.append((name, Window(n, low, high, unknown), simulated(draw, rates, n)))  # type: ignore[arg-type]
    for name, window, outcomes in work:
        kept, share = saved(outcomes, window)
        shown = f"{window.at_least} to {window.at_most} of {window.n}" + (" sure" if window.unknown == "drop" else "")
        print(f"{name:<36} {shown:<16} {len(outcomes):>8,} {kept:>6,} {100 * share:>8.1f}")


if __name__ == "__main__":
    main()
