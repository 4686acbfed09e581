"""Does the tournament find what is there, and nothing where nothing is? On the 0.6M model, and by simulation.

    python -m bench.proofs.tournament FOLDER simulate    # error rates over 1,000 tournaments, a minute
    python -m bench.proofs.tournament FOLDER             # ten seeds of both controls, then a search; hours, it resumes

Expected, written before the first run: in a pool in which every chain has a copy with a false step, `checked` beats
random in each of the ten seeds; in a clean pool no candidate does, and the verdict is "none" or undecided. The third
run starts from a useless score and searches weights for three others in twelve trials: it should give most of it to
`steps_false`, with a minus, and it should then beat random.

Simulated: two finalists, of which one has the true gain and the other none; differences of blocks with the measured
standard deviation of 7.5 points and that of 100 problems; whoever reads "N more blocks" adds them, up to four looks.
"""

import json
import math
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.data.tiny import ENGINE, make_model, make_sum
from curation.evidence.tournament import Search, tournament
from curation.evidence.verdict import SD, Sizes, Verdict, decide
from limo.console import Table, print_table, terminal
from limo.data import replacing
from limo.engines.protocol import Sampling
from limo.errors import reported
from limo.machine import set_environment

PROBLEMS, MARGIN, SEEDS = 6000, 0.03, 10
REPEATS, LOOKS = 1000, 4  # of the simulation
STEPS = 2100  # of learning from scratch: 93 % of new sums are right then, so the trainings below do damage
SIZES = Sizes(
    k=96, fraction=0.5, screen_blocks=2, final_blocks=16, screen_problems=200, final_problems=100, pool_share=0.5
)


def choosing(*, checked: bool, by: str) -> dict[str, Any]:
    """The stages of a candidate."""
    first = {"checked": {"_target_": "curation.stages.chains.check_steps", "arithmetic": True}} if checked else {}
    chains = {"_target_": "curation.stages.choose.chains", "by": by, "at_most": 1, "seed": 0}
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


def run(folder: Path, name: str, shares: dict[str, float], seed: int = 0, search: Search | None = None) -> Verdict:
    """One tournament in FOLDER/name, on a pool of its own with these shares of flaws."""
    rng, pool = random.Random(1 + seed), folder / f"{name}.jsonl"
    with replacing(pool) as file:
        for question, chain, total in {row[0]: row for row in (make_sum(rng) for _ in range(PROBLEMS))}.values():
            file.write(json.dumps({"problem": question, "solution": chain, "answer": str(total)}) + "\n")
    stages = {
        "flaws": {"_target_": "curation.evidence.flaws.plant_flaws", "shares": shares, "seed": seed},
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
        sizes=SIZES,
        margin=MARGIN,
        shows=0.1,
        apart=False,
        seed=seed,
    )
    assert verdict is not None
    return verdict


def simulate() -> None:
    """Error rates of the verdict, at the first look and when blocks are added until it decides."""
    rng, rows = random.Random(0), []
    sd = math.sqrt(SD**2 + 0.5 / SIZES.final_problems)
    for truth in (0.0, MARGIN, 0.08, 0.12):
        first, last, blocks, held = Counter[str](), Counter[str](), 0, 0
        for _ in range(REPEATS):
            values: dict[str, list[float]] = {"a": [], "b": []}
            wanted, look = SIZES.final_blocks, 0
            while True:
                look += 1
                for name, gain in (("a", truth), ("b", 0.0)):
                    values[name] += [rng.gauss(gain, sd) for _ in range(wanted - len(values[name]))]
                verdict = decide(values, MARGIN, {}, 1 / SIZES.final_problems, look)
                if look == 1:
                    first[verdict.outcome] += 1
                    held += all(f.low <= {"a": truth, "b": 0.0}[f.name] <= f.high for f in verdict.finalists)
                if verdict.outcome != "undecided" or look == LOOKS:
                    break
                wanted += min(verdict.more_blocks, 60)
            last[verdict.outcome] += 1
            blocks += wanted
        shares = [f"{100 * count[o] / REPEATS:.1f}" for count in (first, last) for o in ("beats", "none", "undecided")]
        rows.append((f"{100 * truth:+.0f}", *shares, f"{blocks / REPEATS:.0f}", f"{100 * held / REPEATS:.1f}"))
    head = ("true gain", *("beats", "none", "undecided") * 2, "blocks", "intervals hold, %")
    title = f"{REPEATS} tournaments, %: at the first look ({SIZES.final_blocks} blocks), then after up to {LOOKS}"
    print_table(Table(head, rows, range(9), title), terminal(120))


def main() -> None:
    """The command `python -m bench.proofs.tournament`."""
    set_environment()
    folder = Path(sys.argv[1])
    if "simulate" in sys.argv:
        return simulate()
    make_model(folder / "model", STEPS)
    spoiled, search = {"false step": 1.0}, Search("weighed", "score", ["steps_false", "length", "linked"], 12)
    kinds = (("spoiled", spoiled), ("clean", {}))
    plan = [(f"{kind}-{seed}", shares, seed, None) for seed in range(SEEDS) for kind, shares in kinds]
    for name, shares, seed, wanted in [*plan, ("searched", spoiled, 0, search)]:
        begun = time.monotonic()
        verdict = run(folder, name, shares, seed, wanted)
        print(f"{name}: {verdict.sentence} ({time.monotonic() - begun:.0f} s)", flush=True)
    return None


if __name__ == "__main__":
    with reported():
        main()
