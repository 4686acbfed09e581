"""Does the decontamination find leaks? Plants known ones, and counts what it finds and what it marks wrongly.

    python bench/leaks.py --benchmark math500.json --pool aime_1983_2023.json --show 5

Problems of the benchmarks are planted in five disguises: as they are, in other LaTeX, in other white space, inside a
longer text, and with one number changed. For every rule the share that it finds is printed, and how many rows of the
pool it marks: those a person has to look at (`--show`), since a pool may hold real leaks.
"""

import argparse
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from curation.similar import RULES, Known
from eval.benchmarks import load
from limo.data import Example
from limo.errors import reported
from limo.sources import file

Disguise = Callable[[str, random.Random], str]


def write_other_latex(text: str, _: random.Random) -> str:
    """The same mathematics in another spelling."""
    text = re.sub(r"\$([^$]+)\$", r"\\(\1\\)", text)
    text = re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\dfrac\1\2", text)
    text = text.replace("\\le ", "\\leq ").replace("\\cdot", "\\times").replace("{,}", ",")
    return re.sub(r"\((?=[^()]*\))([^()\\]*)\)", r"\\left(\1\\right)", text)


def write_other_space(text: str, random: random.Random) -> str:
    """Lines broken elsewhere, spaces doubled, none around signs."""
    text = re.sub(r" *([=+<>]) *", r"\1", text)
    return re.sub(r" ", lambda _: random.choice((" ", " ", "  ", "\n")), text)


def surround(text: str, random: random.Random) -> str:
    """With an introduction before and a request behind."""
    before = ("Here is a question from last week's sheet. ", "Question 7. ", "A pupil asked me this one:\n\n")
    behind = (" Show your work.", "\n\nWrite the result in a box at the end.", " Explain each step in a sentence.")
    return random.choice(before) + text + random.choice(behind)


def renumber(text: str, random: random.Random) -> str:
    """One number changed: a variant, which is another problem but trains on the same."""
    places = list(re.finditer(r"\d+", text))
    if not places:
        return text
    place = random.choice(places)
    return text[: place.start()] + str(int(place.group()) + random.randrange(1, 9)) + text[place.end() :]


DISGUISES: Mapping[str, Disguise] = {
    "as it is": lambda text, _: text,
    "other LaTeX": write_other_latex,
    "other space": write_other_space,
    "in a text": surround,
    "renumbered": renumber,
}


def recall(problems: Sequence[str], rule: str, seed: int) -> dict[str, float]:
    """The share of planted problems that a rule finds, by disguise; a planted problem counts only for itself."""
    lookup, found = Known(problems, rule), {}
    for name, disguise in DISGUISES.items():
        seeded = random.Random(f"{seed}/{name}")
        hits = [any(hit.at == at for hit in lookup.matches(disguise(text, seeded))) for at, text in enumerate(problems)]
        found[name] = sum(hits) / len(hits)
    return found


def mark(problems: Sequence[str], pool: Iterable[str], rule: str) -> list[tuple[str, str, str]]:
    """The rows of a pool that a rule marks: how, the row, and what it matched."""
    lookup = Known(problems, rule)
    marked = ((text, lookup.matches(text)) for text in pool)
    return [(hits[0].kind, text, problems[hits[0].at]) for text, hits in marked if hits]


def main() -> None:
    """Print both for every rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", action="append", required=True, help="name or file (may be given again)")
    parser.add_argument("--pool", help="file whose marked rows are counted")
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="marked rows to show, beside what they matched"
    )
    args = parser.parse_args()
    with reported():
        listed = load(args.benchmark, "").values()
        problems = [str(row.notes.get("problem", row.question)) for rows in listed for row in rows]
        pool = file("pool", "", path=args.pool) if args.pool else ()
        texts = [row.question for row in pool if isinstance(row, Example)]
    print(f"{len(problems)} problems planted in five disguises, % found:\n")
    print("  ".join(["rule    ", *DISGUISES, f"same, of {len(texts)} rows", "variants"]))
    for rule in RULES:
        hits = mark(problems, texts, rule)
        shares = [f"{100 * share:>{len(name)}.1f}" for name, share in recall(problems, rule, 0).items()]
        counts = [sum(kind == which for kind, _, _ in hits) for which in ("same", "variant")]
        print(
            "  ".join([f"{rule:<8}", *shares, f"{counts[0]:>{len(f'same, of {len(texts)} rows')}}", f"{counts[1]:>8}"])
        )
        for kind, *texts_ in hits[: args.show]:
            pool_, benchmark = (" ".join(text.split())[:300] for text in texts_)
            print(f"  {kind}\n    pool:      {pool_}\n    benchmark: {benchmark}")


if __name__ == "__main__":
    main()
