"""Samples attempts at each problem, to measure its difficulty and to get chains.

LIMO (arXiv 2502.03387v3, section 3) does it twice: a weak model makes 4 attempts, and a problem that it solves at least
once is too easy; a strong model makes 32, and problems that it solves 1 to 3 times are kept. Both are the stage
`measure_difficulty` with different settings. It stops sampling attempts at a problem as soon as it is certain whether
the problem is kept (`curation/stages/stopping.py`). With the setting `chains`, the graded attempts become rows after
their problem, so that nothing is sampled or graded twice. `add_chains` samples chains of further models.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any, Literal

from pydantic import PositiveInt

from curation.matching.similar import digest
from curation.stage import drop, stage
from curation.stages.dedup import group_equal
from curation.stages.stopping import Window
from eval.grade import explicit, grade
from eval.metrics import votes
from limo.console import progress
from limo.data import Dropped, Example, Row
from limo.engines.ledger import Cached, spent
from limo.engines.protocol import OPEN, Completion, Prompt, Request, Sampling, Source, stream
from limo.errors import UserError
from limo.recipe import bind

AGREEING = 3  # so many equal wrong answers are no accident; two may be a model's favourite error
VERDICTS = {"right": "correct", "wrong": "wrong", "unsure": "unsure"}  # of an attempt, in the grader's words


def _check_window(*, sampling: Sampling, at_least: int, at_most: int, unknown: Any, **_: object) -> None:
    Window(sampling.n, at_least, at_most, unknown)


@stage("pool", writes=("pass_rate", "pass_rate_{by}"), samples=True, check=_check_window)
def measure_difficulty(
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
    chains: Literal["right", "all"] | None = None,
) -> Iterator[Row]:
    """Keep problems of which `at_least` to `at_most` of `sampling.n` attempts are right.

    Args: `by` names the model in scores and notes; `unknown` decides about problems whose cut-off or ungradable
    attempts might put them outside the window; `early_stop` ends the attempts at a problem once its decision is
    certain, which does not change what is kept; `suspect` is a share of the finished attempts, or None: a reference is
    listed as suspect if at least this share, at least 3 attempts, and more attempts than are right agree on another
    answer (then early stopping ends attempts only at problems that are dropped in any case); `chains` says which
    attempts become rows after the row of their problem: the right ones, all that ended, or None. Such a row has the id
    `<id>/<by>/<number>`, `notes.teacher` and `notes.verdict`.

    Rows of one problem share its attempts, made with the prompt of the first row. A row that already has attempts of
    this name (`import_rates`) is judged by its pass rate and not sampled. Goes through `rows` twice.

    Adds `scores.pass_rate` and `scores.pass_rate_<by>`, the right share of finished attempts, and `notes.attempts.<by>`
    with the counts of `drawn`, `right`, `wrong`, `unsure` and `cut`, and the most frequent other answer. Raises
    UserError for a window out of range.
    """
    window = Window(sampling.n, at_least, at_most, unknown)
    runner = Cached(bind(engine, "engine")())
    trials = Trials(rows, Stopping(by, window, early_stop, suspect, chains))
    with progress(f"{by}: attempts", None, "completion") as advance:
        while not trials.source.ended:  # again if the engine ended early because imported rates left nothing to sample
            for request, completion in runner.complete(trials.take, sampling):
                trials.record(request, completion)
                advance(1)
                yield from trials.decided()
            yield from trials.decided()
            assert not trials.open, f"{len(trials.open)} problems were left undecided"


@dataclass(frozen=True, slots=True)
class Stopping:
    """The settings of `measure_difficulty`."""

    by: str
    window: Window
    early_stop: bool
    suspect: float | None
    chains: Literal["right", "all"] | None


@dataclass(slots=True)
class ProblemAttempts:
    """The attempts at one problem."""

    row: Example
    asked: int = 0
    found: dict[int, tuple[str, str | None]] = field(default_factory=dict)  # by index: outcome, answer
    completions: dict[int, Completion] = field(default_factory=dict)  # by index, if they become rows
    refused: str = ""  # why the engine rejected it

    def count(self, *outcomes: str) -> int:
        """How many attempts had one of these outcomes."""
        return sum(outcome in outcomes for outcome, _ in self.found.values())


class Trials:
    """The problems in progress: decides what to sample next, and which problems are finished. Reads rows when there is
    room for them.
    """

    def __init__(self, rows: Iterable[Example], rules: Stopping) -> None:
        self.rules = rules
        self.first = group_equal(array("Q", (digest(row.problem) for row in rows)))  # of problems with several rows
        self.shared: dict[int, ProblemAttempts] = {}  # by position of the first row, for problems with more rows
        self.source = Source(enumerate(rows))
        self.waiting: list[tuple[int, int, Request]] = []  # a heap: the earliest problem first
        self.open: dict[int, ProblemAttempts] = {}

    def take(self, room: int) -> Sequence[Request]:
        """See `limo.engines.protocol.Take`: earlier problems come first, so that few are open at a time."""
        while len(self.waiting) < room and len(self.open) < OPEN and (item := self.source.next()):
            at, row = item
            self.open[at] = ProblemAttempts(row)
            if self.rules.by not in row.notes.get("attempts", {}) and self.first.get(at, at) == at:
                self._ask(at, self.open[at])
        return [heappop(self.waiting)[-1] for _ in range(min(room, len(self.waiting)))]

    def _ask(self, at: int, trial: ProblemAttempts) -> None:
        """Request the attempts that are needed with any outcome of the others."""
        window, more = self.rules.window, self.rules.window.n - trial.asked
        if self.rules.early_stop:
            counts = trial.count("right"), trial.count("cut", "unsure"), trial.asked
            # A problem that stays gets all attempts if further ones may agree on another answer
            if self.rules.suspect is None or window.certain(*counts) is not True:
                more = window.further(*counts)
        for index in range(trial.asked, trial.asked + more):
            heappush(self.waiting, (at, index, Request(trial.row.prompt, index, at)))
        trial.asked += more

    def record(self, request: Request, completion: Completion) -> None:
        """Grade one attempt. If all requested attempts have arrived and the problem is not decided yet, request
        more.
        """
        trial = self.open[request.at]
        if completion.finish == "refused":
            trial.refused = completion.why
        trial.found[request.index] = judged(completion, trial.row.answer)
        if self.rules.chains:
            trial.completions[request.index] = completion
        if len(trial.found) == trial.asked and not trial.refused:
            self._ask(request.at, trial)

    def decided(self) -> Iterator[Row]:
        """Yield the problems at the head of the queue that need no more attempts, in the order of the rows."""
        while self.open and len((trial := self.open[at := next(iter(self.open))]).found) == trial.asked:
            del self.open[at]
            yield from self._decide(at, trial)

    def _decide(self, at: int, trial: ProblemAttempts) -> Iterator[Row]:
        first = self.first.get(at, at)
        if first == at:
            spent.spared += self.rules.window.n - trial.asked if trial.asked else 0
            if at in self.first:
                self.shared[at] = replace(trial, completions={})
        made = trial if first == at else self.shared[first]
        row, tried = self._note(trial.row, made)
        reason, detail = ("not sampled", made.refused) if made.refused else self._reason_to_drop(tried, row.answer)
        if reason:
            yield Dropped(row.id, "", reason, detail, data=(trial.row if made.refused else row).to_json())
            return
        yield row
        listed = sorted(trial.completions.items())
        if self.rules.chains == "right":
            listed = [(index, completion) for index, completion in listed if trial.found[index][0] == "right"]
        yield from rivals(row, self.rules.by, dict(listed), trial.found)

    def _note(self, row: Example, trial: ProblemAttempts) -> tuple[Example, Mapping[str, Any] | None]:
        """The row with the counts of its attempts, and the counts; None if the window keeps all, so none was needed."""
        by, before = self.rules.by, row.notes.get("attempts", {})
        if not trial.asked:
            known = trial.row.notes.get("attempts", {}).get(by)
            noted = replace(row, notes={**row.notes, "attempts": {**before, by: known}}) if known else row
            return noted, known
        counts = Counter(outcome for outcome, _ in trial.found.values())
        tried: dict[str, Any] = {"drawn": trial.asked}
        tried |= {name: counts[name] for name in ("right", "wrong", "unsure", "cut")}
        wrong = [{"extracted": answer} for _, (outcome, answer) in sorted(trial.found.items()) if outcome == "wrong"]
        groups = votes(wrong)  # equal answers in different notation count as one
        if common := Counter(group for group in groups if group >= 0).most_common(1):
            ((group, agreeing),) = common
            tried |= {"other": str(wrong[groups.index(group)]["extracted"])[:200], "agreeing": agreeing}
        finished = counts["right"] + counts["wrong"]
        rate = dict.fromkeys(("pass_rate", f"pass_rate_{by}"), counts["right"] / finished) if finished else {}
        noted = replace(row, scores={**row.scores, **rate}, notes={**row.notes, "attempts": {**before, by: tried}})
        return noted, tried

    def _reason_to_drop(self, tried: Mapping[str, Any] | None, answer: str) -> tuple[str, str]:
        """Why a problem with these attempts is dropped, and the detail; two empty texts if it stays."""
        if tried is None:
            return "", ""
        window, suspect = self.rules.window, self.rules.suspect
        right, finished = tried["right"], tried["right"] + tried["wrong"]
        agreeing, unknown = tried.get("agreeing", 0), tried["unsure"] + tried["cut"]
        if suspect is not None and agreeing >= max(AGREEING, right + 1, suspect * finished):
            detail = f"{agreeing} of {finished} attempts say {tried['other']!r}, {right} the reference {answer!r}"
            return "suspect reference", detail
        if "from" in tried:  # imported, with any number of attempts: decided by the share
            share, low, high = right / tried["drawn"], window.at_least / window.n, window.at_most / window.n
            said = f"{100 * share:.1f} % right, from {tried['from']}"
            if share > high:
                return "too easy", f"{said}, the limit is {100 * high:.1f} %"
            return ("too hard", f"{said}, {100 * low:.1f} % needed") if share < low else ("", "")
        said = f"{right} of {finished} attempts right"
        if window.certain(right, unknown, tried["drawn"]):
            return "", ""
        if right > window.at_most:
            return "too easy", f"{said}, the limit is {window.at_most} of {window.n}"
        if right + unknown + window.n - tried["drawn"] < window.at_least:
            return "too hard", f"{said}, {window.at_least} of {window.n} needed"
        return "difficulty unknown", f"{said}, {tried['cut']} were cut off, {tried['unsure']} could not be graded"


def rivals(
    row: Example, name: str, completions: Mapping[int, Completion], graded: Mapping[int, tuple[str, str | None]]
) -> Iterator[Row]:
    """The chains of one teacher for one problem, as rows. Chains that are cut off, refused or repeated are dropped.

    `graded` are outcomes and answers of `judged`, by index; empty where the chains are not graded yet.
    """
    first: dict[str, str] = {}
    for index, completion in completions.items():
        notes = {**row.notes, "teacher": name, "tokens": completion.tokens}
        outcome, extracted = graded.get(index, ("", None))
        if outcome in VERDICTS:
            notes |= {"verdict": VERDICTS[outcome], "extracted": extracted}
        rival = replace(row, id=f"{row.id}/{name}/{index}", completion=completion.text, notes=notes)
        if completion.finish == "refused":
            yield drop(rival, "not sampled", completion.why)
        elif completion.finish == "length":
            detail = f"after {completion.tokens} tokens"
            yield drop(rival, "cut off by its length limit", detail)
        elif completion.text in first:
            yield drop(rival, "same chain", f"as {first[completion.text]}")
        else:
            first[completion.text] = rival.id
            yield rival


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that writes chains, and its settings."""

    engine: dict[str, Any]
    sampling: Sampling


