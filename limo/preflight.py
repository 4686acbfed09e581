"""What can be known to be wrong before anything is paid for: models, engines, memory, disk. All of it, not the first.

    findings = [*check_bindings(recipe), *check_engines(recipe["eval"], "eval"), *check_training(recipe["train"])]

A finding is an error, a warning, or what only the Hub knows where it cannot be reached.
`limo check recipe=...` prints those of a whole recipe (`curation/check.py`).
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import httpx2

from limo.engines.server import ServerEngine
from limo.engines.transformers import TransformersEngine
from limo.errors import UserError
from limo.machine import memory_of_devices, quiet_deepspeed
from limo.model import EMBEDDED, HUB_NAME, embedded_file, load_tokenizer, tokenizer_folder
from limo.plan import ROOM, SHARDINGS, Data, Work, count_memory, measure_data, measure_model
from limo.recipe import bind, check_node, nodes
from limo.training.batches import padded_shape
from limo.training.fit import check_settings
from limo.training.models import load_trained_tokenizer
from limo.training.settings import Training

SECONDS = 5  # for a server or the Hub to answer
STATES = 12  # bytes of a checkpoint for each trained parameter: float32 weights and Adam's two states


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should know before a run."""

    level: Literal["error", "warning", "unreachable"]  # the last: only the Hub knows, and it cannot be reached
    text: str


class Findings(list[Finding]):
    """Findings that grow. Use `with findings.errors():` around what raises UserError."""

    @contextmanager
    def errors(self, where: str = "") -> Iterator[None]:
        """Turns a UserError into a finding, so that the next check runs too."""
        try:
            yield
        except UserError as error:
            text = str(error)
            self.append(Finding("error", text if not where or text.startswith(where) else f"{where}: {text}"))

    def error(self, text: str) -> None:
        """Add an error."""
        self.append(Finding("error", text))

    def warn(self, text: str) -> None:
        """Add a warning."""
        self.append(Finding("warning", text))


def check_bindings(recipe: Mapping[str, Any]) -> Findings:
    """Every section and every node in it, bound to its function: unknown, missing and mistyped keys."""
    found = Findings()
    sections = {name: node for name, node in recipe.items() if isinstance(node, Mapping) and "_target_" in node}
    for section, node in sections.items():
        if node.get("student", "") is None:  # what a recipe without one does not offer
            continue
        # A section inside another one, as the training in its plan, is checked in its own place
        own = {key: value for key, value in node.items() if value not in sections.values()}
        for where, inner in [(section, node), *nodes(own, section)]:
            if where == section or inner not in sections.values():
                with found.errors():
                    check_node(inner, where)
    return found


def check_model(path: str, where: str, template: bool = True) -> Findings:
    """Whether a model can be had, with a chat template where prompts are rendered with its own."""
    found = Findings()
    here = path in EMBEDDED or Path(path).expanduser().is_dir()
    if not here and HUB_NAME.fullmatch(path) and (missing := ask_hub(path.partition("@")[0], "model")):
        return Findings([Finding(missing.level, f"{where}: {missing.text}")])
    with found.errors(where):
        if path in EMBEDDED:  # known to have what it takes; its first use converts it
            embedded_file(path)
        else:
            load_tokenizer(tokenizer_folder(path), template)
    return found


@cache
def ask_hub(name: str, kind: Literal["model", "dataset"]) -> Finding | None:
    """What stands in the way of downloading a repository of the Hub; None if nothing does."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if not _hub_answers():
        return Finding("unreachable", f"{kind} {name}")
    try:
        HfApi(constants.ENDPOINT).auth_check(name, repo_type=kind)
    except GatedRepoError:
        return Finding("error", f"the {kind} {name} is gated: accept its terms on the Hub and set HF_TOKEN")
    except RepositoryNotFoundError:
        return Finding("error", f"the Hub has no {kind} {name}, or shows it only with the right HF_TOKEN")
    except (OSError, httpx2.HTTPError):
        return Finding("unreachable", f"{kind} {name}")
    return None


@cache
def _hub_answers() -> bool:
    """Whether the Hub can be reached; its own client would try for minutes, for each name."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx2.get(constants.ENDPOINT, timeout=SECONDS)
    except httpx2.HTTPError:
        return False
    return True


def check_engines(section: Any, where: str) -> Findings:
    """The engines in a section: keys, addresses, servers, programs, GPUs, models, and what their caches would take."""
    found, seen = Findings(), list[Any]()
    for place, node in [(where, section), *nodes(section, where)]:
        if not isinstance(node, Mapping) or not isinstance(node.get("engine"), Mapping):
            continue
        engine, max_tokens = node["engine"], (node.get("sampling") or {}).get("max_tokens")
        models = node["models"].values() if "models" in node else [engine.get("model")]
        for model in models:
            asked = {**engine, "model": model}
            if model is None or (asked, max_tokens) in seen or _comes_later(str(model)):
                continue
            seen.append((asked, max_tokens))
            with found.errors(f"{place}.engine"):
                made = bind(asked, f"{place}.engine")()
                if isinstance(made, ServerEngine):
                    found += _check_server(made, f"{place}.engine")
                elif isinstance(made, TransformersEngine):
                    model_found = check_model(str(model), f"{place}.engine")
                    found += model_found
                    if not model_found and model not in EMBEDDED:
                        found += _check_cache(made, max_tokens, f"{place}.engine")
    return found


def _comes_later(model: str) -> bool:
    """Whether a model is what a training of this recipe, or an earlier one, writes."""
    return Path(model).name in ("model", "adapter") and not HUB_NAME.fullmatch(model) and not Path(model).exists()


