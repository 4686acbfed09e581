"""Stages that verify and normalise chains: the right answer at the end, in one form."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from typing import Literal

from curation.stage import Direction, drop, record, stage
from eval.equations import Equation, equations, holds
from eval.grade import equal, grade
from limo.data import Example, Row
from limo.marks import after_hashes, last_boxed

CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's annotations for a calculator, not for a reader
_SENTENCE = re.compile(r"(?<=[.!?])[ \t]+(?=[A-Z$\\])")
_ALIGNED = re.compile(r"\\begin\{(align|aligned|gather|gathered|split|eqnarray)\*?\}.*?(?:\\end\{\1|\Z)", re.DOTALL)
_SHOWN_BEFORE = re.compile(r"=\s*[$£€]?\s*$")
STATED, LINKED, UNDECIDED, OPEN = 0.5, 0.25, 0.2, 1000  # shares, see `keep_true_steps`; chains read for the third
STEPS: Mapping[str, Direction] = {"steps_true": "higher", "steps_false": "lower", "linked": "higher"}
_BEFORE = 20  # characters before an annotation in which its equation may end


@stage("row")
def write_out(rows: Iterable[Example], /) -> Iterator[Example]:
    """Replace each calculator annotation of GSM8K by its equation, or remove it if the text before it already states
    that equation.

    `sold 48/2 = <<48/2=24>>24 clips` becomes `sold 48/2 = 24 clips`, and `sold <<48/2=24>>24 clips` becomes
    `sold 48/2=24 clips`, so that a reader can follow and check each step.
    """
    for row in rows:
        yield replace(row, completion=CALCULATOR.sub(_in_text, row.completion))


def _in_text(found: re.Match[str]) -> str:
    left, sign, _ = found[0][2:-2].rpartition("=")
    return (
        ""
        if not sign or _SHOWN_BEFORE.search(found.string[max(0, found.start() - _BEFORE) : found.start()])
        else f"{left}="
    )


@stage("row")
def verify(
    rows: Iterable[Example], /, *, keep_unverified: bool, unchecked: Literal["drop", "keep"] = "drop"
) -> Iterator[Row]:
    """Keep chains whose final answer the grader finds correct, and note the verdict.

    With `keep_unverified` wrong chains stay as well, with their `notes.verdict`: for an ablation, since small students
    have learned as much from them (Guha et al. 2025, "OpenThoughts", arXiv 2506.04178). Problems without a chain are
    dropped in any case. A chain that already has `notes.verdict`, such as an attempt, is not graded again. `unchecked`
    decides about a source's chain whose reference was read from that chain, so that nothing has checked it; if it is
    kept, its verdict is "unchecked".
    """
    for row in rows:
        if not row.completion.strip():
            yield drop(row, "no chain")
            continue
        if row.notes.get("unchecked") and row.notes.get("teacher", row.source) == row.source:
            why = "its answer was read from this chain; verify.unchecked: keep keeps it"
            kept = replace(row, notes={**row.notes, "verdict": "unchecked"})
            yield kept if unchecked == "keep" else drop(row, "unchecked reference", why)
            continue
        said = row.notes.get("extracted")
        verdict, detail = row.notes.get("verdict"), f"{'no answer' if said is None else repr(said)} for {row.answer!r}"
        if verdict is None:
            found = grade(row.completion, row.answer)
            verdict, detail = found.verdict, f"{found.extracted!r} for {row.answer!r} ({found.how})"
        if verdict == "correct" or keep_unverified:
            yield replace(row, notes={**row.notes, "verdict": verdict})
        else:
            reason = {"wrong": "wrong answer", "unsure": "cannot be graded"}[verdict]
            yield drop(row, reason, detail)


@stage("row", writes=tuple(STEPS), better=STEPS)
def check_steps(rows: Iterable[Example], /, *, arithmetic: bool) -> Iterator[Row]:
    """Add how many equations of a chain hold (`steps_true`), how many do not (`steps_false`), and whether the last one
    gives the answer (`linked`, 1 or 0).

    With `arithmetic`, chains with a false equation, without a true one, or not linked are dropped: their answer is
    right by luck. Use it for pools of arithmetic only: elsewhere good chains state false equations on purpose
    ("1 + 3 = 5? No"), and most steps are not equations.
    """
    for row in rows:
        stated = equations(row.completion)
        verdicts = [holds(e) for e in stated]
        linked = bool(stated) and is_linked(stated[-1], row.answer)
        counts = {"steps_true": float(verdicts.count(True)), "steps_false": float(verdicts.count(False))}
        checked = replace(row, scores={**row.scores, **counts, "linked": float(linked)})
        if not arithmetic:
            yield checked
        elif False in verdicts:
            false = stated[verdicts.index(False)]
            yield drop(checked, "false equation", row.completion[false.start : false.end])
        elif True not in verdicts:
            yield drop(checked, "no true equation")
        elif not linked:
            last = row.completion[stated[-1].start : stated[-1].end]
            yield drop(checked, "last equation is not the answer", f"{last} for {row.answer}")
        else:
            yield checked


@stage("pool", reads=tuple(STEPS), writes=tuple(STEPS), better=STEPS)
def keep_true_steps(rows: Iterable[Example], /) -> Iterator[Row]:
    """If the pool's steps are equations, drop chains with a false equation, without a true one, or whose last equation
    is not the answer; otherwise keep all.

    The steps count as equations if at least half of the chains state a decidable one, the last one is the answer in a
    quarter of those chains, and at most a fifth of the equations is undecidable: a pool of MATH's solutions has 0.3,
    0.7 and 0.66, sums and shopping lists about 1, 1 and 0 (the thresholds are ours). The measurement is recorded as a
    metric. Goes through `rows` twice; needs `check_steps` with `arithmetic: false`.
    """
    chains = stated = linked = 0
    for row in rows:
        states = row.scores["steps_true"] + row.scores["steps_false"] > 0
        chains, stated, linked = chains + 1, stated + states, linked + bool(row.scores["linked"])
    share = stated / max(chains, 1)
    open_ones = sum(holds(e) is None for row in islice(rows, OPEN) for e in equations(row.completion))
    among = sum(1 for row in islice(rows, OPEN) for _ in equations(row.completion))
    arithmetic = share >= STATED and linked >= LINKED * stated and open_ones <= UNDECIDED * among
    record("chains that state an equation", f"{100 * share:.0f} %")
    record("steps", "are checked as equations" if arithmetic else "are not equations, so none is checked")
    yield from check_steps(rows, arithmetic=True) if arithmetic else rows


def is_linked(last: Equation, answer: str) -> bool:
    """Whether the last equation of a chain has the answer on one of its sides."""
    return any(equal(side, answer)[0] == "correct" for side in (last.right, last.left))


def split_steps(text: str) -> list[str]:
    """The steps of a chain: its lines, including those of an aligned formula, or the sentences of a one-line chain.

    The joined steps are the text.

    >>> split_steps("2 + 3 = 5\\nSo 5."), split_steps("It is 2.5 m. So 5 m.")
    (['2 + 3 = 5\\n', 'So 5.'], ['It is 2.5 m. ', 'So 5 m.'])
    """
    ends = {m.end() for m in re.finditer(r"\S[ \t]*\n\s*", text)}
    for formula in _ALIGNED.finditer(text):
        ends |= {m.end() for m in re.finditer(r"\\\\\s*", text[: formula.end()]) if m.start() > formula.start()}
    cuts = sorted({0, *ends, len(text)})
    lines = [text[a:b] for a, b in pairwise(cuts)]
    if len(lines) != 1:
        return lines
    cuts = [0, *(m.end() for m in _SENTENCE.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts)]


@stage("row")
def box_answers(rows: Iterable[Example], /) -> Iterator[Example]:
    """End every chain with its answer in a box, as the system prompt requests.

    GSM8K's `#### n` becomes a sentence and its calculator annotations are removed; a chain without a box gets a last
    line with the reference answer, so run `verify` before. The rest of the text is unchanged.
    """
    for row in rows:
        text = CALCULATOR.sub("", row.completion).strip()
        if after_hashes(text) is not None:
            text = text[: text.rindex("####")].strip()
        if last_boxed(text) is None:
            text += f"\nThe answer is \\boxed{{{row.answer}}}."
        yield replace(row, completion=text)


@stage("row")
def drop_marked(rows: Iterable[Example], /, *, ids: list[str]) -> Iterator[Row]:
    """Drop the chains that a person has marked (`curate.exclude`)."""
    marked = frozenset(ids)
    for row in rows:
        yield drop(row, "by hand", "marked in curate.exclude") if row.id in marked else row
