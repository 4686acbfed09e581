"""How fast the stages are that sample nothing, how much memory they take, and near deduplication beside other tools.

    python bench/curate.py 10000 100000 1000000
    python bench/curate.py --near 20000 --python /path/to/python   # an interpreter with datasketch and datatrove

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
            "near_dedup": {"_target_": "curation.stages.dedup.near_dedup", "variants": 20},
            "decontaminate": {
                "_target_": "curation.stages.decontaminate.decontaminate",
                "benchmarks": [str(folder / "bench.jsonl")],
                "rule": "latex",
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


def curate_here(folder: Path) -> None:
    """Run the stages in this process."""
    from curation.controls import Controls
    from curation.run import Limits, curate

    curate(**settings(folder), controls=Controls("choose", ["random"], 0), budget=Limits(None, None))


def stages(count: int) -> None:
    """Run the stages over `count` rows in a process of their own and print rows/s and memory of each."""
    folder = Path(tempfile.mkdtemp(prefix="limo-bench-"))
    try:
        write_pool(folder, count)
        size = (folder / "pool.jsonl").stat().st_size / 1e9
        start = time.monotonic()
        command = [sys.executable, __file__, "--curate", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peaks = watched(process, folder / "run" / "stages")
        took = time.monotonic() - start
        if process.returncode:
            sys.exit("curate failed")
        funnel = json.loads((folder / "run" / "manifest.json").read_text())["curate"]["results"]["funnel"]
        print(f"\n{count:,} rows, {size:.2f} GB: {took:.0f} s together, {max(peaks):,.0f} MB at most")
        print(f"{'stage':<16} {'in':>10} {'out':>10} {'seconds':>8} {'rows/s':>10} {'MB':>7}  set aside")
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


def near_ours(texts: list[str]) -> set[int]:
    """The positions that our stage drops."""
    from curation.stages.dedup import near_dedup
    from limo.data import Dropped, Example, chat

    made = [Example(str(i), chat(text), "7") for i, text in enumerate(texts)]
    return {int(row.id) for row in near_dedup(made, variants=None) if isinstance(row, Dropped)}


def near_datasketch(texts: list[str]) -> set[int]:
    """As its documentation has it: words, runs of three, 128 permutations, threshold 0.6."""
    from datasketch import MinHash, MinHashLSH

    lsh, dropped = MinHashLSH(threshold=0.6, num_perm=128), set()
    for i, text in enumerate(texts):
        words = text.lower().split()
        sketch = MinHash(num_perm=128)
        sketch.update_batch([" ".join(words[j : j + 3]).encode() for j in range(max(1, len(words) - 2))])
        if lsh.query(sketch):
            dropped.add(i)
        else:
            lsh.insert(str(i), sketch)
    return dropped


def near_datatrove(texts: list[str]) -> set[int]:
    """Its four MinHash steps with their defaults (runs of five words, 14 buckets of 8 hashes), one task."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    folder = tempfile.mkdtemp(prefix="limo-bench-")
    config = MinhashConfig()
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    MinhashDedupSignature(output_folder=f"{folder}/sig", config=config, language="en").run(iter(documents), 0, 1)
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(input_folder=f"{folder}/sig", output_folder=f"{folder}/buckets", config=config).run(
            None, bucket, config.num_buckets
        )
    MinhashDedupCluster(input_folder=f"{folder}/buckets", output_folder=f"{folder}/remove", config=config).run(
        None, 0, 1
    )
    kept = {d.id for d in MinhashDedupFilter(input_folder=f"{folder}/remove").run(iter(documents), 0, 1)}
    shutil.rmtree(folder)
    return {i for i in range(len(texts)) if str(i) not in kept}


TOOLS = {"ours": near_ours, "datasketch": near_datasketch, "datatrove": near_datatrove}


def near_here(tool: str, count: int) -> None:
    """Deduplicate in this process and print what was found, as JSON."""
    made = list(rows(count))
    start = time.monotonic()
    dropped = TOOLS[tool]([row["problem"] for row in made])
    took = time.monotonic() - start
    share = {}
    for kind in ("copy", "double", "variant", "new"):
        of = [i for i, row in enumerate(made) if row["kind"] == kind]
        share[kind] = 100 * sum(i in dropped for i in of) / max(len(of), 1)
    print(json.dumps({"rate": count / took, **share}))


def near_table(count: int, python: str | None, rounds: int) -> None:
    """Each tool in a process of its own, several times; medians."""
    print(f"near duplicates of {count:,} problems: % dropped of what was planted, medians of {rounds}")
    print(f"{'tool':<12} {'ours is':>9} {'rows/s':>9}{'copies':>9}{'doubles':>9}{'variants':>9}{'new':>9}")
    rate = 0.0  # of ours, which comes first
    for tool in TOOLS:
        interpreter = sys.executable if tool == "ours" else python
        if interpreter is None:
            continue
        found = []
        for _ in range(rounds):
            done = subprocess.run([interpreter, __file__, "--tool", tool, str(count)], capture_output=True, text=True)
            if done.returncode:
                print(f"{tool:<12} failed: {done.stderr.strip().splitlines()[-1]}")
                break
            found.append(json.loads(done.stdout.strip().splitlines()[-1]))
        else:
            median = sorted(found, key=lambda f: f["rate"])[rounds // 2]
            rate = rate or median["rate"]
            share = [f"{median[kind]:>9.1f}" for kind in ("copy", "double", "variant", "new")]
            print(f"{tool:<12} {rate / median['rate']:>7.2f} x {median['rate']:>9,.0f}{''.join(share)}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="*", type=int, help="rows of the pools")
    parser.add_argument("--near", type=int, metavar="N", help="compare near deduplication on N problems")
    parser.add_argument("--rounds", type=int, default=3, help="of that comparison")
    parser.add_argument("--python", help="an interpreter that has datasketch and datatrove[processing]")
    parser.add_argument("--curate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.curate:
        curate_here(args.curate)
    elif args.tool:
        near_here(args.tool, args.counts[0])
    else:
        for count in args.counts:
            stages(count)
        if args.near:
            near_table(args.near, args.python, args.rounds)


if __name__ == "__main__":
    main()
