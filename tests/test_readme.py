"""The annotated trees of README and CONTRIBUTING name folders that exist. `tests/test_docs.py` runs its commands."""

import re

from tests.conftest import ROOT


def test_the_folders_in_the_readme_are_those_there_are() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\n(limo/.*?)```", readme, re.DOTALL)
    assert tree, "the README shows an annotated tree"
    named = {line.split()[0] for line in tree.group(1).splitlines() if not line.startswith(" ")}
    folders = [p for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")]
    there = {f"{p.name}/" for p in folders if any(p.glob("*.py")) or any(p.glob("*.md"))}
    assert named == there | {"recipes/"}


def test_the_folders_of_contributing_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\n(limo/.*?)```", page, re.DOTALL)
    assert tree, "CONTRIBUTING shows an annotated tree"
    named = [line.split()[0] for line in tree.group(1).splitlines()]
    assert len(named) > 8 and not [name for name in named if not (ROOT / name).is_dir()]
