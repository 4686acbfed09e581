"""Finds all mistakes in a recipe that can be found before anything is paid for, and reports them together.

    limo check recipe=mine

It checks the bindings of every section, what stages read and write, the first rows of each source against the measured
problems, benchmarks, models and their chat templates, keys and servers, memory and disk. Nothing is sampled or trained.
The Hub is asked about its models and datasets. If there is no error, the last line says what was not checked.
`curation.run` does the same before it begins. There, findings that concern only the machine of the training or of the
evaluation are warnings, since these may run elsewhere.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations, islice
from typing import Any

from curation.check_machine import NO_HUB, Finding, Findings, ask_hub, check_engines, check_training
from curation.folder import read_marks
from curation.stage import check_sampling, in_order, stage_errors
from eval.benchmarks import benchmark_nodes, hub_sources, is_required, load_benchmarks, on_hub
from eval.grade import grade
from limo.chat import render
from limo.command import command
from limo.console import say
from limo.data import Example, content_id
from limo.errors import UserError
from limo.model import is_here, tokenizer_folder
from limo.recipe import bind, bound_settings, check_name, check_node, nodes, suggest
from limo.run import read_manifest
from limo.sources import RESERVED
from limo.training.models import load_trained_tokenizer

FEW = 20  # fewest rows of a pool or a target that say something about it
READ = 20_000  # rows of a source that are read before a run
PATIENCE = 20  # seconds for reading a pool before a run
GRADED = 50  # chains that are compared with their answers
RENDERED = 200  # rows of the pool that are rendered to see whether they fit into max_length
ALWAYS = ("probe", "fit", "report")  # sections of every recipe


def check_bindings(recipe: Mapping[str, Any]) -> Findings:
    """Check that every node of every section fits its function: report unknown, missing and mistyped keys."""
    found = Findings()
    sections = {name: node for name, node in recipe.items() if isinstance(node, Mapping) and "_target_" in node}
    for section, node in sections.items():
        if node.get("student", "") is None:  # a node that a recipe without a student does not offer
            continue
        # A section inside another one, such as the training in a plan, is checked where it is defined
        own = {key: value for key, value in node.items() if value not in sections.values()}
        for where, inner in [(section, node), *nodes(own, section)]:
            if where == section or inner not in sections.values():
                with found.errors(where):
                    check_node(inner, where)
    return found


def check_recipe(recipe: Mapping[str, Any]) -> Findings:
    """Return all findings of a recipe, errors first. A section whose keys do not fit its function is not checked
    further.
    """
    found = check_bindings(recipe)
    broken = {finding.section for finding in found}
    with found.errors():
        check_name(str(recipe.get("name") or "").strip(), "name")
    if not any(isinstance(node, Mapping) and "_target_" in node for name, node in recipe.items() if name not in ALWAYS):
        found.error("the recipe has no section: build it on another one, such as `defaults: [/recipe/base, _self_]`")
    sections = {name: recipe[name] for name in ("curate", "train", "eval") if recipe.get(name) and name not in broken}
    measured, pool, curate = dict[str, list[Example]](), list[Example](), recipe.get("curate") or {}
    if {"pool", "stages"} <= set(curate):
        check_curation(curate, found, measured)
        pool = check_pool(curate, found, measured)
        kinds = (curate.get("controls") or {}).get("kinds") or ()
        for name in recipe.get("control") or () if not isinstance(recipe.get("control"), str) else ():
            if name not in kinds:
                found.error(f"control has '{name}', which curate.controls.kinds does not make{suggest(name, kinds)}")
    if "eval" in sections:
        check_benchmarks(sections["eval"].get("benchmarks") or {}, "eval.benchmarks", found, {})
        with found.errors():
            check_sampling(sections["eval"], "eval.")
    for name in sections:
        found += check_engines(sections[name], name)
    if "train" in sections:
        found += check_training(sections["train"])
        if pool and not any(finding.section == "train" for finding in found):
            check_lengths(sections["train"], curate, pool, found)
    if recipe.get("eval", {}).get("trained") and not recipe.get("control"):
        found.warn(
            "no control set is trained, so nothing will say whether the choice helped: control=[random] trains as many "
            "random chains of what was verified as well, for as long again, and compares the two"
        )
    unique = dict[Any, Finding]()  # one mistake may be found in several places
    for finding in found:
        unique.setdefault((finding.level, finding.text), finding)
    return Findings(sorted(unique.values(), key=lambda finding: finding.level))


def check_curation(curate: Mapping[str, Any], found: Findings, measured: dict[str, list[Example]]) -> None:
    """Check the stages in their order, their benchmarks and the budget. Adds the benchmarks' problems to `measured`."""
    with found.errors():
        stages = in_order(curate["stages"], curate.get("order"))
        for where, text in stage_errors(stages, curate["pool"]):
            with found.errors(where):
                raise UserError(text)
        for name, node in stages.items():
            if "benchmarks" in node:
                check_benchmarks(node["benchmarks"], f"curate.stages.{name}.benchmarks", found, measured)
    if curate.get("exclude"):
        with found.errors():
            read_marks(curate["exclude"])
    prices = [node["engine"].get("price") for _, node in nodes(curate["stages"], "") if "engine" in node]
    if (curate.get("budget") or {}).get("dollars") is not None and not any(prices):
        found.warn("curate.budget.dollars limits nothing: no engine of the curation has a price")


