"""The README's commands are the project's interface: each is run as written, on a model and sizes fit for a test."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_commands import small

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.partition("#")[0].strip()
]
PYTHON = [c for c in COMMANDS if c.startswith("python -m ")]
MAKE = [c for c in COMMANDS if c.startswith("make ")]


def test_the_readme_has_no_other_commands() -> None:
    assert PYTHON and MAKE and sorted(PYTHON + MAKE) == sorted(COMMANDS)


def test_the_python_commands_run_in_their_order(
    tiny: Path, data: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for command in PYTHON:
        _, _, module, *arguments = shlex.split(command)
        if module == "limo.improve":  # tests/test_multiturn.py runs it, and kills it
            continue
        arguments = [a.replace("data=runs/", f"data={tmp_path}/") for a in arguments]
        if module in ("eval.grade", "curation.leaks"):  # here the shell puts in the folder, there the recipe does
            arguments = [a.replace("$LIMO_DATA", str(data)) for a in arguments]
        arguments = [a.replace(",runs/", f",{tmp_path}/") for a in arguments]
        if module in ("eval.grade", "eval.compare", "curation.leaks", "curation.why", "limo.ledgers"):
            arguments = [a.replace("runs/", f"{tmp_path}/") for a in arguments]
            done = run(module, *arguments, cwd=tmp_path)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            continue
        if "recipe=evaluate" in arguments:
            arguments = [a for a in arguments if not a.startswith("eval.models")] + [f"eval.models.model={tiny}"]
            arguments += [f"runs={tmp_path}", "eval.protocol=null", "eval.sampling.max_tokens=4", "eval.resamples=50"]
            done = run(module, *arguments, "eval.engine.dtype=float32")
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            continue
        given = {a.lstrip("+").partition("=")[0] for a in arguments}
        removed = [a[1:] for a in arguments if a.startswith("~")]
        shrink = [
            a
            for a in small(tiny, tmp_path)
            if a.partition("=")[0] not in given and not (removed and a.startswith(tuple(removed)))
        ]
        done = run(module, *arguments, *shrink)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("command", MAKE)
def test_the_make_commands_exist_and_call_what_they_say(command: str) -> None:
    shown = subprocess.run([*shlex.split(command), "--dry-run"], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    if command.startswith("make explore"):
        assert "jupyter lab" in shown.stdout and "LIMO_RUN=" in shown.stdout and "runs/demo" in shown.stdout
    stage = re.match(r"make (curate|train|eval|report)\b", command)
    if stage:
        module = {"curate": "curation.run", "train": "limo.train", "eval": "eval.run", "report": "eval.report"}[
            stage.group(1)
        ]
        recipe = re.search(r"RECIPE=(\w+)", command)
        assert f"-m {module} recipe={recipe.group(1) if recipe else 'demo'}" in shown.stdout


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
