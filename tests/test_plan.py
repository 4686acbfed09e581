"""The plan: numbers worked by hand, a model of 32 billion parameters, and mistakes in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest

from curation import cost
from curation.cost import Assume, Trainings, plan
from limo.data import Example, chat, write_jsonl
from limo.errors import MissingModel, UserError
from limo.model import load_model
from limo.recipe import read_settings, validate
from limo.training.settings import Supervised
from limo.training.sizes import (
    Data,
    Size,
    Work,
    count_activations,
    count_memory,
    measure_model,
    seconds_per_step,
    size_of,
)

BILLION = 10**9
ARGS = {"num_train_epochs": 2, "bf16": True}


def section(folder: Path, **changed: Any) -> dict[str, Any]:
    """A train section."""
    numbers = {"dtype": "float32", "max_length": 200, "global_batch": 8, "pack_tokens": 256, "seed": 0, "args": ARGS}
    paths = {"out": str(folder), "model": str(folder), "data": str(folder / "rows.jsonl"), "system": ""}
    return {"_target_": "limo.train.sft", **paths, **numbers, **changed}


GIVEN: dict[str, Any] = {"rows": 20, "mean_tokens": 50, "devices": [1, 4], "gpus": {"H100": 2.0}, "utilisation": 0.4}
REST: dict[str, Any] = {"pilot": 4, "seed": 0, "tokens_per_second": None, "dollars_per_gpu_hour": 2.0}


def planned(monkeypatch: pytest.MonkeyPatch, train: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """What a plan of a training prints, as JSON."""
    found: list[dict[str, Any]] = []
    shown = cost.print_trainings
    keep = lambda name, result, given: [found.append(result), shown(name, result, given)]  # noqa: E731
    monkeypatch.setattr(cost, "print_trainings", keep)
    given = validate(Trainings, {**GIVEN, **changed}, "plan.training")
    plan(curate=None, train=train, training=given, **REST)
    return found[0]


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


def test_rows_are_read_as_training_reads_them(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Example(str(i), chat(f"What is {i}+{i}?"), str(2 * i), f"It is \\boxed{{{2 * i}}}") for i in range(20)]
    long = Example("long", chat("q"), "1", "so " * 500 + "\\boxed{1}")
    write_jsonl(tmp_path / "rows.jsonl", [*rows, long, Example("empty", chat("q"), "1", "")])
    found = planned(monkeypatch, section(tmp_path, model=str(tiny)), rows=None, mean_tokens=None)
    data = found["data"]
    assert (data["rows"], data["steps"]) == (20, 6), "the two that cannot be trained on are not counted"
    assert data["mean"] <= data["attended"] <= data["longest"] < 200
    assert found["recommendation"]["settings"] == "train.sharding=ddp train.devices=1"
    assert json.loads(json.dumps(found)) == found
    assert "Take train.sharding=ddp train.devices=1 (1 x H100)" in capsys.readouterr().err


def test_a_model_of_32_billion_needs_sharding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64}
    config |= {"num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    train = section(tmp_path, dtype="bfloat16", max_length=16384, pack_tokens=16384, global_batch=64)
    given: dict[str, Any] = {"rows": 800, "mean_tokens": 8000, "devices": [1, 8, 32]}
    found = planned(monkeypatch, train, **given, gpus={"H100": 2.5, "H200": 3.0})
    assert found["model"]["parameters"] == 32_763_876_352  # as its card says: 32.76 B
    fits = {(s["sharding"], s["devices"]): set(s["costs"]) for s in found["settings"]}
    assert not any(fits["ddp", n] for n in (1, 8, 32))
    assert fits["zero3", 8] == {"H200"} and fits["zero3", 32] == {"H100", "H200"}
    assert found["recommendation"]["settings"] == "train.sharding=zero3 train.devices=8"
    only = planned(monkeypatch, train, **given | {"devices": [32], "gpus": {"H100": 2.5}})["recommendation"]
    assert only["nodes"] == 4 and only["dollars"] == pytest.approx(only["hours"] * 32 * 2.5)
    assert "on each of 4 machines (32 x H100)" in capsys.readouterr().err


def test_a_size_without_a_config_is_near_that_of_one(tmp_path: Path) -> None:
    """Hours of 7 billion assumed parameters are within a tenth of those of a 7B model's config."""
    config = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    real = measure_model(work(Size(*[1] * 8), model=str(tmp_path)).settings)
    data, assumed = Data(800, 2000.0, 4000, 2000.0), size_of(real.parameters)
    seconds = [seconds_per_step(work(size, data), 1e12) for size in (real, assumed)]
    assert seconds[1] == pytest.approx(seconds[0], rel=0.1)


