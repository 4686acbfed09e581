"""Whose chains teach a real model? Several writers for each problem, no flaw planted: GSM8K, a 0.5B student, vLLM.

    export LIMO_STUDENT=<folder> LIMO_TEACHER=<folder> LIMO_VLLM=<python of vLLM's environment> LIMO_DATA=<folder>
    python -m bench.studies.real_sources FOLDER         # hours; killed at any time, the same command resumes
    python -m bench.studies.real_sources FOLDER table   # finished blocks, with intervals over blocks

A block has 300 of GSM8K's test problems, since four models' solutions of these are published, and 300 of its training
problems to measure on. Each problem has the reference chain, the four models' solutions, four attempts of the student
and two of a teacher; what does not end in the answer leaves (`bench/studies/recipe/real_sources.yaml`). Each arm is 96
chains of as many problems, 2 epochs, equal steps:

    random       a random chain each of random problems, of what was verified
    chosen       the student's likeliest chain (nll_inner) each of random problems
    rsr          the chain of the lowest rank-surprisal ratio each
    shortest     the shortest chain each
    reference, teacher, student    one chain each of that writer alone

Expected, written before the first run: teacher above random by some points and above reference, whose steps are terse;
student about random; chosen within 2 points of random, since every verified chain is nearly as good.
"""

import json
import os
import sys
from pathlib import Path
from random import Random

from bench.studies.real import OFFICIAL, TRAIN, left_by, problems, run_block, table
from curation.evidence.controls import random_set
from curation.evidence.tournament import choose_by
from limo.data import read_jsonl, write_jsonl
from limo.errors import reported

BLOCKS, SIZE = 4, 300
SOLUTIONS = "samples/gsm8k_model_solutions.jsonl"
RECORDED = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
WRITERS = ("reference", "teacher", "student")
ARMS = ("random", "chosen", "rsr", "shortest", *WRITERS)
CONTRASTS = tuple(("random", arm) for arm in ARMS if arm != "random")
AT_RANDOM = {"_target_": "curation.stages.choose.problems", "k": 1, "by": "random", "seed": 0}


def make_block(folder: Path, number: int) -> None:
    """Write a block's files: a pool for each writer whose chains are published, and the test."""
    data = Path(os.environ["LIMO_DATA"])
    chains = {row["question"]: row["answer"] for row in _rows(data / OFFICIAL)}
    answers = {row["question"]: row["answer"] for row in problems(OFFICIAL)}
    recorded = [row for row in _rows(data / SOLUTIONS) if row["question"] in chains]
    Random("sources").shuffle(recorded)
    mine = recorded[number * SIZE : (number + 1) * SIZE]
    assert len(mine) == SIZE, f"there are problems for {len(recorded) // SIZE} blocks"
    files = {"reference": [(row["question"], _ended(chains[row["question"]], "####")) for row in mine]}
    for model in RECORDED:
        files[model] = [(row["question"], _ended(row[model]["solution"], "\nA:")) for row in mine]
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in files.items():
        rows = [{"question": asked, "chain": chain, "answer": answers[asked]} for asked, chain in pairs]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    test = list(problems(TRAIN))[number * SIZE : (number + 1) * SIZE]
    kept = [{key: row[key] for key in ("question", "answer")} for row in test]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def _ended(chain: str, mark: str) -> str:
    """A chain whose last line says the answer in words; `mark` stands before it in the file."""
    steps, _, answer = chain.rpartition(mark)
    return f"{steps.strip()}\nThe answer is {answer.strip()}."


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_arms(run: Path, seed: int) -> None:
    """The sets of a curated block beside the chosen and the random one."""
    scored, k = left_by(run, "fit"), len(list(read_jsonl(run / "curated.jsonl")))
    for by, prefer in (("rsr", None), ("tokens", "lowest")):
        chains = {"_target_": "curation.stages.choose.chains", "by": by, "prefer": prefer, "at_most": 1, "seed": 0}
        rows = choose_by({"chains": chains, "problems": AT_RANDOM}, scored, k, seed)
        write_jsonl(run / "controls" / f"{'shortest' if by == 'tokens' else by}.jsonl", rows)
    for writer in WRITERS:
        rows = random_set([row for row in scored if row.notes["teacher"] == writer], k, seed)
        assert len(rows) == k, f"{writer} has only {len(rows)} problems right"
        write_jsonl(run / "controls" / f"{writer}.jsonl", rows)


def main() -> None:
    """The command `python -m bench.studies.real_sources`."""
    folder = Path(sys.argv[1]).resolve()
    names = [f"block-{number}" for number in range(BLOCKS)]
    for number, name in enumerate(names):
        if "table" not in sys.argv and not (folder / name / "eval" / "summary.json").is_file():
            make_block(folder / name / "data", number)
            run_block(folder / name, number, "real_sources", ARMS, write_arms)
    table(folder, names, CONTRASTS)


if __name__ == "__main__":
    with reported():
        main()
