"""The ledger: nothing is paid for twice, nothing is lost, several become one, and a run stays within its budget."""

import shutil
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest import MonkeyPatch

import limo.engines.ledger
from curation.run import run_first
from limo.data import chat
from limo.engines.ledger import Cached, Limits, spent, within_budget
from limo.engines.ledgers import add, list_models
from limo.engines.protocol import Completion, Price, Request, Sampling, Scripted, Take, sample, taker
from limo.errors import UserError
from tests.conftest import ROOT, Script, asked

GREEDY = Sampling(n=1, temperature=0, top_p=1, max_tokens=12, seed=0)


def settings(n: int = 1, max_tokens: int = 9, **more: float) -> Sampling:
    return Sampling(**{"n": n, "temperature": 1, "top_p": 1, "max_tokens": max_tokens, "seed": 0, **more})  # type: ignore[arg-type]


def test_the_ledger_pays_once(tmp_path: Path) -> None:
    inner = Scripted(lambda question, index: f"{question}-{index}")
    before = spent.sampled
    first = sample(Cached(inner, tmp_path), [chat("a"), chat("b")], settings(4))
    assert len(inner.asked) == 8
    assert sample(Cached(inner, tmp_path), [chat("b"), chat("a")], settings(4)) == first[::-1]
    assert len(inner.asked) == 8
    grown = sample(Cached(inner, tmp_path), [chat("a"), chat("b")], settings(6))
    assert [r.index for r in inner.asked[8:]] == [4, 5, 4, 5]
    assert [g[:4] for g in grown] == first
    assert spent.sampled - before == 12
    sample(Cached(inner, tmp_path), [chat("a")], settings(temperature=0.5))
    sample(Cached(Scripted(lambda q, i: "x", "another model"), tmp_path), [chat("a")], settings(4))
    assert len(inner.asked) == 13, "other settings and other models have samples of their own"


def test_a_larger_limit_pays_only_for_what_was_cut_off(tmp_path: Path) -> None:
    inner = Scripted(lambda question, index: "word " * (3 if question == "short" else 20) + "end")
    prompts = [chat("short"), chat("long")]

    def finishes(max_tokens: int) -> list[tuple[str, int]]:
        done = sample(Cached(inner, tmp_path), prompts, settings(max_tokens=max_tokens))
        return [(c.finish, c.tokens) for (c,) in done]

    assert finishes(9) == [("stop", 4), ("length", 9)]
    assert finishes(50) == [("stop", 4), ("stop", 21)]
    asked = [r.prompt[0]["content"] for r in inner.asked]
    assert asked == ["short", "long", "long"], "what was finished is not drawn again"
    assert finishes(9) == [("stop", 4), ("length", 9)], "the smaller limit still has its own"
    assert finishes(10) == [("stop", 4), ("length", 10)], "a longer text is no answer within ten tokens"
    assert len(inner.asked) == 4


def test_what_filled_the_context_is_not_drawn_again_for_a_larger_limit(tmp_path: Path) -> None:
    inner = Scripted(lambda question, index: Completion("so long", 5, "length"))
    for max_tokens in (9, 50, 100, 7):
        ((found,),) = sample(Cached(inner, tmp_path), [chat("a")], settings(max_tokens=max_tokens))
        assert (found.tokens, found.finish) == (5, "length")
    assert len(inner.asked) == 1


def test_the_same_sample_asked_for_twice_at_once_is_drawn_once(tmp_path: Path) -> None:
    inner = Scripted(lambda question, index: f"{question}{index}", batch_size=8)
    waiting = deque(Request(chat("x"), index % 2, at) for at, index in enumerate(range(6)))
    found = {r.at: c.text for r, c in Cached(inner, tmp_path).complete(taker(waiting), settings(2))}
    assert found == {0: "x0", 1: "x1", 2: "x0", 3: "x1", 4: "x0", 5: "x1"} and len(inner.asked) == 2


