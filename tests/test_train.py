"""Training: the right tokens are learned, the loss is TRL's, and a killed run goes on as if nothing had happened."""

import ctypes
import json
import math
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from limo.data import Example, chat, write_jsonl
from limo.errors import Interrupted, UserError
from limo.model import load_model, load_tokenizer
from limo.processes import keeping_freed_memory
from limo.recipe import read_settings
from limo.train import sft
from limo.training.attention import choose_attention
from limo.training.checkpoints import MARK, last_checkpoint
from limo.training.rows import prepare
from limo.training.settings import Preference, Supervised
from limo.training.trainers import loss_positions, token_log_probs, token_loss, weighted_loss
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
    """A train section; the folder and its rows are made if they are missing."""
    folder.mkdir(exist_ok=True)
    if not (folder / "rows.jsonl").exists():
        write_jsonl(folder / "rows.jsonl", rows())
    return {
        "out": str(folder / "run"),
        "model": str(tiny),
        "dtype": "float32",
        "system": "Be brief.",
        "data": str(folder / "rows.jsonl"),
        "max_length": 200,
        "seed": 0,
        "global_batch": 4,
        "keep_checkpoints": True,
        "args": ARGS,
        **changed,
    }


def train(tiny: Path, folder: Path, **changed: Any) -> dict[str, Any]:
    return sft(read_settings(Supervised, settings(tiny, folder, **changed), "train"))


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
        train(tiny, tmp_path, too_long="stop")
    assert [row["reason"] for row in lines(tmp_path / "run" / "train_dropped.jsonl")] == ["too long", "no completion"]


def test_a_row_that_would_teach_something_else_stops_the_run(tiny: Path, tmp_path: Path) -> None:
    other = Example("b", chat("What is 1+1?", "You are a poet."), "2", "\\boxed{2}")
    write_jsonl(tmp_path / "rows.jsonl", [*rows(2), other])
    with pytest.raises(UserError, match=r"row b: .*You are a poet") as refused:
        train(tiny, tmp_path)
    assert "Be brief." in str(refused.value)
    assert not (tmp_path / "run" / "model").exists()


def test_a_training_ends_at_its_token_accuracy(tiny: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", rows(4))
    args = {**ARGS, "num_train_epochs": 400, "learning_rate": 1e-2, "logging_steps": 5, "save_strategy": "no"}
    found = train(tiny, tmp_path, args=args, until_accuracy=0.99)
    log = [e for e in lines(tmp_path / "run" / "train_log.jsonl") if "loss" in e]
    assert log[-1]["mean_token_accuracy"] >= 0.99 > max(e["mean_token_accuracy"] for e in log[:-1])
    assert found["steps"] == log[-1]["step"] < 400
    with pytest.raises(UserError, match="until_accuracy is a share above 0 and up to 1"):
        train(tiny, tmp_path / "other", until_accuracy=99)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "limo.jsonl"])
def test_rows_of_others_are_trained_on_as_they_are(name: str, tiny: Path, tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"It is {i}."}] for i in range(5)]
    table = pd.DataFrame({"messages": [*turns, turns[0] * 2]})
    if name == "limo.jsonl":  # the columns of LIMO's published set
        table = pd.DataFrame({"question": ["1+1?"] * 5, "solution": ["It is 2."] * 5, "answer": ["2"] * 5})
    if name.endswith("parquet"):
        table.to_parquet(tmp_path / name)
    else:
        table.to_json(tmp_path / name, orient="records", lines=True)
    found = train(tiny, tmp_path, data=str(tmp_path / name), args={**ARGS, "max_steps": 1})
    assert (found["rows"], found["dropped"]) == (5, 0 if name == "limo.jsonl" else 1)
    dropped = lines(tmp_path / "run" / "train_dropped.jsonl")
    assert [row["reason"] for row in dropped] == ["several turns"] * found["dropped"]


def test_look_shows_rows_and_trains_nothing(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny, tmp_path, look=2)
    shown = capsys.readouterr()
    assert "so \\boxed{0}" in shown.out and "so so \\boxed{2}" in shown.out and "so so so" not in shown.out
    assert "Nothing was trained" in shown.err and not (tmp_path / "run").exists()


