"""The LIMO score: a number for how a chain reasons.

Four features of the text (LIMO, arXiv 2502.03387v3, section 3, with its weights in `recipes/score/limo_v2.yaml`):
length 30 %, and the frequency of words of verification 20 %, exploration 25 % and connection 25 %, each frequency per
word of the chain (`eval/words.py`). Any other score of a row, such as `nll_inner` or `judge`, may be weighed in
addition to them or instead. The features see words and not steps: they cannot tell a false step from a true one, and
prefer filler. `python -m curation.evidence.probe` measures what a score can tell apart on your pool.

The paper does not state the scaling, which is needed: lengths are in the thousands, frequencies in the hundredths.
"rank" gives each value its percentile rank in the scored pool, and ties their middle rank: no outlier can decide, and a
weight of 30 % means 30 %. "zscore" is the distance to the mean in standard deviations, which keeps distances. A feature
in which all chains are equal is not counted.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Literal

import numpy as np

from curation.parallel import chunked, spread
from curation.stage import Direction, record, stage
from eval.words import COUNTED, features, word_lists
from limo.data import Example, Row
from limo.errors import UserError
from limo.recipe import InputPath, InputPaths, suggest

TEXT = ("length", *COUNTED)
BETTER: Mapping[str, Direction] = dict.fromkeys((*TEXT, "score"), "higher")
CONSTANT = "constant, not counted"  # the metric that names such features
ROUNDING = 1e-12  # relative difference of values that are equal
CHUNK = 2000  # chains sent to a process at once


def _check(*, weights: Mapping[str, float], words: InputPaths, **_: object) -> None:
    if abs(sum(map(abs, weights.values())) - 1) > 1e-9:
        raise UserError(f"score.weights must sum to 1 (their sizes, where some are negative): {weights}")
    word_lists(tuple(words))


@stage(
    "pool",
    reads=("{weights}",),
    writes=(*TEXT, "score"),
    better=dict.fromkeys((*TEXT, "score"), "higher"),
    check=_check,
)
def score(
    rows: Iterable[Example],
    /,
    *,
    weights: dict[str, float],
    words: InputPaths,
    scaling: Literal["rank", "zscore"],
) -> Iterator[Row]:
    """Add the four features, the scaled value of each weighed one, and `scores.score`, their weighted sum.

    Args: `weights` by feature or by a score that the rows have; their absolute values sum to 1, and with a negative
    weight lower is better. `words` names shipped lists (published, en, de, es, fr, zh) or YAML files, whose terms are
    combined. Goes through `rows` twice, and holds some numbers per row in between. The funnel names constant features.
    Raises UserError for weights that do not sum to 1 or name a missing score, and for an unknown word list.
    """
    _check(weights=weights, words=words)
    others = [name for name in weights if name not in TEXT]
    brought: list[list[float]] = []

    def texts() -> Iterator[str]:
        for row in rows:
            brought.append([read_score(row, name, "score.weights", TEXT) for name in others])
            yield row.completion

    measured = list(chain.from_iterable(spread(partial(_features, words=tuple(words)), chunked(texts(), CHUNK))))
    if not measured:
        return
    table = np.column_stack([np.array(measured, float), np.array(brought, float)])
    values = dict(zip((*TEXT, *others), table.T, strict=True))
    constant = [name for name in weights if np.ptp(values[name]) <= ROUNDING * np.abs(values[name]).max()]
    if constant:
        record(CONSTANT, ", ".join(constant))
    scale, top = (percentile_ranks, 1.0) if scaling == "rank" else (z_scores, 0.0)
    scaled = {name: scale(values[name]) for name in weights if name not in constant}
    total = sum(
        (abs(weights[n]) * (c if weights[n] >= 0 else top - c) for n, c in scaled.items()), np.zeros(len(table))
    )
    added = {"score": total} | {f"{name}_{scaling}": column for name, column in scaled.items()}
    for at, row in enumerate(rows):
        scores = {name: float(values[name][at]) for name in TEXT}
        scores |= {name: round(float(column[at]), 6) for name, column in added.items()}
        yield replace(row, scores={**row.scores, **scores})


def read_score(row: Example, name: str, where: str, more: Iterable[str] = ()) -> float:
    """Read a score of a row. Raises UserError if the row lacks it; `more` are names to suggest besides the
    row's own.
    """
    if name not in row.scores:
        raise UserError(f"{where}: the row {row.id} has no score '{name}'{suggest(name, [*more, *row.scores])}")
    return row.scores[name]


def _features(chains: list[str], words: tuple[str, ...]) -> list[tuple[float, float, float, float]]:
    lists = word_lists(words)
    return [features(text, lists) for text in chains]


def percentile_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks in [0, 1] of values (n,): the share of the other values that are smaller, with equal ones counted half.

    >>> percentile_ranks(np.array([1.0, 5.0, 5.0, 9.0])).tolist()
    [0.0, 0.5, 0.5, 1.0]
    """
    if len(values) < 2:
        return np.full(len(values), 0.5)
    from scipy.stats import rankdata

    return np.asarray((rankdata(values) - 1) / (len(values) - 1))


def z_scores(values: np.ndarray) -> np.ndarray:
    """Values (n,) in standard deviations from their mean.

    >>> z_scores(np.array([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """
    spread = values.std()
    return np.asarray((values - values.mean()) / spread if spread else np.zeros(len(values)))


@stage("row", writes=("tokens",))
def count_tokens(rows: Iterable[Example], /, *, tokenizer: InputPath) -> Iterator[Row]:
    """Add `scores.tokens`, the length of each chain in a model's tokens, which budgets and controls use.

    `tokenizer` is a model folder or Hub name; from the Hub only the tokenizer is downloaded.
    """
    encode = _tokenizer(tokenizer)
    for chunk in chunked(rows, 1000):
        found = encode([row.completion for row in chunk], add_special_tokens=False)["input_ids"]
        for row, ids in zip(chunk, found, strict=True):
            yield replace(row, scores={**row.scores, "tokens": float(len(ids))})


@lru_cache(maxsize=1)
def _tokenizer(name: str) -> Any:
    from limo.model import load_tokenizer, tokenizer_folder

    return load_tokenizer(tokenizer_folder(name))
