"""Reads problems from files, Hub datasets and generators, for pools and for benchmarks.

    rows = file("gsm8k", "", path="gsm8k_train.jsonl")

A source yields an `Example` for each usable row and a `Dropped`, with file, row and reason, for each other row. Rows
are streamed: memory does not grow with the file (except for JSON arrays, which are read whole).

`columns.py` decides what the columns mean, and the decision is printed; `files.py` reads the files. An answer may also
be in the chain, as GSM8K's `#### n` or in a last `\\boxed{}`: such a reference is unchecked, and `verify` drops the
chain that it was taken from.
"""

import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from limo.console import say
from limo.data import Dropped, Example, Row, chat, check_regular, content_id, parsed, read_jsonl
from limo.errors import UserError, need_package
from limo.marks import after_hashes, announced, last_boxed
from limo.recipe import InputPath
from limo.sources.columns import (
    Columns,
    Fields,
    Record,
    Suspects,
    Unusable,
    check_columns,
    failed_condition,
    find_columns,
    read_record,
    unfold,
)
from limo.sources.files import MAX_BYTES, Raw, bounded, read_rows, shortened

# Note names that stages use: foreign columns of these names are renamed
RESERVED = frozenset("attempts judge verdict licence turns unchecked teacher answer_kind".split())
UNUSABLE = 100_000  # after so many unusable rows and no usable one, reading a source is stopped
NOTE_CHARS = 200  # longer extra columns are not carried along


def file(
    name: str,
    system: str,
    /,
    *,
    path: InputPath,
    fields: Fields | None = None,
    where: Mapping[str, Any] | None = None,
    replace_system: bool = False,
    encoding: str = "utf-8",
    sheet: str | None = None,
    limit: int | None = None,
    max_bytes: int = MAX_BYTES,
    fraction: float = 1.0,
    licence: str = "",
) -> Iterator[Row]:
    """Rows of a JSONL, JSON array, Parquet, CSV, TSV or Excel file, packed or not; of a pattern such as `part-*.jsonl`;
    or of a folder of such files, or one saved by `datasets`.

    Args: `name` of the source, `system` message, `path`; `fields` (our name -> column or columns) says what the columns
    mean if their names are unusual; `where` keeps rows by columns, as in `{level: {at_least: 4}, type: {not:
    proof}}`; `replace_system` gives our system message to rows that have another one, instead of dropping them;
    `encoding` of text, `sheet` of an Excel file that has several; `limit` on rows read, `max_bytes` of one row,
    `fraction` and `licence` as in `take_fraction`. Raises UserError if there is no such file, its kind is unknown, or
    no row is usable.
    """
    reading = Reading(name, system, str(path), fields or {}, where or {}, replace_system, limit)
    yield from take_fraction(examples(read_rows(path, max_bytes, encoding, sheet), reading), name, fraction, licence)


def hub(
    name: str,
    system: str,
    /,
    *,
    path: str,
    split: str,
    config: str | None = None,
    revision: str | None = None,
    fields: Fields | None = None,
    where: Mapping[str, Any] | None = None,
    replace_system: bool = False,
    limit: int | None = None,
    fraction: float = 1.0,
    licence: str = "",
) -> Iterator[Row]:
    """Rows of a dataset on the Hub, streamed; arguments as in `file`. `revision` should be a commit hash."""
    reading = Reading(name, system, path, fields or {}, where or {}, replace_system, limit)
    yield from take_fraction(examples(hub_rows(path, config, split, revision), reading), name, fraction, licence)


def training_rows(path: str, system: str | None) -> Iterator[Row]:
    """Read the rows of a file to train on: a file that this toolkit wrote, or any file that `file` can read. Answers
    may be missing.
    """
    if _is_ours(path):
        yield from read_jsonl(path)
    else:
        yield from examples(read_rows(path), Reading("train.data", system or "", path, needs_answer=False))


def _is_ours(path: str) -> bool:
    if not path.lower().endswith(".jsonl"):
        return False
    check_regular(Path(path).expanduser())
    with Path(path).expanduser().open("rb") as file:
        try:
            first = parsed(file.readline(MAX_BYTES))
        except ValueError:
            return True  # the reader of our format reports the error
    return (isinstance(first, dict) and {"id", "prompt", "completion", "source"} <= set(first)) or not first


def take_fraction(rows: Iterable[Row], name: str, fraction: float, licence: str) -> Iterator[Row]:
    """The rows of a source, each with `licence` in its notes; rows outside `fraction` are dropped.

    Which rows are taken depends on their ids alone, so a larger fraction takes the same rows and more.
    Raises UserError for a fraction of 0 or less, or above 1.
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
    """Numbered rows of a dataset on the Hub, streamed. Raises UserError if it cannot be loaded."""
    from datasets import load_dataset

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the error below replaces its log lines
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
    has chains; for `chain_sum` chains are written here, line by line. A repeated problem is dropped.
    Raises UserError for an unknown generator or option.
    """
    # The solver of its logic puzzles alone, whose installation takes a C compiler
    if "pycosat" not in sys.modules and find_spec("pycosat") is None:
        sys.modules["pycosat"] = ModuleType("pycosat")
    with warnings.catch_warnings():  # a dependency warns when Python first compiles it
        warnings.simplefilter("ignore", SyntaxWarning)
        need_package("reasoning_gym", "generators", f"pool source '{name}'")
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
    """Write a chain for a sum such as `57 + 8 - 70`: one line per step, and the boxed total."""
    first, *rest = re.findall(r"(?:^|[+-] )-?\d+", expression)
    total, lines = int(first), []
    for term in rest:
        operator, value = term.split(" ")
        after = total + int(value) if operator == "+" else total - int(value)
        lines.append(f"{total} {operator} {value} = {after}")
        total = after
    return "\n".join([*lines, f"The answer is \\boxed{{{total}}}."])


