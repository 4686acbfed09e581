"""Facts about the machine and this process: rank, cores, cache folder, environment variables of libraries.

A leaf module: it imports nothing else of the toolkit, so that every part may ask it.
"""

import math
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path


def rank() -> int:
    """The number of this process among all that train together, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is rank 0, the process that writes files and prints."""
    return rank() == 0


def count_cores() -> int:
    """CPU cores this process may use: `$LIMO_CORES`, or the affinity mask, limited by a container's quota."""
    if given := os.environ.get("LIMO_CORES"):
        return max(1, int(given))
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return count


def cache_folder() -> Path:
    """Folder for samples and converted models: `$LIMO_CACHE`, else `~/.cache/limo`."""
    return Path(os.environ.get("LIMO_CACHE") or Path.home() / ".cache" / "limo").expanduser()


def samples_folder() -> Path:
    """Folder of the ledgers: `$LIMO_SAMPLES`, else `samples` in the cache."""
    return Path(os.environ.get("LIMO_SAMPLES") or cache_folder() / "samples").expanduser()


def set_environment() -> None:
    """Set what torch, DeepSpeed and Hugging Face read when they are imported. Values already set are kept."""
    # More threads than cores slow torch by an order of magnitude
    os.environ.setdefault("OMP_NUM_THREADS", str(count_cores()))
    if not sys.warnoptions:  # deprecations inside libraries are not the user's concern
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "DS_LOG_LEVEL": "error"}
    hub = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    for name, value in {**quiet, **dict.fromkeys(hub, "1")}.items():
        os.environ.setdefault(name, value)


def quiet_deepspeed() -> None:
    """Without an accelerator, name the CPU before DeepSpeed is imported; otherwise it warns on every import."""
    import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def main_device() -> str:
    """The device of an unsharded model: the first GPU, a Mac's GPU, or the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def memory_of_devices(gpus_only: bool = False) -> list[float]:
    """Bytes of memory of each visible GPU; without a GPU, this machine's RAM or the container's limit."""
    import torch

    count = torch.cuda.device_count()
    if count or gpus_only:
        return [float(torch.cuda.get_device_properties(at).total_memory) for at in range(count)]
    limits = [float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):
        limits.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return [min(limits)]
