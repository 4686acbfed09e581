"""Pages a second and formulas kept: the toolkit's extraction beside resiliparse and trafilatura alone, stage by stage.

    python -m bench.peers.web --python .venv-bench/bin/python      # the test set of formulas, and pages of our own
    python -m bench.peers.web --python .venv-bench/bin/python /usr/share/doc/maxima-doc/html/*.html

Trafilatura runs under the interpreter that is named, which has it. One process each, medians of ROUNDS. Speed is
measured on the pages given, or else on 300 of `bench/data/exam_site.py`; formulas are counted on
tests/formula_pages.jsonl, where each page says what must be left of it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from resiliparse.extract.html2text import extract_plain_text  # noqa: E402
from resiliparse.parse.html import HTMLTree  # noqa: E402

from bench.data.exam_site import site  # noqa: E402
from curation.methods.mammoth2 import formulas, markup  # noqa: E402
from curation.methods.mammoth2.harvest import final_answer  # noqa: E402
from curation.methods.mammoth2.pageworker import extracted, read_page  # noqa: E402
from curation.methods.mammoth2.recall import Learning, learn  # noqa: E402

ROUNDS = 7
AROUND = (
    "<!DOCTYPE html><html><head><title>Lesson</title></head><body><nav><a href='/'>Home</a></nav><main><h1>Lesson</h1>"
    "<p>This paragraph stands before the formula and says nothing of it at all.</p>{}"
    "<p>This paragraph follows it, and ends the lesson for today.</p></main><footer>Imprint</footer></body></html>"
)


def ours(page: str) -> str:
    """The pre-pass and the extractor, as `read_page` has them, without pairs."""
    tree = HTMLTree.parse(page)
    return markup.PRIVATE.sub("", extracted(tree, page, formulas.keep(tree, page)))


def resiliparse(page: str) -> str:
    """Resiliparse's main content."""
    return str(extract_plain_text(page, main_content=True))


TRAFILATURA = """
import json, sys, time
import trafilatura
for line in sys.stdin:
    pages = json.loads(line)
    start = time.perf_counter()
    texts = [trafilatura.extract(page) or "" for page in pages]
    print(json.dumps([texts, time.perf_counter() - start]), flush=True)
"""
Extractor = Callable[[list[str]], tuple[list[str], float]]  # pages to their texts, and the seconds that took


def here(extract: Callable[[str], str]) -> Extractor:
    """An extractor in this process."""

    def timed(pages: list[str]) -> tuple[list[str], float]:
        start = time.perf_counter()
        texts = [extract(page) for page in pages]
        return texts, time.perf_counter() - start

    return timed


def trafilatura(python: str) -> Extractor:
    """Trafilatura as it comes, under another interpreter. Ends the command if that one has it not."""
    peer = subprocess.Popen([python, "-c", TRAFILATURA], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def timed(pages: list[str]) -> tuple[list[str], float]:
        if peer.stdin is None or peer.stdout is None or peer.poll() is not None:
            sys.exit(f"error: {python} has no trafilatura: make bench-setup, and --python .venv-bench/bin/python")
        peer.stdin.write(json.dumps(pages) + "\n")
        peer.stdin.flush()
        texts, seconds = json.loads(peer.stdout.readline() or "[[], 0]")
        return texts, seconds

    if not timed(["<p>Is it there?</p>"])[0]:
        peer.wait()
        timed([])
    return timed


def share_kept(extract: Extractor, cases: list[dict[str, Any]]) -> tuple[int, int]:
    """Formulas that are left in the text, of how many."""
    texts, _ = extract([AROUND.format(case["html"]) for case in cases])
    kept = total = 0
    for case, text in zip(cases, texts, strict=True):
        left = " ".join(text.split())
        kept += sum(" ".join(formula.split()) in left for formula in case["must"])
        total += len(case["must"])
    return kept, total


def main() -> None:
    """Print ratios first, then rates."""
    cases = [json.loads(line) for line in (ROOT / "tests" / "formula_pages.jsonl").open(encoding="utf-8")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="HTML files")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has trafilatura")
    given = parser.parse_args()
    pages = [path.read_text("utf-8", "replace") for path in given.pages] or [page for _, page in site(300, 1)]
    size = sum(map(len, pages)) / len(pages) / 1000
    print(
        f"{len(pages)} pages of {size:.1f} kB, {len(cases)} pages with formulas, medians of {ROUNDS}, one process each"
    )
    extractors = {"ours": here(ours), "resiliparse": here(resiliparse), "trafilatura": trafilatura(given.python)}
    taken: dict[str, list[float]] = {name: [] for name in extractors}
    for _ in range(ROUNDS):  # in turn, so that a busy moment is everybody's
        for name, extract in extractors.items():
            taken[name].append(extract(pages)[1])
    rates = {name: len(pages) / statistics.median(seconds) for name, seconds in taken.items()}
    print(f"  {rates['ours'] / rates['resiliparse']:.2f} of resiliparse's speed (aim: 0.5)")
    print(f"  {rates['ours'] / rates['trafilatura']:.1f} times trafilatura's speed (aim: above 1)\n")
    print(f"  {'':24} {'pages/s':>9}   formulas kept")
    for name, extract in extractors.items():
        kept, total = share_kept(extract, cases)
        print(f"  {name:24} {rates[name]:9,.0f}   {kept} of {total} ({100 * kept / total:.0f} %)")
    print("\n  stages of the toolkit")
    for name, rate in stages(pages):
        print(f"  {name:24} {rate:9,.0f}")


def stages(pages: list[str]) -> list[tuple[str, float]]:
    """Pages a second of each stage that needs no model."""
    told = [read_page(page, "html", "", "", 10**8) for page in pages]
    texts = [one["text"] for one in told if "text" in one]
    half, seen = len(texts) // 2, [(text, (0.0,) * (1 + len(markup.RULES))) for text in texts]
    learning = Learning(3, 2**18, 3, 0.1)
    model = learn(seen[:half], seen[half:], learning, 0)
    answers = [pair[2] for one in told for pair in one.get("pairs", [])]
    work: list[tuple[str, Callable[[], object], int]] = [
        ("text and stated pairs", lambda: [read_page(page, "html", "", "", 10**8) for page in pages], len(pages)),
        ("recall, learn", lambda: learn(seen[:half], seen[half:], learning, 0), len(texts)),
        ("recall, score", lambda: list(model.scores(seen)), len(texts)),
        ("final answers (pairs)", lambda: [final_answer(answer) for answer in answers], max(len(answers), 1)),
    ]
    found = []
    for name, run, count in work:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        found.append((name, count / statistics.median(seconds)))
    return found


if __name__ == "__main__":
    main()
