"""Metrics of several completions of a problem (pass@k, majority votes) and of several turns; parts of a benchmark.

Measures of n turns and n parallel samples, here 5:

    m1@t1   the first sample
    m5@t1   the majority of 5 parallel samples
    m1@t5   the majority of 5 turns, without oracle
    p1@t5   any of 5 turns, with oracle: as if a checker ended an episode at the first right answer
    p5@t1   any of 5 parallel samples, the fair comparison for p1@t5

RISE (arXiv 2407.18219) defines the first four and sets five turns against one sample; at an equal budget the question
is m1@t5 against m5@t1. With k below n, parallel values are means over all sets of k samples.
"""

import math
import random
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import fmean
from typing import Any

from eval.grader.grade import equal
from eval.intervals import paired, share

Row = Mapping[str, Any]
VOTES = 200  # most subsets over which maj@k is averaged
PARTS = ("level", "difficulty", "subject", "type", "task", "category", "template")  # notes that divide a benchmark
MAX_PARTS = 60  # a note with more values than this is an identifier


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of the probability that at least one of k completions is correct, if `correct` of n are.

    1 - C(n - c, k) / C(n, k): Chen et al. (2021), Evaluating Large Language Models Trained on Code, section 2.1.
    Raises ValueError unless 1 <= k <= n and 0 <= correct <= n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} of {n} completions, {correct} correct")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def is_correct(completion: Row) -> bool:
    """Whether a completion's answer is correct."""
    return bool(completion["verdict"] == "correct")


def correct_share(rows: Iterable[Row]) -> dict[str, float]:
    """For each problem, the share of its completions that are correct."""
    return {row["id"]: fmean(map(is_correct, row["completions"])) for row in rows}


def ks(n: int) -> list[int]:
    """The k at which pass@k and maj@k of n completions are reported: powers of two and n itself."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def votes(completions: Sequence[Mapping[str, Any]]) -> list[int]:
    """Group completions with equal answers. Returns the number of each completion's group, -1 for one without an
    answer.
    """
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
    """How often the most frequent answer among k completions is correct (maj@k). If several answers are equally
    frequent, the correct one counts with its share.

    With more than k completions, this is the mean over all subsets of k, or over VOTES random ones if there are more
    subsets. Completions without an answer do not vote. Raises ValueError unless 1 <= k <= their number.
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
    # Answers of one group may have different verdicts if equality is not symmetric: the group gets the majority's
    return sum(sum(right[i] for i in members) * 2 > len(members) for members in winners) / len(winners)


def parts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Split the rows of a benchmark by level, subject and the like: by each such note that most rows have."""
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
    """A note's value as text; 4.0 becomes 4."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


# -- several turns


def turns_vote(row: Row, k: int) -> float:
    """Whether the majority of the first k turns is right, a tie as its right share: m1@tk."""
    return majority_at_k(row["turns"][:k], k)


def turns_any(row: Row, k: int) -> float:
    """Whether any of the first k turns is right: p1@tk."""
    return float(any(map(is_correct, row["turns"][:k])))


def samples_vote(row: Row, k: int) -> float:
    """Whether the majority of k parallel samples is right, the mean over sets of k: mk@t1."""
    return majority_at_k(row["completions"], k, seed=zlib.crc32(row["id"].encode()))


def samples_any(row: Row, k: int) -> float:
    """Whether any of k parallel samples is right, the mean over sets of k: pk@t1, which is pass@k."""
    return pass_at_k(len(row["completions"]), sum(map(is_correct, row["completions"])), k)


def turn_right(row: Row, k: int) -> float:
    """Whether the answer of turn k alone is right."""
    return float(is_correct(row["turns"][k - 1]))


CURVES = {"turn": turn_right, "m1@tk": turns_vote, "mk@t1": samples_vote, "p1@tk": turns_any, "pk@t1": samples_any}


def measures(n: int) -> dict[str, Callable[[Row], float]]:
    """The named measures of n turns and n samples, each a function of a problem's line."""
    return {
        "m1@t1": lambda row: turns_vote(row, 1),
        f"m{n}@t1": lambda row: samples_vote(row, n),
        f"m1@t{n}": lambda row: turns_vote(row, n),
        f"p1@t{n}": lambda row: turns_any(row, n),
        f"p{n}@t1": lambda row: samples_any(row, n),
    }


def measure_turns(rows: Sequence[Row], resamples: int, seed: int) -> dict[str, Any]:
    """All metrics of one model's turns on one benchmark, as plain JSON; shares with their 95 % intervals.

    `against` has the paired differences at equal budgets: turns minus parallel samples, without and with oracle, and
    the second turn alone minus a fresh sample.
    """
    n = len(rows[0]["turns"])
    values = {name: {r["id"]: of(r) for r in rows} for name, of in measures(n).items()}
    _, vote, turns, any_turn, any_sample = values
    alone = {"turn 2": {r["id"]: turn_right(r, 2) for r in rows}}
    alone["a fresh sample"] = {r["id"]: fmean(map(is_correct, r["completions"][1:])) for r in rows}

    def minus(a: str, b: str) -> dict[str, Any]:
        both = values | alone
        return {"of": a, "minus": b, **paired(both[b], both[a], resamples, seed).to_json()}

    return {
        "n": n,
        "measures": {name: asdict(share(shares, resamples, seed)) for name, shares in values.items()},
        "against": [minus(turns, vote), minus(any_turn, any_sample), minus("turn 2", "a fresh sample")],
        "by_turn": [
            {name: asdict(share({r["id"]: of(r, k) for r in rows}, resamples, seed)) for name, of in CURVES.items()}
            for k in range(1, n + 1)
        ],
        "transitions": [count_transitions(rows, k) for k in range(1, n)],
        "tokens": tokens_per_problem(rows),
    }


def count_transitions(rows: Sequence[Row], turn: int) -> dict[str, int]:
    """How many problems became right, and how many wrong, from `turn` to the next; unsure counts as wrong."""
    steps = [(is_correct(row["turns"][turn - 1]), is_correct(row["turns"][turn])) for row in rows]
    return {"wrong_right": steps.count((False, True)), "right_wrong": steps.count((True, False))}


def tokens_per_problem(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Mean tokens per problem, written and read, of all samples and of all turns.

    Read tokens are those of each sample's and each turn's whole prompt; None if the tokenizer is unknown. An engine
    with a prefix cache reads fewer.
    """

    def mean(of: Callable[[Row], Sequence[Row]]) -> dict[str, float | None]:
        asked = [turn["asked"] for row in rows for turn in of(row)]
        written = sum(turn["tokens"] for row in rows for turn in of(row)) / len(rows)
        return {"written": written, "read": None if None in asked else sum(asked) / len(rows)}

    def samples(row: Row) -> Sequence[Row]:
        return [{**sample, "asked": row["turns"][0]["asked"]} for sample in row["completions"]]

    return {"samples": mean(samples), "turns": mean(lambda row: row["turns"])}


def signed(d: Row) -> str:
    """A difference of shares in points, with its interval."""
    return f"{100 * d['mean']:+.1f} ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})"


def spent_tokens(cost: Mapping[str, float | None]) -> str:
    """Tokens written and read, as text for a table."""
    return f"{cost['written']:,.0f}" + (f" + {cost['read']:,.0f} read" if cost["read"] is not None else "")
