"""How much a number changes when nothing but the seed does, and whether a difference is more than that.

    floor = noise([0.71, 0.75, 0.69])       # the same loss trained with three seeds
    floor.half(1)                           # a loss trained once must differ from their mean by more than this

Published losses were chosen by differences of 0.012 to 0.065 on a scale on which two DPO models of the same recipe
differ by 0.078 (arXiv 2406.08414, tables 1 and 2, and the score of the published DPO model).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

Items = Mapping[str, float]  # of one training: by item (a pair, a problem) its value from 0 to 1
Scores = Mapping[str, Items]  # of one training: by measure
LEVEL = 0.95


@dataclass(frozen=True)
class Noise:
    """Repeated trainings of the same."""

    mean: float
    sd: float  # over seeds, unbiased variance
    n: int
    df: int  # degrees of freedom of `sd`

    def half(self, n: int) -> float:
        """Half of the 95 % interval of a difference between this mean and that of `n` trainings of the same loss."""
        return student(self.df, LEVEL) * self.sd * math.sqrt(1 / self.n + 1 / n)


@dataclass(frozen=True)
class Gain:
    """A loss beside the baseline."""

    name: str
    mean: float  # of the loss
    difference: float  # to the baseline's mean
    low: float
    high: float
    seeds: int

    @property
    def beats(self) -> bool:
        """Whether it is better by more than noise."""
        return self.low > 0


def noise(values: Sequence[float], step: float = 0.0) -> Noise:
    """The noise of at least two trainings of the same loss.

    `step` is the least difference that can be seen, one item of so many: its rounding, step / sqrt(12), is added, so
    that seeds that happen to agree do not promise that nothing else could have come.
    """
    sd = math.sqrt(variance(values) + step**2 / 12)
    return Noise(fmean(values), sd, len(values), len(values) - 1)


def student(df: float, level: float) -> float:
    """The quantile of Student's t that leaves `level` between itself and its opposite.

    >>> round(student(2, 0.95), 3)
    4.303
    """
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, df))


def fitness(scores: Scores) -> float:
    """The mean of the measures, each the mean of its items."""
    return fmean(fmean(items.values()) for items in scores.values())


def gains(losses: Mapping[str, Sequence[Scores]], baseline: str, more: Sequence[Sequence[float]] = ()) -> list[Gain]:
    """Each loss but the baseline with its difference, best first; all intervals hold together at 95 % (Bonferroni).

    Args: trainings with different seeds of each loss, all measured on the same items; `more` are fitnesses of other
    repeated trainings, which tell how much a seed does. Two sources are added: the choice of items (variance of the
    items' differences, paired, after one half is added to either kind of flip, as Agresti and Min have it, Statistics
    in Medicine 24, 2005, page 729: few items without a flip promise nothing) and that of the seed (variance within a
    loss, pooled over all losses, since few seeds of one tell little); degrees of freedom by Welch and Satterthwaite
    (Biometrics Bulletin 2, 1946, page 110).
    Raises ValueError if no loss was trained twice, or the items differ.
    """
    of_seeds, df_seeds = _pooled([*([fitness(s) for s in runs] for runs in losses.values()), *more])
    others = [name for name in losses if name != baseline]
    level = 1 - (1 - LEVEL) / max(len(others), 1)
    found = []
    for name in others:
        mine, theirs = losses[name], losses[baseline]
        of_items, df_items = _items(mine, theirs)
        seeds = of_seeds * (1 / len(mine) + 1 / len(theirs))
        df = (of_items + seeds) ** 2 / (of_items**2 / df_items + seeds**2 / df_seeds)
        mean = fmean(fitness(s) for s in mine)
        by = mean - fmean(fitness(s) for s in theirs)
        half = student(df, level) * math.sqrt(of_items + seeds)
        found.append(Gain(name, mean, by, by - half, by + half, len(mine)))
    return sorted(found, key=lambda gain: -gain.difference)


def _pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Variance within groups of repeated trainings, and its degrees of freedom."""
    several = [group for group in groups if len(group) > 1]
    df = sum(len(group) - 1 for group in several)
    if not df:
        raise ValueError("no loss was trained with two seeds: how much a seed does is not known")
    return sum(variance(group) * (len(group) - 1) for group in several) / df, df


def _items(mine: Sequence[Scores], theirs: Sequence[Scores]) -> tuple[float, int]:
    """Variance of the difference of two fitnesses by the choice of items, and its degrees of freedom."""
    total, df = 0.0, 1
    for measure in mine[0]:
        ids = sorted(mine[0][measure])
        if any(sorted(s[measure]) != ids for s in (*mine, *theirs)):
            raise ValueError(f"the losses were not measured on the same items of '{measure}'")
        differences = [fmean(s[measure][i] for s in mine) - fmean(s[measure][i] for s in theirs) for i in ids]
        n = len(ids) + 2
        around = (sum(d * d for d in differences) + 1) / n - (sum(differences) / n) ** 2
        total += around / n / len(mine[0]) ** 2
        df = max(df, n - 1)
    return total, df
