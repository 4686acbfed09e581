r"""Parses an answer, in LaTeX or plain text, into the nodes of `nodes.py`, or raises Unreadable.

    read_answer("\\frac{1}{2}, 3\\text{ cm}")  ->  Group("", (Call("/", ...), Quantity(Number(3), "cm")))

The whole text must fit the grammar. Nothing is executed, and the work is linear in the text, whose length is bounded.
The input must be normalised by `spelling.py`.

How ambiguous writing is read: `2x` and `2 x` are products, `1/2x` is (1/2)x, `xy` is x times y, `sin 2x` is sin(2x),
`1\frac12` and `1 1/2` are mixed numbers, `2^10` is two to the tenth, `1,234` outside of brackets is one number and
`(1,234)` a pair, words of three letters and more are words, a word behind a number is its unit.
"""

import re
from fractions import Fraction
from functools import lru_cache

from eval.grader.nodes import (
    MAX_LENGTH,
    SCALES,
    Call,
    Group,
    Matrix,
    Name,
    Node,
    Number,
    Quantity,
    Relation,
    Unreadable,
    Words,
    may_be_said,
    negative,
    time_of_day,
    walk,
)
from eval.grader.spelling import normalise
from eval.grader.terms import AGAIN, CURRENCY, OPENING, SEPARATORS, Terms, spells_word

MAX_READABLE = 400  # characters of an answer that stands in a text

_RELATIONS = {"=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", "\\le": "<=", "\\ge": ">=",
              "\\ne": "!=", "\\in": "in", "\\approx": "approx", "\\equiv": "equiv"}  # fmt: skip
_SETS = {"\\cup": "∪", "\\cap": "∩", "\\setminus": "∖"}
_CONDITION = re.compile(r" *([a-zA-Z]) *(?:\\in *\\mathbb *\{? *R *\}? *)?(?:\\mid|\||:) *")  # \{x \mid x > 3\}
_ARTICLE = re.compile(r"an? (?!and\b)[a-zA-Z]{3,}", re.IGNORECASE)  # "a circle", not a times circle
_REST_OF_TIME = re.compile(r" *: *([0-5]\d) *(?:\\text *\{ *)?([ap])(?: *\.? *m)?\b\.* *\}?", re.IGNORECASE)  # :30 p.m.
_UNIT = re.compile(
    r" *(?:\\text\s*\{([a-zA-Z\u4e00-\u9fff ./()-]*(?:\^?\{?-?\d\}?[a-zA-Z ./-]*)*)\}|([a-zA-Z]{1,30}\.?))"
)
_MORE_UNIT = re.compile(r" *\^ *\{? *(-?\d) *\}?|( */ *)|( *\\cdot *)")  # m/s^2
_MATRICES = ("pmatrix", "bmatrix", "matrix", "smallmatrix", "array", "vmatrix", "Bmatrix")


