"""Finds all mistakes in a recipe that can be found before anything is paid for, and reports them together.

    limo check recipe=mine

It checks the bindings of every section, what stages read and write, the first rows of each source against the measured
problems, benchmarks, models and their chat templates, keys and servers, memory and disk. Nothing is sampled or trained.
The Hub is asked about its models and datasets. If there is no error, the last line says what was not checked.
`curation.run` does the same before it begins. There, findings that concern only the machine of the training or of the
evaluation are warnings, since these may run elsewhere.
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, islice
from pathlib import Path
from typing import Any, Literal

import httpx2

from curation.folder import read_marks
from curation.stage import check_sampling, in_order, stage_errors
from eval.benchmarks import hub_sources, is_required, load, on_hub
from eval.benchmarks import nodes as benchmark_nodes
from eval.grade import grade
from limo.chat import render
from limo.command import command
from limo.console import say
from limo.data import Example, content_id
from limo.engines.local import TransformersEngine
from limo.engines.server import ServerEngine
from limo.errors import UserError
from limo.machine import memory_of_devices, quiet_deepspeed
from limo.model import EMBEDDED, HUB_NAME, embedded_file, is_here, load_tokenizer, tokenizer_folder
from limo.recipe import bind, bound_settings, check_name, check_node, nodes, suggest
from limo.run import read_manifest
from limo.sources import RESERVED
from limo.training.batches import padded_shape
from limo.training.fit import check_before_loading
from limo.training.models import load_trained_tokenizer
from limo.training.settings import Training
from limo.training.sizes import ROOM, SHARDINGS, Data, Work, count_memory, measure_data, measure_model

FEW = 20  # fewest rows of a pool or a target that say something about it
READ = 20_000  # rows of a source that are read before a run
PATIENCE = 20  # seconds for reading a pool before a run
GRADED = 50  # chains that are compared with their answers
RENDERED = 200  # rows of the pool that are rendered to see whether they fit into max_length
NO_HUB = ", since the Hub cannot be reached"
ALWAYS = ("probe", "fit", "report")  # sections of every recipe
SECONDS = 5  # for a server or the Hub to answer
STATES = 12  # bytes of a checkpoint for each trained parameter: float32 weights and Adam's two states


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake, a warning, or a note about what was not checked."""

    level: Literal["error", "warning", "unchecked"]  # unchecked: something could not be looked at, with the reason
    text: str


class Findings(list[Finding]):
    """A list of findings. Use `with findings.errors():` around code that raises UserError."""

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
            self.append(Finding("error", text if not where or text.startswith(where) else f"{where}: {text}"))

    def error(self, text: str) -> None:
        """Add an error."""
        self.append(Finding("error", text))

    def warn(self, text: str) -> None:
        """Add a warning."""
        self.append(Finding("warning", text))

    def unchecked(self, text: str) -> None:
        """Add something that could not be looked at."""
        self.append(Finding("unchecked", text))


def check_bindings(recipe: Mapping[str, Any]) -> Findings:
    """Every section and every node in it, bound to its function: unknown, missing and mistyped keys."""
    found = Findings()
    sections = {name: node for name, node in recipe.items() if isinstance(node, Mapping) and "_target_" in node}
    for section, node in sections.items():
        if node.get("student", "") is None:  # a node that a recipe without a student does not offer
            continue
        # A section inside another one, such as the training in a plan, is checked where it is defined
        own = {key: value for key, value in node.items() if value not in sections.values()}
        for where, inner in [(section, node), *nodes(own, section)]:
            if where == section or inner not in sections.values():
                with found.errors():
                    check_node(inner, where)
    return found