def test_losses_by_hand() -> None:
    labels = torch.tensor([[-100, -100, 2, 1], [-100, 0, -100, 2]])
    positions = loss_positions(labels)
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
    dataset = Dataset.from_list([r._asdict() for r in prepare(tokenizer, rows(n), 200).rendered])
    trainer = SFTTrainer(load_model(tiny, "float32"), args=config, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    logged = [(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e]
    return torch.tensor(logged), trainer.model.state_dict()


WAYS: dict[str, dict[str, Any]] = {
    "padded at once": {},
    "padded one by one": {"per_device_train_batch_size": 1},
    "packed": {"pack_tokens": 200},
    "packed with a mask": {"pack_tokens": 200, "attention": "sdpa"},
    "packed, eager": {"pack_tokens": 200, "attention": "eager"},
    "packed, recomputed": {"pack_tokens": 400, "activation_checkpointing": True},
    "dft": {"pack_tokens": 200, "loss_type": "dft"},
}


@pytest.mark.parametrize("way", WAYS)
def test_loss_gradients_and_weights_are_those_of_trl(tiny: Path, tmp_path: Path, way: str) -> None:
    how = dict(WAYS[way])
    # Plain gradient descent: weights that agree are gradients that agree
    descent = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 100.0}
    trl = {**descent, **({"loss_type": how["loss_type"]} if "loss_type" in how else {})}
    ours = {key: how.pop(key) for key in ("pack_tokens", "attention") if key in how}
    write_jsonl(tmp_path / "rows.jsonl", rows(8))
    args = {**ARGS, "per_device_train_batch_size": 8, **descent, **how}
    train(tiny, tmp_path, global_batch=8, args=args, **ours)
    expected, weights = in_plain_trl(tiny, tmp_path, 8, **trl)
    assert len(expected) == 2
    assert curve(tmp_path / "run") == pytest.approx(expected, rel=2e-6)
    got = load_model(tmp_path / "run" / "model", "float32").state_dict()
    assert all(torch.allclose(weights[key], got[key], atol=1e-6) for key in got)


def test_weights_do_the_same_however_a_step_is_split(tiny: Path, tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [{}, {"pack_tokens": 160}, {"args": {**ARGS, "per_device_train_batch_size": 1}}]
    for n, how in enumerate(ways):
        train(tiny, tmp_path / str(n), weighting="rows", **how)
    train(tiny, tmp_path / "plain")
    first, *others = [curve(tmp_path / str(n) / "run") for n in range(len(ways))]
    assert all(other == pytest.approx(first, rel=1e-4) for other in others)
    assert first != pytest.approx(curve(tmp_path / "plain" / "run"), rel=1e-2), "the weights must matter"


def test_packed_chains_do_not_see_each_other(tiny: Path) -> None:
    from limo.training.trainers import Collator

    model = load_model(tiny, "float32")
    texts = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, 7, 8, 9]},
        {"input_ids": [9, 8, 7], "labels": [-100, 8, 7]},
    ]
    alone = [model(torch.tensor([t["input_ids"]])).logits[0] for t in texts]
    packed = Collator(pad_token_id=0, padding_free=True)(texts)
    assert packed["labels"].tolist() == [[-100, 6, 7, 8, 9, -100, 8, 7]]
    packed.pop("labels")
    for kind in (choose_attention("auto", model.config, packing=True), "sdpa", "eager"):
        model.set_attn_implementation(kind)
        together = model(**packed, use_cache=False).logits[0]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5), kind
    packed.pop("position_ids")
    model.set_attn_implementation("sdpa")
    assert not torch.allclose(model(**packed, use_cache=False).logits[0], torch.cat(alone), atol=1e-2)


def test_weights_that_a_loss_cannot_have_are_refused(tiny: Path, tmp_path: Path) -> None:
    for weight, said in (
        (-1.0, "has the weight -1.0"),
        (0.0, "nothing to train"),
    ):
        folder = tmp_path / str(weight)
        folder.mkdir()
        write_jsonl(folder / "rows.jsonl", [replace(row, weight=weight) for row in rows(2)])
        with pytest.raises(UserError, match=said):
            train(tiny, folder, weighting="rows")


def test_an_adapter_is_trained_saved_and_merged(tiny: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    lora = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"}
    train(tiny, tmp_path, lora=lora)
    run = tmp_path / "run"
    adapted = PeftModel.from_pretrained(load_model(tiny, "float32"), str(run / "adapter")).eval()
    merged, base = load_model(run / "model", "float32").eval(), load_model(tiny, "float32").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-5)
    assert not torch.allclose(base(ids).logits, merged(ids).logits, atol=1e-3)
    assert load_tokenizer(run / "model").chat_template == load_tokenizer(tiny).chat_template
    alone = tmp_path / "alone"
    alone.mkdir()
    train(tiny, alone, lora=lora, merge_adapter=False)
    kept = load_model(alone / "run" / "model", "float32").eval()  # transformers loads the adapter onto its base
    assert torch.allclose(kept(ids).logits, merged(ids).logits, atol=1e-5)


