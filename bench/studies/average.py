"""By how much do averaged weights lower the noise of a training? One training gives its last and its mean weights.

    python -m bench.studies.average FOLDER             # the small model of selectors.py: a training takes seconds
    python -m bench.studies.average FOLDER train.args.lr_scheduler_type=constant    # with other settings
    python -m bench.studies.average FOLDER runs/demo   # the sets of a finished demo: four minutes a training

Every training of a set sees the same rows in another order. The standard deviation (SD) of its accuracy over the
orders is the noise; the interval of the ratio of two SDs is a bootstrap over the trainings, which are paired.
Killed at any time, the same command resumes.

Expected, written before the first run: the SD falls by a quarter (0.75), the mean stays within a point.
"""

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from bench.data.tiny import make_model
from bench.studies.selectors import STEPS, draw, words
from bench.studies.study import RECIPES, Block
from curation.evidence.controls import random_set
from eval.metrics import correct_share
from eval.run import grade_rows
from limo.console import Table, print_table, progress, terminal
from limo.data import Example, read_jsonl, write_jsonl
from limo.engines.protocol import Sampling, sample
from limo.errors import reported
from limo.machine import set_environment
from limo.processes import give_back_memory
from limo.recipe import bind, compose, compose_arguments

SHARE = 0.25  # of the steps, the last ones
SEEDS = {"small": 24, "demo": 6}
Sets = Mapping[str, Sequence[Example]]


def small(folder: Path, given: Sequence[str]) -> tuple[Mapping[str, Any], Sets, Sequence[Example]]:
    """Random and good rows of a pool half of whose chains are spoiled, and its test."""
    make_model(folder / "model", STEPS, words(), draw)
    recipe = compose(*compose_arguments([*RECIPES, "recipe=selectors", f"student={folder / 'model'}", *given]))
    order = ["exact_dedup", "solve", "verify", "tokens"]
    recipe["curate"] |= {"order": order, "stages": {name: recipe["curate"]["stages"][name] for name in order}}
    block = Block(recipe, folder, 0.5, 0)
    rows, k = block.candidates(), recipe["study"]["k"]
    sets = {"random": random_set(rows, k, 0), "oracle": block.choose("oracle", rows)}
    return {**recipe, "sampling": recipe["study"]["sampling"]}, sets, block.test


def demo(run: Path) -> tuple[Mapping[str, Any], Sets, Sequence[Example]]:
    """The random and the chosen rows of a demo, and its test."""
    recipe = compose("recipe=demo")
    made = bind(recipe["eval"]["benchmarks"]["new_problems"], "benchmark")()
    files = {"random": run / "controls" / "random.jsonl", "chosen": run / "curated.jsonl"}
    sets = {name: list(read_jsonl(path)) for name, path in files.items()}
    test = [row for row in made if isinstance(row, Example)]
    return {**recipe, "sampling": recipe["eval"]["sampling"]}, sets, test


def accuracy(recipe: Mapping[str, Any], model: Path, test: Sequence[Example]) -> float:
    """The share of the test that a model has right."""
    engine = bind({**recipe["engine"], "model": str(model)}, "engine")()
    found = sample(engine, [row.prompt for row in test], Sampling(**recipe["sampling"]), "test")
    del engine
    give_back_memory()
    return fmean(correct_share(grade_rows(test, found)).values())


def train(recipe: Mapping[str, Any], place: Path, rows: Sequence[Example], seed: int) -> tuple[Path, Path]:
    """The folders of the last weights and of the mean ones."""
    shutil.rmtree(place, ignore_errors=True)
    write_jsonl(place / "rows.jsonl", rows)
    node, args = recipe["train"], recipe["train"]["args"]
    steps = math.ceil(len(rows) / node["global_batch"]) * args["num_train_epochs"]
    args = {**args, "max_steps": steps, "save_strategy": "steps", "save_steps": steps}
    given = {"out": str(place), "data": str(place / "rows.jsonl"), "seed": seed, "average": SHARE, "args": args}
    given["keep_checkpoints"] = True
    bind({**node, **given}, "train")()
    return place / "checkpoints" / f"checkpoint-{steps}", place / "model"


def table(found: Sequence[Mapping[str, Any]]) -> None:
    """Mean and SD of the last and of the mean weights, by set."""
    rows, rng = [], np.random.default_rng(0)
    for name in dict.fromkeys(one["set"] for one in found):
        values = np.array([[one["last"], one["mean"]] for one in found if one["set"] == name])
        drawn = values[rng.integers(0, len(values), (10_000, len(values)))].std(axis=1, ddof=1)
        low, high = np.nanquantile(drawn[:, 1] / np.maximum(drawn[:, 0], 1e-9), (0.025, 0.975))
        (last, mean), (noise, less) = 100 * values.mean(axis=0), (100 * stdev(column) for column in values.T)
        cells = (
            f"{last:.1f}",
            f"{mean:.1f}",
            f"{noise:.1f}",
            f"{less:.1f}",
            f"{less / noise:.2f} ({low:.2f} to {high:.2f})",
        )
        rows.append((name, str(len(values)), *cells))
    head = ("set", "trainings", "last, %", "mean, %", "SD of last", "SD of mean", "ratio of SDs")
    print_table(Table(head, rows, range(1, 7), f"Mean of the last {SHARE:.0%} of the weights"), terminal(120))


def main() -> None:
    """The command `python -m bench.studies.average`."""
    set_environment()
    folder, given = Path(sys.argv[1]), [word for word in sys.argv[2:] if "=" in word]
    runs = [word for word in sys.argv[2:] if "=" not in word]
    folder.mkdir(parents=True, exist_ok=True)
    kept, kind = folder / "average.jsonl", "demo" if runs else "small"
    found = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    recipe, sets, test = demo(Path(runs[0])) if runs else small(folder, given)
    left = [(name, seed) for seed in range(SEEDS[kind]) for name in sets]
    left = left[len(found) :]
    with progress("trainings", len(left), "training") as advance, kept.open("a", encoding="utf-8") as file:
        for name, seed in left:
            last, mean = train(recipe, folder / "work", sets[name], seed)
            one = {
                "set": name,
                "seed": seed,
                "last": accuracy(recipe, last, test),
                "mean": accuracy(recipe, mean, test),
            }
            file.write(json.dumps(one) + "\n")
            file.flush()
            found.append(one)
            advance(1, f"{name}: last {100 * one['last']:.1f} %, mean {100 * one['mean']:.1f} %")
    table(found)


if __name__ == "__main__":
    with reported():
        main()
