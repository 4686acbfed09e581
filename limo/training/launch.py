"""One command, any number of devices: how ranks are started, how they find each other, and what they share.

`python -m limo.train` on a machine with several GPUs runs torchrun on itself with the same arguments. Under `torchrun`,
`accelerate launch` or anything else that sets RANK and WORLD_SIZE it joins instead. On CPUs there is one rank unless
`devices` asks for more; they communicate through gloo.

On several machines start it under torchrun, or set torchrun's own variables on each: PET_NNODES, PET_NODE_RANK,
PET_MASTER_ADDR, PET_MASTER_PORT (docs/scale.md has a Slurm script).
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from limo.errors import UserError
from limo.machine import count_cores, is_main, quiet_deepspeed, world_size
from limo.progress import say
from limo.training.settings import Devices

SAVING = 600  # seconds that ranks have after SIGTERM to write a checkpoint
PATIENCE = timedelta(minutes=90)  # ranks wait for each other: rank 0 may download a large model, or save one, alone


def start_ranks(devices: Devices, offloads: bool, module: str, arguments: Sequence[str]) -> int | None:
    """Run `module` in one rank for each device and return their exit code.

    None if there is nothing to start: there is one device, or a launcher has started this process as a rank. `offloads`
    starts a rank for one device too, since DeepSpeed needs a process group. Raises UserError for more devices than are
    visible, and for a rank that was killed.
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
    """Remove from the environment what accelerate's configuration says of sharding, precision and accumulation."""
    found = [key for key in os.environ if key.startswith(("ACCELERATE_", "FSDP_"))]
    for key in found:
        del os.environ[key]
    if found:
        say("accelerate starts the ranks; sharding, precision and accumulation are the recipe's")


@contextmanager
def process_group() -> Iterator[None]:
    """Around the work of a rank: the process group exists until all ranks have finished. Nothing in a process alone."""
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
    """Run `work` on rank 0 alone and return its result on every rank. Its UserError is raised on every rank.

    Only rank 0 prints that error.
    """
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
    """Whether it is true on any rank. All ranks must ask at the same point."""
    if world_size() == 1:
        return here
    import torch
    import torch.distributed as dist

    flag = torch.tensor([int(here)])
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def wait() -> None:
    """Wait until every rank is here."""
    any_rank(False)
