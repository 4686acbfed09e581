"""How models end their answers, and reference answers put into each of these endings, right and changed."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from eval.grade import grade

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
