"""Supervised fine-tuning on a curated set, with TRL.

    python -m limo.train recipe=demo

Rows are rendered by `limo/render.py`, so the model learns the very tokens it will have to produce: the prompt is
masked, the end of the turn is learned. Nothing is cut: a row longer than `max_length` is dropped with its reason or
stops the run, as the recipe says. A killed run goes on from its last whole checkpoint.

Left out so far: more than one device, LoRA, preference losses.
"""

import difflib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from limo.data import Dropped, Example, dump, read_jsonl, replacing, write_jsonl
from limo.errors import UserError
from limo.losses import learned_positions, next_token_loss
from limo.manifest import Step, claim, read_manifest
from limo.model import load, model_folder, quiet_deepspeed
from limo.progress import progress, say
from limo.recipe import command
from limo.render import completion_ids, prompt_ids, turn_end

SMALL = 4096  # positions times rows whose logits may be held at once (800 MB at a vocabulary of 50,000)
OURS = ("output_dir", "max_length", "seed")  # of TRL's arguments, those that the recipe states elsewhere
RENAMED = {
    "warmup_ratio": "warmup_steps (a value below 1 is a share of all steps)",
    "max_seq_length": "max_length, beside args",
    "evaluation_strategy": "eval_strategy",
    "torch_dtype": "dtype, beside args",
    "group_by_length": "train_sampling_strategy",
    "cutoff_len": "max_length, beside args",
    "no_cuda": "use_cpu",
}


