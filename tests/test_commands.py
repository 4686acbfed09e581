"""The commands as a person runs them, on a tiny random model."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, lines

Run = Callable[..., subprocess.CompletedProcess[str]]


def small(tiny: Path, runs: Path) -> list[str]:
    """The demo recipe made small enough for a test; every stage still runs."""
    return [
        "recipe=demo",
        f"runs={runs}",
        f"student={tiny}",
        "curate.pool.stories.size=40",
        "engine.dtype=float32",
        "curate.stages.choose.k=12",
        "train.args.num_train_epochs=1",
        "train.args.bf16=false",
        "train.args.logging_steps=1",
        "eval.benchmarks.new_problems.size=12",
        "eval.sampling.max_tokens=8",
        "eval.resamples=200",
    ]


def with_attempts(tiny: Path, runs: Path) -> list[str]:
    """The recipe of `limo new`, in which the student attempts every problem, made small."""
    source = "{{_target_: limo.sources.known_truth.{}, size: {}, seed: 3, kinds: [shop, seats]{}}}"
    return [
        *("recipe=base", f"runs={runs}", f"student={tiny}", "attempts.max_tokens=8", "engine.dtype=float32"),
        "+curate.pool.stories=" + source.format("pool", 24, ", dirt: {}, flaws: {}"),
        "+measured.held_out=" + source.format("problems", 4, ""),
        "+measured.dev=" + source.format("problems", 4, "").replace("seed: 3", "seed: 4"),
        *("k=6", "train.max_length=512", "curate.stages.difficulty.early_stop=false"),
    ]


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A run folder in which the three commands have run once."""
    runs = tmp_path_factory.mktemp("runs")
    for module in ("curation.run", "limo.train", "eval.run"):
        done = run(module, *small(tiny, runs))
        assert done.returncode == 0, done.stderr
    return runs / "demo"


def test_three_commands_make_a_whole_run(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert list(manifest) == [
        "curate",
        "train",
        "eval/base/new_problems",
        "eval/raw/new_problems",
        "eval/random/new_problems",
        "eval/chosen/new_problems",
    ]
    for name in ("raw", "random"):
        control = json.loads((finished / name / "manifest.json").read_text())["train"]
        assert control["finished"] and control["settings"]["data"].endswith(f"controls/{name}.jsonl")
        assert control["results"]["rows"] == control["results"]["steps"] * 4 == 12, "equal rows and steps"
    assert all(entry["finished"] for entry in manifest.values())
    chosen = lines(finished / "curated.jsonl")
    dropped = lines(finished / "dropped.jsonl")
    assert len(chosen) == 12
    assert all(row["reason"] and row["stage"] for row in dropped)
    funnel = manifest["curate"]["results"]["funnel"]
    assert funnel[0]["in"] == len(chosen) + len(dropped), "a row was lost or doubled on the way"
    kinds = {"raw", "longest", "random", "random_tokens"}
    assert {p.stem for p in (finished / "controls").iterdir()} == kinds
    assert "| stories | Apache-2.0 |" in (finished / "README.md").read_text()
    assert manifest["train"]["results"]["rows"] == 12
    assert (finished / "model" / "model.safetensors").is_file()
    assert not (finished / "checkpoints").exists()
    assert "<svg" in (finished / "report.html").read_text()
    summary = json.loads((finished / "eval" / "summary.json").read_text())
    assert [(d["before"], d["after"]) for d in summary["differences"]] == [
        ("random", "chosen"),
        ("raw", "chosen"),
        ("base", "chosen"),
    ]
    assert all(d["n"] >= 3 for d in summary["differences"])


def test_why_tells_a_row_s_story(finished: Path, run: Run) -> None:
    chosen, dropped = lines(finished / "curated.jsonl"), lines(finished / "dropped.jsonl")
    told = run("curation.why", str(finished), chosen[0]["id"])
    assert told.returncode == 0, told.stderr
    for said in (
        "Stages",
        "  true_steps     ",
        "Chains",
        "chosen",
        f"nll_inner {chosen[0]['scores']['nll_inner']:.3f}",
    ):
        assert said in told.stdout, told.stdout
    left = next(row for row in dropped if row["stage"] == "choose")
    told = run("curation.why", str(finished), left["id"])
    assert f"choose: {left['reason']} ({left['detail']})" in told.stdout, told.stdout
    for arguments, said in (
        ((str(finished), "stories"), "no row 'stories'"),
        ((str(finished), "stories/9999"), "its ids look like stories/1"),
        (("nowhere", "x"), "no finished stage"),
    ):
        refused = run("curation.why", *arguments)
        assert refused.returncode == 2 and said in refused.stderr and refused.stderr.count("\n") == 1


def test_a_plan_is_made_from_a_pilot_that_is_not_paid_for_again(tiny: Path, tmp_path: Path, run: Run) -> None:
    settings = [*with_attempts(tiny, tmp_path), "seed=77", "plan.pilot=6", "curate.budget.samples=30"]
    done = run("curation.cost", *settings, "plan.dollars_per_gpu_hour=2")
    assert done.returncode == 0, done.stderr
    assert "took 12 samples" in done.stdout and "hours" in done.stdout
    assert "The budget of 30 samples would be used up" in done.stdout, done.stdout
    stopped = run("curation.run", *settings)
    assert stopped.returncode == 2 and "budget of 30 samples is used up: 30 samples" in stopped.stderr, stopped.stderr
    done = run("curation.run", *settings, "curate.budget.samples=1000")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "base" / "manifest.json").read_text())
    attempts = next(line for line in manifest["curate"]["results"]["funnel"] if line["stage"] == "difficulty")
    assert attempts["found"] == 30 and attempts["sampled"] == 2 * 24 - 30
    refused = run("curation.cost", *settings, "plan.tokens_per_second={dificulty: 1}")
    assert refused.returncode == 2 and "did you mean 'difficulty'?" in refused.stderr


