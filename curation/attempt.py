"""Difficulty: a model tries each problem several times, the grader counts.

LIMO (arXiv 2502.03387v3, section 3) does it twice: a weak model makes 4 attempts and whatever it gets right once is too
easy; a strong one makes 32 and what it gets right 1 to 3 times is kept. Each is this stage with other numbers. Attempts
at a problem end once its decision is certain (`curation/stopping.py`), and every attempt is in the ledger for good.

    python -m curation.attempt recipe=limo shard=3/64   # one of many workers: curation/workers.py
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from heapq import heappop, heappush
from typing import Any, Literal

from curation.pool import digest, squeezed
from curation.stopping import Window
from eval.grade import explicit, grade
from eval.metrics import votes
from limo.data import Dropped, Example, Row, content_id
from limo.engine import OPEN, Completion, Request, Sampling, Source
from limo.errors import UserError
from limo.files import read_rows
from limo.ledger import Cached, spent
from limo.progress import progress
from limo.recipe import bind

AGREEING = 3  # answers that are the same are no accident; two of a model's favourite errors may be


def difficulty(
    rows: Iterable[Example],
    /,
    *,
    by: str,
    engine: dict[str, Any],
    sampling: Sampling,
    at_least: int,
    at_most: int,
    unknown: Literal["keep", "drop"],
    early_stop: bool,
    suspect: float | None,
) -> Iterator[Row]:
    """Keep problems of which `at_least` to `at_most` of `sampling.n` attempts are right.

    Args: `by` names the model in scores and notes; `unknown` says whether a problem stays whose cut-off attempts might
    carry it out of the window; `early_stop` ends the attempts at a problem once its decision is certain, which changes
    nothing of what is kept; `suspect` is the share of finished attempts from which on another answer, given by so many,
    makes the reference suspect (at least 3 attempts, more than are right; None turns it off; early stopping then ends
    the attempts only where the problem leaves in any case). A row that another source of attempts has filled under the
    same name (`imported`) is judged by its share and not sampled.

    Adds `scores.pass_rate` and `scores.pass_rate_<by>`, right among finished, and `notes.attempts.<by>` with the counts
    of `drawn`, `right`, `wrong`, `unsure` and `cut`, and the most frequent other answer. Raises UserError for a window
    that cannot be.
    """
    runner, window = Cached(bind(engine, "engine")()), Window(sampling.n, at_least, at_most, unknown)
    if sampling.n > 1 and not sampling.temperature:
        raise UserError(f"{by}: {sampling.n} attempts at temperature 0 are one attempt: raise it, or set n=1")
    trials = Trials(rows, by, window, early_stop, suspect, drawn_as(runner.fingerprint, sampling))
    with progress(f"{by}: attempts", None, "completion") as advance:
        while not trials.source.ended:  # again, where the engine had nothing to do since others had measured
            for request, completion in runner.complete(trials.take, sampling):
                trials.record(request, completion)
                advance(1)
                yield from trials.decided()
            yield from trials.decided()
            assert not trials.open, f"{len(trials.open)} problems were left undecided"


@dataclass(slots=True)
class Trial:
    """The attempts at one problem."""

    row: Example
    asked: int = 0
    found: dict[int, tuple[str, str | None]] = field(default_factory=dict)  # by index: outcome, answer
    refused: str = ""  # why the engine would not take it

    def count(self, *outcomes: str) -> int:
        """How many attempts ended in one of these."""
        return sum(outcome in outcomes for outcome, _ in self.found.values())


class Trials:
    """Problems under way: what to ask next, and which are decided. Rows are read as there is room for them."""

    def __init__(
        self, rows: Iterable[Example], by: str, window: Window, early_stop: bool, suspect: float | None, drawn_as: str
    ) -> None:
        self.source, self.by, self.n, self.window = Source(enumerate(rows)), by, window.n, window
        self.early_stop, self.suspect, self.drawn_as = early_stop, suspect, drawn_as
        self.waiting: list[tuple[int, int, Request]] = []  # a heap: the earliest problem first
        self.open: dict[int, Trial] = {}

    def take(self, room: int) -> Sequence[Request]:
        """See `limo.engine.Take`: earlier problems come before later ones, so that few are open at a time."""
        while len(self.waiting) < room and len(self.open) < OPEN and (item := self.source.next()):
            at, row = item
            self.open[at] = Trial(row)
            if self.by not in row.notes.get("attempts", {}):
                self._ask(at, self.open[at])
        return [heappop(self.waiting)[-1] for _ in range(min(room, len(self.waiting)))]

    def _ask(self, at: int, trial: Trial) -> None:
        more = self._further(trial) if self.early_stop else self.n - trial.asked
        for index in range(trial.asked, trial.asked + more):
            heappush(self.waiting, (at, index, Request(trial.row.prompt, index, at)))
        trial.asked += more

    def _further(self, trial: Trial) -> int:
        right, unknown = trial.count("right"), trial.count("cut", "unsure")
        more = self.window.further(right, unknown, trial.asked)
        if not more and self.suspect is not None and self.window.certain(right, unknown, trial.asked):
            return self.n - trial.asked  # it stays, unless those to come agree on another answer
        return more

    def record(self, request: Request, completion: Completion) -> None:
        """Take in one attempt, and ask for more once all that were asked for are there and settle nothing."""
        trial = self.open[request.at]
        if completion.finish == "refused":
            trial.refused = completion.why
        trial.found[request.index] = judged(completion, trial.row.answer)
        if len(trial.found) == trial.asked and not trial.refused:
            self._ask(request.at, trial)

    def decided(self) -> Iterator[Row]:
        """The problems at the head of the queue that need no more attempts, in the order of the rows."""
        while self.open and len((trial := self.open[at := next(iter(self.open))]).found) == trial.asked:
            del self.open[at]
            yield self._decision(trial)

    def _decision(self, trial: Trial) -> Row:
        if trial.refused:
            return Dropped(trial.row.id, "", "not sampled", trial.refused, data=trial.row.to_json())
        row = self._noted(trial) if trial.asked else trial.row
        spent.spared += self.n - trial.asked if trial.asked else 0
        tried = row.notes.get("attempts", {}).get(self.by)
        if tried is None:  # the window excludes nothing, so that no attempt is needed to keep it
            return row
        if doubt := self._doubt(tried, row.answer):
            return Dropped(row.id, "", "suspect reference", doubt, data=row.to_json())
        reason, detail = outside(tried, self.window) if "from" in tried else reason_to_drop(tried, self.window)
        return Dropped(row.id, "", reason, detail, data=row.to_json()) if reason else row

    def _noted(self, trial: Trial) -> Example:
        counts = Counter(outcome for outcome, _ in trial.found.values())
        tried: dict[str, Any] = {"drawn": trial.asked, "drawn_as": self.drawn_as}
        tried |= {name: counts[name] for name in ("right", "wrong", "unsure", "cut")}
        tried |= other_answer([found for _, found in sorted(trial.found.items())])
        row, told = trial.row, counts["right"] + counts["wrong"]
        rate = dict.fromkeys(("pass_rate", f"pass_rate_{self.by}"), counts["right"] / told) if told else {}
        attempts = {**row.notes.get("attempts", {}), self.by: tried}
        return replace(row, scores={**row.scores, **rate}, notes={**row.notes, "attempts": attempts})

    def _doubt(self, tried: dict[str, Any], answer: str) -> str:
        """Why the reference is suspect; empty if it is not."""
        told, agreeing = tried["right"] + tried["wrong"], tried.get("agreeing", 0)
        if self.suspect is None or agreeing < AGREEING or agreeing <= tried["right"] or agreeing < self.suspect * told:
            return ""
        return f"{agreeing} of {told} attempts say {tried['other']!r}, {tried['right']} the reference {answer!r}"


def judged(completion: Completion, answer: str) -> tuple[str, str | None]:
    """How an attempt ended, and its answer: `right`, `wrong`, `unsure`; `cut` for one that ended by its length limit.

    One that had stated the right answer by then, in a box or so, is right; a wrong one might have been taken back.
    """
    if completion.finish == "refused":
        return "refused", None
    found = grade(completion.text, answer)
    if completion.finish == "length" and (found.verdict != "correct" or explicit(completion.text) is None):
        return "cut", None
    return ("right" if found.verdict == "correct" else found.verdict), found.extracted


def other_answer(found: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """The most frequent answer among the wrong ones and how many gave it; equal answers in other words count as one."""
    wrong = [{"extracted": answer} for outcome, answer in found if outcome == "wrong" and answer is not None]
    groups = Counter(group for group in votes(wrong) if group >= 0)
    if not groups:
        return {}
    group, agreeing = groups.most_common(1)[0]
    first = next(w["extracted"] for w, g in zip(wrong, votes(wrong), strict=True) if g == group)
    return {"other": str(first)[:200], "agreeing": agreeing}


def reason_to_drop(tried: dict[str, Any], window: Window) -> tuple[str, str]:
    """Why a problem with these attempts is outside of the window, and the detail; two empty texts if it is inside."""
    right, told, unknown = tried["right"], tried["right"] + tried["wrong"], tried["unsure"] + tried["cut"]
    said = f"{right} of {told} attempts right"
    if window.certain(right, unknown, tried["drawn"]):
        return "", ""
    if right > window.at_most:
        return "too easy", f"{said}, the limit is {window.at_most} of {window.n}"
    if right < window.at_least and right + unknown + window.n - tried["drawn"] < window.at_least:
        return "too hard", f"{said}, {window.at_least} of {window.n} needed"
    return "difficulty unknown", f"{said}, {tried['cut']} were cut off, {tried['unsure']} could not be graded"


def outside(tried: dict[str, Any], window: Window) -> tuple[str, str]:
    """As `reason_to_drop`, for a rate that others measured with as many attempts as they liked: by shares."""
    share, low, high = tried["right"] / tried["drawn"], window.at_least / window.n, window.at_most / window.n
    said = f"{100 * share:.1f} % right, from {tried['from']}"
    if share > high:
        return "too easy", f"{said}, the limit is {100 * high:.1f} %"
    return ("too hard", f"{said}, {100 * low:.1f} % needed") if share < low else ("", "")


def drawn_as(fingerprint: str, sampling: Sampling) -> str:
    """Names model and settings of attempts, n aside: by it `curation.solve` knows that it asks for the same ones."""
    return content_id([fingerprint, {k: v for k, v in asdict(sampling).items() if k != "n"}])


def imported(
    rows: Iterable[Example],
    /,
    *,
    by: str,
    n: int,
    rate: str,
    path: str | None,
    problem: str,
) -> Iterator[Row]:
    """Take pass rates that others have measured as attempts of the model named `by`; `difficulty` then samples less.

    Args: `n` attempts the rates stand for, `rate` the column with the share that was right (0 to 1), read from the
    row's own notes or, with `path`, from a file whose column `problem` holds the text of the problem. Rows without a
    rate (none, empty, not a number) stay as they are. Raises UserError if no row has a rate, or one is outside of 0
    to 1.
    """
    if n < 1:
        raise UserError(f"imported.n must be at least 1, not {n}")
    listed = _listed(path, problem, rate) if path is not None else {}
    seen = 0
    for row in rows:
        share = _share(listed.get(digest(squeezed(row.question))) if path is not None else row.notes.get(rate))
        if share is None:
            yield row
            continue
        if not 0 <= share <= 1:
            raise UserError(f"imported: '{rate}' of the row {row.id} is {share}, not a share between 0 and 1")
        seen += 1
        right = round(share * n)
        tried = {
            "drawn": n,
            "right": right,
            "wrong": n - right,
            "unsure": 0,
            "cut": 0,
            "from": path or f"column {rate}",
        }
        scores = {**row.scores, "pass_rate": share, f"pass_rate_{by}": share}
        attempts = {**row.notes.get("attempts", {}), by: tried}
        yield replace(row, scores=scores, notes={**row.notes, "attempts": attempts})
    if not seen:
        raise UserError(f"imported: no row has a pass rate under '{rate}'" + (f" in {path}" if path else ""))


def _listed(path: str, problem: str, rate: str) -> dict[int, Any]:
    """The rates of a file by the digest of the problem's text."""
    rows = (raw for _, raw in read_rows(path) if isinstance(raw, dict) and isinstance(raw.get(problem), str))
    return {digest(squeezed(raw[problem])): raw.get(rate) for raw in rows}


def _share(value: Any) -> float | None:
    """A rate as a number; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        share = float(value)
    except ValueError:
        return None
    return None if math.isnan(share) else share


if __name__ == "__main__":
    from curation.workers import main

    main()
