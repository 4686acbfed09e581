r"""Whether a given answer equals the reference: every rule in one place, cheapest first.

    equal("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}")  ->  ("correct", "value")

The order of the arguments matters: the reference is trusted, the answer is not. docs/grading.md states each rule with
examples. Layers, each able to stop: plain numbers; normalised text; choice letters; structure (lists, sets, tuples,
intervals, matrices, equations, units, times, words, part by part); exact rationals; values to fifty digits at random
points; SymPy in a worker that is killed on time. Nothing that a model wrote is ever executed.
"""

import re
from functools import lru_cache

from eval.grader.exact import TooMuch, Undefined
from eval.grader.expression import Node, Number, Quantity, Words, walk
from eval.grader.numerals import Unreadable, written_number
from eval.grader.reader import negative, read
from eval.grader.scalars import tolerance
from eval.grader.scanner import MAX_LENGTH
from eval.grader.spelling import normalise, squeezed
from eval.grader.structure import compare
from eval.grader.symbolic import same_by_sympy
from eval.grader.units import may_be_said
from eval.grader.verdicts import Kind, Told, Verdict
from eval.grader.worker import TimedOut

_COMPOUND_UNIT = re.compile(r"([-+]?[\d.,]+) ?([a-zA-Z]{1,5}(?:\^\{?-?\d\}?)? ?/ ?[a-zA-Z]{1,5}(?:\^\{?-?\d\}?)?)")
_DECIMAL_COMMA = re.compile(r"-?(?:\d+,\d{1,2}|\d+,\d{4,}|0,\d+)")
_PLAIN = re.compile(r"[-+]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?")


def equal(given: str, reference: str, kind: Kind = "math") -> Told:
    """Whether a given answer equals the reference, and the rule that told. The order of arguments matters.

    Args: both as written, LaTeX or plain. `kind` "physics" takes every decimal reference as a rounded measurement;
    "choice" is compared as "math" is, since a reference that is a letter is known by itself. "unsure" means that the
    reference could not be read or that the answer could not be worked out within bounds. Never raises; takes about a
    second at the very most. What it found is kept, but for what ran out of time.
    """
    try:
        return _equal(given, reference, kind)
    except RecursionError:
        return "unsure", "nested too deeply"
    except TimedOut:
        return "unsure", "out of time"


@lru_cache(maxsize=200_000)
def _equal(given: str, reference: str, kind: Kind) -> Told:
    if not reference.strip():
        return "unsure", "empty reference"
    if len(given) > MAX_LENGTH:
        return "wrong", "longer than any answer"
    if len(reference) > MAX_LENGTH:
        return ("correct", "text") if given.strip() == reference.strip() else ("unsure", "the reference is too long")
    plain = _plain(given), _plain(reference)
    if plain[0] is not None and plain[1] is not None:
        return _numbers(plain[0], plain[1], kind), "number"
    left, right = normalise(given), normalise(reference)
    if not left:
        return "wrong", "empty answer"
    if squeezed(left) == squeezed(right):
        return "correct", "text"
    if not right:
        return "unsure", "the reference has no content"
    told = _by_choice(left, right) or _by_structure(left, right, kind)
    if told[0] == "wrong" and bool(_DECIMAL_COMMA.fullmatch(left)) != bool(_DECIMAL_COMMA.fullmatch(right)):
        sides = [_plain(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text) for text in (left, right)]
        if sides[0] is not None and sides[1] is not None and sides[0].value == sides[1].value:
            return "correct", "a comma for the decimal point"
    if told[0] == "wrong" and isinstance(_read(right), Number):
        measured = _COMPOUND_UNIT.fullmatch(left)  # `5 m/s` is no product of names
        if measured and may_be_said(measured[2]):
            return _equal(measured[1], right, kind)
    return told


@lru_cache(maxsize=50_000)
def _plain(text: str) -> Number | None:
    """An integer or decimal that needs no reader."""
    text = text.strip()
    if len(text) > 400 or not text.isascii() or not _PLAIN.fullmatch(text):
        return None
    number = written_number(text.lstrip("+-").replace(",", ""), None)
    return negative(number) if text[0] == "-" else number  # type: ignore[return-value]


def _numbers(given: Number, reference: Number, kind: Kind) -> Verdict:
    same = given.value == reference.value or abs(given.value - reference.value) <= tolerance(reference, kind)
    return "correct" if same else "wrong"


# -- choice letters

_LETTER = re.compile(r"\(?([A-J])(?:\)|\.|:|\))? *")
_WITH_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])[.:)]) *(\S.*)")
_CHOSEN = re.compile(r"(?:(?:option|choice|answer) *:? *(?:is)? *)?(?:\(([A-Ja-j])\)|([A-Ja-j])[.:)]?)(?= |$)(.*)",
                     re.IGNORECASE)  # fmt: skip
