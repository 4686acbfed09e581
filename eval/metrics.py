"""Metrics of several completions of a problem: pass@k, majority votes, and the parts of a benchmark."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from eval.grader.grade import equal

VOTES = 200  # subsets over which maj@k is averaged where there are more
PARTS = ("level", "difficulty", "subject", "type", "task", "category", "template")  # notes that divide a benchmark
MAX_PARTS = 60  # a note with more values than this is an identifier


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k completions is correct, from n of which `correct` are.

    1 - C(n - c, k) / C(n, k): Chen et al. (2021), Evaluating Large Language Models Trained on Code, section 2.1.
    Raises ValueError unless 1 <= k <= n and 0 <= correct <= n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} of {n} completions, {correct} correct")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def ks(n: int) -> list[int]:
    """The k at which pass@k and maj@k of n completions are reported: powers of two and n itself."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def votes(completions: Sequence[Mapping[str, Any]]) -> list[int]:
    """For each completion the number of its group: completions with equal answers are one group, -1 is no answer."""
    first = list[str]()
    groups = list[int]()
    for completion in completions:
        answer = completion["extracted"]
        if answer is None:
            groups.append(-1)
            continue
        same = next((i for i, known in enumerate(first) if _same(answer, known)), None)
        if same is None:
            first.append(answer)
        groups.append(len(first) - 1 if same is None else same)
    return groups


def _same(a: str, b: str) -> bool:
    return a == b or equal(a, b)[0] == "correct"


def majority_at_k(completions: Sequence[Mapping[str, Any]], k: int, seed: int = 0) -> float:
    """How often the most frequent answer of k completions is correct; a tie counts for the share that is correct.

    With k less than the completions there are, the mean over all subsets of k, or over VOTES random ones where there
    are more. Completions without an answer do not vote. Raises ValueError unless 1 <= k <= their number.
    """
    n = len(completions)
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} of {n} completions")
    groups = votes(completions)
    right = [c["verdict"] == "correct" for c in completions]
    if math.comb(n, k) <= VOTES:
        subsets: list[Sequence[int]] = list(combinations(range(n), k))
    else:
        rng = random.Random(seed)
        subsets = [rng.sample(range(n), k) for _ in range(VOTES)]
    return sum(_vote(subset, groups, right) for subset in subsets) / len(subsets)


def _vote(chosen: Iterable[int], groups: Sequence[int], right: Sequence[bool]) -> float:
    ballots: dict[int, list[int]] = {}
    for i in chosen:
        if groups[i] >= 0:
            ballots.setdefault(groups[i], []).append(i)
    if not ballots:
        return 0.0
    most = max(map(len, ballots.values()))
    winners = [members for members in ballots.values() if len(members) == most]
    # Answers of one group may have different verdicts where equality is not symmetric: the group counts as most of it
    return sum(sum(right[i] for i in members) * 2 > len(members) for members in winners) / len(winners)


def parts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """The rows of a benchmark by level, subject and the like, for each such note that most rows have."""
    divisions = {}
    for note in PARTS:
        values: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if row["notes"].get(note) not in (None, ""):
                values.setdefault(as_text(row["notes"][note]), []).append(row)
        if 1 < len(values) <= MAX_PARTS and sum(map(len, values.values())) * 2 > len(rows):
            divisions[note] = dict(sorted(values.items(), key=lambda item: _natural(item[0])))
    return divisions


def as_text(value: Any) -> str:
    """A note's value; 4.0 is level 4."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)
