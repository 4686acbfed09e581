"""Mistakes by rule: of each type, proved, carried through; and what is found in a student's own attempts."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from curation.methods.lemma.mistakes import TYPES, Mistake, Rejected, read_chain
from curation.methods.lemma.rules import RESTART, RuleTeacher, diagnose
from curation.methods.lemma.slips import KINDS, check_mistake, slip
from curation.methods.lemma.teach import OPENINGS
from curation.stages.chains import box_answers, split_steps, write_out
from eval.equations import equations, holds
from eval.grade import grade
from limo.data import Example, chat
from limo.sources import file, generate

CLIPS = "Natalia sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips altogether.\nThe answer is \\boxed{72}."
QUESTION = "Natalia sold clips to 48 friends in April, and half as many in May. How many altogether?"


def row(completion: str = CLIPS, answer: str = "72", question: str = QUESTION, key: str = "p/1") -> Example:
    return Example(key, chat(question), answer, completion, source="p")


def test_steps_are_lines_or_sentences_and_join_to_the_text() -> None:
    for text in (CLIPS, "It is 2.5 m. So $x = 5$ m. Done.", "\n\na\n\nb\n", "", "one line"):
        assert "".join(split_steps(text)) == text
    assert len(split_steps(CLIPS)) == 3 and len(split_steps("It is 2.5 m. So it is 5 m.")) == 2


@pytest.mark.parametrize(
    ("completion", "answer", "reason"),
    [
        ("It is obvious.\nThe answer is \\boxed{72}.", "72", "no parsable step"),
        (CLIPS, "70", "the chain does not give the reference answer"),  # the gold is wrong, or the chain
        (CLIPS.replace("= 24", "= 25"), "72", "a step of the chain is not right"),
        ("48/2 = 24\nThe answer is \\boxed{72}.", "72", "the last equation does not give the answer"),
        ("48+24 = 72", "72", "no step before the answer"),
    ],
)
def test_chains_that_cannot_be_used_say_why(completion: str, answer: str, reason: str) -> None:
    with pytest.raises(Rejected) as why:
        read_chain(row(completion, answer))
    assert why.value.reason == reason


def rows_of(kind: str, data: Path | None = None) -> list[Example]:
    options = {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 2}
    templates = [4, 10, 16, 43, 72, 99]
    made = {
        "sums": lambda: generate("s", "", generator="chain_sum", size=40, seed=3, options=options),
        "words": lambda: generate("w", "", generator="gsm_symbolic", size=40, seed=3, templates=templates),
        "gsm8k": lambda: islice(file("g", "", path=f"{data}/pools/gsm8k_train.jsonl"), 80),
    }[kind]()
    return list(box_answers(write_out(r for r in made if isinstance(r, Example))))


def planted(rows: list[Example], kind: str) -> list[tuple[Example, Mistake]]:
    found = []
    for r in rows:
        try:
            found.append((r, slip(read_chain(r), kind, Random(r.id))))
        except Rejected:
            continue
    return found


@pytest.mark.parametrize("source", ["sums", "words", "gsm8k"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_planted_mistake_is_one(source: str, kind: str, data: Path) -> None:
    """Prefix right, step wrong, another answer: each check_mistake here anew, without the code that planted it."""
    rows = rows_of(source, data)
    found = planted(rows, kind)
    assert len(found) >= 0.5 * len(rows), "most chains have a place for it"
    for r, m in found:
        chain = read_chain(r)
        assert m.type == kind in TYPES and m.proof and m.said
        before = "".join(m.steps[: m.at])
        assert all(step in chain.steps for step in m.steps[: m.at])
        assert all(holds(e) for e in equations(before) if not e.unknown)
        assert m.steps[m.at] not in chain.steps or kind == "MS"
        assert grade("".join(m.steps), r.answer).verdict == "wrong"
        assert m.prefix == "".join(m.steps[: m.at + 1]).rstrip() and "<<" not in m.prefix
        if kind == "CA":
            assert any(holds(e) is False for e in equations(m.wrong)), m.wrong
        later = [e for e in equations("".join(m.steps[m.at + 1 :])) if not e.unknown]
        assert all(holds(e) for e in later), "what follows goes on from the wrong value without another slip"


def test_the_wrong_value_is_carried_to_the_answer() -> None:
    chain = read_chain(row())
    for seed in range(40):
        m = slip(chain, "CA", Random(seed))
        if m.at == 0:
            wrong = equations(m.steps[0])[0].result
            assert wrong is not None
            total = 48 + int(wrong.text)
            assert m.steps[1] == f"She sold 48+{wrong.text} = {total} clips altogether.\n"
            assert m.steps[2] == f"The answer is \\boxed{{{total}}}."
            return
    pytest.fail("no slip in the first step in 40 draws")


def test_kinds_of_changes() -> None:
    chain = read_chain(row())
    seen = {kind: {slip(chain, kind, Random(seed)).wrong for seed in range(60)} for kind in KINDS if kind != "CS"}
    assert "48+24 = 62" in seen["CA"] and "48/2 = 25" in seen["CA"]
    assert "48-24 = 24" in seen["OP"] and "48*2 = 96" in seen["OP"]
    assert seen["MS"] >= {"48+48 = 96", "The answer is \\boxed{24}."}
    assert any(w.startswith("84/2 = 42") or w.startswith("84+24") for w in seen["CV"]), seen["CV"]


def test_what_is_no_mistake_is_not_one() -> None:
    chain = read_chain(row())
    right = Mistake("CA", 0, chain.steps, "said", "proof")
    with pytest.raises(Rejected, match="does not reach the answer"):
        check_mistake(chain, right)
    with pytest.raises(Rejected, match="not proved wrong"):
        check_mistake(chain, replace(right, proof=""))
    other_start = replace(right, at=1, steps=("Something else.\n", "x\n", "The answer is \\boxed{7}."))
    with pytest.raises(Rejected, match="an earlier step"):
        check_mistake(chain, other_start)


@pytest.mark.parametrize(
    ("attempt", "kind", "at", "wrong"),
    [
        ("48/2 = 24\n48+24 = 62\nThe answer is \\boxed{62}.", "CA", 1, "48+24 = 62"),
        ("48/2 = 24\n48+24 = 24\nThe answer is \\boxed{24}.", "OP", 1, "48+24 = 24"),  # what 48-24 gives
        ("48/2 = 24\n48-24 = 24\nThe answer is \\boxed{24}.", "OP", 1, "48-24 = 24"),
        ("84/2 = 42\n48+42 = 90\nThe answer is \\boxed{90}.", "CV", 0, "84/2 = 42"),
        ("48/2 = 24\nThe answer is \\boxed{24}.", "MS", 1, "The answer is \\boxed{24}."),
    ],
)
def test_a_student_s_first_wrong_step(attempt: str, kind: str, at: int, wrong: str) -> None:
    m = diagnose(read_chain(row()), attempt)
    assert (m.type, m.at, m.wrong) == (kind, at, wrong) and m.proof


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        ("I think it is 62.", "no parsable step"),
        ("48*3/2 = 72\n72-1 = 71\nThe answer is \\boxed{71}.", "the first wrong step is not proved"),  # another way
        # 72 comes in words, 5 from nowhere
        ("First 48 becomes 72. Then 72 + 8 = 90. So \\boxed{90}.", "the first wrong step is not proved"),
        ("5*5 = 24\nThe answer is \\boxed{24}.", "the first wrong step is not proved"),
        ("48/2 = 24\n48+24 = 72\nThe answer is \\boxed{27}.", "the first wrong step is not proved"),
    ],
)
def test_what_is_not_proved_is_not_found(attempt: str, reason: str) -> None:
    with pytest.raises(Rejected) as why:
        diagnose(read_chain(row()), attempt)
    assert why.value.reason == reason


def test_mending_continues_from_the_missing_step_or_starts_afresh() -> None:
    r = row()
    attempt = "Natalia sold 48/2 = 24 clips in May.\nShe sold 48+24 = 62.\nThe answer is \\boxed{62}."
    m = diagnose(read_chain(r), attempt)
    (fixed,) = RuleTeacher().correct([(r, m, "")], "fix")
    afresh, other = RuleTeacher().correct([(r, m, ""), (r, m, "24+48 = 72, so \\boxed{72}")], "restart")
    assert isinstance(fixed, str) and isinstance(afresh, str) and isinstance(other, str)
    reflection, rest = fixed.split("\n", 1)
    assert reflection.startswith(OPENINGS) and reflection.endswith("48 + 24 is 72, not 62.")
    assert rest == "She sold 48+24 = 72 clips altogether.\nThe answer is \\boxed{72}."
    assert afresh.split("\n", 1)[0].endswith(RESTART) and afresh.split("\n", 1)[1] == CLIPS
    assert other.endswith("\n24+48 = 72, so \\boxed{72}")


def test_a_prefix_that_went_another_way_is_only_begun_afresh() -> None:
    r, m = row(), Mistake("CA", 1, ("48*3 = 144\n", "144/2 = 71\n", "The answer is \\boxed{71}."), "Said.", "proof")
    (fixed,) = RuleTeacher().correct([(r, m, "")], "fix")
    assert isinstance(fixed, Rejected) and fixed.reason == "the attempt went another way than the chain"
    assert isinstance(RuleTeacher().correct([(r, m, "")], "restart")[0], str)


def test_annotations_are_written_out_where_the_equation_is_not_in_the_text() -> None:
    text = "He sold 48/2 = <<48/2=24>>24 in May.\nThat makes $<<24*2=48>>48 in all. So 3+4 = $<<3+4=7>>7.\n#### 7"
    (made,) = write_out([row(text)])
    assert made.completion == "He sold 48/2 = 24 in May.\nThat makes $24*2=48 in all. So 3+4 = $7.\n#### 7"
