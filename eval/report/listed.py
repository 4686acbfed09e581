"""The rows of runs as a list that a person can filter, with the position of each row's text in its file.

An entry holds what a list shows of a row: its origin, its outcome, and its numbers. The text stays in its file until
the row is opened, so that a list of many long chains is small. The report packs the chosen rows and their rivals into
its page; `limo view` serves all rows of its runs.
"""

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from eval.metrics import PARTS, as_text
from eval.words import term_lists
from limo.data import Example, parsed
from limo.errors import UserError
from limo.run import read_manifest

SHOWN = 200  # characters of a problem in a list
LONGEST = 20_000  # most bytes that are shown of an invalid line
UNFINISHED = "cut off by its length limit"
DROPPED = 50_000  # dropped rows of a run that are listed; the others are counted
# Exceptions that reading an invalid line may raise
BAD = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError)

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """The contribution of one feature to a score."""

    name: str
    value: float  # as measured
    scaled: float  # in [0, 1], as its rank in the pool or between its percentiles
    weight: float
    share: float  # of the score: |weight| times the scaled value, or times 1 minus it for a negative weight


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a row: file, id and byte offset of its line, and the number of the completion for an answer."""

    path: Path
    at: int
    id: str = ""  # of `line_id`; empty in a report, since its files do not change meanwhile
    completion: int = 0
    nth: int = 0  # number of the line among those with this id

    def line(self) -> bytes:
        """The line, also if it has moved within the file. Raises UserError if it is no longer there."""
        with self.path.open("rb") as lines:
            lines.seek(self.at)
            line = lines.readline()
        if not self.id or line_id(line) == self.id:
            return line
        same = (line for _, line in raw_lines(self.path) if line_id(line) == self.id)
        for nth, line in enumerate(same):
            if nth == self.nth:
                return line
        raise UserError(f"the row {self.id} is no longer in {self.path.name}: read the page again")


@dataclass
class Listed:
    """Entries with the positions of their rows, and the data that a page needs to show them."""

    entries: list[Entry] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)  # of the score
    terms: dict[str, list[str]] = field(default_factory=dict)  # the score's words
    by: tuple[str, bool] = ("score", True)  # the score that chains were chosen by, and whether higher is better
    notes: list[str] = field(default_factory=list)  # messages about rows that are not listed
    _seen: Counter[tuple[Path, str, int]] = field(default_factory=Counter)  # rows of one id

    def add(self, entry: Entry, place: Place) -> None:
        """Add a row. Empty fields are left out."""
        self.entries.append({key: value for key, value in entry.items() if value not in ("", None, [])})
        same = (place.path, place.id, place.completion)
        self.places.append(replace(place, nth=self._seen[same]) if self._seen[same] else place)
        self._seen[same] += 1

    def add_line(self, path: Path, at: int, line: bytes, run: str, make: Callable[[Any], Iterable[Entry]]) -> None:
        """Add the rows that `make` finds in a line of a file; an invalid line is listed unchanged."""
        name = line_id(line)
        try:
            entries = list(make(parsed(line)))
        except BAD as error:
            text = line.decode("utf-8", "replace").strip()
            why = f"{path.name}: {type(error).__name__}, {error}"
            entries = [
                {"id": name, "run": run, "state": "unreadable", "why": why[:SHOWN], "question": text[:SHOWN]}
                | {"characters": len(text)}
            ]
        for number, entry in enumerate(entries):
            self.add(entry, Place(path, at, name, number))

    def details(self, number: int) -> dict[str, Any]:
        """What is shown of a row after it is opened: texts, facts, and the parts of its score."""
        place = self.places[number]
        text = place.line()
        try:
            line = parsed(text)
            return _answer_details(line, place) if "completions" in line else _row_details(line)
        except BAD as error:
            shown = text[:LONGEST].decode("utf-8", "replace")
            return {"question": shown, "detail": f"this line is not one of ours: {error}"[:500], "text": ""}

    def index(self) -> dict[str, Any]:
        """The entries as JSON, in the form that the page's script reads."""
        kept = [entry for entry in self.entries if entry["state"] == "chosen"]
        unit = "tokens" if kept and all("tokens" in entry for entry in kept) else "characters"
        shown = {"weights": self.weights, "terms": self.terms, "unit": unit, "by": self.by, "notes": self.notes}
        shown |= {"meanings": MEANINGS}
        return {"rows": self.entries, **shown}


