"""The console script `limo`: every command under one name, `limo curate recipe=demo`.

The current folder comes last on the import path, so that a user's own `eval.py` does not hide ours and modules named in
a recipe are still found. Tab completion: eval "$(limo -sc install=bash)".
"""

import importlib
import inspect
import os
import runpy
import sys
from pathlib import Path

import limo
from limo.errors import UserError, need_package, reported
from limo.processes import run_command
from limo.recipe import suggest

DEMO = ("curate", "train", "eval")  # what `limo demo` runs, in this order
COMMANDS = {
    "check": ("curation.check", "everything that is wrong with a recipe, before anything is paid for"),
    "curate": ("curation.run", "choose chains from a pool of problems"),
    "plan": ("curation.cost", "samples, tokens, memory, hours and dollars of a curation and its trainings"),
    "probe": ("curation.evidence.probe", "which scores tell a good chain from a spoiled one"),
    "fit": ("curation.evidence.teachers", "which teacher suits the student, from some chains of each"),
    "tournament": (
        "curation.evidence.tournament",
        "does a choice beat random chains? By small trainings",
    ),
    "why": ("curation.why", "one row's story: each stage, score and reason"),
    "train": ("limo.train", "fine-tune on a curated set, on every visible GPU"),
    "improve": ("curation.methods.rise.improve", "curate, train and evaluate, again and again (RISE)"),
    "discover": ("limo.discover", "search for preference losses (DiscoPOP)"),
    "new": ("limo.sources.new", "look at a file of your own and write a recipe for it"),
    "ledgers": ("limo.engines.ledgers", "show kept samples; add those of other machines"),
    "eval": ("eval.run", "evaluate models and compare them"),
    "compare": ("eval.compare", "two runs on the same problems, with intervals"),
    "pick": ("eval.pick", "choose a checkpoint on development problems"),
    "grade": ("eval.grade", "grade a file of completions"),
    "report": ("eval.report", "write a run's report"),
    "view": ("eval.view", "look at every row of a run in a browser"),
}

# Commands that need neither a recipe nor the extra `train`, with the function whose arguments they take
FUNCTIONS = {
    "curation.why": "print_history",
    "limo.sources.new": "make_recipe",
    "limo.engines.ledgers": "ledgers",
    "eval.compare": "compare_runs",
    "eval.grade": "regrade",
    "eval.view": "view",
}


def main() -> None:
    """The entry point of the console script."""
    for package in ("curation", "eval"):  # before the current folder can hide them
        importlib.import_module(package)
    sys.path.append(str(Path.cwd()))
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-sc", "--shell-completion"):
        return _complete()
    if name == "--version":
        print(f"limo {limo.__version__}")  # noqa: T201
        return None
    if name in ("-h", "--help"):
        print("usage: limo <command> [recipe=<name>] [key=value ...]\n\ncommands:")  # noqa: T201
        print("  demo        curate, train and eval recipe=demo")  # noqa: T201
        for command, (_, about) in COMMANDS.items():
            print(f"  {command:<11} {about}")  # noqa: T201
        print("\nlimo <command> --help shows the settings of a command")  # noqa: T201
        return None
    with reported():
        if name not in COMMANDS and name != "demo":
            raise UserError(f"there is no command '{name}'{suggest(name, [*COMMANDS, 'demo'])}")
        if name == "demo" or COMMANDS[name][0] not in FUNCTIONS:
            need_package("hydra", "train", f"limo {name}")
    if name == "demo":  # one process each, since a training on several GPUs replaces its process
        for command in DEMO[:1] if {"-h", "--help"} & set(sys.argv) else DEMO:
            if code := run_command([sys.executable, sys.argv[0], command, "recipe=demo", *sys.argv[2:]]):
                sys.exit(code)
        return None
    del sys.argv[1]
    with reported():  # its imports may fail, too
        runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    return None


def _complete() -> None:
    """Complete the name of a command, or the settings of a command without a recipe. Hydra completes commands that have
    one.
    """
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) > 1 and words[1] in COMMANDS and len(words) > 2:
        module = COMMANDS[words[1]][0]
        if function := FUNCTIONS.get(module):
            parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters.values()
            keys = [f"{p.name}=" for p in parameters if p.default is not p.empty]
            print("\n".join(key for key in keys if key.startswith(words[-1])))  # noqa: T201
            return
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    elif len(words) == 2:
        print("\n".join(command for command in COMMANDS if command.startswith(words[1])))  # noqa: T201
        return
    from limo.command import command

    command("curate", "curation.run")


if __name__ == "__main__":
    main()
