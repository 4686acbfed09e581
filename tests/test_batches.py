"""Steps and forward passes: every chain once, the same chains in a step however it is split."""

import random
from itertools import chain

import pytest

from limo.errors import UserError
from limo.training.batches import (
    Shape,
    count_forwards,
    pack_best_fit,
    split_epoch,
    split_step,
)


def flat(groups: list[list[int]]) -> list[int]:
    return sorted(chain.from_iterable(groups))


def test_an_epoch_has_every_chain_once_and_epochs_differ() -> None:
    first, again, second = (split_epoch(10, 4, 0, epoch) for epoch in (0, 0, 1))
    assert [len(step) for step in first] == [4, 4, 2]
    assert flat(first) == flat(second) == list(range(10))
    assert first == again and first != second
    assert first != split_epoch(10, 4, 1, 0)


def test_best_fit_by_hand() -> None:
    # 6 opens a group with 4 left, 5 one with 5 left; 4 goes where it leaves least room, 3 and 2 fill the other
    assert pack_best_fit([0, 1, 2, 3, 4], [6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    with pytest.raises(UserError, match=r"a chain has 11 tokens, more than train.pack_tokens=10"):
        pack_best_fit([0], [11], 10)


@pytest.mark.parametrize("seed", range(20))
def test_a_step_is_the_same_chains_on_any_number_of_devices(seed: int) -> None:
    source = random.Random(seed)
    lengths = [source.randint(1, 100) for _ in range(source.randint(1, 60))]
    batch, tokens = source.randint(1, 24), source.randint(100, 300)
    for ranks in (1, 2, 3, 8):
        steps = split_epoch(len(lengths), batch, seed, 0)
        forwards = count_forwards(lengths, iter(steps), ranks, tokens)
        for step in steps:
            split = split_step(step, lengths, ranks, Shape(forwards, 1, tokens))
            assert len(split) == forwards and all(len(groups) == ranks for groups in split)
            groups = list(chain.from_iterable(split))
            assert flat(groups) == sorted(step)
            assert all(sum(lengths[i] for i in group) <= tokens for group in groups)
    fewer = count_forwards(lengths, iter(split_epoch(len(lengths), batch, seed, 0)), 1, tokens)
    whole = max(-(-sum(lengths[i] for i in step) // tokens) for step in split_epoch(len(lengths), batch, seed, 0))
    assert whole <= fewer <= whole * 11 / 9 + 4
