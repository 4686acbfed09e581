"""The choice by cover: greedy against brute force on vectors worked by hand, and whole on texts of three topics."""

import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from curation.stages.score import percentile_ranks
from curation.stages.spread import choose_centers, embed, spread
from limo.data import Example, chat
from limo.errors import UserError
from tests.conftest import split

SETTINGS: dict[str, Any] = {
    "k": 3,
    "by": "score",
    "among": None,
    "quality": 0.0,
    "embedding": "tfidf",
    "dimensions": 8,
    "seed": 0,
}
TOPICS = {
    "prob": "A fair coin is tossed {} times. What is the probability that heads comes up exactly twice?",
    "geo": "In triangle $ABC$ the side $AB$ is {}. Find the radius of the circumscribed circle of the triangle.",
    "poly": "Let $P(x) = x^3 - {}x + 1$ be a polynomial with roots $a, b, c$. Compute the sum of squares of its roots.",
}


def example(key: str, question: str, score: float) -> Example:
    return Example(key, chat(question), "5", "a chain", scores={"score": score})


def topics() -> list[Example]:
    """Nine problems, three of each topic; the best three scores are all probability."""
    named = [(name, n, text.format(n)) for name, text in TOPICS.items() for n in (5, 6, 7)]
    return [example(f"{name}{n}", text, 1 - i / 10) for i, (name, n, text) in enumerate(named)]


