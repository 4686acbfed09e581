"""From a command line to a function call: recipes, their checks, and errors in one line.

    python -m limo.train recipe=demo train.args.learning_rate=2e-4

A recipe is one YAML file in `recipes/recipe/` with a section for each command. A section names a function by its dotted
path (`_target_`) and gives its keyword-only arguments; the signature is the schema, so a missing, misspelt or mistyped
key fails before any work. What the toolkit itself passes (rows, a source's name) is positional and never in a recipe.
Nested nodes with a `_target_`, such as stages and engines, are checked the same way.
"""

import difflib
import importlib
import inspect
import math
import os
import re
import sqlite3
import subprocess
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from limo.data import replacing
from limo.errors import UserError, one_line, reported
from limo.launch import LOST, ended, first
from limo.ledger import cache_folder

_HERE = Path(__file__).resolve().parent
# In a checkout the recipes stand beside the package; in an installed wheel, inside it
RECIPES = next(folder for folder in (_HERE.parent / "recipes", _HERE / "recipes") if (folder / "run.yaml").is_file())


FULL = ("No space left on device", "file write failed", "failed writing file", "unexpected pos", "File too large")
ON_VARIABLE = re.compile(r"\$\{?\w+\}?/")


def command(
    section: str, module: str, about: str, several: Callable[[Mapping[str, Any]], int | None] | None = None
) -> None:
    """The main function of `python -m <module>`: runs one section of a recipe, or says in one line why not.

    `several` may take the section and run it in processes of its own; it returns their exit code, or None to decline.
    """
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing; the line is ours to write
    settle()
    with ended(), reported(lambda error: None if debug else explained(error)):
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help_text(section, module, about, sys.argv[1:]))  # noqa: T201
        else:
            # Hydra wants the overrides in one piece, but a person may type a flag anywhere
            sys.argv[1:] = [part for side in _flags(sys.argv[1:]) for part in side]
            _hydra(section, module, debug, several)


def _hydra(section: str, module: str, debug: bool, several: Callable[[Mapping[str, Any]], int | None] | None) -> None:
    import hydra
    from omegaconf import DictConfig

    failed: list[Exception] = []
    typed, here = list(sys.argv), os.getpid()  # a launcher such as submitit's runs the job in a process of its own

    def job(config: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        if failed:
            return
        try:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                _in_own_process(config, module, typed, debug)
                return
            recipe = plain(config)
            if not debug:  # processes started from here are commands of their own
                del os.environ["HYDRA_FULL_ERROR"]
            code = several(checked(recipe, section)) if several else None
            if code is None:
                run_section(recipe, section)
            elif code:
                sys.exit(code)
        except Exception as error:
            failed.append(error)  # raised again below; Hydra would add lines of its own
            if os.getpid() != here:
                raise

    hydra.main(version_base="1.3", config_path=str(RECIPES), config_name="run")(job)()
    if failed:
        raise failed[0]


def _in_own_process(config: Any, module: str, typed: list[str], debug: bool) -> None:
    """One job of a sweep, as the command a person would type: memory is freed, and each job has a folder of its own."""
    from hydra.core.hydra_config import HydraConfig

    settings = HydraConfig.get()
    # What the person typed as it is is the same in every job; what is left tells this one from the others
    swept = [o for o in settings.overrides.task if o not in typed]
    name = ",".join(swept).replace("/", "_") or "default"
    out = Path(plain(config)["out"]) / "sweep" / name
    sys.stderr.write(f"== {out}\n")
    flags = [flag for flag in _flags(typed[1:])[0] if flag not in ("-m", "--multirun")]
    environment = {k: v for k, v in os.environ.items() if debug or k != "HYDRA_FULL_ERROR"}
    call = [sys.executable, "-m", module, *flags, *settings.overrides.task, f"out='{out}'"]
    done = subprocess.run(call, env=environment)
    if done.returncode:
        raise UserError(f"the sweep stopped at '{name}' (exit code {done.returncode}); finished jobs are kept")


def own(defaults: Mapping[str, str]) -> dict[str, str]:
    """Values of a command's own keys, which are no part of a recipe: `key=value` among its arguments, taken out."""
    given = [a for a in sys.argv[1:] if a.partition("=")[0] in defaults and "=" in a]
    sys.argv[1:] = [a for a in sys.argv[1:] if a not in given]
    return {**defaults, **{key: value for key, _, value in (a.partition("=") for a in given)}}


def plain(config: Any, open_: bool = False) -> dict[str, Any]:
    """A composed config as plain Python values, every `${...}` resolved. Raises UserError if no recipe was chosen."""
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue

    if OmegaConf.is_missing(config, "name"):
        raise UserError(f"choose a recipe: recipe=<name>. There are: {', '.join(recipes())}")
    try:
        found = OmegaConf.to_container(config, resolve=True, throw_on_missing=not open_)
        return typing.cast(dict[str, Any], _expanded(found))
    except MissingMandatoryValue as error:
        raise UserError(
            f"the recipe leaves '{error.full_key}' open: give it on the command line, {error.full_key}=..."
        ) from None


def _expanded(value: Any) -> Any:
    """Settings in which a path that begins with an environment variable, such as $DATA/pool.jsonl, has its value."""
    if isinstance(value, dict):
        return {key: _expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner) for inner in value]
    return os.path.expandvars(value) if isinstance(value, str) and ON_VARIABLE.match(value) else value


