"""Curate: pass a pool through the recipe's stages, in the order of `curate.order`, to get the rows to train on.

    python -m curation.run recipe=demo

A stage is a function `stage(rows, /, *, settings) -> rows` (`curation/stage.py`), which yields an `Example` to keep it
and a `Dropped` with a reason to drop it. Each stage's rows are on the disk before the next one begins, so a killed run
resumes after the last finished stage. A stage may iterate over `rows` as often as it likes.

`runs/<name>/` then holds `curated.jsonl` and `curated.parquet`, `dropped.jsonl` with every reason, `suspects.jsonl`
with the problems whose reference a person should check, `controls/` with the sets that the curated set has to beat,
`pairs.jsonl` if requested, the dataset card `README.md`, and `stages/`. `python -m curation.why` prints the history of
one row, `python -m curation.cost` estimates the cost of a curation.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from curation.card import tabulate_funnel, write_card
from curation.evidence.controls import Controls, write_controls
from curation.evidence.probe_result import chosen_by, read_probe, warnings
from curation.folder import Rows, read_marks, stage_file
from curation.matching.similar import digest
from curation.runner import PerRow, RayData, apply
from curation.stage import about_node, check_stages, collecting, in_order
from curation.stages.choose import NOT_DRAWN, preferred
from curation.stages.pairs import pair_with_dropped
from limo.command import command
from limo.console import clock, format_metric, print_table, progress, say, terminal
from limo.data import Dropped, Example, Row, content_id, dump, parsed, replacing, write_jsonl, write_parquet
from limo.engines.ledger import Limits, Spent, spent, within_budget
from limo.errors import UserError
from limo.recipe import bind, input_files, suggest
from limo.run import DRAWN, claim, content_hash, differences, lasting, lock_run, read_manifest
from limo.sources.files import shortened

BY_HAND = "by_hand"  # the stage that drops what a person has marked
HARDLY = 0.05  # a choice that drops less than this fraction of rows for a reason is as good as random
NOTHING_TO_CHOOSE_BY = (
    "nothing to choose by but problems: hardly a problem has several chains, and there is no target and no step to "
    "check, so this is a random set of what was verified. limo probe and limo tournament, with the same recipe, "
    "measure whether a score would help"
)
DOUBTS = {b"suspect reference", b"same problem, another answer"}  # reasons of rows that a person should check


def curate(
    *,
    out: str,
    system: str,
    pool: dict[str, Any],
    stages: dict[str, Any],
    controls: Controls,
    pairs: Literal["wrong"] | None,
    budget: Limits,
    order: list[str] | None = None,
    exclude: str | None = None,
    on: dict[str, Any] | None = None,
    per_row: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Run the pool through the stages. Returns the funnel: for each stage rows in and out, reasons, seconds, tokens.

    Args: `system` message of every prompt, `pool` source nodes by name, `stages` stage nodes by name, `order` all
    their names in order (None: as written), `controls` to make beside the curated set, `pairs` for preference training
    (`curation/stages/pairs.py`), `exclude` a file of ids of marked chains, which are dropped before the choice (a
    finished run chooses again), `budget` limits, at which the run stops (paid samples are kept, and a larger budget
    resumes), `on` a node of `curation.runner.RayData`, null for this machine (the result is the same), `per_row`
    settings of `curation.runner.PerRow`: what a row may take in a stage before it is dropped.
    Raises UserError for wrong settings, unreadable sources, or if no row is left.
    """
    folder, stages = Path(out), in_order(stages, order)
    if controls.source not in stages:
        raise UserError(
            f"curate.controls.source: there is no stage '{controls.source}'{suggest(controls.source, stages)}"
        )
    machines: RayData | None = bind(on, "curate.on")() if on else None
    if not read_manifest(folder).get("curate", {}).get("finished"):
        check_stages(stages, pool)
    marked = read_marks(exclude) if exclude else None
    settings = _recorded(system, pool, stages, asdict(controls), pairs, per_row) | {"exclude": marked}
    if marked:
        node = {"_target_": "curation.stages.chains.drop_marked", "ids": marked}
        names = list(stages)
        names.insert(names.index(controls.source), BY_HAND)
        stages = {name: node if name == BY_HAND else stages[name] for name in names}
    files = input_files(settings)
    paying = within_budget(str(folder.resolve()), budget)
    with (
        paying,
        lock_run(folder / "work", "curating"),
        claim(folder, "curate", settings, inputs=files, grows=("exclude",)) as step,
    ):
        if step.finished:
            funnel: list[dict[str, Any]] = step.entry["results"]["funnel"]
            say(f"already curated: {folder / 'curated.jsonl'} ({clock(step.entry['seconds'])} at the time)")
        else:
            _clear(folder, ["pool", *stages])
            funnel = run_stages(folder, {**settings, "stages": stages}, step.entry["inputs"], machines)
            by_chance = is_drawn(funnel, controls.source)
            kinds = [kind for kind in controls.kinds if not (by_chance and kind in DRAWN)]
            sets = _collect(folder, stages, replace(controls, kinds=kinds), pairs)
            if marked:
                left = next(line["reasons"].get("by hand", 0) for line in funnel if line["stage"] == BY_HAND)
                say(f"curate.exclude: {left} of {len(marked)} marked chains were there and are left out")
            step.outputs = [folder / name for name in ("curated.jsonl", "curated.parquet", "dropped.jsonl")]
            step.tokens = sum(line["tokens"] for line in funnel)
            step.results = {"funnel": funnel, "sets": sets, "by_chance": by_chance, "chosen_by": _chosen_by(stages)}
            write_card(folder, funnel, sets)
    print_funnel(funnel)
    print_shortfall(funnel, stages)
    if is_drawn(funnel, controls.source):
        say(NOTHING_TO_CHOOSE_BY)
    print_warnings(folder, stages)
    return funnel


