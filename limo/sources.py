"""Where problems come from: files, Hub datasets, generators. For pools and for benchmarks alike.

    rows = file("gsm8k", "", path="gsm8k_train.jsonl")

A source yields an `Example` for each usable row and a `Dropped`, with file, row and reason, for each other. It streams:
memory does not grow with the file (JSON arrays excepted, which are read whole).

Column names: `fields` says which column holds what, for instance `{problem: question, answer: gt}`. Where it is silent
the usual names are tried in the order of `COLUMNS`. An answer may also stand in the chain, as GSM8K's `#### n` or in a
last `\\boxed{}`.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from random import Random
from typing import Any

from limo.data import Dropped, Example, Row, chat, content_id
from limo.errors import UserError
from limo.files import MAX_BYTES, Raw, bounded, read_rows, shortened
from limo.marks import after_hashes, last_boxed
from limo.recipe import InputPath

COLUMNS = {
    "problem": ("problem", "question", "prompt", "instruction", "messages"),
    "chain": ("solution", "response", "chain", "completion", "reasoning"),
    "answer": ("answer", "final_answer", "gt", "ground_truth", "reference"),
    "id": ("id", "unique_id"),
}
RESERVED = {"attempts", "judge", "verdict", "licence", "turns"}  # notes of the stages: foreign ones get another name
NOTE_CHARS = 200  # longer extra columns are not carried along


def file(
    name: str,
    system: str,
    /,
    *,
    path: InputPath,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
    max_bytes: int = MAX_BYTES,
    fraction: float = 1.0,
    licence: str = "",
) -> Iterator[Row]:
    """Rows of a JSONL, JSON array, Parquet or CSV file, or of a folder saved by `datasets`.

    Args: `name` of the source, `system` message, `path`, `fields` (our name -> column), `limit` on rows read,
    `max_bytes` of one row, `fraction` and `licence` as `take_fraction` takes them. Raises UserError if there is no such
    file, its kind is unknown, or no row is usable.
    """
    rows = examples(read_rows(path, max_bytes), name, system, str(path), fields or {}, limit)
    yield from take_fraction(rows, name, fraction, licence)


def hub(
    name: str,
    system: str,
    /,
    *,
    path: str,
    split: str,
    config: str | None = None,
    revision: str | None = None,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
    fraction: float = 1.0,
    licence: str = "",
) -> Iterator[Row]:
    """Rows of a dataset on the Hub, streamed. Raises UserError if it cannot be had.

    Args as `file` has them. Give `revision` a commit hash: a dataset that changes under its name makes runs that cannot
    be compared.
    """
    rows = examples(hub_rows(path, config, split, revision), name, system, path, fields or {}, limit)
    yield from take_fraction(rows, name, fraction, licence)


def take_fraction(rows: Iterable[Row], name: str, fraction: float, licence: str) -> Iterator[Row]:
    """The rows of a source, each with the source's `licence` in its notes; of a `fraction` below 1, only that share.

    Which rows are taken depends on their ids alone, so that a larger fraction takes the same and more. Raises UserError
    for a fraction that is not above 0 and at most 1: taking a source twice would only create duplicates.
    """
    if not 0 < fraction <= 1:
        raise UserError(
            f"pool source '{name}': fraction is the share of its rows, above 0 and at most 1, not {fraction}"
        )
    for row in rows:
        if not isinstance(row, Example):
            yield row
        elif fraction < 1 and int(content_id(row.id), 16) >= fraction * 2**64:
            where = row.notes.get("file", ""), row.notes.get("row", 0)
            yield Dropped(
                row.id, name, "not in the fraction", f"the fraction of {name} is {fraction}", *where, row.to_json()
            )
        else:
            yield replace(row, notes={**row.notes, "licence": licence}) if licence else row


def hub_rows(path: str, config: str | None, split: str, revision: str | None) -> Iterator[Raw]:
    """Numbered rows of a dataset on the Hub, streamed. Raises UserError if it cannot be had."""
    from datasets import load_dataset

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the one line below says what its retries would
    try:
        rows = load_dataset(path, config, split=split, revision=revision, streaming=True)
        first = list(islice(rows, 1))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot load '{path}' (split {split}) from the Hub: {reason}. Check the name and the "
            "network; a local copy will do as well"
        ) from error
    for number, row in enumerate(chain(first, islice(rows, 1, None)), 1):
        yield number, bounded(row, MAX_BYTES)


def generate(
    name: str,
    system: str,
    /,
    *,
    generator: str,
    size: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    templates: list[int] | None = None,
    fraction: float = 1.0,
    licence: str = "",
) -> Iterator[Row]:
    """Problems made by a `reasoning-gym` generator: the same `size` problems for the same `seed`, offline.

    `options` go to the generator; `templates`, for `gsm_symbolic`, are the template numbers to sample. `gsm_symbolic`
    brings chains; for `chain_sum` they are written line by line; other generators have none. A repeated problem is
    dropped. `fraction` and `licence` as `take_fraction` takes them. Raises UserError for a generator or option
    that does not exist.
    """
    import reasoning_gym

    try:
        made = reasoning_gym.create_dataset(generator, size=size, seed=seed, **dict(options or {}))
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"pool source '{name}': reasoning-gym cannot make '{generator}': {error}") from None
    if templates is not None:
        if generator != "gsm_symbolic":
            raise UserError(f"pool source '{name}': templates are for gsm_symbolic, not for '{generator}'")
        unknown = sorted(set(templates) - set(made.generators))
        if unknown or not templates:
            raise UserError(f"pool source '{name}': gsm_symbolic has no template {unknown or 'in an empty list'}")
        made.task_indices = Random(seed).choices(templates, k=size)

    def rows() -> Iterator[Row]:
        seen: set[str] = set()
        for number, item in enumerate(made, 1):
            key, question, meta = f"{name}/{number}", item["question"], item["metadata"]
            if question in seen:
                yield Dropped(key, name, "repeated problem", "", generator, number, {"problem": question})
                continue
            seen.add(question)
            worked = meta.get("answer_cot") or (running_total(meta["expression"]) if generator == "chain_sum" else "")
            notes = {"generator": generator, "seed": seed}
            if generator == "gsm_symbolic":
                notes["template"] = made.task_indices[number - 1]
            if "num_terms" in meta:
                notes["terms"] = meta["num_terms"]
            yield Example(key, chat(question, system), str(item["answer"]), worked, source=name, notes=notes)

    yield from take_fraction(rows(), name, fraction, licence)


def running_total(expression: str) -> str:
    """A worked chain for a sum such as `57 + 8 - 70`: one line a step, and a boxed total.

    >>> running_total("57 + 8 - 70")
    '57 + 8 = 65\\n65 - 70 = -5\\nThe answer is \\\\boxed{-5}.'
    """
    first, *rest = re.findall(r"(?:^|[+-] )-?\d+", expression)
    total, lines = int(first), []
    for term in rest:
        operator, value = term.split(" ")
        after = total + int(value) if operator == "+" else total - int(value)
        lines.append(f"{total} {operator} {value} = {after}")
        total = after
    return "\n".join([*lines, f"The answer is \\boxed{{{total}}}."])


def examples(
    raws: Iterable[Raw], name: str, system: str, path: str, fields: Mapping[str, str], limit: int | None
) -> Iterator[Row]:
    """Foreign rows as `Example`s, and those that cannot be used as `Dropped` with the reason.

    Raises UserError if `fields` names no column of ours, or if not one row is usable.
    """
    unknown = sorted(set(fields) - set(COLUMNS))
    if unknown:
        raise UserError(f"pool source '{name}': fields has '{unknown[0]}'; it may name {', '.join(COLUMNS)}")
    if limit is not None and limit < 1:
        raise UserError(f"pool source '{name}': limit must be at least 1, not {limit}; null reads all rows")
    usable, reasons, columns = 0, Counter[str](), set[str]()
    try:
        for number, raw in islice(raws, limit):
            row = _example(raw, number, name, system, path, fields)
            if isinstance(row, Example):
                usable += 1
            else:
                reasons[row.reason] += 1
                columns |= set(raw) if isinstance(raw, dict) and len(columns) < 50 else set()
            yield row
    except UserError as error:  # of the file as a whole
        raise UserError(f"pool source '{name}': {error}") from None
    if not usable:
        raise UserError(_none_usable(name, path, reasons, columns))


def _none_usable(name: str, path: str, reasons: Mapping[str, int], columns: Iterable[str]) -> str:
    """What is wrong with a source that has no usable row, and what to do."""
    why = "; ".join(f"{reason}: {count}" for reason, count in reasons.items()) or "it is empty"
    cures = []
    if columns:
        cures.append(f"Its columns are {', '.join(sorted(map(str, columns)))}: say which is which with fields")
    if "no answer" in reasons:
        cures.append("A row needs an answer, which attempts and chains are checked against")
    if reasons.keys() & {"invalid JSON", "not an object"} and path.lower().endswith(("jsonl", "ndjson")):
        cures.append("JSONL has one object a line: if the whole file is one list or object, name it .json")
    return ". ".join([f"pool source '{name}': no usable row in '{path}' ({why})", *cures])


def _example(raw: Any, number: int, name: str, system: str, path: str, fields: Mapping[str, str]) -> Row:
    """One foreign row as an Example, or the reason why not."""

    def drop(reason: str, detail: str = "") -> Dropped:
        return Dropped(f"{name}/{number}", name, reason, detail, path, number, shortened(raw))

    if isinstance(raw, Dropped):
        return Dropped(f"{name}/{number}", name, raw.reason, raw.detail, path, number, raw.data)
    if not isinstance(raw, dict):
        return drop("not an object", f"a row must be a mapping of columns, this is {type(raw).__name__}")
    column = {ours: _column(raw, ours, fields) for ours in COLUMNS}
    if column["problem"] == "messages" and column["chain"] is None:  # the conversations that TRL trains on
        raw, column["chain"] = raw | {"answered": _answered(raw["messages"])}, "answered"
    absent = [theirs for theirs in fields.values() if theirs not in raw]
    if column["problem"] is None or absent:
        return drop("missing field", f"no column {', '.join(absent) or ' or '.join(COLUMNS['problem'])}")
    values: dict[str, str] = {}
    for ours in ("problem", "chain", "answer"):
        value, wrong = _text(raw.get(column[ours]) if column[ours] is not None else None)
        if wrong:
            return drop(f"{ours} is not text", f"column {column[ours]}: {wrong}")
        values[ours] = value
    if not values["problem"]:
        return drop("empty problem", f"column {column['problem']}")
    answer, worked = _answer(values["answer"], values["chain"])
    if not answer:
        return drop("no answer", "neither an answer column nor '#### n' nor \\boxed{} in the chain")
    key, wrong = _text(raw.get(column["id"]) if column["id"] else None)
    extra = {f"column_{k}" if k in RESERVED else k: v for k, v in raw.items() if k not in column.values() and _small(v)}
    return Example(
        f"{name}/{key if key and not wrong else number}",
        chat(values["problem"], system),
        answer,
        worked,
        source=name,
        notes={**extra, "file": path, "row": number},
    )


def _answered(messages: Any) -> str:
    """What the assistant says at the end of a conversation."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    said = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else None
    return said if isinstance(said, str) else ""


