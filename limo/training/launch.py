"""Starts one rank per device, connects the ranks, and sets up sharding.

`python -m limo.train` on a machine with several GPUs runs torchrun on itself with the same arguments. Under `torchrun`,
`accelerate launch` or anything else that sets RANK and WORLD_SIZE it joins those ranks. CPUs have one rank unless
`devices` asks for more; CPU ranks communicate through gloo.

On several machines start it under torchrun, or set torchrun's own variables on each: PET_NNODES, PET_NODE_RANK,
PET_MASTER_ADDR, PET_MASTER_PORT (docs/scale.md has a Slurm script).

Sharding of weights, gradients and optimizer states: DDP, DeepSpeed ZeRO 1 to 3 by the files in `recipes/deepspeed/` or
your file, or FSDP2. Libraries silently fall back to less sharding than was requested, so the actual sharding is
checked.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from limo.console import say
from limo.data import read_text
from limo.errors import UserError
from limo.machine import count_cores, is_main, quiet_deepspeed, world_size
from limo.recipe import RECIPES
from limo.training.settings import Devices

SAVING = 600  # seconds that ranks have after SIGTERM to write a checkpoint
PATIENCE = timedelta(minutes=90)  # ranks wait for each other: rank 0 may download a large model, or save one, alone


def start_ranks(devices: Devices, offloads: bool, module: str, arguments: Sequence[str]) -> int | None:
    """Start `module` as one rank per device, wait for the ranks, and return their exit code. Returns None if this
    process needs no other ranks.

    With `offloads` a rank is started for a single device too, since DeepSpeed needs a process group.
    """
    if "RANK" in os.environ:
        return None
    import torch

    visible = torch.cuda.device_count()
    if devices != "all" and 0 < visible < devices:
        raise UserError(f"train.devices={devices}, but {visible} GPUs are visible")
    count = max(visible, 1) if devices == "all" else devices
    several_machines = int(os.environ.get("PET_NNODES") or 1) > 1
    if count == 1 and not several_machines and not offloads:
        return None
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if os.environ.get("OMP_NUM_THREADS") == str(count_cores()):  # more threads than cores are ten times slower
        os.environ["OMP_NUM_THREADS"] = str(max(1, count_cores() // count))
    where = [] if several_machines else ["--standalone"]
    options = [*where, "--nproc-per-node", str(count), "--shutdown-timeout", str(SAVING), "-m", module, *arguments]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # ranks print their own errors
    try:
        run.run(run.parse_args(options))  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        number, failure = failed.get_first_failure()
        if failure.exitcode >= 0:
            return int(failure.exitcode)
        raise UserError(
            f"rank {number} was killed by {failure.signal_name()}: by SIGKILL usually because memory ran out. Finished "
            "checkpoints are kept: run the same command again to resume"
        ) from None
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def drop_accelerate_plans() -> None:
    """Remove accelerate's settings of sharding, precision and accumulation from the environment."""
    found = [key for key in os.environ if key.startswith(("ACCELERATE_", "FSDP_"))]
    for key in found:
        del os.environ[key]
    if found:
        say("accelerate starts the ranks; sharding, precision and accumulation are the recipe's")


@contextmanager
def process_group() -> Iterator[None]:
    """Keep the process group during the block, until all ranks have finished. Does nothing in a single process."""
    if "RANK" not in os.environ:
        yield
        return
    import torch
    import torch.distributed as dist

    quiet_deepspeed()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    else:
        import deepspeed

        # Its shared-memory operation would be compiled on first use; gloo works without it
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    created = not dist.is_initialized()
    if created:  # gloo beside NCCL, since FSDP2 gathers the model on CPUs
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    yield
    if created:
        dist.barrier()  # without it a rank that leaves early can abort one that is still closing
        dist.destroy_process_group()


def run_on_main(work: Callable[[], Any]) -> Any:
    """Run `work` on rank 0 alone and return its result, or raise its UserError, on every rank."""
    if world_size() == 1:
        return work()
    import torch.distributed as dist

    box: list[Any] = [None]
    if is_main():
        try:
            box = [work()]
        except UserError as error:
            box = [error]
    dist.broadcast_object_list(box, src=0)
    if isinstance(box[0], UserError):
        box[0].silent = not is_main()
        raise box[0]
    return box[0]


def any_rank(here: bool) -> bool:
    """Whether `here` is true on any rank. All ranks must call it at the same point."""
    if world_size() == 1:
        return here
    import torch
    import torch.distributed as dist

    flag = torch.tensor([int(here)])
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def wait() -> None:
    """Wait until every rank has reached this call."""
    any_rank(False)


FSDP = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}


def shard_arguments(sharding: str) -> dict[str, Any]:
    """The arguments of TRL's configuration for a recipe's `sharding`. On one device, only offloading has an effect."""
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
    """Read a DeepSpeed configuration, by name or path. Raises UserError if it is not JSON, or would save no model."""
    shipped = {path.stem: path for path in sorted((RECIPES / "deepspeed").glob("*.json"))}
    path = shipped.get(sharding) or Path(sharding).expanduser()
    if not path.is_file():
        raise UserError(f"train.sharding={sharding} is not a file and not one of ddp, fsdp2, {', '.join(shipped)}")
    try:
        config = dict(json.loads(read_text(path, "train.sharding")))
    except UserError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    zero = config.get("zero_optimization", {})
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise UserError(
            f"{path}: set zero_optimization.stage3_gather_16bit_weights_on_model_save to true, or no model is saved"
        )
    return config


def offloads(sharding: str) -> bool:
    """Whether this sharding offloads to CPU memory, which has an effect on a single device too."""
    zero = {} if sharding in ("ddp", "fsdp2") else read_deepspeed(sharding).get("zero_optimization", {})
    return any(zero.get(f"offload_{part}", {}).get("device", "none") != "none" for part in ("optimizer", "param"))


def name_sharding(config: Any) -> str:
    """The sharding of the optimizer states with this configuration of TRL: ddp, fsdp2, or zero0 to zero3."""
    if config.deepspeed:
        return f"zero{config.deepspeed.get('zero_optimization', {}).get('stage', 0)}"
    return "fsdp2" if config.fsdp else "ddp"


def check_sharding(trainer: Any, asked: Mapping[str, Any]) -> None:
    """Before the first step: raise UserError if less is sharded than requested. `asked` is the result of
    `shard_arguments`.
    """
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
            raise UserError(
                f"{wanted} is not in effect: this rank holds {share:.0%} of the optimizer states, and about "
                f"{1 / world_size():.0%} is expected. Start with python -m limo.train or torchrun"
            )


def count_bytes(trainer: Any) -> dict[str, int]:
    """Count the bytes of weights and optimizer states on this rank and over all ranks. The trainer must be prepared."""
    import torch

    def count(tensor: Any, each: int | None = None) -> int:
        here = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return int(here.data.numel() * (each or here.element_size()))

    parameters, optimizer = list(trainer.model.parameters()), trainer.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    states = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v) and v.numel() > 1]
    # Before the first step there are no states: Adam will have two in float32
    own = sum(map(count, states)) or sum(count(p, 8) for group in optimizer.param_groups for p in group["params"])
    whole = [(getattr(p, "ds_numel", p.numel()), p) for p in parameters]
    return {
        "weights": sum(map(count, parameters)),
        "weights_whole": sum(size * p.element_size() for size, p in whole),
        "optimizer": own,
        "optimizer_whole": 8 * sum(size for size, p in whole if p.requires_grad),
    }
