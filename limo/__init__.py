"""Choose a few hundred reasoning chains, fine-tune on them, and say honestly whether that helped.

from limo import compose, run_section, curate, sft, evaluate, grade     # docs/python.md
"""

import importlib
import importlib.util
import os
import signal
import sys
from typing import Any

# The names that `from limo import ...` offers; each is loaded on first use
EXPORTS = {
    **dict.fromkeys(("compose", "run_section"), "limo.recipe"),
    **dict.fromkeys(("Example", "Dropped", "read_jsonl", "write_jsonl"), "limo.data"),
    **{"curate": "curation.run", "sft": "limo.train", "evaluate": "eval.run"},
    **{"compare_runs": "eval.compare", "grade": "eval.grade", "Sampling": "limo.engines.protocol"},
    **{"Supervised": "limo.training.settings", "Preference": "limo.training.settings"},
}
__all__ = ["__version__", *EXPORTS]


def end_at_once(*_: Any) -> None:
    """Handle Ctrl-C while a command is imported and has nothing to save; `limo.errors.reported` handles it later.

    An exception raised here could be caught by a library's import or callback, which prints a traceback or continues.
    """
    os.write(2, b"error: interrupted\n")
    os._exit(130)


def _end_at_interrupt(found: Any) -> None:
    if issubclass(found.exc_type, KeyboardInterrupt):  # in a callback, where Python would print it and continue
        end_at_once()
    sys.__unraisablehook__(found)


_started = getattr(sys.modules["__main__"], "__spec__", None)
_is_command = sys.argv[:1] == ["-m"] or (
    _started is not None and _started.name.split(".")[0] in ("limo", "curation", "eval")
)
_by_name = sys.argv[:1] and sys.argv[0].endswith(f"{os.sep}limo")
if (_is_command or _by_name) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
    sys.unraisablehook = _end_at_interrupt

try:
    __version__ = importlib.import_module("importlib.metadata").version("limo-toolkit")
except ImportError:  # a checkout that was not installed
    __version__ = "0"

if sys.platform == "win32":
    sys.exit("error: Windows is not supported: run the toolkit in WSL")
if _is_command and importlib.util.find_spec("orjson") is None:
    sys.exit(
        f"error: the toolkit's packages are missing from {sys.executable}: run make install, then . .venv/bin/activate"
    )


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'limo' has no attribute '{name}'")
    return getattr(importlib.import_module(EXPORTS[name]), name)
