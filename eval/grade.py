"""The one judgement of a final answer: correct, wrong, or could not tell.

    grade("so it is \\boxed{\\frac{1}{2}}.", "0.5")  ->  Grade('correct', extracted='\\frac{1}{2}', how='number')

Layers, cheapest first, each able to stop: normalised text; exact integers, decimals and fractions of any size;
structure (lists, sets, tuples, intervals, part by part); SymPy in a worker process that is killed on time
(`eval/symbolic.py`). Nothing a model wrote is ever executed. The reference is trusted, the completion is not.

Rules, each with an example:
- A decimal equals a fraction of exactly its value (`0.5` = `\\frac12`); nothing is rounded (`0.333` is not `1/3`).
- Thousands separators must stand where they belong (`1,234` = `1234`; `12,34` is a list).
- Percent and units count where the reference has them: for `50\\%`, `50\\%` and `0.5` are right, `50` is not; for `50`,
  `50\\%` is wrong; for `5 \\text{ m}` neither `5` nor `5 \\text{ cm}` is right; for `5`, `5 \\text{ cm}` is, since a
  unit that the problem fixes may be said. A scale (`5 million`) is no unit. A degree sign may be left out.
- Parentheses keep order, braces do not: `(1,2)` is not `(2,1)`, `\\{1,2\\}` = `\\{2,1\\}`; a bare list `1,2` has none.
- An equation's right side answers for its value if the left side is one name or a sum of numbers (`x=5` and `2+3=5` for
  `5`, `a+b=5` not).
- Two different answers are none: `5 or 6` is wrong for `5`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from eval.symbolic import same_by_sympy
from limo.sources import after_hashes, last_boxed

Verdict = Literal["correct", "wrong", "unsure"]
MAX_ANSWER = 2000  # characters; a longer answer is no answer
MAX_DIGITS = 2000  # of a number that the exact layer reads


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict, on what, and which layer or rule gave it."""

    verdict: Verdict
    extracted: str | None
    how: str


def grade(completion: str, answer: str) -> Grade:
    """Judge the final answer of a completion against the reference.

    "unsure" means that the reference could not be read, or that the answer could not be worked out in its time.
    """
    given = extract(completion)
    if given is None:
        return Grade("wrong", None, "no answer found")
    verdict, how = equal(given, answer)
    return Grade(verdict, given, how)


_ANSWER_IS = re.compile(r"answer\s*(?:is|:|=)\s*:?\s*(?P<given>[^\n]+)", re.IGNORECASE)
# Possessive quantifiers: a run of digits is read once, however long
_NUMBER_IN_TEXT = re.compile(r"(?<![\w.,^/])[-−+]?\s?\$?(?:\d[\d,]*+\.?\d*+|\.\d++)(?:/\d++)?%?(?!\w)")


def extract(text: str) -> str | None:
    """The final answer a completion gives, as it wrote it; None if it gives none.

    In this order: what `explicit` finds; "the answer is"; all of an `<answer>`; the last number.
    """
    text = _after_thinking(text)
    stated = explicit(text)
    if stated is not None:
        return stated or None
    tagged = _tagged(text)
    said = list(_ANSWER_IS.finditer(text if tagged is None else tagged))
    if said:
        return _tidy_tail(said[-1]["given"])
    if tagged is not None:
        return tagged[:MAX_ANSWER] or None
    numbers = _NUMBER_IN_TEXT.findall(text)
    return _tidy_tail(numbers[-1]) if numbers else None


def explicit(text: str) -> str | None:
    """The answer in the last complete `\\boxed{}`, or after `####`, within `<answer>` tags if there are any.

    These mark a final answer beyond doubt, even where the completion was cut off afterwards. Empty if it is empty; None
    if there is none, or if a `<think>` is unfinished.
    """
    text = _after_thinking(text)
    tagged = _tagged(text)
    text = text if tagged is None else tagged
    found = last_boxed(text)
    found = after_hashes(text) if found is None else found
    return found if found is None else found[: MAX_ANSWER + 1]


