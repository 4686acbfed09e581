"""What the rule-based teacher can do with real chains: plant errors, and find those of recorded models.

    python -m bench.studies.errors $LIMO_DATA/pools/gsm8k_train.jsonl $LIMO_DATA/samples/gsm8k_model_solutions.jsonl

The first file has right chains: how many can be read, in how many a mistake of each type can be planted and proved. The
second has what four models wrote for GSM8K's test problems: of those that end wrong, how many have a first wrong step
that is proved, and of which types.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from curation.methods.lemma.mistakes import Rejected, read_chain
from curation.methods.lemma.rules import diagnose
from curation.methods.lemma.slips import KINDS, slip
from curation.stages.chains import box_answers, write_out
from eval.equations import equations, holds
from limo.data import Example, chat
from limo.sources import file


def planted(path: str) -> None:
    """Print how many chains of a file can be read, and in how many each type of mistake can be planted."""
    start, chains, reasons = time.monotonic(), 0, Counter[str]()
    made, why = Counter[str](), Counter[tuple[str, str]]()
    rows = [r for r in file("chains", "", path=path) if isinstance(r, Example)]
    for row in box_answers(write_out(rows)):
        try:
            chain = read_chain(row)
        except Rejected as error:
            reasons[error.reason] += 1
            continue
        chains += 1
        for kind in KINDS:
            try:
                slip(chain, kind, Random(row.id))
                made[kind] += 1
            except Rejected as error:
                why[kind, error.reason] += 1
    print(f"{len(rows):,} chains, {chains:,} ({100 * chains / len(rows):.1f} %) can be read")
    for reason, count in reasons.most_common():
        print(f"  {count:>5,} {reason}")
    print("type  planted      %   set aside")
    for kind in KINDS:
        listed = ", ".join(f"{reason}: {count:,}" for (k, reason), count in why.most_common() if k == kind)
        print(f"{kind:<4} {made[kind]:>8,} {100 * made[kind] / chains:>6.1f}   {listed}")
    print(f"{time.monotonic() - start:.0f} s, {(made.total() + why.total()) / (time.monotonic() - start):.0f} a second")


def solutions(path: str) -> Iterator[tuple[str, Example, str, bool]]:
    """Model, problem with its right chain, solution, whether it is right; `A: 18` becomes a box."""
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines()):
        raw = json.loads(line)
        chain, _, answer = raw["ground_truth"].rpartition("\nA: ")
        row = Example(f"p/{number}", chat(raw["question"]), answer.replace(",", ""), chain, source="gsm8k")
        (right,) = box_answers(write_out([row]))
        for model, made in raw.items():
            if isinstance(made, dict):
                text, _, said = made["solution"].rpartition("\nA: ")
                (written,) = write_out([Example("x", row.prompt, "", text, source="x")])
                yield model, right, f"{written.completion}\nThe answer is \\boxed{{{said}}}.", made["is_correct"]


def found(path: str) -> None:
    """Print how many of the models' wrong solutions have a first wrong step that is proved, and of which types."""
    types: dict[str, Counter[str]] = {}
    reasons: dict[str, Counter[str]] = {}
    right_chains = Counter[str]()
    for model, row, text, right in solutions(path):
        if right:
            false = any(holds(e) is False for e in equations(text) if not e.unknown)
            right_chains["with a false equation" if false else "without"] += 1
            continue
        try:
            types.setdefault(model, Counter())[diagnose(read_chain(row), text).type] += 1
        except Rejected as error:
            reasons.setdefault(model, Counter())[error.reason] += 1
    print(f"\n{'model':<18} {'wrong':>6} {'proved':>7} {'%':>6}   types in % of the proved")
    for model, counts in types.items():
        wrong = counts.total() + reasons[model].total()
        shares = ", ".join(f"{k} {100 * n / counts.total():.1f}" for k, n in counts.most_common())
        print(f"{model:<18} {wrong:>6,} {counts.total():>7,} {100 * counts.total() / wrong:>6.1f}   {shares}")
    for reason, count in sum(reasons.values(), Counter[str]()).most_common():
        print(f"  {count:>5,} {reason}")
    print(f"right answers with a false equation: {right_chains['with a false equation']:,} of {right_chains.total():,}")


if __name__ == "__main__":
    planted(sys.argv[1])
    found(sys.argv[2])
