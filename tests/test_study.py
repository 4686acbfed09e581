"""A study of the choice: which sets are drawn, for how long each is trained, what is said of them."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curation.study import RIVALS, _check, _problems, concluded
from curation.study_page import write_page
from curation.study_sets import Arm, arms_of, sets, steps_for
from limo.data import read_jsonl, write_jsonl
from limo.discover.archive import keep
from limo.errors import UserError
from limo.recipe import compose
from tests.conftest import example

TRAIN = {"global_batch": 8, "args": {"num_train_epochs": 3}}


def settings(**changed: Any) -> dict[str, Any]:
    recipe = compose("recipe=study")
    given = {key: recipe["study"][key] for key in ("curate", "train", "eval", "rows", "sizes", "rivals", "seeds")}
    return {**given, **changed}


def test_whole_comparisons_come_first_and_none_twice() -> None:
    arms = arms_of(128, [32, 128], list(RIVALS), [0, 1])
    assert len(arms) == len(set(arms)) == 2 * (1 + 4 + 4 + 2)
    assert [arm.seed for arm in arms[:9]] == [0] * 9 and {arm.size for arm in arms[:18]} == {128}
    assert {arm.label for arm in arms[18:20]} == {"curated-32-seed-0", "random-32-seed-0"}


def test_everything_is_seen_as_often_as_the_curated_set(tmp_path: Path) -> None:
    curated, whole = tmp_path / "curated.jsonl", tmp_path / "everything.jsonl"
    write_jsonl(curated, [example(str(i), "x", scores={"tokens": 60.0}) for i in range(20)])
    write_jsonl(whole, [example(str(i), "x", scores={"tokens": 30.0}) for i in range(100)])
    assert steps_for(Arm("random", "rows", 20, 0), whole, curated, TRAIN) is None
    assert steps_for(Arm("everything", "rows", 20, 0), whole, curated, TRAIN) == 9, "three times three steps of eight"
    assert steps_for(Arm("everything", "tokens", 20, 0), whole, curated, TRAIN) == 15, "40 of half the length"


def test_sets_of_one_run(tmp_path: Path) -> None:
    rows = [
        example(f"{i}/x", "x" * i, scores={"tokens": 10.0 + i, "score": (i * 7 % 40) / 40, "pass_rate": i % 3 / 2})
        for i in range(1, 41)
    ]
    given = settings(rows=8, sizes=[4, 8], seeds=[0, 1])
    number = list(given["curate"]["stages"]).index("choose")
    write_jsonl(tmp_path / "stages" / f"{number:02d}-score.jsonl", rows)
    files = sets(tmp_path, given)
    of = {key: list(read_jsonl(file)) for key, file in files.items()}
    assert {row.scores["score"] for row in of["curated", 8, 0]} == {i / 40 for i in range(32, 40)}
    assert of["curated", 8, 0][:4] == of["curated", 4, 1], "the best four of the best eight, whatever the seed"
    assert of["random", 8, 0] != of["random", 8, 1] and len(of["random", 8, 1]) == 8
    assert len(of["everything", 8, 0]) == len(of["everything_tokens", 4, 1]) == 40
    tokens = sum(row.scores["tokens"] for row in of["curated", 8, 0])
    for kind in ("random_tokens", "longest_tokens", "easiest_tokens"):
        assert abs(sum(row.scores["tokens"] for row in of[kind, 8, 0]) - tokens) <= 25, kind
    assert min(row.scores["pass_rate"] for row in of["easiest", 8, 0]) == 1.0
    with pytest.raises(UserError, match="leaves 40 rows, too few for the study's 41"):
        sets(tmp_path, {**given, "rows": 41})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rivals": ["random", "shortest"]}, "there is no 'shortest'"),
        ({"rivals": ["longest"]}, "must have random"),
        ({"seeds": [1, 1]}, "two seeds at least"),
        ({"sizes": [0]}, "at least 1"),
        ({"sizes": [1000]}, "choose.k=512 is less than the study's largest set, 1000"),
    ],
)
def test_settings_that_cannot_be(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        _check(settings(**changed))


def score(right: int) -> dict[str, Any]:
    shares = {"sums": {str(i): float(i < right) for i in range(100)}}
    return {"shares": shares, "rows": 8, "tokens": 800, "seconds": {"train": 1.0, "eval": 1.0}}


def test_what_is_said_of_it(tmp_path: Path) -> None:
    arms = arms_of(8, [4, 8], ["random", "everything"], [0, 1])
    right = {"curated": 70, "random": 30, "everything": 31}
    measured = {arm: score(right[arm.name] + arm.seed) for arm in arms}
    found = concluded(score(5)["shares"], measured, 8, [4, 8], [0, 1])
    rows = found["equal"]["rows"]
    assert set(rows) == {"curated", "random", "everything"} and rows["random"]["to_random"] is None
    assert rows["curated"]["accuracy"] == pytest.approx([0.70, 0.71])
    gain = rows["curated"]["to_random"]
    assert gain["difference"] == pytest.approx(0.40) and 0.2 < gain["low"] < 0.4 < gain["high"] < 0.6
    assert not rows["everything"]["to_random"]["beats"]
    assert list(found["sizes"]) == ["4", "8"] and found["untrained"] == 0.05
    assert found["verdict"][1] == "With as many tokens, curated beats random by more than noise."
    page, *pictures = write_page(tmp_path, found)
    text = page.read_text()
    assert "| curated | 8 | 800 | 70.0, 71.0 | 70.5 | +40.0 |" in text
    assert all(f"({picture.name})" in text and "<svg" in picture.read_text() for picture in pictures)


@pytest.mark.slow
def test_a_study_from_the_command_line_trains_only_what_is_new(
    tiny: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    values = [
        *("recipe=study", f"runs={tmp_path}", f"student={tiny}", "curate.pool.sums.size=24"),
        *("eval.benchmarks.new_seeds.size=6", "engine.dtype=float32", "attempts.max_tokens=4"),
        *("eval.sampling.max_tokens=4", "train.args.bf16=false", "train.args.num_train_epochs=1"),
        *("study.rows=8", "study.sizes=[]", "study.rivals=[random]", "curate.stages.choose.k=8"),
    ]
    arms = tmp_path / "study" / "arms"
    given = _problems(compose(*values)["eval"])
    paid = {"shares": {task.name: {row.id: 0.5 for row in task.rows} for task in given}}
    paid |= {"rows": 8, "tokens": 800, "seconds": {"train": 1.0, "eval": 1.0}}

    def pay(seed: int) -> None:
        for kind in ("curated", "random", "random_tokens"):
            keep(arms / f"{kind}-8-seed-{seed}" / "score.json", paid)

    pay(0)
    done = run("curation.study", *values, "study.seeds=[0,1]")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "study" / "study.json").read_text())
    assert found["problems"] == 6 and found["equal"]["rows"]["random"]["accuracy"][0] == 0.5
    assert len(list(arms.glob("*-seed-1/manifest.json"))) == 3, "trained"
    assert not list(arms.glob("*-seed-0/manifest.json")) and not list(arms.glob("*/model"))
    assert re.search(r"curated\s+│ 8 ", done.stdout) and "With as many rows" in done.stdout
    assert (tmp_path / "study" / "equal.svg").exists() and (tmp_path / "study" / "study.md").exists()

    pay(2)
    grown = run("curation.study", *values, "study.seeds=[0,1,2]")
    assert grown.returncode == 0, grown.stderr
    more = json.loads((tmp_path / "study" / "study.json").read_text())
    assert more["equal"]["rows"]["curated"]["accuracy"] == [*found["equal"]["rows"]["curated"]["accuracy"], 0.5]
    assert not list(arms.glob("*-seed-2/manifest.json"))

    refused = run("curation.study", *values, "study.seeds=[0,1,2]", "train.args.learning_rate=1.0e-5")
    assert refused.returncode == 2 and "learning_rate: 0.0003 -> 1e-05" in refused.stderr
    again = run("curation.study", *values, "study.seeds=[0,1,2]")
    assert again.returncode == 0 and "already studied" in again.stderr + again.stdout
