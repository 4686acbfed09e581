"""Vectors of problems, for what is near to what: shares by cluster, and problems near a target."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curation.matching.similar import tokens
from limo.errors import UserError, need_package
from limo.machine import quiet_deepspeed
from limo.model import model_folder
from limo.recipe import InputPath

TERMS = 2**17  # the most frequent ones; a term that a single text has links it to nothing
NOISE = 1e-6  # what float32 leaves of a length that is zero


def embed(texts: Sequence[str], *, model: InputPath, dimensions: int, seed: int) -> np.ndarray:
    """Vectors (n, d) float32 of unit length, d at most `dimensions`; a text with nothing to compare is all zeros.

    `model` is "tfidf", or a sentence-transformers model: a folder, `org/name` or `org/name@revision`. tfidf needs no
    model and no download: LaTeX tokens and their pairs, weighted by how rare they are, reduced to a few dimensions by a
    truncated singular value decomposition (latent semantic analysis: Deerwester et al. 1990). `seed` is that of the
    randomised decomposition (Halko et al. 2011). Raises UserError if the model or its package is missing.
    """
    from sklearn.utils.extmath import randomized_svd

    matrix = _tfidf(texts) if model == "tfidf" else _encode(texts, model)
    if not isinstance(matrix, np.ndarray) or matrix.shape[1] > dimensions:
        left, values, _ = randomized_svd(matrix, n_components=min(dimensions, *matrix.shape), random_state=seed)
        matrix = left * values
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.where(length > NOISE, matrix / np.maximum(length, NOISE), 0).astype(np.float32)


def cluster(vectors: np.ndarray, count: int, seed: int) -> list[int]:
    """The k-means cluster of each of the vectors (n, d): a number from 0 to count - 1."""
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(vectors, axis=0)))
    return [int(label) for label in KMeans(count, n_init=4, random_state=seed).fit_predict(vectors)]


def _tfidf(texts: Sequence[str]) -> Any:
    """Sparse (n, terms) float32 of tokens and pairs: (1 + ln tf) (1 + ln((1 + n) / (1 + df))), rows of unit length."""
    from sklearn.feature_extraction.text import TfidfVectorizer

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
    return vectorizer.fit_transform(texts)


def _encode(texts: Sequence[str], model: str) -> np.ndarray:
    """(n, width of the model) float32. Raises UserError if the package or the model is missing or does not load."""
    quiet_deepspeed()
    need_package("sentence_transformers", "embed", f"the embedding '{model}'")
    from sentence_transformers import SentenceTransformer

    # In that library a bare name is one of its models
    named = model if "/" in model or Path(model).is_dir() else f"sentence-transformers/{model}"
    folder = str(model_folder(named))
    try:
        encoder = SentenceTransformer(folder, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot load the embedding model '{model}': {reason}") from error
    return np.asarray(encoder.encode(texts, show_progress_bar=False), np.float32)