_ANOTHER_OPTION = re.compile(
    r"^\W*(?:or|and|,|/)\s*\(?[A-J]\b|\([A-Ja-j]\)|(?:^| )[A-J](?:[).:]|$)|\b(?:or|and) [A-Ja-j][).]"
)
_DENIED = re.compile(
    r"\W*(?:is |are |was )?(?:incorrect|wrong|false|not\b|no\b|none\b|isn't|maybe|perhaps|\?)", re.IGNORECASE
)
_SEVERAL = re.compile(r"[A-J](?:(?:, ?| and |,? and | )[A-J])+")


def _by_choice(given: str, reference: str) -> Told | None:
    """Letters of a multiple choice: with or without their text, never two for one."""
    reference, given = _bare(reference), _bare(given)
    letters = re.sub(r"[^A-J]", "", reference)
    if _SEVERAL.fullmatch(reference) and list(letters) == sorted(set(letters)):
        found = sorted(re.sub(r"\b(?:and|AND)\b|[^A-J]", "", given))
        full = re.fullmatch(r"[(]?[A-J](?:[(),. ]|and|[A-J])*", given)
        return ("correct" if full and found == list(letters) else "wrong"), "choice"
    if _LETTER.fullmatch(reference + " "):
        return ("correct" if _chosen(given) == letters else "wrong"), "choice"
    match = _WITH_TEXT.fullmatch(reference)
    if not match:
        return None
    letter, text = match[1] or match[2], match[3]
    said = _CHOSEN.fullmatch(given)
    if said is None:
        return equal(given, text)[0], "choice by its text"
    same = (said[1] or said[2]).upper() == letter
    rest = said[3].strip()
    return ("correct" if same and (not rest or equal(rest, text)[0] == "correct") else "wrong"), "choice"


def _chosen(given: str) -> str | None:
    """The one letter that an answer chooses; None if it chooses none, or several."""
    match = _CHOSEN.fullmatch(given)
    if match is None:
        return None
    letter, rest = match[1] or match[2], match[3]
    marked = match[1] or given[match.end(2) : match.end(2) + 1] in (".", ":", ")")
    if rest.strip() and not (marked and letter.isupper()):
        return None
    return None if _ANOTHER_OPTION.search(rest) or _DENIED.match(rest) else letter.upper()


def _bare(text: str) -> str:
    return re.sub(r"\\text *\{([^{}]*)\}|\\text ", lambda m: m[1] or "", text).strip().strip("{}").strip()


def _by_structure(left: str, right: str, kind: Kind) -> Told:
    reference = _read(right)
    if reference is None:
        return _without_reader(left, right)
    short_units = any(isinstance(n, Quantity) for n in walk(reference))
    given = _read(left, short_units)
    if given is None:
        return _ask_sympy(left, right, "the answer is not readable")
    try:
        told = compare(given, reference, kind)
        if told[0] == "wrong":  # `1,2,100` may be three numbers
            readings = [(g, r) for g in _readings(left, short_units) for r in _readings(right, False)]
            told = next((t for g, r in readings[1:] if (t := compare(g, r, kind))[0] == "correct"), told)
        return told
    except TooMuch as error:
        return "unsure", f"not within bounds: {error}"
    except Undefined:
        return same_by_sympy(left, right)


def _readings(text: str, short_units: bool) -> list[Node]:
    """A text as it is read, and with every comma as a separator where some are that and others may be."""
    plain = _read(text, short_units)
    apart = _read(text, short_units, False) if re.search(r"\d,\d{3}(?!\d)", text) and text.count(",") > 1 else None
    return [node for node in (plain, apart) if node is not None]


@lru_cache(maxsize=50_000)
def _read(text: str, short_units: bool = False, grouped: bool = True) -> Node | None:
    try:
        return read(text, short_units=short_units, grouped=grouped)
    except Unreadable:
        return None


def _without_reader(left: str, right: str) -> Told:
    """A reference that the reader does not know: as words, or by SymPy's reading."""
    words = re.sub(r"\\text|[^a-z0-9]+", " ", right.lower()).split()
    if not re.search(r"[\\=^_+*/]", right.replace("\\text", "")) and any(w.isalpha() and len(w) > 2 for w in words):
        same = words == re.sub(r"\\text|[^a-z0-9]+", " ", left.lower()).split()
        return ("correct" if same else "wrong"), "words"
    if not re.search(r"[a-zA-Z0-9]", right):
        return "wrong", "other signs"
    number = _read(left)
    if isinstance(number, Number):  # a written number is exactly that number
        left = f"\\frac{{{number.value.numerator}}}{{{number.value.denominator}}}"
    return _ask_sympy(left, right, "the reference is not readable")


def _ask_sympy(left: str, right: str, why: str) -> Told:
    """SymPy's verdict on formulas that the reader does not know; text with words is left undecided, for that reason."""
    if _texts(left) != _texts(right) or re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", re.sub(r"\\[a-zA-Z]+", " ", left)):
        return "unsure", why  # SymPy would read past words
    if any(re.search(r"[\dA-F}] ?_ ?\{?\d", text) for text in (left, right)):
        return "unsure", why  # and past the base of a number
    return same_by_sympy(left, right)


def _texts(text: str) -> list[str]:
    return [" ".join(words.lower().split()) for words in re.findall(r"\\text\s*\{([^{}]*)\}", text)]
