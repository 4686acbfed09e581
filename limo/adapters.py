"""Models to train: loaded whole or in four bits, with low-rank adapters, merged and saved.

`lora` takes the arguments of `peft.LoraConfig` under their own names; `quantize: nf4` loads the frozen weights in four
bits (QLoRA, arXiv 2305.14314).
"""

import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limo.errors import UserError
from limo.recipe import near


def lora_config(lora: Mapping[str, Any]) -> Any:
    """A `peft.LoraConfig`. Raises UserError for an argument that it does not have or take."""
    from peft import LoraConfig

    known = inspect.signature(LoraConfig).parameters
    for key in lora:
        if key not in known:
            raise UserError(f"train.lora.{key} is no argument of peft.LoraConfig{near(key, known)}")
    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **lora})
    except (TypeError, ValueError) as error:
        raise UserError(f"train.lora: {str(error).splitlines()[0]}") from error


def check_quantize(settings: Mapping[str, Any]) -> None:
    """Raise UserError for four bits without an adapter, or with weights shared out."""
    quantize = settings["quantize"]
    if quantize and not settings["lora"]:
        raise UserError(
            f"train.quantize={quantize} freezes the weights: give train.lora={{r: 16}} to train beside them"
        )
    if quantize and settings["sharding"] not in ("ddp", "zero1", "zero2"):
        raise UserError(
            f"train.quantize={quantize} with train.sharding={settings['sharding']}: weights in four bits cannot be "
            "shared out. Take ddp, zero1 or zero2"
        )


def quantization(quantize: str | None) -> dict[str, Any]:
    """What loads a model in four bits; nothing for None. Raises UserError for another kind or without the package."""
    if quantize is None:
        return {}
    if quantize != "nf4":
        raise UserError(f"train.quantize={quantize}: there is nf4, or null")
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("train.quantize=nf4 needs: pip install bitsandbytes")
    import torch
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    }


def merge(adapter: Path, source: Path, folder: Path, dtype: str, trust_remote_code: bool) -> None:
    """Write into `folder` the model of `source` with the adapter's changes added to its weights."""
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from limo.model import load_model

    unset_hf_deepspeed_config()  # or ZeRO-3 would share these weights out as well, over ranks that are not here
    model = load_model(source, dtype, trust_remote_code)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.save_pretrained(folder)
    for file in adapter.iterdir():  # the tokenizer and its template
        if file.is_file() and not file.name.startswith(("adapter_", "README", "training_args")):
            shutil.copy2(file, folder / file.name)


def check_saved(folder: Path, numbers: int) -> None:
    """Raise RuntimeError unless the safetensors of a folder hold at least `numbers` weights, none of them empty.

    Under ZeRO-3 a misread setting once saved models of a few kilobytes; here that is noticed at once.
    """
    from safetensors import safe_open

    files, held = sorted(folder.glob("*.safetensors")), 0
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                size = 1
                for width in tensors.get_slice(name).get_shape():
                    size *= width
                if not size:
                    raise RuntimeError(f"{file}: '{name}' was saved empty")
                held += size
    if held < numbers:
        raise RuntimeError(f"{folder} holds {held:,} weights of {numbers:,}: {json.dumps([f.name for f in files])}")
