r"""Grade completions from anywhere: `python -m eval.grade FILE`.

    python -m eval.grade completions.jsonl
    python -m eval.grade math.jsonl --fields completion=code,answer=gt --disagree score

FILE is JSONL, JSON, CSV, Parquet or a folder saved by `datasets`; each row has a completion, or a list of them, and the
reference answer. Columns are found by their usual names or named with --fields (`a.b` is b inside of a). Every grade is
written to NAME.graded.jsonl in the current folder (row, which completion, verdict, extracted, rule); rows that cannot
be used to NAME.dropped.jsonl with the reason.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.grader.grade import Grade, grade_all
from limo.data import Dropped, replacing
from limo.errors import UserError, reported
from limo.files import read_rows, shortened
from limo.tables import Table, print_table, terminal

LISTED = 30  # disagreements on the terminal
COLUMNS = {
    "completion": ("completion", "completions", "response", "output", "generation", "code", "solution", "prediction"),
    "answer": ("answer", "gt", "ground_truth", "final_answer", "reference", "target", "label"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One completion to be graded, and what another grader said of it."""

    row: int
    index: int  # among the row's completions
    completion: str  # empty where the row has none: no answer, which is wrong
    answer: str
    other: bool | None
    cut_off: bool  # by its length, where the completion says how it ended


def main() -> None:
    """The command `python -m eval.grade`."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.grade",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="rows with completions and reference answers")
    parser.add_argument("--fields", default="", metavar="OURS=THEIRS,...", help="completion=COLUMN,answer=COLUMN")
    parser.add_argument("--answer-after", default="", metavar="TEXT", help="the reference is what follows this text")
    parser.add_argument(
        "--kind", choices=("math", "strict", "physics"), default="math", help="what the references are (default: math)"
    )
    parser.add_argument("--disagree", metavar="COLUMN", help="list where COLUMN, another grader's verdict, differs")
    parser.add_argument("--processes", type=int, help="processes to grade in (default: one a core)")
    parser.add_argument("--out", metavar="FILE", help="where the grades go (default: NAME.graded.jsonl here)")
    args = parser.parse_args()
    with reported():
        regrade(**vars(args))


def regrade(
    *,
    file: str,
    fields: str,
    answer_after: str,
    kind: Any,
    disagree: str | None,
    processes: int | None,
    out: str | None,
) -> list[Grade]:
    """Grade a file's completions, write the grades, print what they come to. Raises UserError for an unusable file."""
    if processes is not None and processes < 1:
        raise UserError(f"--processes must be at least 1, not {processes}")
    columns = _columns(fields)
    items, dropped = _items(file, columns, answer_after, disagree)
    if not items:
        first = f"; the first: row {dropped[0].row}: {dropped[0].reason} ({dropped[0].detail})" if dropped else ""
        raise UserError(f"'{file}' has no completion to grade{first}")
    where = Path(out) if out else Path(Path(file).stem + ".graded.jsonl")
    if where.exists() and where.samefile(file):
        raise UserError(f"--out '{out}' is the file that is graded: name another")
    grades = grade_all([(i.completion, i.answer) for i in items], kind=kind, processes=processes)
    grades = [replace(g, cut_off=i.cut_off) for i, g in zip(items, grades, strict=True)]
    _write(where, items, grades, dropped)
    _print(items, grades, dropped, where, disagree)
    return grades


def _columns(fields: str) -> dict[str, str]:
    columns = {}
    for pair in filter(None, fields.split(",")):
        ours, equals, theirs = pair.partition("=")
        if ours not in COLUMNS or not equals or not theirs:
            raise UserError(f"--fields must read completion=COLUMN,answer=COLUMN, not '{fields}'")
        columns[ours] = theirs
    return columns


def _items(
    file: str, columns: Mapping[str, str], answer_after: str, other: str | None
) -> tuple[list[Item], list[Dropped]]:
    items, dropped = list[Item](), list[Dropped]()
    for number, raw in read_rows(file):
        found = _item(raw, number, columns, answer_after, other)
        if isinstance(found, tuple):
            kept = raw.data if isinstance(raw, Dropped) else shortened(raw)
            dropped.append(Dropped(str(number), file, *found, file, number, kept))
        else:
            items.extend(found)
    return items, dropped


