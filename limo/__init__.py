"""Choose a few hundred reasoning chains, fine-tune on them, and say honestly whether that helped.

from limo import compose, run_section, curate, sft, evaluate, grade     # docs/python.md
"""

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# What `from limo import ...` gives, loaded when it is asked for
EXPORTS = {
    **dict.fromkeys(("compose", "run_section"), "limo.recipe"),
    **dict.fromkeys(("Example", "Dropped", "read_jsonl", "write_jsonl"), "limo.data"),
    **{"curate": "curation.run", "sft": "limo.train", "evaluate": "eval.run"},
    **{"compare_runs": "eval.compare", "grade": "eval.grade", "Sampling": "limo.engines.protocol"},
    **{"Supervised": "limo.training.settings", "Preference": "limo.training.settings"},
}
__all__ = ["__version__", *EXPORTS]
try:
    __version__ = version("limo-toolkit")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0"

if sys.platform == "win32":
    sys.exit("error: Windows is not supported: run the toolkit in WSL")
_started = getattr(sys.modules["__main__"], "__spec__", None)
_is_command = sys.argv[:1] == ["-m"] or (
    _started is not None and _started.name.split(".")[0] in ("limo", "curation", "eval")
)
if _is_command and importlib.util.find_spec("orjson") is None:
    sys.exit(
        f"error: the toolkit's packages are missing from {sys.executable}: run make install, then . .venv/bin/activate"
    )


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'limo' has no attribute '{name}'")
    return getattr(importlib.import_module(EXPORTS[name]), name)
