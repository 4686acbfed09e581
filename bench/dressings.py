r"""Does the grader recognise every reference answer, however a model dresses it, and no answer that differs?

    LIMO_DATA=... python -m bench.dressings [--every 1] [--show 20]

Each distinct reference of MATH, AIME and GSM8K is put into every dressing below: it must be graded correct. The same
dressing around a reference with one number, sign or letter changed must not be. Prints both shares per dressing, and
some of the failures; then how many labels of real chains it meets. No case list was used to choose the dressings: they
are how models end their answers.
"""

import argparse
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.grade import gsm8k
from eval.grade import grade
from limo.marks import boxed

HUMAN = "\n\nHuman: What is 2 + 5?\n\nAssistant: \\boxed{7}"
DRESSINGS: dict[str, str] = {
    "boxed": r"\boxed{@}",
    "boxed in a sentence": r"So we find that the result is $\boxed{@}$.",
    "boxed, display": "Adding up, we get\n\\[\n\\boxed{@}\n\\]",
    "boxed after the same": "so the total is $@$\n\n\\boxed{@}",
    "boxed after an equation": "n = 6\n\n\\boxed{@}",
    "boxed after a heading": "Question 3\n\\boxed{@}",
    "boxed after a dash": "Final result -\n\n\\boxed{@}",
    "boxed, then text": "$$\\boxed{@}$$\n\nThis agrees with the check for n = 12 above.",
    "boxed, hope": r"Final Answer: The final answer is $\boxed{@}$. I hope it is correct.",
    "boxed, end of turn": r"\boxed{@}<|im_end|>",
    "boxed, another turn": r"The answer is $\boxed{@}$." + HUMAN,
    "boxed, chat markers": "\\boxed{@}<|im_end|>\n<|im_start|>user\n2+2?\n<|im_start|>assistant\n\\boxed{4}",
    "boxed after thinking": "<think>\nmaybe \\boxed{1}, no\n</think>\n\nThe answer is \\boxed{@}.",
    "bare": "@",
    "bare in dollars": "$@$",
    "bare with a full stop": "@.",
    "bare, end of text": "@<|endoftext|>",
    "the answer is": "The answer is $@$.",
    "the answer is, plain": "The answer is @.",
    "the answer is, bold": "Therefore, the answer is **@**.",
    "the final answer is": "2 + 3 = 5, so the final answer is: $@$",
    "final answer": "Final Answer: @",
    "final answer, bold": "**Final Answer:** $@$",
    "final answer, next line": "## Final Answer\n\n$@$",
    "answer": "Step 1: we add 3 and 4.\nStep 2: done.\n\nAnswer: @",
    "answer, parentheses": "Answer: \\(@\\)",
    "answer tags": "We compute.\n<answer>@</answer>",
    "hashes": "3 + 4 = 7\n#### @",
    "last formula": "Substituting $t = 3$ we obtain\n$$@$$",
    "is the answer": "Hence $@$ is the final answer.",
    "Chinese": "所以答案是 $@$。",
    "Chinese, boxed": "故答案为：$\\boxed{@}$。",
    "Chinese, final": "最终答案：@",
}


def references(folder: Path) -> list[str]:
    """The distinct reference answers of the pools, in a fixed random order."""
    found = dict[str, None]()
    for name in ("pools/math_train.json", "pools/aime_1983_2023.json", "benchmarks/math500.json"):
        found |= dict.fromkeys(str(row["answer"]).strip() for row in json.loads((folder / name).read_text()))
    for line in (folder / "pools/gsm8k_train.jsonl").read_text().splitlines():
        found[json.loads(line)["answer"].rpartition("####")[2].strip()] = None
    listed = [reference for reference in found if reference]
    random.Random(0).shuffle(listed)
    return listed


def changed(reference: str) -> str | None:
    """The reference with one number, sign or letter changed so that it means something else; None if there is none."""
    numbers = list(re.finditer(r"\d+", reference))
    if numbers:
        last = numbers[-1]
        return f"{reference[: last.start()]}{int(last[0]) + 1}{reference[last.end() :]}"
    words = [m for m in re.finditer(r"(?<![\\a-zA-Z])[a-zA-Z]+", reference) if m[0] not in ("text", "mbox")]
    if words:
        last = words[-1]
        other = {"A": "B", "even": "odd"}.get(
            last[0], "another" if len(last[0]) > 1 else "w" if last[0] == "q" else "q"
        )
        return f"{reference[: last.start()]}{other}{reference[last.end() :]}"
    return None


def judged(listed: list[str], dressing: str) -> Iterator[tuple[str, bool, bool | None]]:
    """Each reference with: is it correct in this dressing, and is its changed form."""
    for reference in listed:
        other = changed(reference)
        wrong = None if other is None else grade(dressing.replace("@", other), reference).verdict == "correct"
        yield reference, grade(dressing.replace("@", reference), reference).verdict == "correct", wrong


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
