"""Recall: finds the pages that are similar to the seeds, in two rounds with a choice of domains after each.

Round 1 learns to tell seed pages from random pages. A list or a model (`domains.py`) decides about domains of which it
recalls enough pages. Round 2 learns to tell pages of the chosen domains from all others, and the domains of the pages
that it recalls are decided on again (Yue et al. 2024, "MAmmoTH2", arXiv 2405.03548, section 2.1). Precision and recall
of both rounds on held-out pages are printed and kept with the stage.

The classifier replaces fastText (Joulin et al. 2016, arXiv 1607.01759), which learns word vectors and a linear layer on
their mean. Here n-grams are hashed into columns, which are the direct input of the linear layer: scikit-learn's
HashingVectorizer and SGDClassifier. Only the probability of a page is stored.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from curation.matching.similar import digest
from curation.methods.mammoth2.domains import SHOWN, Domain
from curation.methods.mammoth2.markup import RULES
from curation.methods.mammoth2.pages import first_words, page_of
from curation.parallel import chunked, spread
from curation.stage import Share, record, stage
from limo.console import say
from limo.data import Dropped, Example, Row
from limo.errors import UserError
from limo.recipe import bind

Page = tuple[str, tuple[float, ...]]  # the classifier's input: the words, and counts of the pairs in the markup
CHUNK = 2000  # pages sent to a process at once; fewer than two of these are worked here
LONGEST = 20_000  # characters of a page that are read
WORDS = 3000  # words of a page that are used
ENOUGH = 4  # further pairs by a rule are not counted
FORM = (
    3.0  # weight of the form relative to the words; the best of 1, 3, 8 on bench/data/pages.jsonl: precision above 90 %
)


@dataclass(frozen=True, slots=True)
class Seeds:
    """The pages that round 1 learns from."""

    positives: dict[str, Any]  # pool sources by name, whose archives are read like those of the pool
    read: dict[str, Any]  # the stage that reads them
    per_class: int  # most pages of each kind; negatives are random pages of the pool


@dataclass(frozen=True, slots=True)
class Learning:
    """Settings of the classifier's training."""

    ngrams: PositiveInt  # runs of up to so many words
    features: PositiveInt  # columns that they are hashed into
    epochs: PositiveInt
    rate: PositiveFloat


def _check_seeds(*, seeds: Seeds, **_: object) -> None:
    for name, node in seeds.positives.items():
        next(iter(bind(node, f"seeds.positives.{name}")(name, "")), None)


