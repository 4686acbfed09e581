"""`python -m eval.grade FILE`: columns as people have them, bad rows set aside, disagreement with another grader."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eval.compare import compare_runs
from eval.grade import regrade
from limo.command import run_function
from tests.conftest import ROOT

Run = Callable[..., Any]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, in the folder of the test."""

    def called(*arguments: str) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["eval.grade", *arguments])
        code: Any = 0
        try:
            run_function(regrade, "limo grade", "")
        except SystemExit as ended:
            code = ended.code
        return Done(int(code or 0), *capsys.readouterr())

    return called


@pytest.fixture
def completions(tmp_path: Path) -> Path:
    rows = [
        {"code": ["so \\boxed{5}", "so \\boxed{6}"], "gt": "5", "inner": {"score": [True, True]}},
        {"code": ["The answer is 1/2", "I give up"], "gt": "0.5", "inner": {"score": [0, "wrong"]}},
        {"code": ["\\boxed{5}"], "gt": "\\oint_C f", "inner": {"score": ["incorrect"]}},
        {"gt": "5", "inner": {"score": [True]}},
        {"code": ["\\boxed{5}"], "gt": "5", "inner": {"score": ["perhaps"]}},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    return file


def test_grades_reasons_and_disagreement(completions: Path, run: Run) -> None:
    done = run("mine.jsonl", "--fields", "completion=code,answer=gt", "--disagree", "inner.score")
    assert done.returncode == 0, done.stderr
    assert "correct 2 (40.0 %), wrong 2 (40.0 %), unsure 1 (20.0 %)" in done.stdout
    assert "agreement with 'inner.score': 60.00 %; 1 correct here and wrong there, 1 the other way" in done.stdout
    assert "3 rows dropped (missing field: 1, no verdict: 1, invalid JSON: 1): mine.dropped.jsonl" in done.stdout
    graded = [json.loads(line) for line in (completions.parent / "mine.graded.jsonl").read_text().splitlines()]
    assert [(g["row"], g["index"], g["verdict"], g["extracted"]) for g in graded] == [
        (1, 0, "correct", "5"),
        (1, 1, "wrong", "6"),
        (2, 0, "correct", "1/2"),
        (2, 1, "wrong", None),
        (3, 0, "unsure", "5"),
    ]
    dropped = [json.loads(line) for line in (completions.parent / "mine.dropped.jsonl").read_text().splitlines()]
    assert [d["row"] for d in dropped] == [4, 5, 6] and dropped[2]["data"] == "{broken"
    completions.write_text(json.dumps({"code": "The answer is 5", "gt": 5}) + "\n")
    again = run("mine.jsonl", "--fields", "completion=code,answer=gt")
    assert "correct 1" in again.stdout and not (completions.parent / "mine.dropped.jsonl").exists()


def test_the_output_of_an_evaluation_can_be_graded_again(tmp_path: Path, run: Run) -> None:
    row = {"answer": "5", "completions": [{"text": "\\boxed{5}", "finish": "length"}, {"text": "no", "finish": "stop"}]}
    (tmp_path / "old.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"answer": ["1", "2"], "completion": None}))
    assert "correct 1" in run("old.jsonl").stdout
    graded = [json.loads(line) for line in (tmp_path / "old.graded.jsonl").read_text().splitlines()]
    assert [(g["verdict"], g["cut_off"]) for g in graded] == [("correct", True), ("wrong", False), ("wrong", False)]
    assert graded[2]["answer"] == "1, 2" and graded[2]["how"] == "no answer found"


def test_graded_files_keep_ids_and_can_be_compared(tmp_path: Path, run: Run) -> None:
    for name, texts in (("a", ["5", "6", "7"]), ("b", ["5", "7", "7"])):
        rows = [{"unique_id": f"p{i}", "answer": "7", "completion": f"\\boxed{{{t}}}"} for i, t in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert run(f"{name}.jsonl").returncode == 0
    graded = [json.loads(line) for line in (tmp_path / "a.graded.jsonl").read_text().splitlines()]
    assert [(g["id"], g["parsed"], g["rule"]) for g in graded] == [
        ("p0", "5", "box"),
        ("p1", "6", "box"),
        ("p2", "7", "box"),
    ]
    found = compare_runs(a=str(tmp_path / "a.graded.jsonl"), b=str(tmp_path / "b.graded.jsonl"))["graded"]
    assert (found["gained"], found["lost"], found["n"]) == (["p1"], [], 3)


def test_references_that_are_none_are_hinted_at(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"solution": "so 18", "answer": "16 - 3 = 13 eggs, so 13\\oint A: 18"})
    )
    shown = run("a.jsonl").stdout
    assert "ends with" in shown and "the right column" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing.jsonl",), "no such file or folder 'nothing.jsonl'"),
        (("mine.jsonl", "--fields", "answer=x"), "the first: row 1: missing field"),
        (("mine.jsonl", "--fields", "code=completion"), "--fields must read completion=COLUMN,answer=COLUMN"),
        (("mine.jsonl", "--fields", "completion=cod"), "no completion in 'cod'; the columns are code, gt, inner"),
        (("mine.jsonl", "--fields", "completion=code,answer=gt", "out=mine.jsonl"), "is the file that is graded"),
        (("mine.jsonl", "--fields", "completion=code,answer=gt", "--out", "."), "'.' is a folder: name a file"),
        (
            ("mine.jsonl", "--fields", "completion=code,answer=gt", "--disagree", "scor"),
            "no column 'scor'; the columns are",
        ),
    ],
)
def test_what_a_person_gets_wrong_is_one_line(
    completions: Path, run: Run, arguments: tuple[str, ...], said: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1


def test_a_reference_may_be_a_worked_solution(tmp_path: Path, run: Run) -> None:
    """GSM8K's column of answers as it is published."""
    (tmp_path / "a.json").write_text(json.dumps([{"solution": "so 18", "answer": "16 - 3 = <<16-3=13>>13\n#### 18"}]))
    assert "correct 1 (100.0 %)" in run("a.json").stdout


def test_the_command_as_a_process(completions: Path) -> None:
    call = [sys.executable, "-m", "eval.grade", str(completions), "--fields", "completion=cod"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
