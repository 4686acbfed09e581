"""Preference training on pairs of completions, with TRL's DPOTrainer and any pair loss.

    python -m limo.train recipe=dpo
    python -m limo.train recipe=dpo 'train.loss={_target_: limo.training.preference.discopop, tau: 0.05}'
    train.warmup=0.3

Everything but the loss is TRL's: the reference is the model before the training (under LoRA the model without its
adapter), live or computed beforehand (`args.precompute_ref_log_probs`). Pairs are rendered and audited as chains are
for `limo.train.sft`; ranks, sharding and checkpoints are the same. The loss is examined first: one whose first steps
push pairs the wrong way needs a warm-up with DPO.
"""

from array import array
from pathlib import Path
from statistics import fmean, median
from typing import Any

from limo.chat import MASKED
from limo.console import say
from limo.data import content_id, dump, replacing, write_jsonl
from limo.machine import cache_folder, is_main, world_size
from limo.model import load_model, model_folder
from limo.recipe import input_files
from limo.run import Step
from limo.training.audit import check_row, show_rows
from limo.training.batches import padded_shape
from limo.training.fit import Job, check_before_loading, fit, make_job, run_training
from limo.training.launch import run_on_main
from limo.training.models import load_trained_tokenizer
from limo.training.preference import load_loss
from limo.training.rows import Prepared, Tokens, cached_dataset, prepare, read_pairs, refuse_dropped
from limo.training.settings import Preference

BALANCED = 0.35, 0.65  # fractions of pairs whose chosen one is longer between which length tells little


def prefer(settings: Preference) -> dict[str, Any]:
    """Train a model to prefer the chosen completion of each pair, and save it; returns the manifest's results."""
    if settings.look:
        return _look(settings)
    check_before_loading(settings)
    paths = (settings.data, settings.eval_data, *input_files({"loss": settings.loss}))
    read = [path for path in paths if path and Path(path).expanduser().exists()]
    return run_training(settings, read, lambda step, source: _train(settings, step, source))


def _look(settings: Preference) -> dict[str, Any]:
    tokenizer = load_trained_tokenizer(settings, model_folder(settings.model))
    pairs = _read(settings, tokenizer, settings.data)
    if pairs.rows:
        say(describe_pairs(pairs))
    return show_rows(tokenizer, settings, list(pairs.titled()), len(pairs.rows), pairs.dropped)


def _read(settings: Preference, tokenizer: Any, path: str) -> Prepared:
    return prepare(tokenizer, read_pairs(path, settings.system), settings.max_length, pairs=True)


def _train(settings: Preference, step: Step, source: Path) -> None:
    tokenizer = load_trained_tokenizer(settings, source)
    pairs = _read(settings, tokenizer, settings.data)

    def check() -> None:
        write_jsonl(step.folder / "train_dropped.jsonl", pairs.dropped)
        refuse_dropped(settings, len(pairs.dropped), next(iter(pairs.dropped), None), left=bool(pairs.rows))
        for _, row, rendered in pairs.titled():
            check_row(tokenizer, row, rendered, settings.system, settings.data)

    run_on_main(check)
    say(describe_pairs(pairs))
    tokens = Tokens(_make_dataset(pairs), array("i", pairs.lengths), len(pairs.dropped), "pairs")
    job = make_job(settings, step, source, tokenizer, tokens, padded_shape(settings, world_size()))
    held_out = _read(settings, tokenizer, settings.eval_data) if settings.eval_data else None

    def measure(trainer: Any) -> dict[str, float]:
        return _measure(trainer, held_out, settings.beta, step.folder / "held_out.jsonl") if held_out else {}

    def make() -> Any:
        from limo.training.trainers import PairTrainer

        return job.make_trainer(PairTrainer, lambda model: _for_pairs(job, settings, model, held_out))

    fit(job, make, measure)


def _measure(trainer: Any, pairs: Prepared, beta: float, file: Path) -> dict[str, float]:
    """Write the log-ratios of policy to reference for each held-out pair. Returns the share of pairs that are ranked
    correctly.
    """
    trainer.held_out.clear()
    trainer.evaluate()
    rewards = trainer.held_out
    assert len(rewards) == len(pairs.rows), (len(rewards), len(pairs.rows))
    if is_main():
        with replacing(file) as rows:
            for row, (chosen, rejected) in zip(pairs.rows, rewards, strict=True):
                rows.write(dump({"id": row.id, "chosen": chosen / beta, "rejected": rejected / beta}))
    return {"held_out_accuracy": sum(c > r for c, r in rewards) / len(rewards)}


def _for_pairs(job: Job, settings: Preference, model: Any, held_out: Prepared | None) -> dict[str, Any]:
    """The arguments that only `PairTrainer` takes."""
    config, reference = job.config, None
    if not settings.lora and not (config.precompute_ref_log_probs and not config.fsdp):
        # TRL would load it by the name in the model's config, which a local folder does not have
        kind = model.config._attn_implementation
        reference = load_model(job.source, str(model.dtype).removeprefix("torch."), attn_implementation=kind)
    steps = -(-len(job.tokens.lengths) // settings.global_batch) * config.num_train_epochs
    steps = config.max_steps if config.max_steps > 0 else steps
    return {
        "ref_model": reference,
        "eval_dataset": _make_dataset(held_out) if held_out else None,
        "pair_loss": load_loss(settings.loss, "train.loss"),
        "warm_steps": round(settings.warmup * steps),
    }


def _make_dataset(pairs: Prepared) -> Any:
    """Make a dataset of the pairs in the cache, where later trainings find the reference's log-probabilities."""
    columns = pair_columns(pairs)
    folder = cache_folder() / "pairs" / content_id(columns)
    run_on_main(lambda: len(cached_dataset(lambda: columns, folder)))
    return cached_dataset(lambda: columns, folder)


def pair_columns(pairs: Prepared) -> list[dict[str, list[int]]]:
    """The columns of a pair as TRL names them, each with token ids: prompt_ids, chosen_ids, rejected_ids."""
    found = []
    for (ids, labels), (others, _) in pairs.sides:
        start = labels.count(MASKED)
        found.append({"prompt_ids": ids[:start], "chosen_ids": ids[start:], "rejected_ids": others[start:]})
    return found


def describe_pairs(pairs: Prepared) -> str:
    """Describe pairs in one line: their number, median tokens, and how often the chosen completion is the longer one
    (equal lengths count half).
    """
    chosen, rejected = zip(*((len(p["chosen_ids"]), len(p["rejected_ids"])) for p in pair_columns(pairs)), strict=True)
    longer = fmean(0.5 + (c > r) / 2 - (c < r) / 2 for c, r in zip(chosen, rejected, strict=True))
    text = (
        f"{len(chosen):,} pairs; the chosen completion has {median(chosen):,.0f} tokens (median), the rejected one "
        f"{median(rejected):,.0f}; it is the longer one in {longer:.0%}"
    )
    if not BALANCED[0] <= longer <= BALANCED[1]:
        which = "longer" if longer > 0.5 else "shorter"
        text += f": preferring the {which} one is a large part of what there is to learn"
    return text
