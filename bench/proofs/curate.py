"""How fast the stages are that sample nothing, and how much memory they take.

    python -m bench.proofs.curate 10000 100000 1000000
    python -m bench.proofs.curate 1000000 --ray            # on=ray: two Ray workers of this machine

The pool is made up: problems of about 250 characters over a vocabulary of 20,000 words, chains of about 1 kB. Of the
problems 5 % are copies in other LaTeX and 1 % exact doubles; 1 % are problems of the benchmark. Memory is that of the
whole process tree (resident sets summed, so what processes share counts twice), looked at five times a second.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOCABULARY, BENCHMARK = 20_000, 500
LOGIC = ("therefore", "since", "so", "perhaps", "check", "then", "because", "wait", "thus", "verify")


def problem(draw: random.Random, words: list[str]) -> str:
    """A text of about 250 characters with formulas and numbers in it."""
    sentences = []
    for _ in range(3):
        said = " ".join(draw.choices(words, k=draw.randint(6, 10))).capitalize()
        a, b, n = draw.randint(2, 99), draw.randint(2, 9999), draw.randint(2, 9)
        sentences.append(f"{said} $\\frac{{{n}}}{{{a % 7 + 2}}}x + {b} \\le y^{n}$.")
    return " ".join(sentences) + " What is $x$?"


def chain(draw: random.Random, words: list[str]) -> str:
    """A text of about 1 kB that ends in a box."""
    lines = []
    while sum(map(len, lines)) < 950:
        said = " ".join(draw.choices(words, k=12))
        lines.append(f"{draw.choice(LOGIC).capitalize()}, {said}: {draw.randint(1, 999)} + {draw.randint(1, 999)}.")
    return "\n".join(lines) + "\nThe answer is \\boxed{7}."


def rows(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a pool; `kind` says what was planted."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("aeioubcdfglmnprst", k=draw.randint(3, 9))) for _ in range(VOCABULARY)]
    held = [problem(draw, words) for _ in range(BENCHMARK)]
    before: list[str] = []
    for number in range(count):
        kind, lot = "new", draw.random()
        text = problem(draw, words)
        if lot < 0.05 and before:
            kind, text = (
                "copy",
                draw.choice(before).replace("\\frac", "\\dfrac").replace("$", "").replace("\\le", "\\leq"),
            )
        elif lot < 0.06 and before:
            kind, text = "double", draw.choice(before)
        elif lot < 0.07 and before:
            kind, text = "variant", renumbered(draw.choice(before), draw)
        elif lot < 0.08:
            kind, text = "benchmark", "Here is one more. " + draw.choice(held)
        elif len(before) < 10_000:
            before.append(text)
        yield {"id": str(number), "problem": text, "solution": chain(draw, words), "answer": "7", "kind": kind}


def renumbered(text: str, draw: random.Random) -> str:
    """The same with its first large number changed."""
    return " ".join(str(int(w) + draw.randint(1, 9)) if w.isdigit() else w for w in text.split(" "))


def write_pool(folder: Path, count: int) -> None:
    """`pool.jsonl` and `bench.jsonl`."""
    draw = random.Random(0)
    words = ["".join(draw.choices("aeioubcdfglmnprst", k=draw.randint(3, 9))) for _ in range(VOCABULARY)]
    with (folder / "bench.jsonl").open("w") as file:
        file.writelines(json.dumps({"problem": problem(draw, words), "answer": "7"}) + "\n" for _ in range(BENCHMARK))
    with (folder / "pool.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))


def settings(folder: Path) -> dict[str, Any]:
    """The recipe: every stage that samples nothing."""
    weights = {"length": 0.30, "verification": 0.20, "exploration": 0.25, "connectives": 0.25}
    return {
        "out": str(folder / "run"),
        "system": "",
        "pool": {"made": {"_target_": "limo.sources.file", "path": str(folder / "pool.jsonl")}},
        "stages": {
            "exact_dedup": {"_target_": "curation.stages.dedup.exact_dedup"},
            "near_dedup": {"_target_": "curation.stages.dedup.near_dedup"},
            "decontaminate": {
                "_target_": "curation.stages.decontaminate.decontaminate",
                "benchmarks": [str(folder / "bench.jsonl")],
                "variants": "drop",
            },
            "score": {
                "_target_": "curation.stages.score.score",
                "weights": weights,
                "words": ["en"],
                "scaling": "rank",
            },
            "choose": {"_target_": "curation.stages.choose.problems", "k": 800, "by": "score", "seed": 0},
        },
        "pairs": None,
    }


def curate_here(folder: Path, on_ray: bool) -> None:
    """Run the stages in this process."""
    from curation.evidence.controls import Controls
    from curation.run import Limits, curate

    on = {"_target_": "curation.runner.RayData", "parts": 16, "address": None} if on_ray else None
    curate(**settings(folder), controls=Controls("choose", ["random"], 0), budget=Limits(None, None), on=on)


def stages(count: int, on_ray: bool) -> None:
    """Run the stages over `count` rows in a process of their own and print rows/s and memory of each."""
    folder = Path(tempfile.mkdtemp(prefix="limo-bench-"))
    try:
        write_pool(folder, count)
        size = (folder / "pool.jsonl").stat().st_size / 1e9
        start = time.monotonic()
        command = [sys.executable, __file__, "--curate", str(folder), *(["--ray"] if on_ray else [])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peaks = watched(process, folder / "run" / "stages")
        took = time.monotonic() - start
        if process.returncode:
            sys.exit("curate failed")
        funnel = json.loads((folder / "run" / "manifest.json").read_text())["curate"]["results"]["funnel"]
        print(f"\n{count:,} rows, {size:.2f} GB: {took:.0f} s together, {max(peaks):,.0f} MB at most")
        print(f"{'stage':<16} {'in':>10} {'out':>10} {'seconds':>8} {'rows/s':>10} {'MB':>7}  dropped")
        for number, line in enumerate(funnel):
            rate = line["in"] / max(line["seconds"], 1e-9)
            left = ", ".join(f"{reason}: {n:,}" for reason, n in line["reasons"].items())
            peak = peaks[number] if number < len(peaks) else 0
            print(f"{line['stage']:<16} {line['in']:>10,} {line['out']:>10,} {line['seconds']:>8.1f} {rate:>10,.0f} "
                  f"{peak:>7,.0f}  {left}")  # fmt: skip
    finally:
        shutil.rmtree(folder)


def watched(process: "subprocess.Popen[bytes]", done: Path) -> list[float]:
    """Peak memory in MB of a process and its children, by the number of stages that are done."""
    import psutil

    peaks = [0.0]
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        number = len(list(done.glob("*.done.json"))) if done.exists() else 0
        peaks += [0.0] * (number + 1 - len(peaks))
        try:
            used = sum(p.memory_info().rss for p in [tree, *tree.children(recursive=True)]) / 1e6
        except psutil.Error:
            continue
        peaks[number] = max(peaks[number], used)
        time.sleep(0.2)
    return peaks


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, help="rows of the pools")
    parser.add_argument("--ray", action="store_true", help="row-wise stages on Ray Data, two workers of this machine")
    parser.add_argument("--curate", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.curate:
        curate_here(args.curate, args.ray)
    else:
        for count in args.counts:
            stages(count, args.ray)


if __name__ == "__main__":
    main()
