"""Benchmarks: a whole table, options shuffled evenly, local copies, and errors that say how to go on."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval import benchmarks, readers
from eval.benchmarks import behind_examples, benchmark_nodes, load_benchmarks
from eval.protocols import sampling_for
from eval.readers import TABLE, arc, gaokao, gpqa, mmlu, theoremqa, with_options
from limo.engines.protocol import Sampling
from limo.errors import UserError

NAMES = (
    "aime24 aime25 math500 amc23 gsm8k olympiadbench minerva gpqa chmath24 gaokao24 kaoyan gradeschool math theoremqa"
)


def test_the_table_is_whole_and_pinned() -> None:
    assert set(TABLE) == {*NAMES.split(), "mmlu_stem", "bbh", "arc_c"}
    for name, entry in TABLE.items():
        assert entry.rows > 0 and entry.split and entry.kind in ("math", "physics", "choice")
        if entry.hub:
            assert re.fullmatch(r"[0-9a-f]{40}", entry.revision), name
        else:
            assert entry.get, f"{name}: how to get it"
        if entry.shots:
            assert "Solution:" in behind_examples("1+1?", entry.group, entry.shots)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def gpqa_row(i: int) -> dict[str, Any]:
    wrong = {f"Incorrect Answer {j}": f"wrong {i}.{j}" for j in (1, 2, 3)}
    return {"Question": f"question {i}?", "Correct Answer": f"right {i} ", "Record ID": f"r{i}", **wrong}


def test_gpqa_options_are_shuffled_evenly_and_always_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "gpqa.jsonl", [gpqa_row(i) for i in range(198)])
    rows = load_benchmarks([path], "system")["gpqa"]
    counts = Counter(row.answer for row in rows)
    assert set(counts) == set("ABCD") and max(counts.values()) - min(counts.values()) <= 1
    for i, row in enumerate(rows):
        assert f"({row.answer}) right {i}\n" in row.question + "\n"
        assert all(f"wrong {i}.{j}" in row.question for j in (1, 2, 3))
    assert len({row.question.index("wrong 0.1") for row in rows[:1]}) == 1
    assert [r.question for r in load_benchmarks([path], "system")["gpqa"]] == [r.question for r in rows]
    assert rows[0].notes["answer_kind"] == "choice" and rows[0].prompt[0]["content"] == "system"
    assert "letter" in rows[0].question and "letter" not in rows[0].notes["problem"]


def test_options_that_were_never_shuffled_are_refused(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}?\n(A) right\n(B) wrong", "answer": "A"} for i in range(198)]
    with pytest.raises(UserError, match="benchmark 'gpqa': the right option is A in all 198 rows"):
        load_benchmarks([write(tmp_path / "gpqa.jsonl", rows)], "")


def test_rows_of_other_benchmarks_by_hand() -> None:
    assert mmlu({"question": "q?", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "astronomy"}, 0) == {
        "problem": "q?\n(A) a\n(B) b\n(C) c\n(D) d",
        "answer": "C",
        "subject": "astronomy",
    }
    row = {"question": "q?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2", "id": "i"}
    assert arc(row, 0)["answer"] == "B", "labels 1 to 4 are positions as well"
    assert theoremqa({"Question": "q?", "Answer": True, "Answer_type": "bool"}, 0)["answer"] == "True"
    assert gaokao({"question": "q?", "answer": "5", "choice_answer": ""}, 0)["answer"] == "5"
    assert gaokao({"question": "q?", "answer": "5", "choice_answer": "C"}, 0)["answer"] == "C"
    assert readers.as_it_is({"problem": "q?", "answer": {"x": 1, "y": 2}}, 0)["answer"] == "1, 2"
    assert readers.as_it_is({"question": "q?", "final_answer": ["1", "2"]}, 0)["answer"] == "1, 2"
    assert with_options("q?", ["a"]) == "q?\n(A) a"
    assert gpqa({"question": "q?", "answer": "B"}, 0) == {"question": "q?", "answer": "B"}


def test_few_shot_prompts_have_no_system_message_and_end_at_the_solution(tmp_path: Path) -> None:
    path = write(
        tmp_path / "math.jsonl", [{"problem": "what is 1 + 1?", "solution": "so \\boxed{2}", "level": "Level 1"}]
    )
    row = load_benchmarks([path], "system")["math"][0]
    assert len(row.prompt) == 1 and row.answer == "2" and row.notes["level"] == "Level 1"
    assert row.question.count("Problem:") == 5 and row.question.endswith("Problem:\nwhat is 1 + 1?\nSolution:")
    zero = load_benchmarks([{"math": {"path": path, "shots": 0}}], "system")["math"][0]
    assert [m["content"] for m in zero.prompt] == ["system", "what is 1 + 1?"]


def test_names_paths_and_nodes_in_one_list() -> None:
    found = benchmark_nodes(
        ["aime24", "copies/math500.json", {"mine": {"path": "x.csv", "fields": {"answer": "gold"}}}]
    )
    assert {name: node.get("path") for name, node in found.items()} == {
        "aime24": None,
        "math500": "copies/math500.json",
        "mine": "x.csv",
    }
    with pytest.raises(UserError, match="'aime24' twice"):
        benchmark_nodes(["aime24", "aime24"])
    with pytest.raises(UserError, match="must be empty or such as"):
        benchmark_nodes({"aime24": 5})


def test_a_folder_of_copies_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "aime25.jsonl", [{"prompt": f"p{i}", "answer": str(i)} for i in range(30)])
    monkeypatch.setenv("LIMO_BENCHMARKS", str(tmp_path))
    assert len(load_benchmarks(["aime25"], "")["aime25"]) == 30
    assert benchmarks.origin("aime25", benchmark_nodes(["aime25"])["aime25"])["path"] == str(tmp_path / "aime25.jsonl")
    monkeypatch.delenv("LIMO_BENCHMARKS")
    assert benchmarks.origin("aime25", benchmark_nodes(["aime25"])["aime25"])["revision"] == TABLE["aime25"].revision


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (["aim24"], "there is no benchmark 'aim24'; did you mean 'aime24'?"),
        ([{"kaoyan": {"required": True}}], "GAIR-NLP/LIMO.*eval/data/kaoyan/test.jsonl.*LIMO_BENCHMARKS"),
        (["kaoyan"], "none of the benchmarks is available"),
        (["nowhere/aime24.jsonl"], "benchmark 'aime24': no such file or folder 'nowhere/aime24.jsonl'"),
        ([{"mine": {"path": "x.jsonl", "kinds": "math"}}], "benchmarks.mine.kinds is not a setting"),
        ([{"mine": {"path": "x.jsonl", "kind": "chemistry"}}], "kind must be one of math, strict, physics, choice"),
        ([{"mine": {"path": "x.jsonl", "shots": 9}}], "shots must be between 0 and 5"),
        ([{"mine": {"path": "x.jsonl", "shots": -1}}], "shots must be between 0 and 5"),
    ],
)
def test_what_cannot_be_had_says_how_to_get_it(listed: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_benchmarks(listed, "")


def test_a_benchmark_on_the_hub_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"benchmark 'gpqa': cannot load 'Idavidrein/gpqa' .*HF_TOKEN.*gpqa.jsonl"):
        load_benchmarks([{"gpqa": {"required": True}}], "")


def test_real_local_copies(data: Path) -> None:
    folder = data / "benchmarks"
    rows = load_benchmarks(
        [str(folder / f) for f in ("aime24.jsonl", "aime25.jsonl", "amc23.jsonl", "math500.json")], "s"
    )
    assert {name: len(found) for name, found in rows.items()} == {
        "aime24": 30,
        "aime25": 30,
        "amc23": 40,
        "math500": 500,
    }
    gsm = load_benchmarks([{"gsm8k": {"path": str(folder / "gsm8k_test.jsonl")}}], "s")["gsm8k"]
    assert len(gsm) == 1319 and all("####" not in row.answer for row in gsm)
    assert {row.answer for row in rows["amc23"]} >= {"27"} and not any("." in row.answer for row in rows["amc23"])


def test_protocols_by_the_size_of_a_benchmark() -> None:
    own = Sampling(n=1, temperature=0.5, top_p=0.9, max_tokens=10, seed=7)
    assert sampling_for(None, own, 30) == own
    small, large = sampling_for("limo_v1", own, 30), sampling_for("limo_v1", own, 500)
    assert (small.n, small.temperature, small.max_tokens, small.seed) == (16, 0.7, 32_768, 7)
    assert (large.n, large.temperature, large.max_tokens) == (1, 0.0, 32_768)
    assert (sampling_for("limo_v2", own, 40).n, sampling_for("limo_v2", own, 40).temperature) == (4, 0.6)
    assert (
        sampling_for("mammoth2", own, 5, shots=4).stop == ("\nProblem:",)
        and sampling_for("mammoth2", own, 5).stop == ()
    )
    assert sampling_for(None, own, 5, shots=4).stop == ("\nProblem:",), (
        "or its answer would be that of the next problem"
    )
    with pytest.raises(UserError, match="no protocol 'limo_v3'; did you mean 'limo_v"):
        sampling_for("limo_v3", own, 30)


def test_an_heir_leaves_a_benchmark_out_with_false() -> None:
    assert set(benchmark_nodes({"gsm8k": None, "math500": False, "mine": {"path": "x.jsonl"}})) == {"gsm8k", "mine"}
    with pytest.raises(UserError, match=r"eval\.benchmarks\.math500 must be empty"):
        benchmark_nodes({"math500": True})
