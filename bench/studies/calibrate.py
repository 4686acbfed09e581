"""How much can a choice of chains be worth on a task? Before any score: the oracle, by pool, rows and steps.

    python -m bench.studies.calibrate FOLDER           # resumes; several processes may work on one FOLDER
    python -m bench.studies.calibrate FOLDER table     # what is finished

A cell is a pool of known truth (`limo/sources/known_truth.py`), its share of flaws, a number of rows and of epochs.
Four arms are trained on each, with equal rows and steps:

    raw        random rows of the pool as it came
    random     one random chain each of as many problems, of those that end right
    checked    the same, of chains whose equations hold
    oracle     the same, of chains without a flaw

oracle - random is the headroom of choosing, random - raw that of verifying. One training varies by several points, so a
cell of one seed shows only what is large.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from curation.evidence.controls import random_set
from curation.stages.chains import check_steps
from eval.metrics import correct_share
from eval.run import grade_rows
from limo.console import say
from limo.data import Example, replacing, write_jsonl
from limo.engines.protocol import Sampling, sample
from limo.machine import set_environment
from limo.processes import give_back_memory
from limo.recipe import bind, compose
from limo.sources.known_truth import DIRT, is_good, pool, problems

SYSTEM = "Work it out. Put the answer in \\boxed{}."
STORIES, MORE = ["legs", "shop", "saving", "fence"], ["legs", "shop", "change", "sharing", "saving", "fence"]
SEEN = {"wrong": 0.30, "cut off": 0.08, "copy": 0.12}
FLAWS = {"no steps": 0.45, "false step": 0.15, "other steps": 0.1, "steps left out": 0.05, "filler": 0.05}
MIXED = {flaw: share / 0.8 for flaw, share in FLAWS.items()}
ARMS = ("random", "checked", "oracle", "raw")
TEST = 200


def cells() -> Iterator[dict[str, Any]]:
    """Name and settings of each cell."""
    base = {"kinds": STORIES, "flaws": MIXED, "spoiled": 0.8, "k": 80, "epochs": 4, "rate": 3e-4, "batch": 4, "seed": 0}
    yield base
    for spoiled in (0.5, 0.2, 0.05):
        yield base | {"spoiled": spoiled}
    for flaw in MIXED:
        yield base | {"flaws": {flaw: 1.0}}
    yield base | {"k": 40}
    yield base | {"k": 160}
    yield base | {"epochs": 2}
    yield base | {"kinds": MORE}
    yield base | {"seed": 1}


def named(cell: Mapping[str, Any]) -> str:
    """A folder's name for a cell."""
    flaws = "mixed" if len(cell["flaws"]) > 1 else next(iter(cell["flaws"])).replace(" ", "-")
    kinds = f"{len(cell['kinds'])} kinds"
    size = f"k{cell['k']},e{cell['epochs']},b{cell['batch']},lr{cell['rate']:g},s{cell['seed']}"
    return f"{kinds},{flaws},{cell['spoiled']},{size}"


def choose(arm: str, cell: Mapping[str, Any]) -> list[Example]:
    """The rows of an arm."""
    flaws = {flaw: share * cell["spoiled"] for flaw, share in cell["flaws"].items()}
    made = pool("made", SYSTEM, size=500, seed=cell["seed"], kinds=cell["kinds"], dirt=SEEN, flaws=flaws)
    rows = [row for row in made if isinstance(row, Example)]
    if arm == "raw":
        return Random(cell["seed"]).sample(rows, cell["k"])
    rows = [row for row in rows if row.notes["made"] not in DIRT]
    if arm == "checked":
        rows = [row for row in check_steps(rows, arithmetic=True) if isinstance(row, Example)]
    if arm == "oracle":
        rows = [row for row in rows if is_good(row)]
    return random_set(rows, cell["k"], cell["seed"])


def run(place: Path, arm: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    """Train and measure one arm."""
    recipe, begun = compose("recipe=demo"), time.monotonic()
    rows = choose(arm, cell)
    write_jsonl(place / "rows.jsonl", rows)
    args = {
        **recipe["train"]["args"],
        "num_train_epochs": cell["epochs"],
        "learning_rate": cell["rate"],
        "save_strategy": "no",
    }
    own = {
        "out": str(place),
        "data": str(place / "rows.jsonl"),
        "seed": cell["seed"],
        "global_batch": cell["batch"],
        "controls": [],
        "args": args,
    }
    bind({**recipe["train"], **own, "system": SYSTEM, "average": 0.25}, "train")()
    trained = time.monotonic()
    new = problems("new", SYSTEM, size=TEST, seed=1000 + cell["seed"], kinds=cell["kinds"])
    test = [row for row in new if isinstance(row, Example)]
    engine = bind({**recipe["engine"], "model": str(place / "model")}, "engine")()
    settings = Sampling(n=1, temperature=0.0, top_p=1.0, max_tokens=64, seed=0)
    graded = grade_rows(test, sample(engine, [row.prompt for row in test], settings, arm))
    shares = correct_share(graded)
    del engine
    give_back_memory()
    shutil.rmtree(place / "model")
    kinds = {kind: fmean(shares[row.id] for row in test if row.notes["topic"] == kind) for kind in cell["kinds"]}
    return {
        "cell": cell, "arm": arm, "accuracy": fmean(shares.values()), "kinds": kinds, "good": fmean(map(is_good, rows)),
        "unboxed": fmean(row["completions"][0]["extracted"] is None for row in graded),
        "train_seconds": trained - begun, "seconds": time.monotonic() - begun,
    }  # fmt: skip


def work(folder: Path, given: Sequence[Mapping[str, Any]]) -> None:
    """All arms of all cells that nobody else works on."""
    for cell in given:
        for arm in ARMS:
            place = folder / named(cell) / arm
            if (place / "score.json").exists():
                continue
            try:
                place.mkdir(parents=True)
            except FileExistsError:
                continue
            found = run(place, arm, cell)
            with replacing(place / "score.json") as file:
                json.dump(found, file)
            seconds = f"{found['train_seconds']:.0f} of {found['seconds']:.0f} s in training"
            say(f"{named(cell)} {arm}: {100 * found['accuracy']:.1f} %, {seconds}, {100 * found['good']:.0f} % good")


def table(folder: Path) -> None:
    """Accuracy by cell and arm."""
    for place in sorted(folder.iterdir()):
        scores = {path.parent.name: json.loads(path.read_text()) for path in place.glob("*/score.json")}
        shown = "  ".join(f"{arm} {100 * scores[arm]['accuracy']:5.1f}" for arm in ARMS if arm in scores)
        print(f"{place.name:60} {shown}")


if __name__ == "__main__":
    set_environment()
    at = Path(sys.argv[1])
    if "table" in sys.argv:
        table(at)
    else:
        work(at, list(cells()))
