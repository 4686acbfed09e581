"""`limo check`: what is wrong with a recipe is said before anything is paid for, all of it."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import yaml

import curation.check_machine
from curation.check import check_recipe
from curation.check_machine import ask_hub, check_training
from limo.errors import UserError
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
    return [f"{finding.level}: {finding.line}" for finding in found if finding.text != FEWER]


FEWER = "train.global_batch=8 is more than the 4 problems that are chosen"  # of this recipe


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
        curation.check_machine._hub_answers.cache_clear()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)

    return at


def test_what_is_read_from_the_hub_inside_a_source_is_not_checked(
    mine: list[str], asked: Callable[[str], None]
) -> None:
    """Wherever it stands: in a benchmark, in what rows are compared with, in a target, in the pool."""
    asked("http://127.0.0.1:9")
    node = "{_target_: limo.sources.hub, path: a/b, split: test}"
    begun = f"{{_target_: curation.methods.lemma.begun.begun, source: {node}, types: [CA], right: false, seed: 0}}"
    decontaminate = (
        f"{{_target_: curation.stages.decontaminate.decontaminate, benchmarks: {{x: {begun}}}, variants: keep}}"
    )
    known = compose(*compose_arguments(mine))["curate"]["order"]
    order = f"curate.order=[clean,{','.join(known)}]" if known else "++curate.order=null"
    for more in (
        [f"+eval.benchmarks.x={begun}"],
        [f"+eval.benchmarks.x={node}"],
        [f"+curate.stages.clean={decontaminate}", order],
        [f"+curate.pool.x={begun}"],
        [f"+curate.pool.x={node}"],
    ):
        assert findings(mine, *more) == ["unchecked: the dataset a/b, since the Hub cannot be reached"], more


@pytest.mark.parametrize("recipe", ["lemma_gsm8k", "rise_gsm8k", "gsm8k"])
def test_a_recipe_that_needs_the_hub_has_no_error_without_it(
    recipe: str, asked: Callable[[str], None], tmp_path: Path
) -> None:
    asked("http://127.0.0.1:9")
    found = check_recipe(compose(f"recipe={recipe}", f"runs={tmp_path}"))
    errors = [f.line for f in found if f.level == "error" and "there is no such program" not in f.text]
    assert not errors and any("since the Hub cannot be reached" in f.text for f in found if f.level == "unchecked")


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
    assert findings(mine, *pools) == [f"unchecked: the dataset a/{n}, since the Hub cannot be reached" for n in names]


def test_files_that_a_training_or_a_choice_reads(mine: list[str], tmp_path: Path) -> None:
    assert findings(["recipe=sft", mine[3], "train.data=my/gone.jsonl", "eval.sampling.max_tokens=64"]) == [
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
        monkeypatch.setattr(curation.check_machine, "memory_of_devices", lambda gpus_only=False: [memory] * gpus)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e12))
        return [finding.line for finding in check_training({**train, "model": str(large), **more})]

    assert errors(8, 80e9, sharding="zero3") == []
    (text,) = errors(8, 24e9)
    assert "ddp on 8 devices needs 3" in text and "they have 24: train.sharding=zero2 on 8 devices would fit" in text
    (text,) = errors(1, 1e9)
    assert "a smaller model" in text
    (text,) = errors(3, 80e9, pack_tokens=None, global_batch=8)
    assert "cannot be divided over 3 devices" in text


Q = "What is {} plus 2, in words and then as a number?"


def heir(folder: Path, tiny: Path, text: str = "", **files: list[dict[str, Any]]) -> list[str]:
    """The arguments that name a recipe of one's own for these files, built on base, with further text."""
    rows = [{"problem": Q.format(n), "answer": str(n + 2), "solution": f"It is \\boxed{{{n + 2}}}."} for n in range(50)]
    for name, given in ({"pool": rows[:40], "held": rows[40:45], "dev": rows[45:]} | files).items():
        (folder / f"{name}.json").write_text(json.dumps(given))
    paths = {name: str(folder / f"{name}.json") for name in ("pool", "held", "dev")}
    pool = {"mine": {"_target_": "limo.sources.file", "path": paths["pool"]}}
    recipe = {
        **{"defaults": ["/recipe/base", "_self_"], "name": "mine", "student": str(tiny), "k": 8},
        **{"curate": {"pool": pool}, "train": {"max_length": 256}, "attempts": {"n": 1, "max_tokens": 8}},
        "measured": {"held_out": {"path": paths["held"]}, "dev": {"path": paths["dev"]}},
    }
    (folder / "recipe").mkdir()
    given = yaml.safe_load(text) or {}
    written = {**{key: value for key, value in recipe.items() if key not in given}, **given}
    written = {key: value for key, value in written.items() if value != "LEFT OUT"}
    (folder / "recipe" / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(written, sort_keys=False))
    return named(folder)