def read_answer(text: str, *, short_units: bool = False, grouped: bool = True) -> Node:
    """Parse a normalised answer. Raises Unreadable if any part of it does not fit the grammar.

    With `short_units`, one letter behind a number and a space is a unit (`5 m`). Without `grouped`, a comma never
    groups digits: `1,2,100` is three numbers.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable("too long")
    reader = _Reader(text, short_units, grouped)
    try:
        node = reader.listed()
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    if reader.peek().kind != "end of text":
        raise Unreadable(f"'{text[reader.at : reader.at + 20]}' left over")
    return node


@lru_cache(maxsize=50_000)
def is_readable(text: str, words: int = 1) -> bool:
    """Whether a text as a whole is an answer: an expression, text in LaTeX, or a few words."""
    if len(text) > MAX_READABLE:
        return False
    try:
        node = read_answer(normalise(text))
    except (Unreadable, RecursionError):
        return False
    parts = node.parts if isinstance(node, Group) else (node,)
    if all(isinstance(part, Words) for part in parts):
        words = 3 if "\\text" in text else words
        return sum(len(part.text.split()) for part in parts if isinstance(part, Words)) <= words * len(parts)
    units = [n.unit for n in walk(node) if isinstance(n, Quantity)]
    return not any(isinstance(n, Words) for n in walk(node)) and all(map(may_be_said, units))


class _Reader(Terms):
    """The upper half of the grammar: lists, relations, sets, brackets, words and units."""

    # -- lists and relations

    def listed(self) -> Node:
        """Parse items separated by commas, semicolons, "and" or "or"."""
        parts, joined = [self.item()], ""
        while (how := self.separator()) is not None:
            joined = how if joined in ("", ",") else joined
            parts.append(self.item())
        return parts[0] if len(parts) == 1 else Group({"and": "&", "or": "|"}.get(joined, ""), tuple(parts))

    def separator(self) -> str | None:
        """Parse a separator: a comma, a word, or both. If both occur, the word counts."""
        comma = self.accept(",", ";")
        token = self.peek()
        word = token.text.strip().lower() if token.kind in ("words", "letters") else ""
        if word in SEPARATORS:
            self.take()
            self.accept(",", ";")
            return word
        sign = self.accept("\\lor", "\\vee", "\\land", "\\wedge") if comma is None else None
        return "," if comma else None if sign is None else "or" if sign in ("\\lor", "\\vee") else "and"

    def item(self) -> Node:
        self.accept("\\approx", "=")  # `= 5` continues what was said before
        sides, signs = [self.side()], list[str]()
        while (token := self.peek()).kind in ("sign", "command") and token.text in _RELATIONS:
            signs.append(_RELATIONS[self.take().text])
            sides.append(self.side())
        if again := self.accept_match(AGAIN):
            sides.append(self.within(self.side))
            signs.append("=" if "%" in self.text[again.end() : self.at] else "approx")
            self.expect(")")
        return Relation(tuple(sides), tuple(signs)) if signs else sides[0]

    def side(self) -> Node:
        words = self.words_only()
        if words is not None:
            return words
        node = self.total()
        while (sign := self.accept(*_SETS)) is not None:
            node = Call(_SETS[sign], (node, self.total()))
        if self.peek().text == ":":
            node = self.ratio(node)
        if self.accept("\\pmod"):
            node = Call("mod", (node, self.argument_or_number()))
        return self.with_unit(node)

    def ratio(self, first: Node) -> Node:
        """Parse a ratio such as `3:2`, or a time of day if a.m. or p.m. follows."""
        is_hour = isinstance(first, Number) and first.value in range(1, 13)
        time = self.accept_match(_REST_OF_TIME) if is_hour else None
        if time and isinstance(first, Number):
            return time_of_day(int(first.value), int(time[1]), time[2])
        parts = [first]
        while self.accept(":"):
            parts.append(self.total())
        return Call("ratio", tuple(parts))

    # -- words

    def words_only(self) -> Words | Name | None:
        """Parse an item that consists of words only, up to a separator."""
        at, said = self.at, list[str]()
        while (token := self.peek()).kind in ("words", "letters"):
            if token.text.strip().lower() in SEPARATORS and said:
                break
            article = _ARTICLE.match(self.text, token.start)
            if token.kind == "letters" and not said and not spells_word(token.text) and not article:
                break
            said.append(self.take().text)
            while self.accept(".", "'", '"', "!", "?"):
                pass
        ends = token.kind == "end of text" or token.text in (",", ";", ")", "]", "}", "=", "\\}")
        text = plain_words(" ".join(said))
        if text and (ends or token.kind in ("words", "letters")) and not any(c.isdigit() for c in text):
            return Words(text)
        self.jump(at)
        return None

    # -- brackets

    def bracketed(self) -> Node:
        opening = self.take().text
        if opening == "\\{" and self.accept("\\}"):
            return Name("∅")
        condition = self.accept_match(_CONDITION) if opening == "\\{" else None
        inner = self.within(self.listed, self.depth + 1)
        closing = self.accept(*{"(": (")", "]"), "[": ("]", ")")}.get(opening, (OPENING[opening],)))
        if closing is None:
            raise Unreadable(f"{opening} is not closed")
        parts = inner.parts if isinstance(inner, Group) else (inner,)
        if condition and not all(isinstance(part, Relation) for part in parts):
            raise Unreadable("a set by its property")
        return inner if condition else _in_brackets(opening, closing, inner)

    def matrix(self) -> Node:
        kind = self.take().text
        if kind not in _MATRICES:
            raise Unreadable(f"the environment {kind}")
        rows: list[list[Node]] = [[self.within(self.total)]]
        while (token := self.take()).kind != "end":
            if token.text == "\\cr" and self.peek().kind != "end":
                rows.append([self.within(self.total)])
            elif token.text == "&":
                rows[-1].append(self.within(self.total))
            elif token.text != "\\cr":
                raise Unreadable("a matrix")
        if len({len(row) for row in rows}) != 1:
            raise Unreadable("rows of different lengths")
        if kind == "vmatrix" and len(rows) == len(rows[0]) <= 4:
            return _determinant(rows)
        return Matrix(tuple(map(tuple, rows)))

    # -- units

    def with_unit(self, node: Node) -> Node:
        """Add the unit that follows a node, if there is one."""
        if sign := self.accept(*CURRENCY):
            return Quantity(node, CURRENCY[sign])  # 5 €
        token = self.peek()
        word = token.text.strip().lower()
        if AGAIN.match(self.text, self.at) or token.kind not in ("words", "letters") or word in SEPARATORS:
            return node
        scale = SCALES.get(word.rstrip("s"))
        if scale:
            self.take()
            size = Number(Fraction(scale))
            if isinstance(node, Quantity):  # `\$5 million`
                return self.with_unit(Quantity(Call("*", (node.value, size)), node.unit))
            return self.with_unit(Call("*", (node, size)))
        text = self.unit_words()
        if not text or len(text.split()) > 6:
            raise Unreadable("words behind a value that are not a unit")
        if text.lower() in ("degree", "degrees", "deg", "radian", "radians", "rad"):
            return Call("deg" if text.lower().startswith("deg") else "rad", (node,))
        return Quantity(node, text)

    def unit_words(self) -> str:
        said = list[str]()
        while True:
            unit = _UNIT.match(self.text, self.at)
            more = _MORE_UNIT.match(self.text, self.at) if said else None
            if unit and (unit[1] or unit[2] or "").strip().lower() not in SEPARATORS:
                said.append((unit[1] or unit[2] or "").strip())
                self.jump(unit.end())
            elif more:
                said.append(f"^{more[1]}" if more[1] else "/" if more[2] else " ")
                self.jump(more.end())
            else:
                return " ".join(" ".join(said).split())


def _determinant(rows: list[list[Node]]) -> Node:
    if len(rows) == 1:
        return rows[0][0]
    minors = [_determinant([row[:i] + row[i + 1 :] for row in rows[1:]]) for i in range(len(rows))]
    parts = [Call("*", (entry, minor)) for entry, minor in zip(rows[0], minors, strict=True)]
    return Call("+", tuple(negative(part) if i % 2 else part for i, part in enumerate(parts)))


def plain_words(text: str) -> str:
    """Words in lower case, without punctuation and surrounding commands."""
    return " ".join(re.sub(r"[().'\"!?:$*]+", " ", text).lower().split())


def _in_brackets(opening: str, closing: str, inner: Node) -> Node:
    if opening in ("\\lfloor", "\\lceil", "\\lvert"):
        return Call({"\\lfloor": "floor", "\\lceil": "ceil", "\\lvert": "abs"}[opening], (inner,))
    brackets = {"\\{": "{}", "\\langle": "<>"}.get(opening, opening + closing)
    parts = inner.parts if isinstance(inner, Group) and inner.brackets in ("", "&", "|") else (inner,)
    if len(parts) == 1 and brackets in ("()", "[]"):
        return inner  # only a grouping
    return Group(brackets, parts)
