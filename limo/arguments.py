"""The command line of the commands that need no recipe: the arguments of a function.

    limo compare runs/a:base runs/a:tuned benchmark=gsm8k out=found.json
    limo compare runs/a:base runs/a:tuned --benchmark gsm8k --out found.json    # the same

What has no default is given in its order; everything else as key=value, as in the commands that run a recipe.
"""

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from limo.errors import UserError, reported
from limo.recipe import suggest, validate


def run_function(function: Callable[..., Any], command: str, about: str | None) -> None:
    """Call a function with this process's arguments; its user errors are one line. `about` is the text of --help."""
    with reported():
        if {"-h", "--help"} & set(sys.argv[1:]):
            sys.stdout.write(f"usage: {usage(function, command)}\n\n{(about or '').strip()}\n")
            return
        function(**read_arguments(function, sys.argv[1:], command))


def usage(function: Callable[..., Any], command: str) -> str:
    """A command in one line: what it needs, and what may be set."""
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name.upper() for p in parameters if p.default is p.empty]
    return " ".join([command, *needed, *(f"[{p.name}=...]" for p in parameters if p.default is not p.empty)])


def read_arguments(function: Callable[..., Any], given: Sequence[str], command: str) -> dict[str, Any]:
    """The arguments of a function from the words of a command line. Raises UserError for what it does not take."""
    parameters = inspect.signature(function).parameters
    hints, words, found = typing.get_type_hints(function), list[str](), dict[str, Any]()
    left = iter(given)
    for word in left:
        key, sign, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if word.startswith("--") and not sign:
            value = next(left, "")
        if word.startswith("--") or (sign and re.fullmatch(r"[a-z_]+", key) and not Path(word).exists()):
            if key not in parameters:
                raise UserError(f"{command} has no setting '{key}'{suggest(key, parameters)}")
            found[key] = [*found.get(key, []), value]
        else:
            words.append(word)
    needed = [name for name, p in parameters.items() if p.default is p.empty and name not in found]
    values: list[list[str]] = [[word] for word in words]
    if needed and typing.get_origin(hints[needed[-1]]) is list:  # takes all that is left, if only nothing
        values[len(needed) - 1 :] = [words[len(needed) - 1 :]]
    if len(values) != len(needed):
        raise UserError(f"wrong number of arguments. Usage: {usage(function, command)}")
    found |= dict(zip(needed, values, strict=True))
    return {key: _typed(hints[key], listed, key) for key, listed in found.items()}


def _typed(hint: Any, values: list[str], key: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    listed = next((option for option in options if typing.get_origin(option) is list), None)
    if listed is not None:
        (inner,) = typing.get_args(listed)
        return [_typed(inner, [part], key) for value in values for part in value.strip("[]").split(",")]
    if len(values) > 1:
        raise UserError(f"{key} is given {len(values)} times")
    if any(typing.get_origin(option) is dict for option in options):
        try:
            return validate(hint, yaml.safe_load(values[0]), key)
        except yaml.YAMLError:
            raise UserError(f"{key} must be a mapping such as {{problem: question}}, not {values[0]}") from None
    if Path in options:
        return Path(values[0])
    return int(values[0]) if options[0] is int and values[0].isdigit() else validate(hint, values[0], key)