@pytest.mark.parametrize("key", "studnet kk seeed controls trian max_length evaluation curat stages n".split())
@pytest.mark.parametrize("value", ["8", "{a: 1}", "[x]", "text"])
def test_a_key_at_the_top_that_nothing_reads_is_an_error(key: str, value: str, tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(UserError, match=f"nothing reads the recipe's key '{key}'"):
        findings(heir(tmp_path, tiny, f"{key}: {value}"))


@pytest.mark.parametrize("key", "curat currate train2 trian eval_ evals".split())
def test_a_misspelt_section_is_no_alternative(key: str, tmp_path: Path, tiny: Path) -> None:
    node = "{a: {_target_: limo.sources.file, path: x}}"
    with pytest.raises(UserError, match=f"nothing reads the recipe's key '{key}'"):
        findings(heir(tmp_path, tiny, f"{key}: {node}"))


def test_what_is_read_is_not_reported(tmp_path: Path, tiny: Path) -> None:
    """Keys that others name, and alternatives for the command line."""
    more = "mine: {a: [1]}\nstudent2: x\nsystem: 'Of ${mine.a} and ${oc.select:student2,y}.'\n"
    more += "other: {_target_: limo.engines.local.TransformersEngine, dtype: float32, batch_size: 2}\n"
    assert findings(heir(tmp_path, tiny, more)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: LEFT OUT", "section curate names no function"),
        ("defaults: LEFT OUT\ncurate: LEFT OUT\ntrain: {max_length: 8}", "section train names no function"),
    ],
)
def test_a_recipe_without_defaults(text: str, said: str, tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(UserError, match=said):
        findings(heir(tmp_path, tiny, text))


def made(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    return [{"problem": Q.format(n), "answer": str(n + 2), **more} for n in numbers]


@pytest.mark.parametrize(
    ("text", "files", "overrides", "said"),
    [
        ("k: 500", {}, [], "warning: curate.stages.choose.k=500 is more than the pool has: 40 problems before"),
        ("k: 38", {"held": made(*range(5))}, [], "k=38 is more than the pool has: 35 problems that are not measured"),
        ("train: {max_length: 8}", {}, [], "error: train.max_length=8: 0 of the pool's first 40 rows fit"),
        ("train: {max_length: 8}", {"pool": made(*range(40))}, [], "error: train.max_length=8: 0 of the pool's"),
        (
            "",
            {},
            ["train.sharding=zero4"],
            "error: train.sharding=zero4 is not a file and not one of ddp, fsdp2, zero1",
        ),
        ("", {}, ["train.sharding=ddpp"], "error: train.sharding=ddpp is not a file"),
        (
            "",
            {"pool": made(*range(40), solution="It is \\boxed{7777}.")},
            [],
            "error: none of the pool's first 40 chains ends in its answer",
        ),
        ("train: {max_length: 256, global_batch: 64}", {}, [], "warning: train.global_batch=64 is more than the 8"),
        ("", {"held": made(*range(40))}, [], "error: every problem of the pool is measured too (40 are in"),
        ("", {"dev": made(*range(40), 77)}, [], "error: every problem of the pool is measured too (40 are in"),
        ("", {"held": made(*range(30))}, [], "warning: of 40 problems of the pool, 30 are in"),
        ("", {"dev": made(*range(40, 45))}, [], "held_out and curate.stages.decontaminate.benchmarks.dev share 5"),
        ("", {"held": [{"problem": "q?"}]}, [], "error: curate.stages.decontaminate.benchmarks: benchmark 'held_out'"),
        ("", {"held": [*made(1), {"problem": "q?"}]}, [], "1 of 2 rows cannot be used"),
        (
            "",
            {},
            ["+curate.stages.choose.shares={topic: equal}"],
            "shares.topic: no row of the pool has a note 'topic'",
        ),
        ("", {}, ["+curate.stages.choose.shares={source: {x: 1.0}}"], "has source 'x'; known are mine"),
        (
            "",
            {"pool": made(*range(40), kind="sums")},
            ["+curate.stages.choose.shares={kind: {sums: 0.5, products: 0.5}}"],
            "error: curate.stages.choose.shares.kind: no row of the pool has kind 'products'; known are sums",
        ),
        ("", {}, ["curate.stages.choose.by=level"], "error: curate.stages.choose: reads the score 'level'"),
        ("control: [randum]", {}, [], "error: control has 'randum'"),
        ("eval: {sampling: {n: 4}}", {}, [], "error: eval.sampling: 4 samples at temperature 0 are one"),
        ("attempts: {n: 1, max_tokens: 4096}", {}, [], "max_tokens=4,096, and the model takes 512 tokens"),
        ("", {}, ["+curate.exclude=/no/marks.jsonl"], "error: curate.exclude: cannot read '/no/marks.jsonl'"),
        ("", {}, ["curate.budget.dollars=5"], "warning: curate.budget.dollars limits nothing"),
        ("name: ''", {}, [], "error: name: '' names files"),
        ('name: "a\\nb"', {}, [], "names files: 1 to 120 characters, no slash, line break"),
    ],
)
def test_what_newcomers_do_is_found(
    text: str, files: dict[str, Any], overrides: list[str], said: str, tmp_path: Path, tiny: Path
) -> None:
    found = findings(heir(tmp_path, tiny, text, **files), *overrides)
    assert any(said in line for line in found), found


def test_what_was_not_checked_is_said(tmp_path: Path, tiny: Path, run: Run) -> None:
    done = run("curation.check", *heir(tmp_path, tiny), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("mine: no error found. Not checked: ") and "what models will reply" in said
    pool = "+curate.pool.x={_target_: limo.sources.hub, path: a/b, split: train}"
    done = run("curation.check", *named(tmp_path), pool, cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert "the dataset a/b, since the Hub cannot be reached" in done.stderr.splitlines()[-1]


def named(folder: Path) -> list[str]:
    return ["--config-dir", str(folder), "recipe=mine", f"runs={folder / 'results'}"]
