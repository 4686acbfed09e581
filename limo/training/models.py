"""Loads the model of a training, adds low-rank adapters, merges them, and saves the model.

`lora` takes the arguments of `peft.LoraConfig` under their own names.
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limo.chat import pad_id, set_template, turn_end
from limo.console import say
from limo.errors import UserError
from limo.machine import is_main
from limo.model import load_model, load_tokenizer
from limo.training.launch import wait
from limo.training.settings import Training


def load_trained_tokenizer(settings: Training, source: Path) -> Any:
    """Load the model's tokenizer, with the recipe's chat template."""
    tokenizer = load_tokenizer(source, template=False)
    set_template(tokenizer, settings.chat_template)
    return tokenizer


def load_trained_model(settings: Training, source: Path, tokenizer: Any, config: Any, packing: bool) -> Any:
    """Load the model to train, with the end of a turn as its end token. Also sets the tokenizer's padding token.

    Without adapters, 16-bit weights are loaded in float32 if torch's optimizer updates them: at small learning rates
    most updates are smaller than the rounding of 16 bits.
    """
    from transformers import AutoConfig

    from limo.training.attention import choose_attention

    dtype, mixed = settings.dtype, config.bf16 or config.fp16
    kind = choose_attention(
        settings.attention, AutoConfig.from_pretrained(source), packing, half=dtype != "float32" or mixed
    )
    if dtype != "float32" and mixed and not (config.deepspeed or config.fsdp or settings.lora):
        say(f"weights are kept in float32 while they are trained, and saved in {dtype}")
        dtype = "float32"
    model = load_model(source, dtype, attn_implementation=kind)
    end = turn_end(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id(tokenizer, end))
    known = model.generation_config.eos_token_id
    others = known if isinstance(known, list) else [] if known is None else [known]
    model.generation_config.eos_token_id = [end, *(e for e in others if e != end)]
    return model


def lora_config(lora: Mapping[str, Any] | None) -> Any:
    """Make a `peft.LoraConfig`, or None without adapters. Raises UserError with PEFT's message for a wrong argument."""
    if not lora:
        return None
    from peft import LoraConfig

    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **lora})
    except (TypeError, ValueError) as error:
        raise UserError(f"train.lora: {str(error).splitlines()[0]}") from error


def save_model(trainer: Any, tokenizer: Any, settings: Training, source: Path, folder: Path) -> None:
    """Save the model in `folder`/model, which appears only when it is complete. All ranks take part."""
    import torch

    name = "adapter" if settings.lora and settings.merge_adapter else "model"
    partial = folder / f".{name}.part"
    if is_main():
        shutil.rmtree(partial, ignore_errors=True)
    wait()
    if not settings.lora and not trainer.is_deepspeed_enabled:  # DeepSpeed saves the weights that it computes with
        trainer.model.to(getattr(torch, settings.dtype))
    trainer.save_model(str(partial))
    if is_main():
        tokenizer.save_pretrained(partial)
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle that imports the whole trainer
        trained = {id(p): getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters() if p.requires_grad}
        _check_saved(partial, sum(trained.values()))
        shutil.rmtree(folder / name, ignore_errors=True)
        partial.rename(folder / name)
        if name == "adapter":
            merged = folder / ".model.part"
            shutil.rmtree(merged, ignore_errors=True)
            _merge(folder / name, source, merged, settings.dtype)
            tokenizer.save_pretrained(merged)
            shutil.rmtree(folder / "model", ignore_errors=True)
            merged.rename(folder / "model")
    wait()


def _merge(adapter: Path, source: Path, folder: Path, dtype: str) -> None:
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # otherwise ZeRO-3 would shard these weights over ranks that do not take part
    PeftModel.from_pretrained(load_model(source, dtype), str(adapter)).merge_and_unload().save_pretrained(folder)


def _check_saved(folder: Path, numbers: int) -> None:
    """Raise RuntimeError if the saved model has fewer than `numbers` weights. With wrong settings, ZeRO-3 saves almost
    none.
    """
    from safetensors import safe_open

    held = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            held += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    if held < numbers:
        raise RuntimeError(f"{folder} holds only {held:,} of {numbers:,} weights")
