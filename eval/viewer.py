"""The chain viewer of the report: chosen rows and the other chains of their problems, packed into the page.

The browser's part is in `browser/`: `packed.js` unpacks, `prose.js` turns a text into steps, formulas and marked words,
`row.js` shows one row, `viewer.js` is the list and what is pressed. Formulas are drawn by KaTeX as MathML; its script
comes with the package `sphinxcontrib-katex`, and without it formulas are shown as their source.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from eval.curated import Curated, Rival, finite, rival_rows, score_parts
from eval.metrics import PARTS, as_text
from eval.packed import Packer, packed_text, split
from limo.data import Example

BROWSER = Path(__file__).parent / "browser"
LIMIT = 9_700_000  # bytes of the page: below 10 MB whatever the charts take
DENSITY = 0.4  # bytes a character of text packs to at most, as a rule
RIVALS = 40  # chains of a problem that are listed
SHOWN = 240  # characters of a problem in the list

SKELETON = """
<div id=viewer>
<div class=side-list>
<div class=controls>
<input id=search type=search placeholder="Search problems and chains ( / )" aria-label="Search problems and chains"
 autocomplete=off spellcheck=false>
<select id=source aria-label="Source"><option value="">all sources</option></select>
<select id=sort aria-label="Sort by"></select>
<button id=direction type=button aria-pressed=false aria-label="Descending">↑</button>
<span id=count class=faint role=status></span>
</div>
<div id=list role=listbox tabindex=0 aria-label="Chosen chains"></div>
</div>
<div class=one>
<div class=tools role=toolbar aria-label="Chain">
<button type=button class=back data-does=back>← List</button>
<button type=button data-does=previous aria-label="Previous chain" title="k">‹</button>
<span id=position class=faint></span>
<button type=button data-does=next aria-label="Next chain" title="j">›</button>
<span class=gap></span>
<button type=button id=sides data-does=sides aria-pressed=false title="c">Side by side</button>
<button type=button id=unfolded data-does=unfolded aria-pressed=false title="u">Unfold all</button>
<button type=button id=raw data-does=raw aria-pressed=false title="s">Source</button>
</div>
<div id=row tabindex=-1><p class="faint none">Choose a chain from the list.</p></div>
</div>
</div>
<p class="faint keys"><kbd>j</kbd> <kbd>k</kbd> or arrows next and previous, <kbd>/</kbd> search, <kbd>Enter</kbd> read,
<kbd>Esc</kbd> back to the list, <kbd>c</kbd> side by side, <kbd>u</kbd> unfold, <kbd>s</kbd> source, <kbd>1</kbd>
<kbd>2</kbd> <kbd>3</kbd> marked words</p>
<noscript><p class=note>The viewer needs JavaScript; all chains are in curated.jsonl.</p></noscript>
<p class="note print-only">On paper there is only the chain that was open. All of them are in curated.jsonl.</p>
"""


def viewer(folder: Path, curated: Curated, room: int) -> str:
    """The viewer as HTML, in at most `room` bytes. What does not fit is left out, and the page says how much."""
    if not curated.chosen:
        return ""
    unit = "tokens" if all(finite(row.scores.get("tokens")) is not None for row in curated.chosen) else "characters"
    rows = [_row(row, curated, unit) for row in curated.chosen]
    rivals = [_rivals(folder, row, curated) for row in curated.chosen]
    for row, listed, known in zip(rows, rivals, (curated.rivals[r.problem] for r in curated.chosen), strict=True):
        row["rivals"], row["more"] = [meta for meta, _ in listed], max(0, len(known) - RIVALS)
    index = {"rows": rows, "weights": curated.weights, "terms": curated.terms, "unit": unit}
    packer = Packer(split([row.completion for row in curated.chosen]))
    room -= len(packed_text(json.dumps(index))) + 16 * sum(1 + len(row["rivals"]) for row in rows)
    left_out = _pack(folder, curated.chosen, rows, rivals, packer, room)
    islands = [("index", packed_text(json.dumps(index))), ("words", packer.dictionary())]
    islands += [(f"block{number}", block) for number, block in enumerate(packer.blocks)]
    data = "".join(f"<script type=text/plain id={name}>{block}</script>\n" for name, block in islands)
    return f"{SKELETON}{left_out}{data}"


def _row(row: Example, curated: Curated, unit: str) -> dict[str, Any]:
    """What the list and the head of a chain show; texts are packed apart."""
    notes = row.notes
    facts = {"from": row.source, "by": notes.get("teacher", "")} | {kind: notes.get(kind, "") for kind in PARTS}
    if (rate := finite(row.scores.get("pass_rate"))) is not None:
        facts["pass rate"] = f"{rate:.2f}"
    return {
        "id": row.id,
        "name": _name(row.id, notes, _problem_id(row)),
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
    """What is told of the other chains of a chosen row's problem, and where their texts are."""
    known = curated.rivals[row.problem][:RIVALS]
    found = []
    for rival, data in zip(known, rival_rows(folder, known), strict=True):
        meta = {
            "id": data["id"],
            "name": _name(str(data["id"]), data.get("notes", {}), _problem_id(row)),
            "verdict": rival.verdict,
            "stage": rival.stage,
            "reason": rival.reason,
            "detail": rival.detail[:200],
            "score": rival.score,
            "characters": len(data["completion"]),
            "parts": [asdict(part) for part in score_parts(data.get("scores", {}), curated.weights)],
        }
        found.append((meta, rival))
    return found


