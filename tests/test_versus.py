"""`python -m eval.compare` and the choice of a checkpoint: on runs made by hand, and one made by the commands."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.compare import compare_runs, sentence, sentences
from eval.intervals import detectable_difference
from eval.pick import drop_test_problems, find_checkpoints
from eval.run import Task
from limo.data import Example, chat
from limo.engines.protocol import Sampling
from limo.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]


def evaluated(run: Path, model: str, verdicts: str, benchmark: str = "set", question: str = "q") -> None:
    """A run whose completions are right (1), wrong (0) or unsure (?)."""
    folder = run / "eval" / model
    folder.mkdir(parents=True, exist_ok=True)
    names = {"1": "correct", "0": "wrong", "?": "unsure"}
    rows = [
        {
            "id": f"p{i}",
            "question": f"{question}{i}",
            "answer": "5",
            "notes": {},
            "completions": [
                {"verdict": names[v], "finish": "stop", "extracted": "5", "how": "", "text": "", "tokens": 1}
            ],
        }
        for i, v in enumerate(verdicts)
    ]
    (folder / f"{benchmark}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def compared(a: str, b: str, **more: Any) -> dict[str, Any]:
    return compare_runs(a=a, b=b, **more)


def test_the_difference_and_who_flipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(tmp_path / "a", "base", "1100000000" * 4)
    evaluated(tmp_path / "b", "tuned", "101111000?" * 4)
    out = tmp_path / "all.json"
    found = compared(str(tmp_path / "a"), str(tmp_path / "b"), out=str(out))["set"]
    assert (found["a"], found["b"]) == (pytest.approx(0.2), pytest.approx(0.5))
    assert len(found["gained"]) == 16 and len(found["lost"]) == 4 and found["unsure"] == [0, 4]
    said = capsys.readouterr().out
    assert "a = a:base, b = b:tuned" in said and "+30.0" in said and "+16 -4" in said
    assert "unsure 0 and 4" in said and "and 6 more" in said and "p2  q2" in said
    assert len(json.loads(out.read_text())["benchmarks"]["set"]["gained"]) == 16


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    evaluated(tmp_path / "a", "base", "1100")
    evaluated(tmp_path / "a", "tuned", "1100")
    evaluated(tmp_path / "b", "base", "110")
    evaluated(tmp_path / "c", "base", "11", benchmark="other")
    evaluated(tmp_path / "d", "base", "1100", question="another ")
    a, b, c, d = (str(tmp_path / name) for name in "abcd")
    for left, right, said in (
        (a, b, "has the models base, tuned: name one"),
        (f"{a}:bas", b, "no model 'bas'; did you mean 'base'"),
        (str(tmp_path), b, "is not an evaluated run"),
        (b, b, "the same model of the same run"),
        (b, c, "share no benchmark: set and other"),
        (f"{a}:base", b, r"the problems differ \(4 and 3, 3 the same\)"),
        (f"{a}:base", d, r"\(4 and 4, 0 the same\)"),
    ):
        with pytest.raises(UserError, match=said):
            compared(left, right)
    with pytest.raises(UserError, match="'sets' is not a benchmark of both"):
        compared(f"{a}:base", f"{a}:tuned", benchmark=["sets"])


def test_the_smallest_difference_that_would_have_shown() -> None:
    # 10 gained, 0 lost of 100: variance (11 - 10^2/102)/102 ... by the formula 2.8016 sqrt((11/102 - (10/102)^2)/102)
    d = np.array([1.0] * 10 + [0.0] * 90)
    assert detectable_difference(d) == pytest.approx(2.801585 * ((11 / 102 - (10 / 102) ** 2) / 102) ** 0.5)
    random, shown = np.random.default_rng(0), 0
    true = 0.12
    for _ in range(300):  # the promise: with this true difference, four runs in five have an interval above zero
        flips = random.choice([1.0, -1.0, 0.0], size=250, p=[0.25 + true / 2, 0.25 - true / 2, 0.5])
        shown += flips.mean() - 1.96 * flips.std() / 250**0.5 > 0
    needed = detectable_difference(random.choice([1.0, -1.0, 0.0], size=250, p=[0.31, 0.19, 0.5]))
    assert abs(needed - true) < 0.02 and 0.7 < shown / 300 < 0.9


def test_dev_problems_are_kept_apart_from_test_problems(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Example(str(i), chat(f"What is {i}?"), str(i)) for i in range(10)]

    def dev(end: int) -> list[Task]:
        return [Task("dev", {}, rows[:end], Sampling(1, 0.0, 1.0, 8, 0), {})]

    assert [r.id for r in drop_test_problems(dev(5), {"test": rows[4:]})[0].rows] == ["0", "1", "2", "3"]
    assert "1 of 5 dev problems are test problems" in capsys.readouterr().err
    with pytest.raises(UserError, match="4 of the 5 dev problems are test problems"):
        drop_test_problems(dev(5), {"test": rows[1:]})
    with pytest.raises(UserError, match="no problem to choose on"):
        drop_test_problems(dev(0), {})


def test_no_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="keep_checkpoints=true"):
        find_checkpoints(tmp_path)


def test_training_that_made_the_student_worse_is_said_first() -> None:
    d = {"benchmark": "new", "after": "chosen", "n": 100, "trainings": [1, 1], "p": 0.001, "gained": [], "lost": []}
    choice = {**d, "before": "random", "mean": 0.22, "low": 0.1, "high": 0.3}
    worse = {**d, "before": "base", "mean": -0.53, "low": -0.6, "high": -0.4}
    tokens = {"base": {"new": {"tokens_per_answer": 271.0}}, "chosen": {"new": {"tokens_per_answer": 200.0}}}
    summary = {"differences": [choice, worse], "accuracy": tokens}
    first, *rest = sentences(summary)
    assert (
        first.startswith("new: training made the student worse, by 53.0 points")
        and "tokens" not in first
        and rest
        == [
            sentence(choice),
            sentence(worse),
        ]
    )
    for level in ({**worse, "mean": 0.53, "low": 0.4, "high": 0.6}, {**worse, "high": 0.01, "p": 0.2}):
        assert sentences({**summary, "differences": [choice, level]}) == [sentence(choice), sentence(level)]
    tokens["chosen"]["new"]["tokens_per_answer"] = 94.0
    assert "Its answers have 94 tokens instead of 271" in sentences(summary)[0]
