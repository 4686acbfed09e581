"""Preference training on pairs of completions, with TRL's DPOTrainer and any loss of four log-probabilities.

    python -m limo.train recipe=dpo
    python -m limo.train recipe=dpo 'train.loss={_target_: limo.preference.discopop, tau: 0.05}' train.warmup=0.3

Everything but the loss is TRL's: the reference is the model before the training (under LoRA the model without its
adapter), live or computed beforehand (`args.precompute_ref_log_probs`). Pairs are rendered and audited as chains are
for `limo.train.sft`, and ranks, sharding, checkpoints and what is kept are the same. The command looks at the loss
first (`limo/lossplot.py`): one that begins by pushing pairs the wrong way needs a warm-up with DPO.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from limo.adapters import check_quantize, lora_config
from limo.arguments import accumulation, check_args, rows_at_once
from limo.data import content_id, dump, replacing
from limo.errors import UserError
from limo.fit import Shape, claimed, configured, fit, loaded, quiet_trl, tokenizer_of
from limo.hub import check_push, push_trained
from limo.launch import Devices, drop_others_plans, first, hide_others, joined, ranks, told
from limo.ledger import cache_folder
from limo.lossplot import look_at, resolved
from limo.manifest import Step, read_manifest
from limo.model import load_model, model_folder
from limo.pairs import Pairs, describe_pairs, prepare_pairs, read_pairs
from limo.preference import dpo
from limo.progress import say
from limo.recipe import files_in
from limo.rows import check_rows, set_aside
from limo.sharding import sharded


def prefer(
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
    loss: str | dict[str, Any],
    warmup: float,
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
    """Train `model` to prefer the chosen completion of each pair of `data`, and save it in `out`/model.

    Args, beside those of `limo.train.sft`: `data` and `eval_data` as `limo.pairs.read_pairs` takes them, `max_length`
    tokens of a prompt with either of its completions, `global_batch` pairs per optimizer step over all devices, `loss`
    a function as in `limo/preference.py` by its dotted path or as a node with constants of its own, `warmup` the share
    of steps that DPO takes first, `args` of `trl.DPOConfig` under its own names, `beta` among them.

    Returns the results also kept in the manifest. Raises UserError for wrong settings, data that cannot be trained on,
    and a loss whose first steps go the wrong way without a warm-up.
    """
    folder = Path(out)
    settings = {k: v for k, v in locals().items() if k not in ("out", "folder")}
    if look:
        return _look(settings)
    hide_others(devices)
    if not read_manifest(folder).get("train", {}).get("finished"):
        check_args(args, pairs=True)
        check(settings)
    drop_others_plans()
    with joined():
        told(lambda: str(model_folder(model)))  # one rank downloads or converts; the others find it done
        source = model_folder(model)
        local = [p for p in (data, eval_data, *files_in({"loss": loss})) if p and Path(p).expanduser().exists()]
        with claimed(folder, settings, [source, *local]) as step:
            if step.finished:
                say(f"already trained: {folder / 'model'} ({step.entry['seconds']:.0f} s at the time)")
            else:
                _train(step, settings, source)
            results = dict(step.results or step.entry["results"])
        if first():
            push_trained(folder, args)
        return results


def check(settings: Mapping[str, Any]) -> None:
    """Raise UserError for what can be known to be wrong before anything is loaded.

    A loss that begins the wrong way with no warm-up to lead it out is among it.
    """
    check_quantize(settings)
    check_push(settings["args"])
    if not 0 <= settings["warmup"] <= 1:
        raise UserError(f"train.warmup is the share of steps with DPO, from 0 to 1, not {settings['warmup']}")
    found = look_at(resolved(settings["loss"], "train.loss"), settings["args"].get("beta", 0.1))
    if found.wrong and not settings["warmup"]:
        raise UserError(
            f"train.loss: {found.wrong[0]}. Set train.warmup=0.3 to begin with DPO for three tenths of the steps, take "
            "a larger ratio of beta to tau, or another loss; python -m limo.losses plot draws them"
        )


def _look(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Show pairs by mask, chosen and rejected, and what the audit finds; nothing is trained."""
    from rich.console import Console

    from limo.audit import look, reasons

    if not first():
        return {}
    tokenizer = tokenizer_of(settings, model_folder(settings["model"]))
    pairs = _read(settings, tokenizer, settings["data"])
    console = Console()
    sides = [list(zip(*side, strict=True))[: settings["look"]] for side in pairs.sides()]
    for both in zip(*sides, strict=True):
        for name, (row, tokens) in zip(("chosen", "rejected"), both, strict=True):
            console.print(f"{name}:", style="bold")
            console.print(look(tokenizer, row, tokens), soft_wrap=True)
            for reason in reasons(tokenizer, row, tokens, settings["system"]):
                console.print(f"! {reason}", style="bold red")
    if pairs.rows:
        say(describe_pairs(pairs))
    say(f"{len(pairs.dropped)} rows would be set aside. Nothing was trained: leave out train.look to train")
    return {"rows": len(pairs.rows), "dropped": len(pairs.dropped)}


