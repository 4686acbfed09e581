"""The tournament: its statistics by hand and by simulation, and whole tournaments with a known best choice."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from curation.evidence.tournament import Arms, Search, Sizes, Trainer, blocks_needed, decide, search_weights
from curation.stages.score import score
from limo.data import Example, chat, read_jsonl
from limo.errors import UserError

SIZES = Sizes(
    k=20, fraction=0.5, screen_blocks=2, final_blocks=4, screen_problems=10, final_problems=10, pool_share=0.5
)
CHAINS = {
    "clean": "{0} + 1 = {1}\nThe answer is \\boxed{{{1}}}.",
    "long": "{0} + 1 = {1}\nSo {1}.\n{1}.\nThe answer is \\boxed{{{1}}}.",
}


def node(by: str, prefer: str) -> dict[str, Any]:
    chains = {"_target_": "curation.stages.choose.chains", "by": by, "prefer": prefer, "at_most": 1, "seed": 0}
    problems = {"_target_": "curation.stages.choose.problems", "k": 1, "by": "random", "seed": 0}
    return {"chains": chains, "problems": problems}


CANDIDATES = {"good": node("quality", "highest"), "bad": node("quality", "lowest"), "any": node("random", "highest")}


def pool() -> list[Example]:
    made = []
    for number in range(200):
        for kind, text in CHAINS.items():
            scores = {"quality": 1.0 if kind == "clean" else 0.0}
            chain = text.format(number, number + 1)
            row = Example(f"{number}/{kind}", chat(f"{number} + 1?"), str(number + 1), chain, scores=scores)
            made.append(replace(row, problem=str(number), notes={"made": "clean", "kind": kind}))
    return made


@dataclass(frozen=True)
class Played(Trainer):
    """Instead of training: accuracy grows with the share of clean rows by `effect`, with noise."""

    effect: float = 0.0
    seen: Any = None

    def measure(self, place: Path, data: Path, steps: int, seed: int, problems: Sequence[Example]) -> dict[str, Any]:
        rows = list(read_jsonl(data))
        share = sum(row.notes["kind"] == "clean" for row in rows) / len(rows)
        noise = random.Random(f"{place}").gauss(0, 0.02)
        self.seen.append((place, {row.problem for row in rows}, {row.problem for row in problems}, steps))
        return {"accuracy": 0.3 + self.effect * share + noise, "rows": len(rows), "tokens": 1}


def field(folder: Path, effect: float, sizes: Sizes = SIZES) -> Arms:
    train = {"global_batch": 4, "args": {"num_train_epochs": 2}}
    return Arms(folder, "settings", pool(), CANDIDATES, sizes, Played(train, {}, None, False, effect, []), 0)  # type: ignore[arg-type]


def test_a_planted_best_choice_is_found_and_nothing_is_trained_twice(tmp_path: Path) -> None:
    made = field(tmp_path, 0.3)
    verdict = made.run(list(CANDIDATES), 0.03)
    assert verdict.outcome == "beats" and verdict.sentence.startswith("good beats random by "), verdict.sentence
    best = verdict.finalists[0]
    assert best.low < 0.15 < best.high and best.blocks == 4, "random has half of the clean rows"
    seen = made.trainer.seen  # type: ignore[attr-defined]
    assert len(seen) == made.trainings(3) == 4 * 2 + 4 * 4
    assert all(not trained & measured for _, trained, measured, _ in seen), "no problem is trained on and measured"
    final = [measured for place, _, measured, _ in seen if "block-100" in str(place) and place.name == "good-20"]
    assert len(final) == 4 and len(set.union(*final)) == 40, "no two final blocks share a problem"
    assert not set.union(*final) & set.union(*(m for place, _, m, _ in seen if "block-0" in str(place)))
    assert {steps for place, _, _, steps in seen if place.name.endswith("-20")} == {10}, "equal updates"
    again = field(tmp_path, 0.3)
    assert again.run(list(CANDIDATES), 0.03) == verdict and not again.trainer.seen  # type: ignore[attr-defined]
    more = field(tmp_path, 0.3, replace(SIZES, final_problems=9, final_blocks=5))
    assert more.run(list(CANDIDATES), 0.03).finalists[0].blocks == 5


def test_the_share_of_false_winners_is_the_promised_one() -> None:
    made, wins = random.Random(0), 0
    for _ in range(400):
        differences = {name: [made.gauss(0, 0.05) for _ in range(6)] for name in "ab"}
        wins += decide(differences, 0.03, {}).outcome == "beats"
    assert wins / 400 < 0.05, "5 % on both sides together, of which winning is half"


def test_the_three_sentences() -> None:
    clear = {"a": [0.10, 0.12, 0.08, 0.11], "b": [0.0, 0.01, -0.01, 0.0]}
    beats = decide(clear, 0.03, {"a": 0.09})  # sd 0.0171, t(0.9875, 3) 4.18
    assert beats.sentence == "a beats random by 10.2 points (6.7 to 13.8)."
    none = decide({"a": [0.001, -0.002, 0.003, 0.0], "b": [-0.01, -0.012, -0.01, -0.011]}, 0.03, {})
    assert none.outcome == "none" and none.sentence.endswith("use random chains, checked and balanced.")
    open_ = decide({"a": [0.10, -0.05, 0.08, -0.02]}, 0.03, {})
    assert open_.outcome == "undecided" and open_.more_blocks > 0
    assert f"About {open_.more_blocks} more blocks" in open_.sentence
    assert decide({}, 0.03, {}).outcome == "none"
    # t(0.975, 9) 2.262 * 0.1 / sqrt(10) = 0.0715 is the first half-width below 0.075, at 0.9875 a few blocks later
    assert 10 <= blocks_needed([-0.025, 0.175, 0.075, -0.025, 0.175], 0.03) <= 15


def test_a_candidate_that_prefers_a_flaw_is_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = field(tmp_path, 0.0)
    longest = {"longest": node("length", "highest"), **CANDIDATES}
    rows = [replace(row, scores={**row.scores, "length": float(len(row.completion))}) for row in made.rows]
    settings: dict[str, Any] = {"weights": {"length": 1.0}, "words": ["en"], "scaling": "rank"}
    own = {"_target_": "curation.stages.score.score", **settings}  # the candidate computes its score itself
    longest["longest"] = {"score": own, **node("score", "highest")}
    assert not replace(made, rows=rows, candidates=longest).is_fair("longest")
    scoring = {"score": partial(score, **settings)}
    ties = {f"any {number}": node("luck", "highest") for number in range(8)}
    equal = [replace(row, scores={"luck": 0.0}) for row in made.rows]
    for seed in range(8):
        chance = replace(made, rows=equal, candidates=ties, seed=seed)
        assert chance.is_fair(f"any {seed}"), "what only breaks ties prefers nothing"
    upstream = replace(made, candidates={"longest": node("score", "highest")}, scoring=scoring)
    assert not upstream.is_fair("longest"), "a score of an earlier stage is computed anew for the spoiled copies"
    assert "'longest' is out: it prefers chains with" in capsys.readouterr().err


def test_weights_are_searched_for_and_judged_in_blocks_of_their_own(tmp_path: Path) -> None:
    """The score that matters gets the weight, nothing is trained twice, and no probe overrules the trainings."""
    score = {"_target_": "curation.stages.score.score", "words": ["en"], "scaling": "rank"}
    weighed = {"score": {**score, "weights": {"length": 1.0}}, **node("score", "highest")}
    rows = [replace(row, scores={**row.scores, "luck": random.Random(row.id).random()}) for row in pool()]
    made = replace(field(tmp_path, 0.3), rows=rows, candidates={"weighed": weighed, "any": CANDIDATES["any"]})
    wanted = Search("weighed", "score", ["quality", "luck"], 8)
    found = search_weights(made, wanted)
    weights = found.candidates["weighed"]["score"]["weights"]
    assert sum(map(abs, weights.values())) == pytest.approx(1) and weights["quality"] > abs(weights["luck"])
    seen = list(made.trainer.seen)  # type: ignore[attr-defined]
    assert len(seen) == 9 * SIZES.screen_blocks and all("block-50" in str(place) for place, *_ in seen)
    assert found.run(["weighed", "any"], 0.03).outcome == "beats"
    again = replace(made, trainer=replace(made.trainer, seen=[]))  # type: ignore[type-var]
    assert search_weights(again, wanted).candidates == found.candidates and not again.trainer.seen  # type: ignore[attr-defined]
    by_length = Search("weighed", "score", ["length", "luck"], 3)
    filler = replace(made, candidates={"weighed": {**weighed, "score": {**weighed["score"], "weights": {"length": 1}}}})
    assert not filler.is_fair("weighed") and filler.is_fair("weighed", by_length), "trainings judge what they found"


def test_the_costs_are_known_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = field(tmp_path, 0.3)
    made.print_costs(None, 0.03)
    shown = capsys.readouterr()
    numbers = [re.findall(r"\d+", line) for line in shown.out.splitlines() if "round" in line]
    assert numbers == [[], ["3", "8", "10"], ["16", "20"]], "arms times blocks, and the rows of each training"
    assert "decide on differences from about 47 points, not on 3" in shown.err  # t(0.9875, 3) 4.18 sqrt(0.5 / 10 / 4)
    assert not made.trainer.seen  # type: ignore[attr-defined]
    made.run(list(CANDIDATES), 0.03)
    made.print_costs(Search("good", "score", ["a", "b"], 5), 0.5)
    shown = capsys.readouterr()
    assert "by 24 trainings that are finished" in shown.err and "search, 5 trials" in shown.out


def test_too_few_problems_are_said_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the pool has 200 problems: 170 are held out, and 15 of the others"):
        field(tmp_path, 0.0, replace(SIZES, final_problems=40))
