"""How a benchmark's problem is put to a model: plainly, with options, or behind worked examples.

The words and the worked examples are ours (`eval/shots.yaml`). The published few-shot protocol, its number of examples
and its layout (Problem, Solution, Problem, ...) are those of MAmmoTH2 (arXiv 2405.03548, section 3.2), so numbers come
close to those of the paper without being the same measurement.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

LETTERS = "ABCDEFGHIJ"
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
    """The zero-shot prompt: the problem, and for a multiple choice what to answer with."""
    return f"{problem}\n\n{CHOOSE}" if choice else problem


def behind_examples(problem: str, group: str, shots: int) -> str:
    """The few-shot prompt: worked problems and then this one, left open for its solution.

    Raises ValueError if `eval/shots.yaml` has fewer examples in the group.
    """
    worked = _worked()[group][:shots]
    if len(worked) < shots:
        raise ValueError(f"{shots} examples asked of '{group}', which has {len(worked)}")
    blocks = [f"Problem:\n{shot['problem']}\nSolution:\n{shot['solution']}" for shot in worked]
    return "\n\n".join(["Solve the last problem as the ones before it.", *blocks, f"Problem:\n{problem}\nSolution:"])


@lru_cache(maxsize=1)
def _worked() -> Mapping[str, Any]:
    file = Path(__file__).with_name("shots.yaml")
    return dict(yaml.safe_load(file.read_text(encoding="utf-8")))
