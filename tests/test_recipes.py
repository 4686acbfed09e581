"""Every shipped recipe composes and fits the functions it names; keys that do not fit are told."""

import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from curation.stage import in_order
from limo.engines.local import TransformersEngine
from limo.engines.server import ServerEngine
from limo.errors import UserError
from limo.recipe import (
    RECIPES,
    bind,
    check_name,
    check_node,
    compose,
    compose_arguments,
    input_files,
    nodes,
    recipe_names,
)
from limo.run import claim, content_hash, read_manifest, remember_recipe
from limo.training.settings import check_args

# What a recipe leaves to the person
OPEN: dict[str, tuple[str, ...]] = {
    "real": ("block=x",),
    "real_sources": ("block=x",),
    "selectors": ("student=x",),
    "selectors_teachers": ("student=x",),
    "evaluate": ("eval.models.model=x",),
    "base": ("measured.held_out={}", "eval.benchmarks=[gsm8k]"),
}


STUDIES = Path(__file__).parents[1] / "bench" / "studies"
OF_STUDIES = [path.stem for path in sorted((STUDIES / "recipe").glob("*.yaml"))]


@pytest.mark.parametrize("name", [*recipe_names(), *OF_STUDIES])
def test_a_recipe_fits_its_functions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LIMO_STUDENT", "LIMO_TEACHER", "LIMO_VLLM"):
        monkeypatch.setenv(variable, "x")
    folder = ["--config-dir", str(STUDIES)] if name in OF_STUDIES else []
    recipe = compose(*compose_arguments([*folder, f"recipe={name}", *OPEN.get(name, ())]))
    assert recipe["name"] == name
    known = (
        "curate",
        "probe",
        "fit",
        "tournament",
        "plan",
        "train",
        "discover",
        "improve",
        "eval",
        "pick",
        "report",
    )
    sections = [key for key in recipe if key in known]
    assert {"eval", "report"} <= set(sections) or "arms" in recipe, "which bench/studies/study.py measures"
    for section in sections:
        bind(recipe[section], section)
        for where, node in nodes(recipe[section], section):
            check_node(node, where)
    if "train" in recipe:
        pairs = recipe["train"]["_target_"] == "limo.prefer.prefer"
        check_args(recipe["train"]["args"], "DPOConfig" if pairs else "SFTConfig")


def test_held_out_problems_of_the_demo_are_not_in_its_pool() -> None:
    from curation.run import read_pool
    from curation.stages.decontaminate import decontaminate
    from limo.data import Example

    recipe = compose("recipe=demo")
    pool = [row for row in read_pool(recipe["curate"]["pool"], "") if isinstance(row, Example)]
    held_out = recipe["eval"]["benchmarks"]
    left = [row for row in decontaminate(pool, benchmarks=held_out, variants="keep") if isinstance(row, Example)]
    assert len(pool) - len(left) < len(pool) * 0.1, "the stories of two seeds differ, but for a few of the shortest"


def node(**settings: object) -> dict[str, object]:
    return {"_target_": "curation.stages.choose.problems", "k": 3, "by": "score", "seed": 0, **settings}


def test_bind_checks_names_and_types() -> None:
    rows = bind(node(), "here")([])
    assert list(rows) == []
    for wrong, said in [
        (node(kk=1), r"here.kk is not a setting of curation.stages.choose.problems; did you mean 'k'\?"),
        (node(k="3"), r"here.k must be a valid integer, not '3'"),
        (node(k=3.5), "here.k must be a valid integer"),
        (node(k=True), "here.k must be a valid integer"),
        (node(shares=[1]), "here.shares must be"),
        ({"k": 1}, "here must name its function"),
        ({"_target_": "curation.stages.choose.problems", "k": 1}, "here.by is missing"),
        ({"_target_": "curation.stages.choose.bottom"}, "'curation.stages.choose.bottom' does not exist"),
        ({"_target_": "curation.stages.score.TEXT"}, "is not a function"),
        ({"_target_": "top"}, "'top' is not of limo, curation, eval"),
    ]:
        with pytest.raises(UserError, match=said):
            bind(wrong, "here")


def test_a_node_that_is_none_names_its_key() -> None:
    recipe = compose("recipe=demo", "curate.controls=null")
    with pytest.raises(UserError, match=r"curate\.controls must be .*Controls"):
        bind(recipe["curate"], "curate")


def sampled(batch_size: int) -> dict[str, object]:
    return {"a": 1, "engine": {"_target_": "limo.engines.x.X", "batch_size": batch_size}}


def test_sections_that_end_together_all_stay_in_the_recipe_of_the_run(tmp_path: Path) -> None:
    """Evaluations of one run may run at the same time."""
    names = [f"section_{i}" for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: remember_recipe(tmp_path, {"name": "x", name: {"_target_": "f"}}, name), names))
    kept = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert kept == {"name": "x", **{name: {"_target_": "f"} for name in names}}


