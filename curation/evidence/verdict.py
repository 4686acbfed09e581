"""The statistics of a tournament: the verdict from its final blocks, and how many blocks it needs.

A block gives one paired difference of each finalist to random chains. One margin decides both ways: a finalist beats
random if its interval lies above the margin; no candidate does if no interval reaches above it. Intervals are Student's
t with blocks - 1 degrees of freedom, and hold for all finalists together (Bonferroni).

Adding blocks after an undecided verdict is another look at the data, and each look is another chance of a false
verdict. So every look spends a part of the 5 %: the first four fifths, the second a tenth, the third a thirtieth, and
so on, which sum to 5 %. By the union bound the error over all looks is at most 5 %, however the looks depend on each
other; error spending follows Lan and DeMets (Biometrika 70, 1983, page 659).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Annotated

from pydantic import Field, PositiveInt

from limo.discover.noise import measure_noise

ALPHA = 0.05
FIRST_LOOK = 0.8  # the share of ALPHA that the first look spends
POWER = 0.8
SD = 0.075  # standard deviation of a block's difference by training noise: 6.5 to 8 points at 135M (docs/study.md)
MOST_BLOCKS = 1000
FINAL_BLOCKS = range(6, 41)  # of the last round, if the sizes follow from the gain to be shown
NEARLY = 1.1  # if no number of blocks shows the gain: the fewest blocks that show at most NEARLY x the smallest gain
Part = Annotated[float, Field(gt=0, le=1)]


def alpha_of_look(look: int) -> float:
    """The error probability that look number `look`, from 1, may spend.

    >>> [round(alpha_of_look(look), 5) for look in (1, 2, 3)]
    [0.04, 0.005, 0.00167]
    """
    return ALPHA * (FIRST_LOOK if look == 1 else (1 - FIRST_LOOK) / (look * (look - 1)))


@dataclass(frozen=True, slots=True)
class Versus:
    """A candidate against random chains in the last round; differences in accuracy, from -1 to 1."""

    name: str
    mean: float
    low: float  # of the interval that holds for all finalists and looks together
    high: float
    blocks: int
    tokens: float | None  # mean difference to random chains of as many tokens; None if these were not trained


@dataclass(frozen=True)
class Verdict:
    """The result of a tournament."""

    outcome: str  # beats, none or undecided
    sentence: str
    finalists: tuple[Versus, ...]  # the best mean first
    more_blocks: int  # further blocks that a decision needs


def decide(
    differences: Mapping[str, Sequence[float]],
    margin: float,
    by_tokens: Mapping[str, float],
    step: float = 0.0,
    look: int = 1,
) -> Verdict:
    """The verdict from each finalist's differences to random, one per block.

    `step` is the least difference that the problems of a block can show; its rounding variance is added
    (`measure_noise`). `look` counts how often these finalists were judged, with fewer blocks before.
    """
    finalists = []
    for name in sorted(differences, key=lambda name: -fmean(differences[name])):
        values = differences[name]
        mean, half = fmean(values), half_width(values, len(differences), step, look)
        finalists.append(Versus(name, mean, mean - half, mean + half, len(values), by_tokens.get(name)))
    advice = "use random chains, checked and balanced"
    if not finalists:
        return Verdict("none", f"No candidate is left: {advice}.", (), 0)
    winners = [f for f in finalists if f.low > margin]
    open_ones = [f for f in finalists if f.low <= margin < f.high]
    points, more = f"{100 * margin:g} points", 0
    if winners:
        outcome, best = "beats", max(winners, key=lambda f: f.low)
        sentence = f"{best.name} beats random by {_points(best)}, more than {points}."
        if open_ones:
            sentence += f" Not decided: {', '.join(map(_shown, open_ones))}."
    elif not open_ones:
        outcome = "none"
        sentence = f"No candidate beats random by more than {points} ({_shown(finalists[0])}): {advice}."
    else:
        outcome, blocks = "undecided", finalists[0].blocks
        needed = [blocks_needed(differences[f.name], margin, len(finalists), look + 1) for f in open_ones]
        more = min(needed) - blocks
        sentence = (
            f"Undecided: {', '.join(map(_shown, open_ones))}; the margin is {points}. About {more} more blocks are "
            f"needed: tournament.sizes.final_blocks={blocks + more}."
        )
    return Verdict(outcome, sentence, tuple(finalists), more)


def _points(f: Versus) -> str:
    return f"{100 * f.mean:.1f} points ({100 * f.low:.1f} to {100 * f.high:.1f})"


def _shown(f: Versus) -> str:
    return f"{f.name} {100 * f.mean:+.1f} points ({100 * f.low:.1f} to {100 * f.high:.1f})"


def half_width(values: Sequence[float], finalists: int, step: float, look: int) -> float:
    """Half the width of the confidence interval of the mean of `differences`."""
    n = len(values)
    return _quantile(n, finalists, look) * measure_noise(values, step).sd / math.sqrt(n)


@cache
def _quantile(blocks: int, finalists: int, look: int) -> float:
    from scipy.stats import t

    return float(t.ppf(1 - alpha_of_look(look) / 2 / finalists, blocks - 1))


def blocks_needed(values: Sequence[float], margin: float, finalists: int, look: int) -> int:
    """Blocks after which the interval would exclude the margin, at this mean and spread."""
    distance, sd, n = abs(fmean(values) - margin), max(stdev(values), 1e-9), len(values) + 1
    while n < MOST_BLOCKS and _quantile(n, finalists, look) * sd / math.sqrt(n) > distance:
        n += 1
    return n


def detectable(blocks: int, problems: int, margin: float, finalists: int = 2, sd: float = SD) -> float:
    """The true gain in accuracy over random, from 0 to 1, that so many blocks show with a power of 80 %.

    Args: `problems` measured in each block, which add at most 2 / 4 / problems to the variance (at half right);
    `sd` of a block's difference by training noise.
    """
    from scipy.stats import t

    each = math.sqrt(sd**2 + 0.5 / problems)
    return margin + (_quantile(blocks, finalists, 1) + float(t.ppf(POWER, blocks - 1))) * each / math.sqrt(blocks)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a tournament: numbers of problems and of blocks."""

    k: PositiveInt  # problems of a full-size set
    fraction: Part  # of k, in the rounds before the last
    screen_blocks: PositiveInt  # of each round before the last
    final_blocks: Annotated[int, Field(ge=2)]  # one gives no interval
    screen_problems: PositiveInt  # held out, for all rounds before the last
    final_problems: PositiveInt  # held out for each block of the last round
    pool_share: Part  # of the pool that a block sees

    @classmethod
    def to_show(cls, gain: float, margin: float, problems: int, measured: int | None) -> "Sizes":
        """Sizes that show a true gain over random with a power of 80 %, as far as the problems allow it.

        `problems` of the pool; separate `measured` problems, or None if two fifths of the pool are held out.
        """
        given = problems * 2 // 5 if measured is None else measured
        screen = max(1, min(200, given // 5))
        each = {n: max(1, min(200, (given - screen) // n)) for n in FINAL_BLOCKS}
        shown = {n: detectable(n, count, margin) for n, count in each.items()}
        enough = gain if min(shown.values()) <= gain else NEARLY * min(shown.values())
        blocks = next(n for n in each if shown[n] <= enough)
        left = (problems - (screen + blocks * each[blocks] if measured is None else 0)) // 2
        return cls(max(1, min(96, left)), 0.5, 2, blocks, screen, each[blocks], 0.5)
