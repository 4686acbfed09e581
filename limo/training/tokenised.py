"""The rows of a supervised training as token ids on the disk.

Rank 0 reads the rows in batches, renders and audits them (`limo/chat.py`, `training/audit.py`) and writes their tokens
with `datasets.Dataset.from_generator` into `tokens/` of the run's folder, which every rank then maps into memory. What
is held is the length of each row. A run that resumes finds tokens that were made from the same rows in the same way.
"""

import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from limo.data import Example, Message, content_id, dump, read_jsonl, replacing
from limo.errors import UserError
from limo.parallel import chunked
from limo.run import content_hash
from limo.training.launch import run_on_main
from limo.training.rows import check_rows, columns, prepare, refuse_dropped
from limo.training.settings import Supervised

_Messages = list[dict[Literal["role", "content"], str]]
BATCH = 512  # rows read, rendered and written at once


@dataclass(frozen=True)
class Tokens:
    """What is trained on: a dataset of token ids, and the tokens of each of its rows."""

    dataset: Any
    lengths: "array[int]"
    dropped: int  # rows that cannot be trained on
    unit: str = "chains"  # what a row is: chains, or pairs


def read_examples(path: str) -> Iterator[Example]:
    """The rows of a training set in JSONL or Parquet, streamed."""
    yield from (read_parquet if path.lower().endswith(".parquet") else read_jsonl)(path)


def read_parquet(path: str | Path) -> Iterator[Example]:
    """The examples of a file that `limo.data.write_parquet` wrote, streamed. Raises UserError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    check = TypeAdapter(_ParquetRow)
    try:
        with pq.ParquetFile(Path(path).expanduser()) as table:
            wanted = [field.name for field in fields(_ParquetRow) if field.name in table.schema_arrow.names]
            rows = (row for some in table.iter_batches(batch_size=BATCH, columns=wanted) for row in some.to_pylist())
            for number, row in enumerate(rows, 1):
                try:
                    yield check.validate_python(row).to_example()
                except ValidationError as error:
                    first = error.errors()[0]
                    raise UserError(
                        f"{path}, row {number}: {first['loc'][0]}: {first['msg']}. Read foreign files as a pool source"
                    ) from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class _ParquetRow:
    """The columns of a training set in Parquet, in TRL's prompt/completion format."""

    id: str
    prompt: Annotated[_Messages, Field(min_length=1)]
    completion: Annotated[_Messages, Field(max_length=1)]
    answer: str | None = None
    source: str | None = None
    weight: float | None = None

    def to_example(self) -> Example:
        said = self.completion[0]["content"] if self.completion else ""
        prompt = tuple(Message(role=m["role"], content=m["content"]) for m in self.prompt)
        weight = 1.0 if self.weight is None else self.weight
        return Example(self.id, prompt, self.answer or "", said, weight=weight, source=self.source or "")


def tokenise(tokenizer: Any, settings: Supervised, folder: Path) -> Tokens:
    """The rows of `settings.data` as token ids; the last row of the dataset has no label and is in no length.

    Dropped rows go to `train_dropped.jsonl` in the run's `folder` with their reasons. All ranks call it. Raises
    UserError for rows that would train something else than their completion, and where no row can be trained on.
    """
    import numpy as np
    import pyarrow.compute as pc

    dropped = folder / "train_dropped.jsonl"
    words = content_id([tokenizer.chat_template, len(tokenizer), sorted(tokenizer.get_vocab().items())[:1000]])
    made_from = [settings.max_length, settings.too_long, settings.system, settings.weighting, words]
    name = content_id([content_hash(Path(settings.data).expanduser()), *made_from])

    def build() -> Any:
        return cached_dataset(lambda: _generate(tokenizer, settings, dropped), folder / "tokens" / name, name)

    def build_first() -> None:
        for old in (folder / "tokens").glob("*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)
        build()

    run_on_main(build_first)
    dataset = build()  # the other ranks find it done
    sizes = pc.list_value_length(dataset.data.column("input_ids")).to_numpy()[:-1]
    with dropped.open("rb") as lines:
        return Tokens(dataset, array("i", sizes.astype(np.int32).tobytes()), sum(1 for _ in lines))


def cached_dataset(generate: Callable[[], Iterable[dict[str, Any]]], folder: Path, name: str) -> Any:
    """A `datasets.Dataset` of generated rows in `folder`, made once; `name` is its fingerprint.

    A UserError raised by the generator is raised as it is.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    raised: list[Exception] = []

    def watched() -> Iterator[dict[str, Any]]:
        try:
            yield from generate()
        except (UserError, OSError) as error:
            raised.append(error)
            raise

    try:
        return Dataset.from_generator(watched, cache_dir=str(folder), fingerprint=name)
    except DatasetGenerationError:
        if raised:
            raise raised[0] from None
        raise


def describe(tokens: Tokens, max_length: int) -> str:
    """Rows, tokens and lengths in one line."""
    lengths = sorted(tokens.lengths)
    at = {share: lengths[min(int(share * len(lengths)), len(lengths) - 1)] for share in (0.5, 0.9)}
    return (
        f"{len(lengths):,} rows, {sum(lengths):,} tokens; a row has {at[0.5]:,} tokens (median), {at[0.9]:,} (90 %), "
        f"{lengths[-1]:,} (longest; the limit is {max_length:,})"
    )


def _generate(tokenizer: Any, settings: Supervised, dropped: Path) -> Iterator[dict[str, Any]]:
    """The rows of `columns`, batch by batch; the shortest one without labels comes last."""
    idle: dict[str, Any] = {}
    gone, example, weights = 0, None, False
    with replacing(dropped) as file:
        for rows in chunked(read_examples(settings.data), BATCH):
            prepared = prepare(tokenizer, rows, settings.max_length)
            check_rows(tokenizer, prepared.rows, prepared.rendered, settings.system, settings.data)
            for row in prepared.dropped:
                file.write(dump(row.to_json()))
                gone, example = gone + 1, example or row
            for entry in columns(prepared, settings.weighting):
                if len(entry["input_ids"]) < len(idle.get("input_ids", [])) or not idle:
                    idle = {**entry, "labels": [-100] * len(entry["labels"])}
                weights = weights or bool(entry.get("weight", 1.0))
                yield entry
    refuse_dropped(settings, gone, example, left=bool(idle))
    if not weights:
        raise UserError("every row has the weight 0: there is nothing to train on")
    yield {**idle, **({"weight": 0.0, "share": 0.0} if settings.weighting else {})}