@stage("pool", samples=True)
def add_chains(rows: Iterable[Example], /, *, teachers: Mapping[str, Any], reference_solution: bool) -> Iterator[Row]:
    """Collect all chains of each problem as rivals, of which `curation.stages.choose` takes the best.

    Args: `teachers` by name, each a `Teacher` that is asked once for each problem; `reference_solution`: whether the
    source's solution is a candidate. Chains from `measure_difficulty` stay. A rival's id is
    `<id>/<teacher>/<number of the sample>`; `notes.teacher` names its teacher. Chains cut off by the length limit and
    repeated chains are dropped. Goes through `rows` once for each teacher, so that one model is in memory at a time.
    """
    solved = set[int]()
    for row in rows:
        is_attempt = row.notes.get("teacher") in row.notes.get("attempts", {})
        if row.completion and (is_attempt or reference_solution):
            solved.add(digest(row.problem))
            yield replace(row, notes={"teacher": row.source, **row.notes})
    for name, node in teachers.items():
        for problem, rival in _taught(rows, name, bind(node, f"add_chains.teachers.{name}")()):
            if isinstance(rival, Example):
                solved.add(problem)
            yield rival
    for row in rows:
        if digest(row.problem) not in solved:
            yield drop(row, "no chain", "no solution, and no attempt that became a chain")


