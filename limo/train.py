"""Supervised fine-tuning on a curated set, with TRL, on one device or many; the command of every training.

    python -m limo.train recipe=demo
    python -m limo.train recipe=demo train.look=5      # show rows by what is learned of them, and stop

The command uses every visible GPU: it starts a rank on each, or joins those that `torchrun`, `accelerate launch` or
Slurm have started (`limo/launch.py`). Rows are rendered by `limo/render.py` and audited by `limo/audit.py` on the very
tokens that the loss sees. Nothing is cut: a row longer than `max_length` is dropped with its reason or stops the run,
as the recipe says. A killed run goes on from its last whole checkpoint, with the curve of one that was not.
"""

import os
import sys
from collections.abc import Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from limo.adapters import check_quantize, lora_config
from limo.arguments import accumulation, check_args, rows_at_once
from limo.batches import forwards_needed, steps_of
from limo.command import command
from limo.data import read_jsonl
from limo.errors import UserError
from limo.fit import Shape, claimed, configured, fit, loaded, quiet_trl, tokenizer_of
from limo.hub import check_push, push_trained
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
)
from limo.losses import Weighting
from limo.manifest import Step, read_manifest
from limo.model import model_folder
from limo.progress import say
from limo.recipe import bind
from limo.rows import Prepared, check_rows, columns, describe, prepare, set_aside
from limo.sharding import offloads, sharded
from limo.tokenised import Tokenised, described, is_parquet, opened, read_parquet, tokenise

LOOKED_AT = 100_000  # rows that `train.look` counts, of a set that may have millions


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
    `too_long` rows are dropped or stop the run; `data` in JSONL is held in memory, in Parquet it is tokenised to the
    disk once and mapped (`limo/tokenised.py`); `weighting` of rows in the loss (`limo.losses.row_weight`), null is
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
        with claimed(folder, settings, read) as step:
            if step.finished:
                say(f"already trained: {folder / 'model'} ({step.entry['seconds']:.0f} s at the time)")
            else:
                _train(step, settings, source)
            results = dict(step.results or step.entry["results"])
        if first():
            push_trained(folder, args)
        return results


def _check(settings: Mapping[str, Any]) -> None:
    """What can be known to be wrong before anything is loaded. Raises UserError."""
    for file in filter(None, (settings["data"], settings["eval_data"])):
        if not Path(file).expanduser().is_file():
            raise UserError(f"no such file '{file}'. Curate first, or give another path with train.data=")
    check_quantize(settings)
    args = settings["args"]
    check_push(args)
    for key in ("label_smoothing_factor", "router_aux_loss_coef"):
        if settings["weighting"] and args.get(key):
            raise UserError(
                f"train.args.{key} and train.weighting: the weighted loss knows no such term. Leave one out"
            )


