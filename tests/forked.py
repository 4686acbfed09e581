"""Commands in processes of their own that need not import the libraries again: forked from one that has them."""

import atexit
import multiprocessing.process
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

SECONDS = 300
LIBRARIES = """torch transformers transformers.trainer transformers.models.llama.modeling_llama trl.trainer.sft_trainer
trl.trainer.dpo_trainer datasets peft accelerate hydra.main pydantic pandas scipy.stats sympy matplotlib.pyplot httpx2
reasoning_gym rich.console huggingface_hub""".split()

forks = get_context("forkserver")
forks.set_forkserver_preload(LIBRARIES)


def run_forked(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    texts: Path,
) -> subprocess.CompletedProcess[str]:
    """`python -m <arguments>`, with this environment. What it prints passes through two files in the folder `texts`."""
    process = forks.Process(target=_become, args=(arguments, cwd, dict(environment), texts))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired(list(arguments), SECONDS)
    out, err = ((texts / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(list(arguments), process.exitcode, out, err)


def _become(arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], texts: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(texts / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND), number)
    multiprocessing.process._parent_process = None  # type: ignore[attr-defined]  # as one that a person has started
    sys.path.insert(0, str(cwd))
    sys.argv = list(arguments)
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
