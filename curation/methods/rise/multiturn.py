r"""Evaluates models over several turns, and, for comparison, with the same number of independent samples.

    python -m eval.run recipe=rise_demo        # its section `eval` names curation.methods.rise.multiturn.evaluate_turns

Each problem gets n parallel samples, and one episode of n turns, whose first turn is the first of these samples. After
every turn the model is asked to try again, whether it was right or wrong: no reference is used. `eval/metrics.py`
computes the metrics of both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from curation.methods.rise.turns import Dialogue, Episode, sample_turn
from eval.intervals import paired
from eval.metrics import measure_turns, measures
from eval.report.tables import print_turns
from eval.run import (
    Rows,
    Task,
    check_models,
    find_model,
    grade_rows,
    load_or_make,
    load_tasks,
    run_models,
    summarize,
    write_summary,
)
from limo.engines.ledger import Cached
from limo.engines.protocol import Prompt, Sampling
from limo.errors import UserError


def evaluate_turns(
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
    """Sample and grade every model on every benchmark, print the tables, write the report.

    Args: as `eval.run.evaluate`; `sampling.n` is the number of turns and of parallel samples, so that the budgets are
    equal; `dialogue` is the one of training. Returns the content of `eval/summary.json`: that of `eval.run`, on the
    parallel samples, and `turns`. Raises UserError as `eval.run.evaluate` does, and for fewer than two turns.
    """
    check_models(models, engine, compare, resamples)
    if sampling.n < 2:
        raise UserError(f"eval.sampling.n is the number of turns: at least 2, not {sampling.n}")
    given, folder = load_tasks(benchmarks, system, sampling, None, engine), Path(out)
    results = run_models(folder, models, engine, given, partial(play_task, dialogue=dialogue))
    summary = summarize({model: [by] for model, by in results.items()}, compare, resamples, seed)
    summary["turns"] = {
        "models": {
            m: {name: measure_turns(rows, resamples, seed) for name, rows in by.items()} for m, by in results.items()
        },
        "differences": _differences(results, compare, resamples, seed),
    }
    print_turns(summary["turns"], folder, write_summary(folder, summary))
    return summary


def play_task(folder: Path, model: str, path: str, runner: Cached, task: Task, dialogue: Dialogue) -> Rows:
    """The graded samples and turns of one model on one benchmark, read from disk if they are there.

    A line is that of `eval.run.complete_task`, with the parallel samples as its completions, and the key `turns`.
    """

    def lines() -> tuple[Rows, int]:
        rows = _play(runner, task, dialogue, f"{model} on {task.name}", _token_counter(task.engine, path))
        return rows, len(rows)

    return load_or_make(folder, model, path, task, "problems", lines, dialogue=asdict(dialogue))


def _play(runner: Cached, task: Task, dialogue: Dialogue, what: str, count: Callable[[Prompt], int | None]) -> Rows:
    """Sample the parallel samples of all problems, then the episodes turn by turn, one batch per turn."""
    episodes = [Episode(row, dialogue) for row in task.rows]
    asked = [[count(episode.prompt)] for episode in episodes]
    parallel = sample_turn(runner, episodes, task.sampling, f"{what}: samples")
    turns = [[completions[0]] for completions in parallel]
    for turn in range(2, task.sampling.n + 1):
        for episode, taken, read in zip(episodes, turns, asked, strict=True):
            episode.take(taken[-1].text)
            read.append(count(episode.prompt))
        answers = sample_turn(runner, episodes, replace(task.sampling, n=1), f"{what}: turn {turn}")
        for taken, completions in zip(turns, answers, strict=True):
            taken += completions
    lines = grade_rows(task.rows, parallel, f"grading {what}")
    for line, judged, read in zip(lines, grade_rows(task.rows, turns, f"grading {what}: turns"), asked, strict=True):
        line["turns"] = [{**turn, "asked": tokens} for turn, tokens in zip(judged["completions"], read, strict=True)]
    return lines


def _token_counter(engine: Mapping[str, Any], path: str) -> Callable[[Prompt], int | None]:
    """A function that counts a prompt's tokens; it returns None for a server's model, whose tokenizer is unknown."""
    from limo.chat import prompt_ids
    from limo.model import load_tokenizer

    folder = find_model(engine, path)
    if not folder:
        return lambda prompt: None
    tokenizer = load_tokenizer(folder[0])
    return lambda prompt: len(prompt_ids(tokenizer, prompt))


def _differences(
    results: Mapping[str, Mapping[str, Rows]], compare: Sequence[Sequence[str]], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """For each pair of models, the difference (after minus before) of each metric on the same problems."""
    differences = []
    for before, after in compare:
        for name, rows in results[before].items():
            for measure, of in measures(len(rows[0]["turns"])).items():
                a, b = ({r["id"]: of(r) for r in results[m][name]} for m in (before, after))
                change = paired(a, b, resamples, seed).to_json()
                differences.append({"benchmark": name, "before": before, "after": after, "measure": measure, **change})
    return differences