# It may ask a model one question per domain; a plan runs the whole stage, since a pilot of a few pages recalls none
@stage("pool", writes=("recall_1", "recall_2"), check=_check_seeds)
def recall(
    rows: Iterable[Example],
    /,
    *,
    seeds: Seeds,
    learning: Learning,
    threshold: Share,
    held_out: Share,
    least: int,
    first: dict[str, Any],
    second: dict[str, Any],
    seed: int,
) -> Iterator[Row]:
    """Keep the pages of the second round, each with `scores.recall_1` and `scores.recall_2`.

    Args: `seeds`; `learning` of both rounds; `threshold` of the probability from which a page is recalled; `held_out`
    share of the pages of both kinds that measures precision and recall; `least` is the number of recalled pages that a
    domain needs to be chosen; `first` and `second` decisions, nodes of `domains.py`; `seed`. Goes through `rows`
    several times. Dropped pages are noted with address and record, without their text. Raises UserError if there are no
    seeds, or no domain is chosen.
    """
    sources = [(name, bind(node, f"recall.seeds.positives.{name}")) for name, node in seeds.positives.items()]
    listed = [row for name, source in sources for row in source(name, "") if isinstance(row, Example)]
    if not any(True for _ in rows):
        return
    k = seeds.per_class
    pages = (row for row in bind(seeds.read, "recall.seeds.read")(listed) if isinstance(row, Example))
    positives = [look_at(row) for row in islice(pages, k)]
    if len(positives) < 2:
        raise UserError(
            f"recall.seeds.positives: the {len(listed)} seed archives have {len(positives)} readable pages, "
            "and at least 2 are needed"
        )

    def run_round(name: str, positives: list[Page], others: list[Page]) -> list[float]:
        """Train a classifier on positive and negative pages, of which some are held out to measure it. Returns the
        probability of each row.
        """
        (kept, out), (kept_others, out_others) = (_split(texts, held_out, seed) for texts in (positives, others))
        model = learn(kept, kept_others, learning, seed)
        found = np.fromiter(model.scores([*out, *out_others]), dtype=float) >= threshold
        hits = float(found[: len(out)].mean()) if out else 0.0
        false = float(found[len(out) :].mean()) if out_others else 0.0
        precision = hits / (hits + false) if hits + false else 0.0  # of as many positives as others
        measured = f"precision {precision:.3f}, recall {hits:.3f} of {len(out):,} and {len(out_others):,} others"
        say(f"recall, {name}: learned from {len(kept):,} and {len(kept_others):,} others; held out: {measured}")
        record(f"{name}: held-out precision", precision)
        record(f"{name}: held-out recall", hits)
        record(f"{name}: held-out pages", len(found))
        return list(model.scores(look_at(row) for row in rows))

    scores_1 = run_round("round 1", positives, _sample(((row, True) for row in rows), k, f"{seed}/random"))
    chosen_1 = _decide("round 1", rows, scores_1, threshold, least, first)

    def by_domain(inside: bool) -> Iterator[tuple[Example, bool]]:
        for row, score in zip(rows, scores_1, strict=True):
            chosen = chosen_1.get(page_of(row)["domain"], False)
            yield row, chosen and score >= threshold if inside else not chosen

    inside, outside = (_sample(by_domain(kind), k, f"{seed}/second") for kind in (True, False))
    scores_2 = run_round("round 2", [*inside, *positives], outside)
    chosen_2 = _decide("round 2", rows, scores_2, threshold, 1, second)
    for row, score_1, score_2 in zip(rows, scores_1, scores_2, strict=True):
        scores = {**row.scores, "recall_1": round(score_1, 4), "recall_2": round(score_2, 4)}
        data = {**row.notes["page"], "scores": scores}
        if score_2 < threshold:
            yield Dropped(row.id, "", "not recalled", f"{score_2:.2f}; the threshold is {threshold:g}", data=data)
        elif not chosen_2.get(page_of(row)["domain"], False):
            yield Dropped(row.id, "", "domain not chosen", page_of(row)["domain"], data=data)
        else:
            yield replace(row, scores=scores)


def look_at(row: Example) -> Page:
    """The classifier's input for a page: its first words, the number of pairs that each rule finds in its markup, and
    its number of question marks. Pages with questions have a similar form on all sites, while their words differ.
    """
    stated = [pair[0] for pair in row.notes.get("stated", ()) if pair[0] != "definition" or pair[1].endswith("?")]
    pairs, text = Counter(stated), first_words(row.question, WORDS)
    asks = min(1.0, 40 * text.count("?") / (text.count(" ") + 1))
    return text, (asks, *(min(pairs[rule], ENOUGH) / ENOUGH for rule in RULES))


def _sample(rows: Iterable[tuple[Example, bool]], k: int, key: str) -> list[Page]:
    """The classifier's inputs for `k` random rows among those flagged. The same key gives the same rows; only `k` rows
    are in memory.
    """
    keyed = ((digest(f"{key}/{row.id}"), at, row) for at, (row, fits) in enumerate(rows) if fits)
    return [look_at(row) for _, _, row in heapq.nsmallest(k, keyed)]


def _split(pages: Sequence[Page], share: float, seed: int) -> tuple[list[Page], list[Page]]:
    """Split pages into training and held-out pages by a hash of their content, so that duplicates are on the
    same side.
    """
    out = {text for text, _ in pages if digest(f"{seed}/{text}") < share * 2**64}
    return [page for page in pages if page[0] not in out], [page for page in pages if page[0] in out]


