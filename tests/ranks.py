"""Trainings, one after the other in the ranks of one launch: python -m torch.distributed.run ... -m tests.ranks FILE.

FILE holds a JSON list of settings for `limo.train.sft`. FSDP2 shares out nothing on CPUs, where the library falls back
to DDP in silence; for the case named fsdp2 it is told that these ranks are GPUs, which makes it real.
"""

import json
import os
import sys
from functools import partial
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


def prefer(settings: dict[str, Any]) -> list[tuple[float, float]]:
    """Losses and gradient norms of a preference training, over any number of ranks.

    `loss` names one of `limo.preference`, with its `constants`; `trl` one of TRL's, with its `options`.
    """
    from accelerate.state import AcceleratorState
    from datasets import load_dataset
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from trl import DPOConfig, DPOTrainer

    from limo import preference
    from limo.launch import first, ranks
    from limo.model import load_model, load_tokenizer
    from limo.sharding import sharded
    from limo.trainers import Pairwise

    AcceleratorState._reset_state(True)
    unset_hf_deepspeed_config()
    rows, batch = settings["rows"], 8
    config = DPOConfig(
        output_dir=settings["out"],
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=batch // rows // ranks(),
        **{"max_steps": 3, "learning_rate": 1e-3, "beta": settings["beta"], "logging_steps": 1, "save_strategy": "no"},
        **{"use_cpu": True, "bf16": False, "disable_tqdm": True, "report_to": "none", "max_length": None, "seed": 0},
        **sharded(settings["sharding"]),
        **({"loss_type": settings["trl"], **settings["options"]} if "trl" in settings else {}),
    )
    folder = Path(settings["model"])
    ours = {}
    if "loss" in settings:
        ours = {"pair_loss": partial(getattr(preference, settings["loss"]), **settings["constants"])}
    trainer = (Pairwise if ours else DPOTrainer)(
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
    if first():
        (Path(settings["out"]) / "curve.json").write_text(json.dumps(found))
    return found  # type: ignore[return-value]


if __name__ == "__main__":
    import torch

    from limo.launch import joined

    torch.set_num_threads(1)
    with joined():
        for case in json.loads(Path(sys.argv[1]).read_text()):
            (prefer if "loss" in case else train)(case)
