"""Which problems are the same problem: a maths-aware comparison of texts, for duplicates and for contamination.

Words are the wrong unit for mathematics: two problems that differ in one number are different problems in nearly the
same words, and the same problem in other LaTeX has other words. So a text becomes LaTeX tokens in one spelling; its
*shingles*, runs of consecutive tokens, say how much of one text is in another, and its *numbers* whether it is the same
problem or a variant with other numbers.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from limo.errors import UserError

SHINGLE = 5  # tokens; what a leak shares with its original, and boilerplate does not
CONTAINED = 0.5  # of a benchmark problem's shingles: the same problem
SHORT, CONTAINED_SHORT = 20, 0.85  # of a problem of so few shingles, which half is mostly its introduction
VARIANT = 0.8  # of its shingles with every number masked: the same problem with other numbers

_CAPITALS = re.compile(r"(?<!\\)\b[^\W\d_]{2,}")
_GONE = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|qquad)(?![a-z])"
    r"|\\[,;!:> ()\[\]]|\$|~|\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname|emph)(?=\s*\{)",
    re.DOTALL,
)
_SAME = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("\\leq", "\\le"),
    ("\\geq", "\\ge"),
    ("\\neq", "\\ne"),
    ("\\cdot", "*"),
    ("\\times", "*"),
    ("\\ldots", "..."),
    ("\\dots", "..."),
    ("\\lt", "<"),
    ("\\gt", ">"),
    ("{,}", ""),
    ("×", "*"),
    ("−", "-"),
    ("≤", "\\le"),
    ("≥", "\\ge"),
    ("π", "\\pi"),
    ("°", "^\\circ"),
)
_TWO_DIGITS = re.compile(r"\\(frac|binom)\s*(\d)\s*(\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TOKEN = re.compile(r"\\[a-z]+|\d+(?:\.\d+)?|[a-z]+|[^\s\w]|\w")
_WORDS = re.compile(r"[^\W_]+")
_SILENT = set("{}()[],.;:?!'\"`&\\")


def digest(text: str) -> int:
    """64 bits of a text: two of a million texts share them once in 40 million pools."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def squeezed(text: str) -> str:
    """Text for exact comparison: one space for any, words in lower case, but not single letters, which are symbols.

    >>> squeezed("Find  THE value of $N - n$ and \\\\Delta")
    'find the value of $N - n$ and \\\\Delta'
    """
    return _CAPITALS.sub(lambda word: word.group().lower(), re.sub(r"\s+", " ", text).strip())


def tokens(text: str) -> list[str]:
    """LaTeX tokens of a text in one spelling, without brackets and punctuation.

    >>> tokens("Find $\\\\dfrac{1}{2}+x$.") == tokens("find \\\\(\\\\frac12 + x\\\\)")
    True
    """
    text = _without_drawings(text.lower())
    for old, new in _SAME:
        text = text.replace(old, new)
    text = _THOUSANDS.sub("", _TWO_DIGITS.sub(r"\\\1 \2 \3", _GONE.sub(" ", text)))
    return [t for t in _TOKEN.findall(text) if t not in _SILENT]


def _without_drawings(text: str) -> str:
    """The text without what stands between [asy] and [/asy]. Linear, where a regular expression is quadratic."""
    kept, at = list[str](), 0
    while (start := text.find("[asy]", at)) >= 0 and (end := text.find("[/asy]", start)) >= 0:
        kept.append(text[at:start])
        at = end + len("[/asy]")
    return " ".join([*kept, text[at:]])


Run = tuple[str, ...]


def shingles(parts: Sequence[str], size: int = SHINGLE) -> set[Run]:
    """All runs of `size` tokens; of a shorter text, the one run that it is."""
    if len(parts) < size:
        return {tuple(parts)} if parts else set()
    return set(zip(*(parts[i:] for i in range(size)), strict=False))


