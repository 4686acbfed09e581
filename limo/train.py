"""Supervised fine-tuning on a curated set, with TRL, on one device or many.

    python -m limo.train recipe=demo
    python -m limo.train recipe=demo train.look=5      # show rows by what is learned of them, and stop

The command uses every visible GPU: it starts a rank on each, or joins those that `torchrun`, `accelerate launch` or
Slurm have started (`limo/launch.py`). Rows are rendered by `limo/render.py` and audited by `limo/audit.py` on the very
tokens that the loss sees. Nothing is cut: a row longer than `max_length` is dropped with its reason or stops the run,
as the recipe says. A killed run goes on from its last whole checkpoint, with the curve of one that was not.
"""

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from limo.adapters import check_saved, lora_config, merge, quantization
from limo.arguments import accumulation, check_args, machine, rows_at_once
from limo.batches import forwards_needed, steps_of
from limo.checkpoints import as_kind, check_resumable, last_checkpoint, locked, remove_broken, steps_in
from limo.data import dump, read_jsonl, replacing
from limo.errors import Interrupted, UserError
from limo.launch import (
    Devices,
    count_devices,
    drop_others_plans,
    first,
    hide_others,
    joined,
    rank,
    ranks,
    several,
    told,
    wait,
)
from limo.losses import Weighting
from limo.manifest import Step, claim, read_manifest
from limo.model import load_model, load_tokenizer, model_folder, quiet_deepspeed
from limo.progress import say
from limo.recipe import bind, command
from limo.render import pad_id, set_template, turn_end
from limo.rows import Prepared, check_rows, columns, describe, prepare, set_aside
from limo.sharding import check_sharding, held_bytes, offloads, sharded


