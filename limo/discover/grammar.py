"""New losses without a language model: expression trees of the parts of known losses, mutated and crossed.

    tree = breed(parents, random.Random(0), seen=[])     # from one or two of the parents
    write(tree, "grown_7")                               # as a function that limo/discover/candidate.py reads

A tree is a nested tuple, ("blend", 0.5, ("logistic", "x"), ("exponential", "x")): an operation of `OPERATIONS` and its
arguments, which are trees, numbers, or inputs. The inputs are `x` (beta times the margin over the reference), `free`
(beta times the policy's own margin), and `c` and `r` (beta times the log-ratio of the chosen and of the rejected
completion). Better parents have more children.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from limo.discover.candidate import Candidate, Refused
from limo.discover.checks import probe, train_alike

Tree = Any  # a number, the name of an input, or a tuple (operation, tree, ...)

INPUTS = ("x", "x", "x", "free", "c", "r")  # sampled uniformly, so half of the time the margin
OPERATIONS: Mapping[str, tuple[int, str]] = {  # number of arguments, and the text
    "logistic": (1, "logistic({0})"),
    "hinge": (1, "hinge({0})"),
    "exponential": (1, "exponential({0})"),
    "sigmoid": (1, "torch.sigmoid({0})"),
    "tanh": (1, "torch.tanh({0})"),
    "square": (1, "torch.square({0})"),
    "neg": (1, "(-{0})"),
    "add": (2, "({0} + {1})"),
    "sub": (2, "({0} - {1})"),
    "mul": (2, "({0} * {1})"),
    "maximum": (2, "torch.maximum({0}, {1})"),
    "blend": (3, "({0} * {1} + (1 - {0}) * {2})"),
}
# By their names in limo/training/preference.py, with tau = beta = 0.05; of kto_pair without its batch means
KNOWN: Mapping[str, Tree] = {
    "dpo": ("logistic", "x"),
    "slic": ("hinge", "x"),
    "ipo": ("square", ("sub", "x", 0.5)),
    "kto_pair": ("blend", 0.5, ("sigmoid", ("neg", "c")), ("sigmoid", "r")),
    "cell": ("blend", 0.5, ("logistic", "x"), ("exponential", "x")),
    "discopop": ("blend", ("sigmoid", ("mul", 20.0, "x")), ("exponential", "x"), ("logistic", "x")),
}
MAX_PARTS = 40  # of a tree
TRIES = 200  # at a child that is new


def breed(parents: Sequence[tuple[Tree, float]], random: Random, seen: Sequence[Sequence[float]]) -> Tree:
    """A tree from one or two of `parents`, each with its fitness, that trains unlike them.

    `seen` has the results of `limo.discover.checks.probe` of further losses that it must differ from. Raises
    RuntimeError if no new tree is found in 200 tries, which a grammar of this size does not let happen.
    """
    ranked = [tree for tree, _ in sorted(parents, key=lambda parent: parent[1])]
    known = [*seen, *(probe_tree(tree) for tree in ranked)]
    weights = range(1, len(ranked) + 1)  # by rank, since the scale of fitness means nothing
    for _ in range(TRIES):
        one, other = random.choices(ranked, weights, k=2)
        child = cross(one, other, random) if random.random() < 0.4 else mutate(one, random)
        if sum(1 for _ in places(child)) > MAX_PARTS or not any(
            name in repr(child) for name in ("'x'", "'c'", "'free'")
        ):
            continue
        try:
            found = probe_tree(child)
        except Refused:
            continue
        if not any(train_alike(found, other) for other in known):
            return child
    raise RuntimeError("no new tree was found")


def probe_tree(tree: Tree) -> list[float]:
    """`limo.discover.checks.probe` of a tree, which does not depend on beta. Raises Refused as that does."""
    return probe(Candidate(write(tree, "tree")), 1.0)


def mutate(tree: Tree, random: Random) -> Tree:
    """A tree with one change: a number scaled, a part replaced or scaled, an operation swapped, a known loss added."""
    place = random.choice(list(places(tree)))
    part = part_at(tree, place)
    if isinstance(part, float):
        return replace_at(tree, place, round(part * math.exp(random.gauss(0, 0.6)), 3))
    kind = random.random()
    if kind < 0.25:
        return ("blend", _blend_weight(random), tree, KNOWN[random.choice(sorted(KNOWN))])
    if kind < 0.5 and isinstance(part, tuple):
        count = OPERATIONS[part[0]][0]
        operation = random.choice([name for name, (n, _) in OPERATIONS.items() if n == count])
        return replace_at(tree, place, (operation, *part[1:]))
    if kind < 0.75:
        return replace_at(tree, place, ("mul", round(math.exp(random.gauss(0, 0.7)), 3), part))
    return replace_at(tree, place, grow(random, 2))


def cross(one: Tree, other: Tree, random: Random) -> Tree:
    """A tree whose one part is replaced by a part of another."""
    part = part_at(other, random.choice(list(places(other))))
    return replace_at(one, random.choice(list(places(one))), part)


def grow(random: Random, depth: int) -> Tree:
    """A random tree of at most `depth` levels of operations."""
    if depth == 0 or random.random() < 0.3:
        return random.choice(INPUTS) if random.random() < 0.8 else round(math.exp(random.gauss(0, 1)), 3)
    name = random.choice(list(OPERATIONS))
    first = _blend_weight(random) if name == "blend" else grow(random, depth - 1)
    return (name, first, *(grow(random, depth - 1) for _ in range(OPERATIONS[name][0] - 1)))


def _blend_weight(random: Random) -> Tree:
    """A constant, or a sigmoid of the margin."""
    if random.random() < 0.5:
        return round(random.uniform(0.1, 0.9), 2)
    return ("sigmoid", ("mul", round(random.uniform(-3, 3), 2), "x"))


def places(tree: Tree, place: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Where the parts of a tree are, the tree itself first."""
    yield place
    if isinstance(tree, tuple):
        for number, part in enumerate(tree[1:], 1):
            yield from places(part, (*place, number))


def part_at(tree: Tree, place: tuple[int, ...]) -> Tree:
    """The part of a tree at a place."""
    for number in place:
        tree = tree[number]
    return tree


def replace_at(tree: Tree, place: tuple[int, ...], part: Tree) -> Tree:
    """The tree with another part at a place."""
    if not place:
        return part
    return (*tree[: place[0]], replace_at(tree[place[0]], place[1:], part), *tree[place[0] + 1 :])


def write(tree: Tree, name: str) -> str:
    """The tree as a function that `limo.discover.candidate.Candidate` reads."""
    return (
        f"def {name}(chosen, rejected, reference_chosen, reference_rejected, beta):\n"
        "    c = beta * (chosen - reference_chosen)\n"
        "    r = beta * (rejected - reference_rejected)\n"
        "    x = c - r\n"
        "    free = beta * (chosen - rejected)\n"
        f"    return {_write_part(tree)} + 0 * x\n"  # a tensor (pairs,) whatever the tree is
    )


def _write_part(tree: Tree) -> str:
    if not isinstance(tree, tuple):
        return tree if isinstance(tree, str) else repr(float(tree))
    return OPERATIONS[tree[0]][1].format(*map(_write_part, tree[1:]))
