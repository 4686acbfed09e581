"""Finds known problems in the rows of a pool, for decontamination."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Literal

from curation.matching.match import Text, align
from curation.matching.similar import ASKING, tokens

ORDER = ("same", "variant", "related")
DIGITS = frozenset("0123456789")
RUN = 3  # tokens that are looked up together
LISTED = 8  # known problems that are listed for a run
LIKELY = 0.5  # shared fraction of one text's runs, weighted by rarity, from which an alignment is made
ALIGNED = 3  # most known problems that a text is aligned with
LEAST = 5  # fewest tokens
RELATED = 0.45  # fraction of one text's tokens in common runs, times that of its rare runs, from which it is a part
_WORDS = re.compile(r"[^\W_]+")
Verdict = Literal["same", "variant", "related"]


@dataclass(frozen=True, slots=True)
class Match:
    """A known problem that a text holds."""

    at: int  # position among the known problems
    kind: Verdict
    contained: float  # share of its runs


class Known:
    """Looks up texts by runs of tokens, with numbers kept and masked, and aligns a text with the known problems that
    share the most runs with it, weighted by how rare they are among the known problems."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)
        self._aligned: dict[int, Text] = {}
        read = [_read(text) for text in self.texts]
        self._whole = {hash(tuple(parts)): at for at, parts in reversed(list(enumerate(read)))}
        keys = [_keys(parts) for parts in read]
        listed: dict[int, list[int]] = defaultdict(list)
        for at, both in enumerate(keys):
            for key in set().union(*both):
                listed[key].append(at)
        scale = log(1 + len(keys))
        self._index = {key: (1 - log(len(ats)) / scale, ats[:LISTED]) for key, ats in listed.items()}
        self._totals = [sum(self._index[key][0] for key in masked) for masked, _ in keys]
        self._least = [min(2.0, LIKELY * total) for total in self._totals]

    def matches(self, text: str) -> list[Match]:
        """Every known problem that the text holds, the best match first. Linear in the text."""
        shares = self._shares(text)
        if not shares:
            return []
        best, read = sorted(shares, key=lambda at: (-shares[at], at))[:ALIGNED], Text(text)
        found = [Match(at, kind, min(shares[at], 1)) for at in best if (kind := self._judge(at, read, shares[at]))]
        return sorted(found, key=lambda match: (ORDER.index(match.kind), -match.contained))

    def _shares(self, text: str) -> dict[int, float]:
        """For each known problem that is worth an alignment: its share of runs in common with the text."""
        parts = _read(text)
        held: dict[int, float] = defaultdict(float)
        whole = 0.0
        for keys in _keys(parts):
            found = [self._index[key] for key in keys if key in self._index]
            whole = whole or len(keys) - len(found) + sum(weight for weight, _ in found)
            for weight, ats in found:
                for at in ats:
                    held[at] += weight
        enough = {at: weight for at, weight in held.items() if weight >= self._least[at]}
        shares = {at: weight / min(self._totals[at], whole) for at, weight in enough.items()}
        likely = {at: share for at, share in shares.items() if share >= LIKELY}
        equal = self._whole.get(hash(tuple(parts)))
        return likely if equal is None else {**likely, equal: inf}

    def _judge(self, at: int, text: Text, share: float) -> Verdict | None:
        if at not in self._aligned:
            self._aligned[at] = Text(self.texts[at])
        found = align(self._aligned[at], text, holds=True)
        if found.same:
            return "same"
        if found.numbers and not found.others and found.few_words:
            return "variant"
        enough = found.in_runs * min(share, 1) >= RELATED * found.shorter
        return "related" if enough and found.in_runs >= LEAST else None


def _read(text: str) -> list[str]:
    """The text's tokens, without question words and with variables masked."""
    return ["x" if len(part) < 3 and part.isalpha() else part for part in tokens(text) if part not in ASKING]


def _keys(parts: list[str]) -> tuple[set[int], set[int]]:
    """Two sets: runs of tokens with masked numbers; and runs with their numbers, with one key for all numbers."""
    masked = ["#" if part[0] in DIGITS else part for part in parts]
    runs = set(map(hash, _runs(masked, RUN)))
    if parts == masked:
        return runs, set()
    numbers = hash(tuple(sorted(part for part in parts if part[0] in DIGITS)))
    return runs, {numbers, *map(hash, _runs(parts, RUN))} - runs


def _runs(parts: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    """All runs of `size` tokens, and shorter runs at the beginning and the end."""
    marked = ["", *parts, ""]
    return zip(*(marked[at:] for at in range(size)), strict=False)


class WordRuns:
    """The usual rule: a text that shares a run of `size` words with a known text holds it.

    It also matches texts that share only boilerplate, and never finds known texts of fewer words; with `whole`, shorter
    known texts of at least so many words are compared as a whole.
    """

    def __init__(self, texts: Iterable[str], size: int, whole: int | None = None) -> None:
        self.size = size
        self._short = set[int]()  # words of the texts that are compared as a whole
        self._index: dict[int, list[int]] = defaultdict(list)
        for at, text in enumerate(texts):
            words = _WORDS.findall(text.lower())
            if whole is not None and whole <= len(words) < size:
                self._short.add(len(words))
            for key in self._keys(words):
                self._index[key].append(at)

    def matches(self, text: str) -> list[Match]:
        """Every known problem that the text holds, the best match first. Linear in the text."""
        keys = self._keys(_WORDS.findall(text.lower()))
        held = Counter(at for key in keys & self._index.keys() for at in self._index[key])
        return [Match(at, "same", 1.0) for at, _ in sorted(held.items(), key=lambda item: (-item[1], item[0]))]

    def _keys(self, words: Sequence[str]) -> set[int]:
        whole = {hash(tuple(words))} if len(words) in self._short else set()
        return whole | {hash(run) for run in zip(*(words[at:] for at in range(self.size)), strict=False)}
