"""Preference training: losses by hand and beside TRL's, pairs from anywhere, and no training the wrong way."""

import inspect
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from limo import prefer as training
from limo.data import Dropped, Example, chat, write_jsonl
from limo.errors import UserError
from limo.model import load_both, load_tokenizer
from limo.recipe import read_settings
from limo.training import preference
from limo.training.preference import PairLogProbs, at_margin, examine_loss, load_loss
from limo.training.rows import prepare, read_pairs
from limo.training.settings import Preference
from tests.conftest import lines

BETA = TAU = 0.05


def of(name: str) -> Any:
    """A known loss, with tau where it takes one."""
    loss = getattr(preference, name)
    return partial(loss, tau=TAU) if "tau" in inspect.signature(loss).parameters else loss


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


RHO = [-3.0, 1.5]
X = [BETA * r for r in RHO]
LOGISTIC = [math.log1p(math.exp(-x)) for x in X]
EXP = [math.exp(-x) for x in X]
HINGE = [1 - x for x in X]
V = sig((1.5 + 3) ** 2 / 2)  # u is rho; the unbiased variance of two numbers is half the square of their distance
M = 0.5 + 0.01 * (sig(-0.75) - 0.5)
Q = [sig(TAU * M - x) for x in X]
A0 = (1.5 + 3) / math.sqrt(2) * (sig(3) + sig(-1.5)) / 2
A = A0 + 0.05 * (sig(-0.75) - A0)
R = [sig(0.1 * abs(r - A)) for r in RHO]
BY_HAND = {
    "dpo": LOGISTIC,
    "slic": HINGE,
    "ipo": [(r - 10) ** 2 for r in RHO],
    # log-ratios are -1.5 and 0.75, and the opposite: their means -0.375 and 0.375, of which the first counts as 0
    "kto_pair": [(sig(BETA * (0.375 - c)) + sig(BETA * (-c - 0))) / 2 for c in (-1.5, 0.75)],
    "dbaql": [V * math.log1p(math.exp(-x / 0.9)) + (1 - V) * math.exp(-0.9 * x) for x in X],
    "aql": [q * a + (1 - q) * h for q, a, h in zip(Q, LOGISTIC, HINGE, strict=True)],
    "padll": [0.45 * LOGISTIC[0], 0.9 * LOGISTIC[1]],
    "aqfl": [r * a + (1 - r) * h for r, a, h in zip(R, LOGISTIC, HINGE, strict=True)],
    "cell": [(a + e) / 2 for a, e in zip(LOGISTIC, EXP, strict=True)],
    "discopop": [(1 - sig(r)) * a + sig(r) * e for r, a, e in zip(RHO, LOGISTIC, EXP, strict=True)],
    "pfl": [2 * (1 + 3), 0.5 * math.log1p(math.exp(-1.5))],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_loss_has_the_values_worked_by_hand(name: str) -> None:
    loss = of(name)(at_margin(torch.tensor(RHO, dtype=torch.float64)), BETA)
    assert loss.tolist() == pytest.approx(BY_HAND[name], rel=1e-6)


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_is_finite_with_finite_slopes_far_out(name: str, dtype: torch.dtype) -> None:
    """DiscoPOP as published is 0 times infinity below -88.7; equal numbers have no slope of a standard deviation."""
    for x in ([-1e4, 1e4], [-1e4, -1e4], [1e4, 1e4], [-88.8, -90.0], [0.0, 0.0], [-100.0], [30.0]):
        for beta in (0.05, 2.5):
            inputs = [(torch.tensor(x) / beta / d).to(dtype).requires_grad_() for d in (2, -2)]
            inputs += [torch.zeros(len(x), dtype=dtype).requires_grad_() for _ in range(2)]
            loss = of(name)(PairLogProbs(*inputs), beta)
            assert loss.shape == (len(x),) and bool(loss.isfinite().all()), (x, beta, loss)
            loss.float().sum().backward()  # type: ignore[no-untyped-call]
            assert all(i.grad is not None and bool(i.grad.isfinite().all()) for i in inputs), (x, beta)


def test_the_published_expression_of_discopop_is_not_finite_and_elsewhere_ours_equals_it() -> None:
    def published(x: torch.Tensor) -> torch.Tensor:
        return (1 - torch.sigmoid(x / TAU)) * preference.logistic(x) + torch.sigmoid(x / TAU) * torch.exp(-x)

    assert not bool(published(torch.tensor([-90.0])).isfinite().all())
    x = torch.linspace(-20, 20, 801, dtype=torch.float64)
    ours = preference.discopop(at_margin(x / BETA), BETA, tau=TAU)
    assert ours.tolist() == pytest.approx(published(x).tolist(), abs=4e-15)
    far = torch.tensor([-90.0 / 2.5], requires_grad=True)
    preference.discopop(at_margin(far), 2.5, tau=TAU).backward()  # type: ignore[no-untyped-call]
    assert far.grad is not None and far.grad.item() == pytest.approx(-2.5)


def test_problems_are_found_before_training() -> None:
    found = examine_loss(of("discopop"), BETA)
    assert found.start_slope == pytest.approx(0.0392, abs=1e-4)
    assert "+0.0392 (DPO's is -0.0250)" in found.problems[0]
    turns = torch.tensor([-2.38, -2.36, 1.43, 1.45], requires_grad=True)  # a minimum at -2.37, a maximum at 1.44
    (slope,) = torch.autograd.grad(of("discopop")(at_margin(turns), BETA).sum(), turns)
    assert (slope > 0).tolist() == [False, True, True, False]
    assert examine_loss(of("dpo"), BETA).start_slope == pytest.approx(-0.025)
    assert [name for name in BY_HAND if examine_loss(of(name), BETA).problems] == ["discopop"]
    # A temperature of 1 corrects the sign
    mild = load_loss({"_target_": "limo.training.preference.discopop", "tau": 1.0}, "loss")
    assert not examine_loss(mild, BETA).problems


def flat(pairs: PairLogProbs, beta: float) -> torch.Tensor:
    return pairs.margin * 0 + beta


def rooted(pairs: PairLogProbs, beta: float) -> torch.Tensor:
    return preference.logistic(beta * pairs.margin) + pairs.margin.abs().sqrt()


def summed(pairs: PairLogProbs, beta: float) -> torch.Tensor:
    return pairs.margin.mean()


def simpo(pairs: PairLogProbs, beta: float, *, gamma: float) -> torch.Tensor:
    return preference.logistic(beta * (pairs.chosen - pairs.rejected) - gamma)


def decides(pairs: PairLogProbs, beta: float) -> torch.Tensor:
    rho = pairs.margin
    return preference.logistic(beta * rho) if rho.mean() > 0 else preference.hinge(beta * rho)


def test_any_function_of_the_signature_works() -> None:
    assert "training does not start" in examine_loss(flat, BETA).problems[0]
    assert "not finite" in examine_loss(rooted, BETA).problems[0]
    with pytest.raises(UserError, match="one value per pair: for 2 pairs it gave \\(\\)"):
        examine_loss(summed, BETA)
    free = load_loss({"_target_": "tests.test_preference.simpo", "gamma": 0.5}, "train.loss")
    assert examine_loss(decides, BETA).start_slope == pytest.approx(-BETA)
    assert not examine_loss(free, BETA).problems, "a loss need not use the reference"
    with pytest.raises(UserError, match="cannot be called"):
        examine_loss(lambda: None, BETA)  # type: ignore[misc, arg-type]
    for node, reason in (
        ("limo.training.preference.nope", "'limo.training.preference.nope' does not exist"),
        ("limo.training.preference.discopop", "tau is missing"),
        ({"_target_": "limo.training.preference.dpo", "tau": 1.0}, "tau is not a setting of limo.training.preference"),
    ):
        with pytest.raises(UserError, match=reason):
            load_loss(node, "train.loss")  # type: ignore[arg-type]


ARGS: dict[str, Any] = {
    "beta": 0.1,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
    "report_to": "none",
    "activation_checkpointing": False,
}


def prefer(**section: Any) -> dict[str, Any]:
    return training.prefer(read_settings(Preference, section, "train"))


def settings(tiny: Path, folder: Path, **changed: Any) -> dict[str, Any]:
    if not (folder / "pairs.jsonl").exists():
        rows = [
            Example(str(i), chat(f"What is {i}+{i}?", "Be brief."), str(2 * i), f"so {2 * i}", f"no {2 * i + 1}")
            for i in range(16)
        ]
        write_jsonl(folder / "pairs.jsonl", rows)
    return {
        "out": str(folder / "run"),
        "model": str(tiny),
        "dtype": "float32",
        "system": "Be brief.",
        "data": str(folder / "pairs.jsonl"),
        "max_length": 200,
        "seed": 0,
        "global_batch": 8,
        "loss": "limo.training.preference.dpo",
        "keep_checkpoints": True,
        "args": ARGS,
        **changed,
    }


def log(folder: Path) -> list[dict[str, Any]]:
    return [entry for entry in lines(folder / "run" / "train_log.jsonl") if "loss" in entry]


def test_a_preference_training(tiny: Path, tmp_path: Path) -> None:
    """Live and precomputed references are the same, held-out pairs are measured, and pairs come to be preferred."""
    held_out = {"eval_data": str(tmp_path / "live" / "pairs.jsonl")}
    for name, precomputed in (("live", False), ("before", True)):
        (tmp_path / name).mkdir()
        args = {**ARGS, "precompute_ref_log_probs": precomputed, "eval_strategy": "epoch"}
        given = settings(tiny, tmp_path / name, args=args)
        prefer(**{**given, **held_out})
    curves = [[(e["loss"], e["rewards/margins"]) for e in log(tmp_path / name)] for name in ("live", "before")]
    assert torch.tensor(curves[0]) == pytest.approx(torch.tensor(curves[1]), abs=2e-5)
    assert curves[0][0][0] == pytest.approx(math.log(2), abs=1e-5) and len(curves[0]) == 6
    last = [e for e in lines(tmp_path / "live" / "run" / "train_log.jsonl") if "eval_loss" in e][-1]
    assert last["eval_rewards/accuracies"] > 0.9 and last["eval_loss"] < 0.6
    card = (tmp_path / "live" / "run" / "model" / "README.md").read_text()
    assert "16 pairs" in card and "to prefer the chosen completion" in card and "- dpo" in card
    load_both(tmp_path / "live" / "run" / "model", "float32")
    again = prefer(
        **{
            **settings(
                tiny, tmp_path / "live", args={**ARGS, "precompute_ref_log_probs": False, "eval_strategy": "epoch"}
            ),
            **held_out,
        }
    )
    assert again["steps"] == 6 and again["rows"] == 16, "a finished run is told, not trained again"


def test_a_stopped_preference_training_goes_on(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import limo.training.fit

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    prefer(**settings(tiny, tmp_path / "whole"))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(limo.training.fit, "save_model", stop)
        prefer(**settings(tiny, tmp_path / "cut"))
    prefer(**settings(tiny, tmp_path / "cut"))
    both = [load_both(tmp_path / name / "run" / "model", "float32")[0].state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(both[0][key], both[1][key]) for key in both[0])


@pytest.mark.slow
def test_discopop_is_refused_or_warmed_up(tiny: Path, tmp_path: Path) -> None:
    """On short pairs it inverts the preference it is to learn; begun by DPO it does not."""
    loss = {"_target_": "limo.training.preference.discopop", "tau": 0.1}
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"slope at rho = 0.*Set train\.warmup=0\.3"):
        prefer(**settings(tiny, tmp_path / "a", loss=loss))
    assert not (tmp_path / "a" / "run" / "model").exists()
    args = {**ARGS, "num_train_epochs": 8, "learning_rate": 1e-3}
    prefer(**settings(tiny, tmp_path / "b", loss=loss, warmup=1e-9, args=args))  # a share of no step: as published
    prefer(**settings(tiny, tmp_path / "c", loss=loss, warmup=0.6, args=args))
    assert log(tmp_path / "b")[-1]["rewards/accuracies"] < 0.2 and log(tmp_path / "b")[-1]["rewards/margins"] < 0
    assert log(tmp_path / "c")[-1]["rewards/accuracies"] > 0.9
    dpo_at_start, own_at_start = log(tmp_path / "c")[0]["loss"], log(tmp_path / "b")[0]["loss"]
    assert dpo_at_start == pytest.approx(math.log(2), abs=1e-5) and own_at_start == pytest.approx(0.8466, abs=1e-4)


def test_lora_and_its_reference(tiny: Path, tmp_path: Path) -> None:
    results = prefer(**settings(tiny, tmp_path, lora={"r": 4, "target_modules": ["q_proj", "v_proj"]}))
    assert results["steps"] == 6 and log(tmp_path)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").exists()
    load_both(tmp_path / "run" / "model", "float32")


def test_mistakes_get_one_line(tiny: Path, tmp_path: Path) -> None:
    for changed, said in (
        ({"warmup": 2.0}, "train.warmup is the share of steps"),
        ({"args": {**ARGS, "loss_type": "ipo"}}, "train.args.loss_type: set train.loss instead"),
        ({"args": {**ARGS, "betta": 1}}, "not an argument of trl.DPOConfig; did you mean 'beta'"),
        ({"args": {**ARGS, "beta": 0.0}}, "beta must be above 0"),
        ({"loss": "limo.training.preference.dopo"}, "'limo.training.preference.dopo' does not exist"),
        ({"data": str(tmp_path / "none.jsonl")}, "no such file"),
        ({"max_length": 3}, "no row of .* can be trained on"),
        ({"global_batch": 6}, "cannot be divided"),
        ({"args": {**ARGS, "router_aux_loss_coef": 0.1}}, "preference losses have no such term"),
    ):
        with pytest.raises(UserError, match=said):
            prefer(**settings(tiny, tmp_path, **changed))  # type: ignore[arg-type]


def written(folder: Path, rows: list[Any]) -> str:
    (folder / "given.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return str(folder / "given.jsonl")


def test_pairs_in_trl_s_formats_and_rows_that_are_none(tmp_path: Path) -> None:
    user, good, bad = ({"role": r, "content": c} for r, c in (("user", "2+2?"), ("assistant", "4"), ("assistant", "5")))
    path = written(
        tmp_path,
        [
            {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
            {"prompt": [user], "chosen": [good], "rejected": [bad]},
            {"chosen": [user, good], "rejected": [user, bad]},
            {"prompt": "as in UltraFeedback: text", "chosen": [user, good], "rejected": [user, bad]},
            {"prompt": "2+2?", "chosen": "4", "rejected": "4 "},
            {"prompt": "2+2?", "chosen": "", "rejected": "5"},
            {"prompt": "2+2?", "chosen": "4"},
            {"chosen": [user, good], "rejected": [bad]},
            {"prompt": [user], "chosen": [user], "rejected": [user]},
            [1],
        ],
    )
    found = list(read_pairs(path))
    assert [row.prompt for row in found[:4]] == [chat("2+2?")] * 4  # type: ignore[union-attr]
    assert [(row.completion, row.rejected) for row in found[:4]] == [("4", "5")] * 4  # type: ignore[union-attr]
    dropped = [row for row in found if isinstance(row, Dropped)]
    assert [(d.row, d.reason) for d in dropped] == [
        (5, "both sides are the same"),
        (6, "one side is empty"),
        (7, "not a pair"),
        (8, "not a pair"),
        (9, "not a pair"),
        (10, "not a pair"),
    ]
    assert all(d.file == path for d in dropped)
    with pytest.raises(UserError, match="has no pair"):
        list(read_pairs(written(tmp_path, [{"prompt": "x"}])))


def test_pairs_are_whole_and_their_lengths_are_told(tiny: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    rows = [Example(str(i), chat("Hi"), "", "yes " * (2 * i + 3), "no").to_json() for i in range(6)]
    rows = list(read_pairs(written(tmp_path, rows), "Be brief."))
    pairs = prepare(tokenizer, rows, 10_000, pairs=True)
    assert pairs.rows[0].prompt[0] == {"role": "system", "content": "Be brief."}
    columns, (chosen, rejected) = training.pair_columns(pairs)[0], pairs.sides[0]
    assert columns["prompt_ids"] + columns["chosen_ids"] == chosen.input_ids
    assert columns["prompt_ids"] + columns["rejected_ids"] == rejected.input_ids
    assert "longer one in 100%: preferring the longer one is a large part" in training.describe_pairs(pairs)
    short = prepare(tokenizer, rows, max(len(r.input_ids) for r in pairs.rendered) - 3, pairs=True)
    assert short.dropped and {d.reason for d in short.dropped} == {"too long"}