def test_a_finished_run_is_recognised_and_nothing_is_sampled_again(finished: Path, tiny: Path, run: Run) -> None:
    before = json.loads((finished / "manifest.json").read_text())
    for module in ("curation.run", "limo.train", "eval.run"):
        done = run(module, *small(tiny, finished.parent))
        assert done.returncode == 0, done.stderr
        assert "completions," not in done.stderr and "steps," not in done.stderr, done.stderr
    assert json.loads((finished / "manifest.json").read_text()) == before


def test_other_settings_are_refused_with_the_way_on(finished: Path, tiny: Path, run: Run) -> None:
    done = run("limo.train", *small(tiny, finished.parent), "train.args.learning_rate=1e-5")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "args.learning_rate: 0.0003 -> 1e-05" in done.stderr and "name=<name>" in done.stderr


def test_the_batch_size_of_sampling_may_change(finished: Path, tiny: Path, run: Run) -> None:
    assert run("curation.run", *small(tiny, finished.parent), "engine.batch_size=3").returncode == 0


def test_an_output_changed_by_hand_is_not_overwritten(finished: Path, tiny: Path, run: Run) -> None:
    path = finished / "curated.jsonl"
    kept = path.read_text()
    path.write_text(kept + "\n")
    try:
        done = run("curation.run", *small(tiny, finished.parent))
        assert done.returncode == 2 and "was changed after 'curate' wrote it" in done.stderr
        done = run("limo.train", *small(tiny, finished.parent))
        assert done.returncode == 2 and "has other content" in done.stderr
    finally:
        path.write_text(kept)


def test_multirun_gives_each_job_a_folder_of_its_own(finished: Path, tiny: Path, run: Run) -> None:
    done = run("limo.train", "--multirun", *small(tiny, finished.parent), "train.seed=1,2")
    assert done.returncode == 0, done.stderr
    folders = [finished / "sweep" / name for name in sorted(p.name for p in (finished / "sweep").iterdir())]
    assert len(folders) == 2 and all((f / "model" / "config.json").is_file() for f in folders)
    assert all("train.seed=" in f.name for f in folders)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("curation.run", "choose a recipe: recipe=<name>"),
        ("curation.run recipe=dmo", "there is no recipe 'dmo'; did you mean 'demo'?"),
        ("curation.run recipe=demo k=10", "no key 'k' (did you mean 'curate.stages.choose.k'?)"),
        (
            "curation.run recipe=demo +k=10",
            "nothing reads the recipe's key 'k' (did you mean 'curate.stages.cho",
        ),
        ("curation.run recipe=lemma_demo +attempts.temprature=1", "not a setting of Sampling; did you mean"),
        ("limo.train recipe=demo ~train.seed", "train.seed is missing"),
        ("limo.train --multirun recipe=demo train.max_length=abc", "train.max_length must be a valid integer"),
        ("limo.train recipe=demo train.model=no/where train.data={here} name=none", "no such model: 'no/where' is no"),
        ("eval.run recipe=demo eval.benchmarks=[x.jsonl]", "remove that first: '~eval.benchmarks' '+eval"),
        ("eval.run recipe=evaluate eval.models.model=runs/none/model", "no such model folder 'runs/none/model'"),
        ("eval.report recipe=demo name=none", "there is no run in 'runs/none'"),
        (
            "curation.methods.rise.improve recipe=rise_demo improve.iterations=0",
            "improve.iterations must be at least 1",
        ),
    ],
)
def test_a_mistake_gets_one_line_and_an_exit_code(command: str, said: str, run: Run, tmp_path: Path) -> None:
    done = run(*command.format(here=__file__).split(), cwd=tmp_path)
    message = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert any(said in line for line in message), done.stderr
    assert len(message) == (2 if "--multirun" in command else 1) or "listed above" in message[-1], done.stderr
    assert "Traceback" not in done.stderr


