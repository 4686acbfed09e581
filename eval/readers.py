"""The published benchmarks: dataset and commit on the Hub, columns, and kind of answers.

`TABLE` lists them by name, from `eval/benchmarks.yaml`. A reader maps a benchmark's columns to ours; a row that already
has our columns, such as one of a local copy, is unchanged.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eval.grader.nodes import Kind

Flat = dict[str, Any]  # a row in our columns: problem, answer, and notes
Reader = Callable[[Mapping[str, Any], int], Flat]  # of a benchmark's own columns, and the row's number from 0


LETTERS = "ABCDEFGHIJ"


def with_options(problem: str, options: Sequence[str]) -> str:
    """A question and its options, one a line: `(A) ...`.

    >>> print(with_options("2 + 2?", ["3", "4"]))
    2 + 2?
    (A) 3
    (B) 4
    """
    return "\n".join([problem, *(f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))])


def as_it_is(row: Mapping[str, Any], _: int) -> Flat:
    """Read columns with names that `limo.sources` knows. Several answers become a list; of a mapping of answers, the
    values.
    """
    answer = row.get("answer", row.get("final_answer"))
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        answer = ", ".join(map(str, answer))
    return {**row, "answer": answer} if answer is not None else dict(row)


def gaokao(row: Mapping[str, Any], number: int) -> Flat:
    """Read GAOKAO, where the letter of a multiple-choice answer is in a separate column."""
    return as_it_is({**row, "answer": row.get("choice_answer") or row.get("answer")}, number)


def gpqa(row: Mapping[str, Any], number: int) -> Flat:
    """Read GPQA: put the right option among the three wrong ones, in a fixed random order. Among four rows, each letter
    is right once.
    """
    if "Correct Answer" not in row:
        return dict(row)
    block = list(range(4))
    random.Random(f"gpqa/{number // 4}").shuffle(block)
    options = [row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3)]
    random.Random(f"gpqa/{number}/options").shuffle(options)
    right = block[number % 4]
    options.insert(right, row["Correct Answer"].strip())
    return {
        "problem": with_options(row["Question"].strip(), options),
        "answer": LETTERS[right],
        "subject": row.get("High-level domain", ""),
        "id": row.get("Record ID", ""),
    }


def mmlu(row: Mapping[str, Any], _: int) -> Flat:
    """Read MMLU, with options as a list and the answer as a position."""
    if "choices" not in row:
        return dict(row)
    return {
        "problem": with_options(row["question"], row["choices"]),
        "answer": LETTERS[int(row["answer"])],
        "subject": row["subject"],
    }


def arc(row: Mapping[str, Any], _: int) -> Flat:
    """Read ARC, with options labelled A to D or 1 to 4; the answer becomes the position of its label."""
    if "answerKey" not in row:
        return dict(row)
    labels = list(row["choices"]["label"])
    return {
        "problem": with_options(row["question"], row["choices"]["text"]),
        "answer": LETTERS[labels.index(row["answerKey"])],
        "id": row["id"],
    }


def theoremqa(row: Mapping[str, Any], _: int) -> Flat:
    """Read TheoremQA, whose answers are numbers, truth values, lists such as `[1, 2]`, and options such as `(a)`."""
    if "Question" not in row:
        return dict(row)
    answer = str(row["Answer"]).strip()
    if answer.startswith("[") and answer.endswith("]"):
        answer = answer[1:-1]
    if row.get("Answer_type") == "option":
        answer = answer.upper()
    return {"problem": row["Question"], "answer": answer, "type": row.get("Answer_type", "")}


def bbh(row: Mapping[str, Any], _: int) -> Flat:
    """Read BBH, whose options are part of the input; the task is the name of the configuration."""
    return {**row, "problem": row["input"], "answer": row["target"]} if "input" in row else dict(row)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The dataset of a benchmark, the kind of its answers, and the form of its prompt."""

    rows: int
    hub: str = ""  # dataset on the Hub; "" if it is not there
    revision: str = ""  # commit of that dataset, so that it stays the same
    config: str | list[str] | None = None  # several are read one after the other
    split: str = "test"
    kind: Kind = "math"
    read: Reader = as_it_is
    shots: int = 0  # worked examples before the problem
    group: str = "problems"  # the group of those examples
    fields: Mapping[str, str] = field(default_factory=dict)
    get: str = ""  # how to get it if the Hub does not simply offer it


_READERS: Mapping[str, Reader] = {read.__name__: read for read in (gaokao, gpqa, mmlu, arc, theoremqa, bbh)}


def _read_table() -> dict[str, Benchmark]:
    table = yaml.safe_load(Path(__file__).with_name("benchmarks.yaml").read_text(encoding="utf-8"))
    for entry in table.values():
        entry["read"] = _READERS.get(entry.get("read"), as_it_is)
    return {name: Benchmark(**entry) for name, entry in table.items()}


TABLE = _read_table()
OWN = Benchmark(rows=0)  # the settings for your own file
