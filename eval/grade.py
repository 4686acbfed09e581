r"""Grade a final answer: correct, wrong, or could not tell.

    from eval.grade import grade
    grade("so it is \\boxed{\\frac{1}{2}}.", "0.5")  ->  Grade("correct", extracted="\\frac{1}{2}", how="number")

    python -m eval.grade completions.jsonl

The rules are in `eval/grader/`, the command is `eval/grader/command.py`.
"""

from eval.grader.extract import explicit, extract
from eval.grader.grade import Grade, equal, grade
from eval.grader.nodes import Kind, Verdict

__all__ = ["Grade", "Kind", "Verdict", "equal", "explicit", "extract", "grade"]

if __name__ == "__main__":
    from eval.grader.command import main

    main()
