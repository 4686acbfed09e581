"""TRL's arguments in a recipe: checked by name before any work, and completed by what the devices found decide.

The recipe states the global batch, chains per optimizer step over all devices; accumulation follows from the number of
devices, so that the same recipe means the same training on one GPU and on sixty-four.
"""

import difflib
import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from limo.errors import UserError
from limo.model import quiet_deepspeed

OURS = {  # of TRL's arguments, those that the recipe states elsewhere
    "output_dir": "give out=",
    "max_length": "give it as train.max_length",
    "seed": "give it as train.seed",
    "gradient_accumulation_steps": "it follows from train.global_batch and the number of devices",
    "packing": "give train.packing=<tokens of one forward pass on one device>",
    "padding_free": "give train.packing=<tokens of one forward pass on one device>",
    "deepspeed": "give train.sharding=zero1, zero2, zero3 or the path of a DeepSpeed file",
    "fsdp": "give train.sharding=fsdp2",
    "model_init_kwargs": "give train.dtype, train.attention and train.trust_remote_code",
    "chat_template_path": "give train.chat_template",
    "trust_remote_code": "give train.trust_remote_code",
    "assistant_only_loss": "the completion and the end of its turn are learned, nothing else",
    "completion_only_loss": "the completion and the end of its turn are learned, nothing else",
    "dataset_kwargs": "rows are rendered by limo/render.py",
    "eos_token": "the end of a turn is read from the chat template",
    "enable_jit_checkpoint": "SIGTERM always saves first",
    "resume_from_checkpoint": "a run always goes on from its last whole checkpoint",
    "train_sampling_strategy": "each step takes its chains from a permutation by train.seed and the epoch",
    "data_seed": "each step takes its chains from a permutation by train.seed and the epoch",
    "shuffle_dataset": "each step takes its chains from a permutation by train.seed and the epoch",
    "dataloader_drop_last": "no chain is left out",
    "ignore_data_skip": "a run that goes on never sees a chain twice",
    "auto_find_batch_size": "give train.packing, or train.args.per_device_train_batch_size",
    "average_tokens_across_devices": "the loss is always a mean over the step's tokens, wherever they are",
    "packing_strategy": "give train.packing: chains are packed whole, by best fit",
    "eval_packing": "chains of eval_data are not packed",
    "truncation_mode": "no chain is cut",
    "pad_to_multiple_of": "give train.packing to train without padding",
    "parallelism_config": "one sequence over several devices is not offered",
    "dataset_num_proc": "rows are rendered once, in seconds",
    "dataset_text_field": "rows are prompt and completion; other columns get their names in a recipe's pool",
}
OURS_OF_PAIRS = {  # of DPOConfig's
    "loss_type": "give train.loss=limo.preference.dpo or another function",
    "loss_weights": "train.loss is one function",
    "discopop_tau": "give train.loss={_target_: limo.preference.discopop, tau: ...}",
    "label_smoothing": "train.loss is the whole loss",
    "ld_alpha": "train.loss is given sums over all tokens",
    "f_divergence_type": "train.loss is given log-probabilities, and may take any divergence of them",
    "use_weighting": "train.loss is the whole loss",
    "sync_ref_model": "the reference is the model before the training",
}
RENAMED = {  # keys of older TRL, transformers and of other trainers
    "warmup_ratio": "warmup_steps (a value below 1 is a share of all steps)",
    "max_seq_length": "max_length, beside args",
    "cutoff_len": "max_length, beside args",
    "sequence_len": "max_length, beside args",
    "max_prompt_length": "max_length, beside args: prompt and completion together",
    "evaluation_strategy": "eval_strategy",
    "torch_dtype": "dtype, beside args",
    "no_cuda": "use_cpu",
    "group_by_length": "nothing: chains of a step are always grouped by length",
    "save_safetensors": "nothing: weights are always saved as safetensors",
    "overwrite_output_dir": "nothing: a run goes on where it was, or takes a name of its own with name=",
    "logging_dir": "the environment variable TENSORBOARD_LOGGING_DIR",
    "half_precision_backend": "bf16 or fp16",
    "include_tokens_per_second": "include_num_input_tokens_seen",
    "include_inputs_for_metrics": "include_for_metrics",
    "tokenizer": "model: the tokenizer comes from its folder",
    "use_mps_device": "nothing: it is found",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "neftune_alpha": "neftune_noise_alpha",
    "flash_attn": "attention, beside args",
    "sample_packing": "packing, beside args",
    "attn_implementation": "attention, beside args",
    "use_flash_attention_2": "attention=flash_attention_2, beside args",
    "use_peft": "lora, beside args",
    "lora_r": "lora={r: ...}, beside args",
    "lora_alpha": "lora={lora_alpha: ...}, beside args",
    "lora_target_modules": "lora={target_modules: ...}, beside args",
    "load_in_4bit": "quantize=nf4, beside args",
}


