"""Reading other people's files: what is understood, and that no bad row stops a run or goes without a reason."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limo.data import Dropped, Example, chat, read_jsonl
from limo.errors import UserError
from limo.marks import after_hashes, last_boxed
from limo.sources import file, generate, running_total


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
        ("pool.txt", b"x", "is none of .jsonl"),
    ],
)
def test_an_unusable_file_is_one_clear_error(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match="pool") as raised:
        read(path)
    assert said in str(raised.value)


@pytest.mark.parametrize("packing", ["gz", "bz2", "zst"])
@pytest.mark.parametrize(
    ("name", "encoding", "said"),
    [
        ("pool.json", "utf-8", "not read"),
        ("pool.jsonl", "latin-1", "not read"),
        ("pool.csv", "utf-8", "a line of more than 200,000 characters"),
        ("pool.jsonl", "utf-8", "no usable row"),
    ],
)
def test_a_small_file_that_grows_large_is_not_held(
    packing: str, name: str, encoding: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limo.sources.files.GROWN", 200_000)
    path = tmp_path / f"{name}.{packing}"
    with pa.output_stream(str(path), compression={"gz": "gzip", "zst": "zstd"}.get(packing, packing)) as file:
        file.write(b'["problem,answer' + b" " * 3_000_000)
    with pytest.raises(UserError, match="pool") as raised:
        read(path, encoding=encoding)
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
