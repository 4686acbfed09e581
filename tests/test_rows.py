"""Rows are tokenised to the disk once."""

from pathlib import Path
from typing import Any

import pytest

from limo.data import read_jsonl, write_jsonl
from limo.errors import UserError
from limo.model import load_tokenizer
from limo.recipe import read_settings
from limo.run import Step
from limo.training import rows as module
from limo.training.rows import Tokens, tokenise
from limo.training.settings import Supervised
from tests.test_train import rows, settings


def written(folder: Path, count: int = 12) -> str:
    write_jsonl(folder / "rows.jsonl", rows(count))
    return str(folder / "rows.jsonl")


def tokens(tiny: Path, folder: Path, **changed: Any) -> Tokens:
    section = settings(tiny, folder, data=written(folder), **changed)
    settings_ = read_settings(Supervised, section, "train")
    step = Step(folder, "train", entry={"settings": settings_.recorded(), "inputs": {}})
    return tokenise(load_tokenizer(tiny), settings_, step)


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


def test_what_cannot_be_trained_on_is_one_line(tiny: Path, tmp_path: Path) -> None:
    for changed, said in (
        ({"max_length": 65, "too_long": "stop"}, r"rows of .* cannot be trained on .*set train\.too_long=drop"),
        ({"max_length": 5}, "no row of .* can be trained on: 0: too long"),
        ({"system": "Another."}, "row 0: another system prompt"),
    ):
        with pytest.raises(UserError, match=said):
            tokens(tiny, tmp_path, **changed)
    assert next(read_jsonl(tmp_path / "rows.jsonl")).id == "0"
