"""The rows of a supervised training: read, rendered, checked, and kept as token ids on the disk.

Rank 0 renders and audits the rows (`limo/chat.py`, `training/audit.py`) and writes their tokens with
`datasets.Dataset.from_generator` into `tokens/` of the run's folder, which every rank then maps into memory. What is
held is the length of each row. What cannot be trained on is dropped with its reason, or stops the run.
"""

import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limo.chat import MASKED, Rendered, render
from limo.data import Dropped, Example, Row, content_id, dump, replacing
from limo.errors import UserError
from limo.progress import say
from limo.run import Step
from limo.sources import training_rows
from limo.training.audit import check_row
from limo.training.launch import run_on_main
from limo.training.losses import row_weight
from limo.training.settings import Supervised, Training

MAX_WEIGHT = 1e9  # of a row: their sums stay far below what float32 holds


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows to train on, each with its tokens, and those that were dropped."""

    rows: list[Example]
    rendered: list[Rendered]
    dropped: list[Dropped]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, prompt and completion together."""
        return [len(r.input_ids) for r in self.rendered]


@dataclass(frozen=True)
class Tokens:
    """What is trained on: a dataset of token ids, and the tokens of each of its rows."""

    dataset: Any
    lengths: "array[int]"
    dropped: int  # rows that cannot be trained on
    unit: str = "chains"  # what a row is: chains, or pairs


def prepare(tokenizer: Any, rows: Iterable[Row], max_length: int) -> Prepared:
    """Token ids and labels of each row. Rows without a completion or above `max_length` tokens are dropped whole."""
    prepared = Prepared([], [], [])
    for row in rows:
        tokens = render_row(tokenizer, row, max_length)
        if isinstance(tokens, Dropped):
            prepared.dropped.append(tokens)
        else:
            assert isinstance(row, Example)
            prepared.rows.append(row)
            prepared.rendered.append(tokens)
    return prepared


def render_row(tokenizer: Any, row: Row, max_length: int) -> Rendered | Dropped:
    """Token ids and labels of a row, or why it is not trained on."""
    if isinstance(row, Dropped):
        return row
    if not row.completion.strip():
        return Dropped(row.id, "train", "no completion", data=row.to_json())
    tokens = render(tokenizer, row)
    length = len(tokens.input_ids)
    return tokens if length <= max_length else drop_long(row, length, max_length)


def drop_long(row: Example, length: int, max_length: int) -> Dropped:
    """The reason why a row with too many tokens is not trained on."""
    detail = f"{length} tokens; the limit is max_length={max_length}"
    return Dropped(row.id, "train", "too long", detail, data=row.to_json())


def refuse_dropped(settings: Training, dropped: int, example: Dropped | None, left: bool) -> None:
    """Raise UserError if rows were dropped and the recipe wants to stop then, or if none is `left`. Print how many."""
    why = f"{example.id}: {example.reason}, {example.detail}".rstrip(", ") if example else ""
    if dropped and settings.too_long == "stop":
        raise UserError(
            f"{dropped} rows of {settings.data} cannot be trained on ({why}). Fix them, raise train.max_length, or set "
            "train.too_long=drop"
        )
    if not left:
        reason = f"no row of {settings.data} can be trained on: {why}" if dropped else f"{settings.data} has no rows"
        raise UserError(f"{reason}. Curate first, or choose less strictly")
    if dropped:
        say(f"{dropped} rows dropped, see train_dropped.jsonl ({why})")


def tokenise(tokenizer: Any, settings: Supervised, step: Step) -> Tokens:
    """The rows of `settings.data` as token ids; the last row of the dataset has no label and is in no length.

    Dropped rows go to `train_dropped.jsonl` in the run's folder with their reasons. A resumed run finds the tokens that
    were made before. All ranks call it. Raises UserError for rows that would train something else than their
    completion, and where no row can be trained on.
    """
    import numpy as np
    import pyarrow.compute as pc

    dropped = step.folder / "train_dropped.jsonl"
    name = content_id([step.entry["settings"], step.entry["inputs"], tokenizer.chat_template])
    folder = step.folder / "tokens" / name

    def build() -> Any:
        return cached_dataset(lambda: _generate(tokenizer, settings, dropped), folder)

    def build_first() -> None:
        if not folder.exists():  # those there were made with other settings
            shutil.rmtree(folder.parent, ignore_errors=True)
        build()

    run_on_main(build_first)
    dataset = build()  # the other ranks find it done
    sizes = pc.list_value_length(dataset.data.column("input_ids")).to_numpy()[:-1]
    with dropped.open("rb") as lines:
        return Tokens(dataset, array("i", sizes.astype(np.int32).tobytes()), sum(1 for _ in lines))


def cached_dataset(generate: Callable[[], Iterable[dict[str, Any]]], folder: Path) -> Any:
    """A `datasets.Dataset` of generated rows in `folder`, made once; the folder's name is its fingerprint.

    An error that a user can fix is raised as it is.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    def rows() -> Iterator[dict[str, Any]]:
        yield from generate()

    try:
        return Dataset.from_generator(rows, cache_dir=str(folder), fingerprint=folder.name)
    except DatasetGenerationError as error:
        raise (error.__cause__ if isinstance(error.__cause__, UserError | OSError) else error) from None


def describe(tokens: Tokens, max_length: int) -> str:
    """Rows, tokens and lengths in one line."""
    lengths = sorted(tokens.lengths)
    at = {share: lengths[min(int(share * len(lengths)), len(lengths) - 1)] for share in (0.5, 0.9)}
    return (
        f"{len(lengths):,} rows, {sum(lengths):,} tokens; a row has {at[0.5]:,} tokens (median), {at[0.9]:,} (90 %), "
        f"{lengths[-1]:,} (longest; the limit is {max_length:,})"
    )


def _generate(tokenizer: Any, settings: Supervised, file: Path) -> Iterator[dict[str, Any]]:
    """The columns of each row; the shortest one without labels comes last."""
    idle: dict[str, Any] = {}
    dropped, example, weights = 0, None, False
    with replacing(file) as lines:
        for row in training_rows(settings.data, settings.system):
            tokens = render_row(tokenizer, row, settings.max_length)
            if isinstance(tokens, Dropped):
                lines.write(dump(tokens.to_json()))
                dropped, example = dropped + 1, example or tokens
                continue
            assert isinstance(row, Example)
            check_row(tokenizer, row, tokens, settings.system, settings.data)
            entry: dict[str, Any] = {"input_ids": tokens.input_ids, "labels": tokens.labels}
            if settings.weighting:
                if not 0 <= row.weight <= MAX_WEIGHT:
                    raise UserError(f"row {row.id} has the weight {row.weight}: weights are 0 to {MAX_WEIGHT:g}")
                loss_tokens = len(tokens.labels) - tokens.labels.count(MASKED)
                entry["weight"], entry["share"] = row_weight(row.weight, loss_tokens, settings.weighting)
            if not idle or len(tokens.input_ids) < len(idle["input_ids"]):
                idle = {**entry, "labels": [MASKED] * len(tokens.labels)}
            weights = weights or bool(entry.get("weight", 1.0))
            yield entry
    refuse_dropped(settings, dropped, example, left=bool(idle))
    if not weights:
        raise UserError("every row has the weight 0: there is nothing to train on")
    yield {**idle, **({"weight": 0.0, "share": 0.0} if settings.weighting else {})}
