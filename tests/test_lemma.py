"""The demo of learning from errors as a person runs it: four commands, two trainings, one table; a tiny model."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.grade import grade
from limo.data import read_jsonl
from limo.recipe import compose
from tests.conftest import lines

Run = Callable[..., subprocess.CompletedProcess[str]]
NAMES = ["base", "error_free", "lemma"]


def small(tiny: Path, runs: Path) -> list[str]:
    sizes = "curate.pool.sums.size=24 curate.pool.words.size=8 curate.stages.mix.k=12 begun.size=12 begun_right.size=5"
    sizes += " eval.benchmarks.new_sums.size=4 eval.benchmarks.new_words.size=4 attempts.max_tokens=8"
    short = "engine.dtype=float32 train.args.num_train_epochs=1 train.args.bf16=false eval.sampling.max_tokens=8"
    return ["recipe=lemma_demo", f"runs={runs}", f"student={tiny}", *f"{sizes} {short} eval.resamples=100".split()]


@pytest.mark.slow
def test_four_commands_make_a_whole_run(tiny: Path, tmp_path: Path, run: Run) -> None:
    settings, out = small(tiny, tmp_path), tmp_path / "lemma_demo"
    other = [f"out={out}/error_free", f"train.data={out}/controls/error_free.jsonl"]
    for module, more in (("curation.run", []), ("limo.train", []), ("limo.train", other), ("eval.run", [])):
        done = run(module, *settings, *more)
        assert done.returncode == 0, done.stderr
    rows, free = list(read_jsonl(out / "curated.jsonl")), list(read_jsonl(out / "controls" / "error_free.jsonl"))
    assert len(rows) == 12 and all(grade(r.completion, r.answer).verdict == "correct" for r in rows)
    assert sum("error" not in r.notes for r in rows) == 5 and not any("error" in r.notes for r in free)
    assert [r.problem for r in free] == [r.problem for r in rows], "the same problems, so the same steps"
    for row in lines(out / "dropped.jsonl"):
        assert row["reason"] and row["stage"]
    summary = json.loads((out / "eval" / "summary.json").read_text())
    assert list(summary["repair"]) == NAMES
    for by in summary["repair"].values():
        assert {"noticed", "repaired", "noticed and repaired", "by type"} == set(by["wrong_beginnings"])
        assert {"false alarm", "spoiled", "right to wrong", "by type"} == set(by["right_beginnings"])
        assert by["right_beginnings"]["false alarm"]["n"] == 5
    assert "false alarm" in done.stdout and all(name in done.stdout for name in NAMES)
    page = (out / "report.html").read_text()
    assert "Are errors noticed and repaired?" in page and "begun with" in page


def test_the_held_out_problems_of_the_demo_are_not_in_its_pool() -> None:
    recipe = compose("recipe=lemma_demo")
    sources = [*recipe["curate"]["pool"].values(), recipe["begun"], recipe["begun_right"]]
    sources += [recipe["eval"]["benchmarks"][name] for name in ("new_sums", "new_words")]
    kinds = [(s["generator"], s["seed"]) for s in sources]
    assert len(set(kinds)) == len(kinds), "no seed twice"
    assert recipe["curate"]["stages"]["decontaminate"]["benchmarks"] == recipe["eval"]["benchmarks"]


@pytest.mark.parametrize("teacher", ["rules", "openai", "vllm"])
def test_a_teacher_is_chosen_by_its_name(teacher: str) -> None:
    for name in ("lemma", "lemma_demo"):
        recipe = compose(f"recipe={name}", f"teacher={teacher}")
        target = recipe["curate"]["stages"]["inject"]["teacher"]["_target_"]
        assert target == (
            "curation.methods.lemma.rules.RuleTeacher" if teacher == "rules" else "curation.methods.lemma.teach.Model"
        )


def test_a_key_that_is_not_set_is_told_before_anything_is_sampled(tiny: Path, tmp_path: Path, run: Run) -> None:
    done = run("curation.run", *small(tiny, tmp_path), "teacher=openai", "teacher.engine.api_key_env=NO_SUCH_KEY")
    assert done.returncode == 2 and done.stderr.count("error: ") == 1, done.stderr
    assert "NO_SUCH_KEY is not set" in done.stderr.splitlines()[-1]


def test_the_paper_s_numbers() -> None:
    """LEMMA and its released training settings."""
    recipe = compose("recipe=lemma")
    attempts, train = recipe["attempts"], recipe["train"]
    assert (attempts["temperature"], attempts["top_p"]) == (0.7, 1.0)
    assert (train["global_batch"], train["max_length"], train["pack_tokens"]) == (256, 4096, None)
    args = train["args"]
    assert (args["learning_rate"], args["num_train_epochs"], args["lr_scheduler_type"]) == (1e-5, 3, "cosine")
    assert args["warmup_steps"] == 0.03 and args["max_grad_norm"] == 1.0 and args["per_device_train_batch_size"] == 4
    assert recipe["curate"]["stages"]["mix"]["k"] == 88900 and recipe["eval"]["sampling"]["temperature"] == 0.0
    drawn = recipe["curate"]["stages"]["inject"]["teacher"]["sampling"]
    assert (drawn["temperature"], drawn["top_p"], drawn["max_tokens"]) == (0.7, 1.0, 4096)
    assert recipe["train"]["system"] == recipe["eval"]["system"], "training and evaluation speak alike"
