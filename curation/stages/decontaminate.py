"""Decontamination: drop problems that are, or hold, a problem of a benchmark.

`decontaminate` is the toolkit's own method, which reads LaTeX and finds copies in other spelling
(`curation/similar.py`; `python bench/leaks.py` measures what it finds). `drop_overlap` is the rule that MAmmoTH2
publishes: a run of ten words shared with a question or an answer. A recipe may have both.
"""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

from curation.similar import Known, KnownByWords, check_rule, known
from curation.stage import stage
from eval.benchmarks import load, nodes, origin
from limo.data import Dropped, Example, Row
from limo.errors import UserError
from limo.figures import tell
from limo.recipe import InputBenchmarks, bind, input_files

SHORT = 4  # words of a benchmark's text that is compared as a whole; fewer say nothing
DECONTAMINATED = "benchmarks removed"  # the metric that the dataset card reads


def _check(*, benchmarks: InputBenchmarks, rule: str, variants: str) -> None:
    check_rule(rule)
    _check_benchmarks(benchmarks)


def _check_benchmarks(benchmarks: InputBenchmarks) -> None:
    """Read a row of each benchmark that is not on the Hub: a wrong name or path is reported, and nothing downloaded."""
    for name, node in nodes(benchmarks).items():
        if "hub" not in origin(name, node):
            next(iter(bind(node, f"benchmarks.{name}")(name, "")), None)


@stage("row", check=_check)
def decontaminate(
    rows: Iterable[Example], /, *, benchmarks: InputBenchmarks, rule: str, variants: Literal["drop", "keep"]
) -> Iterator[Row]:
    """Drop problems that hold a benchmark problem, each beside what it matched.

    Args: `rule` is "latex" or one of the word rules, "words-8", "words-10", "words-13". `variants` is whether a
    benchmark problem with other numbers is to "drop" too or to "keep". Raises UserError for another rule, or a
    benchmark that is missing.
    """
    held_out, problems, index = _index(_key(benchmarks), rule)
    others = " and variants with other numbers" if variants == "drop" else ""
    tell(DECONTAMINATED, f"{', '.join(nodes(benchmarks))} (rule {rule}{others})")
    for row in rows:
        hits = [hit for hit in index.matches(row.question) if hit.kind == "same" or variants == "drop"]
        if not hits:
            yield row
            continue
        hit, matched = hits[0], held_out[hits[0].at]
        reason = "in a benchmark" if hit.kind == "same" else "a benchmark problem with other numbers"
        match = {"id": matched.id, "problem": problems[hit.at], "contained": round(hit.contained, 3)}
        detail = f"holds {100 * hit.contained:.0f} % of {matched.id}"
        yield Dropped(row.id, "", reason, detail, data={**row.to_json(), "matched": match})


@lru_cache(maxsize=1)
def _index(key: str, rule: str) -> tuple[list[Example], list[str], Known | KnownByWords]:
    """The benchmarks' rows, their problems, and these to look up against: made once in a process."""
    check_rule(rule)
    held_out = _held_out(key)
    problems = [_problem(row) for row in held_out]
    return held_out, problems, known(problems, rule)


def _key(benchmarks: InputBenchmarks) -> str:
    """Names benchmarks and the state of their files: a process that lives on reads a changed file again."""
    files = input_files({"_target_": f"{__name__}.decontaminate", "benchmarks": benchmarks})
    return json.dumps([benchmarks, {path: Path(path).expanduser().stat().st_mtime_ns for path in files}])


def _held_out(key: str) -> list[Example]:
    return [row for held in load(json.loads(key)[0], "").values() for row in held]


def _problem(row: Example) -> str:
    return str(row.notes.get("problem", row.question))


def _check_overlap(*, benchmarks: InputBenchmarks, run: int) -> None:
    if run < 2:
        raise UserError(f"run must be at least 2, not {run}")
    _check_benchmarks(benchmarks)


@stage("row", check=_check_overlap)
def drop_overlap(rows: Iterable[Example], /, *, benchmarks: InputBenchmarks, run: int) -> Iterator[Row]:
    """Drop rows whose question or answer shares a run of `run` words with a benchmark's question or its answer.

    White space, case and punctuation are no disguise; other LaTeX is. A benchmark's text of fewer words is compared as
    a whole, which the published rule never finds. Raises UserError for a benchmark that is missing.
    """
    names, index = _word_index(_key(benchmarks), run)
    for row in rows:
        hit = next((hits[0] for text in (row.question, row.completion) if (hits := index.matches(text))), None)
        if hit is None:
            yield row
        else:
            detail = f"{run} words of the {names[hit.at]}"
            yield Dropped(row.id, "", "shares words with a benchmark", detail, data=row.to_json())


@lru_cache(maxsize=1)
def _word_index(key: str, run: int) -> tuple[list[str], KnownByWords]:
    """What each text of the benchmarks is, and the texts to look up against."""
    texts = {
        f"{part} of {row.id}": text
        for row in _held_out(key)
        for part, text in (("question", _problem(row)), ("answer", row.answer), ("solution", row.completion))
    }
    return list(texts), KnownByWords(texts.values(), run, whole=SHORT)
