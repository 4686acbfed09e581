"""One command, any number of devices: how ranks are started, joined, told things, and ended.

`python -m limo.train` on a machine with several GPUs starts `torch.distributed.run` on itself with the same arguments.
Under `torchrun`, `accelerate launch` or Slurm, whose environment variables say so, it joins in instead. On CPUs there
is one rank unless `devices` asks for more; they talk through gloo.

Several nodes: start it on each under `torchrun`, or set NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT, or run it by
`srun` with one task a node or one a GPU.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from limo.errors import UserError

Devices = int | Literal["all"]
SAVING = 600  # seconds that ranks have, once told to end, to write a checkpoint
LONG = 5400  # seconds that a rank waits for the others: rank 0 may load a large model, or save one, alone
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")


def rank() -> int:
    """The number of this process among all that train together, from 0."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def several(devices: Devices, sharding: str, module: str, arguments: Sequence[str]) -> int | None:
    """Start as many ranks of `module` as there are devices, and return their exit code once they have ended.

    None if there is nothing to start: one device, or a launcher has started this process as a rank already. Raises
    UserError if more devices are asked for than are there.
    """
    _join_slurm()
    if "RANK" in os.environ:
        return None
    count = _devices(devices)
    nodes = int(os.environ.get("NNODES", os.environ.get("SLURM_NNODES", "1") if "SLURM_STEP_ID" in os.environ else "1"))
    if count * nodes == 1 and not sharding.endswith("_offload"):  # offload is DeepSpeed's, which wants a process group
        _one_gpu()
        return None
    return _run(count, nodes, module, arguments)


def _devices(devices: Devices) -> int:
    import torch

    there = torch.cuda.device_count()
    if devices == "all":
        return max(there, 1)
    if isinstance(devices, str) or devices < 1:
        raise UserError(f"train.devices must be a number from 1, or all, not {devices!r}")
    if there and devices > there:
        raise UserError(f"train.devices={devices}, but {there} GPUs are visible here")
    return devices


def _one_gpu() -> None:
    """One device although several are visible: the others must not be seen, or they would join through DataParallel."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0] if visible else "0" if visible is None else visible


def _run(count: int, nodes: int, module: str, arguments: Sequence[str]) -> int:
    import torch
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from limo.recipe import cores

    if not torch.cuda.is_available() and os.environ.get("OMP_NUM_THREADS") == str(cores()):
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // count))  # more threads than cores are ten times slower
    where = ["--standalone"]
    if nodes > 1:
        node = os.environ.get("NODE_RANK", os.environ.get("SLURM_NODEID", "0"))
        host, port = os.environ.get("MASTER_ADDR") or _slurm_host(), os.environ.get("MASTER_PORT") or _slurm_port()
        where = ["--nnodes", str(nodes), "--node-rank", node, "--master-addr", host, "--master-port", port]
    options = [*where, "--nproc-per-node", str(count), "--shutdown-timeout", str(SAVING), "-m", module, *arguments]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # ranks speak for themselves
    try:
        run.run(run.parse_args(options))  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        number, failure = failed.get_first_failure()
        if failure.exitcode < 0:  # killed: it had no time for words of its own
            name = failure.signal_name()
            likely = ": often the kernel, because memory ran out" if name == "SIGKILL" else ""
            raise UserError(
                f"rank {number} was killed by {name}{likely}. The other ranks were ended; finished checkpoints are "
                "kept: run the same command again to go on"
            ) from None
        return int(failure.exitcode)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def _join_slurm() -> None:
    """Under `srun` with a task for each GPU, Slurm's names for rank and world become those that torch reads."""
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    if (
        "RANK" in os.environ
        or "SLURM_STEP_ID" not in os.environ
        or tasks == 1
        or (tasks == nodes and _devices("all") > 1)
    ):
        return
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or _slurm_host(),
        "MASTER_PORT": os.environ.get("MASTER_PORT") or _slurm_port(),
    }


def _slurm_host() -> str:
    """The first host of a list such as `gpu[03-06,9]-ib,login1`."""
    listed = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", listed)
    if not found:
        raise UserError(
            "set MASTER_ADDR to the host name of the first node: neither it nor Slurm's list of nodes is set"
        )
    return "".join(part or "" for part in found.groups())


def _slurm_port() -> str:
    """A port that all tasks of a job agree on and that two jobs on one node seldom share."""
    return str(29500 + int(os.environ.get("SLURM_JOB_ID", "0")) % 10000)


@contextmanager
def joined() -> Iterator[None]:
    """Around the work of a rank: the process group is there, and is taken down when all have finished.

    Nothing happens in a process that trains alone.
    """
    if ranks() == 1 and "RANK" not in os.environ:
        yield
        return
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from limo.model import quiet_deepspeed

    quiet_deepspeed()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        import deepspeed

        # Its shared-memory operation would be compiled on first use; gloo does without
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if dist.is_initialized():  # whoever set it up takes it down
        yield
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=LONG))
    yield
    dist.barrier()  # without it a rank that leaves early can abort one that is still closing
    dist.destroy_process_group()


def tell(value: Any = None) -> Any:
    """What rank 0 gives, on every rank. An error that it gives is raised on the others, which then stay silent."""
    if ranks() == 1:
        return value
    import torch.distributed as dist

    box = [value if first() else None]
    dist.broadcast_object_list(box, src=0)
    if isinstance(box[0], UserError) and not first():
        box[0].told = True
        raise box[0]
    return box[0]


def told(work: Callable[[], Any]) -> Any:
    """Do something on rank 0 alone; every rank has its result, or ends with its UserError."""
    if not first():
        return tell()
    try:
        value = work()
    except UserError as error:
        tell(error)
        raise
    return tell(value)


def any_rank(here: bool) -> bool:
    """Whether it is so on any rank. All ranks must ask at the same point."""
    if ranks() == 1:
        return here
    import torch
    import torch.distributed as dist

    device = "cuda" if torch.cuda.is_available() else "cpu"
    flag = torch.tensor([int(here)], device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def wait() -> None:
    """Until every rank is here."""
    any_rank(False)


@contextmanager
def ended() -> Iterator[None]:
    """Around a command: a rank that fails is gone at once, so that the others need not wait for it to tidy up."""
    try:
        yield
    except SystemExit as stop:
        if "RANK" not in os.environ or not stop.code:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code if isinstance(stop.code, int) else 1)
