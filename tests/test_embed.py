"""Vectors of problems: tf-idf by hand."""

import numpy as np
import pytest

from curation.matching.embed import cluster, embed

TOPICS = (
    "A fair coin is tossed {} times. What is the probability that heads comes up exactly twice?",
    "In triangle $ABC$ the side $AB$ is {}. Find the radius of the circumscribed circle of the triangle.",
    "Let $P(x) = x^3 - {}x + 1$ be a polynomial with roots $a, b, c$. Compute the sum of squares of its roots.",
)
TEXTS = [text.format(n) for text in TOPICS for n in (5, 6, 7)]


def test_clusters_are_the_topics() -> None:
    found = cluster(embed(TEXTS, dimensions=8, seed=0), 3, seed=0)
    assert [len(set(found[at : at + 3])) for at in (0, 3, 6)] == [1, 1, 1] and len(set(found)) == 3
    assert set(cluster(np.ones((4, 2), np.float32), 3, seed=0)) == {0}, "no more clusters than different vectors"


def test_tfidf_by_hand() -> None:
    # Terms of the two texts: x, y, "x y" and x, z, "x z"; x is in both: idf 1; the others 1 + ln(3/2)
    rare = 1 + np.log(3 / 2)
    vectors = embed(["x y", "x z"], dimensions=64, seed=0)
    assert vectors.shape == (2, 2) and vectors.dtype == np.float32
    assert float(vectors[0] @ vectors[1]) == pytest.approx(1 / (1 + 2 * rare**2), abs=1e-6)


def test_vectors_are_of_unit_length_or_zero_and_the_same_each_time() -> None:
    texts = ["", *TEXTS, " $ "]
    vectors = embed(texts, dimensions=4, seed=0)
    assert vectors.shape == (11, 4)
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([0, *[1] * 9, 0], abs=1e-6)
    assert (vectors == embed(texts, dimensions=4, seed=0)).all()
    assert not embed(["", ""], dimensions=4, seed=0).any()
