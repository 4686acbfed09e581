"""Who proposes losses: a search over an expression grammar, or a language model.

A proposer is a node of the recipe with one method, `propose(number, archive, floor)`: the number of the proposal, what
has been tried so far, and the noise of the baseline. The same three give the same proposal.
"""

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from limo import grammar
from limo.allowed import FUNCTIONS
from limo.archive import Entry, Proposal
from limo.data import chat
from limo.engine import Completion, Request, Sampling, taker
from limo.ledger import Cached
from limo.noise import Noise
from limo.recipe import bind

KNOWN = {"kto": "limo.preference.kto_pair"}  # where a tree's name is not that of its function


class Grammar:
    """New losses from the parts of known ones (`limo/grammar.py`): no language model, the same again for a seed."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def propose(self, number: int, archive: Sequence[Entry], floor: Noise) -> Proposal:
        """A child of those that have a fitness, the better ones more often."""
        trees = {one.number: tree for one in archive if (tree := tree_of(one)) is not None}
        parents = [(trees[o.number], o.fitness) for o in archive if o.number in trees and o.fitness is not None]
        draw = Random(f"{self.seed}/{number}")
        tree = grammar.child(parents, draw, list(trees.values()))
        name = f"grown_{number}"
        return Proposal(name, "", grammar.text(tree, name), "changed and crossed from those before", tree)


def tree_of(one: Entry) -> Any:
    """The tree of a candidate that came from the grammar or is known to it; None for any other."""
    if one.proposal.tree is not None:
        return _tuples(one.proposal.tree)
    path = one.proposal.loss if isinstance(one.proposal.loss, str) else one.proposal.loss.get("_target_", "")
    return {KNOWN.get(n, f"limo.preference.{n}"): t for n, t in grammar.KNOWN.items()}.get(str(path))


def _tuples(tree: Any) -> Any:
    return tuple(map(_tuples, tree)) if isinstance(tree, list | tuple) else tree


SYSTEM = """\
You do research on preference optimization of language models and look for new losses. Each one you propose is trained \
with and scored, and you see the scores before you propose the next.

A loss is one Python function of exactly this form:

def name(chosen, rejected, reference_chosen, reference_rejected, beta):
    rho = margin(chosen, rejected, reference_chosen, reference_rejected)
    return logistic(beta * rho)

The four inputs are tensors of shape (pairs,): log-probabilities in nats, summed over the tokens of the preferred and \
of the other completion, under the policy that is trained and under the fixed reference. beta is {beta}. It returns \
one value for each pair; the mean of them goes down. margin is (chosen - rejected) - (reference_chosen - \
reference_rejected), logistic(x) is log(1 + exp(-x)), hinge(x) is max(0, 1 - x), exponential(x) is exp(-x) made safe \
for large -x.

Known are arithmetic, comparisons, assignments, if and else on numbers, for over range of a small number, and these \
functions, after torch. or F. or as methods: {functions}. Nothing else is: no imports, no subscripts, no strings, no \
other functions, classes or attributes. Constants are written as numbers. Value and slope must be finite for beta * \
rho from -10000 to 10000, a pair's loss must be lower at beta * rho = 5 than at -5, and the slope at rho = 0, where \
every pair begins, should be negative.

Answer with one JSON object and nothing after it: {{"thought": why this might be better, "name": a short name in \
snake_case, "code": the function as a string}}."""
NAME = re.compile(r"[A-Za-z]\w{0,39}", re.ASCII)


class LanguageModel:
    """Any engine as the proposer; its replies are kept like every sample, so that none is paid for twice."""

    def __init__(self, *, engine: dict[str, Any], sampling: Sampling, beta: float, tries: int, shown: int) -> None:
        """Args: `tries` at a readable reply; `shown` new losses at most in a prompt, half of them the best."""
        self.engine, self.sampling, self.beta, self.tries, self.shown = engine, sampling, beta, tries, shown

    def propose(self, number: int, archive: Sequence[Entry], floor: Noise) -> Proposal:
        """What the model says next; after `tries` replies that cannot be read, a proposal that says why."""
        engine = Cached(bind(self.engine, "discover.proposer.engine")())
        prompt = chat(told(archive, floor, self.shown), system(self.beta))
        replies = []
        for index in range(self.tries):
            ((_, reply),) = engine.complete(taker(deque([Request(prompt, index)])), self.sampling)
            found, why = read_reply(reply)
            replies.append({"text": reply.text, "why_not": why})
            if found:
                return Proposal(found["name"], "", found["code"], found["thought"], None, "", replies)
        return Proposal("unread", "", "", "", None, f"no reply could be read: {replies[-1]['why_not']}", replies)


def system(beta: float) -> str:
    """The system message."""
    return SYSTEM.format(beta=beta, functions=", ".join(sorted(FUNCTIONS)))


def told(archive: Sequence[Entry], floor: Noise, shown: int) -> str:
    """What has been tried, with the noise: without that a proposer reads meaning into differences that have none."""
    new = [one for one in archive if not one.known]
    best = sorted((o for o in new if o.fitness is not None), key=lambda o: -(o.fitness or 0))[: shown // 2]
    last = {one.number for one in (*best, *new[len(new) - (shown - len(best)) :])} if shown else set()
    parts = [
        f"Fitness is from 0 to 1, higher is better. The first loss below, trained with {floor.n} seeds, had "
        f"{floor.mean:.4f} on average with a standard deviation of {floor.sd:.4f} by the seed alone: a difference of "
        f"less than {floor.half(1):.4f} from it means nothing."
    ]
    for one in archive:
        if not one.known and one.number not in last:
            continue
        result = f"not trained with: {one.why_not}" if one.fitness is None else f"fitness {one.fitness:.4f}"
        parts.append(f"{one.name}: {result}\n{one.proposal.code}".rstrip())
    return "\n\n".join([*parts, "Propose the next loss."])


def read_reply(reply: Completion) -> tuple[Mapping[str, str] | None, str]:
    """{thought, name, code} of a reply, or None and why it has none.

    The object is the last thing in the reply, a code block's end may follow; line breaks inside its texts are taken.
    """
    if reply.finish != "stop":
        return None, "the reply was cut off" if reply.finish == "length" else f"no reply: {reply.why}"
    text = reply.text.rstrip().removesuffix("```").rstrip()
    decoder = json.JSONDecoder(strict=False)
    for start in (found.start() for found in re.finditer(r"\{", text)):
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if end == len(text) and isinstance(value, dict) and set(value) == {"thought", "name", "code"}:
            if not all(isinstance(v, str) for v in value.values()):
                return None, "thought, name and code must be texts"
            if not NAME.fullmatch(value["name"]):
                return None, "the name must be a short one of letters, digits and _"
            if any("\ud800" <= sign <= "\udfff" for sign in value["code"]):
                return None, "the code has half of a surrogate pair, which no file holds"
            return value, ""
    return None, "it does not end with a JSON object of thought, name and code"