def _read(settings: Mapping[str, Any], tokenizer: Any, path: str) -> Pairs:
    return prepare_pairs(tokenizer, read_pairs(path), settings["system"], settings["max_length"])


def _train(step: Step, settings: Mapping[str, Any], source: Path) -> None:
    quiet_trl()
    tokenizer = tokenizer_of(settings, source)
    pairs = _prepared(settings, tokenizer, step.folder / "train_dropped.jsonl")
    say(describe_pairs(pairs))
    rows = rows_at_once(settings["args"])
    shape = Shape(accumulation(settings["global_batch"], rows, ranks()), rows, None)
    shards = sharded(settings["sharding"])
    config = _config(settings, step.folder / "checkpoints", shards, shape)

    held_out = _read(settings, tokenizer, settings["eval_data"]) if settings["eval_data"] else None

    def make() -> Any:
        return _trainer(settings, source, tokenizer, pairs, held_out, config)

    def measure(trainer: Any) -> dict[str, float]:
        assert held_out, "asked for only where there are held-out pairs"
        return _held_out(trainer, held_out, settings["args"].get("beta", 0.1), step.folder / "held_out.jsonl")

    fit(step, settings, source, tokenizer, pairs, shape, config, shards, make, measure if held_out else None)


def _held_out(trainer: Any, pairs: Pairs, beta: float, file: Path) -> dict[str, float]:
    """Write what the trained model makes of each pair of `eval_data`, and return the share that it prefers rightly.

    A row has the pair's id and `chosen` and `rejected`, the log-ratios of policy to reference in nats.
    """
    trainer.held_out.clear()
    trainer.evaluate()
    rewards = trainer.held_out
    assert len(rewards) == len(pairs.rows), (len(rewards), len(pairs.rows))
    if first():
        with replacing(file) as rows:
            for row, (chosen, rejected) in zip(pairs.rows, rewards, strict=True):
                rows.write(dump({"id": row.id, "chosen": chosen / beta, "rejected": rejected / beta}))
    return {"held_out_accuracy": sum(c > r for c, r in rewards) / len(rewards)}


def _prepared(settings: Mapping[str, Any], tokenizer: Any, dropped: Path) -> Pairs:
    """Pairs as token ids. Rank 0 sets aside and audits, so that what is wrong is found and said once."""
    mine: list[Pairs] = []

    def checked() -> None:
        mine.append(_read(settings, tokenizer, settings["data"]))
        set_aside(mine[0], dropped, settings["too_long"], settings["data"])
        for rows, rendered in mine[0].sides():
            check_rows(tokenizer, rows, rendered, settings["system"], settings["data"])

    told(checked)
    return mine[0] if mine else _read(settings, tokenizer, settings["data"])


def _config(settings: Mapping[str, Any], checkpoints: Path, shards: Mapping[str, Any], shape: Shape) -> Any:
    from trl import DPOConfig

    return configured(DPOConfig, settings, checkpoints, shards, shape)


def _trainer(
    settings: Mapping[str, Any], source: Path, tokenizer: Any, pairs: Pairs, held_out: Pairs | None, config: Any
) -> Any:
    """The trainer, ready to train."""
    from transformers import set_seed

    from limo.trainers import Pairwise

    set_seed(settings["seed"])  # an adapter is made before the trainer would do this
    model = loaded(settings, source, tokenizer, config, packing=False)
    alone = not settings["lora"] and not (config.precompute_ref_log_probs and not config.fsdp)
    reference = None
    if alone:  # TRL would load it by the name in the model's config, which a folder of ours does not have
        kind = model.config._attn_implementation
        dtype = str(model.dtype).removeprefix("torch.")
        reference = load_model(source, dtype, settings["trust_remote_code"], attn_implementation=kind)
    steps = -(-len(pairs.rows) // settings["global_batch"]) * config.num_train_epochs
    steps = config.max_steps if config.max_steps > 0 else steps
    try:
        return Pairwise(
            model,
            ref_model=reference,
            args=config,
            train_dataset=_dataset(pairs),
            eval_dataset=_dataset(held_out) if held_out else None,
            processing_class=tokenizer,
            peft_config=lora_config(settings["lora"]) if settings["lora"] else None,
            pair_loss=resolved(settings["loss"], "train.loss"),
            warm_loss=dpo,
            warm_steps=round(settings["warmup"] * steps),
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"cannot set up the training: {' '.join(str(error).split())}") from error


def _dataset(pairs: Pairs) -> Any:
    """The pairs as a dataset in the cache.

    There all ranks, and later trainings on the same pairs from the same model, find the reference's log-probabilities
    that one has written.
    """
    from datasets import Dataset, load_from_disk

    columns = pairs.columns()
    folder = cache_folder() / "pairs" / content_id(columns)

    def write() -> str:
        if not folder.exists():
            part = folder.with_name(f".{folder.name}.{os.getpid()}")
            Dataset.from_list(columns).save_to_disk(str(part))
            if folder.exists():  # another process was faster
                shutil.rmtree(part)
            else:
                part.rename(folder)
        return str(folder)

    return load_from_disk(told(write))
