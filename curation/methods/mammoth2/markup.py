"""Questions and answers that a page marks as such: schema.org, FAQ markup, definition lists, headings, labelled lines.

    mark(tree)                     # before the text is extracted: puts marks around questions and answers
    text, pairs = unmarked(raw)    # after it: the text without marks, and the pairs as positions in it

Marks are private-use characters in the text, so that a pair is a piece of the extracted text, with its position. Pairs
are taken in the order of RULES, the clearest markup first; no answer is used twice.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

OPEN, CLOSE = "\ue000", "\ue001"  # around a mark, which has kind and number
MARK = re.compile(r"\ue000([a-zA-Z]+)(\d+)\ue001")
PRIVATE = re.compile("[\ue000-\ue0ff]")
REFERENCE = re.compile(r"&#(?:x0*e0[\da-f]{2}(?![\da-f])|0*57[3-5]\d\d(?!\d));?", re.IGNORECASE)  # to one, in HTML
Rule = Literal[
    "schema.org", "json-ld", "q&a markup", "problem and solution", "faq heading", "definition", "labelled lines"
]
RULES: tuple[Rule, ...] = get_args(Rule)
MOST = 500  # most pairs of a page
DEEPEST = 12  # most levels of JSON-LD
LINKED = 0.7  # an element with more than this share of its text in links is a table of contents

_NUMBER = r"[\s#№]*[\dIVX]{0,4}(?:[.\-–]\d+)*[a-z]?\s*(?:\([^)\n]{0,60}\))?\s*[.:)\-–]*\s*"
ASKS = re.compile(rf"(?:problem|exercise|question|example|task|q){_NUMBER}$", re.IGNORECASE)
ANSWERS = re.compile(
    rf"(?:worked |model |sample |full |detailed )?(?:solution|answer|proof|a)s?(?: (?:to|of|for) .{{1,40}})?{_NUMBER}$",
    re.IGNORECASE,
)
_LINE_ASKS = re.compile(
    r"^[ \t*•>]*(?:(?:Problem|Exercise|Question|Task)(?:[ \t]*\d{1,4}(?:\.\d+)*[a-z]?)?[.:)]|Q\d{0,3}[.:)])[ \t]*", re.M
)
_LINE_ANSWERS = re.compile(
    r"^[ \t*•>]*(?:(?:Solution|Answer)s?(?:[ \t]+key)?(?:[ \t]*\d{1,4}(?:\.\d+)*[a-z]?)?[.:)]|A\d{0,3}[.:)])[ \t]*",
    re.M,
)
_SEVERAL = re.compile(r"(?:\w+ )?(?:solutions|answers|answer key)\b", re.IGNORECASE)
_ITEM = re.compile(r"(?:^|(?<=\s))\(?(\d{1,3}[a-z]?)[.)][ \t]+(?=\S)", re.M)
_NUMBERING = re.compile(r"^\s*(?:(?:Q|Question)?\s*\d{1,3}(?:\.\d{1,3})*[.):]?\s+|Q[.:]\s*)")
_QUESTION = re.compile(r"Q(?:uestion)?[ \t]*\d+(?:\.\d+)*[.:)]?[ \t]+\S")
_FOOT = re.compile(
    r"^\W*(?:(?:prev|previous|next|up|home|back|contents|top)\b(?:$|[:\s].{0,80}$)|copyright\b|©)", re.M | re.IGNORECASE
)
_PERMALINK = re.compile(r"\s*[¶§#]\s*$")


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer, with positions in the text as [start, end), or -1 if they are in metadata only."""

    rule: str
    question: str
    answer: str
    at: tuple[int, int, int, int]


def mark(tree: Any, html: str) -> int:
    """Put marks around questions, answers and headings in a page's markup. Returns the number of answers."""
    body, low = tree.body, html.lower()
    if body is None:
        return 0
    marker = _Marker(tree)
    if "schema.org" in low or "itemtype" in low:
        for item in body.query_selector_all('[itemtype*="schema.org/Question"]')[:]:
            asked = item.query_selector('[itemprop="text"]') if _long_name(item) else None
            asked = asked if asked is not None else item.query_selector('[itemprop="name"], [itemprop="text"]')
            said = item.query_selector('[itemprop~="acceptedAnswer"]')
            if said is None:
                said = max(item.query_selector_all('[itemprop~="suggestedAnswer"]')[:], key=_votes, default=None)
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
    """Whether a question's text contains more than its title."""
    inner = item.query_selector('[itemprop="text"]')
    owner = inner.closest('[itemtype*="schema.org"]') if inner is not None else None
    return owner is not None and "Question" in (owner.getattr("itemtype") or "")


