"""A real vLLM, started by our own starter with the embedded model: make test-vllm.

What an engine promises is in tests/test_engines.py, which runs with this server as well. Here is what only a real one
can show: that it starts while it compiles, dies and comes back, leaves nothing behind, and gives the log-probabilities
and the greedy texts of our own engine.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curation.stages.likelihood import HERE_ONLY, SCORES, add_fit
from limo.console import say
from limo.data import Example, chat
from limo.engines.ledger import Cached
from limo.engines.local import TransformersEngine
from limo.engines.protocol import Prompt, Request, Sampling, sample, taker
from limo.engines.serve import LocalServer
from limo.engines.server import ServerEngine
from limo.errors import UserError
from limo.sources.known_truth import pool
from tests.conftest import EAGER, ROOT, split

pytestmark = pytest.mark.vllm
GREEDY = Sampling(n=1, temperature=0.0, top_p=1.0, max_tokens=48, seed=0)
WARM = Sampling(n=4, temperature=1.0, top_p=0.95, max_tokens=24, seed=0)
PROMPTS: list[Prompt] = [chat(f"What is {n} + {2 * n}? Tell me how.", "Be brief.") for n in range(12)]


def texts(done: Any) -> list[str]:
    return [row[0].text for row in done]


def asking(served: tuple[str, Path], **settings: Any) -> ServerEngine:
    return ServerEngine(model=str(served[1]), base_urls=[served[0]], **settings)


def left_behind() -> list[str]:
    """The processes of vLLM that run."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "vllm" in line.lower() and "pytest" not in line]


def test_greedy_texts_are_those_of_our_own_engine(vllm_served: tuple[str, Path]) -> None:
    here = TransformersEngine(model=str(vllm_served[1]), dtype="float32", batch_size=6)
    mine = sample(here, PROMPTS, GREEDY)
    for send in ("tokens", "messages"):
        theirs = sample(asking(vllm_served, send=send), PROMPTS, GREEDY)
        assert texts(theirs) == texts(mine), send
        assert [row[0].tokens for row in theirs] == [row[0].tokens for row in mine]
        assert [row[0].finish for row in theirs] == [row[0].finish for row in mine]


def test_a_prompt_as_long_as_the_context_and_one_token_less(vllm_served: tuple[str, Path]) -> None:
    """A completion gets the room that the prompt leaves; without any it is refused, and no other with it."""
    engine = asking(vllm_served, send="tokens")
    lengths = {words: len(engine._tokenizer(" why" * words)["input_ids"]) for words in (1, 400)}
    each = (lengths[400] - lengths[1]) / 399
    prompts = [chat(" why" * round((512 - 40) / each)), chat(" why" * 600), PROMPTS[0]]
    nearly, beyond, usual = (row[0] for row in sample(engine, prompts, replace(GREEDY, max_tokens=200)))
    assert nearly.finish in ("length", "stop") and 0 < nearly.tokens < 60, nearly
    assert beyond.finish == "refused" and "512" in beyond.why and beyond.tokens == 0
    assert usual.finish != "refused"
    ((cut,),) = sample(engine, PROMPTS[:1], replace(GREEDY, max_tokens=3))
    assert (cut.finish, cut.tokens) == ("length", 3)


def test_hundreds_of_requests_at_once(vllm_served: tuple[str, Path], tmp_path: Path) -> None:
    prompts = [chat(f"Say the number {n}.") for n in range(512)]
    engine = Cached(asking(vllm_served, send="tokens", concurrency=512), tmp_path)
    done = sample(engine, prompts, replace(GREEDY, max_tokens=4))
    assert len(done) == 512 and all(row[0].finish in ("stop", "length") and row[0].tokens for row in done)
    assert sample(engine, prompts, replace(GREEDY, max_tokens=4)) == done, "and from the ledger again"


