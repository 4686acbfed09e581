"""Chains for each problem: from several teachers, from the attempts already made, from the source's own solution."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from curation.attempt import drawn_as
from curation.pool import digest
from limo.data import Dropped, Example, Row
from limo.engine import Completion, Prompt, Sampling, stream
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
    teacher, so that one model is in memory at a time. Raises UserError if nobody is to write chains.
    """
    if not teachers and not official:
        raise UserError("solve needs a teacher, or official: true")
    solved = set[int]()
    if official:
        for row in rows:
            if row.completion:
                solved.add(digest(row.problem))
                yield replace(row, notes={**row.notes, "teacher": row.notes.get("teacher", row.source)})
    for name, node in teachers.items():
        for problem, rival in _taught(rows, name, bind(node, f"solve.teachers.{name}")()):
            if isinstance(rival, Example):
                solved.add(problem)
            yield rival
    for row in rows:
        if digest(row.problem) not in solved:
            yield Dropped(row.id, "", "no chain", "no solution and no finished attempt", data=row.to_json())


def _taught(rows: Iterable[Example], name: str, teacher: Teacher) -> Iterator[tuple[int, Row]]:
    """The teacher's chains, each with the digest of its problem. A problem that comes again is not asked again."""
    runner = Cached(bind(teacher.engine, f"solve.teachers.{name}.engine")())
    same = drawn_as(runner.fingerprint, teacher.sampling)
    seen = set[int]()

    def asked() -> Iterator[tuple[Prompt, int]]:
        for row in rows:
            problem = digest(row.problem)
            yield row.prompt, 0 if problem in seen else _wanted(row, name, teacher, same)
            seen.add(problem)

    for row, completions in zip(rows, stream(runner, asked(), teacher.sampling, f"{name}: chains"), strict=True):
        yield from ((digest(row.problem), rival) for rival in _rivals(row, name, completions))


def _wanted(row: Example, name: str, teacher: Teacher, same: str) -> int:
    """How many chains to ask for. Raises UserError if attempts are asked for that were drawn otherwise."""
    if teacher.attempts is None:
        return teacher.sampling.n
    tried = row.notes.get("attempts", {}).get(teacher.attempts, {})
    if "drawn_as" in tried and tried["drawn_as"] != same:
        raise UserError(
            f"solve.teachers.{name}: the attempts of '{teacher.attempts}' were drawn with another model or sampling. "
            "Give this teacher the same engine and sampling, or attempts: null to have chains drawn"
        )
    return int(tried["drawn"]) if "drawn_as" in tried else 0


def _rivals(row: Example, name: str, completions: list[Completion]) -> Iterator[Row]:
    """The chains of one teacher for one problem; those that are cut off, refused or repeated are set aside."""
    first: dict[str, str] = {}
    for index, completion in enumerate(completions):
        notes = {**row.notes, "teacher": name, "tokens": completion.tokens}
        rival = replace(row, id=f"{row.id}/{name}/{index}", completion=completion.text, notes=notes)
        if completion.finish == "refused":
            yield Dropped(rival.id, "", "not sampled", completion.why, data=rival.to_json())
        elif completion.finish == "length":
            detail = f"after {completion.tokens} tokens"
            yield Dropped(rival.id, "", "cut off by its length limit", detail, data=rival.to_json())
        elif completion.text in first:
            yield Dropped(rival.id, "", "same chain", f"as {first[completion.text]}", data=rival.to_json())
        else:
            first[completion.text] = rival.id
            yield rival
