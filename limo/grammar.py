"""New losses without a language model: trees of the parts that the known ones are made of, changed and crossed.

    tree = child(known, random.Random(0))     # of one or two of the known trees
    text(tree, "grown_7")                     # as a function that limo/candidate.py reads

A tree is a nested tuple, ("blend", 0.5, ("logistic", "x"), ("exponential", "x")): an operation of `OPERATIONS` and what
it takes, the inputs `x` (beta times the margin over the reference), `free` (beta times the policy's own margin), `c` or
`r` (beta times the log-ratio of the chosen and of the rejected one), or a number. Better parents are likelier to have
children. A child that differs from a known tree by a constant or a factor only, which an adaptive optimizer does not
see, is drawn again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

Tree = Any  # a number, a name of an input, or a tuple (operation, tree, ...)

INPUTS = ("x", "x", "x", "free", "c", "r")  # the margin is drawn as often as the others together
OPERATIONS: Mapping[str, tuple[int, str]] = {  # how many trees it takes, and how it is written
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
KNOWN: Mapping[str, Tree] = {  # arXiv 2406.08414 and the papers in limo/preference.py; tau = beta = 0.05
    "dpo": ("logistic", "x"),
    "slic": ("hinge", "x"),
    "ipo": ("square", ("sub", "x", 0.5)),
    "kto": ("blend", 0.5, ("sigmoid", ("neg", "c")), ("sigmoid", "r")),
    "cell": ("blend", 0.5, ("logistic", "x"), ("exponential", "x")),
    "discopop": ("blend", ("sigmoid", ("mul", 20.0, "x")), ("exponential", "x"), ("logistic", "x")),
}
MOST = 40  # parts of a tree
TRIES = 200  # at a child that is new
PROBES = [(-3.0, 0.5), (-1.0, -1.0), (-0.3, 0.4), (0.0, 0.0), (0.2, -0.6), (1.0, 1.0), (3.0, -0.5)]  # c, r


def child(parents: Sequence[tuple[Tree, float]], draw: Random, seen: Sequence[Tree] = ()) -> Tree:
    """A tree made of one or two of `parents`, each with its fitness, that is none of them nor of `seen`.

    Raises RuntimeError if none is found in 200 tries, which a grammar of this size does not let happen.
    """
    known = {signature(tree) for tree, _ in parents} | {signature(tree) for tree in seen}
    ranked = [tree for tree, _ in sorted(parents, key=lambda p: p[1])]
    weights = range(1, len(ranked) + 1)  # by rank: fitness has no scale of its own
    for _ in range(TRIES):
        one, other = draw.choices(ranked, weights, k=2)
        made = crossed(one, other, draw) if draw.random() < 0.4 else changed(one, draw)
        found = signature(made)
        if size(made) <= MOST and found not in known and any(name in repr(made) for name in ("'x'", "'c'", "'free'")):
            return made
    raise RuntimeError("no new tree was found")


def changed(tree: Tree, draw: Random) -> Tree:
    """A tree with one place changed: a number moved, a part replaced, an operation swapped, or blended with another."""
    at = draw.choice(list(places(tree)))
    part = part_at(tree, at)
    if isinstance(part, float):
        return replaced(tree, at, round(part * math.exp(draw.gauss(0, 0.6)), 3))
    kind = draw.random()
    if kind < 0.25:
        return ("blend", _weight(draw), tree, KNOWN[draw.choice(sorted(KNOWN))])
    if kind < 0.5 and isinstance(part, tuple):
        takes = OPERATIONS[part[0]][0]
        other = draw.choice([name for name, (n, _) in OPERATIONS.items() if n == takes])
        return replaced(tree, at, (other, *part[1:]))
    if kind < 0.75:
        return replaced(tree, at, ("mul", round(math.exp(draw.gauss(0, 0.7)), 3), part))
    return replaced(tree, at, grown(draw, 2))


def crossed(one: Tree, other: Tree, draw: Random) -> Tree:
    """A tree with a part of another in the place of one of its own."""
    part = part_at(other, draw.choice(list(places(other))))
    return replaced(one, draw.choice(list(places(one))), part)


def grown(draw: Random, depth: int) -> Tree:
    """A random tree of at most so many levels."""
    if depth == 0 or draw.random() < 0.3:
        return draw.choice(INPUTS) if draw.random() < 0.8 else round(math.exp(draw.gauss(0, 1)), 3)
    name = draw.choice(list(OPERATIONS))
    first = _weight(draw) if name == "blend" else grown(draw, depth - 1)
    return (name, first, *(grown(draw, depth - 1) for _ in range(OPERATIONS[name][0] - 1)))


def _weight(draw: Random) -> Tree:
    """What blends: a constant, or a sigmoid of the margin."""
    return (
        round(draw.uniform(0.1, 0.9), 2)
        if draw.random() < 0.5
        else ("sigmoid", ("mul", round(draw.uniform(-3, 3), 2), "x"))
    )


def places(tree: Tree, at: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Where the parts of a tree are, the tree itself first."""
    yield at
    if isinstance(tree, tuple):
        for number, part in enumerate(tree[1:], 1):
            yield from places(part, (*at, number))