def test_a_file_that_is_no_ledger_gets_one_line(tmp_path: Path, run: Callable[..., CompletedProcess[str]]) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "x.sqlite").write_text("not a database, but long enough to be looked at" * 50)
    for command in (("limo.engines.ledgers",), ("curation.run", "recipe=demo", f"runs={tmp_path}")):
        done = run(*command, LIMO_CACHE=str(tmp_path))
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "x.sqlite" in done.stderr, done.stderr


def test_what_was_finished_before_a_crash_is_kept(tmp_path: Path) -> None:
    def reply(question: str, index: int) -> str:
        if question == "c":
            raise RuntimeError("the server is gone")
        return question

    with pytest.raises(RuntimeError):
        sample(Cached(Scripted(reply), tmp_path), [chat("a"), chat("b"), chat("c")], GREEDY)
    unable = Scripted(lambda q, i: 1 / 0)  # type: ignore[arg-type, return-value]
    assert sample(Cached(unable, tmp_path), [chat("a"), chat("b")], GREEDY) == [
        [Completion("a", 1, "stop")],
        [Completion("b", 1, "stop")],
    ]


def test_refusals_are_not_kept(tmp_path: Path) -> None:
    refusing = Scripted(lambda q, i: Completion("", 0, "refused", "too long"))
    assert sample(Cached(refusing, tmp_path), [chat("a")], GREEDY)[0][0].finish == "refused"
    assert sample(Cached(Scripted(lambda q, i: "now"), tmp_path), [chat("a")], GREEDY)[0][0].text == "now"


def test_ledgers_of_two_machines_become_one(tmp_path: Path, run: Callable[..., CompletedProcess[str]]) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    sample(Cached(Scripted(lambda q, i: f"{q} here"), here), [chat("a"), chat("b")], GREEDY)
    sample(Cached(Scripted(lambda q, i: f"{q} there"), there), [chat("b"), chat("c")], GREEDY)
    sample(Cached(Scripted(lambda q, i: "x", "other"), there), [chat("a")], GREEDY)
    assert add(here, [there]) == (2, 0), "two are new"
    nobody = Scripted(lambda q, i: 1 / 0)  # type: ignore[arg-type, return-value]
    known = sample(Cached(nobody, here), [chat("a"), chat("b"), chat("c")], GREEDY)
    assert [c.text for (c,) in known] == ["a here", "b here", "c there"]
    assert add(here, [there]) == (0, 0), "the second time adds nothing"
    assert sorted(row[1:3] for row in list_models(here).rows) == [["other", "1"], ["scripted", "3"]]
    done = run("limo.engines.ledgers", "add", str(there), "--into", str(tmp_path / "new"))
    assert done.returncode == 0 and done.stdout.startswith("3 samples added"), done.stderr
    assert "scripted" in run("limo.engines.ledgers", "--into", str(tmp_path / "new")).stdout
    for wrong, said in ((str(tmp_path / "no"), "no ledger in"), (__file__, "is damaged or not a ledger")):
        refused = run("limo.engines.ledgers", "add", wrong)
        assert refused.returncode == 2 and said in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr


def damaged_rows(folder: Path) -> int:
    return add(folder.with_name(f"{folder.name}-checked"), [folder])[1]


def fill(folder: Path, count: int) -> Path:
    sample(Cached(Scripted(lambda q, i: q * 50), folder), [chat(str(i)) for i in range(count)], GREEDY)
    with closing(sqlite3.connect(next(folder.glob("*.sqlite")))) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return next(folder.glob("*.sqlite"))


