"""Supervised fine-tuning on a curated set, with TRL, on one device or many; the command of every training.

    python -m limo.train recipe=demo
    python -m limo.train recipe=demo train.look=5      # show rows by their loss mask, and stop

The command uses every visible GPU: it starts a rank on each, or joins those that `torchrun` or `accelerate launch` have
started (`training/launch.py`). Rows are rendered by `limo/chat.py` and audited by `training/audit.py`. Nothing is
truncated: a row longer than `max_length` is dropped with its reason or stops the run. A killed run resumes from its
last whole checkpoint, with the curve of one that was not killed.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from limo.chat import MASKED
from limo.command import command
from limo.console import say
from limo.errors import UserError
from limo.machine import world_size
from limo.model import model_folder
from limo.processes import override, run_to_end
from limo.recipe import bound_settings
from limo.run import CHOSEN, Step, control_file, missing_control, read_manifest, trained_sets
from limo.sources import training_rows
from limo.training.audit import check_row, show_rows
from limo.training.batches import supervised_shape
from limo.training.fit import Job, check_before_loading, fit, is_finished, make_job, run_training
from limo.training.launch import offloads, start_ranks
from limo.training.models import load_trained_tokenizer
from limo.training.rows import describe_rows, prepare, tokenise
from limo.training.settings import Supervised, Training

LOOKED_AT = 100_000  # rows that `train.look` reads, of a set that may have millions


def sft(settings: Supervised) -> dict[str, Any]:
    """Fine-tune a model on prompt/completion rows and save it in `out`/model; returns the manifest's results."""
    if settings.look:
        return _look(settings)
    check_sft(settings)
    read = [file for file in (settings.data, settings.eval_data) if file]
    return run_training(settings, read, lambda step, source: _train(settings, step, source))


def check_sft(settings: Training) -> None:
    """Raise UserError for mistakes that can be found before anything is loaded."""
    check_before_loading(settings)
    for file in filter(None, (settings.data, settings.eval_data)):
        if not Path(file).expanduser().exists():
            raise UserError(f"no such file '{file}'. Curate first, or give another path with train.data=")


def _look(settings: Supervised) -> dict[str, Any]:
    tokenizer = load_trained_tokenizer(settings, model_folder(settings.model))
    prepared = prepare(tokenizer, islice(training_rows(settings.data, settings.system), LOOKED_AT), settings.max_length)
    return show_rows(tokenizer, settings, list(prepared.titled()), len(prepared.rows), prepared.dropped)


def _train(settings: Supervised, step: Step, source: Path) -> None:
    tokenizer = load_trained_tokenizer(settings, source)
    tokens = tokenise(tokenizer, settings, step)
    say(describe_rows(tokens, settings.max_length))
    shape = supervised_shape(settings, tokens.lengths, world_size())
    job = make_job(settings, step, source, tokenizer, tokens, shape)
    held_out = _read_held_out(job, settings) if settings.eval_data else None

    def make() -> Any:
        from limo.training.trainers import ChainTrainer

        given = {"settings": settings, "lengths": tokens.lengths, "shape": shape, "eval_dataset": held_out}
        return job.make_trainer(ChainTrainer, lambda _: given)

    fit(job, make)


def _read_held_out(job: Job, settings: Supervised) -> Any:
    """Read the held-out rows as a dataset, with rows without labels that fill the last batch of all ranks."""
    from datasets import Dataset

    assert settings.eval_data
    prepared = prepare(job.tokenizer, training_rows(settings.eval_data, settings.system), settings.max_length)
    if not prepared.rows:
        raise UserError(f"no row of train.eval_data={settings.eval_data} fits into max_length")
    for row, rendered in zip(prepared.rows, prepared.rendered, strict=True):
        check_row(job.tokenizer, row, rendered, settings.system, settings.eval_data)
    shortest = min(prepared.rendered, key=lambda rendered: len(rendered.input_ids))
    idle = shortest._replace(labels=[MASKED] * len(shortest.labels))
    missing = -len(prepared.rows) % (job.config.eval_batch_size * world_size())
    return Dataset.from_list([rendered._asdict() for rendered in [*prepared.rendered, *[idle] * missing]])


def train_others(settings: Training, arguments: Sequence[str]) -> None:
    """Train each control set and each further seed as a separate run with the same settings."""
    sets = trained_sets(settings.out, settings.controls or (), settings.seeds or ())
    for (name, seed), folder in sets.items():
        data = settings.data if name == CHOSEN else str(control_file(settings.data, name))
        if folder == Path(settings.out):
            continue
        if not Path(data).is_file():
            say(f"not trained: {missing_control(settings.data, name)}")
            continue
        if read_manifest(folder).get("train", {}).get("finished"):
            continue
        say(f"the set '{name}'{'' if seed is None else f' with seed {seed}'}, into {folder} ...")
        own: dict[str, Any] = {"out": str(folder), "train.data": data, "train.controls": [], "train.seeds": None}
        own |= {} if seed is None else {"train.seed": seed}
        run_to_end("limo.train", [*arguments, *(override(key, value) for key, value in own.items())], folder)


def on_all_devices(section: Mapping[str, Any], arguments: Sequence[str]) -> int | None:
    """Start a rank for each device that a section of the recipe requests. Returns their exit code; None if this process
    trains alone.
    """
    settings: Training = bound_settings(section, "train")
    if settings.look:
        return None
    (check_sft if isinstance(settings, Supervised) else check_before_loading)(settings)
    if "RANK" not in os.environ:
        train_others(settings, arguments)
    if is_finished(settings):
        return None
    return start_ranks(settings.devices, offloads(settings.sharding), "limo.train", arguments)


if __name__ == "__main__":
    command("train", "limo.train", on_all_devices)
