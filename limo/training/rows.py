"""Rows as the trainer sees them: token ids, labels, weights. What cannot be trained on is dropped with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limo.chat import MASKED, Rendered, render
from limo.data import Dropped, Example
from limo.errors import UserError
from limo.progress import say
from limo.training.audit import audit
from limo.training.losses import Weighting, row_weight
from limo.training.settings import Training


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


def prepare(tokenizer: Any, rows: Sequence[Example], max_length: int) -> Prepared:
    """Token ids and labels of each row. Rows without a completion or above `max_length` tokens are dropped whole."""
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


def check_rows(
    tokenizer: Any, rows: Sequence[Example], rendered: Sequence[Rendered], system: str | None, data: str
) -> None:
    """Raise UserError if any row would train something else than it should: the audit, before the first step."""
    found = audit(tokenizer, rows, rendered, system)
    if found:
        more = f" {len(found)} of {len(rows)} rows have such faults; train.look=3 shows them." * (len(found) > 1)
        raise UserError(f"{data}, row {found[0].id}: {found[0].reason}: {found[0].detail}.{more}")


def columns(prepared: Prepared, weighting: Weighting | None) -> list[dict[str, Any]]:
    """The trainer's rows: input_ids, labels and, for a weighted loss, weight and share.

    Raises UserError for weights that a loss cannot have.
    """
    found: list[dict[str, Any]] = [{"input_ids": r.input_ids, "labels": r.labels} for r in prepared.rendered]
    for row, entry in zip(prepared.rows, found, strict=True) if weighting else ():
        if not 0 <= row.weight < float("inf"):
            raise UserError(f"row {row.id} has the weight {row.weight}: weights are finite and at least 0")
        loss_tokens = sum(label != MASKED for label in entry["labels"])
        assert weighting is not None
        entry["weight"], entry["share"] = row_weight(row.weight, loss_tokens, weighting)
    return found