def test_a_changed_row_is_found_and_left_out(tmp_path: Path) -> None:
    path = fill(tmp_path / "a", 20)
    assert damaged_rows(tmp_path / "a") == 0
    with closing(sqlite3.connect(path)) as store, store:
        store.execute("UPDATE completion SET tokens = 1000 WHERE name IN (SELECT name FROM completion LIMIT 5)")
    assert damaged_rows(tmp_path / "a") == 5
    with pytest.raises(UserError, match=r"checksum does not hold\. Move"):
        sample(Cached(Scripted(lambda q, i: q), tmp_path / "a"), [chat(str(i)) for i in range(20)], GREEDY)
    assert add(tmp_path / "b", [path]) == (15, 5)
    assert damaged_rows(tmp_path / "b") == 0 and add(tmp_path / "b", [path]) == (0, 5)


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_one_line_and_what_can_be_read_is_recovered(seed: int, tmp_path: Path) -> None:
    """Pages overwritten, zeroed, cut off; the header is left alone in half of the cases."""
    path, random = fill(tmp_path / "a", 400), Random(seed)
    data = bytearray(path.read_bytes())
    safe = 0 if seed % 2 == 0 else 24_000  # where the header and the tables' first pages are
    for _ in range(3):
        at = random.randrange(safe, len(data) - 2000)
        data[at : at + 2000] = bytes(2000) if random.random() < 0.5 else random.randbytes(2000)
    path.write_bytes(data[: len(data) - 5000 * (seed % 3 == 0)])
    prompts = [chat(str(i)) for i in range(400)]
    try:
        sample(Cached(Scripted(lambda q, i: q * 50), tmp_path / "a"), prompts, GREEDY)
    except UserError as error:
        assert "sqlite3 FILE .dump" in str(error) and "\n" not in str(error)
    recovered = tmp_path / "recovered.sqlite"
    if seed % 2 == 0:
        return  # with a damaged header nothing can be read
    if not shutil.which("sqlite3"):
        pytest.skip("needs the program sqlite3: apt-get install sqlite3")
    subprocess.run(
        f"sqlite3 '{path}' .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 '{recovered}'",
        shell=True,
        stderr=subprocess.DEVNULL,
    )
    added, _ = add(tmp_path / "b", [recovered])
    inner = Scripted(lambda q, i: q * 50)
    done = sample(Cached(inner, tmp_path / "b"), prompts, GREEDY)
    assert [c.text for (c,) in done] == [str(i) * 50 for i in range(400)] and len(inner.asked) == 400 - added < 400


def test_a_ledger_of_another_format_is_one_line(tmp_path: Path) -> None:
    path = fill(tmp_path, 2)
    with closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA user_version = 1")
    with pytest.raises(UserError, match="is a ledger of format 1, this version reads 3"):
        sample(Cached(Scripted(lambda q, i: q), tmp_path), [chat("1")], GREEDY)


def test_two_runs_beside_each_other_pay_once(tmp_path: Path) -> None:
    """Three processes ask for the same 60 samples at once; one of them is killed while it samples."""
    code = f"""if True:
        import sys, time
        from pathlib import Path
        from limo.data import chat
        from limo.engines.ledger import Cached, spent
        from limo.engines.protocol import Sampling, Scripted, sample
        def reply(question, index):
            time.sleep(0.03)
            with open({str(tmp_path / "log")!r}, "a") as log: log.write(question + chr(10))
            return question
        engine = Cached(Scripted(reply, batch_size=4), Path({str(tmp_path / "s")!r}))
        prompts = [chat(str(i)) for i in range(60)]
        done = sample(engine, prompts, Sampling(n=1, temperature=0, top_p=1, max_tokens=12, seed=0))
        assert [c.text for (c,) in done] == [str(i) for i in range(60)] and spent.sampled + spent.found == 60
    """
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    while not (tmp_path / "log").exists() or len((tmp_path / "log").read_text().split()) < 15:
        time.sleep(0.01)
    started[0].kill()
    assert [process.wait(60) for process in started[1:]] == [0, 0]
    asked = (tmp_path / "log").read_text().split()
    assert len(set(asked)) == 60 and len(asked) <= 64, "only what was running in the killed process is sampled again"


