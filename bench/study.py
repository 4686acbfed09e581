"""Does choosing help? One recipe's choice against others of the same chains, trained and measured in the same way.

    python bench/study.py                                    # recipe=study
    python bench/study.py recipe=mine study.rows=32          # any value may be another

After the recipe's curation, sets are taken from the rows that came into the stage `curate.controls.source`:

    curated         what the stages from there on choose, the last of which has a size `k`
    random          as many problems at random, others for each seed
    longest         as many, those with the longest chains
    easiest         as many, those that were solved most often
    everything      one chain of each problem: as many chains are seen in training, but each once before any comes again

Except for the curated set each also comes with as many tokens instead of as many rows: longer chains teach more,
whatever else they are. `study.sizes` repeats curated and random at other sizes. Every set is trained with every seed by
`python -m limo.train` in a folder below `arms/` and evaluated on the recipe's benchmarks; differences have intervals
for the choice of problems and for the seed together (`limo/discover/noise.py`). Killed at any point, the same command
resumes; with more seeds, sizes or rivals it trains only what is new.
"""

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from curation.controls import Controls, write_controls
from curation.folder import Rows, stage_file
from curation.stage import in_order
from eval.run import complete_task, correct_share, load_tasks
from limo.data import Example, content_id, read_jsonl, write_jsonl
from limo.discover.archive import keep
from limo.discover.noise import Scores, fitness, gains
from limo.engines.ledger import Cached
from limo.engines.protocol import Sampling
from limo.errors import UserError, reported
from limo.processes import free_gpu, override, run_to_end
from limo.progress import progress
from limo.recipe import bind, compose
from limo.run import read_manifest

HEAD = ("set", "rows", "tokens seen", "seeds, %", "mean, %", "to random", "95 % interval")
Score = dict[str, Any]  # by benchmark the share of right completions of each problem; rows and tokens


@dataclass(frozen=True)
class Arm:
    """One set, trained with one seed."""

    name: str  # curated, or a rival
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


