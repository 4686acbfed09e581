"""What models are evaluated on: named benchmarks, or your own file, with reference answers.

    python -m eval.run recipe=evaluate 'eval.benchmarks=[aime24,math500]'
    python -m eval.run recipe=evaluate 'eval.benchmarks=[math500.json, {mine: {path: my.csv, fields: {answer: gold}}}]'

`eval/published.py` has the named ones. A local copy comes first: `path`, or a file named after the benchmark in the
folder $LIMO_BENCHMARKS. A benchmark that cannot be had, or that has rows which cannot be used, is an error; it is never
left out.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from eval.prompts import behind_examples, plain, worked
from eval.published import OWN, TABLE, Benchmark
from eval.verdicts import Kind
from limo.data import Dropped, Example, Row, chat
from limo.errors import UserError
from limo.files import Raw, read_rows
from limo.progress import say
from limo.recipe import bind, near
from limo.sources import examples, hub_rows

DRAWN_AGAIN = "same problem drawn again"  # a generator's repetition costs nothing; a row of a file that is lost does
ENDINGS = (".jsonl", ".json", ".parquet", ".csv")


def nodes(benchmarks: Sequence[Any] | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The benchmarks of a recipe as nodes, by name.

    A list has names of TABLE, paths of files (named after the file), and mappings {name: node}; a mapping has nodes. A
    node is empty, `{path: ...}` for a local copy or a file of your own, or names any source with `_target_`.
    Raises UserError for anything else, or a name that comes twice.
    """
    pairs = list(benchmarks.items()) if isinstance(benchmarks, Mapping) else [p for b in benchmarks for p in _pairs(b)]
    found: dict[str, dict[str, Any]] = {}
    for name, node in pairs:
        if node is not None and not isinstance(node, Mapping):
            raise UserError(f"eval.benchmarks.{name} must be empty or such as {{path: file.jsonl}}, not {node!r}")
        if str(name) in found:
            raise UserError(f"eval.benchmarks has '{name}' twice")
        found[str(name)] = {"_target_": "eval.benchmarks.named", **(node or {})}
    return found


def _pairs(listed: Any) -> list[tuple[str, Any]]:
    if isinstance(listed, Mapping):
        return list(listed.items())
    path = Path(str(listed))
    if path.suffix in ENDINGS or "/" in str(listed):
        return [(path.stem, {"path": str(listed)})]
    return [(str(listed), None)]


