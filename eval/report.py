"""One page that shows a run: what came in, what was chosen and why, what it changed.

    python -m eval.report recipe=demo

`runs/<name>/report.html` is one file that needs no network and stays below 10 MB; whatever a stage has not made yet is
left out of it. Text from rows and completions is data: it is escaped here and enters the viewer as text, and the page
forbids itself every script but its own. Curation is in `funnel.py` and `viewer.py`, training in `curves.py`, evaluation
in `outcome.py`, several turns in `by_turn.py`.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.by_turn import turns_section
from eval.curated import Curated, gathered
from eval.curves import training_section
from eval.discovered import discovered_section
from eval.funnel import chosen_section, funnel_section
from eval.outcome import answers_section, flips_section, outcome_section, sampled_section
from eval.page import percent, section, table, text
from eval.repair import repair_section
from eval.viewer import LIMIT, scripts, style, viewer
from limo.command import command
from limo.data import replacing
from limo.errors import UserError
from limo.manifest import read_manifest
from limo.progress import clock

TITLES = {
    "outcome": "Result",
    "turns": "Turns",
    "repair": "Errors",
    "funnel": "Funnel",
    "chosen": "Chosen",
    "chains": "Chains",
    "training": "Training",
    "discovered": "Losses",
    "flips": "Flips",
    "answers": "Answers",
    "sampled": "Sampling",
    "manifest": "Manifest",
}


def report(*, out: str) -> Path:
    """Write the report of the run in `out` anew. Raises UserError if there is no such run."""
    if not read_manifest(out):
        raise UserError(f"there is no run in '{out}'. Curate, train or evaluate first")
    path = write_report(Path(out))
    print(path)  # noqa: T201
    return path


def write_report(folder: Path) -> Path:
    """Gather what the run has, and write `report.html` into it."""
    manifest = read_manifest(folder)
    path = folder / "eval" / "summary.json"
    summary = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    curated = gathered(folder)
    shown = bool(curated and curated.chosen)
    parts = {
        "outcome": outcome_section(summary),
        "turns": turns_section(summary),
        "repair": repair_section(summary.get("repair", {})),
        "funnel": funnel_section(curated) if curated else "",
        "chosen": chosen_section(curated) if curated else "",
        "chains": "",
        "training": training_section(folder, manifest.get("train", {})),
        "discovered": discovered_section(folder),
        "flips": flips_section(folder, summary),
        "answers": answers_section(folder, summary),
        "sampled": sampled_section(manifest),
        "manifest": _manifest(manifest),
    }
    ours = scripts(shown)
    room = LIMIT - sum(len(part.encode("utf-8", "replace")) for part in (*parts.values(), *ours))
    if curated and shown:
        parts["chains"] = section("chains", "Chains", viewer(folder, curated, room))
    body = _head(folder.name, manifest, curated, summary) + _menu(parts) + "<main>" + "\n".join(parts.values())
    page = _page(folder.name, body + "</main>", ours)
    with replacing(folder / "report.html") as file:
        file.write(page.encode("utf-8", "replace").decode())  # half a pair of surrogates has no UTF-8
    return folder / "report.html"


def _page(title: str, body: str, ours: list[str]) -> str:
    """The whole page. Its policy names each script by its hash and allows no request at all."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in ours)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f'<meta http-equiv=Content-Security-Policy content="{policy}"><meta name=color-scheme content="light dark">'
        f"<title>{text(title)}</title><style>{style()}</style>\n{body}\n"
        + "".join(f"<script>{script}</script>\n" for script in ours)
        + "</html>\n"
    )


def _head(name: str, manifest: Mapping[str, Any], curated: Curated | None, summary: Mapping[str, Any]) -> str:
    """The run's name and the numbers that a reader wants first."""
    entries = list(manifest.values())
    seconds, tokens = sum(e["seconds"] for e in entries), sum(e["tokens"] for e in entries)
    steps = ", ".join(dict.fromkeys(step.partition("/")[0] for step in manifest))
    facts = []
    if curated and curated.funnel:
        facts.append((f"{len(curated.chosen):,}", f"chains chosen from a pool of {curated.funnel[0]['in']:,} rows"))
    elif curated:
        facts.append((f"{len(curated.chosen):,}", "chains chosen"))
    for d in summary.get("differences", [])[:3]:
        before, after = (summary["accuracy"][d[m]][d["benchmark"]]["mean"] for m in ("before", "after"))
        facts.append((f"{percent(before)} → {percent(after)} %", f"{d['benchmark']}, {d['before']} to {d['after']}"))
    results = manifest.get("train", {}).get("results", {})
    if results.get("first_loss") is not None and results.get("last_loss") is not None:
        facts.append((f"{results['first_loss']:.2f} → {results['last_loss']:.2f}", "training loss"))
    facts.append((clock(seconds), f"{steps}; {tokens:,} tokens"))
    tiles = "".join(f"<div class=tile><b>{text(value)}</b><span>{text(what)}</span></div>" for value, what in facts)
    return f"<header><h1>{text(name)}</h1><div class=tiles>{tiles}</div></header>"


def _menu(parts: Mapping[str, str]) -> str:
    links = "".join(f"<a href='#{key}'>{TITLES[key]}</a>" for key, part in parts.items() if part)
    return f"<nav aria-label=Contents>{links}</nav>"


def _manifest(manifest: Mapping[str, Any]) -> str:
    if not manifest:
        return ""
    rows = [
        (
            name,
            "finished" if e["finished"] else "unfinished",
            clock(e["seconds"]),
            f"{e['tokens']:,}",
            _short(e["commit"] or ""),
        )
        for name, e in manifest.items()
    ]
    whole = text(json.dumps(manifest, indent=1, ensure_ascii=False))
    body = table(("step", "state", "time", "tokens", "commit"), rows, (2, 3))
    return section(
        "manifest",
        "Manifest",
        f"{body}<details><summary>All settings, versions and hashes</summary><pre>{whole}</pre></details>",
    )


def _short(commit: str) -> str:
    """A commit as git abbreviates it; the whole one is in the settings below the table."""
    digits, plus, changes = commit.partition("+")
    return digits[:10] + plus + changes


if __name__ == "__main__":
    command("report", "eval.report", "Write the report of a run.")
