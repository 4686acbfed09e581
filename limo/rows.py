"""Rows as the trainer sees them: token ids, labels, weights; what cannot be trained on is set aside with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

from limo.audit import audit
from limo.data import Dropped, Example, write_jsonl
from limo.errors import UserError
from limo.launch import first
from limo.losses import Weighting, row_weight
from limo.progress import say
from limo.render import Rendered, render


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows to train on, each with its tokens, and those that were set aside."""

    rows: list[Example]
    rendered: list[Rendered]
    dropped: list[Dropped]
    unit: str = "chains"

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, prompt and completion together."""
        return [len(r.input_ids) for r in self.rendered]

    @property
    def learned(self) -> int:
        """Tokens that are learned, the ends of turns among them."""
        return sum(sum(label != -100 for label in r.labels) for r in self.rendered)


class Learned(Protocol):
    """What is trained on: `Prepared`, or pairs of it."""

    @property
    def unit(self) -> str:
        """What a row is: chains, or pairs."""

    @property
    def rows(self) -> Sequence[Any]:
        """Each with what it teaches."""

    @property
    def dropped(self) -> Sequence[Any]:
        """Those that were set aside."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row."""


def prepare(tokenizer: Any, rows: Sequence[Example], max_length: int) -> Prepared:
    """Token ids and labels of each row; rows without a completion or above `max_length` tokens are set aside, whole."""
    kept, rendered, dropped = [], [], []
    for row in rows:
        if not row.completion.strip():
            dropped.append(Dropped(row.id, "train", "no completion", data=row.to_json()))
            continue
        tokens = render(tokenizer, row)
        length = len(tokens.input_ids)
        if length > max_length:
            detail = f"{length} tokens; the limit is max_length={max_length}"
            dropped.append(Dropped(row.id, "train", "too long", detail, data=row.to_json()))
            continue
        kept.append(row)
        rendered.append(tokens)
    return Prepared(kept, rendered, dropped)


def set_aside(prepared: Learned, file: Path, too_long: Literal["drop", "stop"], data: str) -> None:
    """Write down what was set aside. Raises UserError if the recipe wants to stop then, or if nothing is left."""
    dropped = prepared.dropped
    if first():
        write_jsonl(file, dropped)
    example = f"{dropped[0].id}: {dropped[0].reason}, {dropped[0].detail}".rstrip(", ") if dropped else ""
    if dropped and too_long == "stop":
        raise UserError(
            f"{len(dropped)} rows of {data} cannot be trained on ({example}). Mend them, raise train.max_length, or "
            "set train.too_long=drop"
        )
    if not prepared.rows:
        why = f"no row of {data} can be trained on: {example}" if dropped else f"{data} holds no rows"
        raise UserError(f"{why}. Curate first, or loosen what is chosen")
    if dropped:
        say(f"{len(dropped)} rows set aside in {file} ({example})")


def check_rows(
    tokenizer: Any, rows: Sequence[Example], rendered: Sequence[Rendered], system: str | None, data: str
) -> None:
    """Raise UserError if any row would not teach what it should: the loss view, before the first step."""
    found = audit(tokenizer, rows, rendered, system)
    if found:
        more = f" {len(found)} of {len(rows)} rows have such faults; train.look=3 shows rows by their mask." * (
            len(found) > 1
        )
        raise UserError(f"{data}, row {found[0].id}: {found[0].reason}: {found[0].detail}.{more}")


def describe(prepared: Prepared, max_length: int) -> str:
    """Rows, tokens and lengths in one line."""
    lengths = sorted(prepared.lengths)
    at = {share: lengths[min(int(share * len(lengths)), len(lengths) - 1)] for share in (0.5, 0.9)}
    return (
        f"{len(lengths):,} rows, {sum(lengths):,} tokens of which {prepared.learned:,} are learned; a row has "
        f"{at[0.5]:,} tokens (median), {at[0.9]:,} (90 %), {lengths[-1]:,} (longest; the limit is {max_length:,})"
    )


def columns(prepared: Prepared, weighting: Weighting | None) -> list[dict[str, Any]]:
    """The trainer's rows: input_ids, labels and, for a weighted loss, weight and share; the last one teaches nothing.

    Raises UserError for weights that a loss cannot be made of.
    """
    found: list[dict[str, Any]] = [{"input_ids": r.input_ids, "labels": r.labels} for r in prepared.rendered]
    if weighting:
        for row, entry, tokens in zip(prepared.rows, found, prepared.rendered, strict=True):
            if not 0 <= row.weight < float("inf"):
                raise UserError(f"row {row.id} has the weight {row.weight}: weights are finite and at least 0")
            learned = sum(label != -100 for label in tokens.labels)
            entry["weight"], entry["share"] = row_weight(row.weight, learned, weighting)
        if not any(row.weight for row in prepared.rows):
            raise UserError("every row has the weight 0: nothing would be learned")
    short = min(found, key=lambda entry: len(entry["input_ids"]))
    idle = {"input_ids": short["input_ids"], "labels": [-100] * len(short["labels"])}
    return [*found, {**idle, "weight": 0.0, "share": 0.0} if weighting else idle]


def same_prompts(rows: Sequence[Example]) -> bool:
    """Whether all rows begin with the same system message, or all with none."""
    systems = [row.prompt[0]["content"] if row.prompt[0]["role"] == "system" else None for row in rows]
    return all(a == b for a, b in pairwise(systems))
