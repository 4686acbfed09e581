"""Intervals and tests of accuracies and of their differences: over problems, and over trainings if there are several.

    paired(base, tuned, resamples=10_000, seed=0)                # the same problems, one training
    difference([random_0, random_1], [chosen_0, chosen_1], resamples=10_000, seed=0)

One training says little: the same rows in another order can differ by several points. If a set was trained with several
seeds (`train.seeds`), an interval is over seeds and problems together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

BATCH = 500  # resamples that are in memory at once
Shares = Mapping[str, float]  # by problem id, the share of its completions that are correct


@cache
def _stats() -> Any:
    """Import scipy.stats late: that takes a second, which most commands need not wait."""
    from scipy import stats

    return stats


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval, all from 0 to 1."""

    mean: float
    low: float
    high: float
    n: int  # problems


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference b minus a on the same problems."""

    mean: float
    low: float
    high: float
    p: float  # probability of a difference at least this large if a and b were exchangeable on each problem
    n: int
    gained: list[str]  # ids that b solves more often
    lost: list[str]  # ids that a solves more often
    detectable: float  # the smallest true difference that so many problems show with a power of 80 %

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)


def share(correct: Mapping[str, float], resamples: int, seed: int) -> Interval:
    """Mean accuracy with its 95 % interval, given each problem's share of right completions.

    With one completion per problem the interval is Wilson's (1927), which is valid at 0 and 1. With several it is the
    percentile bootstrap over problems, since completions of one problem are not independent, widened to Wilson's at the
    effective number of completions (p (1 - p) over the variance of the mean, Kish 1965): near 0 and 1 the bootstrap of
    a few problems is too narrow.
    """
    values = np.array(list(correct.values()), dtype=float)
    n = len(values)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if set(values.tolist()) <= {0.0, 1.0}:
        return Interval(mean, *wilson(mean, n), n)
    low, high = _bootstrap(values, resamples, seed)
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
    return min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half))  # the mean is always inside


def paired(a: Mapping[str, float], b: Mapping[str, float], resamples: int, seed: int) -> Difference:
    """The difference b minus a, paired by problem id, with its 95 % interval and p-value.

    With one completion per problem, the interval is that of `matched`, whose width is positive even if no problem
    flipped, and the p-value is that of McNemar's exact test: under the null hypothesis a flipped problem is as likely
    gained as lost. With several completions, the interval is the percentile bootstrap over problems and the p-value
    that of the sign-flip permutation test, which is exact if there are at most `resamples` sign patterns.

    Args: share of right completions of each problem for each model, over the same ids.
    Raises ValueError if the ids differ or there are none.
    """
    if set(a) != set(b) or not a:
        shared = len(set(a) & set(b))
        raise ValueError(f"the two runs must have the same problems: {len(a)} and {len(b)}, {shared} shared")
    ids = sorted(a)
    differences = np.array([b[i] - a[i] for i in ids])
    gained = [i for i, d in zip(ids, differences, strict=True) if d > 0]
    lost = [i for i, d in zip(ids, differences, strict=True) if d < 0]
    if set(differences.tolist()) <= {-1.0, 0.0, 1.0}:
        low, high = matched(differences)
        flips = len(gained) + len(lost)
        p = float(_stats().binomtest(len(gained), flips).pvalue) if flips else 1.0
    else:
        low, high = _bootstrap(differences, resamples, seed)
        p = _flip_signs(differences, resamples, seed + 1)
    return Difference(
        float(differences.mean()), low, high, p, len(ids), gained, lost, detectable_difference(differences)
    )


def p_value(p: float) -> str:
    """A p-value as text for a table."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def beyond_chance(difference: Mapping[str, Any]) -> bool:
    """Whether both the interval and the test of a difference, as JSON, exclude zero."""
    return bool(difference["p"] < 0.05 and (difference["low"] > 0 or difference["high"] < 0))


def detectable_difference(differences: np.ndarray) -> float:
    """The smallest difference that a test at 5 % detects with a power of 80 %, given each problem's difference (n,).

    (1.96 + 0.84) s / sqrt(n), where s is the standard deviation of the problems' differences. One half is added to
    both kinds of flips, as in `matched`; otherwise a few problems without a flip would seem to detect any difference.

    >>> round(detectable_difference(np.zeros(30)), 3)
    0.088
    """
    n = len(differences) + 2
    total, squares = float(differences.sum()), float((differences**2).sum()) + 1
    return (1.959964 + 0.841621) * math.sqrt(max(squares / n - (total / n) ** 2, 0.0) / n)


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


