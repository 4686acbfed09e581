"""The dataset card of a curated set: `README.md` as the Hugging Face Hub reads it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from curation.stages.decontaminate import DECONTAMINATED
from limo.data import Example, read_jsonl, replacing
from limo.run import commit, versions

HUB_LICENCES = {
    "mit": "mit",
    "apache-2.0": "apache-2.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc0-1.0": "cc0-1.0",
}


def write_card(folder: Path, funnel: Sequence[Mapping[str, Any]], sets: Mapping[str, Any]) -> None:
    """Write `folder/README.md`: where the rows came from, why they stayed, what they are, what they were made with."""
    rows = list(read_jsonl(folder / "curated.jsonl"))
    parts = [
        "---\n" + yaml.safe_dump(_front(folder, rows), sort_keys=False, allow_unicode=True) + "---",
        f"# {folder.name}",
        f"{len(rows):,} reasoning chains, chosen from a pool of {funnel[0]['in']:,} rows. Each row has a prompt and a "
        "completion in TRL's conversational format, the reference answer, where it came from (`source`, `notes`) and "
        "the numbers by which it was chosen (`score_...`).",
        "## Where it came from",
        _table(("source", "licence", "rows"), _sources(rows)),
        _table(("written by", "rows"), _counts(str(row.notes.get("teacher", row.source)) for row in rows)),
        "## How it was chosen",
        _table(("stage", "rows in", "rows out", "dropped", "tokens sampled", "seconds"), map(_line, funnel)),
        _decontaminated(funnel),
        "## What is in it",
        _table(("number", "least", "median", "most"), _numbers(rows)),
        "## What to compare it with",
        "Sets of the same rows, chosen otherwise: a claim that this choice helps is a claim against these.",
        _table(
            ("set", "rows", "tokens"),
            ((n, f"{s['rows']:,}", f"{s.get('length', 0):,.0f}") for n, s in sets.items() if "length" in s),
        ),
        "## Made with",
        _table(("package", "version"), versions().items())
        + f"\n\nCommit: {commit() or 'unknown'}. The whole recipe is "
        "in `recipe.yaml`, every dropped row in `dropped.jsonl` with its reason.",
    ]
    with replacing(folder / "README.md") as file:
        file.write("\n\n".join(part for part in parts if part) + "\n")


def _front(folder: Path, rows: Sequence[Example]) -> dict[str, Any]:
    licences = {str(row.notes.get("licence", "")).lower() for row in rows}
    known = HUB_LICENCES.get(next(iter(licences))) if len(licences) == 1 else None
    size = next(name for limit, name in SIZES if len(rows) < limit)
    files = {"default": "curated.parquet"} | ({"pairs": "pairs.parquet"} if _has_rows(folder / "pairs.jsonl") else {})
    configs = [{"config_name": name, "data_files": [{"split": "train", "path": file}]} for name, file in files.items()]
    return {
        "license": known or "other",
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["reasoning", "mathematics", "sft"],
        "pretty_name": folder.name,
        "configs": configs,
    }


def _has_rows(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**12, "100K<n<1M"))


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in (" | ".join(head), " | ".join("---" for _ in head), *lines))


def _counts(values: Iterable[str]) -> list[tuple[str, str]]:
    return [(value, f"{count:,}") for value, count in Counter(values).most_common()]


def _sources(rows: Iterable[Example]) -> list[tuple[str, str, str]]:
    counts = Counter((row.source, str(row.notes.get("licence") or "not stated")) for row in rows)
    return [(source, licence, f"{count:,}") for (source, licence), count in counts.most_common()]


def _line(line: Mapping[str, Any]) -> tuple[str, ...]:
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in line["reasons"].items())
    return (
        line["stage"],
        f"{line['in']:,}",
        f"{line['out']:,}",
        reasons,
        f"{line['tokens']:,}",
        f"{line['seconds']:.1f}",
    )


def _decontaminated(funnel: Sequence[Mapping[str, Any]]) -> str:
    for line in funnel:
        if removed := line.get("figures", {}).get(DECONTAMINATED):
            return f"Problems of these benchmarks were removed: {removed}."
    return "No benchmark's problems were looked for: this set may be contaminated."


def _numbers(rows: Sequence[Example]) -> list[tuple[str, ...]]:
    names = dict.fromkeys(name for row in rows for name in row.scores if not name.endswith(("_rank", "_minmax")))
    found = []
    for name in names:
        values = [row.scores[name] for row in rows if name in row.scores]
        found.append((name, *(f"{value:,.4g}" for value in (min(values), median(values), max(values)))))
    return found