def check_args(args: Mapping[str, Any], pairs: bool = False) -> None:
    """Raise UserError for a key that `trl.SFTConfig` does not have, naming today's key where an old one was renamed.

    With `pairs` it is `trl.DPOConfig`.
    """
    quiet_deepspeed()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it speaks of kernels that nobody asked for
    from trl import DPOConfig, SFTConfig

    made = DPOConfig if pairs else SFTConfig
    known = {f.name for f in fields(made)}
    ours = OURS | OURS_OF_PAIRS if pairs else OURS
    for key in args:
        if key in ours:
            raise UserError(f"train.args.{key}: {ours[key]}")
        if key in known:
            continue
        if key in RENAMED:
            raise UserError(f"train.args.{key} is an old name: today it is {RENAMED[key]}")
        close = difflib.get_close_matches(key, known, 1)
        raise UserError(
            f"train.args.{key} is no argument of {made.__name__}" + (f"; did you mean '{close[0]}'?" if close else "")
        )


def accumulation(global_batch: int, rows: int, ranks: int) -> int:
    """Forward passes of an optimizer step on each rank, `rows` chains each.

    Raises UserError, naming the numbers of devices that divide the global batch, if this one does not.
    """
    if global_batch < 1 or rows < 1:
        raise UserError("train.global_batch and train.args.per_device_train_batch_size must be 1 or more")
    if global_batch % (ranks * rows) == 0:
        return global_batch // (ranks * rows)
    fit = [n for n in range(1, global_batch + 1) if global_batch % (n * rows) == 0]
    fits = f"{', '.join(map(str, fit))} devices do" if fit else f"no number of devices does with {rows} chains on each"
    raise UserError(
        f"train.global_batch={global_batch} cannot be shared by {ranks} devices with {rows} chains each at a time; "
        f"{fits}. Set train.devices, train.args.per_device_train_batch_size, or train.packing, which any number divides"
    )


def machine(args: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's arguments, and what the machine decides where the recipe is silent.

    Raises UserError for what this machine cannot do.
    """
    import torch

    gpu = torch.accelerator.is_available()
    if not gpu and args.get("activation_offloading"):
        raise UserError(
            "train.args.activation_offloading moves activations from a GPU to the CPU: there is no GPU here"
        )
    if not gpu and args.get("use_liger_kernel"):
        raise UserError("train.args.use_liger_kernel needs a GPU: its kernels are written for one")
    found = {
        "use_cpu": not gpu,
        "bf16": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,  # every weight is used in every pass; looking costs time
        "per_device_eval_batch_size": 1,  # a step is made to fit the device, and beside its states little is left
    }
    return {**found, **args}


def rows_at_once(args: Mapping[str, Any]) -> int:
    """Chains in one forward pass on one device, where they are padded; TRL's own default is 8."""
    return int(args.get("per_device_train_batch_size", 8))
