"""Every shipped recipe composes and fits the functions it names; keys that do not fit are told."""

from pathlib import Path
from typing import Literal

import pytest
import yaml

from limo.errors import UserError
from limo.manifest import claim, content_hash, differences, read_manifest
from limo.recipe import RECIPES, _fits, bind, check, compose, cores, flags, nodes, recipes
from limo.train import check_args

OPEN = {"evaluate": ("eval.models.model=x",)}  # what a recipe leaves to the person


@pytest.mark.parametrize("name", recipes())
def test_a_shipped_recipe_fits_its_functions(name: str) -> None:
    recipe = compose(f"recipe={name}", *OPEN.get(name, ()))
    assert recipe["name"] == name
    known = ("curate", "plan", "train", "train_plan", "discover", "improve", "eval", "sweep", "report")
    sections = [key for key in recipe if key in known]
    assert {"eval", "report"} <= set(sections)
    for section in sections:
        bind(recipe[section], section)
        for where, node in nodes(recipe[section], section):
            check(node, where)
    if "train" in recipe:
        check_args(recipe["train"]["args"], pairs=recipe["train"]["_target_"] == "limo.prefer.prefer")


def test_held_out_problems_of_the_demo_are_not_in_its_pool() -> None:
    from curation.pool import decontaminate, gather
    from limo.data import Example

    recipe = compose("recipe=demo")
    pool = [row for row in gather(recipe["curate"]["pool"], "") if isinstance(row, Example)]
    held_out = recipe["eval"]["benchmarks"]
    left = [
        row
        for row in decontaminate(pool, benchmarks=held_out, rule="latex", variants="keep")
        if isinstance(row, Example)
    ]
    assert len(pool) - len(left) < len(pool) * 0.05, "seeds must differ"
    templates = {row.notes["template"] for row in pool if "template" in row.notes}
    assert templates and not templates & set(held_out["new_templates"]["templates"])


def test_a_recipe_of_one_s_own_folder(tmp_path: Path) -> None:
    import hydra

    (tmp_path / "recipe").mkdir()
    mine = (RECIPES / "recipe" / "demo.yaml").read_text().replace("name: demo", "name: mine")
    (tmp_path / "recipe" / "mine.yaml").write_text(mine)
    with hydra.initialize_config_dir(config_dir=str(RECIPES), version_base="1.3"):
        config = hydra.compose("run", overrides=["recipe=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert config.out == "runs/mine"


def node(**settings: object) -> dict[str, object]:
    return {"_target_": "curation.choose.top", "k": 3, "by": "score", **settings}


def test_flags_keep_their_values_wherever_they_stand() -> None:
    given = [
        "recipe=demo",
        "--config-dir",
        "my",
        "--cfg",
        "job",
        "seed=1",
        "--info",
        "name=x",
        "--info",
        "plugins",
        "-m",
    ]
    found, overrides = flags(given)
    assert found == ["--config-dir", "my", "--cfg", "job", "--info", "--info", "plugins", "-m"]
    assert overrides == ["recipe=demo", "seed=1", "name=x"]


def test_bind_checks_names_and_types() -> None:
    rows = bind(node(), "here")([])
    assert list(rows) == []
    for wrong, said in [
        (node(kk=1), r"here.kk is no setting of curation.choose.top; did you mean 'k'\?"),
        (node(k="3"), r"here.k must be int \| None, not '3'"),
        (node(k=3.5), "here.k must be int"),
        (node(k=True), "here.k must be int"),
        (node(quotas=[1]), "here.quotas must be"),
        ({"k": 1}, "here must name its function"),
        ({"_target_": "curation.choose.top", "k": 1}, "here.by is missing"),
        ({"_target_": "curation.choose.bottom"}, "there is no 'curation.choose.bottom'"),
        ({"_target_": "curation.score.TEXT"}, "is no function"),
        ({"_target_": "top"}, "there is no 'top'"),
    ]:
        with pytest.raises(UserError, match=said):
            bind(wrong, "here")


def test_a_node_that_is_none_says_what_it_takes() -> None:
    recipe = compose("recipe=demo", "curate.controls=null")
    with pytest.raises(UserError, match=r"curate\.controls must be \{source: \.\.\., kinds: \.\.\., seed: \.\.\.\}"):
        bind(recipe["curate"], "curate")


def test_types_of_yaml_values() -> None:
    assert _fits(1, float) and not _fits(True, float) and not _fits("1", float)
    assert _fits(None, int | None) and _fits(2, int | None) and not _fits("x", int | None)
    assert _fits("a", Literal["a", "b"]) and not _fits("c", Literal["a", "b"])
    assert _fits([1], list[int]) and not _fits({}, list[int]) and _fits({}, dict[str, int])


def test_cores_is_what_this_process_may_use() -> None:
    import os

    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_a_claim_remembers_and_refuses(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("one")
    run = tmp_path / "run"
    with pytest.raises(RuntimeError), claim(run, "step", {"a": 1}, [source]) as step:
        raise RuntimeError("killed")
    assert not read_manifest(run)["step"]["finished"]
    with claim(run, "step", {"a": 1, "batch_size": 8}, [source]) as step:
        assert not step.finished
        (run / "out.txt").write_text("made")
        step.outputs, step.results = [run / "out.txt"], {"rows": 3}
    entry = read_manifest(run)["step"]
    assert entry["finished"] and entry["results"] == {"rows": 3} and entry["settings"] == {"a": 1}
    assert entry["inputs"] == {str(source): content_hash(source)} and "torch" in entry["versions"]
    with claim(run, "step", {"a": 1, "batch_size": 2}, [source]) as step:
        assert step.finished, "what cannot change the result may change"
    with pytest.raises(UserError, match=r"a: 1 -> 2.*name=<name>"), claim(run, "step", {"a": 2}, [source]):
        pass
    (run / "out.txt").unlink()
    with claim(run, "step", {"a": 1}, [source]) as step:
        assert not step.finished, "an output that is gone is made again"
        (run / "out.txt").write_text("made")
        step.outputs = [run / "out.txt"]
    (run / "out.txt").write_text("edited")
    with pytest.raises(UserError, match="was changed after 'step' wrote it"), claim(run, "step", {"a": 1}, [source]):
        pass
    (run / "out.txt").write_text("made")
    source.write_text("two")
    with pytest.raises(UserError, match="has other content"), claim(run, "step", {"a": 1}, [source]):
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


def test_differences_name_the_keys() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": None}) == ["a.c: 2 -> 3"]
    assert yaml.safe_load("1e-5") == "1e-5", "PyYAML reads this as text, so recipes write 1.0e-5"


def test_only_scores_have_word_lists_in_a_setting_called_words() -> None:
    """The report takes `words` of any stage for the names of word lists."""
    for name in recipes():
        recipe = compose(f"recipe={name}", *OPEN.get(name, ()))
        for where, inner in nodes(recipe.get("curate", {}), "curate"):
            assert isinstance(inner.get("words", []), list), where
