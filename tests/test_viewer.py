"""The report in a real browser: nothing but its file is read, chain text is text, and everything can be used."""

import os
import pydoc_data.topics
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from curation.folder import read_marks
from eval.report.page import write_report
from limo.data import Dropped, Example, chat
from tests.test_report import curation, evaluation, left, line

Open = Callable[..., Page]
EVIL = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<img src=x onerror='window.hacked = 3'><svg onload='window.hacked = 4'>",
    "{{7*7}} ${window.hacked = 5} `window.hacked = 6` <!-- --> ]]>",
    "a\u2028b\u2029c\u0000d\u001be\rf\u007fg\ud800h",
    "$\\href{javascript:window.hacked = 7}{x}$ and $\\htmlData{onclick=window.hacked}{x}$",
]
WEIGHTS = {"length": 0.4, "verification": 0.2, "exploration": 0.2, "connectives": 0.2}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium. Without one its tests are skipped, or fail where LIMO_BROWSER is set, as .ci/run does."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if not path:
        (pytest.fail if os.environ.get("LIMO_BROWSER") else pytest.skip)(
            "no Chromium to look at pages with: apt-get install chromium"
        )
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(chromium: Browser) -> Iterator[Open]:
    """Opens a page. Whatever the browser complains about, and every request but the first, fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(path: Path, width: int = 1280, height: int = 900, ready: bool = True, **options: Any) -> Page:
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda r: r.url.startswith((path.as_uri().partition("?")[0], "blob:")) or complaints.append(r.url),
        )
        page.goto(path.as_uri())
        if ready:
            page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def row(key: str, question: str, text: str, score: float = 0.5, **more: Any) -> Example:
    ranks = {f"{name}_rank": score for name in WEIGHTS}
    values = dict.fromkeys(WEIGHTS, 1.0)
    notes = {"teacher": "own", "verdict": "correct"} | more.pop("notes", {})
    scores = {"score": score, "tokens": float(len(text)), **values, **ranks}
    plain = {"source": more.pop("source", "sums"), "problem": "/".join(key.split("/")[:2])}
    return Example(key, chat(question), "7", text, scores=scores, notes=notes, **plain)


def run(folder: Path, chosen: list[Example], dropped: list[Dropped] | None = None) -> Path:
    """The report of a curation that chose these."""
    funnel = [line("pool", 9, 9), line("score", 9, 9), line("choose", 9, max(len(chosen), 1))]
    return write_report(curation(folder, chosen, dropped or [], funnel, WEIGHTS))


CHAIN = (
    "We need $x^2 = 49$. **So** the root is \\(x = 7\\).\n\n"
    "Wait, let me check: $$7 \\cdot 7 = 49$$ therefore it holds.\n\n"
    "Perhaps -7 as well; it cost $5 and then $6, and $\\frac{1$ is broken.\n\n"
    + "A long step. " * 200
    + "\n\n\\boxed{7}"
)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty chosen chains; the first has two rivals."""
    chosen = [row("sums/0/own/0", "What is the root of $x^2 = 49$?", CHAIN, 0.9)]
    for i in range(1, 30):
        text, source = f"chain {'long ' * i} secret{i}", "words" if i % 3 else "sums"
        chosen.append(row(f"sums/{i}/own/0", f"Problem number {i}", text, 0.9 - i / 100, source=source))
    worse = row("sums/0/own/1", chosen[0].question, "A shorter chain: 7", 0.4)
    wrong = row("sums/0/own/2", chosen[0].question, "I say 8", 0.1)
    dropped = [left(worse, "choose", "better chain of the same problem"), left(wrong, "verify", "wrong answer")]
    folder = tmp_path_factory.mktemp("usual")
    evaluation(folder, "What is $1 + 1$?")
    return run(folder, chosen, dropped)


def count(page: Page) -> str:
    return page.inner_text("#count")


def shown(page: Page, key: str) -> None:
    page.wait_for_selector(f"html[data-shown='{key}']")


