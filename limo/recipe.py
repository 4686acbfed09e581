"""From a recipe to a function call: what is composed, checked, bound and run. `limo/command.py` is the command line.

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
from limo.errors import UserError
from limo.launch import first

_HERE = Path(__file__).resolve().parent
# In a checkout the recipes stand beside the package; in an installed wheel, inside it
RECIPES = next(folder for folder in (_HERE.parent / "recipes", _HERE / "recipes") if (folder / "run.yaml").is_file())


ON_VARIABLE = re.compile(r"\$\{?\w+\}?/")


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
    if not str(recipe.get("name") or "").strip():
        raise UserError("name= is empty: a run's folder is called by it")
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


def overrides_in(arguments: Sequence[str]) -> list[str]:
    """A command's arguments as `compose` takes them: its overrides, and the folder that `--config-dir` adds."""
    given, overrides = flags(arguments)
    if "--config-dir" in given:
        folder = Path(given[given.index("--config-dir") + 1]).resolve()
        overrides.append(f"hydra.searchpath=[file://{folder}]")
    return overrides


def flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, each with its value where it takes one, and the overrides between them."""
    valued = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p"}
    valued |= {"--cfg", "-c", "--experimental-rerun"}
    about = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}  # what --info may be told
    found: list[str] = []
    overrides: list[str] = []
    for before, a in zip(["", *arguments], arguments, strict=False):
        value = before in valued or (before in ("--info", "-i") and a in about)
        (found if value or a.startswith("-") else overrides).append(a)
    return found, overrides


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
