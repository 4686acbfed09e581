"""Defines stages: functions from rows to rows, with the facts that a runner must know about them.

    @stage("row", writes=("tokens",))
    def count_tokens(rows, /, *, tokenizer): ...

The runner, the plan, the checks before a run and the notebook read only `about(function)`. A function without the
decorator is a stage as well: it sees the whole pool in one process.

Scores have their names in `Example.scores`. `{by}` in a name is replaced by the setting `by`; the name `{weights}`
stands for all keys of that setting, or all names in it; names that depend on several settings are given by a function
of them. `random` and `target` are not scores. Whether a low or a high value is better is stated once, by the stage that
writes the score.

A stage may `record` and `count` metrics, which the funnel, the terminal and the report show. The runner collects them
(`collecting`) as a dict; a stage in another process returns its dict, which is merged here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from limo.data import Dropped, Example
from limo.errors import UserError
from limo.recipe import bind, check_name, resolve, suggest

NO_SCORES = ("random", "target")  # values of `by` that are not scores
Scope = Literal["row", "pool"]
Direction = Literal["lower", "higher"]  # of a score: which values are better
Names = tuple[str, ...] | Callable[[Mapping[str, Any]], Iterable[str]]
Metric = int | float | str
Share = Annotated[float, Field(ge=0, le=1)]
Stage = TypeVar("Stage", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class About:
    """What a runner must know about a stage. As a decorator, this class is called `stage`."""

    scope: Scope  # what one call must see: any batch of rows, or the whole pool
    _: KW_ONLY
    reads: Names = ()  # scores that the rows must have
    writes: Names | None = ()  # scores that it adds; None if unknown
    better: Mapping[str, Direction] = field(default_factory=dict)  # which values of its scores are better
    samples: bool = False  # whether it runs a model, and so costs hours or money
    guards: bool = False  # whether it drops measured problems: then it is also applied to the control set `raw`
    check: Callable[..., None] | None = None  # called with the settings before a row is read; raises UserError

    def __call__(self, function: Stage) -> Stage:
        """Attach these facts to a function."""
        function.about = self  # type: ignore[attr-defined]
        _stated.update(self.better)
        return function


stage = About
_stated: dict[str, Direction] = {}  # of all stages that are loaded


def direction(score: str) -> Direction | None:
    """Which values of a score are better, as stated by the stage that writes it; None if no stage does."""
    if score not in _stated:  # the rows may come from an earlier run, and the stage may not be imported yet
        for found in iter_modules([str(Path(__file__).parent / "stages")]):
            import_module(f"curation.stages.{found.name}")
    return _stated.get(score)


def drop(row: Example, reason: str, detail: str = "") -> Dropped:
    """The row, dropped for a reason; the runner adds the stage."""
    return Dropped(row.id, "", reason, detail, data=row.to_json())


def about(function: Callable[..., Any]) -> About:
    """What a runner must know about a stage. For a function without the decorator, assumptions that are safe for any
    stage.
    """
    found = getattr(function, "about", None)
    return found if isinstance(found, About) else About("pool", writes=None)


def about_node(node: Mapping[str, Any]) -> About:
    """What a runner must know about the stage that a node of a recipe names."""
    return about(resolve(str(node["_target_"]), "curate.stages"))


def reads(node: Mapping[str, Any]) -> list[str]:
    """The names of the scores that a recipe's stage reads, given its settings."""
    return list(_names(about_node(node).reads, node))


def writes(node: Mapping[str, Any], score: str) -> bool:
    """Whether a recipe's stage adds this score, given its settings."""
    return score in _names(about_node(node).writes or (), node)


def in_order(stages: Mapping[str, Any], order: list[str] | None) -> dict[str, Any]:
    """Put the nodes in the given order; None keeps them as written. Raises UserError for a name that is unknown,
    repeated or not used.
    """
    order = list(stages) if order is None else order
    if unknown := [name for name in order if name not in stages]:
        raise UserError("curate.order: " + "; ".join(f"there is no stage '{n}'{suggest(n, stages)}" for n in unknown))
    for name in order:
        check_name(name, "curate.stages")
        if order.count(name) > 1:
            raise UserError(
                f"curate.order: '{name}' comes twice; a stage that runs twice needs two names in curate.stages"
            )
    if unused := [name for name in stages if name not in order]:
        raise UserError(
            f"curate.order lacks {', '.join(map(repr, unused))} of the stages: put it where it is to run, or remove it "
            f"with {' '.join(f'~curate.stages.{name}' for name in unused)}, in a recipe file with {unused[0]}: null"
        )
    if not order:
        raise UserError("curate.order is empty: name at least one stage")
    return {name: stages[name] for name in order}


