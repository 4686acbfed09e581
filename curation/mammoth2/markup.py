"""Questions and answers that a page marks as such: schema.org, FAQ markup, definition lists, headings, labelled lines.

    mark(tree)                     # before the text is extracted: marks around what the markup says
    text, pairs = unmarked(raw)    # after it: the text without marks, and the pairs as places in it

Marks are private-use characters in the text itself, so that a pair is a piece of the very text that was extracted, with
its place. Pairs are taken in the order of RULES, what states itself most clearly first; no answer is given twice.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

OPEN, CLOSE = "\ue000", "\ue001"  # around a mark: kind, number
MARK = re.compile(r"\ue000([a-zA-Z]+)(\d+)\ue001")
PRIVATE = re.compile("[\ue000-\ue0ff]")
REFERENCE = re.compile(r"&#(?:x0*e0[\da-f]{2}(?![\da-f])|0*57[3-5]\d\d(?!\d));?", re.IGNORECASE)  # to one, in HTML
Rule = Literal[
    "schema.org", "json-ld", "q&a markup", "problem and solution", "faq heading", "definition", "labelled lines"
]
RULES: tuple[Rule, ...] = get_args(Rule)
MOST = 500  # pairs of a page
DEEPEST = 12  # of JSON-LD

_NUMBER = r"[\s#№]*[\dIVX]{0,4}(?:[.\-–]\d+)*[a-z]?\s*(?:\([^)\n]{0,60}\))?\s*[.:)\-–]*\s*"
ASKS = re.compile(rf"(?:problem|exercise|question|example|task|q){_NUMBER}$", re.IGNORECASE)
ANSWERS = re.compile(
    rf"(?:worked |model |sample |full |detailed )?(?:solution|answer|proof|a)s?(?: (?:to|of|for) .{{1,40}})?{_NUMBER}$",
    re.IGNORECASE,
)
_LINE_ASKS = re.compile(
    r"^[ \t*•>]*(?:(?:Problem|Exercise|Question|Task)(?:[ \t]*\d{1,4}(?:\.\d+)*[a-z]?)?[.:)]|Q\d{0,3}[.:)])[ \t]*", re.M
)
_LINE_ANSWERS = re.compile(r"^[ \t*•>]*(?:(?:Solution|Answer)(?:[ \t]*\d{1,4})?[.:)]|A\d{0,3}[.:)])[ \t]*", re.M)
_NUMBERING = re.compile(r"^\s*(?:(?:Q|Question)?\s*\d{1,3}(?:\.\d{1,3})*[.):]?\s+|Q[.:]\s*)")
_PERMALINK = re.compile(r"\s*[¶§#]\s*$")


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer; places in the text as [start, end), or -1 where it stands in metadata only."""

    rule: str
    question: str
    answer: str
    at: tuple[int, int, int, int]


def mark(tree: Any, html: str) -> int:
    """Put marks around what the markup of a page calls a question, an answer, a heading. Returns how many answers."""
    body, low = tree.body, html.lower()
    if body is None:
        return 0
    marker = _Marker(tree)
    if "schema.org" in low or "itemtype" in low:
        for item in body.query_selector_all('[itemtype*="schema.org/Question"]')[:]:
            asked = item.query_selector('[itemprop="text"]') if _long_name(item) else None
            asked = asked if asked is not None else item.query_selector('[itemprop="name"], [itemprop="text"]')
            said = item.query_selector('[itemprop~="acceptedAnswer"]')
            said = said if said is not None else item.query_selector('[itemprop~="suggestedAnswer"]')
            text = said.query_selector('[itemprop="text"]') if said is not None else None
            marker.pair("s", asked, text if text is not None else said)
    if "question" in low or "faq" in low or "<summary" in low:
        _classes(body, marker)
    if "<dt" in low:
        for term in body.query_selector_all("dt")[:]:
            said = term.next_element
            if said is not None and said.tag == "dd":
                marker.pair("d", term, said)
    for heading in body.query_selector_all("h1, h2, h3, h4, h5, h6")[:]:
        marker.heading(heading)
    return marker.count


def _long_name(item: Any) -> bool:
    """Whether a question has a text beside its title."""
    inner = item.query_selector('[itemprop="text"]')
    owner = inner.closest('[itemtype*="schema.org"]') if inner is not None else None
    return owner is not None and "Question" in (owner.getattr("itemtype") or "")


