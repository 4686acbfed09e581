"""The chain viewer of the report: chosen rows and the other chains of their problems, packed into the page.

The browser's part is in `browser/`: `prose.js` turns a text into steps, formulas and marked words, `row.js` shows one
row, `viewer.js` has the list, filters, keyboard shortcuts and unpacking. `limo view` (`eval/view.py`) uses it too.
KaTeX renders formulas as MathML; its script comes with the package `sphinxcontrib-katex`, and without it formulas are
shown as their source.
"""

import base64
import gzip
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

from eval.report.curated import Curated
from eval.report.html import fill_template
from eval.report.listed import Listed, Place, chain_entry, read_lines

BROWSER = Path(__file__).parent / "browser"
LIMIT = 9_700_000  # bytes of the page: below 10 MB, charts included
DENSITY = 0.55  # bytes of the page per character of text, usually an upper bound
BLOCK = 250_000  # characters that are unpacked at once
RIVALS = 40  # most other chains of a problem that are listed

_HALF = re.compile(r"[\ud800-\udfff]")


class Packer:
    """Packs rows as gzipped JSON lists of about BLOCK characters in base64; a browser unpacks one in milliseconds."""

    def __init__(self, room: float = float("inf")) -> None:
        self.room = room  # characters of the page that are left
        self.blocks: list[str] = []
        self._open: list[Mapping[str, Any]] = []
        self._length = 0

    def fits(self, details: Mapping[str, Any]) -> bool:
        """Whether there is room for a row with its text."""
        return self.room >= DENSITY * (self._length + _size(details))

    def add(self, details: Mapping[str, Any]) -> list[int]:
        """Add a row's details and return its block and its position in it."""
        self._open.append(details)
        self._length += _size(details)
        place = [len(self.blocks), len(self._open) - 1]
        if self._length >= BLOCK:
            self.close()
        return place

    def close(self) -> None:
        """End the open block, if there is one. The next row begins a new block."""
        if self._open:
            self.blocks.append(pack(self._open))
            self.room -= len(self.blocks[-1])
            self._open, self._length = [], 0


def _size(details: Mapping[str, Any]) -> int:
    """The number of characters of a row, its facts included."""
    return len(details["text"] or "") + len(details.get("question", "")) + 300


def pack(value: Any) -> str:
    """Encode data as JSON, gzipped, in base64. A lone surrogate, which UTF-8 cannot encode, becomes U+FFFD."""
    text = _HALF.sub("\ufffd", json.dumps(value, ensure_ascii=False))
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def viewer_section(folder: Path, curated: Curated, room: int) -> str:
    """Render the viewer in about `room` bytes of HTML. Texts that do not fit are left out, and the page says
    how many.
    """
    listed = list_chosen(folder, curated)
    packer = Packer(room - len(pack(listed.index())) - 16 * len(listed.entries))
    missing = Counter[str]()
    for number, entry in enumerate(listed.entries):
        details = listed.details(number)
        if entry["state"] == "dropped":
            details.pop("question")  # the chosen row has it
        if not packer.fits(details):
            details["text"] = None
            missing[entry["state"]] += 1
        entry["block"] = packer.add(details)
    packer.close()
    count = Counter(entry["state"] for entry in listed.entries)
    absent = [
        (missing[state], count[state], what, file)
        for state, what, file in (
            ("chosen", "chosen chains", "curated.jsonl"),
            ("dropped", "other chains of these problems", "dropped.jsonl"),
        )
    ]
    islands = [
        ("index", pack(listed.index())),
        *((f"block{number}", block) for number, block in enumerate(packer.blocks)),
    ]
    return fill_template("viewer.html", key="chains", title="Chains", absent=absent, islands=islands)


def list_chosen(folder: Path, curated: Curated) -> Listed:
    """The chosen rows, then the other chains of their problems in turn, at most RIVALS of each problem."""
    listed = replace(curated.listed, entries=[], places=[])
    path = folder / "curated.jsonl"
    for (at, data), row in zip(read_lines(path), curated.chosen, strict=True):
        more = max(0, len(curated.rivals[row.problem]) - RIVALS)
        listed.add(chain_entry(data, "chosen", listed, folder.name) | {"more": more or None}, Place(path, at))
    for turn in zip_longest(*(rivals[:RIVALS] for rivals in curated.rivals.values())):
        for entry, place in filter(None, turn):
            listed.add(entry, place)
    return listed


def scripts(with_viewer: bool) -> list[str]:
    """The page's scripts: KaTeX, if it is installed, and ours."""
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
