"""The console script, Hydra's own flags, sweeps, and mistakes in recipes, as a user meets them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import limo as package
from limo.cli import main
from limo.command import read_arguments
from limo.errors import UserError
from tests.conftest import ROOT
from tests.test_commands import Run

LIMO = Path(sys.executable).with_name("limo")


def limo(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run([str(LIMO), *arguments], capture_output=True, text=True, timeout=300, cwd=folder, env=env)


def test_a_folder_with_a_module_named_eval_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "eval.py").write_text("raise RuntimeError('the user has a module of this name')")
    (tmp_path / "mine.py").write_text("def rows(name, system, /, *, size):\n    yield from ()\n")
    done = limo(
        tmp_path, "curate", "--trust", "mine", "recipe=demo", "+curate.pool.mine={_target_: mine.rows, sizes: 3}"
    )
    assert done.returncode == 2 and "mine.sizes is not a setting of mine.rows; did you mean 'size'" in done.stderr
    assert "limo <command>" in limo(tmp_path).stdout
    assert limo(tmp_path, "cruate").stderr == "error: there is no command 'cruate'; did you mean 'curate'?\n"
    completed = limo(tmp_path, "-sc", "query=bash", COMP_LINE="limo train recipe=limo_s")
    assert completed.stdout.strip() == "recipe=limo_small", completed.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# @package _global_\nname: x\n  bad: [\n", "mine.yaml, line 3: not valid YAML"),
        ("name: x\n", "the recipe's first line must be `# @package _global_`"),
        ("# @package _global_\ndefaults: [/trian: sft]\nname: x\n", "there is no 'sft' in the group trian"),
        ("# @package _global_\nname: x\n", "the recipe 'x' has no section 'train'"),
    ],
)
@pytest.mark.parametrize("flag", ["--config-dir=my", "-cd"])
def test_a_mistake_in_a_recipe_is_one_line(text: str, said: str, flag: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "my" / "recipe").mkdir(parents=True)
    (tmp_path / "my" / "recipe" / "mine.yaml").write_text(text)
    flags = [flag, "my"] if flag == "-cd" else [flag]
    done = run("limo.train", "recipe=mine", *flags, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path, run: Run) -> None:
    row = {"id": "a", "prompt": [{"role": "user", "content": "q"}], "answer": "1", "completion": "1"}
    (tmp_path / "d.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "afile").touch()
    for arguments, said in [
        (["runs/demo"], "'runs/demo' is not key=value. A recipe is named by recipe=NAME, a run's folder by out=FOLDER"),
        (["engine=foo"], "there is no 'foo' in the group engine; known are openai, server, transformers, vllm"),
        (["train.args.learning_rate=abc"], "train.args.learning_rate must be a valid number, not 'abc'"),
        (["runs=afile"], "a file has the name of a folder in that path"),
        (["--run", "--cfg", "job"], "can be specified"),
    ]:
        done = run("limo.train", "recipe=demo", "train.data=d.jsonl", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, (arguments, done.stderr)


def test_a_long_system_prompt_is_not_taken_for_a_path(tmp_path: Path, tiny: Path) -> None:
    done = limo(
        tmp_path, "curate", "recipe=demo", f"system={'Think. ' * 60}", f"student={tiny}", "curate.stages.choose.k=x"
    )
    assert done.returncode == 2 and "curate.stages.choose.k must be" in done.stderr, done.stderr


@pytest.mark.slow
def test_a_sweep_continues_after_a_failed_job_and_reports_its_metric(tmp_path: Path, tiny: Path) -> None:
    rows = [
        {
            "id": str(i),
            "prompt": [{"role": "user", "content": f"{i} + 1"}],
            "answer": str(i + 1),
            "completion": f"It is {i + 1}.",
        }
        for i in range(4)
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["recipe=demo", f"student={tiny}", "system=''", "train.data=d.jsonl", "train.args.bf16=false"]
    settings += [
        "train.global_batch=2",
        "train.args.num_train_epochs=1",
        "metric=train.last_loss",
        "train.args.logging_steps=1",
    ]
    done = limo(tmp_path, "train", "--multirun", *settings, "train.max_length=8,256")
    assert done.returncode == 2 and "a job of the sweep failed: 'train.max_length=8'" in done.stderr
    table = done.stderr[done.stderr.index("2 jobs") :]
    assert table.count("failed (2)") == 1 and table.count("done") == 1, table
    manifest = json.loads((tmp_path / "runs/demo/sweep/train.max_length=256/manifest.json").read_text())
    assert f"{manifest['train']['results']['last_loss']:g}" in table


def test_python_without_the_packages_is_one_line(tmp_path: Path) -> None:
    bare = subprocess.run(
        [sys.executable, "-S", "-m", "limo.train"], capture_output=True, text=True, cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert bare.returncode == 1 and bare.stderr.startswith("error: the toolkit's packages are missing from")
    assert bare.stderr.count("\n") == 1


def test_commands_without_a_recipe_take_words_and_settings() -> None:
    def ask(a: str, n: int, more: list[str], *, out: Path | None = None, tags: list[str] | None = None) -> None: ...

    def read(*words: str) -> dict[str, object]:
        return read_arguments(ask, words, "limo ask")

    assert read("x", "3") == {"a": "x", "n": 3, "more": []}
    assert read("x", "3", "p", "out=o", "tags=[k,l]", "--tags", "m")["tags"] == ["k", "l", "m"]
    for words, text in (
        (("x",), "Usage: limo ask A N MORE [out=...] [tags=...]"),
        (("x", "y"), "n must be a valid integer, not 'y'"),
        (("x", "3", "ouut=1"), "no setting 'ouut'; did you mean 'out'?"),
        (("x", "3", "out=1", "out=2"), "out is given 2 times"),
    ):
        with pytest.raises(UserError, match=re.escape(text)):
            read(*words)


def test_names_are_completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COMP_LINE", "limo tr")
    monkeypatch.setattr(sys, "argv", ["limo", "-sc", "query=bash"])
    main()
    assert capsys.readouterr().out == "train\n"


def test_the_package_gives_what_it_names() -> None:
    assert package.__version__ and all(callable(getattr(package, name)) for name in package.EXPORTS)
    with pytest.raises(ImportError):
        from limo import nothing  # type: ignore[attr-defined]  # noqa: F401
