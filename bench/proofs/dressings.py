r"""Does the grader recognise every reference answer, however a model dresses it, and no answer that differs?

    LIMO_DATA=... python -m bench.proofs.dressings [--every 1] [--show 20]

Each distinct reference of MATH, AIME and GSM8K is put into every dressing of `tests/dressings.py`: it must be graded
correct. The same dressing around a reference with one number, sign or letter changed must not be. Prints both shares
per dressing, and some of the failures; then how many labels of real chains it meets. No case list was used to choose
the dressings: they are how models end their answers.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.peers.grade import gsm8k
from eval.grade import grade
from limo.marks import boxed
from tests.dressings import DRESSINGS, judged, references


def unboxed(text: str) -> str:
    """A completion with the content of its boxes in their place."""
    for box in reversed(boxed(text)):
        text = text[: box.start] + box.text + text[box.end :]
    return text


def real_chains(folder: Path) -> Iterator[tuple[str, list[tuple[str, str, bool]]]]:
    """Sets of (completion, reference, label): labelled solutions without their marks, and those of AIME."""
    cases = []
    for line in (folder / "samples/math_cot_100.jsonl").read_text().splitlines():
        row = json.loads(line)
        cases += [(c, row["answer"], bool(s)) for c, s in zip(row["code"], row["score"], strict=True)]
    for line in (folder / "pools/math_chains_deepseek_chat.jsonl").read_text().splitlines():
        row = json.loads(line)
        cases.append((row["response"], str(row["ground_truth"]), True))
    yield "real chains without boxes", [(unboxed(c), a, right) for c, a, right in cases if boxed(c)]
    solved = [(text.rstrip().rpartition("\n")[0].strip(), a, right) for text, a, right in gsm8k(folder / "samples")]
    yield "GSM8K solutions without their last line", [case for case in solved if case[0]]
    rows = json.loads((folder / "pools/aime_1983_2023.json").read_text())
    rows += [json.loads(line) for line in (folder / "benchmarks/aime24.jsonl").read_text().splitlines()]
    yield "AIME solutions", [(r["solution"], str(r["answer"]), True) for r in rows if boxed(r.get("solution") or "")]


def main(say: Callable[[str], None] = print) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="only every so many references")
    parser.add_argument("--show", type=int, default=5, help="failures to print for each dressing")
    args = parser.parse_args()
    listed = references(Path(os.environ["LIMO_DATA"]))[:: args.every]
    say(f"{len(listed)} references\n{'dressing':<26}{'recognised':>12}{'changed ones accepted':>24}")
    missed = accepted = 0
    for name, dressing in DRESSINGS.items():
        found = list(judged(listed, dressing))
        lost = [reference for reference, right, _ in found if not right]
        fooled = [reference for reference, _, wrong in found if wrong]
        missed, accepted = missed + len(lost), accepted + len(fooled)
        say(f"{name:<26}{100 * (1 - len(lost) / len(found)):>10.2f} %{len(fooled):>24}")
        for what, some in (("missed", lost), ("accepted", fooled)):
            for reference in some[: args.show]:
                say(f"    {what}: {reference}")
    for name, cases in real_chains(Path(os.environ["LIMO_DATA"])):
        agreed = sum((grade(text, answer).verdict == "correct") == right for text, answer, right in cases)
        say(f"{name}: {agreed} of {len(cases)} labels, {100 * agreed / len(cases):.1f} %")
    say(f"all: {missed} of {len(listed) * len(DRESSINGS)} missed, {accepted} changed ones accepted")


if __name__ == "__main__":
    main()
