"""The annotated tree of the README is the tree. `tests/test_docs.py` runs its commands."""

import re

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_in_the_readme_is_the_tree() -> None:
    tree = re.search(r"```text\n(limo/.*?)```", README, re.DOTALL)
    assert tree, "the README shows an annotated tree"
    named, folder = set(), ""
    for line in tree.group(1).splitlines():
        name = line.split()[0]
        folder = name if name.endswith("/") and not line.startswith(" ") else folder
        named.add(name if not line.startswith(" ") else folder + name)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
    modules = {str(p.relative_to(ROOT)) for top in ("limo", "curation", "eval") for p in (ROOT / top).glob("*.py")}
    assert {m for m in modules if not m.endswith("__init__.py")} <= named
