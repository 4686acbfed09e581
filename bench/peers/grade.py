"""How fast and how right the grader is, beside Math-Verify called directly, on the same completions.

    LIMO_DATA=... python -m bench.peers.grade

Reads the two files of labelled model completions in $LIMO_DATA/samples and `tests/grade_cases.jsonl`. Prints, for each
grader and set: answers per second of processor time (caches empty at the start, the median of five passes), agreement
with the labels, and the two kinds of error; then what hostile answers cost.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from eval.grade import grade
from eval.grader import grade as grading
from eval.grader import reader

PASSES = 5
HERE = Path(__file__).resolve().parents[2]
Case = tuple[str, str, bool]  # completion, reference, label


def math_cot(folder: Path) -> list[Case]:
    """Eight chains for each of 100 MATH problems, labelled by the evaluation they were published with."""
    rows = [json.loads(line) for line in (folder / "math_cot_100.jsonl").read_text().splitlines()]
    return [(c, r["gt"], bool(s)) for r in rows for c, s in zip(r["code"], r["score"], strict=True)]


def gsm8k(folder: Path) -> list[Case]:
    """Solutions of four models for the GSM8K test problems, labelled by their authors."""
    cases = []
    for line in (folder / "gsm8k_model_solutions.jsonl").read_text().splitlines():
        row = json.loads(line)
        answer = row["ground_truth"].rpartition("A:")[2].strip()
        cases += [
            (m["solution"], answer, m["is_correct"]) for m in row.values() if isinstance(m, dict) and "is_correct" in m
        ]
    return cases


def own_cases() -> list[Case]:
    """The cases that the project's tests hold the grader to."""
    rows = [json.loads(line) for line in (HERE / "tests" / "grade_cases.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "as" not in row]  # of another convention
    boxed = [r["completion"] if "completion" in r else f"\\boxed{{{r['given']}}}" for r in rows]
    return [(text, r["answer"], r["verdict"] == "correct") for text, r in zip(boxed, rows, strict=True)]


def ours(completion: str, answer: str) -> bool:
    """Whether our grader accepts."""
    return grade(completion, answer).verdict == "correct"


def math_verify(completion: str, answer: str) -> bool:
    """Whether Math-Verify accepts, called as its documentation shows."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${answer}$"), parse(completion)))


def forget() -> None:
    """Empty our grader's caches."""
    for cached in (grading._equal, grading._read, reader.normalise, reader.is_readable):
        cached.cache_clear()


def cpu_seconds() -> float:
    """Processor time of this process, finely, and of its children that have ended."""
    return time.process_time() + sum(os.times()[2:4])


def measured(accepts: Callable[[str, str], bool], cases: list[Case], passes: int) -> tuple[float, list[bool]]:
    """Answers per second of processor time, children included, and the verdicts."""
    rates, verdicts = [], list[bool]()
    for _ in range(passes):
        forget()
        start = cpu_seconds()
        verdicts = [accepts(c, a) for c, a, _ in cases]
        rates.append(len(cases) / (cpu_seconds() - start))
    return statistics.median(rates), verdicts


def line(name: str, who: str, ratio: float, cases: list[Case], rate: float, verdicts: list[bool]) -> str:
    """One row of the table."""
    labels = [label for _, _, label in cases]
    right = sum(v == y for v, y in zip(verdicts, labels, strict=True))
    accepted = sum(v and not y for v, y in zip(verdicts, labels, strict=True))
    missed = sum(y and not v for v, y in zip(verdicts, labels, strict=True))
    share = 100 * right / len(cases)
    return f"{name:<28}{who:<13}{ratio:>7.2f} x{len(cases):>7}{rate:>13,.0f}{share:>12.2f}{accepted:>15}{missed:>9}"


HOSTILE = {
    "tower of exponents": "9^{9^{9^{9^9}}}",
    "factorial of a power": "10^{10^{10}}!",
    "factorials": "((((9!)!)!)!)!",
    "5,000 open fractions": "\\frac{" * 5000,
    "100 kB of braces": "{" * 100_000,
    "nested parentheses": "(" * 900 + "1" + ")" * 900,
    "100,000 digits": "1" * 100_000,
    "null bytes": "\x00" * 1000 + "5",
    "right-to-left mark": "\u202e5",
    "Arabic digits": "\u0663\u0664",
    "code": "__import__('os').system('touch planted')",
    "endless integral": "\\int_0^\\infty e^{-x^{99}}dx",
    "endless sum": "\\sum_{n=1}^{10^{12}} n",
    "roots of roots": "\\sqrt" * 1000,
    "50,000 commas": "," * 50_000,
    "1,000 members": ",".join(f"x^{i}" for i in range(500)),
    "2,000 boxes": "\\boxed{" * 2000,
    "long polynomial": "+".join(f"x^{{{i}}}" for i in range(200)),
    "1,900 signs": "-" * 1900 + "5",
    "sine of a huge angle": "\\sin(10^{10^{9}})",
    "repeating digits": "0." + "12" * 900 + "...",
    "binomial": "\\binom{10^9}{10^8}",
    "300 intervals": "(1,2)," * 300,
    "a long progression": "1,2,\\ldots,100000000",
    "1,900 spaces": " " * 1900 + "5 6",
}


def hostile() -> None:
    """The longest time for each answer of an adversary, against several references."""
    references = ("\\sqrt{5}", "7", "(1,2)", "x^2+1", "\\frac{\\pi}{3}", "\\int_0^1 x\\,dx", ",".join(["x"] * 300))
    print("\nhostile answer            slowest s   verdicts")
    for name, text in HOSTILE.items():
        slowest, verdicts = 0.0, list[str]()
        for answer in references:
            for completion in (f"\\boxed{{{text}}}", text):
                forget()
                start = time.perf_counter()
                verdicts.append(grade(completion, answer).verdict)
                slowest = max(slowest, time.perf_counter() - start)
        print(f"{name:<26}{slowest:>9.2f}   {', '.join(sorted(set(verdicts)))}")


def main() -> None:
    """Print everything."""
    folder = os.environ.get("LIMO_DATA")
    if not folder:
        sys.exit("error: set LIMO_DATA to the folder with the labelled samples")
    sets = {
        "MATH chains (100 x 8)": math_cot(Path(folder) / "samples"),
        "GSM8K solutions (1319 x 4)": gsm8k(Path(folder) / "samples"),
        "our cases": own_cases(),
    }
    head = f"{'set':<28}{'grader':<13}{'ours is':>9}{'n':>7}{'per cpu-s':>13}{'agreement %':>12}"
    print(f"{head}{'false accepts':>15}{'misses':>9}")
    for name, cases in sets.items():
        fastest = 0.0
        for who, accepts in (("ours", ours), ("math-verify", math_verify)):
            rate, verdicts = measured(accepts, cases, PASSES)
            fastest = fastest or rate
            print(line(name, who, fastest / rate, cases, rate, verdicts), flush=True)
    hostile()


if __name__ == "__main__":
    main()
