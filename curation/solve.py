"""Chains for each problem: from several teachers, from the attempts already made, from the source's own solution."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from limo.data import Dropped, Example, Row
from limo.engine import Sampling, stream
from limo.errors import UserError
from limo.ledger import Cached
from limo.recipe import bind


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that writes chains."""

    engine: dict[str, Any]
    sampling: Sampling
    attempts: str | None  # take those that the stage `difficulty` of this name has drawn, and draw no others


def solve(rows: Iterable[Example], /, *, teachers: Mapping[str, Any], official: bool) -> Iterator[Row]:
    """Every chain there is for each problem, as rivals: rows of one prompt, of which `curation.choose` takes the best.

    Args: `teachers` by name, each a `Teacher`; `official` says whether the source's own solution is a candidate. A
    rival's id is the problem's, a slash, the teacher's name and the number of the sample; `notes.teacher` names its
    teacher. Chains cut off by the length limit are set aside, and so are repetitions. Goes through `rows` once for each
    teacher, so that one model is in memory at a time.
    """
    if not teachers and not official:
        raise UserError("solve needs a teacher, or official: true")
    solved = set[str]()
    if official:
        for row in rows:
            if row.completion:
                solved.add(row.id)
                yield replace(row, notes={**row.notes, "teacher": row.notes.get("teacher", row.source)})
    for name, node in teachers.items():
        for rival in _taught(rows, name, bind(node, f"solve.teachers.{name}")()):
            if isinstance(rival, Example):
                solved.add(rival.id.rpartition("/")[0].rpartition("/")[0])
            yield rival
    for row in rows:
        if row.id not in solved:
            yield Dropped(row.id, "", "no chain", "no solution and no finished attempt", data=row.to_json())


def _taught(rows: Iterable[Example], name: str, teacher: Teacher) -> Iterator[Row]:
    def wanted(row: Example) -> int:
        if teacher.attempts is None:
            return teacher.sampling.n
        return int(row.notes.get("attempts", {}).get(teacher.attempts, {}).get("drawn", 0))

    asked = ((row.prompt, wanted(row)) for row in rows)
    drawn = stream(Cached(bind(teacher.engine, f"solve.teachers.{name}.engine")()), asked, teacher.sampling)
    for row, completions in zip(rows, drawn, strict=True):
        seen = set[str]()
        for index, completion in enumerate(completions):
            rival = replace(
                row,
                id=f"{row.id}/{name}/{index}",
                completion=completion.text,
                notes={**row.notes, "teacher": name, "tokens": completion.tokens},
            )
            if completion.finish == "refused":
                yield Dropped(rival.id, "", "not sampled", completion.why, data=rival.to_json())
                break
            if completion.finish == "length":
                detail = f"after {completion.tokens} tokens"
                yield Dropped(rival.id, "", "cut off by its length limit", detail, data=rival.to_json())
            elif completion.text not in seen:
                seen.add(completion.text)
                yield rival
