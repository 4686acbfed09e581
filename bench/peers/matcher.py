"""Does the matcher find duplicates and leaks in disguise, and does it leave other problems alone? Beside other tools.

    python -m bench.peers.matcher --pool math_train.json --benchmark math500.json --marked aime_1983_2023.json --show 5
    python -m bench.peers.matcher ... --unseen --python /path/to/python   # with rensa, datasketch and datatrove

Problems are planted in the disguises of `tests/disguises.py`. Near duplicates: 300 of 3,000 problems of the pool, with
their answers; the share that is dropped, also of other problems (renumbered ones) and of the pool as it is. Leaks: all
problems of the benchmark; the share that is found by any verdict, and how many rows of `--marked` are marked, which a
person has to read (`--show`). Shares have a 95 % Wilson interval; speeds are rows a second of CPU time in one process.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.data import strangers
from tests.disguises import OTHER, SEEN, UNSEEN, Disguise
from tests.leak_rules import rules

PLANTED, OF = 300, 3000


def drop_ours(problems: list[tuple[str, str]]) -> set[int]:
    """The positions that near_dedup drops."""
    from curation.stages.dedup import near_dedup
    from limo.data import Dropped, Example, chat

    rows = [Example(str(at), chat(text), answer) for at, (text, answer) in enumerate(problems)]
    return {int(row.id) for row in near_dedup(rows) if isinstance(row, Dropped)}


def _runs_of_words(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))]


def drop_datasketch(problems: list[tuple[str, str]]) -> set[int]:
    """As its documentation has it: words, runs of three, 128 permutations, threshold 0.6."""
    from datasketch import MinHash, MinHashLSH

    lsh, dropped = MinHashLSH(threshold=0.6, num_perm=128), set()
    for at, (text, _) in enumerate(problems):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([run.encode() for run in _runs_of_words(text)])
        if lsh.query(sketch):
            dropped.add(at)
        else:
            lsh.insert(str(at), sketch)
    return dropped


def drop_rensa(problems: list[tuple[str, str]], read: Callable[[str], list[str]] = _runs_of_words) -> set[int]:
    """The same with rensa's RMinHash and its index: 128 permutations in 32 bands of 4, threshold 0.6."""
    from rensa import RMinHash, RMinHashLSH

    lsh, dropped, sketches = RMinHashLSH(threshold=0.6, num_perm=128, num_bands=32), set(), []
    for at, (text, _) in enumerate(problems):
        sketch = RMinHash(num_perm=128, seed=42)
        sketch.update(read(text))
        sketches.append(sketch)
        if any(sketch.jaccard(sketches[other]) >= 0.6 for other in lsh.query(sketch)):
            dropped.add(at)
        else:
            lsh.insert(at, sketch)
    return dropped


def drop_rensa_on_tokens(problems: list[tuple[str, str]]) -> set[int]:
    """rensa on runs of our tokens."""
    from curation.matching.similar import ASKING, tokens

    def read(text: str) -> list[str]:
        parts = [token for token in tokens(text) if token not in ASKING]
        return [" ".join(parts[at : at + 3]) for at in range(max(1, len(parts) - 2))]

    return drop_rensa(problems, read)


def drop_datatrove(problems: list[tuple[str, str]]) -> set[int]:
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
    documents = [Document(text=text, id=str(at)) for at, (text, _) in enumerate(problems)]
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
    return set(range(len(problems))) - {int(key) for key in kept}


TOOLS: Mapping[str, Callable[[list[tuple[str, str]]], set[int]]] = {
    "ours": drop_ours,
    "datasketch": drop_datasketch,
    "rensa": drop_rensa,
    "rensa, our tokens": drop_rensa_on_tokens,
    "datatrove": drop_datatrove,
}


def run_here(tool: str) -> None:
    """Drop duplicates of the pools on stdin in this process; print what is dropped and how long it took, as JSON."""
    found = []
    for problems in json.load(sys.stdin):
        start = time.process_time()
        dropped = sorted(TOOLS[tool]([tuple(problem) for problem in problems]))
        found.append({"dropped": dropped, "seconds": time.process_time() - start})
    print("\n" + json.dumps(found))