def _votes(answer: Any) -> int:
    """The number of votes of a suggested answer. Among answers with equally many votes, the first is taken."""
    node = answer.query_selector('[itemprop="upvoteCount"]')
    return _whole_number((node.getattr("content") or node.text) if node is not None else "")


def _whole_number(said: object) -> int:
    found = re.fullmatch(r"\s*([+-]?\d{1,9})\s*", str(said))
    return int(found[1]) if found else 0


def _is_contents(node: Any) -> bool:
    """Whether an element consists mostly of links, as a table of contents does."""
    linked = sum(len((link.text or "").strip()) for link in node.query_selector_all("a")[:])
    return linked > LINKED * len((node.text or "").strip())


class _Marker:
    """Puts text nodes with marks into a tree."""

    def __init__(self, tree: Any) -> None:
        self.tree, self.count = tree, 0

    def pair(self, kind: str, asked: Any, said: Any) -> None:
        if asked is None or said is None or self.count >= MOST or _is_contents(said):
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
        """Put marks around a heading, and one at the end of its section."""
        for link in node.query_selector_all("a.headerlink, a.anchor, a.copiable-link")[:]:
            link.parent.remove_child(link)
        self.around(node, "h", int(node.tag[1]))
        around = node.closest("section, article, main, .section, .sect1, .sect2, .chapter")
        if around is not None:
            around.append_child(self.tree.create_text_node(f"{OPEN}e0{CLOSE}"))


def _classes(body: Any, marker: _Marker) -> None:
    """Mark alternating questions and answers that class names reveal, and each `<details>` element with its summary."""
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
    """Remove the marks from an extracted text. Returns the text and the pairs that marks and labels state."""
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
    """The pairs in the order of RULES, without pairs whose answer overlaps an earlier answer."""
    kept: list[Pair] = []
    for pair in sorted(stated, key=lambda pair: RULES.index(pair.rule)):
        _, _, start, end = pair.at
        if pair.question and pair.answer and not any(k.at[2] < end and start < k.at[3] for k in kept):
            kept.append(pair)
    return sorted(kept, key=lambda pair: pair.at)[:MOST]


def _pair(rule: str, text: str, asked: tuple[int, int], said: tuple[int, int]) -> Pair:
    """A pair from two ranges of the text, without white space and numbering at their ends."""
    if said[1] == len(text) and (foot := _FOOT.search(text, *said)):  # the last answer of a page
        said = said[0], foot.start()
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
    """The pairs stated by marks, which come from schema.org, class names and definition lists."""
    places = {(kind, number): at for kind, number, at in reversed(marks) if kind not in ("h", "hend", "e")}
    rules = {"s": "schema.org", "c": "q&a markup", "d": "definition"}
    for (kind, number), start in places.items():
        if kind[1:] != "q":
            continue
        ends = [places.get((kind[0] + name, number)) for name in ("qend", "a", "aend")]
        if None not in ends and kind[0] in rules:
            end, said, said_end = (int(e or 0) for e in ends)
            yield _pair(rules[kind[0]], text, (start, end), (said, said_end))


@dataclass(frozen=True, slots=True)
class _Part:
    """A labelled part of a text: what is asked, or what is answered."""

    asks: bool
    number: str  # in its label; empty if it has none
    place: tuple[int, int]  # range of the text after the label
    several: bool = False  # a label for several answers, such as "Answers"


def _under_headings(text: str, marks: list[tuple[str, int, int]]) -> Iterator[Pair]:
    """The pairs under headings: Problem and Solution, and headings that are questions, answered by the text
    below them.
    """
    starts = [(at, kind, number) for kind, number, at in marks if kind in ("h", "hend", "e")]
    parts, others = list[_Part](), list[tuple[int, str, tuple[int, int], tuple[int, int]]]()
    for i, (start, kind, level) in enumerate(starts):
        later = starts[i + 1 :] if kind == "h" else []
        end = next((at for at, other, n in later if other == "hend" and n == level), None)
        if end is None:
            continue
        below = next((at for at, other, _ in later if other in ("h", "e") and at >= end), len(text))
        title = _PERMALINK.sub("", text[start:end].strip())
        if ASKS.match(title):
            parts.append(_Part(True, _number_in(title), _trimmed(text, end, below)))
        elif ANSWERS.match(title):
            parts.append(
                _Part(False, _number_in(title), (end, _whole(text, later, level)), bool(_SEVERAL.match(title)))
            )
        elif level:
            others.append((level, title, (start, end), (end, _whole(text, later, level))))
    yield from _matched("problem and solution", text, parts)
    asking = {level for level in range(1, 7) if _mostly_asks([title for other, title, *_ in others if other == level])}
    for level, title, asked, said in others:
        if level in asking or title.endswith("?") or _QUESTION.match(title):
            yield _pair("faq heading", text, asked, said)


