"""Does a choice of chains teach a real model more than random ones? GSM8K, a 0.5B student, vLLM.

    export LIMO_STUDENT=<folder> LIMO_VLLM=<python of vLLM's environment> LIMO_DATA=<folder with pools/>
    python -m bench.studies.real FOLDER         # a day on two cores; killed at any time, the same command resumes
    python -m bench.studies.real FOLDER pilot   # learning rates, on GSM8K's test problems, which the study does not use
    python -m bench.studies.real FOLDER table   # finished blocks, with intervals over blocks

A block has 600 GSM8K training problems for its pool and 300 others for its test, none of them in another block. The
reference chain comes in two wordings, and half of the chains are spoiled with the answer right
(`bench/studies/recipe/real.yaml`). Each arm is 128 chains, 2 epochs, equal steps:

    random    one random chain each of 128 random problems, of what was verified: what `limo train` trains as a control
    chosen    the default choice: steps checked, then the student's likeliest chain (nll_inner)
    oracle    the same problems, a random one of the chains that nothing was done to
    limo      the 128 problems whose best chain has the highest LIMO score, with that chain

Primary endpoint: chosen - random, paired t over eight blocks; nobody looks before all are finished. Expected, and
written before the pilot: oracle above random by 6 points, chosen within 2 of oracle, limo below random. The pilot found
damage by every arm, at both rates (docs/real.md), so the blocks were not run: they need chains that teach this student.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from bench.studies.demo import t_interval
from curation.evidence.controls import random_set
from curation.evidence.tournament import choose_by
from limo.console import Table, print_table, terminal
from limo.data import Example, read_jsonl, write_jsonl
from limo.errors import reported
from limo.processes import override
from limo.run import read_manifest
from limo.sources.known_truth import is_good

BLOCKS = 8
POOL, TEST = 600, 300
TRAIN, OFFICIAL = "pools/gsm8k_train.jsonl", "benchmarks/gsm8k_test.jsonl"
ARMS = ("random", "chosen", "oracle", "limo")
CONTRASTS = (("random", "chosen"), ("random", "oracle"), ("random", "limo"), ("chosen", "oracle"))
# vLLM for CPUs keeps a core free for its front end unless it is told which to use
SERVER = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}", "VLLM_CPU_KVCACHE_SPACE": "2"}
BY_SCORE = {
    "chains": {"_target_": "curation.stages.choose.chains", "by": "score", "at_most": 1, "seed": 0},
    "problems": {"_target_": "curation.stages.choose.problems", "k": 1, "by": "score", "seed": 0},
}


def problems(file: str) -> Iterator[dict[str, Any]]:
    """GSM8K's problems in a fixed random order, each with its chain in two wordings."""
    path = Path(os.environ["LIMO_DATA"]) / file
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    Random("real").shuffle(rows)
    for row in rows:
        chain, _, answer = row["answer"].rpartition("####")
        steps = chain.strip().split("\n")
        listed = [*(f"Step {number}. {step}" for number, step in enumerate(steps, 1)), f"So it is {answer.strip()}."]
        yield {
            "question": row["question"],
            "answer": answer.strip().replace(",", ""),
            "chains": ["\n".join(steps), "\n".join(listed)],
        }


def make_block(folder: Path, number: int, file: str) -> None:
    """Write a block's pool.jsonl and test.jsonl."""
    rows, size = list(problems(file)), POOL + TEST
    mine = rows[number * size : (number + 1) * size]
    assert len(mine) == size, f"there are problems for {len(rows) // size} blocks"
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("pool", mine[:POOL]), ("test", mine[POOL:])):
        kept = part if name == "pool" else [{key: row[key] for key in ("question", "answer")} for row in part]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def run_block(
    folder: Path, number: int, recipe: str, arms: Sequence[str], write: Callable[[Path, int], None], *given: str
) -> None:
    """Curate, train and evaluate the block in `folder`/data with the commands that a user types.

    `write` writes the control sets that the curation does not make. The models are removed at the end.
    """
    name, block = folder.name, folder / "data"
    control = [arm for arm in arms if arm != "chosen"]
    common = ["--config-dir", "bench/studies", f"recipe={recipe}", f"seed={number}", f"name={name}", *given]
    common += ["--trust", "programs", override("block", str(block)), override("runs", str(folder.parent))]
    base = {"base": os.environ["LIMO_STUDENT"]} if number == 0 else {}
    for module in ("curation.run", "limo.train", "eval.run"):
        if module == "limo.train":
            write(folder, number)
        more = [override("eval.models", base)] if base else []
        if module != "curation.run":  # most sets are written here, not by the curation
            more.append(override("control", control))
        environment = {**os.environ, **(SERVER if module == "eval.run" else {})}
        subprocess.run([sys.executable, "-m", module, *common, *more], check=True, env=environment)
    for model in folder.rglob("model"):
        shutil.rmtree(model, ignore_errors=True)