def study(recipe: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Train and measure every set; `arguments` are those of the command line. Returns what `study.json` keeps."""
    wanted, folder = recipe["study"], Path(recipe["out"])
    last = list(in_order(recipe["curate"]["stages"], recipe["curate"].get("order")).items())[-1]
    if not isinstance(last[1].get("k"), int) or last[1]["k"] < max([wanted["rows"], *wanted["sizes"]]):
        raise UserError(f"curate.stages.{last[0]} needs a size k, at least that of the study's largest set")
    if "random" not in wanted["rivals"] or len(set(wanted["seeds"])) < 2:
        raise UserError("study.rivals must have random, and study.seeds two seeds at least")
    run_to_end("curation.run", arguments, folder)
    files = write_sets(folder, recipe["curate"], wanted)
    made_from = content_id([recipe[section] for section in ("curate", "train", "eval")])
    arms = [arm for arm in list_arms(wanted) if (arm.kind, arm.size, arm.seed) in files]
    untrained = _evaluate(folder / "arms" / "untrained", recipe["train"]["model"], recipe["eval"])
    measured: dict[Arm, Score] = {}
    with progress("study", len(arms), "training") as advance:
        for arm in arms:
            place = folder / "arms" / arm.label
            if not (place / "score.json").exists():
                file = files[arm.kind, arm.size, arm.seed]
                steps = count_steps(arm, file, files["curated", arm.size, arm.seed], recipe["train"])
                own = {"out": str(place), "train.seed": arm.seed, "train.data": str(file)}
                own |= {"++train.args.max_steps": steps} if steps else {}
                run_to_end("limo.train", [*arguments, *(override(key, value) for key, value in own.items())], place)
                training, shares = read_manifest(place)["train"], _evaluate(place, str(place / "model"), recipe["eval"])
                score = {"made_from": made_from, "shares": shares, "tokens": training["tokens"]}
                keep(place / "score.json", {**score, "rows": training["results"]["rows"]})
                shutil.rmtree(place / "model")
            measured[arm] = json.loads((place / "score.json").read_text(encoding="utf-8"))
            if measured[arm]["made_from"] != made_from:
                raise UserError(f"{place} was made with other settings: give the study a name with name=<name>")
            advance(1, f"{arm.label}: {100 * fitness(measured[arm]['shares']):.1f} %")
    found = conclude(untrained, measured, wanted)
    keep(folder / "study.json", found)
    (folder / "study.md").write_text(write_page(found), encoding="utf-8")
    return found


def list_arms(wanted: Mapping[str, Any]) -> list[Arm]:
    """All trainings, those at `rows` first and then size by size: a stopped study has whole comparisons."""
    rows, rivals, seeds = wanted["rows"], wanted["rivals"], wanted["seeds"]
    met = [("curated", "rows"), *((name, "rows") for name in rivals), *((name, "tokens") for name in rivals)]
    first = [Arm(name, equal, rows, seed) for seed in seeds for name, equal in met]
    others = sorted({*wanted["sizes"]} - {rows})
    return first + [Arm(n, "rows", size, seed) for size in others for seed in seeds for n in ("curated", "random")]


def write_sets(folder: Path, curate: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[tuple[str, int, int], Path]:
    """Write all sets and return their files by kind, size and seed."""
    stages = in_order(curate["stages"], curate.get("order"))
    names, source = ["pool", *stages], curate["controls"]["source"]
    at = names.index(source)
    candidates = Rows(stage_file(folder, at - 1, names[at - 1]))
    kinds = [*wanted["rivals"], *(f"{name}_tokens" for name in wanted["rivals"] if name != "everything")]
    files = {}
    for size in sorted({wanted["rows"], *wanted["sizes"]}):
        chosen: list[Example] = list(candidates)
        for name in names[at:]:
            node = {**stages[name], **({"k": size} if name == names[-1] else {})}
            chosen = [row for row in bind(node, f"curate.stages.{name}")(chosen) if isinstance(row, Example)]
        if len(chosen) < size:
            raise UserError(f"the stage '{names[-1]}' leaves {len(chosen)} rows, too few for the study's {size}")
        curated = folder / "sets" / f"curated-{size}.jsonl"
        write_jsonl(curated, chosen)
        for seed in wanted["seeds"]:
            place = folder / "sets" / f"{size}-seed-{seed}"
            made = write_controls(place, candidates, chosen, Controls(source, kinds, seed))
            files |= {(kind, size, seed): place / f"{kind}.jsonl" for kind in kinds if kind in made}
            files["curated", size, seed] = curated
            if "everything" in made:
                files["everything_tokens", size, seed] = place / "everything.jsonl"
    return files


def count_steps(arm: Arm, file: Path, curated: Path, train: Mapping[str, Any]) -> int | None:
    """Optimizer steps of `everything`, which is seen as often as the curated set, by rows or tokens; None otherwise."""
    if arm.name != "everything":
        return None
    chosen, all_ = ([row.scores["tokens"] for row in read_jsonl(path)] for path in (curated, file))
    seen = len(chosen) if arm.equal == "rows" else round(sum(chosen) / fmean(all_))
    return max(1, round(math.ceil(seen / train["global_batch"]) * train["args"]["num_train_epochs"]))


def _evaluate(place: Path, model: str, section: Mapping[str, Any]) -> Scores:
    """By benchmark the share of right completions of each problem."""
    benchmarks, system, sampling, protocol, engine = (
        section[name] for name in ("benchmarks", "system", "sampling", "protocol", "engine")
    )
    tasks = load_tasks(benchmarks, system, Sampling(**sampling), protocol, engine)
    runner = Cached(bind({**engine, "model": model}, "eval.engine")())
    rows = {task.name: complete_task(place, "model", model, runner, task) for task in tasks}
    del runner
    free_gpu()
    return {name: correct_share(graded) for name, graded in rows.items()}


def conclude(untrained: Scores, measured: Mapping[Arm, Score], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Of each set accuracy, rows, tokens, and the difference to random with its interval.

    The intervals of one comparison hold together at 95 %.
    """
    by_set: dict[tuple[str, str, int], list[Score]] = {}
    for arm, score in measured.items():
        by_set.setdefault((arm.name, arm.equal, arm.size), []).append(score)
    more = [[fitness(score["shares"]) for score in scores] for scores in by_set.values()]

    def compare(equal: str, size: int) -> dict[str, Any]:
        of = {name: s for (name, e, n), s in by_set.items() if n == size and (e == equal or name == "curated")}
        found = gains({name: [score["shares"] for score in s] for name, s in of.items()}, "random", more)
        to_random = {gain.name: [gain.difference, gain.low, gain.high] for gain in found}
        return {
            name: {
                "accuracy": [fitness(score["shares"]) for score in s],
                "rows": round(fmean(score["rows"] for score in s)),
                "tokens": round(fmean(score["tokens"] for score in s)),
                "to_random": to_random.get(name),
            }
            for name, s in of.items()
        }

    rows = wanted["rows"]
    tables = {f"as many {equal}": compare(equal, rows) for equal in ("rows", "tokens")}
    tables |= {f"{size} chains": compare("rows", size) for size in sorted({*wanted["sizes"]} - {rows})}
    problems = sum(len(items) for items in untrained.values())
    return {"problems": problems, "untrained": fitness(untrained), "tables": tables}


def write_page(found: Mapping[str, Any]) -> str:
    """The study as Markdown."""
    lines = [f"Untrained: {100 * found['untrained']:.1f} % of {found['problems']} problems."]
    for title, by in found["tables"].items():
        lines += ["", f"## {title.capitalize()}", "", "| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * 6]
        for name, one in by.items():
            gain = [f"{100 * value:+.1f}" for value in one["to_random"] or ()]
            seeds = ", ".join(f"{100 * value:.1f}" for value in one["accuracy"])
            mean = f"{100 * fmean(one['accuracy']):.1f}"
            difference = [gain[0], f"{gain[1]} to {gain[2]}"] if gain else ["", ""]
            cells = [name, f"{one['rows']:,}", f"{one['tokens']:,}", seeds, mean, *difference]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command `python bench/study.py`."""
    arguments = sys.argv[1:]
    if not any(argument.startswith("recipe=") for argument in arguments):
        arguments = ["recipe=study", *arguments]
    with reported():
        print(write_page(study(compose(*arguments), arguments)))


if __name__ == "__main__":
    main()
