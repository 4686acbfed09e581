"""What a chain must be to be trained on: it ends in the right answer, in one form."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from curation.stage import drop, stage
from eval.equations import equations, holds
from eval.grade import grade
from limo.data import Example, Row
from limo.marks import after_hashes, last_boxed

CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's annotations, addressed to a calculator and not to a reader


_SHOWN_BEFORE = re.compile(r"=\s*[$£€]?\s*$")


@stage("row")
def write_out(rows: Iterable[Example], /) -> Iterator[Example]:
    """GSM8K's calculator annotations become text where a reader would miss the equation, and go where he sees it.

    `sold 48/2 = <<48/2=24>>24 clips` becomes `sold 48/2 = 24 clips`, and `sold <<48/2=24>>24 clips` becomes
    `sold 48/2=24 clips`, so that a reader can follow and check each step.
    """
    for row in rows:
        yield replace(row, completion=CALCULATOR.sub(_in_text, row.completion))


def _in_text(found: re.Match[str]) -> str:
    left, sign, _ = found[0][2:-2].rpartition("=")
    return "" if not sign or _SHOWN_BEFORE.search(found.string[: found.start()]) else f"{left}="


@stage("row")
def verify(rows: Iterable[Example], /, *, keep_unverified: bool) -> Iterator[Row]:
    """Keep chains whose final answer the grader finds correct, and note the verdict.

    With `keep_unverified` wrong ones stay as well, under `notes.verdict`: an arm for an ablation, since small students
    have learned as much from them (Guha et al. 2025, "OpenThoughts", arXiv 2506.04178). Problems without a chain are
    dropped in any case. A chain that comes with `notes.verdict`, as attempts do, was graded there.
    """
    for row in rows:
        if not row.completion.strip():
            yield drop(row, "no chain")
            continue
        verdict, detail = row.notes.get("verdict"), f"{row.notes.get('extracted')!r} for {row.answer!r}"
        if verdict is None:
            found = grade(row.completion, row.answer)
            verdict, detail = found.verdict, f"{found.extracted!r} for {row.answer!r} ({found.how})"
        if verdict == "correct" or keep_unverified:
            yield replace(row, notes={**row.notes, "verdict": verdict})
        else:
            reason = {"wrong": "wrong answer", "unsure": "cannot be graded"}[verdict]
            yield drop(row, reason, detail)


@stage("row")
def check_steps(rows: Iterable[Example], /, *, written_by: list[str]) -> Iterator[Row]:
    """Drop chains written by these teachers that state a false equation, or no true one: right by luck, not
    by reasoning.

    For pools of arithmetic only: elsewhere good chains state false equations on purpose ("1 + 3 = 5? No").
    """
    for row in rows:
        if row.notes.get("teacher") not in written_by:
            yield row
            continue
        stated = equations(row.completion)
        false = next((e for e in stated if holds(e) is False), None)
        if false:
            detail = row.completion[false.start : false.end]
            yield drop(row, "false equation", detail)
        elif not any(holds(e) for e in stated):
            yield drop(row, "no true equation")
        else:
            yield row


@stage("row")
def box_answers(rows: Iterable[Example], /) -> Iterator[Example]:
    """End every chain with its answer in a box, as the system prompt asks for.

    GSM8K's `#### n` becomes a sentence and its calculator annotations go; a chain without a box gets a last line with
    the reference answer, so run `verify` before. The text is changed nowhere else.
    """
    for row in rows:
        text = CALCULATOR.sub("", row.completion).strip()
        if after_hashes(text) is not None:
            text = text[: text.rindex("####")].strip()
        if last_boxed(text) is None:
            text += f"\nThe answer is \\boxed{{{row.answer}}}."
        yield replace(row, completion=text)