MEANINGS = {  # one line about each name that a row shows; curation/stages/likelihood.py has the formulas
    "nll": "how surprising the chain is to the student, nats a token; less is more familiar",
    "nll_inner": "how surprising the chain is to the student, nats a token, without the first token of each step",
    "nll_local": "how surprising each step is to the student after the few steps before it, nats a token",
    "rsr": "the ranks of the chain's tokens by their surprise, for the student; less fits it better",
    "ifd": "how surprising the chain is with the problem, as a share of without it",
    "hes": "the uncertainty of the student at its most uncertain tokens, summed",
    "early": "how surprising the first 100 tokens are to a student with slightly changed weights",
    "score": "the recipe's weighted sum of features",
    "length": "words of the chain",
    "pass rate": "the share of the student's attempts at the problem that were right",
    "from": "the source that the row came from",
    "by": "who wrote the chain: a teacher, the student, or the source",
}


def list_runs(folders: Iterable[Path]) -> Listed:
    """List all rows of these runs: first chosen and dropped rows, or the current rows of a curation in progress; then
    the answers.
    """
    listed = Listed()
    for folder in folders:
        try:
            entry = read_manifest(folder).get("curate", {})
            nodes = entry.get("settings", {}).get("stages", {}).values()
            listed.weights, listed.terms = listed.weights | read_weights(nodes), listed.terms or read_terms(nodes)
            listed.by = read_choice(entry)
        except (UserError, *BAD) as error:
            listed.notes.append(f"{folder.name}: its manifest cannot be read ({error})")
        _list_curation(folder, listed)
        _list_answers(folder, listed)
    return listed


def chain_entry(
    data: Mapping[str, Any], state: str, listed: Listed, run: str, why: tuple[str, str] = ("", "")
) -> Entry:
    """The entry of a row, given as JSON, that was chosen, or dropped by a stage for a reason."""
    if not is_row(data):
        said = data.get("problem") if isinstance(data, dict) else None
        text = str(said or json.dumps(data, ensure_ascii=False))
        return {
            "question": text[:SHOWN],
            "run": run,
            "state": state,
            "why": ": ".join(filter(None, why)),
            "characters": len(text),
        }
    row = Example.from_json(data)
    notes, scores = row.notes, row.scores
    return {
        "id": row.id,
        "name": _name(row.id, notes, row.problem),
        "problem": row.problem,
        "run": run,
        "state": state,
        "why": ": ".join(filter(None, why)),
        "question": " ".join(row.question[: 2 * SHOWN].split())[:SHOWN],
        "source": row.source,
        "teacher": str(notes.get("teacher", "")),
        "verdict": chain_verdict(data, why[1]),
        "score": finite(scores.get(listed.by[0])),
        "rate": finite(scores.get("pass_rate")),
        "tokens": finite(scores.get("tokens")),
        "characters": len(row.completion),
        "parts": _parts(scores, listed.weights),
    }


def _parts(scores: Mapping[str, float], weights: Mapping[str, float]) -> list[list[float] | None]:
    """The value and the scaled value of each feature of the score, in the order of the weights; empty if a row has no
    score.
    """
    known = {part.name: [part.value, round(part.scaled, 4)] for part in score_parts(scores, weights)}
    return [known.get(name) for name in weights] if known else []


