"""What the sets of a finished study are made of, and what each has taught: the figures under "Why" in docs/study.md.

    python bench/study_why.py runs/study

For sums: by set the share of chains that are the student's own and the terms of its problems; accuracy by terms.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from limo.data import read_jsonl


def terms(question: str) -> int:
    """Numbers in a sum.

    >>> terms("State the final answer to the following arithmetic problem: 6 - 5 + 1 =")
    3
    """
    return 1 + question.count(" + ") + question.count(" - ")


def shares(values: list[int]) -> str:
    """The share of each number of terms, in per cent."""
    return "  ".join(f"{n} terms {100 * values.count(n) / len(values):4.1f} %" for n in sorted(set(values)))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a study on sums")
    run = parser.parse_args().run
    files = {file.stem: file for file in run.glob("sets/curated-*.jsonl")}
    files |= {f"random-{f.parent.name.split('-')[0]}": f for f in run.glob("sets/*-seed-0/random.jsonl")}
    for name, file in sorted(files.items(), key=lambda item: int(item[0].split("-")[1])):
        rows = list(read_jsonl(file))
        own = fmean("/own/" in row.id for row in rows)
        print(f"{name:<12} own {100 * own:5.1f} %  {shares([terms(row.question) for row in rows])}")
    asked: dict[str, int] = {}
    arms: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for file in run.glob("arms/untrained/eval/model/*.jsonl"):
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            asked[line["id"]] = terms(line["question"])
            arms["untrained"][asked[line["id"]]].append(float(line["completions"][0]["verdict"] == "correct"))
    print(f"{'the test':<23} {shares(list(asked.values()))}")
    for score in sorted(run.glob("arms/*/score.json")):
        for items in json.loads(score.read_text(encoding="utf-8"))["shares"].values():
            for key, share in items.items():
                arms[score.parent.name.split("-seed-")[0]][asked[key]].append(share)
    for name, by in arms.items():
        print(f"{name:<23} " + "  ".join(f"{n} terms {100 * fmean(v):4.1f} %" for n, v in sorted(by.items())))


if __name__ == "__main__":
    main()
