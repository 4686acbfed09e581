"""Turns a recipe into function calls: Hydra composes it, pydantic validates it, and each section is bound to its
function.

A recipe is one YAML file in `recipes/recipe/`. Each section names a function by its dotted path (`_target_`) and gives
its settings; the signature is the schema, so a missing, misspelt or mistyped key fails before any work. A function
takes settings as keyword-only arguments, or as one dataclass. What the toolkit itself passes (rows, a source's name) is
positional and never in a recipe. Nested nodes with a `_target_`, such as stages and engines, are checked the same way.
"""

import difflib
import importlib
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from functools import partial, wraps
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from limo.console import logged
from limo.data import match_pattern
from limo.errors import UserError
from limo.machine import is_main
from limo.processes import limit_time
from limo.run import remember_recipe

T = TypeVar("T")
OURS = ("limo", "curation", "eval")  # packages whose functions a recipe may name
TRUST = "LIMO_TRUST"  # the environment variable with further modules, for child processes
READABLE = ("LIMO_", "MAMMOTH2_", "SLURM_", "DATA_")  # prefixes of environment variables that a recipe may read
SECRET = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.I)  # words in names of variables that it may not read
SWEEPER = ("direction", "n_trials", "n_jobs", "max_batch_size", "study_name", "params", "search_space", "sampler")
HYDRAS = ("hydra_plugins.", "hydra._internal.", "optuna.samplers.")  # targets that a sweeper's settings may name
COMPOSING = 4  # seconds of processor time in which a recipe must be composed
_NONE = object()
_HERE = Path(__file__).resolve().parent
# In a checkout the recipes are beside the package; in an installed wheel, inside it
RECIPES = next(folder for folder in (_HERE.parent / "recipes", _HERE / "recipes") if (folder / "run.yaml").is_file())

# Settings that name files or folders which a step reads. Their content is part of what a run was made from.
READS = "reads"
InputPath = Annotated[str, READS]
InputPaths = Annotated[list[str], READS]
InputBenchmarks = Annotated[list[Any] | dict[str, Any], READS]  # names, files, and nodes of sources


_trusted = [*OURS, *filter(None, os.environ.get(TRUST, "").split(","))]  # read before any recipe is


def trust(modules: str) -> None:
    """Allow `_target_` to name functions of these modules (comma-separated), in this process and its children."""
    _trusted[:] = dict.fromkeys([*_trusted, *filter(None, modules.split(","))])
    os.environ[TRUST] = ",".join(_trusted[len(OURS) :])


def is_trusted(module: str) -> bool:
    """Whether a module belongs to the toolkit, or was named with --trust, itself or by a package that contains it."""
    return any(module == known or module.startswith(f"{known}.") for known in _trusted)


def _read_environment(name: str, default: Any = _NONE) -> Any:
    """Read `${oc.env:NAME}`, except for variables that may hold a secret, since the values of a recipe are written to
    data, cards and logs.
    """
    known = name.startswith(READABLE) or name in ("HOME", "USER", "TMPDIR", "SCRATCH", "PWD")
    if not known or SECRET.search(name):
        raise UserError(
            f"the recipe reads the environment variable {name}, which may be a secret. It may read HOME, USER, TMPDIR, "
            f"SCRATCH, PWD and names that begin with {', '.join(READABLE)} and hold no word such as KEY or TOKEN"
        )
    if name not in os.environ and default is _NONE:
        raise UserError(f"the recipe reads the environment variable {name}, which is not set")
    return os.environ.get(name, default)