def check_pool(curate: Mapping[str, Any], found: Findings, measured: Mapping[str, list[Example]]) -> list[Example]:
    """Read the first rows of each source, and check the requested sizes and shares against them. Returns the rows."""
    pool, whole, begun = list[Example](), bool(curate["pool"]), time.monotonic()
    if not curate["pool"]:
        found.error("curate.pool names no source")
    for name, node in curate["pool"].items():
        where = f"curate.pool.{name}"
        if repositories := hub_sources(node):
            whole = False
            for repository in repositories:
                found += _ask(repository, where)
            continue
        before, seen = len(pool), 0
        with found.errors(where):
            for seen, row in enumerate(bind(node, where)(name, str(curate.get("system") or "")), 1):
                pool += [row] if isinstance(row, Example) else []
                if seen >= READ or time.monotonic() - begun > PATIENCE:
                    break
        whole = whole and 0 < seen < READ and time.monotonic() - begun <= PATIENCE
        if seen >= READ and len(pool) == before:
            found.warn(f"none of its first {READ:,} rows is usable", where)
        elif seen >= READ:
            found.unchecked(f"{where} after its first {seen:,} rows")
    if pool:
        _check_measured(curate, pool, whole, found, measured)
        _check_shares(curate, pool, whole, found)
        _check_answers(curate, pool, found)
    return pool


def _check_measured(
    curate: Mapping[str, Any], pool: list[Example], whole: bool, found: Findings, measured: Mapping[str, list[Example]]
) -> None:
    """Check that enough problems of the pool remain without those of the benchmarks, and that no target problem is in
    the pool.
    """
    problems = {row.question: row for row in pool}
    sets = {name: {row.question for row in rows} for name, rows in measured.items()}
    for name, stage in curate["stages"].items():
        where = f"curate.stages.{name}.target"
        with found.errors(where):
            for repository in (remote := hub_sources(stage.get("target"))):
                found += _ask(repository, where)
            target = bind(stage["target"], where)("target", "") if stage.get("target") and not remote else ()
            rows = [row for row in target if isinstance(row, Example)]
            if rows and len(rows) < FEW:
                found.warn(f"{len(rows)} problems: shares of so few are rough, {FEW} are better", where)
            there = (each for each in enumerate(rows, 1) if each[1].question in problems)
            for at, row in islice(there, 1):
                found.error(
                    f"its problem {at}: {row.question[:60]!r} is in the pool as {problems[row.question].id}: "
                    "a target is measured on, so remove it from one of the two",
                    where,
                )
    for one, other in combinations(sets, 2):
        if shared := len(sets[one] & sets[other]):
            found.warn(f"{one} and {other} share {shared} problems: what is chosen by one is not measured by the other")
    taken = {name: len(texts & problems.keys()) for name, texts in sets.items()}
    said = ", ".join(f"{count:,} are in {name}" for name, count in taken.items() if count)
    left = len(problems.keys() - set().union(*sets.values()))
    if said and not left and whole:
        found.error(f"every problem of the pool is measured too ({said}): none is left to train on")
    elif said and 2 * left < len(problems):
        found.warn(f"of {len(problems):,} problems of the pool, {said}: they leave it, and {left:,} stay")
    for name, node in curate["stages"].items():
        if isinstance(node.get("k"), int) and node["k"] > left and whole:
            found.warn(
                f"curate.stages.{name}.k={node['k']:,} is more than the pool has: {left:,} problems "
                f"{'that are not measured, ' if said else ''}before any is dropped"
            )


def _check_answers(curate: Mapping[str, Any], pool: list[Example], found: Findings) -> None:
    """If the recipe has the stage `verify`: check that at least one of the pool's first chains ends in its reference
    answer.
    """
    verifies = any(str(node["_target_"]).endswith(".verify") for node in curate["stages"].values())
    given = (row for row in pool if row.completion and row.answer and "unchecked" not in row.notes)
    rows = list(islice(given, GRADED if verifies else 0))
    if len(rows) >= FEW and not any(grade(row.completion, row.answer).verdict == "correct" for row in rows):
        one = rows[0]
        found.error(
            f"none of the pool's first {len(rows)} chains ends in its answer, so verify would drop them: {one.id} has "
            f"the answer {one.answer[:40]!r} and ends in {one.completion[-60:]!r}. Is fields.answer the right column?"
        )


