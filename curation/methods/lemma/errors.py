"""Learning from errors: find a student's mistakes, plant others like them, correct them all, and mix the rows.

LEMMA (arXiv 2503.17439v2): training rows are a wrong beginning, cut right after its first wrong step, a reflection, and
a right continuation. The stages, in the order of a recipe; the input rows have a right chain, and rows without an error
stay unchanged until `mix`:

    find     the student's wrong attempts, each with type and first wrong step            -> rows with notes.error
    inject   proved mistakes, of types sampled from the student's mistakes                -> rows with notes.error
    correct  each error corrected by each strategy, kept if the answer is right and no equation is false
    smooth   a teacher that is a model rewrites the whole
    mix      shares of origin, strategy and error-free chains

The stages take a `teacher`: `rules.RuleTeacher` needs no model, `teach.Model` asks one. How a model continues a wrong
beginning is measured with `begun.py` and `eval/repair.py`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from random import Random
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt

from curation.methods.lemma.mistakes import Mistake, Rejected
from curation.methods.lemma.rules import RuleTeacher
from curation.methods.lemma.teach import Model, Strategy
from curation.parallel import chunked
from curation.stage import Share, drop, stage
from curation.stages.attempts import judged
from eval.equations import equations, holds
from eval.grade import grade
from limo.data import Example, Row, content_id
from limo.engines.ledger import Cached
from limo.engines.protocol import Sampling, stream
from limo.errors import UserError
from limo.recipe import bind

Teacher = RuleTeacher | Model
CHUNK = 500  # rows about which a teacher is asked at once
UNUSED = {"cut": "cut off by its length limit", "unsure": "cannot be graded", "refused": "not sampled"}


@stage("pool", writes=("failure_rate",), samples=True)
def find(
    rows: Iterable[Example], /, *, engine: dict[str, Any], sampling: Sampling, teacher: dict[str, Any]
) -> Iterator[Row]:
    """Yield each row, followed by one row per wrong attempt of the student. Attempts whose first wrong step is unknown
    are dropped.

    Args: `engine` node of the student; attempts in the ledger are not sampled again; `teacher` node that finds the
    mistakes. Adds `scores.failure_rate`, the wrong share of finished attempts, and `notes.errors`, how often each type
    was found. The id of an error's row consists of the problem's id, `found` and the number of the attempt; its
    completion ends with the first wrong step; and `notes.error` has type, step, reason, proof, the whole attempt, and a
    right attempt at the same problem if there is one. Attempts that were cut off, cannot be graded or hold no known
    mistake are dropped. Goes through `rows` twice.
    """
    student, finder = Cached(bind(engine, "find.engine")()), _bind_teacher(teacher)
    asked = ((row.prompt, sampling.n) for row in rows)
    attempted = zip(rows, stream(student, asked, sampling, "student: attempts"), strict=True)
    for chunk in chunked(attempted, CHUNK):
        wrong: list[tuple[Example, Example, str]] = []  # the problem's row, the wrong attempt, a right attempt
        clean: list[Example] = []
        for row, attempts in chunk:
            outcomes = [judged(attempt, row.answer)[0] for attempt in attempts]
            counts, texts = Counter(outcomes), set[str]()
            right = [a.text for a, outcome in zip(attempts, outcomes, strict=True) if outcome == "right"]
            other = Random(row.id).choice(right) if right else ""
            for index, (attempt, outcome) in enumerate(zip(attempts, outcomes, strict=True)):
                made = replace(row, id=f"{row.id}/found/{index}", completion=attempt.text)
                if outcome == "wrong" and attempt.text.strip() and attempt.text not in texts:
                    texts.add(attempt.text)
                    wrong.append((row, made, other))
                elif outcome != "right":
                    repeated = "same attempt" if attempt.text in texts else "empty attempt"
                    detail = attempt.why or f"{attempt.tokens} tokens"
                    yield drop(made, UNUSED.get(outcome, repeated), detail)
            finished = counts["right"] + counts["wrong"]
            rate = {"failure_rate": counts["wrong"] / finished} if finished else {}
            clean.append(replace(row, scores={**row.scores, **rate}))
        mistakes = finder.diagnose([(row, made.completion) for row, made, _ in wrong])
        types = Counter(
            (row.id, m.type) for (row, _, _), m in zip(wrong, mistakes, strict=True) if isinstance(m, Mistake)
        )
        for row in clean:
            found = {kind: count for (key, kind), count in types.items() if key == row.id}
            yield replace(row, notes={**row.notes, "errors": found})
        for (row, made, other), mistake in zip(wrong, mistakes, strict=True):
            if isinstance(mistake, Rejected):
                yield mistake.dropped(made)
            else:
                yield _error(row, made.id, mistake, "student", other)


def _error(row: Example, key: str, mistake: Mistake, origin: str, other: str) -> Example:
    """Make a row whose completion ends with the first wrong step. `notes.chain` holds the right chain."""
    error = {**mistake.to_notes(), "origin": origin, "other": other}
    notes = {**row.notes, "error": error, "chain": row.completion, "type": mistake.type}
    return replace(row, id=key, completion=mistake.prefix, notes=notes)


@stage("pool", samples=True)
def inject(
    rows: Iterable[Example],
    /,
    *,
    teacher: dict[str, Any],
    per_problem: NonNegativeInt,
    otherwise: Literal["uniform", "skip"],
    seed: int,
) -> Iterator[Row]:
    """Yield the rows, and for each problem up to `per_problem` rows with a planted mistake that is proved to be one.

    Types are sampled from the distribution of the student's mistakes at the same problem (LEMMA's rule), among those
    that the teacher can plant. If the student made no known mistake, `otherwise` samples all types uniformly, or skips
    the problem. A planted mistake stays if the final answer is wrong, no equation before its step is false, and the
    step is wrong: SymPy refutes an equation in it, or the right chain has another result there, or a second opinion of
    the teacher says so.
    """
    planter = _bind_teacher(teacher)
    rest = Counter(dict.fromkeys(planter.kinds, 1)) if otherwise == "uniform" else Counter[str]()
    for chunk in chunked(rows, CHUNK):
        yield from chunk
        asked = list[tuple[Example, str, int]]()
        for row in chunk:
            types = {k: n for k, n in row.notes.get("errors", {}).items() if k in planter.kinds} or rest
            if types and "error" not in row.notes:
                listed = sorted(types)
                kinds = Random(f"{seed}/{row.id}").choices(listed, [types[k] for k in listed], k=per_problem)
                asked += [(row, kind, kinds[:at].count(kind)) for at, kind in enumerate(kinds)]
        yield from _plant(asked, planter)


def _plant(asked: Sequence[tuple[Example, str, int]], teacher: Teacher) -> Iterator[Row]:
    """The mistakes that a teacher plants and that are proved, as rows; the others are dropped."""
    made = teacher.inject(asked)
    pairs = zip(asked, made, strict=True)
    opinions = iter(teacher.agree([(row, m) for (row, _, _), m in pairs if isinstance(m, Mistake) and not m.proof]))
    seen = set[str]()
    for (row, kind, number), mistake in zip(asked, made, strict=True):
        key = f"{row.id}/injected/{kind}{number}"
        opinion = next(opinions) if isinstance(mistake, Mistake) and not mistake.proof else True
        if isinstance(mistake, Mistake):
            mistake = replace(mistake, proof=mistake.proof or "second opinion of the teacher")
            try:
                _check_planted(row, mistake, opinion)
                if content_id([row.problem, mistake.prefix]) in seen:
                    raise Rejected("same error")
            except Rejected as why:
                mistake = why
        if isinstance(mistake, Rejected):
            yield mistake.dropped(replace(row, id=key))
        else:
            seen.add(content_id([row.problem, mistake.prefix]))
            yield _error(row, key, mistake, "injected", "")


def _check_planted(row: Example, mistake: Mistake, opinion: bool | Rejected) -> None:
    """Raise Rejected if the second opinion disagrees that the step is wrong, the final answer is right, or an earlier
    step is wrong.
    """
    if isinstance(opinion, Rejected):
        raise opinion
    if not opinion:
        raise Rejected("the step is not proved wrong", "the second opinion is another")
    found = grade("".join(mistake.steps), row.answer)
    if found.verdict != "wrong" or found.extracted is None:
        raise Rejected("the wrong solution does not end in a wrong answer", f"{found.extracted!r}: {found.verdict}")
    if false := _find_false("".join(mistake.steps[: mistake.at])):
        raise Rejected("an earlier step is wrong", false)


@stage("pool", samples=True)
def correct(
    rows: Iterable[Example],
    /,
    *,
    teacher: dict[str, Any],
    strategies: Annotated[list[Strategy], Field(min_length=1)],
) -> Iterator[Row]:
    """Correct each error by each of the `strategies`: fix (and continue) or restart. Other rows stay.

    The completion becomes the unchanged wrong beginning, a reflection, and the rest; `notes.strategy` names the
    strategy. A row is kept if its final answer is right and no equation after the first wrong step is false, which a
    check of the answer alone would not notice.
    """
    corrector = _bind_teacher(teacher)
    for chunk in chunked(rows, CHUNK):
        yield from (row for row in chunk if "error" not in row.notes)
        errors = [(row, Mistake.from_notes(row.notes["error"])) for row in chunk if "error" in row.notes]
        asked = [(replace(row, completion=row.notes["chain"]), m, row.notes["error"]["other"]) for row, m in errors]
        for way in strategies:
            for (row, mistake), rest in zip(errors, corrector.correct(asked, way), strict=True):
                named = replace(row, id=f"{row.id}/{way}")
                if isinstance(rest, Rejected):
                    yield rest.dropped(named)
                    continue
                notes = {k: v for k, v in row.notes.items() if k != "chain"}
                error = {k: v for k, v in row.notes["error"].items() if k != "other"}
                notes |= {"error": error, "strategy": way, "rest": len(rest)}
                made = replace(named, completion=f"{mistake.prefix}\n{rest.strip()}", notes=notes)
                yield _check_end(made, rest)


def _check_end(row: Example, rest: str) -> Row:
    """The row; or a Dropped, if its final answer is wrong or an equation after the wrong step is false."""
    found = grade(row.completion, row.answer)
    if found.verdict != "correct":
        detail = f"{found.extracted!r} for {row.answer!r} ({found.how})"
        return drop(row, "the correction ends in a wrong answer", detail)
    if false := _find_false(rest):
        return drop(row, "the correction has a false equation", false)
    return row


def _find_false(text: str) -> str:
    """The first false equation that contains no unknown; empty if there is none."""
    return next((f"{e.left} = {e.right}" for e in equations(text) if not e.unknown and holds(e) is False), "")


def _check_smooth(*, teacher: dict[str, Any]) -> None:
    if not hasattr(_bind_teacher(teacher), "smooth"):
        raise UserError("smooth needs a teacher that is a model: take the stage out of curate.order and curate.stages")


@stage("pool", samples=True, check=_check_smooth)
def smooth(rows: Iterable[Example], /, *, teacher: dict[str, Any]) -> Iterator[Row]:
    """Let a model rewrite each corrected solution as one text, kept if its answer is still right. Other rows stay."""
    model: Any = _bind_teacher(teacher)
    for chunk in chunked(rows, CHUNK):
        yield from (row for row in chunk if "error" not in row.notes)
        corrected = [row for row in chunk if "error" in row.notes]
        for row, text in zip(corrected, model.smooth(corrected), strict=True):
            yield (text.dropped(row) if isinstance(text, Rejected) else _check_end(replace(row, completion=text), ""))


def _bind_teacher(node: dict[str, Any]) -> Teacher:
    teacher: Teacher = bind(node, "teacher")()
    return teacher


@stage("pool")
def mix_error_free(
    rows: Iterable[Example], /, *, k: int | None, student: Share, fix: Share, error_free: Share, seed: int
) -> Iterator[Row]:
    """`k` rows: `error_free` is the share of chains without an error; among the others, `student` is the share of the
    student's errors (the rest are injected), and `fix` the share corrected by fix and continue (the rest restart).

    With `k` null there are as many rows as the shares allow. If a kind has too few rows, other rows with errors take
    their place.
    """
    listed = sorted(rows, key=lambda row: content_id([seed, row.id], 16))
    wanted = {("", ""): error_free}
    for origin, a in (("student", student), ("injected", 1 - student)):
        for strategy, b in (("fix", fix), ("restart", 1 - fix)):
            wanted[origin, strategy] = (1 - error_free) * a * b
    cells: dict[tuple[str, str], list[Example]] = {cell: [] for cell in wanted}
    for row in listed:
        cells[_cell(row)].append(row)
    if k is None:
        k = min((int(len(cells[c]) / share) for c, share in wanted.items() if share), default=0)
    sums = [0, *(int(total + 0.5) for total in accumulate(wanted[c] * k for c in cells))]  # rounded, with the same sum
    taken = {row.id for cell, (a, b) in zip(cells.values(), pairwise(sums), strict=True) for row in cell[: b - a]}
    spare = [row for row in listed if row.id not in taken and _cell(row) != ("", "") and wanted[_cell(row)]]
    taken |= {row.id for row in spare[: max(0, min(k, len(listed)) - len(taken))]}
    yield from (row if row.id in taken else drop(row, "not in the mix") for row in listed)


def _cell(row: Example) -> tuple[str, str]:
    return (row.notes["error"]["origin"], row.notes["strategy"]) if "error" in row.notes else ("", "")
