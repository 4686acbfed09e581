"""The grader as a reward: of TRL's trainers and of verl."""

from functools import partial
from pathlib import Path

import pytest

from eval.grade import compute_score, reward
from limo.errors import UserError


def test_right_answers_earn_wrong_ones_do_not_and_unsure_ones_are_left_out() -> None:
    texts = ["so \\boxed{5}", [{"role": "assistant", "content": "The answer is 5."}], "\\boxed{6}", "\\boxed{x +}"]
    assert reward(prompts=["q"] * 4, completions=texts, solution=["5"] * 4) == [1.0, 1.0, 0.0, None]
    assert partial(reward, unsure=0.0)(texts, answer=["5"] * 4) == [1.0, 1.0, 0.0, 0.0]


def test_rows_without_a_reference_are_left_out() -> None:
    assert reward(["\\boxed{5}"] * 4, [None, "", [], "5"]) == [None, None, None, 1.0]
    assert reward(["\\boxed{5}"] * 2, ["so it is $\\boxed{5}$", "\\oint_C f"], ["5", None]) == [1.0, None]
    with pytest.raises(UserError, match="a column 'solution' or 'answer'"):
        reward(["\\boxed{5}"])


def test_several_references_are_alternatives() -> None:
    assert reward(["\\boxed{5}", "\\boxed{7}"], [["6", "5"], ["6", "5"]]) == [1.0, 0.0]


def test_completions_may_be_empty_or_in_parts() -> None:
    parts = [
        {"role": "assistant", "content": [{"type": "text", "text": "so "}, {"type": "text", "text": "\\boxed{5}"}]}
    ]
    assert reward([None, "", [], [{"role": "assistant", "content": None}], parts], ["5"] * 5) == [0.0] * 4 + [1.0]


def test_columns_of_the_log() -> None:
    logged: dict[str, list[str]] = {}
    reward(["\\boxed{5}", ""], ["5", "5"], log_extra=logged.__setitem__)
    assert logged == {"verdict": ["correct", "wrong"], "extracted": ["5", ""]}


def test_verl() -> None:
    assert compute_score("math", "so \\boxed{5}", "5") == 1.0
    assert compute_score("math", "so \\boxed{6}", ["5", "7"], extra_info={"index": 0}) == 0.0
    assert compute_score(data_source="math", solution_str="so \\boxed{x +}", ground_truth="5") == 0.0


@pytest.mark.slow
def test_trl_trains_with_it(tiny: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    seen = list[float]()

    def counted(completions: list[str], solution: list[str], **more: object) -> list[float | None]:
        found = reward(completions, solution, **more)
        seen.extend(value for value in found if value is not None)
        return found

    rows = Dataset.from_dict({"prompt": ["1 + 1 = ?", "2 + 3 = ?"], "solution": ["2", "5"]})
    args = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, max_completion_length=4,
        max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
    )  # fmt: skip
    trainer = GRPOTrainer(str(tiny), reward_funcs=counted, args=args, train_dataset=rows)
    trainer.train()
    assert len(seen) == 2 and trainer.state.log_history[0]["reward"] == sum(seen) / 2