def _after_thinking(text: str) -> str:
    """What follows the thinking, all of it if there is none, nothing if it is unfinished; at most the last 20,000."""
    _, closed, after = text.rpartition("</think>")
    if "<think>" in after:
        return ""
    return (after if closed else text)[-20_000:]


def _tagged(text: str) -> str | None:
    inside = text.rpartition("</answer>")[0].rpartition("<answer>")
    return inside[2].strip() if inside[1] else None


def _tidy_tail(said: str) -> str | None:
    """What follows "the answer is", without Markdown, a sentence's end, or the sentence that goes on."""
    said = said.strip().strip("*").strip()
    math = re.match(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", said)
    if math and not re.match(r"\$\s*\d[\d,.]*\s*[^\d$]*$", said):
        said = next(group for group in math.groups() if group)
    said = re.split(r"(?<=[\w)}%])[.;](?:\s|$)|,\s+(?=[a-z]{3})| because | since | so ", said)[0]
    said = re.sub(r"[.,;:*\s]+$", "", said)
    return said[:MAX_ANSWER] or None


@lru_cache(maxsize=100_000)
def equal(given: str, reference: str) -> tuple[Verdict, str]:
    """Whether a given answer equals the reference, and the layer that told. The order of arguments matters."""
    if not reference.strip():
        return "unsure", "empty reference"
    if len(given) > MAX_ANSWER:
        return "wrong", "longer than any answer"
    left, right = normalise(given), normalise(reference)
    if not left:
        return "wrong", "empty answer"
    if left == right:
        return "correct", "text"
    if not right:
        return "unsure", "the reference has no content"
    decided = _by_number(left, right) or _by_words(left, right) or _by_parts(left, right)
    return decided or _by_sympy(left, right)


_REPLACED = [
    ("\\left", ""),
    ("\\right", ""),
    ("\\!", ""),
    ("\\,", " "),
    ("\\;", " "),
    ("\\:", " "),
    ("\\ ", " "),
    ("~", " "),
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("−", "-"),
    ("–", "-"),
    ("×", "\\times "),
    ("·", "\\cdot "),
    ("π", "\\pi "),
    ("√", "\\sqrt"),
    ("∞", "\\infty "),
    ("½", "\\frac{1}{2}"),
    ("¼", "\\frac{1}{4}"),
    ("¾", "\\frac{3}{4}"),
    ("\\displaystyle", ""),
    ("\\lbrace", "\\{"),
    ("\\rbrace", "\\}"),
    ("\\%", "%"),
    ("\\&", "&"),
    ("\\leq", "\\le"),
    ("\\geq", "\\ge"),
    ("≤", "\\le "),
    ("≥", "\\ge "),
    ("°", "^\\circ"),
    ("\\degree", "^\\circ"),
    ("{,}", ","),
    ("\\mathrm", "\\text"),
    ("\\textbf", "\\text"),
    ("\\mathbf", "\\text"),
    ("\\mbox", "\\text"),
    ("\\textit", "\\text"),
    ("\\operatorname", "\\text"),
]


@lru_cache(maxsize=100_000)
def normalise(text: str) -> str:
    """One spelling for what is written in many ways; the meaning is not touched."""
    text = text.strip().replace("\u200b", "").replace("\ufeff", "")
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = re.sub(r"\\[()\[\]]|(?<!\\)\$|\\\$", "", text)  # math delimiters, and the dollar sign of an amount
    text = re.sub(r"\s*(?:\\text\s*\{\s*percent\s*\}|\bpercent\b)", "%", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\d+|[a-zA-Z])", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<=\d) (?=\d{3}\b)", "", text)  # thin spaces between thousands
    text = re.sub(r"(\d)\.(?=\D|$)", r"\1", text) if text.endswith(".") else text
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r" ?([=+\-*/^(){}\[\],<>|]) ?", r"\1", text)


