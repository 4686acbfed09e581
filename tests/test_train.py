"""Training: the right tokens are learned, the loss is TRL's, and a killed run goes on as if nothing had happened."""

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from limo.attention import attention
from limo.checkpoints import MARK, last_checkpoint
from limo.data import Example, chat, write_jsonl
from limo.errors import Interrupted, UserError
from limo.losses import learned_positions, row_weight, token_log_probs, token_loss, weighted_loss
from limo.model import load, load_model, load_tokenizer
from limo.preference import dpo
from limo.rows import columns, prepare
from limo.train import sft
from tests.conftest import lines

ARGS: dict[str, Any] = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "max_steps": -1,
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
        Example(
            str(i),
            chat(f"What is {i}+{i}?", "Be brief."),
            str(2 * i),
            "so " * (i + 1) + f"\\boxed{{{2 * i}}}",
            weight=i % 3,
        )
        for i in range(n)
    ]


def settings(tiny: Path, folder: Path, **changed: Any) -> dict[str, Any]:
    if not (folder / "rows.jsonl").exists():
        write_jsonl(folder / "rows.jsonl", rows())
    return {
        "out": str(folder / "run"),
        "model": str(tiny),
        "dtype": "float32",
        "chat_template": None,
        "system": "Be brief.",
        "data": str(folder / "rows.jsonl"),
        "eval_data": None,
        "max_length": 200,
        "too_long": "drop",
        "seed": 0,
        "global_batch": 4,
        "packing": None,
        "weighting": None,
        "lora": None,
        "quantize": None,
        "merge_adapter": True,
        "devices": "all",
        "sharding": "ddp",
        "attention": "auto",
        "keep_checkpoints": True,
        "look": 0,
        "args": ARGS,
        **changed,
    }


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "train_log.jsonl").read_text().splitlines()]


def curve(folder: Path) -> torch.Tensor:
    return torch.tensor([(e["loss"], e["grad_norm"]) for e in lines(folder / "train_log.jsonl") if "loss" in e])


def test_the_completion_and_its_end_are_learned_and_nothing_else(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    row = prepare(tokenizer, rows(1), 200).rendered[0]
    learned = [i for i in row.labels if i != -100]
    assert tokenizer.decode(learned) == "so \\boxed{0}<|im_end|>"
    asked = row.input_ids[: row.labels.count(-100)]
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 0+0?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(asked) == expected
    assert asked + learned == row.input_ids


def test_long_and_empty_rows_are_set_aside_or_stop_the_run(tiny: Path, tmp_path: Path) -> None:
    given = [*rows(2), Example("long", chat("q"), "1", "very " * 300), Example("none", chat("q"), "1")]
    prepared = prepare(load_tokenizer(tiny), given, 200)
    assert len(prepared.rows) == 2
    assert [(d.id, d.reason) for d in prepared.dropped] == [("long", "too long"), ("none", "no completion")]
    write_jsonl(tmp_path / "rows.jsonl", given)
    with pytest.raises(UserError, match=r"set train\.too_long=drop"):
        sft(**settings(tiny, tmp_path, too_long="stop"))
    assert [row["reason"] for row in lines(tmp_path / "run" / "train_dropped.jsonl")] == ["too long", "no completion"]


def test_a_row_that_would_teach_something_else_stops_the_run(tiny: Path, tmp_path: Path) -> None:
    other = Example("b", chat("What is 1+1?", "You are a poet."), "2", "\\boxed{2}")
    write_jsonl(tmp_path / "rows.jsonl", [*rows(2), other])
    with pytest.raises(UserError, match=r"row b: .*You are a poet") as refused:
        sft(**settings(tiny, tmp_path))
    assert "Be brief." in str(refused.value)
    assert not (tmp_path / "run" / "model").exists()


def test_look_shows_rows_and_trains_nothing(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sft(**settings(tiny, tmp_path, look=2))
    shown = capsys.readouterr()
    assert "so \\boxed{0}" in shown.out and "so so \\boxed{2}" in shown.out and "so so so" not in shown.out
    assert "Nothing was trained" in shown.err and not (tmp_path / "run").exists()


def test_losses_by_hand() -> None:
    labels = torch.tensor([[-100, -100, 2, 1], [-100, 0, -100, 2]])
    positions = learned_positions(labels)
    assert positions.tolist() == [0, 1, 2]
    log_probs = token_log_probs(torch.zeros(2, 3, 4), labels[:, positions + 1])  # every token has probability 1/4
    nat = math.log(4)
    assert log_probs == pytest.approx(torch.tensor([[0, -nat, -nat], [-nat, 0, -nat]]))
    assert token_loss(log_probs, "nll") == pytest.approx(-log_probs)
    assert token_loss(log_probs, "dft") == pytest.approx(-log_probs / 4 * (log_probs != 0))
    assert weighted_loss(-log_probs, None, 4).item() == pytest.approx(nat)
    weights = torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, 1.0]])
    assert weighted_loss(-log_probs, weights, 8).item() == pytest.approx(nat)
    assert weighted_loss(-log_probs, weights, 0.5).item() == pytest.approx(16 * nat)  # below 1 it still divides
    assert weighted_loss(torch.zeros(1, 2), None, 0).item() == 0
    # A row of 5 learned tokens and weight 3: weight of a token, share of the divisor
    assert row_weight(3.0, 5, "tokens") == (3.0, 5.0)
    assert row_weight(3.0, 5, "weights") == (3.0, 15.0)
    assert row_weight(3.0, 5, "rows") == (0.6, 1.0)