def _taught(rows: Iterable[Example], name: str, teacher: Teacher) -> Iterator[tuple[int, Row]]:
    """Sample a teacher's chains; each comes with the digest of its problem. A problem that occurs several times is
    asked once.
    """
    runner = Cached(bind(teacher.engine, f"add_chains.teachers.{name}.engine")())
    seen = set[int]()

    def asked() -> Iterator[tuple[Prompt, int]]:
        for row in rows:
            problem = digest(row.problem)
            yield row.prompt, 0 if problem in seen else teacher.sampling.n
            seen.add(problem)

    for row, completions in zip(rows, stream(runner, asked(), teacher.sampling, f"{name}: chains"), strict=True):
        plain = replace(row, notes={key: value for key, value in row.notes.items() if key != "verdict"})
        yield from ((digest(row.problem), rival) for rival in rivals(plain, name, dict(enumerate(completions)), {}))


def judged(completion: Completion, answer: str) -> tuple[str, str | None]:
    """The outcome of an attempt (`right`, `wrong`, `unsure`, `refused`, or `cut` by its length limit), and its answer.

    A cut-off attempt that has stated the right answer, for example in a box, is right; a wrong one might still have
    been corrected, so it counts as `cut`.
    """
    if completion.finish == "refused":
        return "refused", None
    found = grade(completion.text, answer)
    if completion.finish == "length" and (found.verdict != "correct" or explicit(completion.text) is None):
        return "cut", None
    return ("right" if found.verdict == "correct" else found.verdict), found.extracted


