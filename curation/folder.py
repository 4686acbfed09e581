"""The folder of a finished curation: settings, funnel, the rows of every stage; and files of marked rows."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limo.data import Example, read_jsonl, read_text
from limo.errors import UserError
from limo.run import read_manifest

HELD = 2**24  # bytes of a file whose rows are kept in memory


class Rows:
    """The rows of a file; a large file is read again at each iteration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: list[Example] | None = None

    def __len__(self) -> int:
        with self.path.open("rb") as lines:
            return sum(1 for _ in lines)

    def __iter__(self) -> Iterator[Example]:
        if self._held is None and self.path.stat().st_size > HELD:
            return read_jsonl(self.path)
        self._held = list(read_jsonl(self.path)) if self._held is None else self._held
        return iter(self._held)


def stage_file(folder: Path, number: int, name: str, kind: str = "") -> Path:
    """The file of the rows that a stage kept, or, with `kind` ".dropped", of the rows that it dropped."""
    return folder / "stages" / f"{number:02d}-{name}{kind}.jsonl"


@dataclass(frozen=True)
class Folder:
    """A curation's folder, with the content of its manifest."""

    path: Path
    settings: Mapping[str, Any]  # of `curate`, its stages in order
    funnel: list[dict[str, Any]]

    @property
    def stages(self) -> dict[str, Any]:
        """The recipe's stages, in order."""
        return dict(self.settings.get("stages", {}))

    def before(self, name: str) -> Path:
        """The file of a stage's input rows."""
        names = ["pool", *self.stages]
        number = names.index(name) - 1
        return stage_file(self.path, number, names[number])


def read_folder(path: Path) -> Folder:
    """The curation in the folder's manifest; empty if there is none."""
    entry = read_manifest(path).get("curate", {})
    return Folder(path, entry.get("settings", {}), entry.get("results", {}).get("funnel", []))


def read_marks(path: str) -> list[str]:
    """The ids in a file of marks, sorted: a JSON object with an `id` in each line, or the bare id."""
    ids, lines = set[str](), read_text(path, "curate.exclude").splitlines()
    for number, line in enumerate(filter(None, map(str.strip, lines)), 1):
        try:
            ids.add(str(json.loads(line)["id"]) if line.startswith("{") else line)
        except (ValueError, KeyError):
            raise UserError(f'curate.exclude: {path}, line {number}: no id, such as {{"id": "demo/12"}}') from None
    return sorted(ids)
