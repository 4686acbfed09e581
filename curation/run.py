"""Curate: a pool through the recipe's stages, in their order, to the rows that are trained on.

    python -m curation.run recipe=demo

A stage is a plain function `stage(rows, /, *, settings) -> rows`, which yields an `Example` to keep it and a `Dropped`
to set it aside with its reason. Each stage's rows are on the disk before the next one begins, so a killed run goes on
where it was, and the memory a stage needs is its own affair: `rows` may be gone through as often as it likes.

`runs/<name>/` then holds `curated.jsonl` and `curated.parquet`, `dropped.jsonl` with every reason, `suspects.jsonl`
with the problems whose reference a person should look at, `controls/` with the sets that the curated one has to beat,
`pairs.jsonl` where asked for, `README.md`, which is the dataset card, and `stages/`. `python -m curation.why` tells one
row's story, `python -m curation.plan` what all of it would cost.
"""

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from curation.card import write_card
from curation.controls import Controls, make
from curation.pairs import paired
from curation.parts import Machines, kind_of, over_parts
from curation.pool import gather
from curation.stopping import Window
from limo.checkpoints import locked
from limo.command import command
from limo.data import Example, Row, content_id, dump, parsed, read_jsonl, replacing, write_jsonl, write_parquet
from limo.errors import UserError
from limo.figures import shown, taken
from limo.ledger import Spent, spent, within
from limo.manifest import claim, lasting
from limo.progress import clock, progress, say
from limo.recipe import bind, files_in, near
from limo.shards import take_in

DOUBTS = {b"suspect reference", b"same problem, another answer"}  # reasons that a person should look into


class Rows:
    """The rows of a stage's file, read anew each time they are gone through."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Example]:
        return read_jsonl(self.path)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may pay for, all its restarts together; None is no limit."""

    samples: int | None
    tokens: int | None