class _Marker:
    """Puts text nodes with marks into a tree."""

    def __init__(self, tree: Any) -> None:
        self.tree, self.count = tree, 0

    def pair(self, kind: str, asked: Any, said: Any) -> None:
        if asked is None or said is None or self.count >= MOST:
            return
        self.count += 1
        for node, letter in ((asked, "q"), (said, "a")):
            for name in ("style", "hidden", "aria-hidden"):  # an answer that opens on a click is still the answer
                if node.hasattr(name):
                    node.delattr(name)
            self.around(node, kind + letter, self.count)

    def around(self, node: Any, kind: str, number: int) -> None:
        first = node.first_child
        opening = self.tree.create_text_node(f"{OPEN}{kind}{number}{CLOSE}")
        if first is None:
            node.append_child(opening)
        else:
            node.insert_before(opening, first)
        node.append_child(self.tree.create_text_node(f"{OPEN}{kind}end{number}{CLOSE}"))

    def heading(self, node: Any) -> None:
        """Marks around a heading, and one where the section around it ends."""
        for link in node.query_selector_all("a.headerlink, a.anchor, a.copiable-link")[:]:
            link.parent.remove_child(link)
        self.around(node, "h", int(node.tag[1]))
        around = node.closest("section, article, main, .section, .sect1, .sect2, .chapter")
        if around is not None:
            around.append_child(self.tree.create_text_node(f"{OPEN}e0{CLOSE}"))


def _classes(body: Any, marker: _Marker) -> None:
    """Elements whose class says question and answer, in turn; `<details>` with its summary."""
    for box in body.query_selector_all("details")[:]:
        if (asked := box.query_selector("summary")) is not None:
            rest = marker.tree.create_element("div")
            for child in box.child_nodes[:]:
                if child != asked:
                    rest.append_child(child)
            box.append_child(rest)
            marker.pair("c", asked, rest)
    waiting = None
    for node in body.query_selector_all(
        '[class*="question"], [class*="Question"], [class*="answer"], [class*="Answer"]'
    )[:]:
        words = re.split(r"[\s_\-]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", node.getattr("class") or "").lower())
        if node.query_selector('[class*="answer"], [class*="Answer"]') is not None or len(words) > 12:
            continue  # a box around both
        if "answer" in words and waiting is not None:
            marker.pair("c", waiting, node)
            waiting = None
        elif "question" in words and "answer" not in words:
            waiting = node


def unmarked(raw: str) -> tuple[str, list[Pair]]:
    """An extracted text without its marks, and the pairs that these and its own labels state."""
    pieces, marks, at, end = list[str](), list[tuple[str, int, int]](), 0, 0
    for found in MARK.finditer(raw):
        piece = PRIVATE.sub("", raw[end : found.start()])
        pieces.append(piece)
        at += len(piece)
        marks.append((found[1], int(found[2]), at))
        end = found.end()
    text = "".join(pieces) + PRIVATE.sub("", raw[end:])
    stated = [*_marked(text, marks), *_under_headings(text, marks), *_labelled(text)]
    return text, _distinct(stated)


def _distinct(stated: list[Pair]) -> list[Pair]:
    """The pairs in the order of RULES, without those whose answer overlaps that of one before."""
    kept: list[Pair] = []
    for pair in sorted(stated, key=lambda pair: RULES.index(pair.rule)):
        _, _, start, end = pair.at
        if pair.question and pair.answer and not any(k.at[2] < end and start < k.at[3] for k in kept):
            kept.append(pair)
    return sorted(kept, key=lambda pair: pair.at)[:MOST]


def _pair(rule: str, text: str, asked: tuple[int, int], said: tuple[int, int]) -> Pair:
    """A pair from two places in the text, white space and numbering at their ends left out."""
    (a, b), (c, d) = (_trimmed(text, *place) for place in (asked, said))
    if found := _NUMBERING.match(text[a:b]):
        a += found.end()
    if found := _PERMALINK.search(text[a:b]):
        b = a + found.start()
    return Pair(rule, text[a:b], text[c:d], (a, b, c, d))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), max(end - len(piece) + len(piece.rstrip()), start)