def sft(
    *,
    out: str,
    model: str,
    dtype: str,
    chat_template: str | None,
    system: str | None,
    data: str,
    eval_data: str | None,
    max_length: int,
    too_long: Literal["drop", "stop"],
    seed: int,
    global_batch: int,
    packing: int | None,
    weighting: Weighting | None,
    lora: dict[str, Any] | None,
    quantize: str | None,
    merge_adapter: bool,
    devices: Devices,
    sharding: str,
    attention: str,
    keep_checkpoints: bool,
    look: int,
    args: dict[str, Any],
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Fine-tune `model` on the prompt/completion rows of `data` and save it in `out`/model.

    What is learned: `chat_template` null is the model's own, chatml or a .jinja file names one; every prompt must begin
    with the system message `system`, unless that is null; `max_length` tokens of prompt and completion together,
    `too_long` rows are dropped or stop the run; `weighting` of rows in the loss (`limo.losses.row_weight`), null is
    none. `eval_data` are rows whose loss is logged when `args.eval_strategy` says so.

    How: `global_batch` chains per optimizer step over all devices; `packing` tokens of one forward pass, whole chains
    without padding, or null for `args.per_device_train_batch_size` padded chains; `dtype` of the weights; `lora` takes
    peft.LoraConfig's arguments, `quantize` nf4, `merge_adapter` saves the whole model beside the adapter; `devices` all
    or a number; `sharding` as in `limo/sharding.py`; `attention` as in `limo/attention.py`; `args` go to
    `trl.SFTConfig` under its own names. `look` rows are shown instead of training.

    Returns the results also kept in the manifest: rows, tokens, steps, loss. Raises UserError for wrong settings or
    data that cannot be trained on.
    """
    folder = Path(out)
    settings = {k: v for k, v in locals().items() if k not in ("out", "folder")}
    if look:
        return _look(settings)
    hide_others(devices)
    if not read_manifest(folder).get("train", {}).get("finished"):
        check_args(args)  # before anything else is looked for; a finished run is told without importing TRL
    _check(settings)
    if drop_others_plans() and first():
        say("accelerate starts the ranks; sharding, precision and accumulation are the recipe's")
    with joined():
        told(lambda: str(model_folder(model)))  # one rank downloads or converts; the others find it done
        source = model_folder(model)
        read = [data, source, *([eval_data] if eval_data else [])]
        with _claimed(folder, settings, read) as step:
            if step.finished:
                say(f"already trained: {folder / 'model'} ({step.entry['seconds']:.0f} s at the time)")
            else:
                _train(step, settings, source)
            return dict(step.results or step.entry["results"])


def _check(settings: Mapping[str, Any]) -> None:
    """What can be known to be wrong before anything is loaded. Raises UserError."""
    for file in filter(None, (settings["data"], settings["eval_data"])):
        if not Path(file).expanduser().is_file():
            raise UserError(f"no such file '{file}'. Curate first, or give another path with train.data=")
    args, lora, quantize = settings["args"], settings["lora"], settings["quantize"]
    if quantize and not lora:
        raise UserError(
            f"train.quantize={quantize} freezes the weights: give train.lora={{r: 16}} to train beside them"
        )
    if quantize and settings["sharding"] not in ("ddp", "zero1", "zero2"):
        raise UserError(
            f"train.quantize={quantize} with train.sharding={settings['sharding']}: weights in four bits cannot be "
            "shared out. Take ddp, zero1 or zero2"
        )
    for key in ("label_smoothing_factor", "router_aux_loss_coef"):
        if settings["weighting"] and args.get(key):
            raise UserError(
                f"train.args.{key} and train.weighting: the weighted loss knows no such term. Leave one out"
            )


@contextmanager
def _claimed(folder: Path, settings: Mapping[str, Any], read: list[Any]) -> Iterator[Step]:
    """As `limo.manifest.claim`; rank 0 reads and writes the manifest, and the others are told."""
    mine: list[Step] = []
    with ExitStack() as stack:

        def begin() -> tuple[bool, dict[str, Any]]:
            begun = last_checkpoint(folder / "checkpoints")  # without one, other settings lose nothing
            step = claim(folder, "train", settings, inputs=read, begun=[begun] if begun else [])
            mine.append(stack.enter_context(step))
            if not mine[0].finished:
                stack.enter_context(locked(folder / "checkpoints"))
            return mine[0].finished, mine[0].entry

        finished, entry = told(begin)
        yield mine[0] if mine else Step(folder, "train", finished, entry)


def _look(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Show rows by mask, and what the audit finds; nothing is trained."""
    from rich.console import Console

    from limo.audit import look, reasons

    if not first():
        return {}
    tokenizer = _tokenizer(settings, model_folder(settings["model"]))
    prepared = prepare(tokenizer, list(read_jsonl(settings["data"])), settings["max_length"])
    console = Console()
    for row, tokens in list(zip(prepared.rows, prepared.rendered, strict=True))[: settings["look"]]:
        console.print(look(tokenizer, row, tokens), soft_wrap=True)
        for reason in reasons(tokenizer, row, tokens, settings["system"]):
            console.print(f"! {reason}", style="bold red")
    if prepared.rows:
        say(describe(prepared, settings["max_length"]))
    say(f"{len(prepared.dropped)} rows would be set aside. Nothing was trained: leave out train.look to train")
    return {"rows": len(prepared.rows), "dropped": len(prepared.dropped)}


def _tokenizer(settings: Mapping[str, Any], source: Path) -> Any:
    tokenizer = load_tokenizer(source, settings["trust_remote_code"], template=False)
    set_template(tokenizer, settings["chat_template"])
    return tokenizer


def _train(step: Step, settings: Mapping[str, Any], source: Path) -> None:
    quiet_deepspeed()
    for library in ("trl", "accelerate"):
        logging.getLogger(library).setLevel(logging.ERROR)  # what they warn of is checked here
    tokenizer = _tokenizer(settings, source)
    prepared = _prepared(settings, tokenizer, step.folder / "train_dropped.jsonl")
    say(describe(prepared, settings["max_length"]))
    shards = sharded(settings["sharding"])
    plan = _shape(settings, prepared, ranks())
    config = _config(settings, step.folder / "checkpoints", shards, plan)
    kind = as_kind(config.deepspeed, bool(config.fsdp))
    last = told(lambda: _resumable(step.folder / "checkpoints", kind))
    trainer = _trainer(settings, source, tokenizer, prepared, config, plan)
    stop = _watched(trainer, settings, prepared, plan, shards, kind)
    if last:
        say(f"going on from {last}")
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(step.folder / "tensorboard"))
    start = time.monotonic()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = time.monotonic() - start
    if stop.stopped:
        at = trainer.state.global_step
        ended = Interrupted(f"stopped by SIGTERM after step {at}, which is saved: run the same command again to go on")
        ended.told = not first()
        raise ended
    held = held_bytes(trainer)
    _save(trainer, tokenizer, settings, source, step.folder)
    _finish(step, settings, trainer, prepared, seconds, steps_in(last), held)


