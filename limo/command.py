"""The main function of every command: a recipe's section is run, `--help` told, an error said in one line."""

import difflib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from limo.errors import UserError, one_line, reported
from limo.launch import LOST, ended
from limo.ledger import cache_folder
from limo.recipe import RECIPES, checked, compose, flags, near, overrides_in, plain, recipes, run_section, settle

FULL = ("No space left on device", "file write failed", "failed writing file", "unexpected pos", "File too large")


def command(
    section: str, module: str, about: str, several: Callable[[Mapping[str, Any]], int | None] | None = None
) -> None:
    """The main function of `python -m <module>`: runs one section of a recipe, or says in one line why not.

    `several` may take the section and run it in processes of its own; it returns their exit code, or None to decline.
    """
    debug = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing; the line is ours to write
    settle()
    try:
        with ended(), reported(lambda error: None if debug else explained(error)):
            if {"--help", "-h"} & set(sys.argv[1:]):
                print(help_text(section, module, about, sys.argv[1:]))  # noqa: T201
            else:
                # Hydra wants the overrides in one piece, but a person may type a flag anywhere
                given, overrides = flags(sys.argv[1:])
                _refuse_unread(overrides)
                sys.argv[1:] = [*given, *overrides]
                _hydra(section, module, debug, several)
    finally:  # a process may run several commands
        if not debug:
            os.environ.pop("HYDRA_FULL_ERROR", None)


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
                os.environ.pop("HYDRA_FULL_ERROR", None)
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
    kept = [flag for flag in flags(typed[1:])[0] if flag not in ("-m", "--multirun")]
    environment = {k: v for k, v in os.environ.items() if debug or k != "HYDRA_FULL_ERROR"}
    call = [sys.executable, "-m", module, *kept, *settings.overrides.task, f"out='{out}'"]
    done = subprocess.run(call, env=environment)
    if done.returncode:
        raise UserError(f"the sweep stopped at '{name}' (exit code {done.returncode}); finished jobs are kept")


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


def _first_line(name: str) -> str:
    for line in (RECIPES / "recipe" / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and "@package" not in line:
            return line[2:]
    return ""


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
        adds = f"; +{key}=... adds a new one" if "." in key else ""
        return f"the recipe has no key '{key}'{_nearest(key)}. --cfg job prints them all{adds}"
    cause = f": {' '.join(str(error.__cause__).split())}" if error.__cause__ else ""
    if "Cannot merge" in cause and (found := re.search(r"full_key: (\S+)", cause)):
        return f"{found[1]} is of another kind in the recipe, so take that away first: '~{found[1]}' '+{found[1]}=...'"
    return full + cause


def _known_keys() -> list[str]:
    """All keys of the chosen recipe, as it is without the command line; none where there is no such recipe."""
    from hydra.errors import MissingConfigException

    chosen = [a for a in overrides_in(sys.argv[1:]) if a.startswith(("recipe=", "hydra.searchpath="))]
    try:
        return list(_keys(compose(*chosen, open_=True))) if chosen else []
    except MissingConfigException:
        return []


def _nearest(key: str) -> str:
    """The key that was meant: one beside a misspelt one, or of that very name elsewhere, or like it further down."""
    known = sorted(_known_keys(), key=lambda k: k.count("."))
    parent, _, name = key.rpartition(".")
    beside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    same = [k for k in known if k.rpartition(".")[2] == name]
    close = [beside[found] for found in difflib.get_close_matches(name, beside, 1)]
    below = {k.rpartition(".")[2]: k for k in known if k.startswith(f"{parent}.")} if parent else {}
    like = [below[found] for found in difflib.get_close_matches(name, below, 1)]
    meant = next((k for k in [*close, *same, *like] if k != key), "")
    return f" (did you mean '{meant}'?)" if meant else ""


def _refuse_unread(overrides: Sequence[str]) -> None:
    """Raise UserError for a key that `+` would add beside the sections, where nothing reads it."""
    for key in (part.partition("=")[0] for part in overrides):
        name = key.lstrip("+")
        if not key.startswith("+") or any(sign in name for sign in "./@") or (RECIPES / name).is_dir():
            continue
        known = _known_keys()
        if known and name not in known:
            raise UserError(f"nothing reads a key '{name}' beside the recipe's sections{_nearest(name)}")


def _keys(value: Any, where: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{where}{key}"
            yield from _keys(inner, f"{where}{key}.")