def test_the_model_says_how_it_was_made_and_where_to_stop(tiny: Path, tmp_path: Path) -> None:
    import hashlib

    write_jsonl(tmp_path / "held_out.jsonl", rows(3))
    args = {**ARGS, "eval_strategy": "epoch"}
    results = train(tiny, tmp_path, eval_data=str(tmp_path / "held_out.jsonl"), args=args)
    model = tmp_path / "run" / "model"
    card = (model / "README.md").read_text()
    assert hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest() in card
    assert "learning_rate: 0.001" in card and f"| last loss | {results['last_loss']:,.4g} |" in card
    assert results["eval_loss"] > 0
    end = load_tokenizer(tiny).convert_tokens_to_ids("<|im_end|>")
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == [end]
    assert "chainwise" not in (model / "config.json").read_text()


def killed_before_saving(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    """Runs a training that is killed after its last step, before the model is saved."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("limo.training.fit.save_model", stop)
        run()


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


FAULTS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing": ("model.safetensors", Path.unlink, "model.safetensors is missing"),
    "flipped": ("model.safetensors", flip, "model.safetensors has other content"),
    "zeroed": ("optimizer.pt", lambda p: p.write_bytes(bytes(p.stat().st_size)), "optimizer.pt has other content"),
    "cut": ("trainer_state.json", lambda p: p.write_text("{"), "trainer_state.json has other content"),
    "no list": (MARK, lambda p: p.write_text("{"), f"{MARK} is not readable"),
}


def test_a_killed_run_resumes_from_the_last_whole_checkpoint(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = {**ARGS, "save_steps": 1, "max_steps": 7, "num_train_epochs": 4}
    assert train(tiny, tmp_path / "whole", args=args)["steps"] == 7
    killed_before_saving(monkeypatch, lambda: train(tiny, tmp_path / "cut", args=args))
    checkpoints = tmp_path / "cut" / "run" / "checkpoints"
    for step, (name, damage, _) in zip(range(6, 1, -1), FAULTS.values(), strict=True):
        damage(checkpoints / f"checkpoint-{step}" / name)
    (checkpoints / "checkpoint-7" / MARK).unlink()  # killed while it was written
    train(tiny, tmp_path / "cut", args=args)
    said = capsys.readouterr().err
    assert "checkpoint-7 was not written to the end" in said and "resuming from" in said and "checkpoint-1\n" in said
    for step, (_, _, why) in zip(range(6, 1, -1), FAULTS.values(), strict=True):
        assert why in (checkpoints / f"broken-checkpoint-{step}" / "reason.txt").read_text()
    assert torch.equal(curve(tmp_path / "cut" / "run"), curve(tmp_path / "whole" / "run"))
    weights = [load_model(tmp_path / name / "run" / "model", "float32").state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_a_diverged_training_stops_and_saves_nothing(tiny: Path, tmp_path: Path) -> None:
    for n, (changed, said) in enumerate(
        (
            ({"learning_rate": 1e30}, "the loss of step 2 is not finite"),
            ({"learning_rate": float("inf"), "save_steps": 1}, "weights .* are not finite, so nothing is saved"),
            ({"learning_rate": float("inf"), "max_steps": 1}, "weights .* are not finite, so nothing is saved"),
            ({"learning_rate": 1e30, "max_steps": 1}, "weights .* are not finite, so nothing is saved"),
        )
    ):
        with pytest.raises(UserError, match=f"training diverged: .*{said}"):
            train(tiny, tmp_path / str(n), args={**ARGS, "max_grad_norm": 0.0, **changed})
        assert not (tmp_path / str(n) / "run" / "model").exists()
        assert not list((tmp_path / str(n) / "run" / "checkpoints").glob(f"*/{MARK}"))
    for name, value in (("learning_rate", -1.0), ("learning_rate", math.nan), ("adam_beta2", 1.0)):
        with pytest.raises(UserError, match=r"^train\.args: Invalid "):
            train(tiny, tmp_path / f"{name}{value}", args={**ARGS, name: value})


def test_a_run_that_was_at_its_end_takes_no_further_step(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = {**ARGS, "max_steps": 3, "save_steps": 1}  # ends in the middle of its second epoch
    killed_before_saving(monkeypatch, lambda: train(tiny, tmp_path, args=args))
    state = load_model(tmp_path / "run" / "checkpoints" / "checkpoint-3", "float32").state_dict()
    assert train(tiny, tmp_path, args=args)["steps"] == 3
    after = load_model(tmp_path / "run" / "model", "float32").state_dict()
    assert all(torch.equal(state[key], after[key]) for key in after)


def test_sigterm_at_the_end_of_an_epoch_saves_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from limo.training import fit

    saved: list[int] = []

    class Sender(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:  # the second and last step of the first epoch begins
                os.kill(os.getpid(), signal.SIGTERM)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            saved.append(state.global_step)

    add_callbacks = fit.add_callbacks

    def with_sender(trainer: Any, *rest: Any) -> Any:
        trainer.add_callback(Sender())
        return add_callbacks(trainer, *rest)

    args = {**ARGS, "save_strategy": "epoch", "save_total_limit": 1}
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="after step 2, which is saved"):
        patched.setattr(fit, "add_callbacks", with_sender)
        train(tiny, tmp_path, args=args)
    assert saved == [2]
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last and last.name == "checkpoint-2"
    assert train(tiny, tmp_path, args=args)["steps"] == 4


def test_whole_16_bit_weights_are_trained_in_float32_and_saved_as_asked(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = train(tiny, tmp_path, dtype="bfloat16", args={**ARGS, "bf16": True, "learning_rate": 1e-6})
    assert "weights are kept in float32 while they are trained, and saved in bfloat16" in capsys.readouterr().err
    model = load_model(tmp_path / "run" / "model", "auto")
    assert model.dtype == torch.bfloat16 and results["weights_bytes"] == 4 * model.num_parameters()
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    last = last_checkpoint(tmp_path / "run" / "checkpoints")
    kept, before = load_model(last, "auto"), load_model(tiny, "bfloat16")  # type: ignore[arg-type]
    assert kept.dtype == torch.float32, "a checkpoint loses nothing"
    moved = [(a != b.float()).float().mean() for a, b in zip(kept.parameters(), before.parameters(), strict=True)]
    assert min(moved) > 0.01, "a small learning rate moves weights that bfloat16 would have left where they were"


@pytest.mark.parametrize("pack_tokens", [None, 128])
def test_the_held_out_loss_is_that_of_a_token_whatever_the_batch(
    tiny: Path, tmp_path: Path, pack_tokens: int | None
) -> None:
    write_jsonl(tmp_path / "held_out.jsonl", rows(5))
    found = []
    for batch in (1, 2, 5):
        args = {**ARGS, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "learning_rate": 0.0}
        args["per_device_eval_batch_size"] = batch
        out = {"out": str(tmp_path / f"run{batch}"), "eval_data": str(tmp_path / "held_out.jsonl")}
        found.append(train(tiny, tmp_path, args=args, pack_tokens=pack_tokens, **out)["eval_loss"])
    tokenizer, model = load_tokenizer(tiny), load_model(tiny, "float32").eval()
    total = count = 0.0
    for row in prepare(tokenizer, rows(5), 200).rendered:
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        learned = labels[:, 1:] != -100
        total -= float(token_log_probs(model(ids).logits[:, :-1], labels[:, 1:])[learned].sum().detach())
        count += int(learned.sum())
    assert found == pytest.approx([total / count] * 3, rel=1e-5)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"weighting": "rows", "args": {"label_smoothing_factor": 0.1}}, "the weighted loss has no such term"),
    ({"lora": {"rank": 4}}, r"train\.lora: LoraConfig.* unexpected keyword argument 'rank'"),
    ({"dtype": "fp99"}, r"train\.dtype must be 'float32', 'bfloat16' or 'float16', not 'fp99'"),
    ({"global_batch": 0}, r"train\.global_batch must be 1 or more, not 0"),
    ({"pack_tokens": 0}, r"train\.pack_tokens must be 1 or more"),
    ({"devices": 0}, "'all' or a number of at least 1, not 0"),
    ({"packing": 200}, r"train\.packing is not a setting of Supervised.*pack_tokens"),
    ({"args": {"learning_rate": "abc"}}, r"train\.args\.learning_rate must be a valid number, not 'abc'"),
    ({"args": {"num_train_epochs": "three"}}, r"train\.args\.num_train_epochs must be a valid number, not 'three'"),
    ({"args": {"learnin_rate": 1}}, "is not an argument of trl.SFTConfig; did you mean 'learning_rate'"),
    ({"args": {"seed": 1}}, r"train\.args\.seed: set train\.seed instead"),
    ({"args": {"gradient_accumulation_steps": 1}}, r"set train\.global_batch instead"),
    ({"args": {"average_tokens_across_devices": False}}, "this trainer decides it"),
    ({"args": {"hub_token": "hf_x"}}, r"upload the finished model with hf upload"),
    ({"data": "nowhere.jsonl"}, "no such file 'nowhere.jsonl'"),
]


@pytest.mark.parametrize(("changed", "said"), MISTAKES, ids=[next(iter(c)) for c, _ in MISTAKES])
def test_a_mistake_is_one_line_before_anything_is_loaded(
    tiny: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as refused:
        train(tmp_path / "no model is looked for", tmp_path, **changed)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_what_this_machine_or_model_cannot_do_is_one_line(tiny: Path, tmp_path: Path) -> None:
    for changed, said in (
        ({"lora": {"target_modules": ["nothing"]}}, "cannot set up the training: .*nothing.* not found"),
        ({"args": {**ARGS, "activation_offloading": True}}, "needs a GPU, and there is none here"),
        ({"args": {**ARGS, "lr_scheduler_type": "cosin"}}, "train.args: cosin is not a valid SchedulerType"),
        ({"sharding": "fsdp2"}, "needs GPUs"),
        ({"sharding": "zero4"}, "is not a file and not one of ddp, fsdp2, zero1"),
        ({"attention": "flash"}, "cannot load the model in .*flash"),
    ):
        with pytest.raises(UserError, match=said):
            train(tiny, tmp_path, **changed)


def test_one_device_leaves_the_process_as_it_is(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    train(tiny, tmp_path, devices=1, args={**ARGS, "max_steps": 1})
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_settings_that_change_only_speed_are_not_compared(tiny: Path, tmp_path: Path) -> None:
    def recorded(kind: type[Any], **changed: Any) -> dict[str, Any]:
        section = settings(tiny, tmp_path, **({"loss": "x"} if kind is Preference else {}), **changed)
        return dict(read_settings(kind, section, "train").recorded())

    size = {"args": {**ARGS, "per_device_train_batch_size": 8}}
    for changed in ({"devices": 2}, {"pack_tokens": 9}, {"sharding": "zero2"}, {"out": "elsewhere"}, size):
        assert recorded(Supervised, **changed) == recorded(Supervised), changed
    assert recorded(Supervised, seed=1) != recorded(Supervised)
    for changed in ({"devices": 2}, size):  # some pair losses take means over the pairs of a forward pass
        assert recorded(Preference, **changed) != recorded(Preference), changed


def test_attention_is_one_that_the_model_can_do() -> None:
    from transformers import Gemma2Config, LlamaConfig, MistralConfig

    assert choose_attention("auto", LlamaConfig(), packing=True) == "chainwise"
    assert choose_attention("auto", LlamaConfig(), packing=False) == "sdpa"
    assert choose_attention("auto", MistralConfig(sliding_window=8), packing=True) == "sdpa"
    assert choose_attention("auto", Gemma2Config(), packing=True) == "eager"


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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc")
def test_freed_memory_is_kept_while_training_and_given_back_afterwards() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    with keeping_freed_memory():
        held = [torch.ones(2_500_000) for _ in range(40)]  # 400 MB
        full = resident()
        del held
        assert resident() > full - 50_000_000
    assert resident() < full - 300_000_000


def test_the_mean_of_the_last_weights_is_what_is_saved(tiny: Path, tmp_path: Path) -> None:
    args = {**ARGS, "max_steps": 4, "save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
    train(tiny, tmp_path, args=args, average=0.5)
    steps = [load_model(tmp_path / "run" / "checkpoints" / f"checkpoint-{at}", "float32").state_dict() for at in (3, 4)]
    saved = load_model(tmp_path / "run" / "model", "float32").state_dict()
    for name, weight in saved.items():
        assert torch.allclose(weight, (steps[0][name] + steps[1][name]) / 2, atol=1e-7), name
    assert not torch.equal(saved["lm_head.weight"], steps[1]["lm_head.weight"])
