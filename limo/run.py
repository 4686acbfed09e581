"""The manifest of a run's folder, which records the outputs, inputs, settings and duration of each step.

    with claim(folder, "train", settings, inputs=[data]) as step:
        if step.finished: return
        ...
        step.outputs, step.tokens = [model], n

`runs/<name>/manifest.json` has one entry a step. A finished step is not done again; a step is never continued with
other settings or other inputs, since that would mix two experiments in one folder.
"""

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from limo.data import content_id, replacing
from limo.errors import UserError
from limo.model import file_hash, fingerprint

PACKAGES = """limo-toolkit torch transformers trl peft accelerate deepspeed datasets sympy reasoning-gym
hydra-core""".split()
CHOSEN = "chosen"  # the name of the curated set beside its controls
# Settings of engines that change how fast they sample, not what: a run may be resumed with other values of them
SPEED_ONLY = frozenset(
    "batch_size base_urls api_key_env allow_insecure concurrency stream timeout tries patience backoff serve_python "
    "start_timeout tensor_parallel data_parallel".split()
)


@dataclass
class Step:
    """One step of a run in progress. `outputs`, `tokens` and `results` are written to the manifest at its end."""

    folder: Path
    name: str
    finished: bool = False
    entry: dict[str, Any] = field(default_factory=dict)
    outputs: list[Path] = field(default_factory=list)
    tokens: int = 0  # trained on or generated
    results: dict[str, Any] = field(default_factory=dict)  # counts and numbers worth keeping


@contextmanager
def claim(
    folder: str | Path,
    name: str,
    settings: Mapping[str, Any],
    inputs: Sequence[str | Path] = (),
    begun: Sequence[Path] = (),
    grows: Collection[str] = (),
) -> Iterator[Step]:
    """Begin or resume a step, or find it finished. The step is marked finished when the block ends without an error.

    `begun` are paths that exist once an unfinished step holds work, such as checkpoints; without them it may begin anew
    with other settings. `grows` are keys of settings that may be extended later. Raises UserError if the folder holds
    this step with other settings or inputs, or if an output of the step was changed since.
    """
    folder = Path(folder)
    settings = json.loads(json.dumps(lasting(settings)))
    read = {str(path): content_hash(Path(path).expanduser()) for path in inputs}
    old = read_manifest(folder).get(name)
    before = float(old["seconds"]) if old else 0.0
    if old and not old["finished"] and not any(path.exists() for path in begun):
        old = None
    step = Step(folder, name, entry=old or {})
    if old:
        same = {**settings, **{key: old["settings"].get(key) for key in grows}}
        changed = differences(old["settings"], same)
        changed += [f"{p} has other content" for p in read if old["inputs"].get(p, read[p]) != read[p]]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"{folder} was made with other settings for '{name}' ({'; '.join(changed[:3])}{more}). "
                "Give this run another name with name=<name>, or remove that folder"
            )
        step.finished = old["finished"] and same == settings and _outputs_stand(folder, name, old)
    if step.finished:
        yield step
        return
    step.entry = {
        "finished": False,
        "settings": settings,
        "inputs": read,
        "outputs": {},
        "seconds": before,
        "tokens": 0,
        "results": {},
        "versions": versions(),
        "commit": commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    _write(folder, name, step.entry)
    start = time.monotonic()
    try:
        yield step
        step.entry |= {
            "finished": True,
            "tokens": step.tokens,
            "results": step.results,
            "outputs": {os.path.relpath(path, folder): content_hash(path) for path in step.outputs},
        }
    finally:
        step.entry["seconds"] = round(before + time.monotonic() - start, 2)
        _write(folder, name, step.entry)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """All entries of a run folder, by step; empty if there are none. Raises UserError for an unreadable file."""
    path = Path(folder) / "manifest.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path}: not readable ({error}). Move it away to start this run anew") from None


def read_entries(folder: Path) -> dict[str, Any]:
    """The entries of a run folder and of the trainings inside of it (`train/random`, `train/random/seed-1`)."""
    found = read_manifest(folder)
    for path in sorted({*folder.glob("*/manifest.json"), *folder.glob("*/*/manifest.json")}):
        inner = path.parent.relative_to(folder).as_posix()
        found |= {f"{step}/{inner}": entry for step, entry in read_manifest(path.parent).items()}
    return found


DRAWN = ("random", "random_tokens")  # control sets that a curated set drawn by chance would equal


def content_hash(path: Path) -> str:
    """A hash of a file's bytes, of a model folder (`limo.model.fingerprint`), or of all files in another folder."""
    if path.is_dir():
        if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
            return fingerprint(path)
        files = sorted(f for f in path.rglob("*") if f.is_file())
        return content_id([[str(f.relative_to(path)), content_hash(f)] for f in files], 16)
    try:
        return file_hash(path)
    except FileNotFoundError:
        raise UserError(f"no such file '{path}'. Run the stage that writes it first, or give another path") from None


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    installed = {package.name: package.version for package in distributions() if package.name in PACKAGES}
    return {package: installed[package] for package in PACKAGES if package in installed}


