"""One row's story, where a benchmark's problem, a suspect reference and a rival are in it."""

import re
from pathlib import Path

import pytest

from curation.why import story, tell_history
from limo.errors import UserError
from tests.conftest import Script, curate_pool

HELD = "How many sides has a figure of which each angle is 150 degrees?"
POOL = [
    {"problem": HELD.replace("150", "$150$"), "answer": "12"},
    {"problem": "What is the sum of the first ten odd primes?", "answer": "158", "solution": "so it is 158"},
    {"problem": "How many ways lead from one corner to the next but one?", "answer": "4"},
]


@pytest.fixture
def finished(tmp_path: Path, script: Script) -> Path:
    import json

    (tmp_path / "bench.jsonl").write_text(json.dumps({"problem": HELD, "answer": "12"}))
    (tmp_path / "pool.jsonl").write_text("\n".join([*map(json.dumps, POOL), "{broken"]))
    replies = {POOL[1]["problem"]: ["so it is 158", "it is 160", "158"], POOL[2]["problem"]: ["5", "5", "it is 5"]}
    node = script(replies)
    drawn = {"n": 3, "temperature": 1.0, "top_p": 1.0, "max_tokens": 99, "seed": 0}
    attempts = {
        "sampling": drawn,
        "at_least": 1,
        "at_most": 2,
        "unknown": "keep",
        "early_stop": True,
        "suspect": 0.5,
        "chains": "all",
    }
    score = {"weights": {"length": 0.6, "exploration": 0.4}, "words": ["en"], "scaling": "rank"}
    held = {"benchmarks": [str(tmp_path / "bench.jsonl")], "variants": "drop"}
    pool = {"_target_": "limo.sources.file", "path": str(tmp_path / "pool.jsonl"), "licence": "MIT"}
    stages = {
        "held": {"_target_": "curation.stages.decontaminate.decontaminate", **held},
        "hard": {"_target_": "curation.stages.attempts.measure_difficulty", "by": "m", "engine": node, **attempts},
        "solve": {"_target_": "curation.stages.attempts.add_chains", "reference_solution": True, "teachers": {}},
        "verify": {"_target_": "curation.stages.chains.verify", "keep_unverified": False},
        "score": {"_target_": "curation.stages.score.score", **score},
        "choose": {"_target_": "curation.stages.choose.problems", "k": 1, "by": "score", "seed": 0},
    }
    curate_pool(tmp_path, stages, ["random"], pool={"p": pool}, pairs="wrong")
    return tmp_path / "run"


def test_a_row_that_stayed(finished: Path) -> None:
    text = "\n".join(tell_history(finished, "p/2"))
    for said in (
        "pool.jsonl, row 2, MIT",
        "  hard           4 of 4 chains stay",
        "  m              2 of 3 right (95 % interval 21 to 94 %), 0 cut off",
        "most frequent other answer: 160 (1 times)",
        "  verify         3 of 4 chains stay; 1 wrong answer",
        "p/2/m/0  score",
        "p/2/m/1  9 characters",
        "verify: wrong answer ('160' for '158')",
    ):
        assert said in text, text
    parts = [float(line.rpartition("= ")[2]) for line in text.splitlines() if re.search(r" x \d\.\d\d = ", line)]
    total = float(text.partition("Score of ")[2].partition(": ")[2].split()[0])
    assert parts and sum(parts) == pytest.approx(total, abs=0.002)


def test_rows_that_left(finished: Path) -> None:
    text = "\n".join(tell_history(finished, "p/1"))
    assert "dropped: in a benchmark" in text and f"matched  {HELD}  [bench/1]" in text
    text = "\n".join(tell_history(finished, "p/3"))
    assert "dropped: suspect reference (3 of 3 attempts say '5', 0 the reference '4')" in text
    assert "p/3" in (finished / "suspects.jsonl").read_text()
    assert "invalid JSON" in "\n".join(tell_history(finished, "p/4"))
    assert [s.stage for s in story(finished, "p/2/m/1")] == ["hard", "solve", "verify"]
    with pytest.raises(UserError, match=r"no row 'p/9' in .*; its ids look like p/1"):
        tell_history(finished, "p/9")


def test_pairs_where_asked(finished: Path) -> None:
    assert '"rejected":"it is 160"' in (finished / "pairs.jsonl").read_text()
