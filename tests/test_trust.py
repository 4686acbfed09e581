"""What a stranger's recipe or chat template cannot do: run code, read secrets, write elsewhere, take forever."""

import importlib
import os
import pkgutil
import re
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from hydra.conf import HydraConf
from omegaconf import OmegaConf

import curation
import eval as eval_package
import limo
import limo.recipe
from limo.chat import set_template, template_text
from limo.errors import UserError
from limo.model import load_tokenizer
from limo.recipe import bind, compose, resolve, trust
from tests.conftest import CHATML

Run = Callable[..., CompletedProcess[str]]
HEAD = "# @package _global_\nname: x\n"
FILLED = "runtime overrides sweeper defaults override_dirname config_name".split()  # by Hydra; the sweeper: see below
SETTINGS = {  # a value of each kind that differs from Hydra's own
    "dict": {"x": {"_target_": "tests.slow_engine.Slow"}},
    "str": "elsewhere",
    "bool": True,
}


def written(folder: Path, recipe: str, **others: str) -> str:
    """A recipe `mine` in a folder of its own, and further files there; returns the setting that makes Hydra look."""
    for name, text in {"recipe/mine": recipe, **others}.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"hydra.searchpath=[file://{folder}]"


def below_hydra() -> list[tuple[str, Any]]:
    """Every setting below `hydra`, at any depth, with another value."""
    whole = OmegaConf.to_container(OmegaConf.structured(HydraConf), throw_on_missing=False)
    assert isinstance(whole, dict)

    def leaves(node: Any, where: str) -> Any:
        if isinstance(node, dict) and node:
            for key, inner in node.items():
                yield from leaves(inner, f"{where}.{key}" if where else str(key))
        elif isinstance(node, dict):
            yield where, SETTINGS["dict"]
        else:
            other = ["SECRET"] if isinstance(node, list) else not node if isinstance(node, bool) else "elsewhere"
            other = True if where == "job.chdir" else other
            yield where, "RUN" if where == "mode" else other

    return [item for item in leaves(whole, "") if not {*item[0].split(".")[:2]} & {*FILLED}]


@pytest.mark.parametrize(("key", "value"), below_hydra(), ids=lambda part: part if isinstance(part, str) else "")
def test_a_recipe_sets_nothing_below_hydra(key: str, value: Any, tmp_path: Path) -> None:
    node = value
    for part in reversed(key.split(".")):
        node = {part: node}
    look = written(tmp_path, HEAD + OmegaConf.to_yaml({"hydra": node}))
    refused = f"the recipe sets hydra.{key.partition('.')[0]}|primary config|while composing|environment"
    with pytest.raises(Exception, match=refused):
        compose("recipe=mine", look)
    # What the person at the keyboard sets is theirs
    (tmp_path / "recipe" / "mine.yaml").write_text(HEAD)
    if key in ("run.dir", "job.chdir", "output_subdir"):
        assert compose("recipe=mine", look, f"hydra.{key}={'true' if value is True else value}")["name"] == "x"


CALLBACK = "x: {_target_: tests.slow_engine.Slow}\n"


@pytest.mark.parametrize(
    ("recipe", "others"),
    [
        (f"{HEAD}defaults: [/a: x]\n", {"a/x": f"# @package hydra.callbacks\n{CALLBACK}"}),
        (f"{HEAD}defaults: [/a@hydra.callbacks: x]\n", {"a/x": CALLBACK}),
        (f"{HEAD}defaults: [/a@hydra.job: x]\n", {"a/x": "env_set: {LIMO_TRUST: os}\n"}),
        (f"{HEAD}defaults: [/a/x@_global_]\n", {"a/x": f"hydra: {{callbacks: {{{CALLBACK.strip()}}}}}\n"}),
        (
            f"{HEAD}defaults: [override /hydra/launcher: x]\n",
            {"hydra/launcher/x": "_target_: tests.slow_engine.Slow\n"},
        ),
        (f"{HEAD}hydra: {{overrides: {{task: ['+curate.pool.x=1']}}}}\n", {}),
        (f"{HEAD}hydra: {{overrides: {{hydra: ['hydra.run.dir=/tmp']}}}}\n", {}),
    ],
)
def test_nor_by_way_of_a_group(recipe: str, others: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the recipe sets hydra"):
        compose("recipe=mine", written(tmp_path, recipe, **others))


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("max_batch_size: 4", True),
        ("params: {train.seed: '1,2'}", True),
        ("params: {+hydra.callbacks.x: '{_target_: os.system}'}", False),
        ("params: {hydra.run.dir: elsewhere}", False),
        ("_target_: tests.slow_engine.Slow", False),
        ("_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper", True),
    ],
)
def test_the_sweepers_own_numbers_are_a_recipes(setting: str, allowed: bool, tmp_path: Path) -> None:
    look = written(tmp_path, f"{HEAD}hydra: {{sweeper: {{{setting}}}}}\n")
    if allowed:
        assert compose("recipe=mine", look)["name"] == "x"
    else:
        with pytest.raises(UserError, match=r"the recipe sets hydra\.sweeper"):
            compose("recipe=mine", look)