def test_dpo_by_hand() -> None:
    chosen, rejected = torch.tensor([-1.0, -5.0]), torch.tensor([-2.0, -3.0])
    zero = torch.zeros(2)
    expected = [math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(1.0))]  # margins 1 and -2, beta 0.5
    assert dpo(chosen, rejected, zero, zero, 0.5).tolist() == pytest.approx(expected)


def in_plain_trl(tiny: Path, folder: Path, n: int, **more: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Losses and gradient norms of TRL's own trainer, all rows in each step, and the weights it ends with."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = load_tokenizer(tiny)
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        max_length=200,
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        **(ARGS | {"save_strategy": "no", "per_device_train_batch_size": n} | more),
    )
    dataset = Dataset.from_list(columns(prepare(tokenizer, rows(n), 200), None)[:-1])
    trainer = SFTTrainer(load_model(tiny, "float32"), args=config, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    logged = [(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e]
    return torch.tensor(logged), trainer.model.state_dict()


WAYS: dict[str, dict[str, Any]] = {
    "padded at once": {},
    "padded one by one": {"per_device_train_batch_size": 1},
    "packed": {"packing": 200},
    "packed with a mask": {"packing": 200, "attention": "sdpa"},
    "packed, eager": {"packing": 200, "attention": "eager"},
    "packed, recomputed": {"packing": 400, "activation_checkpointing": True},
    "dft": {"packing": 200, "loss_type": "dft"},
}


@pytest.mark.parametrize("way", WAYS)
def test_loss_gradients_and_weights_are_those_of_trl(tiny: Path, tmp_path: Path, way: str) -> None:
    how = dict(WAYS[way])
    # Plain gradient descent: weights that agree are gradients that agree
    descent = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 100.0}
    trl = {**descent, **({"loss_type": how["loss_type"]} if "loss_type" in how else {})}
    ours = {key: how.pop(key) for key in ("packing", "attention") if key in how}
    write_jsonl(tmp_path / "rows.jsonl", rows(8))
    args = {**ARGS, "per_device_train_batch_size": 8, **descent, **how}
    sft(**settings(tiny, tmp_path, global_batch=8, args=args, **ours))
    expected, weights = in_plain_trl(tiny, tmp_path, 8, **trl)
    assert len(expected) == 2
    assert curve(tmp_path / "run") == pytest.approx(expected, rel=1e-4)
    got = load_model(tmp_path / "run" / "model", "float32").state_dict()
    assert all(torch.allclose(weights[key], got[key], atol=1e-6) for key in got)


@pytest.mark.parametrize("weighting", ["tokens", "weights", "rows"])
def test_weights_do_the_same_however_a_step_is_split(tiny: Path, tmp_path: Path, weighting: str) -> None:
    curves = []
    for n, how in enumerate(
        ({}, {"packing": 160}, {"packing": 800}, {"args": {**ARGS, "per_device_train_batch_size": 1}})
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        sft(**settings(tiny, folder, weighting=weighting, **how))  # type: ignore[arg-type]
        curves.append(curve(folder / "run"))
    plain = tmp_path / "plain"
    plain.mkdir()
    sft(**settings(tiny, plain))
    assert all(other == pytest.approx(curves[0], rel=1e-4) for other in curves[1:])
    assert curves[0] != pytest.approx(curve(plain / "run"), rel=1e-2), "the weights must matter"


def test_packed_chains_do_not_see_each_other(tiny: Path) -> None:
    from limo.attention import attention
    from limo.trainers import Collator

    model = load_model(tiny, "float32")
    texts = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, 7, 8, 9]},
        {"input_ids": [9, 8, 7], "labels": [-100, 8, 7]},
    ]
    alone = [model(torch.tensor([t["input_ids"]])).logits[0] for t in texts]
    packed = Collator(pad_token_id=0, padding_free=True)(texts)
    assert packed["labels"].tolist() == [[-100, 6, 7, 8, 9, -100, 8, 7]]
    packed.pop("labels")
    for kind in (attention("auto", model.config, packing=True), "sdpa", "eager"):
        model.set_attn_implementation(kind)
        together = model(**packed, use_cache=False).logits[0]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5), kind
    packed.pop("position_ids")
    model.set_attn_implementation("sdpa")
    assert not torch.allclose(model(**packed, use_cache=False).logits[0], torch.cat(alone), atol=1e-2)


