"""Which domains are worth mining: by a list, or by asking a model. The prompt and the reader of its reply stand here.

A decision is a node of the recipe, `curation.mammoth2.domains.listed` or `curation.mammoth2.domains.asked`; it is given
what recall has counted and says which domains stay. A domain that it says nothing of is treated as `otherwise` says.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from limo.data import chat
from limo.engines.ledger import Cached
from limo.engines.protocol import Completion, Sampling, sample
from limo.progress import say
from limo.recipe import bind

Otherwise = Literal["keep", "drop"]
SHOWN = 5  # addresses of a domain that a model is shown

PROMPT = """\
We collect pages from which somebody can learn: problems with solutions, questions with answers, lessons, lectures, \
exams, discussions that explain a subject.

Domain: {domain}
Pages that a classifier has picked there: {recalled} of {pages}
Some of their addresses and titles:
{examples}

Does this domain mainly hold such material? Shops, news, company pages, link lists, adult pages and machine-made text \
do not count. Reply with one line that holds one word, yes or no."""


@dataclass(slots=True)
class Domain:
    """What recall has counted of a domain."""

    name: str
    pages: int = 0
    recalled: int = 0
    examples: tuple[str, ...] = ()  # addresses and titles of recalled pages


def listed(domains: Sequence[Domain], /, *, keep: list[str], drop: list[str], otherwise: Otherwise) -> dict[str, bool]:
    """A list decides: patterns such as `*.edu`. What is on both lists is dropped."""
    return {d.name: _fits(d.name, keep, drop, otherwise == "keep") for d in domains}


def _fits(name: str, keep: list[str], drop: list[str], otherwise: bool) -> bool:
    if any(fnmatchcase(name, pattern) for pattern in drop):
        return False
    return otherwise or any(fnmatchcase(name, pattern) for pattern in keep)


def asked(
    domains: Sequence[Domain], /, *, engine: dict[str, Any], sampling: Sampling, otherwise: Otherwise
) -> dict[str, bool]:
    """A model decides, shown the domain and some of its pages; what it says neither yes nor no to is `otherwise`."""
    model = Cached(bind(engine, "domains.engine")())
    replies = sample(model, [chat(prompt_of(domain)) for domain in domains], sampling, "domains")
    said = [next((v for r in several if (v := read_reply(r)) is not None), None) for several in replies]
    if unread := sum(verdict is None for verdict in said):
        say(
            f"{unread} domains have no verdict that can be read, and are {'kept' if otherwise == 'keep' else 'dropped'}"
        )
    return {d.name: (otherwise == "keep") if v is None else v for d, v in zip(domains, said, strict=True)}


def prompt_of(domain: Domain) -> str:
    """What the model is asked. Addresses are shortened to one line each: they are data, written by anybody."""
    examples = "\n".join(f"- {' '.join(example.split())[:160]}" for example in domain.examples[:SHOWN])
    counts: Mapping[str, Any] = {"recalled": f"{domain.recalled:,}", "pages": f"{domain.pages:,}"}
    return PROMPT.format(domain=domain.name[:120], examples=examples or "- none", **counts)


def read_reply(reply: Completion) -> bool | None:
    """Yes or no; None for anything else, and for a reply that was cut off."""
    found = re.fullmatch(r"\W*(yes|no)\W*", reply.text.strip().rpartition("\n")[2].lower())
    return found[1] == "yes" if found and reply.finish == "stop" else None
