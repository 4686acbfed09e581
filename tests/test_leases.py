"""Leases over a shared folder: one holder at a time, whoever comes, dies, or is late. Shards: whole records only."""

import os
import sqlite3
import subprocess
import sys
import time
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from limo.data import chat
from limo.engine import Completion, Request, Sampling
from limo.errors import UserError
from limo.leases import Leases
from limo.ledger import sample_name
from limo.ledgers import check, holdings, merge
from limo.shards import Kept, Shard, absorb, known, read, shards_in
from tests.conftest import ROOT

CLAIMER = """
import sys
from pathlib import Path
from limo.leases import Leases
names = [f"{i:05d}" for i in range(60)]
with Leases(Path(sys.argv[1]), 600) as leases:
    while found := leases.first_free(names)[0]:
        print(found)
        if int(found) % 3 == 0:
            leases.finish(found)
"""


def test_of_many_processes_each_name_has_one_holder(tmp_path: Path) -> None:
    """Four processes reach for the same names in the same order."""
    command = [sys.executable, "-c", CLAIMER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(4)]
    found = [process.communicate(timeout=60)[0].split() for process in started]
    # One that has ended gives up what it had not finished, so a later one may take that again
    first = [path.name for path in (tmp_path / "leases").glob("*.1")]
    assert sorted(first) == [f"{i:05d}.1" for i in range(60)]
    finished = [name for names in found for name in names if int(name) % 3 == 0]
    assert sorted(finished) == [f"{i:05d}" for i in range(0, 60, 3)], "what is done is taken by nobody again"
    assert len(list((tmp_path / "leases").iterdir())) == sum(map(len, found)), "no claim without its file"


def test_a_lease_goes_over_when_its_holder_is_silent(tmp_path: Path) -> None:
    one, other = Leases(tmp_path, 600), Leases(tmp_path, 600)
    with other:
        with one:
            assert one.claim("a") == 1 and one.holds("a") and one.claim("a") == 0
            assert other.claim("a") == 0 and other.free(["a", "b"]) == ["b"]
            os.utime(tmp_path / "workers" / one.worker, (0, time.time() - 700))
            assert other.claim("a") == 2, "older than the expiry, by the clock of the file system"
            assert one.holds("a"), "it has looked a moment ago"
            one._checked -= 601
            assert not one.holds("a") and other.holds("a")
            assert not one.finish("a") and not other.done()
            assert one.claim("b") == 1
        assert other.first_free(["a", "b"]) == ("b", 2), "who leaves gives up at once"
        assert other.finish("a") and other.done() == {"a"} and other.claim("a") == 0
    with pytest.raises(UserError, match="more than 0 seconds"):
        Leases(tmp_path, 0)


def test_a_lease_that_two_see_free_goes_to_one(tmp_path: Path) -> None:
    """The second acts on what it saw before the first was there."""
    with Leases(tmp_path, 600) as one, Leases(tmp_path, 600) as other:
        assert one._link("a", 1) and not other._link("a", 1)
        assert not list((tmp_path / "leases").glob(".*")), "nothing is left beside the leases"


def test_a_worker_lives_as_long_as_it_gives_signs(tmp_path: Path) -> None:
    with Leases(tmp_path, 0.6) as one, Leases(tmp_path, 0.6) as other:
        assert one.claim("a") == 1
        time.sleep(1.0)
        assert other.claim("a") == 0


SAMPLING = Sampling(n=4, temperature=1, top_p=1, max_tokens=9, seed=0)


def kept(index: int, text: str = "so", question: str = "q", fingerprint: str = "model") -> Kept:
    name = sample_name(Request(chat(question), index), SAMPLING)
    return fingerprint, name, SAMPLING.max_tokens, text, 3, "stop"


def write(path: Path, *samples: Kept) -> Path:
    shard = Shard(path)
    for sample in samples:
        shard.append(sample)
    shard.close()
    return path


def test_a_shard_is_read_up_to_what_is_whole(tmp_path: Path) -> None:
    samples = [kept(index, f"text {index} ≤ \\boxed{{{index}}}") for index in range(5)]
    whole = write(tmp_path / "a.1.shard", *samples).read_bytes()
    assert list(read(tmp_path / "a.1.shard")) == samples
    counts = set()
    for cut in range(len(whole)):
        (tmp_path / "cut.1.shard").write_bytes(whole[:cut])
        found = list(read(tmp_path / "cut.1.shard"))
        assert found == samples[: len(found)]
        counts.add(len(found))
    assert counts == {0, 1, 2, 3, 4}
    (tmp_path / "cut.1.shard").write_bytes(whole[:-20] + b"x" + whole[-19:])
    assert list(read(tmp_path / "cut.1.shard")) == samples[:4], "a damaged record is none"
    with pytest.raises(FileExistsError):
        Shard(tmp_path / "a.1.shard")


def test_of_one_sample_the_later_generation_stands(tmp_path: Path) -> None:
    write(tmp_path / "s" / "00001.1.shard", kept(0, "first"), kept(1, "slow"))
    write(tmp_path / "s" / "00001.2.shard", kept(1, "taken over"), kept(2, "and on"))
    write(tmp_path / "s" / "00001.10.shard", kept(2, "at last"))
    write(tmp_path / "s" / "00002.1.shard", kept(0, "other", "r"), kept(0, "other model", "q", "another"))
    assert [p.name for p in shards_in(tmp_path)] == [f"00001.{g}.shard" for g in (10, 2, 1)] + ["00002.1.shard"]
    assert absorb(tmp_path / "into", shards_in(tmp_path)) == (5, 0)
    names = [kept(index)[1] for index in range(3)]
    found = {(fingerprint, name): text for fingerprint, name, _, text, _, _ in known(tmp_path / "into", names)}
    assert found == {
        ("model", names[0]): "first",
        ("model", names[1]): "taken over",
        ("model", names[2]): "at last",
        ("another", names[0]): "other model",
    }
    assert merge(tmp_path / "into", [tmp_path / "s"]) == (0, 0), "and what is there stays"
    write(tmp_path / "t" / "00001.1.shard", kept(0, "otherwise"), kept(3))
    assert merge(tmp_path / "into", [tmp_path / "t"]) == (1, 1)
    assert check(tmp_path / "into") == [] and [h.samples for h in holdings(tmp_path / "into")] in ([5, 1], [1, 5])
    with pytest.raises(UserError, match="no ledger in"):
        merge(tmp_path / "into", [tmp_path / "nowhere"])


def test_half_a_character_does_not_stop_a_worker(tmp_path: Path) -> None:
    from curation.workers import Desk
    from curation.worklist import WorkList
    from limo.data import write_jsonl
    from tests.conftest import example

    work = WorkList(tmp_path, 1)
    write_jsonl(tmp_path / "list" / "00000.jsonl", [example("a")])
    os.environ["LIMO_SAMPLES"] = str(tmp_path / "samples")
    try:
        with Leases(tmp_path, 600) as leases:
            desk = Desk(work, leases, ["00000"])
            (row,) = desk
            desk.keep("model", Request(row.prompt, 0), SAMPLING, Completion("half \ud835", 2, "stop"))
            desk.finished()
    finally:
        del os.environ["LIMO_SAMPLES"]
    absorb(tmp_path / "samples", shards_in(tmp_path))
    with closing(sqlite3.connect(next((tmp_path / "samples").glob("*.sqlite")))) as store:
        ((text,),) = store.execute("SELECT text FROM completion").fetchall()
    assert zlib.decompress(text).decode() == "half ?"
