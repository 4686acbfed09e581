"""Reading other people's files: what is understood, and that no bad row stops a run or goes without a reason."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.benchmarks import load_benchmarks
from limo.data import Dropped, Example, chat, read_jsonl
from limo.errors import UserError
from limo.marks import after_hashes, last_boxed
from limo.recipe import compose
from limo.sources import file, generate, running_total, training_rows
from limo.sources.new import make_recipe
from tests.conftest import ROOT


def read(path: Path, **settings: object) -> list[Example | Dropped]:
    return list(file("s", "", path=str(path), **settings))  # type: ignore[arg-type]


GOOD = b'{"problem": "1+1?", "answer": "2"}\n'

BAD_ROWS = [  # a line of a JSONL file, the reason it is set aside with
    (b'{"problem": "1+1?", "answer": \n', "invalid JSON"),
    (b"[1, 2]\n", "not an object"),
    (b'"just text"\n', "not an object"),
    (b'{"answer": "2"}\n', "missing field"),
    (b'{"problem": "1+1?"}\n', "no answer"),
    (b'{"problem": "", "answer": "2"}\n', "empty problem"),
    (b'{"problem": "   ", "answer": "2"}\n', "empty problem"),
    (b'{"problem": null, "answer": "2"}\n', "empty problem"),
    (b'{"problem": ["a"], "answer": "2"}\n', "problem is not text"),
    (b'{"problem": true, "answer": "2"}\n', "problem is not text"),
    (b'{"problem": NaN, "answer": "2"}\n', "problem is not text"),
    (b'{"problem": "1+1?", "answer": NaN}\n', "answer is not text"),
    (b'{"problem": "1+1?", "answer": Infinity}\n', "answer is not text"),
    (b'{"problem": "1+1?", "answer": {"a": 1}}\n', "answer is not text"),
    (b'{"problem": "\xff\xfe", "answer": "2"}\n', "not UTF-8"),
    (b'{"problem": "\\ud83d", "answer": "2"}\n', "not UTF-8"),
    (b'{"problem": "1+1?", "answer": ' + b"9" * 5000 + b"}\n", "invalid JSON"),
    (b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"\n", "invalid JSON"),
    (b'{"a":' + b"[" * 700 + b"]" * 700 + b"}\n", "invalid JSON"),
    (b'{"problem": "' + b"x" * 10_000_000 + b'", "answer": "2"}\n', "row too long"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS, ids=[f"{r} {i}" for i, (_, r) in enumerate(BAD_ROWS)])
def test_a_bad_row_is_dropped_and_the_rows_around_it_are_kept(line: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(GOOD + line + GOOD)
    first, bad, last = read(path)
    assert isinstance(first, Example) and isinstance(last, Example)
    assert isinstance(bad, Dropped)
    assert (bad.reason, bad.file, bad.row) == (reason, str(path), 2)
    assert len(json.dumps(bad.to_json())) < 5000, "a huge row must not be carried along whole"


def test_a_byte_order_mark_costs_no_row(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\xef\xbb\xbf" + GOOD + b"\n")
    assert [row.answer for row in read(path) if isinstance(row, Example)] == ["2", "2"]


@pytest.mark.parametrize(
    ("row", "answer", "chain"),
    [
        (
            {"question": "q", "answer": "He has 2+3=<<2+3=5>>5 apples.\n#### 5"},
            "5",
            "He has 2+3=<<2+3=5>>5 apples.\n#### 5",
        ),
        (
            {"problem": "q", "solution": r"so $x=\boxed{\frac{1}{2}}$ and done"},
            r"\frac{1}{2}",
            r"so $x=\boxed{\frac{1}{2}}$ and done",
        ),
        ({"prompt": "q", "response": "c", "ground_truth": "7"}, "7", "c"),
        ({"problem": "q", "solution": "c", "gt": 27.0}, "27", "c"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": r"so \boxed{7}"}]},
            "7",
            r"so \boxed{7}",
        ),
        ({"messages": [{"role": "user", "content": "q"}], "answer": "7"}, "7", ""),
        ({"problem": "q", "answer": 204}, "204", ""),
        ({"problem": "q", "answer": 0.5}, "0.5", ""),
        ({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "answer": "1"}, "1", ""),
    ],
)
def test_the_usual_columns_are_understood(row: dict[str, object], answer: str, chain: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text(json.dumps(row))
    (example,) = read(path)
    assert isinstance(example, Example)
    assert (example.question, example.answer, example.completion) == ("q", answer, chain)


def test_fields_rename_columns_and_other_columns_become_notes(tmp_path: Path) -> None:
    path = tmp_path / "pool.csv"
    path.write_text('frage,loesung,level\n"Was ist 1+1?",2,"easy, really"\n')
    (row,) = read(path, fields={"problem": "frage", "answer": "loesung"})
    assert isinstance(row, Example)
    assert (row.question, row.answer, row.notes["level"], row.notes["row"]) == ("Was ist 1+1?", "2", "easy, really", 1)


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "semicolons.csv", "folder", "wrongly-named.json"])
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    rows = [{"problem": f"{i}+{i}?", "answer": str(2 * i)} for i in range(3)]
    path = tmp_path / f"pool.{kind}"
    if kind in ("jsonl", "wrongly-named.json"):
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind.endswith("csv"):
        sign = ";" if kind == "semicolons.csv" else ","
        path.write_text(f"problem{sign}answer\n" + "".join(f"{r['problem']}{sign}{r['answer']}\n" for r in rows))
    else:
        from datasets import Dataset

        Dataset.from_list(rows).save_to_disk(str(path))
    found = read(path)
    assert [(r.question, r.answer) for r in found if isinstance(r, Example)] == [
        (r["problem"], r["answer"]) for r in rows
    ]
    assert [r.id for r in found] == ["s/1", "s/2", "s/3"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pool.jsonl", b"", "no usable row"),
        (
            "pool.jsonl",
            b'{"frage": "q", "antwort": "1"}\n',
            "Its columns are 'antwort', 'frage': say which is which, fields=",
        ),
        ("pool.jsonl", b'{"problem": "q"}\n', "A row needs an answer"),
        ("pool.jsonl", b'[\n{"problem": "q",\n "answer": "1"}\n]\n', "name it .json"),
        ("pool.csv", "problem,answer\nq,1\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("pool.json", b'[{"problem": "q", "answer": "1"}', "not JSON"),
        ("pool.json", b'[\n{"problem": "q", "answer": "1"},\n]x', "not JSON"),
        ("pool.parquet", b"PAR1" + b"\x00" * 40 + b"PAR1", "not a readable Parquet file"),
        ("pool.parquet", b"no parquet", "not a readable Parquet file"),
        ("pool.txt", b"x", "a file that ends with .jsonl"),
    ],
)
def test_an_unusable_file_is_one_clear_error(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match="pool") as raised:
        read(path)
    assert said in str(raised.value)


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_below_one_is_an_error(limit: int, tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text('{"problem": "q", "answer": "1"}\n')
    with pytest.raises(UserError, match=f"limit must be at least 1, not {limit}"):
        read(tmp_path / "pool.jsonl", limit=limit)


def test_a_file_without_read_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text('{"problem": "q", "answer": "1"}\n')

    def refuse(*_: object, **__: object) -> None:  # the tests may run as root, who may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"^pool source 'p': may not read '.*pool\.jsonl'\. Change its permissions$"):
        list(file("p", "", path=str(path)))


def test_a_bad_byte_in_a_json_array_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "pool.json"
    path.write_bytes(
        b'[{"problem": "1", "answer": "1"}, {"problem": "\xff", "answer": "2"}, {"problem": "3", "answer": "3"}]'
    )
    assert [getattr(r, "reason", "") for r in read(path)] == ["", "not UTF-8", ""]


def test_a_misspelt_column_in_fields_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text('{"problem": "q", "answer": "1", "solution": "s"}')
    with pytest.raises(UserError, match=r"missing field: 1.*'answer', 'problem', 'solution'"):
        read(path, fields={"chain": "soluton"})


def test_looped_text_is_read_in_time() -> None:
    start = time.monotonic()
    assert last_boxed("\\boxed{" * 100_000 + "1}") == "1"
    assert after_hashes("#" * 100_000 + "\nx") is None
    assert time.monotonic() - start < 2


def test_a_wrong_name_in_fields_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_bytes(GOOD)
    with pytest.raises(UserError, match="fields has 'question'"):
        read(path, fields={"question": "problem"})


def test_generated_problems_are_seeded_distinct_and_worked_out() -> None:
    def made(seed: int) -> list[Example]:
        rows = generate("g", "", generator="chain_sum", size=200, seed=seed, options={"max_terms": 3, "max_digits": 1})
        return [r for r in rows if isinstance(r, Example)]

    first = made(1)
    assert [r.question for r in first] == [r.question for r in made(1)] != [r.question for r in made(2)]
    assert len({r.question for r in first}) == len(first) < 200, "doubles must have come up and been set aside"
    assert all(last_boxed(r.completion) == r.answer for r in first)


def test_templates_choose_what_gsm_symbolic_draws_from() -> None:
    rows = list(generate("g", "", generator="gsm_symbolic", size=20, seed=1, templates=[6, 26]))
    assert {r.notes["template"] for r in rows if isinstance(r, Example)} == {6, 26}
    with pytest.raises(UserError, match=r"no template \[500\]"):
        list(generate("g", "", generator="gsm_symbolic", size=1, seed=1, templates=[500]))
    with pytest.raises(UserError, match="cannot make 'no_such'"):
        list(generate("g", "", generator="no_such", size=1, seed=1))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\fbox{3}", "3"),
        ("none", None),
        (r"\boxed{}", ""),
    ],
)
def test_last_boxed(text: str, found: str | None) -> None:
    assert last_boxed(text) == found


def test_after_hashes() -> None:
    assert after_hashes("chain\n#### 1,234\n") == "1,234"
    assert after_hashes("#### 1\nmore text") is None


def test_running_total_by_hand() -> None:
    assert running_total("-3 + -4 - 5") == "-3 + -4 = -7\n-7 - 5 = -12\nThe answer is \\boxed{-12}."


@pytest.mark.parametrize(
    ("name", "usable", "set_aside"),
    [
        ("gsm8k_train.jsonl", 7473, 0),
        ("math_train.json", 7470, 4),
        ("aime_1983_2023.json", 975, 0),
        ("math_chains_deepseek_chat.jsonl", 460, 0),
    ],
)
def test_real_pools_read_without_a_mapping(name: str, usable: int, set_aside: int, data: Path) -> None:
    rows = read(data / "pools" / name)
    assert sum(isinstance(r, Example) for r in rows) == usable
    assert [r.reason for r in rows if isinstance(r, Dropped)] == ["no answer"] * set_aside


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", 7), ("answer", None), ("completion", 3), ("weight", None), ("weight", "x"), ("source", [])],
)
def test_a_row_of_ours_has_the_types_of_its_fields(field: str, value: object, tmp_path: Path) -> None:
    row = {**Example("a", chat("q"), "1").to_json(), field: value}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=rf"x.jsonl, line 1: not a row of this toolkit \({field} is "):
        list(read_jsonl(tmp_path / "x.jsonl"))


# -- files that a few bytes make large, that have no end, or whose meaning only a person knows


def packed(path: Path, line: bytes, size: int) -> None:
    with pa.output_stream(str(path), compression={".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}[path.suffix]) as out:
        for _ in range(size // 2**20):
            out.write(line * (2**20 // len(line)))


def sheet(path: Path, xml: str, head: str = "") -> None:
    """A workbook whose sheet has further rows, and whose parts may begin with declarations."""
    book = openpyxl.Workbook()
    for row in (("problem", "answer"), ("1+1?", "2")):
        book.active.append(row)
    book.save(path.with_suffix(".plain.xlsx"))
    with ZipFile(path.with_suffix(".plain.xlsx")) as plain, ZipFile(path, "w", ZIP_DEFLATED) as changed:
        for name in plain.namelist():
            text = plain.read(name).decode()
            if name.endswith("sheet1.xml"):
                text = head + text[text.index("<worksheet") :].replace("</sheetData>", f"{xml}</sheetData>")
            changed.writestr(name, text)


ENTITIES = "<!DOCTYPE x [<!ENTITY e0 'lol'>" + "".join(
    f"<!ENTITY e{i} '{f'&e{i - 1};' * 10}'>" for i in range(1, 10)
) + "]>"  # fmt: skip
FAR = "".join(f'<row r="{row}"><c r="XFD{row}"><v>1</v></c></row>' for row in range(3, 3_000))


def wide(path: Path) -> None:
    """Each short row becomes a mapping of as many columns as the header has."""
    path.write_text(",".join(f"c{i}" for i in range(50_000)) + "\n" + "1\n" * 500_000)


def nulls(path: Path) -> None:
    values = pa.nulls(20_000_000, pa.string())
    pq.write_table(pa.table({"problem": values, "answer": values}), path)


def shared(path: Path) -> None:
    """One value in each of many rows, which stands in the file once."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 4_000, pa.int32()), pa.array(["x" * 20_000_000]))
    pq.write_table(pa.table({"problem": text, "answer": ["1"] * 4_000}), path)


