"""The annotated trees of README and CONTRIBUTING are the tree. `tests/test_docs.py` runs its commands."""

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


def test_every_file_is_named_with_its_purpose() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\n(limo/.*?)```", page, re.DOTALL)
    assert tree, "CONTRIBUTING shows an annotated tree"
    named, folder = set(), ""
    for line in tree.group(1).splitlines():
        name = line.split()[0]
        folder = name if name.endswith("/") and not line.startswith(" ") else folder
        named.add(name if not line.startswith(" ") else folder + name)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
    modules = {str(p.relative_to(ROOT)) for top in ("limo", "curation", "eval") for p in (ROOT / top).glob("*.py")}
    assert {m for m in modules if not m.endswith("__init__.py")} <= named
