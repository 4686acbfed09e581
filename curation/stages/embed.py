"""Texts as vectors whose cosine says how much two problems are alike.

`tfidf`, the default, needs no model and no download: the LaTeX tokens of `curation.similar` and their pairs, weighted
by how rare they are, brought to a few dimensions by a truncated singular value decomposition (latent semantic analysis:
Deerwester et al. 1990). It knows which words and symbols go together, not what a problem means. A sentence-transformers
model knows more of that, and runs once for every text.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curation.similar import tokens
from limo.errors import UserError
from limo.machine import quiet_deepspeed
from limo.model import model_folder
from limo.recipe import InputPath

TERMS = 2**17  # the most frequent ones; those that one text alone has link it to nothing, and are most of all terms
NOISE = 1e-6  # a vector shorter than this is what float32 leaves of zero


def embed(texts: Iterable[str], *, model: InputPath, dimensions: int, seed: int) -> np.ndarray:
    """Vectors (n, d) float32 of unit length, d at most `dimensions`; a text with nothing to compare is all zeros.

    `model` is "tfidf", or a sentence-transformers model: a folder, `org/name` or `org/name@revision`. d is smaller than
    `dimensions` if there are fewer texts or terms, or if the model's own vectors are shorter. `seed` is that of the
    randomised decomposition (Halko et al. 2011): same texts in the same order, same vectors.
    Goes through `texts` once. Raises UserError if the model or its package is missing.
    """
    if dimensions < 1:
        raise UserError(f"dimensions must be at least 1, not {dimensions}")
    listed = list(texts)
    if not listed:
        return np.zeros((0, 1), np.float32)
    matrix = _tfidf(listed) if model == "tfidf" else _encoded(listed, model)
    return _unit(_reduced(matrix, dimensions, seed))


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


def _encoded(texts: Sequence[str], model: str) -> np.ndarray:
    """(n, width of the model) float32. Raises UserError if the package or the model is missing or does not load."""
    quiet_deepspeed()
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            f"the embedding '{model}' needs a package: pip install 'limo-toolkit[embed]'. 'tfidf' needs none"
        ) from None
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    # As that library has it, a bare name is one of its own models
    named = model if "/" in model or Path(model).is_dir() else f"sentence-transformers/{model}"
    folder = str(model_folder(named))
    try:
        encoder = SentenceTransformer(folder, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot load the embedding model '{model}': {reason}") from error
    return np.asarray(encoder.encode(texts, show_progress_bar=False), np.float32)


def _reduced(matrix: Any, dimensions: int, seed: int) -> np.ndarray:
    """(n, d) of (n, m): the coordinates along the `dimensions` directions in which the rows are largest."""
    from sklearn.utils.extmath import randomized_svd

    if isinstance(matrix, np.ndarray) and matrix.shape[1] <= dimensions:
        return matrix
    left, values, _ = randomized_svd(matrix, n_components=min(dimensions, *matrix.shape), random_state=seed)
    return np.asarray(left * values, np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > NOISE, vectors / np.maximum(length, NOISE), 0).astype(np.float32)
