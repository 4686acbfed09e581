r"""Grade final answers: correct, wrong, or unsure.

    from eval.grade import grade
    grade("so it is \\boxed{\\frac{1}{2}}.", "0.5")  ->  Grade("correct", "\\frac{1}{2}", "number", rule="box")

    python -m eval.grade completions.jsonl
    python -m eval.grade math.jsonl fields=completion=code,answer=gt disagree=score

    GRPOTrainer(model, reward_funcs=reward, train_dataset=...)  # columns: prompt, and solution or answer
    compute_score(data_source, solution_str, ground_truth)      # verl's custom_reward_function

FILE is JSONL, JSON, CSV, Parquet or a folder saved by `datasets`; each row has a completion, or a list of them, and the
reference answer. Columns are found by their usual names or named with `fields` (`a.b` is b inside a). Every grade is
written to NAME.graded.jsonl in the current folder (the row's id, the number of the completion, verdict, extracted,
parsed, rules), and unusable rows to NAME.dropped.jsonl with the reason. `limo compare` takes two files of grades.
The rules are in `eval/grader/`.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.grader.extract import explicit, extract
from eval.grader.grade import Grade, equal, grade, grade_all
from eval.grader.nodes import Kind, Verdict
from limo.command import run_function
from limo.console import Table, print_table, terminal
from limo.data import Dropped, replacing
from limo.errors import UserError
from limo.sources.files import read_rows, shortened

__all__ = ["Grade", "Kind", "Verdict", "compute_score", "equal", "explicit", "extract", "grade", "reward"]

LISTED = 30  # disagreements on the terminal
IDS = ("id", "unique_id", "uid", "problem_id", "task_id")  # columns with the id of a row
COLUMNS = {
    "completion": ("completion", "completions", "response", "output", "generation", "code", "solution", "prediction"),
    "answer": ("answer", "gt", "ground_truth", "final_answer", "reference", "target", "label"),
}


Reference = str | Sequence[str] | None  # several are alternatives


def reward(
    completions: Sequence[Any],
    solution: Sequence[Reference] | None = None,
    answer: Sequence[Reference] | None = None,
    *,
    unsure: float | None = None,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """The reward function for TRL's trainers: 1 for each correct completion, 0 for each wrong one.

    Args: `completions` as TRL passes them: texts, or lists of messages of which the last one counts; `solution` or
    `answer` are the references, from the data set's column of that name (`answer` is used if a row has both), a list if
    several answers are right; `unsure` is the reward of completions that cannot be graded and of rows without a
    reference. With None, TRL leaves them out: 0.0 would punish right answers for the grader's limits. Raises UserError
    if both columns are missing.
    """
    if solution is None and answer is None:
        raise UserError("the data set needs a column 'solution' or 'answer' with the references")
    nothing: list[Reference] = [None] * len(completions)
    references = [a or s for a, s in zip(answer or nothing, solution or nothing, strict=True)]
    grades = [_best(_text(c), reference) for c, reference in zip(completions, references, strict=True)]
    if log_extra:
        log_extra("verdict", [g.verdict for g in grades])
        log_extra("extracted", [g.extracted or "" for g in grades])
    rewards: dict[str, float | None] = {"correct": 1.0, "wrong": 0.0, "unsure": unsure}
    return [rewards[g.verdict] for g in grades]


def compute_score(data_source: str, solution_str: str, ground_truth: Reference, extra_info: Any = None) -> float:
    """The reward function for verl (`custom_reward_function.path`): 1 for correct, else 0. verl leaves out no row."""
    return float(_best(_text(solution_str), ground_truth).verdict == "correct")


def _best(completion: str, reference: Reference) -> Grade:
    """The best grade of a completion over several reference answers."""
    references = [reference] if isinstance(reference, str) else list(reference or ())
    grades = [grade(completion, str(each)) for each in references if each is not None and str(each).strip()]
    order = ("correct", "unsure", "wrong")
    return min(grades, key=lambda g: order.index(g.verdict), default=Grade("unsure", None, "no reference"))


def _text(completion: Any) -> str:
    """The text of a completion, given as a string, None, a message, or a list of messages, whose content is a string or
    a list of parts.
    """
    if isinstance(completion, Sequence) and not isinstance(completion, str):
        if completion and isinstance(completion[-1], Mapping) and "type" in completion[-1]:
            return "".join(str(part.get("text") or "") for part in completion)
        return _text(completion[-1]) if completion else ""
    return _text(completion.get("content")) if isinstance(completion, Mapping) else str(completion or "")


@dataclass(frozen=True, slots=True)
class Item:
    """One completion to be graded, and the verdict of another grader."""

    id: str  # the row's id, else its number
    row: int
    index: int  # among the row's completions
    completion: str  # empty if the row has none, which is graded as wrong
    answer: str
    other: bool | None
    cut_off: bool  # by its length, if the completion states how it ended


def regrade(
    file: str,
    *,
    fields: str = "",
    kind: Kind = "math",
    disagree: str | None = None,
    out: str | None = None,
) -> list[Grade]:
    """The command `limo grade`: grade a file's completions, write the grades, print a summary.

    Args: `fields` as completion=COLUMN,answer=COLUMN; `kind` of the references, math, strict or physics; `disagree` a
    column with another grader's verdict, whose differences are listed; `out` for the grades instead of
    NAME.graded.jsonl. Raises UserError for an unusable file.
    """
    columns = _columns(fields)
    items, dropped = _items(file, columns, disagree)
    if not items:
        first = f"; the first: row {dropped[0].row}: {dropped[0].reason} ({dropped[0].detail})" if dropped else ""
        raise UserError(f"'{file}' has no completion to grade{first}")
    where = Path(out) if out else Path(Path(file).stem + ".graded.jsonl")
    if where.exists() and where.samefile(file):
        raise UserError(f"out={out} is the file that is graded: name another")
    grades = grade_all([(i.completion, i.answer) for i in items], kind=kind)
    grades = [replace(g, cut_off=i.cut_off) for i, g in zip(items, grades, strict=True)]
    _write(where, items, grades, dropped)
    _print(items, grades, dropped, where, disagree)
    return grades


def _columns(fields: str) -> dict[str, str]:
    columns = {}
    for pair in filter(None, fields.strip("{}").split(",")):  # {completion: column} as in recipes, too
        ours, equals, theirs = map(str.strip, pair.replace(":", "=", "=" not in pair).partition("="))
        if ours not in COLUMNS or not equals or not theirs:
            raise UserError(f"--fields must read completion=COLUMN,answer=COLUMN, not '{fields}'")
        columns[ours] = theirs
    return columns


def _items(file: str, columns: Mapping[str, str], other: str | None) -> tuple[list[Item], list[Dropped]]:
    items, dropped = list[Item](), list[Dropped]()
    for number, raw in read_rows(file):
        try:
            items.extend(_item(raw, number, columns, other))
        except _Unusable as error:
            kept = raw.data if isinstance(raw, Dropped) else shortened(raw)
            dropped.append(Dropped(str(number), file, error.reason, error.detail, file, number, kept))
    return items, dropped


class _Unusable(Exception):
    """Raised for a row without a completion or an answer."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


