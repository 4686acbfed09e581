"""The command `limo plan`: estimates what a recipe would cost: curation, trainings, evaluation, and their sum.

    limo plan recipe=limo plan.pilot=200 'plan.tokens_per_second={easy: 4000, hard: 1200, solve: 1200}'
    limo plan recipe=limo 'plan.assume={rows: 800000, tokens: 900, rate: 10000, keeps: {easy: 0.02}}'   # nothing is run
    limo plan recipe=limo plan.training.rows=800 plan.training.mean_tokens=6000 'plan.training.devices=[8,16]'

**The curation**: the stages that cost nothing are run in the run's folder, and the run reuses their results. A few of
the remaining problems are sampled at random and go through the other stages: this pilot is paid for once, since its
samples stay in the ledger. Its cost, without loading models, is scaled to all rows. Hours are those of this machine
unless `plan.tokens_per_second` gives the rate of a GPU. The printed range of a cost follows from the share of rows that
stay (95 % intervals, compounded from stage to stage); tokens per sample are the pilot's mean. With `plan.assume`
nothing is run: rows are dropped by `keeps` and by a stage's `k` only, so the numbers are upper bounds.

**The trainings**: memory, hours and dollars of each sharding that fits (`limo/training/sizes.py`), for the chosen set,
its controls and all seeds together. "Fits" leaves a tenth of a GPU's memory free.

**The evaluation**: the cost of sampling completions of each trained model on each benchmark that is on this machine or
has a published size.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt

import limo.engines.ledger
from curation.run import read_pool, run_first
from curation.stage import about_node, in_order
from curation.stages.choose import subsample
from eval.benchmarks import benchmark_nodes, load_benchmarks, on_hub
from eval.intervals import wilson
from eval.protocols import sampling_for
from eval.readers import TABLE
from limo.command import command
from limo.console import Table, print_table, say, terminal
from limo.data import Dropped, Example, Row, content_id
from limo.engines.ledger import Limits, Spent, spent, within_budget
from limo.engines.protocol import Sampling, loading
from limo.errors import MissingModel, UserError
from limo.recipe import bind, bound_settings, suggest
from limo.run import trained_sets
from limo.training.batches import padded_shape
from limo.training.sizes import (
    GPUS,
    NODE,
    ROOM,
    SHARDINGS,
    Size,
    Work,
    count_memory,
    measure_data,
    measure_model,
    measure_or_read_name,
    seconds_per_step,
    size_of,
)

READS = 4  # tokens that a GPU reads, to score a chain, in the time in which it samples one
REVIVED = 8  # dropped rows with which the pilot continues if no row survives
HEAD = ("stage", "rows in", "samples", "not needed", "tokens in", "tokens out", "GPU-hours", "$", "rows out", "pilot")


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimated cost of one stage for all rows."""

    stage: str
    rows: tuple[float, float, float]  # rows in: low, expected, high
    samples: float  # samples for the expected rows
    tokens: float  # generated
    asked: float  # tokens of prompts
    spared: float  # samples that early stopping saves
    hours: float | None  # of one GPU; None if no rate is known
    dollars: float  # of engines with a price
    out: tuple[float, float, float]  # rows that stay
    survived: int | None  # rows of the pilot that stay; None without a pilot


ASSUMING = (
    ". Without models, plan by arithmetic: 'plan.assume={tokens: 900, rate: 3000}', tokens of a completion and tokens "
    "that a GPU makes in a second"
)


@dataclass(frozen=True, slots=True)
class Assume:
    """Assumptions that replace a pilot."""

    tokens: float  # of a completion, and of a training row
    rate: float  # tokens a second of one GPU
    rows: int | None = None  # of the pool; None reads it
    parameters: float | None = None  # of the trained model, if its config cannot be read
    keeps: Mapping[str, float] = field(default_factory=dict)  # by stage, the share of its rows that stay; 1 by default


@dataclass(frozen=True, slots=True)
class Trainings:
    """Settings of the table of trainings."""

    rows: PositiveInt | None  # rows of a set; None takes those of train.data, or the number that is chosen
    mean_tokens: float | None  # of a row; None reads train.data
    devices: Annotated[list[PositiveInt], Field(min_length=1)]  # numbers of GPUs
    gpus: Annotated[dict[str, float], Field(min_length=1)]  # dollars an hour, by name
    utilisation: Annotated[float, Field(gt=0, le=1)]  # the share of the peak that training reaches
    trainings: PositiveInt = 1  # number of trainings of this size, many in a search for losses


