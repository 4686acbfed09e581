"""What every training does around its steps, whatever it learns from.

A recipe's `train` section names `limo.train.sft` or `limo.prefer.prefer`. Each makes a trainer of rows; here it is run:
the claim on the run's folder, the checkpoint to go on from, bar and SIGTERM, and at the end the model, its card and the
manifest, each under its name only once it is whole.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from limo.adapters import quantization
from limo.arguments import machine
from limo.checkpoints import as_kind, check_resumable, last_checkpoint, locked, remove_broken, steps_in
from limo.errors import Interrupted, UserError
from limo.launch import first, ranks, told
from limo.manifest import Step, claim
from limo.model import load_model, load_tokenizer, quiet_deepspeed
from limo.processes import keep_freed_memory
from limo.progress import say
from limo.render import pad_id, set_template, turn_end
from limo.rows import Learned
from limo.saving import finish, save
from limo.sharding import check_sharding, held_bytes

Config = TypeVar("Config")


@dataclass(frozen=True)
class Shape:
    """How a step is cut: forward passes on each rank, and padded rows or packed tokens in each."""

    forwards: int
    rows: int
    tokens: int | None


def fit(
    step: Step,
    settings: Mapping[str, Any],
    source: Path,
    tokenizer: Any,
    prepared: Learned,
    shape: Shape,
    config: Any,
    shards: Mapping[str, Any],
    make: Callable[[], Any],
    measure: Callable[[Any], Mapping[str, float]] | None = None,
) -> None:
    """Train from the last whole checkpoint to the end, and keep model, card and results in the step's folder.

    Args: `make` gives the trainer; it is called after `config` is made, since under ZeRO-3 weights are shared out as
    they are loaded. `measure` is called with it at the end, by all ranks, and returns more results to keep. Raises
    Interrupted where SIGTERM ended the training, which is saved.
    """
    kind = as_kind(config.deepspeed, bool(config.fsdp))
    last = told(lambda: _resumable(step.folder / "checkpoints", kind))
    trainer = make()
    stop = watched(trainer, settings, prepared, shape, shards, kind)
    if last:
        say(f"going on from {last}")
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(step.folder / "tensorboard"))
    if trainer.args.device.type == "cpu":
        keep_freed_memory()
    start = time.monotonic()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = time.monotonic() - start
    if stop.stopped:
        at = trainer.state.global_step
        ended = Interrupted(f"stopped by SIGTERM after step {at}, which is saved: run the same command again to go on")
        ended.told = not first()
        raise ended
    held = held_bytes(trainer)
    measured = measure(trainer) if measure else {}
    save(trainer, tokenizer, settings, source, step.folder)
    finish(step, settings, trainer, prepared, seconds, steps_in(last), held)
    step.results |= measured


def configured(
    made: Callable[..., Config],
    settings: Mapping[str, Any],
    checkpoints: Path,
    shards: Mapping[str, Any],
    shape: Shape,
    **ours: Any,
) -> Config:
    """TRL's configuration `made` of the recipe's arguments and what follows from the rest of it.

    Raises UserError with TRL's own words for arguments that it refuses.
    """
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # of a training before this one in the same process
    ours |= {
        "output_dir": str(checkpoints),
        "max_length": None,  # rows that are too long are gone already
        "per_device_train_batch_size": shape.rows,
        "gradient_accumulation_steps": shape.forwards,
        "seed": settings["seed"],
        "disable_tqdm": True,
        "save_total_limit": None,  # ours waits until the new one is whole
    }
    args = machine(settings["args"])
    args.pop("push_to_hub", None)  # TRL would upload its checkpoints; ours is the finished model (limo/hub.py)
    if "fsdp_config" in shards:  # FSDP computes layers again by itself; both would do so twice
        again = args.pop("activation_checkpointing", None)
        args = {**args, "gradient_checkpointing": False, "activation_checkpointing": None}
        shards = {**shards, "fsdp_config": {**shards["fsdp_config"], "activation_checkpointing": bool(again)}}
    try:
        return made(**{**args, **ours, **shards})
    except UserError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"train.args: {str(error).splitlines()[0]}") from error


def loaded(settings: Mapping[str, Any], source: Path, tokenizer: Any, config: Any, packing: bool) -> Any:
    """The model to train, which will end its answers where a turn ends; the tokenizer gets what it pads with."""
    from transformers import AutoConfig

    from limo.attention import attention

    trusted, dtype = settings["trust_remote_code"], loaded_as(settings, config)
    kind = attention(
        settings["attention"],
        AutoConfig.from_pretrained(source, trust_remote_code=trusted),
        packing=packing,
        half=dtype != "float32" or config.bf16 or config.fp16,
    )
    model = load_model(source, dtype, trusted, attn_implementation=kind, **quantization(settings["quantize"]))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id(tokenizer, turn_end(tokenizer)))
    stop_at(model, turn_end(tokenizer))
    return model


@contextmanager
def claimed(folder: Path, settings: Mapping[str, Any], read: list[Any]) -> Iterator[Step]:
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


def tokenizer_of(settings: Mapping[str, Any], source: Path) -> Any:
    """The model's tokenizer with the recipe's chat template."""
    tokenizer = load_tokenizer(source, settings["trust_remote_code"], template=False)
    set_template(tokenizer, settings["chat_template"])
    return tokenizer


def _resumable(checkpoints: Path, kind: str) -> Path | None:
    """The checkpoint to go on from. Half-written ones are removed. Raises UserError if it cannot be gone on from."""
    for broken in remove_broken(checkpoints):
        say(f"{broken} was not written to the end, and is removed")
    last = last_checkpoint(checkpoints)
    if last:
        check_resumable(last, ranks(), kind)
    return last


def loaded_as(settings: Mapping[str, Any], config: Any) -> str:
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


def stop_at(model: Any, end: int) -> None:
    """Sampling from the model ends where a turn ends, also if the model was made for plain text."""
    known = model.generation_config.eos_token_id
    others = known if isinstance(known, list) else [] if known is None else [known]
    model.generation_config.eos_token_id = [end, *(e for e in others if e != end)]


def watched(
    trainer: Any, settings: Mapping[str, Any], prepared: Learned, shape: Shape, shards: Mapping[str, Any], kind: str
) -> Any:
    """Add the callbacks; returns the one that says whether SIGTERM ended the training."""
    from transformers.trainer_callback import PrinterCallback

    from limo.watch import Bar, Ready, Stop, Whole

    trainer.remove_callback(PrinterCallback)  # the bar shows the loss
    args, stop = settings["args"], Stop()
    say(
        f"{ranks()} device{'s' * (ranks() > 1)}, {kind}: {settings['global_batch']} {prepared.unit} a step, "
        + f"in {shape.forwards} forward pass{'es' * (shape.forwards > 1)} on each of "
        + (f"at most {shape.tokens:,} tokens" if shape.tokens else f"{shape.rows} {prepared.unit}")
    )
    trainer.add_callback(Ready(lambda: check_sharding(trainer, shards)))
    trainer.add_callback(Bar(sum(prepared.lengths) * settings["global_batch"] / len(prepared.rows)))
    trainer.add_callback(stop)
    made_with = {"ranks": ranks(), "kind": kind, "weights_only": bool(args.get("save_only_model"))}
    trainer.add_callback(Whole(args.get("save_total_limit"), **made_with))
    return stop


def quiet_trl() -> None:
    """Libraries keep to errors: what they warn of is checked here."""
    quiet_deepspeed()
    for library in ("trl", "accelerate"):
        logging.getLogger(library).setLevel(logging.ERROR)
