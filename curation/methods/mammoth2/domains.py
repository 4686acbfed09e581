"""Decides which domains are worth mining, by a list or by asking a model.

A decision is a function that the recipe names: `listed` or `judge_domains`. It gets the counts of recalled pages per
domain and decides which domains are kept.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from limo.console import say
from limo.data import chat
from limo.engines.ledger import Cached
from limo.engines.protocol import Completion, Prompt, Sampling, sample
from limo.recipe import bind

Otherwise = Literal["keep", "drop"]  # what happens to an undecided domain
SHOWN = 5  # addresses of a domain that a model is shown

PROMPT = """\
We collect pages from which somebody can learn: problems with solutions, questions with answers, lessons, lectures, \
exams, discussions that explain a subject.

Domain: {domain}
Pages that a classifier has picked there: {recalled:,} of {pages:,}
Some of their addresses and titles:
{examples}

Does this domain mainly hold such material? Shops, news, company pages, link lists, adult pages and machine-made text \
do not count. Reply with one line that holds one word, yes or no."""


@dataclass(slots=True)
class Domain:
    """A domain with its numbers of pages and of recalled pages."""

    name: str
    pages: int = 0
    recalled: int = 0
    examples: tuple[str, ...] = ()  # addresses and titles of recalled pages


def listed(domains: Sequence[Domain], /, *, keep: list[str], drop: list[str], otherwise: Otherwise) -> dict[str, bool]:
    """Decide by lists of patterns such as `*.edu`. A domain on both lists is dropped."""

    def is_on(name: str, patterns: list[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return {d.name: not is_on(d.name, drop) and (otherwise == "keep" or is_on(d.name, keep)) for d in domains}


def judge_domains(
    domains: Sequence[Domain], /, *, engine: dict[str, Any], sampling: Sampling, otherwise: Otherwise
) -> dict[str, bool]:
    """Decide by asking a model about each domain, with some of its pages. `otherwise` is the decision if the reply is
    neither yes nor no.
    """
    model, chosen, prompts = Cached(bind(engine, "domains.engine")()), dict[str, bool](), list[Prompt]()
    for d in domains:  # addresses are untrusted text: one line each
        shown = "\n".join(f"- {' '.join(example.split())[:160]}" for example in d.examples[:SHOWN]) or "- none"
        told = PROMPT.format(domain=d.name[:120], recalled=d.recalled, pages=d.pages, examples=shown)
        prompts.append(chat(told))
    for domain, replies in zip(domains, sample(model, prompts, sampling, "domains"), strict=True):
        verdict = next((v for reply in replies if (v := _read(reply)) is not None), None)
        if verdict is None:
            say(f"the model does not decide on {domain.name}, which is {'kept' if otherwise == 'keep' else 'dropped'}")
        chosen[domain.name] = (otherwise == "keep") if verdict is None else verdict
    return chosen


def _read(reply: Completion) -> bool | None:
    """Read a reply: True for yes, False for no, None for anything else and for a reply that was cut off."""
    found = re.fullmatch(r"\W*(yes|no)\W*", reply.text.strip().rpartition("\n")[2].lower())
    return found[1] == "yes" if found and reply.finish == "stop" else None
