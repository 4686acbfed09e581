"""A small web with mathematics, as a WARC, which the recipe `mammoth2_demo` and the tests mine; its answers are known.

    python -m bench.data.exam_site    # writes recipes/data/exam_*

Five kinds of pages: exams (Problem and Solution headings), a forum (schema.org microdata), a help site (JSON-LD,
`<details>`), and a shop and news, from which nothing is to be learned. Formulas come as MathJax 2 scripts, KaTeX,
Wikipedia images and plain `\\(..\\)`, a page in one way. The same numbers for the same seed, everywhere.
"""

import gzip
import html
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

DATA = Path(__file__).resolve().parents[2] / "recipes" / "data"
DATE = "2026-01-01T00:00:00Z"
Style = Callable[[str], str]  # LaTeX to HTML


def main() -> None:
    """Write the files of the recipe."""
    DATA.mkdir(exist_ok=True)
    for name, pages, seed, kinds in (("exam_site", 400, 1, ()), ("exam_seeds", 150, 2, ("exam", "forum", "help"))):
        records = b"".join(record(url, page) for url, page in site(pages, seed, kinds))
        (DATA / f"{name}.warc.gz").write_bytes(gzip.compress(records, mtime=0))
    lines = [json.dumps(row) + "\n" for row in problems(60, 9)]
    (DATA / "exam_problems.jsonl").write_text("".join(lines), encoding="utf-8")


def problems(size: int, seed: int) -> Iterator[dict[str, str]]:
    """Problems as the site has them, with their answers."""
    for number in range(1, size + 1):
        question, solution = _problem(Random(f"{seed}/problem/{number}"), _plain)
        yield {"problem": html.unescape(question), "answer": solution.rpartition("The answer is ")[2].rstrip(".")}


def record(url: str, page: str) -> bytes:
    """A page as a WARC record."""
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
        host, title, body = KINDS[kind](random, f"{seed}-{number}")
        links = "<nav><ul><li><a href='/'>Home</a></li><li><a href='/all'>All pages</a></li></ul></nav>"
        end = "<footer><p>All rights reserved. <a href='/terms'>Terms</a></p></footer>"
        top = f"<head><meta charset='utf-8'><title>{title}</title></head>"
        page = f"{top}<body>{links}<main><h1>{title}</h1>{body}</main>{end}</body>"
        yield f"https://{host}/{seed}-{number}", f"<!DOCTYPE html><html lang='en'>{page}</html>"


def _plain(tex: str) -> str:
    return f"\\({html.escape(tex)}\\)"


def _katex(tex: str) -> str:
    note = f"<annotation encoding='application/x-tex'>{html.escape(tex)}</annotation>"
    inner = f"<math><semantics><mrow></mrow>{note}</semantics></math>"
    return f"<span class='katex'><span class='katex-mathml'>{inner}</span><span class='katex-html'>?</span></span>"


STYLES: tuple[Style, ...] = (
    lambda tex: f'<script type="math/tex">{tex}</script>',
    lambda tex: f'<img class="mwe-math-fallback-image-inline" alt="{{\\displaystyle {tex}}}" src="/math/render/svg/1">',
    _plain,
    _katex,
)


def _problem(random: Random, style: Style) -> tuple[str, str]:
    """A question and its worked solution, both as HTML."""
    return random.choice((_linear, _powers, _fractions, _rows))(random, style)


def _linear(random: Random, style: Style) -> tuple[str, str]:
    a, x, b = random.randint(2, 9), random.randint(2, 12), random.randint(1, 30)
    steps = f"Subtract {b} from both sides to get {style(f'{a}x = {a * x}')}. Divide by {a}: {style(f'x = {x}')}."
    return f"Solve the equation {style(f'{a}x + {b} = {a * x + b}')} for x.", f"{steps} The answer is {x}."


def _powers(random: Random, style: Style) -> tuple[str, str]:
    base, m, n = random.randint(2, 5), random.randint(2, 4), random.randint(1, 3)
    product, power = style(f"{base}^{{{m}}} \\cdot {base}^{{{n}}}"), style(f"{base}^{{{m + n}}}")
    steps = f"Exponents of the same base add up, which gives {power}."
    return f"Work out {product} as a whole number.", f"{steps} The answer is {base ** (m + n)}."


