"""How many ranks there are and who starts them; what a recipe's batch needs of them; whole checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest

from limo import launch
from limo.arguments import OURS, RENAMED, accumulation, check_args, machine
from limo.checkpoints import MARK, check_resumable, last_checkpoint, locked, mark_whole, remove, remove_broken
from limo.errors import UserError
from limo.sharding import offloads, read_deepspeed, sharded, sharding_files

SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-06,9]-ib,login1",
    "SLURM_JOB_ID": "120345",
}


def test_the_accumulation_follows_from_thecount_devices() -> None:
    assert accumulation(64, 1, 8) == 8
    assert accumulation(64, 4, 16) == 1
    with pytest.raises(UserError) as refused:
        accumulation(64, 2, 3)
    assert "cannot be shared by 3 devices with 2 chains each" in str(refused.value)
    assert "1, 2, 4, 8, 16, 32 devices do" in str(refused.value)
    with pytest.raises(UserError, match="no number of devices does with 3 chains"):
        accumulation(4, 3, 1)


def test_old_and_unknown_arguments_are_named() -> None:
    check_args({"learning_rate": 1e-3, "report_to": "none"})
    for key, said in (
        ("warmup_ratio", "today it is warmup_steps"),
        ("max_seq_length", "today it is max_length"),
        ("evaluation_strategy", "today it is eval_strategy"),
        ("seed", "give it as train.seed"),
        ("gradient_accumulation_steps", "follows from train.global_batch"),
        ("learnin_rate", "did you mean 'learning_rate'"),
    ):
        with pytest.raises(UserError, match=said):
            check_args({key: 1})


def test_the_lists_of_old_and_of_our_arguments_are_true() -> None:
    from dataclasses import fields

    from trl import SFTConfig

    known = {f.name for f in fields(SFTConfig)}
    assert set(OURS) <= known, "these are TRL's and stated elsewhere in a recipe"
    assert not set(RENAMED) & known, "these TRL knows no more"


def test_what_this_machine_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no GPU here"):
        machine({"activation_offloading": True})
    with pytest.raises(UserError, match="needs GPUs"):
        sharded("fsdp2")
    with pytest.raises(UserError, match="is no file and none of ddp, zero1"):
        sharded("zero4")


def test_devices_are_those_that_are_there() -> None:
    assert launch.count_devices("all") == 1  # no GPU here
    assert launch.count_devices(2) == 2  # CPU ranks, when asked for
    with pytest.raises(UserError, match="a number from 1, or all"):
        launch.count_devices(0)
    assert launch.several("all", False, "limo.train", []) is None


def test_several_machines_need_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNODES", "2")
    with pytest.raises(UserError, match="set NODE_RANK as well, the number of this machine from 0 to 1"):
        launch.several("all", False, "limo.train", [])


def test_what_offloads_is_read_from_the_file(tmp_path: Path) -> None:
    assert [name for name in [*sharding_files(), "ddp", "fsdp2"] if offloads(name)] == [
        "zero2_offload",
        "zero3_offload",
    ]
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}))
    assert offloads(str(mine))


def test_slurm_names_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(key, "")  # so that it is put back afterwards
        monkeypatch.delenv(key)
    for key, value in SLURM.items():
        monkeypatch.setenv(key, value)
    launch._join_slurm()
    assert (launch.rank(), launch.ranks()) == (5, 8)
    import os

    assert (os.environ["LOCAL_RANK"], os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (
        "1",
        "gpu03-ib",
        "29845",
    )
    assert not launch.first()
    for listed, host in (("node7", "node7"), ("rack[1-2]node[03,4],x", "rack1node03"), ("a-[2]", "a-2")):
        monkeypatch.setenv("SLURM_STEP_NODELIST", listed)
        assert launch._slurm_host() == host


def test_a_shell_in_an_allocation_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for key, value in {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}.items():
        monkeypatch.setenv(key, value)
    assert launch.several("all", False, "limo.train", []) is None and launch.ranks() == 1


def test_every_shipped_deepspeed_file_saves_a_model_and_is_filled_in() -> None:
    files = sharding_files()
    assert set(files) == {"zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"}
    for name, path in files.items():
        config = read_deepspeed(path)
        assert config["zero_optimization"]["stage"] == int(name[4])
        assert (
            config["train_batch_size"] == config["gradient_accumulation_steps"] == config["gradient_clipping"] == "auto"
        )
        assert ("offload_optimizer" in config["zero_optimization"]) == name.endswith("_offload")


def test_a_zero3_file_that_would_save_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"zero_optimization": {"stage": 3}}')
    with pytest.raises(UserError, match="stage3_gather_16bit_weights_on_model_save to true"):
        sharded(str(tmp_path / "mine.json"))
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        sharded(str(tmp_path / "mine.json"))


def checkpoint(folder: Path, step: int, **made_with: Any) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "global_step" / "optimizer.pt").write_bytes(b"states")
    mark_whole(path, **{"ranks": 2, "kind": "zero2", "weights_only": False, **made_with})
    return path


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, step) for step in (2, 4, 10)]
    assert last_checkpoint(tmp_path) == paths[2]
    (paths[2] / "global_step" / "optimizer.pt").write_bytes(b"stat")  # cut off
    assert last_checkpoint(tmp_path) == paths[1]
    (paths[1] / "model.safetensors").unlink()
    assert last_checkpoint(tmp_path) == paths[0]
    (tmp_path / "checkpoint-12").mkdir()
    assert sorted(p.name for p in remove_broken(tmp_path)) == ["checkpoint-10", "checkpoint-12", "checkpoint-4"]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]
    remove(paths[0])
    assert last_checkpoint(tmp_path) is None


def test_a_checkpoint_that_cannot_be_gone_on_from_is_refused(tmp_path: Path) -> None:
    check_resumable(checkpoint(tmp_path, 1), 2, "zero2")
    with pytest.raises(UserError, match=r"written by 2 ranks under zero2.*go on with train\.devices=2"):
        check_resumable(tmp_path / "checkpoint-1", 4, "zero2")
    with pytest.raises(UserError, match=r"written by 2 ranks under zero2.*go on with train\.devices=2"):
        check_resumable(tmp_path / "checkpoint-1", 1, "ddp")  # on one device no ZeRO runs, but that is not what to mend
    with pytest.raises(
        UserError, match=r"under zero2 by 2 ranks; it cannot be continued under zero3: go on with train"
    ):
        check_resumable(tmp_path / "checkpoint-1", 2, "zero3")
    check_resumable(checkpoint(tmp_path, 2, kind="ddp"), 4, "ddp")
    with pytest.raises(UserError, match="the learning rate would start anew"):
        check_resumable(checkpoint(tmp_path, 3, weights_only=True), 2, "zero2")


def test_what_cannot_be_read_is_not_taken_for_broken(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 2)
    (path / MARK).unlink()
    (path / MARK).symlink_to(path / MARK)  # a loop
    with pytest.raises(UserError, match=r"cannot read .*checkpoint-2"):
        remove_broken(tmp_path)
    assert (path / "model.safetensors").exists()


def test_one_training_at_a_time(tmp_path: Path) -> None:
    folder, refused = tmp_path / "checkpoints", pytest.raises(UserError, match="another process is training in")
    with locked(folder), refused, locked(folder):
        pass
    with locked(folder):
        assert folder.is_dir()
