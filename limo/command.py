"""The main function of every command: run one section of a recipe, or print what is wrong with it in one line.

Flags, help, completion and sweeps are Hydra's own. A sweep runs each job in a child process, continues after a
failed job, gives an optimising sweeper the number that `metric` names, and ends with a table of its jobs.

Commands that need no recipe take the arguments of a function (`run_function`): those without a default in order, and
all others as key=value or --key value.
"""

import inspect
import math
import os
import re
import sqlite3
import sys
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from limo.console import clock
from limo.errors import UserError, explain, reported
from limo.machine import samples_folder, set_environment, world_size
from limo.processes import override, run_command
from limo.recipe import (
    RECIPES,
    check_section,
    compose,
    guard_hydra,
    keys,
    nearest,
    recipe_names,
    resolve_config,
    run_section,
    suggest,
    trust,
    validate,
)
from limo.run import read_results

LOST_RANK = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "NCCL error")

# Runs a section in child processes. Takes the section and the command-line arguments from which a child process
# composes the same recipe; returns an exit code, or None to run the section in this process.
InProcesses = Callable[[Mapping[str, Any], Sequence[str]], int | None]
Before = Callable[[Mapping[str, Any]], None]  # looks at the whole recipe first, and raises UserError


def command(
    section: str | None, module: str, in_processes: InProcesses | None = None, before: Before | None = None
) -> None:
    """The main function of `python -m <module>`: call `before`, then run one section of a recipe if one is named."""
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra's parser wants all overrides after the flags; users type them anywhere
    sys.argv[1:] = sorted(_take_trust(sys.argv[1:]), key=_is_override)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing; we print one line
    set_environment()
    run = _Run(section, module, in_processes, before, debug)
    try:
        with _exit_at_once(), reported(lambda error: None if debug else _explain(error, run.begun)):
            _refuse_words(sys.argv[1:])
            run.start()
    finally:  # a process may run several commands
        if not debug:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _refuse_words(arguments: Sequence[str]) -> None:
    """Raise UserError for a word that is neither key=value, nor a flag, nor the value of one."""
    from hydra._internal.utils import get_args_parser

    flags = get_args_parser()._option_string_actions
    for before, word in pairwise(["", *arguments]):
        if word.startswith("--") and (flag := word.partition("=")[0]) not in flags:
            hint = nearest(flag, list(flags))
            raise UserError(f"{flag} is not a flag{hint}. A setting is key=value: {flag.strip('-')}=...")
        if not word.startswith("-") and not _is_override(word) and not before.startswith("-"):
            raise UserError(
                f"'{word}' is not key=value. A recipe is named by recipe=NAME, a run's folder by out=FOLDER"
            )


def _take_trust(arguments: Sequence[str]) -> Iterator[str]:
    """Apply and remove --trust MODULE, which Hydra does not know. Returns the other arguments."""
    left = iter(arguments)
    for argument in left:
        if argument == "--trust" or argument.startswith("--trust="):
            trust(argument.partition("=")[2] or next(left, ""))
        else:
            yield argument


@dataclass
class _Run:
    """One call of a command; a sweep has several jobs."""

    section: str | None
    module: str
    in_processes: InProcesses | None
    before: Before | None
    debug: bool
    begun: bool = False  # a recipe was composed, so later errors do not come from the command line
    failed: list[Exception] = field(default_factory=list)  # raised after Hydra has returned, since it would print them
    jobs: list[tuple[str, str, str, str]] = field(default_factory=list)  # name, outcome, metric, time

    def start(self) -> None:
        import hydra

        guard_hydra()
        # Hydra's launchers pickle the task function, which must not hold this object
        hydra.main(version_base="1.3", config_path=str(RECIPES), config_name="run")(lambda config: self.job(config))()
        if self.jobs:
            from rich.console import Console

            from limo.console import Table, print_table

            table = Table(("job", "outcome", "metric", "time"), self.jobs, title=f"{len(self.jobs)} jobs")
            print_table(table, Console(stderr=True, soft_wrap=True))
        if self.failed:
            raise self.failed[0]

    def job(self, config: Any) -> float | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        self.begun = True
        settings = HydraConfig.get()
        try:
            recipe = resolve_config(config)
            if settings.mode == RunMode.MULTIRUN:
                return self._run_in_sweep(recipe, settings)
            _refuse_without_effect(settings.overrides.task, recipe)
            if not self.debug:  # processes started from here are commands themselves
                os.environ.pop("HYDRA_FULL_ERROR", None)
            if self.before:
                self.before(recipe)
            if self.section:
                section = check_section(recipe, self.section)
                code = self.in_processes(section, _arguments(settings)) if self.in_processes else None
                if code:
                    sys.exit(code)
                if code is None:
                    run_section(recipe, self.section)
        except Exception as error:  # noqa: BLE001
            self.failed.append(error)
        return None

    def _run_in_sweep(self, recipe: Mapping[str, Any], settings: Any) -> float | None:
        """Run one job of a sweep in a child process, so that its memory is freed, and in a separate folder."""
        name = ",".join(_swept(settings.overrides.task)).replace("/", "_") or "default"
        out = Path(recipe["out"]) / "sweep" / name
        sys.stderr.write(f"== {out}\n")
        environment = {k: v for k, v in os.environ.items() if self.debug or k != "HYDRA_FULL_ERROR"}
        begun = time.monotonic()
        call = [sys.executable, "-m", self.module, *_arguments(settings), override("out", str(out))]
        code = run_command(call, environment)
        if code == 130:
            sys.exit(code)
        metric, outcome = None, f"failed ({code})" if code else "done"
        try:
            if code:
                raise UserError(f"a job of the sweep failed: '{name}' (exit code {code})")
            metric = read_results(out, recipe["metric"]) if recipe.get("metric") else None
        except UserError as error:
            self.failed.append(error)
        self.jobs.append((name, outcome, "" if metric is None else f"{metric:g}", clock(time.monotonic() - begun)))
        return math.nan if code else metric


