"""How weights, gradients and optimizer states are spread over devices: DDP, DeepSpeed ZeRO 1 to 3, FSDP2.

The DeepSpeed files stand in `recipes/deepspeed/`; what is `auto` there, the trainer fills in. A path to a file of one's
own does as well. Libraries fall back in silence to less than was asked for, so what really runs is compared with it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limo.errors import UserError
from limo.launch import ranks

FSDP = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}


def sharding_files() -> dict[str, Path]:
    """The shipped DeepSpeed files, by name."""
    from limo.recipe import RECIPES

    return {path.stem: path for path in sorted((RECIPES / "deepspeed").glob("*.json"))}


def sharded(sharding: str) -> dict[str, Any]:
    """The arguments of `trl.SFTConfig` that a recipe's `sharding` stands for.

    On one device nothing can be shared out, so only offload has a meaning there. Raises UserError for an unknown name,
    an unreadable file, or FSDP without GPUs.
    """
    import torch

    files = sharding_files()
    if sharding == "ddp":
        return {}
    if sharding == "fsdp2":
        if not torch.cuda.is_available():
            raise UserError("train.sharding=fsdp2 needs GPUs: on CPUs the library would share out nothing. Take zero3")
        return {"fsdp": True, "fsdp_config": dict(FSDP)} if ranks() > 1 else {}
    path = files.get(sharding) or Path(sharding).expanduser()
    if not path.is_file():
        names = ", ".join(["ddp", *files, "fsdp2"])
        raise UserError(f"train.sharding={sharding} is no file and none of {names}")
    config = read_deepspeed(path)
    if ranks() == 1 and not _offloads(config):
        return {}
    if torch.cuda.is_available():
        return {"deepspeed": config}
    import deepspeed

    deepspeed.init_distributed("gloo")  # or, on CPUs, ZeRO-3 would see one rank as it loads the weights
    return {"deepspeed": _for_cpu(config)}


def read_deepspeed(path: Path) -> dict[str, Any]:
    """A DeepSpeed file. Raises UserError if it is no JSON or would lose the model when it is saved."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error})") from None
    zero = config.get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise UserError(
            f"{path}: set zero_optimization.stage3_gather_16bit_weights_on_model_save to true, or no model is saved"
        )
    return dict(config)


def stage(config: Mapping[str, Any] | None) -> int:
    """The ZeRO stage of a DeepSpeed configuration; 0 without one."""
    return int(config.get("zero_optimization", {}).get("stage", 0)) if config else 0


def offloads(sharding: str) -> bool:
    """Whether this sharding keeps a part in CPU memory, and so means something on one device too.

    Raises UserError for a file that cannot be read.
    """
    path = sharding_files().get(sharding) or Path(sharding).expanduser()
    return path.is_file() and _offloads(read_deepspeed(path))


def _offloads(config: Mapping[str, Any]) -> bool:
    zero = config.get("zero_optimization", {})
    return any(zero.get(f"offload_{part}", {}).get("device", "none") != "none" for part in ("optimizer", "param"))


def _for_cpu(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without GPUs nothing overlaps or is pinned, and even the small weights of a trial model are shared out."""
    zero = {**config["zero_optimization"], "overlap_comm": False}
    zero = {k: {**v, "pin_memory": False} if k.startswith("offload_") else v for k, v in zero.items()}
    if zero.get("stage3_param_persistence_threshold") == "auto":
        zero["stage3_param_persistence_threshold"] = 0
    return {**config, "zero_optimization": zero}


def check_sharding(trainer: Any, asked: Mapping[str, Any]) -> None:
    """Raise UserError if less is shared out than `asked`, the arguments that `sharded` gave. Before the first step."""
    kind = str(trainer.accelerator.distributed_type.value)
    wanted = "DEEPSPEED" if "deepspeed" in asked else "FSDP" if "fsdp" in asked else None
    if wanted and kind != wanted:
        raise UserError(f"train.sharding asked for {wanted}, but {kind} would run: are the GPUs visible?")
    if trainer.accelerator.num_processes != ranks():
        raise UserError(
            f"{ranks()} ranks were started, but the trainer sees {trainer.accelerator.num_processes}: "
            "start with python -m limo.train or torchrun"
        )
    if "deepspeed" in asked and ranks() > 1:
        held = held_bytes(trainer)
        share = held["optimizer"] / max(held["optimizer_whole"], 1)
        if share > 1.2 / ranks() + 0.05:
            raise UserError(f"ZeRO was asked for, but this rank holds {share:.0%} of the optimizer's states")


def held_bytes(trainer: Any) -> dict[str, int]:
    """Bytes of weights and optimizer states on this rank, and of both over all ranks, once the trainer is prepared."""
    import torch

    parameters = list(trainer.model.parameters())
    optimizer = trainer.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    groups = [p for group in optimizer.param_groups for p in group["params"]]
    states = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v) and v.numel() > 1]
    trained = sum(getattr(p, "ds_numel", p.numel()) for p in parameters if p.requires_grad)
    # Adam's two states in float32; before the first step they are not there yet, and what they will cover is
    whole = 8 * trained
    own = sum(_local(v) for v in states) if states else 8 * sum(_local(p) // p.element_size() for p in groups)
    return {
        "weights": sum(_local(p) for p in parameters),
        "weights_whole": sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in parameters),
        "optimizer": own,
        "optimizer_whole": whole,
    }


def _local(tensor: Any) -> int:
    """Bytes of what this rank holds of a tensor."""
    here = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    data = getattr(here, "data", here)
    return int(data.numel() * data.element_size())
