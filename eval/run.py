"""Evaluate models on benchmarks, and compare them on the same problems.

    python -m eval.run recipe=demo

Every completion is kept with its grade in `runs/<name>/eval/<model>/<benchmark>.jsonl`. Three outcomes are counted:
correct, wrong, and "unsure" for what the grader could not tell; only correct ones add to accuracy.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.benchmarks import load
from eval.compare import Interval, paired, share
from eval.grade import Grade, grade
from eval.report import write_report
from limo.data import Example, dump, replacing
from limo.engine import Completion, Sampling, sample
from limo.errors import UserError
from limo.ledger import Cached, Spent, spent
from limo.manifest import claim, read_manifest
from limo.model import model_folder
from limo.progress import clock
from limo.recipe import bind, command, files_in


def evaluate(
    *,
    out: str,
    system: str,
    models: dict[str, str],
    engine: dict[str, Any],
    benchmarks: dict[str, Any],
    sampling: Sampling,
    compare: list[list[str]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Sample and grade every model on every benchmark, compare the pairs, print the table, write the report.

    Args: `models` are name -> path, `engine` is a node without its model, `compare` lists pairs of names (before,
    after), `resamples` and `seed` are those of intervals and tests. Returns the summary that `eval/summary.json` holds.
    Raises UserError for wrong settings, a missing model, or a benchmark with unusable rows.
    """
    for pair in compare:
        if len(pair) != 2 or not set(pair) <= set(models):
            raise UserError(f"eval.compare must list pairs of models among {', '.join(models)}, not {pair}")
    if resamples < 1:
        raise UserError(f"eval.resamples must be at least 1, not {resamples}")
    for path in models.values():
        model_folder(path)  # a missing model is told before the first hour of sampling, not after it
    problems, folder = load(benchmarks, system), Path(out)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for model, path in models.items():
        node = {**engine, "model": path}
        runner = Cached(bind(node, "eval.engine")())
        results[model] = {
            name: _one(folder, model, path, name, benchmarks[name], rows, runner, sampling, engine)
            for name, rows in problems.items()
        }
        del runner  # its model leaves the memory before the next one comes
    summary = summarise(results, compare, resamples, seed)
    with replacing(folder / "eval" / "summary.json") as file:
        json.dump(summary, file, indent=2)
    report = write_report(folder)
    _print(summary, folder, report)
    return summary


def _one(
    folder: Path,
    model: str,
    path: str,
    benchmark: str,
    node: Mapping[str, Any],
    rows: Sequence[Example],
    engine: Cached,
    sampling: Sampling,
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The graded completions of one model on one benchmark, from the disk if they are there."""
    file = folder / "eval" / model / f"{benchmark}.jsonl"
    claimed = {
        "model": path,
        "benchmark": node,
        "sampling": asdict(sampling),
        "engine": settings,
        "system": rows[0].prompt[0]["content"] if rows and len(rows[0].prompt) > 1 else "",
    }
    with claim(
        folder, f"eval/{model}/{benchmark}", claimed, inputs=[model_folder(path), *files_in({"benchmark": node})]
    ) as step:
        if not step.finished:
            before = Spent(**vars(spent))
            drawn = sample(engine, [row.prompt for row in rows], sampling, f"{model} on {benchmark}")
            with replacing(file) as lines:
                lines.writelines(dump(graded(row, done)) for row, done in zip(rows, drawn, strict=True))
            step.outputs, step.tokens = [file], spent.since(before).tokens
            step.results = {"completions": sum(map(len, drawn)), "found_in_ledger": spent.since(before).found}
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def graded(row: Example, completions: Sequence[Completion]) -> dict[str, Any]:
    """One problem's line: the reference and every completion with its grade."""
    found = []
    for completion in completions:
        refused = completion.finish == "refused"
        verdict = Grade("unsure", None, completion.why) if refused else grade(completion.text, row.answer)
        found.append(
            {
                "text": completion.text,
                "tokens": completion.tokens,
                "finish": completion.finish,
                "verdict": verdict.verdict,
                "extracted": verdict.extracted,
                "how": verdict.how,
            }
        )
    return {
        "id": row.id,
        "question": row.question,
        "answer": row.answer,
        "notes": dict(row.notes),
        "completions": found,
    }


def summarise(
    results: Mapping[str, Mapping[str, list[dict[str, Any]]]],
    compare: Sequence[Sequence[str]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Accuracy of every model on every benchmark, and the paired differences, as plain JSON."""
    accuracy = {
        model: {name: _accuracy(rows, resamples, seed) for name, rows in by.items()} for model, by in results.items()
    }
    differences = []
    for before, after in compare:
        for name in results[before]:
            a, b = (correct_share(results[m][name]) for m in (before, after))
            differences.append(
                {"benchmark": name, "before": before, "after": after, **paired(a, b, resamples, seed).to_json()}
            )
    return {"accuracy": accuracy, "differences": differences}


def correct_share(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """For each problem the share of its completions that are correct."""
    return {r["id"]: sum(c["verdict"] == "correct" for c in r["completions"]) / len(r["completions"]) for r in rows}


def _accuracy(rows: Sequence[Mapping[str, Any]], resamples: int, seed: int) -> dict[str, Any]:
    interval: Interval = share(correct_share(rows), resamples, seed)
    completions = [c for row in rows for c in row["completions"]]
    count = max(len(completions), 1)
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "problems": interval.n,
        "completions": len(completions),
        "unsure": sum(c["verdict"] == "unsure" for c in completions) / count,
        "truncated": sum(c["finish"] == "length" for c in completions) / count,
        "tokens_per_answer": sum(c["tokens"] for c in completions) / count,
    }


def _print(summary: Mapping[str, Any], folder: Path, report: Path) -> None:
    """The table a run ends with."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table(title=f"{folder.name}: accuracy in %, pass@1", title_justify="left")
    for column in ("held-out problems", "before", "after", "difference", "95 % interval", "p", "n"):
        table.add_column(column, justify="left" if column == "held-out problems" else "right")
    for d in summary["differences"]:
        before, after = (summary["accuracy"][d[m]][d["benchmark"]]["mean"] for m in ("before", "after"))
        table.add_row(
            d["benchmark"],
            f"{d['before']} {100 * before:.1f}",
            f"{d['after']} {100 * after:.1f}",
            f"{100 * d['mean']:+.1f}",
            f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}",
            f"{d['p']:.4f}" if d["p"] >= 0.0001 else "<0.0001",
            str(d["n"]),
        )
    if summary["differences"]:
        console.print(table)
    else:
        for model, by in summary["accuracy"].items():
            for name, a in by.items():
                console.print(
                    f"{model} on {name}: {100 * a['mean']:.1f} % "
                    f"({100 * a['low']:.1f} to {100 * a['high']:.1f}), n={a['problems']}"
                )
    console.print(f"Seconds: {stage_seconds(folder)}")
    console.print(f"Report:  {report}", soft_wrap=True)


def stage_seconds(folder: Path) -> str:
    """Time of each finished stage of a run, as one phrase."""
    seconds: dict[str, float] = {}
    for name, entry in read_manifest(folder).items():
        stage = name.partition("/")[0]
        seconds[stage] = seconds.get(stage, 0) + entry["seconds"]
    return (
        ", ".join(f"{stage} {clock(value)}" for stage, value in seconds.items())
        + f"; together {clock(sum(seconds.values()))}"
    )


if __name__ == "__main__":
    command("eval", "eval.run", "Evaluate models on benchmarks and compare them on the same problems.")
