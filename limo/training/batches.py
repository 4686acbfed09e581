"""Decides which chains form a batch: first those of an optimizer step, then those of each forward pass in the step.

An epoch is a permutation by seed and epoch, cut into steps of `global_batch` chains. Inside a step the order does not
matter, since the loss is a sum over its tokens, so chains are grouped for speed: by length, or packed whole into rows
of at most `pack_tokens` tokens (best fit, decreasing). Therefore packing, the number of devices and the size of a
forward pass change only the speed of a step: the chains of every step are the same.

No chain is truncated, left out or used twice. If a step has fewer groups than forward passes, the remaining passes have
no labels, so that ranks stay together.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from limo.errors import UserError
from limo.training.settings import Supervised, Training


@dataclass(frozen=True)
class Shape:
    """How an optimizer step is split: forward passes on each rank, and padded rows or packed tokens in each."""

    forwards: int
    rows: int
    tokens: int | None = None


def padded_shape(settings: Training, ranks: int) -> Shape:
    """The shape with `args.per_device_train_batch_size` padded rows a pass. Raises UserError if ranks * rows do not
    divide the batch.
    """
    batch, rows = settings.global_batch, settings.rows_at_once
    if rows < 1:
        raise UserError(f"train.args.per_device_train_batch_size must be 1 or more, not {rows}")
    if batch % (ranks * rows) == 0:
        return Shape(batch // (ranks * rows), rows)
    fit = ", ".join(str(n) for n in range(1, batch + 1) if batch % (n * rows) == 0)
    raise UserError(
        f"train.global_batch={batch} cannot be divided over {ranks} devices with {rows} rows each at a time; "
        f"{f'{fit} devices do' if fit else f'no number of devices does with {rows} rows on each'}. Set train.devices, "
        "train.args.per_device_train_batch_size, or train.pack_tokens, which any number divides"
    )


def supervised_shape(settings: Supervised, lengths: Sequence[int], ranks: int) -> Shape:
    """`padded_shape`, or with `pack_tokens` the shape of packed passes, as many as the fullest step needs."""
    if not settings.pack_tokens:
        return padded_shape(settings, ranks)
    most, per_epoch = settings.args.get("max_steps", -1), -(-len(lengths) // settings.global_batch)
    epochs = -(-most // per_epoch) if most > 0 else -(-settings.args.get("num_train_epochs", 3) // 1)
    steps = chain.from_iterable(
        split_epoch(len(lengths), settings.global_batch, settings.seed, epoch) for epoch in range(int(epochs))
    )
    return Shape(count_forwards(lengths, steps, ranks, settings.pack_tokens), 1, settings.pack_tokens)


def split_epoch(rows: int, global_batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Split an epoch into optimizer steps, each a list of the chains' indices. The last step takes what is left."""
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return [order[start : start + global_batch] for start in range(0, rows, global_batch)]


def pack_best_fit(chosen: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Pack whole chains into groups of at most `tokens` tokens: the longest first, each into the group where it leaves
    the least room.

    Best-fit decreasing: at most 11/9 of the fewest groups possible, plus 4 (Johnson et al., SIAM J. Comput. 3, 1974).
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(chosen, key=lambda i: (-lengths[i], i)):
        size = lengths[index]
        if size > tokens:
            raise UserError(f"a chain has {size} tokens, more than train.pack_tokens={tokens}: raise it to max_length")
        fits = [k for k, free in enumerate(room) if free >= size]
        if fits:
            best = min(fits, key=lambda k: room[k])
            groups[best].append(index)
            room[best] -= size
        else:
            groups.append([index])
            room.append(tokens - size)
    return groups


def count_forwards(lengths: Sequence[int], steps: Iterable[list[int]], ranks: int, tokens: int) -> int:
    """The number of forward passes per step and rank with which the chains of every step fit into rows of `tokens`
    tokens.
    """
    return max(-(-len(pack_best_fit(step, lengths, tokens)) // ranks) for step in steps)


def split_step(step: Sequence[int], lengths: Sequence[int], ranks: int, shape: Shape) -> list[list[list[int]]]:
    """Split a step's chains into `shape.forwards` lists with one group per rank. Groups of similar cost are in the same
    list.
    """
    if shape.tokens:
        groups = pack_best_fit(step, lengths, shape.tokens)
        groups.sort(key=lambda group: -sum(lengths[i] for i in group))
    else:  # of similar length, so that little is padded
        ordered = sorted(step, key=lambda i: (-lengths[i], i))
        groups = [ordered[start : start + shape.rows] for start in range(0, len(ordered), shape.rows)]
    groups += [[] for _ in range(ranks * shape.forwards - len(groups))]
    return [groups[start : start + ranks] for start in range(0, len(groups), ranks)]
