"""Embeddings of problems, for shares by cluster and for problems near a target."""

from collections.abc import Sequence

import numpy as np

from curation.matching.similar import tokens

TERMS = 2**17  # only the most frequent terms are used; a term of a single text links it to no other
NOISE = 1e-6  # lengths below this are rounding errors of zero in float32


def embed(texts: Sequence[str], *, dimensions: int, seed: int) -> np.ndarray:
    """Vectors (n, d) float32 of unit length, d at most `dimensions`; zeros for a text without shared terms.

    LaTeX tokens and their pairs, weighted by how rare they are, (1 + ln tf) (1 + ln((1 + n) / (1 + df))), in rows of
    unit length, reduced to a few dimensions by a truncated singular value decomposition (latent semantic analysis:
    Deerwester et al. 1990). `seed` is that of the randomised decomposition (Halko et al. 2011).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    if not any(tokens(text) for text in texts):
        return np.zeros((len(texts), 1), np.float32)  # scikit-learn refuses texts without a term
    vectorizer = TfidfVectorizer(
        tokenizer=tokens,
        token_pattern=None,
        lowercase=False,
        ngram_range=(1, 2),
        max_features=TERMS,
        sublinear_tf=True,
        dtype=np.float32,
    )
    matrix = vectorizer.fit_transform(texts)
    left, values, _ = randomized_svd(matrix, n_components=min(dimensions, *matrix.shape), random_state=seed)
    vectors = left * values
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > NOISE, vectors / np.maximum(length, NOISE), 0).astype(np.float32)


def cluster(vectors: np.ndarray, count: int, seed: int) -> list[int]:
    """The k-means cluster of each of the vectors (n, d): a number from 0 to count - 1."""
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(vectors, axis=0)))
    return [int(label) for label in KMeans(count, n_init=4, random_state=seed).fit_predict(vectors)]
