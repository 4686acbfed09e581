"""Runs a training: everything that supervised and preference training have in common.

A recipe's `train` section names `limo.train.sft` or `limo.prefer.prefer`. Each makes a trainer from rows. This module
runs it: it claims the run's folder, resumes from a checkpoint, shows the bar, handles SIGTERM, and at the end writes
the model, its card and the manifest, each of which appears under its name only once it is whole.
"""

import logging
import os
import pickle
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from limo.console import Table, readable, say
from limo.data import dump, replacing
from limo.errors import Interrupted, UserError
from limo.machine import is_main, quiet_deepspeed, world_size
from limo.model import model_folder
from limo.processes import keeping_freed_memory
from limo.run import Step, claim, lock_run, read_manifest
from limo.training.batches import Shape
from limo.training.checkpoints import check_resumable, has_checkpoint, last_checkpoint, steps_in
from limo.training.launch import (
    check_sharding,
    count_bytes,
    drop_accelerate_plans,
    name_sharding,
    offloads,
    process_group,
    run_on_main,
    shard_arguments,
)
from limo.training.models import load_trained_model, lora_config, save_model
from limo.training.rows import Tokens
from limo.training.settings import Preference, Training, check_args


@dataclass(frozen=True)
class Job:
    """A training that is ready to run: its settings and rows, the split of a step into forward passes, and TRL's
    configuration.
    """

    settings: Training
    step: Step
    source: Path  # the folder of the model to train
    tokenizer: Any
    tokens: Tokens
    shape: Shape
    shards: Mapping[str, Any]  # of `shard_arguments`
    config: Any

    def make_trainer(self, kind: type[Any], own: Callable[[Any], Mapping[str, Any]]) -> Any:
        """Load the model and make a trainer of this class. `own` returns, given the model, the arguments that only this
        class takes.

        Raises UserError with the libraries' message if they reject the settings.
        """
        from transformers import set_seed

        packing = self.shape.tokens is not None
        model = load_trained_model(self.settings, self.source, self.tokenizer, self.config, packing)
        more = own(model)
        set_seed(self.settings.seed)  # an adapter is made before the trainer would do this
        try:
            return kind(
                model,
                args=self.config,
                train_dataset=self.tokens.dataset,
                processing_class=self.tokenizer,
                peft_config=lora_config(self.settings.lora),
                **more,
            )
        except (ValueError, ImportError, RuntimeError) as error:  # a missing package, layers that do not exist
            raise UserError(f"cannot set up the training: {' '.join(str(error).split())}") from error


def check_before_loading(settings: Training) -> None:
    """Raise UserError for what is wrong before anything is loaded. A finished run is not checked again."""
    if is_finished(settings):
        return
    check_args(settings.args, settings.config)
    lora_config(settings.lora)
    offloads(settings.sharding)  # whether there is such a sharding
    if isinstance(settings, Preference) and not settings.warmup:
        from limo.training.preference import examine_loss, load_loss

        found = examine_loss(load_loss(settings.loss, "train.loss"), settings.beta)
        if found.problems:
            raise UserError(
                f"train.loss: {found.problems[0]}. Set train.warmup=0.3 to begin with DPO for three tenths of the "
                "steps, a larger ratio of beta to tau, or another loss"
            )


def is_finished(settings: Training) -> bool:
    """Whether the run's manifest records this training as finished."""
    return bool(read_manifest(settings.out).get("train", {}).get("finished"))


def run_training(settings: Training, read: Sequence[str | Path], train: Callable[[Step, Path], None]) -> dict[str, Any]:
    """Claim the run's folder and call `train` with the step and the model's folder, unless it is finished.

    `read` are the files that the training reads, beside the model. Returns the results kept in the manifest.
    """
    drop_accelerate_plans()
    with process_group(), ExitStack() as stack:

        def begin() -> Step:
            folder = Path(settings.out)
            checkpoints = folder / "checkpoints"  # without a whole checkpoint, a change of settings loses nothing
            begun = [checkpoints] if has_checkpoint(checkpoints) else []
            step = stack.enter_context(claim(folder, "train", settings.recorded(), [source, *read], begun))
            if not step.finished:
                stack.enter_context(lock_run(checkpoints, "training"))
            return step

        run_on_main(lambda: str(model_folder(settings.model)))  # one rank downloads or converts
        source = model_folder(settings.model)
        step = run_on_main(begin)  # rank 0 reads and writes the manifest, the other ranks get its content
        if step.finished:
            say(f"already trained: {step.folder / 'model'} ({step.entry['seconds']:.0f} s at the time)")
        else:
            quiet_deepspeed()
            for library in ("trl", "accelerate"):  # we check what they warn about
                logging.getLogger(library).setLevel(logging.ERROR)
            train(step, source)
        return dict(step.results or step.entry["results"])


