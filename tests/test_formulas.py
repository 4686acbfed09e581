"""Mathematics survives the way from a page to its text: small pages, each with what must be left of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from curation.methods.mammoth2.pageworker import read_page

CASES = [json.loads(line) for line in (Path(__file__).parent / "formula_pages.jsonl").open(encoding="utf-8")]
AROUND = (
    "<!DOCTYPE html><html><head><title>Lesson</title></head><body><nav><a href='/'>Home</a></nav>"
    "<main><h1>Lesson</h1><p>This paragraph stands before the formula and says nothing of it at all.</p>{}"
    "<p>This paragraph follows it, and ends the lesson for today.</p></main><footer>Imprint</footer></body></html>"
)


def squeezed(text: str) -> str:
    return " ".join(text.split())


def lost(text: str, must: list[str]) -> list[str]:
    return [formula for formula in must if "".join(formula.split()) not in "".join(text.split())]


def test_there_are_enough_pages() -> None:
    assert len(CASES) >= 60 and len({case["name"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_page_keeps_its_formulas(case: dict[str, Any]) -> None:
    told = read_page(AROUND.format(case["html"]).encode(), "html", "", "utf-8", 10**6)
    assert not lost(told["text"], case["must"]), told["text"]
    assert not [wrong for wrong in case.get("mustnt", []) if squeezed(wrong) in squeezed(told["text"])], told["text"]
    assert "follows it" in told["text"], "the rest of the page stays"
    assert not any("\ue000" <= sign <= "\ue0ff" for sign in told["text"]), "marks are gone"


def test_formulas_are_counted_once() -> None:
    note = "<math><semantics><mrow></mrow><annotation encoding='application/x-tex'>x^2</annotation></semantics></math>"
    katex = f"<span class='katex-display'><span class='katex'>{note}<span class='katex-html'>x2</span></span></span>"
    carried = "<div class='math' data-tex='y^2'><span class='math' data-tex='y^2'>y2</span></div>"
    told = read_page(AROUND.format(katex + carried).encode(), "html", "", "utf-8", 10**6)
    assert told["formulas"] == 2 and told["text"].count("$$") == 4, "one inside of another is the same one"


def test_an_extractor_alone_loses_most_of_them() -> None:
    from resiliparse.extract.html2text import extract_plain_text

    kept = [not lost(extract_plain_text(AROUND.format(c["html"]), main_content=True), c["must"]) for c in CASES]
    assert sum(kept) < len(CASES) / 2, "these pages would prove nothing"


@pytest.mark.parametrize(
    ("markup", "left"),
    [
        ("<math><mfrac><mi>x</mi></mfrac></math>", "x"),
        ("<math><foo>3</foo></math>", "3"),
        ("<math><mo>&#8290;</mo><mi>y</mi></math>", "y"),
        ("<math>" + "<mrow>" * 3000 + "<mi>z</mi>" + "</mrow>" * 3000 + "</math>", "z"),
    ],
)
def test_invalid_markup_leaves_its_text(markup: str, left: str) -> None:
    told = read_page(AROUND.format(f"<p>Here is {markup} now.</p>").encode(), "html", "", "utf-8", 10**6)
    assert f"Here is ${left}$ now." in told["text"]
