"""Preference training on pairs of completions, with TRL's DPOTrainer and any pair loss.

    python -m limo.train recipe=dpo
    python -m limo.train recipe=dpo 'train.loss={_target_: limo.training.preference.discopop, tau: 0.05}'
    train.warmup=0.3

Everything but the loss is TRL's: the reference is the model before the training (under LoRA the model without its
adapter), live or computed beforehand (`args.precompute_ref_log_probs`). Pairs are rendered and audited as chains are
for `limo.train.sft`; ranks, sharding and checkpoints are the same. The loss is examined first (`training/examine.py`):
one whose first steps push pairs the wrong way needs a warm-up with DPO.
"""

from array import array
from pathlib import Path
from typing import Any

from limo.data import content_id, dump, replacing, write_jsonl
from limo.errors import UserError
from limo.machine import cache_folder, is_main, world_size
from limo.model import load_model, model_folder
from limo.progress import say
from limo.recipe import input_files
from limo.run import Step
from limo.training.audit import check_row, print_rows
from limo.training.batches import padded_shape
from limo.training.examine import examine_loss, load_loss
from limo.training.fit import Job, check_settings, fit, make_job, run_training
from limo.training.launch import run_on_main
from limo.training.models import load_trained_tokenizer
from limo.training.pairs import Pairs, describe_pairs, prepare_pairs, read_pairs
from limo.training.rows import Tokens, cached_dataset, refuse_dropped
from limo.training.settings import Preference


def prefer(settings: Preference) -> dict[str, Any]:
    """Train a model to prefer the chosen completion of each pair, and save it in `out`/model.

    `data` and `eval_data` are read by `limo.training.pairs.read_pairs`; `max_length` counts a prompt with either of its
    completions. Returns the results also kept in the manifest. Raises UserError for wrong settings, data that cannot be
    trained on, and a loss whose first steps go the wrong way without a warm-up.
    """
    if settings.look:
        return _look(settings)
    check_prefer(settings)
    paths = (settings.data, settings.eval_data, *input_files({"loss": settings.loss}))
    read = [path for path in paths if path and Path(path).expanduser().exists()]
    return run_training(settings, read, lambda step, source: _train(settings, step, source))


def check_prefer(settings: Preference) -> None:
    """Raise UserError for what is wrong before anything is loaded, a loss that begins the wrong way among it."""
    check_settings(settings)
    found = examine_loss(load_loss(settings.loss, "train.loss"), settings.beta)
    if found.problems and not settings.warmup:
        raise UserError(
            f"train.loss: {found.problems[0]}. Set train.warmup=0.3 to begin with DPO for three tenths of the steps, a "
            "larger ratio of beta to tau, or another loss"
        )


def _look(settings: Preference) -> dict[str, Any]:
    """Print pairs by their loss mask, chosen and rejected, and what the audit finds; nothing is trained."""
    if not is_main():
        return {}
    tokenizer = load_trained_tokenizer(settings, model_folder(settings.model))
    pairs = _read(settings, tokenizer, settings.data)
    print_rows(tokenizer, list(pairs.sides())[: 2 * settings.look], settings.system)
    if pairs.rows:
        say(describe_pairs(pairs))
    say(f"{len(pairs.dropped)} rows would be dropped. Nothing was trained: remove train.look to train")
    return {"rows": len(pairs.rows), "dropped": len(pairs.dropped)}


def _read(settings: Preference, tokenizer: Any, path: str) -> Pairs:
    return prepare_pairs(tokenizer, read_pairs(path), settings.system, settings.max_length)


def _train(settings: Preference, step: Step, source: Path) -> None:
    tokenizer = load_trained_tokenizer(settings, source)
    pairs = _read(settings, tokenizer, settings.data)
    run_on_main(lambda: _check(pairs, settings, tokenizer, step.folder / "train_dropped.jsonl"))
    say(describe_pairs(pairs))
    tokens = Tokens(_make_dataset(pairs), array("i", pairs.lengths), len(pairs.dropped), "pairs")
    job = make_job(settings, step, source, tokenizer, tokens, padded_shape(settings, world_size()))
    held_out = _read(settings, tokenizer, settings.eval_data) if settings.eval_data else None

    def measure(trainer: Any) -> dict[str, float]:
        return _measure(trainer, held_out, settings.beta, step.folder / "held_out.jsonl") if held_out else {}

    fit(job, lambda: _make_trainer(job, settings, held_out), measure)


def _check(pairs: Pairs, settings: Preference, tokenizer: Any, dropped: Path) -> None:
    """Write the pairs that are dropped, and raise UserError for those that must not be trained on."""
    write_jsonl(dropped, pairs.dropped)
    refuse_dropped(settings, len(pairs.dropped), next(iter(pairs.dropped), None), left=bool(pairs.rows))
    for _, row, rendered in pairs.sides():
        check_row(tokenizer, row, rendered, settings.system, settings.data)


def _measure(trainer: Any, pairs: Pairs, beta: float, file: Path) -> dict[str, float]:
    """Write the trained model's rewards of each pair of `eval_data`, and return the fraction that it prefers correctly.

    A row has the pair's id and `chosen` and `rejected`, the log-ratios of policy to reference in nats.
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


def _make_trainer(job: Job, settings: Preference, held_out: Pairs | None) -> Any:
    from limo.training.trainers import PairTrainer

    config, model, reference = job.config, job.load_model(), None
    if not settings.lora and not (config.precompute_ref_log_probs and not config.fsdp):
        # TRL would load it by the name in the model's config, which a local folder does not have
        kind = model.config._attn_implementation
        reference = load_model(job.source, str(model.dtype).removeprefix("torch."), attn_implementation=kind)
    steps = -(-len(job.tokens.lengths) // settings.global_batch) * config.num_train_epochs
    steps = config.max_steps if config.max_steps > 0 else steps
    return job.make_trainer(
        PairTrainer,
        model,
        ref_model=reference,
        eval_dataset=_make_dataset(held_out) if held_out else None,
        pair_loss=load_loss(settings.loss, "train.loss"),
        warm_steps=round(settings.warmup * steps),
    )


def _make_dataset(pairs: Pairs) -> Any:
    """The pairs as a dataset in the cache.

    There all ranks, and later trainings on the same pairs from the same model, find the reference's log-probabilities
    that one has written.
    """
    columns = pairs.columns()
    folder = cache_folder() / "pairs" / content_id(columns)
    run_on_main(lambda: len(cached_dataset(lambda: columns, folder)))
    return cached_dataset(lambda: columns, folder)