def left_by(run: Path, stage: str) -> list[Example]:
    """The rows that a stage of a curated block left."""
    names = ["pool", *read_manifest(run)["curate"]["settings"]["stages"]]
    return list(read_jsonl(run / "stages" / f"{names.index(stage):02d}-{stage}.jsonl"))


def write_arms(run: Path, seed: int) -> None:
    """The control sets `oracle` and `limo` of a curated block."""
    chosen, scored = list(read_jsonl(run / "curated.jsonl")), left_by(run, "score")
    mine = {row.problem for row in chosen}
    clean = [row for row in scored if is_good(row) and row.problem in mine]
    write_jsonl(run / "controls" / "oracle.jsonl", random_set(clean, len(chosen), seed))
    write_jsonl(run / "controls" / "limo.jsonl", choose_by(BY_SCORE, scored, len(chosen), seed))


def measured(run: Path) -> dict[str, dict[str, float]]:
    """By arm of a block: accuracy, share of good chains, tokens a chain, tokens of an answer, share cut off."""
    path = run / "eval" / "summary.json"
    if not path.is_file():
        return {}
    found = {}
    for arm, by in json.loads(path.read_text(encoding="utf-8"))["accuracy"].items():
        one = by["test"]
        found[arm] = {"accuracy": 100 * one["mean"], "answer": one["tokens_per_answer"], "cut": 100 * one["truncated"]}
        if arm != "base":
            data = run / ("curated.jsonl" if arm == "chosen" else f"controls/{arm}.jsonl")
            rows = list(read_jsonl(data))
            tokens = fmean(row.scores["tokens"] for row in rows)
            found[arm] |= {"good": 100 * fmean(map(is_good, rows)), "chain": tokens}
    return found


def table(folder: Path, blocks: Sequence[str], contrasts: Sequence[tuple[str, str]] = CONTRASTS) -> None:
    """Accuracy of each arm by block, its means, and the contrasts with t intervals over blocks."""
    found = {name: arms for name in blocks if (arms := measured(folder / name))}
    arms = ["base", *dict.fromkeys(arm for one in found.values() for arm in one if arm != "base")]
    rows = [
        (name, *(f"{one[arm]['accuracy']:.1f}" if arm in one else "" for arm in arms)) for name, one in found.items()
    ]
    for key, title in (("accuracy", "mean"), ("good", "good chains, %"), ("chain", "tokens a chain")):
        rows.append(_means(found, arms, key, title))
    rows += [_means(found, arms, "answer", "tokens an answer"), _means(found, arms, "cut", "cut off, %")]
    print_table(Table(("", *arms), rows, range(1, len(arms) + 1), "right on new problems, %"), terminal(110))
    lines = []
    for before, after in contrasts:
        both = [one for one in found.values() if {before, after} <= set(one)]
        values = [one[after]["accuracy"] - one[before]["accuracy"] for one in both]
        if len(values) > 1:
            low, high = t_interval(values)
            lines.append((f"{after} - {before}", f"{fmean(values):+.1f}", f"{low:+.1f} to {high:+.1f}", len(values)))
    print_table(Table(("contrast", "points", "95 % interval over blocks", "blocks"), lines, range(1, 4)), terminal(110))


def _means(found: dict[str, dict[str, dict[str, float]]], arms: Sequence[str], key: str, title: str) -> tuple[str, ...]:
    each = [[one[arm][key] for one in found.values() if key in one.get(arm, {})] for arm in arms]
    return (title, *(f"{fmean(values):.1f}" if values else "" for values in each))


def main() -> None:
    """The command `python -m bench.studies.real`."""
    folder = Path(sys.argv[1]).resolve()
    if "pilot" in sys.argv:
        names = []
        for rate in (1e-5, 4e-5):
            names.append(f"pilot-{rate:g}")
            if "table" not in sys.argv:
                make_block(folder / names[-1] / "data", 0, OFFICIAL)
                arms = ("random", "chosen", "oracle")
                run_block(folder / names[-1], 0, "real", arms, write_arms, f"train.args.learning_rate={rate}")
    else:
        names = [f"block-{number}" for number in range(BLOCKS)]
        for number, name in enumerate(names):
            if "table" not in sys.argv and not (folder / name / "eval" / "summary.json").is_file():
                make_block(folder / name / "data", number, TRAIN)
                run_block(folder / name, number, "real", ARMS, write_arms)
    table(folder, names)


if __name__ == "__main__":
    with reported():
        main()
