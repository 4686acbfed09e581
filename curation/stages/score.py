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

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from curation.stage import stage
from limo.data import Example, Row
from limo.errors import UserError
from limo.figures import tell
from limo.parallel import chunked, spread
from limo.recipe import InputPath, InputPaths, suggest
from limo.words import COUNTED, features, word_lists

if TYPE_CHECKING:
    import pandas as pd

TEXT = ("length", *COUNTED)
CONSTANT = "constant, not counted"  # the metric that names such features
CHUNK = 2000  # chains sent to a process at once


def _check(*, weights: Mapping[str, float], words: InputPaths, scaling: str) -> None:
    for name, weight in weights.items():
        if not isinstance(weight, int | float):
            raise UserError(f"score.weights.{name} must be a number, not {weight!r}")
    if abs(sum(map(abs, weights.values())) - 1) > 1e-9:
        raise UserError(f"score.weights must sum to 1 (their sizes, where some are negative): {weights}")
    if scaling not in ("rank", "minmax"):
        raise UserError(f"score.scaling must be rank or minmax, not '{scaling}'")
    word_lists(tuple(words))


@stage("pool", reads=("{weights}",), writes=(*TEXT, "score"), check=_check)
def score(
    rows: Iterable[Example],
    /,
    *,
    weights: dict[str, float],
    words: InputPaths,
    scaling: Literal["rank", "minmax"],
) -> Iterator[Row]:
    """Add the four features, the scaled value of each weighed one, and `scores.score`, their weighted sum in [0, 1].

    Args: `weights` by feature or by a score that the rows have, whose sizes sum to 1; with a negative weight less is
    better. `words` names shipped lists (published, en, de, es, fr, zh) or YAML files; the terms of all count. Goes
    through `rows` twice, and holds some numbers a row in between. A feature in which all chains are equal adds
    nothing to the sum, and the funnel names it. Raises UserError for
    weights that do not sum to 1 or name what the rows do not have, and for an unknown word list or scaling.
    """
    _check(weights=weights, words=words, scaling=scaling)
    values = measure(rows, words, weights)
    scale = percentile_ranks if scaling == "rank" else between_percentiles
    constant = [name for name in weights if len(values) > 1 and values[name].nunique() == 1]
    if constant:
        tell(CONSTANT, ", ".join(constant))
    scaled = {n: float(w < 0) if n in constant else scale(values[n].to_numpy()) for n, w in weights.items()}
    values["score"] = sum(abs(w) * (scaled[n] if w >= 0 else 1 - scaled[n]) for n, w in weights.items())
    found = values[[*TEXT, "score"]].assign(**{f"{name}_{scaling}": column for name, column in scaled.items()})
    found[found.columns[len(TEXT) :]] = found[found.columns[len(TEXT) :]].round(6)
    for row, numbers in zip(rows, found.to_dict("records"), strict=True):
        yield replace(row, scores={**row.scores, **numbers})


def measure(rows: Iterable[Example], words: Iterable[str], weights: Iterable[str]) -> "pd.DataFrame":
    """The four features, and each other weighed score, of all rows. Raises UserError if a row lacks one."""
    import pandas as pd

    others = [name for name in weights if name not in TEXT]
    brought = list[list[float]]()

    def texts() -> Iterator[str]:
        for row in rows:
            brought.append([read_score(row, name, "score.weights", TEXT) for name in others])
            yield row.completion

    work = spread(partial(_features, words=tuple(words)), chunked(texts(), CHUNK))
    measured = pd.DataFrame([numbers for chunk in work for numbers in chunk], columns=list(TEXT), dtype=float)
    return measured.join(pd.DataFrame(brought, columns=others, dtype=float))


def read_score(row: Example, name: str, where: str, more: Iterable[str] = ()) -> float:
    """A score of a row. Raises UserError if it has none; `more` are names that could have been meant."""
    if name not in row.scores:
        raise UserError(f"{where}: the row {row.id} has no score '{name}'{suggest(name, [*more, *row.scores])}")
    return row.scores[name]


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


@stage("row", writes=("tokens",))
def count_tokens(rows: Iterable[Example], /, *, tokenizer: InputPath) -> Iterator[Row]:
    """Add `scores.tokens`, the length of each chain in the tokens of a model: what budgets and controls count in.

    `tokenizer` is a model folder or Hub name; of the latter only the tokenizer is downloaded.
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