def test_a_claim_remembers_and_refuses(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("one")
    run = tmp_path / "run"
    with pytest.raises(RuntimeError), claim(run, "step", sampled(8), [source]) as step:
        raise RuntimeError("killed")
    assert not read_manifest(run)["step"]["finished"]
    with claim(run, "step", sampled(8), [source]) as step:
        assert not step.finished
        (run / "out.txt").write_text("made")
        step.outputs, step.results = [run / "out.txt"], {"rows": 3}
    entry = read_manifest(run)["step"]
    assert entry["finished"] and entry["results"] == {"rows": 3}
    assert entry["settings"] == {"a": 1, "engine": {"_target_": "limo.engines.x.X"}}
    assert entry["inputs"] == {str(source): content_hash(source)} and "torch" in entry["versions"]
    with claim(run, "step", sampled(2), [source]) as step:
        assert step.finished, "what cannot change the result may change"
    with (
        pytest.raises(UserError, match=r"a: 1 -> 2.*name=<name>"),
        claim(run, "step", {**sampled(8), "a": 2}, [source]),
    ):
        pass
    (run / "out.txt").unlink()
    with claim(run, "step", sampled(8), [source]) as step:
        assert not step.finished, "an output that is gone is made again"
        (run / "out.txt").write_text("made")
        step.outputs = [run / "out.txt"]
    (run / "out.txt").write_text("edited")
    with pytest.raises(UserError, match="was changed after 'step' wrote it"), claim(run, "step", sampled(8), [source]):
        pass
    (run / "out.txt").write_text("made")
    source.write_text("two")
    with pytest.raises(UserError, match="has other content"), claim(run, "step", sampled(8), [source]):
        pass


def test_a_step_that_did_not_get_anywhere_may_begin_with_other_settings(tmp_path: Path) -> None:
    work = tmp_path / "checkpoints"
    for settings in ({"a": 1}, {"a": 2}):
        with pytest.raises(RuntimeError), claim(tmp_path, "step", settings, begun=[work]):
            raise RuntimeError("failed at once")
    work.mkdir()
    with pytest.raises(UserError, match="a: 2 -> 1"), claim(tmp_path, "step", {"a": 1}, begun=[work]):
        pass


def test_a_step_may_grow(tmp_path: Path) -> None:
    with claim(tmp_path, "step", {"a": 1, "seeds": [0]}, grows=["seeds"]) as step:
        step.results = {"seeds": 1}
    with claim(tmp_path, "step", {"a": 1, "seeds": [0]}, grows=["seeds"]) as step:
        assert step.finished
    with (
        pytest.raises(UserError, match="a: 1 -> 2"),
        claim(tmp_path, "step", {"a": 2, "seeds": [0, 1]}, grows=["seeds"]),
    ):
        pass
    with claim(tmp_path, "step", {"a": 1, "seeds": [0, 1]}, grows=["seeds"]) as step:
        assert not step.finished
    assert read_manifest(tmp_path)["step"]["settings"] == {"a": 1, "seeds": [0, 1]}


def test_input_files_follow_from_the_settings_that_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the current folder under the same text, a long prompt among them, is not taken for an input."""
    monkeypatch.chdir(tmp_path)
    for name in ("pool.jsonl", "./en", "score.x"):
        Path(name).write_text("x")
    node = {
        "pool": {"a": {"_target_": "limo.sources.file", "path": "pool.jsonl", "licence": "score.x"}},
        "system": "score.x",
        "prompt": "long. " * 100,
        "score": {
            "_target_": "curation.stages.score.score",
            "weights": {},
            "words": ["en", "./en"],
        },
    }
    assert input_files(node) == ["pool.jsonl", "./en"]
    node["pool"]["a"]["path"] = "x/" * 3000  # type: ignore[index]
    assert input_files(node) == ["./en"]


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "x" * 200])
def test_a_name_stays_in_its_folder(name: str) -> None:
    with pytest.raises(UserError, match="names files: 1 to 120 characters, no slash"):
        check_name(name, "name")
    with pytest.raises(UserError, match="names files: 1 to 120 characters, no slash"):
        in_order({name: {}}, None)


def test_a_group_has_every_setting_of_its_engine() -> None:
    """A setting that is documented can be typed: engine.patience=60, not +engine.patience=60."""
    for group, engine in (("server", ServerEngine), ("transformers", TransformersEngine)):
        listed = yaml.safe_load((RECIPES / "engine" / f"{group}.yaml").read_text())
        assert set(listed) - {"_target_"} == set(inspect.signature(engine).parameters)


@pytest.mark.parametrize(("preset", "longest"), [("sft_small", 1024), ("sft_cpu", 512), ("lora_24gb", 8192)])
def test_a_preset_brings_its_own_length_to_what_limo_new_writes(preset: str, longest: int) -> None:
    recipe = compose("recipe=base", f"train={preset}", "measured.held_out={path: x}")
    assert recipe["train"]["max_length"] == recipe["curate"]["stages"]["fit"]["max_length"] == longest


def test_a_recipe_file_removes_what_it_builds_on_with_null(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "short.yaml").write_text(
        "# @package _global_\ndefaults: [/recipe/base, _self_]\nname: short\nattempts: null\n"
        "measured: {held_out: h.jsonl}\ncurate:\n"
        "  pool: {mine: {_target_: limo.sources.file, path: p.jsonl}, other: null}\n"
        "  stages: {difficulty: null, true_steps: null}\n"
    )
    recipe = compose(*compose_arguments(["--config-dir", str(tmp_path), "recipe=short"]))
    found = recipe["curate"]
    assert recipe["plan"]["curate"] == found
    assert list(found["pool"]) == ["mine"] and "steps" in found["order"]
    assert not {"difficulty", "true_steps"} & {*found["stages"], *found["order"]}
    with pytest.raises(UserError, match="in a recipe file with steps: null"):
        in_order(found["stages"], [name for name in found["order"] if name != "steps"])
