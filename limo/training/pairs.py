"""Pairs as the preference trainer sees them: one prompt, two completions, as token ids.

A file of pairs is one that this toolkit wrote (`pairs.jsonl`), or one in TRL's preference format, with columns prompt,
chosen and rejected as texts or as messages, where chosen and rejected may hold the prompt; a name of such a set on
the Hub will do, with `:split` behind it where that is not train.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from limo.chat import MASKED, Rendered, render
from limo.data import Dropped, Example, Message
from limo.errors import UserError
from limo.files import read_rows
from limo.sources import hub_rows

BALANCED = 0.35, 0.65  # shares of pairs whose chosen one is longer between which length tells little


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs to train on, each with the tokens of both completions, and those that were set aside."""

    rows: list[Example]
    chosen: list[Rendered]
    rejected: list[Rendered]
    dropped: list[Dropped]
    unit: str = "pairs"

    @property
    def lengths(self) -> list[int]:
        """Tokens of each pair: its prompt counts twice, as it is computed."""
        return [len(c.input_ids) + len(r.input_ids) for c, r in zip(self.chosen, self.rejected, strict=True)]

    def sides(self) -> Iterator[tuple[list[Example], list[Rendered]]]:
        """Rows and tokens as if each completion were a row of its own: first the chosen ones."""
        yield self.rows, self.chosen
        yield [replace(row, completion=row.rejected) for row in self.rows], self.rejected

    def columns(self) -> list[dict[str, list[int]]]:
        """TRL's own, each with token ids: prompt_ids, chosen_ids, rejected_ids."""
        found = []
        for chosen, rejected in zip(self.chosen, self.rejected, strict=True):
            start = _prompt_length(chosen)
            ids = {"prompt_ids": chosen.input_ids[:start], "chosen_ids": chosen.input_ids[start:]}
            found.append({**ids, "rejected_ids": rejected.input_ids[start:]})
        return found


def read_pairs(path: str) -> Iterator[Example | Dropped]:
    """The pairs of a file or of a Hub dataset; rows that are none, as Dropped.

    Raises UserError if there is no such file, or if none of its rows is a pair.
    """
    count = 0
    for row in _rows(path):
        count += isinstance(row, Example)
        yield row
    if not count:
        raise UserError(f"{path} has no pair: rows need prompt, chosen and rejected, or this toolkit's own columns")


def _rows(path: str) -> Iterator[Example | Dropped]:
    file = Path(path).expanduser()
    if not file.exists() and path.count("/") == 1 and not path.startswith((".", "/", "~")):
        name, _, split = path.partition(":")
        raws = hub_rows(name, None, split or "train", None)
    elif not file.exists():
        raise UserError(f"no such file '{path}'. Curate first, or give another path as data")
    else:
        raws = read_rows(str(file))
    for number, value in raws:
        broken = replace(value, file=path, row=number) if isinstance(value, Dropped) else None
        yield broken or _row(value, number, path)


def _row(value: Any, number: int, path: str) -> Example | Dropped:
    """A pair, or why it is none."""

    def none(reason: str, detail: str = "") -> Dropped:
        return Dropped(f"row {number}", "train", reason, detail, file=path, row=number, data=value)

    if not isinstance(value, Mapping):
        return none("no object")
    try:
        if "completion" in value:
            row = Example.from_json(value)
        else:
            prompt, chosen, rejected = _split(value)
            name = str(value.get("id") or number)
            row = Example(id=name, prompt=prompt, answer="", completion=chosen, rejected=rejected)
    except (KeyError, TypeError, ValueError) as error:
        return none("not a pair", f"{type(error).__name__}: {error}")
    if not row.completion.strip() or not row.rejected.strip():
        return none("one side is empty")
    if row.completion.strip() == row.rejected.strip():
        return none("both sides are the same")
    return row


def _split(value: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    """Prompt, chosen and rejected of TRL's format. Raises ValueError or KeyError where there are none."""
    chosen, rejected, given = value["chosen"], value["rejected"], value.get("prompt")
    if isinstance(chosen, str):
        if not isinstance(given, str) or not isinstance(rejected, str):
            raise ValueError("prompt, chosen and rejected must all be texts, or all messages")
        return (Message(role="user", content=given),), chosen, rejected
    prompt = [*given] if given and not isinstance(given, str) else []
    sides = []
    for side in (chosen, rejected):
        turns = [Message(role=str(m["role"]), content=str(m["content"])) for m in side]
        if not turns or turns[-1]["role"] != "assistant":
            raise ValueError("chosen and rejected must end with the assistant's message")
        sides.append(turns)
    ahead = sides[0][:-1]
    if ahead != sides[1][:-1]:
        raise ValueError("chosen and rejected answer different prompts")
    if not (prompt or ahead):
        raise ValueError("there is no prompt")
    whole = (*(Message(role=m["role"], content=m["content"]) for m in prompt), *ahead)
    return whole, sides[0][-1]["content"], sides[1][-1]["content"]


def prepare_pairs(tokenizer: Any, rows: Iterable[Example | Dropped], system: str | None, max_length: int) -> Pairs:
    """Token ids of each pair; a pair with a side above `max_length` tokens, prompt included, is set aside, whole.

    A prompt without a system message gets `system`, unless that is None or empty.
    """
    kept, chosen, rejected, dropped = list[Example](), list[Rendered](), list[Rendered](), list[Dropped]()
    for row in rows:
        if isinstance(row, Dropped):
            dropped.append(row)
            continue
        if system and row.prompt[0]["role"] != "system":
            row = replace(row, prompt=(Message(role="system", content=system), *row.prompt))
        sides = [render(tokenizer, replace(row, completion=side)) for side in (row.completion, row.rejected)]
        longest = max(len(side.input_ids) for side in sides)
        if longest > max_length:
            detail = f"{longest} tokens; the limit is max_length={max_length}"
            dropped.append(Dropped(row.id, "train", "too long", detail, data=row.to_json()))
            continue
        kept.append(row)
        chosen.append(sides[0])
        rejected.append(sides[1])
    return Pairs(kept, chosen, rejected, dropped)


def describe_pairs(pairs: Pairs) -> str:
    """Pairs, tokens, and whether length alone would tell which one is chosen."""
    sides = [[len(side.input_ids) - _prompt_length(side) for side in found] for found in (pairs.chosen, pairs.rejected)]
    longer = longer_share(*sides)
    said = (
        f"{len(pairs.rows):,} pairs; the chosen completion has {median(sides[0]):,.0f} tokens (median), the rejected "
        f"one {median(sides[1]):,.0f}; it is the longer one in {longer:.0%}"
    )
    if not BALANCED[0] <= longer <= BALANCED[1]:
        which = "longer" if longer > 0.5 else "shorter"
        said += f": preferring the {which} one is a large part of what there is to learn"
    return said


def longer_share(chosen: Sequence[int], rejected: Sequence[int]) -> float:
    """The share of pairs whose chosen completion has more tokens; pairs of equal length count half."""
    return sum(1.0 if c > r else 0.5 if c == r else 0.0 for c, r in zip(chosen, rejected, strict=True)) / len(chosen)


def _prompt_length(rendered: Rendered) -> int:
    return next((at for at, label in enumerate(rendered.labels) if label != MASKED), len(rendered.labels))