def sft(
    *,
    out: str,
    model: str,
    dtype: str,
    data: str,
    max_length: int,
    too_long: Literal["drop", "stop"],
    seed: int,
    keep_checkpoints: bool,
    args: dict[str, Any],
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Fine-tune `model` on the prompt/completion rows of `data` and save it in `out`/model.

    Args: `dtype` of the weights that are trained (float32, or with `args.bf16` mixed precision on top of it),
    `max_length` tokens of prompt and completion together, `too_long` rows are dropped or stop the run, `args` go to
    `trl.SFTConfig` under its own names. Returns the results also kept in the manifest: rows, tokens, steps, loss.
    Raises UserError for wrong settings or data that cannot be trained on.
    """
    folder = Path(out)
    settings = {k: v for k, v in locals().items() if k not in ("out", "folder")}
    if not read_manifest(folder).get("train", {}).get("finished"):
        check_args(args)  # before anything else is looked for; a finished run is told without importing TRL
    source = model_folder(model)
    with claim(folder, "train", settings, inputs=[data, source], begun=[folder / "checkpoints"]) as step:
        if step.finished:
            say(f"already trained: {folder / 'model'} ({step.entry['seconds']:.0f} s at the time)")
        else:
            _train(step, settings, source, list(read_jsonl(data)))
        return dict(step.results or step.entry["results"])


def check_args(args: Mapping[str, Any]) -> None:
    """Raise UserError for a key that `trl.SFTConfig` does not have, naming today's key where an old one was renamed."""
    quiet_deepspeed()
    from trl import SFTConfig

    known = {f.name for f in fields(SFTConfig)}
    for key in args:
        if key in OURS:
            raise UserError(
                f"train.args.{key}: give it as train.{key}"
                if key != "output_dir"
                else "train.args.output_dir: give out="
            )
        if key in RENAMED:
            raise UserError(f"train.args.{key} is an old name: today it is {RENAMED[key]}")
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            raise UserError(
                f"train.args.{key} is no argument of SFTConfig" + (f"; did you mean '{close[0]}'?" if close else "")
            )


def render_rows(
    tokenizer: Any, rows: Sequence[Example], max_length: int
) -> tuple[list[dict[str, list[int]]], list[Dropped]]:
    """Token ids and labels of each row, -100 on the prompt; and the rows that cannot be trained on, with the reason."""
    end = turn_end(tokenizer)
    rendered, dropped = [], []
    for row in rows:
        if not row.completion.strip():
            dropped.append(Dropped(row.id, "train", "no completion", data=row.to_json()))
            continue
        asked = prompt_ids(tokenizer, row.prompt)
        learned = [*completion_ids(tokenizer, row.completion), end]
        length = len(asked) + len(learned)
        if length > max_length:
            detail = f"{length} tokens; the limit is max_length={max_length}"
            dropped.append(Dropped(row.id, "train", "too long", detail, data=row.to_json()))
            continue
        rendered.append({"input_ids": asked + learned, "labels": [-100] * len(asked) + learned})
    return rendered, dropped


def _train(step: Step, settings: Mapping[str, Any], source: Path, rows: list[Example]) -> None:
    quiet_deepspeed()
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig

    _refuse_several_devices()
    if not rows:
        raise UserError(f"{settings['data']} holds no rows: curate first, or loosen what is chosen")
    model, tokenizer = load(source, settings["dtype"], settings["trust_remote_code"])
    rendered, dropped = render_rows(tokenizer, rows, settings["max_length"])
    _set_aside(step.folder, dropped, settings["too_long"])
    if not rendered:
        raise UserError(f"no row of {settings['data']} can be trained on: {dropped[0].reason}, {dropped[0].detail}")
    checkpoints = step.folder / "checkpoints"
    try:
        config = SFTConfig(
            output_dir=str(checkpoints),
            max_length=settings["max_length"],
            seed=settings["seed"],
            disable_tqdm=True,
            **_defaults(settings["args"]),
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"train.args: {str(error).splitlines()[0]}") from error
    trainer = _trainer()(model, args=config, train_dataset=Dataset.from_list(rendered), processing_class=tokenizer)
    _check_labels(trainer.train_dataset, rendered)
    trainer.remove_callback(PrinterCallback)  # the bar shows the loss
    trainer.add_callback(_watcher())
    last = last_checkpoint(checkpoints)
    if last:
        say(f"going on from {last}")
    start, first_step = time.monotonic(), _steps_in(last)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = time.monotonic() - start
    _save(trainer, tokenizer, step.folder / "model")
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    with replacing(step.folder / "train_log.jsonl") as log:
        log.writelines(dump(entry) for entry in history)
    if not settings["keep_checkpoints"]:
        shutil.rmtree(checkpoints, ignore_errors=True)
    epochs = trainer.state.epoch or 0
    share = 1 - first_step / max(trainer.state.global_step, 1)  # of the steps that were done this time
    step.tokens = round(sum(len(row["input_ids"]) for row in rendered) * epochs)
    step.outputs = [step.folder / "model"]
    step.results = {
        "rows": len(rendered),
        "dropped": len(dropped),
        "steps": trainer.state.global_step,
        "epochs": epochs,
        "first_loss": history[0]["loss"] if history else None,
        "last_loss": history[-1]["loss"] if history else None,
        "tokens_per_second": round(step.tokens * share / seconds),
    }
    say(
        f"trained on {len(rendered)} rows, {trainer.state.global_step} steps, {step.tokens:,} tokens in {seconds:.0f} s"
    )


def _trainer() -> Any:
    """TRL's SFTTrainer, which on a CPU projects to the vocabulary only where something is learned.

    TRL does so on GPUs; elsewhere it scores every position, tile by tile, which makes a step on short chains twice as
    slow. The loss is the same.
    """
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs["labels"]
            positions = learned_positions(labels)
            small = labels.device.type == "cpu" and 0 < len(positions) * len(labels) <= SMALL
            plain = self.args.loss_type == "nll" and self.label_smoother is None and not return_outputs
            if not (small and plain and "logits_to_keep" in signature(model.forward).parameters):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            rest = {key: value for key, value in inputs.items() if key != "labels"}
            logits = model(**rest, use_cache=False, logits_to_keep=positions).logits
            tokens = (labels[:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch
            loss = next_token_loss(logits, labels, positions, tokens)
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes
            return loss

    return Trainer


def _refuse_several_devices() -> None:
    import torch

    if torch.cuda.device_count() > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("training runs on one device so far: set CUDA_VISIBLE_DEVICES=0, and start without a launcher")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to the end. The trainer's state is what it writes last."""
    whole = [p for p in folder.glob("checkpoint-*") if _whole(p)]
    return max(whole, key=_steps_in, default=None)


def _steps_in(checkpoint: Path | None) -> int:
    return int(checkpoint.name.partition("-")[2]) if checkpoint else 0


def _whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return checkpoint.name.partition("-")[2].isdigit()


def _defaults(args: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's arguments, and what the machine decides where the recipe is silent."""
    import torch

    machine = {
        "use_cpu": not torch.accelerator.is_available(),
        "bf16": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    return {**machine, **args}


def _set_aside(folder: Path, dropped: list[Dropped], too_long: str) -> None:
    write_jsonl(folder / "train_dropped.jsonl", dropped)
    if not dropped:
        return
    example = f"{dropped[0].id}: {dropped[0].reason}, {dropped[0].detail}"
    if too_long == "stop":
        raise UserError(
            f"{len(dropped)} rows cannot be trained on ({example}). Mend them, raise train.max_length, or set "
            "train.too_long=drop"
        )
    say(f"{len(dropped)} rows set aside in {folder / 'train_dropped.jsonl'} ({example})")


def _check_labels(prepared: Any, rendered: list[dict[str, list[int]]]) -> None:
    """What the trainer will learn from must be what we rendered, token for token: TRL has ways to cut and to filter."""
    assert len(prepared) == len(rendered) or "seq_lengths" in prepared.column_names, (
        f"{len(prepared)} of {len(rendered)} rows"
    )
    learned = sum(label != -100 for row in prepared["labels"] for label in row)
    expected = sum(label != -100 for row in rendered for label in row["labels"])
    assert learned == expected, f"the trainer would learn {learned} tokens, we rendered {expected}"


def _save(trainer: Any, tokenizer: Any, folder: Path) -> None:
    """Under its name only when complete: a folder `model` is always a whole model."""
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    trainer.save_model(str(partial))
    tokenizer.save_pretrained(partial)
    (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle that loads the trainer's whole world
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _watcher() -> Any:
    """A callback that shows steps, rate, time left and the loss."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.note = ""
            self.bar = progress("training", state.max_steps - state.global_step, "step")
            self.advance = self.bar.__enter__()

        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.note = f"loss {float(logs['loss']):.4f}"

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.advance(1, self.note)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.__exit__(None, None, None)

    return Watch()


if __name__ == "__main__":
    command("train", "limo.train", "Fine-tune a model on a curated set.")