def test_weights_that_make_no_loss_are_refused(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    for weight, said in (
        (-1.0, "has the weight -1.0"),
        (float("nan"), "has the weight nan"),
        (0.0, "nothing would be"),
    ):
        given = [Example("a", chat("q", "Be brief."), "1", "\\boxed{1}", weight=weight)]
        with pytest.raises(UserError, match=said):
            columns(prepare(tokenizer, given, 200), "tokens")


def test_an_adapter_is_trained_saved_and_merged(tiny: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    lora = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"}
    sft(**settings(tiny, tmp_path, lora=lora))
    run = tmp_path / "run"
    adapted = PeftModel.from_pretrained(load_model(tiny, "float32"), str(run / "adapter")).eval()
    merged, base = load_model(run / "model", "float32").eval(), load_model(tiny, "float32").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-5)
    assert not torch.allclose(base(ids).logits, merged(ids).logits, atol=1e-3)
    assert load_tokenizer(run / "model").chat_template == load_tokenizer(tiny).chat_template
    alone = tmp_path / "alone"
    alone.mkdir()
    sft(**settings(tiny, alone, lora=lora, merge_adapter=False))
    kept = load_model(alone / "run" / "model", "float32").eval()  # transformers loads the adapter onto its base
    assert torch.allclose(kept(ids).logits, merged(ids).logits, atol=1e-5)
    with pytest.raises(UserError, match=r"train\.lora\.rank is no argument of peft\.LoraConfig"):
        sft(**settings(tiny, tmp_path, out=str(tmp_path / "wrong"), lora={"rank": 4}))


def test_adapters_are_trained_beside_weights_in_four_bits(tiny: Path, tmp_path: Path) -> None:
    run, lora = tmp_path / "run", {"r": 4, "lora_alpha": 16}
    results = sft(**settings(tiny, tmp_path, lora=lora, quantize="nf4", dtype="bfloat16", args={**ARGS, "bf16": True}))
    base = load_model(tiny, "float32")
    assert results["weights_bytes"] < 0.6 * 4 * base.num_parameters(), "most weights take half a byte"
    assert results["last_loss"] < results["first_loss"]
    merged = load_model(run / "model", "auto")
    assert merged.dtype == torch.bfloat16 and (run / "adapter" / "adapter_model.safetensors").is_file()
    moved = [not torch.equal(a, b.bfloat16()) for a, b in zip(merged.parameters(), base.parameters(), strict=True)]
    assert sum(moved) == 2 * 7, "the linear layers of both blocks, and nothing else"


def test_the_model_says_how_it_was_made_and_where_to_stop(tiny: Path, tmp_path: Path) -> None:
    import hashlib

    write_jsonl(tmp_path / "held_out.jsonl", rows(3))
    args = {**ARGS, "eval_strategy": "epoch"}
    results = sft(**settings(tiny, tmp_path, eval_data=str(tmp_path / "held_out.jsonl"), args=args))
    model = tmp_path / "run" / "model"
    card = (model / "README.md").read_text()
    assert hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest() in card
    assert "learning_rate: 0.001" in card and f"| last loss | {results['last_loss']:,.4g} |" in card
    assert (model / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert results["eval_loss"] > 0
    end = load_tokenizer(tiny).convert_tokens_to_ids("<|im_end|>")
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == [end]
    assert "chainwise" not in (model / "config.json").read_text()


def test_a_stopped_run_goes_on_with_the_same_curve(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = {**ARGS, "save_steps": 1}
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    results = sft(**settings(tiny, tmp_path / "whole", args=args))
    assert (results["rows"], results["steps"]) == (8, 4)
    import limo.fit

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(limo.fit, "save", stop)  # killed after the last step, before the model is saved
        sft(**settings(tiny, tmp_path / "cut", args=args))
    checkpoints = tmp_path / "cut" / "run" / "checkpoints"
    newest = last_checkpoint(checkpoints)
    assert newest and newest.name == "checkpoint-4"
    (newest / "trainer_state.json").write_text("{")  # half written: must not be taken
    (checkpoints / "checkpoint-3" / MARK).unlink()
    resumed = last_checkpoint(checkpoints)
    assert resumed and resumed.name == "checkpoint-2"
    sft(**settings(tiny, tmp_path / "cut", args=args))
    assert losses(tmp_path / "cut" / "run") == pytest.approx(losses(tmp_path / "whole" / "run"), abs=1e-6)
    weights = [load(tmp_path / name / "run" / "model", "float32")[0].state_dict() for name in ("whole", "cut")]
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=1e-6) for k in weights[0])


def begun_again(run: Path) -> None:
    """As if the process had been killed before the manifest said that the training is finished."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["train"]["finished"] = False
    (run / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(run / "model")


def test_a_run_that_was_at_its_end_takes_no_further_step(tiny: Path, tmp_path: Path) -> None:
    args = {**ARGS, "max_steps": 3, "save_steps": 1}  # ends in the middle of its second epoch
    assert sft(**settings(tiny, tmp_path, args=args))["steps"] == 3
    before, run = curve(tmp_path / "run"), tmp_path / "run"
    weights = load(run / "model", "float32")[0].state_dict()
    begun_again(run)
    assert sft(**settings(tiny, tmp_path, args=args))["steps"] == 3
    assert torch.equal(curve(run), before)
    again = load(run / "model", "float32")[0].state_dict()
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_sigterm_at_the_end_of_an_epoch_saves_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import limo.fit

    saved: list[int] = []

    class Sender(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:  # the second and last step of the first epoch begins
                os.kill(os.getpid(), signal.SIGTERM)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            saved.append(state.global_step)

    watched = limo.fit.watched

    def with_sender(trainer: Any, *rest: Any) -> Any:
        trainer.add_callback(Sender())
        return watched(trainer, *rest)

    args = {**ARGS, "save_strategy": "epoch", "save_total_limit": 1}
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="after step 2, which is saved"):
        patched.setattr(limo.fit, "watched", with_sender)
        sft(**settings(tiny, tmp_path, args=args))
    assert saved == [2]
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last and last.name == "checkpoint-2"
    assert sft(**settings(tiny, tmp_path, args=args))["steps"] == 4


def test_whole_16_bit_weights_are_trained_in_float32_and_saved_as_asked(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = sft(**settings(tiny, tmp_path, dtype="bfloat16", args={**ARGS, "bf16": True, "learning_rate": 1e-6}))
    assert "weights are kept in float32 while they are trained, and saved in bfloat16" in capsys.readouterr().err
    model = load_model(tmp_path / "run" / "model", "auto")
    assert model.dtype == torch.bfloat16 and results["weights_bytes"] == 4 * model.num_parameters()
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    kept, before = load_model(last, "auto"), load_model(tiny, "bfloat16")  # type: ignore[arg-type]
    assert kept.dtype == torch.float32, "a checkpoint loses nothing"
    moved = [(a != b.float()).float().mean() for a, b in zip(kept.parameters(), before.parameters(), strict=True)]
    assert min(moved) > 0.01, "a small learning rate moves weights that bfloat16 would have left where they were"


@pytest.mark.parametrize("packing", [None, 128])
def test_the_held_out_loss_is_that_of_a_token_whatever_the_batch(
    tiny: Path, tmp_path: Path, packing: int | None
) -> None:
    write_jsonl(tmp_path / "held_out.jsonl", rows(5))
    found = []
    for batch in (1, 2, 5):
        args = {**ARGS, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "learning_rate": 0.0}
        args["per_device_eval_batch_size"] = batch
        out = {"out": str(tmp_path / f"run{batch}"), "eval_data": str(tmp_path / "held_out.jsonl")}
        found.append(sft(**settings(tiny, tmp_path, args=args, packing=packing, **out))["eval_loss"])
    tokenizer, model = load_tokenizer(tiny), load_model(tiny, "float32").eval()
    total = count = 0.0
    for row in columns(prepare(tokenizer, rows(5), 200), None):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        learned = labels[:, 1:] != -100
        total -= float(token_log_probs(model(ids).logits[:, :-1], labels[:, 1:])[learned].sum().detach())
        count += int(learned.sum())
    assert found == pytest.approx([total / count] * 3, rel=1e-5)


def test_what_cannot_be_trained_together_is_said_before_anything_is_loaded(tiny: Path, tmp_path: Path) -> None:
    for changed, said in (
        ({"quantize": "nf4"}, r"freezes the weights: give train\.lora"),
        ({"quantize": "nf4", "lora": {"r": 2}, "sharding": "zero3"}, "cannot be shared out. Take ddp, zero1 or zero2"),
        ({"weighting": "rows", "args": {**ARGS, "label_smoothing_factor": 0.1}}, "knows no such term"),
        ({"lora": {"target_modules": ["nothing"]}}, "cannot set up the training: .*nothing.* not found"),
    ):
        with pytest.raises(UserError, match=said):
            sft(**settings(tiny, tmp_path, **changed))


def test_attention_is_one_that_the_model_can_do() -> None:
    from transformers import Gemma2Config, LlamaConfig, MistralConfig

    assert attention("auto", LlamaConfig(), packing=True) == "chainwise"
    assert attention("auto", LlamaConfig(), packing=False) == "sdpa"
    assert attention("auto", MistralConfig(sliding_window=8), packing=True) == "sdpa"
    assert attention("auto", Gemma2Config(), packing=True) == "eager"


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
