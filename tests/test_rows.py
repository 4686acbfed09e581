"""Rows are tokenised to the disk once, from JSONL and from Parquet alike."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limo.data import read_jsonl, write_parquet
from limo.errors import UserError
from limo.model import load_tokenizer
from limo.recipe import read_settings
from limo.run import Step
from limo.training import rows as module
from limo.training.rows import Tokens, read_examples, tokenise
from limo.training.settings import Supervised
from tests.test_train import curve, rows, settings, train


def written(folder: Path, count: int = 12) -> str:
    write_parquet(folder / "rows.parquet", rows(count))
    return str(folder / "rows.parquet")


def tokens(tiny: Path, folder: Path, **changed: Any) -> Tokens:
    section = settings(tiny, folder, data=written(folder), **changed)
    settings_ = read_settings(Supervised, section, "train")
    step = Step(folder, "train", entry={"settings": settings_.recorded(), "inputs": {}})
    return tokenise(load_tokenizer(tiny), settings_, step)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    for before, after in zip(rows(12), read_examples(written(tmp_path)), strict=True):
        assert (before.id, before.prompt, before.completion, before.answer, before.weight) == (
            *(after.id, after.prompt, after.completion, after.answer, after.weight),
        )


def test_training_from_parquet_is_training_from_jsonl(tiny: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        data = {"data": written(tmp_path / name, 8)} if name == "b" else {}
        assert train(tiny, tmp_path / name, weighting="tokens", **data)["rows"] == 8
    assert curve(tmp_path / "a" / "run").tolist() == curve(tmp_path / "b" / "run").tolist()


def test_tokens_are_made_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tokens(tiny, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_generate", lambda *_: pytest.fail("tokenised twice"))
        again = tokens(tiny, tmp_path)
    assert again.lengths == found.lengths and again.dropped == 0
    assert len(found.dataset) == len(found.lengths) + 1 == 13 and set(found.dataset[12]["labels"]) == {-100}
    assert [len(found.dataset[i]["input_ids"]) for i in range(12)] == list(found.lengths)
    shorter = tokens(tiny, tmp_path, max_length=70)
    assert shorter.dropped and len(shorter.lengths) + shorter.dropped == 12
    assert len(list((tmp_path / "tokens").iterdir())) == 1, "those of other settings are removed"


SAID = [{"role": "assistant", "content": "4"}]
ASKED = [{"role": "user", "content": "2 + 2?"}]
NAMED = [{"from": "human", "value": "2 + 2?"}]
GOOD: dict[str, Any] = {"id": "a", "prompt": ASKED, "completion": SAID, "weight": 1.0}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt": "2 + 2?"}, "prompt is not a list of messages"),
        ({"prompt": NAMED}, "prompt is not a list of messages"),
        ({"prompt": None}, "'prompt'"),
        ({"prompt": []}, "prompt and completion are lists of messages"),
        ({"completion": "4"}, "prompt and completion are lists of messages"),
        ({"completion": [*SAID, *ASKED, *SAID]}, "the completion of one"),
        ({"id": 1}, "id is 1, not text"),
        ({"weight": "heavy"}, "weight is 'heavy', not a number"),
    ],
)
def test_columns_of_other_types_are_one_line(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{**GOOD, **changed}]), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=rf"x\.parquet, row 1: not a row of this toolkit .*{said}.*pool source$"):
        list(read_examples(tmp_path / "x.parquet"))


def test_what_cannot_be_trained_on_is_one_line(tiny: Path, tmp_path: Path) -> None:
    for changed, said in (
        ({"max_length": 65, "too_long": "stop"}, r"rows of .* cannot be trained on .*set train\.too_long=drop"),
        ({"max_length": 5}, "no row of .* can be trained on: 0: too long"),
        ({"system": "Another."}, "row 0: another system prompt"),
    ):
        with pytest.raises(UserError, match=said):
            tokens(tiny, tmp_path, **changed)
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        list(read_examples(tmp_path / "x.parquet"))
    assert next(read_jsonl(tmp_path / "rows.jsonl")).id == "0"