def plan(
    *,
    curate: dict[str, Any] | None,
    train: dict[str, Any] | None,
    pilot: PositiveInt,
    seed: int,
    tokens_per_second: Mapping[str, float] | float | None,
    dollars_per_gpu_hour: float | None,
    training: Trainings,
    assume: Assume | None = None,
    eval: dict[str, Any] | None = None,
) -> list[Estimate]:
    """Print the cost of `curate` by stage, of `train` by kind of GPU, and of `eval`. Returns the stages' estimates.

    Args: `pilot` problems go through the stages that sample; `tokens_per_second` of one GPU, for all stages or by
    stage, null for the pilot's rate on this machine. The run's budget holds for the pilot too. `training` are settings
    of the second table, `assume` replaces a pilot. Raises UserError as `curation.run.curate` does, for an unknown stage
    or GPU, and if rows or tokens of a training are unknown.
    """
    found = list[Estimate]()
    if not curate and not train:
        raise UserError("plan: the recipe has neither a curate nor a train section, so nothing would be paid for")
    if curate:
        stages = in_order(curate["stages"], curate.get("order"))
        named = [
            *(tokens_per_second if isinstance(tokens_per_second, Mapping) else ()),
            *(assume.keeps if assume else ()),
        ]
        for name in named:
            if name not in stages:
                raise UserError(f"plan: there is no stage '{name}'{suggest(name, stages)}")
        if assume:
            found = list(_assume(stages, float(assume.rows or _count_pool(curate)), assume, tokens_per_second))
            _print(Path(curate["out"]), found, round(found[0].rows[1]) if found else 0, dollars_per_gpu_hour)
        else:
            try:
                found = _pilot(curate, stages, pilot, seed, tokens_per_second, dollars_per_gpu_hour)
            except MissingModel as error:
                raise UserError(f"{error}{ASSUMING}") from None
        for line in _warnings(found, curate["budget"]):
            terminal(130).print(line, soft_wrap=True)
    if train:
        kept = found[-1].out[1] if found else None
        sizes = [node["k"] for node in (curate or {}).get("stages", {}).values() if isinstance(node.get("k"), int)]
        trained = _plan_trainings(train, training, min([*sizes, *([kept] if kept else [])], default=None), assume)
        rate = tokens_per_second if isinstance(tokens_per_second, int | float) else assume.rate if assume else None
        _print_sum(found, trained, _plan_evaluation(eval or {}, _models(train), assume, rate))
    return found


def _count_pool(curate: Mapping[str, Any]) -> int:
    """The number of problems in the pool. Raises UserError if the pool cannot be read: then `assume.rows` must give the
    number.
    """
    try:
        rows = read_pool(curate["pool"], curate["system"])
        return len({row.problem for row in rows if isinstance(row, Example)})
    except UserError as error:
        raise UserError(f"{error}. Without the pool, say how many rows it has: plan.assume.rows=") from None


def _assume(
    stages: Mapping[str, Any], count: float, assume: Assume, rates: Mapping[str, float] | float | None
) -> Iterator[Estimate]:
    """The cost of each stage that samples, assuming that only `keeps` and `k` drop rows and that each sample has
    `tokens` tokens.
    """
    for name, node in stages.items():
        out = count * assume.keeps.get(name, 1)
        out = min(out, float(node["k"])) if isinstance(node.get("k"), int) else out
        if about_node(node).samples:
            samples = count * sum(_samples(node))
            rate = (rates.get(name) if isinstance(rates, Mapping) else rates) or assume.rate
            tokens = samples * assume.tokens
            read = count * assume.tokens if "model" in node else 0.0  # a chain of each problem is scored
            hours = (tokens + read / READS) / rate / 3600
            yield Estimate(name, (count,) * 3, samples, tokens, 0.0, 0.0, hours, 0.0, (out,) * 3, None)
        count = out


