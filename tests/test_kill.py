"""kill -9 at random moments: the restarted run ends byte for byte like an undisturbed one, nothing paid twice."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.slow_engine import start

RECIPE = """# @package _global_
name: killed
curate:
  _target_: curation.run.curate
  out: ${{out}}
  system: Solve it.
  pool: {{p: {{_target_: limo.sources.file, path: {pool}}}}}
  order: [exact_dedup, near_dedup, hard, solve, verify, score, best_chain, choose]
  stages:
    exact_dedup: {{_target_: curation.stages.dedup.exact_dedup}}
    near_dedup: {{_target_: curation.stages.dedup.near_dedup}}
    hard: {{_target_: curation.stages.attempts.measure_difficulty, by: m, engine: {engine}, sampling: {sampling},
      at_least: {at_least}, at_most: 3, unknown: keep, early_stop: true, suspect: 0.9, chains: all}}
    solve: {{_target_: curation.stages.attempts.add_chains, reference_solution: true, teachers: {{more: {{
      _target_: curation.stages.attempts.Teacher, engine: {engine}, sampling: {more}}}}}}}
    verify: {{_target_: curation.stages.chains.verify, keep_unverified: true}}
    score: {{_target_: curation.stages.score.score, weights: {{length: 0.5, verification: 0.5}}, words: [en],
      scaling: rank}}
    best_chain: {{_target_: curation.stages.choose.chains, by: score, at_most: 1, seed: 0}}
    choose: {{_target_: curation.stages.choose.problems, k: 12, by: score, seed: 0}}
  controls: {{source: choose, kinds: [random, longest, easiest, random_tokens], seed: 0}}
  pairs: wrong
  budget: {{samples: null, tokens: null}}
"""
SAMPLING = "{{n: {n}, temperature: 0.9, top_p: 1.0, max_tokens: 30, seed: {seed}}}"
RESULTS = (
    "curated.jsonl",
    "curated.parquet",
    "dropped.jsonl",
    "suspects.jsonl",
    "pairs.jsonl",
    "controls/random.jsonl",
)


def write_recipe(folder: Path, engine: str, at_least: int) -> None:
    """A recipe and its pool of 40 problems in a folder of their own."""
    (folder / "recipe").mkdir(parents=True)
    rows = [
        f'{{"problem": "What is {i * 37 % 91} of it?", "answer": "{i % 4}", "solution": "{i % 4}"}}' for i in range(40)
    ]
    (folder / "pool.jsonl").write_text("\n".join(rows))
    sampling, more = SAMPLING.format(n=8, seed=0), SAMPLING.format(n=2, seed=1)
    text = RECIPE.format(pool=folder / "pool.jsonl", engine=engine, sampling=sampling, more=more, at_least=at_least)
    (folder / "recipe" / "killed.yaml").write_text(text)


def started(folder: Path, runs: str, cache: str) -> "subprocess.Popen[str]":
    """The command, in a process group of its own, with a ledger of its own."""
    command = ["curation.run", "--config-dir", str(folder), "recipe=killed", f"runs={folder / runs}"]
    return start(command, folder / cache, folder / "log.txt")


def finish(process: "subprocess.Popen[str]") -> None:
    _, said = process.communicate(timeout=280)
    assert process.returncode == 0, said


def killed_often(folder: Path, kills: int, shortest: float, longest: float) -> int:
    """Start and kill the run so often, then let it end. Returns how many kills met it alive."""
    draw = random.Random(20)
    met = 0
    for _ in range(kills):
        process = started(folder, "killed", "cache_killed")
        try:
            process.communicate(timeout=draw.uniform(shortest, longest))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            met += 1
            process.communicate()
    finish(started(folder, "killed", "cache_killed"))
    return met


def same(folder: Path) -> None:
    for name in RESULTS:
        whole, killed = (folder / runs / "killed" / name for runs in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes(), name
    assert len((folder / "whole" / "killed" / "curated.jsonl").read_text().splitlines()) == 12


@pytest.mark.slow
def test_twenty_kills_change_nothing_and_no_sample_is_paid_for_twice(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    write_recipe(tmp_path, "{_target_: tests.slow_engine.Slow, seconds: 0.04}", 1)
    finish(started(tmp_path, "whole", "cache_whole"))
    whole = log.read_text().splitlines()
    log.unlink()
    assert killed_often(tmp_path, 20, 0.7, 2.0) >= 18
    paid = log.read_text().splitlines()
    assert len(paid) == len(set(paid)), "a completion that was kept is not drawn again"
    assert set(paid) <= set(whole) and len(whole) - len(paid) <= 20, "a kill may come before the line is written"
    same(tmp_path)
    # All samples are there now: what is killed is grading, scoring, choosing, writing
    for done in range(4, 9):
        shutil.rmtree(tmp_path / "killed")
        kill_after(tmp_path, done)
        finish(started(tmp_path, "killed", "cache_killed"))
        same(tmp_path)
    assert log.read_text().splitlines() == paid


def kill_after(folder: Path, stages: int) -> None:
    """Start the run and kill it as soon as so many stages are done."""
    process = started(folder, "killed", "cache_killed")
    while len(list(folder.glob("killed/killed/stages/*.done.json"))) < stages:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kept(cache: Path) -> int:
    """Samples in the ledgers below a folder."""
    found = 0
    for path in cache.glob("samples/*.sqlite"):
        with closing(sqlite3.connect(path, timeout=60)) as store, suppress(sqlite3.OperationalError):
            found += store.execute("SELECT count(*) FROM completion").fetchone()[0]
    return found


@pytest.mark.slow
def test_kills_of_a_local_model_change_nothing_in_float32(tmp_path: Path, tiny: Path) -> None:
    """Killed after 20, 60, 110 and 150 samples; loading the model takes longer than all of the sampling."""
    node = f"{{_target_: limo.engines.local.TransformersEngine, model: {tiny}, dtype: float32, batch_size: 2}}"
    write_recipe(tmp_path, node, 0)
    finish(started(tmp_path, "whole", "cache_whole"))
    for goal in (20, 60, 110, 150):
        process = started(tmp_path, "killed", "cache_killed")
        while kept(tmp_path / "cache_killed") < goal:
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(started(tmp_path, "killed", "cache_killed"))
    same(tmp_path)
    assert kept(tmp_path / "cache_killed") == kept(tmp_path / "cache_whole")
