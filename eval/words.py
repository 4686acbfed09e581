"""Word lists: the words of verification, exploration and connection in a chain, in several languages.

A list is a YAML file in `eval/words/`, or your own file: for each of the three features a list of words or phrases, in
any script. `published` has the six words that the paper prints; en, de, es, fr and zh are ours.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from limo.data import read_text
from limo.errors import UserError
from limo.processes import READING, limit_time

COUNTED = ("verification", "exploration", "connectives")
FOLDER = Path(__file__).parent / "words"

_WORD = re.compile(r"[^\W\d_]+")
_HAN = re.compile(r"[\u3400-\u9fff]")  # written without spaces: each character counts as a word


@dataclass(frozen=True, slots=True)
class FeatureTerms:
    """The terms of one feature."""

    words: frozenset[str]
    phrases: tuple[tuple[str, "re.Pattern[str]", int], ...]  # text, pattern of the whole phrase, our words inside it
    signs: "re.Pattern[str] | None"  # terms without spaces around them, the longest first

    def count(self, text: str, words: Counter[str], has_han: bool) -> int:
        """How often the terms occur in a lower-case text with these words. A phrase counts once, its words do not."""
        total = sum(words[word] for word in self.words & words.keys())
        for phrase, whole, inside in self.phrases:
            if phrase in text:
                total += len(whole.findall(text)) * (1 - inside)
        return total + (len(self.signs.findall(text)) if has_han and self.signs else 0)


def features(text: str, lists: dict[str, FeatureTerms]) -> tuple[float, float, float, float]:
    """Length in pieces between spaces, then occurrences of each list divided by the number of words.

    Pieces include numbers and formulas, which are most of a chain; words do not.
    """
    lower = text.lower()
    has_han = not text.isascii() and _HAN.search(text) is not None
    length, plain = len(text.split()), lower
    signs = 0
    if has_han:
        signs, plain = len(_HAN.findall(text)), _HAN.sub(" ", lower)
    words = Counter(_WORD.findall(plain))
    count = max(words.total() + signs, 1)
    found = [lists[name].count(lower, words, has_han) / count for name in COUNTED]
    return float(length + signs), found[0], found[1], found[2]


@lru_cache
def word_lists(names: tuple[str, ...]) -> dict[str, FeatureTerms]:
    """The terms of each feature from all named lists together. Raises UserError if one cannot be read."""
    return {feature: _terms(terms) for feature, terms in term_lists(names).items()}


def term_lists(names: Sequence[str]) -> dict[str, list[str]]:
    """The terms of each feature as written, from all named lists. Raises UserError if one cannot be read."""
    merged = {name: set[str]() for name in COUNTED}
    for name in names:
        for feature, terms in _read(name).items():
            merged[feature].update(terms)
    return {feature: sorted(terms) for feature, terms in merged.items()}


def _read(name: str) -> dict[str, list[str]]:
    path = FOLDER / f"{name}.yaml" if (FOLDER / f"{name}.yaml").is_file() else Path(name)
    if path.is_dir() or not path.exists():
        shipped = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(f"score.words: there is no word list '{name}'; shipped are {shipped}")
    try:
        with limit_time(READING, f"{path}"):
            lists = yaml.safe_load(read_text(path, "score.words"))
            return {feature: [str(term).lower() for term in lists[feature]] for feature in COUNTED}
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path}: must give a list of words for {', '.join(COUNTED)} ({error})") from None


def _terms(terms: list[str]) -> FeatureTerms:
    signs = tuple(term for term in terms if _HAN.search(term))
    words = frozenset(term for term in terms if _WORD.fullmatch(term) and term not in signs)
    phrases = [term for term in terms if term not in words and term not in signs]
    whole = [
        (p, re.compile(rf"(?<!\w){re.escape(p)}(?!\w)"), sum(w in words for w in _WORD.findall(p))) for p in phrases
    ]
    pattern = re.compile("|".join(sorted(map(re.escape, signs), key=len, reverse=True))) if signs else None
    return FeatureTerms(words, tuple(whole), pattern)
