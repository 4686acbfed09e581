"""The prompt of a benchmark's problem: plain, with options, or after worked examples.

The words and the worked examples are ours (`eval/shots.yaml`). The published few-shot protocol, its number of examples
and its layout (Problem, Solution, Problem, ...) are those of MAmmoTH2 (arXiv 2405.03548, section 3.2), so numbers come
close to those of the paper without being the same measurement.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import yaml

LETTERS = "ABCDEFGHIJ"
NEXT_PROBLEM = "\nProblem:"  # a model that starts another problem after the worked examples has given its answer
CHOOSE = "Choose one option and put its letter in \\boxed{}."


def with_options(problem: str, options: Sequence[str]) -> str:
    """A question and its options, one a line: `(A) ...`.

    >>> print(with_options("2 + 2?", ["3", "4"]))
    2 + 2?
    (A) 3
    (B) 4
    """
    return "\n".join([problem, *(f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))])


def plain(problem: str, choice: bool) -> str:
    """The zero-shot prompt: the problem, and for a multiple choice the form of the answer."""
    return f"{problem}\n\n{CHOOSE}" if choice else problem


def behind_examples(problem: str, group: str, shots: int) -> str:
    """The few-shot prompt: worked problems of a group and then this one, which ends where its solution starts."""
    chosen = worked(group)[:shots]
    assert len(chosen) == shots, (group, shots)
    blocks = [f"Problem:\n{shot['problem']}\nSolution:\n{shot['solution']}" for shot in chosen]
    return "\n\n".join(["Solve the last problem as the ones before it.", *blocks, f"Problem:\n{problem}\nSolution:"])


@lru_cache(maxsize=8)
def worked(group: str) -> list[dict[str, str]]:
    """The worked examples of a group of `eval/shots.yaml`, each a problem and its solution."""
    file = Path(__file__).with_name("shots.yaml")
    return list(yaml.safe_load(file.read_text(encoding="utf-8"))[group])
