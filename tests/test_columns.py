"""The formats that people really have, what their columns are taken for, and that no problem is changed in silence."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from curation.stages.chains import verify
from limo.data import Dropped, Example, read_jsonl
from limo.errors import UserError
from limo.recipe import compose, input_files
from limo.sources import file
from limo.sources.new import make_recipe
from tests.conftest import ROOT

BOX = r"2 + 2 = 4, so \boxed{4}"
SYSTEM = {"role": "system", "content": "Be brief."}
TURN = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": BOX}]
SHARE = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": BOX}]


def read(path: Path, *rows: dict[str, Any], system: str = "", **settings: Any) -> list[Example | Dropped]:
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(file("s", system, path=str(path), **settings))


@pytest.mark.parametrize(
    ("row", "settings", "problem", "mapping"),
    [
        ({"instruction": "Add.", "input": "2+2?", "output": BOX}, {}, "Add.\n\n2+2?", "instruction + input"),
        ({"instruction": "2+2?", "input": "", "output": BOX}, {}, "2+2?", "chain = output"),
        ({"conversations": SHARE}, {}, "2+2?", "the user turn of conversations"),
        ({"conversations": SHARE}, {}, "2+2?", "answer = what the chain ends with (unchecked)"),
        ({"messages": TURN}, {}, "2+2?", "chain = the assistant turn of messages"),
        ({"messages": [SYSTEM, *TURN]}, {}, "2+2?", "the user turn"),
        ({"Question": "2+2?", "Solution": BOX, "FINAL": "4", "tag": "x"}, {}, "2+2?", "answer = FINAL"),
        (
            {"a": "Add.", "b": "2+2?", "c": BOX},
            {"fields": {"problem": ["a", "b"], "chain": "c"}},
            "Add.\n\n2+2?",
            "a + b",
        ),
    ],
)
def test_a_format_and_what_is_printed(
    row: dict[str, Any], settings: dict[str, Any], problem: str, mapping: str, tmp_path: Path, capsys: Any
) -> None:
    (found,) = read(tmp_path / "pool.jsonl", row, **settings)
    assert isinstance(found, Example) and (found.question, found.answer, found.completion) == (problem, "4", BOX)
    assert mapping in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [*TURN, *TURN]}, "several turns"),
        ({"conversations": [SHARE[1], SHARE[0]]}, "problem is not text"),
        ({"conversations": ["2+2?"]}, "problem is not text"),
        ({"problem": "2+2?", "answer": "proof"}, "no checkable answer"),
        ({"problem": "2+2?", "answer": "See solution."}, "no checkable answer"),
        ({"problem": "2+2?", "solution": "four"}, "no answer"),
        ({"messages": [SYSTEM, *TURN]}, "another system message"),
    ],
)
def test_what_cannot_be_kept_whole_is_dropped_with_its_reason(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    good = {"problem": "1+1?", "answer": "2"}
    found = read(tmp_path / "pool.jsonl", good, row, system="Think.")
    assert isinstance(found[0], Example) and isinstance(found[1], Dropped) and found[1].reason == reason
    assert (found[1].row, found[1].data) == (2, row)


def test_a_system_message_is_kept_or_replaced_on_request(tmp_path: Path) -> None:
    path, row = tmp_path / "pool.jsonl", {"messages": [SYSTEM, *TURN]}
    (kept,) = read(path, row)
    (ours,) = read(path, row, system="Think.", replace_system=True)
    assert [row.prompt[0]["content"] for row in (kept, ours) if isinstance(row, Example)] == ["Be brief.", "Think."]
    with pytest.raises(UserError, match="replace_system: true gives its rows the recipe's"):
        read(path, row, system="Think.")


def test_several_chains_of_a_row_are_rivals(tmp_path: Path) -> None:
    row = {"problem": "2+2?", "answer": "4", "id": "p", "generations": [BOX, "no", BOX], "uuid": "u"}
    rows = read(tmp_path / "pool.jsonl", row)
    assert [row.id for row in rows] == ["s/p", "s/p/2"]
    assert {row.problem for row in rows if isinstance(row, Example)} == {"s/p"}
    both = {"q": "2+2?", "one": BOX, "two": "4 it is: #### 4", "gold": "4"}
    rows = read(tmp_path / "pool.jsonl", both, fields={"problem": "q", "chain": ["one", "two"], "answer": "gold"})
    assert [row.completion for row in rows if isinstance(row, Example)] == [BOX, "4 it is: #### 4"]


def test_where_keeps_rows_by_their_columns(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}?", "answer": "1", "level": i, "type": "proof" if i == 4 else "number"} for i in range(6)]
    where = {"type": {"not": "proof"}, "level": {"at_least": 2, "at_most": 4}}
    found = read(tmp_path / "pool.jsonl", *rows, where=where)
    assert [row.question for row in found if isinstance(row, Example)] == ["2?", "3?"]
    assert {row.reason for row in found if isinstance(row, Dropped)} == {"not in where"}
    assert len(read(tmp_path / "pool.jsonl", where={"level": [1, 5]})) == 6
    with pytest.raises(UserError, match=r"where.level has 'above'; there are is, not, at_least, at_most"):
        read(tmp_path / "pool.jsonl", where={"level": {"above": 2}})


@pytest.mark.parametrize("name", ["p.tsv", "p.csv", "p.jsonl.gz", "p.jsonl.zst", "p.csv.gz", "p.xlsx", "p/a.parquet"])
def test_files_as_they_come(name: str, tmp_path: Path) -> None:
    path, table = tmp_path / name, pd.DataFrame({"Problem": ["2+2?", "3+3?"], "Answer": ["4", "6"]})
    path.parent.mkdir(exist_ok=True)
    if name.endswith(".xlsx"):
        table.to_excel(path, index=False)
    elif name.endswith(".parquet"):
        table.head(1).to_parquet(path)
        table.tail(1).to_parquet(path.with_name("b.parquet"))
        path = path.parent
    else:
        sign = "\t" if "tsv" in name else ","
        text = (
            table.to_csv(index=False, sep=sign) if "jsonl" not in name else table.to_json(orient="records", lines=True)
        )
        if name.endswith(".zst"):
            with pa.CompressedOutputStream(str(path), "zstd") as packed:
                packed.write(text.encode())
        else:
            path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert [(row.question, row.answer) for row in read(path) if isinstance(row, Example)] == [
        ("2+2?", "4"),
        ("3+3?", "6"),
    ]


def test_a_pattern_reads_all_of_its_files(tmp_path: Path) -> None:
    for at in range(3):
        (tmp_path / f"part-{at}.jsonl").write_text(json.dumps({"problem": f"{at}?", "answer": str(at)}) + "\n")
    pattern = tmp_path / "part-*.jsonl"
    assert [(row.id, row.question) for row in read(pattern) if isinstance(row, Example)] == [
        ("s/1", "0?"),
        ("s/2", "1?"),
        ("s/3", "2?"),
    ]
    assert len(input_files({"p": {"_target_": "limo.sources.file", "path": str(pattern)}})) == 3
    with pytest.raises(UserError, match="no such file or folder"):
        read(tmp_path / "none-*.jsonl")


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "pool.csv"
    path.write_bytes("problem;answer\nWie groß ist 1+1?;2\n".encode("cp1252"))
    (row,) = read(path, encoding="cp1252")
    assert isinstance(row, Example) and row.question == "Wie groß ist 1+1?"
    lines = tmp_path / "pool.jsonl"
    lines.write_bytes(b'{"problem": "\xdf", "answer": "2"}\n')
    with pytest.raises(UserError, match="not UTF-8: 1"):
        read(lines)
    with pytest.raises(UserError, match="there is no encoding 'cp125'"):
        read(path, encoding="cp125")
    path.with_suffix(".jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be unpacked"):
        read(path.with_suffix(".jsonl.gz"))


def test_a_reference_read_from_the_chain_does_not_verify_it(tmp_path: Path) -> None:
    wrong = [{"question": f"{i}+{i}?", "solution": rf"so \boxed{{{i + 100}}}", "total": i + i} for i in range(20)]
    rows = [row for row in read(tmp_path / "pool.jsonl", *wrong) if isinstance(row, Example)]
    assert len(rows) == 20 and all(row.notes["unchecked"] for row in rows)
    dropped = list(verify(rows, keep_unverified=False))
    assert [row.reason for row in dropped if isinstance(row, Dropped)] == ["unchecked reference"] * 20
    kept = [row for row in verify(rows, keep_unverified=False, unchecked="keep") if isinstance(row, Example)]
    assert [row.notes["verdict"] for row in kept] == ["unchecked"] * 20
    named = [row for row in read(tmp_path / "pool.jsonl", fields={"answer": "total"}) if isinstance(row, Example)]
    reasons = [row.reason for row in verify(named, keep_unverified=False) if isinstance(row, Dropped)]
    assert reasons == ["wrong answer"] * 20


def test_a_recipe_is_written_for_a_file_and_runs(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chains = [rf"{i}+{i} = \boxed{{{2 * i}}}" for i in range(40)]
    asked = [f"What is {i} plus {i}?" for i in range(40)]
    table = pd.DataFrame({"Question": asked, "Solution": chains, "Final": range(0, 80, 2)})
    table.to_csv("sums.csv", index=False)
    make_recipe("sums.csv")
    recipe = Path("my/recipe/sums.yaml")
    assert len(recipe.read_text().splitlines()) <= 16 and "answer = Final" in recipe.read_text()
    with pytest.raises(UserError, match="there is a recipe 'sums' already"):
        make_recipe("sums.csv")
    sizes = [f"student={tiny}", "engine.dtype=float32", "attempts.max_tokens=4", "k=5", "train.max_length=200"]
    command = [sys.executable, "-m", "curation.run", "--config-dir", "my", "recipe=sums", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = {row.question for row in read_jsonl("runs/sums/curated.jsonl")}
    held_out = {json.loads(line)["problem"] for line in Path("my/sums_held_out.jsonl").read_text().splitlines()}
    assert len(chosen) == 5 and len(held_out) == 4 and not chosen & held_out
    table.head(5).to_csv("few.csv", index=False)
    with pytest.raises(UserError, match="has only 5 usable problems"):
        make_recipe("few.csv")


def test_what_cannot_be_told_of_a_file_is_given_to_limo_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "".join(f"Größe {i}+1?;{i}+1={i + 1};{i + 1}\n" for i in range(30))
    Path("de.csv").write_text("Aufgabe;Lösung;Ergebnis\n" + lines, encoding="cp1252")
    with pytest.raises(UserError, match="which is which, fields="):
        make_recipe("de.csv")
    make_recipe("de.csv", fields={"problem": "Aufgabe", "answer": "Ergebnis"}, encoding="cp1252")
    written = Path("my/recipe/de.yaml").read_text(encoding="utf-8")
    assert 'encoding: "cp1252"' in written and '"problem": "Aufgabe"' in written
    turns = [{"role": r, "content": c} for r, c in (("system", "Be brief."), ("user", "{}+1?"), ("assistant", "2"))]
    rows = [{"messages": [{**t, "content": t["content"].format(i)} for t in turns], "answer": i} for i in range(30)]
    rows[3]["answer"] = "proof"
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    make_recipe("chats.jsonl")
    assert "replace_system: true" in Path("my/recipe/chats.yaml").read_text()
    assert "not usable: no checkable answer: 1" in capsys.readouterr().err
    with pytest.raises(UserError, match="since it names a file"):
        make_recipe("chats.jsonl", name="a b/c")


CHAT = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": BOX}]
# A row of each public set by its published columns, what `limo new` says of it, and the chain that is read
PUBLIC: dict[str, tuple[dict[str, Any], str, str]] = {
    "GSM8K": ({"question": "2+2?", "answer": "2+2 = <<2+2=4>>4.\n#### 4"}, "chain = answer, answer = answer", "2+2 ="),
    "MATH": ({"problem": "2+2?", "level": "Level 1", "type": "Algebra", "solution": BOX}, "chain = solution", BOX),
    "NuminaMath-CoT": ({"source": "x", "problem": "2+2?", "solution": BOX, "messages": CHAT}, "chain = solution", BOX),
    "NuminaMath-1.5": (
        {"problem": "2+2?", "solution": BOX, "answer": "4", "problem_is_valid": "Yes", "synthetic": False},
        "chain = solution, answer = answer",
        BOX,
    ),
    "OpenR1-Math-220k": (
        {
            "problem": "2+2?",
            "solution": "Four.",
            "answer": "4",
            "uuid": "u",
            "generations": [f"<think>a</think>{BOX}", "5"],
            "correctness_math_verify": [True, False],
            "messages": CHAT,
        },
        "chain = solution and generations, answer = answer",
        "Four.",
    ),
    "s1K": (
        {
            "solution": "4",
            "question": "2+2?",
            "cot_type": "math",
            "cot": None,
            "thinking_trajectories": ["Two, four."],
            "attempt": BOX,
        },
        "chain = thinking_trajectories before attempt, answer = solution",
        f"<think>\nTwo, four.\n</think>\n\n{BOX}",
    ),
    "s1K-1.1": (
        {
            "solution": "4",
            "question": "2+2?",
            "gemini_attempt": "b",
            "deepseek_thinking_trajectory": "Two, four.",
            "deepseek_attempt": BOX,
        },
        "chain = deepseek_thinking_trajectory before deepseek_attempt, answer = solution",
        f"<think>\nTwo, four.\n</think>\n\n{BOX}",
    ),
    "OpenThoughts-114k": (
        {"system": "Think.", "conversations": [{"from": "user", "value": "2+2?"}, {"from": "assistant", "value": BOX}]},
        "chain = the assistant turn of conversations",
        BOX,
    ),
    "LIMO": ({"question": "2+2?", "solution": BOX, "answer": "4"}, "chain = solution, answer = answer", BOX),
    "DeepScaleR": ({"problem": "2+2?", "answer": "4", "solution": BOX}, "chain = solution, answer = answer", BOX),
    "DAPO-Math-17k": (
        {
            "data_source": "math_dapo",
            "prompt": [CHAT[0]],
            "ability": "MATH",
            "reward_model": {"ground_truth": "4", "style": "rule"},
        },
        "chain = none, answer = ground_truth",
        "",
    ),
    "DeepMath-103K": (
        {"question": "2+2?", "final_answer": "4", "r1_solution_1": BOX, "r1_solution_2": "b", "r1_solution_3": "c"},
        "chain = r1_solution_1 and r1_solution_2 and r1_solution_3, answer = final_answer",
        BOX,
    ),
    "OpenMathReasoning": (
        {"problem": "2+2?", "generated_solution": BOX, "expected_answer": "4", "pass_rate_72b_tir": "0.5"},
        "chain = generated_solution, answer = expected_answer",
        BOX,
    ),
    "MetaMathQA": (
        {
            "type": "GSM_Rephrased",
            "query": "2+2?",
            "original_question": "1+1?",
            "response": "Two more.\nThe answer is: 4",
        },
        "chain = response, answer = what the chain ends with (unchecked)",
        "Two more.",
    ),
    "MathInstruct": (
        {"source": "x", "output": "2+2=4. The answer is 4", "instruction": "2+2?"},
        "chain = output, answer = what the chain ends with (unchecked)",
        "2+2=4",
    ),
    "Alpaca": ({"instruction": "2+2?", "input": "", "output": BOX}, "problem = instruction + input", BOX),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_set_is_read_by_its_published_columns(name: str, tmp_path: Path, capsys: Any) -> None:
    row, said, chain = PUBLIC[name]
    rows = [json.loads(json.dumps(row).replace("2+2?", f"{number}+2+2-{number}?")) for number in range(40)]
    found = read(tmp_path / "pool.jsonl", *rows, replace_system=True)
    assert all(isinstance(one, Example) and one.answer == "4" for one in found), found[0]
    first = found[0]
    assert isinstance(first, Example) and first.question == "0+2+2-0?" and first.completion.startswith(chain)
    assert said in capsys.readouterr().err
    make_recipe(str(tmp_path / "pool.jsonl"), name="mine", folder=tmp_path / "my")
    recipe = (tmp_path / "my" / "recipe" / "mine.yaml").read_text()
    assert said.partition(" (")[0].partition(", answer = what")[0] in recipe, "a recipe says what was read"
    again = compose("recipe=mine", f"hydra.searchpath=[file://{tmp_path / 'my'}]")["curate"]["pool"]["mine"]
    settings = {key: value for key, value in again.items() if key != "_target_"}
    assert [*file("s", "", **settings)] == [*file("s", "", **settings | {"fields": None})], "its fields read the same"
    assert f"| {name} |" in (ROOT / "docs" / "own.md").read_text(), "it stands in the table"