def compose(*overrides: str, open_: bool = False) -> dict[str, Any]:
    """A recipe as a command would see it, for Python use: `compose("recipe=demo", "seed=1")`.

    With `open_`, what the recipe leaves to the person may stay open, as `???`. Raises UserError for a recipe that there
    is not or, without `open_`, for a value that is still open.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    state = GlobalHydra.instance()
    around = state.hydra  # of the command that this is called in, if it is
    state.clear()
    try:
        with initialize_config_dir(config_dir=str(RECIPES), version_base="1.3"):
            return plain(hydra_compose("run", overrides=list(overrides)), open_)
    finally:
        GlobalHydra.instance().hydra = around


def checked(recipe: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """A section of a recipe, once it and every node in it are bound to their functions. Raises UserError otherwise."""
    if not isinstance(recipe.get(section), dict):
        raise UserError(f"the recipe '{recipe.get('name')}' has no section '{section}'")
    bind(recipe[section], section)
    for where, node in nodes(recipe[section], section):
        check(node, where)
    return typing.cast(Mapping[str, Any], recipe[section])


def run_section(recipe: Mapping[str, Any], section: str) -> Any:
    """Check a whole section, then call its function. Returns what the function returns."""
    call = bind(checked(recipe, section), section)
    out = Path(recipe["out"])
    try:
        return call()
    finally:
        # Not after a refusal: then the folder belongs to other settings
        if first() and not isinstance(sys.exception(), UserError) and out.is_dir():
            _remember(out, recipe, section)


def _remember(out: Path, recipe: Mapping[str, Any], section: str) -> None:
    path = out / "recipe.yaml"
    known = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    shared = {k: v for k, v in recipe.items() if not (isinstance(v, dict) and "_target_" in v)}
    with replacing(path) as file:
        yaml.safe_dump({**known, **shared, section: recipe[section]}, file, sort_keys=False, allow_unicode=True)


def nodes(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node with a `_target_` below `value` (itself excepted), with its place in the recipe."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(inner, Mapping) and "_target_" in inner:
            yield f"{where}.{key}", inner
        yield from nodes(inner, f"{where}.{key}")


def files_in(settings: Any) -> list[str]:
    """Every text below that names a file or folder here (pools, word lists, models): what a step reads."""
    values = settings.values() if isinstance(settings, Mapping) else settings if isinstance(settings, list) else ()
    found = [path for value in values for path in files_in(value)]
    found += [v for v in values if isinstance(v, str) and len(v) < 1000 and "\n" not in v and _is_path(v)]
    return list(dict.fromkeys(found))


def _is_path(text: str) -> bool:
    """Whether a text names something here, and not by chance: a bare word such as `score` might be a folder's name."""
    return ("/" in text or "." in text) and Path(text).expanduser().exists()