def _decide(
    name: str,
    rows: Iterable[Example],
    scores: Sequence[float],
    threshold: float,
    least: int,
    decision: Mapping[str, Any],
) -> dict[str, bool]:
    """Decide which domains are chosen, among those with at least `least` recalled pages."""
    found: dict[str, Domain] = {}
    for row, score in zip(rows, scores, strict=True):
        domain = found.setdefault(page_of(row)["domain"], Domain(page_of(row)["domain"]))
        domain.pages += 1
        if score >= threshold:
            domain.recalled += 1
            if len(domain.examples) < SHOWN:
                domain.examples = (*domain.examples, f"{row.notes['page']['url']} {row.notes['page']['title']}")
    candidates = sorted((d for d in found.values() if d.recalled >= least), key=lambda d: -d.recalled)
    chosen: dict[str, bool] = bind(decision, f"recall.{'first' if name == 'round 1' else 'second'}")(candidates)
    best = ", ".join(f"{d.name} ({d.recalled:,} of {d.pages:,})" for d in candidates if chosen.get(d.name))
    say(f"recall, {name}: {sum(chosen.values())} of {len(found)} domains: {best[:300] or 'none'}")
    record(f"{name}: domains", len(found))
    record(f"{name}: domains chosen", sum(chosen.values()))
    record(f"{name}: pages recalled", sum(d.recalled for d in found.values()))
    if not any(chosen.values()):
        raise UserError(
            f"recall, {name}: no domain was chosen. {len(candidates)} of {len(found)} domains have at least {least} "
            "recalled pages. Lower recall.least or recall.threshold, or extend the list of domains"
        )
    return chosen


@dataclass(frozen=True, slots=True)
class Classifier:
    """A linear classifier of pages by their n-grams and their form."""

    learning: Learning
    weights: np.ndarray  # (features + 1 + rules,)
    bias: float

    def scores(self, pages: Iterable[Page]) -> Iterator[float]:
        """The probability that each page is positive, in order; on all cores."""
        for chunk in spread(_score, chunked(pages, CHUNK), start=_keep_model, given=(self,)):
            yield from chunk


def learn(positives: list[Page], negatives: list[Page], learning: Learning, seed: int) -> Classifier:
    """Train a classifier that tells `positives` from `negatives`, with logistic loss and equal total weight for both.

    Raises UserError if a kind has no pages.
    """
    from scipy.sparse import vstack
    from sklearn.linear_model import SGDClassifier

    if not positives or not negatives:
        raise UserError(
            f"recall: a classifier needs pages of both kinds, and there are {len(positives)} positive "
            f"and {len(negatives)} negative ones"
        )
    pages = [*positives, *negatives]
    columns = vstack(list(spread(_vectors, ((learning, chunk) for chunk in chunked(pages, CHUNK)))))
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    settings = {"loss": "log_loss", "penalty": None, "learning_rate": "constant", "tol": None}
    model = SGDClassifier(
        **settings, eta0=learning.rate, max_iter=learning.epochs, class_weight="balanced", random_state=seed
    ).fit(columns, labels)
    return Classifier(learning, model.coef_[0].astype(np.float32), float(model.intercept_[0]))


def _vectors(work: tuple[Learning, list[Page]]) -> Any:
    """The feature vectors of pages: hashed n-grams, scaled to length 1, followed by the features of form. Sparse, of
    shape (pages, features + 1 + rules).
    """
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    learning, pages = work
    hashed = HashingVectorizer(
        ngram_range=(1, learning.ngrams),
        n_features=learning.features,
        alternate_sign=False,
        norm="l2",
        token_pattern=r"\\?\w+|[=+^$?]",
        dtype=np.float32,
    )
    form = FORM * csr_matrix([seen for _, seen in pages], dtype=np.float32)
    return hstack([hashed.transform(text[:LONGEST] for text, _ in pages), form], format="csr")


_model: Classifier  # of this process


def _keep_model(model: Classifier) -> None:
    global _model
    _model = model


def _score(pages: list[Page]) -> list[float]:
    sums = _vectors((_model.learning, pages)) @ _model.weights + _model.bias
    return [float(value) for value in 1 / (1 + np.exp(-np.clip(sums, -30, 30)))]
