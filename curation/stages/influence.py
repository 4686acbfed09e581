"""The influence of a chain on a target: scores from a short training on the target's chains.

| score | definition | source | better |
|---|---|---|---|
| loss_drop | (nll before - nll after) / nll before, of the chain, before and after the warm-up | 2605.09404 | higher |
| less | mean cosine of the chain's gradient and those of the target's chains, after the warm-up | 2402.04333 | higher |

Both first train the student on the target (the warm-up): problems with a chain each, similar to those to be solved, and
not in the pool. The warm-up is a LoRA training by `limo.train.sft`, kept in the cache. Gradients are those of the
adapter's weights. LESS divides them by Adam's second moments and averages over checkpoints; here they are plain
gradients of one checkpoint, and the projection is a count sketch (Charikar et al. 2002): each weight is added with a
random sign to one of `dimensions` sums, which keeps inner products in expectation at the cost of one addition per
weight.

Costs in addition to the warm-up: `loss_drop` takes two forward passes over the pool; `less` takes a forward and a
backward pass through the whole model, which is about two thirds of an epoch of full training.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveInt

from curation.stage import drop, stage
from curation.stages.choose import read_target
from curation.stages.likelihood import add_fit
from curation.stages.measure import Kept
from limo.chat import render
from limo.console import progress, say
from limo.data import Example, Row, content_id, write_jsonl
from limo.errors import UserError
from limo.machine import cache_folder, main_device
from limo.model import fingerprint, load_model, load_tokenizer, model_folder
from limo.processes import run_section_apart
from limo.recipe import InputPath

DIMENSIONS = 8192  # of a projected gradient (2402.04333, section 4.1)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The short training on the target."""

    steps: PositiveInt
    learning_rate: float
    batch: PositiveInt = 8
    rank: PositiveInt = 8  # of the adapter
    seed: int = 0


def _warm_up(model: str, target: Mapping[str, Any], settings: WarmUp, max_length: int) -> tuple[Path, list[Example]]:
    """Train the student on the target. Returns the folder, with `model` and `adapter`, and the target's rows. Raises
    UserError if no target problem has a chain.
    """
    rows = [row for row in read_target(target, "target") if row.completion.strip()]
    if not rows:
        raise UserError("target: none of its problems has a chain, which a warm-up needs")
    made_from = content_id(
        [fingerprint(model_folder(model)), [row.to_json() for row in rows], asdict(settings), max_length]
    )
    place = cache_folder() / "warm" / made_from
    if not (place / "adapter" / "adapter_config.json").is_file():
        place.mkdir(parents=True, exist_ok=True)
        write_jsonl(place / "rows.jsonl", rows)
        say(f"warm-up: {settings.steps} steps on {len(rows)} chains of the target, into {place}")
        args = {"max_steps": settings.steps, "learning_rate": settings.learning_rate, "save_strategy": "no"}
        run_section_apart(
            "limo.train",
            "train",
            {
                "_target_": "limo.train.sft",
                "out": str(place),
                "model": model,
                "data": str(place / "rows.jsonl"),
                "system": None,
                "max_length": max_length,
                "global_batch": min(settings.batch, len(rows)),
                "pack_tokens": max_length,
                "dtype": "bfloat16",
                "seed": settings.seed,
                "lora": {"r": settings.rank, "lora_alpha": 2 * settings.rank, "lora_dropout": 0.0},
                "args": {**args, "bf16": True, "report_to": "none"},
            },
            place,
        )
    return place, rows


@stage("pool", writes=("nll", "loss_drop"), samples=True, better={"loss_drop": "higher"})
def add_loss_drop(
    rows: Iterable[Example],
    /,
    *,
    model: InputPath,
    target: dict[str, Any],
    warm_up: WarmUp,
    dtype: str,
    batch_size: PositiveInt,
    max_length: PositiveInt,
) -> Iterator[Row]:
    """Add `loss_drop` (see the module's table), and `nll`, of each chain.

    Args: `target` is a pool source of problems with chains, `warm_up` the training on them; the others as in
    `likelihood.add_fit`, and chains are dropped as there. Holds the rows in memory. Raises UserError as `add_fit` does,
    and for a target without chains.
    """
    place, _ = _warm_up(model, target, warm_up, max_length)
    limits: dict[str, Any] = {"dtype": dtype, "batch_size": batch_size, "max_length": max_length, "scores": ["nll"]}
    before = list(add_fit(rows, model=model, **limits))
    scored = {row.id: row for row in before if isinstance(row, Example)}
    yield from (row for row in before if not isinstance(row, Example))
    for after in add_fit(list(scored.values()), model=str(place / "model"), **limits):
        if not isinstance(after, Example):
            yield after
            continue
        row = scored[after.id]
        gain = (row.scores["nll"] - after.scores["nll"]) / row.scores["nll"] if row.scores["nll"] else 0.0
        yield replace(row, scores={**row.scores, "loss_drop": round(gain, 6)})