def public_functions() -> list[str]:
    """Whatever stands in a module of ours and can be called, imported names included."""
    found = set[str]()
    for package in (limo, curation, eval_package):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__") or "explore" in module.name:
                continue
            found |= {
                f"{module.name}.{name}"
                for name, value in vars(importlib.import_module(module.name)).items()
                if callable(value)
            }
    return sorted(found)


def test_a_recipe_reaches_only_functions_for_recipes() -> None:
    """Of all that our modules hold: nothing that was imported from elsewhere, nothing that takes other arguments."""
    reached = list[str]()
    for path in public_functions():
        try:
            function = resolve(path, "x")
        except UserError:
            continue
        reached.append(path)
        assert function.__module__.partition(".")[0] in ("limo", "curation", "eval", "tests"), path
    names = {path.rpartition(".")[2] for path in reached}
    assert {"file", "verify", "sft", "ServerEngine", "Sampling", "discopop"} <= names
    dangerous = (
        "run_module run_to_end replacing write_jsonl write_parquet trust partial rmtree Path Popen load_model".split()
    )
    assert not names & {*dangerous, "content_hash", "glob", "make_recipe", "serve", "Workers", "find_program"}
    assert len(public_functions()) > 5 * len(reached), "most are none"


def test_which_modules_are_trusted_is_read_before_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limo.recipe, "_trusted", [*limo.recipe.OURS])
    monkeypatch.setenv("LIMO_TRUST", "tests,os")  # as a recipe might, once it is composed
    for path in ("os.popen", "subprocess.run", "limousine.x", "builtins.eval", "tests.slow_engine.Slow"):
        with pytest.raises(UserError, match=rf"'{path}' is not of limo, curation, eval\. .* add --trust"):
            bind({"_target_": path}, "curate.pool.x")
    with pytest.raises(UserError, match="add --trust programs"):
        bind(
            {"_target_": "limo.engines.server.ServerEngine", "model": "m", "serve": "vllm", "serve_python": "/x"}, "e"
        )()
    trust("tests.slow_engine,shutil")
    assert bind({"_target_": "tests.slow_engine.Slow", "seconds": 0.0}, "engine")


@pytest.mark.parametrize(
    "name", "SECRET HF_TOKEN LIMO_API_KEY LIMO_TOKEN DATA_PASSWORD SLURM_AUTH MAMMOTH2_SECRET AWS_PROFILE".split()
)
@pytest.mark.parametrize(
    "way", ["${{oc.env:{0}}}", "${{oc.env:NOTHING,${{oc.env:{0}}}}}", "${{oc.decode:${{oc.env:{0}}}}}"]
)
def test_a_recipe_reads_no_secret_of_the_environment(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "sk-very-secret")
    for key in ("runs", "out", "metric"):
        look = written(tmp_path, f"{HEAD}{key}: '{way.format(name)}'\n")
        with pytest.raises(Exception, match="environment variable") as raised:
            compose("recipe=mine", look)
        assert "sk-very-secret" not in str(raised.value)
    monkeypatch.setenv("DATA_POOLS", "/data")
    assert compose("recipe=demo", "system=${oc.env:DATA_POOLS}")["system"] == "/data"
    with pytest.raises(UserError, match="LIMO_NOTHING, which is not set"):
        compose("recipe=demo", "system=${oc.env:LIMO_NOTHING}")