def _samples(value: Any) -> Iterator[int]:
    """For each `sampling` section inside a node its `n`, the number of completions per row."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if key == "sampling" and isinstance(inner, Mapping):
            yield int(inner.get("n", 1))
        else:
            yield from _samples(inner)


def _pilot(
    curate: Mapping[str, Any],
    stages: Mapping[str, Any],
    pilot: int,
    seed: int,
    rates: Mapping[str, float] | float | None,
    price: float | None,
) -> list[Estimate]:
    """Run the free stages, then the pilot through the others; prints and returns the estimates."""
    free = dict(takewhile(lambda item: not about_node(item[1]).samples, stages.items()))
    before, folder = Spent(**vars(spent)), Path(curate["out"])
    with within_budget(str(folder.resolve()), Limits(**curate["budget"])):
        left = run_first(curate, free)
        start = len(left)
        rows = [row for row in subsample(left, k=pilot, seed=seed) if isinstance(row, Example)]
        limo.engines.ledger.counted = set()  # a sample is counted for the first stage that uses it
        found = list(_estimate(dict(list(stages.items())[len(free) :]), rows, float(start), rates))
    _print(folder, found, start, price)
    paid = spent.since(before)
    terminal(130).print(
        f"From a pilot of {len(rows)} problems, which took {paid.sampled:,} samples with {paid.tokens:,} tokens now; "
        "they are kept, and the run will not pay for them again.",
        soft_wrap=True,
    )
    return found


def _estimate(
    stages: Mapping[str, Any], rows: list[Example], count: float, rates: Mapping[str, float] | float | None
) -> Iterator[Estimate]:
    """The cost of the pilot's rows in each stage, up to the last that samples, scaled to all rows."""
    sampling = [at for at, node in enumerate(stages.values()) if about_node(node).samples]
    expected = (count, count, count)
    for name, node in list(stages.items())[: max(sampling, default=-1) + 1]:
        say(f"pilot: {name} with {len(rows)} rows ...")
        stage = bind(node, f"plan.curate.stages.{name}")
        before, start, ready = Spent(**vars(spent)), time.monotonic(), loading.seconds
        yielded: list[Row] = list(stage(rows))
        took = time.monotonic() - start - (loading.seconds - ready)  # a model is loaded once, and not for each row
        paid, stayed = spent.since(before), [row for row in yielded if isinstance(row, Example)]
        scale = expected[1] / max(len(rows), 1)
        tokens = (paid.tokens + paid.found_tokens) * scale
        given = rates.get(name) if isinstance(rates, Mapping) else rates
        rate = given or (paid.tokens / took if paid.tokens else None)
        if tokens:
            hours = tokens / rate / 3600 if rate else None
        else:  # a model that only scores takes time, and no tokens
            hours = took * scale / 3600 if about_node(node).samples and not paid.found else 0.0
        share, of = len(stayed) / max(len(rows), 1), len(rows)
        low, high = wilson(share, of) if share <= 1 and of else (share, share)
        most = float("inf") if node.get("k") is None else float(node["k"])
        out = (
            min(expected[0] * low, most),
            min(expected[1] * share, most),
            min(expected[2] * high, most),
        )
        samples = (paid.sampled + paid.found) * scale
        # Samples from the ledger count as if they were paid for now
        share_paid = paid.sampled / max(paid.sampled + paid.found, 1)
        asked, dollars = (value * scale / max(share_paid, 1e-9) for value in (paid.asked, paid.dollars))
        spared = paid.spared * scale
        yield Estimate(name, expected, samples, tokens, asked, spared, hours, dollars, out, len(stayed))
        expected, rows = out, stayed or _revive(yielded)


def _revive(yielded: list[Row]) -> list[Example]:
    """If a stage drops every row of the pilot, pass some of the dropped rows on, so that the cost of later stages can
    be measured.
    """
    dropped = [
        row for row in yielded if isinstance(row, Dropped) and isinstance(row.data, dict) and "prompt" in row.data
    ]
    return [Example.from_json(row.data) for row in sorted(dropped, key=lambda row: content_id(row.id))[:REVIVED]]


def _print(folder: Path, found: list[Estimate], start: int, rate: float | None) -> None:
    def cost(hours: float | None, dollars: float) -> tuple[str, str]:
        """Print hours and dollars. Dollars follow from the price of tokens, or else from the price of a GPU hour."""
        if dollars:
            return "", f"{dollars:,.2f}"
        if hours is None:
            return "unknown", "unknown"
        return f"{hours:,.2f}", "" if rate is None else f"{hours * rate:,.2f}"

    rows = [
        (
            e.stage,
            f"{e.rows[1]:,.0f}",
            f"{e.samples:,.0f}",
            f"{e.spared:,.0f}" if e.spared else "",
            f"{e.asked:,.0f}",
            f"{e.tokens:,.0f}",
            *cost(e.hours, e.dollars),
            f"{e.out[1]:,.0f}" + (f" ({e.out[0]:,.0f} to {e.out[2]:,.0f})" if e.out[0] < e.out[2] else ""),
            "" if e.survived is None else e.survived,
        )
        for e in found
    ]
    samples, asked, tokens = (f"{sum(getattr(e, name) for e in found):,.0f}" for name in ("samples", "asked", "tokens"))
    hours = [0.0 if e.dollars else e.hours or 0.0 for e in found]
    dollars = sum(e.dollars or h * (rate or 0) for e, h in zip(found, hours, strict=True))
    known = f"{dollars:,.2f}" if dollars or rate is not None else ""
    together = ("together", "", samples, "", asked, tokens, f"{sum(hours):,.2f}", known, "", "")
    title = f"{folder.name}: {start:,} problems reach the first stage that samples"
    print_table(Table(HEAD, [*rows, together], range(1, len(HEAD)), title), terminal(130))


