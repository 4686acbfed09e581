"""What a curation would cost, before it is paid for.

    python -m curation.plan recipe=limo
    python -m curation.plan recipe=limo plan.pilot=200 'plan.tokens_per_second={easy: 4000, hard: 1200, solve: 1200}'

The stages that cost nothing run for real, into the run's own folder, where the run will find them done. Of what they
leave, a few problems are drawn at random and go through the rest: this pilot is paid for, once, since its samples stay
in the ledger. What it took, but for loading models, is carried over to all rows. Hours are those of this machine unless
`plan.tokens_per_second` says what a GPU reaches. The range is that of the share of rows that stay (95 %
intervals, compounded from stage to stage); of tokens a sample the pilot's mean is taken.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import limo.engines.ledger
from curation.run import run_stages, stage_file
from curation.runner import Rows
from curation.stage import about_node, check_stages, in_order
from curation.stages.choose import subsample
from eval.compare import wilson
from limo.command import command
from limo.data import Dropped, Example, Row, content_id
from limo.engines.ledger import Spent, spent, within_budget
from limo.engines.protocol import loading
from limo.errors import UserError
from limo.progress import say
from limo.recipe import bind, input_files, suggest
from limo.run import content_hash, differences, lasting, lock_run, read_manifest

REVIVED = 8  # rows that go on where none survives


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one stage would take, for all rows."""

    stage: str
    rows: tuple[float, float, float]  # that come in: low, expected, high
    samples: float  # that the expected rows need
    tokens: float
    spared: float  # samples that early stopping saves
    hours: float | None  # of one GPU; None where no rate is known
    dollars: float | None
    out: tuple[float, float, float]  # rows that stay
    survived: int  # of the pilot's rows

    @property
    def paid(self) -> bool:
        """Whether it samples at all."""
        return self.samples > 0


def plan(
    *,
    curate: dict[str, Any],
    pilot: int,
    seed: int,
    tokens_per_second: Mapping[str, float] | float | None,
    dollars_per_gpu_hour: float,
    dollars_per_million_tokens: Mapping[str, float] | None = None,
) -> list[Estimate]:
    """Estimate samples, tokens, hours and dollars of each stage of `curate`, and print them.

    Args: `pilot` problems go through the stages that sample; `tokens_per_second` of one GPU, for all stages or by
    stage, null for the rate that the pilot reaches here; `dollars_per_million_tokens` by stage, where a price is paid
    by tokens and not by hours. The run's budget holds for the pilot too. Raises UserError as `curation.run.curate`
    does, and for an unknown stage.
    """
    if pilot < 1:
        raise UserError(f"plan.pilot must be at least 1, not {pilot}")
    stages, folder = in_order(curate["stages"], curate.get("order")), Path(curate["out"])
    for name in [
        *(tokens_per_second if isinstance(tokens_per_second, Mapping) else ()),
        *(dollars_per_million_tokens or ()),
    ]:
        if name not in stages:
            raise UserError(f"plan: there is no stage '{name}'{suggest(name, stages)}")
    free, before = _free(stages), Spent(**vars(spent))
    paying = within_budget(str(folder.resolve()), curate["budget"]["samples"], curate["budget"]["tokens"])
    with paying, lock_run(folder / "work", "curating"):
        settings = {"system": curate["system"], "pool": curate["pool"], "stages": free}
        whole = {key: curate[key] for key in ("system", "pool", "controls", "pairs")} | {
            "order": list(stages),
            "stages": stages,
        }
        refuse_if_other(folder, whole)
        check_stages(stages, curate["pool"])
        inputs = {path: content_hash(Path(path).expanduser()) for path in input_files(whole)}
        funnel = run_stages(folder, settings, inputs)
        number, last = len(free), ["pool", *free][-1]
        rows = [
            row
            for row in subsample(Rows(stage_file(folder, number, last)), k=pilot, seed=seed)
            if isinstance(row, Example)
        ]
        limo.engines.ledger.counted = set()  # what one stage has drawn costs the next one nothing
        rates = _Rates(tokens_per_second, dollars_per_gpu_hour, dollars_per_million_tokens or {})
        found = list(_estimates(stages, list(free), rows, float(funnel[-1]["out"]), rates))
    paid = spent.since(before)
    _print(folder, found, funnel[-1]["out"], len(rows), paid, curate["budget"])
    return found


