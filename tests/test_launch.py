"""How many ranks there are and who starts them; DeepSpeed's files; whole checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest

from limo.command import _explain
from limo.errors import UserError
from limo.recipe import read_settings
from limo.run import lock_run
from limo.training import launch
from limo.training.batches import Shape, padded_shape
from limo.training.checkpoints import MARK, check_resumable, has_checkpoint, last_checkpoint, mark_whole
from limo.training.launch import offloads, read_deepspeed, shard_arguments
from limo.training.settings import Supervised
from tests.conftest import ROOT
from tests.test_train import ARGS, settings


def test_the_accumulation_follows_from_the_number_of_devices(tiny: Path, tmp_path: Path) -> None:
    def shape(batch: int, rows: int, ranks: int) -> Shape:
        section = settings(tiny, tmp_path, global_batch=batch, args={**ARGS, "per_device_train_batch_size": rows})
        return padded_shape(read_settings(Supervised, section, "train"), ranks)

    assert shape(64, 1, 8) == Shape(8, 1) and shape(64, 4, 16) == Shape(1, 4)
    with pytest.raises(UserError, match="over 3 devices with 2 rows each at a time; 1, 2, 4, 8, 16, 32 devices do"):
        shape(64, 2, 3)
    with pytest.raises(UserError, match="no number of devices does with 3 rows"):
        shape(4, 3, 1)


def test_ranks_are_started_where_there_are_several_devices_and_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.start_ranks("all", False, "limo.train", []) is None
    monkeypatch.setenv("RANK", "0")
    assert launch.start_ranks(2, True, "limo.train", []) is None, "a launcher has started this rank"


def test_a_broken_connection_is_another_rank_only_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = RuntimeError("write: Broken pipe")
    assert _explain(broken, True) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "another rank is gone" in str(_explain(broken, True))
    assert _explain(RuntimeError("shape mismatch"), True) is None


def test_deepspeed_files(tmp_path: Path) -> None:
    """The shipped ones leave to the trainer what it decides; one that would save no model is refused."""
    files = {path.stem: path for path in (ROOT / "recipes" / "deepspeed").glob("*.json")}
    assert set(files) == {"zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"}
    for name in files:
        config = read_deepspeed(name)
        assert config["zero_optimization"]["stage"] == int(name[4])
        assert {config[k] for k in ("train_batch_size", "gradient_accumulation_steps", "gradient_clipping")} == {"auto"}
        assert offloads(name) == name.endswith("_offload")
    assert not offloads("ddp") and not offloads("fsdp2")
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}))
    assert offloads(str(mine))
    for text, said in (('{"zero_optimization": {"stage": 3}}', "weights_on_model_save to true"), ("{", "not JSON")):
        mine.write_text(text)
        with pytest.raises(UserError, match=said):
            shard_arguments(str(mine))


def checkpoint(folder: Path, step: int, **made_with: Any) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "global_step" / "optimizer.pt").write_bytes(b"states")
    mark_whole(path, **{"ranks": 2, "kind": "zero2", **made_with})
    return path


def test_only_whole_checkpoints_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [checkpoint(tmp_path, step) for step in (2, 4, 10)]
    assert last_checkpoint(tmp_path) == paths[2]
    (paths[2] / "global_step" / "optimizer.pt").write_bytes(b"STATES")  # of the same size
    (tmp_path / "checkpoint-12").mkdir()  # killed while it was written
    assert last_checkpoint(tmp_path) == paths[1]
    said = capsys.readouterr().err
    assert "checkpoint-12 was not written to the end" in said and "optimizer.pt has other content" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken-checkpoint-10", "checkpoint-2", "checkpoint-4"]
    (paths[1] / MARK).unlink()
    assert last_checkpoint(tmp_path) == paths[0] and has_checkpoint(tmp_path)
    (paths[0] / MARK).unlink()
    (paths[0] / MARK).symlink_to(paths[0] / MARK)  # a loop: what cannot be read now may be whole
    with pytest.raises(UserError, match=r"cannot read .*checkpoint-2"):
        last_checkpoint(tmp_path)
    assert (paths[0] / "model.safetensors").exists()


def test_a_checkpoint_that_cannot_be_resumed_here_is_refused(tmp_path: Path) -> None:
    check_resumable(checkpoint(tmp_path, 1), 2, "zero2")
    for ranks, kind in ((4, "zero2"), (1, "ddp"), (2, "zero3")):
        with pytest.raises(UserError, match=r"under zero2 by 2 ranks .*set train\.sharding=zero2 train\.devices=2"):
            check_resumable(tmp_path / "checkpoint-1", ranks, kind)
    check_resumable(checkpoint(tmp_path, 2, kind="ddp"), 4, "ddp")


def test_one_training_at_a_time(tmp_path: Path) -> None:
    folder, refused = tmp_path / "checkpoints", pytest.raises(UserError, match="another process is training in")
    with lock_run(folder, "training"), refused, lock_run(folder, "training"):
        pass
    with lock_run(folder, "training"):
        assert folder.is_dir()