def _warnings(found: list[Estimate], budget: Mapping[str, float | None]) -> Iterator[str]:
    for e in found:
        if e.survived == 0:
            yield (
                f"No row of the pilot survives '{e.stage}': at most {e.out[2]:,.0f} rows are likely to. What follows "
                "is measured on rows that did not survive; take a larger plan.pilot to know more."
            )
        if e.hours is None:
            yield f"The rate of '{e.stage}' is unknown, since all its samples were there: give plan.tokens_per_second."
    for name in ("samples", "tokens", "dollars", "hours"):
        limit, count = budget.get(name), sum(getattr(e, name) or 0 for e in found)
        if limit is not None and count > limit:
            yield f"The budget of {limit:,} {name} would be used up: curate needs about {count:,.0f}."


def _plan_trainings(
    train: Mapping[str, Any], given: Trainings, chosen: float | None, assume: Assume | None
) -> float | None:
    """Print the table of trainings; return the GPU-hours of the recommended setting. If train.data is not written yet,
    the training has `chosen` rows.
    """
    for name in given.gpus:
        if name not in GPUS:
            raise UserError(f"plan.training.gpus: there is no '{name}'{suggest(name, GPUS)}")
    settings = bound_settings(train, "train")
    rows, mean = given.rows, given.mean_tokens
    if not Path(settings.data).expanduser().exists():
        rows = rows or (round(chosen) if chosen else None)
        mean = mean or (assume.tokens if assume else None)
        if chosen and not mean:
            say(
                "the trainings are planned once the rows are there, or with plan.training.mean_tokens=<tokens of a row>"
            )
            return None
    if mean and mean > settings.max_length:
        raise UserError(
            f"plan: rows of {mean:,.0f} tokens do not fit into train.max_length={settings.max_length:,}, so none would "
            "be trained on: raise it (and train.pack_tokens), or say plan.training.mean_tokens="
        )
    size = _size(settings, assume)
    trainings = given.trainings * _models(train)
    planned = plan_trainings(Work(settings, size, measure_data(settings, rows, mean)), given, trainings)
    print_trainings(settings.model, planned, given)
    best = planned["recommendation"]
    return float(best["hours"] * best["devices"]) if best else None


def _models(train: Mapping[str, Any]) -> int:
    """The number of trainings: one for the chosen set and one for each control set, times the number of seeds."""
    return len(trained_sets("", train.get("controls") or (), train.get("seeds") or ()))


def _plan_evaluation(node: Mapping[str, Any], trained: int, assume: Assume | None, rate: float | None) -> float | None:
    """Print how much is sampled to evaluate all models; return the GPU-hours, or None if the rate or the benchmarks are
    unknown.
    """
    if not node.get("benchmarks") or not isinstance(node.get("sampling"), Mapping):
        return None
    models = len(node.get("models") or {}) + (trained if node.get("trained") else 0)
    parts, samples, tokens = list[str](), 0, 0.0
    for name, benchmark in benchmark_nodes(node["benchmarks"]).items():
        try:
            entry = TABLE.get(name)
            rows = (
                entry.rows if entry and on_hub(name, benchmark) else len(load_benchmarks({name: benchmark}, "")[name])
            )
        except UserError:
            rows = 0
        how = sampling_for(node.get("protocol"), Sampling(**node["sampling"]), rows or 1)
        parts.append(f"{name} {rows:,} x {how.n}" if rows else f"{name} is not here, so it is not counted")
        samples += (rows or 0) * how.n * models
        tokens += (rows or 0) * how.n * models * min(assume.tokens if assume else math.inf, how.max_tokens)
    hours = tokens / rate / 3600 if rate else None
    most = "" if assume else "at most "
    say(
        f"evaluation: {models} models, {'; '.join(parts)}: {samples:,} completions, {most}{tokens:,.0f} tokens, "
        + (f"{hours:,.2f} GPU-hours" if hours is not None else "hours unknown without plan.tokens_per_second")
    )
    return hours


