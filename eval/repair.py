"""Measures whether a model notices and corrects errors: how it continues a right or wrong beginning of a solution.

For benchmarks whose problems have the beginning of a solution (`notes.begun`; LEMMA's `begun.py` makes them), these
measures are computed in addition to the accuracy of the final answer:

    wrong beginnings    noticed: it reflects, or writes the right equation of the step; repaired: its answer is right
    right beginnings    false alarms: it reflects although nothing was wrong; spoiled: its answer is wrong nevertheless;
                        some are whole solutions, which need no continuation
    no beginning        reflections in the model's solutions, and how many of those end with a right answer

Each measure is also computed by type of error. The LEMMA paper does not report these measures. A reflection is
recognised by its words, in English, so a model that corrects a step without such words and without writing the right
equation counts as repaired, not noticed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eval.equations import equations
from eval.intervals import share
from eval.metrics import is_correct

Rows = Sequence[Mapping[str, Any]]
Hit = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]  # takes a row and one of its completions
RIGHT = ("right", "whole")  # kinds of right beginnings: up to a step, or with the answer
Measures = Mapping[str, Mapping[str, Any]]  # by model, by benchmark

# Phrases that look back and doubt; `tests/test_repair.py` has positive and negative examples
REFLECTION = re.compile(
    r"""\b(?:
      wait | hold\ on | hmm+ | oops | just\ a\ moment | before\ i\ go\ on | not\ quite\ right
    | let\ me\ (?:re-?check|double-check|check|verify|correct|go\ back|reconsider|look\ at\ (?:it|this|that))
    | let\ me\ work\ it\ out\ anew | (?:start|begin)\ (?:again|over|afresh)
    | i\ (?:have\ )?made\ a\ mistake | (?:is|was)\ a\ mistake | need\ to\ correct
    | (?:does\ not|doesn't|do\ not|don't)\ add\ up | something\ is\ (?:off|wrong)
    | (?:that|this|it|step|line)\ (?:is|was|seems|looks)\ (?:not\ (?:right|correct)|wrong|incorrect|missing)
    | (?:that|this|it)\ (?:cannot|can't)\ be\ (?:right|correct) | (?:that|this|it)\ (?:isn't|wasn't)\ (?:right|correct)
    | look(?:ing)?\ at\ (?:it|this|this\ line)\ (?:again|once\ more)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


def reflects(text: str) -> bool:
    """Whether a text reflects: it looks back at earlier steps and doubts them. "This is correct" is no doubt."""
    return REFLECTION.search(text) is not None


def notices(text: str, begun: Mapping[str, Any]) -> bool:
    """Whether a continuation of a wrong beginning reflects, or writes the right equation of its last step."""
    if reflects(text):
        return True
    wanted = {(e.left, e.right) for e in equations(str(begun.get("right", "")))}
    return bool(wanted & {(e.left, e.right) for e in equations(text)})


def measure_repair(results: Mapping[str, Mapping[str, Rows]], resamples: int, seed: int) -> dict[str, Any]:
    """Compute the measures of this module for each model and benchmark, with intervals, as JSON. Empty if no problem
    has the beginning of a solution.
    """
    if not any("begun" in row["notes"] for by in results.values() for rows in by.values() for row in rows):
        return {}
    return {model: {name: _shares(rows, resamples, seed) for name, rows in by.items()} for model, by in results.items()}


def _shares(rows: Rows, resamples: int, seed: int) -> dict[str, Any]:
    """The measures of one benchmark, over all its rows and by type of error."""
    right = [row for row in rows if row["notes"].get("type") in RIGHT]
    wrong = [row for row in rows if "begun" in row["notes"] and row["notes"].get("type") not in RIGHT]
    plain = [row for row in rows if "begun" not in row["notes"]]

    def of(some: Rows, hit: Hit) -> dict[str, Any]:
        values = {r["id"]: sum(hit(r, c) for c in r["completions"]) / len(r["completions"]) for r in some}
        return asdict(share(values, resamples, seed))

    def alarms(r: Mapping[str, Any], c: Mapping[str, Any]) -> bool:
        return reflects(c["text"])

    def spoiled(r: Mapping[str, Any], c: Mapping[str, Any]) -> bool:
        return not _correct(r, c)

    def by_type(some: Rows, **hits: Hit) -> dict[str, Any]:
        return {
            kind: {name: of([r for r in some if r["notes"]["type"] == kind], hit) for name, hit in hits.items()}
            for kind in sorted({row["notes"]["type"] for row in some})
        }

    shares: dict[str, Any] = {}
    if wrong:
        shares["noticed"], shares["repaired"] = of(wrong, _noticed), of(wrong, _correct)
        shares["noticed and repaired"] = of(wrong, lambda r, c: _noticed(r, c) and _correct(r, c))
    if right:
        shares["false alarm"], shares["spoiled"] = of(right, alarms), of(right, spoiled)
        shares["right to wrong"] = of(right, lambda r, c: alarms(r, c) and spoiled(r, c))
    if right or wrong:
        shares["by type"] = by_type(wrong, noticed=_noticed, repaired=_correct) | by_type(
            right, **{"false alarm": alarms, "spoiled": spoiled}
        )
    if plain:
        shares["reflects"] = of(plain, alarms)
        shares["reflects and right"] = of(plain, lambda r, c: alarms(r, c) and _correct(r, c))
    return shares


def _correct(row: Mapping[str, Any], completion: Mapping[str, Any]) -> bool:
    return is_correct(completion)


def _noticed(row: Mapping[str, Any], completion: Mapping[str, Any]) -> bool:
    return notices(completion["text"], row["notes"]["begun"])
