"""Evaluate models on benchmarks, and compare them on the same problems.

    python -m eval.run recipe=demo
    python -m eval.run recipe=evaluate 'eval.benchmarks=[aime24,math500]' eval.models.model=path/to/model

Every completion is kept with its grade in `runs/<name>/eval/<model>/<benchmark>.jsonl`. Three outcomes are counted:
correct, wrong, and "unsure" if the grader cannot decide; only correct completions add to accuracy, and unsure ones are
listed in the report.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.benchmarks import benchmark_nodes, load_benchmarks, origin
from eval.compare import name_training, sentences
from eval.grader.grade import grade_all
from eval.intervals import difference, over_trainings, share
from eval.metrics import correct_share, ks, parts, samples_any, samples_vote
from eval.protocols import sampling_for
from eval.readers import OWN, TABLE
from eval.repair import measure_repair
from eval.report.page import write_report
from eval.report.tables import print_summary
from limo.command import command
from limo.console import say
from limo.data import Example, content_id, dump, replacing
from limo.engines.ledger import Cached, Spent, spent
from limo.engines.protocol import Completion, Sampling, sample
from limo.errors import UserError
from limo.recipe import bind, input_files
from limo.run import CHOSEN, claim, control_file, missing_control, trained_sets

UNSURE_LISTED = 50  # most unsure verdicts of a benchmark in the summary; the rows have them all

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Trained:
    """The models that `limo train` trains on a curated set and its controls."""

    data: str  # the curated set
    controls: list[str] | None
    seeds: list[int] | None

    def models(self, out: str) -> dict[str, list[str]]:
        """The model folders of each training set, one per seed. A control set that was not made is left out."""
        found: dict[str, list[str]] = {}
        for (name, _), folder in trained_sets(out, self.controls or (), self.seeds or ()).items():
            if name == CHOSEN or control_file(self.data, name).is_file():
                found.setdefault(name, []).append(str(folder / "model"))
        for name in self.controls or ():
            if name not in found:
                say(f"not compared: {missing_control(self.data, name)}")
        return found


def evaluate(
    *,
    out: str,
    system: str,
    models: dict[str, str],
    engine: dict[str, Any],
    benchmarks: list[Any] | dict[str, Any],
    sampling: Sampling,
    protocol: str | None,
    compare: list[list[str]],
    resamples: int,
    seed: int,
    trained: Trained | None = None,
) -> dict[str, Any]:
    """Sample and grade every model on every benchmark, compare the pairs, print the table, write the report.

    Args: `models` are name -> path, `engine` is a node without its model, `benchmarks` names of `eval/benchmarks.yaml`
    or name -> node, `protocol` a preset of `eval/protocols.py` that replaces `sampling` except its seed,
    `compare` lists pairs of names (before, after), `resamples` and `seed` are for intervals and tests, `trained` adds
    the models of the curated set and of each control set, and compares the curated one with all others. Returns the
    content of `eval/summary.json`. Raises UserError for wrong settings, a missing model, or a benchmark that is missing
    or has unusable rows.
    """
    sets = {name: [path] for name, path in models.items()}
    if trained:
        made = trained.models(out)
        others = sorted((name for name in (*made, *sets) if name != CHOSEN), key=lambda name: name != "random")
        compare = compare or [[name, CHOSEN] for name in others]  # the worth of choosing comes first
        sets |= made
    every = {name_training(name, at): path for name, paths in sets.items() for at, path in enumerate(paths)}
    check_models(every, engine, compare, resamples)
    given, folder = load_tasks(benchmarks, system, sampling, protocol, engine), Path(out)
    results = run_models(folder, every, engine, given, complete_task)
    grouped = {name: [results[name_training(name, at)] for at in range(len(paths))] for name, paths in sets.items()}
    trainings = {name: len(paths) if Path(paths[0]).is_relative_to(out) else 0 for name, paths in sets.items()}
    summary = summarize(grouped, compare, resamples, seed, trainings)
    print_summary(summary, folder, write_summary(folder, summary))
    return summary


Complete = Callable[[Path, str, str, Cached, "Task"], Rows]  # one model on one benchmark


def run_models(
    folder: Path, models: Mapping[str, str], engine: Mapping[str, Any], given: Sequence["Task"], complete: Complete
) -> dict[str, dict[str, Rows]]:
    """The rows of each model on each benchmark. Only one model is in memory at a time."""
    results = {}
    for model, path in models.items():
        runner = Cached(bind({**engine, "model": path}, "eval.engine")())
        results[model] = {task.name: complete(folder, model, path, runner, task) for task in given}
        del runner
    return results


def write_summary(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write `eval/summary.json` and the report; return the report's path."""
    with replacing(folder / "eval" / "summary.json") as file:
        json.dump(summary, file, indent=2)
    _add_to_card(folder / "README.md", sentences(summary))
    return write_report(folder)


