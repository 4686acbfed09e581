"""Comparisons by hand, and benchmarks that must be whole."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.benchmarks import load_benchmarks
from eval.intervals import paired, share, wilson
from eval.metrics import correct_share
from eval.run import grade_rows, summarize
from limo.data import Example, Message, chat
from limo.engines.protocol import Completion
from limo.errors import UserError


def outcomes(text: str) -> dict[str, float]:
    return {f"p{i}": float(c) for i, c in enumerate(text)}


def test_wilson_by_hand() -> None:
    # 8 of 10: Wilson 1927; the textbook values are 0.490 and 0.943
    low, high = wilson(0.8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert wilson(1.0, 30)[1] == 1.0


def test_share_is_wilson_for_single_and_bootstrap_for_several_completions() -> None:
    assert (share(outcomes("1111111100"), 100, 0).low, share(outcomes("1111111100"), 100, 0).n) == (
        wilson(0.8, 10)[0],
        10,
    )
    values = {f"p{i}": v for i, v in enumerate([0.0, 0.25, 0.5, 0.75, 1.0] * 40)}
    interval = share(values, 4000, 0)
    half = 1.96 * np.std(list(values.values())) / math.sqrt(200)
    assert interval.mean == 0.5 and abs(interval.high - 0.5 - half) < 0.01 and abs(0.5 - interval.low - half) < 0.01


def test_a_paired_difference_by_hand() -> None:
    before, after = outcomes("1100000000" * 10), outcomes("1011110000" * 10)
    d = paired(before, after, 4000, 0)
    assert d.mean == pytest.approx(0.3) and d.n == 100
    assert (len(d.gained), len(d.lost)) == (40, 10)
    # differences: 40 of +1, 10 of -1, 50 of 0: standard error sqrt(0.5 - 0.09)/10 = 0.064
    assert d.low == pytest.approx(0.3 - 1.96 * 0.064, abs=0.02) and d.high == pytest.approx(
        0.3 + 1.96 * 0.064, abs=0.02
    )
    # exact binomial for 40 of 50: 2.4e-5
    assert d.p < 0.001
    assert paired(before, after, 4000, 0) == d, "the same seed gives the same interval"


def test_the_interval_of_matched_proportions_by_hand() -> None:
    # 2 gained, 1 lost of 10: (2.5 - 1.5)/12 = 0.0833, half 1.96 * sqrt(4 - 1/12)/12 = 0.3232
    d = paired(outcomes("0010000000"), outcomes("1100000000"), 100, 0)
    assert (round(d.low, 4), round(d.high, 4), d.mean) == (-0.2399, 0.4066, pytest.approx(0.1))
    none = paired(outcomes("1" * 60), outcomes("1" * 60), 100, 0)
    assert round(none.high, 3) == 0.032 and none.p == 1.0, "no flip in 60 problems is no proof that none can flip"


def test_no_difference_has_a_large_p_and_an_interval_around_zero() -> None:
    d = paired(outcomes("1010" * 20), outcomes("0101" * 20), 2000, 0)
    assert d.mean == 0 and d.low < 0 < d.high and d.p > 0.9


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random, hits = np.random.default_rng(0), 0
    for trial in range(200):
        a, b = random.random(150) < 0.3, random.random(150) < 0.4
        d = paired({str(i): float(v) for i, v in enumerate(a)}, {str(i): float(v) for i, v in enumerate(b)}, 400, trial)
        hits += d.low <= 0.1 <= d.high
    assert 0.90 <= hits / 200 <= 0.99


def test_other_problems_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="the same problems: 2 and 1, 1 shared"):
        paired(outcomes("10"), outcomes("1"), 10, 0)


def lines() -> list[dict[str, Any]]:
    row = Example("a", chat("1+1?"), "2", notes={"level": 1})
    answers = [Completion("\\boxed{2}", 5, "stop"), Completion("it is 3", 4, "stop"), Completion("hm", 9, "length")]
    return grade_rows([row, Example("b", chat("?"), "")], [answers, answers[:1] * 3])


def test_every_completion_is_kept_with_its_grade_and_unsure_is_counted_apart() -> None:
    rows = lines()
    assert [c["verdict"] for c in rows[0]["completions"]] == ["correct", "wrong", "wrong"]
    assert [c["verdict"] for c in rows[1]["completions"]] == ["unsure"] * 3
    assert correct_share(rows) == {"a": pytest.approx(1 / 3), "b": 0.0}
    summary = summarize({"x": [{"set": rows}], "y": [{"set": rows}]}, [["x", "y"]], 100, 0)
    found = summary["accuracy"]["x"]["set"]
    assert (found["unsure"], found["truncated"], found["tokens_per_answer"]) == (
        0.5,
        pytest.approx(1 / 6),
        pytest.approx(33 / 6),
    )
    assert summary["differences"][0]["mean"] == 0


def test_a_benchmark_with_an_unusable_row_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "", "answer": "2"}\n')
    node = {"_target_": "limo.sources.file", "path": str(path)}
    with pytest.raises(
        UserError, match=r"benchmark 'mine': 1 of 2 rows cannot be used; the first is .*b.jsonl, row 2: empty problem"
    ):
        load_benchmarks({"mine": node}, "")
    path.write_text('{"id": 7, "problem": "1+1?", "answer": "2"}\n' * 2)
    with pytest.raises(UserError, match="two rows have the id 'mine/7'"):
        load_benchmarks({"mine": node}, "")
    path.write_text('{"problem": "1+1?", "answer": "2"}\n')
    assert [r.prompt[0]["content"] for r in load_benchmarks({"mine": node}, "system")["mine"]] == ["system"]


def test_of_a_solution_that_was_begun_the_whole_is_judged() -> None:
    """Nothing more to say after a right answer is right, after a wrong one wrong; a later answer counts."""
    begun = [Message(role="assistant", content=f"So \\boxed{{{n}}}.") for n in (5, 6, 6)]
    rows = [Example(str(i), (*chat("?"), message), "5") for i, message in enumerate(begun)]
    said = [[Completion(text, 1, "stop")] for text in ("", "", "\nWait, no: \\boxed{5}.")]
    assert [r["completions"][0]["verdict"] for r in grade_rows(rows, said)] == ["correct", "wrong", "correct"]