def check(node: Mapping[str, Any], where: str) -> None:
    """Bind a node for its errors only. A key that the function above fills in (an engine's model) may be missing."""
    target = resolve(str(node["_target_"]), where)
    takes_model = inspect.isclass(target) and "model" in inspect.signature(target).parameters
    filled = {"model": ""} if takes_model and "model" not in node else {}
    bind({**node, **filled}, where)


def bind(node: Mapping[str, Any], where: str) -> Callable[..., Any]:
    """The function that a node names, with the node's settings bound to it.

    Raises UserError naming the key if the function does not exist, or a key is missing, unknown or of another type.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise UserError(f"{where} must name its function with _target_: package.module.function")
    target = resolve(node["_target_"], where)
    settings = {key: value for key, value in node.items() if key != "_target_"}
    named = inspect.Parameter.KEYWORD_ONLY if not is_dataclass(target) else inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = {n: p for n, p in inspect.signature(target).parameters.items() if p.kind is named}
    for key in settings:
        if key not in parameters:
            raise UserError(f"{where}.{key} is no setting of {node['_target_']}{near(key, parameters)}")
    for key, parameter in parameters.items():
        if key not in settings and parameter.default is parameter.empty:
            raise UserError(f"{where}.{key} is missing: {node['_target_']} needs it")
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    for key, value in settings.items():
        hint = hints.get(key, Any)
        if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
            settings[key] = bind({"_target_": f"{hint.__module__}.{hint.__qualname__}", **value}, f"{where}.{key}")()
        elif not _fits(value, hint):
            raise UserError(f"{where}.{key} must be {_said(hint)}, not {value!r}")
    return partial(target, **settings)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except NameError:  # a type that is imported for type checkers only
        return {name: hint for name, hint in target.__annotations__.items() if not isinstance(hint, str)}


def resolve(path: str, where: str) -> Callable[..., Any]:
    """The object at a dotted path. Raises UserError if there is none."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}._target_: there is no '{path}' ({error})") from None
    if not callable(found):
        raise UserError(f"{where}._target_: '{path}' is no function")
    return typing.cast(Callable[..., Any], found)


def near(word: str, known: typing.Iterable[str]) -> str:
    """A hint for a misspelt word: the closest known one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(word, names, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; there are {', '.join(names) or 'none'}"


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in (RECIPES / "recipe").glob("*.yaml"))


def help_text(section: str, module: str, about: str, arguments: list[str]) -> str:
    """What `--help` prints: the recipes, how to override, and with `recipe=` the section as it would run."""
    lines = [
        about,
        "",
        f"  python -m {module} recipe=<name> [key=value ...]",
        "",
        "Recipes (recipes/recipe/<name>.yaml):",
        *(f"  {name:<12} {_first_line(name)}" for name in recipes()),
        "",
        "Any value of the recipe may be set on the command line, in Hydra's syntax:",
        "  seed=1 name=my-run       a number; a name, and so a folder, of its own",
        "  +train.args.weight_decay=0.1   a key that the recipe does not have yet",
        "  --cfg job --resolve      print the whole recipe as it would run, and stop",
        "  --multirun seed=0,1,2    one run after the other, each in runs/<name>/sweep/<values>",
        "  --config-dir my          look for my/recipe/<name>.yaml as well",
    ]
    overrides = overrides_in(arguments)
    if any(a.startswith("recipe=") for a in overrides):
        shown = yaml.safe_dump({section: compose(*overrides, open_=True)[section]}, sort_keys=False, allow_unicode=True)
        return "\n".join([*lines, "", f"The section '{section}':", "", shown])
    return "\n".join([*lines, "", f"With recipe=<name>, --help shows the section '{section}' of that recipe."])


def overrides_in(arguments: Sequence[str]) -> list[str]:
    """A command's arguments as `compose` takes them: its overrides, and the folder that `--config-dir` adds."""
    flags, overrides = _flags(arguments)
    if "--config-dir" in flags:
        folder = Path(flags[flags.index("--config-dir") + 1]).resolve()
        overrides.append(f"hydra.searchpath=[file://{folder}]")
    return overrides