def refuse_if_other(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError if the folder holds a finished run with other settings, whose stages would be overwritten."""
    old = read_manifest(folder).get("curate")
    new = json.loads(json.dumps(lasting(settings)))
    if old and old["finished"] and (changed := differences(old["settings"], new)):
        raise UserError(
            f"{folder} holds a run with other settings ({'; '.join(changed[:3])}). Give the plan a name of its own "
            "with name=<name>"
        )


def _free(stages: Mapping[str, Any]) -> dict[str, Any]:
    """The stages before the first that runs a model."""
    return dict(takewhile(lambda item: not about_node(item[1]).samples, stages.items()))


@dataclass(frozen=True, slots=True)
class _Rates:
    """What a token takes."""

    tokens_per_second: Mapping[str, float] | float | None
    dollars_per_gpu_hour: float
    dollars_per_million: Mapping[str, float]

    def hours(self, stage: str, tokens: float, measured: float | None) -> float | None:
        given = self.tokens_per_second
        rate = given.get(stage, measured) if isinstance(given, Mapping) else given or measured
        return tokens / rate / 3600 if rate else None

    def dollars(self, stage: str, tokens: float, hours: float | None) -> float | None:
        if stage in self.dollars_per_million:
            return tokens / 1e6 * self.dollars_per_million[stage]
        return None if hours is None else hours * self.dollars_per_gpu_hour


def _estimates(
    stages: Mapping[str, Any], done: list[str], rows: list[Example], count: float, rates: _Rates
) -> Iterator[Estimate]:
    """The stages after those `done`, up to the last that samples."""
    left = [name for name in stages if name not in done]
    sampling = [name for name in left if about_node(stages[name]).samples]
    expected = (count, count, count)
    for name in left[: left.index(sampling[-1]) + 1] if sampling else []:
        say(f"pilot: {name} with {len(rows)} rows ...")
        stage = bind(stages[name], f"plan.curate.stages.{name}")
        before, start, ready = Spent(**vars(spent)), time.monotonic(), loading.seconds
        went: list[Row] = list(stage(rows))
        took, paid = time.monotonic() - start, spent.since(before)
        took -= loading.seconds - ready  # paid once, and not for each row
        stayed = [row for row in went if isinstance(row, Example)]
        each = 1 / max(len(rows), 1)
        tokens = (paid.tokens + paid.found_tokens) * each * expected[1]
        if tokens:
            hours = rates.hours(name, tokens, paid.tokens / took if paid.tokens else None)
        else:  # a model that reads and samples nothing takes its time, and no tokens
            hours = took * each * expected[1] / 3600 if about_node(stages[name]).samples and not paid.found else 0.0
        out = _carried(expected, len(stayed), len(rows), stages[name].get("k"))
        yield Estimate(
            stage=name,
            rows=expected,
            samples=(paid.sampled + paid.found) * each * expected[1],
            tokens=tokens,
            spared=paid.spared * each * expected[1],
            hours=hours,
            dollars=rates.dollars(name, tokens, hours),
            out=out,
            survived=len(stayed),
        )
        expected, rows = out, stayed or _revived(went)


def _carried(rows: tuple[float, float, float], stayed: int, of: int, k: int | None) -> tuple[float, float, float]:
    """Low, expected and high number of rows after a stage that kept `stayed` of `of` (more where it adds chains)."""
    share = stayed / max(of, 1)
    low, high = wilson(share, of) if share <= 1 and of else (share, share)
    most = float("inf") if k is None else float(k)
    return min(rows[0] * low, most), min(rows[1] * share, most), min(rows[2] * high, most)


def _revived(went: list[Row]) -> list[Example]:
    """Where no row of the pilot survives, some of the others go on: what comes next costs a row about the same."""
    dropped = [row for row in went if isinstance(row, Dropped) and isinstance(row.data, dict) and "prompt" in row.data]
    return [Example.from_json(row.data) for row in sorted(dropped, key=lambda row: content_id(row.id))[:REVIVED]]


def _print(
    folder: Path, found: list[Estimate], start: float, pilot: int, paid: Spent, budget: Mapping[str, int | None]
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    table = Table(
        title=f"{folder.name}: {start:,.0f} problems reach the first stage that samples", title_justify="left"
    )
    for head in ("stage", "rows in", "samples", "not needed", "tokens", "hours", "$", "rows out", "pilot"):
        table.add_column(head, justify="left" if head == "stage" else "right")
    for e in found:
        table.add_row(
            e.stage,
            f"{e.rows[1]:,.0f}",
            f"{e.samples:,.0f}",
            f"{e.spared:,.0f}" if e.spared else "",
            f"{e.tokens:,.0f}",
            "unknown" if e.hours is None else f"{e.hours:,.2f}",
            "unknown" if e.dollars is None else f"{e.dollars:,.2f}",
            f"{e.out[1]:,.0f} ({e.out[0]:,.0f} to {e.out[2]:,.0f})",
            str(e.survived),
        )
    samples, tokens = sum(e.samples for e in found), sum(e.tokens for e in found)
    known = [e for e in found if e.hours is not None and e.dollars is not None]
    hours, dollars = sum(e.hours or 0 for e in known), sum(e.dollars or 0 for e in known)
    table.add_section()
    table.add_row("together", "", f"{samples:,.0f}", "", f"{tokens:,.0f}", f"{hours:,.2f}", f"{dollars:,.2f}", "", "")
    console.print(table)
    console.print(
        f"From a pilot of {pilot} problems, which took {paid.sampled:,} samples with {paid.tokens:,} tokens now; they "
        "are kept, and the run will not pay for them again.",
        soft_wrap=True,
    )
    for line in _warnings(found, samples, tokens, budget):
        console.print(line, soft_wrap=True)


def _warnings(found: list[Estimate], samples: float, tokens: float, budget: Mapping[str, int | None]) -> Iterator[str]:
    for e in found:
        if e.survived == 0:
            yield (
                f"No row of the pilot survives '{e.stage}': at most {e.out[2]:,.0f} rows are likely to. What follows "
                "is measured on rows that did not survive; take a larger plan.pilot to know more."
            )
        if e.hours is None:
            yield f"The rate of '{e.stage}' is unknown, since all its samples were there: give plan.tokens_per_second."
    for name, limit, needed in (("samples", budget["samples"], samples), ("tokens", budget["tokens"], tokens)):
        if limit is not None and needed > limit:
            yield f"The budget of {limit:,} {name} would be used up: curate needs about {needed:,.0f}."


if __name__ == "__main__":
    command("plan", "curation.plan")
