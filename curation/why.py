"""The history of one row: where it came from, what was tried, why it was kept or dropped.

    python -m curation.why runs/limo math/1093

Prints what each stage did with the row, the attempts at it with an interval for its true pass rate, the chains that
competed and how they scored, and for a dropped row what it was compared with. The id of a problem shows all its chains;
that of one chain shows that chain.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.stages.score import TEXT
from eval.compare import wilson
from eval.report.curated import read_weights, score_parts
from limo.data import Example, parsed
from limo.errors import UserError, reported
from limo.run import read_manifest

SHOWN = 400  # characters of a problem or chain
RIVALS = 40  # chains listed


@dataclass(frozen=True, slots=True)
class Seen:
    """A row as one stage left it."""

    stage: str
    id: str
    reason: str  # empty if it stayed
    detail: str
    place: int  # among those that stayed, from 1
    data: Mapping[str, Any]  # the row


def story(folder: Path, key: str) -> list[Seen]:
    """What each stage did with a row and with the chains that come from it, in the order of the stages.

    Raises UserError if there is no finished stage, or no such row.
    """
    names = sorted((folder / "stages").glob("*.done.json"))
    if not names:
        raise UserError(f"no finished stage in '{folder}': give the folder of a run, such as runs/demo")
    found, some = list[Seen](), ""
    for done in names:
        number, _, stage = done.name.removesuffix(".done.json").partition("-")
        for kind in ("", ".dropped"):
            for place, row in _lines(done.with_name(f"{number}-{stage}{kind}.jsonl"), key):
                found.append(_seen(stage, place, row, dropped=bool(kind)))
        some = some or _first_id(done.with_name(f"{number}-{stage}.jsonl"))
    if not any(seen.id == key for seen in found):
        raise UserError(f"no row '{key}' in {folder}; its ids look like {some}")
    return found


def _seen(stage: str, place: int, row: Mapping[str, Any], dropped: bool) -> Seen:
    if not dropped:
        return Seen(stage, row["id"], "", "", place, row)
    data = row["data"] if isinstance(row["data"], dict) else {"raw": row["data"]}
    return Seen(stage, row["id"], row["reason"], row["detail"], place, {**data, "file": row["file"], "row": row["row"]})


def _lines(path: Path, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a stage's file with this id or of this problem, and their places."""
    mark = json.dumps(key, ensure_ascii=False)[1:-1].encode()
    with path.open("rb") as lines:
        for place, line in enumerate(lines, 1):
            if mark in line and key in ((row := parsed(line))["id"], _row(row).get("problem")):
                yield place, row


