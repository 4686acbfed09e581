"""Near duplicates: the same problem in other LaTeX, and variants that differ in their numbers. For millions of rows.

Two problems are candidates if their runs of three LaTeX tokens overlap (Jaccard index of at least `jaccard`) and they
have the same numbers, each as often. They are the same if besides their answers agree and they say the same: what is
left without the words of asking ("find", "what is the value of") is one and the same sequence of tokens, or one stands
inside of the other. With other numbers they are variants: other problems, of which a template can give more than
anybody wants, so they are counted and capped, never taken for doubles.

Pairs are found by MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", sections 3.3 and 3.4): 21 bands of 3 minima. A pair at Jaccard 0.6 meets in some band with probability
1 - (1 - 0.6^3)^21 = 0.994; whoever meets is then compared exactly. The numbers are part of a band's key, so problems
with other numbers never meet. Signatures and runs lie in files in `$TMPDIR` (some 2 kB a row); in memory are a few
numbers a row.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from curation.pool import First, digest, merged, same_answer
from curation.similar import numbers, tokens
from limo.data import Dropped, Example, Row
from limo.errors import UserError
from limo.parallel import chunked, spread

RUN = 3  # tokens of a shingle
BANDS, MINIMA = 21, 3
REPRESENTATIVES = 8  # of a bucket, each of which a newcomer is compared with
CHUNK = 2000

_U = np.uint64
_draw = np.random.default_rng(20250205)
FACTORS = _draw.integers(1, 2**63, BANDS * MINIMA, dtype=np.uint64) * _U(2) + _U(1)
SHIFTS = _draw.integers(0, 2**63, BANDS * MINIMA, dtype=np.uint64)
MIX = tuple(map(_U, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))  # splitmix64's constants


def near(rows: Iterable[Example], /, *, jaccard: float, variants: int | None) -> Iterator[Row]:
    """Drop problems that are an earlier one in other words or other LaTeX, and variants beyond the first few.

    Args: `jaccard` is the least overlap of two problems' runs of three tokens (0.6 finds every reformatted copy of a
    MATH problem that was tried); `variants` is how many problems of one template may stay, None for all. Another chain
    of an earlier problem stays as its rival. Goes through `rows` twice. Raises UserError for settings that cannot be.
    """
    if not 0 < jaccard <= 1 or (variants is not None and variants < 1):
        raise UserError(f"near needs 0 < jaccard <= 1 and variants of at least 1 or null: {jaccard}, {variants}")
    with tempfile.TemporaryDirectory(prefix="limo-near-") as folder:
        same, templates = _groups((row.question for row in rows), Path(folder), jaccard, variants is not None)
    over = _beyond(templates, same, variants) if variants else {}
    heads, first = set(over.values()), dict[int, Row]()
    for at, row in enumerate(merged(rows, same, same=_same)):
        if at in heads:
            first[at] = row
        if isinstance(row, Example) and at in over:
            yield _variant(row, first[over[at]], variants)
        else:
            yield row


ASKING = frozenset(
    "an and answer are as at be by calculate common compute determine each evaluate express find following form "
    "fraction given how if in is it its let many number of on possible simplest solve suppose that the there these "
    "this those to value values was we what when where which with your".split()
)
_WORDS = re.compile(r"(?<!\\)\b\w+")  # names and numbers of a drawing, not its spacing and brackets
_DRAWING = re.compile(r"\[asy\](.*?)\[/asy\]", re.DOTALL)


def _same(row: Example, first: First) -> bool:
    return same_answer(row.answer, first.answer) and say_the_same(row.question, first.question)


def say_the_same(one: str, other: str) -> bool:
    """Whether two problems are one, the words of asking aside; of one that stands inside of the other too.

    >>> say_the_same("Find the value of $x+1$.", "What is \\\\(x + 1\\\\)?"), say_the_same("Find $x+1$.", "Find $x-1$.")
    (True, False)
    """
    drawings = [[_WORDS.findall(drawing) for drawing in _DRAWING.findall(text)] for text in (one, other)]
    if all(drawings) and drawings[0] != drawings[1]:
        return False
    short, long = sorted(([t for t in tokens(text) if t not in ASKING] for text in (one, other)), key=len)
    return f" {' '.join(short)} " in f" {' '.join(long)} "


def _variant(row: Example, head: Row, variants: int | None) -> Dropped:
    """The drop of a variant, beside the first row of its template."""
    question = head.question if isinstance(head, Example) else head.data["prompt"][-1]["content"]
    matched = {"id": head.id, "problem": question}
    detail = f"{variants} problems like {head.id} stay"
    return Dropped(row.id, "", "variant with other numbers", detail, data={**row.to_json(), "matched": matched})


def _groups(
    questions: Iterable[str], folder: Path, jaccard: float, templates: bool
) -> tuple[dict[int, int], dict[int, int]]:
    """Which rows are the same problem, and which are of one template, both as position -> first position."""
    plain, masked = _Signatures(folder, "plain"), _Signatures(folder, "masked")
    work = ((chunk, templates) for chunk in chunked(questions, CHUNK))
    for signed, variants in spread(_signed, work):
        plain.add(*signed)
        if variants is not None:
            masked.add(*variants)
    same = plain.groups(jaccard)
    return same, masked.groups(jaccard) if templates else {}


def _beyond(templates: dict[int, int], same: dict[int, int], variants: int) -> dict[int, int]:
    """The positions of variants beyond the first few of their template, each with the template's first position."""
    kept: dict[int, set[int]] = {}
    over = {}
    for at in sorted(templates):
        problems = kept.setdefault(templates[at], set())
        problem = same.get(at, at)
        if problem in problems or len(problems) < variants:
            problems.add(problem)
        else:
            over[at] = templates[at]
    return over


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


