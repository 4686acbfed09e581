"""Whether an error is noticed, by its words or by the right equation; and the shares that are made of it."""

import pytest

from curation.methods.lemma.begun import begun
from curation.methods.lemma.rules import RESTART
from curation.methods.lemma.teach import OPENINGS
from eval.equations import equations, holds
from eval.repair import measure_repair, notices, reflects
from eval.report.tables import repair_table
from limo.data import Example
from limo.errors import UserError

SOURCE = {
    "_target_": "limo.sources.generate",
    "generator": "chain_sum",
    "size": 30,
    "seed": 5,
    "options": {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 2},
}


@pytest.mark.parametrize("text", [*OPENINGS, *RESTART])
def test_every_opening_of_a_reflection_counts_as_one(text: str) -> None:
    assert reflects(text) and reflects(f"\n{text}\n57 + 8 = 65")


PLAIN = ("", "57 + 8 = 65\nThe answer is \\boxed{65}.", "So the answer is right.", "This is correct. 3 + 4 = 7")
PLAIN += ("She waits 5 minutes.", "Let me solve it step by step.", "The holding company has 3 checks.")


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_reflection(text: str) -> None:
    assert not reflects(text)


def test_the_right_equation_is_noticing_too() -> None:
    about = {"wrong": "48 + 24 = 62", "right": "48 + 24 = 72"}
    assert notices("\nShe has 48+24 = 72 clips.", about)
    assert not notices("\nThe answer is \\boxed{62}.", about) and not notices("\n48 + 24 = 62", about)
    assert notices("\nWait, no.", about)


def completion(text: str, right: bool) -> dict[str, object]:
    return {"text": text, "verdict": "correct" if right else "wrong"}


def line(key: str, kind: str, *completions: dict[str, object]) -> dict[str, object]:
    return {"id": key, "notes": {"type": kind, "begun": {"right": "1 + 1 = 2"}}, "completions": list(completions)}


def test_shares_worked_out_by_hand() -> None:
    rows = [
        line("a", "CA", completion("Wait, that is wrong. 1 + 1 = 2", True)),
        line("b", "CA", completion("Wait.", False)),
        line("c", "OP", completion("on", True)),
        line("d", "OP", completion("on", False)),
    ]
    right = [
        line("e", "right", completion("Wait.", False)),
        line("f", "right", completion("on", True)),
        line("g", "right", completion("Wait.", True)),
        line("h", "whole", completion("on", False)),
    ]
    plain = [{"id": "i", "notes": {}, "completions": [completion("Hold on", True), completion("on", True)]}]
    found = measure_repair({"m": {"wrong": rows, "right": right, "own": plain}}, 100, 0)["m"]
    means = {name: {k: v["mean"] for k, v in by.items() if k != "by type"} for name, by in found.items()}
    assert means["wrong"] == {"noticed": 0.5, "repaired": 0.5, "noticed and repaired": 0.25}
    assert means["right"] == {"false alarm": 0.5, "spoiled": 0.5, "right to wrong": 0.25}
    assert means["own"] == {"reflects": 0.5, "reflects and right": 0.5}
    assert {k: v["noticed"]["mean"] for k, v in found["wrong"]["by type"].items()} == {"CA": 1.0, "OP": 0.0}
    alarms = {k: v["false alarm"]["mean"] for k, v in found["right"]["by type"].items()}
    assert alarms == {"right": pytest.approx(2 / 3), "whole": 0.0}
    both = measure_repair({"m": {"mixed": rows + right}}, 100, 0)["m"]["mixed"]["by type"]
    assert both == {**found["wrong"]["by type"], **found["right"]["by type"]}, "a benchmark may have both"
    assert found["wrong"]["noticed"]["n"] == 4 and found["wrong"]["noticed"]["low"] < 0.5
    assert measure_repair({"m": {"own": plain}}, 100, 0) == {}, "nothing is said of runs without beginnings"
    table = repair_table({"m": found})
    assert {"CA: noticed", "false alarm"} <= {row[1] for row in table.rows} and len(table.rows) == 3 + 4 + 3 + 4 + 2


def test_wrong_beginnings_take_the_types_in_turn() -> None:
    kinds = ["CA", "OP", "MS", "CS", "CV"]
    rows = [r for r in begun("w", "sys", source=SOURCE, types=kinds, right=False, seed=0) if isinstance(r, Example)]
    assert [r.notes["type"] for r in rows] == [kinds[i % 5] for i in range(len(rows))] and len(rows) > 20
    for r in rows:
        assert [m["role"] for m in r.prompt] == ["system", "user", "assistant"] and not r.completion
        text = r.prompt[-1]["content"]
        assert text == r.notes["begun"]["text"] and text == text.rstrip() and r.notes["begun"]["wrong"] in text


def test_right_beginnings_are_right_and_some_are_whole() -> None:
    rows = [r for r in begun("r", "", source=SOURCE, types=[], right=True, seed=0) if isinstance(r, Example)]
    texts = [r.prompt[-1]["content"] for r in rows]
    assert all(holds(e) for text in texts for e in equations(text))
    whole = ["boxed" in text for text in texts]
    assert [r.notes["type"] == "whole" for r in rows] == whole and 0 < sum(whole) < len(rows)
    assert len({len(equations(text)) for text in texts}) > 1, "they end at different steps"


def test_beginnings_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no rule for a mistake of this type"):
        list(begun("w", "", source=SOURCE, types=["QM"], right=False, seed=0))
    with pytest.raises(UserError, match="types names none"):
        list(begun("w", "", source=SOURCE, types=[], right=False, seed=0))
    bare = {**SOURCE, "generator": "basic_arithmetic", "options": {}}
    with pytest.raises(UserError, match="no problem of the source has a chain that can be begun"):
        list(begun("w", "", source=bare, types=["CA"], right=False, seed=0))