def _prepared(settings: Mapping[str, Any], tokenizer: Any, dropped: Path) -> Prepared:
    """Rows as token ids. Rank 0 sets aside and audits, so that what is wrong is found and said once."""

    def read() -> Prepared:
        return prepare(tokenizer, list(read_jsonl(settings["data"])), settings["max_length"])

    mine: list[Prepared] = []

    def checked() -> None:
        mine.append(read())
        set_aside(mine[0], dropped, settings["too_long"], settings["data"])
        check_rows(tokenizer, mine[0], settings["system"], settings["data"])

    told(checked)
    return mine[0] if mine else read()


@dataclass(frozen=True)
class Shape:
    """How a step is cut: forward passes on each rank, and padded chains or packed tokens in each."""

    forwards: int
    rows: int
    tokens: int | None


def _shape(settings: Mapping[str, Any], prepared: Prepared, count: int) -> Shape:
    tokens, batch, args = settings["packing"], settings["global_batch"], settings["args"]
    if not tokens:
        rows = rows_at_once(args)
        return Shape(accumulation(batch, rows, count), rows, None)
    n = len(prepared.rows)
    per_epoch = -(-n // batch)
    epochs = (
        -(-args["max_steps"] // per_epoch)
        if args.get("max_steps", -1) > 0
        else -(-args.get("num_train_epochs", 3) // 1)
    )
    steps = chain.from_iterable(steps_of(n, batch, settings["seed"], epoch) for epoch in range(int(epochs)))
    return Shape(forwards_needed(prepared.lengths, steps, count, tokens), 1, tokens)


def _config(settings: Mapping[str, Any], checkpoints: Path, shards: Mapping[str, Any], shape: Shape) -> Any:
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from trl import SFTConfig

    unset_hf_deepspeed_config()  # of a training before this one in the same process
    ours = {
        "output_dir": str(checkpoints),
        "max_length": None,  # rows that are too long are gone already
        "padding_free": shape.tokens is not None,
        "per_device_train_batch_size": shape.rows,
        "gradient_accumulation_steps": shape.forwards,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "seed": settings["seed"],
        "disable_tqdm": True,
        "save_total_limit": None,  # ours waits until the new one is whole
    }
    args = machine(settings["args"])
    if "fsdp_config" in shards:  # FSDP computes layers again by itself; both would do so twice
        again = args.pop("activation_checkpointing", None)
        args = {**args, "gradient_checkpointing": False, "activation_checkpointing": None}
        shards = {**shards, "fsdp_config": {**shards["fsdp_config"], "activation_checkpointing": bool(again)}}
    try:
        return SFTConfig(**{**args, **ours, **shards})
    except UserError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"train.args: {str(error).splitlines()[0]}") from error


def _resumable(checkpoints: Path, kind: str) -> Path | None:
    """The checkpoint to go on from. Half-written ones are removed. Raises UserError if it cannot be gone on from."""
    for broken in remove_broken(checkpoints):
        say(f"{broken} was not written to the end, and is removed")
    last = last_checkpoint(checkpoints)
    if last:
        check_resumable(last, ranks(), kind)
    return last


def _trainer(
    settings: Mapping[str, Any], source: Path, tokenizer: Any, prepared: Prepared, config: Any, shape: Shape
) -> Any:
    """The trainer, ready to train. After `config`, since under ZeRO-3 weights are shared out as they are loaded."""
    from datasets import Dataset
    from transformers import AutoConfig

    from limo.attention import attention
    from limo.trainers import Collator, Steps, Supervised

    trusted, dtype = settings["trust_remote_code"], _loaded_as(settings, config)
    kind = attention(
        settings["attention"],
        AutoConfig.from_pretrained(source, trust_remote_code=trusted),
        packing=shape.tokens is not None,
        half=dtype != "float32" or config.bf16 or config.fp16,
    )
    more = {"attn_implementation": kind, **quantization(settings["quantize"])}
    model = load_model(source, dtype, trusted, **more)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id(tokenizer, turn_end(tokenizer)))
    _stop_at(model, turn_end(tokenizer))
    held_out = _held_out(settings, tokenizer)
    adapters = lora_config(settings["lora"]) if settings["lora"] else None
    try:
        trainer = Supervised(
            model,
            args=config,
            train_dataset=Dataset.from_list(columns(prepared, settings["weighting"])),
            eval_dataset=Dataset.from_list(held_out) if held_out else None,
            processing_class=tokenizer,
            peft_config=adapters,
        )
    except (ValueError, ImportError, RuntimeError) as error:  # a package that is missing, layers that there are not
        raise UserError(f"cannot set up the training: {' '.join(str(error).split())}") from error
    trainer.data_collator = Collator(pad_token_id=tokenizer.pad_token_id, padding_free=shape.tokens is not None)
    trainer.steps = lambda seen: Steps(
        prepared.lengths,
        global_batch=settings["global_batch"],
        ranks=ranks(),
        rank=rank(),
        forwards=shape.forwards,
        rows=shape.rows,
        tokens=shape.tokens,
        seed=settings["seed"],
        seen=seen,
    )
    return trainer


def _loaded_as(settings: Mapping[str, Any], config: Any) -> str:
    """The recipe's dtype, but float32 where torch's optimizer would update whole 16-bit weights, as `limo.plan` has it.

    At small learning rates most updates are below their rounding. DeepSpeed and FSDP2 keep float32 weights themselves.
    """
    dtype = str(settings["dtype"])
    alone = not (config.deepspeed or config.fsdp or settings["lora"])
    if not alone or dtype == "float32" or not (config.bf16 or config.fp16):
        return dtype
    if first():
        say(f"weights are kept in float32 while they are trained, and saved in {dtype}")
    return "float32"


def _stop_at(model: Any, end: int) -> None:
    """Sampling from the model ends where a turn ends, also if the model was made for plain text."""
    known = model.generation_config.eos_token_id
    others = known if isinstance(known, list) else [] if known is None else [known]
    model.generation_config.eos_token_id = [end, *(e for e in others if e != end)]


def _held_out(settings: Mapping[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    if not settings["eval_data"]:
        return []
    prepared = prepare(tokenizer, list(read_jsonl(settings["eval_data"])), settings["max_length"])
    if not prepared.rows:
        raise UserError(f"no row of train.eval_data={settings['eval_data']} fits into max_length")
    check_rows(tokenizer, prepared, settings["system"], settings["eval_data"])
    return columns(prepared, None)[:-1]


def _watched(
    trainer: Any, settings: Mapping[str, Any], prepared: Prepared, shape: Shape, shards: Mapping[str, Any], kind: str
) -> Any:
    """Add the callbacks; returns the one that says whether SIGTERM ended the training."""
    from transformers.trainer_callback import PrinterCallback

    from limo.watch import Bar, Ready, Stop, Whole

    trainer.remove_callback(PrinterCallback)  # the bar shows the loss
    args, stop = settings["args"], Stop()
    say(
        f"{ranks()} device{'s' * (ranks() > 1)}, {kind}: {settings['global_batch']} chains a step, in {shape.forwards} "
        + f"forward pass{'es' * (shape.forwards > 1)} on each of "
        + (f"at most {shape.tokens:,} tokens" if shape.tokens else f"{shape.rows} chains")
    )
    trainer.add_callback(Ready(lambda: check_sharding(trainer, shards)))
    trainer.add_callback(Bar(sum(prepared.lengths) * settings["global_batch"] / len(prepared.rows)))
    trainer.add_callback(stop)
    made_with = {"ranks": ranks(), "kind": kind, "weights_only": bool(args.get("save_only_model"))}
    trainer.add_callback(Whole(args.get("save_total_limit"), **made_with))
    return stop


def _save(trainer: Any, tokenizer: Any, settings: Mapping[str, Any], source: Path, folder: Path) -> None:
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


def _finish(
    step: Step,
    settings: Mapping[str, Any],
    trainer: Any,
    prepared: Prepared,
    seconds: float,
    steps_before: int,
    held: Mapping[str, int],
) -> None:
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
    write_card(step.folder, settings, step.results, history, evals, step.entry)
    if not settings["keep_checkpoints"]:
        shutil.rmtree(step.folder / "checkpoints", ignore_errors=True)
    say(
        f"trained on {len(prepared.rows)} rows, {state.global_step} steps, {step.tokens:,} tokens in {seconds:.0f} s: "
        f"{step.folder / 'model'}"
    )


def on_all_devices(section: Mapping[str, Any]) -> int | None:
    """Start a rank for each device that a recipe's section asks for; None if this process is to train by itself."""
    settings = bind(section, "train").keywords  # type: ignore[attr-defined]
    hide_others(settings["devices"])
    finished = read_manifest(settings["out"]).get("train", {}).get("finished")
    if settings["look"] or (finished and (Path(settings["out"]) / "model").exists()):
        return None
    if "RANK" not in os.environ:
        check_args(settings["args"])
        count_devices(settings["devices"])
        _check(settings)
    return several(settings["devices"], offloads(settings["sharding"]), "limo.train", sys.argv[1:])


if __name__ == "__main__":
    command("train", "limo.train", "Fine-tune a model on a curated set.", on_all_devices)
