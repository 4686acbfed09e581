"""Measures of a loss, taken from a model that was trained with it.

A measure is a function of the run folder of a training and the file of held-out pairs. It returns a value from 0 to 1
for each item, a pair or a problem, so that two losses can be compared item by item. A judge is in `discover/duel.py`.
"""

import json
from pathlib import Path
from typing import Any

from limo.discover.candidate import Refused
from limo.discover.noise import Items
from limo.processes import run_section_apart


def preference(folder: Path, held_out: Path, /) -> Items:
    """For each held-out pair 1 if the model prefers the chosen completion more than its reference does, 0.5 if equally.

    Raises Refused if the model's probabilities are not finite.
    """
    found = {}
    for row in _read_rows(folder / "held_out.jsonl"):
        if row["chosen"] is None or row["rejected"] is None:
            raise Refused("the trained model gives no finite probabilities")
        found[row["id"]] = 0.5 + (row["chosen"] > row["rejected"]) / 2 - (row["chosen"] < row["rejected"]) / 2
    return found


def task(folder: Path, held_out: Path, /, *, evaluate: dict[str, Any]) -> Items:
    """For each problem of the benchmarks of `evaluate`, a recipe's `eval` section, the fraction of right answers.

    Raises UserError if the evaluation fails, and Interrupted if it is stopped.
    """
    section = {**evaluate, "out": str(folder), "models": {"tuned": str(folder / "model")}, "compare": []}
    run_section_apart("eval.run", "eval", section, folder)
    found = {}
    for name in evaluate["benchmarks"]:
        for row in _read_rows(folder / "eval" / "tuned" / f"{name}.jsonl"):
            verdicts = [completion["verdict"] == "correct" for completion in row["completions"]]
            found[f"{name}/{row['id']}"] = sum(verdicts) / len(verdicts)
    return found


def _read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
