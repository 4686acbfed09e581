"""On Ray, on this machine: stages and workers give what one process gives, and a killed process changes nothing.

Ray (79 MB to download, 240 MB on the disk) comes with the extra `dev`; without it these tests are skipped.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from curation.distributed import RayData
from limo.errors import UserError
from tests.conftest import ROOT
from tests.test_kill import RESULTS, write_recipe

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'limo-toolkit[dev]'")
ENGINE = "{_target_: tests.slow_engine.Timed, seconds: 0.005}"
SLOW = "{_target_: tests.slow_stage.slow, seconds: 0.04}"
ON = "{_target_: curation.distributed.RayData, parts: 4, address: auto, per_row: [tests.slow_stage.slow]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe, and a Ray of two processes in whose environment it can run."""
    folder = tmp_path_factory.mktemp("ray")
    write_recipe(folder, ENGINE, 1)
    recipe = folder / "recipe" / "killed.yaml"
    recipe.write_text(recipe.read_text().replace("{_target_: curation.pool.distinct}", SLOW))
    os.environ |= {"PYTHONPATH": str(ROOT), "SLOW_LOG": str(folder / "log.txt"), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    ray.init(num_cpus=2, log_to_driver=False, logging_level="error", include_dashboard=False)
    yield folder
    ray.shutdown()
    del os.environ["SLOW_LOG"]


Command = Callable[..., "subprocess.CompletedProcess[str]"]


def curate(run: Command, folder: Path, runs: str, *more: str, module: str = "curation.run") -> str:
    given = ("--config-dir", str(folder), "recipe=killed", f"runs={folder / runs}", *more)
    done = run(module, *given, LIMO_CACHE=str(folder / "cache"), RAY_ADDRESS="auto")
    assert done.returncode == 0, done.stderr
    return done.stderr


def log(folder: Path) -> list[str]:
    path = folder / "log.txt"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
def test_a_process_is_killed_and_the_run_ends_as_one_process_s(folder: Path, run: Command) -> None:
    def kill() -> None:
        while len(log(folder)) < 5:
            time.sleep(0.01)
        killed.append(int(log(folder)[-1].split()[0]))
        os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    curate(run, folder, "spread", f"+curate.on={ON}")
    killer.join(timeout=1)
    rows = [line.split()[1] for line in log(folder) if line.startswith(tuple(f"{n} p/" for n in pids(folder)))]
    assert killed and set(rows) == {f"p/{i}" for i in range(1, 41)} and len(rows) > 40, "a part was done again"
    assert len(pids(folder)) >= 2 and os.getpid() not in pids(folder)
    curate(run, folder, "alone")
    for name in RESULTS:
        spread, alone = (folder / runs / "killed" / name for runs in ("spread", "alone"))
        assert spread.read_bytes() == alone.read_bytes(), name
    assert not list((folder / "spread" / "killed" / "parts").iterdir())


def pids(folder: Path) -> set[int]:
    return {int(line.split()[0]) for line in log(folder) if " p/" in line}


@pytest.mark.slow
def test_workers_on_ray_sample_what_one_process_samples(folder: Path, run: Command, tmp_path: Path) -> None:
    (folder / "log.txt").unlink(missing_ok=True)
    more = ("ray=2", "gpus=0", "block=4", "expiry=5")
    curate(run, folder, "workers", *more, module="curation.attempt")
    drawn = [line.split(" ", 3) for line in log(folder) if " What" in line]
    assert len({who for who, *_ in drawn}) >= 2 and len({name for *_, name in drawn}) == len(drawn) > 200
    assert "samples of workers added" in curate(run, folder, "workers")
    assert len([line for line in log(folder) if " What" in line]) == len(drawn), "the run pays for nothing more"


def wrong(number: int) -> None:
    if number:
        raise UserError(f"there is no number {number}")


@pytest.mark.slow
def test_a_mistake_in_a_stage_is_told_as_it_is(folder: Path) -> None:
    with pytest.raises(UserError) as told:
        RayData(parts=2, address=None).run(wrong, 2)
    assert str(told.value) == "there is no number 1"
    with pytest.raises(UserError, match="at least 1"):
        RayData(parts=0, address=None)


@pytest.mark.slow
def test_web_pages_are_read_as_by_one_process(folder: Path, tmp_path: Path) -> None:
    from curation import exam_site
    from curation.markup import RULES
    from curation.run import run_stages
    from tests.test_web import LIMITS

    for number in range(3):
        exam_site.write(tmp_path / "web" / f"{number}.warc.gz", 6, number)
    settings = {
        "system": "S",
        "pool": {"web": {"_target_": "curation.pages.archives", "paths": [str(tmp_path / "web")]}},
        "stages": {
            "pages": {"_target_": "curation.pages.read", **LIMITS},
            "pairs": {"_target_": "curation.harvest.stated", "rules": list(RULES), "least": 3, "most": 200},
        },
    }
    on = {"_target_": "curation.distributed.RayData", "parts": 2, "address": None}
    for name, machines in (("a", None), ("b", on)):
        run_stages(tmp_path / name, settings, {}, machines)
    for file in ("02-pairs.jsonl", "02-pairs.dropped.jsonl"):
        assert (tmp_path / "a/stages" / file).read_text() == (tmp_path / "b/stages" / file).read_text()
