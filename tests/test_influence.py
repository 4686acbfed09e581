"""Scores that look at a target: by their definitions on the tiny model, and what they refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curation.stages import influence, likelihood
from curation.stages.influence import WarmUp, _Sketch, add_less, add_loss_drop
from limo.chat import render
from limo.data import Example, chat
from limo.errors import UserError
from limo.model import load_both, load_model
from tests.conftest import split

WARM: dict[str, Any] = {"warm_up": WarmUp(steps=30, learning_rate=3e-3, batch=4), "max_length": 256}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("target") / "target.jsonl"
    rows = [
        {"problem": f"What is {n} + 1?", "answer": n + 1, "chain": f"{n} + 1 = {n + 1}\nSo {n + 1}."} for n in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"_target_": "limo.sources.file", "path": str(path)}


@pytest.fixture(autouse=True)
def _own_cache(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (influence, likelihood):
        monkeypatch.setattr(module, "cache_folder", lambda: tiny / "influence")


def pool() -> list[Example]:
    like = [(f"What is {n} + 1?", f"{n} + 1 = {n + 1}\nSo {n + 1}.") for n in range(20, 26)]
    other = [(f"Tell me a story about {n} dogs.", f"Once upon a time there were {n} dogs in a town.") for n in range(6)]
    chains = [*like, *other, ("Nothing?", " ")]
    return [Example(f"r{at}", chat(q), "1", text) for at, (q, text) in enumerate(chains)]


def test_a_warm_up_lowers_the_loss_of_chains_like_the_targets_most(tiny: Path, target: dict[str, Any]) -> None:
    kept, dropped = split(add_loss_drop(pool(), model=str(tiny), target=target, dtype="float32", batch_size=4, **WARM))
    assert [d.reason for d in dropped] == ["no chain"]
    drops = [row.scores["loss_drop"] for row in kept]
    assert min(drops[:6]) > max(drops[6:]), drops
    warmed, tokenizer = load_both(next((tiny / "influence" / "warm").iterdir()) / "model", "float32")
    for row in kept[::4]:  # by the definition, from the two models
        before, after = (_nll(model, tokenizer, row) for model in (load_model(tiny, "float32"), warmed))
        assert row.scores["nll"] == pytest.approx(before, rel=1e-3)
        assert row.scores["loss_drop"] == pytest.approx((before - after) / before, abs=2e-3)


def _nll(model: Any, tokenizer: Any, row: Example) -> float:
    ids, labels = (torch.tensor([x[:-1]]) for x in render(tokenizer, row)[:2])  # without the end of the turn
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss)


def test_a_gradient_like_the_targets_scores_high(tiny: Path, target: dict[str, Any]) -> None:
    kept, dropped = split(add_less(pool(), model=str(tiny), target=target, **WARM))
    assert [d.reason for d in dropped] == ["no chain"]
    found = [row.scores["less"] for row in kept]
    assert min(found[:6]) > max(found[6:]) and max(found) <= 1, found
    assert split(add_less(pool(), model=str(tiny), target=target, **WARM))[0] == kept, "kept scores are the same"


def test_a_sketch_keeps_cosines(tiny: Path, target: dict[str, Any]) -> None:
    """The cosine of two sketches is that of the whole gradients, up to about 1 / sqrt(dimensions)."""
    place, _ = influence._warm_up(str(tiny), target, WARM["warm_up"], WARM["max_length"])
    fine, coarse = (_Sketch(str(tiny), place / "adapter", size) for size in (10**6, 4096))
    rendered = [render(fine.tokenizer, row) for row in pool()[:9]]
    whole, small = (np.stack([sketch.of(r) for r in rendered]) for sketch in (fine, coarse))
    assert np.allclose(np.linalg.norm(small, axis=1), 1, atol=1e-5)
    assert np.abs(whole @ whole.T - small @ small.T).max() < 5 / np.sqrt(4096)


def test_a_target_without_a_chain_is_one_line(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.jsonl"
    path.write_text('{"problem": "What is 1 + 1?", "answer": "2"}\n')
    node = {"_target_": "limo.sources.file", "path": str(path)}
    with pytest.raises(UserError, match="target: none of its problems has a chain, which a warm-up needs"):
        next(add_less(pool(), model=str(tiny), target=node, **WARM))
