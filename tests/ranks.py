"""Trainings, one after the other in the ranks of one launch: python -m torch.distributed.run ... -m tests.ranks FILE.

FILE holds a JSON list of settings for `limo.train.sft`. FSDP2 shards nothing on CPUs, where the library silently
falls back to DDP; for the case named fsdp2 it is made to believe that these ranks are GPUs.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from limo.machine import is_main, set_environment, world_size

set_environment()
os.environ["HF_HUB_OFFLINE"] = "1"


def train(settings: dict[str, Any]) -> dict[str, Any]:
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    from limo.recipe import read_settings
    from limo.train import sft
    from limo.training import fit
    from limo.training.launch import FSDP, shard_arguments
    from limo.training.settings import Supervised

    AcceleratorState._reset_state(True)
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
    read = read_settings(Supervised, settings, "train")
    if read.sharding != "fsdp2":
        return sft(read)
    configure = fit.configure

    def as_on_gpus(*arguments: Any, **more: Any) -> Any:
        config = configure(*arguments, **more)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return config

    fit.shard_arguments = lambda _: {"fsdp": True, "fsdp_config": dict(FSDP)}
    fit.configure = as_on_gpus
    try:
        return sft(read)
    finally:
        fit.shard_arguments, fit.configure = shard_arguments, configure
        for key in [key for key in os.environ if key.startswith(("FSDP_", "ACCELERATE_USE_FSDP"))]:
            del os.environ[key]


def prefer(settings: dict[str, Any]) -> list[tuple[float, float]]:
    """Losses and gradient norms of a preference training, over any number of ranks.

    `loss` names one of `limo.training.preference`, with its `constants`; `trl` one of TRL's, with its `options`.
    """
    from accelerate.state import AcceleratorState
    from datasets import load_dataset
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from trl import DPOConfig, DPOTrainer

    from limo.model import load_model, load_tokenizer
    from limo.training import preference
    from limo.training.launch import shard_arguments
    from limo.training.trainers import PairTrainer

    AcceleratorState._reset_state(True)
    unset_hf_deepspeed_config()
    rows, batch = settings["rows"], 8
    config = DPOConfig(
        output_dir=settings["out"],
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=batch // rows // world_size(),
        **{"max_steps": 3, "learning_rate": 1e-3, "beta": settings["beta"], "logging_steps": 1, "save_strategy": "no"},
        **{"use_cpu": True, "bf16": False, "disable_tqdm": True, "report_to": "none", "max_length": None, "seed": 0},
        **shard_arguments(settings["sharding"]),
        **({"loss_type": settings["trl"], **settings["options"]} if "trl" in settings else {}),
    )
    folder = Path(settings["model"])
    ours = {}
    if "loss" in settings:
        ours = {"pair_loss": partial(getattr(preference, settings["loss"]), **settings["constants"])}
    trainer = (PairTrainer if ours else DPOTrainer)(
        load_model(folder, "float32"),
        ref_model=load_model(folder, "float32"),
        args=config,
        train_dataset=load_dataset("json", data_files=settings["data"], split="train", cache_dir=settings["out"]),
        processing_class=load_tokenizer(folder),
        **ours,
    )
    trainer.train()
    names = ("loss", "grad_norm", "rewards/margins", "rewards/accuracies")
    found = [tuple(float(e[k]) for k in names) for e in trainer.state.log_history if "loss" in e]
    if is_main():
        (Path(settings["out"]) / "curve.json").write_text(json.dumps(found))
    return found  # type: ignore[return-value]


if __name__ == "__main__":
    import torch

    from limo.training.launch import process_group

    torch.set_num_threads(1)
    with process_group():
        for case in json.loads(Path(sys.argv[1]).read_text()):
            (prefer if "loss" in case else train)(case)
