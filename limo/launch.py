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
LONG = 5400  # seconds that a rank waits for rank 0, which may download a large model, or save one, alone
STEP = 1800  # seconds that ranks wait for each other in a step, or for a checkpoint of one
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "NCCL error")


PLANS = (  # of accelerate's environment
    *(
        "ACCELERATE_USE_DEEPSPEED",
        "ACCELERATE_DEEPSPEED_",
        "ACCELERATE_CONFIG_DS_FIELDS",
        "ACCELERATE_USE_FSDP",
        "FSDP_",
    ),
    *("ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_DYNAMO_"),
)
_patient: Any = None  # the group of ranks that waits long, on CPUs; None is the default group


def rank() -> int:
    """The number of this process among all that train together, from 0."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def several(devices: Devices, offloads: bool, module: str, arguments: Sequence[str]) -> int | None:
    """Start as many ranks of `module` as there are devices, and return their exit code once they have ended.

    None if there is nothing to start: one device, or a launcher has started this process as a rank already. `offloads`
    starts a rank for one device too. Raises UserError if more devices are asked for than are there.
    """
    _join_slurm()
    if "RANK" in os.environ:
        return None
    count = count_devices(devices)
    nodes = int(os.environ.get("NNODES") or _slurm("NUM_NODES", "NNODES"))
    if count * nodes == 1 and not offloads:  # offload is DeepSpeed's, which wants a process group
        return None
    return _run(count, nodes, module, arguments)


def count_devices(devices: Devices) -> int:
    """How many that is on this machine. Raises UserError if more are asked for than are there."""
    import torch

    there = torch.cuda.device_count()
    if devices == "all":
        return max(there, 1)
    if isinstance(devices, str) or devices < 1:
        raise UserError(f"train.devices must be a number from 1, or all, not {devices!r}")
    if there and devices > there:
        raise UserError(f"train.devices={devices}, but {there} GPUs are visible here")
    return devices


def drop_others_plans() -> bool:
    """Forget what accelerate's configuration says of sharing out, precision and accumulation: the recipe says it.

    Returns whether it said anything.
    """
    found = [key for key in os.environ if key.startswith(PLANS)]
    for key in found:
        del os.environ[key]
    return bool(found)


def hide_others(devices: Devices) -> None:
    """For one device where several are visible: the others must not be seen, or they would join through DataParallel.

    To be called before anything asks CUDA.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices == 1 and "RANK" not in os.environ:  # a launcher has given each rank its own
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0] if visible else "0" if visible is None else visible


def _run(count: int, nodes: int, module: str, arguments: Sequence[str]) -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from limo.recipe import cores

    if os.environ.get("OMP_NUM_THREADS") == str(cores()):
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // count))  # more threads than cores are ten times slower
    where = ["--standalone"]
    if nodes > 1:
        node = os.environ.get("NODE_RANK") or os.environ.get("SLURM_NODEID")
        if node is None:
            raise UserError(f"NNODES={nodes}: set NODE_RANK as well, the number of this machine from 0 to {nodes - 1}")
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
    tasks, nodes = int(_slurm("NUM_TASKS", "NTASKS")), int(_slurm("NUM_NODES", "NNODES"))
    if "RANK" in os.environ or tasks == 1 or (tasks == nodes and count_devices("all") > 1):
        return
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or _slurm_host(),
        "MASTER_PORT": os.environ.get("MASTER_PORT") or _slurm_port(),
    }


def _slurm(step: str, job: str) -> str:
    """A number that Slurm tells its step, or its job; 1 outside a step, where nobody has started several."""
    if "SLURM_STEP_ID" not in os.environ:
        return "1"
    return os.environ.get(f"SLURM_STEP_{step}") or os.environ.get(f"SLURM_{job}", "1")


def _slurm_host() -> str:
    """The first host of a list such as `gpu[03-06,9]-ib,login1` or `rack[1-2]node[3-4]`."""
    listed = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])+", listed)
    if not found:
        raise UserError(
            "set MASTER_ADDR to the host name of the first node: neither it nor Slurm's list of nodes is set"
        )
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", found[0])


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
        # Slurm may show each task a GPU of its own
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    else:
        import deepspeed

        # Its shared-memory operation would be compiled on first use; gloo does without
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    global _patient
    mine = not dist.is_initialized()  # whoever set it up takes it down
    if mine:  # gloo beside NCCL, since FSDP2 gathers the model on CPUs
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(seconds=STEP))
    _patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=LONG))
    yield
    _patient = None
    if mine:
        dist.barrier()  # without it a rank that leaves early can abort one that is still closing
        dist.destroy_process_group()


def tell(value: Any = None) -> Any:
    """What rank 0 gives, on every rank. An error that it gives is raised on the others, which then stay silent."""
    if ranks() == 1:
        return value
    import torch.distributed as dist

    box = [value if first() else None]
    dist.broadcast_object_list(box, src=0, group=_patient)
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

    flag = torch.tensor([int(here)])
    dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=_patient)
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
