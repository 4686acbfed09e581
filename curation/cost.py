"""What a curation would cost, before it is paid for.

    python -m curation.cost recipe=limo
    python -m curation.cost recipe=limo plan.pilot=200 'plan.tokens_per_second={easy: 4000, hard: 1200, solve: 1200}'

The stages that cost nothing run for real, into the run's own folder, where the run will find them done. Of what they
leave, a few problems are sampled at random and go through the rest: this pilot is paid for, once, since its samples
stay in the ledger. What it took, but for loading models, is scaled to all rows. Hours are those of this machine unless
`plan.tokens_per_second` says what a GPU reaches. The range is that of the share of rows that stay (95 %
intervals, compounded from stage to stage); of tokens a sample the pilot's mean is taken.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

import limo.engines.ledger
from curation.run import run_first
from curation.stage import about_node, in_order
from curation.stages.choose import subsample
from eval.intervals import wilson
from limo.command import command
from limo.console import Table, print_table, say, terminal
from limo.data import Dropped, Example, Row, content_id
from limo.engines.ledger import Limits, Spent, spent, within_budget
from limo.engines.protocol import loading
from limo.errors import UserError
from limo.recipe import bind, suggest

REVIVED = 8  # dropped rows that the pilot continues with where none survives
HEAD = ("stage", "rows in", "samples", "not needed", "tokens in", "tokens out", "hours", "$", "rows out", "pilot")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one stage would take, for all rows."""

    stage: str
    rows: tuple[float, float, float]  # that come in: low, expected, high
    samples: float  # that the expected rows need
    tokens: float  # generated
    asked: float  # tokens of prompts
    spared: float  # samples that early stopping saves
    hours: float | None  # of one GPU; None where no rate is known
    dollars: float  # of engines with a price
    out: tuple[float, float, float]  # rows that stay
    survived: int  # of the pilot's rows


def plan(
    *,
    curate: dict[str, Any],
    pilot: PositiveInt,
    seed: int,
    tokens_per_second: Mapping[str, float] | float | None,
    dollars_per_gpu_hour: float,
) -> list[Estimate]:
    """Estimate samples, tokens, hours and dollars of each stage of `curate`, and print them.

    Args: `pilot` problems go through the stages that sample; `tokens_per_second` of one GPU, for all stages or by
    stage, null for the rate that the pilot reaches here. The run's budget holds for the pilot too. Raises UserError as
    `curation.run.curate` does, and for an unknown stage.
    """
    stages, folder = in_order(curate["stages"], curate.get("order")), Path(curate["out"])
    for name in tokens_per_second if isinstance(tokens_per_second, Mapping) else ():
        if name not in stages:
            raise UserError(f"plan: there is no stage '{name}'{suggest(name, stages)}")
    free = dict(takewhile(lambda item: not about_node(item[1]).samples, stages.items()))
    budget, before = curate["budget"], Spent(**vars(spent))
    with within_budget(str(folder.resolve()), Limits(**budget)):
        left = run_first(curate, free)
        start = len(left)
        rows = [row for row in subsample(left, k=pilot, seed=seed) if isinstance(row, Example)]
        limo.engines.ledger.counted = set()  # what one stage has sampled costs the next one nothing
        found = list(_estimate(dict(list(stages.items())[len(free) :]), rows, float(start), tokens_per_second))
    _print(folder, found, start, len(rows), spent.since(before), dollars_per_gpu_hour)
    for line in _warnings(found, budget):
        terminal(130).print(line, soft_wrap=True)
    return found


def _estimate(
    stages: Mapping[str, Any], rows: list[Example], count: float, rates: Mapping[str, float] | float | None
) -> Iterator[Estimate]:
    """What the pilot's rows take in each of the stages, up to the last that samples, scaled to all rows."""
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
        else:  # a model that reads and samples nothing takes its time, and no tokens
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
        # What the ledger had costs as much as what was paid for now
        share_paid = paid.sampled / max(paid.sampled + paid.found, 1)
        asked, dollars = (value * scale / max(share_paid, 1e-9) for value in (paid.asked, paid.dollars))
        spared = paid.spared * scale
        yield Estimate(name, expected, samples, tokens, asked, spared, hours, dollars, out, len(stayed))
        expected, rows = out, stayed or _revive(yielded)


def _revive(yielded: list[Row]) -> list[Example]:
    """Where no row of the pilot survives, some of the others continue: what comes next costs a row about the same."""
    dropped = [
        row for row in yielded if isinstance(row, Dropped) and isinstance(row.data, dict) and "prompt" in row.data
    ]
    return [Example.from_json(row.data) for row in sorted(dropped, key=lambda row: content_id(row.id))[:REVIVED]]


def _print(folder: Path, found: list[Estimate], start: int, pilot: int, paid: Spent, rate: float) -> None:
    def cost(hours: float | None, dollars: float) -> tuple[str, str]:
        """Hours and dollars: by the price of the tokens, or else by that of a GPU's hour."""
        if dollars:
            return "", f"{dollars:,.2f}"
        return ("unknown", "unknown") if hours is None else (f"{hours:,.2f}", f"{hours * rate:,.2f}")

    rows = [
        (
            e.stage,
            f"{e.rows[1]:,.0f}",
            f"{e.samples:,.0f}",
            f"{e.spared:,.0f}" if e.spared else "",
            f"{e.asked:,.0f}",
            f"{e.tokens:,.0f}",
            *cost(e.hours, e.dollars),
            f"{e.out[1]:,.0f} ({e.out[0]:,.0f} to {e.out[2]:,.0f})",
            e.survived,
        )
        for e in found
    ]
    samples, asked, tokens = (f"{sum(getattr(e, name) for e in found):,.0f}" for name in ("samples", "asked", "tokens"))
    hours = [0.0 if e.dollars else e.hours or 0.0 for e in found]
    dollars = sum(e.dollars or h * rate for e, h in zip(found, hours, strict=True))
    together = ("together", "", samples, "", asked, tokens, f"{sum(hours):,.2f}", f"{dollars:,.2f}", "", "")
    title = f"{folder.name}: {start:,} problems reach the first stage that samples"
    print_table(Table(HEAD, [*rows, together], range(1, len(HEAD)), title), terminal(130))
    terminal(130).print(
        f"From a pilot of {pilot} problems, which took {paid.sampled:,} samples with {paid.tokens:,} tokens now; they "
        "are kept, and the run will not pay for them again.",
        soft_wrap=True,
    )


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


if __name__ == "__main__":
    command("plan", "curation.cost")
