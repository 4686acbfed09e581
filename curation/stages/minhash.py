"""Pairs of similar texts among millions, by MinHash and locality-sensitive hashing.

    same, templates = similar_groups(questions, jaccard=0.6, templates=True)

Two texts are similar if their runs of three LaTeX tokens overlap (Jaccard index) and they have the same numbers, each
as often. 21 bands of 3 minima (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", sections 3.3 and
3.4): a pair at Jaccard 0.6 meets in some band with probability 1 - (1 - 0.6^3)^21 = 0.994, and pairs that meet are then
compared exactly. The numbers are part of a band's key, so texts with other numbers never meet. Signatures and runs lie
in files in `$TMPDIR` (about 2 kB a text); in memory are a few numbers a text.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from curation.similar import digest, numbers, tokens
from limo.parallel import chunked, spread

RUN = 3  # tokens of a shingle
BANDS, MINIMA = 21, 3
REPRESENTATIVES = 8  # of a bucket, each of which a newcomer is compared with
CHUNK = 2000

_U = np.uint64
_random = np.random.default_rng(20250205)
FACTORS = _random.integers(1, 2**63, BANDS * MINIMA, dtype=np.uint64) * _U(2) + _U(1)
SHIFTS = _random.integers(0, 2**63, BANDS * MINIMA, dtype=np.uint64)
MIX = tuple(map(_U, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))  # splitmix64's constants


def similar_groups(
    questions: Iterable[str], *, jaccard: float, templates: bool
) -> tuple[dict[int, int], dict[int, int]]:
    """Groups of similar texts, and with `templates` of texts alike but for numbers: position -> first position."""
    with tempfile.TemporaryDirectory(prefix="limo-near-") as folder:
        plain, masked = _Signatures(Path(folder), "plain"), _Signatures(Path(folder), "masked")
        work = ((chunk, templates) for chunk in chunked(questions, CHUNK))
        for signed, variants in spread(_signed, work):
            plain.add(*signed)
            if variants is not None:
                masked.add(*variants)
        return plain.groups(jaccard), masked.groups(jaccard) if templates else {}


Signed = tuple[np.ndarray, np.ndarray, np.ndarray]  # band keys (bands, m), runs of all texts, how many of each (m,)


def _signed(work: tuple[list[str], bool]) -> tuple[Signed, Signed | None]:
    """The signatures of some questions; with the second value true, those with every number masked as well."""
    questions, templates = work
    parts = [tokens(question) for question in questions]
    counts = np.array([_numbers(p) for p in parts], dtype=np.uint64)
    masked = [["#" if t[0].isdigit() else t for t in p] for p in parts] if templates else None
    return signatures(parts, counts), signatures(masked, np.zeros_like(counts)) if masked else None


def _numbers(parts: list[str]) -> int:
    found = numbers(parts)
    return digest(" ".join(f"{n}*{found[n]}" for n in sorted(found)))


_ids: dict[str, int] = {}


def _id(token: str) -> int:
    if len(_ids) > 500_000:
        _ids.clear()
    return _ids.setdefault(token, digest(token))


def signatures(parts: list[list[str]], salt: np.ndarray) -> Signed:
    """Band keys and shingles of tokenised texts. `salt` (m,) becomes part of the keys: other salts never meet.

    Returns the keys (BANDS, m), the distinct runs of all texts one after the other, and how many each has (m,).
    """
    padded = [p + [""] * (RUN - len(p)) for p in parts]  # a shorter text is one run
    lengths = np.array([len(p) for p in padded])
    flat = np.fromiter((_id(t) for p in padded for t in p), dtype=np.uint64, count=int(lengths.sum()))
    runs = flat[:-2] * MIX[0] + np.roll(flat, -1)[:-2] * MIX[1] + np.roll(flat, -2)[:-2] * MIX[2]
    ends = np.cumsum(lengths)
    inside = np.ones(len(flat), dtype=bool)
    inside[ends - 1] = inside[ends - 2] = False  # runs that would reach into the next text
    runs, counts = _mixed(runs[inside[:-2]]), lengths - (RUN - 1)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    minima = np.stack([np.minimum.reduceat(runs * a + b, starts) for a, b in zip(FACTORS, SHIFTS, strict=True)])
    keys = np.zeros((BANDS, len(parts)), dtype=np.uint64) + salt
    for at in range(MINIMA):
        keys = _mixed(keys * MIX[0] + minima[at::MINIMA])
    return keys, runs, counts


def _mixed(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> _U(30))) * MIX[1]
    values = (values ^ (values >> _U(27))) * MIX[2]
    return np.asarray(values ^ (values >> _U(31)))


class _Signatures:
    """Signatures of all rows: band keys in memory, the runs of each row in a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.runs = folder / f"{name}.runs"
        self.keys: list[np.ndarray] = []
        self.counts: list[np.ndarray] = []

    def add(self, keys: np.ndarray, runs: np.ndarray, counts: np.ndarray) -> None:
        with self.runs.open("ab") as file:
            file.write(runs.tobytes())
        self.keys.append(keys)
        self.counts.append(counts.astype(np.uint32))

    def groups(self, jaccard: float) -> dict[int, int]:
        """Rows joined by at least this overlap, as position -> first position of the group, for groups of several."""
        from scipy.cluster.hierarchy import DisjointSet

        if not self.keys:
            return {}
        ends = np.cumsum(np.concatenate(self.counts), dtype=np.int64)
        runs = np.memmap(self.runs, dtype=np.uint64, mode="r")
        joined = DisjointSet()
        for band in range(BANDS):
            for bucket in find_buckets(np.concatenate([keys[band] for keys in self.keys])):
                _join(bucket, joined, lambda at: set(runs[ends[at - 1] if at else 0 : ends[at]].tolist()), jaccard)
        return {at: min(group) for group in joined.subsets() if len(group) > 1 for at in group}


def find_buckets(keys: np.ndarray) -> Iterator[list[int]]:
    """The positions that share a key, ascending, for keys that several have."""
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] + _U(1), append=keys[order][-1:] + _U(1)))
    for at in np.flatnonzero(np.diff(edges) > 1):
        yield order[edges[at] : edges[at + 1]].tolist()


def _join(bucket: list[int], joined: Any, runs_of: Callable[[int], set[int]], jaccard: float) -> None:
    """Join each of a bucket to the first of its representatives that it is similar to."""
    representatives: list[tuple[int, set[int]]] = []
    for at in bucket:
        joined.add(at)
        if any(joined.connected(at, other) for other, _ in representatives):
            continue
        mine = runs_of(at)
        match = next((o for o, runs in representatives if len(mine & runs) >= jaccard * len(mine | runs)), None)
        if match is not None:
            joined.merge(match, at)
        elif len(representatives) < REPRESENTATIVES:
            representatives.append((at, mine))
