"""Recall: of all pages those that are like the seeds, in two rounds with a look at the domains in between.

Round 1 learns from seed pages against random pages. Domains of which it recalls enough pages are decided on, by a list
or a model (`curation/mammoth2/domains.py`). Round 2 learns from pages of the chosen domains against those of all
others, and what it recalls is decided on by domain once more (Yue et al. 2024, "MAmmoTH2", arXiv 2405.03548, section
2.1). How well both tell held-out pages apart is printed and kept with the stage.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from curation.mammoth2.domains import SHOWN, Domain
from curation.mammoth2.pages import first_words
from curation.mammoth2.recognise import Learning, Recogniser, learned, quality
from curation.similar import digest
from curation.stage import check_engine, stage
from limo.data import Dropped, Example, Row
from limo.errors import UserError
from limo.figures import tell
from limo.progress import say
from limo.recipe import bind


@dataclass(frozen=True, slots=True)
class Seeds:
    """What round 1 learns from."""

    positives: dict[str, Any]  # pool sources by name, whose archives are read as the pool's are
    read: dict[str, Any]  # the stage that reads them
    per_class: int  # pages of each kind, at most; the others are random ones of those that are recalled from


def _check(*, seeds: Seeds, first: dict[str, Any], second: dict[str, Any], **_: object) -> None:
    for name, node in seeds.positives.items():
        next(iter(bind(node, f"seeds.positives.{name}")(name, "")), None)
    for name, node in (("first", first), ("second", second)):
        if "engine" in node:
            check_engine(node["engine"], where=f"{name}.engine")


@stage("pool", samples=True, check=_check)
def recall(
    rows: Iterable[Example],
    /,
    *,
    seeds: Seeds,
    learning: Learning,
    threshold: float,
    held_out: float,
    least: int,
    first: dict[str, Any],
    second: dict[str, Any],
    seed: int,
) -> Iterator[Row]:
    """Keep the pages of the second round, each with `scores.recall_1`, `scores.recall_2`.

    Args: `seeds`; `learning` of both rounds; `threshold` of the probability from which a page is recalled; `held_out`
    share of the pages of both kinds that measures precision and recall; `least` recalled pages below which a domain is
    not decided on but left; `first` and `second` decisions, nodes of `curation.mammoth2.domains`; `seed`. Goes through
    `rows` several times. What is dropped is kept by its address and record, without its text. Raises UserError if there
    are no seeds, or no domain is chosen.
    """
    if not (0 < threshold < 1 and 0 < held_out < 1):
        raise UserError(f"recall needs threshold and held_out between 0 and 1: {threshold}, {held_out}")
    listed = _seed_archives(seeds)  # where there are none, that is told before any page is read
    if not any(True for _ in rows):
        return
    positives = _seed_pages(seeds, listed)
    random = [first_words(row.question, 3000) for row in _drawn(rows, seeds.per_class, f"{seed}/random")]
    one = _round("round 1", positives, random, learning, threshold, held_out, seed)
    scores_1 = list(one.scores(row.question for row in rows))
    chosen_1 = _decided("round 1", rows, scores_1, threshold, least, first)
    inside, outside = _by_domain(rows, chosen_1, scores_1, threshold, seeds.per_class, seed)
    two = _round("round 2", [*inside, *positives], outside, learning, threshold, held_out, seed)
    scores_2 = list(two.scores(row.question for row in rows))
    chosen_2 = _decided("round 2", rows, scores_2, threshold, 1, second)
    for row, score_1, score_2 in zip(rows, scores_1, scores_2, strict=True):
        scores = {**row.scores, "recall_1": round(score_1, 4), "recall_2": round(score_2, 4)}
        data = {**row.notes["page"], "scores": scores}
        if score_2 < threshold:
            yield Dropped(row.id, "", "not recalled", f"{score_2:.2f}; the threshold is {threshold:g}", data=data)
        elif not chosen_2.get(_domain(row), False):
            yield Dropped(row.id, "", "domain not chosen", _domain(row), data=data)
        else:
            yield replace(row, scores=scores)


def _domain(row: Example) -> str:
    if "page" not in row.notes:
        raise UserError(f"row {row.id} is no page: put curation.mammoth2.pages.read before this stage")
    return str(row.notes["page"]["domain"])


def _seed_archives(seeds: Seeds) -> list[Example]:
    sources = ((name, bind(node, f"recall.seeds.positives.{name}")) for name, node in seeds.positives.items())
    return [row for name, source in sources for row in source(name, "") if isinstance(row, Example)]


def _seed_pages(seeds: Seeds, listed: list[Example]) -> list[str]:
    pages = bind(seeds.read, "recall.seeds.read")(listed)
    texts = list(
        islice((first_words(row.question, 3000) for row in pages if isinstance(row, Example)), seeds.per_class)
    )
    if len(texts) < 2:
        raise UserError(
            f"recall.seeds.positives: {len(texts)} seed pages can be read of {len(listed)} archives, 2 are needed"
        )
    return texts


def _drawn(rows: Iterable[Example], k: int, key: str) -> list[Example]:
    """`k` of the rows at random, the same for the same key, in one pass with `k` rows in memory."""
    import heapq

    lots = ((digest(f"{key}/{row.id}"), at, row) for at, row in enumerate(rows))
    return [row for _, _, row in heapq.nsmallest(k, lots)]


def _split(texts: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Texts to learn from and those held out, by their content: a double never stands on both sides."""
    kept, out = list[str](), list[str]()
    for text in texts:
        (out if digest(f"{seed}/{text}") < share * 2**64 else kept).append(text)
    return kept, out


