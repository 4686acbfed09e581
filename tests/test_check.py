"""`limo check`: what is wrong with a recipe is said before anything is paid for, all of it."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

import curation.check
from curation.check import ask_hub, check_recipe, check_training
from limo.recipe import compose, compose_arguments
from limo.sources.new import make_recipe

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> list[str]:
    """The arguments that name a recipe for a file of one's own and a tiny model."""
    folder = tmp_path_factory.mktemp("mine")
    rows = [{"question": f"What is {n} plus 2?", "answer": str(n + 2)} for n in range(30)]
    (folder / "sums.json").write_text(json.dumps(rows))
    make_recipe(str(folder / "sums.json"), folder=folder / "my")
    return ["--config-dir", str(folder / "my"), "recipe=sums", f"student={tiny}", f"runs={folder / 'runs'}"]


def findings(mine: Sequence[str], *more: str) -> list[str]:
    """Those of a recipe, as lines."""
    found = check_recipe(compose(*compose_arguments([*mine, *more])))
    return [f"{finding.level}: {finding.text}" for finding in found]


def test_a_recipe_that_works_has_no_finding(mine: list[str]) -> None:
    assert findings(mine) == []


def test_all_mistakes_are_said_at_once_and_nothing_is_begun(mine: list[str], run: Run) -> None:
    wrong = {
        "curate.stages.best_chain.by=scor": "reads the score 'scor', which no stage before it adds",
        "+train.args.learning_rat=3": "train.args.learning_rat is not an argument of trl.SFTConfig",
        "curate.pool.sums.path=gone.csv": "no such file or folder 'gone.csv'",
        "engine.batch_size=90000000": "batch_size=",
        "+measured.nothere={}": "there is no benchmark 'nothere'",
        "curate.stages.choose.k=null": "problems needs k or tokens",
    }
    found = findings(mine, *wrong)
    for text in wrong.values():
        assert any(text in line and line.startswith("error: ") for line in found), (text, found)
    assert len(found) == len(wrong)
    done = run("curation.run", *mine, *wrong)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: 6 errors, listed above. Nothing was started"
    assert not (Path(mine[-1].partition("=")[2]) / "sums" / "stages").exists()


class Hub(BaseHTTPRequestHandler):
    """Knows one public dataset and one that is gated."""

    def do_GET(self) -> None:
        gated = "closed" in self.path
        known = gated or "open" in self.path or self.path == "/"
        self.send_response(403 if gated else 200 if known else 404)
        self.send_header("Content-Length", "2")
        if gated or not known:
            self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.end_headers()
        self.wfile.write(b"{}")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the address of the Hub."""

    def at(address: str) -> None:
        ask_hub.cache_clear()
        curation.check._hub_answers.cache_clear()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)

    return at


def test_the_hub_is_asked_where_it_answers(mine: list[str], hub: str, asked: Callable[[str], None]) -> None:
    names = ("open", "closed", "lost")
    pools = [f"+curate.pool.{n}={{_target_: limo.sources.hub, path: a/{n}, split: train}}" for n in names]
    asked(hub)
    found = findings(mine, *pools)
    assert [line[:60] for line in found] == [
        "error: curate.pool.closed: the dataset a/closed is gated: ac",
        "error: curate.pool.lost: the Hub has no dataset a/lost, or s",
    ]
    asked("http://127.0.0.1:9")
    assert findings(mine, *pools) == [f"unreachable: curate.pool.{n}: dataset a/{n}" for n in names]


def test_files_that_a_training_or_a_choice_reads(mine: list[str], tmp_path: Path) -> None:
    assert findings(["recipe=sft", mine[3], "train.data=my/gone.jsonl"]) == [
        "error: train.data: no such file 'my/gone.jsonl'"
    ]


def test_a_benchmark_that_nobody_can_download_is_left_out_with_a_warning(mine: list[str]) -> None:
    (line,) = findings(mine, "+eval.benchmarks.kaoyan={}")
    assert line.startswith("warning: ") and "'kaoyan' is not on the Hub" in line
    (line,) = findings(mine, "+eval.benchmarks.kaoyan={required: true}")
    assert line.startswith("error: ")


def test_a_key_does_not_follow_a_redirect(mine: list[str], hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = list[str | None]()

    class Elsewhere(Hub):
        def do_GET(self) -> None:
            heard.append(self.headers.get("Authorization"))
            self.send_response(302)
            self.send_header("Location", f"{hub}/open")
            self.end_headers()

    followed = list[str]()
    monkeypatch.setattr(Hub, "do_GET", lambda self: followed.append(self.path))
    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MY_KEY", "sk-abcdefgh")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    assert findings(mine, "engine=server", f"engine.base_urls=[{url}]", "engine.api_key_env=MY_KEY") == []
    server.shutdown()
    assert set(heard) == {"Bearer sk-abcdefgh"} and not followed


def test_rows_under_another_system_message_are_found(mine: list[str], tmp_path: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in (("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"))]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": turns, "answer": 2}) + "\n")
    source = f"+curate.pool.chats={{_target_: limo.sources.file, path: {tmp_path}/chats.jsonl}}"
    (line,) = findings(mine, source)
    assert line.startswith("error: curate.pool.chats: ") and "another system message: 1" in line


def test_a_server_that_is_not_there_and_a_program_that_is_not_installed(mine: list[str]) -> None:
    (line,) = findings(mine, "engine=server", "engine.base_urls=[http://127.0.0.1:9/v1]")
    assert "no server answers at http://127.0.0.1:9/v1" in line
    program, gpus = findings(mine, "engine=vllm", "engine.serve_python=/nowhere/python")
    assert "no GPU is visible, so vllm must be a build for CPUs" in gpus
    assert "cannot run '/nowhere/vllm'" in program


def test_a_training_that_cannot_fit_names_the_sharding_that_does(
    mine: list[str], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = shutil.copytree(tiny, tmp_path / "large")
    config = json.loads((large / "config.json").read_text())
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "head_dim": 512}
    (large / "config.json").write_text(json.dumps({**config, **sizes}))
    train = compose(*compose_arguments([*mine, "train.pack_tokens=1024"]))["train"]

    def errors(gpus: int, memory: float, **more: object) -> list[str]:
        monkeypatch.setattr(curation.check, "memory_of_devices", lambda gpus_only=False: [memory] * gpus)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e12))
        return [finding.text for finding in check_training({**train, "model": str(large), **more})]

    assert errors(8, 80e9, sharding="zero3") == []
    (text,) = errors(8, 24e9)
    assert "ddp on 8 devices needs 3" in text and "they have 24: train.sharding=zero2 on 8 devices would fit" in text
    (text,) = errors(1, 1e9)
    assert "a smaller model" in text
    (text,) = errors(3, 80e9, pack_tokens=None, global_batch=8)
    assert "cannot be divided over 3 devices" in text
