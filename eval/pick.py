"""Chooses a checkpoint on development problems, on which no result is reported.

    python -m limo.train recipe=demo train.keep_checkpoints=true train.args.save_total_limit=null
    python -m eval.pick recipe=demo

Every whole checkpoint of the run is evaluated on the recipe's dev problems, `pick.dev`. Test problems among them,
`pick.test`, are dropped: the score of a checkpoint that was chosen on the test set is biased upwards (the best of 15
checkpoints on 30 problems is several points above its true accuracy). `pick/chosen.json` holds the choice.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.benchmarks import load_benchmarks
from eval.intervals import p_value, paired, share
from eval.metrics import correct_share
from eval.run import Task, complete_task, load_tasks
from limo.command import command
from limo.console import Table, print_table, say, terminal
from limo.data import Example, replacing
from limo.engines.ledger import Cached
from limo.engines.protocol import Sampling
from limo.errors import UserError
from limo.recipe import bind

Results = list[tuple[Path, dict[str, float]]]  # each checkpoint, and the share of right completions of each dev problem


def pick(
    *,
    out: str,
    system: str,
    engine: dict[str, Any],
    dev: list[Any] | dict[str, Any],
    test: list[Any] | dict[str, Any],
    sampling: Sampling,
    protocol: str | None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Evaluate every checkpoint of a run on the dev problems, print the table, write and return the choice.

    The best mean accuracy over all dev problems wins, in a tie the earlier checkpoint. Args as in `eval.run.evaluate`;
    problems of `test` are dropped from `dev`.
    Raises UserError if there is no checkpoint, no dev problem, or half of them are test problems.
    """
    folder = Path(out)
    checkpoints = find_checkpoints(folder / "checkpoints")
    given = drop_test_problems(load_tasks(dev, system, sampling, protocol, engine), load_benchmarks(test, system))
    results: Results = []
    for checkpoint in checkpoints:
        runner = Cached(bind({**engine, "model": str(checkpoint)}, "pick.engine")())
        shares: dict[str, float] = {}
        for task in given:
            shares |= correct_share(complete_task(folder / "pick", checkpoint.name, str(checkpoint), runner, task))
        results.append((checkpoint, shares))
        del runner  # frees the model before the next one is loaded
    chosen = _choose(results, resamples, seed)
    with replacing(folder / "pick" / "chosen.json") as file:
        json.dump(chosen, file, indent=2)
    _print(chosen)
    return chosen


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder that are models, by their step. Raises UserError if there is none."""
    whole = [p for p in folder.glob("checkpoint-*") if (p / "config.json").is_file() and p.name[11:].isdigit()]
    if not whole:
        raise UserError(
            f"there is no checkpoint in '{folder}'. Train with train.keep_checkpoints=true and "
            "train.args.save_total_limit=null to keep them"
        )
    return sorted(whole, key=lambda p: int(p.name[11:]))


def drop_test_problems(dev: Sequence[Task], test: Mapping[str, Sequence[Example]]) -> list[Task]:
    """The dev problems that are not test problems, compared by their text. Prints how many were dropped."""
    asked = {_text(row) for rows in test.values() for row in rows}
    kept = [replace(task, rows=[row for row in task.rows if _text(row) not in asked]) for task in dev]
    count, left = (sum(len(task.rows) for task in given) for given in (dev, kept))
    if not count:
        raise UserError("pick.dev has no problem to choose on")
    if 2 * left <= count:
        raise UserError(
            f"{count - left} of the {count} dev problems are test problems. A checkpoint must be chosen on other "
            "problems than it is reported on: give pick.dev another split"
        )
    if left < count:
        say(f"{count - left} of {count} dev problems are test problems and are dropped")
    return kept


def _text(row: Example) -> str:
    return " ".join(str(row.notes.get("problem", row.question)).lower().split())


def _choose(results: Results, resamples: int, seed: int) -> dict[str, Any]:
    rows = []
    means = [sum(shares.values()) / len(shares) for _, shares in results]
    best = means.index(max(means))
    for checkpoint, shares in results:
        interval = share(shares, resamples, seed)
        against = paired(shares, results[best][1], resamples, seed)
        rows.append(
            {
                "checkpoint": str(checkpoint),
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "problems": interval.n,
                "p_against_best": against.p,
            }
        )
    return {"chosen": rows[best]["checkpoint"], "checkpoints": rows}


def _print(chosen: dict[str, Any]) -> None:
    rows = []
    for row in chosen["checkpoints"]:
        is_best = row["checkpoint"] == chosen["chosen"]
        name = Path(row["checkpoint"]).name + (" <- chosen" if is_best else "")
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        p = "" if is_best else p_value(row["p_against_best"])
        rows.append((name, f"{100 * row['mean']:.1f}", interval, p, row["problems"]))
    head = ("checkpoint", "pass@1", "95 % interval", "p against the best", "n")
    print_table(Table(head, rows, range(1, 5), "Accuracy on the dev problems, in %"))
    terminal().print(
        f"Evaluate it on the test problems: eval.models.tuned={chosen['chosen']}", soft_wrap=True, markup=False
    )


if __name__ == "__main__":
    command("pick", "eval.pick")
