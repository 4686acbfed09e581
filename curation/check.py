"""Everything that can be known to be wrong with a recipe before anything is paid for, all at once.

    limo check recipe=mine

Bindings of every section, what stages read and write, the first rows of each source, benchmarks, models and their chat
templates, keys and servers, memory and disk. Nothing is sampled or trained. What needs the Hub is asked of the Hub;
without one, it is listed as not checked. `curation.run` does the same before it begins: there, what only concerns the
machine of the training and of the evaluation is a warning, since they may run elsewhere.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from curation.stage import in_order, stage_errors
from eval.benchmarks import is_required, nodes, on_hub, without_required
from limo.command import command
from limo.data import Example
from limo.errors import UserError
from limo.preflight import Finding, Findings, ask_hub, check_bindings, check_engines, check_training
from limo.progress import say
from limo.recipe import bind
from limo.run import read_manifest

FIRST = 1000  # rows of a source that are read for one that is usable


def check_recipe(recipe: Mapping[str, Any]) -> Findings:
    """All findings of a recipe, errors first. A section that does not bind to its function is asked no more."""
    found = check_bindings(recipe)
    broken = {finding.text.partition(".")[0] for finding in found}
    sections = {name: recipe[name] for name in ("curate", "train", "eval") if recipe.get(name) and name not in broken}
    if recipe.get("curate") and {"pool", "stages"} <= set(recipe["curate"]):
        found += check_curation(recipe["curate"])
    if "eval" in sections:
        found += check_benchmarks(recipe["eval"].get("benchmarks") or {}, "eval.benchmarks")
    for name in sections:
        found += check_engines(sections[name], name)
    if "train" in sections:
        found += check_training(sections["train"])
    unique = dict[Any, Finding]()  # one mistake may be found in several places
    for finding in found:
        unique.setdefault((finding.level, finding.text.partition(": ")[2] or finding.text), finding)
    return Findings(sorted(unique.values(), key=lambda finding: finding.level))


def check_curation(curate: Mapping[str, Any]) -> Findings:
    """Stages in their order, and the sources of the pool."""
    found = Findings()
    with found.errors():
        stages = in_order(curate["stages"], curate.get("order"))
        found += [Finding("error", text) for text in stage_errors(stages, curate["pool"])]
        for name, node in stages.items():
            if "benchmarks" in node:
                found += check_benchmarks(node["benchmarks"], f"curate.stages.{name}.benchmarks")
    if not curate["pool"]:
        found.append(Finding("error", "curate.pool names no source"))
    for name, node in curate["pool"].items():
        if node["_target_"] == "limo.sources.hub":
            found += _ask(str(node["path"]), f"curate.pool.{name}")
        elif node["_target_"] == "limo.sources.file":
            with found.errors(f"curate.pool.{name}"):
                _first_row(name, node, str(curate.get("system") or ""))
    return found


def _first_row(name: str, node: Mapping[str, Any], system: str) -> None:
    rows = bind({**node, "fraction": 1.0}, f"curate.pool.{name}")(name, system)
    if not any(isinstance(row, Example) for row in islice(rows, FIRST)) and next(rows, None) is None:
        raise UserError("no row is usable")


def check_benchmarks(benchmarks: Any, where: str) -> Iterator[Finding]:
    """Whether each benchmark is here or on the Hub. One that would be left out is a warning."""
    for name, node in nodes(benchmarks).items():
        found = Findings()
        with found.errors(where):
            if repository := on_hub(name, node):
                found += _ask(repository, f"{where}.{name}")
            else:
                next(iter(bind(without_required(node), f"{where}.{name}")(name, "")), None)
        required = is_required(name, node)
        yield from (f if required or f.level != "error" else Finding("warning", f"{f.text}; left out") for f in found)


def _ask(repository: str, where: str) -> Iterator[Finding]:
    if missing := ask_hub(repository, "dataset"):
        yield Finding(missing.level, f"{where}: {missing.text}")


def check_before(recipe: Mapping[str, Any]) -> None:
    """Print what `check_recipe` finds. Raises UserError if the curation cannot succeed. Finished runs are left out."""
    if read_manifest(recipe.get("out", "")).get("curate", {}).get("finished"):
        return
    found = check_recipe(recipe)
    later = ("train: ", "eval.engine: ")
    _report([Finding("warning", f.text) if f.text.startswith(later) else f for f in found], "Nothing was started")


def check_and_print(recipe: Mapping[str, Any]) -> None:
    """The command `limo check`."""
    found = check_recipe(recipe)
    _report(found, "Nothing was run")
    say(f"{recipe['name']}: no error found")


def _report(found: list[Finding], end: str) -> None:
    """Print findings a line each. Raises UserError with the only error, or with how many there are."""
    errors = [f for f in found if f.level == "error"]
    for finding in found:
        if finding.level != "unreachable" and (finding.level != "error" or len(errors) > 1):
            say(f"{finding.level}: {finding.text}")
    if unreachable := sorted({f.text.rpartition(": ")[2] for f in found if f.level == "unreachable"}):
        say(f"not checked, since the Hub cannot be reached from here: {', '.join(unreachable)}")
    if errors:
        raise UserError(errors[0].text if len(errors) == 1 else f"{len(errors)} errors, listed above. {end}")


if __name__ == "__main__":
    command(None, "curation.check", before=check_and_print)
