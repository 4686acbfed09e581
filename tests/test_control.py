"""What a choice is compared with: pools of known truth, control sets, several trainings, and the sentence."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from curation.check import check_pool
from curation.check_machine import Findings
from curation.evidence.controls import Controls, write_controls
from curation.run import is_drawn
from curation.stages.chains import check_steps, keep_true_steps
from curation.stages.choose import NOT_DRAWN
from eval.compare import covers, sentence
from eval.grade import grade
from eval.intervals import difference, over_trainings, paired
from limo.data import Example, read_jsonl
from limo.errors import UserError
from limo.run import trained_sets
from limo.sources.known_truth import DIRT, FLAWED_CHAINS, KINDS, is_good, pool, problems
from limo.sources.new import make_recipe
from limo.training.settings import Supervised
from tests.conftest import curate_pool, example, lines, split

FLAWED = dict.fromkeys(FLAWED_CHAINS, 0.18)
SEEN = {"wrong": 0.3, "cut off": 0.1, "copy": 0.1}


def made(**more: Any) -> list[Example]:
    given: dict[str, Any] = {"size": 120, "seed": 1, "kinds": list(KINDS), "dirt": SEEN, "flaws": FLAWED, **more}
    return [row for row in pool("made", "", **given) if isinstance(row, Example)]


def test_what_a_pool_says_of_its_chains_is_true() -> None:
    rows = made(size=300)
    counts = Counter(row.notes["made"] for row in rows)
    assert {*FLAWED_CHAINS, *DIRT, "clean", "wording", "long"} == set(counts), counts
    for row in rows:
        verdict = grade(row.completion, row.answer).verdict
        if row.notes["made"] == "wrong":
            assert verdict == "wrong", row
        elif row.notes["made"] != "cut off":
            assert verdict == "correct", row
    checked, dropped = split(check_steps([row for row in rows if row.notes["made"] not in DIRT], arithmetic=True))
    assert all(is_good(row) or row.notes["made"] in ("steps left out", "filler", "other steps") for row in checked)
    assert not any(is_good(Example.from_json(row.data)) for row in dropped), "a right chain was dropped"
    assert 0.05 < sum("copy" in row.notes for row in rows) / len(rows) < 0.12
    assert made() == made() and made(seed=2) != made()


def test_problems_do_not_repeat_and_shares_are_kept() -> None:
    new = [
        row for row in problems("new", "", size=100, seed=3, kinds={"shop": 3, "fence": 1}) if isinstance(row, Example)
    ]
    assert len({row.question for row in new}) == 100
    assert Counter(row.notes["topic"] for row in new) == {"shop": 75, "fence": 25}
    other = problems("new", "", size=100, seed=3, kinds=["shop"], part="target")
    assert {row.question for row in new if row.notes["topic"] == "shop"} != {
        r.question for r in other if isinstance(r, Example)
    }
    with pytest.raises(UserError, match="there is no kind 'legz'; there are legs"):
        list(problems("new", "", size=1, seed=3, kinds=["legz"]))
    with pytest.raises(UserError, match=r"flaws sum to 1\.2"):
        made(flaws={"no steps": 0.7, "filler": 0.5})


def test_raw_rows_come_as_they_are_but_for_leaks(tmp_path: Path) -> None:
    rows = made()
    verified = [row for row in rows if row.notes["made"] not in DIRT]
    leak = rows[0].problem

    def guard(given: Any) -> list[Example]:
        return [row for row in given if row.problem != leak]

    chosen = verified[:60]
    controls = Controls("choose", ["raw", "random", "random_chains", "random_problems"], 0)
    sizes = write_controls(tmp_path, verified, chosen, controls, rows, [guard], verified[60:])
    raw = list(read_jsonl(tmp_path / "raw.jsonl"))
    assert sizes["raw"]["rows"] == len(raw) == 60 and leak not in {row.problem for row in raw}
    assert 0.15 < sum(row.notes["made"] in DIRT for row in raw) / 60 < 0.65
    assert not any(row.notes["made"] in DIRT for row in read_jsonl(tmp_path / "random.jsonl"))
    same = list(read_jsonl(tmp_path / "random_chains.jsonl"))
    assert {row.problem for row in same} == {row.problem for row in chosen}
    assert {row.id for row in read_jsonl(tmp_path / "random_problems.jsonl")} <= {row.id for row in verified[60:]}


def test_a_pool_without_chains_of_its_own_has_no_raw_set(tmp_path: Path) -> None:
    rows = [example(f"p{at}/1", "a chain") for at in range(6)]
    bare = [example(f"p{at}") for at in range(6)]
    assert "raw" not in write_controls(tmp_path, rows, rows[:3], Controls("choose", ["raw"], 0), bare)


def choosing(by: str) -> dict[str, Any]:
    return {
        "verify": {"_target_": "curation.stages.chains.verify", "keep_unverified": False},
        "steps": {"_target_": "curation.stages.chains.check_steps", "arithmetic": False},
        "choose": {"_target_": "curation.stages.choose.problems", "k": 4, "by": by, "seed": 0},
    }


def test_a_random_choice_says_so_and_has_no_random_control(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "pool.jsonl").open("w") as file:
        for at in range(20):
            file.write(
                json.dumps({"problem": f"{at} + 1?", "chain": f"{at} + 1 = {at + 1}", "answer": str(at + 1)}) + "\n"
            )
    funnel = curate_pool(tmp_path, choosing("random"), ["random", "longest"])
    assert funnel[-1]["reasons"] == {NOT_DRAWN: 16} and is_drawn(funnel, "choose")
    assert "nothing to choose by but problems" in capsys.readouterr().err
    assert {path.stem for path in (tmp_path / "run" / "controls").iterdir()} == {"longest"}
    dropped = lines(tmp_path / "run" / "dropped.jsonl")
    assert {row["reason"] for row in dropped} == {"not drawn"} and dropped[0]["detail"] == "4 of 20 problems were"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pool.jsonl").write_text((tmp_path / "pool.jsonl").read_text())
    funnel = curate_pool(tmp_path / "other", choosing("steps_true"), ["random"])
    assert not is_drawn(funnel, "choose") and (tmp_path / "other" / "run" / "controls" / "random.jsonl").exists()


def test_steps_are_checked_only_where_they_are_equations() -> None:
    spoiled = {"no steps": 0.4, "false step": 0.4}
    sums = list(check_steps([row for row in made(flaws=spoiled) if row.notes["made"] not in DIRT], arithmetic=False))
    kept, dropped = split(keep_true_steps([row for row in sums if isinstance(row, Example)]))
    assert dropped and {row.reason for row in dropped} <= {
        "false equation",
        "no true equation",
        "last equation is not the answer",
    }
    assert sum(map(is_good, kept)) / len(kept) == 1
    words = [
        example(f"p{at}/1", f"Let x be the root. Then x^2 = {at} + y, so it is 5. 2 + 2 = 5? No.") for at in range(9)
    ]
    counted = [row for row in check_steps(words, arithmetic=False) if isinstance(row, Example)]
    open_ones = [row for row in counted if row.scores["steps_false"]]
    assert len(split(keep_true_steps(counted))[0]) == 9, open_ones


def test_sets_and_seeds_have_folders_of_their_own() -> None:
    assert trained_sets("runs/x") == {("chosen", None): Path("runs/x")}
    assert trained_sets("r", ["random"], [3, 4]) == {
        ("random", 3): Path("r/random"),
        ("random", 4): Path("r/random/seed-4"),
        ("chosen", 3): Path("r"),
        ("chosen", 4): Path("r/seed-4"),
    }
    given = {"out": "o", "model": "m", "data": "d", "system": None, "max_length": 8, "global_batch": 1, "args": {}}
    settings = Supervised(**given, dtype="float32", seed=9, seeds=[3, 4])
    assert settings.seed == 3, "the first seed is that of the run's own folder"
    for seeds in ([1, 1], []):
        with pytest.raises(UserError, match=r"train\.seeds must be different numbers"):
            Supervised(**given, dtype="float32", seed=9, seeds=seeds)
    with pytest.raises(UserError, match=r"train\.average is the share of the last steps"):
        Supervised(**given, dtype="float32", seed=9, average=1.5)


def shares(bits: Sequence[int]) -> Mapping[str, float]:
    return {f"{at:03d}": float(bit) for at, bit in enumerate(bits)}


def test_one_training_each_is_the_paired_test() -> None:
    a, b = shares([0, 1] * 20), shares([1, 1, 0, 1] * 10)
    assert difference([a], [b], 500, 0) == paired(a, b, 500, 0)


def test_trainings_that_differ_make_the_interval_wider() -> None:
    random = np.random.default_rng(0)
    chances = random.uniform(0.1, 0.6, 200)

    def training(shift: float) -> Mapping[str, float]:
        return shares((random.random(200) < chances + shift).astype(int))

    alike = difference([training(0.0) for _ in range(3)], [training(0.2) for _ in range(3)], 0, 0)
    apart = difference([training(x) for x in (-0.1, 0, 0.1)], [training(x) for x in (0.1, 0.2, 0.3)], 0, 0)
    assert 0.1 < alike.mean < 0.3 and alike.low > 0 and alike.p < 0.01
    assert apart.high - apart.low > 1.8 * (alike.high - alike.low)
    single = paired(training(0.0), training(0.2), 0, 0)
    assert apart.high - apart.low > 1.5 * (single.high - single.low), "it covers the trainings as well"
    one = over_trainings([training(x) for x in (-0.1, 0, 0.1)], 0, 0)
    assert one.low < one.mean < one.high and one.high - one.low > 0.2
    assert difference([training(0.0)], [training(0.2)] * 3, 0, 0).mean > 0, "a base model has one training"
    with pytest.raises(ValueError, match="same problems"):
        difference([shares([1])] * 2, [shares([1, 0])] * 2, 0, 0)


def test_the_sentence_says_what_the_interval_covers() -> None:
    d = {"benchmark": "new", "before": "random", "after": "chosen", "mean": 0.1, "low": 0.02, "high": 0.18, "n": 240}
    said = sentence({**d, "p": 0.01, "trainings": [1, 1]})
    assert said == (
        "new: Choosing (random to chosen) is worth +10.0 points (+2.0 to +18.0, n = 240). "
        "One training each; the interval covers the problems only."
    )
    assert "which may be chance" in sentence({**d, "p": 0.2, "trainings": [3, 3]})
    assert covers([3, 3]) == "3 trainings each; the interval covers trainings and problems"
    assert covers([0, 1]) == "one training; the interval covers the problems only"


def write_problems(path: Path, count: int, start: int = 0) -> Path:
    rows = ({"problem": f"What is {at} plus {at}?", "answer": str(2 * at)} for at in range(start, start + count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_target_is_no_part_of_the_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_problems(tmp_path / "mine.jsonl", 60)
    with pytest.raises(UserError, match=r"t\.jsonl, row 1, is row 58 of the pool: 'What is 57 plus 57\?'"):
        make_recipe(str(file), folder=tmp_path / "my", target=str(write_problems(tmp_path / "t.jsonl", 9, 57)))
    make_recipe(str(file), folder=tmp_path / "my", target=str(write_problems(tmp_path / "t.jsonl", 10, 100)))
    assert "has 10 problems: shares and results of so few are rough; 20 are better" in capsys.readouterr().err
    half, held_out = (lines(tmp_path / "my" / f"mine_{name}.jsonl") for name in ("target", "held_out"))
    assert len(half) == len(held_out) == 5 and not {r["problem"] for r in half} & {r["problem"] for r in held_out}
    assert "shares: {cluster: target}" in (tmp_path / "my" / "recipe" / "mine.yaml").read_text()


@pytest.mark.parametrize(("words", "most", "row"), [(60, None, None), (400, 1024, 2048), (5000, 8192, 8192)])
def test_long_chains_get_room_in_the_recipe(
    words: int, most: int | None, row: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A word is seven characters here, so a bit more than two tokens."""
    text = "".join(
        json.dumps({"problem": f"What is {n}?", "solution": "thinks " * words + f"\\boxed{{{n}}}"}) + "\n"
        for n in range(40)
    )
    (tmp_path / "mine.jsonl").write_text(text)
    make_recipe(str(tmp_path / "mine.jsonl"), folder=tmp_path / "my")
    recipe = yaml.safe_load((tmp_path / "my" / "recipe" / "mine.yaml").read_text())
    said = {key: {"max_tokens": most} for key in ("attempts",)} | {"eval": {"sampling": {"max_tokens": most}}}
    said |= {"train": {"max_length": row, "pack_tokens": row}}
    assert {key: recipe.get(key) for key in said} == (said if most else dict.fromkeys(said))
    shown = capsys.readouterr().err
    assert f"chains: about {(7 * words + 10) // 3:,} tokens (median)" in shown
    assert "held out: 4 problems. With one training each, two models differ visibly from about 70 points on" in shown


def test_a_check_counts_the_pool(tmp_path: Path) -> None:
    def node(path: Path) -> dict[str, Any]:
        return {"_target_": "limo.sources.file", "path": str(path)}

    choose = {"_target_": "curation.stages.choose.problems", "k": 30, "by": "random", "seed": 0}
    curate = {"system": "", "pool": {"p": node(write_problems(tmp_path / "p.jsonl", 12))}, "stages": {"choose": choose}}
    check_pool(curate, findings := Findings(), {})
    (found,) = findings
    assert found.level == "warning" and found.text.startswith("curate.stages.choose.k=30 is more than the pool has: 12")
    target = {**choose, "k": 3, "target": node(write_problems(tmp_path / "t.jsonl", 25, 5))}
    check_pool({**curate, "stages": {"choose": target}}, findings := Findings(), {})
    (found,) = findings
    assert found.level == "error" and "its problem 1: 'What is 5 plus 5?' is in the pool as p/6" in found.text