def guard_hydra() -> None:
    """Restrict what a recipe may read and set in Hydra. Called before anything is composed.

    The settings below `hydra` name code that Hydra runs (callbacks, logging, launchers), environment variables that it
    sets and folders that it writes to. So each composed configuration is compared with one that has only the `hydra`
    settings of the command line; a recipe may add the SWEEPER settings. A key that nothing reads is refused.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("oc.env", _read_environment, replace=True)
    OmegaConf.register_new_resolver("shipped", lambda name: str(RECIPES / "data" / name), replace=True)
    load, change = ConfigLoaderImpl.load_configuration, ConfigLoaderImpl._apply_overrides_to_config
    if getattr(load, "guarded", False):
        return
    read = set[str]()  # keys named in the recipe as written: the command line may replace a value that names a key

    def change_and_note(overrides: Any, config: Any) -> None:
        read.clear()
        read.update(_named_in(OmegaConf.to_container(config)))
        change(overrides, config)

    @wraps(load)
    def guarded(loader: Any, config_name: str | None, overrides: list[str], *rest: Any, **more: Any) -> Any:
        typed = [text for text in overrides if text.lstrip("+~").startswith("hydra")]
        with limit_time(COMPOSING, "composing the recipe"):
            try:
                plain, whole = (load(loader, config_name, given, *rest, **more) for given in (typed, overrides))
            except KeyError as error:  # from hydra.job.env_copy
                raise UserError(f"the recipe sets hydra.job: there is no variable {error}") from None
            before, found = (typing.cast(dict[str, Any], OmegaConf.to_container(c.hydra)) for c in (plain, whole))
        if found["overrides"].pop("task") != [text for text in overrides if text not in typed]:
            raise UserError("the recipe sets hydra.overrides, which are the command line's")
        _refuse_hydra(before, found)
        _refuse_unread(OmegaConf.to_container(whole), read)
        return whole

    guarded.guarded = True  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_configuration = guarded  # type: ignore[method-assign, assignment]
    ConfigLoaderImpl._apply_overrides_to_config = staticmethod(change_and_note)  # type: ignore[method-assign, assignment]


def _refuse_hydra(plain: Any, whole: Any) -> None:
    """Raise UserError if the recipe changes a setting below `hydra` other than the sweeper's numbers."""
    for config in (plain, whole):  # what Hydra itself fills in
        del config["runtime"], config["job"]["override_dirname"]
    plain["overrides"].pop("task")
    before, sweeper = plain.pop("sweeper"), whole.pop("sweeper")
    changed = [f"hydra.{key}" for key in whole if whole[key] != plain.get(key)]
    for key, value in sweeper.items():
        own = key in (*SWEEPER, "_target_") or value is None
        named = all(str(target).startswith(HYDRAS) for target in _targets({key: value}))
        inside = (
            any(str(name).lstrip("+~").startswith("hydra") for name in value) if isinstance(value, Mapping) else False
        )
        if value != before.get(key) and (inside or not (own and named)):
            changed.append(f"hydra.sweeper.{key}")
    if changed:
        raise UserError(
            f"the recipe sets {changed[0]}, and Hydra runs what such settings name: a recipe may set only "
            f"{', '.join(SWEEPER)} of hydra.sweeper. Remove it, or give it on the command line"
        )


