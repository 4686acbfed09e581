"""Learning from errors: find a student's own, plant others like them, mend them all, and mix what comes out.

LEMMA (arXiv 2503.17439v2): training rows are a wrong beginning, cut right after its first wrong step, a reflection, and
a right continuation. The stages, in the order of a recipe; rows come with a right chain, and those without error stay
as they are until `mix`:

    find     the student's wrong attempts, each with type and first wrong step            -> rows with notes.error
    inject   mistakes of types drawn from the student's own, each proved to be one        -> rows with notes.error
    correct  each error mended by each strategy, kept where the answer is right and no equation is false
    smooth   a teacher rewrites the whole (left out by rule)
    mix      shares of origin, strategy and error-free chains; or mix_hard, by failure rate (`curation/lemma/mix.py`)

Every stage has a `teacher` (`curation/lemma/teach.py`): `curation.lemma.rules.Rules` needs no model,
`curation.lemma.teach.Model` asks one. How the measurement goes on from here: `curation/lemma/begun.py` and
`eval/repair.py`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Literal

from curation.lemma.mistakes import Mistake, Unusable
from curation.lemma.prompts import Strategy
from curation.lemma.teach import Teacher
from curation.stage import check_engine, stage
from curation.stages.attempts import judged
from eval.equations import equations, holds
from eval.grade import grade
from limo.data import Dropped, Example, Row, content_id
from limo.engines.ledger import Cached
from limo.engines.protocol import Completion, Sampling, stream
from limo.errors import UserError
from limo.parallel import chunked
from limo.recipe import bind

CHUNK = 500  # rows whose questions a teacher gets at once


def _check(*, teacher: dict[str, Any], engine: dict[str, Any] | None = None, **_: object) -> None:
    for node, where in ((teacher.get("engine"), "teacher.engine"), (engine, "engine")):
        if node is not None:
            check_engine(node, where=where)


@stage("pool", writes=("pass_rate",), samples=True, check=_check)
def find(
    rows: Iterable[Example], /, *, engine: dict[str, Any], sampling: Sampling, teacher: dict[str, Any]
) -> Iterator[Row]:
    """Each row, and behind it a row for each of the student's own wrong attempts whose first wrong step is known.

    Args: `engine` node of the student; attempts that the ledger has are not sampled again; `teacher` node of who finds
    the mistakes. Adds `scores.failure_rate`, wrong among finished attempts, and `notes.errors`, how often each type was
    found. An error's row has the id of its problem, `found` and the number of the attempt, its completion ends with
    the first wrong step, and `notes.error` has type, step, reason, proof, the whole attempt, and a right one of the
    same problem where there is one. Attempts that were cut off, that the grader cannot tell or that hold no known
    mistake are set aside. Goes through `rows` twice.
    """
    student, knows = Cached(bind(engine, "find.engine")()), _teacher(teacher)
    asked = ((row.prompt, sampling.n) for row in rows)
    drawn = zip(rows, stream(student, asked, sampling, "student: attempts"), strict=True)
    for chunk in chunked(drawn, CHUNK):
        wrong, others, counts = list[tuple[Example, str, int]](), dict[str, str](), dict[str, Counter[str]]()
        for row, attempts in chunk:
            outcomes = [judged(attempt, row.answer)[0] for attempt in attempts]
            counts[row.id] = Counter(outcomes)
            right = [a.text for a, outcome in zip(attempts, outcomes, strict=True) if outcome == "right"]
            others[row.id] = Random(row.id).choice(right) if right else ""
            for index, (attempt, outcome) in enumerate(zip(attempts, outcomes, strict=True)):
                repeated = any(row is r and attempt.text == text for r, text, _ in wrong)
                if outcome == "wrong" and attempt.text.strip() and not repeated:
                    wrong.append((row, attempt.text, index))
                elif outcome != "right":
                    yield _unused(row, attempt, index, "same attempt" if repeated else outcome)
        yield from _found(chunk, wrong, others, counts, knows)


def _unused(row: Example, attempt: Completion, index: int, outcome: str) -> Dropped:
    reasons = {"cut": "cut off by its length limit", "unsure": "cannot be graded", "refused": "not sampled"}
    reason = reasons.get(outcome, "empty attempt" if outcome == "wrong" else outcome)
    data = replace(row, id=f"{row.id}/found/{index}", completion=attempt.text)
    return Dropped(data.id, "", reason, attempt.why or f"{attempt.tokens} tokens", data=data.to_json())


def _found(
    chunk: Sequence[tuple[Example, Sequence[Completion]]],
    wrong: Sequence[tuple[Example, str, int]],
    others: Mapping[str, str],
    counts: Mapping[str, Counter[str]],
    teacher: Teacher,
) -> Iterator[Row]:
    """The rows of a chunk with what was found in their attempts."""
    mistakes = teacher.diagnose([(row, text) for row, text, _ in wrong])
    types = {row.id: Counter[str]() for row, _ in chunk}
    errors = list[Row]()
    for (row, text, index), mistake in zip(wrong, mistakes, strict=True):
        key = f"{row.id}/found/{index}"
        if isinstance(mistake, Unusable):
            errors.append(mistake.dropped(replace(row, id=key, completion=text)))
        else:
            types[row.id][mistake.type] += 1
            errors.append(_error(row, key, mistake, "student", others[row.id]))
    for row, _ in chunk:
        told = counts[row.id]["right"] + counts[row.id]["wrong"]
        rate = {"failure_rate": counts[row.id]["wrong"] / told} if told else {}
        yield replace(row, scores={**row.scores, **rate}, notes={**row.notes, "errors": dict(types[row.id])})
    yield from errors


def _error(row: Example, key: str, mistake: Mistake, origin: str, other: str) -> Example:
    """A row whose completion ends with its first wrong step; its right chain goes along in `notes.chain`."""
    error = {**mistake.to_notes(), "origin": origin, "other": other}
    notes = {**row.notes, "error": error, "chain": row.completion, "type": mistake.type}
    return replace(row, id=key, completion=mistake.prefix, notes=notes)


@stage("pool", samples=True, check=_check)
def inject(
    rows: Iterable[Example],
    /,
    *,
    teacher: dict[str, Any],
    per_problem: int,
    otherwise: Literal["pool", "uniform", "skip"],
    seed: int,
) -> Iterator[Row]:
    """The rows, and for each problem up to `per_problem` planted mistakes that are proved to be mistakes.

    Types are drawn from the distribution of the student's own at this very problem (LEMMA's rule), among those
    that the teacher can plant. Where the student made no known mistake, `otherwise` says what is drawn from: those of
    the whole pool, all types alike, or nothing. A planted mistake stays if the final answer is wrong, no equation
    before its step is false, and the step is wrong: by an equation in it that SymPy refutes, by what the right chain
    works out there, or by a second opinion of the teacher. Goes through `rows` twice.
    Raises UserError for settings that cannot be.
    """
    if per_problem < 0:
        raise UserError(f"inject.per_problem must be at least 0, not {per_problem}")
    knows = _teacher(teacher)
    pool = Counter[str]()
    for row in rows:
        pool.update({k: n for k, n in row.notes.get("errors", {}).items() if k in knows.kinds})
    if otherwise == "uniform" or not pool:
        pool = Counter(dict.fromkeys(knows.kinds, 1))
    for chunk in chunked(rows, CHUNK):
        yield from chunk
        asked = list[tuple[Example, str, int]]()
        for row in chunk:
            if "error" not in row.notes:
                own = Counter({k: n for k, n in row.notes.get("errors", {}).items() if k in knows.kinds})
                drawn = _drawn(own or (pool if otherwise != "skip" else Counter()), per_problem, f"{seed}/{row.id}")
                asked += [(row, kind, drawn[:at].count(kind)) for at, kind in enumerate(drawn)]
        yield from _planted(asked, knows)


def _drawn(types: Counter[str], n: int, key: str) -> list[str]:
    """`n` types at random, each as likely as it is frequent; none if there are none."""
    listed = sorted(types)
    return Random(key).choices(listed, [types[k] for k in listed], k=n) if types else []


def _planted(asked: Sequence[tuple[Example, str, int]], teacher: Teacher) -> Iterator[Row]:
    """The mistakes that a teacher plants and that are proved, as rows; the others set aside."""
    made = teacher.inject(asked)
    pairs = zip(asked, made, strict=True)
    doubtful = [(row, m) for (row, _, _), m in pairs if isinstance(m, Mistake) and not m.proof]
    opinions = iter(teacher.agree(doubtful))
    seen = set[str]()
    for (row, kind, number), mistake in zip(asked, made, strict=True):
        key = f"{row.id}/injected/{kind}{number}"
        why: Unusable | None = mistake if isinstance(mistake, Unusable) else None
        if isinstance(mistake, Mistake):
            if not mistake.proof:
                opinion = next(opinions)
                why = opinion if isinstance(opinion, Unusable) else None
                if opinion is False:
                    why = Unusable("the step is not proved wrong", "the second opinion is another")
                mistake = replace(mistake, proof="second opinion of the teacher")
            why = why or _refuted(row, mistake)
            if content_id([row.problem, mistake.prefix]) in seen:
                why = Unusable("same error")
        if why is None and isinstance(mistake, Mistake):
            seen.add(content_id([row.problem, mistake.prefix]))
            yield _error(row, key, mistake, "injected", "")
        else:
            assert why is not None, key
            yield why.dropped(replace(row, id=key))


def _refuted(row: Example, mistake: Mistake) -> Unusable | None:
    """Why a planted mistake is none, whatever the teacher says: the answer is right, or an earlier step is wrong."""
    found = grade("".join(mistake.steps), row.answer)
    if found.verdict != "wrong" or found.extracted is None:
        return Unusable("the wrong solution does not end in a wrong answer", f"{found.extracted!r}: {found.verdict}")
    if false := _false("".join(mistake.steps[: mistake.at])):
        return Unusable("an earlier step is wrong", false)
    return None


@stage("pool", samples=True, check=_check)
def correct(rows: Iterable[Example], /, *, teacher: dict[str, Any], strategies: list[str]) -> Iterator[Row]:
    """Each error mended by each of the `strategies`: fix (and continue), restart (afresh). Other rows stay.

    The completion becomes the wrong beginning as it is, a reflection, and the rest; `notes.strategy` names the way.
    It is kept if its final answer is right and no equation behind the first wrong step is false, which a check of the
    answer alone lets through. Raises UserError for a strategy that there is not.
    """
    unknown = [s for s in strategies if s not in ("fix", "restart")]
    if unknown or not strategies:
        raise UserError(f"correct.strategies must list fix, restart, not {unknown or 'nothing'}")
    knows = _teacher(teacher)
    for chunk in chunked(rows, CHUNK):
        errors = [(row, Mistake.from_notes(row.notes["error"])) for row in chunk if "error" in row.notes]
        yield from (row for row in chunk if "error" not in row.notes)
        asked = [(_with_chain(row), mistake, row.notes["error"]["other"]) for row, mistake in errors]
        for strategy in strategies:
            way: Strategy = "fix" if strategy == "fix" else "restart"
            rests = knows.correct(asked, way)
            for (row, mistake), rest in zip(errors, rests, strict=True):
                yield _mended(row, mistake, rest, strategy)


def _with_chain(row: Example) -> Example:
    """The problem as it was before: with its right chain."""
    return replace(row, completion=row.notes["chain"])


def _mended(row: Example, mistake: Mistake, rest: str | Unusable, strategy: str) -> Row:
    named = replace(row, id=f"{row.id}/{strategy}")
    if isinstance(rest, Unusable):
        return rest.dropped(named)
    text = f"{mistake.prefix}\n{rest.strip()}"
    error = {k: v for k, v in row.notes["error"].items() if k != "other"}
    notes = {k: v for k, v in row.notes.items() if k != "chain"}
    made = replace(named, completion=text, notes={**notes, "error": error, "strategy": strategy, "rest": len(rest)})
    return _ends_right(made, rest)


def _ends_right(row: Example, rest: str) -> Row:
    """The row, or set aside if its answer is not right or what follows the reflection holds a false equation."""
    found = grade(row.completion, row.answer)
    if found.verdict != "correct":
        detail = f"{found.extracted!r} for {row.answer!r} ({found.how})"
        return Dropped(row.id, "", "the correction ends in a wrong answer", detail, data=row.to_json())
    if false := _false(rest):
        return Dropped(row.id, "", "the correction has a false equation", false, data=row.to_json())
    return row


def _false(text: str) -> str:
    """The first false equation without an unknown; empty if there is none."""
    return next((f"{e.left} = {e.right}" for e in equations(text) if not e.unknown and holds(e) is False), "")


@stage("pool", samples=True, check=_check)
def smooth(rows: Iterable[Example], /, *, teacher: dict[str, Any]) -> Iterator[Row]:
    """Let a teacher rewrite each mended solution as one piece; kept where the answer is still right. Others stay."""
    knows = _teacher(teacher)
    for chunk in chunked(rows, CHUNK):
        yield from (row for row in chunk if "error" not in row.notes)
        mended = [row for row in chunk if "error" in row.notes]
        for row, text in zip(mended, knows.smooth([(row, row.completion) for row in mended]), strict=True):
            if isinstance(text, Unusable):
                yield text.dropped(row)
            else:
                yield _ends_right(replace(row, completion=text), "")


def _teacher(node: dict[str, Any]) -> Teacher:
    teacher: Teacher = bind(node, "teacher")()
    return teacher