def curate(
    *,
    out: str,
    system: str,
    pool: dict[str, Any],
    stages: dict[str, Any],
    controls: Controls,
    pairs: Literal["wrong", "worst"] | None,
    budget: Limits,
    on: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Run the pool through the stages. Returns the funnel: for each stage rows in and out, reasons, seconds, tokens.

    Args: `system` message of every prompt, `pool` of source nodes by name, `stages` of stage nodes by name, in order,
    `controls` to make beside the curated set, `pairs` for preference training (`curation/pairs.py`), `budget` of
    samples and tokens, at which the run stops; what was paid for is kept, and a larger budget goes on; `on` a node of
    machines over which stages are spread that can be (`curation/parts.py`), which changes nothing of what comes out.
    Raises UserError for wrong settings, unreadable sources, or if no row is left.
    """
    folder = Path(out)
    if controls.source not in stages:
        raise UserError(f"curate.controls.source: there is no stage '{controls.source}'{near(controls.source, stages)}")
    for name, node in stages.items():
        check_early(name, node)
    settings = {"system": system, "pool": pool, "stages": stages, "controls": asdict(controls), "pairs": pairs}
    files = files_in(settings)
    paying = within(str(folder.resolve()), budget.samples, budget.tokens)
    with paying, locked(folder / "work", "curating"), claim(folder, "curate", settings, inputs=files) as step:
        if step.finished:
            funnel: list[dict[str, Any]] = step.entry["results"]["funnel"]
            say(f"already curated: {folder / 'curated.jsonl'} ({clock(step.entry['seconds'])} at the time)")
        else:
            _clear(folder, ["pool", *stages])
            take_in(folder / "work")
            funnel = run_stages(folder, settings, step.entry["inputs"], on)
            sets = _collect(folder, ["pool", *stages], controls, pairs)
            step.outputs = [folder / name for name in ("curated.jsonl", "curated.parquet", "dropped.jsonl")]
            step.tokens = sum(line["tokens"] for line in funnel)
            step.results = {"funnel": funnel, "sets": sets}
            write_card(folder, settings, funnel, sets)
    print_funnel(funnel)
    return funnel


def check_early(name: str, node: Mapping[str, Any]) -> None:
    """Raise UserError for settings of a stage that cannot be, before earlier stages are paid for.

    A stage that reads nothing but its rows is called without any; of the attempts, the window is made.
    """
    if {"at_least", "at_most", "unknown", "sampling"} <= set(node):
        try:
            Window(node["sampling"]["n"], node["at_least"], node["at_most"], node["unknown"])
        except UserError as error:
            raise UserError(f"curate.stages.{name}: {error}") from None
    several = ((key, own, asker) for key in ("teachers", "players") for own, asker in node.get(key, {}).items())
    asking = {"": node} | {f"{key}.{own}.": asker for key, own, asker in several}
    asking |= {f"{key}.": own for key, own in node.items() if isinstance(own, Mapping) and "engine" in own}
    for where, asker in asking.items():
        if "engine" in asker:  # made, and let go before it loads anything: a key that is not set is told now
            bind(asker["engine"], f"curate.stages.{name}.{where}engine")()
    if not {"engine", "model", "tokenizer", "sampling", "benchmarks", "path", "teachers"} & set(node):
        list(bind(node, f"curate.stages.{name}")(()))


def _clear(folder: Path, names: list[str]) -> None:
    """Remove what an earlier recipe's stages have left: `why` would take it for this run's."""
    prefixes = tuple(f"{number:02d}-{name}." for number, name in enumerate(names))
    for path in (folder / "stages").glob("*"):
        if not path.name.startswith(prefixes):
            path.unlink()


def run_stages(
    folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], on: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Run the pool through the stages of `settings` into `folder/stages`. Returns the funnel.

    `inputs` are hashes of the files that pool and stages read. What is there and made from the same is not done again.
    `on` is a node of machines (`curation/parts.py`). Raises UserError if a stage leaves no row.
    """
    system, pool, stages = settings["system"], settings["pool"], settings["stages"]
    (folder / "stages").mkdir(parents=True, exist_ok=True)
    made = made_from(settings, inputs)
    funnel = [_stage(folder, 0, "pool", made[0], lambda: gather(pool, system), None)]
    before = stage_file(folder, 0, "pool")
    machines: Machines | None = bind(on, "curate.on")() if on else None
    for number, (name, node) in enumerate(stages.items(), 1):
        stage = bind(node, f"curate.stages.{name}")
        if machines and (kind := kind_of(node, machines)):
            run: Callable[[], Iterable[Row]] = partial(
                over_parts, node, kind, before, folder / "parts" / made[number], machines
            )
        else:
            run = partial(stage, Rows(before))
        funnel.append(_stage(folder, number, name, made[number], run, funnel[-1]["out"]))
        before = stage_file(folder, number, name)
        if not funnel[-1]["out"]:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in funnel[-1]["reasons"].items())
            raise UserError(
                f"the stage '{name}' leaves no row of {funnel[-1]['in']} ({reasons}). Each is in "
                f"{stage_file(folder, number, name, '.dropped')} with its reason. Loosen curate.stages.{name}"
            )
    return funnel


def made_from(settings: Mapping[str, Any], inputs: Mapping[str, str]) -> list[str]:
    """Names of what the pool and each stage are made from: settings of it and all before it, content of the files."""
    made = [content_id([settings["system"], lasting(settings["pool"]), inputs])]
    for name, node in settings["stages"].items():
        made.append(content_id([made[-1], name, lasting(node)]))
    return made


def is_done(folder: Path, number: int, name: str, made: str) -> bool:
    """Whether a stage's rows are there and made from just this (`made_from`)."""
    done = stage_file(folder, number, name, ".done").with_suffix(".json")
    return done.exists() and json.loads(done.read_text(encoding="utf-8"))["made_from"] == made


def _stage(
    folder: Path,
    number: int,
    name: str,
    made_from: str,
    run: Callable[[], Iterable[Row]],
    rows_in: int | None,
) -> dict[str, Any]:
    """Run one stage into its files, unless they are there and made from the same; returns its line of the funnel.

    `made_from` names the settings of this and all earlier stages and the content of what they read.
    """
    done = stage_file(folder, number, name, ".done").with_suffix(".json")
    if done.exists() and (line := dict(json.loads(done.read_text(encoding="utf-8"))))["made_from"] == made_from:
        return line
    done.unlink(missing_ok=True)  # before the rows it vouches for are replaced
    say(f"{name} ...")
    taken()  # of a stage that failed before
    before, start = Spent(**vars(spent)), time.monotonic()
    reasons: Counter[str] = Counter()
    kept = 0
    with (
        replacing(stage_file(folder, number, name)) as keep,
        replacing(stage_file(folder, number, name, ".dropped")) as drop,
    ):
        for row in _watched(run(), name, rows_in):
            if isinstance(row, Example):
                kept += 1
                keep.write(dump(row.to_json()))
            else:
                reasons[row.reason] += 1
                drop.write(dump(replace(row, stage=name).to_json()))
    paid = spent.since(before)
    line = {
        "stage": name,
        "made_from": made_from,
        "in": kept + reasons.total() if rows_in is None else rows_in,
        "out": kept,
        "reasons": dict(reasons.most_common()),
        "seconds": round(time.monotonic() - start, 2),
        "sampled": paid.sampled,
        "tokens": paid.tokens,
        "found": paid.found,
        "found_tokens": paid.found_tokens,
        "spared": paid.spared,
        "figures": taken(),
    }
    with replacing(done) as file:
        json.dump(line, file)
    return line