def _flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, each with its value where it takes one, and the overrides between them."""
    valued = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p"}
    valued |= {"--cfg", "-c", "--experimental-rerun"}
    about = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}  # what --info may be told
    flags: list[str] = []
    overrides: list[str] = []
    for before, a in zip(["", *arguments], arguments, strict=False):
        value = before in valued or (before in ("--info", "-i") and a in about)
        (flags if value or a.startswith("-") else overrides).append(a)
    return flags, overrides


def _first_line(name: str) -> str:
    for line in (RECIPES / "recipe" / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and "@package" not in line:
            return line[2:]
    return ""


def cores() -> int:
    """Processor cores this process may use: `$LIMO_CORES`, or the affinity mask, cut to a container's quota."""
    if given := os.environ.get("LIMO_CORES"):
        return max(1, int(given))
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return count


def settle() -> None:
    """Environment that must stand before torch and DeepSpeed are imported. Values already set are kept."""
    # More threads than cores slow torch by an order of magnitude
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    if not sys.warnoptions:  # what a library will rename next year is no concern of who runs a recipe
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DS_LOG_LEVEL", "error")


def explained(error: BaseException) -> UserError | None:
    """What a person has to know about an error they can put right; None where the mistake is ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        return error
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST):
        return UserError("another rank is gone; what it said stands above. Finished checkpoints are kept")
    if any(sign in str(error) for sign in FULL) or (
        isinstance(error, sqlite3.OperationalError) and "full" in str(error)
    ):
        return one_line(OSError(28, "No space left on device"))
    if isinstance(error, HydraException | OmegaConfBaseException):
        return UserError(_composition(error))
    if isinstance(error, sqlite3.OperationalError):
        return UserError(f"cannot use the samples in {cache_folder()}: {error}. Set LIMO_CACHE to another folder")
    if isinstance(error, OSError):
        return one_line(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return UserError("out of memory. Take a smaller batch_size or a shorter max_length; what was finished is kept")
    return None


def _composition(error: BaseException) -> str:
    """Hydra's words about a recipe or a command line that does not compose, on one line."""
    full = " ".join(str(error).split())
    if full.startswith("Could not find 'recipe/") or full.startswith("In 'run': Could not find 'recipe/"):
        name = full.split("'recipe/")[1].split("'")[0]
        where = f"recipes/recipe/{name}.yaml is looked for; one of your own needs --config-dir"
        return f"there is no recipe '{name}'{near(name, recipes())} ({where})"
    if full.startswith("Could not override '"):
        key = (
            getattr(error.__cause__, "full_key", None) or full.split("'")[1]
        )  # what a {...} has of its own stands deeper
        return f"the recipe has no key '{key}'{_nearest(key)}. --cfg job prints them all; +{key}=... adds a new one"
    cause = f": {' '.join(str(error.__cause__).split())}" if error.__cause__ else ""
    return full + cause


def _nearest(key: str) -> str:
    """The recipe's key whose last part is closest to that of a misspelt one."""
    from hydra.errors import MissingConfigException

    chosen = [a for a in sys.argv[1:] if a.startswith("recipe=")]
    try:
        known = list(_keys(compose(*chosen, open_=True))) if chosen else []
    except MissingConfigException:  # a recipe of another folder gets no hint; the mistake is told all the same
        known = []
    last = {k.rpartition(".")[2]: k for k in reversed(known)}
    close = difflib.get_close_matches(key.rpartition(".")[2], last, 1)
    return f" (did you mean '{last[close[0]]}'?)" if close and last[close[0]] != key else ""


def _keys(value: Any, where: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{where}{key}"
            yield from _keys(inner, f"{where}{key}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value is of a hinted type; hints beyond plain types, containers and unions always pass."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, inner) for inner in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin in (list, dict) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return isinstance(value, list if origin is list else Mapping)
    if is_dataclass(hint):
        return isinstance(value, Mapping | hint)
    return True


def _said(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if is_dataclass(hint):
        return "{" + ", ".join(f"{field.name}: ..." for field in fields(hint)) + "}"
    return getattr(hint, "__name__", str(hint)) if not typing.get_origin(hint) else str(hint).replace("typing.", "")
