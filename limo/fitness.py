"""What a loss is worth: measures of a model that was trained with it.

A measure takes the run folder of a training and the command line of the search, and gives a value from 0 to 1 for each
item, a pair or a problem, so that two losses can be compared item by item. `limo/duel.py` asks a judge.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limo.allowed import Refused
from limo.noise import Items
from limo.processes import override, run_to_end


def preference(folder: Path, typed: Sequence[str], /) -> Items:
    """Of each held-out pair (`train.eval_data`) whether the model prefers the chosen one more than its reference does.

    1 if so, 0.5 if as much. Raises Refused if the model's probabilities are not finite.
    """
    found = {}
    for line in (folder / "held_out.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["chosen"] is None or row["rejected"] is None:
            raise Refused("the model that it made gives no finite probabilities")
        found[row["id"]] = 0.5 + (row["chosen"] > row["rejected"]) / 2 - (row["chosen"] < row["rejected"]) / 2
    return found


def task(folder: Path, typed: Sequence[str], /, *, benchmarks: dict[str, Any] | list[str]) -> Items:
    """Accuracy on `benchmarks`, as the recipe's `eval` section takes them, by `python -m eval.run`.

    Raises UserError if the evaluation fails, and Interrupted if it is stopped.
    """
    models = {"tuned": str(folder / "model")}
    own = [override("out", folder), "~eval.models", override("+eval.models", models), "eval.compare=[]"]
    own += ["~eval.benchmarks", override("+eval.benchmarks", benchmarks)]
    run_to_end("eval.run", [*typed, *own], folder)
    names = list(benchmarks)
    return {f"{name}/{i}": v for name in names for i, v in _shares(folder / "eval" / "tuned" / f"{name}.jsonl").items()}


def _shares(file: Path) -> Mapping[str, float]:
    """Of each problem the share of right completions."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {
        str(row["id"]): sum(c["verdict"] == "correct" for c in row["completions"]) / len(row["completions"])
        for row in rows
    }
