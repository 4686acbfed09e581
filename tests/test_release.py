"""A wheel builds, holds everything, and runs a recipe in a clean environment; the files beside the code are in step."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_commands import small

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHIPPED = (".py", ".yaml", ".json", ".jsonl", ".js", ".css", ".ipynb", ".typed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks or would, so that nothing else helps."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no checkout: git does not list the files")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    call = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    built = subprocess.run(call, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_all_of_the_packages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for top in ("limo", "curation", "eval"):
        files = {
            str(p.relative_to(ROOT)) for p in (ROOT / top).rglob("*") if p.suffix in SHIPPED or p.name == "py.typed"
        }
        assert not files - held, f"left out of the wheel: {sorted(files - held)}"
        assert f"{top}/py.typed" in held
    recipes = {f"limo/{p.relative_to(ROOT)}" for p in (ROOT / "recipes").rglob("*") if p.is_file()}
    assert not recipes - held and len(recipes) > 20
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert not [name for name in held if name.startswith(("tests/", "bench/"))]


@pytest.mark.slow
def test_an_installed_wheel_runs_a_recipe_far_from_the_checkout(wheel: Path, tiny: Path, tmp_path: Path) -> None:
    """In an environment that sees the dependencies of this one, and neither the checkout nor its editable install."""
    home, work = tmp_path / "venv", tmp_path / "empty"
    venv.create(home, with_pip=False)
    work.mkdir()
    site = next((home / "lib").glob("python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # pip would find the checkout's there
    call = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    installed = subprocess.run(call, cwd=work, env=environment, capture_output=True)
    assert installed.returncode == 0, installed.stderr
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(others))
    code = "import limo, sys; print(limo.__file__)"
    where = subprocess.run(
        [home / "bin" / "python", "-c", code], cwd=work, env=environment, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(site)), where.stdout + where.stderr
    call = [str(home / "bin" / "limo"), "demo", *small(tiny, work / "runs")[1:]]
    done = subprocess.run(call, cwd=work, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (work / "runs" / "demo" / "report.html").stat().st_size > 100_000


def test_the_citation_is_one() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited) and cited["cff-version"] == "1.2.0"
    assert cited["version"] == PROJECT["version"] and cited["license"] == PROJECT["license"]
    assert all({"type", "title", "authors"} <= set(work) for work in cited["references"])
    numbers = {i["value"].removeprefix("arXiv:") for work in cited["references"] for i in work["identifiers"]}
    docs = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs").glob("*.md"))
    assert all(number in docs for number in numbers), "cited, and in no page"
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_licences_are_listed_for_what_pyproject_names() -> None:
    done = subprocess.run([sys.executable, "bench/licences.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    assert "not installed here" not in page and "see its files" not in page
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License") and "END OF TERMS AND CONDITIONS" in text


def test_the_four_additions_of_contributing_are_below_thirty_lines() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(# my/.*?)```", page, re.DOTALL)
    assert [block.split("\n")[0] for block in shown] == [
        f"# my/{name}.py" for name in ("problems", "scores", "teachers", "losses")
    ]
    assert all(len(block.splitlines()) < 30 for block in shown)


def test_what_a_docstring_promises_to_raise_is_named() -> None:
    """A public function that raises UserError itself says so in its docstring."""
    silent = []
    for path in (p for top in ("limo", "curation", "eval") for p in (ROOT / top).glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.name == "main":
                continue
            raised = {
                inner.exc.func.id
                for inner in ast.walk(node)
                if isinstance(inner, ast.Raise)
                and isinstance(inner.exc, ast.Call)
                and isinstance(inner.exc.func, ast.Name)
            }
            words = ast.get_docstring(node) or ""
            silent += [
                f"{path.name}:{node.name}: {name}" for name in raised & {"UserError", "ValueError"} if name not in words
            ]
    assert not silent, silent


def test_the_site_has_every_page_and_the_workflow_every_python() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = [page for group in site["nav"] for pages in group.values() for page in pages]
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    versions = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith("Programming Language")]
    assert jobs["test"]["strategy"]["matrix"]["python"] == versions
    assert {"run": ".ci/run"} in jobs["test"]["steps"]
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))["jobs"]
    assert release["publish"]["permissions"] == {"id-token": "write"}, "trusted publishing, without a key"
