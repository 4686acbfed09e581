"""The end of a training: the model under its name once it is whole, its log, its card, and what the manifest keeps."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limo.adapters import check_saved, merge
from limo.data import dump, replacing
from limo.launch import first, ranks, wait
from limo.manifest import Step
from limo.progress import say
from limo.rows import Learned


def save(trainer: Any, tokenizer: Any, settings: Mapping[str, Any], source: Path, folder: Path) -> None:
    """Under its name only when complete: a folder `model` is always a whole model. All ranks take part."""
    name = "adapter" if settings["lora"] and settings["merge_adapter"] else "model"
    partial_ = folder / f".{name}.part"
    if first():
        shutil.rmtree(partial_, ignore_errors=True)
    wait()
    as_trained = settings["lora"] or trainer.is_deepspeed_enabled  # which saves what it computes with
    trainer.saved_as = None if as_trained else _torch_dtype(settings["dtype"])
    trainer.save_model(str(partial_))
    if first():
        tokenizer.save_pretrained(partial_)
        (partial_ / "training_args.bin").unlink(missing_ok=True)  # a pickle that loads the trainer's whole world
        shared = {id(p): getattr(p, "ds_numel", p.numel()) for p in trainer.model.parameters() if p.requires_grad}
        check_saved(partial_, sum(shared.values()))
        _replace(partial_, folder / name)
        if name == "adapter":
            merged = folder / ".model.part"
            shutil.rmtree(merged, ignore_errors=True)
            dtype = "bfloat16" if settings["quantize"] else settings["dtype"]
            merge(folder / name, source, merged, dtype, settings["trust_remote_code"])
            _replace(merged, folder / "model")
    wait()


def _torch_dtype(name: str) -> Any:
    import torch

    return None if name == "auto" else getattr(torch, name)


def _replace(partial_: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    partial_.rename(folder)


def finish(
    step: Step,
    settings: Mapping[str, Any],
    trainer: Any,
    prepared: Learned,
    seconds: float,
    steps_before: int,
    held: Mapping[str, int],
) -> None:
    """Tell what came of it: the step's tokens, outputs and results; from rank 0 also the log and the card."""
    from limo.card import write_card

    state = trainer.state
    history = [entry for entry in state.log_history if "loss" in entry]
    evals = [entry for entry in state.log_history if "eval_loss" in entry]
    share = 1 - steps_before / max(state.global_step, 1)  # of the steps that were done this time
    step.tokens = round(sum(prepared.lengths) * (state.epoch or 0))
    step.outputs = [step.folder / "model"]
    step.results = {
        "rows": len(prepared.rows),
        "dropped": len(prepared.dropped),
        "steps": state.global_step,
        "epochs": state.epoch or 0,
        "first_loss": history[0]["loss"] if history else None,
        "last_loss": history[-1]["loss"] if history else None,
        "eval_loss": evals[-1]["eval_loss"] if evals else None,
        "tokens_per_second": round(step.tokens * share / seconds),
        "devices": ranks(),
        **{f"{what}_bytes": size for what, size in held.items()},
    }
    if not first():
        return
    with replacing(step.folder / "train_log.jsonl") as log:
        log.writelines(dump(entry) for entry in [*history, *evals])
    write_card(step.folder, settings, step.results, history, evals, step.entry, prepared.unit)
    if not settings["keep_checkpoints"]:
        shutil.rmtree(step.folder / "checkpoints", ignore_errors=True)
    say(
        f"trained on {len(prepared.rows)} {prepared.unit}, {state.global_step} steps, {step.tokens:,} tokens "
        f"in {seconds:.0f} s: {step.folder / 'model'}"
    )
