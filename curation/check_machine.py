"""Checks of a recipe's models, engines and trainings against this machine and the Hub, for `limo check`.

A `Finding` says what is wrong and where in the recipe. Nothing is sampled or trained; models are not loaded.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import httpx2

from limo.data import Example
from limo.engines.local import TransformersEngine
from limo.engines.server import ServerEngine
from limo.errors import UserError
from limo.machine import memory_of_devices, quiet_deepspeed
from limo.model import EMBEDDED, HUB_NAME, embedded_file, is_here, load_tokenizer, tokenizer_folder
from limo.recipe import bind, bound_settings, nodes
from limo.training.batches import padded_shape
from limo.training.fit import check_before_loading
from limo.training.models import load_trained_tokenizer
from limo.training.settings import Training
from limo.training.sizes import ROOM, SHARDINGS, Data, Work, count_memory, measure_data, measure_model

NO_HUB = ", since the Hub cannot be reached"
SECONDS = 5  # for a server or the Hub to answer
STATES = 12  # bytes of a checkpoint for each trained parameter: float32 weights and Adam's two states


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake, a warning, or a note about what was not checked."""

    level: Literal["error", "warning", "unchecked"]  # unchecked: something could not be looked at, with the reason
    text: str
    where: str = ""  # the place in the recipe, such as `train` or `curate.pool.mine`

    @property
    def line(self) -> str:
        """The line to print: the place in the recipe and the text. A note about something unchecked has no place."""
        placed = self.level != "unchecked" and self.where and not self.text.startswith(self.where)
        return f"{self.where}: {self.text}" if placed else self.text

    @property
    def section(self) -> str:
        """The section of the recipe that the finding is about."""
        return self.where.partition(".")[0]


class Findings(list[Finding]):
    """A list of findings. Use `with findings.errors(where):` around code that raises UserError."""

    def __init__(self, found: Iterable[Finding] = ()) -> None:
        super().__init__(found)
        self.loaded = dict[str, list[Example]]()  # benchmarks that were read already

    @contextmanager
    def errors(self, where: str = "") -> Iterator[None]:
        """Turn a UserError of the block into a finding, so that the next check runs too."""
        try:
            yield
        except UserError as error:
            text = str(error)
            inner = text.startswith(f"{where}.")  # it names a key below that place
            place = text.partition(" ")[0].rstrip(":") if inner else where
            self.error(text.removeprefix(f"{place}: "), place)

    def error(self, text: str, where: str = "") -> None:
        """Add an error."""
        self.append(Finding("error", text, where))

    def warn(self, text: str, where: str = "") -> None:
        """Add a warning."""
        self.append(Finding("warning", text, where))

    def unchecked(self, text: str) -> None:
        """Add something that could not be looked at."""
        self.append(Finding("unchecked", text))


def check_model(path: str, where: str, template: bool = True) -> Findings:
    """Check that a model is available, and that it has a chat template if `template` is true."""
    found = Findings()
    remote = path not in EMBEDDED and not is_here(path) and HUB_NAME.fullmatch(path)
    if remote and (missing := ask_hub(path.partition("@")[0], "model")):
        return Findings([replace(missing, where=where)])
    with found.errors(where):
        if path in EMBEDDED:  # known to be complete; it is converted at first use
            embedded_file(path)
        else:
            load_tokenizer(tokenizer_folder(path), template)
    return found


@cache
def ask_hub(name: str, kind: Literal["model", "dataset"]) -> Finding | None:
    """The reason why a repository of the Hub cannot be downloaded; None if it can."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if not _hub_answers():
        return Finding("unchecked", f"the {kind} {name}{NO_HUB}")
    try:
        HfApi(constants.ENDPOINT).auth_check(name, repo_type=kind)
    except GatedRepoError:
        return Finding("error", f"the {kind} {name} is gated: accept its terms on the Hub and set HF_TOKEN")
    except RepositoryNotFoundError:
        return Finding("error", f"the Hub has no {kind} {name}, or shows it only with the right HF_TOKEN")
    except (OSError, httpx2.HTTPError):
        return Finding("unchecked", f"the {kind} {name}{NO_HUB}")
    return None


@cache
def _hub_answers() -> bool:
    """Whether the Hub can be reached. Asked once, since without a network the Hub's client retries each name for
    minutes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx2.get(constants.ENDPOINT, timeout=SECONDS)
    except httpx2.HTTPError:
        return False
    return True


