"""A small web of our own with mathematics, as a WARC, which the demo and the tests mine; its answers are known.

    pool: {web: {_target_: curation.mammoth2.exam_site.archives, pages: 300, seed: 1, kinds: []}}

Four domains: exams (Problem and Solution headings), a forum (schema.org microdata), a help site (JSON-LD, `<details>`),
and a shop with news, of which nothing is to be learned. Formulas come as MathJax 2 scripts, KaTeX, MathML, Wikipedia
images, `<sup>` and plain `\\(..\\)`, a page in one way. The same numbers for the same seed, everywhere.
"""

import gzip
import html
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from limo.data import Example, Row, chat, content_id
from limo.errors import UserError
from limo.machine import cache_folder
from limo.recipe import suggest

DATE = "2026-01-01T00:00:00Z"


def archives(name: str, system: str, /, *, pages: int, seed: int, kinds: list[str]) -> Iterator[Row]:
    """The site as one archive in the toolkit's cache; pages of `kinds` (see KINDS) only, of all where it is empty.

    Raises UserError for a kind that there is not.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"pool source '{name}': the site has no pages '{kind}'{suggest(kind, KINDS)}")
    path = cache_folder() / "site" / f"{content_id([pages, seed, kinds])}.warc.gz"
    write(path, pages, seed, kinds)
    yield Example(f"{name}/site", chat(str(path), system), "", source=name)


def problems(name: str, system: str, /, *, size: int, seed: int) -> Iterator[Row]:
    """Problems as the site has them, with their answers, as a benchmark: another seed gives others."""
    plain: Style = lambda f: f"\\({f[0]}\\)"  # noqa: E731
    for number in range(1, size + 1):
        asked, said = _problem(Random(f"{seed}/problem/{number}"), plain)
        answer = said.rpartition("The answer is ")[2].rstrip(".")
        yield Example(f"{name}/{number}", chat(html.unescape(asked), system), answer, source=name)


def write(path: Path, pages: int, seed: int, kinds: Sequence[str] = ()) -> None:
    """Write the WARC, a gzip member to each page, as crawlers do."""
    data = b"".join(gzip.compress(_record(url, page), mtime=0) for url, page in site(pages, seed, kinds))
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(f".{os.getpid()}").write_bytes(data)
        path.with_suffix(f".{os.getpid()}").replace(path)


def _record(url: str, page: str) -> bytes:
    body = page.encode()
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    head = f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: {DATE}\r\n"
    head += "Content-Type: application/http; msgtype=response\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(http) + http + b"\r\n\r\n"


def site(pages: int, seed: int, kinds: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Addresses and pages."""
    for number in range(pages):
        random = Random(f"{seed}/{number}")
        kind = random.choice([name for name in SHARES if not kinds or name in kinds])
        yield KINDS[kind](random, f"{seed}-{number}")


Formula = tuple[str, str]  # as LaTeX and as MathML
Style = Callable[[Formula], str]


def _mathml(formula: Formula) -> str:
    return f"<math xmlns='http://www.w3.org/1998/Math/MathML'>{formula[1]}</math>"


def _katex(formula: Formula) -> str:
    note = f"<annotation encoding='application/x-tex'>{html.escape(formula[0])}</annotation>"
    inner = f"<math><semantics><mrow>{formula[1]}</mrow>{note}</semantics></math>"
    return f"<span class='katex'><span class='katex-mathml'>{inner}</span><span class='katex-html'>?</span></span>"


STYLES: tuple[Style, ...] = (
    lambda f: f'<script type="math/tex">{f[0]}</script>',
    lambda f: f'<img class="mwe-math-fallback-image-inline" alt="{{\\displaystyle {f[0]}}}" src="/math/render/svg/1">',
    lambda f: f"\\({html.escape(f[0])}\\)",
    _mathml,
    _katex,
)


def _problem(random: Random, style: Style) -> tuple[str, str]:
    """A question and its worked solution, both as HTML."""
    return random.choice((_linear, _powers, _fractions, _rows))(random, style)


def _linear(random: Random, style: Style) -> tuple[str, str]:
    a, x, b = random.randint(2, 9), random.randint(2, 12), random.randint(1, 30)
    c = a * x + b
    told = style((f"{a}x + {b} = {c}", f"<mn>{a}</mn><mi>x</mi><mo>+</mo><mn>{b}</mn><mo>=</mo><mn>{c}</mn>"))
    step = style((f"{a}x = {c - b}", f"<mn>{a}</mn><mi>x</mi><mo>=</mo><mn>{c - b}</mn>"))
    end = style((f"x = {x}", f"<mi>x</mi><mo>=</mo><mn>{x}</mn>"))
    return (
        f"Solve the equation {told} for x.",
        f"Subtract {b} from both sides to get {step}. Divide by {a}: {end}. The answer is {x}.",
    )


def _powers(random: Random, style: Style) -> tuple[str, str]:
    base, m, n = random.randint(2, 5), random.randint(2, 4), random.randint(1, 3)
    power = [f"<msup><mn>{base}</mn><mn>{k}</mn></msup>" for k in (m, n, m + n)]
    told = style((f"{base}^{{{m}}} \\cdot {base}^{{{n}}}", f"{power[0]}<mo>⋅</mo>{power[1]}"))
    step = style((f"{base}^{{{m + n}}}", power[2]))
    value = base ** (m + n)
    return (
        f"Work out {told} as a whole number.",
        f"Exponents of the same base add up, which gives {step}. The answer is {value}.",
    )