def make_job(settings: Training, step: Step, source: Path, tokenizer: Any, tokens: Tokens, shape: Shape) -> Job:
    """Make the job, with TRL's configuration."""
    shards = shard_arguments(settings.sharding)
    config = configure(settings, step.folder / "checkpoints", shape, shards)
    return Job(settings, step, source, tokenizer, tokens, shape, shards, config)


def configure(settings: Training, checkpoints: Path, shape: Shape, shards: Mapping[str, Any]) -> Any:
    """Make TRL's configuration from the recipe's `args`, its other settings, and the devices of this machine."""
    import torch
    import trl
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # set by an earlier training in the same process
    args, gpu = dict(settings.args), torch.accelerator.is_available()
    for key in ("activation_offloading", "use_liger_kernel"):
        if args.get(key) and not gpu:
            raise UserError(f"train.args.{key} needs a GPU, and there is none here")
    if "fsdp_config" in shards:  # FSDP recomputes activations itself; otherwise it would happen twice
        again = args.pop("activation_checkpointing", None)
        args |= {"gradient_checkpointing": False, "activation_checkpointing": None}
        shards = {**shards, "fsdp_config": {**shards["fsdp_config"], "activation_checkpointing": bool(again)}}
    unless_given = {
        "use_cpu": not gpu,
        "bf16": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,  # every weight is used in every pass; searching takes time
        "per_device_eval_batch_size": 1,  # a step is sized for the device, and little memory is left beside its states
    }
    ours: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "max_length": None,  # rows that are too long are dropped already
        "per_device_train_batch_size": shape.rows,
        "gradient_accumulation_steps": shape.forwards,
        "seed": settings.seed,
        "disable_tqdm": True,
        "save_total_limit": None,  # training/callbacks.py removes old ones once the new one is whole
        "logging_nan_inf_filter": False,  # would hide the losses that stop the run
    }
    if settings.config == "SFTConfig":
        ours |= {"padding_free": shape.tokens is not None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    try:
        config = getattr(trl, settings.config)(**{**unless_given, **args, **ours, **shards})
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"train.args: {str(error).splitlines()[0]}") from error
    if config.n_gpu > 1:  # one process trains on one GPU
        config._n_gpu = 1
    return config


def fit(job: Job, make: Callable[[], Any], measure: Callable[[Any], Mapping[str, float]] = lambda _: {}) -> None:
    """Train from the last whole checkpoint to the end, and write model, card and results to the step's folder.

    `make` returns the trainer; `measure` is called with it at the end, by all ranks, and returns more results. Raises
    Interrupted if SIGTERM ended the training; its state is saved.
    """
    kind, folder = name_sharding(job.config), job.step.folder
    last = run_on_main(lambda: last_checkpoint(folder / "checkpoints"))
    if last:
        check_resumable(last, world_size(), kind)
        say(f"resuming from {last}")
    trainer = make()
    stop, average = add_callbacks(trainer, job, kind, last)
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    start = time.monotonic()
    try:
        with keeping_freed_memory() if trainer.args.device.type == "cpu" else nullcontext():
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    except pickle.UnpicklingError:
        raise UserError(
            f"{last} holds pickled objects, which are never loaded: remove it, or the run's folder"
        ) from None
    seconds = time.monotonic() - start
    if stop.stopped:
        ended = Interrupted(
            f"stopped by SIGTERM after step {trainer.state.global_step}, which is saved: run the same command again to "
            "resume"
        )
        ended.silent = not is_main()
        raise ended
    held = {f"{what}_bytes": size for what, size in count_bytes(trainer).items()}
    if average:
        average.load_into(trainer.model)
    measured = measure(trainer)
    save_model(trainer, job.tokenizer, job.settings, job.source, folder)
    _finish(job, trainer, seconds, steps_in(last), {**held, **measured})


