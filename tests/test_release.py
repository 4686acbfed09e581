"""A wheel builds, holds everything, and runs a recipe in a clean environment; the files beside the code are in step."""

import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

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


LIGHT = """
import pyarrow as pa, pyarrow.parquet as pq
from curation.matching.leaks import find_leaks
from limo.sources.files import read_rows

asked = "What is the sum of the first 20 odd numbers?"
pq.write_table(pa.table({"problem": ["What is the capital of France?", asked]}), "pool.parquet")
pq.write_table(pa.table({"problem": [asked], "answer": ["400"]}), "held_out.parquet")
print(find_leaks((row["problem"] for _, row in read_rows("pool.parquet")), ["held_out.parquet"]))
"""


@pytest.mark.slow
def test_a_light_installation_grades_compares_and_finds_leaks(wheel: Path, tmp_path: Path) -> None:
    """In an empty environment, with the packages that the wheel itself asks for, from the package index."""
    home, work = tmp_path / "venv", tmp_path / "empty"
    venv.create(home, with_pip=True)
    work.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        call = [str(home / "bin" / words[0]), *words[1:]]
        return subprocess.run(call, cwd=work, env=environment, capture_output=True, text=True, timeout=900)

    installed = call("python", "-m", "pip", "install", "--quiet", str(wheel))
    if installed.returncode and "No matching distribution" in installed.stderr:
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr
    listed = call("python", "-m", "pip", "list", "--format=json").stdout
    assert not {p["name"] for p in json.loads(listed)} & {
        "torch",
        "transformers",
        "trl",
        "peft",
        "deepspeed",
        "hydra-core",
    }
    row = {"id": "p1", "answer": "1/2"}
    for name, answer in (("a", "\\int_0^1 x\\,dx"), ("b", "2")):
        (work / f"{name}.jsonl").write_text(json.dumps({**row, "completion": f"\\boxed{{{answer}}}"}))
        graded = call("limo", "grade", f"{name}.jsonl")
        assert graded.returncode == 0, graded.stderr
    assert json.loads((work / "a.graded.jsonl").read_text())["how"] == "sympy"
    compared = call("limo", "compare", "a.graded.jsonl", "b.graded.jsonl")
    assert "-100.0" in compared.stdout, compared.stdout + compared.stderr
    leaks = call("python", "-c", LIGHT)
    assert leaks.stdout.strip() == "[None, 'held_out/1']", leaks.stdout + leaks.stderr
    refused = call("limo", "train", "recipe=demo")
    assert "limo train needs a package that is not installed: pip install 'limo-toolkit[train]'" in refused.stderr


def test_licences_are_listed_for_what_pyproject_names() -> None:
    done = subprocess.run([sys.executable, ".ci/licences.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    assert "not installed here" not in page and "see its files" not in page
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License") and "END OF TERMS AND CONDITIONS" in text
