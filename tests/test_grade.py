"""The grader: what is equal, what is not, what cannot be told; and that nothing hangs, crashes or runs."""

import json
import time
from pathlib import Path

import pytest

from eval.grade import equal, extract, grade

EQUAL = [  # given, reference, verdict
    ("\\frac{1}{2}", "0.5", "correct"),
    ("0.333", "\\frac13", "wrong"),
    ("1,234", "1234", "correct"),
    ("12,34", "1234", "wrong"),
    ("10{,}000", "10000", "correct"),
    ("1e5", "100000", "correct"),
    ("9999", "10000", "wrong"),
    ("0.1234567", "0.1234568", "wrong"),
    ("11\\frac{1}{2}", "11.5", "correct"),
    ("\\frac{3}{56}", "\\dfrac{3}{56}", "correct"),
    ("½", "0.5", "correct"),
    ("-\\frac{1}{2}", "\\frac{-1}{2}", "correct"),
    # percent and units only where the reference has them
    ("50\\%", "50\\%", "correct"),
    ("0.5", "50\\%", "correct"),
    ("50", "50\\%", "wrong"),
    ("50\\%", "50", "correct"),  # "what percent", asks the problem
    ("50\\%", "5", "wrong"),
    ("2500", "25", "wrong"),
    ("0.25", "25", "wrong"),
    ("5\\text{ cm}", "5", "correct"),
    ("18 dollars", "18", "correct"),
    ("\\$18", "18", "correct"),
    ("90", "90^\\circ", "correct"),
    # order, brackets, number of parts
    ("(1,2)", "(2,1)", "wrong"),
    ("\\{1,2\\}", "\\{2,1\\}", "correct"),
    ("1, 2", "2,1", "correct"),
    ("[0,1)", "[0,1]", "wrong"),
    ("33, 34", "33", "wrong"),
    ("5 or 6", "5", "wrong"),
    ("5", "5,6", "wrong"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)", "correct"),
    # symbols
    ("2\\sqrt{3}", "\\sqrt{12}", "correct"),
    ("x^2+2x+1", "(x+1)^2", "correct"),
    ("x^2+2x+2", "(x+1)^2", "wrong"),
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", "correct"),
    ("x=5", "5", "correct"),
    ("a+b=5", "5", "wrong"),
    # words and letters
    ("east", "\\text{east}", "correct"),
    ("\\text{west}", "\\text{east}", "wrong"),
    ("", "\\text{east}", "wrong"),
    ("A", "(A)", "correct"),
    ("(B)", "A", "wrong"),
    ("Evelyn", "\\text{Evelyn}", "correct"),
    ("0", "6.6e-27", "wrong"),
    # what once was accepted, and must not be
    ("2 x", "2", "wrong"),
    ("5 i", "5", "wrong"),
    ("5 million", "5", "wrong"),
    ("5 \\text{ thousand}", "5", "wrong"),
    ("50 percent", "0.05", "wrong"),
    ("50 percent", "50\\%", "correct"),
    ("5\\text{ is wrong; the answer is 7}", "5", "wrong"),
    ("5 \\text{ (or maybe 6)}", "5", "wrong"),
    ("A, B, C, D", "A", "wrong"),
    ("A or B", "A", "wrong"),
    ("A: 12 apples", "A", "correct"),
    ("10 \\text{ AM}", "10 \\text{ PM}", "wrong"),
    ("5 \\text{ cm}", "5 \\text{ m}", "wrong"),
    ("5", "5 \\text{ m}", "wrong"),
    ("5 \\text{ meters}", "5 \\text{ meter}", "correct"),
    ("on", "no", "wrong"),
    ("3.14159265358979", "\\pi", "wrong"),
    ("2", "\\sqrt{4}", "correct"),
    ("0.5", "\\cos(\\frac{\\pi}{3})", "correct"),
    ("e5", "5", "wrong"),
    ("5" + "%" * 1500, "5", "wrong"),
    ("2+3=5", "5", "correct"),
]


@pytest.mark.parametrize(("given", "reference", "verdict"), EQUAL)
def test_equal(given: str, reference: str, verdict: str) -> None:
    assert equal(given, reference)[0] == verdict, equal(given, reference)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The answer is 5.", "5"),
        ("so 12 + 3 = 15", "15"),
        ("chain\n#### 72", "72"),
        (r"it is $\boxed{\frac12}$", r"\frac12"),
        ("The answer is: **12 dollars**.", "12 dollars"),
        ("20 - 56 - 31 = 25.", "25"),
        ("<think> so 5", None),
        ("<think> 7 </think> The answer is 5.", "5"),
        ("<answer> 2 </answer>", "2"),
        ("total of 1,200 meters", "1,200"),
        ("it is -67", "-67"),
        ("", None),
        ("no idea", None),
        (r"\boxed{}", None),
        ("The answer is 1.5.", "1.5"),
    ],
)
def test_extract(text: str, found: str | None) -> None:
    assert extract(text) == found


def test_a_long_unfinished_thought_is_no_answer() -> None:
    assert grade("<think>" + "x " * 11_000 + " 5", "5").how == "no answer found"
    assert grade("<think>" + "x " * 11_000 + "</think> 5", "5").verdict == "correct"


def test_what_the_grader_cannot_tell_is_said() -> None:
    assert grade("The answer is 5", "").verdict == "unsure"
    assert grade("nothing here", "5").how == "no answer found"


HOSTILE = [
    "9^{9^{9^{9^9}}}",
    "10^{10^{10}}!",
    "\\frac{" * 5000,
    "{" * 100_000,
    "(" * 3000 + "1" + ")" * 3000,
    "1" * 100_000,
    "\x00" * 1000,
    "\u202e5",
    "٣",
    "__import__('os').system('touch planted')",
    "\\int_0^\\infty e^{-x^{99}}dx",
    "\\sqrt" * 1000,
    "," * 50_000,
    "$" * 5000,
    "\\boxed{" * 2000,
    "x" + "+x" * 900,
    "\\sum_{n=1}^{10^{12}} n",
    "-" * 1900 + "5",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_get_a_verdict_soon(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    equal("\\sqrt{2}", "\\sqrt{3}")  # the worker is up
    start = time.monotonic()
    verdict = grade(f"\\boxed{{{text}}}", "\\sqrt{5}").verdict
    assert verdict in ("wrong", "unsure")
    assert grade(text, "7").verdict in ("wrong", "unsure")
    assert time.monotonic() - start < 10, "each verdict must come within about a second, on a busy machine too"
    assert not (tmp_path / "planted").exists()


def test_the_labels_of_real_solutions(data: Path) -> None:
    """GSM8K's published solutions of four models: all 5,276 labels, from a grader that never saw them."""
    differ, labels = [], 0
    for line in (data / "samples" / "gsm8k_model_solutions.jsonl").read_text().splitlines():
        row = json.loads(line)
        answer = row["ground_truth"].rpartition("A:")[2].strip()
        for model in row.values():
            if isinstance(model, dict) and "is_correct" in model:
                labels += 1
                verdict = grade(model["solution"], answer).verdict
                if (verdict == "correct") != model["is_correct"]:
                    differ.append((model["solution"][-80:], answer, verdict))
    assert not differ
    assert labels == 5276
