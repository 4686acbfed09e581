"""bench/study.py: which sets are compared, for how long each is trained, what is concluded."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.study import Arm, conclude, count_steps, list_arms, study, write_page, write_sets
from limo.data import read_jsonl, write_jsonl
from limo.discover.archive import keep
from limo.errors import UserError
from limo.processes import run_to_end
from limo.recipe import compose
from tests.conftest import example


def test_everything_is_seen_as_often_as_the_curated_set(tmp_path: Path) -> None:
    train = {"global_batch": 8, "args": {"num_train_epochs": 3}}
    curated, whole = tmp_path / "curated.jsonl", tmp_path / "everything.jsonl"
    write_jsonl(curated, [example(str(i), "x", scores={"tokens": 60.0}) for i in range(20)])
    write_jsonl(whole, [example(str(i), "x", scores={"tokens": 30.0}) for i in range(100)])
    assert count_steps(Arm("random", "rows", 20, 0), whole, curated, train) is None
    assert count_steps(Arm("everything", "rows", 20, 0), whole, curated, train) == 9, "three times three steps of eight"
    assert count_steps(Arm("everything", "tokens", 20, 0), whole, curated, train) == 15, "40 of half the length"


def test_sets_of_one_run(tmp_path: Path) -> None:
    rows = [
        example(f"{i}/x", "x" * i, scores={"tokens": 10.0 + i, "score": (i * 7 % 40) / 40, "pass_rate": i % 3 / 2})
        for i in range(1, 41)
    ]
    recipe = compose("recipe=study")
    wanted = {**recipe["study"], "rows": 8, "sizes": [4, 8], "seeds": [0, 1]}
    number = recipe["curate"]["order"].index("best_chain")
    write_jsonl(tmp_path / "stages" / f"{number:02d}-score.jsonl", rows)
    of = {key: list(read_jsonl(file)) for key, file in write_sets(tmp_path, recipe["curate"], wanted).items()}
    assert {row.scores["score"] for row in of["curated", 8, 0]} == {i / 40 for i in range(32, 40)}
    assert of["curated", 8, 0][:4] == of["curated", 4, 1], "the best four of the best eight, whatever the seed"
    assert of["random", 8, 0] != of["random", 8, 1] and len(of["random", 8, 1]) == 8
    assert len(of["everything", 8, 0]) == len(of["everything_tokens", 4, 1]) == 40
    assert {(arm.kind, arm.size, arm.seed) for arm in list_arms(wanted)} <= of.keys()
    with pytest.raises(UserError, match="leaves 40 rows, too few for the study's 41"):
        write_sets(tmp_path, recipe["curate"], {**wanted, "rows": 41})


def score(right: int) -> dict[str, Any]:
    return {"shares": {"sums": {str(i): float(i < right) for i in range(100)}}, "rows": 8, "tokens": 800}


def test_what_is_concluded() -> None:
    wanted = {"rows": 8, "sizes": [4, 8], "rivals": ["random", "everything"], "seeds": [0, 1]}
    right = {"curated": 70, "random": 30, "everything": 31}
    measured = {arm: score(right[arm.name] + arm.seed) for arm in list_arms(wanted)}
    found = conclude(score(5)["shares"], measured, wanted)
    assert list(found["tables"]) == ["as many rows", "as many tokens", "4 chains"] and found["untrained"] == 0.05
    rows = found["tables"]["as many rows"]
    difference, low, high = rows["curated"]["to_random"]
    assert rows["random"]["to_random"] is None and difference == pytest.approx(0.40) and 0.2 < low < 0.4 < high < 0.6
    assert "| curated | 8 | 800 | 70.0, 71.0 | 70.5 | +40.0 |" in write_page(found)


@pytest.mark.slow
def test_a_study_trains_only_what_is_new(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def run(module: str, arguments: Sequence[str], folder: Path) -> str:
        if module != "limo.train":
            return run_to_end(module, arguments, folder)
        trained.append(arguments[-3:])
        shutil.copytree(tiny, folder / "model")
        (folder / "manifest.json").write_text(json.dumps({"train": {"tokens": 800, "results": {"rows": 8}}}))
        return ""

    monkeypatch.setattr("bench.study.run_to_end", run)
    values = [
        *("recipe=study", f"runs={tmp_path}", f"student={tiny}", "curate.pool.sums.size=24"),
        *("eval.benchmarks.new_seeds.size=6", "engine.dtype=float32", "attempts.max_tokens=4"),
        *("eval.sampling.max_tokens=4", "study.rows=8", "study.sizes=[]", "study.rivals=[random]"),
        *("curate.stages.choose.k=8", "study.seeds=[0,1]"),
    ]
    found = study(compose(*values), values)
    arms = tmp_path / "study" / "arms"
    assert found["problems"] == 6 and len(trained) == len(list(arms.glob("*-seed-?/score.json"))) == 6
    assert trained[0][1:] == ["train.seed=0", f"train.data='{tmp_path}/study/sets/curated-8.jsonl'"]
    assert not list(arms.glob("*/model")) and study(compose(*values), values) == found and len(trained) == 6
    path = arms / "random-8-seed-1" / "score.json"
    keep(path, {**json.loads(path.read_text()), "made_from": "another recipe"})
    with pytest.raises(UserError, match="was made with other settings"):
        study(compose(*values), values)
