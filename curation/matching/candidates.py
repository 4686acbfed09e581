"""Finds pairs of rows that are worth an alignment: those that share rare runs of tokens.

All data are numbers in arrays: less than 1 kB per row, and time linear in the rows for any text.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from curation.matching.similar import ASKING, tokens

LONGEST = 8000  # characters of a row that count
KEYS = 8  # rarest runs that a row is looked up by
BLOCK = 20_000  # rows that are hashed together
SLOTS = 2**25  # most slots in which runs are counted
SHARED = 0.3  # fraction of the rarest runs that must be shared
VOTES = 3  # equal numbers count as much as so many runs
MISSING = 5  # most bits of a row's words that the other row may lack
AT_MOST = 4  # most earlier rows that a row is compared with
MIX = np.uint64(0x9E3779B97F4A7C15)
NEIGHBOURS = 3  # rows with the same run that a row is compared with, in addition to the first


class _Ids(dict[str, int]):
    """Ids of tokens, the same in every process: 30 bits of hash, a bit for letters and a bit for numbers."""

    def __missing__(self, token: str) -> int:
        if len(self) > 500_000:
            self.clear()
        letter, number = len(token) < 3 and token.isalpha(), token[0].isdigit()
        self[token] = crc32(token.encode()) & ~3 | letter << 1 | number
        return self[token]


@dataclass(frozen=True, slots=True)
class Sketches:
    """Texts in a compact form for finding similar pairs: hashes of runs of tokens, one text after the other, and a few
    numbers per text.
    """

    hashes: np.ndarray  # (runs of all,) uint32
    counts: np.ndarray  # (n,) uint32, runs of each text
    numbers: np.ndarray  # (n,) uint64, a bit for each of its numbers
    sums: np.ndarray  # (n,) uint64, of its numbers' hashes; 0 if there are fewer than two
    words: np.ndarray  # (n,) uint64, a bit for each of its words and signs

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Sketches":
        """The sketches of texts, in one pass."""
        ids, blocks = _Ids(), list[Sketches]()
        flat, counts = array("I"), array("I")
        for text in texts:
            parts = [ids[token] for token in tokens(text[:LONGEST]) if token not in ASKING]
            flat.extend((0, *parts, 0))
            counts.append(len(parts))
            if len(counts) == BLOCK:
                blocks.append(_sketch(flat, counts))
                flat, counts = array("I"), array("I")
        blocks.append(_sketch(flat, counts))
        columns = zip(*((b.hashes, b.counts, b.numbers, b.sums, b.words) for b in blocks), strict=True)
        return cls(*map(np.concatenate, columns))


def _sketch(flat: "array[int]", lengths: "array[int]") -> Sketches:
    """The sketches of several texts. `flat` holds the tokens of all texts, with a mark before and after each text."""
    ids, counts = np.array(flat, np.uint64), np.array(lengths, np.uint32)
    if not len(ids):
        nothing = np.zeros(0, np.uint64)
        return Sketches(nothing.astype(np.uint32), counts, nothing, nothing, nothing)
    starts = np.cumsum(counts + 2, dtype=np.int64) - counts - 2
    number, letter = (ids & np.uint64(1)).astype(bool), (ids & np.uint64(2)).astype(bool)
    bits = np.uint64(1) << (ids * MIX >> np.uint64(58))
    word = ~number & ~letter & (ids > 0)
    sums = np.add.reduceat(np.where(number, ids * MIX, np.uint64(0)), starts)
    sums[np.add.reduceat(number, starts, dtype=np.uint32) < 2] = 0
    number &= ids != _Ids()["1"]  # which may be spelled like a pronoun
    numbers = np.bitwise_or.reduceat(np.where(number, bits, np.uint64(0)), starts)
    words = np.bitwise_or.reduceat(np.where(word, bits, np.uint64(0)), starts)
    ids[letter] = 2
    hashes = np.zeros(len(ids) - 2, np.uint64)
    for at in range(3):
        hashes = (hashes ^ ids[at : len(hashes) + at]) * MIX
    inside = np.ones(len(ids), bool)
    inside[starts], inside[starts + 1] = False, False
    runs = (hashes[inside[2:]] >> np.uint64(32)).astype(np.uint32)
    return Sketches(runs, counts, numbers, sums, words)


def rarest(sketches: Sketches) -> tuple[np.ndarray, np.ndarray]:
    """The rarest runs of each row that another row also has: rows and hashes, ordered by row."""
    hashes, counts = sketches.hashes, sketches.counts
    slots = min(SLOTS, 1 << (4 * len(hashes)).bit_length())
    seen = np.zeros(slots, np.uint32)
    np.add.at(seen, hashes % slots, 1)
    rows, keys, start = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint32)], 0
    for first in range(0, len(counts), BLOCK):
        lengths = counts[first : first + BLOCK].astype(np.int64)
        part = hashes[start : start + lengths.sum()]
        start += len(part)
        row = np.repeat(np.arange(first, first + len(lengths), dtype=np.uint32), lengths)
        often = seen[part % slots]
        row, part, often = row[often > 1], part[often > 1], often[often > 1]
        order = np.lexsort((part, often, row))
        row, part = row[order], part[order]
        new = np.ones(len(row), bool)
        new[1:] = (row[1:] != row[:-1]) | (part[1:] != part[:-1])
        row, part = row[new], part[new]
        begins = np.searchsorted(row, np.arange(first, first + len(lengths)))
        rank = np.arange(len(row)) - begins[row - first]
        rows.append(row[rank < KEYS])
        keys.append(part[rank < KEYS])
    return np.concatenate(rows), np.concatenate(keys)


def find_pairs(sketches: Sketches) -> dict[int, list[int]]:
    """For each row up to AT_MOST earlier rows that may be the same problem, the most similar first."""
    rows, keys = rarest(sketches)
    held = np.bincount(rows, minlength=len(sketches.counts))
    numbered = np.flatnonzero(sketches.sums).astype(np.uint32)
    votes = np.arange(VOTES, dtype=np.uint32)[:, None] + (sketches.sums[numbered] >> np.uint64(32)).astype(np.uint32)
    rows, keys = np.append(rows, np.tile(numbered, VOTES)), np.append(keys, votes)
    order = np.lexsort((rows, keys))
    rows, keys = rows[order].astype(np.uint64), keys[order]
    fresh = np.ones(len(keys), bool)
    fresh[1:] = keys[1:] != keys[:-1]
    firsts = rows[fresh][np.cumsum(fresh) - 1]
    codes = [rows << np.uint64(32) | firsts]
    for step in range(1, NEIGHBOURS + 1):
        same = keys[step:] == keys[:-step]
        row, near = rows[step:][same], rows[:-step][same]
        codes.append((row << np.uint64(32) | near)[near != firsts[step:][same]])
    found, times = np.unique(np.concatenate(codes), return_counts=True)
    row, other = (found >> np.uint64(32)).astype(np.int64), (found & np.uint64(2**32 - 1)).astype(np.int64)
    likely = (row != other) & (times >= SHARED * np.minimum(held[row], held[other]))
    likely &= _missing(sketches.numbers[row], sketches.numbers[other]) == 0
    words = np.minimum(np.bitwise_count(sketches.words[row]), np.bitwise_count(sketches.words[other]))
    likely &= _missing(sketches.words[row], sketches.words[other]) <= np.minimum(MISSING, 1 + words // 4)
    row, other, times = row[likely], other[likely], times[likely]
    order = np.lexsort((other, -times, row))
    pairs: dict[int, list[int]] = {}
    for at, before in zip(row[order].tolist(), other[order].tolist(), strict=True):
        if len(listed := pairs.setdefault(at, [])) < AT_MOST:
            listed.append(before)
    return pairs


def _missing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many bits of the number with fewer set bits are not set in the other number."""
    missing: np.ndarray = np.minimum(np.bitwise_count(one & ~other), np.bitwise_count(other & ~one))
    return missing