def _fractions(random: Random, style: Style) -> tuple[str, str]:
    b, d = random.sample((2, 3, 5, 7), 2)
    a, c = random.randint(1, b - 1), random.randint(1, d - 1)
    top, low = a * d + c * b, b * d
    terms, total = style(f"\\frac{{{a}}}{{{b}}} + \\frac{{{c}}}{{{d}}}"), style(f"\\frac{{{top}}}{{{low}}}")
    steps = f"Over the common denominator {low} the sum is {total}."
    return f"Add the fractions {terms}.", f"{steps} The answer is {top}/{low}."


def _rows(random: Random, style: Style) -> tuple[str, str]:
    rows, seats, free = random.randint(6, 30), random.randint(8, 24), random.randint(1, 40)
    question = f"A hall has {rows} rows of {seats} seats, and {free} seats stay empty. How many people came?"
    all_, people, product = rows * seats, rows * seats - free, style(f"{rows} \\times {seats}")
    steps = f"There are {product} seats, that is {all_}."
    return question, f"{steps} Without the empty ones {all_} - {free} = {people}. The answer is {people}."


Page = tuple[str, str, str]  # host, title, HTML


def _exam(random: Random, number: str) -> Page:
    style, parts = random.choice(STYLES), []
    for at in range(1, random.randint(3, 5)):
        question, solution = _problem(random, style)
        parts.append(f"<h2>Problem {at}</h2><p>{question}</p><h3>Solution</h3><p>{solution}</p>")
    return "exams.example", f"Exercise sheet {number}", "".join(parts)


def _forum(random: Random, number: str) -> Page:
    question, solution = _problem(random, random.choice(STYLES))
    why = random.choice(("I have an exam on Monday.", "I am stuck at the first step.", "The book has another result."))
    text = f"<div itemprop='text'><p>{solution}</p></div>"
    answer = f"<div itemprop='acceptedAnswer' itemscope itemtype='https://schema.org/Answer'>{text}</div>"
    body = f"<h2 itemprop='name'>Question {number}</h2><div itemprop='text'><p>{question} {why}</p></div>{answer}"
    box = f"<div itemscope itemtype='https://schema.org/Question' itemprop='mainEntity'>{body}</div>"
    whole = f"<div itemscope itemtype='https://schema.org/QAPage'>{box}</div>"
    return "www.forum.example", f"Question {number}", whole


def _help(random: Random, number: str) -> Page:
    if random.random() < 0.5:
        question, solution = _problem(random, _plain)
        answer = {"@type": "Answer", "text": f"<p>{solution}</p>"}
        entity = {"@type": "Question", "name": question, "acceptedAnswer": answer}
        data = json.dumps({"@context": "https://schema.org", "@type": "FAQPage", "mainEntity": [entity]})
        text = f"<p>Today's homework question: {html.escape(question)}</p><p>{html.escape(solution)}</p>"
        body = f"<script type='application/ld+json'>{data}</script>{text}"
    else:
        pairs = (_problem(random, _plain) for _ in range(2))
        body = "".join(f"<details><summary>{q}</summary><p>{a}</p></details>" for q, a in pairs)
    return "help.example", f"Homework help {number}", body


def _shop(random: Random, number: str) -> Page:
    goods = "lamp|kettle|garden chair|blanket|bicycle bell|tea pot|wall clock|backpack".split("|")
    colours = "red|olive|white|slate|yellow".split("|")
    states = "in stock|sold out|ready to ship|reduced this week".split("|")
    parts = [
        f"<p>The {random.choice(colours)} {random.choice(goods)} costs {random.randint(5, 90)} euros and is "
        f"{random.choice(states)}. Add it to your basket.</p>"
        for _ in range(random.randint(4, 9))
    ]
    asked = "<h3>When will my parcel arrive?</h3><p>The carrier has it within two working days of your order.</p>"
    return "shop.example", f"Offers {number}", "".join(parts) + asked


def _news(random: Random, number: str) -> Page:
    who = "The council|A local club|The museum|The harbour office|The library".split("|")
    what = "opened a new wing|postponed its meeting|thanked its volunteers|repaired the roof|welcomed visitors".split(
        "|"
    )
    parts = [
        f"<p>{random.choice(who)} {random.choice(what)} on {random.choice(('Monday', 'Tuesday', 'Friday'))}, and about "
        f"{random.randint(20, 900)} people came to {random.choice(('listen', 'help', 'celebrate'))}.</p>"
        for _ in range(random.randint(4, 9))
    ]
    return "news.example", f"Town news {number}", "".join(parts)


KINDS: dict[str, Callable[[Random, str], Page]] = {
    **{"exam": _exam, "forum": _forum, "help": _help, "shop": _shop, "news": _news},
}
SHARES = ("exam", "forum", "help", "shop", "shop", "news", "news")


if __name__ == "__main__":
    main()
