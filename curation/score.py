"""How a chain reasons, as a number: the LIMO score.

Four features of the text (LIMO, arXiv 2502.03387v3, section 3, with its weights in `recipes/score/limo_v2.yaml`):
length 30 %, and the frequency of words of verification 20 %, exploration 25 % and connection 25 %, each frequency per
word of the chain (`limo/words.py`). Any other number that a row has may be weighed beside or instead of them:
`perplexity`, `ifd`, `judge`, `reward`.

The paper leaves the scaling out, though it needs one: lengths are in the thousands, frequencies in the hundredths.
"rank" gives each value its percentile rank in the scored pool, ties sharing the middle: no outlier can decide, and a
weight of 30 % means 30 %. "minmax" puts the 1st percentile at 0 and the 99th at 1, which keeps distances. Under both, a
feature in which all chains are equal gives all 0.5.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from limo.data import Example, Row
from limo.errors import UserError
from limo.parallel import chunked, spread
from limo.recipe import near
from limo.words import COUNTED, features, word_lists

TEXT = ("length", *COUNTED)
CHUNK = 2000  # chains sent to a process at once


def score(
    rows: Iterable[Example],
    /,
    *,
    weights: dict[str, float],
    words: list[str],
    scaling: Literal["rank", "minmax"],
) -> Iterator[Row]:
    """Add the four features, the scaled value of each weighed one, and `scores.score`, their weighted sum in [0, 1].

    Args: `weights` by feature or by a score that the rows have, whose sizes sum to 1; with a negative weight less is
    better. `words` names shipped lists (published, en, de, es, fr, zh) or YAML files; the terms of all count. Goes
    through `rows` twice, and holds some numbers a row in between. Raises UserError for weights that do not sum to 1 or
    name what the rows do not have, and for a word list or scaling that there is not.
    """
    check(weights, words, scaling)
    values = measured(rows, words, weights)
    weighed, total = weighed_sum(values, weights, scaling)
    yield from scored(rows, values, weighed, total, scaling)


def check(weights: Mapping[str, float], words: Sequence[str], scaling: str) -> None:
    """Raise UserError for weights that do not sum to 1, and for a word list or a scaling that there is not."""
    for name, weight in weights.items():
        if not isinstance(weight, int | float):
            raise UserError(f"score.weights.{name} must be a number, not {weight!r}")
    if abs(sum(map(abs, weights.values())) - 1) > 1e-9:
        raise UserError(f"score.weights must sum to 1 (their sizes, where some are negative): {weights}")
    if scaling not in ("rank", "minmax"):
        raise UserError(f"score.scaling must be rank or minmax, not '{scaling}'")
    word_lists(tuple(words))  # a list that is not there is told before the work


def weighed_sum(
    values: Mapping[str, np.ndarray], weights: Mapping[str, float], scaling: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each weighed column of values (n,) brought to scale over all rows, and the weighted sum (n,)."""
    scale = percentile_ranks if scaling == "rank" else between_percentiles
    weighed = {name: scale(values[name]) for name in weights}
    total = sum(abs(w) * (weighed[n] if w >= 0 else 1 - weighed[n]) for n, w in weights.items())
    assert isinstance(total, np.ndarray)
    return weighed, total


def scored(
    rows: Iterable[Example],
    values: Mapping[str, np.ndarray],
    weighed: Mapping[str, np.ndarray],
    total: np.ndarray,
    scaling: str,
) -> Iterator[Example]:
    """The rows with their numbers: columns of values, of scaled values and of sums, each (n,)."""
    for at, row in enumerate(rows):
        named = {name: float(values[name][at]) for name in TEXT}
        scaled = {f"{name}_{scaling}": round(float(column[at]), 6) for name, column in weighed.items()}
        yield replace(row, scores={**row.scores, **named, **scaled, "score": round(float(total[at]), 6)})


def measured(rows: Iterable[Example], words: Sequence[str], weights: Iterable[str]) -> dict[str, np.ndarray]:
    """Each feature, and each other weighed score, of all rows: columns (n,). Raises UserError if a row lacks one."""
    others = [name for name in weights if name not in TEXT]
    columns = {name: array("d") for name in (*TEXT, *others)}

    def texts() -> Iterator[str]:
        for row in rows:
            for name in others:
                if name not in row.scores:
                    raise UserError(
                        f"score.weights: the row {row.id} has no '{name}'{near(name, [*TEXT, *row.scores])}"
                    )
                columns[name].append(row.scores[name])
            yield row.completion

    for found in spread(partial(_features, words=tuple(words)), chunked(texts(), CHUNK)):
        for name, column in zip(TEXT, zip(*found, strict=True), strict=True):
            columns[name].extend(column)
    return {name: np.frombuffer(column, dtype=np.float64) for name, column in columns.items()}


def _features(chains: list[str], words: tuple[str, ...]) -> list[tuple[float, float, float, float]]:
    lists = word_lists(words)
    return [features(text, lists) for text in chains]


def percentile_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks in [0, 1] of values (n,): the share of the others that are smaller, equal ones counted half.

    >>> percentile_ranks(np.array([1.0, 5.0, 5.0, 9.0])).tolist()
    [0.0, 0.5, 0.5, 1.0]
    """
    if len(values) < 2:
        return np.full(len(values), 0.5)
    order = np.sort(values)
    below = np.searchsorted(order, values, "left")
    upto = np.searchsorted(order, values, "right")
    return np.asarray((below + upto - 1) / 2 / (len(values) - 1))


def between_percentiles(values: np.ndarray) -> np.ndarray:
    """Values (n,) on the line from their 1st percentile at 0 to their 99th at 1, and no further.

    >>> between_percentiles(np.array([0.0, 50.0, 100.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    if not len(values):
        return values
    low, high = np.percentile(values, [1, 99])
    if high <= low:
        return np.full(len(values), 0.5)
    return np.asarray(np.clip((values - low) / (high - low), 0, 1))


def tokens(rows: Iterable[Example], /, *, tokenizer: str) -> Iterator[Row]:
    """Add `scores.tokens`, the length of each chain in the tokens of a model: what budgets and controls count in.

    `tokenizer` is a model folder or Hub name; of the latter only the tokenizer is downloaded.
    """
    from limo.model import load_tokenizer, tokenizer_folder

    encode = load_tokenizer(tokenizer_folder(tokenizer))
    for chunk in chunked(rows, 1000):
        found = encode([row.completion for row in chunk], add_special_tokens=False)["input_ids"]
        for row, ids in zip(chunk, found, strict=True):
            yield replace(row, scores={**row.scores, "tokens": float(len(ids))})
