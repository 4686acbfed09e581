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
the choice of problems and for the seed together (`limo/noise.py`). Killed at any point, the same command goes on.
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from curation.controls import Controls, make
from curation.run import Rows, stage_file
from curation.study_page import show, write_page
from eval.run import Task, completed, correct_share, tasks
from limo.archive import keep
from limo.command import command
from limo.data import Example, read_jsonl, write_jsonl
from limo.engine import Sampling
from limo.errors import Interrupted, UserError
from limo.fitness import last_line
from limo.ledger import Cached
from limo.manifest import claim, read_manifest
from limo.noise import Scores, fitness, gains
from limo.processes import free_gpu, override, run_module
from limo.progress import clock, progress, say
from limo.recipe import bind

RIVALS = ("random", "longest", "easiest", "everything")
STOPPED = (130, 137, 143)  # exit codes of a command that was interrupted, killed or terminated
OURS = ("out", "train.seed", "train.data", "train.args.max_steps")
Score = dict[str, Any]  # by benchmark the share of right completions of each problem; tokens, steps, seconds


@dataclass(frozen=True)
class Arm:
    """One set, trained with one seed."""

    name: str  # curated, or one of RIVALS
    equal: str  # rows or tokens: what it has as many of as the curated set
    size: int  # rows of the curated set
    seed: int

    @property
    def kind(self) -> str:
        """The set's name, with `_tokens` where tokens are equal."""
        return self.name if self.equal == "rows" else f"{self.name}_tokens"

    @property
    def label(self) -> str:
        """The name of its folder."""
        return f"{self.kind}-{self.size}-seed-{self.seed}"


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
    with claim(folder, "study", settings, begun=[folder / "arms"]) as step:
        if step.finished:
            say(f"already studied: {folder / 'study.md'} ({clock(step.entry['seconds'])} at the time)")
            return dict(step.entry["results"])
        files = _sets(folder, settings)
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


def arms_of(rows: int, sizes: Sequence[int], rivals: Sequence[str], seeds: Sequence[int]) -> list[Arm]:
    """All trainings: those at `rows` first, seed by seed, so that a study that is stopped has whole comparisons.

    >>> [arm.label for arm in arms_of(8, [4], ["random"], [0])][:3]
    ['curated-8-seed-0', 'random-8-seed-0', 'random_tokens-8-seed-0']
    """
    met = [("curated", "rows"), *((name, "rows") for name in rivals), *((name, "tokens") for name in rivals)]
    first = [Arm(name, equal, rows, seed) for seed in seeds for name, equal in met]
    others = sorted({*sizes} - {rows})
    return first + [Arm(n, "rows", size, seed) for seed in seeds for size in others for n in ("curated", "random")]


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
    last, node = list(settings["curate"]["stages"].items())[-1]
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


def _sets(folder: Path, settings: Mapping[str, Any]) -> dict[tuple[str, int, int], Path]:
    """The files of all sets, by kind, size and seed. Raises UserError if fewer rows are left than a size asks for."""
    curate, rivals = settings["curate"], settings["rivals"]
    names = ["pool", *curate["stages"]]
    at = names.index(curate["controls"]["source"])
    candidates = Rows(stage_file(folder, at - 1, names[at - 1]))
    files = {}
    for size in sorted({settings["rows"], *settings["sizes"]}):
        chosen = _chosen(candidates, dict(list(curate["stages"].items())[at - 1 :]), size)
        if len(chosen) < size:
            raise UserError(f"the stage '{names[-1]}' leaves {len(chosen)} rows, too few for the study's {size}")
        curated = folder / "sets" / f"curated-{size}.jsonl"
        write_jsonl(curated, chosen)
        kinds = [*rivals, *(f"{name}_tokens" for name in rivals if name != "everything")]
        for seed in settings["seeds"]:
            files["curated", size, seed] = curated
            drawn = folder / "sets" / f"{size}-seed-{seed}"
            made = make(drawn, candidates, chosen, Controls(names[at], kinds, seed))
            files |= {(kind, size, seed): drawn / f"{kind}.jsonl" for kind in kinds if kind in made}
            if "everything" in made:
                files["everything_tokens", size, seed] = drawn / "everything.jsonl"
    return files


def _chosen(rows: Iterable[Example], stages: Mapping[str, Any], size: int) -> list[Example]:
    """What the stages that choose make of the candidates, `size` of them."""
    last = list(stages)[-1]
    for name, node in stages.items():
        given = {**node, "k": size} if name == last else node
        rows = [row for row in bind(given, f"curate.stages.{name}")(rows) if isinstance(row, Example)]
    return list(rows)


def steps_for(arm: Arm, file: Path, curated: Path, train: Mapping[str, Any]) -> int | None:
    """Optimizer steps of a set that is not simply trained for its epochs: everything, seen as often as the curated set.

    With equal tokens as many steps as show so many tokens, by the mean length of its chains.
    """
    if arm.name != "everything":
        return None
    epochs = float(train["args"].get("num_train_epochs", 3))
    chosen = _lengths(curated)
    seen = len(chosen) if arm.equal == "rows" else round(sum(chosen) / fmean(_lengths(file)))
    return max(1, round(math.ceil(seen / int(train["global_batch"])) * epochs))


def _lengths(file: Path) -> list[float]:
    return [row.scores.get("tokens", float(len(row.completion))) for row in read_jsonl(file)]


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
    with progress("study", len(arms), "training") as advance:
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
            advance(1, f"{arm.label}: {100 * fitness(found[arm]['shares']):.1f} %")
    return found


def _train(place: Path, arm: Arm, file: Path, steps: int | None) -> None:
    """`python -m limo.train` in a process of its own. Raises UserError with its last line if it fails."""
    own = {"out": str(place), "train.seed": arm.seed, "train.data": str(file)}
    own |= {"++train.args.max_steps": steps} if steps else {}
    typed = [argument for argument in sys.argv[1:] if argument.partition("=")[0].lstrip("+") not in OURS]
    log = place / "log.txt"
    code = run_module("limo.train", [*typed, *(override(key, value) for key, value in own.items())], log)
    if code in STOPPED:
        raise Interrupted(f"the training in {place} was stopped: run the same command again to go on")
    if code:
        raise UserError(f"the training in {place} ended with code {code}: {last_line(log)}. Its whole log is {log}")


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
    sets: dict[tuple[str, str, int], list[Score]] = {}
    for arm, score in measured.items():
        sets.setdefault((arm.name, arm.equal, arm.size), []).append(score)
    more = [[fitness(score["shares"]) for score in scores] for scores in sets.values()]

    def compared(equal: str, size: int) -> dict[str, Any]:
        of = {name: s for (name, e, n), s in sets.items() if n == size and (e == equal or name == "curated")}
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
    command("study", "curation.study", "Does choosing help? Curated against random, longest, easiest, everything.")
