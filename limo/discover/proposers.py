"""Who proposes losses: a search over an expression grammar, or a language model.

A proposer is a node of the recipe with one method, `propose(number, archive, floor)`. Its arguments are the number of
the proposal, what has been tried so far, and the noise of the baseline; the same three give the same proposal.

The grammar's expressions are texts, "0.5 * logistic(x) + 0.5 * exponential(x)", over four inputs: `x` (beta times the
margin over the reference), `free` (beta times the policy's own margin), `c` and `r` (beta times the log-ratio of the
chosen and of the rejected completion). They are mutated and crossed; better parents have more children.
"""

import ast
import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from random import Random
from typing import Any

from limo.data import chat
from limo.discover.archive import Entry, Proposal
from limo.discover.candidate import FUNCTIONS, Candidate, LossRefused
from limo.discover.checks import probe_loss, train_alike
from limo.discover.noise import Noise
from limo.engines.ledger import Cached
from limo.engines.protocol import Completion, Request, Sampling, taker
from limo.engines.reply import read_last_object
from limo.recipe import bind

INPUTS = ("x", "x", "x", "free", "c", "r")  # sampled uniformly, so half of the time the margin
UNARY = "logistic({}) hinge({}) exponential({}) torch.sigmoid({}) torch.tanh({}) torch.square({}) -({})".split()
BINARY = ("({}) + ({})", "({}) - ({})", "({}) * ({})", "torch.maximum({}, {})")
BLEND = "({0}) * ({1}) + (1 - ({0})) * ({2})"
# Known losses by their names in limo/training/preference.py, with tau = beta = 0.05; kto_pair without its batch means
KNOWN: Mapping[str, str] = {
    "dpo": "logistic(x)",
    "slic": "hinge(x)",
    "ipo": "torch.square(x - 0.5)",
    "kto_pair": BLEND.format(0.5, "torch.sigmoid(-c)", "torch.sigmoid(r)"),
    "cell": BLEND.format(0.5, "logistic(x)", "exponential(x)"),
    "discopop": BLEND.format("torch.sigmoid(20.0 * x)", "exponential(x)", "logistic(x)"),
}
MAX_PARTS = 40  # most parts of an expression
TRIES = 200  # attempts at a new child


def breed(parents: Sequence[tuple[str, float]], random: Random, seen: Sequence[Sequence[float]]) -> str:
    """An expression from one or two of `parents`, each with its fitness, that trains unlike them and those in `seen`.

    Raises RuntimeError if no new one is found in TRIES attempts, which is not expected with a grammar of this size.
    """
    ranked = [expression for expression, _ in sorted(parents, key=lambda parent: parent[1])]
    known = [*seen, *map(probe_expression, ranked)]
    weights = range(1, len(ranked) + 1)  # by rank, since the scale of fitness is arbitrary
    for _ in range(TRIES):
        one, other = random.choices(ranked, weights, k=2)
        child = ast.unparse(ast.parse(cross(one, other, random) if random.random() < 0.4 else mutate(one, random)))
        parts = list_parts(child)
        if len(parts) > MAX_PARTS or not {"x", "c", "free"} & {part for _, part in parts}:
            continue
        try:
            found = probe_expression(child)
        except LossRefused:
            continue
        if not any(train_alike(found, other) for other in known):
            return child
    raise RuntimeError("no new expression was found")


def probe_expression(expression: str) -> list[float]:
    """`probe_loss` of an expression, which does not depend on beta. Raises LossRefused as that does."""
    return probe_loss(Candidate(write(expression, "grown")), 1.0)


def mutate(expression: str, random: Random) -> str:
    """Make one change: scale a number, replace or scale a part, exchange an operation, or add a known loss."""
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
    """Replace one part of an expression by a part of another one."""
    return _replace(one, random.choice(list_parts(one))[0], random.choice(list_parts(other))[1])


def grow(random: Random, depth: int) -> str:
    """A random expression of at most `depth` levels of operations."""
    if depth == 0 or random.random() < 0.3:
        return random.choice(INPUTS) if random.random() < 0.8 else str(round(math.exp(random.gauss(0, 1)), 3))
    first = _blend_weight(random) if (operation := random.choice((*UNARY, *BINARY, BLEND))) == BLEND else None
    return operation.format(first or grow(random, depth - 1), grow(random, depth - 1), grow(random, depth - 1))


def list_parts(expression: str) -> list[tuple[ast.expr, str]]:
    """The parts of an expression with their texts, the whole expression first."""
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


class Grammar:
    """New losses from parts of known ones, without a language model; the same seed repeats a search."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def propose(self, number: int, archive: Sequence[Entry], floor: Noise) -> Proposal:
        """A child of the losses that have a fitness and an expression, of better ones more often."""
        found = [(find_expression(entry), entry.fitness) for entry in archive]
        parents = [(expression, fitness) for expression, fitness in found if expression and fitness is not None]
        seen = [entry.checks.probes for entry in archive if entry.checks]
        seen += [probe_expression(e) for e, fitness in found if e and fitness is None]
        expression = breed(parents, Random(f"{self.seed}/{number}"), seen)
        name = f"grown_{number}"
        code = write(expression, name)
        return Proposal(name, "", code, "changed or crossed from earlier losses", expression)


def find_expression(entry: Entry) -> str:
    """The expression of a loss from the grammar or of a known loss; empty for any other."""
    loss = entry.proposal.loss
    path = loss if isinstance(loss, str) else str(loss.get("_target_", ""))
    return entry.proposal.expression or KNOWN.get(path.removeprefix("limo.training.preference."), "")


SYSTEM = """\
You do research on preference optimization of language models and look for new losses. Each one you propose is trained \
with and scored, and you see the scores before you propose the next.