def _mostly_asks(titles: list[str]) -> bool:
    """Whether the headings of one level are mostly questions, so that those without a question mark count as questions
    too.
    """
    asks = sum(title.endswith("?") for title in titles)
    return asks > 2 and 2 * asks > len(titles)


def _number_in(label: str) -> str:
    found = re.search(r"\d+(?:\.\d+)*[a-z]?", label)
    return found[0] if found else ""


def _matched(rule: str, text: str, parts: list[_Part]) -> Iterator[Pair]:
    """Pair each answer with the question of the same number, or with the last question before it. Answer keys are
    paired by number.
    """
    waiting = list[_Part]()
    for part in parts:
        if part.asks:
            waiting.append(part)
            continue
        own = next((asked for asked in waiting if asked.number and asked.number == part.number), None)
        if own:
            waiting.remove(own)
            yield _pair(rule, text, own.place, part.place)
        elif waiting and not (part.number and waiting[-1].number):
            items = _items(text, part.place)
            asked = {one.number: one.place for one in waiting if one.number}
            asked = asked if len(asked.keys() & items.keys()) > 1 else _items(text, waiting[-1].place)
            if len(both := [number for number in asked if number in items]) > 1:
                yield from (_pair(rule, text, asked[number], items[number]) for number in both)
            elif len(waiting) == 1 or not part.several:
                yield _pair(rule, text, waiting[-1].place, part.place)
            waiting.clear()


def _items(text: str, place: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """The numbered items of a text, "1. ..." or "(2) ...", as a mapping from their number."""
    found = list(_ITEM.finditer(text, *place))
    ends = [*(one.start() for one in found[1:]), place[1]]
    return {one[1]: (one.end(), end) for one, end in zip(found, ends, strict=False)}


def _whole(text: str, later: list[tuple[int, str, int]], level: int) -> int:
    """Find where a solution ends. Deeper headings, such as those of steps, belong to it, unless they are questions or
    answers.
    """
    inside = 0  # headings whose sections are still open, nested in that of the solution
    for (at, kind, number), (end, _, _) in pairwise([*later, (len(text), "", 0)]):
        title = _PERMALINK.sub("", text[at:end].strip())
        if kind == "h" and (number <= level or ASKS.match(title) or ANSWERS.match(title) or title.endswith("?")):
            return at
        if kind == "e" and not inside:
            return at
        inside += {"h": 1, "e": -1}.get(kind, 0)
    return len(text)


def _labelled(text: str) -> Iterator[Pair]:
    """The pairs stated by lines that begin with "Problem 3." and "Solution:", or with "Q:" and "A:"."""
    found = [(m, True) for m in _LINE_ASKS.finditer(text)] + [(m, False) for m in _LINE_ANSWERS.finditer(text)]
    labels = sorted(found, key=lambda one: one[0].start())
    parts = list[_Part]()
    for at, (label, asks) in enumerate(labels, 1):
        stop = labels[at][0].start() if at < len(labels) else _gap(text, label.end())
        several = not asks and bool(_SEVERAL.match(label[0].strip()))
        parts.append(_Part(asks, _number_in(label[0]), (label.end(), stop), several))
    yield from _matched("labelled lines", text, parts)


def _gap(text: str, start: int) -> int:
    """Find where the last answer of a page ends: at three empty lines, or at the end of the text."""
    found = re.compile(r"\n\s*\n\s*\n\s*\n").search(text, start)
    return found.start() if found else len(text)


def json_ld(scripts: list[str]) -> list[tuple[str, str]]:
    """The questions and answers that a page states as JSON-LD (schema.org's QAPage and FAQPage), unchanged, as HTML or
    text.
    """
    found: list[tuple[str, str]] = []
    for script in scripts:
        try:
            _walk(json.loads(script), found, 0)
        except (ValueError, RecursionError):  # a page with broken metadata may still be good
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
            if isinstance(said, list):
                dicts = [one for one in said if isinstance(one, dict)]
                said = max(dicts, key=lambda one: _whole_number(one.get("upvoteCount", 0)), default=None)
            answer = said.get("text") if isinstance(said, dict) else said
            if isinstance(asked, str) and isinstance(answer, str) and len(found) < MOST:
                found.append((asked, answer))
        for inner in value.values():
            if isinstance(inner, dict | list):
                _walk(inner, found, depth + 1)
