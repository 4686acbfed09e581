"""pass@k, maj@k and the parts of a benchmark, by hand."""

from itertools import combinations
from typing import Any

import pytest

from eval.metrics import ks, majority_at_k, parts, pass_at_k, votes


def completions(text: str, right: str = "a") -> list[dict[str, Any]]:
    """`aab-` is four completions: two with the answer a, one with b, one without."""
    return [{"extracted": None if c == "-" else c, "verdict": "correct" if c == right else "wrong"} for c in text]


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one() -> None:
    for n, c, k in ((4, 1, 2), (5, 2, 3), (16, 3, 8), (3, 0, 2), (3, 3, 1)):
        subsets = list(combinations([i < c for i in range(n)], k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    with pytest.raises(ValueError, match="pass@3 of 2"):
        pass_at_k(2, 1, 3)
    assert ks(1) == [1] and ks(6) == [1, 2, 4, 6] and ks(16) == [1, 2, 4, 8, 16]


def test_votes_group_equal_answers() -> None:
    answers = [{"extracted": e} for e in ("\\frac12", "0.5", None, "2", "1/2")]
    assert votes(answers) == [0, 0, -1, 1, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("aab", 1.0), ("abb", 0.0), ("ab", 0.5), ("abc", 1 / 3), ("---", 0.0), ("a--", 1.0), ("aabb", 0.5)],
)
def test_majority_by_hand(text: str, expected: float) -> None:
    assert majority_at_k(completions(text), len(text)) == pytest.approx(expected)


def test_majority_of_fewer_is_the_mean_over_subsets() -> None:
    found = completions("aaabb")
    exact = sum(majority_at_k(list(c), 3) for c in combinations(found, 3)) / 10
    assert majority_at_k(found, 3) == pytest.approx(exact)
    assert majority_at_k(found, 1) == pytest.approx(0.6), "maj@1 is pass@1"
    many = completions("a" * 6 + "b" * 10)
    assert majority_at_k(many, 7, seed=1) == pytest.approx(majority_at_k(many, 7, seed=2), abs=0.12)
    assert majority_at_k(found, 3) == majority_at_k(found, 3), "the same subsets each time"


def test_parts_are_notes_that_divide_a_benchmark() -> None:
    rows = [
        {"notes": {"level": level, "url": f"u{level}", "subject": "algebra", "row": i}}
        for i, level in enumerate((2, 10, 1))
    ]
    found = parts(rows)
    assert list(found) == ["level"] and list(found["level"]) == ["1", "2", "10"]
