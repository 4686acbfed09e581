"""Does choosing help? One recipe's choice against others of the same chains, trained and measured in the same way.

    python -m curation.study recipe=study

After the recipe's curation, sets are drawn from the rows that came into the stage `curate.controls.source`:

    curated         what the stages from there on choose, the last of which has a size `k`
    random          as many problems, drawn at random, by another lot for each seed
    longest         as many, those with the longest chains
    easiest         as many, those that were solved most often
    everything      one chain of each problem: as many chains are seen in training, but each once before any comes again

Except for the curated set each also comes with as many tokens instead of as many rows: longer chains teach more,
whatever else they are. `sizes` repeats curated and random at other sizes. Every set is trained with every seed by
`python -m limo.train`, in a folder of its own, and evaluated on the recipe's benchmarks; differences have intervals for
the choice of problems and for the seed together (`discover/noise.py`). Killed at any point, the same command resumes;
with more seeds, sizes or rivals it trains only what is new.
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from curation.stage import in_order
from curation.study_page import show, write_page
from curation.study_sets import Arm, arms_of, sets, steps_for
from eval.run import Task, correct_share
from eval.run import complete_task as completed
from eval.run import load_tasks as tasks
from limo.command import command
from limo.discover.archive import keep
from limo.discover.noise import Scores, fitness, gains
from limo.engines.ledger import Cached
from limo.engines.protocol import Sampling
from limo.errors import UserError
from limo.processes import free_gpu, override, run_to_end
from limo.progress import clock, progress, say
from limo.recipe import bind
from limo.run import claim, read_manifest

RIVALS = ("random", "longest", "easiest", "everything")
GROWS = ("rows", "sizes", "rivals", "seeds")
OURS = ("out", "train.seed", "train.data", "train.args.max_steps")
Score = dict[str, Any]  # by benchmark the share of right completions of each problem; tokens, steps, seconds


def study(
    *,
    out: str,
    curate: dict[str, Any],
    train: dict[str, Any],
    eval: dict[str, Any],  # as the recipe calls that section
    rows: int,
    sizes: list[int],
    rivals: list[str],
    seeds: list[int],
    keep_models: bool,
) -> dict[str, Any]:
    """Train and measure every set, and return what `study.json` keeps: accuracies, differences, tokens, the curve.

    Args: `curate`, `train` and `eval` are the recipe's sections; `rows` of the curated set where it meets its `rivals`
    (of RIVALS), `sizes` of the curve, `seeds` of trainings and of random draws, at least two; `keep_models`, which take
    much room, after they were measured. Raises UserError for settings that cannot be, for a choice that has no size
    `k`, and for a training that fails.
    """
    settings = {k: v for k, v in locals().items() if k not in ("out", "keep_models")}
    _check(settings)
    bind(curate, "curate")()
    folder = Path(out)
    with claim(folder, "study", settings, begun=[folder / "arms"], grows=GROWS) as step:
        if step.finished:
            say(f"already studied: {folder / 'study.md'} ({clock(step.entry['seconds'])} at the time)")
            return dict(step.entry["results"])
        files = sets(folder, settings)
        every = arms_of(rows, sizes, rivals, seeds)
        arms = [arm for arm in every if (arm.kind, arm.size, arm.seed) in files]
        if missing := sorted({arm.kind for arm in every} - {arm.kind for arm in arms}):
            say(f"left out: {', '.join(missing)}. No row has a pass rate, which says what is easy")
        given = _problems(eval)
        untrained = _evaluated(folder / "arms" / "untrained", train["model"], eval, given)
        measured = _measured(folder, arms, files, settings, given, keep_models)
        step.results = concluded(untrained, measured, rows, sizes, seeds)
        keep(folder / "study.json", step.results)
        step.outputs = [folder / "study.json", *write_page(folder, step.results)]
    show(step.results)
    say(f"Pictures: {folder / 'study.md'}")
    return step.results


def _check(settings: Mapping[str, Any]) -> None:
    """Raise UserError for what can be known to be wrong before anything is paid for."""
    if unknown := [name for name in settings["rivals"] if name not in RIVALS]:
        raise UserError(f"study.rivals: there is no '{unknown[0]}'; there are {', '.join(RIVALS)}")
    if "random" not in settings["rivals"]:
        raise UserError("study.rivals must have random: it is what the others are measured against")
    if len(set(settings["seeds"])) < 2:
        raise UserError("study.seeds needs two seeds at least, to know what a seed does")
    if min([settings["rows"], *settings["sizes"]]) < 1:
        raise UserError("study.rows and study.sizes must be at least 1")
    last, node = list(in_order(settings["curate"]["stages"], settings["curate"].get("order")).items())[-1]
    if not isinstance(node.get("k"), int):
        raise UserError(f"the last stage, curate.stages.{last}, has no size k that a study could change")
    largest = max([settings["rows"], *settings["sizes"]])
    if node["k"] < largest:
        raise UserError(f"curate.stages.{last}.k={node['k']} is less than the study's largest set, {largest}")
    for section in ("curate", "train", "eval"):
        bind(settings[section], section)
    _problems(settings["eval"])


def _problems(section: Mapping[str, Any]) -> list[Task]:
    names = ("benchmarks", "system", "sampling", "protocol", "engine")
    benchmarks, system, sampling, protocol, engine = (section[name] for name in names)
    return tasks(benchmarks, system, Sampling(**sampling), protocol, engine)


def _measured(
    folder: Path,
    arms: Sequence[Arm],
    files: Mapping[tuple[str, int, int], Path],
    settings: Mapping[str, Any],
    given: Sequence[Task],
    keep_models: bool,
) -> dict[Arm, Score]:
    """Train and evaluate each, where that has not been done."""
    found: dict[Arm, Score] = {}
    done = [arm for arm in arms if (folder / "arms" / arm.label / "score.json").exists()]
    with progress("study", len(arms), "training", len(done)) as advance:
        for arm in arms:
            place = folder / "arms" / arm.label
            if not (place / "score.json").exists():
                file = files[arm.kind, arm.size, arm.seed]
                steps = steps_for(arm, file, files["curated", arm.size, arm.seed], settings["train"])
                _train(place, arm, file, steps)
                keep(place / "score.json", _scored(place, settings["eval"], given))
                if not keep_models:
                    for name in ("model", "adapter", "checkpoints"):
                        shutil.rmtree(place / name, ignore_errors=True)
            found[arm] = json.loads((place / "score.json").read_text(encoding="utf-8"))
            advance(arm not in done, f"{arm.label}: {100 * fitness(found[arm]['shares']):.1f} %")
    return found


def _train(place: Path, arm: Arm, file: Path, steps: int | None) -> None:
    """`python -m limo.train` in a process of its own."""
    own = {"out": str(place), "train.seed": arm.seed, "train.data": str(file)}
    own |= {"++train.args.max_steps": steps} if steps else {}
    typed = [argument for argument in sys.argv[1:] if argument.partition("=")[0].lstrip("+") not in OURS]
    run_to_end("limo.train", [*typed, *(override(key, value) for key, value in own.items())], place)


def _scored(place: Path, section: Mapping[str, Any], given: Sequence[Task]) -> Score:
    """The trained model on every benchmark, and what its training took."""
    start = time.monotonic()
    training = read_manifest(place)["train"]
    return {
        "shares": _evaluated(place, str(place / "model"), section, given),
        "rows": training["results"]["rows"],
        "tokens": training["tokens"],
        "seconds": {"train": training["seconds"], "eval": round(time.monotonic() - start, 1)},
    }


def _evaluated(place: Path, path: str, section: Mapping[str, Any], given: Sequence[Task]) -> dict[str, Any]:
    """By benchmark the share of right completions of each problem."""
    runner = Cached(bind({**section["engine"], "model": path}, "eval.engine")())
    rows = {task.name: completed(place, "model", path, runner, task) for task in given}
    del runner
    free_gpu()
    return {name: correct_share(graded) for name, graded in rows.items()}


def concluded(
    untrained: Scores, measured: Mapping[Arm, Score], rows: int, sizes: Sequence[int], seeds: Sequence[int]
) -> dict[str, Any]:
    """What came of it: of each set accuracy, rows, tokens, and the difference to random with its interval.

    The intervals of one comparison hold together at 95 %.
    """
    by_set: dict[tuple[str, str, int], list[Score]] = {}
    for arm, score in measured.items():
        by_set.setdefault((arm.name, arm.equal, arm.size), []).append(score)
    more = [[fitness(score["shares"]) for score in scores] for scores in by_set.values()]

    def compared(equal: str, size: int) -> dict[str, Any]:
        of = {name: s for (name, e, n), s in by_set.items() if n == size and (e == equal or name == "curated")}
        found = gains({name: [score["shares"] for score in s] for name, s in of.items()}, "random", more)
        by_name = {gain.name: {**asdict(gain), "beats": gain.beats} for gain in found}
        return {
            name: {
                "accuracy": [fitness(score["shares"]) for score in s],
                "rows": [score["rows"] for score in s],
                "tokens": [score["tokens"] for score in s],
                "to_random": by_name.get(name),
            }
            for name, s in of.items()
        }

    return {
        "seeds": list(seeds),
        "rows": rows,
        "problems": sum(len(items) for items in untrained.values()),
        "untrained": fitness(untrained),
        "equal": {equal: compared(equal, rows) for equal in ("rows", "tokens")},
        "sizes": {str(size): compared("rows", size) for size in sorted({*sizes, rows})},
        "seconds": sum(sum(score["seconds"].values()) for score in measured.values()),
        "verdict": [verdict(compared(equal, rows), equal) for equal in ("rows", "tokens")],
    }


def verdict(found: Mapping[str, Any], equal: str) -> str:
    """In one sentence whether the choice was worth it.

    >>> verdict({"curated": {"to_random": {"low": -0.1, "high": 0.2}}}, "rows")
    'With as many rows, curated and random differ by no more than noise.'
    """
    gain = found["curated"]["to_random"]
    if gain["low"] > 0:
        said = "curated beats random by more than noise"
    elif gain["high"] < 0:
        said = "random beats curated by more than noise"
    else:
        said = "curated and random differ by no more than noise"
    return f"With as many {equal}, {said}."


if __name__ == "__main__":
    command("study", "curation.study")
