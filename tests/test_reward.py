"""The grader as a reward of TRL's GRPOTrainer."""

from pathlib import Path

import pytest

from eval.grade import reward


def test_right_answers_earn_and_nothing_else_does() -> None:
    texts = ["so \\boxed{5}", [{"role": "assistant", "content": "The answer is 5."}], "\\boxed{6}", "\\boxed{x +}"]
    assert reward(prompts=["q"] * 4, completions=texts, answer=["5"] * 4) == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.slow
def test_trl_trains_with_it(tiny: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    seen = list[float]()

    def counted(completions: list[str], answer: list[str], **more: object) -> list[float]:
        seen.extend(reward(completions, answer, **more))
        return seen[-len(completions) :]

    rows = Dataset.from_dict({"prompt": ["1 + 1 = ?", "2 + 3 = ?"], "answer": ["2", "5"]})
    args = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, max_completion_length=4,
        max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
    )  # fmt: skip
    trainer = GRPOTrainer(str(tiny), reward_funcs=counted, args=args, train_dataset=rows)
    trainer.train()
    assert len(seen) == 2 and trainer.state.log_history[0]["reward"] == sum(seen) / 2
