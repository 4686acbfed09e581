"""The plan: numbers worked by hand, a model of 32 billion parameters, and mistakes in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from limo.data import Example, chat, write_jsonl
from limo.errors import UserError
from limo.model import load_model
from limo.plan import (
    Data,
    Size,
    Work,
    count_activations,
    count_memory,
    measure_model,
    plan,
    seconds_per_step,
)
from limo.recipe import read_settings
from limo.training.settings import Supervised

BILLION = 10**9
ARGS = {"num_train_epochs": 2, "bf16": True}


def section(folder: Path, **changed: Any) -> dict[str, Any]:
    """A train section."""
    numbers = {"dtype": "float32", "max_length": 200, "global_batch": 8, "pack_tokens": 256, "seed": 0, "args": ARGS}
    paths = {"out": str(folder), "model": str(folder), "data": str(folder / "rows.jsonl"), "system": ""}
    return {"_target_": "limo.train.sft", **paths, **numbers, **changed}


def asked(train: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """What a plan is asked."""
    return {
        "train": train,
        "rows": 20,
        "mean_tokens": 50,
        "devices": [1, 4],
        "gpus": {"H100": 2.0},
        "utilisation": 0.4,
    } | changed


DATA = Data(16, 50.0, 100, 60.0)


def work(size: Size, data: Data = DATA, **changed: Any) -> Work:
    train = section(Path("x"), **changed)
    settings = read_settings(Supervised, {k: v for k, v in train.items() if k != "_target_"}, "train")
    return Work(settings, size, data)


@pytest.mark.parametrize(
    ("sharding", "dtype", "bf16", "weights", "gradients", "optimizer"),  # bytes for each parameter
    [
        ("ddp", "float32", True, 4, 4, 8),
        ("ddp", "bfloat16", True, 4, 4, 8),  # trained in float32, saved in bfloat16
        ("ddp", "bfloat16", False, 2, 2, 4),  # torch keeps Adam's states in the weights' own type
        ("zero2", "bfloat16", True, 2, 2 / 8, 12 / 8),
        ("zero3", "bfloat16", True, 2 / 8, 2 / 8, 12 / 8),
        ("zero2", "float32", False, 4, 4 / 8, 12 / 8),  # a float32 copy of float32 weights
        ("zero3", "float32", False, 4 / 8, 4 / 8, 8 / 8),  # which stage 3 does not keep
        ("fsdp2", "bfloat16", True, 4 / 8, 4 / 8, 8 / 8),  # accelerate keeps float32 weights
    ],
)
def test_a_billion_parameters_on_eight_devices(
    sharding: str, dtype: str, bf16: bool, weights: float, gradients: float, optimizer: float
) -> None:
    size = Size(BILLION, BILLION, BILLION, 0, 1, 1, 1, 1)
    found = count_memory(work(size, dtype=dtype, args={"bf16": bf16}), sharding, 8)
    parts = [found[part] / BILLION for part in ("weights", "gradients", "optimizer")]
    assert parts == pytest.approx([weights, gradients, optimizer])
    assert found["total"] == pytest.approx(sum(v for k, v in found.items() if k != "total"))


def test_activations_and_seconds_by_hand() -> None:
    # One layer of width 10, heads 10, an MLP of 30: norms 26 x 10, attention 5 x 2 x 10, MLP 4 x 2 x 30 bytes a token
    size = Size(50_000, 50_000, 4000, 30_000, 1, 10, 10, 30)
    layer, flight = 256 * (260 + 100 + 240), 256 * 2 * (60 + 40)
    head = 256 * 200 + 256 / 4096 * 4096 * 32768 * 2 + 30_000 * 4  # logits, gradients of the head
    assert count_activations(work(size), 4) == 256 * 40 + max(layer + flight, head)
    once = work(size, args={"bf16": True, "gradient_checkpointing": False})
    assert count_activations(once, 4) == layer + max(flight, head)
    # 16 rows of 50 tokens in steps of 8: 400 tokens, each 8 x 4000 operations and 6 x 1 x 10 x 60 x 4/3 of attention
    assert seconds_per_step(work(size), 1e6) == pytest.approx(400 * (32_000 + 4_800) / 1e6)
    assert seconds_per_step(once, 1e6) == pytest.approx(400 * (24_000 + 3_600) / 1e6)


def test_the_model_is_counted_from_its_config(tiny: Path) -> None:
    model = load_model(tiny, "float32")
    whole, embedding = model.num_parameters(), model.get_input_embeddings().weight.numel()
    size = measure_model(work(Size(*[1] * 8), model=str(tiny)).settings)
    assert size.parameters == size.trainable == whole and size.active == whole - embedding
    adapted = measure_model(work(Size(*[1] * 8), model=str(tiny), lora={"r": 4}).settings)
    # 4 x (in + out) of q and o (64 to 64), k and v (64 to 32), gate, up and down (64 to 128), in both layers
    assert adapted.trainable == 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192) == adapted.parameters - whole


def test_rows_are_read_as_training_reads_them(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Example(str(i), chat(f"What is {i}+{i}?"), str(2 * i), f"It is \\boxed{{{2 * i}}}") for i in range(20)]
    long = Example("long", chat("q"), "1", "so " * 500 + "\\boxed{1}")
    write_jsonl(tmp_path / "rows.jsonl", [*rows, long, Example("empty", chat("q"), "1", "")])
    found = plan(**asked(section(tmp_path, model=str(tiny)), rows=None, mean_tokens=None))
    data = found["data"]
    assert (data["rows"], data["steps"]) == (20, 6), "the two that cannot be trained on are not counted"
    assert data["mean"] <= data["attended"] <= data["longest"] < 200
    assert found["recommendation"]["settings"] == "train.sharding=ddp train.devices=1"
    assert json.loads(json.dumps(found)) == found
    assert "Take train.sharding=ddp train.devices=1 (1 x H100)" in capsys.readouterr().err


def test_a_model_of_32_billion_needs_sharding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64}
    config |= {"num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    train = section(tmp_path, dtype="bfloat16", max_length=16384, pack_tokens=16384, global_batch=64)
    given = asked(train, rows=800, mean_tokens=8000, devices=[1, 8, 32], gpus={"H100": 2.5, "H200": 3.0})
    found = plan(**given)
    assert found["model"]["parameters"] == 32_763_876_352  # as its card says: 32.76 B
    fits = {(s["sharding"], s["devices"]): set(s["costs"]) for s in found["settings"]}
    assert not any(fits["ddp", n] for n in (1, 8, 32))
    assert fits["zero3", 8] == {"H200"} and fits["zero3", 32] == {"H100", "H200"}
    assert found["recommendation"]["settings"] == "train.sharding=zero3 train.devices=8"
    only = plan(**given | {"devices": [32], "gpus": {"H100": 2.5}})["recommendation"]
    assert only["nodes"] == 4 and only["dollars"] == pytest.approx(only["hours"] * 32 * 2.5)
    assert "on each of 4 machines (32 x H100)" in capsys.readouterr().err


def test_mistakes_are_one_line(tiny: Path, tmp_path: Path) -> None:
    train = section(tmp_path, model=str(tiny))
    for given, said in (
        (asked(train, rows=None), "curate first, or give train_plan.rows= and train_plan.mean_tokens="),
        (asked(train, gpus={"H10": 1.0}), "train_plan.gpus: there is no 'H10'; did you mean 'H100'?"),
        (asked(train, gpus={}), "train_plan needs gpus"),
        (asked(train, devices=[0]), "devices, rows and mean_tokens from 1"),
        (asked(train, utilisation=40.0), "a utilisation up to 1"),
        (asked({"_target_": "limo.train.sft", "model": "x"}), "train_plan.train.out is missing"),
        (asked(train | {"dtype": "float8"}), "train_plan.train.dtype must be"),
        (asked(train | {"model": str(tmp_path / "none")}), "no such model folder"),
        (asked(train | {"lora": {"r": 4, "target_modules": ["nothing"]}}), "train.lora: "),
    ):
        with pytest.raises(UserError) as error:
            plan(**given)
        assert said in str(error.value) and "\n" not in str(error.value)


def test_the_command(run: Callable[..., CompletedProcess[str]], tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    given = asked(section(tmp_path, model=str(tiny))) | {"_target_": "limo.plan.plan"}
    text = "# @package _global_\n" + json.dumps({"name": "p", "train_plan": given})
    (tmp_path / "recipe" / "p.yaml").write_text(text)
    done = run("limo.plan", "recipe=p", "--config-dir", str(tmp_path), "train_plan.rows=40")
    assert done.returncode == 0 and "40 rows of 50 tokens on average" in done.stderr, done.stderr
    wrong = run("limo.plan", "--config-dir", str(tmp_path), "recipe=p", "train_plan.utilisation=2")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
