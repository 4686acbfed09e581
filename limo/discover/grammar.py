"""New losses without a language model: expressions of the parts of known losses, mutated and crossed.

    expression = breed(parents, random.Random(0), seen=[])     # from one or two of the parents
    write(expression, "grown_7")                               # as a function that limo/discover/candidate.py reads

An expression is a text, "0.5 * logistic(x) + 0.5 * exponential(x)", over four inputs: `x` (beta times the margin over
the reference), `free` (beta times the policy's own margin), `c` and `r` (beta times the log-ratio of the chosen and of
the rejected completion). Better parents have more children.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from random import Random

from limo.discover.candidate import Candidate, Refused
from limo.discover.checks import probe, train_alike

INPUTS = ("x", "x", "x", "free", "c", "r")  # sampled uniformly, so half of the time the margin
UNARY = "logistic({}) hinge({}) exponential({}) torch.sigmoid({}) torch.tanh({}) torch.square({}) -({})".split()
BINARY = ("({}) + ({})", "({}) - ({})", "({}) * ({})", "torch.maximum({}, {})")
BLEND = "({0}) * ({1}) + (1 - ({0})) * ({2})"
# By their names in limo/training/preference.py, with tau = beta = 0.05; of kto_pair without its batch means
KNOWN: Mapping[str, str] = {
    "dpo": "logistic(x)",
    "slic": "hinge(x)",
    "ipo": "torch.square(x - 0.5)",
    "kto_pair": BLEND.format(0.5, "torch.sigmoid(-c)", "torch.sigmoid(r)"),
    "cell": BLEND.format(0.5, "logistic(x)", "exponential(x)"),
    "discopop": BLEND.format("torch.sigmoid(20.0 * x)", "exponential(x)", "logistic(x)"),
}
MAX_PARTS = 40  # of an expression
TRIES = 200  # at a child that is new


def breed(parents: Sequence[tuple[str, float]], random: Random, seen: Sequence[Sequence[float]]) -> str:
    """An expression from one or two of `parents`, each with its fitness, that trains unlike them.

    `seen` has the results of `limo.discover.checks.probe` of further losses that it must differ from. Raises
    RuntimeError if no new one is found in 200 tries, which a grammar of this size does not let happen.
    """
    ranked = [expression for expression, _ in sorted(parents, key=lambda parent: parent[1])]
    known = [*seen, *map(probe_expression, ranked)]
    weights = range(1, len(ranked) + 1)  # by rank, since the scale of fitness means nothing
    for _ in range(TRIES):
        one, other = random.choices(ranked, weights, k=2)
        child = ast.unparse(ast.parse(cross(one, other, random) if random.random() < 0.4 else mutate(one, random)))
        parts = list_parts(child)
        if len(parts) > MAX_PARTS or not {"x", "c", "free"} & {part for _, part in parts}:
            continue
        try:
            found = probe_expression(child)
        except Refused:
            continue
        if not any(train_alike(found, other) for other in known):
            return child
    raise RuntimeError("no new expression was found")


def probe_expression(expression: str) -> list[float]:
    """`limo.discover.checks.probe` of an expression, which does not depend on beta. Raises Refused as that does."""
    return probe(Candidate(write(expression, "grown")), 1.0)


def mutate(expression: str, random: Random) -> str:
    """One change: a number scaled, a part replaced or scaled, an operation swapped, a known loss added."""
    node, part = random.choice(list_parts(expression))
    kind = random.random()
    if isinstance(node, ast.Constant):
        return _replace(expression, node, str(round(float(part) * math.exp(random.gauss(0, 0.6)), 3)))
    if kind < 0.25:
        return BLEND.format(_blend_weight(random), expression, KNOWN[random.choice(sorted(KNOWN))])
    if kind < 0.5 and isinstance(node, ast.Call | ast.BinOp | ast.UnaryOp):
        arguments = node.args if isinstance(node, ast.Call) else list(ast.iter_child_nodes(node))
        texts = [_text(expression, argument) for argument in arguments if isinstance(argument, ast.expr)]
        return _replace(expression, node, random.choice(UNARY if len(texts) == 1 else BINARY).format(*texts))
    if kind < 0.75:
        return _replace(expression, node, f"{round(math.exp(random.gauss(0, 0.7)), 3)} * ({part})")
    return _replace(expression, node, grow(random, 2))


def cross(one: str, other: str, random: Random) -> str:
    """An expression whose one part is replaced by a part of another."""
    return _replace(one, random.choice(list_parts(one))[0], random.choice(list_parts(other))[1])


def grow(random: Random, depth: int) -> str:
    """A random expression of at most `depth` levels of operations."""
    if depth == 0 or random.random() < 0.3:
        return random.choice(INPUTS) if random.random() < 0.8 else str(round(math.exp(random.gauss(0, 1)), 3))
    first = _blend_weight(random) if (operation := random.choice((*UNARY, *BINARY, BLEND))) == BLEND else None
    return operation.format(first or grow(random, depth - 1), grow(random, depth - 1), grow(random, depth - 1))


def list_parts(expression: str) -> list[tuple[ast.expr, str]]:
    """The parts of an expression with their texts, itself first."""
    kinds = (ast.Call, ast.BinOp, ast.UnaryOp, ast.Constant)
    return [
        (node, _text(expression, node))
        for node in ast.walk(ast.parse(expression, mode="eval").body)
        if isinstance(node, kinds) or (isinstance(node, ast.Name) and node.id in INPUTS)
    ]


def _text(expression: str, part: ast.expr) -> str:
    return expression[part.col_offset : part.end_col_offset]


def _replace(expression: str, part: ast.expr, text: str) -> str:
    return f"{expression[: part.col_offset]}({text}){expression[part.end_col_offset :]}"


def _blend_weight(random: Random) -> str:
    """A constant, or a sigmoid of the margin."""
    if random.random() < 0.5:
        return str(round(random.uniform(0.1, 0.9), 2))
    return f"torch.sigmoid({round(random.uniform(-3, 3), 2)} * x)"


def write(expression: str, name: str) -> str:
    """The expression as a function that `limo.discover.candidate.Candidate` reads."""
    return (
        f"def {name}(chosen, rejected, reference_chosen, reference_rejected, beta):\n"
        "    c = beta * (chosen - reference_chosen)\n"
        "    r = beta * (rejected - reference_rejected)\n"
        "    x = c - r\n"
        "    free = beta * (chosen - rejected)\n"
        f"    return {expression} + 0 * x\n"  # a tensor (pairs,) even of a constant
    )
