"""Writes a run's report as one page: the pool, the chosen rows and why they were chosen, and the results.

    python -m eval.report recipe=demo

`runs/<name>/report.html` is one file that needs no network and stays below 10 MB; stages that have not run yet are left
out. Text from rows and completions is data: the templates escape it, it enters the viewer as text, and the page's
policy forbids every script but its own. `funnel.py` and `viewer.py` show the curation,
`training.py` the training, `outcome.py` the evaluation.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from eval.compare import sentences
from eval.repair import Measures
from eval.report.curated import gather
from eval.report.funnel import choice_section, chosen_section, funnel_section
from eval.report.html import fill_template, percent, render_mixed
from eval.report.listed import read_summary
from eval.report.outcome import answers_section, flips_section, outcome_section, sampled_section, turns_section
from eval.report.tables import repair_table
from eval.report.training import training_section
from eval.report.viewer import LIMIT, scripts, style, viewer_section
from limo.console import Table, clock
from limo.data import replacing
from limo.errors import UserError
from limo.run import read_entries, read_manifest


def report(*, out: str) -> Path:
    """Write the report of the run in `out` again. Raises UserError if there is no such run."""
    if not read_manifest(out):
        raise UserError(f"there is no run in '{out}'. Curate, train or evaluate first")
    path = write_report(Path(out))
    print(path)  # noqa: T201
    return path


def _search_section(folder: Path) -> str:
    if not (folder / "discovered.json").is_file():
        return ""
    from eval.report.search import discovered_section  # it needs the search's own modules

    return discovered_section(folder)


def write_report(folder: Path) -> Path:
    """Collect the results of the run, and write `report.html` into its folder."""
    manifest = read_manifest(folder)
    summary, curated = read_summary(folder), gather(folder)
    with_viewer = bool(curated and curated.chosen)
    sections = {  # key: label in the menu, section
        "outcome": ("Result", outcome_section(summary)),
        "turns": ("Turns", turns_section(summary)),
        "repair": ("Errors", _repair_section(summary.get("repair", {}))),
        "funnel": ("Funnel", funnel_section(curated) if curated else ""),
        "chosen": ("Chosen", chosen_section(curated) if curated else ""),
        "choice": ("Choice", choice_section(folder)),
        "chains": ("Chains", ""),
        "training": ("Training", training_section(folder, manifest.get("train", {}))),
        "discovered": ("Losses", _search_section(folder)),
        "flips": ("Flips", flips_section(folder, summary)),
        "answers": ("Answers", answers_section(folder, summary)),
        "sampled": ("Sampling", sampled_section(manifest)),
        "manifest": ("Manifest", _manifest_section(read_entries(folder))),
    }
    ours = scripts(with_viewer)
    room = LIMIT - sum(len(part.encode("utf-8", "replace")) for part in (*(s for _, s in sections.values()), *ours))
    if curated and with_viewer:
        sections["chains"] = ("Chains", viewer_section(folder, curated, room))
    page = fill_template(
        "page.html",
        name=folder.name,
        facts=[(value, what) for what, value in run_facts(folder)],
        sections=sections,
        scripts=[Markup(script) for script in ours],
        hashes=Markup(" ".join(map(hash_script, ours))),
        style=Markup(style()),
    )
    with replacing(folder / "report.html") as file:  # NUL and lone surrogates are invalid in a page
        file.write(page.replace("\x00", "\ufffd").encode("utf-8", "replace").decode())
    return folder / "report.html"


def hash_script(script: str) -> str:
    """A script's hash, by which the page's policy allows it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def run_facts(folder: Path) -> list[tuple[str, str]]:
    """The main numbers of a run, each as name and value."""
    manifest, summary = read_manifest(folder), read_summary(folder)
    facts = []
    if funnel := manifest.get("curate", {}).get("results", {}).get("funnel"):
        facts.append(("rows chosen from the pool", f"{funnel[-1]['out']:,} of {funnel[0]['in']:,}"))
    for d in summary.get("differences", [])[:3]:
        before, after = (summary["accuracy"][d[m]][d["benchmark"]]["mean"] for m in ("before", "after"))
        facts.append((f"{d['benchmark']}, {d['before']} to {d['after']}", f"{percent(before)} → {percent(after)} %"))
    results = manifest.get("train", {}).get("results", {})
    if results.get("first_loss") is not None and results.get("last_loss") is not None:
        facts.append(("training loss", f"{results['first_loss']:.2f} → {results['last_loss']:.2f}"))
    seconds, tokens = (sum(e[what] for e in read_entries(folder).values()) for what in ("seconds", "tokens"))
    return [*facts, ("tokens sampled and trained on", f"{tokens:,}"), ("time", clock(seconds))]


def conclusions(folder: Path) -> list[str]:
    """The conclusions of a run's evaluation, one sentence per comparison; empty before it is evaluated."""
    return sentences(read_summary(folder))


def _repair_section(repair: Measures) -> str:
    if not repair:
        return ""
    return render_mixed("repair", "Are errors noticed and repaired?", tables=[repair_table(repair)])


def _manifest_section(manifest: Mapping[str, Any]) -> str:
    if not manifest:
        return ""
    rows = [
        (
            name,
            "finished" if e["finished"] else "unfinished",
            clock(e["seconds"]),
            f"{e['tokens']:,}",
            _shorten(e["commit"] or ""),
        )
        for name, e in manifest.items()
    ]
    steps = Table(("step", "state", "time", "tokens", "commit"), rows, (2, 3))
    whole = json.dumps(manifest, indent=1, ensure_ascii=False)
    return fill_template("manifest.html", key="manifest", title="Manifest", steps=steps, whole=whole)


def _shorten(commit: str) -> str:
    """Abbreviate a commit as git does. The full commit is in the settings below the table."""
    digits, plus, changes = commit.partition("+")
    return digits[:10] + plus + changes
