r"""Evaluate models over several turns, beside as many parallel samples.

    python -m eval.run recipe=rise_demo        # the recipe's section `eval` names eval.multiturn.evaluate

Each problem gets n parallel samples, and one episode of n turns whose first is the first of these samples. After every
turn the model is told to try again, right or not: no reference is used. `eval/turn_metrics.py` has what follows from
these two.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eval.compare import p_value, paired
from eval.report import write_report
from eval.run import Rows, Task, check_models, graded, local, stage_seconds, summarise, tasks
from eval.turn_metrics import Row, measured, measures, signed, spent_tokens
from eval.turns import Dialogue, Episode, draw
from limo.data import dump, replacing
from limo.engine import Prompt, Sampling
from limo.errors import UserError
from limo.ledger import Cached, Spent, spent
from limo.manifest import claim
from limo.progress import say
from limo.recipe import bind, files_in


def evaluate(
    *,
    out: str,
    system: str,
    models: dict[str, str],
    engine: dict[str, Any],
    benchmarks: list[Any] | dict[str, Any],
    sampling: Sampling,
    dialogue: Dialogue,
    compare: list[list[str]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Play and grade every model on every benchmark, print the tables, write the report.

    Args: as `eval.run.evaluate`; `sampling.n` is both the turns and the parallel samples, so that the budgets are
    equal; `dialogue` is that of the training. Returns the summary that `eval/summary.json` holds: the one of
    `eval.run`, on the parallel samples, and `turns`. Raises UserError as `eval.run.evaluate` does, and for fewer than
    two turns.
    """
    check_models(models, engine, compare, resamples)
    if sampling.n < 2:
        raise UserError(f"eval.sampling.n is the number of turns: at least 2, not {sampling.n}")
    given, folder = tasks(benchmarks, system, sampling, None, engine), Path(out)
    results: dict[str, dict[str, Rows]] = {}
    for model, path in models.items():
        runner = Cached(bind({**engine, "model": path}, "eval.engine")())
        results[model] = {task.name: played(folder, model, path, runner, task, dialogue) for task in given}
        del runner  # its model leaves the memory before the next one comes
    summary = summarise(results, compare, resamples, seed)
    summary["turns"] = {
        "models": {
            m: {name: measured(rows, resamples, seed) for name, rows in by.items()} for m, by in results.items()
        },
        "differences": _differences(results, compare, resamples, seed),
    }
    with replacing(folder / "eval" / "summary.json") as file:
        json.dump(summary, file, indent=2)
    report = write_report(folder)
    _print(summary["turns"], folder, report)
    return summary


def played(folder: Path, model: str, path: str, runner: Cached, task: Task, dialogue: Dialogue) -> Rows:
    """The graded samples and turns of one model on one benchmark, from the disk if they are there.

    A line is that of `eval.run.completed` with the parallel samples as its completions, and beside them `turns`.
    """
    file = folder / "eval" / model / f"{task.name}.jsonl"
    claimed = {"model": path, **task.settings, "dialogue": asdict(dialogue)}
    read: list[str | Path] = [*local(task.engine, path), *files_in({"benchmark": task.origin})]
    with claim(folder, f"eval/{model}/{task.name}", claimed, inputs=read) as step:
        if not step.finished:
            before = Spent(**vars(spent))
            lines = _play(runner, task, dialogue, f"{model} on {task.name}", _counter(task.engine, path))
            with replacing(file) as written:
                written.writelines(map(dump, lines))
            step.outputs, step.tokens = [file], spent.since(before).tokens
            found = spent.since(before).found
            step.results = {"problems": len(lines), "found_in_ledger": found}
            if found:
                say(f"{found} of these completions were there from before")
    with file.open(encoding="utf-8") as written:
        return [json.loads(line) for line in written]


