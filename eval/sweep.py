"""Choose a checkpoint on problems that no result is reported on.

    python -m limo.train recipe=demo train.keep_checkpoints=true train.args.save_total_limit=null
    python -m eval.sweep recipe=demo

Every whole checkpoint of the run is evaluated on the recipe's dev problems, `sweep.dev`. Test problems among them,
`sweep.test`, are left out: a checkpoint chosen on the test set wears the luck of the draw as its score (of 15
checkpoints on 30 problems the best is several points above its worth). `sweep/chosen.json` keeps the choice.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.benchmarks import load
from eval.compare import p_value, paired, share
from eval.run import Task, completed, correct_share, tasks
from limo.command import command
from limo.data import Example, replacing
from limo.engine import Sampling
from limo.errors import UserError
from limo.ledger import Cached
from limo.progress import say
from limo.recipe import bind

Found = list[tuple[Path, dict[str, float]]]  # each checkpoint, and the share of right completions of each dev problem


def sweep(
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
    """Evaluate every checkpoint of a run on the dev problems, print the table, keep and return the choice.

    The best mean accuracy over all dev problems wins, of equals the earlier checkpoint. Args as those of
    `eval.run.evaluate`; `test` is only looked at for problems that are in `dev` too.
    Raises UserError if there is no checkpoint, no dev problem, or half of them are test problems.
    """
    folder = Path(out)
    checkpoints = whole_checkpoints(folder / "checkpoints")
    given = apart(tasks(dev, system, sampling, protocol, engine), load(test, system))
    found: Found = []
    for checkpoint in checkpoints:
        runner = Cached(bind({**engine, "model": str(checkpoint)}, "sweep.engine")())
        shares: dict[str, float] = {}
        for task in given:
            shares |= correct_share(completed(folder / "sweep", checkpoint.name, str(checkpoint), runner, task))
        found.append((checkpoint, shares))
        del runner  # its model leaves the memory before the next one comes
    chosen = _chosen(found, resamples, seed)
    with replacing(folder / "sweep" / "chosen.json") as file:
        json.dump(chosen, file, indent=2)
    _print(chosen)
    return chosen


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder that are models, by their step. Raises UserError if there is none."""
    found = [p for p in folder.glob("checkpoint-*") if (p / "config.json").is_file() and p.name[11:].isdigit()]
    if not found:
        raise UserError(
            f"there is no checkpoint in '{folder}'. Train with train.keep_checkpoints=true and "
            "train.args.save_total_limit=null to keep them"
        )
    return sorted(found, key=lambda p: int(p.name[11:]))


def apart(dev: Sequence[Task], test: Mapping[str, Sequence[Example]]) -> list[Task]:
    """The dev problems that are no test problems, by their text. What is left out is said.

    Raises UserError if there is no dev problem, or if half of them or more are test problems.
    """
    asked = {_text(row) for rows in test.values() for row in rows}
    kept = [replace(task, rows=[row for row in task.rows if _text(row) not in asked]) for task in dev]
    count, left = (sum(len(task.rows) for task in given) for given in (dev, kept))
    if not count:
        raise UserError("sweep.dev has no problem to choose on")
    if 2 * left <= count:
        raise UserError(
            f"{count - left} of the {count} dev problems are test problems. A checkpoint must be chosen on other "
            "problems than it is reported on: give sweep.dev a split of its own"
        )
    if left < count:
        say(f"{count - left} of {count} dev problems are test problems and are left out")
    return kept


def _text(row: Example) -> str:
    return " ".join(str(row.notes.get("problem", row.question)).lower().split())


def _chosen(found: Found, resamples: int, seed: int) -> dict[str, Any]:
    rows = []
    means = [sum(shares.values()) / len(shares) for _, shares in found]
    best = means.index(max(means))
    for checkpoint, shares in found:
        interval = share(shares, resamples, seed)
        against = paired(shares, found[best][1], resamples, seed)
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
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title="Accuracy on the dev problems, in %", title_justify="left")
    for head in ("checkpoint", "pass@1", "95 % interval", "p against the best", "n"):
        table.add_column(head, justify="left" if head == "checkpoint" else "right")
    for row in chosen["checkpoints"]:
        mark = " <- chosen" if row["checkpoint"] == chosen["chosen"] else ""
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        p = "" if mark else p_value(row["p_against_best"])
        table.add_row(
            Path(row["checkpoint"]).name + mark, f"{100 * row['mean']:.1f}", interval, p, str(row["problems"])
        )
    console.print(table)
    console.print(f"Evaluate it on the test problems: eval.models.tuned={chosen['chosen']}", soft_wrap=True)


if __name__ == "__main__":
    command("sweep", "eval.sweep", "Choose a checkpoint on problems that no result is reported on.")