_NUMBER = re.compile(r"[-+]?(?=\.?\d)(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
_FRACTION = re.compile(r"([-+]?)\\frac\{([^{}]+)\}\{([^{}]+)\}|([^/\\]+)/([^/\\]+)")
# What may stand behind a number: a word or two that are no scale, no connective and no symbol
_UNIT = re.compile(
    r"(?:\\text\s*\{\s*(?P<text>[a-zA-Z.]+(?: [a-zA-Z.]+){0,2})\s*\}|(?<=\d) (?P<word>[a-zA-Z]{2,}(?: [a-zA-Z]{2,})?))"
    r"(?P<power>\^\{?[23]\}?)?$|(?P<degree>\^\{?\\circ\}?)$"
)
_SCALES = {"thousand", "million", "billion", "trillion", "hundred", "dozen", "score", "percent", "per", "cent"}
_CONNECTIVES = {"and", "or", "not", "is", "maybe", "to", "over", "of", "about", "mod", "base"}
_FUNCTIONS = {"sin", "cos", "tan", "log", "ln", "exp", "pi", "max", "min", "gcd", "lcm"}


def _split_unit(text: str) -> tuple[str, str]:
    """A number and its unit, the unit in small letters and the singular; `degree` for a degree sign; "" for none."""
    match = _UNIT.search(text)
    if not match:
        return text, ""
    words = (match["text"] or match["word"] or "degree").lower().replace(".", "").split()
    if (_SCALES | _CONNECTIVES | _FUNCTIONS) & set(words):
        return text, ""
    return text[: match.start()].strip(), " ".join(w.rstrip("s") for w in words) + (match["power"] or "").strip("^{}")


def number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction or mixed number, percent included; None for anything else."""
    if len(text) > MAX_DIGITS:
        return None
    if text.endswith("%") and not text.endswith("%%"):
        value = number(text[:-1].strip())
        return None if value is None else value / 100
    if text.isascii() and _NUMBER.fullmatch(text):
        return Fraction(text.replace(",", ""))
    mixed = re.fullmatch(r"(-?)(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(\d+)/(\d+))", text)
    if mixed:
        sign, whole, *parts = mixed.groups()
        top, bottom = [int(p) for p in parts if p]
        return None if not bottom else (int(whole) + Fraction(top, bottom)) * (-1 if sign else 1)
    match = _FRACTION.fullmatch(text)
    if match:
        sign, *parts = match.groups()
        pair = [number(p.strip()) for p in parts if p is not None]
        if len(pair) == 2 and pair[0] is not None and pair[1]:
            return pair[0] / pair[1] * (-1 if sign == "-" else 1)
    return None


def _by_number(given: str, reference: str) -> tuple[Verdict, str] | None:
    bare, unit = _split_unit(reference)
    value = number(bare)
    if value is None:
        return None
    found, named = number(given), ""
    if found is None:
        rest, named = _split_unit(_right_side(given))
        found = number(rest)
    if found is None:
        return None
    if given.endswith("%") and not reference.endswith("%"):
        return "wrong", "percent the reference does not have"
    if unit and unit != "degree" and named != unit:
        return "wrong", "not the unit of the reference"
    return ("correct" if found == value else "wrong"), "number"


def _right_side(text: str) -> str:
    """`5` of `x=5`, `x_1=5` or `2+3=5`; the text itself where the left side is more than a name."""
    left, equals, right = text.rpartition("=")
    plain = re.fullmatch(r"\\?[a-zA-Z]{1,6}(?:_\{?\w{1,3}\}?)?|[-+*/().\d\s]+", left)
    return right if equals and plain else text


def _by_words(given: str, reference: str) -> tuple[Verdict, str] | None:
    """Words and choice letters: the same letters, whatever their case and wrapping."""

    def bare(text: str) -> str:
        return re.sub(r"[()\s.'\"]+", " ", _no_text(text)).strip().lower()

    wanted = bare(reference)
    if re.fullmatch(r"\(?[A-J]\)?", re.sub(r"\\text|[{}\s.]", "", reference)):
        chosen = re.match(r"\(?([a-jA-J])(?:\)|[.:])?(?:$|(?<=[).:]) ?(?!.*\b[A-J]\b).+)", _no_text(given))
        right = chosen is not None and chosen.group(1).lower() == wanted
        return ("correct" if right else "wrong"), "choice"
    if "\\text" in reference or wanted in _SHORT_WORDS or re.fullmatch(r"[a-z]{3,}(?: [a-z]+)*", wanted):
        if re.search(r"[\d\\=^_]", wanted):
            return None
        return ("correct" if bare(given) == wanted else "wrong"), "words"
    return None


_SHORT_WORDS = {"no", "on", "up", "in", "am", "pm"}


def _no_text(text: str) -> str:
    return re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip()


def _parts(text: str) -> tuple[str, list[str]] | None:
    """Brackets and members of a list, set, tuple or interval; None for anything else."""
    opening, inner, closing = "", text, ""
    for left, right in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            opening, inner, closing = left, text[len(left) : -len(right)], right
            break
    members, depth, start = [], 0, 0
    for i, c in enumerate(inner):
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            return None
        if c == "," and depth == 0:
            members.append(inner[start:i].strip())
            start = i + 1
    members.append(inner[start:].strip())
    return (opening + closing, members) if len(members) > 1 else None


def _by_parts(given: str, reference: str) -> tuple[Verdict, str] | None:
    wanted, found = _parts(reference), _parts(given)
    if wanted is None:
        listed = found is not None and not found[0] and all(found[1])
        if listed or re.search(r"\\text\s*\{ ?or ?\}| or ", given):
            return "wrong", "several answers for one"
        return None
    if found is None:
        return ("wrong", "one answer for several") if number(given) is not None else None
    if len(wanted[1]) != len(found[1]):
        return "wrong", "another number of parts"
    if wanted[0] != found[0] and not {wanted[0], found[0]} <= {"", "\\{\\}"}:
        return "wrong", "another kind of bracket"
    ordered = wanted[0] not in ("", "\\{\\}")
    return _matched(found[1], wanted[1], ordered), "parts"


def _matched(found: list[str], wanted: list[str], ordered: bool) -> Verdict:
    if ordered:
        return _all(equal(f, w)[0] for f, w in zip(found, wanted, strict=True))
    left = list(found)
    for part in wanted:
        verdicts = [equal(f, part)[0] for f in left]
        if "correct" not in verdicts:
            return "unsure" if "unsure" in verdicts else "wrong"
        left.pop(verdicts.index("correct"))
    return "correct"


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    seen = set(verdicts)
    return "wrong" if "wrong" in seen else "unsure" if "unsure" in seen else "correct"


def _texts(text: str) -> list[str]:
    return [" ".join(words.lower().split()) for words in re.findall(r"\\text\s*\{([^{}]*)\}", text)]


def _by_sympy(given: str, reference: str) -> tuple[Verdict, str]:
    if number(reference) is not None and not re.search(r"\d", given) and not re.search(r"\\[a-zA-Z]", given):
        return "wrong", "no number"
    if "=" not in reference:
        given = _right_side(given)
        if "=" in given:
            return "wrong", "an equation for a value"
    given = given if _texts(reference) else _split_unit(given)[0]
    if _texts(given) != _texts(reference):  # SymPy would read past words
        return "wrong", "words the reference does not have"
    value = number(given)
    if value is not None:  # a written number is exactly that number, and equals a root or pi only if it is one
        return same_by_sympy(f"\\frac{{{value.numerator}}}{{{value.denominator}}}", reference)
    return same_by_sympy(given, reference)