@dataclass(frozen=True)
class Reading:
    """The settings by which the rows of a source are read."""

    name: str  # of the source
    system: str
    path: str
    fields: Fields = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)
    replace_system: bool = False
    limit: int | None = None
    silent: bool = False  # do not print what the columns mean
    needs_answer: bool = True

    def __post_init__(self) -> None:
        try:
            check_columns(self.fields, self.where)
        except UserError as error:
            raise UserError(f"pool source '{self.name}': {error}") from None
        if self.limit is not None and self.limit < 1:
            raise UserError(
                f"pool source '{self.name}': limit must be at least 1, not {self.limit}; null reads all rows"
            )


def examples(raws: Iterable[Raw], reading: Reading) -> Iterator[Row]:
    """Convert foreign rows to `Example`s, one for each chain of a row. Unusable rows become `Dropped` with the
    reason.
    """
    usable, reasons, columns, shown, first = 0, Counter[str](), set[str](), reading.silent, ""
    suspects = Suspects()
    try:
        for number, raw in ((number, unfold(raw)) for number, raw in islice(raws, reading.limit)):
            for row in _read_row(raw, number, reading):
                if isinstance(row, Example):
                    usable += 1
                    if row.notes.get("unchecked") and "answer" not in reading.fields:
                        suspects.compare(row.answer, row.notes)
                    if not shown:
                        shown = True
                        found = find_columns(raw, reading.fields).with_chain(row.completion)
                        say(f"{reading.name}: {found.describe(set(map(str, raw)) - found.used)}")
                else:
                    reasons[row.reason] += 1
                    first = first or row.detail
                    columns |= set(raw) if isinstance(raw, dict) and len(columns) < 50 else set()
                yield row
            if not usable and reasons.total() >= UNUSABLE:
                break
    except UserError as error:  # of the file as a whole
        raise UserError(f"pool source '{reading.name}': {error}") from None
    if not usable:
        raise UserError(_none_usable(reading.name, reading.path, reasons, columns, first))


def _none_usable(name: str, path: str, reasons: Mapping[str, int], columns: Iterable[str], first: str) -> str:
    why = "; ".join(f"{reason}: {count}" for reason, count in reasons.items()) or "it is empty"
    why += f"; the first: {first}" if first else ""
    cures = []
    if columns and reasons.keys() & {"missing field", "empty problem", "no answer"}:
        names = ", ".join(repr(str(column)) for column in sorted(map(str, columns)))
        cures.append(f"Its columns are {names}: say which is which, fields={{problem: ..., answer: ...}}")
    if "no answer" in reasons:
        cures.append(
            "A row needs an answer, which chains are checked against: a column, or a box or #### in the chain. To "
            "train without one: limo train recipe=sft train.data=..."
        )
    if "another system message" in reasons:
        cures.append("replace_system: true gives its rows the recipe's")
    if reasons.keys() & {"invalid JSON", "not an object"} and path.lower().endswith(("jsonl", "ndjson")):
        cures.append("JSONL has one object a line: if the whole file is one list or object, name it .json")
    return ". ".join([f"pool source '{name}': no usable row in '{path}' ({why})", *cures])


def _read_row(raw: Any, number: int, reading: Reading) -> Iterator[Row]:
    """Convert a foreign row: an Example for each of its chains, one Example if it has no chain, or a Dropped with the
    reason.
    """
    name = reading.name
    if isinstance(raw, Dropped):
        yield Dropped(f"{name}/{number}", name, raw.reason, raw.detail, reading.path, number, raw.data)
        return
    try:
        if not isinstance(raw, dict):
            raise Unusable("not an object", f"a row must be a mapping of columns, this is {type(raw).__name__}")
        if failed := failed_condition(raw, reading.where):
            raise Unusable("not in where", failed)
        columns = find_columns(raw, reading.fields)
        yield from _examples_of(read_record(raw, columns), raw, columns, number, reading)
    except Unusable as error:
        yield Dropped(f"{name}/{number}", name, error.reason, error.detail, reading.path, number, shortened(raw))


def _examples_of(
    record: Record, raw: Mapping[str, Any], columns: Columns, number: int, reading: Reading
) -> Iterator[Example]:
    if record.system and reading.system and record.system != reading.system and not reading.replace_system:
        detail = f"{record.system[:80]!r}; replace_system: true gives it ours"
        raise Unusable("another system message", detail)
    answers = [record.answer or ended_with(worked) for worked in record.chains] or [record.answer]
    if reading.needs_answer and not any(answers):
        raise Unusable("no answer", "neither an answer column nor a box, '#### n' or 'The answer is n' in the chain")
    notes = {f"column_{k}" if k in RESERVED else k: v for k, v in raw.items() if k not in columns.used and _small(v)}
    notes |= {"file": Path(reading.path).name, "row": number}  # no folder: rows are published, and it may name a user
    if not record.answer:  # a chain checked against the answer it ends with would always be right
        notes["unchecked"] = True
    problem = f"{reading.name}/{record.id or number}"
    prompt = chat(record.problem, reading.system or record.system)
    for at, (worked, answer) in enumerate(zip(record.chains or ("",), answers, strict=True)):
        if answer or not reading.needs_answer:
            key = problem if at == 0 else f"{problem}/{at + 1}"
            yield Example(key, prompt, answer, worked, source=reading.name, notes=notes, problem=problem)


def ended_with(chain: str) -> str:
    """The marked answer at the end of a chain; empty if there is none."""
    return last_boxed(chain) or after_hashes(chain) or announced(chain) or ""


def _small(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= NOTE_CHARS
    return isinstance(value, int | float) and abs(value) < 2**63  # no NaN, no infinity