def _look(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Show rows by mask, and what the audit finds; nothing is trained."""
    from rich.console import Console

    from limo.audit import look, reasons

    if not first():
        return {}
    tokenizer = tokenizer_of(settings, model_folder(settings["model"]))
    rows = islice((read_parquet if is_parquet(settings["data"]) else read_jsonl)(settings["data"]), LOOKED_AT)
    prepared = prepare(tokenizer, list(rows), settings["max_length"])
    console = Console()
    for row, tokens in list(zip(prepared.rows, prepared.rendered, strict=True))[: settings["look"]]:
        console.print(look(tokenizer, row, tokens), soft_wrap=True)
        for reason in reasons(tokenizer, row, tokens, settings["system"]):
            console.print(f"! {reason}", style="bold red")
    if prepared.rows:
        say(describe(prepared, settings["max_length"]))
    say(f"{len(prepared.dropped)} rows would be set aside. Nothing was trained: leave out train.look to train")
    return {"rows": len(prepared.rows), "dropped": len(prepared.dropped)}


def _train(step: Step, settings: Mapping[str, Any], source: Path) -> None:
    quiet_trl()
    tokenizer = tokenizer_of(settings, source)
    prepared: Prepared | Tokenised
    if is_parquet(settings["data"]):
        told(lambda: tokenise(tokenizer, settings, step.folder / "tokens", step.folder / "train_dropped.jsonl"))
        prepared = opened(step.folder / "tokens")
        say(described(prepared, settings["max_length"]))
    else:
        prepared = _prepared(settings, tokenizer, step.folder / "train_dropped.jsonl")
        say(describe(prepared, settings["max_length"]))
    shards, shape = sharded(settings["sharding"]), _shape(settings, prepared, ranks())
    config = _config(settings, step.folder / "checkpoints", shards, shape)

    def make() -> Any:
        return _trainer(settings, source, tokenizer, prepared, config, shape)

    fit(step, settings, source, tokenizer, prepared, shape, config, shards, make)


def _prepared(settings: Mapping[str, Any], tokenizer: Any, dropped: Path) -> Prepared:
    """Rows as token ids. Rank 0 sets aside and audits, so that what is wrong is found and said once."""

    def read() -> Prepared:
        return prepare(tokenizer, list(read_jsonl(settings["data"])), settings["max_length"])

    mine: list[Prepared] = []

    def checked() -> None:
        mine.append(read())
        set_aside(mine[0], dropped, settings["too_long"], settings["data"])
        check_rows(tokenizer, mine[0].rows, mine[0].rendered, settings["system"], settings["data"])

    told(checked)
    return mine[0] if mine else read()


def _shape(settings: Mapping[str, Any], prepared: Prepared | Tokenised, count: int) -> Shape:
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
    from trl import SFTConfig

    packed = {"padding_free": shape.tokens is not None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return configured(SFTConfig, settings, checkpoints, shards, shape, **packed)


def _trainer(
    settings: Mapping[str, Any], source: Path, tokenizer: Any, prepared: Prepared | Tokenised, config: Any, shape: Shape
) -> Any:
    from datasets import Dataset

    from limo.trainers import Collator, Steps, Supervised

    model = loaded(settings, source, tokenizer, config, packing=shape.tokens is not None)
    held_out = _held_out(settings, tokenizer)
    adapters = lora_config(settings["lora"]) if settings["lora"] else None
    if isinstance(prepared, Tokenised):
        rows = prepared.dataset()
    else:
        rows = Dataset.from_list(columns(prepared, settings["weighting"]))
    try:
        trainer = Supervised(
            model,
            args=config,
            train_dataset=rows,
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


def _held_out(settings: Mapping[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    if not settings["eval_data"]:
        return []
    prepared = prepare(tokenizer, list(read_jsonl(settings["eval_data"])), settings["max_length"])
    if not prepared.rows:
        raise UserError(f"no row of train.eval_data={settings['eval_data']} fits into max_length")
    check_rows(tokenizer, prepared.rows, prepared.rendered, settings["system"], settings["eval_data"])
    return columns(prepared, None)[:-1]


def on_all_devices(section: Mapping[str, Any]) -> int | None:
    """Start a rank for each device that a recipe's section asks for; None if this process is to train by itself."""
    from limo.prefer import check as check_pairs

    bound = bind(section, "train")
    settings, pairs = bound.keywords, bound.func.__name__ == "prefer"  # type: ignore[attr-defined]
    hide_others(settings["devices"])
    finished = read_manifest(settings["out"]).get("train", {}).get("finished")
    if settings["look"] or (finished and (Path(settings["out"]) / "model").exists()):
        return None
    if "RANK" not in os.environ:
        check_args(settings["args"], pairs)
        count_devices(settings["devices"])
        (check_pairs if pairs else _check)(settings)
    return several(settings["devices"], offloads(settings["sharding"]), "limo.train", sys.argv[1:])


if __name__ == "__main__":
    command("train", "limo.train", "Fine-tune a model on a curated set.", on_all_devices)
