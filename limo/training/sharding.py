"""How weights, gradients and optimizer states are sharded over devices: DDP, DeepSpeed ZeRO 1 to 3, FSDP2.

The DeepSpeed files are in `recipes/deepspeed/`; the trainer fills in what is `auto` there. A path to your own file
works as well. Libraries silently fall back to less sharding than was asked for, so what really runs is compared with
it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limo.errors import UserError
from limo.machine import world_size
from limo.recipe import RECIPES

FSDP = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}


def shard_arguments(sharding: str) -> dict[str, Any]:
    """The arguments of TRL's configuration that a recipe's `sharding` stands for.

    On one device nothing can be sharded, so only offload has a meaning there. Raises UserError for an unknown name, an
    unreadable file, or FSDP without GPUs.
    """
    import torch

    if sharding == "ddp":
        return {}
    if sharding == "fsdp2":
        if not torch.cuda.is_available():
            raise UserError("train.sharding=fsdp2 needs GPUs: on CPUs the library would shard nothing. Use zero3")
        return {"fsdp": True, "fsdp_config": dict(FSDP)} if world_size() > 1 else {}
    config = read_deepspeed(sharding)
    if world_size() == 1 and not offloads(sharding):
        return {}
    if torch.cuda.is_available():
        return {"deepspeed": config}
    import deepspeed

    deepspeed.init_distributed("gloo")  # otherwise ZeRO-3 sees one rank when it loads the weights on CPUs
    zero = {**config["zero_optimization"], "overlap_comm": False}  # nothing overlaps or is pinned without a GPU
    zero = {k: {**v, "pin_memory": False} if k.startswith("offload_") else v for k, v in zero.items()}
    if zero.get("stage3_param_persistence_threshold") == "auto":
        zero["stage3_param_persistence_threshold"] = 0  # shards the small weights of a test model too
    return {"deepspeed": {**config, "zero_optimization": zero}}


def read_deepspeed(sharding: str) -> dict[str, Any]:
    """A DeepSpeed configuration, by name or path.

    Raises UserError if there is none, if it is not JSON, or if no model would be saved with it.
    """
    shipped = {path.stem: path for path in sorted((RECIPES / "deepspeed").glob("*.json"))}
    path = shipped.get(sharding) or Path(sharding).expanduser()
    if not path.is_file():
        raise UserError(f"train.sharding={sharding} is not a file and not one of ddp, fsdp2, {', '.join(shipped)}")
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    zero = config.get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise UserError(
            f"{path}: set zero_optimization.stage3_gather_16bit_weights_on_model_save to true, or no model is saved"
        )
    return config


def offloads(sharding: str) -> bool:
    """Whether this sharding keeps a part in CPU memory, and so has a meaning on one device."""
    zero = {} if sharding in ("ddp", "fsdp2") else read_deepspeed(sharding).get("zero_optimization", {})
    return any(zero.get(f"offload_{part}", {}).get("device", "none") != "none" for part in ("optimizer", "param"))


def name_sharding(config: Any) -> str:
    """How a training with TRL's configuration writes its optimizer states: ddp, fsdp2, or zero0 to zero3."""
    if config.deepspeed:
        return f"zero{config.deepspeed.get('zero_optimization', {}).get('stage', 0)}"
    return "fsdp2" if config.fsdp else "ddp"


def check_sharding(trainer: Any, asked: Mapping[str, Any]) -> None:
    """Raise UserError if less is sharded than `asked`, the result of `shard_arguments`. Before the first step."""
    kind, ranks = str(trainer.accelerator.distributed_type.value), trainer.accelerator.num_processes
    wanted = "DEEPSPEED" if "deepspeed" in asked else "FSDP" if "fsdp" in asked else kind
    if kind != wanted or ranks != world_size():
        raise UserError(
            f"asked for {wanted} over {world_size()} ranks, but the trainer runs {kind} over {ranks}: are the GPUs "
            "visible? Start with python -m limo.train or torchrun"
        )
    if "deepspeed" in asked and world_size() > 1:
        held = count_bytes(trainer)
        share = held["optimizer"] / max(held["optimizer_whole"], 1)
        if share > 1.2 / world_size() + 0.05:
            raise UserError(f"ZeRO was asked for, but this rank holds {share:.0%} of the optimizer states")


def count_bytes(trainer: Any) -> dict[str, int]:
    """Bytes of weights and optimizer states on this rank, and of both over all ranks, once the trainer is prepared."""
    import torch

    def count(tensor: Any, each: int | None = None) -> int:
        here = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return int(here.data.numel() * (each or here.element_size()))

    parameters, optimizer = list(trainer.model.parameters()), trainer.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    states = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v) and v.numel() > 1]
    # Before the first step there are none: Adam will have two in float32
    own = sum(map(count, states)) or sum(count(p, 8) for group in optimizer.param_groups for p in group["params"])
    whole = [(getattr(p, "ds_numel", p.numel()), p) for p in parameters]
    return {
        "weights": sum(map(count, parameters)),
        "weights_whole": sum(size * p.element_size() for size, p in whole),
        "optimizer": own,
        "optimizer_whole": 8 * sum(size for size, p in whole if p.requires_grad),
    }
