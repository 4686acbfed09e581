"""A training set in Parquet is tokenised to the disk once, and teaches just what the same rows in JSONL teach."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limo.data import write_jsonl, write_parquet
from limo.errors import UserError
from limo.model import load_tokenizer
from limo.tokenised import opened, read_parquet, tokenise
from limo.train import sft
from limo.workload import Training, rows_of
from tests.test_train import curve, rows, settings


def written(folder: Path, count: int = 12) -> Path:
    write_parquet(folder / "rows.parquet", rows(count))
    return folder / "rows.parquet"


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    for before, after in zip(rows(12), read_parquet(written(tmp_path)), strict=True):
        assert (before.id, before.prompt, before.completion, before.answer, before.weight) == (
            *(after.id, after.prompt, after.completion, after.answer, after.weight),
        )


def test_training_from_parquet_is_training_from_jsonl(tiny: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", rows(12))
    for name, data in (("a", tmp_path / "rows.jsonl"), ("b", written(tmp_path))):
        (tmp_path / name).mkdir()
        sft(**{**settings(tiny, tmp_path), "out": str(tmp_path / name), "data": str(data), "weighting": "tokens"})
    one, other = curve(tmp_path / "a"), curve(tmp_path / "b")
    assert len(one) and one.tolist() == other.tolist()
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["train"]["results"]["rows"] == 12


def test_tokens_are_made_once(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {**settings(tiny, tmp_path), "data": str(written(tmp_path))}
    tokenizer = load_tokenizer(tiny)
    for _ in range(2):
        tokenise(tokenizer, given, tmp_path / "tokens", tmp_path / "dropped.jsonl")
    assert "already tokenised" in capsys.readouterr().err
    found = opened(tmp_path / "tokens")
    dataset = found.dataset()
    assert len(dataset) == len(found.rows) + 1 == 13 and set(dataset[12]["labels"]) == {-100}, (
        "the last teaches nothing"
    )
    assert [len(dataset[i]["input_ids"]) for i in found.rows] == list(found.lengths)
    assert found.learned == sum(label != -100 for row in dataset for label in row["labels"])
    tokenise(tokenizer, {**given, "max_length": 90}, tmp_path / "tokens", tmp_path / "dropped.jsonl")
    assert len(opened(tmp_path / "tokens").rows) + len((tmp_path / "dropped.jsonl").read_text().splitlines()) == 12


SAID = [{"role": "assistant", "content": "4"}]
ASKED = [{"role": "user", "content": "2 + 2?"}]
NAMED = [{"from": "human", "value": "2 + 2?"}]
GOOD: dict[str, Any] = {"id": "a", "prompt": ASKED, "completion": SAID, "weight": 1.0}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"prompt": "2 + 2?"}, "prompt is no list of messages"),
        ({"prompt": NAMED}, "prompt is no list of messages"),
        ({"prompt": None}, "prompt is no list of messages"),
        ({"completion": "4"}, "completion is not one message of the assistant"),
        ({"completion": [*SAID, *ASKED, *SAID]}, "completion is not one message of the assistant"),
        ({"id": 1, "weight": "heavy"}, "id is int, not text; weight is str, not a number"),
    ],
)
def test_columns_of_other_types_are_one_line(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{**GOOD, **changed}]), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=rf"x\.parquet, row 1: {told}.*pool source$"):
        list(read_parquet(tmp_path / "x.parquet"))


def test_a_plan_reads_what_training_reads(tiny: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", rows(12))
    given = {**settings(tiny, tmp_path), "global_batch": 1}
    read = [
        rows_of(Training.read({**given, "data": str(d)}), None, None)
        for d in (tmp_path / "rows.jsonl", written(tmp_path))
    ]
    assert read[0].count == 12 and read[0] == read[1]


def test_what_cannot_be_trained_on_is_told(tiny: Path, tmp_path: Path) -> None:
    given = {**settings(tiny, tmp_path), "data": str(written(tmp_path))}
    tokenizer = load_tokenizer(tiny)
    with pytest.raises(UserError, match=r"set train\.too_long=drop"):
        tokenise(tokenizer, {**given, "max_length": 5, "too_long": "stop"}, tmp_path / "t", tmp_path / "d.jsonl")
    with pytest.raises(UserError, match="no row of"):
        tokenise(tokenizer, {**given, "max_length": 5}, tmp_path / "t", tmp_path / "d.jsonl")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        list(read_parquet(tmp_path / "x.parquet"))
    with pytest.raises(UserError, match=r"row .*: "):
        tokenise(tokenizer, {**given, "system": "Another."}, tmp_path / "t", tmp_path / "d.jsonl")
