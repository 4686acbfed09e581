"""The choice by cover: k problems that stand for the whole pool, instead of k good ones of the same kind.

Two ways to say that a few vectors cover many. *k-center* makes the problem that is farthest from every chosen one as
near as it can: it reaches for the rim of the pool, rare problems and odd ones included. *Facility location* makes the
average problem near to a chosen one: it goes where many problems are, and leaves out the odd ones. Both are greedy:
what was chosen stays chosen, and without a share of the score the first m of k rows are the choice of m.

What is near is a matter of the embedding (`curation/stages/embed.py`); nothing here looks at the chains. Put the stage
`curation.stages.choose.best_chain` before, which leaves one chain of each problem.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from curation.similar import digest
from curation.stage import stage
from curation.stages.embed import embed
from curation.stages.score import percentile_ranks, read_score
from limo.data import Dropped, Example, Row
from limo.errors import UserError
from limo.recipe import suggest

if TYPE_CHECKING:
    import pandas as pd

MOST = 100_000  # candidates for facility location, whose time grows with their square: two minutes for so many
BLOCK = 64  # rows whose similarities to all others are held at once
NOISE = 1e-6  # what float32 leaves of a difference that is none


def _check(*, k: int, among: int | None, method: str, quality: float, dimensions: int = 1, **_: object) -> None:
    if k < 1:
        raise UserError(f"spread.k must be at least 1, not {k}")
    if among is not None and among < 1:
        raise UserError(f"spread.among must be at least 1, or null for all rows, not {among}")
    if method not in METHODS:
        raise UserError(f"spread.method: there is no method '{method}'{suggest(method, METHODS)}")
    if not 0 <= quality <= 1:
        raise UserError(f"spread.quality must be between 0 (cover alone) and 1 (the score alone), not {quality}")
    if dimensions < 1:
        raise UserError(f"spread.dimensions must be at least 1, not {dimensions}")


@stage("pool", reads=("{by}",), writes=("spread_rank",), check=_check)
def spread(
    rows: Iterable[Example],
    /,
    *,
    k: int,
    by: str,
    among: int | None,
    method: str,
    quality: float,
    embedding: str,
    dimensions: int,
    seed: int,
) -> Iterator[Row]:
    """Keep `k` rows whose problems cover those of the best `among` rows by `scores[by]` (null: of all rows).

    `method` is kcenter or facility; `quality` in [0, 1] is the share of the score in each choice: 0 is cover alone, 1
    the score alone, and the function of the method says what lies between. `embedding`, `dimensions` and `seed` are
    those of `curation.stages.embed.embed`. Chosen rows come in the order of their choice, which is
    `scores.spread_rank`; of fewer than `k` rows, all. The result does not depend on the order of rows.

    Goes through `rows` three times, and holds the chosen rows, question and vector of the candidates, and some numbers
    a row. Raises UserError for a setting out of range, a row without the score, or a problem that comes twice.
    """
    _check(k=k, among=among, method=method, quality=quality, dimensions=dimensions)
    table = _candidates(rows, by, among)
    if not len(table):
        return
    if method == "facility" and len(table) > MOST:
        raise UserError(f"spread.among must be at most {MOST:,} for facility, not {len(table):,}; kcenter takes any")
    questions = {row.id: row.question for row in rows if row.id in table.index}
    vectors = embed((questions[key] for key in table.index), model=embedding, dimensions=dimensions, seed=seed)
    order = METHODS[method](vectors, min(k, len(table)), percentile_ranks(table["value"].to_numpy()), quality)
    closest, cosines = nearest(vectors, order)
    table["closest"], table["cosine"] = table.index[closest], cosines
    ranks = {table.index[place]: rank for rank, place in enumerate(order)}
    chosen: dict[int, Example] = {}
    for row in rows:
        if row.id in ranks:
            chosen[ranks[row.id]] = replace(row, scores={**row.scores, "spread_rank": float(ranks[row.id])})
        elif row.id in table.index:
            detail = f"cosine {table.at[row.id, 'cosine']:.2f} to {table.at[row.id, 'closest']}"
            yield Dropped(row.id, "", "a chosen problem is close to it", detail, data=row.to_json())
        else:
            detail = f"{by} {row.scores[by]:.3f}"
            yield Dropped(row.id, "", f"not among the best {among} by {by}", detail, data=row.to_json())
    yield from (chosen[rank] for rank in sorted(chosen))


def _candidates(rows: Iterable[Example], by: str, among: int | None) -> "pd.DataFrame":
    """The scores of the best `among` rows by id, best first. Raises UserError for a problem that comes twice."""
    import pandas as pd

    listed = ((row.id, read_score(row, by, "spread.by"), digest(row.problem)) for row in rows)
    table = pd.DataFrame(listed, columns=["id", "value", "problem"])
    if len(twice := table[table["problem"].duplicated()]):
        raise UserError(
            f"spread: the problem of the row {twice['id'].iloc[0]} comes twice. Put the stage "
            "curation.stages.choose.best_chain before, which keeps the best chain of each problem"
        )
    return table.sort_values(["value", "id"], ascending=[False, True]).head(among or len(table)).set_index("id")


def k_center(vectors: np.ndarray, k: int, ranks: np.ndarray, quality: float) -> list[int]:
    """Farthest-first traversal: the best-ranked row, then each time the one with the largest gain; ties to the first.

    vectors (n, d), ranks (n,) of the score in [0, 1], k at most n. Returns k places in the order of their choice.

    With D(i) the Euclidean distance of i to the nearest chosen row, the gain of i is
    (1 - quality) D(i) / max D + quality rank(i): the largest distance there still is counts as 1, so that the shares
    hold from the first choice to the last. With quality 0 no problem is farther from a chosen one than twice what the
    best k could do (Gonzalez 1985; for choosing data Sener & Savarese 2018, arXiv 1708.00489, section 4); with more of
    it nothing is promised. Takes O(n k d) time and O(n) memory beside the vectors.
    """
    squared = np.square(vectors).sum(axis=1)
    distance = np.full(len(vectors), np.inf)
    free = np.ones(len(vectors), bool)
    chosen = [int(np.argmax(ranks))]
    while len(chosen) < k:
        last = chosen[-1]
        free[last] = False
        # Rounded, since float32 knows no more and ties must be ties
        gap = np.round(squared + squared[last] - 2 * (vectors @ vectors[last]), 6)
        distance = np.minimum(distance, np.sqrt(np.maximum(gap, 0)))
        gain = (1 - quality) * distance / max(distance.max(), NOISE) + quality * ranks
        chosen.append(int(np.argmax(np.where(free, gain, -1))))
    return chosen


def facility(vectors: np.ndarray, k: int, ranks: np.ndarray, quality: float) -> list[int]:
    """Greedy facility location: each time the row that adds most to the objective; ties to the first.

    vectors (n, d) of unit length or zero, ranks (n,) of the score in [0, 1], k at most n. Returns k places in the order
    of their choice.

    The objective of a set S is

        (1 - quality) / n  sum_i max_{j in S} max(0, cos(i, j))  +  quality / k  sum_{j in S} rank(j)

    Its first part says how well the average problem is covered (Wei, Iyer & Bilmes 2015); one that has nothing in
    common with S is not covered at all, hence no (1 + cos) / 2. It saturates and the second part does not: the first
    choices are more for cover, the last more for the score. Both parts are monotone and submodular, so greedy reaches
    1 - 1/e = 63 % of the best S at least (Nemhauser, Wolsey & Fisher 1978; Krause & Golovin 2014), for any quality.

    Lazy (Minoux 1978): gains only fall, so a row whose old gain is below another's new one needs no new one. Takes
    O(n^2 d) time for the first gains, and BLOCK rows of similarities, never n.
    """
    bonus = quality * len(vectors) / k * ranks
    covered = np.zeros(len(vectors), np.float32)

    def gains(places: np.ndarray) -> np.ndarray:
        more = vectors[places] @ vectors.T
        more -= covered
        # Rounded as in k_center
        added = np.round(np.maximum(more, 0, out=more).sum(axis=1), 4)
        return np.asarray((1 - quality) * added + bonus[places])

    blocks = (np.arange(at, min(at + BLOCK, len(vectors))) for at in range(0, len(vectors), BLOCK))
    bounds = np.concatenate([gains(block) for block in blocks])
    chosen: list[int] = []
    while len(chosen) < k:
        best = _largest(bounds, gains)
        chosen.append(best)
        bounds[best] = -np.inf
        # Duplicates of a chosen row must add nothing, not what rounding leaves
        covered = np.maximum(covered, vectors @ vectors[best] + NOISE)
    return chosen


def _largest(bounds: np.ndarray, gains: Callable[[np.ndarray], np.ndarray]) -> int:
    """The first place of the largest gain; `bounds`, never below the gains, become gains where that had to be known."""
    stale = bounds.copy()
    while stale[best := int(np.argmax(bounds))] > -np.inf:
        highest = np.argpartition(-stale, min(BLOCK, len(stale)) - 1)[:BLOCK]
        places = np.union1d(highest[stale[highest] > -np.inf], best)
        bounds[places] = gains(places)
        stale[places] = -np.inf
    return best


def nearest(vectors: np.ndarray, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each of vectors (n, d) the chosen place with the largest cosine, and that cosine; both (n,)."""
    centres = vectors[chosen].T
    closest = np.empty(len(vectors), int)
    cosines = np.empty(len(vectors))
    for at in range(0, len(vectors), BLOCK):
        block = vectors[at : at + BLOCK] @ centres
        closest[at : at + BLOCK] = block.argmax(axis=1)
        cosines[at : at + BLOCK] = block.max(axis=1)
    return np.array(chosen)[closest], cosines


METHODS = {"kcenter": k_center, "facility": facility}
