"""Trainings, one after the other in the ranks of one launch: python -m torch.distributed.run ... -m tests.ranks FILE.

FILE holds a JSON list of settings for `limo.train.sft`. FSDP2 shares out nothing on CPUs, where the library falls back
to DDP in silence; for the case named fsdp2 it is told that these ranks are GPUs, which makes it real.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from limo.recipe import settle

settle()
os.environ["HF_HUB_OFFLINE"] = "1"


def train(settings: dict[str, Any]) -> dict[str, Any]:
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    import limo.train
    from limo.sharding import FSDP, sharded

    AcceleratorState._reset_state(True)
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    if settings["sharding"] != "fsdp2":
        return limo.train.sft(**settings)
    configured = limo.train._config

    def as_on_gpus(*arguments: Any) -> Any:
        config = configured(*arguments)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return config

    limo.train.sharded = lambda _: {"fsdp": True, "fsdp_config": dict(FSDP)}
    limo.train._config = as_on_gpus
    try:
        return limo.train.sft(**settings)
    finally:
        limo.train.sharded, limo.train._config = sharded, configured
        for key in [key for key in os.environ if key.startswith(("FSDP_", "ACCELERATE_USE_FSDP"))]:
            del os.environ[key]


if __name__ == "__main__":
    import torch

    from limo.launch import joined

    torch.set_num_threads(1)
    with joined():
        for case in json.loads(Path(sys.argv[1]).read_text()):
            train(case)