def _targets(value: Any) -> Iterator[Any]:
    for key, inner in (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from [inner] if key == "_target_" else _targets(inner)


def resolve_config(config: Any, allow_missing: bool = False) -> dict[str, Any]:
    """Convert a composed config to plain Python values, with every `${...}` resolved. Raises UserError if no recipe was
    chosen.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationResolutionError

    if "recipe" in config:
        raise UserError("the recipe's first line must be `# @package _global_`: its keys belong at the top level")
    if OmegaConf.is_missing(config, "name"):
        raise UserError(f"choose a recipe: recipe=<name>. Known are {', '.join(recipe_names())}")
    if not allow_missing and (left_open := sorted(_left_open(OmegaConf.to_container(config)))):
        given = " ".join(f"{key}=..." for key in left_open)
        raise UserError(f"the recipe leaves open what only you know: give it on the command line, {given}")
    try:
        found = OmegaConf.to_container(config, resolve=True, throw_on_missing=not allow_missing)
    except InterpolationResolutionError as error:
        if "UserError raised" not in str(error):
            raise
        raise UserError(str(error).partition(": ")[2].splitlines()[0]) from None
    recipe = typing.cast(dict[str, Any], found)
    for part in (recipe, *recipe.values()):  # sections such as plan and tournament hold the curation as well
        if isinstance(part, dict) and isinstance(part.get("curate"), dict):
            _leave_out_removed(part["curate"])
    return recipe


def _leave_out_removed(curate: dict[str, Any]) -> None:
    """Remove the stages and pool sources that are null: so a recipe removes one of the recipe that it builds on."""
    removed = {}
    for key in {"stages", "pool"} & curate.keys():
        nodes = curate[key] or {}  # null removes all
        if isinstance(nodes, dict):
            removed[key] = {name for name, node in nodes.items() if node is None}
            curate[key] = {name: node for name, node in nodes.items() if node is not None}
    if isinstance(curate.get("order"), list):
        curate["order"] = [name for name in curate["order"] if name not in removed.get("stages", ())]


def _named_in(config: Any) -> set[str]:
    """The top-level keys that are used by some `${...}` in a composed recipe."""
    return set(re.findall(r"\$\{(?:oc\.select:)?\s*(\w+)", repr(config)))


def _refuse_unread(config: Any, read: Collection[str]) -> None:
    """Raise UserError for keys at the top level that nothing reads, and for a section without its function.

    Keys that count as read: the sections, the keys of run.yaml, keys that a `${...}` names, and keys that hold nodes to
    choose from on the command line, unless they look like a misspelt section. A key that is null was removed.
    """
    named = {"hydra", "recipe", *read, *_named_in(config)}  # `recipe` holds a recipe that lacks its first line
    named |= set(yaml.safe_load((RECIPES / "run.yaml").read_text(encoding="utf-8")))
    sections = ("curate", "train", "eval")
    unread = [
        key
        for key, value in config.items()
        if key not in named
        and value is not None
        and (not any(_targets(value)) or difflib.get_close_matches(key, sections, 1, 0.8))
    ]
    for section in sections:
        if isinstance(config.get(section), Mapping) and "_target_" not in config[section]:
            raise UserError(
                f"the recipe's section {section} names no function: a recipe builds on another one, such as "
                "`defaults: [/recipe/base, _self_]`"
            )
    known = list(keys({k: v for k, v in config.items() if k != "hydra" and k not in unread}))
    if said := [f"'{key}'{nearest(str(key), known)}" for key in unread]:
        raise UserError(
            f"nothing reads the recipe's key {' nor '.join(said)}. Does it lack a line `defaults:`? "
            f"If you removed what read it, remove it as well: {unread[0]}: null"
        )


def keys(value: Any, where: str = "") -> Iterator[str]:
    """All keys of a mapping, at any depth, in the form `train.args.seed`."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        yield f"{where}{key}"
        yield from keys(inner, f"{where}{key}.")


def nearest(key: str, known: Sequence[str]) -> str:
    """A hint for an unknown key: the same name at another place, or a similar name."""
    name = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == name and k != key]
    # Keys that shape a run come before keys that only measure it
    same.sort(key=lambda k: (k.startswith(("probe.", "fit.", "tournament.")), k.count(".")))
    meant = next(iter(same or difflib.get_close_matches(key, known, 1)), "")
    return f" (did you mean '{meant}'?)" if meant else ""


