"""Pages a second and formulas kept: the toolkit's extraction beside resiliparse and trafilatura alone, stage by stage.

    pip install trafilatura lxml_html_clean
    python bench/web.py                          # the test set of formulas, and pages of our own
    python bench/web.py /usr/share/doc/maxima-doc/html/*.html

One process, medians of ROUNDS. Speed is measured on the pages given, or else on 300 of `curation/exam_site.py`;
formulas are counted on tests/formula_pages.jsonl, where each page says what must be left of it.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from resiliparse.extract.html2text import extract_plain_text  # noqa: E402
from resiliparse.parse.html import HTMLTree  # noqa: E402

from curation import formulas, markup  # noqa: E402
from curation.exam_site import site  # noqa: E402
from curation.harvest import final_answer  # noqa: E402
from curation.pageworker import extracted, read_page  # noqa: E402
from curation.recognise import Learning, learned  # noqa: E402

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


def trafilatura(page: str) -> str:
    """Trafilatura as it comes."""
    import trafilatura as library

    return library.extract(page) or ""


def share_kept(extract: Callable[[str], str], cases: list[dict[str, Any]]) -> tuple[int, int]:
    """Formulas that are left in the text, of how many."""
    kept = total = 0
    for case in cases:
        text = " ".join(extract(AROUND.format(case["html"])).split())
        kept += sum(" ".join(formula.split()) in text for formula in case["must"])
        total += len(case["must"])
    return kept, total


def main() -> None:
    """Print ratios first, then rates."""
    cases = [json.loads(line) for line in (ROOT / "tests" / "formula_pages.jsonl").open(encoding="utf-8")]
    paths = [Path(name) for name in sys.argv[1:]]
    pages = [path.read_text("utf-8", "replace") for path in paths] or [page for _, page in site(300, 1)]
    size = sum(map(len, pages)) / len(pages) / 1000
    print(f"{len(pages)} pages of {size:.1f} kB, {len(cases)} pages with formulas, medians of {ROUNDS}, one process")
    extractors = (ours, resiliparse, trafilatura)
    taken: dict[str, list[float]] = {extract.__name__: [] for extract in extractors}
    for _ in range(ROUNDS):  # in turn, so that a busy moment is everybody's
        for extract in extractors:
            start = time.perf_counter()
            for page in pages:
                extract(page)
            taken[extract.__name__].append(time.perf_counter() - start)
    rates = {name: len(pages) / statistics.median(seconds) for name, seconds in taken.items()}
    print(f"  {rates['ours'] / rates['resiliparse']:.2f} of resiliparse's speed (aim: 0.5)")
    print(f"  {rates['ours'] / rates['trafilatura']:.1f} times trafilatura's speed (aim: above 1)\n")
    print(f"  {'':24} {'pages/s':>9}   formulas kept")
    for extract in extractors:
        kept, total = share_kept(extract, cases)
        print(
            f"  {extract.__name__:24} {rates[extract.__name__]:9,.0f}   {kept} of {total} ({100 * kept / total:.0f} %)"
        )
    print("\n  stages of the toolkit")
    for name, rate in stages(pages):
        print(f"  {name:24} {rate:9,.0f}")


def stages(pages: list[str]) -> list[tuple[str, float]]:
    """Pages a second of each stage that needs no model."""
    told = [read_page(page, "html", "", "", 10**8) for page in pages]
    texts = [one["text"] for one in told if "text" in one]
    half = len(texts) // 2
    learning = Learning(3, 2**18, 3, 0.1)
    model = learned(texts[:half], texts[half:], learning, 0)
    answers = [pair[2] for one in told for pair in one.get("pairs", [])]
    work: list[tuple[str, Callable[[], object], int]] = [
        ("text and stated pairs", lambda: [read_page(page, "html", "", "", 10**8) for page in pages], len(pages)),
        ("recall, learn", lambda: learned(texts[:half], texts[half:], learning, 0), len(texts)),
        ("recall, score", lambda: list(model.scores(texts)), len(texts)),
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