@stage("pool", writes=("pass_rate", "pass_rate_{by}"))
def import_rates(rows: Iterable[Example], /, *, by: str, n: PositiveInt, rate: str) -> Iterator[Row]:
    """Import pass rates measured by others as attempts of the model named `by`, which is then not sampled.

    Args: `n`, the number of attempts behind each rate; `rate`, the column of the pool with the right share (0 to 1).
    Rows without a rate (none, empty, not a number) stay unchanged. Raises UserError if no row has a rate, or a rate is
    not between 0 and 1.
    """
    seen = 0
    for row in rows:
        try:
            share = float(row.notes.get(rate, math.nan))
        except (TypeError, ValueError):
            share = math.nan
        if math.isnan(share):
            yield row
            continue
        if not 0 <= share <= 1:
            raise UserError(f"import_rates: '{rate}' of the row {row.id} is {share}, not a share between 0 and 1")
        seen += 1
        right = round(share * n)
        tried = {"drawn": n, "right": right, "wrong": n - right, "unsure": 0, "cut": 0, "from": f"column {rate}"}
        scores = {**row.scores, "pass_rate": share, f"pass_rate_{by}": share}
        yield replace(row, scores=scores, notes={**row.notes, "attempts": {**row.notes.get("attempts", {}), by: tried}})
    if not seen:
        raise UserError(f"import_rates: no row has a pass rate under '{rate}'")
