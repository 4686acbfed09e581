r"""Grade a final answer: correct, wrong, or could not tell.

    from eval.grade import grade
    grade("so it is \\boxed{\\frac{1}{2}}.", "0.5")  ->  Grade("correct", extracted="\\frac{1}{2}", how="number")

    python -m eval.grade completions.jsonl

    GRPOTrainer(model, reward_funcs=reward, train_dataset=...)  # columns: prompt, answer

The rules are in `eval/grader/`, the command is `eval/grader/command.py`.
"""

from collections.abc import Sequence
from typing import Any

from eval.grader.extract import explicit, extract
from eval.grader.grade import Grade, equal, grade
from eval.grader.nodes import Kind, Verdict

__all__ = ["Grade", "Kind", "Verdict", "equal", "explicit", "extract", "grade", "reward"]


def reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """The reward function for TRL's GRPOTrainer: 1 for each correct completion, 0 for each other.

    Args: `completions` as TRL gives them, texts or lists of messages of which the last one counts; `answer` the
    reference column of the data set. What the grader cannot tell earns nothing.
    """
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(grade(t, a).verdict == "correct") for t, a in zip(texts, answer, strict=True)]


if __name__ == "__main__":
    from eval.grader.command import main

    main()
