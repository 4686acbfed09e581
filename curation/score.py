"""How a chain reasons, as a number: the LIMO score.

Four features of the text (LIMO, arXiv 2502.03387v3, section 3, with its weights): length 30 %, and the frequency of
words of verification 20 %, exploration 25 % and connection 25 %, each frequency per word of the chain.

The paper leaves the scaling out, though it needs one: lengths are in the thousands, frequencies in the hundredths. Here
each feature becomes its percentile rank in the scored pool, between 0 and 1, ties sharing the middle: no outlier can
decide, and a weight of 30 % means 30 %. A feature in which all chains are equal gives all 0.5.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from limo.data import Example, Row
from limo.errors import UserError

FEATURES = ("length", "verification", "exploration", "connectives")
WORDS = Path(__file__).parent / "words"


def score(rows: Iterable[Example], /, *, weights: dict[str, float], words: str) -> Iterator[Row]:
    """Add the four features and `scores.score`, their weighted sum of ranks in [0, 1].

    `weights` of the features, which sum to 1; `words` is the name of a shipped list (published, en) or a YAML file.
    Goes through `rows` twice, and holds four numbers a row in between.
    """
    if set(weights) != set(FEATURES) or abs(sum(weights.values()) - 1) > 1e-9:
        raise UserError(f"score.weights must give {', '.join(FEATURES)} and sum to 1: {weights}")
    patterns = word_patterns(words)
    values = np.array([list(features(row.completion, patterns).values()) for row in rows]).reshape(-1, len(FEATURES))
    ranks = np.column_stack([percentile_ranks(column) for column in values.T]) if len(values) else values
    total = ranks @ np.array([weights[name] for name in FEATURES])
    for row, value, rank, sum_ in zip(rows, values, ranks, total, strict=True):
        named = {name: float(v) for name, v in zip(FEATURES, value, strict=True)}
        ranked = {f"{name}_rank": round(float(r), 6) for name, r in zip(FEATURES, rank, strict=True)}
        yield replace(row, scores={**row.scores, **named, **ranked, "score": round(float(sum_), 6)})


def features(text: str, patterns: Mapping[str, re.Pattern[str]]) -> dict[str, float]:
    """Length in pieces between spaces, and occurrences of each word list divided by the number of words.

    Pieces count numbers and formulas, which are most of a chain; words do not, so that formulas do not thin them out.

    >>> features("Wait, check: 2 + 2 = 4.", word_patterns("published"))["verification"]
    0.5
    """
    length = len(re.findall(r"[^\W\d_]+", text))
    counts = {name: len(pattern.findall(text)) for name, pattern in patterns.items()}
    return {"length": float(len(text.split())), **{n: counts[n] / max(length, 1) for n in FEATURES[1:]}}


@lru_cache
def word_patterns(words: str) -> dict[str, re.Pattern[str]]:
    """One pattern for each feature's word list. Raises UserError if the list cannot be read."""
    path = WORDS / f"{words}.yaml" if (WORDS / f"{words}.yaml").is_file() else Path(words)
    try:
        lists = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: _pattern(lists[name]) for name in FEATURES[1:]}
    except FileNotFoundError:
        shipped = ", ".join(sorted(p.stem for p in WORDS.glob("*.yaml")))
        raise UserError(f"score.words: there is no word list '{words}'; shipped are {shipped}") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path}: must give a list of words for {', '.join(FEATURES[1:])} ({error})") from None


def _pattern(words: list[str]) -> re.Pattern[str]:
    longest_first = sorted(map(str, words), key=len, reverse=True)
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)", re.IGNORECASE)


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
