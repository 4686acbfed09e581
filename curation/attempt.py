"""Difficulty: a model tries each problem several times, the grader counts."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from eval.grade import explicit, grade
from limo.data import Dropped, Example, Row
from limo.engine import Completion, Sampling, sample
from limo.ledger import Cached
from limo.recipe import bind


def attempt(rows: Iterable[Example], /, *, engine: dict[str, Any], sampling: Sampling) -> Iterator[Row]:
    """Let a model try each problem `sampling.n` times and note how it went.

    Adds `scores.pass_rate` (right among those that were finished) and `notes.attempts` with the counts of `right`,
    `wrong`, `unsure` and `cut`: a completion cut off by length before it gave the right answer is unknown, not wrong.
    """
    listed = list(rows)
    drawn = sample(Cached(bind(engine, "engine")()), [row.prompt for row in listed], sampling, "attempts")
    for row, completions in zip(listed, drawn, strict=True):
        refused = next((c.why for c in completions if c.finish == "refused"), None)
        if refused is not None:
            yield Dropped(row.id, "", "not sampled", refused, data=row.to_json())
            continue
        counts = Counter(outcome(completion, row.answer) for completion in completions)
        told = counts["right"] + counts["wrong"]
        scores = {**row.scores, "pass_rate": counts["right"] / told if told else 0.0}
        tried = {name: counts[name] for name in ("right", "wrong", "unsure", "cut")}
        yield replace(row, scores=scores, notes={**row.notes, "attempts": tried})


def outcome(completion: Completion, answer: str) -> str:
    """`right`, `wrong`, `unsure`; or `cut` for one that ended by length before it stated an answer in a box or so."""
    if completion.finish == "length" and explicit(completion.text) is None:
        return "cut"
    verdict = grade(completion.text, answer).verdict
    return "right" if verdict == "correct" else verdict


def window(rows: Iterable[Example], /, *, at_least: int, at_most: int) -> Iterator[Row]:
    """Keep problems of which `at_least` to `at_most` attempts were right (LIMO section 3: 0 of 4; 1 to 3 of 32)."""
    for row in rows:
        tried = row.notes["attempts"]
        right, told = tried["right"], tried["right"] + tried["wrong"]
        said = f"{right} of {told} attempts right"
        if right > at_most:
            yield Dropped(row.id, "", "too easy", f"{said}, the limit is {at_most}", data=row.to_json())
        elif not told:
            detail = f"{tried['cut']} attempts were cut off, {tried['unsure']} could not be graded"
            yield Dropped(row.id, "", "difficulty unknown", detail, data=row.to_json())
        elif right < at_least:
            yield Dropped(row.id, "", "too hard", f"{said}, {at_least} needed", data=row.to_json())
        else:
            yield row


def own_chains(rows: Iterable[Example], /, *, engine: dict[str, Any], sampling: Sampling) -> Iterator[Row]:
    """Beside each row's own chain, the model's right and finished attempts as rivals.

    With the settings of `attempt` nothing is sampled: the ledger has it. A rival's id is the problem's, `/own` and its
    number; its prompt is the same, by which `curation.choose` knows rivals.
    """
    listed = list(rows)
    drawn = sample(Cached(bind(engine, "engine")()), [row.prompt for row in listed], sampling, "own chains")
    for row, completions in zip(listed, drawn, strict=True):
        if row.completion:
            yield replace(row, notes={**row.notes, "teacher": row.notes.get("teacher", row.source)})
        seen: set[str] = set()
        for index, completion in enumerate(completions):
            if (
                completion.finish == "stop"
                and completion.text not in seen
                and outcome(completion, row.answer) == "right"
            ):
                seen.add(completion.text)
                notes = {**row.notes, "teacher": "own"}
                yield replace(row, id=f"{row.id}/own{index}", completion=completion.text, notes=notes)
        if not row.completion and not seen:
            yield Dropped(row.id, "", "no chain", "the source has none and no attempt was right", data=row.to_json())