def _recorded(
    system: str, pool: Any, stages: Mapping[str, Any], controls: Any, pairs: str | None, per_row: Any
) -> dict[str, Any]:
    """The settings that determine the rows of a curation. The manifest stores them, and a resumed run must have the
    same.
    """
    named = {"system": system, "pool": pool, "stages": stages, "controls": controls, "pairs": pairs}
    return named | {"order": list(stages)} | ({"per_row": per_row} if per_row else {})


def _chosen_by(stages: Mapping[str, Any]) -> tuple[str, bool] | None:
    """For the report: the score by which chains are chosen (or problems, if no stage chooses chains), and whether a
    higher value is better.
    """
    nodes = {name: stages[name] for name in chosen_by(stages)}
    node = min(nodes.values(), key=lambda node: not node["_target_"].endswith(".chains"), default=None)
    return (node["by"], preferred(node["by"], node.get("prefer"), "") != "lowest") if node else None


def is_drawn(funnel: Sequence[Mapping[str, Any]], source: str) -> bool:
    """Whether the curated set is itself random: from the stage `source` on, hardly any row was dropped for a reason.

    Then a random control is another random set of the same rows, and a comparison shows nothing.
    """
    names = [line["stage"] for line in funnel]
    chosen = sum(
        count
        for line in funnel[names.index(source) :]
        for reason, count in line["reasons"].items()
        if reason != NOT_DRAWN
    )
    return bool(chosen < HARDLY * funnel[names.index(source)]["in"])


def read_pool(sources: Mapping[str, Any], system: str) -> Iterator[Row]:
    """Read the rows of all sources, in the recipe's order. A row with the id of an earlier row is dropped."""
    seen: set[int] = set()
    for name, node in sources.items():
        for row in bind(node, f"curate.pool.{name}")(name, system):
            if isinstance(row, Example):
                key = digest(row.id)
                if key in seen:
                    where = row.notes.get("file", ""), row.notes.get("row", 0)
                    detail = f"an earlier row has the id '{row.id}' too"
                    yield Dropped(row.id, name, "duplicate id", detail, *where, row.to_json())
                    continue
                seen.add(key)
            yield row


def _clear(folder: Path, names: list[str]) -> None:
    """Remove stage files of an earlier recipe: `why` would mistake them for files of this run."""
    prefixes = tuple(f"{number:02d}-{name}." for number, name in enumerate(names))
    for path in (folder / "stages").glob("*"):
        if not path.name.startswith(prefixes):
            path.unlink()


