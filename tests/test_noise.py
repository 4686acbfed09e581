"""The noise of seeds, worked by hand, and intervals with the coverage that they promise."""

import math
import random

import pytest
from scipy.stats import t

from limo.discover.noise import fitness, gains, measure_noise


def test_the_noise_of_three_seeds() -> None:
    floor = measure_noise([0.70, 0.76, 0.70])
    assert floor.mean == pytest.approx(0.72) and floor.sd == pytest.approx(math.sqrt(0.0012))
    assert (floor.n, floor.df) == (3, 2)
    assert floor.half(1) == pytest.approx(4.3027 * math.sqrt(0.0012) * math.sqrt(1 + 1 / 3), rel=1e-4)


def test_seeds_that_agree_promise_little() -> None:
    assert measure_noise([0.75, 0.75, 0.75], 1 / 64).half(1) == pytest.approx(
        4.3027 / 64 / math.sqrt(12) * math.sqrt(4 / 3), 1e-4
    )
    all_right = [scores([1.0] * 64)] * 2
    (gain,) = gains({"dpo": all_right, "new": all_right}, "dpo")
    assert gain.difference == 0 and gain.high == -gain.low == pytest.approx(0.0303, abs=2e-3)


def test_fitness_is_the_mean_of_measures() -> None:
    assert fitness({"a": {"1": 1.0, "2": 0.0}, "b": {"x": 1.0}}) == pytest.approx(0.75)


def scores(values: list[float]) -> dict[str, dict[str, float]]:
    return {"preference": {str(i): v for i, v in enumerate(values)}}


def test_a_difference_by_hand() -> None:
    """Two seeds each on two items, whose differences are 1 and -0.5; variances of seeds are 0.125 and 0."""
    mine = [scores([1, 1]), scores([1, 0])]
    base = [scores([0, 1]), scores([0, 1])]
    (gain,) = gains({"dpo": base, "new": mine}, "dpo")
    assert gain.mean == pytest.approx(0.75) and gain.difference == pytest.approx(0.25)
    items = ((1 + 0.25 + 1) / 4 - (0.5 / 4) ** 2) / 4  # with one half of either kind of flip
    seeds = (0.125 / 2) * (1 / 2 + 1 / 2)
    df = (items + seeds) ** 2 / (items**2 / 3 + seeds**2 / 2)
    half = t.ppf(0.975, df) * math.sqrt(items + seeds)
    assert (gain.low, gain.high) == pytest.approx((0.25 - half, 0.25 + half)) and not gain.beats


def test_what_cannot_be_compared() -> None:
    one = {"dpo": [scores([1, 0])], "new": [scores([1, 1])]}
    with pytest.raises(ValueError, match="two seeds"):
        gains(one, "dpo")
    with pytest.raises(ValueError, match="same items"):
        gains({"dpo": [scores([1, 0])] * 2, "new": [scores([1, 1, 1])] * 2}, "dpo")
    assert gains(one, "dpo", more=[[0.5, 0.6]])[0].seeds == 1, "the noise of the seed may come from other trainings"


def test_losses_that_are_the_same_rarely_beat_the_baseline() -> None:
    """300 searches whose 2 finalists are the baseline again: all intervals cover 0 in about 95 % of them."""
    draw = random.Random(0)

    def training(easy: list[float]) -> dict[str, dict[str, float]]:
        shift = draw.gauss(0, 0.05)
        return scores([float(draw.random() < min(max(p + shift, 0), 1)) for p in easy])

    wrong = 0
    for _ in range(300):
        easy = [draw.random() for _ in range(64)]
        found = gains({name: [training(easy) for _ in range(3)] for name in ("dpo", "a", "b")}, "dpo")
        wrong += any(not gain.low <= 0 <= gain.high for gain in found)
    assert wrong <= 0.08 * 300, wrong


def test_a_loss_that_is_far_better_beats_it() -> None:
    draw = random.Random(1)
    bad = [scores([float(draw.random() < 0.5) for _ in range(64)]) for _ in range(2)]
    good = [scores([float(draw.random() < 0.95) for _ in range(64)]) for _ in range(2)]
    found = gains({"dpo": bad, "good": good, "same": bad}, "dpo")
    assert [gain.name for gain in found] == ["good", "same"] and found[0].beats and not found[1].beats
