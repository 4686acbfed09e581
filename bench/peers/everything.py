"""Every measurement that has a peer, one after the other, kept in bench/RESULTS.md with the machine and the versions.

    make bench-setup     # the peers, each where it disturbs nothing: .venv-bench and .venv-llamafactory
    make bench           # python -m bench.peers.everything
    python -m bench.peers.everything grade train

A measurement that fails, or whose peer is not installed, is written down as such; the others go on. Results of
measurements that are not asked for stay as they are.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PEERS, LLAMAFACTORY = HERE.parent / ".venv-bench", HERE.parent / ".venv-llamafactory"
PEER = str(PEERS / "bin" / "python")
DATA = os.environ.get("LIMO_DATA", "")
RESULTS = HERE / "RESULTS.md"
BENCHES: dict[str, tuple[str, list[str]]] = {  # what is measured beside what, and the command
    "grade": ("grading beside Math-Verify: answers a second and agreement with labels", ["grade"]),
    "matcher": (
        "near duplicates and leaks in disguise, beside datasketch, rensa, datatrove and runs of eight words",
        [
            *(
                "matcher",
                "--pool",
                f"{DATA}/pools/math_train.json",
                "--benchmark",
                f"{DATA}/benchmarks/math500.json",
            ),
            *("--marked", f"{DATA}/pools/aime_1983_2023.json", "--unseen", "--python", PEER),
        ],
    ),
    "attempt": ("attempts that early stopping saves, beside all attempts", ["early_stopping"]),
    "sample": (
        "sampling beside a loop of generate",
        ["sample", "--prompts", "8", "--max-tokens", "128", "--batch-size", "16", "--rounds", "5"],
    ),
    "train": (
        "training beside TRL and LLaMA-Factory",
        [
            *("train", "--rows", "4", "--at-once", "2", "--longest", "600", "--median", "200", "--packing", "800"),
            *("--rounds", "5", "--llamafactory", str(LLAMAFACTORY)),
        ],
    ),
    "web": (
        "text of pages beside trafilatura and resiliparse: pages a second, formulas kept",
        ["web", "--python", PEER],
    ),
}


def main() -> None:
    """Run the named measurements, or all, and write what they print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="all by default")
    kept = sections(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    failed = []
    for name in parser.parse_args().names or BENCHES:
        about, call = BENCHES[name]
        print(f"== {name}: {about}", flush=True)
        kept[name], code = measured(about, call)
        failed += [name] if code else []
        RESULTS.write_text(page(kept), encoding="utf-8")
    print(f"{RESULTS.relative_to(HERE.parent)} is written")
    if failed:
        sys.exit(f"error: {', '.join(failed)} did not come to an end")


def measured(about: str, call: list[str]) -> tuple[str, int]:
    """What one command prints, as a section of the page, and its exit code."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", f"bench.peers.{call[0]}", *call[1:]],
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    took = time.monotonic() - start
    print(done.stdout, flush=True)
    shown = " ".join(["python", "-m", f"bench.peers.{call[0]}", *call[1:]]).replace(str(HERE.parent) + "/", "")
    ended = "" if done.returncode == 0 else f"\n\nIt ended with code {done.returncode}: what is above is not whole."
    lines = [line.rstrip() for line in done.stdout.splitlines() if not line.startswith("{'")]  # trainers' own logs
    printed = "\n".join(lines).strip("\n")
    head = f"{about[0].upper()}{about[1:]}. {machine()}; {took / 60:.0f} min."
    return f"{head}\n\n    {shown}\n\n```text\n{printed}\n```{ended}", done.returncode


def machine() -> str:
    """Where and with what it was measured."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    names = ("torch", "transformers", "trl")
    return (
        f"{time.strftime('%Y-%m-%d')}, commit {commit.strip() or 'unknown'}, {os.cpu_count()} cores of "
        f"{cpu[1].strip() if cpu else platform.processor()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in names)
    )


def sections(text: str) -> dict[str, str]:
    """The page's sections by name."""
    parts = re.split(r"^## (\w+)\n+", text, flags=re.MULTILINE)[1:]
    return {name: body.strip("\n") for name, body in zip(parts[::2], parts[1::2], strict=True)}


def page(kept: dict[str, str]) -> str:
    """All sections in the order of the measurements."""
    head = (
        "# Measurements\n\n`make bench-setup`, then `make bench`. Ratios are of one run, speeds are this machine's.\n"
    )
    return head + "".join(f"\n## {name}\n\n{kept[name]}\n" for name in BENCHES if name in kept)


if __name__ == "__main__":
    main()
