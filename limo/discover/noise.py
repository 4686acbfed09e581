"""How much a score varies with the seed alone, and whether a difference between losses exceeds that.

    floor = measure_noise([0.71, 0.75, 0.69])       # the same loss trained with three seeds
    floor.half(1)                           # least difference to their mean that counts for a loss trained once

Published losses were chosen by differences of 0.012 to 0.065 on a scale on which two DPO models of the same recipe
differ by 0.078 (arXiv 2406.08414, tables 1 and 2, and the score of the published DPO model).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

Items = Mapping[str, float]  # values from 0 to 1 of one training, by item (a pair or a problem)
Scores = Mapping[str, Items]  # items of one training, by measure
LEVEL = 0.95


@dataclass(frozen=True)
class Noise:
    """Repeated trainings of the same loss."""

    mean: float
    sd: float  # over seeds, from the unbiased variance
    n: int
    df: int  # degrees of freedom of `sd`

    def half(self, n: int) -> float:
        """Half the width of the 95 % interval of the difference between this mean and the mean of `n` further trainings
        of the same loss.
        """
        from scipy.stats import t

        return float(t.ppf((1 + LEVEL) / 2, self.df)) * self.sd * math.sqrt(1 / self.n + 1 / n)


@dataclass(frozen=True)
class Gain:
    """A loss compared with the baseline."""

    name: str
    mean: float  # of the loss
    difference: float  # to the baseline's mean
    low: float
    high: float
    seeds: int

    @property
    def beats(self) -> bool:
        """Whether the loss is better than the baseline by more than noise."""
        return self.low > 0


def measure_noise(values: Sequence[float], step: float = 0.0) -> Noise:
    """The noise of at least two trainings of the same loss.

    `step` is the least difference that the items can show. Its rounding variance, step^2 / 12, is added, since seeds
    that agree by chance do not prove that there is no noise.
    """
    sd = math.sqrt(variance(values) + step**2 / 12)
    return Noise(fmean(values), sd, len(values), len(values) - 1)


def fitness(scores: Scores) -> float:
    """The fitness: the mean over the measures, of which each is the mean over its items."""
    return fmean(fmean(items.values()) for items in scores.values())


def gains(losses: Mapping[str, Sequence[Scores]], baseline: str, more: Sequence[Sequence[float]] = ()) -> list[Gain]:
    """Each loss but the baseline with its difference, best first, with simultaneous 95 % intervals (Bonferroni).

    `losses` holds trainings with different seeds, measured on the same items; `more` holds fitnesses of other repeated
    trainings. Two variances are added: that of the items, paired, with half an item added to either kind of flip
    (Agresti and Min, Statistics in Medicine 24, 2005, page 729); and that of the seed, pooled over all losses. Degrees
    of freedom follow Welch and Satterthwaite (Biometrics Bulletin 2, 1946, page 110).
    """
    from scipy.stats import t

    of_seeds, df_seeds = _pool([*([fitness(s) for s in runs] for runs in losses.values()), *more])
    others = [name for name in losses if name != baseline]
    level = 1 - (1 - LEVEL) / max(len(others), 1)
    found = []
    for name in others:
        mine, theirs = losses[name], losses[baseline]
        of_items, df_items = _item_variance(mine, theirs)
        seeds = of_seeds * (1 / len(mine) + 1 / len(theirs))
        df = (of_items + seeds) ** 2 / (of_items**2 / df_items + seeds**2 / df_seeds)
        mean = fmean(fitness(s) for s in mine)
        difference = mean - fmean(fitness(s) for s in theirs)
        low, high = map(float, t.interval(level, df, difference, math.sqrt(of_items + seeds)))
        found.append(Gain(name, mean, difference, low, high, len(mine)))
    return sorted(found, key=lambda gain: -gain.difference)


def _pool(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The variance within groups of repeated trainings, and its degrees of freedom."""
    several = [group for group in groups if len(group) > 1]
    df = sum(len(group) - 1 for group in several)
    if not df:
        raise ValueError("no loss was trained with two seeds: the noise of the seed is not known")
    return sum(variance(group) * (len(group) - 1) for group in several) / df, df


def _item_variance(mine: Sequence[Scores], theirs: Sequence[Scores]) -> tuple[float, int]:
    """The variance of the difference of two fitnesses that is due to the choice of items, and its degrees of
    freedom.
    """
    total, df = 0.0, 1
    for measure in mine[0]:
        ids = sorted(mine[0][measure])
        if any(sorted(s[measure]) != ids for s in (*mine, *theirs)):
            raise ValueError(f"the losses were not measured on the same items of '{measure}'")
        differences = [fmean(s[measure][i] for s in mine) - fmean(s[measure][i] for s in theirs) for i in ids]
        n = len(ids) + 2
        spread = (sum(d * d for d in differences) + 1) / n - (sum(differences) / n) ** 2
        total += spread / n / len(mine[0]) ** 2
        df = max(df, n - 1)
    return total, df