def _item(raw: Any, number: int, columns: Mapping[str, str], other: str | None) -> list[Item]:
    """Read the completions of a row. Raises _Unusable."""
    if isinstance(raw, Dropped):
        raise _Unusable(raw.reason, raw.detail)
    if not isinstance(raw, dict):
        raise _Unusable("not an object", f"a row must be a mapping of columns, this is {type(raw).__name__}")
    values = {ours: _column(raw, ours, columns.get(ours)) for ours in COLUMNS}
    given = _listed(values["completion"])
    texts = [c["text"] if isinstance(c, dict) and "text" in c else "" if c is None else c for c in given]
    for text in texts:
        if not isinstance(text, str):
            raise _Unusable("completion is not text", f"{type(text).__name__}: {str(text)[:100]}")
    answer = ", ".join(map(str, _listed(values["answer"])))
    verdicts = [None] * len(texts) if other is None else _verdicts(raw, other, len(texts))
    cut = [isinstance(c, dict) and c.get("finish", c.get("finish_reason")) == "length" for c in given]
    rows = zip(texts, [answer] * len(texts), verdicts, cut, strict=True)
    name = str(next((raw[key] for key in IDS if raw.get(key) is not None), number))
    return [Item(name, number, i, *found) for i, found in enumerate(rows)]


