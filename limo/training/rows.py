"""The rows of a supervised training: read, rendered, checked, and kept as token ids on the disk.

Rank 0 renders and audits the rows (`limo/chat.py`, `training/audit.py`) and writes their tokens with
`datasets.Dataset.from_generator` into `tokens/` of the run's folder, which every rank then maps into memory. Only the
length of each row is held in memory. A row that cannot be trained on is dropped with its reason, or stops the run.

A file of pairs is one that this toolkit wrote (`pairs.jsonl`), or one in TRL's preference format, with columns prompt,
chosen and rejected as texts or as messages, where chosen and rejected may hold the prompt. It may also be the Hub name
of such a dataset, followed by `:split` if the split is not train.
"""

import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from limo.chat import MASKED, Rendered, in_chunks, render
from limo.console import say
from limo.data import Dropped, Example, Message, Row, content_id, dump, replacing
from limo.errors import UserError
from limo.run import Step
from limo.sources import hub_rows, training_rows
from limo.sources.files import read_rows
from limo.training.audit import check_row
from limo.training.launch import run_on_main
from limo.training.settings import Supervised, Training

MAX_WEIGHT = 1e9  # of a row, so that sums stay far below the range of float32


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows to train on with their tokens, and the dropped rows. A pair has two sides, any other row one."""

    rows: list[Example]
    sides: list[tuple[Rendered, ...]]
    dropped: list[Dropped]

    @property
    def rendered(self) -> list[Rendered]:
        """The first side of each row: the chain, or the chosen completion of a pair."""
        return [sides[0] for sides in self.sides]

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each row. The prompt of a pair counts twice, since both sides contain it."""
        return [sum(len(side.input_ids) for side in sides) for sides in self.sides]

    def titled(self) -> Iterator[tuple[str, Example, Rendered]]:
        """Yield each side with its name, its row and its tokens. The two sides of a pair follow each other."""
        for row, sides in zip(self.rows, self.sides, strict=True):
            names = ("chosen", "rejected") if len(sides) == 2 else ("",)
            yield from zip(names, (row, replace(row, completion=row.rejected)), sides, strict=False)


@dataclass(frozen=True)
class Tokens:
    """The rows to train on: a dataset of token ids, and the number of tokens of each row."""

    dataset: Any
    lengths: "array[int]"
    dropped: int  # rows that cannot be trained on
    unit: str = "chains"  # what a row is: chains, or pairs


def prepare(tokenizer: Any, rows: Iterable[Row], max_length: int, pairs: bool = False) -> Prepared:
    """Make token ids and labels of each row. Rows without a completion, or with more than `max_length` tokens, are
    dropped, not truncated.
    """
    prepared = Prepared([], [], [])
    for row in in_chunks(tokenizer, rows):
        sides = [row, replace(row, completion=row.rejected)] if pairs and isinstance(row, Example) else [row]
        rendered = [render_row(tokenizer, side, max_length) for side in sides]
        if lost := [tokens for tokens in rendered if isinstance(tokens, Dropped)]:
            prepared.dropped.append(lost[0])
        elif isinstance(row, Example):
            prepared.rows.append(row)
            prepared.sides.append(tuple(tokens for tokens in rendered if isinstance(tokens, Rendered)))
    return prepared


def render_row(tokenizer: Any, row: Row, max_length: int) -> Rendered | Dropped:
    """Make token ids and labels of a row, or return the reason why it cannot be trained on."""
    if isinstance(row, Dropped):
        return row
    if not row.completion.strip():
        return Dropped(row.id, "train", "no completion", data=row.to_json())
    tokens = render(tokenizer, row)
    length = len(tokens.input_ids)
    if length <= max_length:
        return tokens
    detail = f"{length} tokens; the limit is max_length={max_length}"
    return Dropped(row.id, "train", "too long", detail, data=row.to_json())


def refuse_dropped(settings: Training, dropped: int, example: Dropped | None, left: bool) -> None:
    """Print how many rows were dropped. Raises UserError if the recipe stops at dropped rows, or if none is `left`."""
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
    """Convert the rows of `settings.data` to token ids. The last row of the dataset has no labels and no entry in
    `lengths`; it fills incomplete batches.

    Dropped rows go to `train_dropped.jsonl` with their reasons. A resumed run reuses the tokens made before.
    All ranks call it. Raises UserError if no row can be trained on, or if a row fails the audit.
    """
    import numpy as np
    import pyarrow.compute as pc

    dropped = step.folder / "train_dropped.jsonl"
    name = content_id([step.entry["settings"], step.entry["inputs"], tokenizer.chat_template])
    folder = step.folder / "tokens" / name

    def build() -> Any:
        return cached_dataset(lambda: _generate(tokenizer, settings, dropped), folder)

    def build_first() -> None:
        if not folder.exists():  # tokens that are there were made with other settings
            shutil.rmtree(folder.parent, ignore_errors=True)
        build()

    run_on_main(build_first)
    dataset = build()  # the other ranks find it done
    sizes = pc.list_value_length(dataset.data.column("input_ids")).to_numpy()[:-1]
    with dropped.open("rb") as lines:
        return Tokens(dataset, array("i", sizes.astype(np.int32).tobytes()), sum(1 for _ in lines))