def test_a_run_stops_at_its_budget_and_resumes_with_a_larger_one() -> None:
    inner = Scripted(lambda q, i: q, "budgeted", batch_size=3)
    prompts = [chat(f"{i} x") for i in range(10)]
    with (
        within_budget("/runs/mine", Limits(4)),
        pytest.raises(UserError, match="budget of 4 samples is used up: 4 samples"),
    ):
        sample(Cached(inner), prompts, GREEDY)
    with (
        within_budget("/runs/mine", Limits(4)),
        pytest.raises(UserError, match="used up"),
    ):  # a restart does not begin anew
        sample(Cached(inner), prompts, GREEDY)
    assert len(inner.asked) == 4, "a batch of three is cut to what is left"
    # What others have paid for costs nothing; each further sample takes 2 tokens, and may take 12
    used_up = r"25 tokens is used up: \d samples with 14 tokens.* next may take 12"
    with within_budget("/runs/other", Limits(tokens=25)), pytest.raises(UserError, match=used_up):
        sample(Cached(inner), [*prompts, *(chat(f"{i} y") for i in range(5))], GREEDY)
    assert len(inner.asked) == 4 + 7
    with within_budget("/runs/mine", Limits(11, 100)):
        assert len(sample(Cached(inner), prompts, GREEDY)) == 10


class Provider(Scripted):
    """Charges for what it counts: tokens of prompts by a function of their text, completions by their number."""

    def __init__(self, price: Price, at_once: int, tokens: Callable[[str], int], made: Callable[[int], int]) -> None:
        super().__init__(lambda question, index: "", f"provider {price} {at_once}", at_once)
        self.price, self.count, self.made = price, tokens, made
        self.charged = self.generated = self.samples = 0

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """A batch is under way as a whole before its first completion comes back."""
        while requests := take(self.batch_size):
            first, self.samples = self.samples, self.samples + len(requests)
            counts = [(self.count(r.prompt[-1]["content"]), self.made(first + at)) for at, r in enumerate(requests)]
            self.charged += sum(prompt for prompt, _ in counts)
            self.generated += sum(made for _, made in counts)
            for request, (prompt, made) in zip(requests, counts, strict=True):
                yield request, Completion("x", made, "stop", asked=prompt)

    @property
    def dollars(self) -> float:
        return self.price.of(self.charged, self.generated)


@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    price=st.builds(Price, st.floats(0, 1000), st.floats(0, 1000)),
    limits=st.builds(
        Limits,
        st.none() | st.integers(0, 9),
        st.none() | st.integers(0, 900),
        st.none() | st.floats(0, 5),
    ),
    at_once=st.integers(1, 9),
    share=st.floats(0, 1),
    runs=st.integers(1, 3),
)
@hypothesis_settings(deadline=None, max_examples=60)
def test_no_limit_is_exceeded(
    sizes: list[int], price: Price, limits: Limits, at_once: int, share: float, runs: int
) -> None:
    """Whatever prompts cost, in whatever order, however many at once, over restarts: each token of a prompt is at least
    a byte, and the server adds fewer than 256."""
    prompts = [chat(f"{at} " + "é" * size) for at, size in enumerate(sizes)]
    with TemporaryDirectory() as folder, MonkeyPatch.context() as patch:
        patch.setattr("limo.engines.ledger.samples_folder", lambda: Path(folder))
        provider = Provider(price, at_once, lambda t: 200 + round(share * len(t.encode())), lambda n: 1 + n * 37 % 50)
        for _ in range(runs):
            with within_budget("/runs/mine", limits), suppress(UserError):
                sample(Cached(provider, Path(folder)), prompts, settings(max_tokens=50))
        assert limits.samples is None or provider.samples <= limits.samples
        assert limits.tokens is None or provider.generated <= limits.tokens
        assert limits.dollars is None or provider.dollars <= limits.dollars + 1e-9
        with within_budget("/runs/mine", Limits()):  # a run without a limit gets all that is missing
            sample(Cached(provider, Path(folder)), prompts, settings(max_tokens=50))
            booked = limo.engines.ledger.budget
            assert (booked.samples, booked.tokens) == (
                provider.samples,
                provider.generated,
            ) and provider.samples == len(sizes)
            assert booked.dollars == pytest.approx(provider.dollars)


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("limits", [Limits(tokens=520), Limits(dollars=0.6)])
def test_hidden_reasoning_is_counted_as_the_server_counts_it(limits: Limits, at_once: int, tmp_path: Path) -> None:
    """What was under way when it showed is paid for; after that each sample under way counts with the most so far."""
    provider = Provider(Price(0, 1000), at_once, lambda text: 5, lambda number: 480 if number else 90)
    with within_budget(f"/runs/{limits}{at_once}", limits), pytest.raises(UserError) as raised:
        sample(Cached(provider, tmp_path), [chat(str(i)) for i in range(60)], settings(max_tokens=100))
    assert provider.samples <= max(2, at_once)
    assert f"{provider.generated:,} tokens" in str(raised.value) and "the next may take 480" in str(raised.value)


