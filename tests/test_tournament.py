"""The tournament: its statistics by hand and by simulation, and whole tournaments with a known best choice."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from curation.evidence.tournament import Arms, Search, Trainer, list_rounds, print_costs, search_weights
from curation.evidence.verdict import Sizes, alpha_of_look, blocks_needed, decide, detectable
from curation.stages.score import score
from limo.data import Example, chat, read_jsonl, write_jsonl
from limo.errors import UserError
from limo.recipe import bind, compose

SIZES = Sizes(
    k=20, fraction=0.5, screen_blocks=2, final_blocks=4, screen_problems=10, final_problems=10, pool_share=0.5
)
CHAINS = {
    "clean": "{0} + 1 = {1}\nThe answer is \\boxed{{{1}}}.",
    "long": "{0} + 1 = {1}\nSo {1}.\n{1}.\nThe answer is \\boxed{{{1}}}.",
}


def node(by: str, prefer: str | None = None) -> dict[str, Any]:
    chains = {"_target_": "curation.stages.choose.chains", "by": by, "prefer": prefer, "at_most": 1, "seed": 0}
    problems = {"_target_": "curation.stages.choose.problems", "k": 1, "by": "random", "seed": 0}
    return {"chains": chains, "problems": problems}


CANDIDATES = {"good": node("quality", "highest"), "bad": node("quality", "lowest"), "any": node("random")}


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
    untrained: float = 0.1

    def measure(self, place: Path, data: Path, steps: int, seed: int, problems: Sequence[Example]) -> dict[str, Any]:
        rows = list(read_jsonl(data))
        share = sum(row.notes["kind"] == "clean" for row in rows) / len(rows)
        noise = random.Random(f"{place}").gauss(0, 0.02)
        self.seen.append((place, {row.problem for row in rows}, {row.problem for row in problems}, steps))
        return {"accuracy": 0.3 + self.effect * share + noise, "rows": len(rows), "tokens": 1}

    def accuracy(self, model: str, problems: Sequence[Example], name: str) -> float:
        assert (model, name) == ("student", "untrained") and len({row.problem for row in problems}) == len(problems)
        return self.untrained


def field(folder: Path, effect: float, sizes: Sizes = SIZES, untrained: float = 0.1) -> Arms:
    train = {"model": "student", "global_batch": 4, "args": {"num_train_epochs": 2}}
    played = Played(train, {}, None, False, effect, [], untrained)  # type: ignore[arg-type]
    return Arms(folder, "settings", pool(), CANDIDATES, sizes, played, 0)


def test_a_planted_best_choice_is_found_and_nothing_is_trained_twice(tmp_path: Path) -> None:
    made = field(tmp_path, 0.6)
    verdict = made.run(list(CANDIDATES), 0.03)
    assert verdict.outcome == "beats" and verdict.sentence.startswith("good beats random by "), verdict.sentence
    best = verdict.finalists[0]
    assert best.low < 0.3 < best.high and best.blocks == 4, "random has half of the clean rows"
    seen = made.trainer.seen  # type: ignore[attr-defined]
    assert len(seen) == sum(count for _, count, _ in list_rounds(SIZES, 3, None)) == 4 * 2 + 4 * 4
    assert all(not trained & measured for _, trained, measured, _ in seen), "no problem is trained on and measured"
    final = [measured for place, _, measured, _ in seen if "block-100" in str(place) and place.name == "good-20"]
    assert len(final) == 4 and len(set.union(*final)) == 40, "no two final blocks share a problem"
    assert not set.union(*final) & set.union(*(m for place, _, m, _ in seen if "block-0" in str(place)))
    assert {steps for place, _, _, steps in seen if place.name.endswith("-20")} == {10}, "equal updates"
    again = field(tmp_path, 0.6)
    assert again.run(list(CANDIDATES), 0.03) == verdict and not again.trainer.seen  # type: ignore[attr-defined]
    more = field(tmp_path, 0.6, replace(SIZES, final_problems=9, final_blocks=5))
    assert more.run(list(CANDIDATES), 0.03).finalists[0].blocks == 5


def test_trainings_that_do_damage_are_said_to(tmp_path: Path) -> None:
    verdict = field(tmp_path, 0.6, untrained=0.95).run(list(CANDIDATES), 0.03)
    assert verdict.outcome == "beats" and "no arm reaches the untrained student's 95.0 %" in verdict.sentence
    again = field(tmp_path, 0.6, untrained=0.2).run(list(CANDIDATES), 0.03)
    assert again == verdict, "it is measured once"
    assert "untrained" not in field(tmp_path / "new", 0.6, untrained=0.2).run(list(CANDIDATES), 0.03).sentence


def test_the_share_of_false_winners_is_the_promised_one() -> None:
    made, wins = random.Random(0), 0
    for _ in range(400):
        differences = {name: [made.gauss(0.03, 0.05) for _ in range(6)] for name in "ab"}
        wins += decide(differences, 0.03, {}).outcome == "beats"
    assert wins / 400 < 0.05, "5 % on both sides together, of which winning is half"


def test_looking_again_after_more_blocks_spends_no_more_than_five_percent() -> None:
    """Who adds the blocks that an undecided verdict asks for, until it decides, is wrong no more often."""
    made, wrong = random.Random(1), {"beats": 0, "none": 0}
    for _ in range(300):
        values, look = [made.gauss(0.03, 0.06) for _ in range(6)], 1  # the truth is the margin itself
        while (verdict := decide({"a": values}, 0.03, {}, look=look)).outcome == "undecided" and look < 6:
            values += [made.gauss(0.03, 0.06) for _ in range(min(verdict.more_blocks, 40))]
            look += 1
        if verdict.outcome != "undecided":
            wrong[verdict.outcome] += 1
    assert wrong["beats"] / 300 < 0.05 and wrong["none"] / 300 < 0.05, wrong  # 2.5 % each, and three standard errors
    assert sum(map(alpha_of_look, range(1, 10_000))) == pytest.approx(0.05, abs=1e-5)


def test_the_three_sentences() -> None:
    clear = {"a": [0.10, 0.12, 0.08, 0.11], "b": [0.0, 0.01, -0.01, 0.0]}
    beats = decide(clear, 0.03, {"a": 0.09})  # sd 0.0171, t(0.99, 3) 4.541
    assert beats.sentence == "a beats random by 10.2 points (6.4 to 14.1), more than 3 points."
    none = decide({"a": [0.001, -0.002, 0.003, 0.0], "b": [-0.01, -0.012, -0.01, -0.011]}, 0.03, {})
    assert none.outcome == "none" and none.sentence.endswith("use random chains, checked and balanced.")
    open_ = decide({"a": [0.10, -0.05, 0.08, -0.02]}, 0.03, {})
    assert open_.outcome == "undecided" and open_.more_blocks > 0
    assert f"About {open_.more_blocks} more blocks are needed: tournament.sizes.final_blocks=" in open_.sentence
    assert decide({}, 0.03, {}).outcome == "none"


def test_one_margin_decides_both_ways_and_a_noisy_mean_hides_no_winner() -> None:
    small = decide({"a": [0.010, 0.012, 0.009, 0.011, 0.010]}, 0.03, {})
    assert small.outcome == "none", "a gain of one point, however certain, is less than the margin"
    solid = [0.085, 0.08, 0.09, 0.083, 0.087]
    found = decide({"noisy": [0.4, -0.2, 0.35, -0.1, 0.1], "solid": solid}, 0.03, {})
    assert found.outcome == "beats" and found.sentence.startswith("solid beats random by 8.5 points"), found.sentence
    assert "Not decided: noisy +11.0 points" in found.sentence and found.finalists[0].name == "noisy"
    # t(0.98, n - 1) * 0.1 / sqrt(n) is below 0.045 first at n = 24
    assert blocks_needed([-0.025, 0.175, 0.075, -0.025, 0.175], 0.03, 1, 1) in range(22, 27)


def test_sizes_show_the_gain_that_is_asked_for_where_the_problems_allow_it() -> None:
    for gain in (0.08, 0.1, 0.15):
        sizes = Sizes.to_show(gain, 0.03, 1000, 10_000)
        assert detectable(sizes.final_blocks, sizes.final_problems, 0.03) <= gain
        fewer = sizes.final_blocks - 1
        assert fewer < 6 or detectable(fewer, 200, 0.03) > gain, "no more blocks than it takes"
    few = Sizes.to_show(0.1, 0.03, 300, None)
    assert few.screen_problems + few.final_blocks * few.final_problems <= 120 and few.k >= 90
    rng, wins = random.Random(2), 0  # a true gain as large as said is found four times in five
    blocks, problems = 12, 100
    truth, sd = detectable(blocks, problems, 0.03), (0.075**2 + 0.5 / problems) ** 0.5
    for _ in range(400):
        both = {"a": [rng.gauss(truth, sd) for _ in range(blocks)], "b": [rng.gauss(0, sd) for _ in range(blocks)]}
        wins += decide(both, 0.03, {}).outcome == "beats"
    assert 0.7 < wins / 400 < 0.9, wins


def test_a_candidate_that_prefers_a_flaw_is_warned_of_and_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned(made: Arms, name: str) -> str:
        made.warn_of_flaws(name)
        return capsys.readouterr().err

    made = field(tmp_path, 0.0)
    longest = {"longest": node("length"), **CANDIDATES}
    rows = [replace(row, scores={**row.scores, "length": float(len(row.completion))}) for row in made.rows]
    settings: dict[str, Any] = {"weights": {"length": 1.0}, "words": ["en"], "scaling": "rank"}
    own = {"_target_": "curation.stages.score.score", **settings}  # the candidate computes its score itself
    longest["longest"] = {"score": own, **node("score")}
    said = "'longest' prefers chains with a flaw to their untouched copies (50 % is blind): "
    assert said in warned(replace(made, rows=rows, candidates=longest), "longest")
    scoring = {"score": partial(score, **settings)}
    ties = {f"any {number}": node("luck", "highest") for number in range(8)}
    equal = [replace(row, scores={"luck": 0.0}) for row in made.rows]
    for seed in range(8):
        chance = replace(made, rows=equal, candidates=ties, seed=seed)
        assert not warned(chance, f"any {seed}"), "what only breaks ties prefers nothing"
    upstream = replace(made, candidates={"longest": node("score")}, scoring=scoring)
    assert said in warned(upstream, "longest"), "a score of an earlier stage is computed anew for the spoiled copies"


def test_the_number_of_a_look_is_kept(tmp_path: Path) -> None:
    for blocks, look in ((4, 1), (4, 1), (5, 2), (4, 1), (6, 3)):
        made = field(tmp_path, 0.0, replace(SIZES, final_blocks=blocks, final_problems=5))
        assert made._look() == look, "the same blocks are the same look"


def test_problems_of_their_own_leave_the_pool_whole(tmp_path: Path) -> None:
    own = [replace(row, id=f"own/{row.id}", problem=f"own {row.problem}") for row in pool()[:50]]
    made = replace(field(tmp_path, 0.3), free=own)
    assert made.reserved == 0 and len({row.problem for row in made.block(0)}) == 100
    assert made.held_out(None) == own[:10] and made.held_out(1) == own[20:30]
    with pytest.raises(UserError, match=r"tournament.measured has 40 problems, and 50 are measured on"):
        replace(made, free=own[:40])


def test_a_training_that_diverges_counts_as_none_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Diverging(Trainer):
        pass

    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, pool()[:7])
    train = {"_target_": "tests.test_tournament.diverge", "args": {}}
    made = Diverging(train, {}, None, False)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMO_TRUST", "tests")
        assert made.measure(tmp_path, rows, 1, 0, []) == {"accuracy": 0.0, "rows": 7, "tokens": 0}
    assert "counts as 0 right: training diverged: the loss of step 3" in capsys.readouterr().err


def diverge(*, out: str, data: str, seed: int, args: dict[str, Any]) -> None:
    raise UserError("training diverged: the loss of step 3 is not finite")


def test_weights_are_searched_for_and_judged_in_blocks_of_their_own(tmp_path: Path) -> None:
    """The score that matters gets the weight, nothing is trained twice, and no probe overrules the trainings."""
    score = {"_target_": "curation.stages.score.score", "words": ["en"], "scaling": "rank"}
    weighed = {"score": {**score, "weights": {"length": 1.0}}, **node("score")}
    rows = [replace(row, scores={**row.scores, "luck": random.Random(row.id).random()}) for row in pool()]
    made = replace(field(tmp_path, 0.3), rows=rows, candidates={"weighed": weighed, "any": CANDIDATES["any"]})
    wanted = Search("weighed", "score", ["quality", "luck"], 8)
    found = search_weights(made, wanted)
    weights = found.candidates["weighed"]["score"]["weights"]
    assert sum(map(abs, weights.values())) == pytest.approx(1) and weights["quality"] > abs(weights["luck"])
    seen = list(made.trainer.seen)  # type: ignore[attr-defined]
    assert len(seen) == 9 * SIZES.screen_blocks and all("block-50" in str(place) for place, *_ in seen)
    assert found.run(["weighed", "any"], 0.03).finalists[0].name == "weighed"
    again = replace(made, trainer=replace(made.trainer, seen=[]))  # type: ignore[type-var]
    assert search_weights(again, wanted).candidates == found.candidates and not again.trainer.seen  # type: ignore[attr-defined]


def test_the_costs_are_known_before_anything_is_trained(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = field(tmp_path, 0.3)
    train = compose("recipe=demo", f"student={tiny}")["train"]
    print_costs(list_rounds(SIZES, 3, None), replace(made.trainer, train=train), pool(), tmp_path)
    shown = capsys.readouterr()
    numbers = [re.findall(r"\d+", line) for line in shown.out.splitlines() if "round" in line]
    assert numbers == [[], ["3", "8", "10"], ["16", "20"]], "arms times blocks, and the rows of each training"
    assert "H100-hours at 40 % of its peak" in shown.err and "finished" not in shown.err
    assert not made.trainer.seen  # type: ignore[attr-defined]
    made.run(list(CANDIDATES), 0.03)
    rounds = list_rounds(SIZES, 3, Search("good", "score", ["a", "b"], 5))
    print_costs(rounds, replace(made.trainer, train=train), pool(), tmp_path)
    shown = capsys.readouterr()
    assert "by 24 trainings that are finished" in shown.err and "search, 5 trials" in shown.out


def test_a_dry_run_samples_nothing(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = compose("recipe=demo", f"student={tiny}", f"runs={tmp_path}", "tournament.dry_run=true")
    assert bind(recipe["tournament"], "tournament")() is None
    shown = capsys.readouterr()
    assert "final blocks of" in shown.err and "last round" in shown.out
    assert not list(tmp_path.rglob("*.done.json")), "no stage has run"


def test_too_few_problems_are_said_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the pool has 200 problems: 170 are held out, and 15 of the others"):
        field(tmp_path, 0.0, replace(SIZES, final_problems=40))