def _add_to_card(card: Path, sentences: Sequence[str]) -> None:
    """Add the conclusions to the dataset card, if there is one."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    before, made_with, after = text.partition("## Made with")
    if made_with and sentences:
        said = "\n\n".join(["## What came of it", *sentences, made_with])
        with replacing(card) as file:
            file.write(before.partition("## What came of it")[0] + said + after)


def check_models(
    models: Mapping[str, str], engine: Mapping[str, Any], compare: Sequence[Sequence[str]], resamples: int
) -> None:
    """Raise UserError for impossible settings, before anything is sampled."""
    if not models:
        raise UserError("eval.models names no model: +eval.models.<name>=<folder or Hub name>")
    for pair in compare:
        if len(pair) != 2 or not set(pair) <= set(models):
            raise UserError(f"eval.compare must list pairs of models among {', '.join(models)}, not {pair}")
    if resamples < 1:
        raise UserError(f"eval.resamples must be at least 1, not {resamples}")
    for path in models.values():
        find_model(engine, path)  # reports a missing model or key before hours of sampling


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark with its prompts and decoding settings."""

    name: str
    origin: Mapping[str, Any]  # the source of its problems, for the record
    rows: Sequence[Example]
    sampling: Sampling
    engine: Mapping[str, Any]  # the engine's node without its model

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a result depends on, including problems and prompts."""
        asked = [[row.id, list(row.prompt), row.answer] for row in self.rows]
        return {
            "benchmark": self.origin,
            "sampling": asdict(self.sampling),
            "engine": self.engine,
            "problems": content_id(asked),
        }


def load_tasks(
    benchmarks: list[Any] | dict[str, Any],
    system: str,
    sampling: Sampling,
    protocol: str | None,
    engine: Mapping[str, Any],
) -> list[Task]:
    """The benchmarks of a recipe, loaded. Raises UserError as `load_benchmarks` and `sampling_for` do."""
    loaded = []
    if not benchmarks:
        raise UserError("eval.benchmarks names none, such as [aime24,math500] or [my.jsonl]")
    sampling_for(protocol, sampling, 1)  # a misspelt protocol is reported before anything is loaded
    described = benchmark_nodes(benchmarks)
    for name, rows in load_benchmarks(benchmarks, system).items():
        shots = max((row.notes.get("shots", 0) for row in rows), default=0)
        chosen = sampling_for(protocol, sampling, TABLE.get(name, OWN).rows or len(rows), shots)
        if chosen.n > 1 and not chosen.temperature:
            raise UserError(
                f"{chosen.n} completions at temperature 0 are {chosen.n} times the same: raise it, or set n=1"
            )
        if protocol:
            say(f"{name}: {protocol} samples n={chosen.n} at {chosen.temperature} up to {chosen.max_tokens} tokens")
        loaded.append(Task(name, origin(name, described[name]), rows, chosen, engine))
    return loaded


def complete_task(folder: Path, model: str, path: str, runner: Cached, task: Task) -> Rows:
    """The graded completions of one model on one benchmark, read from disk if they are there."""

    def draw() -> tuple[Rows, int]:
        completions = sample(runner, [row.prompt for row in task.rows], task.sampling, f"{model} on {task.name}")
        return grade_rows(task.rows, completions, f"grading {model} on {task.name}"), sum(map(len, completions))

    return load_or_make(folder, model, path, task, "completions", draw)


def load_or_make(
    folder: Path, model: str, path: str, task: Task, what: str, draw: Callable[[], tuple[Rows, int]], **more: Any
) -> Rows:
    """The lines that `draw` returns for one model on one benchmark, one per problem, or those of an earlier call.

    The file is `<folder>/eval/<model>/<benchmark>.jsonl`, recorded in that folder's manifest: `more` are further
    settings that it depends on, and `draw` returns its lines with the number of `what` in them.
    """
    file = folder / "eval" / model / f"{task.name}.jsonl"
    claimed = {"model": path, **task.settings, **more}
    read: list[str | Path] = [*find_model(task.engine, path), *input_files({"benchmark": task.origin})]
    with claim(folder, f"eval/{model}/{task.name}", claimed, inputs=read) as step:
        if not step.finished:
            before = Spent(**vars(spent))
            rows, count = draw()
            with replacing(file) as lines:
                lines.writelines(map(dump, rows))
            took = spent.since(before)
            step.outputs, step.tokens = [file], took.tokens
            step.results = {
                what: count,
                "found_in_ledger": took.found,
                "prompt_tokens": took.asked,
                "dollars": took.dollars,
            }
            if took.found:
                say(f"{took.found} of these completions were in the ledger")
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def find_model(engine: Mapping[str, Any], path: str) -> list[Path]:
    """The folder of a model, downloaded if necessary; empty for a model that a server offers under the name `path`."""
    folder: Path | None = getattr(bind({**engine, "model": path}, "eval.engine")(), "folder", None)
    return [folder] if folder else []


def grade_rows(rows: Sequence[Example], sampled: Sequence[Sequence[Completion]], what: str = "grading") -> Rows:
    """A line for each problem: the reference and every completion with its grade.

    A completion that the engine refused is "unsure", with the reason.
    """
    asked = [(row, c) for row, completions in zip(rows, sampled, strict=True) for c in completions]
    kinds = {row.notes.get("answer_kind", "math") for row in rows}
    assert len(kinds) <= 1, f"one benchmark has one kind of answer, not {kinds}"
    pairs = [(_begun(row) + c.text, row.answer) for row, c in asked]  # the whole solution is graded
    grades = iter(grade_all(pairs, kind=next(iter(kinds), "math"), what=what))
    lines = []
    for row, completions in zip(rows, sampled, strict=True):
        judged = []
        for completion in completions:
            g, refused = next(grades), completion.finish == "refused"
            judged.append(
                {
                    "text": completion.text,
                    "tokens": completion.tokens,
                    "finish": completion.finish,
                    "verdict": "unsure" if refused else g.verdict,
                    "extracted": None if refused else g.extracted,
                    "how": completion.why if refused else g.how,
                }
            )
        notes = {k: v for k, v in row.notes.items() if k != "problem"}
        question = row.notes.get("problem", row.question)
        lines.append({"id": row.id, "question": question, "answer": row.answer, "notes": notes, "completions": judged})
    return lines


def _begun(row: Example) -> str:
    """The beginning of a solution that a problem contains (`curation/methods/lemma/begun.py`); empty for most
    problems.
    """
    return row.prompt[-1]["content"] if row.prompt[-1]["role"] == "assistant" else ""


def summarize(
    results: Mapping[str, Sequence[Mapping[str, Rows]]],
    compare: Sequence[Sequence[str]],
    resamples: int,
    seed: int,
    trainings: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Accuracy of every model on every benchmark, and the paired differences, as plain JSON.

    Args: `results` by model, for each of its trainings, by benchmark; `trainings` how often this run has trained each
    model, 0 for a model that it has not trained.
    """

    def shares(model: str, name: str) -> list[dict[str, float]]:
        return [correct_share(by[name]) for by in results[model]]

    accuracy = {
        model: {name: _accuracy([by[name] for by in repeated], resamples, seed) for name in repeated[0]}
        for model, repeated in results.items()
    }
    differences = []
    for before, after in compare:
        for name in results[before][0]:
            found = difference(shares(before, name), shares(after, name), resamples, seed)
            counts = [(trainings or {}).get(model, 0) for model in (before, after)]
            differences.append(
                {"benchmark": name, "before": before, "after": after, "trainings": counts, **found.to_json()}
            )
    repair = measure_repair({model: repeated[0] for model, repeated in results.items()}, resamples, seed)
    return {"accuracy": accuracy, "differences": differences, "repair": repair}