def numbers(parts: Sequence[str]) -> Counter[str]:
    """The numerals among tokens, each as often as it occurs."""
    return Counter(part for part in parts if part[0].isdigit())


def _masked(parts: Sequence[str]) -> list[str]:
    return ["#" if part[0].isdigit() else part for part in parts]


@dataclass(frozen=True, slots=True)
class Match:
    """A known problem that a text holds, and how much of it."""

    at: int  # of the known problems
    kind: Literal["same", "variant"]  # or the same with other numbers
    contained: float  # share of its shingles


class Known:
    """Problems that others are looked up against, by one of RULES.

    `latex` compares runs of LaTeX tokens, as they are and with every number masked: the same problem has all numbers of
    the known one, and as much of what stands around them as of the rest; with others it is a variant at most.
    `words-<n>` is the usual rule: a text that shares any run of n words with a known one holds it. It marks what shares
    only boilerplate, and never finds a text of fewer than n words; `whole` adds those of at least so many words,
    compared as a whole.
    """

    def __init__(self, texts: Iterable[str], rule: str = "latex", whole: int | None = None) -> None:
        self.texts = list(texts)
        self.words = 0 if rule == "latex" else int(rule.removeprefix("words-"))
        self._index: dict[int, list[int]] = {}  # by the hash of a run, inverted where numbers are masked, who has it
        self._short = set[int]()  # words of the texts that are compared as a whole
        self._problems: list[tuple[int, int, Counter[str], set[Run]]] = []  # runs, masked runs, numbers, around these
        for at, text in enumerate(self.texts):
            if self.words:
                words = _WORDS.findall(text.lower())
                if whole is not None and whole <= len(words) < self.words:
                    self._short.add(len(words))
                keys = self._word_keys(words)
            else:
                parts = tokens(text)
                plain, masked = shingles(parts), shingles(_masked(parts))
                around = {run for run in plain if any(part[0].isdigit() for part in run)}
                self._problems.append((len(plain), len(masked), numbers(parts), around))
                keys = {hash(run) for run in plain} | {~hash(run) for run in masked}
            for key in keys:
                self._index.setdefault(key, []).append(at)

    def matches(self, text: str) -> list[Match]:
        """Every known problem that the text holds, the most of it first. Linear in the text."""
        if self.words:
            held = self._held(self._word_keys(_WORDS.findall(text.lower())))
            return [Match(at, "same", 1.0) for at, _ in sorted(held.items(), key=lambda item: (-item[1], item[0]))]
        parts = tokens(text)
        here, runs, found = numbers(parts), shingles(parts), dict[int, Match]()
        for at, count in self._held({hash(run) for run in runs}).items():
            size, _, named, around = self._problems[at]
            if count >= CONTAINED * size:
                enough = CONTAINED if size > SHORT else CONTAINED_SHORT
                same = named <= here and count >= enough * size and len(around & runs) >= enough * len(around)
                found[at] = Match(at, "same" if same else "variant", count / size)
        for at, count in self._held({~hash(run) for run in shingles(_masked(parts))}).items():
            share = count / self._problems[at][1]
            if share >= VARIANT and at not in found:
                found[at] = Match(at, "variant", share)
        return sorted(found.values(), key=lambda match: (match.kind, -match.contained))

    def _word_keys(self, words: Sequence[str]) -> set[int]:
        runs = shingles(words, self.words) if len(words) >= self.words else set()
        return {hash(run) for run in (runs | {tuple(words)} if len(words) in self._short else runs)}

    def _held(self, keys: set[int]) -> Counter[int]:
        return Counter(at for key in keys for at in self._index.get(key, ()))


RULES = ("latex", "words-8", "words-10", "words-13")


def check_rule(rule: str) -> None:
    """Raise UserError for a rule that is none of RULES."""
    if rule not in RULES:
        raise UserError(f"there is no rule '{rule}' to compare problems by; there are {', '.join(RULES)}")
