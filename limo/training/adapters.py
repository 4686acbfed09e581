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
from limo.recipe import suggest


def lora_config(lora: Mapping[str, Any]) -> Any:
    """A `peft.LoraConfig`. Raises UserError for an argument that it does not have, or refuses."""
    from peft import LoraConfig

    known = inspect.signature(LoraConfig).parameters
    for key in lora:
        if key not in known:
            raise UserError(f"train.lora.{key} is not an argument of peft.LoraConfig{suggest(key, known)}")
    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **lora})
    except (TypeError, ValueError) as error:
        raise UserError(f"train.lora: {str(error).splitlines()[0]}") from error


def quantization(quantize: str | None) -> dict[str, Any]:
    """The arguments that load a model in four bits; none for None. Raises UserError without the package."""
    if quantize is None:
        return {}
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


def merge(adapter: Path, source: Path, folder: Path, dtype: str) -> None:
    """Write into `folder` the model of `source` with the adapter's changes added to its weights."""
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from limo.model import load_model

    unset_hf_deepspeed_config()  # otherwise ZeRO-3 would shard these weights too, over ranks that do not take part
    model = load_model(source, dtype)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.save_pretrained(folder)
    for file in adapter.iterdir():  # the tokenizer and its template
        if file.is_file() and not file.name.startswith(("adapter_", "README", "training_args")):
            shutil.copy2(file, folder / file.name)


def check_saved(folder: Path, numbers: int) -> None:
    """Raise RuntimeError unless the safetensors of a folder hold at least `numbers` weights, none of them empty.

    Under ZeRO-3 a wrong setting once saved models of a few kilobytes.
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