def _swept(overrides: Sequence[str]) -> list[str]:
    """The overrides by which a job differs from the other jobs of its sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed = OverridesParser.create().parse_overrides([a for a in sys.argv[1:] if _is_override(a)])
    fixed = {override.key_or_group for override in typed if not override.is_sweep_override()}
    return [override for override in overrides if override.partition("=")[0].lstrip("+~") not in fixed]


def _is_override(argument: str) -> bool:
    return not argument.startswith(("-", "~/")) and ("=" in argument or argument.startswith("~"))


def _arguments(settings: Any) -> list[str]:
    """The arguments from which a child process composes the same recipe: the overrides, and the folders given as
    --config-dir.
    """
    added = [s.path for s in settings.runtime.config_sources if s.provider == "command-line"]
    return [*(part for folder in added for part in ("--config-dir", folder)), *settings.overrides.task]


def _refuse_without_effect(overrides: Sequence[str], recipe: Mapping[str, Any]) -> None:
    """Raise UserError for `key={}`, which has no effect, since Hydra merges mappings."""
    for typed in overrides:
        key, _, value = typed.partition("=")
        found: Any = recipe
        for part in key.split(".") if value.replace(" ", "") == "{}" else ():
            found = found.get(part) if isinstance(found, Mapping) else None
        if found and found is not recipe and isinstance(found, Mapping):
            raise UserError(
                f"{key}={{}} changes nothing, since mappings are merged: remove a key with ~{key}.{next(iter(found))}"
            )


@contextmanager
def _exit_at_once() -> Iterator[None]:
    """End a failed rank at once, without cleaning up, so that the other ranks do not wait for it."""
    try:
        yield
    except SystemExit as stop:
        if "RANK" not in os.environ or not stop.code:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code if isinstance(stop.code, int) else 1)


def _explain(error: Exception, begun: bool) -> UserError | None:
    """Convert an error that the user can fix to a UserError; None for a bug of the toolkit."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    text = str(error)
    match error:
        case UserError():
            return error
        case RuntimeError() if world_size() > 1 and any(sign in text for sign in LOST_RANK):
            return UserError("another rank is gone; its error is printed above. Finished checkpoints are kept")
        case HydraException() | OmegaConfBaseException():
            return UserError(_explain_composition(error))
        case yaml.MarkedYAMLError():
            mark = error.problem_mark or error.context_mark
            where = f"{mark.name}, line {mark.line + 1}" if mark else "a recipe"
            return UserError(f"{where}: not valid YAML: {error.problem or error.context}")
        case ValueError() if not begun:  # Hydra's own words on flags that exclude each other
            return UserError(text)
        case sqlite3.OperationalError():
            return UserError(f"cannot use the samples in {samples_folder()}: {text}. Set LIMO_CACHE to another folder")
    return explain(error)


