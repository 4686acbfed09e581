"""Loads what models are evaluated on: published benchmarks by name, or your own files of problems with reference
answers.

    python -m eval.run recipe=evaluate 'eval.benchmarks=[aime24,math500]'
    python -m eval.run recipe=evaluate 'eval.benchmarks=[math500.json, {mine: {path: my.csv, fields: {answer: gold}}}]'

`eval/benchmarks.yaml` lists named ones. A local copy comes first: `path`, or a file named after the benchmark in the
folder $LIMO_BENCHMARKS. A benchmark that is missing or has unusable rows is an error. Missing benchmarks that are gated
or not on the Hub are skipped with a warning that says how to get them, unless their node has `required: true`.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import yaml

from eval.grader.nodes import Kind
from eval.readers import OWN, TABLE, Benchmark
from limo.console import say
from limo.data import Dropped, Example, Row, chat
from limo.errors import UserError
from limo.recipe import InputPath, bind, suggest
from limo.recipe import nodes as nodes_below
from limo.sources import Reading, examples, hub_rows
from limo.sources.columns import comparable
from limo.sources.files import Raw, read_rows

REPEATED = "repeated problem"  # generators repeat themselves; any other dropped row is an error
ENDINGS = (".jsonl", ".json", ".parquet", ".csv")
CHOOSE = "Choose one option and put its letter in \\boxed{}."


def benchmark_nodes(benchmarks: Sequence[Any] | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The benchmarks of a recipe as nodes, by name.

    A list has names of TABLE, paths of files (named after the file), and mappings {name: node}; a mapping has nodes. A
    node is empty, `{path: ...}` for a local copy or your own file, or any source with `_target_`; `false` removes a
    benchmark of the recipe that this one builds on. Raises UserError for anything else, or a duplicate name.
    """
    pairs = list(benchmarks.items()) if isinstance(benchmarks, Mapping) else [p for b in benchmarks for p in _pairs(b)]
    by_name: dict[str, dict[str, Any]] = {}
    for name, node in pairs:
        if node is False:
            continue
        if node is not None and not isinstance(node, Mapping):
            raise UserError(f"eval.benchmarks.{name} must be empty or such as {{path: file.jsonl}}, not {node!r}")
        if str(name) in by_name:
            raise UserError(f"eval.benchmarks has '{name}' twice")
        by_name[str(name)] = {"_target_": "eval.benchmarks.named", **(node or {})}
    return by_name


def _pairs(listed: Any) -> list[tuple[str, Any]]:
    if isinstance(listed, Mapping):
        return list(listed.items())
    path = Path(str(listed))
    if path.suffix in ENDINGS or "/" in str(listed):
        return [(path.stem, {"path": str(listed)})]
    return [(str(listed), None)]