def _round(
    name: str,
    positives: list[str],
    negatives: list[str],
    learning: Learning,
    threshold: float,
    held_out: float,
    seed: int,
) -> Recogniser:
    (kept, out), (others, out_others) = (_split(texts, held_out, seed) for texts in (positives, negatives))
    found = learned(kept, others, learning, seed)
    measured = quality(found, out, out_others, threshold)
    say(f"recall, {name}: learned from {len(kept):,} and {len(others):,} others; held out: {measured}")
    tell(f"{name}: held-out precision", measured.precision)
    tell(f"{name}: held-out recall", measured.recall)
    tell(f"{name}: held-out pages", measured.positives + measured.negatives)
    return found


def _decided(
    name: str,
    rows: Iterable[Example],
    scores: Sequence[float],
    threshold: float,
    least: int,
    decision: Mapping[str, Any],
) -> dict[str, bool]:
    """Which domains are chosen, of those with `least` recalled pages."""
    found: dict[str, Domain] = {}
    for row, score in zip(rows, scores, strict=True):
        domain = found.setdefault(_domain(row), Domain(_domain(row)))
        domain.pages += 1
        if score >= threshold:
            domain.recalled += 1
            if len(domain.examples) < SHOWN:
                domain.examples = (*domain.examples, f"{row.notes['page']['url']} {row.notes['page']['title']}")
    candidates = sorted((d for d in found.values() if d.recalled >= least), key=lambda d: -d.recalled)
    chosen: dict[str, bool] = bind(decision, f"recall.{'first' if name == 'round 1' else 'second'}")(candidates)
    best = ", ".join(f"{d.name} ({d.recalled:,} of {d.pages:,})" for d in candidates if chosen.get(d.name))
    say(f"recall, {name}: {sum(chosen.values())} of {len(found)} domains: {best[:300] or 'none'}")
    tell(f"{name}: domains", len(found))
    tell(f"{name}: domains chosen", sum(chosen.values()))
    tell(f"{name}: pages recalled", sum(d.recalled for d in found.values()))
    if not any(chosen.values()):
        raise UserError(
            f"recall, {name}: of {len(found)} domains {len(candidates)} have {least} recalled pages or more, none is "
            "chosen. Lower recall.least or recall.threshold, or widen the list that decides"
        )
    return chosen


def _by_domain(
    rows: Iterable[Example], chosen: Mapping[str, bool], scores: Sequence[float], threshold: float, k: int, seed: int
) -> tuple[list[str], list[str]]:
    """Pages that round 2 learns from: recalled ones of the chosen domains, and any of all others."""
    import heapq

    kinds: dict[bool, list[tuple[int, int, str]]] = defaultdict(list)
    for at, (row, score) in enumerate(zip(rows, scores, strict=True)):
        inside = chosen.get(_domain(row), False)
        if inside and score < threshold:
            continue
        lot = (-digest(f"{seed}/second/{row.id}"), at, first_words(row.question, 3000))
        push = partial(heapq.heappush if len(kinds[inside]) < k else heapq.heappushpop, kinds[inside])
        push(lot)
    return [text for _, _, text in kinds[True]], [text for _, _, text in kinds[False]]