def test_a_limit_is_a_number() -> None:
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"curate\.budget\.dollars must be 0 or more"):
            Limits(dollars=wrong)


def test_what_a_refusal_cost_is_counted(tmp_path: Path) -> None:
    """A reply that a filter has emptied, and replies that got lost on the way, which count with their most."""
    for name, reply, paid in (
        ("filtered", Completion("", 7, "refused", "filtered", 5), (1, 7)),
        ("lost", Completion("", 0, "refused", "no answer in time", 0, 3), (3, 36)),
        ("late", Completion("so", 2, "stop", asked=5, lost=1), (2, 14)),
        ("free", Completion("", 0, "refused", "too long"), (0, 0)),
    ):
        with within_budget(f"/runs/{name}", Limits(tokens=400)):
            sample(Cached(Scripted(lambda q, i, r=reply: r, name), tmp_path), [chat("a")], GREEDY)  # type: ignore[misc]
            booked = limo.engines.ledger.budget
            assert (booked.samples, booked.tokens) == paid, name


def test_probes_have_the_runs_budget(script: Script, tmp_path: Path) -> None:
    """`limo probe`, `limo fit` and `limo tournament` run the first stages of a recipe, which may ask a teacher."""
    (tmp_path / "pool.jsonl").write_text("".join(f'{{"problem": "{i}?", "answer": "1"}}\n' for i in range(9)))
    teacher = {"_target_": "curation.stages.attempts.Teacher", "engine": script(lambda q, i: "1"), "sampling": {
        "n": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 9, "seed": 0}}  # fmt: skip
    solve = {"_target_": "curation.stages.attempts.add_chains", "teachers": {"t": teacher}, "reference_solution": False}
    curate = {
        **{"out": str(tmp_path / "run"), "system": "", "pairs": None, "budget": {"samples": 4}},
        **{"pool": {"p": {"_target_": "limo.sources.file", "path": str(tmp_path / "pool.jsonl")}}},
        **{"stages": {"solve": solve}, "controls": {"source": "solve", "kinds": [], "seed": 0}},
    }
    for _ in range(2):
        with pytest.raises(UserError, match="budget of 4 samples is used up"):
            run_first(curate, curate["stages"])
    assert len(asked(teacher["engine"])) == 4


def test_a_budget_of_hours(tmp_path: Path) -> None:
    slow = Cached(Scripted(lambda question, index: time.sleep(0.02) or "so", "slow"), tmp_path)
    prompts = [chat(f"question number {i}") for i in range(9)]
    with within_budget("/runs/slow", Limits(hours=0.05 / 3600)), pytest.raises(UserError, match="hours is used up"):
        sample(slow, prompts, settings(max_tokens=4))