def _check_shares(curate: Mapping[str, Any], pool: list[Example], whole: bool, found: Findings) -> None:
    """Check that the pool has rows with the notes and values for which the recipe requests shares."""
    stages = list(curate["stages"].values())
    theirs = any(not str(node["_target_"]).startswith("curation.stages.") for node in stages)  # may add notes
    for name, node in curate["stages"].items():
        for key, wanted in node["shares"].items() if isinstance(node.get("shares"), Mapping) else ():
            known = {str({"source": row.source, **row.notes}[key]) for row in pool if key in ("source", *row.notes)}
            where = f"curate.stages.{name}.shares.{key}"
            if key == "cluster" or key in RESERVED or not whole or theirs:
                continue
            absent = [str(value) for value in wanted if str(value) not in known] if isinstance(wanted, Mapping) else []
            if not known:
                notes = sorted({"source", *(note for row in pool for note in row.notes)})
                found.error(f"no row of the pool has a note '{key}'{suggest(key, notes)}", where)
            elif absent:
                hint = suggest(absent[0], sorted(known)[:20])
                found.error(f"no row of the pool has {key} '{absent[0]}'{hint}", where)


def check_lengths(train: Mapping[str, Any], curate: Mapping[str, Any], pool: list[Example], found: Findings) -> None:
    """Check that the first rows of the pool fit into `max_length`, if the model's tokenizer is on this machine."""
    settings = bound_settings(train, "train")
    asked = [node["k"] for node in curate["stages"].values() if isinstance(node.get("k"), int)]
    if asked and min(asked) < settings.global_batch:
        found.warn(f"train.global_batch={settings.global_batch} is more than the {min(asked)} problems that are chosen")
    if not is_here(settings.model):
        found.unchecked(f"whether rows fit into train.max_length, since {settings.model} is not on this machine")
        return
    with found.errors("train.max_length"):
        tokenizer = load_trained_tokenizer(settings, tokenizer_folder(settings.model))
        rows = [row if row.completion else replace(row, completion=row.answer) for row in pool[:RENDERED]]
        lengths = [len(render(tokenizer, row).input_ids) for row in rows if row.completion]
        fitting = sum(length <= settings.max_length for length in lengths)
        said = f"train.max_length={settings.max_length}: {fitting} of the pool's first {len(lengths)} rows fit"
        if lengths and not fitting:
            found.error(f"{said}, and the shortest has {min(lengths)} tokens")
        elif 2 * fitting < len(lengths):
            found.warn(f"{said}; those that do not are dropped, or stop the training")


def check_benchmarks(benchmarks: Any, where: str, found: Findings, measured: dict[str, list[Example]]) -> None:
    """Check that each benchmark is usable: a file on this machine, or a dataset on the Hub. Warns about one that would
    be skipped.

    Problems of local benchmarks are added to `measured`. A benchmark that a recipe names several times is read once.
    """
    for name, node in benchmark_nodes(benchmarks).items():
        own, required, key = Findings(), is_required(name, node), content_id([name, node])
        with own.errors(where):
            for repository in (remote := on_hub(name, node)):
                own += _ask(repository, f"{where}.{name}")
            if not remote:
                if key not in found.loaded:
                    found.loaded[key] = load_benchmarks({name: {**node, "required": True}}, "")[name]
                measured[f"{where}.{name}"] = found.loaded[key]
        for finding in own:
            kept = required or finding.level != "error"
            found.append(finding if kept else Finding("warning", f"{finding.text}; left out", finding.where))


def _ask(repository: str, where: str) -> Iterator[Finding]:
    if missing := ask_hub(repository, "dataset"):
        yield replace(missing, where=where)


def check_before(recipe: Mapping[str, Any]) -> None:
    """Print what `check_recipe` finds. Raises UserError if the curation cannot succeed. Skips finished runs."""
    if read_manifest(recipe.get("out", "")).get("curate", {}).get("finished"):
        return
    found = check_recipe(recipe)
    elsewhere = ("train", "eval.engine")
    _report([replace(f, level="warning") if f.where in elsewhere else f for f in found], "Nothing was started")
    if unchecked := [f.line for f in found if f.level == "unchecked" and f.text.endswith(NO_HUB)]:
        say(f"not checked: {'; '.join(unchecked)}")


def check_and_print(recipe: Mapping[str, Any]) -> None:
    """The command `limo check`."""
    found = check_recipe(recipe)
    _report(found, "Nothing was run")
    open_ones = [f.line for f in found if f.level == "unchecked"]
    if recipe.get("curate"):
        open_ones += ["what models will reply", "how many rows each stage leaves (limo plan samples some)"]
    if recipe.get("train"):
        open_ones.append("whether the training learns")
    say(f"{recipe['name']}: no error found. Not checked: {'; '.join(open_ones) or 'results'}")


def _report(found: list[Finding], end: str) -> None:
    """Print findings, one per line. Raises UserError with the only error, or with the number of errors."""
    errors = [f for f in found if f.level == "error"]
    for finding in found:
        if finding.level == "warning" or (finding.level == "error" and len(errors) > 1):
            say(f"{finding.level}: {finding.line}")
    if errors:
        raise UserError(errors[0].line if len(errors) == 1 else f"{len(errors)} errors, listed above. {end}")


if __name__ == "__main__":
    command(None, "curation.check", before=check_and_print)