def test_seeds_are_honoured_by_the_server(vllm_served: tuple[str, Path]) -> None:
    engine = asking(vllm_served, send="tokens", concurrency=1)
    first, again, other = (sample(engine, PROMPTS[:2], replace(WARM, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert all(len({c.text for c in row}) > 1 for row in first), "samples of one prompt differ"


def test_log_probabilities_are_those_of_the_model_here(vllm_served: tuple[str, Path]) -> None:
    """Ranks too, ties among them: nll, nll_inner, nll_local, rsr and ifd of chains with and without a flaw."""
    made = pool("made", "", size=6, seed=0, kinds=["legs"], dirt={}, flaws={"false step": 0.3, "filler": 0.3})
    rows = [row for row in made if isinstance(row, Example)]
    limits = {"dtype": "float32", "batch_size": 4, "max_length": 500}
    scores: Any = [name for name in SCORES if name not in HERE_ONLY]
    here, _ = split(add_fit(rows, model=str(vllm_served[1]), scores=scores, **limits))
    there, dropped = split(add_fit(rows, model=str(vllm_served[1]), scores=scores, server=vllm_served[0], **limits))
    assert not dropped and len(there) == len(rows)
    for one, other in zip(here, there, strict=True):
        assert other.scores == pytest.approx(one.scores, rel=2e-2), one.id
        assert other.scores["nll"] == pytest.approx(one.scores["nll"], rel=2e-3)


def test_a_model_that_the_server_does_not_hold_is_one_line(vllm_served: tuple[str, Path]) -> None:
    engine = ServerEngine(model="nobody/has-this", base_urls=[vllm_served[0]], patience=2.0, tries=2, backoff=0.1)
    with pytest.raises(UserError, match="nobody/has-this") as raised:
        sample(engine, PROMPTS[:1], GREEDY)
    assert "\n" not in str(raised.value)


def test_a_port_in_use_is_one_line(vllm_python: str, vllm_served: tuple[str, Path]) -> None:
    server = LocalServer("vllm", str(vllm_served[1]), (1, 1), EAGER, vllm_python, 300)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(server.address.rpartition(":")[2])))
        taken.listen()
        with pytest.raises(UserError, match="did not start") as raised:
            server.start()
    assert "\n" not in str(raised.value)


def test_thoughts_and_a_server_that_dies_and_comes_back(
    vllm_python: str, vllm_served: tuple[str, Path], tmp_path: Path
) -> None:
    """A template that opens a thought, a server that splits it off, killed in the middle; nothing is left behind."""
    folder = shutil.copytree(vllm_served[1], tmp_path / "thinks")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    path = folder / "chat_template.jinja"
    template = path.read_text() if path.exists() else config["chat_template"]
    start = "{{ '<|im_start|>assistant\n' }}"
    assert template.count(start) == 1, template
    path.write_text(template.replace(start, "{{ '<|im_start|>assistant\n<think>\n' }}"))
    settings: dict[str, Any] = {"serve": "vllm", "serve_python": vllm_python, "serve_args": EAGER, "backoff": 0.1}
    engine = ServerEngine(model=str(folder), send="tokens", **settings)
    waiting, done = deque(Request(prompt, 0, at) for at, prompt in enumerate(PROMPTS)), {}
    for request, completion in engine.complete(taker(waiting), GREEDY):
        done[request.at] = completion
        if len(done) == 2:
            os.killpg(engine._local._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    assert len(done) == len(PROMPTS) and all(c.text.startswith("<think>\n") for c in done.values()), "none is lost"
    process = engine._local._process  # type: ignore[union-attr]
    engine._local.stop()  # type: ignore[union-attr]
    assert process is not None and process.poll() is not None
    for file in folder.glob("*.json"):  # two tokens that nothing uses get the names that the server's parser looks for
        named = file.read_text().replace("<repo_name>", "<think>").replace("<file_sep>", "</think>")
        file.write_text(named)
    # Behind a token that it has never seen the model would end at once
    path.write_text(template.replace(start, "{{ '<|im_start|>assistant\n<think>\nFirst, I add' }}"))
    args = [*EAGER, "--reasoning-parser", "deepseek_r1"]
    second = ServerEngine(model=str(folder), **{**settings, "serve_args": args})  # another stage, after the first
    said = [row[0].text for row in sample(second, PROMPTS, GREEDY) if row[0].tokens > 1]
    assert said and all(text.startswith("<think>\n") for text in said), (
        "the server's reasoning stands before the answer"
    )
    second._local.stop()  # type: ignore[union-attr]


CODE = """
import sys
from limo.data import chat
from limo.engines.protocol import Sampling, sample
from limo.engines.server import ServerEngine
engine = ServerEngine(model=sys.argv[1], serve="vllm", serve_python=sys.argv[2], serve_args=sys.argv[3:])
sample(engine, [chat("Hello")], Sampling(1, 0.0, 1.0, 4, 0))
print("sampled", flush=True)
sample(engine, [chat(f"Count to {n}") for n in range(400)], Sampling(1, 0.0, 1.0, 400, 0))
"""


def test_a_server_starts_while_it_compiles_and_ends_with_us(
    vllm_python: str, vllm_served: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """As users start it, compiling; kill -9 of the process that asked for it leaves nothing behind."""
    options = [option for option in EAGER if option != "--enforce-eager"]
    before = left_behind()
    command = [sys.executable, "-c", CODE, str(vllm_served[1]), vllm_python, *options]
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "sampled\n"
    with capsys.disabled():
        say(f"vLLM: compiled and ready after {time.monotonic() - begun:.0f} s")
    assert len(left_behind()) > len(before)
    process.kill()
    process.wait()
    for _ in range(60):
        if len(left_behind()) <= len(before):
            break
        time.sleep(0.5)
    assert len(left_behind()) <= len(before), left_behind()


def test_how_often_greedy_texts_agree_in_bfloat16(
    vllm_python: str, vllm_served: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["bfloat16" if option == "float32" else option for option in EAGER]
    server = LocalServer("vllm", str(vllm_served[1]), (1, 1), options, vllm_python, 600)
    prompts = [chat(f"A box has {n} pens and costs {3 * n} coins. What are two boxes?") for n in range(2, 42)]
    try:
        theirs = sample(asking((server.start(), vllm_served[1]), send="tokens"), prompts, GREEDY)
    finally:
        server.stop()
    mine = sample(TransformersEngine(model=str(vllm_served[1]), dtype="bfloat16", batch_size=8), prompts, GREEDY)
    same = sum(a == b for a, b in zip(texts(mine), texts(theirs), strict=True))
    with capsys.disabled():
        say(f"vLLM in bfloat16: {same} of {len(prompts)} greedy texts of 48 tokens are equal")
    assert same >= len(prompts) // 5, "rounding makes texts part, not every one of them"