def run_stages(
    folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], on: RayData | None = None
) -> list[dict[str, Any]]:
    """Run the pool through the stages of `settings` into `folder/stages`. Returns the funnel.

    `inputs` are hashes of the files that pool and stages read. A stage is skipped if its files exist and were made from
    the same settings and inputs. Raises UserError if a stage leaves no row.
    """
    (folder / "stages").mkdir(parents=True, exist_ok=True)
    path, source = stage_file(folder, 0, "pool"), read_pool(settings["pool"], settings["system"])
    # A stage's result depends on its settings, on those of all earlier stages, and on the content of the files
    limits, every = settings.get("per_row", {}), len(settings["stages"])
    per_row: PerRow = bind({"_target_": "curation.runner.PerRow", **limits}, "curate.per_row")()
    made_from = content_id([settings["system"], lasting(settings["pool"]), inputs, *limits.items()])
    funnel = [_stage(path, "pool", made_from, source, per_row.characters, None)]
    for number, (name, node) in enumerate(settings["stages"].items(), 1):
        made_from = content_id([made_from, name, lasting(node)])
        rows, path = apply(name, node, path, on, per_row), stage_file(folder, number, name)
        title, samples = f"{number}/{every} {name}", about_node(node).samples
        line = _stage(path, title, made_from, rows, per_row.characters, funnel[-1]["out"], samples)
        funnel.append(line)
        if not line["out"]:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in line["reasons"].items())
            advice = f"Loosen curate.stages.{name}"
            if "no chain" in line["reasons"]:
                advice = f"No attempt became a chain, so add a teacher: curate.stages.{name}.teachers={{...}}"
            raise UserError(
                f"the stage '{name}' leaves no row of {line['in']} ({reasons}). Each is in "
                f"{path.with_suffix('.dropped.jsonl')} with its reason. {advice}"
            )
    return funnel


def run_first(curate: Mapping[str, Any], first: Mapping[str, Any]) -> Rows:
    """Run only the first stages of a recipe's `curate`, in the run's folder, so that the run reuses them.

    Returns the remaining rows.
    """
    stages, folder = in_order(curate["stages"], curate.get("order")), Path(curate["out"])
    more = curate["controls"], curate["pairs"], curate.get("per_row")
    settings = _recorded(curate["system"], curate["pool"], stages, *more)
    limits: Limits = bind({"_target_": "limo.engines.ledger.Limits", **(curate.get("budget") or {})}, "curate.budget")()
    with within_budget(str(folder.resolve()), limits), lock_run(folder / "work", "curating"):
        old, new = read_manifest(folder).get("curate"), json.loads(json.dumps(lasting(settings)))
        new["exclude"] = old and old["settings"].get("exclude")  # of what is chosen later
        if old and old["finished"] and (changed := differences(old["settings"], new)):
            raise UserError(
                f"{folder} holds a run with other settings ({'; '.join(changed[:3])}). Give this one another name with "
                "name=<name>"
            )
        check_stages(stages, curate["pool"])
        inputs = {path: content_hash(Path(path).expanduser()) for path in input_files(settings)}
        run_stages(folder, {**settings, "stages": first}, inputs)
    return Rows(stage_file(folder, len(first), ["pool", *first][-1]))


def _stage(
    path: Path, title: str, made_from: str, rows: Iterable[Row], most: int, rows_in: int | None, samples: bool = False
) -> dict[str, Any]:
    """Run one stage and write its files, unless they exist and were made from the same; returns its line of the funnel.

    `title` holds the stage's number, their total, and its name. Rows of more than `most` characters are dropped. A
    stage that samples shows only the progress of sampling.
    """
    name = title.rpartition(" ")[2]
    done = path.with_suffix(".done.json")
    if done.exists() and (line := dict(json.loads(done.read_text(encoding="utf-8"))))["made_from"] == made_from:
        return line
    done.unlink(missing_ok=True)  # before the rows that it describes are replaced
    say(f"{title} ...")
    before, start = Spent(**vars(spent)), time.monotonic()
    reasons: Counter[str] = Counter()
    kept, problems = 0, set[int]()
    left, failed = path.with_suffix(".dropped.jsonl"), None
    # `left` is kept when the stage fails, with the reason of each row so far
    with collecting() as metrics, replacing(left) as drop:
        try:
            with replacing(path) as keep:
                for row in rows if samples else _show_progress(rows, title, rows_in):
                    text = dump(row.to_json()) if isinstance(row, Example) else ""
                    if len(text) > most:
                        detail = f"{len(text):,} characters; the limit is curate.per_row.characters={most:,}"
                        row = Dropped(row.id, name, "too large", detail, data=shortened(row.to_json()))
                    if isinstance(row, Example):
                        kept += 1
                        problems.add(digest(row.problem))
                        keep.write(text)
                    else:
                        reasons[row.reason] += 1
                        drop.write(dump(replace(row, stage=name).to_json()))
        except UserError as error:
            failed = UserError(f"{error}. Its dropped rows are in {left}") if reasons else error
    if failed:
        raise failed
    paid = spent.since(before)
    line = {
        "stage": name,
        "made_from": made_from,
        "in": kept + reasons.total() if rows_in is None else rows_in,
        "out": kept,
        "problems": len(problems),
        "reasons": dict(reasons.most_common()),
        "seconds": round(time.monotonic() - start, 2),
        **vars(paid),
        "metrics": metrics,
    }
    with replacing(done) as file:
        json.dump(line, file)
    return line