def check_engines(section: Any, where: str) -> Findings:
    """Check the engines of a section: keys, addresses, servers, programs, GPUs, models, and the memory of their
    caches.
    """
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
    """Whether a model does not exist yet because a training writes it, of this recipe or of an earlier one."""
    return Path(model).name in ("model", "adapter") and not HUB_NAME.fullmatch(model) and not Path(model).exists()


def _check_server(engine: ServerEngine, where: str) -> Findings:
    found = Findings()
    if engine.serve:
        gpus, wanted = len(memory_of_devices(gpus_only=True)), engine.tensor_parallel * engine.data_parallel
        if engine.serve != "transformers" and gpus < wanted:
            if gpus or wanted > 1:
                found.error(f"{wanted} GPUs are asked for, {gpus} are visible", where)
            else:
                found.warn(f"no GPU is visible, so {engine.serve} must be a build for CPUs (docs/engines.md)", where)
        with found.errors(where):
            engine.check_program()
        found += check_model(engine.model, where)
    elif engine.send == "tokens":
        found += check_model(engine.tokenizer or engine.model, where)
    for url in engine.base_urls:
        try:  # redirects are not followed: they would send the key to another host
            status = httpx2.get(f"{url.rstrip('/')}/models", headers=engine.headers(), timeout=SECONDS).status_code
        except httpx2.HTTPError as error:
            found.warn(f"no server answers at {url} ({error})", where)
            continue
        if status in (401, 403):
            found.error(f"{url} refuses the key (status {status})", where)
    return found


def _check_cache(engine: TransformersEngine, max_tokens: int | None, where: str) -> Findings:
    """Check that the weights and the attention cache of a full batch fit into the memory of the device."""
    from transformers import AutoConfig

    found = Findings()
    config = AutoConfig.from_pretrained(engine.folder).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each = 4 if engine.dtype == "float32" else 2
    context = getattr(config, "max_position_embeddings", None) or 2**20
    if max_tokens and max_tokens >= context:
        found.warn(f"max_tokens={max_tokens:,}, and the model takes {context:,} tokens, prompts among them", where)
    tokens = min(context, max_tokens or 2**20)
    row = 2 * config.num_hidden_layers * heads * width * each * tokens
    weights = sum(file.stat().st_size for file in engine.folder.glob("*.safetensors"))
    room = min(memory_of_devices()) - weights
    if row * engine.batch_size > room:
        fits = f"batch_size={int(room // row)} would fit" if room > row else "use a server (docs/engines.md)"
        found.error(
            f"{engine.batch_size} rows of {tokens:,} tokens take {row * engine.batch_size / 1e9:,.1f} GB of "
            f"cache beside {weights / 1e9:,.1f} GB of weights, and the device has "
            f"{min(memory_of_devices()) / 1e9:,.0f}: {fits}",
            where,
        )
    return found


def check_training(node: Mapping[str, Any], where: str = "train") -> Findings:
    """Check a training: its model and chat template, its memory on the visible devices, and the disk space for its
    checkpoints.
    """
    found = Findings()
    with found.errors(where):
        settings = bound_settings(node, where)
        with found.errors(where):
            check_before_loading(settings)
        data = Path(settings.data)
        comes = data.name in ("curated.jsonl", "pairs.jsonl") or (HUB_NAME.fullmatch(settings.data) and not data.suffix)
        if not comes and not data.expanduser().exists():
            found.error(f"no such file '{settings.data}'", f"{where}.data")
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
            f"the model and {kept} checkpoints take {needed / 1e9:,.1f} GB, and {place} has {free / 1e9:,.1f}. "
            "Choose another folder with runs=, or set train.args.save_strategy=no",
            "train",
        )
    return found


def _check_fit(work: Work, devices: int, memory: float, sure: bool, found: Findings) -> None:
    """Report a training that cannot fit, with a sharding or number of devices that would fit."""
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
            f"{work.settings.sharding} on {devices} devices needs {least / 1e9:,.1f} GB each, and they have "
            f"{memory / 1e9:,.0f}: {fits or 'a smaller model, or train.lora, might'} (limo plan)",
            "train",
        )
