"""Two models on the same problems: the paired difference, its interval and p-value, and the problems that flipped.

    python -m eval.compare runs/a runs/b
    python -m eval.compare runs/demo:base runs/demo:tuned benchmark=new_seeds

    limo compare a.graded.jsonl b.graded.jsonl

Each side is a file that `limo grade` wrote, or a run that `eval.run` has evaluated, followed by `:` and one of its
models, which may be left out where the run has only one. For every benchmark that both have: accuracies, the difference
of b minus a with its 95 % interval and p-value, and the smallest difference that so many problems could have shown;
then the problems that flipped. A set that was trained with several seeds is compared with all of its trainings.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from eval.intervals import Difference, beyond_chance, difference, p_value
from eval.metrics import is_correct
from limo.command import run_function
from limo.console import Table, print_table, terminal
from limo.data import replacing
from limo.errors import UserError
from limo.recipe import suggest
from limo.run import read_manifest

Rows = list[dict[str, Any]]
LISTED = 10  # flipped problems on the terminal; out= has them all
SHORTER = 0.7  # below this share of their former length, answers have lost steps
RESAMPLES, SEED = 10_000, 0  # of the command's intervals and tests
ROLES = {  # what the difference between the curated set and another one is worth
    "raw": "Curating (raw to chosen)",
    "random": "Choosing (random to chosen)",
    "random_chains": "The choice of chains (random_chains to chosen)",
    "random_problems": "The choice of problems (random_problems to chosen)",
    "base": "Training (base to chosen)",
}


def covers(trainings: Sequence[int]) -> str:
    """Say what an interval covers, given the number of trainings of each compared model; 0 for a model that was not
    trained here.
    """
    trained = [count for count in trainings if count]
    if not trained:
        return "the interval covers the problems"
    if max(trained) == 1:
        return f"one training{' each' if len(trained) > 1 else ''}; the interval covers the problems only"
    counts = " and ".join(dict.fromkeys(map(str, trained)))
    return f"{counts} trainings{' each' if len(trained) > 1 else ''}; the interval covers trainings and problems"


def sentence(d: Mapping[str, Any]) -> str:
    """A difference of a summary in one sentence."""
    role = ROLES.get(str(d["before"])) if d["after"] == "chosen" else None
    what = f"{role} is worth" if role else f"{d['after']} against {d['before']}:"
    certain = "" if beyond_chance(d) else ", which may be chance"
    return (
        f"{d['benchmark']}: {what} {100 * d['mean']:+.1f} points ({100 * d['low']:+.1f} to {100 * d['high']:+.1f}, "
        f"n = {d['n']}){certain}. {covers(d['trainings']).capitalize()}."
    )


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """The differences of `eval/summary.json` in sentences. If training made the student worse, that comes first.

    A student that reasons in more words than its chains loses accuracy by learning to be brief, so a large difference
    in length is named (docs/real.md has the measurement).
    """
    differences = summary.get("differences", [])
    trained = [d for d in differences if (d["before"], d["after"]) == ("base", "chosen")]
    harm = []
    for d in trained:
        if beyond_chance(d) and d["mean"] < 0:
            name = d["benchmark"]
            before, after = (summary["accuracy"][model][name]["tokens_per_answer"] for model in ("base", "chosen"))
            brief = (
                f" Its answers have {after:.0f} tokens instead of {before:.0f}, since the chains are shorter than its "
                "own reasoning: add chains in its style, such as its own right attempts (curation.stages.attempts)."
            )
            harm.append(
                f"{name}: training made the student worse, by {-100 * d['mean']:.1f} points: what a choice is worth is "
                "damage avoided. Lower train.args.learning_rate or the epochs." + brief * (after < SHORTER * before)
            )
    return [*harm, *map(sentence, differences)]


@dataclass(frozen=True, slots=True)
class Side:
    """One model of one run, and its rows by benchmark."""

    run: Path
    model: str
    files: Mapping[str, Sequence[Path]]  # by benchmark, one for each training of the set

    @property
    def name(self) -> str:
        """The run and its model, as on the command line."""
        return f"{self.run.name}:{self.model}" if self.model else self.run.name


def compare_runs(*, a: str, b: str, benchmark: list[str] | None = None, out: str | None = None) -> dict[str, Any]:
    """Compare two models on every benchmark that both have, print it, and return it as plain JSON.

    Raises UserError if a run or model is missing, they share no benchmark, or their problems differ.
    """
    left, right = _find_side(a), _find_side(b)
    if (left.run.resolve(), left.model) == (right.run.resolve(), right.model):
        raise UserError(f"a and b are the same model of the same run, {left.name}")
    names = _common(left, right, benchmark)
    results = {name: _compare(left, right, name) for name in names}
    if out:
        with replacing(Path(out)) as file:
            json.dump({"a": left.name, "b": right.name, "benchmarks": results}, file, indent=2, ensure_ascii=False)
    _print(left, right, results, out)
    return results


def _find_side(text: str) -> Side:
    """Find a run and one of its models. Raises UserError if there is none, or if there are several and the argument
    names none.
    """
    if Path(text).is_file():
        return Side(Path(text), "", {"graded": [Path(text)]})
    path, _, model = text.rpartition(":") if not Path(text).is_dir() else (text, "", "")
    run = Path(path or text)
    if not (run / "eval").is_dir():
        raise UserError(f"'{run}' is not an evaluated run: there is no folder '{run / 'eval'}'. Run limo eval first")
    every = sorted(folder.name for folder in (run / "eval").iterdir() if folder.is_dir())
    models = [name for name in every if not is_further(name)]
    if not model and len(models) != 1:
        raise UserError(
            f"'{run}' has the models {', '.join(models) or 'none'}: name one, as {run}:{(models or ['x'])[0]}"
        )
    model = model or models[0]
    if model not in models:
        raise UserError(f"'{run}' has no model '{model}'{suggest(model, models)}")
    folders = [run / "eval" / name for name in every if name == model or is_further(name, model)]
    first, *others = (sorted(folder.glob("*.jsonl")) for folder in folders)
    later = [{file.stem: file for file in files} for files in others]
    files = {file.stem: [file, *(by[file.stem] for by in later if file.stem in by)] for file in first}
    return Side(run, model, files)


def name_training(name: str, at: int) -> str:
    """The model name under which training number `at` of a set is evaluated."""
    return f"{name}.{at}" if at else name


def is_further(folder: str, model: str | None = None) -> bool:
    """Whether a folder holds the evaluation of a second or later training, of `model` or of any."""
    name, dot, number = folder.rpartition(".")
    return bool(dot) and number.isdigit() and (model is None or name == model)


def _common(left: Side, right: Side, wanted: Sequence[str] | None) -> list[str]:
    both = [name for name in left.files if name in right.files]
    for name in wanted or ():
        if name not in both:
            raise UserError(f"'{name}' is not a benchmark of both{suggest(name, both)}")
    if not both:
        raise UserError(
            f"{left.name} and {right.name} share no benchmark: {', '.join(left.files) or 'none'} "
            f"and {', '.join(right.files) or 'none'}"
        )
    return [name for name in both if not wanted or name in wanted]


def _compare(left: Side, right: Side, name: str) -> dict[str, Any]:
    every = [[_read_rows(file) for file in side.files[name]] for side in (left, right)]
    (a, *_), (b, *_) = every
    ids = [key for key in a if key in b and all(a[key][what] == b[key][what] for what in ("question", "answer"))]
    if len(ids) != len(a) or len(ids) != len(b):
        raise UserError(f"benchmark '{name}': the problems differ ({len(a)} and {len(b)}, {len(ids)} the same)")

    def right_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        return {i: fmean(map(is_correct, rows[i]["completions"])) for i in ids}

    shares = [[right_of(rows) for rows in repeated] for repeated in every]
    found: Difference = difference(shares[0], shares[1], RESAMPLES, SEED)
    return {
        "a": float(np.mean([list(one.values()) for one in shares[0]])),
        "b": float(np.mean([list(one.values()) for one in shares[1]])),
        "trainings": [len(repeated) if len(repeated) > 1 else 0 for repeated in every],
        **found.to_json(),
        "unsure": [_count(rows, ids, "verdict", "unsure") for rows in (a, b)],
        "cut_off": [_count(rows, ids, "finish", "length") for rows in (a, b)],
        "sampling": [_sampling(side, name) for side in (left, right)],
        "questions": {i: str(a[i]["question"])[:200] for i in (*found.gained, *found.lost)},
    }


def _read_rows(file: Path) -> dict[str, dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        try:
            rows = list(map(json.loads, lines))
            return _by_problem(rows) if rows and "completions" not in rows[0] else {row["id"]: row for row in rows}
        except (ValueError, KeyError) as error:
            raise UserError(f"{file} is not an evaluation by eval.run: {error}") from None


def _by_problem(grades: Rows) -> dict[str, dict[str, Any]]:
    """Group the grades that `limo grade` wrote, one per completion, into one row per problem."""
    found: dict[str, dict[str, Any]] = {}
    for grade in grades:
        row = found.setdefault(grade["id"], {"question": grade["id"], "answer": grade["answer"], "completions": []})
        row["completions"].append({"verdict": grade["verdict"], "finish": "length" if grade["cut_off"] else "stop"})
    return found


def _count(rows: Mapping[str, Mapping[str, Any]], ids: Sequence[str], key: str, value: str) -> int:
    return sum(c[key] == value for i in ids for c in rows[i]["completions"])


def _sampling(side: Side, name: str) -> dict[str, Any]:
    if not side.model:
        return {}
    entry = read_manifest(side.run).get(f"eval/{side.model}/{name}", {})
    return dict(entry.get("settings", {}).get("sampling", {}))


def _print(left: Side, right: Side, results: Mapping[str, dict[str, Any]], out: str | None) -> None:
    head = ("benchmark", "a", "b", "b - a", "95 % interval", "p", "detectable", "n", "flipped")
    rows = [
        (
            name,
            f"{100 * d['a']:.1f}",
            f"{100 * d['b']:.1f}",
            f"{100 * d['mean']:+.1f}",
            f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}",
            p_value(d["p"]),
            f"{100 * d['detectable']:.1f}",
            d["n"],
            f"+{len(d['gained'])} -{len(d['lost'])}",
        )
        for name, d in results.items()
    ]
    console = terminal()
    print_table(Table(head, rows, range(1, 9), f"a = {left.name}, b = {right.name}: accuracy in %"), console)
    lines = ["detectable: the smallest true difference that so many problems would have shown, four times in five"]
    if any(max(d["trainings"]) > 1 for d in results.values()):
        lines += [f"{name}: {covers(d['trainings'])}" for name, d in results.items()]
    else:
        lines.append("the interval covers the problems only: another training of the same rows would differ as well")
    lines += [line for name, d in results.items() for line in _describe(name, d)]
    lines += [f"Everything: {out}"] if out else []
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def _describe(name: str, d: Mapping[str, Any]) -> list[str]:
    """Print what the table does not show of a benchmark: caveats, and the first problems that flipped."""
    lines = []
    a, b = d["sampling"]
    differ = [f"{key} {a.get(key)} and {b.get(key)}" for key in a if a.get(key) != b.get(key)]
    if differ:
        lines.append(f"{name}: sampled differently: {'; '.join(differ)}")
    if any(d["unsure"]) or any(d["cut_off"]):
        unsure, cut = (f"{d[key][0]} and {d[key][1]}" for key in ("unsure", "cut_off"))
        lines.append(f"{name}: unsure {unsure}, cut off {cut} completions")
    for what, ids in (("b solves more often", d["gained"]), ("a solves more often", d["lost"])):
        lines += [f"{name}: {what} ({len(ids)}):"] if ids else []
        lines += [f"  {i}  {' '.join(d['questions'][i].split())[:80]}" for i in ids[:LISTED]]
        lines += [f"  and {len(ids) - LISTED} more (out=FILE lists them all)"] if len(ids) > LISTED else []
    return lines


if __name__ == "__main__":
    run_function(compare_runs, "limo compare", __doc__)