def angles(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane."""
    turned = np.radians(degrees)
    return np.column_stack([np.cos(turned), np.sin(turned)]).astype(np.float32)


def cloud(seed: int, n: int, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Random unit vectors and ranks, the first the best."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, d))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), percentile_ranks(-np.arange(n, dtype=float))


def radius(vectors: np.ndarray, chosen: Iterable[int]) -> float:
    gaps = vectors[:, None].astype(float) - vectors[list(chosen)].astype(float)
    return float(np.linalg.norm(gaps, axis=2).min(axis=1).max())


def test_k_center_by_hand() -> None:
    vectors, flat = angles(0, 10, 90, 100, 180), np.full(5, 0.5)
    # From 0 the farthest is 180; then 90, which is 90 from both, before 100, which is 80 from 180; then 10 and 100 tie
    assert choose_centers(vectors, 5, flat, 0.0) == [0, 4, 2, 1, 3]
    assert choose_centers(vectors, 1, np.array([0, 0, 1, 0, 0]), 0.0) == [2], "the best score begins"


def test_k_center_with_a_share_of_the_score_by_hand() -> None:
    vectors, ranks = angles(0, 60, 180), np.array([1.0, 0.75, 0.0])
    # Distances from 0 are 1 and 2: gains 0.5 (1-q) + 0.75 q against 1-q, equal at q = 0.4
    assert choose_centers(vectors, 2, ranks, 0.39) == [0, 2]
    assert choose_centers(vectors, 2, ranks, 0.41) == [0, 1]


def test_quality_1_is_the_score_alone_and_ties_go_to_the_first() -> None:
    vectors, _ = cloud(0, 30)
    ranks = percentile_ranks(np.repeat([3.0, 2.0, 1.0], 10))
    assert choose_centers(vectors, 30, ranks, 1.0) == list(range(30))
    assert choose_centers(np.repeat(vectors[:1], 5, axis=0), 5, ranks[:5], 0.0) == list(range(5)), "five times the same"


@pytest.mark.parametrize("seed", range(5))
def test_k_center_keeps_its_promise(seed: int) -> None:
    vectors, ranks = cloud(seed, 8)
    best = min(radius(vectors, some) for some in combinations(range(8), 3))
    assert best - 1e-6 <= radius(vectors, choose_centers(vectors, 3, ranks, 0.0)) <= 2 * best


def test_one_of_each_topic() -> None:
    kept, dropped = split(spread(topics(), **SETTINGS))
    assert {r.id[:-1] for r in kept} == set(TOPICS)
    more, none = split(spread(topics(), **{**SETTINGS, "k": 50}))
    assert more[:3] == kept and len(more) == 9 and not none, "a longer choice begins with the shorter one"
    assert [r.scores["spread_rank"] for r in kept] == [0.0, 1.0, 2.0]
    assert {d.reason for d in dropped} == {"a chosen problem is close to it"} and len(dropped) == 6
    for row in dropped:
        cosine, of = row.detail.removeprefix("cosine ").split(" to ")
        assert float(cosine) > 0.5 and of[:-1] == row.id[:-1], "its own topic's is the nearest"
        assert row.data["id"] == row.id


def test_the_score_alone_and_the_best_few() -> None:
    kept, _ = split(spread(topics(), **{**SETTINGS, "quality": 1.0}))
    assert [r.id for r in kept] == ["prob5", "prob6", "prob7"]
    kept, dropped = split(spread(topics(), **{**SETTINGS, "among": 4, "k": 2}))
    assert [r.id for r in kept] == ["prob5", "geo5"]
    reasons = {d.id: (d.reason, d.detail) for d in dropped}
    assert reasons["geo6"] == ("not among the best 4 by score", "score 0.600")
    assert [k for k, (reason, _) in reasons.items() if reason.startswith("a chosen")] == ["prob6", "prob7"]


def test_the_order_of_rows_decides_nothing() -> None:
    rows = [example(r.id, r.question, round(r.scores["score"])) for r in topics()]  # five 1.0 and four 0.0: ties
    settings = {**SETTINGS, "among": 7, "quality": 0.4}
    first = split(spread(rows, **settings))
    assert first == split(spread(rows, **settings))
    for seed in range(3):
        shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        kept, dropped = split(spread(shuffled, **settings))
        assert kept == first[0] and sorted(d.id for d in dropped) == sorted(d.id for d in first[1])
        assert {d.id: d.detail for d in dropped} == {d.id: d.detail for d in first[1]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 0}, "spread.k must be at least 1, not 0"),
        ({"among": 0}, "spread.among must be at least 1, or null for all rows, not 0"),
        ({"quality": 1.5}, "spread.quality must be between 0"),
        ({"quality": -0.1}, "spread.quality must be between 0"),
        ({"by": "scor"}, "the row prob5 has no score 'scor'; did you mean 'score'?"),
        ({"dimensions": 0}, "spread.dimensions must be at least 1, not 0"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as raised:
        list(spread(topics(), **{**SETTINGS, **change}))
    assert said in str(raised.value)


def test_a_problem_that_comes_twice() -> None:
    rows = [*topics(), Example("rival", chat("again"), "5", scores={"score": 0.1}, problem="geo5")]
    with pytest.raises(UserError, match=r"the row rival comes twice"):
        list(spread(rows, **SETTINGS))


def test_tfidf_by_hand() -> None:
    # Terms of the two texts: x, y, "x y" and x, z, "x z"; x is in both: idf 1; the others 1 + ln(3/2)
    rare = 1 + np.log(3 / 2)
    vectors = embed(["x y", "x z"], model="tfidf", dimensions=64, seed=0)
    assert vectors.shape == (2, 2) and vectors.dtype == np.float32
    assert float(vectors[0] @ vectors[1]) == pytest.approx(1 / (1 + 2 * rare**2), abs=1e-6)


def test_vectors_are_of_unit_length_or_zero_and_the_same_each_time() -> None:
    texts = ["", *(r.question for r in topics()), " $ "]
    vectors = embed(texts, model="tfidf", dimensions=4, seed=0)
    assert vectors.shape == (11, 4)
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([0, *[1] * 9, 0], abs=1e-6)
    assert (vectors == embed(texts, model="tfidf", dimensions=4, seed=0)).all()
    assert not embed(["", ""], model="tfidf", dimensions=4, seed=0).any()


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model folder, and in place of sentence-transformers one that measures texts and refuses a broken folder."""

    class Measure:
        def __init__(self, folder: str, *, trust_remote_code: bool) -> None:
            assert not trust_remote_code
            if "broken" in (Path(folder) / "config.json").read_text():
                raise OSError("weights are missing\nand more")

        def encode(self, texts: list[str], *, show_progress_bar: bool) -> np.ndarray:
            return np.array([[3.0 * len(text), 4.0 * len(text), 0.0] for text in texts])

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Measure))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_model_of_sentence_transformers(encoder: Path) -> None:
    assert embed(["a", ""], model=str(encoder), dimensions=8, seed=0).ravel().tolist() == pytest.approx(
        [0.6, 0.8, 0, 0, 0, 0]
    )
    assert np.abs(embed(["a", "abc"], model=str(encoder), dimensions=1, seed=0)).ravel().tolist() == pytest.approx(
        [1, 1]
    )
    (encoder / "config.json").write_text("broken")
    with pytest.raises(UserError, match=r"cannot load the embedding model '.*': weights are missing$"):
        embed(["a"], model=str(encoder), dimensions=8, seed=0)
    with pytest.raises(UserError, match="no such model folder"):
        embed(["a"], model=str(encoder / "absent"), dimensions=8, seed=0)


def test_without_sentence_transformers_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"'org/name' needs a package: pip install 'limo-toolkit\[embed\]'"):
        embed(["a"], model="org/name", dimensions=8, seed=0)