def compose(*overrides: str, allow_missing: bool = False) -> dict[str, Any]:
    """Compose a recipe as a command would, for use from Python: `compose("recipe=demo", "seed=1")`.

    With `allow_missing`, values that the recipe leaves open stay `???`; without it they raise UserError.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    guard_hydra()
    state = GlobalHydra.instance()
    running = state.hydra  # the Hydra instance of the calling command
    state.clear()
    try:
        with initialize_config_dir(config_dir=str(RECIPES), version_base="1.3"):
            return resolve_config(hydra_compose("run", overrides=list(overrides)), allow_missing)
    finally:
        GlobalHydra.instance().hydra = running


def compose_arguments(arguments: Sequence[str]) -> list[str]:
    """Convert a command's arguments to overrides for `compose`. A folder given with --config-dir becomes a
    search path.
    """
    folders = [folder for flag, folder in pairwise(arguments) if flag == "--config-dir"]
    search = [f"hydra.searchpath=[{', '.join(f'file://{Path(f).resolve()}' for f in folders)}]"] if folders else []
    return [*(a for a in arguments if a not in ("--config-dir", *folders)), *search]


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in (RECIPES / "recipe").glob("*.yaml"))


def _left_open(value: Any, key: str = "") -> Iterator[str]:
    """The keys whose value the recipe leaves open (`???`)."""
    if value == "???":
        yield key
    for inner, content in value.items() if isinstance(value, Mapping) else ():
        yield from _left_open(content, f"{key}.{inner}".lstrip("."))


def check_section(recipe: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """Return a section of a recipe after checking that it and every node in it fits its function. Raises UserError
    otherwise.
    """
    check_name(str(recipe.get("name") or "").strip(), "name")
    if not isinstance(recipe.get(section), dict):
        raise UserError(f"the recipe '{recipe.get('name')}' has no section '{section}'")
    bind(recipe[section], section)
    for where, node in nodes(recipe[section], section):
        check_node(node, where)
    return typing.cast(Mapping[str, Any], recipe[section])


def check_name(name: str, where: str) -> None:
    """Raise UserError for a name that is unsafe as a file name, or that Hydra would resolve."""
    if not re.fullmatch(r"[^/\\\0-\x1f\x7f]{1,120}", name) or name in (".", "..") or "${" in name:
        raise UserError(
            f"{where}: '{name[:80]}' names files: 1 to 120 characters, no slash, line break or '${{' among them"
        )


def run_section(recipe: Mapping[str, Any], section: str) -> Any:
    """Check a whole section, then call its function. Returns what the function returns."""
    call = bind(check_section(recipe, section), section)
    out = Path(recipe["out"])
    try:
        with logged(out / "run.log"):
            return call()
    finally:
        # Not after a refusal, since the folder then belongs to other settings
        if is_main() and not isinstance(sys.exception(), UserError) and out.is_dir():
            remember_recipe(out, recipe, section)


def nodes(value: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every node with a `_target_` below `value` (not `value` itself), with its place in the recipe."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(inner, Mapping) and "_target_" in inner:
            yield f"{where}.{key}", inner
        yield from nodes(inner, f"{where}.{key}")


def input_files(value: Any) -> list[str]:
    """The files and folders that the nodes in `value` read: existing paths in settings of type `InputPath`.

    A setting that may also hold a name (a Hub model, a shipped word list) counts where it looks like a path and exists.
    """
    found = list[str]()
    for _, node in [("", value), *nodes(value)]:
        if isinstance(node, Mapping) and "_target_" in node:
            target = resolve(str(node["_target_"]), "")
            hints = _hints(settings_type(target) or target, extras=True)
            for key, hint in hints.items():
                found += _existing(node[key]) if key in node and _is_read(hint) else ()
    return list(dict.fromkeys(found))


def _is_read(hint: Any) -> bool:
    return READS in getattr(hint, "__metadata__", ()) or any(map(_is_read, typing.get_args(hint)))


def _existing(value: Any) -> Iterator[str]:
    """The existing paths that a setting holds or that its patterns match."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and ("/" in text or "." in text):
            with suppress(OSError, ValueError):  # too long for a name, a null character
                yield from [text] if Path(text).expanduser().exists() else map(str, match_pattern(text))


def check_node(node: Mapping[str, Any], where: str) -> None:
    """Check that a node fits its function. A key that the enclosing function fills in, such as an engine's model, may
    be missing.
    """
    target = resolve(str(node["_target_"]), where)
    takes_model = inspect.isclass(target) and "model" in inspect.signature(target).parameters
    filled = {"model": ""} if takes_model and "model" not in node else {}
    bind({**node, **filled}, where)


def bind(node: Mapping[str, Any], where: str) -> Callable[..., Any]:
    """The function that a node names, with the node's settings bound as keyword-only arguments, or as the dataclass
    that is its only parameter.

    Raises UserError naming the key if the function does not exist, or a key is missing, unknown or of another type.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise UserError(f"{where} must name its function with _target_: package.module.function")
    target = resolve(node["_target_"], where)
    settings = {key: value for key, value in node.items() if key != "_target_"}
    if kind := settings_type(target):
        return partial(target, read_settings(kind, settings, where))
    return partial(target, **_read(target, settings, where, node["_target_"]))


def bound_settings(node: Mapping[str, Any], where: str) -> Any:
    """The dataclass of settings that a node's function takes, such as a `limo.training.settings.Training`.

    Raises UserError as `bind` does, and for a function that takes its settings by keyword.
    """
    found = bind(node, where)
    if not (isinstance(found, partial) and found.args):
        raise UserError(f"{where}._target_: '{node['_target_']}' takes no dataclass of settings, as trainings do")
    return found.args[0]


def settings_type(target: Callable[..., Any]) -> type | None:
    """The dataclass that is a function's only parameter, or None if it takes its settings by keyword."""
    parameters = list(inspect.signature(target).parameters.values())
    if inspect.isclass(target) or len(parameters) != 1 or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        return None
    hint = _hints(target).get(parameters[0].name)
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def read_settings(kind: type[T], node: Mapping[str, Any], where: str) -> T:
    """A dataclass of settings from a node of a recipe. Raises UserError naming the key that is missing or wrong."""
    return kind(**_read(kind, node, where, kind.__name__))


