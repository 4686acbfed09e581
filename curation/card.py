"""The dataset card of a curated set: `README.md` as the Hugging Face Hub reads it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from curation.stages.decontaminate import DECONTAMINATED
from limo.console import Table
from limo.data import Example, read_jsonl, replacing
from limo.run import commit, versions

HUB_LICENCES = ("mit", "apache-2.0", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0")
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**12, "100K<n<1M"))


def write_card(folder: Path, funnel: Sequence[Mapping[str, Any]], sets: Mapping[str, Any]) -> None:
    """Write `folder/README.md`: the origin of the rows, how they were chosen, their statistics, and versions."""
    from huggingface_hub import DatasetCardData

    rows = list(read_jsonl(folder / "curated.jsonl"))
    licences = {str(row.notes.get("licence", "")).lower() for row in rows}
    pairs = folder / "pairs.jsonl"
    files = {"default": "curated.parquet"} | (
        {"pairs": "pairs.parquet"} if pairs.is_file() and pairs.stat().st_size else {}
    )
    front = DatasetCardData(
        license=licences.pop() if len(licences) == 1 and licences <= set(HUB_LICENCES) else "other",
        task_categories=["text-generation"],
        size_categories=[next(name for limit, name in SIZES if len(rows) < limit)],
        tags=["reasoning", "mathematics", "sft"],
        pretty_name=folder.name,
        configs=[
            {"config_name": name, "data_files": [{"split": "train", "path": path}]} for name, path in files.items()
        ],
    )
    sources = Counter((row.source, str(row.notes.get("licence") or "not stated")) for row in rows)
    teachers = Counter(str(row.notes.get("teacher", row.source)) for row in rows)
    removed = next((found for line in funnel if (found := line.get("metrics", {}).get(DECONTAMINATED))), None)
    chosen = ((n, f"{s['rows']:,}", f"{s.get('length', 0):,.0f}") for n, s in sets.items() if "length" in s)
    made_with = _table(("package", "version"), versions().items())
    text = f"""---
{front.to_yaml()}
---

# {folder.name}

{len(rows):,} reasoning chains, chosen from a pool of {funnel[0]["in"]:,} rows. Each row has a prompt and a completion \
in TRL's conversational format, the reference answer, where it came from (`source`, `notes`) and the numbers by which \
it was chosen (`score_...`).

## Where it came from

{_table(("source", "licence", "rows"), ((*pair, f"{count:,}") for pair, count in sources.most_common()))}

{_table(("written by", "rows"), ((name, f"{count:,}") for name, count in teachers.most_common()))}

## How it was chosen

{tabulate_funnel(funnel).markdown()}

{f"Problems of these benchmarks were removed: {removed}." if removed else NOT_REMOVED}

## What is in it

{_table(("number", "least", "median", "most"), _numbers(rows))}

## What to compare it with

Sets of the same rows, chosen otherwise: a claim that this choice helps is a claim against these.

{_table(("set", "rows", "tokens"), chosen)}

## Made with

{made_with}

Commit: {commit() or "unknown"}. The whole recipe is in `recipe.yaml`, every dropped row in `dropped.jsonl` with its \
reason.
"""
    with replacing(folder / "README.md") as file:
        file.write(text)


NOT_REMOVED = "No benchmark's problems were looked for: this set may be contaminated."


def tabulate_funnel(funnel: Sequence[Mapping[str, Any]]) -> Table:
    """The funnel: rows in and out of each stage, reasons of dropped rows, and the cost."""
    rows = []
    for line in funnel:
        dropped = [f"{reason}: {count:,}" for reason, count in line["reasons"].items()]
        if line["out"] > line["in"]:
            dropped.insert(0, f"+{line['out'] - line['in']:,} rows")
        if line.get("spared"):
            dropped.append(f"{line['spared']:,} attempts not needed")
        tokens = [f"{line['tokens']:,}"] if line["tokens"] else []
        tokens += [f"{line['asked']:,} in"] if line.get("asked") else []
        tokens += [f"{line['found_tokens']:,} known"] if line.get("found_tokens") else []
        tokens += [f"${line['dollars']:,.2f}"] if line.get("dollars") else []
        counts = f"{line['in']:,}", f"{line['out']:,}"
        rows.append((line["stage"], *counts, ", ".join(dropped), " + ".join(tokens), f"{line['seconds']:.1f}"))
    return Table(("stage", "in", "out", "dropped", "tokens", "seconds"), rows, (1, 2, 4, 5), "Funnel")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return Table(head, list(rows)).markdown()


def _numbers(rows: Sequence[Example]) -> Iterable[tuple[str, ...]]:
    for name in dict.fromkeys(name for row in rows for name in row.scores):
        values = [row.scores[name] for row in rows if name in row.scores]
        if not name.endswith(("_rank", "_zscore")):
            yield name, *(f"{value:,.4g}" for value in (min(values), median(values), max(values)))