def commit() -> str | None:
    """The git commit of this code, with `+changes` if files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    ask = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The keys at which two settings differ, each as `key: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [differences(old.get(k), new.get(k), f"{where}.{k}".lstrip(".")) for k in {**old, **new}]
        return [difference for inner in found for difference in inner]
    return [] if old == new else [f"{where}: {json.dumps(old)} -> {json.dumps(new)}"]


def _outputs_stand(folder: Path, name: str, entry: Mapping[str, Any]) -> bool:
    """False if an output is gone, so the step is done again. Raises UserError if one was changed by hand."""
    for relative, known in entry["outputs"].items():
        path = folder / relative
        if not path.exists():
            return False
        if content_hash(path) != known:
            raise UserError(
                f"{path} was changed after '{name}' wrote it. Keep your version under another name and pass that path, "
                "or remove it to have it made again"
            )
    return True


def lasting(settings: Any) -> Any:
    """The settings that can change the result. Settings of engines that only change speed are left out, at any
    depth.
    """
    if isinstance(settings, Mapping):
        dropped = SPEED_ONLY if ".engines." in str(settings.get("_target_", "")) else frozenset()
        return {k: lasting(v) for k, v in settings.items() if k not in dropped}
    return [lasting(v) for v in settings] if isinstance(settings, list | tuple) else settings


def trained_sets(
    out: str | Path, controls: Sequence[str] = (), seeds: Sequence[int | None] = ()
) -> dict[tuple[str, int | None], Path]:
    """The folder of each training of a run, by training set and seed. The seed None means the recipe's seed.

    The curated set is `chosen` and trains into the run's folder itself, a control set into a subfolder of its name.
    With several seeds, the first trains there and each other one in `seed-<n>` below.
    """
    first, *others = seeds or [None]
    found: dict[tuple[str, int | None], Path] = {}
    for name in (*controls, CHOSEN):
        folder = Path(out) if name == CHOSEN else Path(out) / name
        found[name, first] = folder
        found |= {(name, seed): folder / f"seed-{seed}" for seed in others}
    return found


def control_file(data: str | Path, name: str) -> Path:
    """The file of a control set of the curation that wrote `data`."""
    return Path(data).expanduser().parent / "controls" / f"{name}.jsonl"


def missing_control(data: str | Path, name: str) -> str:
    """A sentence that says why the curation that wrote `data` did not make a control set."""
    made = read_manifest(Path(data).expanduser().parent).get("curate", {}).get("results", {})
    if made.get("by_chance") and name in DRAWN:
        return f"no set '{name}' beside the chosen one, which is itself a random set of what was verified"
    return f"there is no control set '{control_file(data, name)}'. curate.controls.kinds names those that are made"


def remember_recipe(folder: Path, recipe: Mapping[str, Any], section: str) -> None:
    """Add a section of a recipe, with the settings it ran with, to the run's recipe.yaml."""
    path = folder / "recipe.yaml"
    with _locked(folder / ".manifest.lock"):
        known = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        shared = {k: v for k, v in recipe.items() if not (isinstance(v, dict) and "_target_" in v)}
        with replacing(path) as file:
            yaml.safe_dump({**known, **shared, section: recipe[section]}, file, sort_keys=False, allow_unicode=True)


def read_results(folder: Path, metric: str) -> float:
    """Read a number from the results of a run: `train.last_loss` from manifest.json, or `eval.accuracy.tuned.x.mean`
    from eval/summary.json.
    """
    known: Any = {step: entry["results"] for step, entry in read_manifest(folder).items()}
    summary = folder / "eval" / "summary.json"
    if summary.is_file():
        known["eval"] = json.loads(summary.read_text(encoding="utf-8"))
    for part in metric.split("."):
        if not isinstance(known, Mapping) or part not in known:
            names = ", ".join(known) if isinstance(known, Mapping) else "nothing below"
            raise UserError(f"metric={metric}: '{part}' is not among the results of {folder}; there are {names}")
        known = known[part]
    if not isinstance(known, int | float):
        raise UserError(f"metric={metric} of {folder} is not a number: {known!r}")
    return float(known)


@contextmanager
def lock_run(folder: Path, doing: str) -> Iterator[None]:
    """Lock a run's folder while the block writes to it. Raises UserError if another process holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is {doing} in {folder.parent}: wait for it, end it, or give this run a new name="
            ) from None
        yield  # the system releases the lock with the process, however that ends


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Write one entry of the manifest, under a lock, since several evaluations of a run may write at the same time."""
    with _locked(folder / ".manifest.lock"):
        entries = read_manifest(folder) | {name: entry}
        with replacing(folder / "manifest.json") as file:
            json.dump(entries, file, indent=2, ensure_ascii=False)
            file.write("\n")
