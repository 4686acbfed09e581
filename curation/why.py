"""The history of one row: where it came from, what was tried, why it was kept or dropped.

    python -m curation.why runs/limo math/1093

Prints what each stage did with the row, the attempts with an interval for the true pass rate, the competing chains and
their scores, and for a dropped row the row that it was compared with. The id of a problem shows all its chains; the id
of a chain shows that chain.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.evidence.probe_result import chosen_by
from curation.folder import read_folder
from curation.stages.score import TEXT
from eval.intervals import wilson
from eval.report.listed import read_weights, score_parts
from limo.command import run_function
from limo.data import Example, parsed
from limo.errors import UserError, visible

SHOWN = 400  # characters of a problem or chain
RIVALS = 40  # chains listed


@dataclass(frozen=True, slots=True)
class Seen:
    """A row after one stage."""

    stage: str
    id: str
    reason: str  # empty if it stayed
    detail: str
    place: int  # in its file, from 1
    data: Mapping[str, Any]  # the row


def story(folder: Path, key: str) -> list[Seen]:
    """Tell what each stage did with a row and with the chains made from it, in the order of the stages."""
    names = sorted((folder / "stages").glob("*.done.json"))
    if not names:
        raise UserError(f"no finished stage in '{folder}': give the folder of a run, such as runs/demo")
    found, some = list[Seen](), ""
    mark = json.dumps(key, ensure_ascii=False)[1:-1].encode()
    for done in names:
        number, _, stage = done.name.removesuffix(".done.json").partition("-")
        for kind in ("", ".dropped"):
            with done.with_name(f"{number}-{stage}{kind}.jsonl").open("rb") as lines:
                for place, line in enumerate(lines, 1):
                    some = some or str(parsed(line)["id"])
                    if mark in line and (seen := _read(stage, place, parsed(line), key)):
                        found.append(seen)
    if not any(seen.id == key for seen in found):
        raise UserError(f"no row '{key}' in {folder}; its ids look like {some}")
    return found


def _read(stage: str, place: int, line: Mapping[str, Any], key: str) -> Seen | None:
    """Read a line of a stage's file, if its row has the id `key` or is a chain of that problem."""
    dropped = "reason" in line
    data = line if not dropped else line["data"] if isinstance(line["data"], dict) else {"raw": line["data"]}
    if key not in (line["id"], data.get("problem")):
        return None
    if not dropped:
        return Seen(stage, line["id"], "", "", place, data)
    data = {**data, "file": line["file"], "row": line["row"]}
    return Seen(stage, line["id"], line["reason"], line["detail"], place, data)


def tell_history(folder: Path, key: str) -> list[str]:
    """The story as lines for a terminal."""
    seen = story(folder, key)
    row = next((s.data for s in reversed(seen) if "prompt" in s.data), None)
    if row is None:
        last = seen[-1]
        where = f"{last.data.get('file')}, row {last.data.get('row')}"
        return [f"{key}  ({where})", f"  {last.stage}: dropped, {last.reason}: {last.detail}", f"  {last.data}"]
    example, notes, stages = Example.from_json(row), row.get("notes", {}), read_folder(folder).stages
    where = f"{notes['file']}, row {notes['row']}" if "file" in notes else f"source {example.source}"
    where += f", {notes['licence']}" if notes.get("licence") else ""
    lines = [f"{key}  ({where})", f"  problem  {_shorten(example.question)}", f"  answer   {example.answer}"]
    if example.problem != key:
        lines.append(f"  a chain of the problem {example.problem}, whose id shows all its chains")
    lines += ["", "Stages", *_stages(seen), *_attempts(notes.get("attempts", {}))]
    return [
        *lines,
        *_chains(seen, next(reversed(stages), ""), set(chosen_by(stages).values())),
        *_score(seen, read_weights(stages.values())),
    ]


def _stages(seen: Sequence[Seen]) -> Iterator[str]:
    for stage in dict.fromkeys(s.stage for s in seen):
        here = [s for s in seen if s.stage == stage]
        first, reasons = here[0], Counter(s.reason for s in here if s.reason)
        if len(here) > 1:
            left = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            stayed = len(here) - reasons.total()
            yield f"  {stage:<14} {stayed} of {len(here)} chains stay" + (f"; {left}" if left else "")
        elif not first.reason:
            yield f"  {stage:<14} stays, row {first.place:,}"
        else:
            yield f"  {stage:<14} dropped: {first.reason}" + (f" ({first.detail})" if first.detail else "")
            if matched := first.data.get("matched"):
                yield f"  {'':<14} this     {_shorten(Example.from_json(first.data).question)}"
                yield f"  {'':<14} matched  {_shorten(matched['problem'])}  [{matched['id']}]"


def _attempts(tried: Mapping[str, Any]) -> Iterator[str]:
    if tried:
        yield from ("", "Attempts")
    for by, t in tried.items():
        finished = t["right"] + t["wrong"]
        low, high = wilson(t["right"] / finished, finished) if finished else (0.0, 1.0)
        source = f", from {t['from']}" if "from" in t else ""
        yield (
            f"  {by:<14} {t['right']} of {finished} right (95 % interval {100 * low:.0f} to {100 * high:.0f} %), "
            f"{t['cut']} cut off, {t['unsure']} not gradable{source}"
        )
        if t.get("other") is not None:
            yield f"  {'':<14} most frequent other answer: {t['other']} ({t['agreeing']} times)"


def _chains(seen: Sequence[Seen], end: str, by: Iterable[str]) -> Iterator[str]:
    """The competing chains, the best first, each with the stage that dropped it."""
    last = {s.id: s for s in seen if s.data.get("completion")}
    order = sorted(last.values(), key=lambda s: (bool(s.reason), -s.data["scores"].get("score", -1), s.id))
    if order:
        yield from ("", "Chains")
    for s in order[:RIVALS]:
        fate = "chosen" if s.stage == end and not s.reason else f"{s.stage}: {s.reason or 'last seen here'}"
        scores = [f"{name} {s.data['scores'][name]:.3f}  " for name in sorted(by) if name in s.data["scores"]]
        detail = f" ({s.detail})" if s.detail else ""
        yield f"  {s.id}  {''.join(scores)}{len(s.data['completion']):,} characters  {fate}{detail}"
        yield f"      {_shorten(s.data['completion'], 160)}"
    if len(order) > RIVALS:
        yield f"  and {len(order) - RIVALS} more"


def _score(seen: Sequence[Seen], weights: Mapping[str, float]) -> Iterator[str]:
    """Lines that show how the best chain's score is composed."""
    with_score = [s for s in seen if "score" in s.data.get("scores", {})]
    if with_score:
        s = max(with_score, key=lambda s: (not s.reason, s.data["scores"]["score"]))
        yield from ("", f"Score of {s.id}: {s.data['scores']['score']:.3f}")
        for p in score_parts(s.data["scores"], weights):
            value = f"{p.value:,.0f}" if p.name == TEXT[0] else f"{p.value:.4f}"
            yield f"  {p.name:<14} {value:>10}  scaled {p.scaled:.3f}  x {p.weight:.2f} = {p.share:.3f}"


def _shorten(text: str, chars: int = SHOWN) -> str:
    line = " ".join(text.split())
    return line if len(line) <= chars else line[:chars] + " ..."


def print_history(run: Path, row: str) -> None:
    """The command `limo why`: `run` is the run's folder, `row` the id of a problem or of a chain."""
    sys.stdout.write(visible("\n".join(tell_history(run, row))) + "\n")


if __name__ == "__main__":
    run_function(print_history, "limo why", __doc__)
