"""The plan: numbers worked by hand, and beside what torch really holds of the tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from limo.data import Example, chat, write_jsonl
from limo.errors import UserError
from limo.gpus import (
    GPUS,
    NF4,
    SHARDINGS,
    Activations,
    Size,
    States,
    activations,
    gpu,
    model_states,
    seconds_per_step,
)
from limo.model import load
from limo.plan import plan
from limo.sizes import parameters
from limo.workload import Training, busy, steps

BILLION = 10**9
# One layer of width 10 with 2 heads and an MLP of 30; a vocabulary of 100
SMALL = Size(5000, 5000, 4000, 1, 10, 10, 2, 30, 100, 1300, 1000, True, 0, 0)


def states(sharding: str, devices: int = 8, dtype: str = "bfloat16", bf16: bool = True, **more: Any) -> States:
    return model_states(
        **{"parameters": BILLION, "trainable": BILLION, **more},
        sharding=sharding,
        devices=devices,
        dtype=dtype,
        bf16=bf16,
    )


@pytest.mark.parametrize(
    ("sharding", "dtype", "bf16", "weights", "gradients", "optimizer", "host"),  # bytes for each parameter
    [
        ("ddp", "float32", True, 4, 4, 8, 0),
        ("ddp", "float32", False, 4, 4, 8, 0),
        ("ddp", "bfloat16", True, 2, 2, 4, 0),  # torch keeps Adam's states in the weights' own type
        ("zero1", "bfloat16", True, 2, 2, 12 / 8, 0),
        ("zero2", "bfloat16", True, 2, 2 / 8, 12 / 8, 0),
        ("zero3", "bfloat16", True, 2 / 8, 2 / 8, 12 / 8, 0),
        ("zero3", "float32", True, 2 / 8, 2 / 8, 12 / 8, 0),  # DeepSpeed casts to bfloat16 whatever was loaded
        ("zero1", "float32", False, 4, 4, 12 / 8, 0),  # a float32 copy of float32 weights
        ("zero2", "float32", False, 4, 4 / 8, 12 / 8, 0),
        ("zero3", "float32", False, 4 / 8, 4 / 8, 8 / 8, 0),  # which stage 3 spares
        ("zero2_offload", "bfloat16", True, 2, 0, 0, (4 + 8 + 4 + 2) / 8),
        ("zero3_offload", "bfloat16", True, 0, 0, 0, (2 + 4 + 8 + 4 + 2) / 8),
        ("fsdp2", "bfloat16", True, 4 / 8, 4 / 8, 8 / 8, 0),  # accelerate keeps float32 weights
        ("fsdp2", "bfloat16", False, 2 / 8, 2 / 8, 4 / 8, 0),
    ],
)
def test_a_billion_parameters_on_eight_devices(
    sharding: str, dtype: str, bf16: bool, weights: float, gradients: float, optimizer: float, host: float
) -> None:
    found = states(sharding, dtype=dtype, bf16=bf16)
    assert (found.weights, found.gradients, found.optimizer, found.host) == pytest.approx(
        tuple(n * BILLION for n in (weights, gradients, optimizer, host))
    )


def test_one_device_shares_nothing_out() -> None:
    plain = states("ddp", 1)
    assert all(states(s, 1) == plain for s in SHARDINGS if not s.endswith("_offload"))
    assert states("zero3_offload", 1).host == 20 * BILLION


def test_what_comes_and_goes() -> None:
    assert states("ddp", 8, "float32").buffers == 4 * BILLION  # DDP's buckets
    assert states("ddp", 1, "float32").forward == 2 * BILLION  # autocast's copies, gone when the backward pass begins
    assert states("ddp", 1, "float32", checkpointing=False).buffers == 2 * BILLION  # which autograd holds on to
    assert states("zero2", bucket=1000).buffers == 2 * 1000 * 2  # two buckets, so that one fills as the other is sent
    assert states("zero2", accumulation=2).buffers == 2 * BILLION / 8
    assert states("zero2").step == (2 + 4) * BILLION / 8  # flattened, then cast to float32
    # Stage 3: a layer, what is kept for its second use, the layer's gradients
    assert states("zero3", largest_layer=10**8).buffers == (10**8 + 5 * 10**8 + 10**8) * 2


def test_frozen_weights_have_neither_gradients_nor_states() -> None:
    adapters = {"parameters": BILLION + 10**7, "trainable": 10**7}
    zero = states("zero2", **adapters)
    assert zero.weights == 2 * (BILLION + 10**7)
    assert (zero.gradients, zero.optimizer) == (2 * 10**7 / 8, 12 * 10**7 / 8)
    four = states("ddp", 1, **adapters, quantized=BILLION)
    assert four.weights == NF4 * BILLION + 4 * 10**7  # adapters in float32


def test_the_fullest_moment_counts() -> None:
    held = States(weights=10, gradients=10, optimizer=20, buffers=5, forward=9, step=100)
    assert held.total(Activations(kept=80, peak=30)) == 40 + 80 + 30 + 5
    assert held.total(Activations(kept=95, peak=1)) == 40 + 95 + 9
    assert held.total(Activations(kept=1, peak=1)) == 40 + 100


def test_activations_of_a_small_model_by_hand() -> None:
    # Norms 16 x 10; attention 5 x 2 x 10 + 4 x 2; MLP 4 x 2 x 30: 508 bytes a token
    whole = activations(size=SMALL, tokens=100, residual=2, compute=2, checkpointing=False)
    assert whole.kept == 100 * 508
    again = activations(size=SMALL, tokens=100, residual=2, compute=2, checkpointing=True)
    assert again.kept == 100 * 2 * 10
    # The head is what peaks in so small a model: rows, a tile of logits, the gradient of its 1000 numbers
    assert again.peak == 100 * 10 * 14 + 100 * 32768 * 2 + 1000 * 6
    masked = activations(size=SMALL, tokens=100, residual=2, compute=2, checkpointing=False, mask=100, scores=100)
    assert masked.kept - whole.kept == 100 * 100 * (2 + 1) + 100 * 100 * 2 * (4 + 2)


@pytest.mark.parametrize(("bf16", "compute"), [(True, 2), (False, 4)])
def test_activations_are_those_that_autograd_keeps(tiny: Path, bf16: bool, compute: int) -> None:
    model, _ = load(tiny, "float32")
    saved: dict[int, tuple[Any, int]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def kept(layers: int, tokens: int) -> int:
        model.model.layers = torch.nn.ModuleList(list(whole)[:layers])
        saved.clear()
        ids = torch.randint(0, 300, (1, tokens))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", enabled=bf16):
            out = model.model(ids, use_cache=False).last_hidden_state
        assert out.requires_grad
        return sum(size for at, (_, size) in saved.items() if at not in own)

    whole = model.model.layers
    # A layer's own: with it less without it; more tokens less fewer, since copies of weights by autocast do not count
    real = kept(2, 500) - kept(1, 500) - kept(2, 100) + kept(1, 100)
    size = parameters(str(tiny))
    ours = activations(size=size, tokens=400, residual=4, compute=compute, checkpointing=False).kept / size.layers
    assert ours == pytest.approx(real, rel=0.15)


def test_a_real_step_holds_what_is_planned(tiny: Path) -> None:
    model, _ = load(tiny, "float32")
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(20)[None], labels=torch.arange(20)[None]).loss.backward()
    optimizer.step()
    held = [
        sum(t.numel() * t.element_size() for t in tensors)
        for tensors in (
            model.parameters(),
            [p.grad for p in model.parameters()],
            [v for state in optimizer.state.values() for v in state.values()],
        )
    ]
    count = parameters(str(tiny)).parameters
    found = model_states(parameters=count, trainable=count, sharding="ddp", devices=1, dtype="float32", bf16=False)
    assert (found.weights, found.gradients, found.optimizer) == pytest.approx(tuple(held), rel=0.001)


def test_parameters_are_counted_and_not_guessed(tiny: Path) -> None:
    model, _ = load(tiny, "float32")
    size = parameters(str(tiny))
    assert size.parameters == size.trainable == sum(p.numel() for p in model.parameters())
    assert size.layer == sum(p.numel() for p in model.model.layers[0].parameters())
    assert size.head == model.lm_head.weight.numel()
    assert size.active == size.parameters - size.head  # looking up a row of the embedding multiplies nothing
    assert (size.layers, size.hidden, size.attention, size.intermediate) == (2, 64, 64, 128)


def test_adapters_are_counted(tiny: Path) -> None:
    size = parameters(str(tiny), {"r": 4, "target_modules": ["q_proj", "v_proj"]})
    # r x (in + out) for queries (64, 64) and values (64, 32), in two layers
    assert size.trainable == 2 * 4 * ((64 + 64) + (64 + 32))
    assert not size.head_trained
    assert size.linear == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)


def test_steps_of_limo() -> None:
    assert steps(rows=800, global_batch=64, epochs=15) == 195  # 13 an epoch, the last of 32 chains
    assert steps(rows=817, global_batch=32, epochs=15) == 390
    assert steps(rows=800, global_batch=64, epochs=15, max_steps=10) == 10


def test_seconds_of_a_step_by_hand() -> None:
    # 6 x 4000 for weights; attention 12 x 1 layer x 10 wide x 100 long, half of it
    seconds = seconds_per_step(
        size=SMALL, tokens=1000, length=100, devices=2, peak=1e6, utilisation=0.5, checkpointing=False
    )
    assert seconds == pytest.approx(1000 * (24_000 + 6_000) / 1e6)
    again = seconds_per_step(
        size=SMALL, tokens=1000, length=100, devices=2, peak=1e6, utilisation=0.5, checkpointing=True
    )
    assert again == pytest.approx(1000 * (32_000 + 8_000) / 1e6)


def section(tiny: Path, folder: Path, **changed: Any) -> dict[str, Any]:
    train = {
        "model": str(tiny),
        "dtype": "float32",
        "data": str(folder / "rows.jsonl"),
        "max_length": 200,
        "global_batch": 8,
        "packing": 256,
        "sharding": "ddp",
        "args": {"num_train_epochs": 2, "bf16": True},
    }
    return {
        "train": train | changed,
        "rows": None,
        "mean_tokens": None,
        "devices": [1, 4],
        "gpus": {"H100": 2.0},
        "utilisation": 0.4,
    }


def test_rows_are_read_as_training_reads_them(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Example(str(i), chat(f"What is {i}+{i}?"), str(2 * i), f"It is \\boxed{{{2 * i}}}") for i in range(20)]
    long = Example("long", chat("q"), "1", "so " * 500 + "\\boxed{1}")
    write_jsonl(tmp_path / "rows.jsonl", [*rows, long, Example("empty", chat("q"), "1", "")])
    found = plan(**section(tiny, tmp_path))
    data = found["data"]
    assert (data["count"], data["steps"]) == (20, 6)  # the two that cannot be trained on are not counted
    assert data["mean"] <= data["attended"] <= data["longest"] < 200
    assert data["tokens_per_step"] == pytest.approx(data["mean"] * 20 / 3)
    assert found["recommendation"]["settings"] == "train.sharding=ddp train.devices=1"
    assert json.loads(json.dumps(found)) == found
    assert all(s["total"] == pytest.approx(_sum(s)) for s in found["settings"])
    assert "Take train.sharding=ddp train.devices=1 (1 x H100)" in capsys.readouterr().out


def _sum(setting: dict[str, Any]) -> float:
    return float(sum(setting[part] for part in ("weights", "gradients", "optimizer", "activations", "buffers")))


def test_a_model_of_32_billion_needs_sharing_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "model_type": "qwen2",
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    given = section(tmp_path, tmp_path, dtype="bfloat16", max_length=16384, packing=16384, global_batch=64)
    found = plan(**given | {"rows": 800, "mean_tokens": 8000, "devices": [1, 8, 32], "gpus": {"H100": 2.5, "H200": 3}})
    assert found["model"]["parameters"] == 32_763_876_352  # as its card says: 32.76 B
    fits = {(s["sharding"], s["devices"]): s["fits"] for s in found["settings"]}
    assert not any(fits["ddp", n]["H200"] for n in (1, 8, 32))
    assert fits["zero3", 8] == {"H100": False, "H200": True}
    assert fits["zero3", 32] == {"H100": True, "H200": True}
    assert next(s["dtype"] for s in found["settings"] if s["sharding"] == "ddp") == "float32"
    assert found["recommendation"]["settings"] == "train.sharding=zero3 train.devices=8"
    only = plan(**given | {"rows": 800, "mean_tokens": 8000, "devices": [32], "gpus": {"H100": 2.5}})
    assert only["recommendation"]["nodes"] == 4
    hours, dollars = (only["costs"][0][key] for key in ("hours", "dollars"))
    assert dollars == pytest.approx(hours * 32 * 2.5)
    shown = capsys.readouterr().out
    assert "on each of 4 machines (32 x H100)" in shown
    assert all(len(line) <= 100 for line in shown.splitlines() if line[:1] in "┃│┏├└┡")


def test_devices_must_divide_the_batch_unless_rows_are_packed(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = {"per_device_train_batch_size": 2, "bf16": True}
    given = section(tiny, tmp_path, packing=None, args=args) | {"rows": 20, "mean_tokens": 50, "devices": [1, 3, 4]}
    found = plan(**given)
    assert found["impossible"]["devices"] == [3]
    assert {s["devices"] for s in found["settings"]} == {1, 4}
    assert "Not possible with 3 GPUs" in (shown := capsys.readouterr().out)
    assert "1, 2, 4 GPUs do" in shown
    assert not plan(**given | {"train": given["train"] | {"packing": 256}})["impossible"]["devices"]


def test_nothing_fits(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = section(tiny, tmp_path, packing=10**10) | {"rows": 20, "mean_tokens": 50, "devices": [1]}
    assert plan(**given)["recommendation"] is None
    assert "Nothing fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "curate first, or give train_plan.rows= and train_plan.mean_tokens="),
        ({"gpus": {"H10": 1.0}}, "train_plan.gpus: there is no 'H10'; did you mean 'H100'?"),
        ({"gpus": {}}, "must name at least one"),
        ({"devices": [0]}, "train_plan.devices must be numbers from 1, not 0"),
        ({"utilisation": 40.0}, "train_plan.utilisation must be above 0 and at most 1, not 40.0"),
        ({"rows": 0}, "train_plan.rows must be at least 1, not 0"),
        ({"train": {"model": "x"}}, "train_plan.train.dtype is missing"),
    ],
)
def test_mistakes_are_told_in_one_line(tiny: Path, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        plan(**section(tiny, tmp_path) | changed)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_settings_of_train(tiny: Path, tmp_path: Path) -> None:
    given = {"rows": 20, "mean_tokens": 50}
    for changed, said in (
        ({"dtype": "float8"}, "train.dtype=float8"),
        ({"global_batch": 0}, "train.global_batch must be 1 or more, not 0"),
        ({"model": str(tmp_path / "none")}, "no such model folder"),
        ({"lora": {"r": 4, "target_modules": ["nothing"]}}, "train.lora: "),
    ):
        with pytest.raises(UserError) as error:
            plan(**section(tiny, tmp_path, **changed) | given)
        assert said in str(error.value)
    with pytest.raises(UserError, match="did you mean 'zero3'"):
        states("zero4")


def test_gpus_are_known_by_what_their_sheets_say() -> None:
    assert (gpu("H100").memory, gpu("H100").peak) == (80e9, 989e12)
    assert all(20e9 < one.memory < 300e9 and 50e12 < one.peak < 3000e12 for one in GPUS.values())


def test_the_command(run: Callable[..., CompletedProcess[str]], tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    folder.mkdir()
    given = section(tiny, tmp_path) | {"_target_": "limo.plan.plan", "rows": 20, "mean_tokens": 50}
    text = "# @package _global_\n" + json.dumps({"name": "p", "train_plan": given})
    (folder / "p.yaml").write_text(text)
    done = run("limo.plan", "recipe=p", "--config-dir", str(tmp_path), "train_plan.rows=40")
    assert done.returncode == 0, done.stderr
    assert "40 rows of 50 tokens on average" in done.stdout
    wrong = run("limo.plan", "--config-dir", str(tmp_path), "recipe=p", "train_plan.utilisation=2")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_devices_that_wait_for_the_fullest_are_not_counted_as_busy(tiny: Path, tmp_path: Path) -> None:
    def training(**changed: Any) -> Training:
        return Training.read(section(tiny, tmp_path, **changed)["train"])

    even, odd = training(global_batch=4, packing=4), training(global_batch=2, packing=8)
    assert busy(even, [4, 4, 4, 4], 2) == busy(even, [4, 4, 4, 4], 1) == 1
    assert busy(odd, [8, 1], 2) == 9 / 16
    assert busy(even, [4, 4, 4, 4], 8) == 1 / 2, "half of the devices have no chain"
    padded = training(global_batch=2, packing=None, args={"per_device_train_batch_size": 2})
    assert busy(padded, [8, 2], 1) == 10 / 16, "padding is no work"
