"""A report of many long chains: its size, and how long it takes to write, open, search, sort and read.

    python -m bench.proofs.report                       # 800 chains of 30 kB, from the pools in LIMO_DATA
    python -m bench.proofs.report --chains 800 --size 30000 --samples 3 --keep /tmp/run --text mixed

Texts are drawn from real solutions: `chains` from those that a model wrote, `mixed` from problems and solutions of
every pool, short and of many hands, which pack worst. Chromium must be installed.
"""

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from eval.report.page import write_report
from limo.data import Dropped, Example, chat, write_jsonl
from limo.run import claim


def texts(data: Path, kind: str) -> list[str]:
    """Solutions, and for `mixed` problems as well."""
    pools = data / "pools"
    chains = [json.loads(line)["response"] for line in (pools / "math_chains_deepseek_chat.jsonl").open()]
    if kind == "chains":
        return chains
    found = [row["problem"] for row in json.loads((pools / "math_train.json").read_text())]
    for row in json.loads((pools / "aime_1983_2023.json").read_text()):
        found += [row["problem"], str(row["solution"])]
    for line in (pools / "gsm8k_train.jsonl").open():
        row = json.loads(line)
        found += [row["question"], row["answer"]]
    return found + chains


def make(folder: Path, pool: list[str], chains: int, size: int, samples: int) -> None:
    """A run folder with a finished curation of made-up chains."""
    draw = random.Random(0)

    def written() -> str:
        parts, length = [], 0
        while length < size:
            parts.append(draw.choice(pool))
            length += len(parts[-1]) + 2
        return "\n\n".join(parts)[:size]

    def rows(first: int) -> Iterator[Example]:
        for i in range(chains):
            ranks = {name: draw.random() for name in WEIGHTS}
            total = sum(weight * ranks[name] for name, weight in WEIGHTS.items())
            scores = {**dict.fromkeys(WEIGHTS, 0.01), **{f"{n}_rank": r for n, r in ranks.items()}, "score": total}
            notes = {"teacher": "big", "verdict": "correct" if first == 0 else "wrong", "level": i % 5 + 1}
            fields = (chat(questions[i]), str(i), written(), "", 1.0, "p", scores, notes, f"p/{i}")
            yield Example(f"p/{i}/big/{first}", *fields)

    questions = [f"{draw.choice(pool)[:300]} (number {i})" for i in range(chains)]
    stages = {"verify": {}, "score": {"weights": WEIGHTS, "words": ["en"], "scaling": "rank"}}
    with claim(folder, "curate", {"stages": stages}) as step:
        write_jsonl(folder / "curated.jsonl", rows(0))
        others = (
            Dropped(r.id, "verify", "wrong answer", "", data=r.to_json()) for s in range(samples) for r in rows(s + 1)
        )
        write_jsonl(folder / "dropped.jsonl", others)
        line = {"reasons": {}, "seconds": 0.0, "tokens": 0}
        step.results = {"funnel": [{"stage": name, "in": chains, "out": chains, **line} for name in stages]}


WEIGHTS = {"length": 0.3, "verification": 0.2, "exploration": 0.25, "connectives": 0.25}


def timed(page: Page, script: str) -> float:
    """Milliseconds that a script takes, its promise and the next frame included."""
    wrapped = f"async () => {{ const t = performance.now(); await (async () => {{ {script} }})(); "
    wrapped += (
        "await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); return performance.now() - t }"
    )
    return float(page.evaluate(wrapped))


MEASURED = {
    "sort by score": "document.getElementById('sort').value = 'score'; viewer.sort()",
    "search in problems": "document.getElementById('search').value = 'number 77'; viewer.filter()",
    "search in all chains": "document.getElementById('search').value = 'vertical asymptote'; await viewer.search()",
    "another chain": "document.getElementById('search').value = ''; viewer.filter(); await viewer.open(viewer.rows[9])",
    "unfold all": "viewer.pressed('unfolded')",
}
SCROLL = """async () => { const list = document.getElementById('list'); const gaps = []; let last = performance.now();
for (let at = 0; at < list.scrollHeight; at += 900) { list.scrollTop = at;
await new Promise(requestAnimationFrame); const now = performance.now(); gaps.push(now - last); last = now }
return [gaps.length, Math.max(...gaps)] }"""


def look(path: Path) -> dict[str, Any]:
    """Open the page and use it. Returns seconds and milliseconds by what was done."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        start = time.monotonic()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-shown]")
        found: dict[str, Any] = {"open, s": round(time.monotonic() - start, 2)}
        found |= {f"{what}, ms": round(timed(page, script)) for what, script in MEASURED.items()}
        frames, longest = page.evaluate(SCROLL)
        found[f"longest of {frames} frames of scrolling, ms"] = round(longest)
        heap = page.evaluate("performance.memory.usedJSHeapSize")
        browser.close()
    return {**found, "JavaScript heap, MB": round(heap / 1e6), "console messages": len(said)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=800)
    parser.add_argument("--size", type=int, default=30_000, help="characters of a chain")
    parser.add_argument("--samples", type=int, default=0, help="other chains of each problem")
    parser.add_argument("--text", choices=("chains", "mixed"), default="mixed")
    parser.add_argument("--keep", type=Path, help="folder in which the run stays")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    pool = texts(Path(os.environ["LIMO_DATA"]), options.text)
    make(folder, pool, options.chains, options.size, options.samples)
    start = time.monotonic()
    path = write_report(folder)
    print(
        f"{options.chains} chains of {options.size:,} characters, {options.samples} other samples each, {options.text}"
    )
    print(f"  {'write, s':<44} {time.monotonic() - start:>10.1f}")
    print(f"  {'report.html, bytes':<44} {path.stat().st_size:>10,}")
    for what, value in look(path).items():
        print(f"  {what:<44} {value:>10,}")
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
