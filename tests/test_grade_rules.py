"""The rules that find the answer: each has an example that no rule above it catches; what the reader understood."""

import pytest

from eval.grade import grade
from eval.grader.extract import RULES, Rule, find_answer


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_rule_is_shadowed(rule: Rule) -> None:
    assert find_answer(rule.example) == (rule.found, rule.name)


def test_rules_are_ordered_and_named_once() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all((rule.on_completion is None) != (rule.on_sentence is None) for rule in RULES)
    scopes = [rule.on_completion is None for rule in RULES]
    assert scopes == sorted(scopes), "rules on the whole completion come first"


@pytest.mark.parametrize(
    ("completion", "extracted"),
    [
        ("<think>3?</think>So <|begin_of_box|>5<|end_of_box|>", "5"),
        ("<|channel|>analysis<|message|>3?<|end|><|start|>assistant<|channel|>final<|message|>It is 5.<|return|>", "5"),
        ("<|channel|>analysis<|message|>The answer is 3.", None),
        ("analysisWe need 2 + 3.assistantfinalThe answer is 5.", "5"),
        ("<|channel>thought\n3?<channel|>The answer is 5.", "5"),
        ("<|channel>thought\nThe answer is 3.", None),
        ("<|channel>thought\n3?<channel|>The answer is 5.<turn|>", "5"),
        ("[THINK]3?[/THINK]\\boxed{5}", "5"),
        ("◁think▷3?◁/think▷\\boxed{5}", "5"),
        ("<seed:think>3?</seed:think>\\boxed{5}", "5"),
        ("<|START_THINKING|>3?<|END_THINKING|><|START_RESPONSE|>The answer is 5.<|END_RESPONSE|>", "5"),
        ("3?</think>\n<response>\nThe answer is 5.\n</response>", "5"),
        ("<|begin_of_thought|>3?<|end_of_thought|>\n<|begin_of_solution|>\n5\n<|end_of_solution|>", "5"),
    ],
)
def test_marks_of_models(completion: str, extracted: str | None) -> None:
    assert find_answer(completion)[0] == extracted


@pytest.mark.parametrize(
    ("completion", "rule", "parsed"),
    [
        ("\\boxed{\\frac{2}{4}}", "box", "(2 / 4)"),
        ("#### 1,234", "hashes", "1234"),
        ("The answer is $\\{1, 2\\}$.", "announced", "{1, 2}"),
        ("\\boxed{5\\text{ cm}}", "box", "5 cm"),
        ("\\boxed{x \\ge -\\sqrt{2}}", "box", "x >= -sqrt(2)"),
        ("\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}", "box", "[1; 2]"),
        ("\\boxed{4:30 \\text{ p.m.}}", "box", "16:30"),
        ("\\boxed{12_8}", "box", "10 in base 8"),
        ("\\boxed{x +}", "box", None),
    ],
)
def test_the_verdict_has_the_rule_and_what_was_read(completion: str, rule: str, parsed: str | None) -> None:
    found = grade(completion, "7")
    assert (found.rule, found.parsed) == (rule, parsed)