def _name(key: str, notes: Mapping[str, Any], problem: str) -> str:
    """What a chain is called beside others of its problem: teacher and sample, or who wrote the source's own."""
    return key.removeprefix(problem + "/") if key != problem else str(notes.get("teacher", key))


def _problem_id(row: Example) -> str:
    """The id of a chain's problem: without teacher and sample, which `curation.solve` puts behind it."""
    teacher = str(row.notes.get("teacher", ""))
    head, _, last = row.id.rpartition("/")
    return head.removesuffix(f"/{teacher}") if last.isdigit() and head.endswith(f"/{teacher}") else row.id


def _pack(
    folder: Path,
    chosen: Sequence[Example],
    rows: Sequence[dict[str, Any]],
    rivals: Sequence[Sequence[tuple[dict[str, Any], Rival]]],
    packer: Packer,
    room: int,
) -> str:
    """Pack problems, chosen chains, then rivals in turns as far as there is room. Says what was left out."""

    def put(at: dict[str, Any], key: str, value: str) -> bool:
        if packer.size + DENSITY * (packer.waiting + len(value)) > room:
            return False
        at[key] = packer.add(value).to_json()
        return True

    for row, shown in zip(chosen, rows, strict=True):
        put(shown, "problem", row.question)
    missing = sum(not put(shown, "text", row.completion) for row, shown in zip(chosen, rows, strict=True))
    packer.close()
    turns = max(map(len, rivals), default=0)
    others = [listed[turn] for turn in range(turns) for listed in rivals if turn < len(listed)]
    absent = sum(not put(meta, "text", completion) for meta, completion in _completions(folder, others))
    packer.close()
    return _absent(missing, len(rows), "chosen chains", "curated.jsonl") + _absent(
        absent, len(others), "other chains of these problems", "dropped.jsonl"
    )


def _completions(folder: Path, others: Sequence[tuple[dict[str, Any], Rival]]) -> Iterator[tuple[dict[str, Any], str]]:
    """What is told of each rival, with its chain."""
    for (meta, _), data in zip(others, rival_rows(folder, [rival for _, rival in others]), strict=True):
        yield meta, data["completion"]


def _absent(missing: int, every: int, what: str, file: str) -> str:
    if not missing:
        return ""
    return (
        f"<p class=note>{missing:,} of {every:,} {what} are listed without their text, with which this page would pass "
        f"10 MB; they are in {file}.</p>"
    )


def scripts(with_viewer: bool) -> list[str]:
    """The page's scripts: KaTeX, where it is installed, and ours."""
    names = ["packed.js", "prose.js", "row.js", "viewer.js"] if with_viewer else ["prose.js"]
    ours = "".join((BROWSER / name).read_text(encoding="utf-8") for name in names)
    if not with_viewer:
        ours += "for (const open of document.querySelectorAll('details[open]')) drawn(open);\n"
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