def pool_trainings(trainings: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several trainings merged, each problem with all of its completions."""
    later = [{row["id"]: row["completions"] for row in rows} for rows in trainings[1:]]
    return [
        {**row, "completions": [c for by in ({row["id"]: row["completions"]}, *later) for c in by[row["id"]]]}
        for row in trainings[0]
    ]


def _accuracy(repeated: Sequence[Rows], resamples: int, seed: int) -> dict[str, Any]:
    """Metrics over all trainings; pass@k and majorities are those of the first training, since they need one model."""
    first, rows = repeated[0], pool_trainings(repeated)
    by_training = [correct_share(one) for one in repeated]
    completions = [c for row in rows for c in row["completions"]]
    count = max(len(completions), 1)
    return {
        **asdict(over_trainings(by_training, resamples, seed)),
        "by_training": [fmean(one.values()) for one in by_training if one],
        "problems": len(rows),
        "completions": len(completions),
        "pass_at": _at_k(first, resamples, seed, samples_any),
        "maj_at": _at_k(first, resamples, seed, samples_vote),
        "parts": {
            note: {v: asdict(share(correct_share(r), resamples, seed)) for v, r in by.items()}
            for note, by in parts(rows).items()
        },
        "unsure": sum(c["verdict"] == "unsure" for c in completions) / count,
        "truncated": sum(c["finish"] == "length" for c in completions) / count,
        "tokens_per_answer": sum(c["tokens"] for c in completions) / count,
        "unsure_listed": _unsure(rows),
    }


def _at_k(
    rows: Sequence[Mapping[str, Any]], resamples: int, seed: int, of: Callable[[Mapping[str, Any], int], float]
) -> dict[str, Any]:
    """A metric at each k with its interval over problems, for benchmarks with several completions per problem."""
    n = min((len(row["completions"]) for row in rows), default=0)
    if n < 2:
        return {}
    return {str(k): asdict(share({row["id"]: of(row, k) for row in rows}, resamples, seed)) for k in ks(n)}


def _unsure(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    unsure = [
        {"id": row["id"], "answer": row["answer"][:200], "extracted": (c["extracted"] or "")[:200], "why": c["how"]}
        for row in rows
        for c in row["completions"]
        if c["verdict"] == "unsure"
    ]
    return unsure[:UNSURE_LISTED]


if __name__ == "__main__":
    command("eval", "eval.run")