def add_callbacks(trainer: Any, job: Job, kind: str, last: Path | None) -> tuple[Any, Any]:
    """Add the callbacks. Returns `Checkpoints`, which knows whether SIGTERM ended the training, and `Average`
    or None.
    """
    from transformers.trainer_callback import PrinterCallback

    from limo.training.callbacks import Average, Bar, Checkpoints, LogWindow, UntilAccuracy

    shape, tokens, args = job.shape, job.tokens, job.settings.args
    each = f"at most {shape.tokens:,} tokens" if shape.tokens else f"{shape.rows} {tokens.unit}"
    say(
        f"devices: {world_size()}, {kind}. A step: {job.settings.global_batch} {tokens.unit}; forward passes on each "
        f"device: {shape.forwards} of {each}"
    )
    trainer.remove_callback(PrinterCallback)  # the bar shows the loss
    stop = Checkpoints(
        lambda: check_sharding(trainer, job.shards), args.get("save_total_limit"), ranks=world_size(), kind=kind
    )
    if until := getattr(job.settings, "until_accuracy", None):
        trainer.add_callback(UntilAccuracy(until))
    per_step = sum(tokens.lengths) * job.settings.global_batch / len(tokens.lengths)
    average = Average(job.settings.average, last) if job.settings.average else None
    # Mean and window must be written before the checkpoint is marked whole
    for callback in filter(None, (Bar(per_step), average, LogWindow(trainer, last), stop)):
        trainer.add_callback(callback)
    return stop, average


def _finish(job: Job, trainer: Any, seconds: float, steps_before: int, more: Mapping[str, float]) -> None:
    """Fill in the step's results; rank 0 writes the log and the card. `steps_before` is the number of steps of the
    checkpoint that the process resumed from.
    """
    step, tokens, state = job.step, job.tokens, trainer.state
    history = [entry for entry in state.log_history if "loss" in entry]
    evals = [entry for entry in state.log_history if "eval_loss" in entry]
    step.tokens = round(sum(tokens.lengths) * (state.epoch or 0))
    step.outputs = [step.folder / "model"]
    own_tokens = step.tokens * (1 - steps_before / max(state.global_step, 1))
    step.results = {
        "rows": len(tokens.lengths),
        "dropped": tokens.dropped,
        "steps": state.global_step,
        "epochs": state.epoch or 0,
        "first_loss": history[0]["loss"] if history else None,
        "last_loss": history[-1]["loss"] if history else None,
        "eval_loss": evals[-1]["eval_loss"] if evals else None,
        "tokens_per_second": round(own_tokens / seconds),
        "devices": world_size(),
        **more,
    }
    if not is_main():
        return
    with replacing(step.folder / "train_log.jsonl") as log:
        log.writelines(dump(entry) for entry in [*history, *evals])
    write_model_card(step, job.settings, tokens.unit)
    for name in ("tokens",) if job.settings.keep_checkpoints else ("tokens", "checkpoints"):
        shutil.rmtree(step.folder / name, ignore_errors=True)
    say(
        f"trained on {len(tokens.lengths)} {tokens.unit}, {state.global_step} steps, {step.tokens:,} tokens "
        f"in {seconds:.0f} s: {step.folder / 'model'}"
    )


def write_model_card(step: Step, settings: Training, unit: str) -> None:
    """Write README.md into the run's model folder, from its settings and results."""
    from huggingface_hub import ModelCard, ModelCardData

    model, base, entry = step.folder / "model", settings.model, step.entry
    data = ModelCardData(
        library_name="peft" if (model / "adapter_config.json").is_file() else "transformers",
        base_model=base if "/" in base and not base.startswith((".", "/", "~", "runs/")) else None,
        tags=["limo", "dpo" if unit == "pairs" else "sft", "trl"],
        pipeline_tag="text-generation",
    )
    shown = {key: value for key, value in asdict(settings).items() if value is not None and key not in ("look", "out")}
    recipe = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    taught = "It was trained to prefer the chosen completion of each to the rejected one."
    if unit != "pairs":
        taught = "The loss covered only the completions and the ends of their turns."
    about = f"`{base}`, fine-tuned on {step.results['rows']:,} {unit} of `{Path(settings.data).name}`"
    digest, versions = entry["inputs"].get(settings.data, ""), ", ".join(map(" ".join, entry["versions"].items()))
    results = Table(("", ""), [readable(*item) for item in step.results.items()]).markdown()
    commit = f"; code at commit {entry['commit']}" if entry.get("commit") else ""
    text = f"# {step.folder.name}\n\n{about} (SHA-256 `{digest}`).\n{taught}\n\n{results}\n\n"
    text += f"## Recipe\n\n```yaml\n{recipe}```\n\nMade with {versions}{commit}.\n"
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(model / "README.md")
