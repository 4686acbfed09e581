"""What a chain must be to be learned from: it ends in the right answer, in one form."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from eval.grade import grade
from limo.data import Dropped, Example, Row
from limo.marks import after_hashes, last_boxed

CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's annotations, addressed to a calculator and not to a reader


_SHOWN_BEFORE = re.compile(r"=\s*[$£€]?\s*$")


def write_out(rows: Iterable[Example], /) -> Iterator[Example]:
    """GSM8K's calculator annotations become text where a reader would miss the equation, and go where he sees it.

    `sold 48/2 = <<48/2=24>>24 clips` becomes `sold 48/2 = 24 clips`, and `sold <<48/2=24>>24 clips` becomes
    `sold 48/2=24 clips`, so that whoever reads the chain can follow, and check, each step.
    """
    for row in rows:
        yield replace(row, completion=CALCULATOR.sub(_in_text, row.completion))


def _in_text(found: re.Match[str]) -> str:
    left, sign, _ = found[0][2:-2].rpartition("=")
    return "" if not sign or _SHOWN_BEFORE.search(found.string[: found.start()]) else f"{left}="


def verify(rows: Iterable[Example], /, *, keep_unverified: bool) -> Iterator[Row]:
    """Keep chains whose final answer the grader finds correct, and note the verdict.

    With `keep_unverified` wrong ones stay as well, under `notes.verdict`: an arm for an ablation, since small students
    have learned as much from them (Guha et al. 2025, "OpenThoughts", arXiv 2506.04178). Problems without a chain leave
    in any case.
    """
    for row in rows:
        if not row.completion.strip():
            yield Dropped(row.id, "", "no chain", "", data=row.to_json())
            continue
        found = grade(row.completion, row.answer)
        if found.verdict == "correct" or keep_unverified:
            yield replace(row, notes={**row.notes, "verdict": found.verdict})
        else:
            reason = {"wrong": "wrong answer", "unsure": "cannot be graded"}[found.verdict]
            detail = f"{found.extracted!r} for {row.answer!r} ({found.how})"
            yield Dropped(row.id, "", reason, detail, data=row.to_json())


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
