"""Which chains go together: optimizer steps first, then forward passes inside a step.

An epoch is a permutation by seed and epoch, cut into steps of `global_batch` chains. Inside a step the order does not
matter, since the loss is a sum over its tokens, so chains are grouped freely for speed: by length, or packed whole into
rows of at most so many tokens (best fit, decreasing). Therefore packing, the number of devices and the size of a
forward pass change how fast a step is and nothing else: the chains of every step are the same.

No chain is cut, left out or taken twice. Where a step has fewer groups than there are forward passes, the rest are
passes that learn nothing, so that ranks stay together.
"""

import random
from collections.abc import Iterator, Sequence

from limo.errors import UserError


def steps_of(rows: int, global_batch: int, seed: int, epoch: int) -> list[list[int]]:
    """The chains, as indices, of each optimizer step of an epoch; the last step takes what is left."""
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return [order[start : start + global_batch] for start in range(0, rows, global_batch)]


def best_fit(chosen: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Groups of whole chains of at most `tokens` together: the longest first, each where it leaves the least room.

    Best-fit decreasing: at most 11/9 of the fewest groups possible, plus 4 (Johnson, Demers, Ullman, Garey and Graham,
    SIAM J. Comput. 3, 1974). Raises UserError for a chain that is longer than `tokens`.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(chosen, key=lambda i: (-lengths[i], i)):
        size = lengths[index]
        if size > tokens:
            raise UserError(f"a chain has {size} tokens, more than train.packing={tokens}: raise it to max_length")
        fits = [k for k, free in enumerate(room) if free >= size]
        if fits:
            best = min(fits, key=lambda k: room[k])
            groups[best].append(index)
            room[best] -= size
        else:
            groups.append([index])
            room.append(tokens - size)
    return groups


def packed(chosen: Sequence[int], lengths: Sequence[int], count: int, tokens: int) -> list[list[int]]:
    """`count` groups of about equal length, none above `tokens`: the longest chain first, to the emptiest group.

    Where this would overfill a group, best fit decides instead. Some groups may stay empty.
    """
    groups: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for index in sorted(chosen, key=lambda i: (-lengths[i], i)):
        least = min(range(count), key=lambda k: filled[k])
        groups[least].append(index)
        filled[least] += lengths[index]
    if max(filled) > tokens:
        groups = best_fit(chosen, lengths, tokens)
        groups += [[] for _ in range(count - len(groups))]
    return groups


def padded(chosen: Sequence[int], lengths: Sequence[int], count: int, rows: int) -> list[list[int]]:
    """`count` groups of at most `rows` chains each, of similar length, so that little is padded."""
    ordered = sorted(chosen, key=lambda i: (-lengths[i], i))
    groups = [ordered[start : start + rows] for start in range(0, len(ordered), rows)]
    return groups + [[] for _ in range(count - len(groups))]


def forwards_needed(lengths: Sequence[int], steps: Iterator[list[int]], ranks: int, tokens: int) -> int:
    """Forward passes per step and rank, so that every step's chains fit into rows of `tokens`."""
    return max(-(-len(best_fit(step, lengths, tokens)) // ranks) for step in steps)


def passes(
    step: Sequence[int], lengths: Sequence[int], ranks: int, forwards: int, rows: int, tokens: int | None
) -> list[list[list[int]]]:
    """A step's chains as `forwards` lists of a group for each rank; what ranks do at one time costs about the same.

    `tokens` packs whole chains into rows of at most so many; None pads `rows` chains to one length.
    """
    count = ranks * forwards
    groups = packed(step, lengths, count, tokens) if tokens else padded(step, lengths, count, rows)
    groups.sort(key=lambda group: -cost(group, lengths, tokens))
    return [groups[start : start + ranks] for start in range(0, count, ranks)]


def cost(group: Sequence[int], lengths: Sequence[int], tokens: int | None) -> int:
    """What a forward pass over a group costs, in tokens: packed as they are, or padded to the longest."""
    sizes = [lengths[i] for i in group]
    return sum(sizes) if tokens else len(sizes) * max(sizes, default=0)