def _fractions(random: Random, style: Style) -> tuple[str, str]:
    b, d = random.sample((2, 3, 5, 7), 2)
    a, c = random.randint(1, b - 1), random.randint(1, d - 1)
    top, low = a * d + c * b, b * d
    fraction = [f"<mfrac><mn>{x}</mn><mn>{y}</mn></mfrac>" for x, y in ((a, b), (c, d), (top, low))]
    told = style((f"\\frac{{{a}}}{{{b}}} + \\frac{{{c}}}{{{d}}}", f"{fraction[0]}<mo>+</mo>{fraction[1]}"))
    step = style((f"\\frac{{{top}}}{{{low}}}", fraction[2]))
    said = f"Over the common denominator {low} the sum is {step}. The answer is {top}/{low}."
    return f"Add the fractions {told}.", said


def _rows(random: Random, style: Style) -> tuple[str, str]:
    rows, seats, free = random.randint(6, 30), random.randint(8, 24), random.randint(1, 40)
    product = style((f"{rows} \\times {seats}", f"<mn>{rows}</mn><mo>×</mo><mn>{seats}</mn>"))
    asked = f"A hall has {rows} rows of {seats} seats, and {free} seats stay empty. How many people came?"
    all_, people = rows * seats, rows * seats - free
    said = f"There are {product} seats, that is {all_}. Without the empty ones {all_} - {free} = {people}."
    return asked, f"{said} The answer is {people}."


def _page(title: str, body: str, head: str = "") -> str:
    links = "<nav><ul><li><a href='/'>Home</a></li><li><a href='/all'>All pages</a></li></ul></nav>"
    end = "<footer><p>All rights reserved. <a href='/terms'>Terms</a></p></footer>"
    top = f"<head><meta charset='utf-8'><title>{title}</title>{head}</head>"
    return f"<!DOCTYPE html><html lang='en'>{top}<body>{links}<main><h1>{title}</h1>{body}</main>{end}</body></html>"


def _exam(random: Random, number: str) -> tuple[str, str]:
    style, parts = random.choice(STYLES), []
    for at in range(1, random.randint(3, 5)):
        asked, said = _problem(random, style)
        parts.append(f"<h2>Problem {at}</h2><p>{asked}</p><h3>Solution</h3><p>{said}</p>")
    return f"https://exams.example/sheet/{number}", _page(f"Exercise sheet {number}", "".join(parts))


def _forum(random: Random, number: str) -> tuple[str, str]:
    asked, said = _problem(random, random.choice(STYLES))
    thanks = random.choice(
        ("I have an exam on Monday.", "I am stuck at the first step.", "My result differs from the book's.")
    )
    text = f"<div itemprop='text'><p>{said}</p></div>"
    answer = f"<div itemprop='acceptedAnswer' itemscope itemtype='https://schema.org/Answer'>{text}</div>"
    body = f"<h2 itemprop='name'>Question {number}</h2><div itemprop='text'><p>{asked} {thanks}</p></div>{answer}"
    box = f"<div itemscope itemtype='https://schema.org/Question' itemprop='mainEntity'>{body}</div>"
    return f"https://www.forum.example/q/{number}", _page(
        f"Question {number}", f"<div itemscope itemtype='https://schema.org/QAPage'>{box}</div>"
    )


def _help(random: Random, number: str) -> tuple[str, str]:
    plain: Style = lambda f: f"\\({f[0]}\\)"  # noqa: E731
    if random.random() < 0.5:
        asked, said = _problem(random, plain)
        entity = {"@type": "Question", "name": asked, "acceptedAnswer": {"@type": "Answer", "text": f"<p>{said}</p>"}}
        data = json.dumps({"@context": "https://schema.org", "@type": "FAQPage", "mainEntity": [entity]})
        head = f"<script type='application/ld+json'>{data}</script>"
        body = f"<p>Today's homework question: {html.escape(asked)}</p><p>{html.escape(said)}</p>"
        return f"https://help.example/{number}", _page(f"Homework help {number}", body, head)
    boxes = "".join(
        f"<details><summary>{asked}</summary><p>{said}</p></details>"
        for asked, said in (_problem(random, plain) for _ in range(2))
    )
    return f"https://help.example/{number}", _page(f"Homework help {number}", boxes)


def _shop(random: Random, number: str) -> tuple[str, str]:
    goods = ("lamp", "kettle", "garden chair", "blanket", "bicycle bell", "tea pot", "wall clock", "backpack")
    colours = ("red", "olive", "white", "slate", "yellow")
    parts = [
        f"<p>The {random.choice(colours)} {random.choice(goods)} costs {random.randint(5, 90)} euros and is "
        f"{random.choice(('in stock', 'sold out', 'ready to ship', 'reduced this week'))}. Add it to your basket.</p>"
        for _ in range(random.randint(4, 9))
    ]
    asked = "<h3>When will my parcel arrive?</h3><p>The carrier has it within two working days of your order.</p>"
    return f"https://shop.example/item/{number}", _page(f"Offers {number}", "".join(parts) + asked)


def _news(random: Random, number: str) -> tuple[str, str]:
    who = ("The council", "A local club", "The museum", "The harbour office", "The library")
    what = (
        "opened a new wing",
        "postponed its meeting",
        "thanked its volunteers",
        "repaired the roof",
        "welcomed visitors",
    )
    parts = [
        f"<p>{random.choice(who)} {random.choice(what)} on {random.choice(('Monday', 'Tuesday', 'Friday'))}, and about "
        f"{random.randint(20, 900)} people came to {random.choice(('listen', 'help', 'celebrate'))}.</p>"
        for _ in range(random.randint(4, 9))
    ]
    return f"https://news.example/{number}", _page(f"Town news {number}", "".join(parts))


KINDS: dict[str, Callable[[Random, str], tuple[str, str]]] = {
    **{"exam": _exam, "forum": _forum, "help": _help, "shop": _shop, "news": _news},
}
SHARES = ("exam", "forum", "help", "shop", "shop", "news", "news")
