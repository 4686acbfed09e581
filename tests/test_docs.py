"""Every command in README.md, CONTRIBUTING.md and docs/ is run here, or says what it needs that a test has not.

A line of a `sh` block is one of these: run in this process at sizes fit for a test; run by another test (ELSEWHERE);
or marked (`# needs a GPU`, `# needs a hub`, ...). Whatever names a recipe is composed and bound to its functions as
well. `python` blocks are executed, page by page; a block of which the first line is a path is written there. A command
that is none of these fails.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from limo.cli import COMMANDS
from limo.recipe import bind, check_node, compose, nodes
from tests.conftest import ROOT
from tests.test_commands import small

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name != "LOG.md"]
MARK = re.compile(
    r"#.*\bneeds (?:a|an|the|two|four|eight|\d+) (?:GPUs?|hub|servers?|cluster|browser|network|damaged file)\b", re.I
)
ELSEWHERE = {  # what a command holds, and the test that runs it
    "recipe=rise_demo": "tests/test_multiturn.py",
    "recipe=lemma_demo": "tests/test_lemma.py",
    "recipe=discover_demo": "tests/test_discover.py",
    "recipe=mammoth2_demo": "tests/test_web.py",
    "--multirun": "tests/test_commands.py",
    "-m eval.pick": "tests/test_eval.py",
    "-m curation.evidence.probe": "tests/test_probe.py",
    "-m curation.evidence.teachers": "tests/test_probe.py",
    "-m curation.evidence.tournament": "tests/test_tournament.py",
}
SECTIONS = {
    **{"curation.run": "curate", "curation.cost": "plan", "eval.run": "eval"},
    **{"limo.train": "train", "eval.report": "report"},
    **{"curation.methods.rise.improve": "improve", "limo.discover": "discover", "eval.pick": "pick"},
    "curation.check": "curate",
    **{
        "curation.evidence.probe": "probe",
        "curation.evidence.teachers": "fit",
        "curation.evidence.tournament": "tournament",
    },
}
SHELL = ("mkdir", "cp", "head", "ls", "wc", "cat", "cd")
BENCH = ("python bench/", "LIMO_DATA=... python bench/")  # minutes: `make bench` runs them


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def path(self) -> str:
        """Where it says it belongs: a path as a comment in its first line, or behind Hydra's; or nothing."""
        found = re.match(r"(?:# @package _global_\n)?# ([\w./-]+\.(?:py|yaml|jsonl|json))\n", self.text)
        return found.group(1) if found else ""


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [Block(page, language, textwrap.dedent(inside)) for _, language, inside in found]


def commands(block: Block) -> list[str]:
    """The lines of a `sh` block that are commands, those that go on behind a backslash joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [spelled_out(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def spelled_out(line: str) -> str:
    """The module that a `limo` command runs, called as Python would."""
    return re.sub(r"^limo ([\w-]+)", lambda found: f"python -m {COMMANDS[found[1]][0]}", line)


def bare(command: str) -> str:
    """A command without its comment."""
    return re.sub(r"\s+#\s.*$", "", command).strip()


ALL = [(page, command) for page in PAGES for b in blocks(page) if b.language == "sh" for command in commands(b)]


def elsewhere(command: str) -> str:
    """The test that runs a command, if another does."""
    return next((test for sign, test in ELSEWHERE.items() if sign in command), "")


@pytest.mark.parametrize("command", sorted({command for _, command in ALL}))
def test_a_command_is_run_or_marked(command: str) -> None:
    test = elsewhere(command)
    if MARK.search(command) or (test and (ROOT / test).is_file()):
        return
    words = bare(command)
    assert words.startswith(("python -m ", "make ", "pip ", *SHELL, *BENCH)), f"run it, or mark it: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_hides_in_another_block(page: Path) -> None:
    for block in blocks(page):
        if block.language in ("", "text", "console"):
            hidden = [line for line in block.text.splitlines() if re.match(r"(\$ )?(python -m|make|pip) ", line)]
            assert not hidden, f"{page.name}: {hidden[0]} belongs into a sh block"


def inline(page: Path) -> Iterator[str]:
    """Commands in running text."""
    outside = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`((?:python|make) [^`]+)`", outside):
        yield " ".join(code.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_running_text_name_what_there_is(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in inline(page):
        words = command.split()
        if words[0] == "make":
            assert words[1] in targets, f"{page.name}: {command}"
        elif words[1] == "-m":
            module = ROOT / words[2].replace(".", "/")
            assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), f"{page.name}: {command}"
        else:
            assert (ROOT / words[1]).is_file(), f"{page.name}: {command}"


OWN = {"recipe=tickets", "recipe=traces"}  # recipes that a page writes
RECIPES = sorted({bare(c) for _, c in ALL if "recipe=" in c and c.startswith("python -m") and not OWN & set(c.split())})


@pytest.mark.parametrize("command", RECIPES)
def test_what_a_command_changes_fits_the_recipe(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMO_DATA", "/data")
    _, _, module, *typed = shlex.split(command)
    given = [a for a in typed if "=" in a and not a.startswith("-") and "hydra" not in a]
    if "--multirun" in typed:
        given = [re.sub(r"=([^,\[{]*),.*", r"=\1", a) for a in given]
    recipe = compose(*given, allow_missing=True)
    section = SECTIONS[module]
    bind(recipe[section], section)
    for where, node in nodes(recipe[section], section):
        check_node(node, where)


@pytest.mark.parametrize("command", sorted({bare(c) for _, c in ALL if c.startswith("make ")}))
def test_the_make_commands_exist_and_call_what_they_say(command: str) -> None:
    shown = subprocess.run([*shlex.split(command), "--dry-run"], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    if command.startswith("make explore"):
        assert "jupyter lab" in shown.stdout and "LIMO_RUN=" in shown.stdout and "runs/demo" in shown.stdout
    stage = re.match(r"make (curate|train|eval|report)\b", command)
    if stage:
        module = {"curate": "curation.run", "train": "limo.train", "eval": "eval.run", "report": "eval.report"}
        recipe = re.search(r"RECIPE=(\w+)", command)
        assert f"-m {module[stage.group(1)]} recipe={recipe.group(1) if recipe else 'demo'}" in shown.stdout


@pytest.mark.parametrize("command", sorted({bare(c) for _, c in ALL if c.startswith("pip ")}))
def test_what_pip_is_told_to_install_is_offered(command: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"\[([\w,]+)\]", command):
        assert set(named.split(",")) <= set(extras), command


def shrunk(arguments: list[str], tiny: Path) -> list[str]:
    """A command's arguments with what makes it small enough, where it does not say so itself."""
    given = {a.lstrip("+").partition("=")[0] for a in arguments}
    removed = tuple(a[1:] for a in arguments if a.startswith("~"))
    if "recipe=evaluate" in arguments:
        kept = [a for a in arguments if not a.startswith("eval.models")]
        more = [f"eval.models.model={tiny}", "eval.protocol=null", "eval.sampling.max_tokens=4"]
        return [*kept, *more, "eval.resamples=50", "engine.dtype=float32"]
    if OWN & set(arguments):
        sizes = ["attempts.max_tokens=4", "train.max_length=400", "eval.sampling.max_tokens=4"]
        sizes = [size for size in sizes if size.partition("=")[0] not in given]
        return [*arguments, f"student={tiny}", "engine.dtype=float32", "train.args.num_train_epochs=1", *sizes]
    if "recipe=sft" in arguments:
        return [*arguments, f"student={tiny}", "train.max_length=400", "train.args.num_train_epochs=1"]
    if "recipe=demo" not in arguments:
        return arguments
    sizes = [a for a in small(tiny, Path("runs")) if not a.startswith(("recipe=", "runs="))]
    return [*arguments, *(a for a in sizes if a.partition("=")[0] not in given and not a.startswith(removed or "~"))]


