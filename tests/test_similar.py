"""Which problems are the same: tokens by hand, planted leaks, and real pools beside real benchmarks."""

import json
from pathlib import Path

import pytest

from bench.leaks import DISGUISES, mark, recall
from curation.similar import Known, numbers, shingles, tokens

PROBLEMS = [
    "Find the sum of all positive integers $n$ such that $n^2 + 12n - 2007$ is a perfect square.",
    "What is the value of $\\frac{3}{4}$ of $\\left(\\frac{8}{9}\\right)$?",
    "Compute $\\sin 0^\\circ$.",
]


def test_tokens_have_one_spelling() -> None:
    assert tokens("Let $\\dfrac{1}{2}+x\\leq 1{,}000$.") == tokens("let \\(\\frac12 + x \\le 1,000\\)")
    assert tokens("a [asy] draw(1); [/asy] b") == ["a", "b"]
    assert numbers(tokens("1 and 1 and 2.5")) == {"1": 2, "2.5": 1}
    assert shingles(["a", "b", "c"], 2) == {("a", "b"), ("b", "c")} and shingles(["a"], 5) == {("a",)}


def test_the_same_a_variant_and_neither() -> None:
    known = Known(PROBLEMS)
    same = known.matches(
        "Solve: find the sum of all positive integers n such that $n^2+12n-2007$ is a perfect square. Thanks!"
    )
    assert [(m.at, m.kind, m.contained) for m in same] == [(0, "same", 1.0)]
    other = known.matches(PROBLEMS[0].replace("2007", "2008"))
    assert [(m.at, m.kind) for m in other] == [(0, "variant")]
    assert known.matches("Find the sum of all positive integers $n$ that divide $2007$.") == []
    assert known.matches("Compute $\\sin 0^\\circ$")[0].kind == "same", "shorter than a run"
    assert known.matches("") == []


def test_words_miss_what_is_short_and_mark_what_is_boilerplate() -> None:
    boilerplate = "Find the sum of all positive integers that are prime and less than a hundred."
    by_words = Known(PROBLEMS, "words-6")
    assert by_words.matches(boilerplate) and not Known(PROBLEMS).matches(boilerplate)
    assert not Known(PROBLEMS, "words-8").matches(PROBLEMS[2])


def test_planted_leaks_are_found_in_every_disguise(data: Path) -> None:
    problems = [row["problem"] for row in json.loads((data / "benchmarks" / "math500.json").read_text())]
    found = recall(problems, "latex", seed=0)
    assert set(found) == set(DISGUISES) and min(found.values()) > 0.99
    words = recall(problems, "words-13", seed=0)
    assert all(words[name] < found[name] for name in found)


def test_the_problems_that_aime_shares_with_math500(data: Path) -> None:
    def problems(file: str) -> list[str]:
        text = (data / file).read_text()
        rows = json.loads(text) if file.endswith("json") else [json.loads(line) for line in text.splitlines()]
        return [row["problem"] for row in rows]

    pool = problems("pools/aime_1983_2023.json")
    hits = mark(problems("benchmarks/math500.json"), pool, "latex")
    same = [(text, match) for kind, text, match in hits if kind == "same"]
    exact = {" ".join(t.split()) for t in pool} & {" ".join(t.split()) for t in problems("benchmarks/math500.json")}
    assert len(same) == 10 and exact <= {" ".join(text.split()) for text, _ in same}
    assert mark(problems("benchmarks/aime24.jsonl"), pool, "latex") == []
    assert len(mark(problems("benchmarks/aime24.jsonl"), pool, "words-8")) > 200, "boilerplate of contests"


@pytest.mark.parametrize("name", list(DISGUISES))
def test_a_disguise_changes_the_text_but_for_the_first(name: str) -> None:
    import random

    changed = DISGUISES[name](PROBLEMS[0] + " $\\frac{1}{2}$", random.Random(3))
    assert (changed == PROBLEMS[0] + " $\\frac{1}{2}$") == (name == "as it is")