def _item(
    raw: Any, number: int, columns: Mapping[str, str], answer_after: str, other: str | None
) -> list[Item] | tuple[str, str]:
    """The completions of a row, or the reason and the detail why it has none."""
    if isinstance(raw, Dropped):
        return raw.reason, raw.detail
    if not isinstance(raw, dict):
        return "not an object", f"a row must be a mapping of columns, this is {type(raw).__name__}"
    values = {}
    for ours, usual in COLUMNS.items():
        column = columns.get(ours) or next((c for c in usual if c in raw), None)
        values[ours] = None if column is None else _inside(raw, column)
        if values[ours] is None and not (ours == "completion" and column in raw):
            has = ", ".join(map(str, list(raw)[:12]))
            what = f"no {ours} in '{column or ' or '.join(usual)}'"
            return "missing field", f"{what}; the columns are {has}: name it with --fields {ours}=COLUMN"
    given = values["completion"] if isinstance(values["completion"], list) else [values["completion"]]
    completions = [c["text"] if isinstance(c, dict) and "text" in c else "" if c is None else c for c in given]
    odd = next((c for c in completions if not isinstance(c, str)), None)
    if odd is not None:
        return "completion is not text", f"{type(odd).__name__}: {str(odd)[:100]}"
    listed = values["answer"] if isinstance(values["answer"], list) else [values["answer"]]
    answer = ", ".join(map(str, listed))
    answer = answer.rpartition(answer_after)[2].strip() if answer_after else answer
    others: list[bool | None] = [None] * len(completions)
    if other is not None:
        said = _inside(raw, other)
        if said is None:
            return "missing field", f"no column '{other}'; the columns are {', '.join(map(str, list(raw)[:12]))}"
        said = said if isinstance(said, list) else [said]
        if len(said) != len(completions):
            return "missing field", f"'{other}' has {len(said)} verdicts for {len(completions)} completions"
        others = [_yes(s) for s in said]
        if None in others:
            return "no verdict", f"'{other}' holds {said[others.index(None)]!r}, neither true nor false"
    cut = [isinstance(c, dict) and c.get("finish", c.get("finish_reason")) == "length" for c in given]
    return [
        Item(number, i, str(text), answer, other_says, was_cut)
        for i, (text, other_says, was_cut) in enumerate(zip(completions, others, cut, strict=True))
    ]


def _inside(raw: Any, column: str) -> Any:
    """A column, or `a.b` for b inside of a."""
    if isinstance(raw, dict) and column in raw:
        return raw[column]
    head, _, tail = column.partition(".")
    return _inside(raw.get(head), tail) if tail and isinstance(raw, dict) else None


def _yes(said: Any) -> bool | None:
    """Another grader's verdict as true or false."""
    text = str(said).strip().lower()
    if text in ("true", "1", "1.0", "correct", "yes", "right"):
        return True
    return False if text in ("false", "0", "0.0", "wrong", "no", "incorrect", "unsure") else None


def _write(where: Path, items: Sequence[Item], grades: Sequence[Grade], dropped: Sequence[Dropped]) -> None:
    with replacing(where) as lines:
        for item, grade in zip(items, grades, strict=True):
            row = {"row": item.row, "index": item.index, "answer": item.answer, **asdict(grade), "other": item.other}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    _dropped_file(where).unlink(missing_ok=True)  # of an earlier time
    if dropped:
        with replacing(_dropped_file(where)) as lines:
            lines.writelines(json.dumps(asdict(d), ensure_ascii=False, default=str) + "\n" for d in dropped)


def _dropped_file(where: Path) -> Path:
    return where.with_name(where.name.removesuffix(".jsonl").removesuffix(".graded") + ".dropped.jsonl")


def _print(
    items: Sequence[Item], grades: Sequence[Grade], dropped: Sequence[Dropped], where: Path, other: str | None
) -> None:
    console = terminal()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    count, n = Counter(g.verdict for g in grades), len(grades)
    say(", ".join(f"{v} {count[v]} ({100 * count[v] / n:.1f} %)" for v in ("correct", "wrong", "unsure")))
    if other is not None:
        differ = [(i, g) for i, g in zip(items, grades, strict=True) if (g.verdict == "correct") != i.other]
        ours = sum(g.verdict == "correct" for _, g in differ)
        say(
            f"agreement with '{other}': {100 * (1 - len(differ) / n):.2f} %; {ours} correct here and wrong there, "
            f"{len(differ) - ours} the other way"
        )
        rows = [
            (
                f"{i.row}.{i.index}",
                (g.extracted or "")[:60],
                i.answer[:60],
                g.verdict,
                g.how,
                "correct" if i.other else "wrong",
            )
            for i, g in differ[:LISTED]
        ]
        if rows:
            title = f"Where they differ (first {len(rows)} of {len(differ)})"
            print_table(Table(("row", "extracted", "answer", "here", "how", "there"), rows, title=title), console)
    if unsure := Counter(g.how for g in grades if g.verdict == "unsure"):
        print_table(Table(("reason", "answers"), unsure.most_common(10), (1,), "Unsure, by reason"), console)
    unread = [i for i, g in zip(items, grades, strict=True) if g.verdict == "unsure" and "reference" in g.how]
    if 2 * len(unread) >= n:  # then they are probably not references
        begin = " ".join(unread[0].answer.split())[-80:]
        say(
            f"Most references cannot be read. The first ends with '{begin}': is it the right column (--fields "
            "answer=...), and does the answer begin after some text (--answer-after)?"
        )
    if dropped:
        reasons = ", ".join(f"{r}: {c}" for r, c in Counter(d.reason for d in dropped).items())
        say(f"{len(dropped)} rows dropped ({reasons}): {_dropped_file(where)}")
    say(f"Grades: {where}")
