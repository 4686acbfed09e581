"""What a training would take, before anything runs: memory, steps, hours and dollars.

    python -m limo.plan recipe=limo
    python -m limo.plan recipe=limo train_plan.rows=800 train_plan.mean_tokens=6000 'train_plan.devices=[8,16]'
    python -m limo.plan recipe=limo 'train.lora={r: 16}' +train_plan.gpus.L40S=0.9

No weights are read: the model is built from its config without memory, so its numbers are counted and not guessed.
What a GPU holds is counted for each way of sharing it out: weights, gradients and optimizer states as torch and
DeepSpeed keep them, activations by what autograd saves of each layer. Hours follow from the arithmetic to be done, the
GPU's peak and the share of it that is reached (`utilisation`). The formulas are in `limo/gpus.py`.

Left out: what the network costs beyond that share, the time that an optimizer on the CPU takes, fragments that the
allocator leaves, and models split across devices by layer or by matrix. "Fits" leaves a tenth of the memory free.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from limo.command import command
from limo.errors import UserError
from limo.gpus import (
    NODE,
    SHARDINGS,
    Activations,
    activations,
    element,
    gpu,
    is_plain,
    model_states,
    seconds_per_step,
)
from limo.plan_table import show
from limo.sizes import Size, parameters
from limo.workload import Rows, Training, busy, rows_of, steps, tokens_per_step

ROOM = 0.9  # share of a GPU's memory that may be planned for
STATES = {
    "lion_8bit": 1.0,
    "8bit": 2.0,
    "4bit": 1.0,
    "lion": 4.0,
    "rmsprop": 4.0,
    "adagrad": 4.0,
    "sgd": 0.0,
    "adafactor": 0.0,
}  # bytes for a number


def plan(
    *,
    train: dict[str, Any],
    rows: int | None,
    mean_tokens: float | None,
    devices: list[int],
    gpus: dict[str, float],
    utilisation: float,
) -> dict[str, Any]:
    """Print what the section `train` would take on each of the GPUs; return it as plain JSON: see `estimated`."""
    found = estimated(
        train=train, rows=rows, mean_tokens=mean_tokens, devices=devices, gpus=gpus, utilisation=utilisation
    )
    training = Training.read(train)
    show(training.model, training.dtype, found, gpus)
    return found


def estimated(
    *,
    train: dict[str, Any],
    rows: int | None,
    mean_tokens: float | None,
    devices: list[int],
    gpus: dict[str, float],
    utilisation: float,
) -> dict[str, Any]:
    """What the section `train` would take on each of the GPUs, as plain JSON (bytes, hours, dollars).

    Args: `rows` of the set and `mean_tokens` of a row, prompt and completion together, null reads them from
    `train.data`; `devices` numbers of GPUs to plan for; `gpus` dollars an hour by the names of `limo.gpus`;
    `utilisation` share of the peak that training reaches. Raises UserError for a model, a GPU or a setting that there
    is not, and for data that is not there yet.
    """
    _check(rows, mean_tokens, devices, gpus, utilisation)
    training = Training.read(train)
    size = parameters(training.model, training.lora, training.trust_remote_code)
    data = rows_of(training, rows, mean_tokens)
    count = steps(
        rows=data.count, global_batch=training.global_batch, epochs=training.epochs, max_steps=training.max_steps
    )
    found: dict[str, Any] = {
        "model": {"name": training.model, **asdict(size)},
        "data": {
            **{key: value for key, value in asdict(data).items() if key != "lengths"},
            "steps": count,
            "tokens_per_step": tokens_per_step(training, data),
        },
        "disk": _disk(training, size, count),
        "impossible": _impossible(training, devices),
    }
    possible = [n for n in dict.fromkeys(devices) if n not in found["impossible"]["devices"]]
    found["settings"] = [
        _setting(training, size, data, sharding, n, gpus) for n in possible for sharding in _shardings(training, n)
    ]
    found["costs"] = list(_costs(training, size, data, count, found["settings"], gpus, utilisation))
    found["recommendation"] = _recommended(training, found["costs"])
    return found


def _check(
    rows: int | None, mean_tokens: float | None, devices: Sequence[int], gpus: Mapping[str, float], utilisation: float
) -> None:
    for name in gpus:
        gpu(name)
    if not gpus or not devices:
        raise UserError("train_plan.gpus and train_plan.devices must name at least one each")
    if bad := [n for n in devices if not isinstance(n, int) or n < 1]:
        raise UserError(f"train_plan.devices must be numbers from 1, not {bad[0]!r}")
    if not 0 < utilisation <= 1:
        raise UserError(f"train_plan.utilisation must be above 0 and at most 1, not {utilisation}")
    for key, value in (("rows", rows), ("mean_tokens", mean_tokens)):
        if value is not None and value < 1:
            raise UserError(f"train_plan.{key} must be at least 1, not {value}")


def _disk(training: Training, size: Size, steps: int) -> dict[str, Any]:
    """Bytes of one checkpoint, and how many stand at most: one more than are kept, since the new one comes first."""
    frozen = size.parameters - size.trainable
    weights = 4 * size.trainable if frozen else size.parameters * (2 if training.bf16 else element(training.dtype))
    states = next((b for name, b in STATES.items() if name in training.optim), 8.0)
    master = 0 if frozen else 4  # adapters are in float32 themselves
    made = {"no": 0, "epoch": math.ceil(training.epochs), "steps": math.ceil(steps / training.save_steps), "best": 2}
    count = made.get(training.save_strategy, 0)
    if training.save_total_limit:
        count = min(count, training.save_total_limit + 1)
    return {"checkpoint": weights + size.trainable * (master + states), "checkpoints": count}


def _impossible(training: Training, devices: Sequence[int]) -> dict[str, Any]:
    """Numbers of devices that do not divide the global batch, and those that do; packs any number divides."""
    batch, rows = training.global_batch, training.rows
    found = [] if training.packing else [n for n in devices if batch % (n * rows)]
    whole = [n for n in range(1, batch + 1) if batch % (n * rows) == 0]
    fit = f"{', '.join(map(str, whole))} GPUs do" if whole else "no number of GPUs does"
    why = f"train.global_batch={batch} cannot be shared out with {rows} chains on each GPU at a time: {fit}"
    return {"devices": found, "why": why if found else ""}


def _shardings(training: Training, devices: int) -> list[str]:
    """Those that mean something: one device shares out nothing, and weights in four bits cannot be shared out."""
    found = [s for s in SHARDINGS if devices > 1 or s == "ddp" or s.endswith("_offload")]
    return [s for s in found if not training.quantize or s in ("ddp", "zero1", "zero2")]


def _setting(
    training: Training, size: Size, data: Rows, sharding: str, devices: int, gpus: Mapping[str, float]
) -> dict[str, Any]:
    """One way of sharing out, on so many devices: bytes on each, and on which GPUs that fits."""
    dtype = _dtype(training, size, sharding, devices)
    held = model_states(
        parameters=size.parameters,
        trainable=size.trainable,
        sharding=sharding,
        devices=devices,
        dtype=dtype,
        bf16=training.bf16,
        largest_layer=max(size.layer, size.head),
        small=size.small,
        bucket=size.hidden**2,
        quantized=size.linear if training.quantize else 0,
        states=next((b for name, b in STATES.items() if name in training.optim), 8.0),
        accumulation=training.forwards(data, devices),
        checkpointing=training.checkpointing,
    )
    kept = _activations(training, size, data, dtype, is_plain(sharding, devices))
    total = held.total(kept)
    stays = held.weights + held.gradients + held.optimizer
    return {
        "sharding": sharding,
        "devices": devices,
        "dtype": dtype,
        "weights": held.weights,
        "gradients": held.gradients,
        "optimizer": held.optimizer,
        "activations": kept.kept + kept.peak,
        "buffers": total - stays - kept.kept - kept.peak,
        "total": total,
        "host": held.host * min(devices, NODE),  # of one machine
        "fits": {name: total <= ROOM * gpu(name).memory for name in gpus},
    }


def _dtype(training: Training, size: Size, sharding: str, devices: int) -> str:
    """The recipe's, but float32 where whole weights would be trained in bfloat16, which loses small updates.

    DeepSpeed and FSDP2 keep float32 weights beside those in bfloat16; plain training has only those that are loaded.
    """
    whole = size.trainable == size.parameters and training.bf16
    return "float32" if whole and is_plain(sharding, devices) else training.dtype


def _activations(training: Training, size: Size, data: Rows, dtype: str, plain: bool) -> Activations:
    low = 2 if training.bf16 else element(dtype)
    length = training.packing or data.longest
    masked = training.attention in ("sdpa", "flex_attention", "eager") if training.packing else training.rows > 1
    return activations(
        size=size,
        tokens=training.packing or training.rows * data.longest,
        residual=element(dtype) if plain else low,
        compute=low,
        checkpointing=training.checkpointing,
        scores=length if training.attention == "eager" else 0,
        mask=length if masked else 0,
    )


def _costs(
    training: Training,
    size: Size,
    data: Rows,
    count: int,
    settings: Sequence[Mapping[str, Any]],
    gpus: Mapping[str, float],
    utilisation: float,
) -> Iterator[dict[str, Any]]:
    """Hours and dollars of each GPU and number of them, with the first way of sharing out that fits."""
    for name, price in gpus.items():
        for devices in dict.fromkeys(s["devices"] for s in settings):
            fit = next((s for s in settings if s["devices"] == devices and s["fits"][name]), None)
            if fit is None:
                continue
            filled = busy(training, data.lengths, devices)
            seconds = seconds_per_step(
                size=size,
                tokens=tokens_per_step(training, data),
                length=data.attended,
                devices=devices,
                peak=gpu(name).peak,
                utilisation=utilisation * filled,
                checkpointing=training.checkpointing,
            )
            hours = seconds * count / 3600
            yield {
                "gpu": name,
                "devices": devices,
                "sharding": fit["sharding"],
                "dtype": fit["dtype"],
                "busy": filled,
                "seconds_per_step": seconds,
                "hours": hours,
                "dollars": hours * devices * price,
            }


def _recommended(training: Training, costs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Without offload before with it, then the fewest GPUs, then the fewest dollars; None where nothing fits."""
    chosen = min(costs, key=lambda c: (c["sharding"].endswith("_offload"), c["devices"], c["dollars"]), default=None)
    if chosen is None:
        return None
    count = chosen["devices"]
    nodes = next(n for n in range(math.ceil(count / NODE), count + 1) if count % n == 0)
    taken = f"train.sharding={chosen['sharding']} train.devices={chosen['devices'] // nodes}"
    return {**chosen, "nodes": nodes, "settings": taken}


if __name__ == "__main__":
    command("train_plan", "limo.plan", "Memory, steps, hours and dollars of a training, before anything runs.")
