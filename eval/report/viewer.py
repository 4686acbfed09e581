"""The chain viewer of the report: chosen rows and the other chains of their problems, packed into the page.

The browser's part is in `browser/`: `prose.js` turns a text into steps, formulas and marked words, `row.js` shows one
row, `viewer.js` has the list, the keys and the unpacking. KaTeX renders formulas as MathML; its script comes with the
package `sphinxcontrib-katex`, and without it formulas are shown as their source.
"""

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

from eval.metrics import PARTS, as_text
from eval.report.curated import Curated, Rival, finite, rival_rows, score_parts
from eval.report.html import render
from limo.data import Example

BROWSER = Path(__file__).parent / "browser"
LIMIT = 9_700_000  # bytes of the page: below 10 MB, charts included
DENSITY = 0.55  # bytes of the page that a character of text takes at most, as a rule
BLOCK = 250_000  # characters that are unpacked at once
RIVALS = 40  # chains of a problem that are listed
SHOWN = 240  # characters of a problem in the list

_HALF = re.compile(r"[\ud800-\udfff]")


class Packer:
    """Texts as gzipped JSON lists in base64 of about BLOCK characters: the browser unpacks one in milliseconds."""

    def __init__(self, room: int) -> None:
        self.room = room  # characters of the page that are left
        self.blocks: list[str] = []
        self._open: list[str] = []
        self._length = 0

    def add(self, text: str) -> list[int] | None:
        """Add a text and return its block and its place there; None if there is no room for it."""
        if self.room < DENSITY * (self._length + len(text)):
            return None
        self._open.append(text)
        self._length += len(text)
        place = [len(self.blocks), len(self._open) - 1]
        if self._length >= BLOCK:
            self.close()
        return place

    def close(self) -> None:
        """End the open block, if there is one. The next text begins another."""
        if self._open:
            self.blocks.append(pack(self._open))
            self.room -= len(self.blocks[-1])
            self._open, self._length = [], 0


def pack(value: Any) -> str:
    """JSON, gzipped, in base64. Half a pair of surrogates, which UTF-8 cannot hold, becomes U+FFFD."""
    text = _HALF.sub("\ufffd", json.dumps(value, ensure_ascii=False))
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def viewer_section(folder: Path, curated: Curated, room: int) -> str:
    """The viewer as HTML, in at most `room` bytes. Texts that do not fit are left out, and the page says how many."""
    unit = "tokens" if all(finite(row.scores.get("tokens")) is not None for row in curated.chosen) else "characters"
    rows = [_row(row, curated, unit) for row in curated.chosen]
    rivals = [_rivals(folder, row, curated) for row in curated.chosen]
    for row, listed, known in zip(rows, rivals, (curated.rivals[r.problem] for r in curated.chosen), strict=True):
        row["rivals"], row["more"] = [meta for meta, _ in listed], max(0, len(known) - RIVALS)
    index = {"rows": rows, "weights": curated.weights, "terms": curated.terms, "unit": unit}
    packer = Packer(room - len(pack(index)) - 16 * sum(1 + len(row["rivals"]) for row in rows))
    absent = _pack_texts(folder, curated.chosen, rows, rivals, packer)
    islands = [("index", pack(index)), *((f"block{number}", block) for number, block in enumerate(packer.blocks))]
    return render("viewer.html", key="chains", title="Chains", absent=absent, islands=islands)


def _row(row: Example, curated: Curated, unit: str) -> dict[str, Any]:
    """What the list and the head of a chain show; texts are packed separately."""
    notes = row.notes
    facts = {"from": row.source, "by": notes.get("teacher", "")} | {kind: notes.get(kind, "") for kind in PARTS}
    if (rate := finite(row.scores.get("pass_rate"))) is not None:
        facts["pass rate"] = f"{rate:.2f}"
    return {
        "id": row.id,
        "name": _name(row.id, notes, row.problem),
        "question": " ".join(row.question.split())[:SHOWN],
        "answer": row.answer[:2000],
        "source": row.source,
        "teacher": str(notes.get("teacher", "")),
        "verdict": str(notes.get("verdict", "")),
        "score": finite(row.scores.get("score")),
        "rate": rate,
        "length": row.scores["tokens"] if unit == "tokens" else len(row.completion),
        "characters": len(row.completion),
        "parts": [asdict(part) for part in score_parts(row.scores, curated.weights)],
        "facts": {name: as_text(value)[:60] for name, value in facts.items() if value not in ("", None)},
    }


def _rivals(folder: Path, row: Example, curated: Curated) -> list[tuple[dict[str, Any], Rival]]:
    """The other chains of a chosen row's problem, and where their texts are."""
    known = curated.rivals[row.problem][:RIVALS]
    metas = []
    for rival, data in zip(known, rival_rows(folder, known), strict=True):
        meta = {
            "id": data["id"],
            "name": _name(str(data["id"]), data.get("notes", {}), row.problem),
            "verdict": rival.verdict,
            "stage": rival.stage,
            "reason": rival.reason,
            "detail": rival.detail[:200],
            "score": rival.score,
            "characters": len(data["completion"]),
            "parts": [asdict(part) for part in score_parts(data.get("scores", {}), curated.weights)],
        }
        metas.append((meta, rival))
    return metas


def _name(key: str, notes: Mapping[str, Any], problem: str) -> str:
    """A chain's name among those of its problem: teacher and sample, or the teacher of the source's chain."""
    return key.removeprefix(problem + "/") if key != problem else str(notes.get("teacher", key))


def _pack_texts(
    folder: Path,
    chosen: Sequence[Example],
    rows: Sequence[dict[str, Any]],
    rivals: Sequence[Sequence[tuple[dict[str, Any], Rival]]],
    packer: Packer,
) -> list[tuple[int, int, str, str]]:
    """Pack problems, chosen chains, then rivals in turns as far as there is room.

    Returns how many of how many texts were left out, of which kind, and the file that has them.
    """
    for row, shown in zip(chosen, rows, strict=True):
        shown["problem"] = packer.add(row.question)
    for row, shown in zip(chosen, rows, strict=True):
        shown["text"] = packer.add(row.completion)
    packer.close()
    others = [pair for turn in zip_longest(*rivals) for pair in turn if pair]
    for (meta, _), data in zip(others, rival_rows(folder, [rival for _, rival in others]), strict=True):
        meta["text"] = packer.add(data["completion"])
    packer.close()
    missing, absent = (sum(meta["text"] is None for meta in metas) for metas in (rows, [meta for meta, _ in others]))
    return [
        (missing, len(rows), "chosen chains", "curated.jsonl"),
        (absent, len(others), "other chains of these problems", "dropped.jsonl"),
    ]


def scripts(with_viewer: bool) -> list[str]:
    """The page's scripts: KaTeX, where it is installed, and ours."""
    names = ["prose.js", "row.js", "viewer.js"] if with_viewer else ["prose.js"]
    ours = "".join((BROWSER / name).read_text(encoding="utf-8") for name in names)
    return [*_katex(), ours]


def _katex() -> list[str]:
    try:
        path = Path(str(metadata.distribution("sphinxcontrib-katex").locate_file("sphinxcontrib/katex.min.js")))
    except metadata.PackageNotFoundError:
        return []
    notice = "/* KaTeX, MIT licence, Copyright (c) 2013-2020 Khan Academy and other contributors */\n"
    return [notice + path.read_text(encoding="utf-8").replace("</script", "<\\/script").replace("\r", "")]


def style() -> str:
    """The page's style."""
    return "".join((BROWSER / name).read_text(encoding="utf-8") for name in ("report.css", "viewer.css"))