def _row(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of a line: that which was dropped, or the line itself."""
    data = line.get("data", line)
    return data if isinstance(data, dict) else {}


def _first_id(path: Path) -> str:
    with path.open("rb") as lines:
        return next((str(parsed(line)["id"]) for line in lines), "")


def tell_history(folder: Path, key: str) -> list[str]:
    """The story as lines for a terminal."""
    seen = story(folder, key)
    row = next((s.data for s in reversed(seen) if "prompt" in s.data), None)
    if row is None:
        last = seen[-1]
        where = f"{last.data.get('file')}, row {last.data.get('row')}"
        return [f"{key}  ({where})", f"  {last.stage}: dropped, {last.reason}: {last.detail}", f"  {last.data}"]
    example = Example.from_json(row)
    lines = [f"{key}  ({_origin(example)})", f"  problem  {_short(example.question)}", f"  answer   {example.answer}"]
    if example.problem != key:
        lines.append(f"  a chain of the problem {example.problem}, which has a history of its own")
    lines += ["", *_stages(seen), *_attempts(example), *_chains(seen, _last_stage(folder)), *_score(folder, seen)]
    return lines


def _origin(row: Example) -> str:
    notes = row.notes
    where = f"{notes['file']}, row {notes['row']}" if "file" in notes else f"source {row.source}"
    return where + (f", {notes['licence']}" if notes.get("licence") else "")


def _stages(seen: Sequence[Seen]) -> list[str]:
    lines = ["Stages"]
    for stage in dict.fromkeys(s.stage for s in seen):
        here = [s for s in seen if s.stage == stage]
        stayed = [s for s in here if not s.reason]
        if len(here) == 1:
            lines += _one(here[0])
            continue
        reasons = dict.fromkeys(s.reason for s in here if s.reason)
        left = ", ".join(f"{sum(s.reason == reason for s in here)} {reason}" for reason in reasons)
        lines.append(f"  {stage:<14} {len(stayed)} of {len(here)} chains stay" + (f"; {left}" if left else ""))
    return lines


def _one(s: Seen) -> list[str]:
    if not s.reason:
        return [f"  {s.stage:<14} stays, row {s.place:,}"]
    lines = [f"  {s.stage:<14} dropped: {s.reason}" + (f" ({s.detail})" if s.detail else "")]
    if matched := s.data.get("matched"):
        lines += [f"  {'':<14} this     {_short(Example.from_json(s.data).question)}"]
        lines += [f"  {'':<14} matched  {_short(matched['problem'])}  [{matched['id']}]"]
    return lines


def _attempts(row: Example) -> list[str]:
    tried = row.notes.get("attempts", {})
    lines = ["", "Attempts"] if tried else []
    for by, t in tried.items():
        finished = t["right"] + t["wrong"]
        low, high = wilson(t["right"] / finished, finished) if finished else (0.0, 1.0)
        source = f", from {t['from']}" if "from" in t else ""
        lines.append(
            f"  {by:<14} {t['right']} of {finished} right (95 % interval {100 * low:.0f} to {100 * high:.0f} %), "
            f"{t['cut']} cut off, {t['unsure']} not gradable{source}"
        )
        if t.get("other") is not None:
            lines.append(f"  {'':<14} most frequent other answer: {t['other']} ({t['agreeing']} times)")
    return lines


def _chains(seen: Sequence[Seen], end: str) -> list[str]:
    """The chains that competed, the best first, each with the stage at which it left."""
    last = {s.id: s for s in seen if s.data.get("completion")}
    if not last:
        return []
    order = sorted(last.values(), key=lambda s: (bool(s.reason), -s.data["scores"].get("score", -1), s.id))
    lines = ["", "Chains"]
    for s in order[:RIVALS]:
        fate = "chosen" if s.stage == end and not s.reason else f"{s.stage}: {s.reason or 'last seen here'}"
        value = s.data["scores"].get("score")
        detail = f" ({s.detail})" if s.detail else ""
        score = "" if value is None else f"score {value:.3f}  "
        lines.append(f"  {s.id}  {score}{len(s.data['completion']):,} characters  {fate}{detail}")
        lines.append(f"      {_short(s.data['completion'], 160)}")
    return lines + ([f"  and {len(order) - RIVALS} more"] if len(order) > RIVALS else [])


def _score(folder: Path, seen: Sequence[Seen]) -> list[str]:
    """The score of the best chain, taken apart."""
    with_score = [s for s in seen if "score" in s.data.get("scores", {})]
    if not with_score:
        return []
    s = max(with_score, key=lambda s: (not s.reason, s.data["scores"]["score"]))
    scores = s.data["scores"]
    lines = ["", f"Score of {s.id}: {scores['score']:.3f}"]
    for p in score_parts(scores, read_weights(_nodes(folder).values())):
        value = f"{p.value:,.0f}" if p.name == TEXT[0] else f"{p.value:.4f}"
        lines.append(f"  {p.name:<14} {value:>10}  scaled {p.scaled:.3f}  x {p.weight:.2f} = {p.share:.3f}")
    return lines


def _last_stage(folder: Path) -> str:
    return next(reversed(_nodes(folder)), "")


def _nodes(folder: Path) -> dict[str, Any]:
    """The stages of the run's recipe."""
    return dict(read_manifest(folder).get("curate", {}).get("settings", {}).get("stages", {}))


def _short(text: str, chars: int = SHOWN) -> str:
    line = " ".join(text.split())
    return line if len(line) <= chars else line[:chars] + " ..."


def main() -> None:
    """The command `python -m curation.why`."""
    parser = argparse.ArgumentParser(
        prog="python -m curation.why", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("id", help="of a problem or of a chain, as in dropped.jsonl and curated.jsonl")
    args = parser.parse_args()
    with reported():
        sys.stdout.write("\n".join(tell_history(args.run, args.id)) + "\n")


if __name__ == "__main__":
    main()