def check_stages(stages: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
    """Raise UserError for the first of `stage_errors`."""
    for where, text in stage_errors(stages, sources):
        raise UserError(text if text.startswith(where) else f"{where}: {text}")


def stage_errors(stages: Mapping[str, Any], sources: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Find the errors of the stages that can be found before a row is read. Yields the place in the recipe, and what is
    wrong.

    Args: `stages` in their order, `sources` of the pool. A score that no earlier stage writes is an error, unless a
    source or a stage whose scores are unknown could add it.
    """
    known: set[str] | None = set()
    if any(not str(node.get("_target_", "")).startswith("limo.") for node in sources.values()):
        known = None
    for name, node in stages.items():
        where = f"curate.stages.{name}"
        try:
            call = bind(node, where)
        except UserError as error:
            yield where, str(error)
            known = None
            continue
        settings = call.keywords if isinstance(call, partial) else {}
        facts = about(call.func if isinstance(call, partial) else call)
        written = set(_names(facts.writes or (), settings))
        absent = [score for score in _names(facts.reads, settings) if score not in NO_SCORES]
        absent = [] if known is None else [score for score in absent if score not in known | written]
        for score in absent:
            hint = suggest(score, (known or set()) | written)
            yield where, f"reads the score '{score}', which no stage before it adds{hint}"
        try:
            if facts.check and not absent:
                facts.check(**settings)
            construct_engines(node)
        except UserError as error:
            yield where, str(error)
        known = None if known is None or facts.writes is None else known | written


def construct_engines(settings: Mapping[str, Any], where: str = "") -> None:
    """Construct every engine in the settings of a stage, without loading anything.

    Raises UserError for a missing key or server, and for several samples at temperature 0.
    """
    for name, value in settings.items():
        if not isinstance(value, Mapping):
            continue
        if name == "engine":
            bind(value, f"{where}engine")()
        elif name == "sampling":
            check_sampling(settings, where)
        else:
            construct_engines(value, f"{where}{name}.")


def check_sampling(settings: Mapping[str, Any], where: str) -> None:
    """Raise UserError for several samples at temperature 0."""
    asked = settings.get("sampling") or {}
    if asked.get("n", 1) > 1 and not asked.get("temperature"):
        raise UserError(f"{where}sampling: {asked['n']} samples at temperature 0 are one: raise it, or set n=1")


def _names(patterns: Names, settings: Mapping[str, Any]) -> Iterator[str]:
    """Names of scores, in which `{...}` is replaced by the value of that setting."""
    for pattern in patterns if isinstance(patterns, tuple) else patterns(settings):
        value = settings.get(pattern[1:-1]) if pattern.startswith("{") and pattern.endswith("}") else None
        if isinstance(value, Mapping | list):
            yield from map(str, value)
        else:
            yield pattern.format_map(dict(settings))


_metrics: ContextVar[dict[str, Metric]] = ContextVar("metrics")  # of the innermost block that collects them


@contextmanager
def collecting() -> Iterator[dict[str, Metric]]:
    """Collect the metrics that stages record in the block; those of a nested block are not added to the outer one."""
    made: dict[str, Metric] = {}
    token = _metrics.set(made)
    try:
        yield made
    finally:
        _metrics.reset(token)


def record(name: str, value: Metric) -> None:
    """Record a metric of the stage. In a stage of scope row its value must be the same for all batches."""
    _metrics.get({})[name] = value


def count(name: str, more: int = 1) -> None:
    """Increase a counting metric."""
    made = _metrics.get({})
    before = made.get(name, 0)
    assert not isinstance(before, str), f"'{name}' is not a count but {before!r}"
    made[name] = before + more


def merge(metrics: Mapping[str, Metric]) -> None:
    """Merge the metrics of a part of the rows: integers are added as counts, other values are set."""
    for name, value in metrics.items():
        if isinstance(value, int):
            count(name, value)
        else:
            record(name, value)
