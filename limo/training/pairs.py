"""Pairs as the preference trainer sees them: one prompt, two completions, as token ids.

A file of pairs is one that this toolkit wrote (`pairs.jsonl`), or one in TRL's preference format, with columns prompt,
chosen and rejected as texts or as messages, where chosen and rejected may hold the prompt; a name of such a set on
the Hub will do, with `:split` behind it where that is not train.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from limo.chat import MASKED, Rendered, render
from limo.data import Dropped, Example, Message
from limo.errors import UserError
from limo.files import read_rows
from limo.sources import hub_rows
from limo.training.rows import drop_long

BALANCED = 0.35, 0.65  # fractions of pairs whose chosen one is longer between which length tells little


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs to train on, each with the tokens of both completions, and those that were dropped."""

    rows: list[Example]
    chosen: list[Rendered]
    rejected: list[Rendered]
    dropped: list[Dropped]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each pair: its prompt counts twice, as it is computed."""
        return [len(c.input_ids) + len(r.input_ids) for c, r in zip(self.chosen, self.rejected, strict=True)]

    def sides(self) -> Iterator[tuple[str, Example, Rendered]]:
        """Each completion as a row, after its name: the two of a pair one after the other."""
        for row, chosen, rejected in zip(self.rows, self.chosen, self.rejected, strict=True):
            yield "chosen", row, chosen
            yield "rejected", replace(row, completion=row.rejected), rejected

    def columns(self) -> list[dict[str, list[int]]]:
        """TRL's own, each with token ids: prompt_ids, chosen_ids, rejected_ids."""
        found = []
        for chosen, rejected in zip(self.chosen, self.rejected, strict=True):
            start = chosen.labels.count(MASKED)
            ids = {"prompt_ids": chosen.input_ids[:start], "chosen_ids": chosen.input_ids[start:]}
            found.append({**ids, "rejected_ids": rejected.input_ids[start:]})
        return found


def read_pairs(path: str) -> Iterator[Example | Dropped]:
    """The pairs of a file or of a Hub dataset; rows that are none, as Dropped.

    Raises UserError if there is no such file, or if none of its rows is a pair.
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
        count += isinstance(row, Example)
        yield row
    if not count:
        raise UserError(f"{path} has no pair: rows need prompt, chosen and rejected, or this toolkit's own columns")


def _read_pair(value: Any, number: int, path: str) -> Example | Dropped:
    """A pair, or why it is none."""
    reason, detail = "", ""
    try:
        if not isinstance(value, Mapping):
            raise TypeError("the row is no object")
        row = Example.from_json(value) if "completion" in value else _from_trl(value, number)
        if not row.completion.strip() or not row.rejected.strip():
            reason = "one side is empty"
        elif row.completion.strip() == row.rejected.strip():
            reason = "both sides are the same"
    except (KeyError, TypeError, ValueError) as error:
        reason, detail = "not a pair", f"{type(error).__name__}: {error}"
    return Dropped(f"row {number}", "train", reason, detail, file=path, row=number, data=value) if reason else row


def _from_trl(value: Mapping[str, Any], number: int) -> Example:
    """A row of TRL's format. Raises ValueError, TypeError or KeyError for one that is not a pair."""
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


def prepare_pairs(tokenizer: Any, rows: Iterable[Example | Dropped], system: str | None, max_length: int) -> Pairs:
    """Token ids of each pair; a pair with a side above `max_length` tokens, prompt included, is dropped whole.

    A prompt without a system message gets `system`, unless that is None or empty.
    """
    pairs = Pairs([], [], [], [])
    for row in rows:
        if isinstance(row, Dropped):
            pairs.dropped.append(row)
            continue
        if system and row.prompt[0]["role"] != "system":
            row = replace(row, prompt=(Message(role="system", content=system), *row.prompt))
        sides = [render(tokenizer, replace(row, completion=side)) for side in (row.completion, row.rejected)]
        longest = max(len(side.input_ids) for side in sides)
        if longest > max_length:
            pairs.dropped.append(drop_long(row, longest, max_length))
            continue
        pairs.rows.append(row)
        pairs.chosen.append(sides[0])
        pairs.rejected.append(sides[1])
    return pairs


def describe_pairs(pairs: Pairs) -> str:
    """Pairs, tokens, and whether length alone would tell which one is chosen. Equal lengths count half."""
    sizes = [(len(ids["chosen_ids"]), len(ids["rejected_ids"])) for ids in pairs.columns()]
    chosen, rejected = zip(*sizes, strict=True)
    longer = fmean(0.5 + (c > r) / 2 - (c < r) / 2 for c, r in sizes)
    text = (
        f"{len(sizes):,} pairs; the chosen completion has {median(chosen):,.0f} tokens (median), the rejected one "
        f"{median(rejected):,.0f}; it is the longer one in {longer:.0%}"
    )
    if not BALANCED[0] <= longer <= BALANCED[1]:
        which = "longer" if longer > 0.5 else "shorter"
        text += f": preferring the {which} one is a large part of what there is to learn"
    return text
