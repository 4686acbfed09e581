"""The engine for servers against one that fails in every way: nothing is lost, nothing is paid twice, runs end."""

import json
import os
import shlex
import sqlite3
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from limo.chat import prompt_ids, turn_end
from limo.data import Message, chat
from limo.engines.connection import Keys, read_reply
from limo.engines.ledger import Cached
from limo.engines.ledgers import add
from limo.engines.protocol import Completion, Request, Sampling, sample, taker
from limo.engines.server import ServerEngine
from limo.errors import UserError
from limo.model import load_tokenizer
from tests.conftest import ROOT, lines
from tests.faulty import HOSTILE, LOST, ODD, USAGES, Running, faulty, spellings
from tests.forked import run_forked

ONE = Sampling(n=1, temperature=1.0, top_p=1.0, max_tokens=100, seed=0)
QUICK: dict[str, Any] = {"timeout": 1.0, "backoff": 0.02, "patience": 5.0}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """One that fails only where a prompt tells it to."""
    with faulty() as running:
        yield running


def asking(*urls: str, **settings: Any) -> ServerEngine:
    return ServerEngine(model="m", base_urls=list(urls), **{**QUICK, **settings})


def answer(server: Running, text: str, **settings: Any) -> Completion:
    ((completion,),) = sample(asking(server.url, **settings), [chat(text)], ONE)
    return completion


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_thousands_of_requests_of_which_a_fifth_fail(
    stream: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    count = 500 if stream else 1_000
    kinds = ["429", "429-none", "500", "503", "reset", *LOST, *ODD]
    prompts = [chat(f"question {i}") for i in range(count)]
    with faulty(0.2, kinds) as server:
        engine = Cached(
            asking(server.url, concurrency=64, tries=15, patience=60.0, timeout=3.0, stream=stream), tmp_path
        )
        done = sample(engine, prompts, ONE)
        counts = server.counts()
        said = capfd.readouterr().err
        assert [row[0].finish for row in done] == ["stop"] * count
        assert all(row[0].text.startswith(f"Reply to question {i} with") for i, row in enumerate(done))
        assert all(1 <= row[0].tokens <= 100 for row in done), "absurd counts are estimated"
        with closing(sqlite3.connect(next(tmp_path.glob("*.sqlite")))) as store:
            assert store.execute("SELECT count(*), count(DISTINCT name) FROM completion").fetchone() == (count, count)
        assert set(counts["delivered"].values()) == {1} and len(counts["delivered"]) == count, "none is paid for twice"
        assert f"{sum(counts['faults'][kind] for kind in ODD[:3]):,} x missing or absurd token counts" in said
        assert f"{counts['faults']['500']:,} x 500" in said
        again = sample(engine, prompts, ONE)
        assert again == done and server.counts()["made"] == counts["made"], "a second run asks for nothing"
    assert add(tmp_path / "again", [tmp_path])[1] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_one_bad_prompt_is_refused_with_its_reason(server: Running, stream: bool) -> None:
    faults = ["500", "503", "429", "reset", *LOST, *(f for f in HOSTILE if f != "parts-null")]
    asked = [chat(f"good {i}") for i in range(5)] + [chat(f"bad [[{fault}]]") for fault in faults]
    begun = time.monotonic()
    done = sample(asking(server.url, tries=2, timeout=2.0, stream=stream), asked, ONE)
    assert [row[0].finish for row in done] == ["stop"] * 5 + ["refused"] * len(faults)
    for fault, row in zip(faults, done[5:], strict=True):
        assert row[0].why.startswith("the server replied ") and len(row[0].why) < 400, fault
        assert "after 2 tries" in row[0].why or fault == "nested-error", row[0].why
    (alone,) = sample(asking(server.url, tries=2, timeout=5.0, stream=stream), asked[5:6], ONE)
    assert alone[0].finish == "refused", "nor does it end a run that has nothing else to ask"
    assert time.monotonic() - begun < 60


def test_what_is_refused_at_once(server: Running) -> None:
    assert answer(server, "x [[400]]").why == "the server replied 400: 400 it is"
    assert "maximum context length is 100 tokens" in answer(server, "x [[context]]").why
    assert answer(server, "x [[filter]]").why == "the server ended the completion with 'content_filter'"
    assert answer(server, "x [[parts-null]]").why == "the model refused: I would rather not."
    assert "control token '</s>'" in answer(server, "x </s>").why
    begun = (*chat("mine"), Message(role="assistant", content="2 + 3 ="))
    ((refused,),) = sample(asking(server.url), [begun], ONE)
    assert "send=tokens" in refused.why
    assert server.counts()["faults"]["400"] == 1
    prompts = [
        chat("a longer question, which is answered first"),
        *(chat(f"x [[{f}]]") for f in ("404", "307", "endless")),
    ]
    good, *bad = sample(asking(server.url, concurrency=1), prompts, ONE)
    assert good[0].finish == "stop" and {row[0].finish for row in bad} == {"refused"}, "they end no run"
    assert bad[2][0].why.endswith("; it asks to wait 24 h 00 min")


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_odd_about_a_reply(server: Running, stream: bool) -> None:
    assert answer(server, "x [[reasoning]]", stream=stream).text == "<think>\nLet me see.\n</think>\n\nIt is 4."
    assert answer(server, "x [[separator]]", stream=stream).text == "one\u2028two\x85three\x0bfour"
    assert answer(server, "x [[parts]]", stream=stream).text == "It is 4."
    assert answer(server, "x [[length]]", stream=stream).finish == "length"
    assert answer(server, "half a pair: \ud83d", stream=stream).text.startswith("Reply to half a pair: ?")
    twice = answer(server, "x [[twice]]", stream=stream).text
    assert twice.count("Reply") == 1 and twice.endswith(".")
    for kind in ODD[:3]:
        odd = answer(server, f"x [[{kind}]]", stream=stream)
        assert odd.tokens == round(len(odd.text) / 4), "an estimate: four bytes a token"


@pytest.mark.parametrize("kind", [*USAGES, "usage-list"])
def test_a_count_that_is_none_is_estimated(server: Running, kind: str) -> None:
    """Four bytes a token, of the prompt too; no count reaches the ledger that it cannot hold."""
    odd = answer(server, f"x [[{kind}]]")
    assert (odd.finish, odd.tokens) == ("stop", round(len(odd.text) / 4)) and odd.asked == len(f"x [[{kind}]]") // 4


def test_a_count_above_the_limit_is_kept_and_said(server: Running, capfd: pytest.CaptureFixture[str]) -> None:
    assert answer(server, "x [[hidden]]").tokens == 4_800
    assert "1 x more tokens than max_tokens, counted as the server does" in capfd.readouterr().err


def test_a_reply_without_any_text_is_refused_and_counted(server: Running) -> None:
    nothing = answer(server, "x [[null]]")
    assert (
        nothing.finish == "refused" and nothing.why == "the server sent no text (content: null), and ended with 'stop'"
    )
    assert (nothing.asked, nothing.tokens) == (7, 6), "it is paid for"
    lost = answer(server, "x [[truncated]]", stream=True, tries=3)
    assert (lost.finish, lost.lost) == ("refused", 3), "the server may charge what it has made"
    assert answer(server, "x [[500]]", tries=3).lost == 0


def test_a_limit_that_is_too_large_for_the_context_shrinks(server: Running) -> None:
    """As a local engine does: the completion has as much room as the prompt leaves."""
    assert answer(server, "x [[room]]").finish == "stop"
    assert server.counts()["bodies"][-1]["max_tokens"] == 60
    stuck = answer(server, "x [[stuck]]")
    assert stuck.finish == "refused" and "maximum context length is 64" in stuck.why, "once is enough"


def test_what_is_sent(server: Running, tiny: Path) -> None:
    sampling = Sampling(n=1, temperature=0.5, top_p=0.9, max_tokens=100, seed=3, stop=("Z",))
    extra = {"max_tokens": None, "max_completion_tokens": 100, "top_p": None, "top_k": 20}
    ((first,),) = sample(asking(server.url, extra=extra), [chat("mine", "system")], sampling)
    sent = server.counts()["bodies"][-1]
    assert sent.pop("seed") in range(2**31) and first.finish == "stop"
    assert sent == {
        "model": "m",
        "messages": [{"role": "system", "content": "system"}, {"role": "user", "content": "mine"}],
        "temperature": 0.5,
        "max_completion_tokens": 100,
        "stop": ["Z"],
        "top_k": 20,
    }
    begun = (*chat("mine </s>"), Message(role="assistant", content="2 + 3 ="))
    ((done,),) = sample(asking(server.url, send="tokens", tokenizer=str(tiny)), [begun], sampling)
    sent = server.counts()["bodies"][-1]
    tokenizer = load_tokenizer(tiny)
    assert sent["prompt"] == prompt_ids(tokenizer, begun) and sent["stop_token_ids"] == [turn_end(tokenizer)]
    assert done.finish == "stop" and "messages" not in sent


def test_a_name_says_what_may_share_samples() -> None:
    def name(**settings: Any) -> str:
        return asking("http://h/v1", **settings).fingerprint

    same = [name(), asking("http://other:1/v1", "https://two/v1", concurrency=3, timeout=9.0).fingerprint]
    assert same == ["openai/m@unstated"] * 2
    assert len({name(), name(revision="a1"), name(extra={"top_k": 1}), name(extra={"temperature": None})}) == 4


def test_waiting_as_the_server_asks() -> None:
    """429 with seconds, with nonsense, with nothing."""
    with faulty(0.6, ["429", "429-inf", "429-none"], seed=1) as busy:
        done = sample(asking(busy.url, tries=15, patience=30.0), [chat(f"q{i}") for i in range(30)], ONE)
        assert {row[0].finish for row in done} == {"stop"}
        assert busy.counts()["faults"]["429-inf"]


def test_load_goes_to_what_is_free_and_a_failing_server_rests() -> None:
    with faulty(latency=0.02) as good, faulty(latency=0.02) as other, faulty(1.0, ["500"]) as bad:
        prompts = [chat(f"q{i}") for i in range(300)]
        engine = asking(good.url, other.url, bad.url, concurrency=4, backoff=0.2)
        done = sample(engine, prompts, ONE)
        assert {row[0].finish for row in done} == {"stop"}
        shares = [sum(s.counts()["delivered"].values()) for s in (good, other)]
        assert sum(shares) == 300 and min(shares) > 80
        assert bad.counts()["faults"]["500"] < 25, "tried now and then"


def test_a_server_that_comes_back_is_used_again() -> None:
    with faulty(latency=0.05) as first, ExitStack() as again:
        engine = asking(first.url, concurrency=4, patience=30.0, backoff=0.1)
        waiting, done = deque(Request(chat(f"q{i}"), 0, i) for i in range(40)), []
        for _, completion in engine.complete(taker(waiting), ONE):
            done.append(completion)
            if len(done) == 8:
                first.stop()
                Timer(1.0, again.enter_context, [faulty(port=first.port)]).start()
        assert len(done) == 40 and {c.finish for c in done} == {"stop"}


@pytest.mark.parametrize("fault", ["nobody", "503", "401", "404", "307", "endless", "hang", "400"])
def test_a_server_that_is_down_ends_the_run_with_one_line(fault: str, tmp_path: Path) -> None:
    prompts = [chat(f"q{i}") for i in range(60)]
    with faulty(1.0, [fault if fault != "nobody" else "500"]) as server:
        if fault == "nobody":
            server.stop()
        engine = Cached(asking(server.url, patience=1.0, timeout=0.3, backoff=0.05, concurrency=8), tmp_path)
        begun = time.monotonic()
        with pytest.raises(UserError) as raised:
            sample(engine, prompts, ONE)
        said = str(raised.value)
        assert time.monotonic() - begun < 40 and "\n" not in said
        assert server.url in said and "Finished samples are kept" in said
        words = {
            "nobody": "ConnectError",
            "hang": "no answer in time",
            "endless": "it asks to wait 24 h",
            "400": "20 requests were refused in a row",
        }
        assert words.get(fault, f"{fault}: {fault} it is") in said, said


def test_what_was_running_is_kept_when_a_run_ends(tmp_path: Path) -> None:
    """A key that stops being taken: the answers that still come are paid for, so they are waited for."""
    with faulty(latency=0.6) as server:  # the refusal comes after half of that
        engine = Cached(asking(server.url, concurrency=10, timeout=20.0), tmp_path)
        with pytest.raises(UserError, match="401"):
            sample(engine, [*(chat(f"q{i}") for i in range(12)), chat("q [[401]]")], ONE)
        with closing(sqlite3.connect(next(tmp_path.glob("*.sqlite")))) as store:
            assert store.execute("SELECT count(*) FROM completion").fetchone() == (9,)
        assert sum(server.counts()["delivered"].values()) == 9, "and no more were asked"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_urls": []}, "either serve: vllm, sglang or transformers, or base_urls"),
        ({"serve": "vllm"}, "either serve: vllm, sglang or transformers, or base_urls"),
        ({"base_urls": ["localhost:8000"]}, "must be addresses such as"),
        ({"base_urls": ["http://[::1/v1"]}, "must be addresses such as"),
        ({"base_urls": ["http://h:99999/v1"]}, "must be addresses such as"),
        ({"api_key_env": "ODD_KEY"}, "ODD_KEY holds no key"),
        ({"api_key_env": "GOOD_KEY"}, "would go to h unencrypted"),
        ({"base_urls": ["http://me:hunter2@h/v1"]}, "holds a secret"),
        ({"base_urls": ["http://h/v1?api_key=hunter2"]}, "holds a secret"),
        ({"api_key_env": "hunter2-not-a-name"}, "must be the name of an environment variable"),
        ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
        ({"concurrency": 0}, "concurrency must be above 0"),
    ],
)
def test_settings_that_cannot_work(settings: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    monkeypatch.setenv("ODD_KEY", "hunter2\nhunter2")
    monkeypatch.setenv("GOOD_KEY", "hunter2")
    with pytest.raises(UserError, match=said) as raised:
        ServerEngine(**{"model": "m", "base_urls": ["http://h/v1"], **settings})
    assert "hunter2" not in str(raised.value)


KEY = "sk-zq7/very+secret=Value-31415926535"
RECIPE = """# @package _global_
name: keys
curate:
  _target_: curation.run.curate
  out: ${{out}}
  system: Solve it.
  pool: {{p: {{_target_: limo.sources.file, path: {pool}}}}}
  stages:
    hard: {{_target_: curation.stages.attempts.measure_difficulty, by: m, engine: {engine}, sampling: {sampling},
    at_least: 0,
      at_most: 2, unknown: keep, early_stop: false, suspect: null}}
    choose: {{_target_: curation.stages.choose.problems, k: 3, by: pass_rate, prefer: highest, seed: 0}}
  controls: {{source: choose, kinds: [random], seed: 0}}
  pairs: null
  budget: {{samples: null, tokens: null}}
"""
SAMPLING = "{n: 2, temperature: 0.9, top_p: 1.0, max_tokens: 30, seed: 0}"


@pytest.mark.parametrize("outcome", ["success", "refused", "down", "unset"])
def test_keys_are_written_nowhere(outcome: str, tmp_path: Path) -> None:
    """A whole curation, with a server that echoes the header in its errors; every byte it leaves is searched."""
    texts = ["why [[echo]]", "refuse [[echo]]"] if outcome != "success" else []
    rows = [f'{{"problem": "{text}", "answer": "1"}}' for text in [*(f"q{i}?" for i in range(12)), *texts]]
    (tmp_path / "in" / "recipe").mkdir(parents=True)
    (tmp_path / "in" / "pool.jsonl").write_text("\n".join(rows))
    with faulty(1.0 if outcome == "down" else 0.0, ["echo"]) as server:
        settings = f"base_urls: [{server.url}], api_key_env: LIMO_TEST_KEY, tries: 2, backoff: 0.01, patience: 1.0"
        engine = f"{{_target_: limo.engines.server.ServerEngine, model: m, {settings}}}"
        recipe = RECIPE.format(pool=tmp_path / "in" / "pool.jsonl", engine=engine, sampling=SAMPLING)
        (tmp_path / "in" / "recipe" / "keys.yaml").write_text(recipe)
        command = ["curation.run", "--config-dir", str(tmp_path / "in"), "recipe=keys", f"runs={tmp_path / 'runs'}"]
        own = {"PYTHONPATH": str(ROOT), "LIMO_CACHE": str(tmp_path / "cache"), "LIMO_TEST_KEY": KEY}
        own = {k: v for k, v in own.items() if outcome != "unset" or k != "LIMO_TEST_KEY"}
        done = run_forked(command, tmp_path, {**os.environ, **own}, tmp_path / "in")
    assert done.returncode == (0 if outcome in ("success", "refused") else 2), done.stderr
    assert "Traceback" not in done.stderr
    if outcome == "unset":
        assert "LIMO_TEST_KEY is not set" in done.stderr
    if outcome == "refused":
        dropped = lines(tmp_path / "runs" / "keys" / "dropped.jsonl")
        whys = [d["detail"] for d in dropped if d["reason"] == "not sampled"]
        assert len(whys) == 2 and all("***" in why for why in whys), whys
    if outcome == "down":
        assert "***" in done.stderr
    left = [path for folder in ("runs", "cache") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert len(left) > 1 or outcome == "unset"
    for spelled in (part[at : at + 12].lower() for part in (KEY, KEY[::-1]) for at in (0, 8, len(part) // 2)):
        assert spelled not in (done.stdout + done.stderr).lower()
        assert not [path for path in left if spelled.encode() in path.read_bytes().lower()]


def test_an_engine_does_not_show_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMO_TEST_KEY", KEY)
    engine = asking("https://h/v1", api_key_env="LIMO_TEST_KEY")
    assert KEY not in repr(engine) + str(engine) + engine.fingerprint
    assert engine._keys.hide(f"Bearer {KEY}, {KEY}") == "Bearer ***, ***"


def test_an_echoed_key_is_hidden_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMO_TEST_KEY", KEY)
    keys = Keys("LIMO_TEST_KEY")
    assert not [text for text in map(keys.hide, spellings(f"Bearer {KEY}")) if KEY.lower() in text.lower()]
    for text in ("\\frac12 = 0.5 & 100 % of 7" * 9, "\\" * 200_000, "%25" * 100_000, KEY[:-1]):
        assert keys.hide(text) == text
    monkeypatch.setenv("LIMO_TEST_KEY", "EMPTY")
    assert Keys("LIMO_TEST_KEY").hide("The set is EMPTY.") == "The set is EMPTY.", "a word, and no secret"


def test_an_evaluation_asks_a_server(tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """The command of docs/engines.md, on three problems; `model` is the server's name, not a folder."""
    guide = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    (line,) = [line for line in guide.splitlines() if line.startswith("python -m eval.run")]
    rows = [f'{{"problem": "q{i}", "answer": "{i}"}}' for i in range(3)]
    (tmp_path / "three.jsonl").write_text("\n".join(rows))
    with faulty() as server:
        arguments = [a.replace("http://localhost:8000/v1", server.url) for a in shlex.split(line, comments=True)[2:]]
        own = [f"runs={tmp_path}", f"eval.benchmarks=[{tmp_path}/three.jsonl]", "eval.resamples=50"]
        done = run(*arguments, *own)
        assert done.returncode == 0, done.stderr
        assert len(server.counts()["delivered"]) == 3
        assert server.counts()["bodies"][-1]["model"] == "Qwen/Qwen3-32B"
    found = lines(tmp_path / "evaluate" / "eval" / "model" / "three.jsonl")
    assert all(row["completions"][0]["text"].startswith("Reply to") for row in found)
    again = run(*arguments, *own, "engine.concurrency=2", f"engine.base_urls=[{server.url}0]")
    assert again.returncode == 0, "finished, and it does not matter that the server is gone"


@pytest.mark.parametrize(
    ("choice", "tokens", "refused"),
    [
        ({"text": ""}, 9, False),  # of the endpoint for tokens
        ({"message": {"content": ""}}, 9, False),
        ({"message": {"content": None}}, 1, False),  # the end mark alone, as vLLM's parser of thoughts says it
        ({"message": {"content": None}}, 9, True),
        ({"message": {"content": None, "reasoning_content": "hm"}}, 9, False),
    ],
)
def test_an_empty_completion_is_no_lost_one(choice: dict[str, Any], tokens: int, refused: bool) -> None:
    event = {
        "choices": [{**choice, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": tokens},
    }
    reply = read_reply([b"data: " + json.dumps(event).encode()])
    assert (reply.refusal is not None) == refused