def _list_curation(folder: Path, listed: Listed) -> None:
    stages = sorted((folder / "stages").glob("[0-9]*.jsonl"))
    going_on = not (folder / "curated.jsonl").is_file()
    chosen = [folder / "curated.jsonl"]
    dropped = [folder / "dropped.jsonl"]
    if going_on:  # the rows that the last finished stage left
        dropped = [path for path in stages if path.name.endswith(".dropped.jsonl")]
        chosen = [path for path in stages if path not in dropped][-1:]
    state = "left so far" if going_on else "chosen"

    def dropped_entry(line: Any) -> Iterator[Entry]:
        entry = chain_entry(line["data"], "dropped", listed, folder.name, (line["stage"], line["reason"]))
        yield {"id": as_text(line["id"]), **entry}

    for path in chosen:
        for at, line in raw_lines(path):
            listed.add_line(path, at, line, folder.name, lambda data: [chain_entry(data, state, listed, folder.name)])
    left_out = Counter[str]()
    room = DROPPED
    for path in dropped:
        for at, line in raw_lines(path):
            if room > 0:
                listed.add_line(path, at, line, folder.name, dropped_entry)
            else:
                left_out[path.name] += 1
            room -= 1
    for name, count in left_out.items():
        listed.notes.append(f"{count:,} more dropped rows of {folder.name} are in {name}: {DROPPED:,} are listed")


def _list_answers(folder: Path, listed: Listed) -> None:
    flips: Mapping[tuple[str, str, str], list[str]] = {}
    try:
        flips = _read_flips(folder)
    except (UserError, *BAD) as error:
        listed.notes.append(f"{folder.name}: which answers differ cannot be read ({error})")

    def entries(line: Any, model: str, benchmark: str) -> Iterator[Entry]:
        key = as_text(line["id"])
        for number, completion in enumerate(line.get("completions", [])):
            several = f" {number + 1}" if len(line["completions"]) > 1 else ""
            yield {
                "id": key,
                "name": f"{folder.name}: {model}{several}",
                "problem": f"{benchmark}/{key}",
                "run": folder.name,
                "state": "answer",
                "question": " ".join(line["question"][: 2 * SHOWN].split())[:SHOWN],
                "model": model,
                "benchmark": benchmark,
                "verdict": as_text(completion["verdict"]),
                "flip": flips.get((model, benchmark, key), []),
                "tokens": finite(completion["tokens"]),
                "characters": len(completion["text"]),
            }

    for path in sorted((folder / "eval").glob("*/*.jsonl")):
        make = partial(entries, model=path.parent.name, benchmark=path.stem)
        for at, line in raw_lines(path):
            listed.add_line(path, at, line, folder.name, make)


def _read_flips(folder: Path) -> Mapping[tuple[str, str, str], list[str]]:
    """For each model, benchmark and problem: how the grade differs between two models, such as `base to chosen: now
    right`.
    """
    flips = defaultdict[tuple[str, str, str], list[str]](list)
    for d in read_summary(folder).get("differences", []):
        for way, what in (("gained", "now right"), ("lost", "now wrong")):
            for problem in d.get(way, []):
                flips[d["after"], d["benchmark"], problem].append(f"{d['before']} to {d['after']}: {what}")
    return flips


