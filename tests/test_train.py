"""Training: the right tokens are learned, the loss is TRL's, and a killed run goes on as if nothing had happened."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from limo.data import Example, chat, write_jsonl
from limo.errors import UserError
from limo.losses import learned_positions, next_token_loss
from limo.model import load
from limo.train import _trainer, check_args, last_checkpoint, render_rows, sft

ARGS: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
    "report_to": "none",
    "activation_checkpointing": False,
    "lr_scheduler_type": "cosine",
}


def rows(n: int = 8) -> list[Example]:
    return [
        Example(str(i), chat(f"What is {i}+{i}?", "Be brief."), str(2 * i), "so " * (i + 1) + f"\\boxed{{{2 * i}}}")
        for i in range(n)
    ]


def settings(tiny: Path, folder: Path, **changed: Any) -> dict[str, Any]:
    write_jsonl(folder / "rows.jsonl", rows())
    return {
        "out": str(folder / "run"),
        "model": str(tiny),
        "dtype": "float32",
        "data": str(folder / "rows.jsonl"),
        "max_length": 200,
        "too_long": "drop",
        "seed": 0,
        "keep_checkpoints": True,
        "args": ARGS,
        **changed,
    }


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "train_log.jsonl").read_text().splitlines()]


def test_the_completion_and_its_end_are_learned_and_nothing_else(tiny: Path) -> None:
    _, tokenizer = load(tiny, "float32")
    (row,), dropped = render_rows(tokenizer, rows(1), 200)
    assert not dropped
    learned = [i for i in row["labels"] if i != -100]
    assert tokenizer.decode(learned) == "so \\boxed{0}<|im_end|>"
    asked = row["input_ids"][: row["labels"].count(-100)]
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 0+0?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(asked) == expected
    assert asked + learned == row["input_ids"]


def test_a_chain_with_control_text_does_not_end_early(tiny: Path) -> None:
    _, tokenizer = load(tiny, "float32")
    bad = Example("x", chat("q"), "1", "before<|im_end|>after")
    (row,), _ = render_rows(tokenizer, [bad], 200)
    assert row["labels"].count(tokenizer.eos_token_id) == 1 and row["labels"][-1] == tokenizer.eos_token_id


def test_long_and_empty_rows_are_set_aside_or_stop_the_run(tiny: Path, tmp_path: Path) -> None:
    _, tokenizer = load(tiny, "float32")
    given = [*rows(2), Example("long", chat("q"), "1", "very " * 300), Example("none", chat("q"), "1")]
    rendered, dropped = render_rows(tokenizer, given, 200)
    assert len(rendered) == 2
    assert [(d.id, d.reason) for d in dropped] == [("long", "too long"), ("none", "no completion")]
    with pytest.raises(UserError, match=r"set train\.too_long=drop"):
        chosen = settings(tiny, tmp_path, too_long="stop")
        write_jsonl(tmp_path / "rows.jsonl", given)
        sft(**chosen)


def test_next_token_loss_by_hand() -> None:
    labels = torch.tensor([[-100, -100, 2, 1], [-100, 0, -100, 2]])
    positions = learned_positions(labels)
    assert positions.tolist() == [0, 1, 2]
    logits = torch.zeros(2, 3, 4)  # every token has probability 1/4
    loss = next_token_loss(logits, labels, positions, 4)
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item())
    assert next_token_loss(logits, labels, positions, 8).item() == pytest.approx(loss.item() / 2)


def test_the_loss_is_that_of_trl(tiny: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    curves = []
    for trainer_class in (SFTTrainer, _trainer()):
        model, tokenizer = load(tiny, "float32")
        rendered, _ = render_rows(tokenizer, rows(), 200)
        config = SFTConfig(
            output_dir=str(tmp_path / trainer_class.__name__),
            max_length=200,
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            gradient_accumulation_steps=2,
            **{**ARGS, "save_strategy": "no", "save_steps": 500},
        )
        trainer = trainer_class(
            model, args=config, train_dataset=Dataset.from_list(rendered), processing_class=tokenizer
        )
        trainer.train()
        curves.append([(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e])
    assert len(curves[0]) == 4
    assert torch.tensor(curves[0]) == pytest.approx(torch.tensor(curves[1]), rel=1e-4)


def test_a_stopped_run_goes_on_with_the_same_curve(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    results = sft(**settings(tiny, tmp_path / "whole"))
    assert (results["rows"], results["steps"]) == (8, 8)
    import limo.train

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(limo.train, "_save", stop)  # killed after the last step, before the model is saved
        sft(**settings(tiny, tmp_path / "cut"))
    checkpoints = tmp_path / "cut" / "run" / "checkpoints"
    newest = last_checkpoint(checkpoints)
    assert newest and newest.name == "checkpoint-8"
    (newest / "trainer_state.json").write_text("{")  # half written: must not be taken
    (checkpoints / "checkpoint-6" / "trainer_state.json").unlink()
    resumed = last_checkpoint(checkpoints)
    assert resumed and resumed.name == "checkpoint-4"
    sft(**settings(tiny, tmp_path / "cut"))
    assert losses(tmp_path / "cut" / "run") == pytest.approx(losses(tmp_path / "whole" / "run"), abs=1e-6)
    weights = [load(tmp_path / name / "run" / "model", "float32")[0].state_dict() for name in ("whole", "cut")]
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=1e-6) for k in weights[0])


def test_old_and_unknown_arguments_are_named() -> None:
    check_args(ARGS)
    for key, said in (
        ("warmup_ratio", "today it is warmup_steps"),
        ("max_seq_length", "today it is max_length"),
        ("seed", "give it as train.seed"),
        ("learnin_rate", "did you mean 'learning_rate'"),
    ):
        with pytest.raises(UserError, match=said):
            check_args({key: 1})


def test_a_curated_parquet_file_trains_in_plain_trl(tiny: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    from limo.data import write_parquet

    write_parquet(tmp_path / "curated.parquet", rows())
    dataset = load_dataset(
        "parquet", data_files=str(tmp_path / "curated.parquet"), split="train", cache_dir=str(tmp_path)
    )
    config = SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True
    )
    trainer = SFTTrainer(str(tiny), args=config, train_dataset=dataset)
    learned = trainer.processing_class.decode([label for label in trainer.train_dataset[3]["labels"] if label != -100])
    assert learned.strip() == "so so so so \\boxed{6}<|im_end|>"
    trainer.train()
