"""Decontamination: drop problems that are, or hold, a problem of a benchmark.

`decontaminate` is the toolkit's method, which also finds reworded copies and other LaTeX (`curation/matching/match.py`;
`bench/peers/matcher.py` measures what it finds). `drop_overlap` is the published rule of MAmmoTH2: a run of ten words
shared with a question or an answer. A recipe may use both.
"""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from curation.matching.known import Known, Verdict, WordRuns
from curation.stage import drop, record, stage
from eval.benchmarks import benchmark_nodes, is_required, load_benchmarks, on_hub, without_required
from limo.data import Dropped, Example, Row
from limo.recipe import InputBenchmarks, bind, input_files

SHORT = 4  # fewest words of a benchmark's text that is compared as a whole
REASONS: dict[Verdict, str] = {
    "same": "in a benchmark",
    "variant": "a benchmark problem with other numbers",
    "related": "part of a benchmark problem",
}
DECONTAMINATED = "problems left out that are in"  # the metric that the dataset card reads


def _check_benchmarks(*, benchmarks: InputBenchmarks, **_: object) -> None:
    """Read a row of each benchmark that is not on the Hub, to report a wrong name or path without downloading."""
    for name, node in benchmark_nodes(benchmarks).items():
        if not on_hub(name, node) and is_required(name, node):
            next(iter(bind(without_required(node), f"benchmarks.{name}")(name, "")), None)


@stage("row", check=_check_benchmarks, guards=True)
def decontaminate(
    rows: Iterable[Example], /, *, benchmarks: InputBenchmarks, variants: Literal["drop", "keep"]
) -> Iterator[Row]:
    """Drop problems that hold a benchmark problem, and note the problem that they match.

    `variants` decides whether a benchmark problem with other numbers, or a large part of one, is dropped too or kept.
    Raises UserError for a benchmark that is missing.
    """
    names, texts, index = _index(_key(benchmarks), ("question",), None)
    others = " with variants and parts of problems" if variants == "drop" else ""
    record(DECONTAMINATED, f"{', '.join(names)}{others}")
    for row in rows:
        hits = [hit for hit in index.matches(row.question) if hit.kind == "same" or variants == "drop"]
        if not hits:
            yield row
            continue
        hit, (key, _, problem) = hits[0], texts[hits[0].at]
        match = {"id": key, "problem": problem, "contained": round(hit.contained, 3)}
        detail = f"holds {100 * hit.contained:.0f} % of {key}"
        yield Dropped(row.id, "", REASONS[hit.kind], detail, data={**row.to_json(), "matched": match})


@stage("row", check=_check_benchmarks, guards=True)
def drop_overlap(
    rows: Iterable[Example], /, *, benchmarks: InputBenchmarks, run: Annotated[int, Field(ge=2)]
) -> Iterator[Row]:
    """Drop rows whose question or answer shares a run of `run` words with a benchmark's question or its answer.

    White space, case and punctuation are ignored; a different LaTeX spelling hides a match. A benchmark's text of fewer
    words, which the published rule never finds, is compared as a whole. Raises UserError for a missing benchmark.
    """
    _, texts, index = _index(_key(benchmarks), ("question", "answer", "solution"), run)
    for row in rows:
        hit = next((hits[0] for text in (row.question, row.completion) if (hits := index.matches(text))), None)
        if hit is None:
            yield row
        else:
            key, part, _ = texts[hit.at]
            detail = f"{run} words of the {part} of {key}"
            yield drop(row, "shares words with a benchmark", detail)


def _key(benchmarks: InputBenchmarks) -> str:
    """A cache key of benchmarks and the state of their files, so that a long-lived process reads a file again after it
    has changed.
    """
    files = input_files({"_target_": f"{__name__}.decontaminate", "benchmarks": benchmarks})
    return json.dumps([benchmarks, {path: Path(path).expanduser().stat().st_mtime_ns for path in files}])


@lru_cache(maxsize=2)
def _index(
    key: str, parts: tuple[str, ...], run: int | None
) -> tuple[list[str], list[tuple[str, str, str]], Known | WordRuns]:
    """Build, once per process: the names of the benchmarks; id, part and text of their rows; and an index of these
    texts.
    """
    texts, loaded = [], load_benchmarks(json.loads(key)[0], "")
    for row in (row for listed in loaded.values() for row in listed):
        question = str(row.notes.get("problem", row.question))
        own = {"question": question, "answer": row.answer, "solution": row.completion}
        texts += [(row.id, part, own[part]) for part in parts]
    known = [text for _, _, text in texts]
    return [*loaded], texts, WordRuns(known, run, SHORT) if run else Known(known)