def _explain_composition(error: BaseException) -> str:
    """Convert Hydra's message about a recipe or command line that cannot be composed to one line."""
    full = " ".join(str(error).split())
    if found := re.match(r"(?:In 'run': )?Could not find 'recipe/([^']*)'", full):
        folder = _config_dir()
        if folder and (misplaced := folder / f"{found[1]}.yaml").is_file():
            return (
                f"{misplaced} has to lie in the folder of the recipes: move it to {folder / 'recipe' / misplaced.name}"
            )
        mine = sorted(path.stem for path in (folder / "recipe").glob("*.yaml")) if folder else []
        where = (
            f"{folder / 'recipe'} has {', '.join(mine) or 'none'}" if folder else "your own needs --config-dir FOLDER"
        )
        return f"there is no recipe '{found[1]}'{suggest(found[1], [*mine, *recipe_names()])} ({where})"
    if found := re.match(
        r"(?:In '[^']*': )?Could not find '([\w/]+)/([^'/]*)'(?: Available options in '[^']*': (.*))?", full
    ):
        options = (found[3] or "").partition(" Config search path")[0].split()
        return f"there is no '{found[2]}' in the group {found[1]}{suggest(found[2], options)}"
    if full.startswith("Could not override '"):
        key = getattr(error.__cause__, "full_key", None) or full.split("'")[1]  # a {...} names its own key
        adds = f"; +{key}=... adds a new one" if "." in key else ""
        group, _, inner = key.rpartition(".")
        having = [p.stem for p in sorted((RECIPES / group).glob("*.yaml")) if group and f"\n{inner}:" in p.read_text()]
        if having:
            return f"{key} is a setting of {' and '.join(f'{group}={name}' for name in having)}, not of this recipe's"
        return f"the recipe has no key '{key}'{nearest(key, _known_keys())}. --cfg job prints them all{adds}"
    cause = f": {' '.join(str(error.__cause__).split())}" if error.__cause__ else ""
    if "Cannot merge" in cause and (kind := re.search(r"full_key: (\S+)", cause)):
        return f"{kind[1]} is of another kind in the recipe, so remove that first: '~{kind[1]}' '+{kind[1]}=...'"
    return full + cause


def _config_dir() -> Path | None:
    """The folder that --config-dir names."""
    from hydra._internal.utils import get_args_parser

    given = get_args_parser().parse_known_args()[0].config_dir
    return Path(given) if given else None


def _known_keys() -> list[str]:
    """All keys of the recipe before the command line's overrides; empty if the recipe cannot be composed."""
    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException

    given, _ = get_args_parser().parse_known_args()
    chosen = [override for override in given.overrides if override.startswith(("recipe=", "hydra.searchpath="))]
    if folder := _config_dir():
        chosen.append(f"hydra.searchpath=[file://{folder.resolve()}]")
    try:
        return list(keys(compose(*chosen, allow_missing=True))) if chosen else []
    except (HydraException, UserError):
        return []


def run_function(function: Callable[..., Any], command: str, about: str | None) -> None:
    """Call a function with this process's arguments; print user errors as one line. `about` is the text of --help."""
    with reported():
        if {"-h", "--help"} & set(sys.argv[1:]):
            sys.stdout.write(f"usage: {usage(function, command)}\n\n{(about or '').strip()}\n")
            return
        function(**read_arguments(function, sys.argv[1:], command))


def usage(function: Callable[..., Any], command: str) -> str:
    """The usage line of a command: its required arguments, then its settings."""
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name.upper() for p in parameters if p.default is p.empty]
    return " ".join([command, *needed, *(f"[{p.name}=...]" for p in parameters if p.default is not p.empty)])


def read_arguments(function: Callable[..., Any], given: Sequence[str], command: str) -> dict[str, Any]:
    """The arguments of a function from a command line's words. Raises UserError for unknown, missing or wrong ones."""
    parameters, hints = inspect.signature(function).parameters, typing.get_type_hints(function)
    words, found = list[str](), dict[str, Any]()
    left = iter(given)
    for word in left:
        key, sign, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if word.startswith("--") or (sign and re.fullmatch(r"[a-z_]+", key) and not Path(word).exists()):
            if key not in parameters:
                raise UserError(f"{command} has no setting '{key}'{suggest(key, parameters)}")
            found[key] = [*found.get(key, []), value if sign else next(left, "")]
        else:
            words.append(word)
    needed = [name for name, p in parameters.items() if p.default is p.empty and name not in found]
    values: list[list[str]] = [[word] for word in words]
    if needed and typing.get_origin(hints[needed[-1]]) is list:  # takes all remaining words, possibly none
        values[len(needed) - 1 :] = [words[len(needed) - 1 :]]
    if len(values) != len(needed):
        broken = any(word.endswith(("}", ",", "]")) for word in words)
        quote = ". Quote what has blanks: 'fields={problem: ..., answer: ...}'" if broken else ""
        raise UserError(f"wrong number of arguments. Usage: {usage(function, command)}{quote}")
    found |= dict(zip(needed, values, strict=True))
    return {key: _typed(hints[key], listed, key) for key, listed in found.items()}


def _typed(hint: Any, values: list[str], key: str) -> Any:
    """Convert the words of one argument to its type. Numbers and mappings are parsed as YAML."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if listed := next((option for option in options if typing.get_origin(option) is list), None):
        (inner,) = typing.get_args(listed)
        return [_typed(inner, [part], key) for value in values for part in value.strip("[]").split(",")]
    if len(values) > 1:
        raise UserError(f"{key} is given {len(values)} times; a mapping needs quotes: '{key}={{problem: ...}}'")
    if Path in options:
        return Path(values[0])
    if str in options:
        return values[0]
    try:
        return validate(hint, yaml.safe_load(values[0]), key)
    except yaml.YAMLError:
        raise UserError(f"{key} must be a mapping such as {{problem: question}}, not {values[0]}") from None