def _column(raw: Mapping[str, Any], ours: str, fields: Mapping[str, str]) -> str | None:
    if ours in fields:
        return fields[ours] if fields[ours] in raw else None
    return next((c for c in COLUMNS[ours] if c in raw and c not in fields.values()), None)


def _text(value: Any) -> tuple[str, str]:
    """A cell as text, and what is wrong with it. Whole floats lose their `.0`; user messages of a chat are taken."""
    if value is None:
        return "", ""
    if isinstance(value, list) and value and all(isinstance(m, dict) and "content" in m for m in value):
        value = next((m["content"] for m in reversed(value) if m.get("role") == "user"), value[-1]["content"])
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return "", f"{type(value).__name__} instead of text"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "", f"{value} instead of text"
        value = int(value) if value.is_integer() else value
    text = str(value)
    if any("\ud800" <= c <= "\udfff" for c in text):
        return "", "invalid UTF-8, or half of a surrogate pair"
    return text.strip(), ""


def _answer(answer: str, worked: str) -> tuple[str, str]:
    """The reference answer and the chain, whichever columns they came in."""
    if not answer:
        return last_boxed(worked) or after_hashes(worked) or "", worked
    inside = after_hashes(answer) or last_boxed(answer)
    if inside is None:
        return answer, worked
    # GSM8K keeps the chain and `#### n` in one column
    return inside, worked or (answer if len(answer) > len(inside) + 10 else "")


def _small(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= NOTE_CHARS
    return isinstance(value, int) and abs(value) < 2**63
