"""What a loss is worth: measures of a model that was trained with it.

A measure takes the run folder of a training and the command line of the search, and gives a value from 0 to 1 for each
item, a pair or a problem, so that two losses can be compared item by item. `limo/duel.py` asks a judge.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limo.allowed import Refused
from limo.errors import UserError
from limo.noise import Items
from limo.processes import override, run_module


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

    Raises UserError if the evaluation does not come to its end.
    """
    models = {"tuned": str(folder / "model")}
    own = [override("out", folder), "~eval.models", override("+eval.models", models), "eval.compare=[]"]
    own += ["~eval.benchmarks", override("+eval.benchmarks", benchmarks)]
    log = folder / "log.txt"
    if code := run_module("eval.run", [*typed, *own], log):
        raise UserError(f"the evaluation in {folder} ended with code {code}: {last_line(log)}")
    names = list(benchmarks)
    return {f"{name}/{i}": v for name in names for i, v in _shares(folder / "eval" / "tuned" / f"{name}.jsonl").items()}


def last_line(log: Path) -> str:
    """The last thing that a command said, without the word error."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing").removeprefix("error: ").strip()


def _shares(file: Path) -> Mapping[str, float]:
    """Of each problem the share of right completions."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {
        str(row["id"]): sum(c["verdict"] == "correct" for c in row["completions"]) / len(row["completions"])
        for row in rows
    }
