"""Chains nobody should learn from."""

import json
from pathlib import Path

import pytest

from curation.stages.quality import check_quality, find_flaw
from tests.conftest import example, split

ENGLISH = (
    "First we write the equation down and look at what is given. Then we divide both sides by the number in front of "
    "the unknown, which leaves the unknown alone, and we check the result by inserting it again."
)
GERMAN = (
    "Zuerst schreiben wir die Gleichung auf und sehen nach, was gegeben ist. Dann teilen wir beide Seiten durch die "
    "Zahl vor der Unbekannten, sodass die Unbekannte allein steht, und prüfen das Ergebnis durch Einsetzen."
)
CASES = [
    (ENGLISH, ""),
    ("x = 5", ""),
    (f"<think>{ENGLISH}</think> It is 5.", ""),
    (f"{ENGLISH}</think> It is 5.", ""),  # the opening tag stood in the prompt
    (f"{ENGLISH} $\\alpha + \\beta = π$ and ∑ 𝑥 ≤ Δ", ""),
    (f"{ENGLISH} |x| < |y| and a <b> c", ""),
    (f"{ENGLISH} $0<|x|>1$ and $a<|b - c|>d$ and $|a|<|b|>|c|$, with a side called <s> in the text.", ""),
    (f"{ENGLISH} " + "Wait, let me check this again. " * 3, ""),
    ("".join(f"| {i} | {i * i} |\n" for i in range(40)) + ENGLISH, ""),
    ("", ""),
    (f"{ENGLISH}<|im_end|>", "control token"),
    (f"{ENGLISH} <｜end▁of▁sentence｜>", "control token"),
    (f"[INST] {ENGLISH}", "control token"),
    (f"<s>{ENGLISH}", "control token"),
    (f"{ENGLISH}</s>\n", "control token"),
    (f"<think>{ENGLISH} It is 5.", "unfinished thinking"),
    (f"<think>{ENGLISH}</think>  \n", "unfinished thinking"),
    (f"<think>a</think> b <think>{ENGLISH}</think> c", "unfinished thinking"),
    (f"{ENGLISH} " * 5, "loop"),
    (ENGLISH + " 0" * 700, "loop"),
    (ENGLISH + "0" * 1300, "loop"),
    (ENGLISH + "\\frac{1}{" * 150, "loop"),
    (GERMAN, "wrong language"),
    (f"{ENGLISH} 所以我们得到答案是五", "wrong language"),
    ("Поэтому x = 5", "wrong language"),
]


@pytest.mark.parametrize(("text", "reason"), CASES)
def test_what_is_wrong_with_a_chain(text: str, reason: str) -> None:
    assert find_flaw(text, ["en"], 20, 3)[0] == reason


def test_languages_are_the_recipe_s() -> None:
    chinese = "所以我们得到答案是五。" * 3
    assert find_flaw(GERMAN, ["en", "de"], 20, 3) == find_flaw(GERMAN, None, 20, 3) == ("", "")
    assert find_flaw(chinese, ["en", "zh"], 20, 3) == ("", "")
    assert find_flaw(chinese, ["en", "ru"], 20, 3)[0] == "wrong language"
    rows = [example("a", ENGLISH), example("b", GERMAN)]
    kept, dropped = split(check_quality(rows, languages=["en"], repeat_words=20, max_repeats=3))
    assert [r.id for r in kept] == ["a"] and dropped[0].detail.startswith("de (")


def test_real_chains_are_sound(data: Path) -> None:
    """None of 1,435 solutions of people and of a model has a flaw; each was looked at when the rules were made."""
    pool = json.loads((data / "pools" / "aime_1983_2023.json").read_text())
    texts = [row["solution"] or "" for row in pool]
    texts += [json.loads(line)["response"] for line in (data / "pools" / "math_chains_deepseek_chat.jsonl").open()]
    assert [found for text in texts if (found := find_flaw(text, ["en"], 20, 3))[0]] == []
