"""Several worker processes sample one recipe: what comes out is one process's, whoever is killed, stopped or late."""

import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limo.ledgers import holdings
from tests.slow_engine import start
from tests.test_kill import RESULTS, finish, write_recipe

Process = "subprocess.Popen[str]"
ENGINE = "{{_target_: tests.slow_engine.Timed, seconds: {}}}"


class Job:
    """A recipe of 40 problems in a folder; commands on it, in processes of their own."""

    def __init__(self, folder: Path, seconds: float, like: "Job | None" = None) -> None:
        self.folder = folder
        write_recipe(folder, ENGINE.format(seconds), 1)
        if like:  # rows name the file that they come from
            recipe = folder / "recipe" / "killed.yaml"
            recipe.write_text(recipe.read_text().replace(str(folder), str(like.folder)))

    def start(self, module: str, *arguments: str, runs: str = "shared", cache: str = "cache") -> "Process":
        command = [module, "--config-dir", str(self.folder), "recipe=killed", f"runs={self.folder / runs}", *arguments]
        return start(command, self.folder / cache, self.folder / f"{runs}.txt")

    def worker(self, *arguments: str) -> "Process":
        return self.start("curation.attempt", "block=4", "expiry=2", *arguments)

    def drawn(self, runs: str = "shared") -> list[tuple[int, float, float, str]]:
        """Who drew what, from when to when."""
        path = self.folder / f"{runs}.txt"
        parts = (line.split(" ", 3) for line in path.read_text().splitlines()) if path.exists() else ()
        return [(int(who), float(begun), float(ended), name) for who, begun, ended, name in parts]

    def drawn_by(self, process: "Process") -> int:
        return sum(who == process.pid for who, *_ in self.drawn())

    def until(self, true: Callable[[], bool], *alive: "Process") -> None:
        for _ in range(6000):
            if true():
                return
            assert all(process.poll() is None for process in alive), "a worker ended before it should"
            time.sleep(0.01)
        raise AssertionError("it did not come to pass in a minute")

    def same_as(self, single: "Job", lost: int = 0) -> None:
        """After the workers, the run draws nothing; its results and its samples are those of a single process."""
        before = len(self.drawn())
        finish(self.start("curation.run", cache="cache_of_the_run"))
        assert len(self.drawn()) == before, "the workers have drawn all of it"
        whole, paid = {name for *_, name in single.drawn()}, [name for *_, name in self.drawn()]
        assert set(paid) <= whole and len(whole) - len(set(paid)) <= lost, "a kill may come before the line is written"
        assert len(paid) - len(set(paid)) <= lost
        for name in RESULTS:
            ours, theirs = (job.folder / "shared" / "killed" / name for job in (self, single))
            assert ours.read_bytes() == theirs.read_bytes(), name
        assert self.kept() == single.kept()

    def kept(self) -> int:
        """Samples in the ledger of the run."""
        return sum(held.samples for held in holdings(self.folder / "cache_of_the_run" / "samples"))

    def overlaps(self) -> list[str]:
        """Problems that two workers sampled at one time."""
        spans: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
        for who, begun, ended, name in self.drawn():
            spans[name.partition("/")[0]].append((begun, ended, who))
        return [
            problem
            for problem, found in spans.items()
            for one, other in zip(sorted(found), sorted(found)[1:], strict=False)
            if other[0] < one[1] and one[2] != other[2]
        ]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The same run by one process."""
    job = Job(tmp_path_factory.mktemp("single"), 0.0)
    finish(job.start("curation.run", cache="cache_of_the_run"))
    return job


@pytest.fixture
def ended() -> Iterator[list["Process"]]:
    """Processes put here are gone after the test."""
    started: list[Process] = []
    yield started
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_one_of_three_workers_is_killed_and_nothing_changes(
    tmp_path: Path, ended: list["Process"], single: Job
) -> None:
    job = Job(tmp_path, 0.02, single)
    ended += [job.worker() for _ in range(3)]
    victim = ended[0]
    job.until(lambda: job.drawn_by(victim) >= 5, *ended)
    os.killpg(victim.pid, signal.SIGKILL)
    for process in ended[1:]:
        finish(process)
    assert len({who for who, *_ in job.drawn()}) == 3 and not job.overlaps()
    job.same_as(single, lost=1)


@pytest.mark.slow
def test_parts_of_a_whole_stage_by_stage(tmp_path: Path, ended: list["Process"], single: Job) -> None:
    """As in a Slurm array: each part does its blocks and no others, and the next stage waits for all of them."""
    job = Job(tmp_path, 0.0, single)
    finish(job.worker("shard=0/2", "stage=hard"))
    early = job.worker("shard=0/2", "stage=solve")
    assert "'hard' comes before 'solve' and is not sampled yet" in early.communicate()[1] and early.returncode == 2
    half = {name.partition("/")[0] for *_, name in job.drawn()}
    ended += [job.worker("shard=1/2", "stage=hard") for _ in range(2)]  # twice the same part: they share it
    for process in ended:
        finish(process)
    assert half and not half & {n.partition("/")[0] for who, _, _, n in job.drawn() if who in {p.pid for p in ended}}
    finish(job.worker("stage=solve"))
    job.same_as(single)


@pytest.mark.slow
def test_a_worker_that_was_only_stopped_leaves_what_it_has_lost(tmp_path: Path, ended: list["Process"]) -> None:
    job = Job(tmp_path, 0.02)
    ended.append(slow := job.worker("stage=hard"))
    job.until(lambda: job.drawn_by(slow) >= 5, slow)
    os.killpg(slow.pid, signal.SIGSTOP)
    finish(job.worker())
    before = job.drawn_by(slow)
    os.killpg(slow.pid, signal.SIGCONT)
    finish(slow)
    assert job.drawn_by(slow) - before <= 4, "what was in flight, and no more"
    drawn = [name for *_, name in job.drawn()]
    assert len(drawn) - len(set(drawn)) <= 4
    finish(job.start("curation.run", cache="cache_of_the_run"))
    assert len(job.drawn()) == len(drawn)


@pytest.mark.slow
def test_samples_that_the_machine_had_are_not_drawn_again(tmp_path: Path, ended: list["Process"], single: Job) -> None:
    """A run by one process is stopped; workers go on from its ledger, wherever they run."""
    job = Job(tmp_path, 0.02, single)
    ended.append(alone := job.start("curation.run"))
    job.until(lambda: len(job.drawn()) >= 60, alone)
    os.killpg(alone.pid, signal.SIGKILL)
    alone.communicate()
    finish(job.worker())
    job.same_as(single, lost=1)


def refused(job: Job, *arguments: str) -> str:
    process = job.worker(*arguments)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in said, said
    return said.splitlines()[-1]


@pytest.mark.slow
def test_what_a_person_gets_wrong_is_one_line(tmp_path: Path) -> None:
    job = Job(tmp_path, 0.0)
    assert "shard must be any, or a part from 0 and how many there are, such as 3/64" in refused(job, "shard=64/64")
    assert "'hrad' is none that workers share; did you mean 'hard'?" in refused(job, "stage=hrad")
    assert "wait must be true or false, not 'perhaps'" in refused(job, "wait=perhaps")
    assert "expiry must be a positive number" in refused(job, "expiry=0")
    assert "give shard=i/n to each worker" in refused(job, "curate.budget.samples=5")
    said = refused(job, "curate.budget.samples=10", "shard=0/2", "stage=hard")
    assert "the run's budget of 5 samples is used up" in said
    assert refused(job, "curate.budget.samples=10", "shard=0/2", "stage=hard") == said and len(job.drawn()) == 5
    other = refused(job, "curate.system=Otherwise.", "stage=hard")
    assert "was made with other settings, or from other files. Give this run a name of its own" in other


@pytest.mark.slow
def test_a_worker_told_to_stop_gives_its_problems_back_at_once(
    tmp_path: Path, ended: list["Process"], single: Job
) -> None:
    job = Job(tmp_path, 0.02, single)
    ended.append(first := job.worker("expiry=600", "stage=hard"))
    job.until(lambda: job.drawn_by(first) >= 5, first)
    first.terminate()
    _, said = first.communicate(timeout=30)
    assert first.returncode == 143 and "other workers take over" in said
    start = time.monotonic()
    finish(job.worker("expiry=600"))
    assert time.monotonic() - start < 60
    job.same_as(single, lost=1)


@pytest.mark.slow
def test_random_kills_of_random_workers(tmp_path: Path, ended: list["Process"], single: Job) -> None:
    job, draw = Job(tmp_path, 0.04, single), random.Random(7)
    for _ in range(2):
        ended += [job.worker() for _ in range(2)]
        time.sleep(draw.uniform(2.5, 4.0))
        for process in ended[-2:]:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    finish(job.worker())
    assert not job.overlaps()
    job.same_as(single, lost=4)