def _column(raw: dict[str, Any], ours: str, named: str | None) -> Any:
    column = named or next((c for c in COLUMNS[ours] if c in raw), None)
    value = None if column is None else _inside(raw, column)
    if value is None and not (ours == "completion" and column in raw):
        what = f"no {ours} in '{column or ' or '.join(COLUMNS[ours])}'"
        detail = f"{what}; the columns are {_names(raw)}: name it with --fields {ours}=COLUMN"
        raise _Unusable("missing field", detail)
    return value


def _verdicts(raw: dict[str, Any], column: str, count: int) -> list[bool | None]:
    """Read another grader's verdicts, one for each completion. Raises _Unusable."""
    value = _inside(raw, column)
    if value is None:
        raise _Unusable("missing field", f"no column '{column}'; the columns are {_names(raw)}")
    if len(_listed(value)) != count:
        raise _Unusable("missing field", f"'{column}' has {len(_listed(value))} verdicts for {count} completions")
    for verdict in _listed(value):
        if _yes(verdict) is None:
            raise _Unusable("no verdict", f"'{column}' holds {verdict!r}, neither true nor false")
    return list(map(_yes, _listed(value)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _names(raw: dict[str, Any]) -> str:
    return ", ".join(map(str, list(raw)[:12]))


def _inside(raw: Any, column: str) -> Any:
    """Read a column; the name `a.b` means the key b inside column a."""
    if isinstance(raw, dict) and column in raw:
        return raw[column]
    head, _, tail = column.partition(".")
    return _inside(raw.get(head), tail) if tail and isinstance(raw, dict) else None


_VERDICTS = {
    **dict.fromkeys(("true", "1", "1.0", "correct", "yes", "right"), True),
    **dict.fromkeys(("false", "0", "0.0", "wrong", "no", "incorrect", "unsure"), False),
}


def _yes(verdict: Any) -> bool | None:
    """Read another grader's verdict as true or false."""
    return _VERDICTS.get(str(verdict).strip().lower())


def _write(where: Path, items: Sequence[Item], grades: Sequence[Grade], dropped: Sequence[Dropped]) -> None:
    with replacing(where) as lines:
        for item, grade in zip(items, grades, strict=True):
            where_from = {"id": item.id, "row": item.row, "index": item.index, "answer": item.answer}
            row = {**where_from, **asdict(grade), "parsed": grade.parsed, "other": item.other}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    _dropped_file(where).unlink(missing_ok=True)  # of an earlier call
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
        _print_disagreement(items, grades, other, console)
    if unsure := Counter(g.how for g in grades if g.verdict == "unsure"):
        print_table(Table(("reason", "answers"), unsure.most_common(10), (1,), "Unsure, by reason"), console)
    unread = [i for i, g in zip(items, grades, strict=True) if g.verdict == "unsure" and "reference" in g.how]
    if 2 * len(unread) >= n:  # then the column probably holds no references
        begin = " ".join(unread[0].answer.split())[-80:]
        say(
            f"Most references cannot be read. The first ends with '{begin}': is it the right column (--fields "
            "answer=...)?"
        )
    if dropped:
        reasons = ", ".join(f"{r}: {c}" for r, c in Counter(d.reason for d in dropped).items())
        say(f"{len(dropped)} rows dropped ({reasons}): {_dropped_file(where)}")
    say(f"Grades: {where}")


def _print_disagreement(items: Sequence[Item], grades: Sequence[Grade], other: str, console: Any) -> None:
    differ = [(i, g) for i, g in zip(items, grades, strict=True) if (g.verdict == "correct") != i.other]
    ours = sum(g.verdict == "correct" for _, g in differ)
    console.print(
        f"agreement with '{other}': {100 * (1 - len(differ) / len(grades)):.2f} %; {ours} correct here and wrong "
        f"there, {len(differ) - ours} the other way",
        soft_wrap=True,
        markup=False,
    )
    rows = [
        (f"{i.row}.{i.index}", (g.extracted or "")[:60], i.answer[:60], g.verdict, g.how, i.other)
        for i, g in differ[:LISTED]
    ]
    if rows:
        title = f"Where they differ (first {len(rows)} of {len(differ)})"
        print_table(Table(("row", "extracted", "answer", "here", "how", "there"), rows, title=title), console)


if __name__ == "__main__":
    run_function(regrade, "limo grade", __doc__)