def finite(value: Any) -> float | None:
    """A finite number; None for a missing value, NaN and infinities."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def read_weights(nodes: Any) -> dict[str, float]:
    """The weights of the score, from the stages of a recipe; empty if none has weights."""
    return next((dict(node["weights"]) for node in nodes if "weights" in node), {})


def read_choice(entry: Mapping[str, Any]) -> tuple[str, bool]:
    """The score by which a curation chose chains, and whether higher is better."""
    name, more_is_better = entry.get("results", {}).get("chosen_by") or ("score", True)
    return str(name), bool(more_is_better)


def score_parts(scores: Mapping[str, float], weights: Mapping[str, float]) -> list[Part]:
    """The parts of a score, in the order of the weights. Features that a row lacks are left out.

    >>> score_parts({"length": 90.0, "length_rank": 0.5, "score": 0.5}, {"length": 1.0})
    [Part(name='length', value=90.0, scaled=0.5, weight=1.0, share=0.5)]
    """
    parts = []
    for name, weight in weights.items():
        value = finite(scores.get(name))
        scaled = finite(scores.get(f"{name}_rank", scores.get(f"{name}_minmax")))
        if value is not None and scaled is not None:
            share = abs(weight) * (scaled if weight >= 0 else 1 - scaled)
            parts.append(Part(name, value, scaled, weight, share))
    return parts


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run's evaluation; empty if there is none. Raises UserError if it cannot be read."""
    path = folder / "eval" / "summary.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not readable ({error}): remove it, and evaluate again") from None


def line_id(line: bytes) -> str:
    """The name of a line of a run's file: the id of its row, or a digest if it has no id."""
    try:
        return as_text(parsed(line)["id"])
    except BAD:
        return hashlib.blake2b(line, digest_size=8).hexdigest()


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The lines of a file as JSON, each with its offset in bytes; see `raw_lines`."""
    return ((at, parsed(line)) for at, line in raw_lines(path))


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, each with its offset in bytes; empty if there is no file.

    An incomplete last line of a file that is being written is not read yet.
    """
    at = 0
    if path.is_file():
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield at, line
                at += len(line)


def is_row(data: Any) -> bool:
    """Whether this JSON is a row, and not raw data from which a source could not make a row."""
    return isinstance(data, dict) and "id" in data and bool(data.get("prompt")) and "answer" in data


def chain_verdict(row: Mapping[str, Any], reason: str) -> str:
    """The verdict of a chain: correct, wrong, unsure, unfinished, unchecked (its reference is its own answer), or empty
    if it is not graded.
    """
    known = {"wrong answer": "wrong", "cannot be graded": "unsure", UNFINISHED: "unfinished"}
    return known.get(reason, str(row.get("notes", {}).get("verdict", "")))


def read_terms(nodes: Any) -> dict[str, list[str]]:
    """The score's word lists. If a user's list has been deleted, no words are marked."""
    names = next((node["words"] for node in nodes if "words" in node), ["en"])
    try:
        return term_lists(names)
    except UserError:
        return {}


def _row_details(line: Mapping[str, Any]) -> dict[str, Any]:
    data, detail = (line["data"], line["detail"]) if "stage" in line and "data" in line else (line, "")
    if not is_row(data):
        return {"question": json.dumps(data, ensure_ascii=False, indent=1), "detail": detail, "text": ""}
    row = Example.from_json(data)
    facts = {"from": row.source, "by": row.notes.get("teacher", "")}
    facts |= {kind: row.notes.get(kind, "") for kind in PARTS}
    if (rate := finite(row.scores.get("pass_rate"))) is not None:
        facts["pass rate"] = f"{rate:.2f}"
    return {
        "question": row.question,
        "answer": row.answer[:2000],
        "text": row.completion,
        "detail": detail[:500],
        "facts": {name: as_text(value)[:60] for name, value in facts.items() if value not in ("", None)},
    }


def _answer_details(line: Mapping[str, Any], place: Place) -> dict[str, Any]:
    completion = line["completions"][place.completion]
    facts = {"extracted": completion["extracted"], "rule": completion["how"], "ended by": completion["finish"]}
    return {
        "question": line["question"],
        "answer": line["answer"][:2000],
        "text": completion["text"],
        "facts": {name: as_text(value)[:60] for name, value in facts.items() if value not in ("", None)},
    }


def _name(key: str, notes: Mapping[str, Any], problem: str) -> str:
    """What distinguishes a chain from the others of its problem: teacher and number of the sample, or the origin of the
    source's chain.
    """
    return key.removeprefix(problem + "/") if key != problem else str(notes.get("teacher", key))
