"""Vectors of problems: tf-idf by hand, and a stand-in for sentence-transformers."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from curation.stages.embed import cluster, embed
from limo.errors import UserError

TOPICS = (
    "A fair coin is tossed {} times. What is the probability that heads comes up exactly twice?",
    "In triangle $ABC$ the side $AB$ is {}. Find the radius of the circumscribed circle of the triangle.",
    "Let $P(x) = x^3 - {}x + 1$ be a polynomial with roots $a, b, c$. Compute the sum of squares of its roots.",
)
TEXTS = [text.format(n) for text in TOPICS for n in (5, 6, 7)]


def test_clusters_are_the_topics() -> None:
    found = cluster(embed(TEXTS, model="tfidf", dimensions=8, seed=0), 3, seed=0)
    assert [len(set(found[at : at + 3])) for at in (0, 3, 6)] == [1, 1, 1] and len(set(found)) == 3
    assert set(cluster(np.ones((4, 2), np.float32), 3, seed=0)) == {0}, "no more clusters than different vectors"


def test_tfidf_by_hand() -> None:
    # Terms of the two texts: x, y, "x y" and x, z, "x z"; x is in both: idf 1; the others 1 + ln(3/2)
    rare = 1 + np.log(3 / 2)
    vectors = embed(["x y", "x z"], model="tfidf", dimensions=64, seed=0)
    assert vectors.shape == (2, 2) and vectors.dtype == np.float32
    assert float(vectors[0] @ vectors[1]) == pytest.approx(1 / (1 + 2 * rare**2), abs=1e-6)


def test_vectors_are_of_unit_length_or_zero_and_the_same_each_time() -> None:
    texts = ["", *TEXTS, " $ "]
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
    with pytest.raises(UserError, match=r"'org/name' .* not installed: pip install 'limo-toolkit\[embed\]'"):
        embed(["a"], model="org/name", dimensions=8, seed=0)
