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


def shingles(parts: Sequence[str], size: int = SHINGLE) -> set[tuple[str, ...]]:
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
    """Problems that others are looked up against: each shingle, and each with its numbers masked, to who has it."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)
        self._sizes: list[tuple[int, int]] = []
        self._numbers: list[Counter[str]] = []
        self._around: list[set[tuple[str, ...]]] = []  # of each, the shingles that hold a number
        self._plain: dict[tuple[str, ...], list[int]] = {}
        self._masked: dict[tuple[str, ...], list[int]] = {}
        for at, text in enumerate(self.texts):
            parts = tokens(text)
            plain, masked = shingles(parts), shingles(_masked(parts))
            self._sizes.append((len(plain), len(masked)))
            self._numbers.append(numbers(parts))
            self._around.append({run for run in plain if any(part[0].isdigit() for part in run)})
            for runs, index in ((plain, self._plain), (masked, self._masked)):
                for run in runs:
                    index.setdefault(run, []).append(at)

    def matches(self, text: str) -> list[Match]:
        """Every known problem that the text holds, the most of it first. Linear in the text.

        The same problem has all numbers of the known one, and as much of what stands around them as of the rest; with
        others it is a variant at most.
        """
        parts = tokens(text)
        here, runs, found = numbers(parts), shingles(parts), dict[int, Match]()
        for at, share in self._held(parts, self._plain, 0):
            if share >= CONTAINED:
                around = self._around[at]
                enough = CONTAINED if self._sizes[at][0] > SHORT else CONTAINED_SHORT
                same = self._numbers[at] <= here and share >= enough and len(around & runs) >= enough * len(around)
                found[at] = Match(at, "same" if same else "variant", share)
        for at, share in self._held(_masked(parts), self._masked, 1):
            if share >= VARIANT and at not in found:
                found[at] = Match(at, "variant", share)
        return sorted(found.values(), key=lambda match: (match.kind, -match.contained))

    def _held(
        self, parts: Sequence[str], index: dict[tuple[str, ...], list[int]], which: int
    ) -> Iterable[tuple[int, float]]:
        held = Counter(at for run in shingles(parts) for at in index.get(run, ()))
        return ((at, count / self._sizes[at][which]) for at, count in held.items())


class KnownByWords:
    """The usual rule: a text that shares any run of n words with a known one holds it.

    Words are runs of letters and digits in lower case. The rule marks what shares only boilerplate, and never finds a
    text of fewer than n words; `whole` adds those of at least so many words, compared as a whole.
    """

    def __init__(self, texts: Iterable[str], n: int, whole: int | None = None) -> None:
        self.texts, self.n = list(texts), n
        self._runs: dict[int, int] = {}
        self._sizes = set[int]()  # words of the texts that are compared as a whole
        for at, text in enumerate(self.texts):
            words = _WORDS.findall(text.lower())
            if whole is not None and whole <= len(words) < n:
                self._sizes.add(len(words))
            for key in self._keys(words):
                self._runs.setdefault(key, at)

    def _keys(self, words: Sequence[str]) -> set[int]:
        runs = {digest(" ".join(words[at : at + self.n])) for at in range(len(words) - self.n + 1)}
        return runs | {digest(" ".join(words))} if len(words) in self._sizes else runs

    def matches(self, text: str) -> list[Match]:
        """The known texts with which this one shares a run, as in `Known.matches`."""
        keys = self._keys(_WORDS.findall(text.lower()))
        held = Counter(sorted(at for key in keys if (at := self._runs.get(key)) is not None))
        return [Match(at, "same", 1.0) for at, _ in held.most_common()]


RULES = ("latex", "words-8", "words-10", "words-13")


def check_rule(rule: str) -> None:
    """Raise UserError for a rule that is none of RULES."""
    if rule not in RULES:
        raise UserError(f"there is no rule '{rule}' to compare problems by; there are {', '.join(RULES)}")


def known(texts: Iterable[str], rule: str) -> Known | KnownByWords:
    """Problems to look up against by one of RULES. Raises UserError for another."""
    check_rule(rule)
    return Known(texts) if rule == "latex" else KnownByWords(texts, int(rule.partition("-")[2]))