def cached_dataset(generate: Callable[[], Iterable[dict[str, Any]]], folder: Path) -> Any:
    """Make a `datasets.Dataset` of generated rows in `folder`, once. The folder's name is its fingerprint."""
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        return Dataset.from_generator(lambda: iter(generate()), cache_dir=str(folder), fingerprint=folder.name)
    except DatasetGenerationError as error:
        raise (error.__cause__ if isinstance(error.__cause__, UserError | OSError) else error) from None


def describe_rows(tokens: Tokens, max_length: int) -> str:
    """Describe rows in one line: their number, tokens and lengths."""
    lengths = sorted(tokens.lengths)
    at = {share: lengths[min(int(share * len(lengths)), len(lengths) - 1)] for share in (0.5, 0.9)}
    return (
        f"{len(lengths):,} rows, {sum(lengths):,} tokens; a row has {at[0.5]:,} tokens (median), {at[0.9]:,} (90 %), "
        f"{lengths[-1]:,} (longest; the limit is {max_length:,})"
    )


def _generate(tokenizer: Any, settings: Supervised, file: Path) -> Iterator[dict[str, Any]]:
    """Yield the columns of each row. The last one is the shortest row again, without labels."""
    idle: dict[str, Any] = {}
    dropped, example, weights = 0, None, False
    with replacing(file) as lines:
        for row in in_chunks(tokenizer, training_rows(settings.data, settings.system)):
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
                entry["weight"], entry["share"] = row.weight / loss_tokens, 1.0  # of each token, of the divisor
            if not idle or len(tokens.input_ids) < len(idle["input_ids"]):
                idle = {**entry, "labels": [MASKED] * len(tokens.labels)}
            weights = weights or bool(entry.get("weight", 1.0))
            yield entry
    refuse_dropped(settings, dropped, example, left=bool(idle))
    if not weights:
        raise UserError("every row has the weight 0: there is nothing to train on")
    yield {**idle, **({"weight": 0.0, "share": 0.0} if settings.weighting else {})}


def read_pairs(path: str, system: str | None = None) -> Iterator[Example | Dropped]:
    """Read the pairs of a file or Hub dataset. Other rows become Dropped. Raises UserError if there is no pair.

    A prompt without a system message gets `system`, unless that is None or empty.
    """
    file = Path(path).expanduser()
    if not file.exists() and path.count("/") == 1 and not path.startswith((".", "/", "~")):
        name, _, split = path.partition(":")
        raws = hub_rows(name, None, split or "train", None)
    elif not file.exists():
        raise UserError(f"no such file '{path}'. Curate first, or give another path as data")
    else:
        raws = read_rows(str(file))
    count = 0
    for number, value in raws:
        row = replace(value, file=path, row=number) if isinstance(value, Dropped) else _read_pair(value, number, path)
        if isinstance(row, Example):
            count += 1
            if system and row.prompt[0]["role"] != "system":
                row = replace(row, prompt=(Message(role="system", content=system), *row.prompt))
        yield row
    if not count:
        raise UserError(f"{path} has no pair: rows need prompt, chosen and rejected, or this toolkit's own columns")


def _read_pair(value: Any, number: int, path: str) -> Example | Dropped:
    try:
        if not isinstance(value, Mapping):
            raise TypeError("the row is not an object")
        row = Example.from_json(value) if "completion" in value else _from_trl(value, number)
        sides, reason, detail = {row.completion.strip(), row.rejected.strip()}, "", ""
        if "" in sides or len(sides) == 1:
            reason = "one side is empty" if "" in sides else "both sides are the same"
    except (KeyError, TypeError, ValueError) as error:
        reason, detail = "not a pair", f"{type(error).__name__}: {error}"
    return Dropped(f"row {number}", "train", reason, detail, file=path, row=number, data=value) if reason else row


def _from_trl(value: Mapping[str, Any], number: int) -> Example:
    """Read a row of TRL's preference format. Raises ValueError, TypeError or KeyError for a row that is not a pair."""
    chosen, rejected, prompt = value["chosen"], value["rejected"], value.get("prompt")
    name = str(value.get("id") or number)
    if isinstance(chosen, str):
        if not isinstance(prompt, str) or not isinstance(rejected, str):
            raise ValueError("prompt, chosen and rejected must all be texts, or all messages")
        return Example(name, (Message(role="user", content=prompt),), "", chosen, rejected)
    ours, theirs = _messages(chosen), _messages(rejected)
    if not ours or not theirs or {ours[-1]["role"], theirs[-1]["role"]} != {"assistant"}:
        raise ValueError("chosen and rejected must end with the assistant's message")
    if ours[:-1] != theirs[:-1]:
        raise ValueError("chosen and rejected answer different prompts")
    whole = (*(() if isinstance(prompt, str) else _messages(prompt or ())), *ours[:-1])
    if not whole:
        raise ValueError("there is no prompt")
    return Example(name, whole, "", ours[-1]["content"], theirs[-1]["content"])


def _messages(turns: Iterable[Any]) -> tuple[Message, ...]:
    return tuple(Message(role=str(m["role"]), content=str(m["content"])) for m in turns)