def test_a_plan_of_what_is_assumed_runs_and_reads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: 1,000 problems, 4 attempts each, then 2 chains of each of the 200 that are chosen, 500 tokens each."""
    sampled = {"engine": {"_target_": "nothing"}, "sampling": {"n": 4, "temperature": 1.0}}
    stages = {
        "difficulty": {"_target_": "curation.stages.attempts.measure_difficulty", **sampled},
        "choose": {"_target_": "curation.stages.choose.problems", "k": 200},
        "solve": {"_target_": "curation.stages.attempts.add_chains", "teachers": {"a": {"sampling": {"n": 2}}}},
    }
    pool = {"far": {"_target_": "limo.sources.file", "path": "gone.jsonl"}}
    curate = {"out": str(tmp_path / "r"), "system": "", "pool": pool, "stages": stages, "budget": {"hours": 1.0}}
    train = section(tmp_path, model="org/model-that-no-one-can-read", max_length=2000, pack_tokens=2048)
    given = validate(Trainings, {**GIVEN, "rows": None, "mean_tokens": None, "devices": [8]}, "plan.training")
    assume = Assume(tokens=500, rate=100, rows=1000, parameters=7e9)
    found = plan(curate=curate, train=train, training=given, assume=assume, **REST)
    assert [(e.stage, e.samples, e.tokens) for e in found] == [("difficulty", 4000, 2e6), ("solve", 400, 2e5)]
    assert found[0].hours == pytest.approx(2e6 / 100 / 3600) and found[1].out[1] == 200
    shown = capsys.readouterr()
    assert "200 rows of 500 tokens on average" in shown.err and "7 B parameters" in shown.err
    assert "The budget of 1.0 hours would be used up" in shown.out and not (tmp_path / "r").exists()
    longer = Assume(tokens=2001, rate=100, rows=1000, parameters=7e9)
    with pytest.raises(UserError, match=r"rows of 2,001 tokens do not fit into train.max_length=2,000"):
        plan(curate=curate, train=train, training=given, assume=longer, **REST)
    with pytest.raises(UserError, match=r"no such file or folder 'gone\.jsonl'.*plan.assume.rows="):
        plan(curate=curate, train=None, training=given, assume=Assume(500, 100), **REST)


def test_the_sum_counts_the_evaluation_of_every_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: 2 problems, 3 samples of 400 tokens, the student and 4 models: 30 samples at 100 tokens a second."""
    (tmp_path / "held.jsonl").write_text('{"problem": "a", "answer": "1"}\n{"problem": "b", "answer": "2"}\n')
    benchmarks = {"held": {"path": str(tmp_path / "held.jsonl")}, "gone": {"path": "gone.jsonl"}}
    sampling = {"n": 3, "temperature": 1.0, "top_p": 1.0, "max_tokens": 400, "seed": 0}
    evaluated = {"benchmarks": benchmarks, "sampling": sampling, "models": {"base": "x"}, "trained": {"controls": []}}
    stages = {
        "solve": {"_target_": "curation.stages.attempts.add_chains", "teachers": {}},
        "fit": {"_target_": "curation.stages.likelihood.add_fit", "model": "x"},
    }
    pool = {"far": {"_target_": "limo.sources.file", "path": "gone.jsonl"}}
    curate = {"out": str(tmp_path / "r"), "system": "", "pool": pool, "stages": stages, "budget": {}}
    train = section(tmp_path, model="7B", max_length=2000, pack_tokens=2048, controls=["random"], seeds=[0, 1])
    given = validate(Trainings, {**GIVEN, "rows": 200, "mean_tokens": 500, "devices": [8]}, "plan.training")
    assume = Assume(tokens=500, rate=100, rows=1440, parameters=7e9)
    found = plan(curate=curate, train=train, training=given, assume=assume, eval=evaluated, **REST)
    assert [(e.stage, e.hours) for e in found] == [("solve", 0), ("fit", pytest.approx(0.5))]  # read 4 times as fast
    shown = " ".join(capsys.readouterr().err.split())
    assert "5 models, held 2 x 3; gone is not here, so it is not counted: 30 completions, 12,000 tokens, 0.03" in shown
    trained = float(shown.partition(" hours, ")[2].partition(" GPU-hours")[0])
    assert (
        f"together: {0.5 + trained + 0.03:.1f} GPU-hours (curation 0.5, training {trained:.1f}, evaluation 0.0)"
        in shown
    )