def check_model(path: str, where: str, template: bool = True) -> Findings:
    """Whether a model is available, and has a chat template if `template` is needed."""
    found = Findings()
    remote = path not in EMBEDDED and not is_here(path) and HUB_NAME.fullmatch(path)
    if remote and (missing := ask_hub(path.partition("@")[0], "model")):
        return Findings([_at(missing, where)])
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
    """Whether the Hub can be reached; its client would retry for minutes, for each name."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx2.get(constants.ENDPOINT, timeout=SECONDS)
    except httpx2.HTTPError:
        return False
    return True


def check_engines(section: Any, where: str) -> Findings:
    """The engines in a section: keys, addresses, servers, programs, GPUs, models, and the memory of their caches."""
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
    """Whether a model is the output of a training, of this recipe or an earlier one."""
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
        try:  # redirects are not followed: they would send the key to another host
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
    context = getattr(config, "max_position_embeddings", None) or 2**20
    if max_tokens and max_tokens >= context:
        found.warn(f"{where}: max_tokens={max_tokens:,}, and the model takes {context:,} tokens, prompts among them")
    tokens = min(context, max_tokens or 2**20)
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
        settings = bound_settings(node, where)
        with found.errors():
            check_before_loading(settings)
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
            f"train: {work.settings.sharding} on {devices} devices needs {least / 1e9:,.1f} GB each, and they have "
            f"{memory / 1e9:,.0f}: {fits or 'a smaller model, or train.lora, might'} (limo plan)"
        )


def check_recipe(recipe: Mapping[str, Any]) -> Findings:
    """All findings of a recipe, errors first. A section that does not bind to its function is not checked further."""
    found = check_bindings(recipe)
    broken = {finding.text.partition(".")[0] for finding in found}
    with found.errors():
        check_name(str(recipe.get("name") or "").strip(), "name")
    if not any(isinstance(node, Mapping) and "_target_" in node for name, node in recipe.items() if name not in ALWAYS):
        found.error("the recipe has no section: build it on another one, such as `defaults: [/recipe/base, _self_]`")
    sections = {name: recipe[name] for name in ("curate", "train", "eval") if recipe.get(name) and name not in broken}
    measured, pool, curate = dict[str, list[Example]](), list[Example](), recipe.get("curate") or {}
    if {"pool", "stages"} <= set(curate):
        check_curation(curate, found, measured)
        pool = check_pool(curate, found, measured)
        kinds = (curate.get("controls") or {}).get("kinds") or ()
        for name in recipe.get("control") or () if not isinstance(recipe.get("control"), str) else ():
            if name not in kinds:
                found.error(f"control has '{name}', which curate.controls.kinds does not make{suggest(name, kinds)}")
    if "eval" in sections:
        check_benchmarks(sections["eval"].get("benchmarks") or {}, "eval.benchmarks", found, {})
        with found.errors():
            check_sampling(sections["eval"], "eval.")
    for name in sections:
        found += check_engines(sections[name], name)
    if "train" in sections:
        found += check_training(sections["train"])
        if pool and not any(finding.text.startswith("train") for finding in found):
            check_lengths(sections["train"], curate, pool, found)
    if recipe.get("eval", {}).get("trained") and not recipe.get("control"):
        found.warn(
            "no control set is trained, so nothing will say whether the choice helped: control=[random] trains as many "
            "random chains of what was verified as well, for as long again, and compares the two"
        )
    unique = dict[Any, Finding]()  # one mistake may be found in several places
    for finding in found:
        unique.setdefault((finding.level, finding.text.partition(": ")[2] or finding.text), finding)
    return Findings(sorted(unique.values(), key=lambda finding: finding.level))


def check_curation(curate: Mapping[str, Any], found: Findings, measured: dict[str, list[Example]]) -> None:
    """Stages in their order, their benchmarks, whose problems are added to `measured`, and the budget."""
    with found.errors():
        stages = in_order(curate["stages"], curate.get("order"))
        found += [Finding("error", text) for text in stage_errors(stages, curate["pool"])]
        for name, node in stages.items():
            if "benchmarks" in node:
                check_benchmarks(node["benchmarks"], f"curate.stages.{name}.benchmarks", found, measured)
    if curate.get("exclude"):
        with found.errors():
            read_marks(curate["exclude"])
    prices = [node["engine"].get("price") for _, node in nodes(curate["stages"], "") if "engine" in node]
    if (curate.get("budget") or {}).get("dollars") is not None and not any(prices):
        found.warn("curate.budget.dollars limits nothing: no engine of the curation has a price")


def check_pool(curate: Mapping[str, Any], found: Findings, measured: Mapping[str, list[Example]]) -> list[Example]:
    """Read the first rows of each source, and check the requested sizes and shares against them. Returns the rows."""
    pool, whole, begun = list[Example](), bool(curate["pool"]), time.monotonic()
    if not curate["pool"]:
        found.error("curate.pool names no source")
    for name, node in curate["pool"].items():
        where = f"curate.pool.{name}"
        if repositories := hub_sources(node):
            whole = False
            for repository in repositories:
                found += _ask(repository, where)
            continue
        before, seen = len(pool), 0
        with found.errors(where):
            for seen, row in enumerate(bind(node, where)(name, str(curate.get("system") or "")), 1):
                pool += [row] if isinstance(row, Example) else []
                if seen >= READ or time.monotonic() - begun > PATIENCE:
                    break
        whole = whole and 0 < seen < READ and time.monotonic() - begun <= PATIENCE
        if seen >= READ and len(pool) == before:
            found.warn(f"{where}: none of its first {READ:,} rows is usable")
        elif seen >= READ:
            found.unchecked(f"{where} after its first {seen:,} rows")
    if pool:
        _check_measured(curate, pool, whole, found, measured)
        _check_shares(curate, pool, whole, found)
        _check_answers(curate, pool, found)
    return pool


def _check_measured(
    curate: Mapping[str, Any], pool: list[Example], whole: bool, found: Findings, measured: Mapping[str, list[Example]]
) -> None:
    """Check that enough problems of the pool are not measured, and that no target problem is in the pool."""
    problems = {row.question: row for row in pool}
    sets = {name: {row.question for row in rows} for name, rows in measured.items()}
    for name, stage in curate["stages"].items():
        where = f"curate.stages.{name}.target"
        with found.errors(where):
            for repository in (remote := hub_sources(stage.get("target"))):
                found += _ask(repository, where)
            target = bind(stage["target"], where)("target", "") if stage.get("target") and not remote else ()
            rows = [row for row in target if isinstance(row, Example)]
            if rows and len(rows) < FEW:
                found.warn(f"{where} has {len(rows)} problems: shares of so few are rough, {FEW} are better")
            there = (each for each in enumerate(rows, 1) if each[1].question in problems)
            for at, row in islice(there, 1):
                found.error(
                    f"{where}: its problem {at}: {row.question[:60]!r} is in the pool as {problems[row.question].id}: "
                    "a target is measured on, so remove it from one of the two"
                )
    for one, other in combinations(sets, 2):
        if shared := len(sets[one] & sets[other]):
            found.warn(f"{one} and {other} share {shared} problems: what is chosen by one is not measured by the other")
    taken = {name: len(texts & problems.keys()) for name, texts in sets.items()}
    said = ", ".join(f"{count:,} are in {name}" for name, count in taken.items() if count)
    left = len(problems.keys() - set().union(*sets.values()))
    if said and not left and whole:
        found.error(f"every problem of the pool is measured too ({said}): none is left to train on")
    elif said and 2 * left < len(problems):
        found.warn(f"of {len(problems):,} problems of the pool, {said}: they leave it, and {left:,} stay")
    for name, node in curate["stages"].items():
        if isinstance(node.get("k"), int) and node["k"] > left and whole:
            found.warn(
                f"curate.stages.{name}.k={node['k']:,} is more than the pool has: {left:,} problems "
                f"{'that are not measured, ' if said else ''}before any is dropped"
            )


def _check_answers(curate: Mapping[str, Any], pool: list[Example], found: Findings) -> None:
    """Whether any of the first chains ends in its answer, where `verify` drops those that do not."""
    verifies = any(str(node["_target_"]).endswith(".verify") for node in curate["stages"].values())
    given = (row for row in pool if row.completion and row.answer and "unchecked" not in row.notes)
    rows = list(islice(given, GRADED if verifies else 0))
    if len(rows) >= FEW and not any(grade(row.completion, row.answer).verdict == "correct" for row in rows):
        one = rows[0]
        found.error(
            f"none of the pool's first {len(rows)} chains ends in its answer, so verify would drop them: {one.id} has "
            f"the answer {one.answer[:40]!r} and ends in {one.completion[-60:]!r}. Is fields.answer the right column?"
        )


def _check_shares(curate: Mapping[str, Any], pool: list[Example], whole: bool, found: Findings) -> None:
    """Whether the pool has rows with the notes and values for which shares are requested."""
    stages = list(curate["stages"].values())
    theirs = any(not str(node["_target_"]).startswith("curation.stages.") for node in stages)  # may add notes
    for name, node in curate["stages"].items():
        for key, wanted in node["shares"].items() if isinstance(node.get("shares"), Mapping) else ():
            known = {str({"source": row.source, **row.notes}[key]) for row in pool if key in ("source", *row.notes)}
            where = f"curate.stages.{name}.shares.{key}"
            if key == "cluster" or key in RESERVED or not whole or theirs:
                continue
            absent = [str(value) for value in wanted if str(value) not in known] if isinstance(wanted, Mapping) else []
            if not known:
                notes = sorted({"source", *(note for row in pool for note in row.notes)})
                found.error(f"{where}: no row of the pool has a note '{key}'{suggest(key, notes)}")
            elif absent:
                hint = suggest(absent[0], sorted(known)[:20])
                found.error(f"{where}: no row of the pool has {key} '{absent[0]}'{hint}")


def check_lengths(train: Mapping[str, Any], curate: Mapping[str, Any], pool: list[Example], found: Findings) -> None:
    """Whether the first rows of the pool fit into `max_length`, if the model's tokenizer is on this machine."""
    settings = bound_settings(train, "train")
    asked = [node["k"] for node in curate["stages"].values() if isinstance(node.get("k"), int)]
    if asked and min(asked) < settings.global_batch:
        found.warn(f"train.global_batch={settings.global_batch} is more than the {min(asked)} problems that are chosen")
    if not is_here(settings.model):
        found.unchecked(f"whether rows fit into train.max_length, since {settings.model} is not on this machine")
        return
    with found.errors("train.max_length"):
        tokenizer = load_trained_tokenizer(settings, tokenizer_folder(settings.model))
        rows = [row if row.completion else replace(row, completion=row.answer) for row in pool[:RENDERED]]
        lengths = [len(render(tokenizer, row).input_ids) for row in rows if row.completion]
        fitting = sum(length <= settings.max_length for length in lengths)
        said = f"train.max_length={settings.max_length}: {fitting} of the pool's first {len(lengths)} rows fit"
        if lengths and not fitting:
            found.error(f"{said}, and the shortest has {min(lengths)} tokens")
        elif 2 * fitting < len(lengths):
            found.warn(f"{said}; those that do not are dropped, or stop the training")