def origin(name: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The source of a benchmark for a run's record, with its commit on the Hub."""
    entry = TABLE.get(name)
    if node["_target_"] != "eval.benchmarks.named" or entry is None:
        return dict(node)
    path = node.get("path") or _local_copy(name)
    where = {"path": path} if path else {"hub": entry.hub, "revision": entry.revision}
    return {**node, **where}


def on_hub(name: str, node: Mapping[str, Any]) -> list[str]:
    """The Hub datasets that a benchmark is read from; empty for a local one, or one that is not on the Hub."""
    return [origin(name, node)["hub"]] if origin(name, node).get("hub") else hub_sources(node)


def hub_sources(node: Any) -> list[str]:
    """The Hub datasets that a source reads, directly or through a nested source."""
    inside = [("", node), *nodes_below(node)] if isinstance(node, Mapping) else []
    return [str(each["path"]) for _, each in inside if each.get("_target_") == "limo.sources.hub" and "path" in each]


def is_required(name: str, node: Mapping[str, Any]) -> bool:
    """Whether a missing benchmark is an error. One that the Hub does not simply offer must set `required: true`."""
    by_name = node["_target_"] == "eval.benchmarks.named" and not node.get("path")
    return bool(node.get("required", not (by_name and TABLE.get(name, OWN).get)))


def without_required(node: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark's node without the key `required`, which its function does not take."""
    return {key: value for key, value in node.items() if key != "required"}


def load_benchmarks(benchmarks: Sequence[Any] | Mapping[str, Any], system: str) -> dict[str, list[Example]]:
    """The problems of each benchmark, by name. `notes["answer_kind"]` tells the grader the kind of the answers."""
    loaded = {}
    for name, node in benchmark_nodes(benchmarks).items():
        try:
            rows = list(bind(without_required(node), f"benchmarks.{name}")(name, system))
        except UserError as error:
            if is_required(name, node):
                raise
            say(f"warning: left out: {error}. required: true makes this an error")
            continue
        bad = [row for row in rows if isinstance(row, Dropped) and row.reason != REPEATED]
        if bad:
            raise UserError(
                f"benchmark '{name}': {len(bad)} of {len(rows)} rows cannot be used; the first is {bad[0].file}, row "
                f"{bad[0].row}: {bad[0].reason} ({bad[0].detail}). Map its columns with fields, or repair the file"
            )
        loaded[name] = [row for row in rows if isinstance(row, Example)]
        _check(name, loaded[name])
    if benchmarks and not loaded:
        raise UserError("none of the benchmarks is available; the warnings above say how to get them")
    return loaded


def _check(name: str, rows: Sequence[Example]) -> None:
    twice = next((key for key, count in Counter(row.id for row in rows).items() if count > 1), None)
    if twice:
        raise UserError(
            f"benchmark '{name}': two rows have the id '{twice}'. Results are stored by id: make the ids unique"
        )
    answers = dict[str, Example]()
    for row in rows:
        before = answers.setdefault(" ".join(row.question.lower().split()), row)
        if name not in TABLE and comparable(before.answer) != comparable(row.answer):
            rows_of_both = f"rows {before.notes.get('row')} and {row.notes.get('row')}"
            raise UserError(
                f"benchmark '{name}': {rows_of_both} are one problem with two answers, {before.answer!r} and "
                f"{row.answer!r}: remove one of them"
            )
    letters = {row.answer for row in rows}
    if len(rows) >= 20 and len(letters) == 1 and all(row.notes.get("answer_kind") == "choice" for row in rows):
        raise UserError(
            f"benchmark '{name}': the right option is {letters.pop()} in all {len(rows)} rows, so a model that always "
            "picks it would reach 100 %. Shuffle the options, or use the benchmark from the Hub, which is shuffled here"
        )


def named(
    name: str,
    system: str,
    /,
    *,
    path: InputPath | None = None,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
    kind: str | None = None,
    shots: int | None = None,
) -> Iterator[Row]:
    """A benchmark of TABLE, from a local copy or the Hub, or any other file.

    Args: `path` of a local copy (JSONL, JSON, Parquet, CSV); `fields` (our name -> its column); `limit` takes the first
    rows only; `kind` is math, physics or choice; `shots` worked examples go before the problem (at most those of
    `eval/shots.yaml`). The defaults of the last two are in TABLE. Raises UserError if there is no such benchmark
    or it cannot be loaded.
    """
    entry = TABLE.get(name, OWN)
    chosen = next((k for k in get_args(Kind) if k == kind), entry.kind)
    if kind not in (None, chosen):
        raise UserError(f"benchmark '{name}': kind must be one of {', '.join(get_args(Kind))}, not '{kind}'")
    shots = entry.shots if shots is None else shots
    if not 0 <= shots <= len(worked(entry.group)):
        raise UserError(
            f"benchmark '{name}': shots must be between 0 and {len(worked(entry.group))}, the worked examples of "
            f"'{entry.group}' in eval/shots.yaml, not {shots}"
        )
    entry = replace(entry, kind=chosen, shots=shots)
    path = path or _local_copy(name)
    raws = _read(name, path, entry)
    flat = ((number, _flatten(entry, raw, number)) for number, raw in raws)
    where = str(path or entry.hub)
    reading = Reading(name, system, where, fields={**entry.fields, **(fields or {})}, limit=limit, silent=True)
    count = 0
    for row in _rename_errors(name, examples(flat, reading)):
        count += isinstance(row, Example)
        yield _put(row, entry, system) if isinstance(row, Example) else row
    if entry.rows and limit is None and count != entry.rows:
        say(f"benchmark '{name}': {count} problems in {where}, {entry.rows} are published; do not compare the numbers")


def _local_copy(name: str) -> str | None:
    folder = os.environ.get("LIMO_BENCHMARKS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise UserError(f"LIMO_BENCHMARKS is set to '{folder}', which is not a folder")
    copies = [Path(folder, name + ending) for ending in ENDINGS if Path(folder, name + ending).exists()]
    return str(copies[0]) if copies else None


def _read(name: str, path: str | None, entry: Benchmark) -> Iterator[Raw]:
    if path:
        return read_rows(path)
    if name not in TABLE:
        raise UserError(f"there is no benchmark '{name}'{suggest(name, TABLE)}; for another file, give its path")
    if not entry.hub:
        raise UserError(f"benchmark '{name}' is not on the Hub: {entry.get}. {_explain_copies(name)}")
    return _from_hub(name, entry)


def _from_hub(name: str, entry: Benchmark) -> Iterator[Raw]:
    configs = entry.config if isinstance(entry.config, list) else [entry.config]
    number = 0
    for config in configs:
        try:
            for _, raw in hub_rows(entry.hub, config, entry.split, entry.revision):
                number += 1
                yield number, {**raw, "task": config} if len(configs) > 1 and isinstance(raw, dict) else raw
        except UserError as error:
            how = f" To get it: {entry.get}." if entry.get else ""
            raise UserError(f"benchmark '{name}': {error}.{how} {_explain_copies(name)}") from None


def _explain_copies(name: str) -> str:
    return (
        f"Such a copy: eval.benchmarks=[<folder>/{name}.jsonl] (or .json, .parquet, .csv), or the variable "
        "LIMO_BENCHMARKS set to that folder"
    )


def _rename_errors(name: str, rows: Iterator[Row]) -> Iterator[Row]:
    try:
        yield from rows
    except UserError as error:
        message = str(error).replace(f"pool source '{name}'", f"benchmark '{name}'")
        raise UserError(message if message.startswith("benchmark") else f"benchmark '{name}': {message}") from None


def _flatten(entry: Benchmark, raw: Any, number: int) -> Any:
    if not isinstance(raw, dict):
        return raw
    try:
        return entry.read(raw, number - 1)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        return Dropped("", "", "not as published", f"{type(error).__name__}: {error}", data={"row": str(raw)[:500]})


def _put(row: Example, entry: Benchmark, system: str) -> Example:
    """Give a row the prompt of its benchmark. The problem alone is kept in the notes, for decontamination."""
    problem = row.question
    if entry.shots:
        prompt = chat(behind_examples(problem, entry.group, entry.shots), "")
    else:
        prompt = chat(zero_shot(problem, entry.kind == "choice"), system)
    shown = {"answer_kind": entry.kind, "problem": problem, "shots": entry.shots}
    return replace(row, prompt=prompt, notes={**row.notes, **shown})


# -- prompts. The wording and the worked examples are ours (`eval/shots.yaml`); the number of examples and the layout
# are those of MAmmoTH2 (arXiv 2405.03548, section 3.2), so results are close to the paper's but not comparable exactly


def zero_shot(problem: str, choice: bool) -> str:
    """The zero-shot prompt: the problem, and for multiple choice the form of the answer."""
    return f"{problem}\n\n{CHOOSE}" if choice else problem


def behind_examples(problem: str, group: str, shots: int) -> str:
    """The few-shot prompt: worked problems of a group, then this problem, up to the start of its solution."""
    chosen = worked(group)[:shots]
    assert len(chosen) == shots, (group, shots)
    blocks = [f"Problem:\n{shot['problem']}\nSolution:\n{shot['solution']}" for shot in chosen]
    return "\n\n".join(["Solve the last problem as the ones before it.", *blocks, f"Problem:\n{problem}\nSolution:"])


@lru_cache(maxsize=8)
def worked(group: str) -> list[dict[str, str]]:
    """The worked examples of a group of `eval/shots.yaml`, each a problem and its solution."""
    file = Path(__file__).with_name("shots.yaml")
    return list(yaml.safe_load(file.read_text(encoding="utf-8"))[group])
