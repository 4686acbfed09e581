"""The choice by cover: k problems that stand for the whole pool, instead of k good ones of the same kind.

Farthest-first traversal (k-center) makes the problem that is farthest from every chosen one as near as it can: it
reaches for the rim of the pool, rare problems included. It is greedy: what was chosen stays chosen, so without a share
of the score the first m of k rows are the choice of m.

What is near is a matter of the embedding; nothing here looks at the chains. Put the stage
`curation.stages.choose.best_chain` before, which leaves one chain of each problem.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from curation.similar import tokens
from curation.stage import drop, stage
from curation.stages.score import percentile_ranks, read_score
from limo.data import Example, Row
from limo.errors import UserError
from limo.machine import quiet_deepspeed
from limo.model import model_folder
from limo.recipe import InputPath

TERMS = 2**17  # the most frequent ones; those that one text alone has link it to nothing, and are most of all terms
NOISE = 1e-6  # what float32 leaves of a difference, or of a length, that is zero


def _check(*, k: int, among: int | None, quality: float, dimensions: int, **_: object) -> None:
    if k < 1:
        raise UserError(f"spread.k must be at least 1, not {k}")
    if among is not None and among < 1:
        raise UserError(f"spread.among must be at least 1, or null for all rows, not {among}")
    if not 0 <= quality <= 1:
        raise UserError(f"spread.quality must be between 0 (cover alone) and 1 (the score alone), not {quality}")
    if dimensions < 1:
        raise UserError(f"spread.dimensions must be at least 1, not {dimensions}")


@stage("pool", reads=("{by}",), writes=("spread_rank",), check=_check)
def spread(
    rows: Iterable[Example],
    /,
    *,
    k: int,
    by: str,
    among: int | None,
    quality: float,
    embedding: InputPath,
    dimensions: int,
    seed: int,
) -> Iterator[Row]:
    """Keep `k` rows whose problems cover those of the best `among` rows by `scores[by]` (null: of all rows).

    `quality` in [0, 1] is the share of the score in each choice: 0 is cover alone, 1 the score alone (`choose_centers`
    says what lies between). `embedding`, `dimensions` and `seed` are those of `embed`. Chosen rows come in the order of
    their choice, which is `scores.spread_rank`; of fewer than `k` rows, all. The result does not depend on the order of
    rows, which are all in memory. Raises UserError for a setting out of range, a row without the score, or a problem
    that comes twice.
    """
    _check(k=k, among=among, quality=quality, dimensions=dimensions)
    listed = sorted(rows, key=lambda row: (-read_score(row, by, "spread.by"), row.id))
    seen = set[str]()
    for row in listed:
        if row.problem in seen:
            raise UserError(
                f"spread: the problem of the row {row.id} comes twice. Put the stage "
                "curation.stages.choose.best_chain before, which keeps the best chain of each problem"
            )
        seen.add(row.problem)
    candidates, others = listed[:among], listed[among:] if among else []
    for row in others:
        detail = f"{by} {row.scores[by]:.3f}"
        yield drop(row, f"not among the best {among} by {by}", detail)
    if not candidates:
        return
    vectors = embed([row.question for row in candidates], model=embedding, dimensions=dimensions, seed=seed)
    ranks = percentile_ranks(np.array([row.scores[by] for row in candidates]))
    chosen = choose_centers(vectors, min(k, len(candidates)), ranks, quality)
    cosines = vectors @ vectors[chosen].T
    for at, row in enumerate(candidates):
        if at not in chosen:
            nearest = int(cosines[at].argmax())
            detail = f"cosine {cosines[at, nearest]:.2f} to {candidates[chosen[nearest]].id}"
            yield drop(row, "a chosen problem is close to it", detail)
    for rank, row in enumerate(candidates[at] for at in chosen):
        yield replace(row, scores={**row.scores, "spread_rank": float(rank)})


def choose_centers(vectors: np.ndarray, k: int, ranks: np.ndarray, quality: float) -> list[int]:
    """Farthest-first traversal: the best-ranked row, then each time the one with the largest gain; ties to the first.

    vectors (n, d), ranks (n,) of the score in [0, 1], k at most n. Returns k places in the order of their choice.

    With D(i) the Euclidean distance of i to the nearest chosen row, the gain of i is
    (1 - quality) D(i) / max D + quality rank(i): the largest distance there still is counts as 1, so that the shares
    hold from the first choice to the last. With quality 0 no problem is farther from a chosen one than twice what the
    best k could do (Gonzalez 1985; for choosing data Sener & Savarese 2018, arXiv 1708.00489, section 4); with more of
    it nothing is promised. Takes O(n k d) time and O(n) memory beside the vectors.
    """
    squared = np.square(vectors).sum(axis=1)
    distance = np.full(len(vectors), np.inf)
    free = np.ones(len(vectors), bool)
    chosen = [int(np.argmax(ranks))]
    while len(chosen) < k:
        last = chosen[-1]
        free[last] = False
        # Rounded, since float32 knows no more and ties must be ties
        gap = np.round(squared + squared[last] - 2 * (vectors @ vectors[last]), 6)
        distance = np.minimum(distance, np.sqrt(np.maximum(gap, 0)))
        gain = (1 - quality) * distance / max(distance.max(), NOISE) + quality * ranks
        chosen.append(int(np.argmax(np.where(free, gain, -1))))
    return chosen


def embed(texts: Sequence[str], *, model: InputPath, dimensions: int, seed: int) -> np.ndarray:
    """Vectors (n, d) float32 of unit length, d at most `dimensions`; a text with nothing to compare is all zeros.

    `model` is "tfidf", or a sentence-transformers model: a folder, `org/name` or `org/name@revision`. tfidf needs no
    model and no download: LaTeX tokens and their pairs, weighted by how rare they are, brought to a few dimensions by a
    truncated singular value decomposition (latent semantic analysis: Deerwester et al. 1990). d is smaller than
    `dimensions` if there are fewer texts or terms, or if the model's own vectors are shorter. `seed` is that of the
    randomised decomposition (Halko et al. 2011): same texts in the same order, same vectors.
    Raises UserError if the model or its package is missing.
    """
    from sklearn.utils.extmath import randomized_svd

    matrix = _tfidf(texts) if model == "tfidf" else _encode(texts, model)
    if not isinstance(matrix, np.ndarray) or matrix.shape[1] > dimensions:
        left, values, _ = randomized_svd(matrix, n_components=min(dimensions, *matrix.shape), random_state=seed)
        matrix = left * values
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.where(length > NOISE, matrix / np.maximum(length, NOISE), 0).astype(np.float32)


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
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            f"the embedding '{model}' needs a package: pip install 'limo-toolkit[embed]'. 'tfidf' needs none"
        ) from None
    # In that library a bare name is one of its models
    named = model if "/" in model or Path(model).is_dir() else f"sentence-transformers/{model}"
    folder = str(model_folder(named))
    try:
        encoder = SentenceTransformer(folder, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot load the embedding model '{model}': {reason}") from error
    return np.asarray(encoder.encode(texts, show_progress_bar=False), np.float32)
