"""What scores can tell apart: flaws by hand, pairs decided by hand, and the command on a small pool."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from curation.evidence.flaws import FLAWS, plant_flaws, spoil
from curation.evidence.probe import tell_apart
from curation.evidence.probe_result import Decided, warnings
from eval.equations import equations, holds
from limo.data import Example, chat
from limo.errors import UserError
from tests.conftest import split

CHAIN = "3 + 4 = 7\n7 + 5 = 12\n12 - 2 = 10\nThe answer is \\boxed{10}."
ROW = Example("a", chat("3 + 4 + 5 - 2 ="), "10", CHAIN)
OTHER = Example("b", chat("9 - 1 - 1 ="), "7", "9 - 1 = 8\n8 - 1 = 7\nThe answer is \\boxed{7}.")


TESTED = set[str]()  # flaws that a test has looked at


def spoiled(flaw: str, seed: int = 0) -> list[str]:
    TESTED.add(flaw)
    made = spoil(ROW, flaw, [ROW, OTHER], Random(seed))
    assert made and made.notes["made"] == flaw and made.problem == ROW.problem and made.id != ROW.id
    return made.completion.split("\n")


@pytest.mark.parametrize("seed", range(5))
def test_each_flaw_does_what_it_says(seed: int) -> None:
    right = CHAIN.split("\n")
    wrong = [e for e in equations("\n".join(spoiled("false step", seed))) if holds(e) is False]
    assert len(wrong) == 1 and spoiled("false step", seed)[-1] == right[-1], "one false equation, the end stays"
    swapped = spoiled("swapped steps", seed)
    assert sorted(swapped) == sorted(right) and swapped != right and swapped[-1] == right[-1]
    left = spoiled("steps left out", seed)
    assert 1 < len(left) < len(right) and set(left) < set(right) and left[-1] == right[-1]
    assert spoiled("other chain", seed) == ["9 - 1 = 8", "8 - 1 = 7", right[-1]]
    filler = spoiled("filler", seed)
    assert [line for line in filler if line in right] == right and len(filler) == 2 * len(right)
    repeated = spoiled("repetition", seed)
    assert len(repeated) == len(right) + 2 and list(dict.fromkeys(repeated)) == right
    assert spoiled("cut off", seed) == right[:-1]
    assert set(FLAWS) == TESTED, "every flaw says above what it does"


def test_a_chain_that_has_no_place_for_a_flaw_is_left() -> None:
    short = Example("c", chat("2 ="), "2", "\\boxed{2}")
    assert [flaw for flaw in FLAWS if spoil(short, flaw, [short], Random(0))] == ["filler"]


def test_a_pool_with_known_faults() -> None:
    rows = [ROW, OTHER, Example("c", chat("unsolved"), "2")]
    kept, dropped = split(plant_flaws(rows, shares={"false step": 1.0, "filler": 0.0}, seed=0))
    assert [(r.id, r.notes.get("made")) for r in kept if r.completion] == [
        ("a", "clean"),
        ("a/false-step", "false step"),
        ("b", "clean"),
        ("b/false-step", "false step"),
    ]
    assert not dropped and len(kept) == 5
    with pytest.raises(UserError, match="there is no flaw 'fillr'"):
        list(plant_flaws(rows, shares={"fillr": 1.0}, seed=0))


def test_shares_of_pairs_by_hand() -> None:
    values = {"a": {"nll": 1.0, "length": 5.0}, "x": {"nll": 2.0, "length": 9.0}}
    values |= {"b": {"nll": 1.0, "length": 5.0}, "y": {"nll": 1.0}}
    found = tell_apart(values, {"filler": [("a", "x"), ("b", "y")]})
    assert found["nll"]["filler"].share == 0.75 and found["nll"]["filler"].pairs == 2, "a tie counts half"
    assert found["length"]["filler"].share == 0.0 and found["length"]["filler"].pairs == 1


def test_warnings_name_what_is_reversed_or_not_seen() -> None:
    found = {"s": {"filler": Decided(0.1, 0.02, 0.3, 20), "repetition": Decided(0.5, 0.3, 0.7, 20)}}
    assert list(warnings(found, {"choose": "s"})) == [
        "'choose' chooses by s, which prefers chains with: filler",
        "'choose' chooses by s, which does not notice: repetition",
    ]
    assert not list(warnings({"s": {"filler": Decided(0.9, 0.8, 1.0, 20)}}, {"choose": "s"}))


def test_the_command_and_the_warning_of_the_next_run(tiny: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    settings = [
        *("recipe=demo", f"runs={tmp_path}", f"student={tiny}", "curate.pool.stories.size=60"),
        *("curate.stages.fit.max_length=500", "probe.fit.max_length=500", "probe.chains=12"),
    ]
    done = run("curation.evidence.probe", *settings)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "demo" / "probe.json").read_text())
    assert found["scores"]["steps_false"]["false step"]["share"] == 1.0
    assert found["scores"]["length"]["filler"]["share"] == 0.0, "more words are preferred"
    assert found["dropped"]["true_steps"]["false step"] == found["scores"]["nll"]["false step"]["pairs"]
    assert "false step" in done.stdout and "(" in done.stdout
    teachers = run("curation.evidence.teachers", *settings, "fit.chains=10")
    assert teachers.returncode == 0 and "stories" in teachers.stdout and "10" in teachers.stdout, teachers.stderr
    done = run("curation.run", *settings, "curate.stages.best_chain.by=steps_true", "curate.stages.choose.k=8")
    assert "warning: 'best_chain' chooses by steps_true" in done.stderr, done.stderr
    page = (tmp_path / "demo" / "report.html") if run("eval.report", *settings[:2]).returncode == 0 else None
    assert page and "Does the choice help?" in page.read_text() and "swapped steps" in page.read_text()
    missing = run("curation.evidence.probe", *settings, "probe.after=verfy")
    assert missing.returncode == 2 and "no stage 'verfy'; did you mean 'verify'" in missing.stderr
