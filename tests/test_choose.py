"""The choice and what stands beside it: shares, budgets, controls, pairs, the card."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from curation.card import write_card
from curation.evidence.controls import Controls, random_set, write_controls
from curation.stage import _stated, collecting, direction
from curation.stages.choose import Lengths, chains, problems
from curation.stages.pairs import pair_with_dropped
from limo.data import Dropped, Example, chat, read_jsonl, write_jsonl
from limo.errors import UserError
from tests.conftest import example, split

assert direction("of no stage") is None  # which loads all stages
STATED = dict(_stated)


def scored(key: str, score: float, **more: Any) -> Example:
    return replace(example(key, f"chain of {key}"), scores={"mine": score, **more.pop("scores", {})}, **more)


RIVALS = [scored("a", 0.9), scored("a/own0", 0.8), scored("b", 0.7), scored("c", 0.7), scored("d", 0.1)]


def chosen(rows: list[Example], **more: Any) -> list[str]:
    return [
        row.id for row in split(problems(rows, **{"k": 2, "by": "mine", "prefer": "highest", "seed": 0, **more}))[0]
    ]


def test_chains_keeps_the_best_of_each_problem() -> None:
    for rows in (RIVALS, list(reversed(RIVALS))):
        kept, dropped = split(chains(rows, by="mine", prefer="highest", at_most=1, seed=0))
        assert {r.id for r in kept} == {"a", "b", "c", "d"}
        detail = "a, this one has mine 0.800"
        assert [(d.id, d.reason, d.detail) for d in dropped] == [("a/own0", "better chain of the same problem", detail)]
        kept, _ = split(chains(rows, by="mine", prefer="lowest", at_most=1, seed=0))
        assert {r.id for r in kept} == {"a/own0", "b", "c", "d"}
        assert len(split(chains(rows, by="mine", prefer="middle", at_most=2, seed=0))[0]) == 5
    picks = [split(chains(RIVALS, by="random", at_most=1, seed=seed))[0] for seed in range(20)]
    assert {"a", "a/own0"} <= {row.id for kept in picks for row in kept}, "any chain may be taken at random"


def test_problems_keeps_the_best_with_all_of_their_chains() -> None:
    kept, dropped = split(problems(list(reversed(RIVALS)), k=1, by="mine", prefer="highest", seed=0))
    assert [r.id for r in kept] == ["a/own0", "a"], "in the order of the rows"
    assert {(d.id, d.reason) for d in dropped} == {(key, "not among the best 1") for key in "bcd"}
    assert len(chosen(RIVALS, k=9)) == 5
    ties = {tuple(chosen(RIVALS, seed=seed)) for seed in range(20)}
    assert ties == {("a", "a/own0", "b"), ("a", "a/own0", "c")}, "ties go by seed"
    assert chosen(RIVALS, prefer="middle", k=1) in (["b"], ["c"])
    with pytest.raises(UserError, match=r"no score 'min'; did you mean 'mine'"):
        chosen(RIVALS, by="min")


@pytest.mark.parametrize("choose", [partial(chains, at_most=1), partial(problems, k=2)], ids=["chains", "problems"])
@pytest.mark.parametrize("name", sorted(STATED))
def test_a_score_says_itself_which_values_are_better(choose: Any, name: str) -> None:
    """For every score of ours: the best is kept without `prefer`, and a `prefer` that contradicts it is refused."""
    values = {"a": 3.0, "a/own0": 1.0, "b": 2.0, "c": 2.5}
    rows = [scored(key, 0.0, scores={name: value}) for key, value in values.items()]
    best = {"lower": "a/own0", "higher": "a"}[STATED[name]]
    assert best in {row.id for row in split(choose(rows, by=name, seed=0))[0]}
    wrong = {"lower": "highest", "higher": "lowest"}[STATED[name]]
    for prefer in (wrong, "middle"):
        said = f"prefer={prefer} contradicts the score: of '{name}', a {STATED[name]} value"
        with pytest.raises(UserError, match=said):
            list(choose(rows, by=name, prefer=prefer, seed=0))


def test_a_score_of_ones_own_needs_a_direction() -> None:
    with pytest.raises(UserError, match=r"chains.prefer is missing: no stage states whether a low or a high 'mine'"):
        list(chains(RIVALS, by="mine", at_most=1, seed=0))
    with pytest.raises(UserError, match=r"problems.prefer is missing: no stage states whether a low or a high 'mine'"):
        list(problems(RIVALS, by="mine", k=1, seed=0))


def test_random_problems_do_not_depend_on_the_order_of_rows() -> None:
    rows = [scored(str(i), 0.0) for i in range(50)]
    first = chosen(rows, by="random", k=10)
    assert first == chosen(rows[::-1], by="random", k=10) and first != chosen(rows, by="random", k=10, seed=1)
    assert chosen(rows, by="random", k=5) == first[:5], "a larger k keeps the same and more"


def test_shares_by_source_and_note() -> None:
    rows = [
        scored(str(i), 1 - i / 100, source="x" if i < 30 else "y", notes={"level": i % 3}, scores={"tokens": 10.0 * i})
        for i in range(40)
    ]
    kept = split(problems(rows, k=10, by="mine", prefer="highest", seed=0, shares={"source": "equal"}))[0]
    assert [r.source for r in kept] == ["x"] * 5 + ["y"] * 5 and [r.id for r in kept][:5] == list("01234")
    kept = split(problems(rows, k=10, by="mine", prefer="highest", seed=0, shares={"level": {"0": 0.8, "2": 0.2}}))[0]
    assert sorted(r.notes["level"] for r in kept) == [0] * 8 + [2] * 2
    kept = split(problems(rows, k=12, by="random", seed=0, shares={"level": "equal", "source": "equal"}))[0]
    found = sorted((r.notes["level"], r.source) for r in kept)
    assert found == [(n, s) for n in range(3) for s in "xy" for _ in (1, 2)]
    kept = split(problems(rows, k=10, by="random", seed=0, lengths=Lengths(0.8, 100)))[0]
    assert sum(r.scores["tokens"] <= 100 for r in kept) == 8
    with pytest.raises(UserError, match="no row has a note 'levle'; did you mean 'level'"):
        chosen(rows, shares={"levle": "equal"})
    with pytest.raises(UserError, match=r"shares.level must be shares that sum to 1"):
        chosen(rows, shares={"level": {"0": 0.8}})


def test_a_share_that_is_too_large_for_its_group_goes_to_the_best_others() -> None:
    rows = [scored(str(i), 1 - i / 100, source="x" if i < 30 else "y") for i in range(33)]
    with collecting() as metrics:
        kept, dropped = split(problems(rows, k=10, by="mine", prefer="highest", seed=0, shares={"source": "equal"}))
    assert [r.source for r in kept] == ["x"] * 7 + ["y"] * 3
    assert metrics == {"fewer rows than asked for": "source y: 2"}
    assert {(d.reason, d.detail) for d in dropped} == {("its share is full", "source x: 5")}


def test_clusters_and_a_target(tmp_path: Path) -> None:
    kinds = {"apples": "How many apples are in {} baskets of fruit?", "trains": "A train drives {} miles in an hour."}
    rows = [
        replace(scored(f"{kind}{n}", 0.5, notes={"kind": kind}), prompt=chat(text.format(n)))
        for kind, text in kinds.items()
        for n in (range(12) if kind == "apples" else range(4))
    ]
    kept = split(problems(rows, k=6, by="random", seed=0, shares={"cluster": "equal"}, clusters=2))[0]
    assert sorted(r.notes["kind"] for r in kept) == ["apples"] * 3 + ["trains"] * 3
    file = tmp_path / "target.jsonl"
    file.write_text('{"problem": "A train drives 77 miles in an hour.", "answer": "1", "kind": "trains"}\n')
    target = {"_target_": "limo.sources.file", "path": str(file)}
    kept = split(problems(rows, k=4, by="target", seed=0, target=target))[0]
    assert [r.notes["kind"] for r in kept] == ["trains"] * 4
    kept = split(problems(rows, k=4, by="random", seed=0, target=target, shares={"kind": "target"}))[0]
    assert [r.notes["kind"] for r in kept] == ["trains"] * 4
    file.write_text('{"problem": "A train drives 3 miles in an hour.", "answer": "1"}\n')
    with pytest.raises(UserError, match="1 of its problems are in the pool, such as 'A train drives 3"):
        list(problems(rows, k=4, by="target", seed=0, target=target))
    with pytest.raises(UserError, match=r"problems\.target is missing"):
        list(problems(rows, k=4, by="target", seed=0))


def test_a_token_budget_instead_of_a_number_of_rows() -> None:
    lengths = {"a": 50, "b": 60, "c": 30, "d": 20}
    rows = [scored(key, 1 - i / 10, scores={"tokens": float(lengths[key])}) for i, key in enumerate("abcd")]
    kept, dropped = split(problems(rows, k=None, tokens=100, by="mine", prefer="highest", seed=0))
    assert [r.id for r in kept] == ["a", "c", "d"], "b does not fit, what comes after it does"
    assert [(d.id, d.reason, d.detail) for d in dropped] == [("b", "over the token budget", "60 tokens, 0 are left")]
    assert chosen(rows, k=1, tokens=100) == ["a"]
    with pytest.raises(UserError, match=r"no score 'tokens'"):
        chosen(RIVALS, k=None, tokens=5)
    with pytest.raises(UserError, match="needs k or tokens"):
        chosen(rows, k=None)


def test_a_random_chain_is_any_chain_of_a_random_problem() -> None:
    # The first chain of each problem has the problem's id: it was chosen in three of four cases
    rows = [replace(example(key, "x"), problem=str(i)) for i in range(600) for key in (f"{i}", f"{i}/a", f"{i}/b")]
    for seed in range(3):
        kept = split(chains(rows, by="random", prefer="highest", at_most=1, seed=seed))[0]
        few = split(problems(kept, k=150, by="random", seed=seed))[0]
        for made in (few, random_set(rows, 150, seed)):
            assert len(made) == 150 and 30 < sum(row.id == row.problem for row in made) < 70, "about a third of 150"


def candidates() -> list[Example]:
    rows = []
    for i in range(40):
        scores = {"tokens": float(10 + i), "pass_rate": (i % 10) / 10, "mine": i / 40}
        rows.append(example(str(i), "x" * (10 + i), scores=scores))
    return [*rows, replace(rows[0], id="0/own/0", completion="y" * 90, scores={**rows[0].scores, "tokens": 90.0})]


def test_controls_are_chosen_otherwise_from_the_same_rows(tmp_path: Path) -> None:
    rows = candidates()
    chosen = rows[30:38]  # 8 rows, 40 + ... + 47 = 348 tokens
    kinds = ["random", "longest", "easiest", "random_tokens"]
    sets = write_controls(tmp_path, rows, chosen, Controls("choose", kinds, 0))
    found = {kind: list(read_jsonl(tmp_path / f"{kind}.jsonl")) for kind in kinds}
    assert sets["curated"] == {"rows": 8, "length": 348.0}
    assert [r.id for r in found["longest"]] == ["0/own/0", "39", "38", "37", "36", "35", "34", "33"]
    assert {r.scores["pass_rate"] for r in found["easiest"]} == {0.9, 0.8} and len(found["easiest"]) == 8
    assert len(found["random"]) == 8 and len({r.problem for r in found["random"]}) == 8
    length = sum(r.scores["tokens"] for r in found["random_tokens"])
    assert sets["random_tokens"]["length"] == length and abs(length - 348) <= 45
    assert len(found["random_tokens"]) > 8, "chosen chains are longer than random ones"
    assert [r.id for r in found["random_tokens"]][:5] == [r.id for r in found["random"]][:5]
    again = tmp_path / "again"
    write_controls(again, rows, chosen, Controls("choose", kinds, 1))
    assert (again / "random.jsonl").read_text() != (tmp_path / "random.jsonl").read_text()
    assert (again / "longest.jsonl").read_text() == (tmp_path / "longest.jsonl").read_text()
    unknown = [replace(row, scores={}) for row in rows]
    made = write_controls(tmp_path, unknown, chosen, Controls("choose", kinds, 0))
    assert set(made) == {"curated", "random", "longest", "random_tokens"}


def test_pairs_set_a_wrong_chain_against_the_chosen_one(tmp_path: Path) -> None:
    chosen = [scored("a", 0.9), scored("b", 0.8), scored("c", 0.7)]
    left = [
        Dropped("a/1", "verify", "wrong answer", data=replace(chosen[0], id="a/1", completion="no").to_json()),
        Dropped("a/2", "verify", "wrong answer", data=replace(chosen[0], id="a/2", completion="so it is 6").to_json()),
        Dropped("b/1", "choose", "not among the best 1", data=replace(chosen[1], completion="short").to_json()),
        Dropped("z", "pool", "invalid JSON", data="wrong answer"),
    ]
    write_jsonl(tmp_path / "left.jsonl", left)
    wrong = list(pair_with_dropped(chosen, [tmp_path / "left.jsonl"]))
    assert [(r.id, r.completion, r.rejected) for r in wrong] == [("a", "chain of a", "so it is 6")], "nearest in length"
    assert wrong[0].to_trl()["rejected"][0]["content"] == "so it is 6"


def test_the_card_is_one_the_hub_reads(tmp_path: Path) -> None:
    rows = [replace(r, source="gsm8k", notes={"licence": "MIT", "teacher": "own"}) for r in candidates()[:3]]
    write_jsonl(tmp_path / "curated.jsonl", rows)
    line = {"stage": "pool", "in": 1234, "out": 3, "reasons": {"no answer": 1231}, "tokens": 9, "seconds": 1.5}
    line["metrics"] = {"problems left out that are in": "aime24"}
    write_card(tmp_path, [line], {"curated": {"rows": 3, "length": 33.0}})
    _, front, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["license"] == "mit" and head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "curated.parquet"}]
    for said in ("| gsm8k | MIT | 3 |", "| pool | 1,234 | 3 | no answer: 1,231 | 9 | 1.5 |", "removed: aime24"):
        assert said in text
    assert "| tokens | 10 | 11 | 12 |" in text