def near_keys(questions: list[str], templates: bool) -> np.ndarray:
    """What rows that `near` may compare have in common, some of it: (bands, n); twice the bands with `templates`."""
    plain, masked = _signed((questions, templates))
    return np.concatenate([plain[0], masked[0]]) if masked else plain[0]


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
    """Signatures of all rows in files: keys in blocks, band by band, and the runs of each row."""

    def __init__(self, folder: Path, name: str) -> None:
        self.keys, self.runs = folder / f"{name}.keys", folder / f"{name}.runs"
        self.blocks: list[int] = []  # rows of each
        self.counts: list[np.ndarray] = []

    def add(self, keys: np.ndarray, runs: np.ndarray, counts: np.ndarray) -> None:
        with self.keys.open("ab") as file:
            file.write(keys.tobytes())
        with self.runs.open("ab") as file:
            file.write(runs.tobytes())
        self.blocks.append(keys.shape[1])
        self.counts.append(counts.astype(np.uint32))

    def groups(self, jaccard: float) -> dict[int, int]:
        """Rows joined by at least this overlap, as position -> first position of the group, for groups of several."""
        if not self.blocks:
            return {}
        counts = np.concatenate(self.counts)
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        runs = np.memmap(self.runs, dtype=np.uint64, mode="r")
        joined = _Joined()

        def of(at: int) -> set[int]:
            return set(runs[starts[at] : starts[at + 1]].tolist())

        for band in range(BANDS):
            for bucket in _buckets(self._band(band)):
                _join(bucket, joined, of, jaccard)
        return joined.groups()

    def _band(self, band: int) -> np.ndarray:
        """The keys of one band for all rows."""
        found, start = [], 0
        with self.keys.open("rb") as file:
            for rows in self.blocks:
                file.seek(8 * (start + band * rows))
                found.append(np.fromfile(file, dtype=np.uint64, count=rows))
                start += BANDS * rows
        return np.concatenate(found)


def _buckets(keys: np.ndarray) -> Iterator[list[int]]:
    """The positions that share a key, ascending, for keys that several have."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
    sizes = np.diff(edges)
    for at in np.flatnonzero(sizes > 1):
        yield order[edges[at] : edges[at + 1]].tolist()


def _join(bucket: list[int], joined: "_Joined", of: Any, jaccard: float) -> None:
    """Join each of a bucket to the first of its representatives that it is similar to."""
    representatives: list[tuple[int, set[int]]] = []
    for at in bucket:
        root = joined.root(at)
        if any(joined.root(other) == root for other, _ in representatives):
            continue
        mine = of(at)
        match = next((o for o, runs in representatives if len(mine & runs) >= jaccard * len(mine | runs)), None)
        if match is not None:
            joined.join(match, at)
        elif len(representatives) < REPRESENTATIVES:
            representatives.append((at, mine))


class _Joined:
    """Disjoint sets of positions; the root of a set is its first position."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def root(self, at: int) -> int:
        above = at
        while (up := self.parent.get(above, above)) != above:
            above = up
        while at != above:
            self.parent[at], at = above, self.parent[at]
        return above

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        self.parent.setdefault(low, low)
        self.parent[high] = low

    def groups(self) -> dict[int, int]:
        return {at: self.root(at) for at in list(self.parent)}
