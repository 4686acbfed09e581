"""Does the decontamination find leaks? Plants known ones, and counts what it finds and what it marks wrongly.

    python -m curation.leaks --benchmark math500.json --pool aime_1983_2023.json
    python -m curation.leaks --benchmark aime24 --pool my_pool.jsonl --show 5

Problems of the benchmarks are planted in five disguises: as they are, in other LaTeX, in other white space, inside of a
longer text, and with one number changed. For every rule the share that it finds is printed, and how many rows of the
pool it marks: those a person has to look at (`--show`), since a pool may hold real leaks.
"""

import argparse
import random
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from curation.similar import RULES, known
from eval.benchmarks import load
from limo.data import Example
from limo.errors import UserError, reported
from limo.sources import file

Disguise = Callable[[str, random.Random], str]


def as_it_is(text: str, _: random.Random) -> str:
    """The problem itself."""
    return text


def in_other_latex(text: str, _: random.Random) -> str:
    """The same mathematics in another spelling."""
    text = re.sub(r"\$([^$]+)\$", r"\\(\1\\)", text)
    text = re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\dfrac\1\2", text)
    text = text.replace("\\le ", "\\leq ").replace("\\cdot", "\\times").replace("{,}", ",")
    return re.sub(r"\((?=[^()]*\))([^()\\]*)\)", r"\\left(\1\\right)", text)


def in_other_space(text: str, draw: random.Random) -> str:
    """Lines broken elsewhere, spaces doubled, none around signs."""
    text = re.sub(r" *([=+<>]) *", r"\1", text)
    return re.sub(r" ", lambda _: draw.choice((" ", " ", "  ", "\n")), text)


def inside_of_a_text(text: str, draw: random.Random) -> str:
    """With an introduction before and a request behind."""
    before = draw.choice(
        ("Here is a question from last week's sheet. ", "Question 7. ", "A pupil asked me this one:\n\n")
    )
    behind = draw.choice(
        (" Show your work.", "\n\nWrite the result in a box at the end.", " Explain each step in a sentence.")
    )
    return before + text + behind


def renumbered(text: str, draw: random.Random) -> str:
    """One number changed: a variant, which is another problem but trains on the same."""
    places = list(re.finditer(r"\d+", text))
    if not places:
        return text
    place = draw.choice(places)
    return text[: place.start()] + str(int(place.group()) + draw.randrange(1, 9)) + text[place.end() :]


DISGUISES: Mapping[str, Disguise] = {
    "as it is": as_it_is,
    "other LaTeX": in_other_latex,
    "other space": in_other_space,
    "in a text": inside_of_a_text,
    "renumbered": renumbered,
}


def recall(problems: Sequence[str], rule: str, seed: int) -> dict[str, float]:
    """The share of planted problems that a rule finds, by disguise; a planted problem counts only for itself."""
    lookup = known(problems, rule)
    found = {}
    for name, disguise in DISGUISES.items():
        draw = random.Random(f"{seed}/{name}")
        hits = [any(hit.at == at for hit in lookup.matches(disguise(text, draw))) for at, text in enumerate(problems)]
        found[name] = sum(hits) / max(len(hits), 1)
    return found


def marked(problems: Sequence[str], pool: Iterable[str], rule: str) -> list[tuple[str, str, str]]:
    """The rows of a pool that a rule marks: how, the row, and what it matched."""
    lookup = known(problems, rule)
    found = list[tuple[str, str, str]]()
    for text in pool:
        hits = lookup.matches(text)
        if hits:
            found.append((hits[0].kind, text, lookup.texts[hits[0].at]))
    return found


def main() -> None:
    """The command `python -m curation.leaks`."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.leaks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmark", action="append", required=True, help="name or file (may be given again)")
    parser.add_argument("--pool", help="file whose marked rows are counted")
    parser.add_argument("--rule", action="append", choices=RULES, help="only this rule (may be given again)")
    parser.add_argument("--seed", type=int, default=0, help="of the disguises (default: 0)")
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="marked rows to show, beside what they matched"
    )
    args = parser.parse_args()
    with reported():
        _run(**vars(args))


def _run(*, benchmark: list[str], pool: str | None, rule: list[str] | None, seed: int, show: int) -> None:
    from rich.console import Console
    from rich.table import Table

    problems = [str(row.notes.get("problem", row.question)) for rows in load(benchmark, "").values() for row in rows]
    if not problems:
        raise UserError("the benchmarks have no problem")
    texts = [row.question for row in file("pool", "", path=pool) if isinstance(row, Example)] if pool else []
    table = Table(title=f"{len(problems)} problems planted in five disguises: % found", title_justify="left")
    for head in ("rule", *DISGUISES, *((f"same, of {len(texts)} rows", "variants") if pool else ())):
        table.add_column(head, justify="left" if head == "rule" else "right")
    shown: list[Any] = []
    for name in rule or RULES:
        found = recall(problems, name, seed)
        hits = marked(problems, texts, name)
        counts = [str(sum(kind == which for kind, _, _ in hits)) for which in ("same", "variant")] if pool else []
        table.add_row(name, *(f"{100 * share:.1f}" for share in found.values()), *counts)
        shown += [(name, *hit) for hit in hits[:show]]
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    for name, kind, text, match in shown:
        console.print(
            f"\n{name}, {kind}:\n  pool:      {_short(text)}\n  benchmark: {_short(match)}",
            markup=False,
            soft_wrap=True,
        )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:300] + " ..."


if __name__ == "__main__":
    main()