def origin(name: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's record says of where a benchmark came from, its commit on the Hub included."""
    entry = TABLE.get(name)
    if node["_target_"] != "eval.benchmarks.named" or entry is None:
        return dict(node)
    path = node.get("path") or _local_copy(name)
    where = {"path": path} if path else {"hub": entry.hub, "revision": entry.revision}
    return {**node, **where}


def load(benchmarks: Sequence[Any] | Mapping[str, Any], system: str) -> dict[str, list[Example]]:
    """The problems of each benchmark, by its name. `notes["kind"]` says what an answer is, for the grader.

    Raises UserError if a benchmark cannot be had or a row cannot be used: a benchmark with rows missing gives numbers
    nobody can compare.
    """
    loaded = {}
    for name, node in nodes(benchmarks).items():
        rows = list(bind(node, f"benchmarks.{name}")(name, system))
        bad = [row for row in rows if isinstance(row, Dropped) and row.reason != DRAWN_AGAIN]
        if bad:
            raise UserError(
                f"benchmark '{name}': {len(bad)} of {len(rows)} rows cannot be used; the first is {bad[0].file}, row "
                f"{bad[0].row}: {bad[0].reason} ({bad[0].detail}). Map its columns with fields, or repair the file"
            )
        loaded[name] = [row for row in rows if isinstance(row, Example)]
        _check(name, loaded[name])
    return loaded


def _check(name: str, rows: Sequence[Example]) -> None:
    twice = next((key for key, count in Counter(row.id for row in rows).items() if count > 1), None)
    if twice:
        raise UserError(f"benchmark '{name}': two rows have the id '{twice}'. Results are kept by id: make them differ")
    letters = {row.answer for row in rows}
    if len(rows) >= 20 and len(letters) == 1 and all(row.notes.get("kind") == "choice" for row in rows):
        raise UserError(
            f"benchmark '{name}': the right option is {letters.pop()} in all {len(rows)} rows, so a model that always "
            "says so would have 100 %. Shuffle the options, or use the benchmark from the Hub, which is shuffled here"
        )


def named(
    name: str,
    system: str,
    /,
    *,
    path: str | None = None,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
    kind: str | None = None,
    shots: int | None = None,
) -> Iterator[Row]:
    """A benchmark of TABLE, from a local copy or the Hub, or a file of your own.

    Args: `path` of a local copy (JSONL, JSON, Parquet, CSV); `fields` (our name -> its column); `limit` takes the first
    rows only; `kind` is math, physics or choice; `shots` worked examples go before the problem (at most those of
    `eval/shots.yaml`). The last two are TABLE's where they are not given. Raises UserError if there is no such
    benchmark, or it cannot be had.
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
    flat = ((number, _flat(entry, raw, number)) for number, raw in raws)
    where = path or entry.hub
    count = 0
    for row in _of_benchmark(name, examples(flat, name, system, where, {**entry.fields, **(fields or {})}, limit)):
        count += isinstance(row, Example)
        yield _asked(row, entry, system) if isinstance(row, Example) else row
    if entry.rows and limit is None and count != entry.rows:
        say(f"benchmark '{name}': {count} problems in {where}, {entry.rows} are published; numbers may not compare")


def _local_copy(name: str) -> str | None:
    folder = os.environ.get("LIMO_BENCHMARKS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise UserError(f"LIMO_BENCHMARKS is set to '{folder}', which is no folder")
    found = [Path(folder, name + ending) for ending in ENDINGS if Path(folder, name + ending).exists()]
    return str(found[0]) if found else None


def _read(name: str, path: str | None, entry: Benchmark) -> Iterator[Raw]:
    if path:
        return read_rows(path)
    if name not in TABLE:
        raise UserError(f"there is no benchmark '{name}'{near(name, TABLE)}; for a file of your own, its path")
    if not entry.hub:
        raise UserError(f"benchmark '{name}' is not on the Hub: {entry.get}. {_locally(name)}")
    return _from_hub(name, entry)


def _from_hub(name: str, entry: Benchmark) -> Iterator[Raw]:
    configs = entry.config if isinstance(entry.config, tuple) else (entry.config,)
    number = 0
    for config in configs:
        try:
            for _, raw in hub_rows(entry.hub, config, entry.split, entry.revision):
                number += 1
                yield number, {**raw, "task": config} if len(configs) > 1 and isinstance(raw, dict) else raw
        except UserError as error:
            how = f" To get it: {entry.get}." if entry.get else ""
            raise UserError(f"benchmark '{name}': {error}.{how} {_locally(name)}") from None


def _locally(name: str) -> str:
    return (
        f"Such a copy: eval.benchmarks=[<folder>/{name}.jsonl] (or .json, .parquet, .csv), or the variable "
        "LIMO_BENCHMARKS set to that folder"
    )


def _of_benchmark(name: str, rows: Iterator[Row]) -> Iterator[Row]:
    try:
        yield from rows
    except UserError as error:
        said = str(error).replace(f"pool source '{name}'", f"benchmark '{name}'")
        raise UserError(said if said.startswith("benchmark") else f"benchmark '{name}': {said}") from None


def _flat(entry: Benchmark, raw: Any, number: int) -> Any:
    if not isinstance(raw, dict):
        return raw
    try:
        return entry.read(raw, number - 1)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        return Dropped("", "", "not as published", f"{type(error).__name__}: {error}", data={"row": str(raw)[:500]})


def _asked(row: Example, entry: Benchmark, system: str) -> Example:
    """The row with the prompt of its benchmark. The bare problem stays in the notes, for decontamination."""
    problem = row.question
    if entry.shots:
        prompt = chat(behind_examples(problem, entry.group, entry.shots), "")
    else:
        prompt = chat(plain(problem, entry.kind == "choice"), system)
    shown = {"kind": entry.kind, "problem": problem, "shots": entry.shots}
    return replace(row, prompt=prompt, notes={**row.notes, **shown})