def part_at(tree: Tree, at: tuple[int, ...]) -> Tree:
    """The part of a tree at a place."""
    for number in at:
        tree = tree[number]
    return tree


def replaced(tree: Tree, at: tuple[int, ...], part: Tree) -> Tree:
    """The tree with another part at a place."""
    if not at:
        return part
    return (*tree[: at[0]], replaced(tree[at[0]], at[1:], part), *tree[at[0] + 1 :])


def size(tree: Tree) -> int:
    """How many parts a tree has."""
    return sum(1 for _ in places(tree))


def signature(tree: Tree) -> tuple[float, ...]:
    """Its values at a few points, from 0 at the start and at most 1: trees that have the same teach the same."""
    values = [_value(tree, {"c": c, "r": r, "x": c - r, "free": 0.7 * c - r}) for c, r in PROBES]
    values = [value - values[PROBES.index((0.0, 0.0))] for value in values]
    largest = max(abs(value) for value in values) or 1.0
    return tuple(round(value / largest, 3) for value in values)


def _value(tree: Tree, names: Mapping[str, float]) -> float:
    if isinstance(tree, str):
        return names[tree]
    if isinstance(tree, int | float):
        return float(tree)
    a, *more = (_value(part, names) for part in tree[1:])
    match tree[0]:
        case "logistic":
            return max(-a, 0) + math.log1p(math.exp(-abs(a)))
        case "hinge":
            return max(0, 1 - a)
        case "exponential":
            return math.exp(-max(a, -30)) * (1 - min(a + 30, 0))
        case "sigmoid":
            return 0.5 * (1 + math.tanh(a / 2))
        case "tanh":
            return math.tanh(a)
        case "square":
            return min(a * a, 1e30)
        case "neg":
            return -a
        case "add":
            return a + more[0]
        case "sub":
            return a - more[0]
        case "mul":
            return max(-1e30, min(a * more[0], 1e30))
        case "maximum":
            return max(a, more[0])
    return a * more[0] + (1 - a) * more[1]


def text(tree: Tree, name: str) -> str:
    """The tree as a function that `limo.candidate.candidate` reads."""
    return (
        f"def {name}(chosen, rejected, reference_chosen, reference_rejected, beta):\n"
        "    c = beta * (chosen - reference_chosen)\n"
        "    r = beta * (rejected - reference_rejected)\n"
        "    x = c - r\n"
        "    free = beta * (chosen - rejected)\n"
        f"    return {_written(tree)} + 0 * x\n"  # a tensor (pairs,) whatever the tree is
    )


def _written(tree: Tree) -> str:
    if not isinstance(tree, tuple):
        return tree if isinstance(tree, str) else repr(float(tree))
    return OPERATIONS[tree[0]][1].format(*(_written(part) for part in tree[1:]))