def test_search_sort_and_filter(usual: Path, look: Open) -> None:
    page = look(usual)
    shown(page, "sums/0/own/0")
    assert count(page) == "30 chains"
    page.fill("#search", "number 12")
    assert count(page) == "1 of 30 chains" and page.inner_text(".item .meta").startswith("sums/12/own/0")
    shown(page, "sums/12/own/0")  # the open row follows the filter
    assert page.inner_text("#position") == "1 of 1"
    page.fill("#search", "secret27")
    page.wait_for_selector(".item em")
    assert count(page) == "1 of 30 chains" and "in the chain" in page.inner_text(".item .meta")
    page.fill("#search", "no such thing")
    assert count(page) == "0 of 30 chains" and "No row has that" in page.inner_text("#list")
    page.fill("#search", "")
    page.select_option("#source", "sums")
    assert count(page) == "10 of 30 chains" and page.inner_text("#position").endswith(" of 10")
    page.select_option("#source", "")
    page.select_option("#sort", "length")
    lengths = [int(t.split("·")[1].split()[0].replace(",", "")) for t in page.locator(".item .meta").all_inner_texts()]
    assert lengths == sorted(lengths) and lengths[0] < 30
    page.click("#direction")
    assert page.inner_text(".item .meta").startswith("sums/0/own/0 · 2,792"), "the longest first"


def test_everything_can_be_done_from_the_keyboard(usual: Path, look: Open) -> None:
    page = look(usual)
    shown(page, "sums/0/own/0")
    page.keyboard.press("j")
    shown(page, "sums/1/own/0")
    page.keyboard.press("k")
    shown(page, "sums/0/own/0")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("number 5")
    page.keyboard.press("Enter")
    shown(page, "sums/5/own/0")
    assert page.evaluate("document.activeElement.id") == "title"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    assert page.input_value("#search") == "" and count(page) == "30 chains"
    page.keyboard.press("ArrowDown")
    shown(page, "sums/6/own/0")
    page.keyboard.press("End")
    shown(page, "sums/29/own/0")
    assert page.get_attribute("#list", "aria-activedescendant") == "row29"
    assert page.get_attribute("#row29", "aria-selected") == "true"
    page.keyboard.press("Home")
    shown(page, "sums/0/own/0")
    page.keyboard.press("s")
    page.wait_for_selector(".steps .source")
    assert "\\(x = 7\\)" in page.inner_text(".steps") and page.inner_text(".steps .source") == CHAIN
    page.keyboard.press("s")
    page.wait_for_selector(".steps math")


def test_marks_are_kept_and_saved_as_a_file_that_a_curation_reads(usual: Path, look: Open, tmp_path: Path) -> None:
    page = look(usual)
    shown(page, "sums/0/own/0")
    assert page.locator("#save").is_hidden()
    page.keyboard.press("x")
    page.keyboard.press("j")
    shown(page, "sums/1/own/0")
    page.click("#mark")
    assert page.inner_text("#save") == "Save 2 marked" and "marked" in page.inner_text("#row0 .meta")
    page.keyboard.press("x")
    page.reload()
    shown(page, "sums/1/own/0")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "marks.jsonl")
    assert read_marks(str(tmp_path / "marks.jsonl")) == ["sums/0/own/0"]


FORMULAS = {  # a text and the formulas in it
    "$5 and $6": [],
    "costs $20. He has $x$ left": ["x"],
    "5*$3=$<<5*3=15>>15 and $4/$2 and $7-$8": [],
    "$20 per hour and $x^2$": ["x^2"],
    "from $\\$$60 to $2x$, $ a \\le b $ or $12$.": ["\\$", "2x", " a \\le b ", "12"],
    "\\$5 and \\$6": [],
    "\\[a\\] \\(b\\) $$c$$ \\boxed{d{e}} x": ["a", "b", "c", "\\boxed{d{e}}"],
    "so \\begin{align*}f\\end{align*}": ["\\begin{align*}f\\end{align*}"],
    "\\( open $$ open \\[ open $ open": [],
    "$a\n\nb$ ``` $c$ ``` [asy]$d$[/asy]": [],
}
MARKS = ("$", "\\(", "\\[", "\\begin{align}", "\\boxed{", "```", "**", "[asy]", "$$x", "\n\n")


