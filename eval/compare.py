r"""Two models on the same problems: the paired difference, how sure it is, and which problems flipped.

    python -m eval.compare runs/a runs/b
    python -m eval.compare runs/demo:base runs/demo:tuned --benchmark new_seeds

Each side is a run that `eval.run` has evaluated, and with `:` one of its models, which may be left out where the run
has one only. For every benchmark that both have: accuracies, the difference of b minus a with its 95 % interval and
p-value, and the smallest difference that so many problems could have shown; then the problems that flipped.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval, all as shares of 1."""

    mean: float
    low: float
    high: float
    n: int  # problems


@dataclass(frozen=True, slots=True)
class Difference:
    """b minus a over the same problems."""

    mean: float
    low: float
    high: float
    p: float  # of a difference at least this large if a and b were exchangeable on each problem
    n: int
    gained: list[str]  # ids that b solves more often
    lost: list[str]  # ids that a solves more often
    detectable: float  # the smallest true difference that so many problems would have shown, four times in five

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)


def share(correct: Mapping[str, float], resamples: int, seed: int) -> Interval:
    """Mean accuracy over problems, given each problem's share of right completions.

    With one completion a problem the interval is Wilson's (1927), which stays honest at 0 and 1. With several it is the
    percentile bootstrap over problems, since completions of one problem are not independent, widened to Wilson's at the
    effective number of completions (p (1 - p) over the variance of the mean, Kish 1965): near 0 and 1 the bootstrap of
    a few problems is too sure of itself.
    """
    values = np.array(list(correct.values()), dtype=float)
    n = len(values)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if set(values.tolist()) <= {0.0, 1.0}:
        return Interval(mean, *wilson(mean, n), n)
    low, high = _percentiles(_bootstrap(values, resamples, seed))
    variance = float(values.var(ddof=1)) / n if n > 1 else 0.0
    around = wilson(mean, max(n, mean * (1 - mean) / variance) if variance else n)
    return Interval(mean, min(low, around[0]), max(high, around[1]), n)


def wilson(mean: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share of n.

    >>> [round(x, 4) for x in wilson(0.0, 200)]
    [0.0, 0.0188]
    """
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half))  # rounding never beyond the mean


def paired(a: Mapping[str, float], b: Mapping[str, float], resamples: int, seed: int) -> Difference:
    """b minus a, paired by problem id, with a 95 % interval and a sign-flip test, both over problems.

    With one completion a problem the interval is that of `matched`, which does not shrink to nothing where no problem
    flipped; with several it is the percentile bootstrap.

    Args: share of right completions of each problem for each model, over the same ids. The p-value is that of the
    paired permutation test: signs of the problems' differences are flipped at random `resamples` times.
    Raises ValueError if the ids differ or there are none.
    """
    if set(a) != set(b) or not a:
        raise ValueError(
            f"the two runs must have the same problems: {len(a)} and {len(b)}, {len(set(a) & set(b))} shared"
        )
    ids = sorted(a)
    differences = np.array([b[i] - a[i] for i in ids])
    mean = float(differences.mean())
    single = set(differences.tolist()) <= {-1.0, 0.0, 1.0}
    low, high = matched(differences) if single else _percentiles(_bootstrap(differences, resamples, seed))
    extreme = _as_extreme(differences, resamples, seed + 1)
    return Difference(
        mean,
        low,
        high,
        (extreme + 1) / (resamples + 1),
        len(ids),
        [i for i, d in zip(ids, differences, strict=True) if d > 0],
        [i for i, d in zip(ids, differences, strict=True) if d < 0],
        detectable(differences),
    )


def p_value(p: float) -> str:
    """A p-value as a table shows it."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def beyond_chance(difference: Mapping[str, Any]) -> bool:
    """Whether a difference, as JSON, says something: by its test too, as the bootstrap is too sure of few problems."""
    return bool(difference["p"] < 0.05 and (difference["low"] > 0 or difference["high"] < 0))


def detectable(differences: np.ndarray) -> float:
    """The smallest difference that a test at 5 % finds with a power of 80 %, given each problem's difference (n,).

    (1.96 + 0.84) s / sqrt(n), where s is the standard deviation of the problems' differences. One half is added to
    either kind of flip, as in `matched`, so that few problems without a flip do not promise to show anything.

    >>> round(detectable(np.zeros(30)), 3)
    0.088
    """
    n = len(differences) + 2
    total, squares = float(differences.sum()), float((differences**2).sum()) + 1
    return (1.959964 + 0.841621) * math.sqrt(max(squares / n - (total / n) ** 2, 0.0) / n)


def _as_extreme(differences: np.ndarray, resamples: int, seed: int) -> int:
    """How often random signs make a sum at least as far from zero, in blocks that fit any memory."""
    random, observed, found = np.random.default_rng(seed), abs(differences.sum()) - 1e-9, 0
    for begin in range(0, resamples, 500):
        signs = random.integers(0, 2, (min(500, resamples - begin), len(differences)), dtype=np.int8) * 2 - 1
        found += int((np.abs(signs @ differences) >= observed).sum())
    return found


def matched(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of a difference of matched proportions, given each problem's difference (n,) in {-1, 0, 1}.

    Agresti and Min (2005), Statistics in Medicine 24, pages 729 to 740: Wald's interval after adding one half to each
    of the four cells of the paired table.

    >>> [round(x, 3) for x in matched(np.zeros(60))]
    [-0.032, 0.032]
    """
    n = len(differences) + 2
    gained, lost = (differences > 0).sum() + 0.5, (differences < 0).sum() + 0.5
    centre = (gained - lost) / n
    half = 1.959964 * math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
    return max(-1.0, float(centre - half)), min(1.0, float(centre + half))


def _bootstrap(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of `resamples` samples with replacement of values (n,)."""
    random = np.random.default_rng(seed)
    return np.array([values[random.integers(0, len(values), len(values))].mean() for _ in range(resamples)])


def _percentiles(means: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    from eval.versus import main

    main()
