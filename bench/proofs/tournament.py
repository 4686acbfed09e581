"""The controls of `curation.evidence.tournament`: a planted best choice must be found, and a clean pool must give none.

    python -m bench.proofs.tournament FOLDER     # on two idle cores; killed at any time, the same command resumes

The model of bench/data/tiny.py learns sums from scratch, into FOLDER/model; a training on 96 chains then takes seconds.
In the spoiled pool each chain has a copy with a false step, in the clean pool none. The candidates are the same: chains
whose steps hold, and two that choose at random in other words. Expected, and written before the first run: `checked`
beats random in the spoiled pool, and in the clean pool no candidate does. In a third run, on the spoiled pool, one
begins with the weight of a score that sees nothing there; the search among three scores should give most of it to
`steps_false`, with a minus, and it should then beat random.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from bench.data.tiny import ENGINE, make_model, make_sum
from curation.evidence.tournament import Search, Sizes, Verdict, tournament
from limo.data import replacing
from limo.engines.protocol import Sampling
from limo.errors import reported
from limo.machine import set_environment

STEPS = 2100  # of learning from scratch: about a third of new sums are right then
SIZES = Sizes(
    k=96, fraction=0.5, screen_blocks=2, final_blocks=16, screen_problems=200, final_problems=100, pool_share=0.5
)


def choosing(*, checked: bool, by: str) -> dict[str, Any]:
    """The stages of a candidate."""
    first = {"checked": {"_target_": "curation.stages.chains.check_steps", "arithmetic": True}} if checked else {}
    chains = {"_target_": "curation.stages.choose.chains", "by": by, "prefer": "highest", "at_most": 1, "seed": 0}
    return {
        **first,
        "chains": chains,
        "problems": {"_target_": "curation.stages.choose.problems", "k": 1, "by": "random", "seed": 0},
    }


WEIGHED = {
    "score": {
        "_target_": "curation.stages.score.score",
        "weights": {"connectives": 1.0},
        "words": ["en"],
        "scaling": "rank",
    },
    **choosing(checked=False, by="score"),
}


def run(
    folder: Path, name: str, shares: dict[str, float], sizes: Sizes, problems: int, search: Search | None = None
) -> Verdict:
    """One tournament in FOLDER/name, on a pool with these shares of flaws."""
    rng, pool = random.Random(1), folder / f"{name}.jsonl"
    with replacing(pool) as file:
        for question, chain, total in {row[0]: row for row in (make_sum(rng) for _ in range(problems))}.values():
            file.write(json.dumps({"problem": question, "solution": chain, "answer": str(total)}) + "\n")
    stages = {
        "flaws": {"_target_": "curation.evidence.flaws.plant_flaws", "shares": shares, "seed": 0},
        "steps": {"_target_": "curation.stages.chains.check_steps", "arithmetic": False},
        "choose": choosing(checked=False, by="random")["problems"],
    }
    curate = {
        "out": str(folder / name),
        "system": "",
        "pool": {"sums": {"_target_": "limo.sources.file", "path": str(pool)}},
        "stages": stages,
        "controls": {"source": "choose", "kinds": [], "seed": 0},
        "pairs": None,
        "budget": {"samples": None, "tokens": None},
    }
    args = {
        "num_train_epochs": 6,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    train = {
        "_target_": "limo.train.sft",
        "model": str(folder / "model"),
        "system": "",
        "max_length": 128,
        "global_batch": 16,
        "dtype": "float32",
        "args": args,
    }
    verdict = tournament(
        out=str(folder / name),
        curate=curate,
        train=train,
        engine=ENGINE,
        sampling=Sampling(n=1, temperature=0.0, top_p=1.0, max_tokens=48, seed=0),
        source="choose",
        candidates={
            **({"weighed": WEIGHED} if search else {"checked": choosing(checked=True, by="random")}),
            "any": choosing(checked=False, by="random"),
            "any other": choosing(checked=False, by="steps_true"),
        },
        search=search,
        sizes=sizes,
        margin=0.03,
        apart=False,
        seed=0,
    )
    assert verdict is not None
    return verdict


def main() -> None:
    """The command `python -m bench.proofs.tournament`."""
    set_environment()
    folder = Path(sys.argv[1])
    make_model(folder / "model", STEPS)
    spoiled, search = {"false step": 1.0}, Search("weighed", "score", ["steps_false", "length", "linked"], 12)
    for name, shares, wanted in (("spoiled", spoiled, None), ("clean", {}, None), ("searched", spoiled, search)):
        begun = time.monotonic()
        verdict = run(folder, name, shares, SIZES, 6000, wanted)
        print(f"{name} pool: {verdict.sentence} ({time.monotonic() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    with reported():
        main()
