"""Everything that can be known to be wrong with a recipe before anything is paid for, all at once.

    limo check recipe=mine

Bindings of every section, what stages read and write, the first rows of each source, benchmarks, models and their chat
templates, keys and servers, memory and disk. Nothing is sampled or trained. What needs the Hub is asked of the Hub;
without one, it is listed as not checked. `curation.run` does the same before it begins: there, what only concerns the
machine of the training and of the evaluation is a warning, since they may run elsewhere.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import httpx2

from curation.stage import in_order, stage_errors
from eval.benchmarks import is_required, on_hub, without_required
from eval.benchmarks import nodes as benchmark_nodes
from limo.command import command
from limo.console import say
from limo.data import Example
from limo.engines.local import TransformersEngine
from limo.engines.server import ServerEngine
from limo.errors import UserError
from limo.machine import memory_of_devices, quiet_deepspeed
from limo.model import EMBEDDED, HUB_NAME, embedded_file, load_tokenizer, tokenizer_folder
from limo.recipe import bind, check_node, nodes
from limo.run import read_manifest
from limo.training.batches import padded_shape
from limo.training.fit import check_settings
from limo.training.models import load_trained_tokenizer
from limo.training.settings import Training
from limo.training.sizes import ROOM, SHARDINGS, Data, Work, count_memory, measure_data, measure_model

FEW = 20  # problems of a target that say something about shares
READ = 20_000  # problems of a pool that are compared with a target before a run; the run itself compares all
FIRST = 1000  # rows of a source that are read for one that is usable
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
            if gpus or wanted > 1:
                found.error(f"{where}: {wanted} GPUs are asked for, {gpus} are visible")
            else:
                found.warn(f"{where}: no GPU is visible, so {engine.serve} must be a build for CPUs (docs/engines.md)")
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
            f"{memory / 1e9:,.0f}: {fits or 'a smaller model, or train.lora, might'} (limo plan)"
        )


def check_recipe(recipe: Mapping[str, Any]) -> Findings:
    """All findings of a recipe, errors first. A section that does not bind to its function is asked no more."""
    found = check_bindings(recipe)
    broken = {finding.text.partition(".")[0] for finding in found}
    sections = {name: recipe[name] for name in ("curate", "train", "eval") if recipe.get(name) and name not in broken}
    if recipe.get("curate") and {"pool", "stages"} <= set(recipe["curate"]):
        found += check_curation(recipe["curate"])
    if "eval" in sections:
        found += check_benchmarks(recipe["eval"].get("benchmarks") or {}, "eval.benchmarks")
    for name in sections:
        found += check_engines(sections[name], name)
    if "train" in sections:
        found += check_training(sections["train"])
    if recipe.get("eval", {}).get("trained") and not recipe.get("control"):
        found.warn(
            "no control set is trained, so nothing will say whether the choice helped: control=[random] trains as many "
            "random chains of what was verified as well, for as long again, and compares the two"
        )
    unique = dict[Any, Finding]()  # one mistake may be found in several places
    for finding in found:
        unique.setdefault((finding.level, finding.text.partition(": ")[2] or finding.text), finding)
    return Findings(sorted(unique.values(), key=lambda finding: finding.level))


def check_curation(curate: Mapping[str, Any]) -> Findings:
    """Stages in their order, and the sources of the pool."""
    found = Findings()
    with found.errors():
        stages = in_order(curate["stages"], curate.get("order"))
        found += [Finding("error", text) for text in stage_errors(stages, curate["pool"])]
        for name, node in stages.items():
            if "benchmarks" in node:
                found += check_benchmarks(node["benchmarks"], f"curate.stages.{name}.benchmarks")
    if not curate["pool"]:
        found.append(Finding("error", "curate.pool names no source"))
    found += check_size(curate)
    for name, node in curate["pool"].items():
        if node["_target_"] == "limo.sources.hub":
            found += _ask(str(node["path"]), f"curate.pool.{name}")
        elif node["_target_"] == "limo.sources.file":
            with found.errors(f"curate.pool.{name}"):
                _first_row(name, node, str(curate.get("system") or ""))
    return found


def check_size(curate: Mapping[str, Any]) -> Findings:
    """Whether the pool has as many problems as are asked for, and whether a target is no part of it."""
    found, system = Findings(), str(curate.get("system") or "")
    asked = {f"curate.stages.{name}": node for name, node in curate["stages"].items() if isinstance(node.get("k"), int)}
    targets = {name: node["target"] for name, node in asked.items() if node.get("target")}
    if not asked or any(str(node["_target_"]) == "limo.sources.hub" for node in curate["pool"].values()):
        return found
    most, wanted, seen = max(node["k"] for node in asked.values()), dict[str, tuple[str, str]](), set[str]()
    for where, node in targets.items():
        with found.errors(f"{where}.target"):
            rows = [row for row in bind(node, f"{where}.target")("target", "") if isinstance(row, Example)]
            wanted |= {row.question: (where, f"{at}: {row.question[:60]!r}") for at, row in enumerate(rows, 1)}
            if len(rows) < FEW:
                found.warn(f"{where}.target has {len(rows)} problems: shares of so few are rough, {FEW} are better")
    try:
        sources = (
            row for name, node in curate["pool"].items() for row in bind(node, f"curate.pool.{name}")(name, system)
        )
        for row in sources:
            if isinstance(row, Example):
                seen.add(row.problem)
                if row.question in wanted:
                    where, which = wanted[row.question]
                    found.error(
                        f"{where}.target: its problem {which} is in the pool as {row.id}: a target is measured on, so "
                        "remove it from one of the two"
                    )
                    return found
            if len(seen) >= max(most, READ if wanted else 0):
                return found
    except UserError:
        return found  # which the check of the source itself reports
    for where, node in asked.items():
        if node["k"] > len(seen):
            found.warn(
                f"{where}.k={node['k']:,} is more than the pool has: {len(seen):,} problems before any is dropped"
            )
    return found


def _first_row(name: str, node: Mapping[str, Any], system: str) -> None:
    rows = bind({**node, "fraction": 1.0}, f"curate.pool.{name}")(name, system)
    if not any(isinstance(row, Example) for row in islice(rows, FIRST)) and next(rows, None) is None:
        raise UserError("no row is usable")


def check_benchmarks(benchmarks: Any, where: str) -> Iterator[Finding]:
    """Whether each benchmark is here or on the Hub. One that would be left out is a warning."""
    for name, node in benchmark_nodes(benchmarks).items():
        found = Findings()
        with found.errors(where):
            if repository := on_hub(name, node):
                found += _ask(repository, f"{where}.{name}")
            else:
                next(iter(bind(without_required(node), f"{where}.{name}")(name, "")), None)
        required = is_required(name, node)
        yield from (f if required or f.level != "error" else Finding("warning", f"{f.text}; left out") for f in found)


def _ask(repository: str, where: str) -> Iterator[Finding]:
    if missing := ask_hub(repository, "dataset"):
        yield Finding(missing.level, f"{where}: {missing.text}")


def check_before(recipe: Mapping[str, Any]) -> None:
    """Print what `check_recipe` finds. Raises UserError if the curation cannot succeed. Finished runs are left out."""
    if read_manifest(recipe.get("out", "")).get("curate", {}).get("finished"):
        return
    found = check_recipe(recipe)
    later = ("train: ", "eval.engine: ")
    _report([Finding("warning", f.text) if f.text.startswith(later) else f for f in found], "Nothing was started")


def check_and_print(recipe: Mapping[str, Any]) -> None:
    """The command `limo check`."""
    found = check_recipe(recipe)
    _report(found, "Nothing was run")
    say(f"{recipe['name']}: no error found")


def _report(found: list[Finding], end: str) -> None:
    """Print findings a line each. Raises UserError with the only error, or with how many there are."""
    errors = [f for f in found if f.level == "error"]
    for finding in found:
        if finding.level != "unreachable" and (finding.level != "error" or len(errors) > 1):
            say(f"{finding.level}: {finding.text}")
    if unreachable := sorted({f.text.rpartition(": ")[2] for f in found if f.level == "unreachable"}):
        say(f"not checked, since the Hub cannot be reached from here: {', '.join(unreachable)}")
    if errors:
        raise UserError(errors[0].text if len(errors) == 1 else f"{len(errors)} errors, listed above. {end}")


if __name__ == "__main__":
    command(None, "curation.check", before=check_and_print)