def _check_server(engine: ServerEngine, where: str) -> Findings:
    found = Findings()
    if engine.serve:
        gpus, wanted = len(memory_of_devices(gpus_only=True)), engine.tensor_parallel * engine.data_parallel
        if engine.serve != "transformers" and gpus < wanted:
            found.error(f"{where}: {wanted} GPUs are asked for, {gpus} are visible")
        with found.errors(where):
            engine.check_program()
        found += check_model(engine.model, where)
    elif engine.send == "tokens":
        found += check_model(engine.tokenizer or engine.model, where)
    for url in engine.base_urls:
        try:  # without following a redirect, which would take the key to another host
            status = httpx2.get(f"{url.rstrip('/')}/models", headers=engine.headers(), timeout=SECONDS).status_code
        except httpx2.HTTPError as error:
            found.warn(f"{where}: no server answers at {url} ({error})")
            continue
        if status in (401, 403):
            found.error(f"{where}: {url} refuses the key (status {status})")
    return found


def _check_cache(engine: TransformersEngine, max_tokens: int | None, where: str) -> Findings:
    """Weights and the attention cache of a full batch against the memory of the device."""
    from transformers import AutoConfig

    found = Findings()
    config = AutoConfig.from_pretrained(engine.folder).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = 4 if engine.dtype == "float32" else 2
    tokens = min(getattr(config, "max_position_embeddings", None) or 2**20, max_tokens or 2**20)
    row = 2 * config.num_hidden_layers * heads * width * each * tokens
    weights = sum(file.stat().st_size for file in engine.folder.glob("*.safetensors"))
    room = min(memory_of_devices()) - weights
    if row * engine.batch_size > room:
        fits = f"batch_size={int(room // row)} would fit" if room > row else "use a server (docs/engines.md)"
        found.error(
            f"{where}: {engine.batch_size} rows of {tokens:,} tokens take {row * engine.batch_size / 1e9:,.1f} GB of "
            f"cache beside {weights / 1e9:,.1f} GB of weights, and the device has "
            f"{min(memory_of_devices()) / 1e9:,.0f}: {fits}"
        )
    return found


def check_training(node: Mapping[str, Any], where: str = "train") -> Findings:
    """The model and template of a training, its memory on these devices, and the disk for its checkpoints."""
    found = Findings()
    with found.errors():
        settings = bind(node, where).args[0]  # type: ignore[attr-defined]
        with found.errors():
            check_settings(settings)
        data = Path(settings.data)
        comes = data.name in ("curated.jsonl", "pairs.jsonl") or (HUB_NAME.fullmatch(settings.data) and not data.suffix)
        if not comes and not data.expanduser().exists():
            found.error(f"{where}.data: no such file '{settings.data}'")
        if _comes_later(settings.model):
            return found
        found_model = check_model(settings.model, where, template=False)
        found += found_model
        if found_model or settings.model in EMBEDDED:
            return found
        with found.errors(where):
            load_trained_tokenizer(settings, tokenizer_folder(settings.model))
        with found.errors(where):
            quiet_deepspeed()
            found += _check_memory(settings)
    return found


def _check_memory(settings: Training) -> Findings:
    found = Findings()
    devices = memory_of_devices()
    count = len(devices) if settings.devices == "all" else settings.devices
    if not getattr(settings, "pack_tokens", None):
        padded_shape(settings, count)
    size = measure_model(settings)
    known = Path(settings.data).expanduser().exists()
    data = measure_data(settings, None, None) if known else Data(1, settings.max_length, settings.max_length, 1.0)
    work = Work(settings, size, data)
    if settings.sharding in (*SHARDINGS, "zero1"):
        _check_fit(work, count, min(devices), known or work.pack_tokens is not None, found)
    each = 2 if settings.dtype != "float32" else 4
    kept = int(settings.args.get("save_total_limit") or 1) + 1 if settings.args.get("save_strategy") != "no" else 0
    needed = size.parameters * each * 2 + kept * size.trainable * STATES
    place = next(p for p in [Path(settings.out), *Path(settings.out).resolve().parents] if p.exists())
    if needed > (free := shutil.disk_usage(place).free):
        found.error(
            f"train: the model and {kept} checkpoints take {needed / 1e9:,.1f} GB, and {place} has {free / 1e9:,.1f}. "
            "Choose another folder with runs=, or set train.args.save_strategy=no"
        )
    return found


def _check_fit(work: Work, devices: int, memory: float, sure: bool, found: Findings) -> None:
    """A training that cannot fit, with the sharding or the number of devices that would."""
    sharding = "zero2" if work.settings.sharding == "zero1" else work.settings.sharding
    needed = count_memory(work, sharding, devices)
    least = needed["total"] if sure else needed["total"] - needed["activations"]
    if least > memory:
        counts = [n for n in (devices, 8, 16, 32, 64) if n >= devices]
        options = ((s, n) for n in sorted(counts) for s in (SHARDINGS if n > 1 else SHARDINGS[:1]))
        fits = next(
            (
                f"train.sharding={s} on {n} devices would fit"
                for s, n in options
                if count_memory(work, s, n)["total"] <= ROOM * memory
            ),
            "",
        )
        found.error(
            f"train: {work.settings.sharding} on {devices} devices needs {least / 1e9:,.1f} GB each, and they have "
            f"{memory / 1e9:,.0f}: {fits or 'a smaller model, or train.lora, might'} (limo train-plan)"
        )
