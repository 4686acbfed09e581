"""The end of a training: the model under its name once it is whole, its log, its card, and what the manifest keeps."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limo.data import dump, replacing
from limo.machine import is_main, world_size
from limo.progress import say
from limo.run import Step
from limo.training.adapters import check_saved, merge
from limo.training.launch import wait
from limo.training.settings import Training
from limo.training.tokenised import Tokens


def save(trainer: Any, tokenizer: Any, settings: Training, source: Path, folder: Path) -> None:
    """Save the model in `folder`/model, which appears only when it is complete. All ranks take part."""
    import torch

    name = "adapter" if settings.lora and settings.merge_adapter else "model"
    partial_ = folder / f".{name}.part"
    if is_main():
        shutil.rmtree(partial_, ignore_errors=True)
    wait()
    if not settings.lora and not trainer.is_deepspeed_enabled:  # DeepSpeed saves the weights that it computes with
        trainer.model.to(getattr(torch, settings.dtype))
    trainer.save_model(str(partial_))
    if is_main():
        tokenizer.save_pretrained(partial_)
        (partial_ / "training_args.bin").unlink(missing_ok=True)  # a pickle that imports the whole trainer
        shared = {id(p): getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters() if p.requires_grad}
        check_saved(partial_, sum(shared.values()))
        _replace(partial_, folder / name)
        if name == "adapter":
            merged = folder / ".model.part"
            shutil.rmtree(merged, ignore_errors=True)
            merge(folder / name, source, merged, "bfloat16" if settings.quantize else settings.dtype)
            _replace(merged, folder / "model")
    wait()


def _replace(partial_: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    partial_.rename(folder)


def finish(
    step: Step, settings: Training, trainer: Any, tokens: Tokens, spent: Mapping[str, float], held: Mapping[str, int]
) -> None:
    """Fill in the step's tokens, outputs and results; rank 0 also writes the log and the card.

    `spent` has the `seconds` of this process and the `steps_before` it; `held` is that of `count_bytes`.
    """
    from limo.training.card import write_card

    state = trainer.state
    history = [entry for entry in state.log_history if "loss" in entry]
    evals = [entry for entry in state.log_history if "eval_loss" in entry]
    share = 1 - spent["steps_before"] / max(state.global_step, 1)  # of the steps, those of this process
    step.tokens = round(sum(tokens.lengths) * (state.epoch or 0))
    step.outputs = [step.folder / "model"]
    step.results = {
        "rows": len(tokens.lengths),
        "dropped": tokens.dropped,
        "steps": state.global_step,
        "epochs": state.epoch or 0,
        "first_loss": history[0]["loss"] if history else None,
        "last_loss": history[-1]["loss"] if history else None,
        "eval_loss": evals[-1]["eval_loss"] if evals else None,
        "tokens_per_second": round(step.tokens * share / spent["seconds"]),
        "devices": world_size(),
        **{f"{what}_bytes": size for what, size in held.items()},
    }
    if not is_main():
        return
    with replacing(step.folder / "train_log.jsonl") as log:
        log.writelines(dump(entry) for entry in [*history, *evals])
    write_card(step, settings, history, evals, tokens.unit)
    if not settings.keep_checkpoints:
        shutil.rmtree(step.folder / "checkpoints", ignore_errors=True)
    shutil.rmtree(step.folder / "tokens", ignore_errors=True)
    say(
        f"trained on {len(tokens.lengths)} {tokens.unit}, {state.global_step} steps, {step.tokens:,} tokens "
        f"in {spent['seconds']:.0f} s: {step.folder / 'model'}"
    )