def _print_sum(found: Sequence[Estimate], trained: float | None, evaluated: float | None) -> None:
    """Print the sum of the GPU-hours that are known."""
    curated = sum(e.hours or 0.0 for e in found if not e.dollars)
    parts = {"curation": curated if found else None, "training": trained, "evaluation": evaluated}
    known = {name: hours for name, hours in parts.items() if hours is not None}
    if len(known) > 1:
        unknown = [name for name in parts if name not in known]
        say(
            f"together: {sum(known.values()):,.1f} GPU-hours ("
            + ", ".join(f"{name} {hours:,.1f}" for name, hours in known.items())
            + (f"; {' and '.join(unknown)} not counted" if unknown else "")
            + ")"
        )


def _size(settings: Any, assume: Assume | None) -> Size:
    """The size of the trained model: from the assumptions, from the model's config, or, if the model is not on this
    machine, from its name.
    """
    if assume and assume.parameters:
        return size_of(assume.parameters, settings.lora.get("r", 8) if settings.lora is not None else None)
    return measure_or_read_name(settings) if assume else measure_model(settings)


def plan_trainings(work: Work, given: Trainings, trainings: int) -> dict[str, Any]:
    """Memory, hours and dollars of `trainings` by sharding and devices, and a recommendation, as plain JSON."""
    found = list[dict[str, Any]]()
    for count in dict.fromkeys(given.devices):
        if not work.pack_tokens:
            padded_shape(work.settings, count)
        for sharding in SHARDINGS if count > 1 else SHARDINGS[:1]:  # one device shards nothing
            memory, costs = count_memory(work, sharding, count), {}
            for name, price in given.gpus.items():
                if memory["total"] <= ROOM * GPUS[name][0]:
                    each = seconds_per_step(work, count * GPUS[name][1] * given.utilisation)
                    hours = each * work.steps * trainings / 3600
                    costs[name] = {"hours": hours, "dollars": hours * count * price}
            found.append({"sharding": sharding, "devices": count, **memory, "costs": costs})
    data = {**asdict(work.data), "steps": work.steps, "trainings": trainings}
    return {"model": asdict(work.size), "data": data, "settings": found, "recommendation": recommend(found)}


def recommend(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Choose among the settings that fit: the fewest GPUs, then the simplest sharding, then the fewest dollars."""
    choices = [(s, gpu) for s in found for gpu in s["costs"]]
    if not choices:
        return None
    s, gpu = min(choices, key=lambda c: (c[0]["devices"], found.index(c[0]), c[0]["costs"][c[1]]["dollars"]))
    machines = next(n for n in range(math.ceil(s["devices"] / NODE), s["devices"] + 1) if s["devices"] % n == 0)
    taken = f"train.sharding={s['sharding']} train.devices={s['devices'] // machines}"
    return {"gpu": gpu, "devices": s["devices"], "nodes": machines, "settings": taken, **s["costs"][gpu]}


def print_trainings(name: str, found: Mapping[str, Any], given: Trainings) -> None:
    """Print memory, hours and dollars of each sharding, and the simplest that fits."""
    model, data, best = found["model"], found["data"], found["recommendation"]
    head = ("sharding", "devices", "weights", "gradients", "optimizer", "activations", "buffers", "total")
    rows = []
    for s in found["settings"]:
        costs = {gpu: f"{c['hours']:.2f} h ${c['dollars']:,.2f}" for gpu, c in s["costs"].items()}
        memory = [f"{s[part] / 1e9:,.1f}" for part in head[2:]]
        rows.append([s["sharding"], s["devices"], *memory, *(costs.get(gpu, "-") for gpu in given.gpus)])
    say(
        f"{name}: {model['parameters'] / 1e9:,.3g} B parameters, {model['trainable'] / 1e9:,.3g} B trained. "
        f"{data['rows']:,} rows of {data['mean']:,.0f} tokens on average, {data['steps']:,} steps"
        + (f", {data['trainings']} times" if data["trainings"] > 1 else "")
    )
    title = "GB on each GPU; where that fits, hours on the clock with all devices, and dollars"
    print_table(
        Table((*head, *given.gpus), rows, numbers=range(1, len(head) + len(given.gpus)), title=title), terminal(160)
    )
    if best:
        where = f" on each of {best['nodes']} machines" if best["nodes"] > 1 else ""
        say(
            f"Take {best['settings']}{where} ({best['devices']} x {best['gpu']}): {best['hours']:,.2f} hours, "
            f"{best['hours'] * best['devices']:,.2f} GPU-hours"
        )
    else:
        say("Nothing fits: use more or larger GPUs, a smaller train.pack_tokens, or train.lora='{r: 16}'")


if __name__ == "__main__":
    command("plan", "curation.cost")