def _marked(text: str, marks: list[tuple[str, int, int]]) -> Iterator[Pair]:
    """Pairs that marks name: schema.org, classes, definition lists."""
    places = {(kind, number): at for kind, number, at in reversed(marks) if kind not in ("h", "hend", "e")}
    rules = {"s": "schema.org", "c": "q&a markup", "d": "definition"}
    for (kind, number), start in places.items():
        if kind[1:] != "q":
            continue
        ends = [places.get((kind[0] + name, number)) for name in ("qend", "a", "aend")]
        if None not in ends and kind[0] in rules:
            end, said, said_end = (int(e or 0) for e in ends)
            yield _pair(rules[kind[0]], text, (start, end), (said, said_end))


def _under_headings(text: str, marks: list[tuple[str, int, int]]) -> Iterator[Pair]:
    """Problem and Solution headings, and headings that are questions, each with what stands below."""
    starts = [(at, kind, number) for kind, number, at in marks if kind in ("h", "hend", "e")]
    waiting: tuple[int, int] | None = None
    for i, (start, kind, level) in enumerate(starts):
        later = starts[i + 1 :] if kind == "h" else []
        end = next((at for at, other, n in later if other == "hend" and n == level), None)
        if end is None:
            continue
        below = next((at for at, other, _ in later if other in ("h", "e") and at >= end), len(text))
        title = text[start:end].strip()
        if ASKS.match(title):
            waiting = _trimmed(text, end, below)
        elif ANSWERS.match(title) and waiting is not None:
            yield _pair("problem and solution", text, waiting, (end, _whole(text, later, level)))
            waiting = None
        elif _PERMALINK.sub("", title).endswith("?") and level:
            yield _pair("faq heading", text, (start, end), (end, below))


def _whole(text: str, later: list[tuple[int, str, int]], level: int) -> int:
    """Where a solution ends: deeper headings, such as its steps, belong to it, unless they ask or answer themselves."""
    inside = 0  # headings whose own sections have not ended: each has its mark, inside of that of the solution
    for (at, kind, number), (end, _, _) in pairwise([*later, (len(text), "", 0)]):
        title = _PERMALINK.sub("", text[at:end].strip())
        if kind == "h" and (number <= level or ASKS.match(title) or ANSWERS.match(title) or title.endswith("?")):
            return at
        if kind == "e" and not inside:
            return at
        inside += {"h": 1, "e": -1}.get(kind, 0)
    return len(text)


def _labelled(text: str) -> Iterator[Pair]:
    """Lines that begin with "Problem 3." and "Solution:", or with "Q:" and "A:"."""
    asks = [(found.start(), found.end(), "q") for found in _LINE_ASKS.finditer(text)]
    says = [(found.start(), found.end(), "a") for found in _LINE_ANSWERS.finditer(text)]
    labels = sorted([*asks, *says])
    for i, ((_, end, kind), (start, said, other)) in enumerate(pairwise(labels)):
        if (kind, other) == ("q", "a"):
            stop = labels[i + 2][0] if i + 2 < len(labels) else _gap(text, said)
            yield _pair("labelled lines", text, (end, start), (said, stop))


def _gap(text: str, start: int) -> int:
    """Where the last answer of a page ends: three empty lines, or the end."""
    found = re.compile(r"\n\s*\n\s*\n\s*\n").search(text, start)
    return found.start() if found else len(text)


def json_ld(scripts: list[str]) -> list[tuple[str, str]]:
    """Questions and answers of schema.org's QAPage and FAQPage in JSON-LD, as they stand there, HTML or text."""
    found: list[tuple[str, str]] = []
    for script in scripts:
        try:
            _walk(json.loads(script), found, 0)
        except (ValueError, RecursionError):  # broken metadata says nothing against the page
            continue
    return found[:MOST]


def _walk(value: Any, found: list[tuple[str, str]], depth: int) -> None:
    if depth > DEEPEST:
        return
    if isinstance(value, list):
        for inner in value:
            _walk(inner, found, depth + 1)
    elif isinstance(value, dict):
        if "Question" in str(value.get("@type", "")):
            asked = value.get("text") or value.get("name")
            said = value.get("acceptedAnswer") or value.get("suggestedAnswer")
            said = said[0] if isinstance(said, list) and said else said
            answer = said.get("text") if isinstance(said, dict) else said
            if isinstance(asked, str) and isinstance(answer, str) and len(found) < MOST:
                found.append((asked, answer))
        for inner in value.values():
            if isinstance(inner, dict | list):
                _walk(inner, found, depth + 1)
