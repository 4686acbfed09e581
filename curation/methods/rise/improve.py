"""RISE's outer loop: each iteration curates with the model of the previous one, trains, and evaluates.

    python -m curation.methods.rise.improve recipe=rise_demo

runs the very commands a person would type, one process each, so that memory is free between them:

    runs/<name>/boost         curation.run, limo.train      the knowledge boost, if the recipe has a section `boost`
    runs/<name>/iteration-1   curation.run, limo.train, eval.run        student=<the boosted model>
    runs/<name>/iteration-2   the same                                  student=<iteration-1's model>
    runs/<name>               eval.run of all these models; the ledger has all that it needs

Each has its own run folder. After a stop at any point, even by SIGKILL, the same command resumes: finished steps are
skipped, begun steps are resumed. A larger `improve.iterations` adds iterations in the same way.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from limo.command import command
from limo.console import say
from limo.errors import UserError
from limo.processes import override, run_module
from limo.recipe import bind, check_section, compose, compose_arguments

SECTIONS = {"curation.run": "curate", "limo.train": "train", "eval.run": "eval"}  # in the order of an iteration


class Command(NamedTuple):
    """One command: `python -m <module> <overrides>`."""

    module: str
    out: Path
    overrides: tuple[str, ...]  # from the command line, then those of the iteration


def improve(
    arguments: Sequence[str],
    /,
    *,
    out: str,
    student: str,
    boost: Mapping[str, Any] | None,
    iterations: int,
    train_from: Literal["first", "last"],
) -> list[Command]:
    """The commands of all iterations, in their order. `arguments` of the command line are passed on.

    Args: `student` is the first model; `boost` holds keys of `curate` and `train` with other values for the boost
    before the first iteration, null for no boost; `train_from` is the model that each iteration trains: the first one,
    or the last one. Rows are always collected with the last model: collection is on-policy. Raises UserError for
    invalid settings.
    """
    if iterations < 1:
        raise UserError(f"improve.iterations must be at least 1, not {iterations}")
    given = [argument for argument in arguments if not argument.startswith(("out=", "student="))]

    def run(module: str, folder: Path, model: str, *more: str) -> Command:
        return Command(module, folder, (*given, override("out", str(folder)), override("student", model), *more))

    runs, first, boosted = list[Command](), student, Path(out) / "boost"
    if boost is not None:
        runs += [run(module, boosted, student, *_boosted(boost)) for module in ("curation.run", "limo.train")]
        first = str(boosted / "model")
    models = {"first": first}
    for number in range(1, iterations + 1):
        folder, last = Path(out) / f"iteration-{number}", list(models.values())[-1]
        start = override("train.model", first if train_from == "first" else last)
        runs += [run(module, folder, last, start) for module in SECTIONS]
        models[f"iteration_{number}"] = str(folder / "model")
    return [*runs, run("eval.run", Path(out), first, *_compared(models))]


def run_all(section: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """Run the commands, each in its own process. Returns an exit code."""
    runs: list[Command] = bind(section, "improve")(arguments)
    for run in runs:  # mistakes in any of them are reported before the first is paid for
        check_section(compose(*compose_arguments(run.overrides), allow_missing=True), SECTIONS[run.module])
    for run in runs:
        say(f"== {run.out}: {run.module}")
        if code := run_module(run.module, run.overrides):
            say(f"stopped at {run.module} in {run.out}; run the same command again to resume")
            return code
    return 0


def _boosted(boost: Mapping[str, Any]) -> Iterator[str]:
    """The overrides that put the values of `boost` into the recipe, so `boost.curate.pool` into `curate.pool`. Each key
    of `train.args` has its own override.
    """
    for section, keys in boost.items():
        if section not in ("curate", "train") or not isinstance(keys, Mapping):
            raise UserError(f"boost may change keys of curate and of train, not '{section}'")
        for key, value in keys.items():
            inner = [f"{key}.{name}" for name in value] if (section, key) == ("train", "args") else [key]
            yield from (f"{section}.{name}=${{boost.{section}.{name}}}" for name in inner)


def _compared(models: Mapping[str, str]) -> Iterator[str]:
    """The overrides that evaluate all models and compare each with the previous one, and the last with the first."""
    names = list(models)
    pairs = list(dict.fromkeys([*pairwise(names), (names[0], names[-1])]))
    yield "~eval.models"
    yield override("+eval.models", models)
    yield "eval.compare=[" + ",".join(f"[{a},{b}]" for a, b in pairs) + "]"


if __name__ == "__main__":
    command("improve", "curation.methods.rise.improve", run_all)
