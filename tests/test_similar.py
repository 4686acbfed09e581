"""Which problems are the same: tokens by hand, pairs of problems, planted leaks, real pools and benchmarks."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from curation.matching.known import Known, WordRuns
from curation.matching.leaks import find_leaks
from curation.matching.match import Text, align
from curation.matching.similar import numbers, tokens
from limo.errors import UserError
from tests.disguises import OTHER, SEEN
from tests.growth import in_proportion
from tests.leak_rules import rules

PROBLEMS = [
    "Find the sum of all positive integers $n$ such that $n^2 + 12n - 2007$ is a perfect square.",
    "What is the value of $\\frac{3}{4}$ of $\\left(\\frac{8}{9}\\right)$?",
    "Compute $\\sin 0^\\circ$.",
]


def problems_of(path: Path) -> list[str]:
    text = path.read_text()
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return [row["problem"] for row in rows]


def test_tokens_have_one_spelling() -> None:
    assert tokens("Let $\\dfrac{1}{2}+x\\leq 1{,}000$.") == tokens("let \\(\\frac12 + x \\le 1,000\\)")
    assert tokens("a [asy] draw(1); [/asy] b") == ["a", "b"]
    assert tokens("Question 7. θ ≤ 3²") == tokens("$\\theta \\leq 3^2$") and tokens("1/2") == tokens("\\frac12")
    assert numbers(tokens("1 and 1 and 2.5")) == {"1": 2, "2.5": 1}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("twelve of twenty-five", ["12", "of", "25"]),
        ("two hundred and one", ["201"]),
        ("one hundred twenty-one", ["121"]),
        ("five thousand two hundred and six men and two women", ["5206", "men", "and", "2", "women"]),
        ("two, three", ["2", "3"]),
        ("between one hundred and nine hundred ninety-nine", ["between", "100", "and", "999"]),
        ("one of them", ["one", "of", "them"]),
    ],
)
def test_numbers_in_words(text: str, read: list[str]) -> None:
    assert tokens(text) == read


@pytest.mark.parametrize(
    ("known", "text", "same"),
    [
        ("Natalia sold 48 clips.", "Amira sold forty-eight clips.", True),
        ("Tim has 3 dogs. Does Tim walk them?", "Lars has 3 dogs. Does Lars walk them?", True),
        ("Tim and Ann have 3 dogs; Tim has 2.", "Ann and Tim have 3 dogs; Tim has 2.", False),
        ("Find $x+y$ if $2x=y$ and $y=4$.", "Find $a+b$ if $2a=b$ and $b=4$.", True),
        ("Find $x$ if $xy=12$ and $y<x$.", "Find $y$ if $xy=12$ and $y<x$.", False),
        ("How many ways are there to arrange PROOF?", "How many ways are there to arrange RADII?", False),
        ("Is the sum of 3 primes odd?", "Is the product of 3 primes odd?", False),
        ("Is the sum of 3 primes odd?", "Is the sum of 3 primes not odd?", False),
        ("Is the smallest of 3 primes odd?", "Is the smalest of the 3 primes odd?", True),
        ("What is the $x$-intercept of $y=3$?", "What is the $z$-intercept of $y=3$?", False),
        ("<p>How many of 3 primes are odd?</p>", "HOW MANY OF 3 PRIMES ARE ODD?\n(Take your time.)", True),
        ("A store opens on Monday for 3 hours.", "A store opens on Friday for 3 hours.", False),
    ],
)
def test_what_differs_decides(known: str, text: str, same: bool) -> None:
    assert align(Text(known), Text(text), holds=False).same == same


def test_the_same_a_variant_and_neither() -> None:
    known = Known(PROBLEMS)
    same = known.matches("Solve: find the sum of all positive integers n such that $n^2+12n-2007$ is a perfect square.")
    assert [(m.at, m.kind) for m in same] == [(0, "same")]
    other = known.matches(PROBLEMS[0].replace("2007", "2008"))
    assert [(m.at, m.kind) for m in other] == [(0, "variant")]
    half = known.matches("Find the sum of all positive integers $n$ such that $n^2 + 12n$")
    assert [(m.at, m.kind) for m in half] == [(0, "related")]
    assert known.matches("Find the sum of all positive integers $n$ that divide $2007$.") == []
    assert known.matches("Compute $\\sin 0^\\circ$")[0].kind == "same", "shorter than a run"
    assert known.matches("") == []


def test_words_miss_what_is_short_and_mark_what_is_boilerplate() -> None:
    boilerplate = "Find the sum of all positive integers that are prime and less than a hundred."
    assert WordRuns(PROBLEMS, 6).matches(boilerplate) and not Known(PROBLEMS).matches(boilerplate)
    assert not WordRuns(PROBLEMS, 8).matches(PROBLEMS[2])


@pytest.mark.parametrize("name", [*SEEN, *OTHER])
def test_planted_leaks_are_found_in_every_disguise(name: str, data: Path) -> None:
    """As often as by a run of eight words, within three of a hundred."""
    problems = problems_of(data / "benchmarks" / "math500.json")
    lookups, seeded = rules(problems), random.Random(0)
    planted = [(at, new) for at, text in enumerate(problems) if (new := (SEEN | OTHER)[name](text, seeded)) != text]
    found = {rule: sum(at in lookups[rule](text) for at, text in planted) for rule in ("ours", "words-8")}
    assert found["ours"] >= found["words-8"] - 0.03 * len(planted)
    assert name in ("first half", "last sentence changed") or found["ours"] >= 0.95 * len(planted)


def test_the_problems_that_aime_shares_with_math500(data: Path) -> None:
    pool = problems_of(data / "pools/aime_1983_2023.json")
    math500 = problems_of(data / "benchmarks/math500.json")
    known = Known(math500)
    found = {text: hits[0] for text in pool if (hits := known.matches(text))}
    kinds = [hit.kind for hit in found.values()]
    assert kinds.count("same") == 7 and kinds.count("variant") == 0 and kinds.count("related") <= 5
    exact = {" ".join(t.split()) for t in pool} & {" ".join(t.split()) for t in math500}
    assert exact <= {" ".join(text.split()) for text, hit in found.items() if hit.kind == "same"}
    aime24 = problems_of(data / "benchmarks/aime24.jsonl")
    assert not any(hit.kind == "same" for text in pool for hit in Known(aime24).matches(text))
    assert sum(bool(WordRuns(aime24, 8).matches(text)) for text in pool) > 200, "boilerplate of contests"


def test_siblings_of_a_template_are_not_the_same(data: Path) -> None:
    known = Known(problems_of(data / "benchmarks/math500.json"))
    pool = problems_of(data / "pools/math_train.json")
    assert not [text for text in pool if any(hit.kind == "same" for hit in known.matches(text))]


@pytest.mark.parametrize(
    "text",
    [
        lambda size: "$" * size,
        lambda size: "[asy]" * (size // 5),
        lambda size: "a " * (size // 2),
        lambda size: "x+" * (size // 2),
        lambda size: "twenty-" * (size // 7),
        lambda size: PROBLEMS[0] * (size // 90),
        lambda size: "\\text{" * (size // 6),
        lambda size: " \n" * (size // 2),
    ],
)
def test_a_long_text_takes_time_in_proportion(text: Callable[[int], str]) -> None:
    known = Known(PROBLEMS)
    assert in_proportion(lambda size: known.matches(text(size)), 50_000)


def test_leaks_in_texts_without_answers(tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"id": "p7", "problem": "What is the sum of the first 20 odd numbers?", "answer": "400"}\n')
    texts = [
        "Tell me: what is the sum of the first 20 odd numbers?",
        "What is the sum of the first 30 odd numbers?",
        "Name the capital of France.",
    ]
    assert find_leaks(texts, [str(held_out)]) == ["held_out/p7", "held_out/p7", None]
    assert find_leaks(iter(texts), {"mine": {"path": str(held_out)}}, variants=False) == ["mine/p7", None, None]
    with pytest.raises(UserError, match="no such file"):
        find_leaks(texts, [str(tmp_path / "none.jsonl")])