def test_text_becomes_formulas_marked_words_and_steps(usual: Path, look: Open) -> None:
    page = look(usual)
    page.wait_for_selector(".steps math")
    assert page.locator(".problem math").count() == 1 and page.locator(".steps math").count() == 4
    assert page.locator(".steps div.formula math[display=block]").count() == 1
    assert "it cost $5 and then $6" in page.inner_text(".steps")
    assert page.inner_text(".steps .unread") == "$\\frac{1$"
    assert page.locator(".steps b").first.inner_text() == "So"
    marked = page.evaluate("[...document.querySelectorAll('.steps mark')].map(m => [m.textContent, m.className])")
    for word in (["Wait", "exploration"], ["check", "verification"], ["therefore", "connectives"]):
        assert word in marked
    names = ("verification", "exploration", "connectives")
    counts = [f"{name} {sum(feature == name for _, feature in marked)}" for name in names]
    assert page.locator(".legend span").all_inner_texts() == counts
    for text, formulas in FORMULAS.items():
        found = page.evaluate("text => pieces(text)", text)
        assert [piece["tex"] for piece in found if piece["kind"] == "math"] == formulas, text
        assert "".join(piece["text"] for piece in found) == text, "nothing is lost"
    took = "text => { const t = performance.now(); chain(text, viewer.words); return performance.now() - t }"
    for mark in MARKS:
        assert page.evaluate(took, mark * (60_000 // len(mark))) < 4000, f"{mark!r} takes long"


def test_samples_side_by_side_and_why_one_was_chosen(usual: Path, look: Open) -> None:
    page = look(usual)
    shown(page, "sums/0/own/0")
    assert "Chosen with score 0.900. The next of its problem, own/1, has 0.400." in page.inner_text(".story")
    rows = [" ".join(text.split()) for text in page.locator(".why tbody tr").all_inner_texts()]
    assert rows[0].startswith("✓ right own/0 0.900") and rows[0].endswith("chosen")
    assert rows[1].startswith("✓ right own/1 0.400") and rows[1].endswith("choose: better chain of the same problem")
    assert rows[2].startswith("✗ wrong own/2") and rows[2].endswith("verify: wrong answer")
    assert page.locator(".why tbody tr:first-child .part").count() == 4
    page.keyboard.press("c")
    page.wait_for_selector(".sides .side")
    sides = page.locator("#row .side").all_inner_texts()
    assert len(sides) == 3 and "A shorter chain: 7" in sides[1] and "✗ wrong" in sides[2] and "I say 8" in sides[2]
    page.keyboard.press("j")
    shown(page, "sums/1/own/0")
    assert page.is_disabled("#sides") and "No other chain of this problem" in page.inner_text("#row")
    assert page.url.endswith("#chain=sums%2F1%2Fown%2F0"), "an address for each chain"
    page.reload()
    shown(page, "sums/1/own/0")


def test_chain_text_is_text(tmp_path: Path, look: Open) -> None:
    whole = "\n\n".join(EVIL)
    evil = row(EVIL[0], whole, f"{whole}\n\nso", 0.5, source=EVIL[1], notes={"teacher": EVIL[2], "level": EVIL[0]})
    rival = Dropped(
        EVIL[2],
        EVIL[0],
        EVIL[1],
        EVIL[2],
        data=replace(row(EVIL[2], whole, whole, 0.4), problem=evil.problem).to_json(),
    )
    folder = tmp_path / "<img src=x onerror='window.hacked = 8'>"
    folder.mkdir()
    evaluation(folder, EVIL[1])
    page = look(run(folder, [evil], [rival]))
    page.wait_for_selector(".steps li")
    text = page.inner_text("#row")
    for part in (*EVIL[:3], "{{7*7}}", "<!-- --> ]]>"):
        assert part in text, part
    assert "a\u2028b\u2029c" in page.evaluate("document.querySelector('.steps').textContent")
    page.click("#sides")
    page.wait_for_selector(".sides")
    page.click("#raw")
    page.wait_for_selector(".sides .source")
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert (
        page.evaluate(
            "document.images.length + document.querySelectorAll('[onerror], [onload], a[href^=javascript]').length"
        )
        == 0
    )
    assert page.locator("script:not([type])").count() == 2


def test_the_page_forbids_itself_other_scripts(usual: Path, chromium: Browser) -> None:
    page = chromium.new_page()
    page.goto(usual.as_uri())
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}));"
        "document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.hacked = 2\" id=trap>x</p><img src=https://example.org/x>')"
    )
    page.evaluate("document.getElementById('trap').click()")
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None and len(refused) >= 3
    page.close()


def test_odd_texts_come_out_as_they_went_in(tmp_path: Path, look: Open) -> None:
    every = "".join(map(chr, (*range(0x250), *range(0x4E00, 0x5000)))) + "中文字符 😀 \U0010ffff \ufeff\ufffe "
    texts = [every * 3, "x", "".join(map(chr, range(128))) * 50, "\ufeffbegins with a mark", "half \ud83d and \udc00"]
    page = look(run(tmp_path, [row(f"sums/{i}/own/0", f"q{i}", text) for i, text in enumerate(texts)]))
    for i, text in enumerate(texts):
        got = page.evaluate("i => viewer.store.details(viewer.rows[i]).then((row) => row.text)", i)
        assert got == text.replace("\ud83d and \udc00", "\ufffd and \ufffd"), i