def test_mistakes_are_one_line(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = section(tmp_path, model=str(tiny))
    for node, changed, said in (
        (train, {"rows": None}, "curate first, or give plan.training.rows= and plan.training.mean_tokens="),
        (train, {"gpus": {"H10": 1.0}}, "plan.training.gpus: there is no 'H10'; did you mean 'H100'?"),
        (train, {"gpus": {}}, "plan.training.gpus must be"),
        (train, {"devices": [0]}, "plan.training.devices"),
        (train, {"utilisation": 40.0}, "plan.training.utilisation must be less than or equal to 1"),
        ({"_target_": "limo.train.sft", "model": "x"}, {}, "train.out is missing"),
        (train | {"dtype": "float8"}, {}, "train.dtype must be"),
        (train | {"model": str(tmp_path / "none")}, {}, "no such model folder"),
        (train | {"lora": {"r": 4, "target_modules": ["nothing"]}}, {}, "train.lora: "),
    ):
        with pytest.raises(UserError) as error:
            planned(monkeypatch, node, **changed)
        assert said in str(error.value) and "\n" not in str(error.value), (changed, error.value)
    with pytest.raises(UserError, match="neither a curate nor a train section"):
        plan(curate=None, train=None, training=validate(Trainings, GIVEN, "plan"), **REST)


def test_the_command(run: Callable[..., CompletedProcess[str]], tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    text = "# @package _global_\n" + json.dumps({"name": "p", "train": section(tmp_path, model=str(tiny))})
    (tmp_path / "recipe" / "p.yaml").write_text(text)
    given = ("--config-dir", str(tmp_path), "recipe=p", "plan.training.mean_tokens=50")
    done = run("curation.cost", *given, "plan.training.rows=40")
    assert done.returncode == 0 and "40 rows of 50 tokens on average" in done.stderr, done.stderr
    wrong = run("curation.cost", *given, "plan.training.utilisation=2")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), wrong.stderr


@pytest.mark.parametrize(
    ("name", "billions"), [("Qwen/Qwen2.5-7B-Instruct", 7), ("a/b-1.5b", 1.5), ("c/d-135M-x", 0.135)]
)
def test_a_model_that_is_not_here_has_the_size_of_its_name(
    name: str, billions: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: Any) -> Any:
        raise MissingModel("no such model")

    monkeypatch.setattr(cost, "measure_model", missing)
    settings = SimpleNamespace(model=name, lora=None)
    assert cost._size(settings, cost.Assume(900, 3000)).parameters == pytest.approx(billions * 1e9)
    assert cost._size(settings, cost.Assume(900, 3000, parameters=2e9)).parameters == 2e9
    for assume, model in ((None, name), (cost.Assume(900, 3000), "org/large")):
        with pytest.raises(UserError, match="no such model"):
            cost._size(SimpleNamespace(model=model, lora=None), assume)