def carried_out(command: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a `python -m` command in this process, as `runpy` does for the interpreter."""
    _, _, module, *arguments = shlex.split(command)
    if "$LIMO_DATA" in command:
        if not os.environ.get("LIMO_DATA"):
            return
        arguments = [os.path.expandvars(a) for a in arguments]
    monkeypatch.setattr(sys, "argv", [module, *shrunk(arguments, tiny)])
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path])
    os.environ.pop("HYDRA_FULL_ERROR", None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as ended:
        assert not ended.code, f"{command} ended with {ended.code}"


def is_run(command: str) -> bool:
    """Whether a command is run by the page's test."""
    return bare(command).startswith(("python -m ", *SHELL)) and not MARK.search(command) and not elsewhere(command)


WALKED = [p for p in PAGES[1:] if any(b.language in ("sh", "python") for b in blocks(p))]  # all but the README


def test_what_the_readme_shows_is_run_by_another_page() -> None:
    """`docs/tour.md` walks through the README's commands with the output of each."""
    walked = {bare(command) for page, command in ALL if page in WALKED}
    shown = {bare(command) for page, command in ALL if page == PAGES[0] and is_run(command)}
    assert shown and shown <= walked, shown - walked


@pytest.mark.parametrize("page", WALKED, ids=lambda page: page.name)
def test_a_page_works_from_top_to_bottom(
    page: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder: files are written, commands and Python are run, in their order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Any] = {"__name__": "docs", "SMALL": small(tiny, Path("runs"))[1:], "TINY": str(tiny)}
    for block in blocks(page):
        if block.path and block.language in ("python", "yaml", "json"):
            Path(block.path).parent.mkdir(parents=True, exist_ok=True)
            Path(block.path).write_text(block.text)
        elif block.language == "python" and not MARK.search(block.text.partition("\n")[0]):
            text = block.text.replace('compose("recipe=demo"', 'compose("recipe=demo", *SMALL')
            text = text.replace('"embedded:smollm2-135m-instruct"', "TINY")
            exec(compile(text, page.name, "exec"), names)  # noqa: S102, the pages of this project
        elif block.language == "sh":
            for command in filter(is_run, commands(block)):
                if command.startswith("python"):
                    carried_out(bare(command), tiny, monkeypatch)
                else:
                    done = subprocess.run(["bash", "-c", bare(command)], capture_output=True, text=True)
                    assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_page_of_settings_is_what_the_code_says() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import runpy; print(runpy.run_path('docs/make_settings.py')['page'](), end='')"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert made.stdout == Path(__file__).parents[1].joinpath("docs", "settings.md").read_text(encoding="utf-8")


def test_the_lines_of_troubleshooting_are_lines_of_the_code() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    source = "".join(
        p.read_text(encoding="utf-8") for top in ("limo", "curation", "eval") for p in (ROOT / top).rglob("*.py")
    )
    source = re.sub(r'["\']\s*\n\s*f?["\']', "", source)  # a text over several lines
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    said = [re.findall(r"`([^`]+)`", re.split(r"(?<!\\) \| ", row[2:])[0]) for row in rows]
    assert len(rows) > 25
    for quoted in (quote for quotes in said for quote in quotes):
        for piece in quoted.split("…"):
            assert piece.strip(" '") in source, f"the code says nothing like: {quoted}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_says_what_it_gives_and_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name != "README.md":
        assert "What you get from this page: " in text[:400], "a page opens with what its reader gets"
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]+)?\)", text):
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name} links to {target}"
        heads = re.findall(r"^#+ (.*)", there.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        names = {"#" + re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
        assert not anchor or anchor in names, f"{page.name} links to {target}{anchor}"
