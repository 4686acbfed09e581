"""Difficulty by attempts: exact early stopping, suspect references, evidence of others, chains from attempts."""

import random
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from curation.stages.attempts import add_chains, import_rates, judged, measure_difficulty
from curation.stages.chains import verify
from curation.stages.stopping import Window
from eval.grade import grade
from limo.data import Example, chat
from limo.engines.ledger import spent
from limo.engines.protocol import Completion, Sampling
from limo.errors import UserError
from tests.conftest import Script, asked, example, split
from tests.stopping import attempts_needed

CUT = Completion("thinking", 9, "length")
REPLIES: dict[str, Any] = {
    "problem a": ["\\boxed{5}"] * 4,
    "problem b": ["so \\boxed{5}", "\\boxed{6}", "\\boxed{7}", "\\boxed{8}"],
    "problem c": ["\\boxed{6}", "no idea", "it is 6", "7"],
    "problem d": [CUT] * 4,
    "problem e": [Completion("", 0, "refused", "too long")] * 4,
    "problem f": ["\\boxed{5}", CUT, "\\boxed{5}", "\\boxed{5}"],
}


def settings(engine: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Of the stage: 1 to 2 of 4 right."""
    drawn = Sampling(n=4, temperature=1.0, top_p=1.0, max_tokens=9, seed=0)
    given = {"by": "m", "engine": engine, "sampling": drawn, "at_least": 1, "at_most": 2}
    return {**given, "unknown": "drop", "early_stop": False, "suspect": None, **more}


def test_attempts_are_counted_and_cut_ones_are_unknown(script: Script) -> None:
    kept, dropped = split(measure_difficulty([example(k) for k in "abcdef"], **settings(script(REPLIES))))
    assert [(r.id, r.scores) for r in kept] == [("b", {"pass_rate": 0.25, "pass_rate_m": 0.25})]
    tried = dict(kept[0].notes["attempts"]["m"])
    assert tried == {
        "drawn": 4, "right": 1, "wrong": 3, "unsure": 0, "cut": 0, "other": "6", "agreeing": 1
    }  # fmt: skip
    assert [(d.id, d.reason, d.detail) for d in dropped] == [
        ("a", "too easy", "4 of 4 attempts right, the limit is 2 of 4"),
        ("c", "too hard", "0 of 4 attempts right, 1 of 4 needed"),
        ("d", "difficulty unknown", "0 of 0 attempts right, 4 were cut off, 0 could not be graded"),
        ("e", "not sampled", "too long"),
        ("f", "too easy", "3 of 3 attempts right, the limit is 2 of 4"),
    ]
    assert "pass_rate" not in dropped[2].data["scores"], "of nothing there is no rate"
    tried = next(d for d in dropped if d.id == "c").data["notes"]["attempts"]["m"]
    assert (tried["other"], tried["agreeing"]) == ("6", 2), "it is 6 and a boxed 6 are one answer"


def test_unknown_attempts_that_could_lift_a_problem_out(script: Script) -> None:
    replies = {"problem a": ["\\boxed{5}", "\\boxed{5}", CUT, "\\boxed{6}"]}
    kept, dropped = split(measure_difficulty([example("a")], **settings(script(replies))))
    assert not kept and dropped[0].reason == "difficulty unknown"
    kept, _ = split(measure_difficulty([example("a")], **settings(script(replies), unknown="keep")))
    assert [r.id for r in kept] == ["a"]


def test_early_stopping_asks_no_more_than_it_must(script: Script) -> None:
    node = script(REPLIES)
    before = spent.spared
    stopped = split(measure_difficulty([example(k) for k in "abcdf"], **settings(node, early_stop=True)))
    assert {q: [i for question, i in asked(node) if question == q] for q in REPLIES if q != "problem e"} == {
        "problem a": [0, 1, 2],  # the third right one is too many
        "problem b": [0, 1, 2],  # one right and two wrong: it stays, whatever the last is
        "problem c": [0, 1, 2, 3],
        "problem d": [0, 1],  # with the right one that it needs, two unknown ones may be three right
        "problem f": [0, 1, 2],
    }
    assert spent.spared - before == 5
    whole = split(measure_difficulty([example(k) for k in "abcdf"], **settings(script(REPLIES))))
    assert [r.id for r in stopped[0]] == [r.id for r in whole[0]]


WINDOWS = (Window(4, 1, 2, "keep"), Window(4, 1, 2, "drop"), Window(5, 0, 0, "drop"), Window(3, 3, 3, "keep"))


@pytest.mark.parametrize("window", WINDOWS)
def test_the_decision_is_that_of_all_attempts_for_every_outcome(window: Window) -> None:
    for outcomes in product("rwu", repeat=window.n):
        drawn = attempts_needed("".join(outcomes), window)
        part, all_ = outcomes[:drawn], outcomes
        assert window.certain(part.count("r"), part.count("u"), drawn) == window.keeps(all_.count("r"), all_.count("u"))
        # And no attempt is wasted: before the last one drawn, some other ending would have decided otherwise
        for short in range(drawn):
            before = outcomes[:short]
            endings = {
                window.keeps((before + rest).count("r"), (before + rest).count("u"))
                for rest in product("rwu", repeat=window.n - short)
            }
            assert endings == {True, False}


def test_a_reference_that_all_attempts_contradict_is_suspect(script: Script) -> None:
    replies = {
        "problem a": ["\\boxed{6}", "it is 6", "\\boxed{5}", "\\boxed{6.0}"],
        "problem b": ["\\boxed{6}", "\\boxed{7}", "\\boxed{8}", "\\boxed{6}"],
        "problem c": ["\\boxed{5}", "\\boxed{6}", "\\boxed{6}", "\\boxed{5}"],
    }
    kept, dropped = split(measure_difficulty([example(k) for k in "abc"], **settings(script(replies), suspect=0.5)))
    assert [r.id for r in kept] == ["c"]
    assert [(d.id, d.reason) for d in dropped] == [("a", "suspect reference"), ("b", "too hard")]
    assert dropped[0].detail == "3 of 4 attempts say '6', 1 the reference '5'"
    kept, _ = split(measure_difficulty([example("a")], **settings(script(replies), suspect=None)))
    assert [r.id for r in kept] == ["a"]


def test_a_cut_off_attempt_counts_only_with_an_explicit_answer() -> None:
    assert judged(Completion("First, 5 + 7 = 12", 9, "length"), "12")[0] == "cut"
    assert judged(Completion("so \\boxed{12} and then", 9, "length"), "12")[0] == "right"
    assert judged(Completion("so \\boxed{11}? But wait", 9, "length"), "12") == ("cut", None), "it may be taken back"
    assert judged(Completion("So 5 + 7 = 12", 9, "stop"), "12") == ("right", "12")


def test_rates_of_others_take_the_place_of_samples(script: Script) -> None:
    rows = [example("a", notes={"solve_rate": 0.5}), example("b"), example("c", notes={"solve_rate": "1.0"})]
    rows.append(example("a/x"))  # a rival of a problem whose rate is known
    given = {"by": "m", "n": 4, "rate": "solve_rate"}
    known, _ = split(import_rates(rows, **given))
    assert known[0].notes["attempts"]["m"] == {
        "drawn": 4, "right": 2, "wrong": 2, "unsure": 0, "cut": 0, "from": "column solve_rate"
    }  # fmt: skip
    node = script(REPLIES)
    kept, dropped = split(measure_difficulty(known, **settings(node)))
    assert [r.id for r in kept] == ["a", "b", "a/x"] and [(d.id, d.reason) for d in dropped] == [("c", "too easy")]
    assert {question for question, _ in asked(node)} == {"problem b"}
    with pytest.raises(UserError, match="no row has a pass rate under 'rate'"):
        list(import_rates(rows, **{**given, "rate": "rate"}))
    with pytest.raises(UserError, match=r"of the row a is 50\.0, not a share"):
        list(import_rates([example("a", notes={"r": 50})], **{**given, "rate": "r"}))


def test_rates_of_another_number_of_attempts_are_judged_by_their_share(script: Script) -> None:
    shares = {"a": 0.0, "b": 2 / 64, "c": 6 / 64, "d": 7 / 64, "e": "", "f": "n/a", "g": float("nan")}
    rows = [example(key, notes={"rate": share}) for key, share in shares.items()]
    known, _ = split(import_rates(rows, by="m", n=64, rate="rate"))
    assert [r.id for r in known if "attempts" in r.notes] == ["a", "b", "c", "d"]
    drawn = Sampling(n=32, temperature=1.0, top_p=1.0, max_tokens=9, seed=0)
    node = script(lambda question, index: "\\boxed{5}")
    kept, dropped = split(
        measure_difficulty(known, **settings(node, sampling=drawn, at_least=1, at_most=3, early_stop=True))
    )
    assert [r.id for r in kept] == ["b", "c"]
    assert [(d.id, d.reason, d.detail) for d in dropped][:2] == [
        ("a", "too hard", "0.0 % right, from column rate, 3.1 % needed"),
        ("d", "too easy", "10.9 % right, from column rate, the limit is 9.4 %"),
    ]
    assert {question for question, _ in asked(node)} == {f"problem {key}" for key in "efg"}


def test_rows_of_one_problem_share_its_attempts(script: Script) -> None:
    """Whatever their prompts: the first row's is asked, once; its chains come once, each graded once."""
    node = script(lambda question, index: f"\\boxed{{{index + 4}}}")
    rows = [example("a", "one"), replace(example("a/x", "two"), prompt=chat("in other words")), example("b")]
    kept, dropped = split(measure_difficulty(rows, **settings(node, chains="all")))
    assert [r.id for r in kept] == ["a", *(f"a/m/{i}" for i in range(4)), "a/x", "b", *(f"b/m/{i}" for i in range(4))]
    assert len(asked(node)) == 8 and {r.scores["pass_rate"] for r in kept} == {0.25} and not dropped
    assert [r.notes["verdict"] for r in kept[1:5]] == ["wrong", "correct", "wrong", "wrong"]
    chains, dropped = split(add_chains(kept, teachers={}, reference_solution=True))
    assert [r.id for r in chains] == [r.id for r in kept if r.id != "b"] and not dropped
    right, dropped = split(verify(chains, keep_unverified=False))
    assert [r.id for r in right] == ["a/m/1", "b/m/1"]
    assert {d.id: d.detail for d in dropped}["a/m/0"] == "'4' for '5'", "as it was graded when it was sampled"
    only_right, _ = split(measure_difficulty(rows, **settings(node, chains="right")))
    assert [r.id for r in only_right] == ["a", "a/m/1", "a/x", "b", "b/m/1"] and len(asked(node)) == 8


@pytest.mark.parametrize("suspect", [None, 0.5])
def test_early_stopping_keeps_the_same_rows_whatever_comes(suspect: float | None, script: Script) -> None:
    """Every sequence of six attempts that are right, wrong in two ways, or cut off."""
    words = {"r": "\\boxed{5}", "w": "\\boxed{6}", "v": "\\boxed{7}", "u": CUT}
    replies = {"problem " + "".join(s): [words[c] for c in s] for s in product("rwvu", repeat=6)}
    rows = [example(question.removeprefix("problem ")) for question in replies]
    drawn = Sampling(n=6, temperature=1.0, top_p=1.0, max_tokens=9, seed=0)
    found = {}
    for stop in (True, False):
        node = script(replies)
        given = settings(node, sampling=drawn, at_least=1, at_most=2, suspect=suspect, early_stop=stop, unknown="keep")
        found[stop] = ([r.id for r in split(measure_difficulty(rows, **given))[0]], len(asked(node)))
    assert found[True][0] == found[False][0] and len(found[True][0]) > 100
    assert found[True][1] < found[False][1] == 6 * 4**6


def test_rows_far_more_than_are_open_at_once(script: Script) -> None:
    node = script(lambda question, index: f"\\boxed{{{5 + index % 2}}}")
    rows = [example(str(i)) for i in range(9000)]
    kept = 0
    for row in measure_difficulty(rows, **settings(node, early_stop=True)):
        assert isinstance(row, Example) and row.id == str(kept), "in the order of the rows"
        kept += 1
    assert kept == 9000 and len(asked(node)) == 9000 * 4, "two right of three: the last could lift it out"


def teacher(engine: dict[str, Any], n: int) -> dict[str, Any]:
    drawn = {"n": n, "temperature": 1.0, "top_p": 1.0, "max_tokens": 9, "seed": 0}
    return {"_target_": "curation.stages.attempts.Teacher", "engine": engine, "sampling": drawn}


def test_chains_come_from_the_source_the_attempts_and_teachers(script: Script) -> None:
    own, other = script(REPLIES), script({q: ["taught \\boxed{5}", "taught \\boxed{5}", "6"] for q in REPLIES})
    given = settings(own, at_least=1, at_most=4, chains="right")
    rows, _ = split(measure_difficulty([example("a", "official"), example("b")], **given))
    kept, dropped = split(add_chains(rows, teachers={"wise": teacher(other, 3)}, reference_solution=True))
    assert [(r.id, r.notes["teacher"], r.completion) for r in kept] == [
        ("a", "s", "official"),
        ("a/m/0", "m", "\\boxed{5}"),
        ("b/m/0", "m", "so \\boxed{5}"),
        ("a/wise/0", "wise", "taught \\boxed{5}"),
        ("a/wise/2", "wise", "6"),
        ("b/wise/0", "wise", "taught \\boxed{5}"),
        ("b/wise/2", "wise", "6"),
    ]
    assert "verdict" not in kept[-1].notes and len({r.problem for r in kept}) == 2
    assert [(d.id, d.reason, d.detail) for d in dropped] == [
        ("a/wise/1", "same chain", "as a/wise/0"),
        ("b/wise/1", "same chain", "as b/wise/0"),
    ]
    kept, _ = split(add_chains(rows, teachers={}, reference_solution=False))
    assert [r.id for r in kept] == ["a/m/0", "b/m/0"]


def test_problems_without_a_chain_and_chains_cut_off_are_set_aside(script: Script) -> None:
    rows = [example("d"), example("e"), example("x/y")]
    replies = {**REPLIES, "problem x": ["\\boxed{5}"]}
    kept, dropped = split(add_chains(rows, teachers={"t": teacher(script(replies), 1)}, reference_solution=False))
    assert [r.id for r in kept] == ["x/y/t/0"]
    assert [(d.id, d.reason) for d in dropped] == [
        ("d/t/0", "cut off by its length limit"), ("e/t/0", "not sampled"), ("d", "no chain"), ("e", "no chain")
    ]  # fmt: skip


def test_more_attempts_and_a_better_grader_pay_only_for_what_is_new(script: Script) -> None:
    node = script(lambda question, index: f"\\boxed{{{index}}}")
    draw = random.Random(0)
    rows = [example(str(i)) for i in range(20)]

    def attempts(n: int, rows: list[Example]) -> int:
        before = len(asked(node))
        drawn = Sampling(n=n, temperature=1.0, top_p=1.0, max_tokens=9, seed=0)
        list(measure_difficulty(rows, **settings(node, sampling=drawn, at_least=0, at_most=n)))
        return len(asked(node)) - before

    assert attempts(4, rows) == 80
    assert attempts(4, draw.sample(rows, 20)) == 0, "another order"
    assert attempts(6, rows) == 40
    regraded = [example(r.id, answer="3") for r in rows]  # another reference: judged anew, not drawn anew
    assert attempts(6, regraded) == 0
    assert attempts(6, [*rows, example("new")]) == 6
    assert grade("\\boxed{3}", "3").verdict == "correct"
