"""Which pages are of a kind, learned from examples: hashed n-grams and a linear classifier, the role of fastText.

fastText (Joulin et al. 2016, arXiv 1607.01759) learns word vectors of `dim` numbers and a linear layer on their mean.
Here the n-grams are hashed into `features` columns and the linear layer stands on these at once: scikit-learn's
HashingVectorizer and SGDClassifier. Nothing of a page is stored but its probability, and the work is spread over cores.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from limo.errors import UserError
from limo.parallel import chunked, spread

CHUNK = 2000  # pages sent to a process at once; fewer than two of these are worked here
LONGEST = 20_000  # characters of a page that are looked at


@dataclass(frozen=True, slots=True)
class Learning:
    """How a classifier learns."""

    ngrams: int  # runs of up to so many words
    features: int  # columns that they are hashed into
    epochs: int
    rate: float

    def __post_init__(self) -> None:
        if self.ngrams < 1 or self.features < 2 or self.epochs < 1 or self.rate <= 0:
            raise UserError(f"a classifier needs ngrams, features, epochs and rate above 0: {self}")


@dataclass(frozen=True, slots=True)
class Quality:
    """How a classifier does on pages it has not learned from, at a threshold."""

    precision: float
    recall: float
    positives: int
    negatives: int

    def __str__(self) -> str:
        said = f"precision {self.precision:.3f}, recall {self.recall:.3f}"
        return f"{said} of {self.positives:,} and {self.negatives:,} others"


@dataclass(frozen=True, slots=True)
class Recogniser:
    """A linear classifier of texts."""

    learning: Learning
    weights: np.ndarray  # (features,)
    bias: float

    def scores(self, texts: Iterable[str]) -> Iterator[float]:
        """The probability of each text to be of the kind, in order; on all cores."""
        given = (self.learning, self.weights, self.bias)
        for chunk in spread(_scored, chunked(texts, CHUNK), start=_take, given=given):
            yield from chunk


def learned(positives: list[str], negatives: list[str], learning: Learning, seed: int) -> Recogniser:
    """A classifier that tells `positives` from `negatives`; logistic loss, both kinds weighing the same.

    Raises UserError if there are none of a kind.
    """
    from scipy.sparse import vstack
    from sklearn.linear_model import SGDClassifier

    if not positives or not negatives:
        raise UserError(
            f"a classifier needs pages of both kinds, not {len(positives)} positive and {len(negatives)} others"
        )
    texts = [*positives, *negatives]
    columns = vstack(list(spread(_vectors, ((learning, chunk) for chunk in chunked(texts, CHUNK)))))
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    model = SGDClassifier(
        loss="log_loss",
        penalty=None,
        learning_rate="constant",
        eta0=learning.rate,
        max_iter=learning.epochs,
        tol=None,
        class_weight="balanced",
        random_state=seed,
    ).fit(columns, labels)
    return Recogniser(learning, model.coef_[0].astype(np.float32), float(model.intercept_[0]))


def quality(recogniser: Recogniser, positives: list[str], negatives: list[str], threshold: float) -> Quality:
    """Precision and recall on pages of which the kind is known. Precision is that of as many positives as negatives."""
    found = np.fromiter(recogniser.scores([*positives, *negatives]), dtype=float) >= threshold
    hits, false = (
        found[: len(positives)].mean() if positives else 0.0,
        found[len(positives) :].mean() if negatives else 0.0,
    )
    precision = hits / (hits + false) if hits + false else 0.0
    return Quality(float(precision), float(hits), len(positives), len(negatives))


def _vectors(work: tuple[Learning, list[str]]) -> Any:
    """Rows of hashed n-grams, of length 1: sparse (texts, features)."""
    from sklearn.feature_extraction.text import HashingVectorizer

    learning, texts = work
    hashed = HashingVectorizer(
        ngram_range=(1, learning.ngrams),
        n_features=learning.features,
        alternate_sign=False,
        norm="l2",
        token_pattern=r"\\?\w+|[=+^$?]",
        dtype=np.float32,
    )
    return hashed.transform(text[:LONGEST] for text in texts)


_model: tuple[Learning, np.ndarray, float]  # of this process


def _take(learning: Learning, weights: np.ndarray, bias: float) -> None:
    global _model
    _model = (learning, weights, bias)


def _scored(texts: list[str]) -> list[float]:
    learning, weights, bias = _model
    sums = _vectors((learning, texts)) @ weights + bias
    return [float(value) for value in 1 / (1 + np.exp(-np.clip(sums, -30, 30)))]