A loss is one Python function of exactly this form:

def name(chosen, rejected, reference_chosen, reference_rejected, beta):
    rho = margin(chosen, rejected, reference_chosen, reference_rejected)
    return logistic(beta * rho)

The four inputs are tensors of shape (pairs,): log-probabilities in nats, summed over the tokens of the preferred and \
of the other completion, under the policy that is trained and under the fixed reference. beta is {beta}. It returns \
one value for each pair; the mean of them is minimized. margin is (chosen - rejected) - (reference_chosen - \
reference_rejected), logistic(x) is log(1 + exp(-x)), hinge(x) is max(0, 1 - x), exponential(x) is exp(-x) made safe \
for large -x.

Known are arithmetic, comparisons, assignments, and these functions, after torch. or F. or as methods: {functions}. \
Nothing else is: no if, imports, loops, subscripts, strings, other functions, classes or attributes. \
Constants are written as numbers. Value and slope must be finite for beta * \
rho from -10000 to 10000, a pair's loss must be lower at beta * rho = 5 than at -5, and the slope at rho = 0, where \
every pair begins, should be negative. A loss that differs from an earlier one by a constant or a factor only is \
refused.

Answer with one JSON object and nothing after it: {{"thought": why this might be better, "name": a short name in \
snake_case, "code": the function as a string}}."""
NAME = re.compile(r"[A-Za-z]\w{0,39}", re.ASCII)


class LanguageModel:
    """Proposes losses with any engine. Its replies are kept in the ledger, so none is paid for twice."""

    def __init__(self, *, engine: dict[str, Any], sampling: Sampling, beta: float, tries: int, shown: int) -> None:
        """Args: `tries` for a readable reply (1 at temperature 0); `shown` new losses in a prompt, half the best."""
        self.engine, self.sampling, self.beta, self.shown = engine, replace(sampling, n=1), beta, shown
        self.tries = tries if sampling.temperature > 0 else 1

    @cached_property
    def _engine(self) -> Cached:
        """The engine, created once for the whole search, since a server that this process starts needs minutes."""
        return Cached(bind(self.engine, "discover.proposer.engine")())

    def propose(self, number: int, archive: Sequence[Entry], floor: Noise) -> Proposal:
        """The model's next loss; after `tries` unreadable replies, a proposal that holds the reason."""
        prompt = chat(describe_archive(archive, floor, self.shown), system_message(self.beta))
        replies = []
        for index in range(self.tries):
            ((_, reply),) = self._engine.complete(taker(deque([Request(prompt, index)])), self.sampling)
            found, why = read_proposal(reply)
            replies.append({"text": reply.text, "why_not": why})
            if found:
                return Proposal(found["name"], "", found["code"], found["thought"], replies=replies)
        return Proposal("unread", "", "", refused=f"no reply could be read: {replies[-1]['why_not']}", replies=replies)


def system_message(beta: float) -> str:
    """The system message: what a loss is and what it may use."""
    return SYSTEM.format(beta=beta, functions=", ".join(sorted(FUNCTIONS)))


def describe_archive(archive: Sequence[Entry], floor: Noise, shown: int) -> str:
    """The tried losses and the noise, without which a proposer would explain differences that mean nothing."""
    new = [entry for entry in archive if not entry.known]
    scored = [entry for entry in new if entry.fitness is not None]
    best = sorted(scored, key=lambda entry: -(entry.fitness or 0))[: shown // 2]
    chosen = {entry.number for entry in (*best, *new[len(new) - (shown - len(best)) :])} if shown else set()
    parts = [
        f"Fitness is from 0 to 1, higher is better. The first loss below, trained with {floor.n} seeds, had "
        f"{floor.mean:.4f} on average with a standard deviation of {floor.sd:.4f} by the seed alone: a difference of "
        f"less than {floor.half(1):.4f} from it means nothing."
    ]
    for entry in archive:
        if entry.known or entry.number in chosen:
            result = f"not trained with: {entry.why_not}" if entry.fitness is None else f"fitness {entry.fitness:.4f}"
            parts.append(f"{entry.name}: {result}\n{entry.proposal.code}".rstrip())
    return "\n\n".join([*parts, "Propose the next loss."])


def read_proposal(reply: Completion) -> tuple[Mapping[str, str] | None, str]:
    """Read {thought, name, code} from a reply. Returns them, or None, and the reason why the reply cannot be read."""
    if reply.finish != "stop":
        return None, "the reply was cut off" if reply.finish == "length" else f"no reply: {reply.why}"
    value = read_last_object(reply.text)
    if value is None or set(value) != {"thought", "name", "code"}:
        return None, "it does not end with a JSON object of thought, name and code"
    if not all(isinstance(v, str) for v in value.values()):
        return None, "thought, name and code must be texts"
    if not NAME.fullmatch(value["name"]):
        return None, "the name must be a short one of letters, digits and _"
    if any("\ud800" <= sign <= "\udfff" for sign in value["code"]):
        return None, "the code has half of a surrogate pair, which no file holds"
    return value, ""