def _bootstrap(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of values (n,)."""
    if len(values) < 2:  # scipy refuses a single value, whose resamples are all alike
        return float(values[0]), float(values[0])
    result = _stats().bootstrap((values,), np.mean, n_resamples=resamples, batch=BATCH, method="percentile", rng=seed)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _flip_signs(differences: np.ndarray, resamples: int, seed: int) -> float:
    """The p-value of a sum of differences (n,) at least as far from zero when signs are flipped."""
    result = _stats().permutation_test(
        (differences,), lambda x, axis: np.abs(x.sum(axis=axis)), permutation_type="samples", vectorized=True,
        alternative="greater", n_resamples=resamples, batch=BATCH, rng=seed,
    )  # fmt: skip
    return float(result.pvalue)


def over_trainings(trainings: Sequence[Shares], resamples: int, seed: int) -> Interval:
    """Mean accuracy with its 95 % interval; over trainings and problems if there are several trainings."""
    if len(trainings) == 1:
        return share(trainings[0], resamples, seed)
    table = _table(trainings)
    mean, half = float(table.mean()), _half_width(table.mean(0), [table])
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), table.shape[1])


def difference(before: Sequence[Shares], after: Sequence[Shares], resamples: int, seed: int) -> Difference:
    """`after` minus `before`, each given by its trainings, with a 95 % interval and a p-value.

    With one training each this is `paired`, which covers the choice of problems only. Otherwise problems and trainings
    are both samples: problems are crossed with trainings, and the trainings of the two sets are independent. With d_p
    the difference of the means of problem p, v the variance of a training's accuracy and e the residual variance (both
    by the two-way analysis of variance, Searle, Casella and McCulloch 1992, section 4.3; means of the two sets), the
    variance of the mean difference is

        var(d_p) / n  +  (1 / s_before + 1 / s_after) max(v - e / n, 0)

    since var(d_p) contains e once. Trainings of both sets are assumed to vary equally. The quantile is Student's, with
    the degrees of freedom of Satterthwaite (1946). `python -m bench.studies.coverage` simulates how often the interval
    holds. A set with one training, such as the base model, adds nothing to the second term. `gained` and `lost` list
    the problems that most trainings solve differently.
    Raises ValueError if the problems differ.
    """
    if len(before) == len(after) == 1:
        return paired(before[0], after[0], resamples, seed)
    a, b = _table(before), _table(after)
    if {*before[0]} != {*after[0]}:
        raise ValueError("the two sets must be measured on the same problems")
    differences = b.mean(0) - a.mean(0)
    mean, ids = float(differences.mean()), sorted(before[0])
    variance, freedom = _variance(differences, [a, b])
    half = float(_stats().t.ppf(0.975, freedom)) * math.sqrt(variance)
    p = float(2 * _stats().t.sf(abs(mean) / math.sqrt(variance), freedom)) if variance else float(not mean)
    gained, lost = ([i for i, d in zip(ids, sign * differences, strict=True) if d > 0.5] for sign in (1, -1))
    return Difference(
        mean,
        max(-1.0, mean - half),
        min(1.0, mean + half),
        p,
        len(ids),
        gained,
        lost,
        detectable_difference(differences),
    )


def _table(trainings: Sequence[Shares]) -> np.ndarray:
    """Shares as an array (trainings, problems), in the order of the problems' ids."""
    ids = sorted(trainings[0])
    if any({*one} != {*ids} for one in trainings) or not ids:
        raise ValueError("every training must be measured on the same problems")
    return np.array([[one[i] for i in ids] for one in trainings], dtype=float)


def _half_width(values: np.ndarray, tables: Sequence[np.ndarray]) -> float:
    variance, freedom = _variance(values, tables)
    return float(_stats().t.ppf(0.975, freedom)) * math.sqrt(variance)


def _variance(values: np.ndarray, tables: Sequence[np.ndarray]) -> tuple[float, float]:
    """The variance of the mean of `values` (problems,) and its degrees of freedom; see `difference`."""
    n = len(values)
    if n < 2:
        return 0.0, 1.0
    problems = float(values.var(ddof=1)) / n
    repeated = [table for table in tables if len(table) > 1]
    between, left = (float(np.mean([part(table) for table in repeated])) for part in (_between, _left))
    each, spare = sum(1 / len(table) for table in repeated), sum(len(table) - 1 for table in repeated)
    trainings = each * max(between - left / n, 0.0)
    variance = problems + trainings
    # Also if `between` is by chance not above the residual: few trainings say little about their variance
    weights = problems**2 / (n - 1) + (each * between) ** 2 / spare + (each * left / n) ** 2 / (spare * (n - 1))
    return variance, max(1.0, variance * variance / weights) if weights else n - 1.0


def _between(table: np.ndarray) -> float:
    """The variance of accuracy between trainings."""
    return float(table.mean(1).var(ddof=1))


def _left(table: np.ndarray) -> float:
    """The residual variance, which neither the problem nor the training explains."""
    (s, n), means = table.shape, table.mean(1, keepdims=True)
    left = table - means - table.mean(0, keepdims=True) + table.mean()
    return float((left**2).sum() / max((s - 1) * (n - 1), 1))