BOMBS: dict[str, Callable[[Path], None]] = {
    **{f"newlines.jsonl.{end}": lambda path: packed(path, b"\n", 2**26) for end in ("gz", "bz2", "zst")},
    "newlines.csv.gz": lambda path: packed(path, b"\n", 2**26),
    "rows.csv.gz": lambda path: packed(path, b"a,b\n", 2**26),
    "brackets.jsonl.gz": lambda path: packed(path, b"[]\n ", 2**26),
    "numbers.json.gz": lambda path: packed(path, b"[[1],[1],", 2**27),
    "wide.csv": wide,
    "nulls.parquet": nulls,
    "shared.parquet": shared,
    "far.xlsx": lambda path: sheet(path, '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'),
    "far_rows.xlsx": lambda path: sheet(path, FAR),
    "entities.xlsx": lambda path: sheet(path, '<row r="3"><c t="inlineStr"><is><t>&e9;</t></is></c></row>', ENTITIES),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_few_bytes_make_large_is_one_line_or_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limo.sources.files.SECONDS", 2.0)
    monkeypatch.setattr("limo.sources.files.MEMORY", 2**30)
    BOMBS[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size < 4_000_000
    begun, here = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for count, _ in enumerate(file("s", "", path=str(tmp_path / name))):
            if count == 1_000:  # of many rows each is bounded, and the pool's stage may drop them all
                break
    except UserError as error:
        assert name in str(error) and "\n" not in str(error)
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - here < 500_000, "kB"


@pytest.mark.parametrize("name", "p.jsonl p.json p.csv p.tsv p.xlsx p.parquet p.jsonl.gz p.csv.zst".split())
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/dev/urandom"])
def test_what_has_no_end_is_not_opened(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(kind)
    for reading in (file("s", "", path=str(path)), training_rows(str(path), None)):
        with pytest.raises(UserError, match="is a device or a pipe"):
            list(reading)


def table(path: Path, names: list[str], *values: str) -> None:
    """A table whose columns may have one name."""
    rows = [[f"What is {n}?", *(value.format(n=n) for value in values)] for n in range(30)]
    names = ["problem", *names]
    match path.suffix:
        case ".csv" | ".tsv":
            sign = "," if path.suffix == ".csv" else "\t"
            path.write_text("".join(sign.join(row) + "\n" for row in [names, *rows]))
        case ".xlsx":
            book = openpyxl.Workbook()
            for row in [names, *rows]:
                book.active.append(row)
            book.save(path)
        case ".parquet":
            pq.write_table(pa.table([*map(list, zip(*rows, strict=True))], names=names), path)
        case _:
            written = ("{" + ", ".join(f'"{n}": "{v}"' for n, v in zip(names, row, strict=True)) + "}" for row in rows)
            path.write_text("[" + ",".join(written) + "]" if path.suffix == ".json" else "\n".join(written))


@pytest.mark.parametrize("kind", "jsonl json csv tsv xlsx parquet".split())
@pytest.mark.parametrize("names", [["answer", "answer"], ["Answer", "answer"], ["final_answer", "Final Answer"]])
def test_two_columns_of_one_name_are_never_one_of_them(kind: str, names: list[str], tmp_path: Path) -> None:
    table(tmp_path / f"p.{kind}", names, "{n}", "{n}1")
    with pytest.raises(UserError, match="two columns are called"):
        read(tmp_path / f"p.{kind}")


NAMES = """answer final_answer correct_answer expected_answer gold gold_answer golden_answer ground_truth answer_key
reference_answer target_answer true_answer""".split()
SPELLINGS: list[Callable[[str], str]] = [
    str,
    str.upper,
    lambda name: name.replace("_", " ").title(),
    lambda name: name.replace("_", "-"),
    lambda name: name.title().replace("_", ""),
    lambda name: f" {name}. ",
]


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("name", NAMES)
def test_a_column_that_is_called_an_answer_is_one(name: str, spell: Callable[[str], str], tmp_path: Path) -> None:
    """However it is spelled; beside another answer that differs, no row is used."""
    rows = [{"question": f"{n}?", "solution": rf"\boxed{{{n}}}", spell(name): f"{n}1"} for n in range(9)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(r.answer, "unchecked" in r.notes) for r in read(tmp_path / "p.jsonl")] == [
        (f"{n}1", False) for n in range(9)
    ]  # type: ignore[union-attr]
    if spell(name).lower().strip(" .") not in ("answer", "gold"):
        rows = [{**row, "gold": "7"} for row in rows]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError, match=r"two answers: 9; the first: .* say which, fields="):
            read(tmp_path / "p.jsonl")


@pytest.mark.parametrize("name", ["label", "Correct", "result", "expected", "Lösung (Zahl)", "x"])
@pytest.mark.parametrize("wrong", [1, 3])
def test_a_column_that_may_be_the_answer_is_asked_for(name: str, wrong: int, tmp_path: Path) -> None:
    """By its name, or since at least half of the chains end with what it says."""
    rows = [
        {"question": f"{n} of it?", "solution": rf"\boxed{{{n if n % 4 >= wrong else -1}}}", name: n, "tag": "t"}
        for n in range(40)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if wrong == 3 and name in ("Lösung (Zahl)", "x"):
        assert len(read(tmp_path / "p.jsonl")) == 40, "by nothing can it be known"
        return
    for reading in (read, lambda path: make_recipe(str(path), folder=tmp_path / "my")):
        with pytest.raises(UserError, match=rf"is the column '{re.escape(name)}' the answer\?"):
            reading(tmp_path / "p.jsonl")
    assert {r.answer for r in read(tmp_path / "p.jsonl", fields={"answer": name})} == {str(n) for n in range(40)}  # type: ignore[union-attr]
    kept = read(tmp_path / "p.jsonl", fields={"answer": []})
    assert all(isinstance(row, Example) and row.notes["unchecked"] for row in kept)


@pytest.mark.parametrize(
    "hidden", [".b.jsonl", "._a.jsonl", "~$a.csv", ".ipynb_checkpoints/a.jsonl", "__MACOSX/a.jsonl"]
)
def test_hidden_files_of_a_folder_are_counted_and_not_read(
    hidden: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jsonl", "deep/b.jsonl", hidden):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(GOOD)
    assert len(read(tmp_path)) == 2
    assert "1 hidden files are not read" in capsys.readouterr().err


def test_a_sheet_or_a_list_is_named_where_there_are_several(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "notes"
    for name, answer in (("draft", "1"), ("final", "2")):
        for row in (("problem", "answer"), ("q?", answer)):
            (book[name] if name in book.sheetnames else book.create_sheet(name)).append(row)
    book.save(tmp_path / "p.xlsx")
    with pytest.raises(UserError, match="has the sheets draft, final: say which, sheet: draft"):
        read(tmp_path / "p.xlsx")
    assert [row.answer for row in read(tmp_path / "p.xlsx", sheet="final")] == ["2"]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="has no sheet 'last'; there are notes, draft, final"):
        read(tmp_path / "p.xlsx", sheet="last")
    del book["draft"]
    book.save(tmp_path / "p.xlsx")
    assert [row.answer for row in read(tmp_path / "p.xlsx")] == ["2"], "an empty one does not count"  # type: ignore[union-attr]
    good = [{"problem": "q?", "answer": "1"}]
    (tmp_path / "p.json").write_text(json.dumps({"examples": good, "version": [1], "data": good}))
    with pytest.raises(UserError, match="holds the lists examples, data: save the one"):
        read(tmp_path / "p.json")


def test_a_problem_with_two_answers_is_measured_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": f"What is {n}?", "answer": n} for n in range(40)]
    twice = [{"problem": f" what is  {n}?", "answer": n + 100} for n in range(10)]
    (tmp_path / "p.json").write_text(json.dumps(rows + twice))
    make_recipe(str(tmp_path / "p.json"), folder=tmp_path / "my")
    measured = [
        json.loads(line) for path in (tmp_path / "my").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(measured) == 6 and all(int(row["answer"]) in range(10, 40) for row in measured)
    assert "10 problems have two answers, such as 'What is 0?': '0' and '100'" in capsys.readouterr().err
    (tmp_path / "b.json").write_text(json.dumps(rows + twice[:1]))
    with pytest.raises(UserError, match="rows 1 and 41 are one problem with two answers, '0' and '100'"):
        load_benchmarks([str(tmp_path / "b.json")], "")
    (tmp_path / "b.json").write_text(json.dumps(rows + rows[:1]))
    assert len(load_benchmarks([str(tmp_path / "b.json")], "")["b"]) == 41, "one that is there twice counts twice"


@pytest.mark.parametrize(
    "text", ["a\nhydra: {x: 1}\nb", "a\u2028k: 1", "${oc.env:HOME}", "a: [", "${k}", "x\x1b[31m", '"']
)
def test_what_a_stranger_calls_a_file_or_a_column_is_no_recipe(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{text: f"What is {n}?", "answer": n} for n in range(30)]
    (tmp_path / f"{text}.json").write_text(json.dumps(rows))
    make_recipe(f"{text}.json", name="mine", folder=Path("my"), fields={"problem": text})
    recipe = compose("recipe=mine", f"hydra.searchpath=[file://{tmp_path / 'my'}]")
    source = recipe["curate"]["pool"]["mine"]
    assert (source["path"], source["fields"]["problem"]) == (f"{text}.json", text)
    assert set(recipe) == set(compose("recipe=base", "++measured.held_out={}"))


def test_a_row_says_nothing_of_the_folders_of_who_has_made_it(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(GOOD)
    (row,) = read(tmp_path / "p.jsonl")
    assert (
        isinstance(row, Example) and row.notes["file"] == "p.jsonl" and str(tmp_path) not in json.dumps(row.to_json())
    )


def test_problems_are_generated_without_the_solver_of_logic_puzzles() -> None:
    """Its package has no wheel, so `make install` leaves it out."""
    code = """if True:
        import sys
        from importlib import util
        from limo import sources
        sources.find_spec = lambda name: None if name == "pycosat" else util.find_spec(name)
        for _ in range(2):
            print(len(list(sources.generate("g", "", generator="chain_sum", size=3, seed=1))))
        print(sys.modules["pycosat"].__file__ if hasattr(sys.modules["pycosat"], "__file__") else "none")
    """
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.split() == ["3", "3", "none"], found.stderr