def _play(
    runner: Cached, task: Task, dialogue: Dialogue, what: str, count: Callable[[Prompt], int | None]
) -> list[dict[str, Any]]:
    """All parallel samples first, then the episodes turn by turn, each turn one batch over the problems."""
    episodes = [Episode(row, dialogue) for row in task.rows]
    asked = [[count(episode.prompt)] for episode in episodes]
    parallel = draw(runner, episodes, task.sampling, f"{what}: samples")
    turns = [[completions[0]] for completions in parallel]
    for turn in range(2, task.sampling.n + 1):
        for episode, taken, read in zip(episodes, turns, asked, strict=True):
            episode.take(taken[-1].text)
            read.append(count(episode.prompt))
        drawn = draw(runner, episodes, replace(task.sampling, n=1), f"{what}: turn {turn}")
        for taken, completions in zip(turns, drawn, strict=True):
            taken += completions
    lines = graded(task.rows, parallel, f"grading {what}")
    for line, judged, read in zip(lines, graded(task.rows, turns, f"grading {what}: turns"), asked, strict=True):
        line["turns"] = [{**turn, "asked": tokens} for turn, tokens in zip(judged["completions"], read, strict=True)]
    return lines


def _counter(engine: Mapping[str, Any], path: str) -> Callable[[Prompt], int | None]:
    """Counts the tokens of a prompt; for a model on servers, whose tokenizer is not here, it gives None."""
    from limo.model import load_tokenizer
    from limo.render import prompt_ids

    folder = local(engine, path)
    if not folder:
        return lambda prompt: None
    tokenizer = load_tokenizer(folder[0])
    return lambda prompt: len(prompt_ids(tokenizer, prompt))


def _differences(
    results: Mapping[str, Mapping[str, Rows]], compare: Sequence[Sequence[str]], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Each measure of the pairs of models, after minus before, on the same problems."""
    found = []
    for before, after in compare:
        for name, rows in results[before].items():
            for measure, of in measures(len(rows[0]["turns"])).items():
                a, b = ({r["id"]: of(r) for r in results[m][name]} for m in (before, after))
                change = paired(a, b, resamples, seed).to_json()
                found.append({"benchmark": name, "before": before, "after": after, "measure": measure, **change})
    return found


def _print(turns: Mapping[str, Any], folder: Path, report: Path) -> None:
    """The tables a run ends with."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    each = [(m, name, found) for m, by in turns["models"].items() for name, found in by.items()]
    table = Table(title=f"{folder.name}: accuracy in % with 95 % interval", title_justify="left")
    for head in ("model", "benchmark", *each[0][2]["measures"], "problems"):
        table.add_column(head, justify="left" if head in ("model", "benchmark") else "right")
    for model, name, found in each:
        cells = [
            f"{100 * v['mean']:.1f}\n{100 * v['low']:.1f} to {100 * v['high']:.1f}" for v in found["measures"].values()
        ]
        table.add_row(model, name, *cells, str(found["measures"]["m1@t1"]["n"]))
    console.print(table)
    console.print(_budgets(each))
    console.print(_flips(each))
    for d in turns["differences"]:
        said = f"{d['benchmark']}, {d['measure']}: {d['after']} against {d['before']} {signed(d)}, p {p_value(d['p'])}"
        console.print(said, soft_wrap=True)
    console.print(f"Seconds: {stage_seconds(folder)}")
    console.print(f"Report:  {report}", soft_wrap=True)


def _budgets(each: Sequence[tuple[str, str, Row]]) -> Any:
    """Turns against parallel samples, which cost as many answers."""
    from rich.table import Table

    n = each[0][2]["n"]
    table = Table(title=f"{n} turns against {n} parallel samples, in points", title_justify="left")
    heads = ("model", "benchmark", "without oracle", "p", "with oracle", "p", "tokens, turns", "tokens, samples")
    for head in heads:
        table.add_column(head, justify="left" if head in heads[:2] else "right")
    for model, name, found in each:
        cells = [cell for d in found["against"] for cell in (signed(d), p_value(d["p"]))]
        cost = [spent_tokens(found["tokens"][key]) for key in ("turns", "samples")]
        table.add_row(model, name, *cells, *cost)
    return table


def _flips(each: Sequence[tuple[str, str, Row]]) -> Any:
    from rich.table import Table

    table = Table(title="From turn to turn: problems that became right, and that became wrong", title_justify="left")
    heads = ["model", "benchmark", *(f"{k} to {k + 1}" for k in range(1, each[0][2]["n"]))]
    for head in heads:
        table.add_column(head, justify="left" if head in heads[:2] else "right")
    for model, name, found in each:
        table.add_row(model, name, *(f"+{t['wrong_right']} -{t['right_wrong']}" for t in found["transitions"]))
    return table