@pytest.mark.parametrize(
    "more",
    [
        ["hydra: {job: {env_set: {LIMO_TRUST: canary}}}", "curate: {pool: {x: {_target_: canary.f}}}"],
        ["hydra: {callbacks: {x: {_target_: canary.f}}}"],
        ["hydra: {job_logging: {handlers: {x: {(): canary.f}}, root: {handlers: [x]}}}"],
        ["hydra: {mode: MULTIRUN, sweep: {dir: '.'}}"],
        ["runs: '${oc.env:SECRET}'", "hydra: {run: {dir: '${runs}'}}"],
        ["curate: {pool: {canary: {_target_: limo.processes.run_module}}}"],
        [
            "x: &a [1,1,1,1,1,1,1,1,1]",
            *(
                f"x{i}: &{b} [{','.join([f'*{a}'] * 9)}]"
                for i, (a, b) in enumerate(zip("abcdefgh", "bcdefghi", strict=True))
            ),
        ],
        [f"x: {'[' * 2000}{']' * 2000}"],
        ["a: ${b}", "b: ${a}"],
    ],
    ids=["trust", "callbacks", "logging", "multirun", "folder", "program", "aliases", "nested", "cycle"],
)
@pytest.mark.parametrize("command", ["curation.check", "limo.train"])
def test_a_hostile_recipe_is_one_line_and_leaves_nothing(
    command: str, more: list[str], tmp_path: Path, run: Run
) -> None:
    (tmp_path / "canary.py").write_text("from pathlib import Path\nPath('ran').touch()\ndef f(*a, **k): ...\n")
    written(
        tmp_path / "my", "\n".join(["# @package _global_", "defaults: [/recipe/base, _self_]", "name: mine", *more])
    )
    done = run(
        command,
        "--config-dir",
        "my",
        "recipe=mine",
        "measured.held_out={path: x}",
        cwd=tmp_path,
        SECRET="sk-very-secret",
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith("error: ") and "sk-very-secret" not in done.stdout + done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["canary.py", "my"]


LOOP = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
DOUBLED = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LOOP, "takes more than 1 s"),
        (f"{{% if messages[0].content == 'long' %}}{LOOP}{{% endif %}}x", "takes more than 1 s"),
        ("{{ 'a' * 3000000000 }}", "takes too much memory"),
        ("{{ 'a' * 300000000000000 }}", "takes too much memory"),
        ("{{ 'a' * 100000000 }}", "the chat template takes "),  # characters or time, as the machine is
        ("{{ '%0999999999d' % 1 }}{{ '%0999999999d' % 1 }}{{ '%0999999999d' % 1 }}", "the chat template takes "),
        (DOUBLED, "the chat template takes "),  # memory or time, as the machine is
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "refuses messages of user: maximum recursion depth"),
        ("{{ 1 / 0 }}", "refuses messages of user: division by zero"),
        ("{{ messages[9].content }}", "refuses messages of user"),
        ("{{ cycler.__init__.__globals__.os.system('touch ran') }}", "refuses messages of user"),
        ("{{ raise_exception('no') }}", "refuses messages of user: no. Set system= if"),
        ("{% include '/etc/passwd' %}", "refuses messages of user"),
    ],
)
def test_a_hostile_chat_template_is_one_line(
    template: str, said: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("limo.rendering.SECONDS", 1.0)
    tokenizer = load_tokenizer(tiny)
    tokenizer.chat_template = template
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(UserError, match=re.escape(said)):
            template_text(tokenizer, [{"role": "user", "content": "long"}])
    assert time.monotonic() - begun < 20 and not (tmp_path / "ran").exists()
    tokenizer.chat_template = CHATML
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a <|im_end|> {{ 1 }}"}]
    assert template_text(tokenizer, messages) == tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    ), "and the next one is rendered as transformers does"


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "large", "bytes"])
def test_a_template_in_what_is_no_text_file_is_one_line(kind: str, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.jinja"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "/dev/zero":
        path.symlink_to(kind)
    else:
        path.write_bytes(b"\xff" if kind == "bytes" else b"x" * 2**26 + b"x")
    with pytest.raises(UserError, match=r"is a device or a pipe|has more than|it is not UTF-8 text"):
        set_template(load_tokenizer(tiny), str(path))
