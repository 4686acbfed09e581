"""The choice and what stands beside it: quotas, budgets, controls, pairs, the card."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from curation.card import write_card
from curation.controls import Controls, write_controls
from curation.stages.choose import best_chain, choose_problems
from curation.stages.pairs import pair_with_dropped
from limo.data import Dropped, Example, read_jsonl, write_jsonl
from limo.errors import UserError
from tests.conftest import example, split


def scored(key: str, score: float, **more: Any) -> Example:
    return replace(example(key, f"chain of {key}"), scores={"score": score, **more.pop("scores", {})}, **more)


RIVALS = [scored("a", 0.9), scored("a/own0", 0.8), scored("b", 0.7), scored("c", 0.7), scored("d", 0.1)]


def test_top_keeps_one_chain_a_problem_and_says_why_the_rest_went() -> None:
    kept, dropped = split(choose_problems(list(reversed(RIVALS)), k=2, by="score"))
    assert [r.id for r in kept] == ["a", "b"]
    assert {d.id: (d.reason, d.detail) for d in dropped} == {
        "a/own0": ("better chain of the same problem", "a has 0.900, this one 0.800"),
        "c": ("not among the best 2", "score 0.700, the last one chosen has 0.700"),
        "d": ("not among the best 2", "score 0.100, the last one chosen has 0.700"),
    }


def test_best_is_one_chain_a_problem() -> None:
    for rows in (RIVALS, list(reversed(RIVALS))):
        kept, dropped = split(best_chain(rows, by="score"))
        assert {r.id for r in kept} == {"a", "b", "c", "d"}
        assert [(d.id, d.detail) for d in dropped] == [("a/own0", "a has score 0.900, this one 0.800")]


def test_quotas_of_source_and_subject() -> None:
    rows = [
        scored(str(i), 1 - i / 10, source="x" if i < 3 else "y", notes={"type": "algebra" if i % 2 else "geometry"})
        for i in range(8)
    ]
    kept, dropped = split(choose_problems(rows, k=9, by="score", quotas={"source": {"x": 1}}))
    assert [r.id for r in kept] == ["0", "3", "4", "5", "6", "7"]
    assert {(d.reason, d.detail) for d in dropped} == {("quota of its source is full", "x: 1")}
    kept, _ = split(choose_problems(rows, k=9, by="score", quotas={"type": 2, "source": {"x": 2}}))
    assert [r.id for r in kept] == ["0", "1", "3", "4"], "x gives 0 and 1; then one of each type is left"
    levels = [scored(str(i), 1 - i / 10, notes={"level": i % 2}) for i in range(6)]
    assert [r.id for r in split(choose_problems(levels, k=9, by="score", quotas={"level": {0: 1}}))[0]] == [
        "0",
        "1",
        "3",
        "5",
    ]
    with pytest.raises(UserError, match="no row has a note 'levle'; did you mean 'level'"):
        list(choose_problems(levels, k=9, by="score", quotas={"levle": 1}))
    pair = [scored("a", 0.9), replace(scored("a/own0", 0.8), source="y")]
    kept, _ = split(choose_problems(pair, k=3, by="score", quotas={"source": {"s": 0}}))
    assert [r.id for r in kept] == ["a/own0"], "a chain that is not taken bars no rival"
    with pytest.raises(UserError, match=r"no score 'scor'; did you mean 'score'"):
        list(choose_problems(pair, k=1, by="scor"))
    with pytest.raises(UserError, match="quotas must give whole numbers, not 'many'"):
        list(choose_problems(pair, k=1, by="score", quotas={"source": "many"}))


def test_a_token_budget_instead_of_a_number_of_rows() -> None:
    lengths = {"a": 50, "b": 60, "c": 30, "d": 20}
    rows = [scored(key, 1 - i / 10, scores={"tokens": float(lengths[key])}) for i, key in enumerate("abcd")]
    kept, dropped = split(choose_problems(rows, k=None, tokens=100, by="score"))
    assert [r.id for r in kept] == ["a", "c", "d"], "b does not fit, what comes after it does"
    assert [(d.id, d.reason, d.detail) for d in dropped] == [("b", "over the token budget", "60 tokens, 50 are left")]
    assert [r.id for r in split(choose_problems(rows, k=1, tokens=100, by="score"))[0]] == ["a"]
    with pytest.raises(UserError, match=r"no score 'tokens'"):
        list(choose_problems(RIVALS, k=None, tokens=5, by="score"))
    with pytest.raises(UserError, match="needs k or tokens"):
        list(choose_problems(rows, k=None, by="score"))


def test_thousands_of_rows_keep_what_a_sort_keeps() -> None:
    rows = [scored(f"{i}", (i * 7919 % 5003) / 5003) for i in range(5003)]
    kept, dropped = split(choose_problems(rows, k=100, by="score"))
    assert [r.id for r in kept] == [r.id for r in sorted(rows, key=lambda r: -r.scores["score"])[:100]]
    assert len(dropped) == 4903


def candidates() -> list[Example]:
    rows = []
    for i in range(40):
        scores = {"tokens": float(10 + i), "pass_rate": (i % 10) / 10, "score": i / 40}
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
    assert set(write_controls(tmp_path, unknown, chosen, Controls("choose", kinds, 0))) == {"curated", *kinds} - {
        "easiest"
    }
    with pytest.raises(UserError, match="there is no 'shortest'"):
        Controls("choose", ["shortest"], 0)


def test_pairs_set_a_wrong_or_a_worse_chain_against_the_chosen_one(tmp_path: Path) -> None:
    chosen = [scored("a", 0.9), scored("b", 0.8), scored("c", 0.7)]
    left = [
        Dropped("a/1", "verify", "wrong answer", data=replace(chosen[0], id="a/1", completion="no").to_json()),
        Dropped("a/2", "verify", "wrong answer", data=replace(chosen[0], id="a/2", completion="so it is 6").to_json()),
        Dropped(
            "b/1", "choose", "better chain of the same problem", data=replace(chosen[1], completion="short").to_json()
        ),
        Dropped("z", "pool", "invalid JSON", data="wrong answer"),
    ]
    write_jsonl(tmp_path / "left.jsonl", left)
    wrong = list(pair_with_dropped(chosen, [tmp_path / "left.jsonl"], "wrong"))
    assert [(r.id, r.completion, r.rejected) for r in wrong] == [("a", "chain of a", "so it is 6")], (
        "the nearest in length"
    )
    assert wrong[0].to_trl()["rejected"][0]["content"] == "so it is 6"
    assert [(r.id, r.rejected) for r in pair_with_dropped(chosen, [tmp_path / "left.jsonl"], "worst")] == [
        ("b", "short")
    ]


def test_the_card_is_one_the_hub_reads(tmp_path: Path) -> None:
    rows = [replace(r, source="gsm8k", notes={"licence": "MIT", "teacher": "own"}) for r in candidates()[:3]]
    write_jsonl(tmp_path / "curated.jsonl", rows)
    line = {"stage": "pool", "in": 1234, "out": 3, "reasons": {"no answer": 1231}, "tokens": 9, "seconds": 1.5}
    line["metrics"] = {"benchmarks removed": "aime24 (rule latex)"}
    write_card(tmp_path, [line], {"curated": {"rows": 3, "length": 33.0}})
    _, front, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["license"] == "mit" and head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "curated.parquet"}]
    for said in (
        "| gsm8k | MIT | 3 |",
        "| pool | 1,234 | 3 | no answer: 1,231 | 9 | 1.5 |",
        "these benchmarks were removed: aime24 (rule latex)",
    ):
        assert said in text
    assert "| tokens | 10 | 11 | 12 |" in text