def _watched(rows: Iterable[Row], name: str, total: int | None) -> Iterator[Row]:
    """The rows with a bar of their own, which begins at the first: before it a stage may show one of its sampling."""
    listed, before = iter(rows), spent.tokens
    first = list(islice(listed, 1))
    with progress(name, total, "row") as advance:
        for row in chain(first, listed):
            advance(1, f"{spent.tokens - before:,} tokens sampled" if spent.tokens > before else "")
            yield row


def stage_file(folder: Path, number: int, name: str, kind: str = "") -> Path:
    """Where a stage's rows are; with `kind` ".dropped", those it set aside."""
    return folder / "stages" / f"{number:02d}-{name}{kind}.jsonl"


def _collect(folder: Path, names: list[str], controls: Controls, pairs: str | None) -> dict[str, Any]:
    """The last stage's rows as the curated set, what was dropped on the way as one file, and the sets beside it.

    Returns rows and tokens of each set.
    """
    last = stage_file(folder, len(names) - 1, names[-1])
    with replacing(folder / "curated.jsonl") as file, last.open(encoding="utf-8") as lines:
        shutil.copyfileobj(lines, file)
    write_parquet(folder / "curated.parquet", Rows(last))
    left = [stage_file(folder, number, name, ".dropped") for number, name in enumerate(names)]
    with replacing(folder / "dropped.jsonl") as file:
        for path in left:
            with path.open(encoding="utf-8") as lines:
                shutil.copyfileobj(lines, file)
    _list_suspects(folder)
    before = names.index(controls.source) - 1
    made = make(folder / "controls", Rows(stage_file(folder, before, names[before])), Rows(last), controls)
    if pairs:
        made["pairs"] = {"rows": write_jsonl(folder / "pairs.jsonl", paired(Rows(last), left, pairs))}
        write_parquet(folder / "pairs.parquet", Rows(folder / "pairs.jsonl"))
    return made


def _list_suspects(folder: Path) -> None:
    """The problems whose reference is in doubt, for a person: each with what the attempts say instead."""
    with replacing(folder / "suspects.jsonl") as file, (folder / "dropped.jsonl").open("rb") as lines:
        for line in lines:
            if any(reason in line for reason in DOUBTS) and parsed(line)["reason"].encode() in DOUBTS:
                file.write(line.decode())


def print_funnel(funnel: list[dict[str, Any]]) -> None:
    """The funnel as a table: what came in, what went out, and why the rest did not."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Funnel", title_justify="left")
    for column in ("stage", "in", "out", "set aside", "tokens", "seconds"):
        table.add_column(column, justify="left" if column in ("stage", "set aside") else "right")
    for line in funnel:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in line["reasons"].items())
        more = f"{line['out'] - line['in']:,} rows" if line["out"] > line["in"] else ""
        known = f"{line['found_tokens']:,} known" if line["found_tokens"] else ""
        tokens = " + ".join(t for t in (f"{line['tokens']:,}" if line["tokens"] else "", known) if t)
        spared = f"{line['spared']:,} attempts not needed" if line["spared"] else ""
        table.add_row(
            line["stage"],
            f"{line['in']:,}",
            f"{line['out']:,}",
            ", ".join(t for t in (more and "+" + more, reasons, spared) if t),
            tokens,
            f"{line['seconds']:.1f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    for line in funnel:
        if figures := line.get("figures"):
            console.print(
                f"{line['stage']}: " + ", ".join(f"{name} {shown(value)}" for name, value in figures.items()),
                highlight=False,
            )


if __name__ == "__main__":
    command("curate", "curation.run", "Curate a set of reasoning chains from a pool of problems.")
