"""Recall of pages and of pairs on real documentation, beside labels given by hand: bench/data/pages.jsonl, pairs.jsonl.

    python -m bench.proofs.pages FOLDER    # where its packages are unpacked: dpkg-deb -x X.deb FOLDER/X

The pages are from Debian's packages: FAQs, manuals, documentation made with texinfo, DocBook, Sphinx and by hand. A
page is labelled `asks` if most of it is questions with their answers, and then with the number of its pairs; a pair is
right if question and answer belong together, both are whole, and somebody could learn from it. Seeds are of other
packages than the pages. Most pages were looked at while the rules were written, so these figures are those of a
development set: docs/LOG.md has recall and precision on packages before anybody had looked at them.
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from curation.methods.mammoth2.markup import RULES
from limo.data import Dropped, Example
from limo.errors import reported
from limo.machine import set_environment
from limo.recipe import bind

HERE = Path(__file__).resolve().parents[1] / "data"
SEEDS = ("python3.11-doc", "fetchmail", "exam_seeds")  # the packages of the seeds, and our own exams
RANDOM = 1500  # pages of all packages, among which the labelled ones stand
RULES_TAKEN = [rule for rule in RULES if rule != "definition"]


def main() -> None:
    """The command."""
    set_environment()
    folder = Path(sys.argv[1])
    labels = {row["page"]: row for row in read_labels("pages")}
    rows = read_pages(folder, labels)
    found = list(bind(recall_node(folder), "recall")(rows))
    kept = {name_of(row, folder): row for row in found if isinstance(row, Example)}
    print_recall(labels, set(kept), {name_of(row, folder) for row in rows})
    asking = [row for name, row in kept.items() if labels.get(name, {}).get("asks")]
    stated = {
        "_target_": "curation.methods.mammoth2.harvest.extract_by_rules",
        "rules": RULES_TAKEN,
        "least": 3,
        "most": 400,
    }
    pairs = [row for row in bind(stated, "stated")(asking) if isinstance(row, Example)]
    print_pairs(labels, pairs, folder)


def read_labels(name: str) -> list[dict[str, Any]]:
    """The rows of a file of labels."""
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def read_pages(folder: Path, labels: dict[str, Any]) -> list[Example]:
    """The labelled pages that are there, among random ones, read as the pool's are."""
    files = sorted(p for p in folder.rglob("*.html") if p.relative_to(folder).parts[0] not in SEEDS and p.is_file())
    some = set(random.Random(0).sample(files, min(RANDOM, len(files)))) | {folder / name for name in labels}
    paths = [str(path) for path in sorted(some) if path.is_file()]
    archives = bind({"_target_": "curation.methods.mammoth2.pages.archives", "paths": paths}, "archives")("pages", "")
    listed = [row for row in archives if isinstance(row, Example)]
    return [row for row in bind(READ, "read")(listed) if isinstance(row, Example)]


READ = {
    "_target_": "curation.methods.mammoth2.pages.read",
    "columns": None,
    "max_bytes": 5_000_000,
    "seconds": 5,
    "memory": 1024,
    "deny": [],
    "robots": [],
}


def recall_node(folder: Path) -> dict[str, Any]:
    """The stage as the demo has it, with these seeds."""
    archives, listed = "curation.methods.mammoth2.pages.archives", "curation.methods.mammoth2.domains.listed"
    keep = {"_target_": listed, "keep": [], "drop": [], "otherwise": "keep"}
    faq = [
        str(folder / "python3.11-doc/usr/share/doc/python3.11/html/faq/*.html"),
        str(folder / "fetchmail/**/*FAQ.html"),
    ]
    exams = str(HERE.parent / "recipes" / "data" / "exam_seeds.warc.gz")
    return {
        "_target_": "curation.methods.mammoth2.recall.recall",
        "seeds": {
            "positives": {
                "faq": {"_target_": archives, "paths": faq},
                "exams": {"_target_": archives, "paths": [exams]},
            },
            "read": READ,
            "per_class": 300,
        },
        "learning": {"ngrams": 3, "features": 262144, "epochs": 20, "rate": 1.0},
        "threshold": 0.5,
        "held_out": 0.3,
        "least": 1,
        "first": keep,
        "second": keep,
        "seed": 0,
    }


def name_of(row: Example | Dropped, folder: Path) -> str:
    """Package and path of a page, as the labels have it."""
    page = row.notes["page"] if isinstance(row, Example) else row.data
    return str(page["url"]).removeprefix(f"file://{folder.resolve()}/")


def print_recall(labels: dict[str, Any], kept: set[str], read: set[str]) -> None:
    """Recall and precision over the labelled pages, and by package."""
    there = {name: row for name, row in labels.items() if name in read}
    asks = {name for name, row in there.items() if row["asks"]}
    hits, false = asks & kept, (there.keys() - asks) & kept
    print(f"{len(there)} of {len(labels)} labelled pages are there, {len(asks)} of them of questions and answers")
    print(f"recall {len(hits) / len(asks):.3f}, precision {len(hits) / max(len(hits) + len(false), 1):.3f}")
    by = Counter(
        (name.partition("/")[0], kind)
        for names, kind in ((asks, "asks"), (hits, "hit"), (false, "false"))
        for name in names
    )
    for package in sorted({package for package, _ in by}):
        hit, all_, wrong = (by[package, kind] for kind in ("hit", "asks", "false"))
        print(f"  {package:<28} {hit:>3} of {all_:>3} recalled, {wrong} false")


def print_pairs(labels: dict[str, Any], pairs: list[Example], folder: Path) -> None:
    """How many of the pages' pairs are found, and how many of those labelled are right."""
    right = {(row["page"], row["question"]): row["right"] for row in read_labels("pairs")}
    found = [right.get((name_of(row, folder), " ".join(row.question.split())[:80])) for row in pairs]
    per_page = Counter(name_of(row, folder) for row in pairs)
    total = sum(row.get("pairs", 0) for row in labels.values() if row["asks"])
    got = sum(min(per_page[name], row.get("pairs", 0)) for name, row in labels.items() if row["asks"])
    print(f"{len(pairs)} pairs from the recalled pages; of the {total} that all labelled pages hold, at most {got}")
    judged = [one for one in found if one is not None]
    print(
        f"of {len(judged)} that are labelled, {sum(judged)} are right ({100 * sum(judged) / max(len(judged), 1):.1f} %)"
    )


if __name__ == "__main__":
    with reported():
        main()