def test_help_shows_recipes_and_a_section(run: Run, tmp_path: Path) -> None:
    assert "recipe: base, demo, " in run("curation.run", "--help").stdout
    shown = run("limo.train", "--help", "recipe=demo", "train.seed=7").stdout
    (tmp_path / "recipe").mkdir()
    mine = (ROOT / "recipes" / "recipe" / "demo.yaml").read_text().replace("name: demo", "name: mine")
    (tmp_path / "recipe" / "mine.yaml").write_text(mine)
    assert "name: mine" in run("limo.train", "--help", "--config-dir", str(tmp_path), "recipe=mine").stdout
    assert "_target_: limo.train.sft" in shown and "seed: 7" in shown
    wrong = run("curation.run", "--config-dir", str(tmp_path), "recipe=mine", "curate.stages.choose.kk=3")
    assert (
        wrong.returncode == 2
        and wrong.stderr.count("\n") == 1
        and "no key 'curate.stages.choose.kk' (did you mean 'curate.stages.choose.k'?)" in wrong.stderr
    )


def test_a_checkpoint_is_chosen_on_dev_problems(finished: Path, tiny: Path, run: Run) -> None:
    more = [
        "name=swept",
        f"train.data={finished / 'curated.jsonl'}",
        "train.args.num_train_epochs=2",
        "train.args.save_strategy=epoch",
    ]
    keep = ["train.keep_checkpoints=true", "train.args.save_total_limit=null", "pick.dev.dev_seeds.size=12"]
    arguments = [*small(tiny, finished.parent), *more, *keep]
    refused = run("eval.pick", *arguments)
    assert refused.returncode == 2 and "keep_checkpoints=true" in refused.stderr
    trained = run("limo.train", *arguments)
    assert trained.returncode == 0, trained.stderr
    done = run("eval.pick", *arguments)
    assert done.returncode == 0, done.stderr
    folder = finished.parent / "swept" / "pick"
    found = json.loads((folder / "chosen.json").read_text())
    assert len(found["checkpoints"]) == 2 and Path(found["chosen"], "config.json").is_file()
    assert f"eval.models.tuned={found['chosen']}" in done.stdout.replace("\n", "")
    before = json.loads((folder / "manifest.json").read_text())
    assert run("eval.pick", *arguments).returncode == 0
    assert json.loads((folder / "manifest.json").read_text()) == before, "nothing is evaluated again"


def test_benchmarks_from_local_files_and_a_comparison(tiny: Path, tmp_path: Path, run: Run) -> None:
    rows = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i), "level": i % 2} for i in range(6)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        "recipe=evaluate",
        f"runs={tmp_path}",
        f"eval.models.model={tiny}",
        f"+eval.models.again={tiny}",
        f"eval.benchmarks=[{tmp_path}/sums.jsonl]",
        "eval.protocol=null",
        "engine.dtype=float32",
        "eval.resamples=100",
    ]
    drawn = ["eval.sampling.n=3", "eval.sampling.temperature=1.0", "eval.sampling.max_tokens=6"]
    done = run("eval.run", *settings, *drawn)
    assert done.returncode == 0, done.stderr
    assert "cut off %" in done.stdout and "pass@k" in done.stdout
    found = json.loads((tmp_path / "evaluate" / "eval" / "summary.json").read_text())["accuracy"]["model"]["sums"]
    assert list(found["pass_at"]) == ["1", "2", "3"] and list(found["parts"]) == ["level"]
    assert found["completions"] == 18 and found["parts"]["level"]["0"]["n"] == 3
    compared = run("eval.compare", f"{tmp_path}/evaluate:model", f"{tmp_path}/evaluate:again")
    assert compared.returncode == 0 and "sums" in compared.stdout and "+0.0" in compared.stdout, compared.stderr
    page = (tmp_path / "evaluate" / "report.html").read_text()
    assert "Accuracy" in page and "id=manifest" in page
    helped = run("eval.run", "--help", "recipe=evaluate")
    assert helped.returncode == 0 and "model: ???" in helped.stdout
    for wrong, said in (
        ("eval.sampling.maxtokens=5", "did you mean 'eval.sampling.max_tokens'?"),
        ("eval.sampling.temperature=0", "3 completions at temperature 0"),
        ("eval.benchmarks=[]", "eval.benchmarks names none"),
    ):
        typed = run("eval.run", *settings, *drawn, wrong)
        assert typed.returncode == 2 and said in typed.stderr and typed.stderr.count("\n") == 1, typed.stderr
    refused = run("eval.compare", f"{tmp_path}/evaluate", str(tmp_path))
    assert refused.returncode == 2 and refused.stderr.startswith("error: ") and refused.stdout == ""
