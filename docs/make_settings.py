"""Writes docs/settings.md from the code: every stage and every group of settings, with types and defaults.

python docs/make_settings.py          # a test fails where the page is not what this writes
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("settings.md")
ROOT = PAGE.parents[1]
HEAD = """\
# Every setting

What you get from this page: all stages and groups of settings with their types and defaults, read from the code by
`python docs/make_settings.py`. A recipe gives what is required. The other pages say what the
settings are for; [recipes.md](recipes.md) says where they stand in a recipe.

```sh
limo curate recipe=demo --cfg job --resolve   # the whole recipe with these settings filled in
```
"""
GROUPS = {
    "Sampling": ("the key `sampling` of a stage, and `eval.sampling`", "limo.engines.protocol.Sampling"),
    "Engines: transformers": ("`engine=transformers`", "limo.engines.local.TransformersEngine"),
    "Engines: a server": ("`engine=server`, `vllm` and `openai`", "limo.engines.server.ServerEngine"),
    "A file as a source": ("`curate.pool.NAME`", "limo.sources.file"),
    "A dataset of the Hub as a source": ("`curate.pool.NAME`", "limo.sources.hub"),
    "A benchmark": ("`eval.benchmarks.NAME`", "eval.benchmarks.named"),
    "Supervised training": ("`train`", "limo.training.settings.Supervised"),
    "Preference training": ("`train` of `recipe=dpo`", "limo.training.settings.Preference"),
    "Evaluation": ("`eval`", "eval.run.evaluate"),
    "Plan": ("`plan`", "curation.cost.plan"),
    "Plan without models": ("`plan.assume`", "curation.cost.Assume"),
    "Plan of the trainings": ("`plan.training`", "curation.cost.Trainings"),
    "Tournament": ("`tournament`", "curation.evidence.tournament.tournament"),
    "Sizes of a tournament": ("`tournament.sizes`", "curation.evidence.verdict.Sizes"),
}


def page() -> str:
    """The page as text."""
    parts = [HEAD, "\n## Stages\n\nEach is a node below `curate.stages`: `_target_` and its settings.\n"]
    parts += [_section(path.rpartition(".")[2], target, 3, f"`{path}`: ") for path, target in _stages()]
    for title, (where, path) in GROUPS.items():
        module, _, name = path.rpartition(".")
        parts.append(_section(title, getattr(import_module(module), name), 2, f"{where}: "))
    return "".join(parts)


def _stages() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every function with the decorator of stages, by its path."""
    files = sorted((ROOT / "curation").rglob("*.py"), key=lambda file: ("stages" not in file.parts, file))
    for file in files:
        if "@stage(" in (text := file.read_text(encoding="utf-8")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for name in re.findall(r"^@stage\([^\n]*(?:\n[^\n]+)*?\ndef (\w+)", text, re.MULTILINE):
                yield f"{module}.{name}", getattr(import_module(module), name)


def _section(title: str, target: Any, level: int, where: str = "") -> str:
    said, *more = (" ".join(part.split()) for part in inspect.cleandoc(target.__doc__).split("\n\n"))
    rows = list(_rows(target))
    meant = any(row[3] for row in rows)
    lines = [("setting", "type", "default", "meaning"), ("---",) * 4, *rows]
    table = "".join(f"| {' | '.join(row if meant else row[:3])} |\n" for row in lines) if rows else "No settings.\n"
    about = getattr(target, "about", None)
    facts = [f"Of `{score}` {way} values are better." for score, way in about.better.items()] if about else []
    told = " ".join([where + said, *facts])
    args = "".join(f"{part.removeprefix('Args: ')}\n\n" for part in more if not part.startswith(("Raises", "```")))
    return f"\n{'#' * level} {title}\n\n{_escape(told)}\n\n{_escape(args)}{table}"


def _rows(target: Any) -> Iterator[tuple[str, str, str, str]]:
    """A row of the table for each setting: of a dataclass its fields, of a function its keyword-only parameters."""
    hints = typing.get_type_hints(target, include_extras=True)
    if is_dataclass(target):
        comments = dict(_comments(target))
        for field in fields(target):
            default = field.default if field.default is not MISSING else field.default_factory
            shown = "required" if default is MISSING else _shown(default() if callable(default) else default)
            yield _row(field.name, hints[field.name], shown, comments.get(field.name, ""))
        return
    if inspect.isclass(target):
        hints = typing.get_type_hints(target.__init__, include_extras=True)
    lines = dict(_comments(target))
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY or inspect.isclass(target):
            shown = "required" if parameter.default is parameter.empty else _shown(parameter.default)
            yield _row(name, hints.get(name, Any), shown, lines.get(name, ""))


def _row(name: str, hint: Any, default: str, comment: str) -> tuple[str, str, str, str]:
    return f"`{name}`", _escape(_type(hint)), default, _escape(comment)


def _comments(target: Any) -> Iterator[tuple[str, str]]:
    """The comments behind the fields of a class, those of its bases included, or behind a function's parameters."""
    for cls in reversed(target.__mro__[:-1]) if inspect.isclass(target) else (target,):
        yield from re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(cls), re.MULTILINE)


def _type(hint: Any) -> str:
    """A type as a user would write it, without the paths of modules."""
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Annotated:
        return _type(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(str(value) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(_type, typing.get_args(hint)))
    if hint is ...:
        return "..."
    name = getattr(hint, "__name__", str(hint))
    parts = ", ".join(map(_type, typing.get_args(hint)))
    return f"{name}[{parts}]" if parts else name


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value!r}`" if value != "" else "empty"


def _escape(text: str) -> str:
    """The text for a table cell; what stands in backticks needs no escape for `<`."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(parts))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