@stage("pool", writes=("less",), samples=True, better={"less": "higher"})
def add_less(
    rows: Iterable[Example],
    /,
    *,
    model: InputPath,
    target: dict[str, Any],
    warm_up: WarmUp,
    max_length: PositiveInt,
    dimensions: PositiveInt = DIMENSIONS,
) -> Iterator[Row]:
    """Add `less` (see the module's table) of each chain; arguments as in `add_loss_drop`.

    `dimensions` of a projected gradient: the cosine's error is about 1 / sqrt(dimensions). A chain that is empty,
    longer than `max_length` or without a finite gradient is dropped. Each finished score is kept in the cache.
    """
    place, wanted = _warm_up(model, target, warm_up, max_length)
    kept = Kept(cache_folder() / "fit" / f"{content_id([place.name, 'less', dimensions], 16)}.jsonl")
    sketch, mean = _Sketch(model, place / "adapter", dimensions), None
    with progress("less", len(rows) if isinstance(rows, Sized) else None, "chain") as advance:
        for row in rows:
            advance(1)
            rendered = render(sketch.tokenizer, row) if row.completion.strip() else None
            if rendered is None or len(rendered.input_ids) > max_length:
                detail = f"{len(rendered.input_ids)} tokens; the limit is max_length={max_length}" if rendered else ""
                yield drop(row, "too long to score" if rendered else "no chain", detail)
                continue
            key = content_id(list(rendered), 16)
            if key not in kept.scores:
                mean = mean if mean is not None else sketch.mean_of(wanted, max_length)
                kept.add({key: {"less": round(float(sketch.of(rendered) @ mean), 6)}})
            if np.isfinite(value := kept.scores[key]["less"]):
                yield replace(row, scores={**row.scores, "less": value})
            else:
                yield drop(row, "cannot be scored", "its gradient is zero or not finite")


class _Sketch:
    """Computes projected gradients of an adapter's weights as unit vectors. The model is loaded when the first one is
    computed.
    """

    def __init__(self, model: str, adapter: Path, dimensions: int) -> None:
        self.model, self.adapter, self.dimensions = model, adapter, dimensions
        self.tokenizer = load_tokenizer(model_folder(model))
        self._project: Callable[[Any], np.ndarray] | None = None

    def _load(self) -> Callable[[Any], np.ndarray]:
        import torch
        from peft import PeftModel

        device = torch.device(main_device())
        base = load_model(model_folder(self.model), "bfloat16" if device.type == "cuda" else "float32")
        model = PeftModel.from_pretrained(base, str(self.adapter), is_trainable=True).eval().to(device)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        size, random = sum(weight.numel() for weight in weights), torch.Generator().manual_seed(0)
        place = torch.randint(self.dimensions, (size,), generator=random).to(device)
        sign = (2.0 * torch.randint(2, (size,), generator=random) - 1).to(device)

        def project(rendered: Any) -> np.ndarray:
            ids, labels = (torch.tensor([x], device=device) for x in (rendered.input_ids, rendered.labels))
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            gradients = torch.autograd.grad(loss, weights)
            flat = torch.cat([g.reshape(-1).float() for g in gradients])
            found = torch.zeros(self.dimensions, device=device).index_add_(0, place, flat * sign)
            return np.asarray((found / found.norm()).cpu())

        return project

    def of(self, rendered: Any) -> np.ndarray:
        """The direction of the gradient of a row's mean token loss, of shape (dimensions,) and length 1."""
        self._project = self._project or self._load()
        return self._project(rendered)

    def mean_of(self, rows: Sequence[Example], max_length: int) -> np.ndarray:
        """The mean direction of rows; its product with another direction is the mean of the cosines."""
        fitting = [r for row in rows if len((r := render(self.tokenizer, row)).input_ids) <= max_length]
        if not fitting:
            raise UserError(f"target: none of its chains fits into max_length={max_length}")
        return np.asarray(np.mean([self.of(r) for r in fitting], axis=0))