def check_benchmarks(benchmarks: Any, where: str, found: Findings, measured: dict[str, list[Example]]) -> None:
    """Whether each benchmark is on this machine and usable, or on the Hub. One that would be skipped is a warning.

    Problems of local benchmarks are added to `measured`. A benchmark that a recipe names several times is read once.
    """
    for name, node in benchmark_nodes(benchmarks).items():
        own, required, key = Findings(), is_required(name, node), content_id([name, node])
        with own.errors(where):
            for repository in (remote := on_hub(name, node)):
                own += _ask(repository, f"{where}.{name}")
            if not remote:
                if key not in found.loaded:
                    found.loaded[key] = load({name: {**node, "required": True}}, "")[name]
                measured[f"{where}.{name}"] = found.loaded[key]
        for finding in own:
            kept = required or finding.level != "error"
            found.append(finding if kept else Finding("warning", f"{finding.text}; left out"))


def _ask(repository: str, where: str) -> Iterator[Finding]:
    if missing := ask_hub(repository, "dataset"):
        yield _at(missing, where)


def _at(finding: Finding, where: str) -> Finding:
    return finding if finding.level == "unchecked" else Finding(finding.level, f"{where}: {finding.text}")


def check_before(recipe: Mapping[str, Any]) -> None:
    """Print what `check_recipe` finds. Raises UserError if the curation cannot succeed. Skips finished runs."""
    if read_manifest(recipe.get("out", "")).get("curate", {}).get("finished"):
        return
    found = check_recipe(recipe)
    later = ("train: ", "eval.engine: ")
    _report([Finding("warning", f.text) if f.text.startswith(later) else f for f in found], "Nothing was started")
    if unchecked := [f.text for f in found if f.level == "unchecked" and f.text.endswith(NO_HUB)]:
        say(f"not checked: {'; '.join(unchecked)}")


def check_and_print(recipe: Mapping[str, Any]) -> None:
    """The command `limo check`."""
    found = check_recipe(recipe)
    _report(found, "Nothing was run")
    open_ones = [f.text for f in found if f.level == "unchecked"]
    if recipe.get("curate"):
        open_ones += ["what models will reply", "how many rows each stage leaves (limo plan samples some)"]
    if recipe.get("train"):
        open_ones.append("whether the training learns")
    say(f"{recipe['name']}: no error found. Not checked: {'; '.join(open_ones) or 'results'}")


def _report(found: list[Finding], end: str) -> None:
    """Print findings, one per line. Raises UserError with the only error, or with the number of errors."""
    errors = [f for f in found if f.level == "error"]
    for finding in found:
        if finding.level == "warning" or (finding.level == "error" and len(errors) > 1):
            say(f"{finding.level}: {finding.text}")
    if errors:
        raise UserError(errors[0].text if len(errors) == 1 else f"{len(errors)} errors, listed above. {end}")


if __name__ == "__main__":
    command(None, "curation.check", before=check_and_print)