def _read(target: Callable[..., Any], settings: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """Validate settings by the signature of `target`. Of a function, only the keyword-only parameters are settings."""
    parameters = dict(inspect.signature(target).parameters)
    if not is_dataclass(target):  # positional parameters are passed by the toolkit
        parameters = {n: p for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    for key in settings:
        if key not in parameters:
            raise UserError(f"{where}.{key} is not a setting of {name}{suggest(key, parameters)}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in settings:
            raise UserError(f"{where}.{key} is missing")
    hints = _hints(target, extras=True)
    return {key: validate(hints.get(key, Any), value, f"{where}.{key}") for key, value in settings.items()}


def validate(hint: Any, value: Any, where: str) -> Any:
    """Convert a recipe's value to the annotated type: a mapping becomes a dataclass, and 1 is accepted for 1.0."""
    for option in (hint, *(typing.get_args(hint) if isinstance(hint, types.UnionType) else ())):
        if isinstance(option, type) and is_dataclass(option) and isinstance(value, Mapping):
            return read_settings(option, value, where)
    if typing.get_origin(hint) is tuple and isinstance(value, list):  # YAML has no tuples
        value = tuple(value)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass in a union: pydantic uses its configuration and refuses ours
        adapter = TypeAdapter(hint)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        keys = value if isinstance(value, Mapping) else range(len(value) if isinstance(value, list | tuple) else 0)
        key = ".".join([where, *(str(part) for part in first["loc"] if part in keys)])
        reason = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        if first["type"] in ("too_short", "too_long"):
            reason = f"a list of {reason.partition('should have ')[2].partition(' item')[0]}"
        raise UserError(f"{key} must be {reason}, not {first['input']!r}") from None


def _hints(target: Callable[..., Any], extras: bool = False) -> dict[str, Any]:
    if inspect.isclass(target) and not is_dataclass(target):
        target = target.__init__
    try:
        return typing.get_type_hints(target, include_extras=extras)
    except (NameError, TypeError):  # a type that is imported for type checkers only
        return {name: hint for name, hint in target.__annotations__.items() if not isinstance(hint, str)}


def resolve(path: str, where: str) -> Callable[..., Any]:
    """Import the object at a dotted path, if its module is trusted. Raises UserError otherwise."""
    module, _, name = path.rpartition(".")
    if not is_trusted(module):
        raise UserError(
            f"{where}._target_: '{path}' is not of {', '.join(_trusted)}. If you trust that code, add --trust "
            f"{module.partition('.')[0] or path}"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}._target_: '{path}' does not exist ({error})") from None
    if not callable(found):
        raise UserError(f"{where}._target_: '{path}' is not a function")
    if module.partition(".")[0] in OURS and not _takes_settings(found):
        raise UserError(
            f"{where}._target_: '{path}' is not a function for recipes: it takes no settings by keyword only"
        )
    return typing.cast(Callable[..., Any], found)


def _takes_settings(found: Any) -> bool:
    """Whether a function is meant for recipes: it takes keyword-only settings, or one dataclass of settings.

    Values that the toolkit passes are positional only. So a recipe cannot call a function with another purpose, such as
    one that starts a program or replaces a file, nor a function that a module has only imported.
    """
    if not is_trusted(str(getattr(found, "__module__", ""))):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except ValueError:
        return False
    free = any(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    return not free or is_dataclass(found) or settings_type(found) is not None


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: the closest known one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(word, names, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(names) or 'none'}"