def run_tool(tool: str, pools: Sequence[list[tuple[str, str]]], python: str) -> list[dict[str, Any]] | None:
    """What a tool drops of each pool, in a process for all of them; None where it is not installed."""
    command = [python, __file__, "--tool", tool]
    done = subprocess.run(command, input=json.dumps(pools), capture_output=True, text=True)
    if done.returncode:
        print(f"{tool}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        return None
    found: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def plant(problems: Sequence[tuple[str, str]], name: str, disguise: Disguise) -> list[tuple[str, str]]:
    """Problems and behind them some of them in disguise; those that it does not change are left out."""
    seeded = random.Random(name)
    chosen = seeded.sample(range(len(problems)), len(problems))
    changed = ((text, disguise(text, seeded), answer) for text, answer in (problems[at] for at in chosen))
    planted = [(new, answer) for text, new, answer in changed if new != text or name == "as it is"]
    return [*problems, *planted[:PLANTED]]


def show_share(found: int, of: int) -> str:
    """A share in % with its 95 % Wilson interval."""
    from eval.intervals import wilson

    if not of:
        return f"{'-':>19}"
    low, high = wilson(found / of, of)
    return f"{100 * found / of:>6.1f} ({100 * low:>4.1f}-{100 * high:>5.1f})"


def measure_duplicates(pool: Sequence[tuple[str, str]], kinds: Mapping[str, Disguise], python: str) -> None:
    """Print what each tool drops of what was planted, of the pool as it is, and how fast it is."""
    problems = list(dict.fromkeys(pool))[:OF]
    pools = [plant(problems, name, disguise) for name, disguise in kinds.items()]
    results = {}
    for tool in TOOLS:
        found = run_tool(tool, [*pools, list(pool)], sys.executable if "our" in tool else python)
        if found is not None:
            results[tool] = found
    print(
        f"near duplicates, % dropped of {PLANTED} planted in {len(problems)} (fewer where a disguise changes fewer)\n"
    )
    print(f"{'':<22}{'n':>4}" + "".join(f"{tool:>20}" for tool in results))
    for at, name in enumerate(kinds):
        size = len(pools[at]) - len(problems)
        counts = (sum(p >= len(problems) for p in found[at]["dropped"]) for found in results.values())
        print(f"{name:<22}{size:>4}" + "".join(f" {show_share(count, size)}" for count in counts))
    print(f"{'pool as it is':<22}{len(pool):>4}" + "".join(f"{len(f[-1]['dropped']):>20}" for f in results.values()))
    rates = (len(pool) / found[-1]["seconds"] for found in results.values())
    print(f"{'rows a CPU second':<26}" + "".join(f"{rate:>20,.0f}" for rate in rates) + "\n")


def measure_leaks(problems: Sequence[str], kinds: Mapping[str, Disguise], marked: Sequence[str], show: int) -> None:
    """Print what each rule finds of what was planted, and what it marks."""
    lookups = rules(problems)
    print(f"leaks, % found of {len(problems)} planted (a planted problem counts only for itself)\n")
    print(f"{'':<22}{'n':>4}" + "".join(f"{name:>20}" for name in lookups) + "   ours: same")
    for name, disguise in kinds.items():
        seeded = random.Random(name)
        changed = [(at, text, disguise(text, seeded)) for at, text in enumerate(problems)]
        changed = [(at, text, new) for at, text, new in changed if new != text or name == "as it is"]
        found = [[held(new).get(at) for at, _, new in changed] for held in lookups.values()]
        shares = [show_share(sum(kind is not None for kind in kinds_), len(changed)) for kinds_ in found]
        same = show_share(found[0].count("same"), len(changed))
        print(f"{name:<22}{len(changed):>4} " + " ".join(shares) + f" {same}")
    for rule, held in lookups.items():
        start = time.process_time()
        hits = [(text, found_) for text in marked if (found_ := held(text))]
        rate = len(marked) / max(time.process_time() - start, 1e-9)
        best = [min(found_.values(), key=("same", "variant", "related").index) for _, found_ in hits]
        counts = ", ".join(f"{best.count(kind)} {kind}" for kind in ("same", "variant", "related"))
        print(f"of {len(marked)} other rows {rule} marks {len(hits)} ({counts}); {rate:,.0f} rows a CPU second")
        for (text, found_), kind in list(zip(hits, best, strict=True))[: show if rule == "ours" else 0]:
            known = next(problems[at] for at, verdict in found_.items() if verdict == kind)
            shown = (" ".join(t.split())[:300] for t in (text, known))
            print("  " + "\n    ".join((kind, *shown)))


def read(path: str) -> list[tuple[str, str]]:
    """Problems and answers of a file, or of a benchmark by its name."""
    from eval.benchmarks import load_benchmarks
    from limo.data import Example
    from limo.sources import file

    rows = file("rows", "", path=path) if Path(path).exists() else load_benchmarks([path], "")[path]
    return [(str(row.notes.get("problem", row.question)), row.answer) for row in rows if isinstance(row, Example)]


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", help="file of problems, for near duplicates")
    parser.add_argument("--benchmark", action="append", default=[], help="name or file, for leaks (may be given again)")
    parser.add_argument("--marked", help="file of other problems, of which those that are marked are counted")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="marked rows to show beside what they matched")
    parser.add_argument("--unseen", action="store_true", help="the disguises that were put aside, too")
    parser.add_argument("--strangers", action="store_true", help="only those of bench/data/strangers.py")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has the other tools")
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tool:
        run_here(args.tool)
        return
    kinds = {**SEEN, **(UNSEEN if args.unseen else {}), **OTHER}
    if args.strangers:
        kinds = {**strangers.STRANGERS, **strangers.OTHER}
    if args.pool:
        measure_duplicates(read(args.pool), kinds, args.python)
    if args.benchmark:
        problems = [text for path in args.benchmark for text, _ in read(path)]
        measure_leaks(problems, kinds, [text for text, _ in read(args.marked)] if args.marked else [], args.show)


if __name__ == "__main__":
    main()