CONTRAST = """([selector, key]) => {
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (element, key) => { const [r, g, b] = getComputedStyle(element)[key].match(/[\\d.]+/g)
    .map((v) => linear(v / 255)); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const pair = [light(document.querySelector(selector), key), light(document.body, "backgroundColor")];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05) }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read(usual: Path, look: Open, scheme: str) -> None:
    page = look(usual, color_scheme=scheme)
    page.wait_for_selector(".steps mark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    for selector, key in (("body", "color"), (".faint", "color"), ("#funnel svg text", "fill"), (".wrong", "color")):
        assert page.evaluate(CONTRAST, [selector, key]) >= 4.5, selector
    assert page.evaluate(CONTRAST, ["#funnel svg [style*='--chosen']", "fill"]) >= 3, "bars stand out"


def test_a_telephone_shows_the_list_or_one_chain(usual: Path, look: Open) -> None:
    page = look(usual, width=390, height=844, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.is_visible("#list") and not page.is_visible("#row")
    page.tap(".item >> nth=1")
    shown(page, "sums/1/own/0")
    assert page.is_visible("#row") and not page.is_visible("#list")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap(".back")
    assert page.is_visible("#list") and not page.is_visible("#row")


def test_paper_has_the_charts_and_the_open_chain(usual: Path, look: Open) -> None:
    page = look(usual, width=794, height=1123, color_scheme="dark")
    shown(page, "sums/0/own/0")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 29, 33)", "black on white, dark or not"
    assert page.is_visible("#funnel svg") and not page.is_visible("#list") and not page.is_visible("nav")
    assert page.is_visible(".steps") and page.is_visible(".print-only")
    assert len(page.pdf(format="A4")) > 20_000


def test_formulas_outside_the_viewer_are_rendered_once_they_are_opened(usual: Path, look: Open) -> None:
    page = look(usual)
    assert page.locator("#flips math").count() == 0
    page.click("#flips summary >> nth=0")
    page.wait_for_selector("#flips .side math")
    assert page.locator("#flips details[open] .side").count() == 2


def test_a_report_without_chains_opens_too(tmp_path: Path, look: Open) -> None:
    page = look(run(tmp_path, []), ready=False)
    assert page.is_visible("#funnel svg") and page.locator("#viewer").count() == 0


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 chains of 30 kB of prose and formulas, with the time it took to write their report."""
    draw = random.Random(0)
    said = [s for topic in pydoc_data.topics.topics.values() for s in topic.split("\n\n") if len(s) > 80]

    def chain() -> str:
        parts: list[str] = []
        while sum(map(len, parts)) < 30_000:
            a, b = draw.randrange(10**6), draw.randrange(10**6)
            parts += [draw.choice(said), f"Wait, $\\frac{{{a}}}{{{b}}} \\cdot x_{{{a % 97}}} = {a * b}$, so it holds."]
        return "\n\n".join(parts)

    chosen = [row(f"p/{i}/own/0", f"Problem number {i}: find $x_{{{i}}}$", chain(), draw.random()) for i in range(800)]
    return run(tmp_path_factory.mktemp("large"), chosen)


def test_800_long_chains_fit_and_do_not_freeze(large: Path, look: Open) -> None:
    assert large.stat().st_size < 10_000_000
    start = time.monotonic()
    page = look(large)
    shown(page, "p/0/own/0")
    assert time.monotonic() - start < 10
    gaps = page.evaluate(
        """async () => {
        const list = document.getElementById('list'), gaps = [];
        for (let at = 0; at < list.scrollHeight; at += 600) {
            const before = performance.now();
            list.scrollTop = at;
            await new Promise(requestAnimationFrame);
            gaps.push(performance.now() - before);
        }
        return gaps }"""
    )
    assert len(gaps) > 90 and sorted(gaps)[len(gaps) // 2] < 100 and max(gaps) < 1000
    assert page.locator(".item").count() < 40, "only what is seen is in the page"
    told = [text for text in page.locator("#chains .note").all_inner_texts() if "without their text" in text]
    assert not told or int(told[0].split()[0]) <= 100, "24 MB of text; the rest is listed"
    page.select_option("#sort", "score")
    page.fill("#search", "number 77")
    assert count(page) == "17 of 800 chains", "77, 177 to 777, and 770 to 779"
    page.fill("#search", "")
    for key in ("p/1/own/0", "p/2/own/0", "p/3/own/0"):
        start = time.monotonic()
        page.evaluate("key => viewer.open(viewer.rows.find((row) => row.id === key))", key)
        shown(page, key)
        assert time.monotonic() - start < 3
    assert page.locator(".steps li").count() > 50
