"""Choose a few hundred reasoning chains, fine-tune on them, and say honestly whether that helped."""

import importlib.util
import sys

_started = getattr(sys.modules["__main__"], "__spec__", None)
_is_command = sys.argv[:1] == ["-m"] or (
    _started is not None and _started.name.split(".")[0] in ("limo", "curation", "eval")
)
if _is_command and importlib.util.find_spec("hydra") is None:
    sys.exit(
        f"error: the toolkit's packages are missing from {sys.executable}: run make install, then . .venv/bin/activate"
    )