def _show_progress(rows: Iterable[Row], title: str, total: int | None) -> Iterator[Row]:
    """Show a progress bar while rows are taken. It opens at the first row, since another bar may be open until then."""
    listed = iter(rows)
    first = list(islice(listed, 1))
    with progress(title, total, "row") as advance:
        for row in chain(first, listed):
            advance(1)
            yield row


def _collect(folder: Path, stages: Mapping[str, Any], controls: Controls, pairs: str | None) -> dict[str, Any]:
    """Write the last stage's rows as the curated set, all dropped rows as one file, the control sets and the pairs.

    Returns rows and tokens of each set.
    """
    names = ["pool", *stages]
    last = stage_file(folder, len(names) - 1, names[-1])
    left = [stage_file(folder, number, name, ".dropped") for number, name in enumerate(names)]
    _join([last], folder / "curated.jsonl")
    _join(left, folder / "dropped.jsonl")
    chosen = Rows(last)
    write_parquet(folder / "curated.parquet", chosen)
    with replacing(folder / "suspects.jsonl") as file, (folder / "dropped.jsonl").open("rb") as lines:
        for line in lines:
            if any(reason in line for reason in DOUBTS) and parsed(line)["reason"].encode() in DOUBTS:
                file.write(line.decode())
    before = names.index(controls.source) - 1
    candidates, pool = Rows(stage_file(folder, before, names[before])), Rows(stage_file(folder, 0, "pool"))
    into_last = Rows(stage_file(folder, len(names) - 2, names[-2]))
    guards = [bind(node, f"curate.stages.{name}") for name, node in stages.items() if about_node(node).guards]
    made = write_controls(folder / "controls", candidates, chosen, controls, pool, guards, into_last)
    if pairs:
        made["pairs"] = {"rows": write_jsonl(folder / "pairs.jsonl", pair_with_dropped(chosen, left))}
        write_parquet(folder / "pairs.parquet", Rows(folder / "pairs.jsonl"))
    return made


def _join(paths: list[Path], into: Path) -> None:
    with replacing(into) as file:
        for path in paths:
            with path.open(encoding="utf-8") as lines:
                shutil.copyfileobj(lines, file)


def print_warnings(folder: Path, stages: Mapping[str, Any]) -> None:
    """Print what the run's probe found about the scores by which the recipe chooses."""
    chosen, found = chosen_by(stages), read_probe(folder, stages)
    for line in warnings(found, chosen):
        say(f"warning: {line}")
    if chosen and not found:
        names = ", ".join(dict.fromkeys(chosen.values()))
        say(f"What {names} can tell apart is not measured for this pool: limo probe, with the same recipe and settings")


def print_funnel(funnel: list[dict[str, Any]]) -> None:
    """Print the funnel as a table, and the metrics that stages recorded."""
    console = terminal(110)
    print_table(tabulate_funnel(funnel), console)
    for line in funnel:
        if metrics := line.get("metrics"):
            named = ", ".join(f"{name} {format_metric(value)}" for name, value in metrics.items())
            console.print(f"{line['stage']}: {named}", markup=False)


def print_shortfall(funnel: list[dict[str, Any]], stages: Mapping[str, Any]) -> None:
    """Print which choosing stages kept fewer rows than requested, and what dropped the most rows before them."""
    for at, line in enumerate(funnel):
        asked = stages.get(line["stage"], {}).get("k")
        if isinstance(asked, int) and line["out"] < asked and line["in"] < asked:
            reasons = [
                (count, before["stage"], why) for before in funnel[:at] for why, count in before["reasons"].items()
            ]
            most = "; most left at {1} ({2}: {0:,})".format(*max(reasons)) if reasons else ""
            say(
                f"{line['stage']}: {line['out']:,} of the {asked:,} asked for, since {line['in']:,} came that far{most}"
            )


if __name__ == "__main__":
    from curation.check import check_before  # it imports what trainings and servers need

    command("curate", "curation.run", before=check_before)
