"""Everything that only a GPU can show, in one run of about 45 minutes on one GPU. No GPU has run it yet.

    python -m bench.proofs.gpu FOLDER  # killed at any time, the same command resumes
    python -m bench.proofs.gpu FOLDER --serve-python /opt/vllm/bin/python  # and a vLLM server, from its own environment
    python -m bench.proofs.gpu FOLDER --tiny MODEL  # seconds on a CPU: does the script itself run?

Every step is a command of the toolkit, in a process of its own, with its output in FOLDER/<step>.log:

- demo: the whole job, with its table; on two cores it takes 11 minutes
- speed: a 1.5B shape at 2k and 16k tokens, ours beside TRL padded, without padding, packed and with Liger: tokens/s,
  MFU, memory at its fullest beside the plan's
- ddp, zero3, fsdp2, cpu: the same rows and steps by each; the losses must agree (1e-3, in bfloat16)
- serve: the demo's evaluation through a server that is started for it

FOLDER/RESULTS.md has what they printed at their ends, beside the machine.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from limo.console import clock
from limo.errors import reported

LIMIT = 2400  # seconds of a step
TAIL = 30  # lines of a step's output that are shown
CLOSE = 1e-3  # relative difference of losses


@dataclass(frozen=True)
class Step:
    """One command, with variables of its environment."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    run: str = ""  # the folder below FOLDER/runs whose losses are compared


def main() -> None:
    """Run what has not finished, then write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--serve-python", default="")
    parser.add_argument("--tiny", default="", help="a model folder of a few weights, for a CPU")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write_rows(options.folder / "rows.jsonl", 16)
    steps = list_steps(options.folder.resolve(), options.serve_python, options.tiny)
    states = {step.name: run(options.folder, step) for step in steps}
    summary = "\n".join(summarize(options.folder, steps, states))
    (options.folder / "RESULTS.md").write_text(summary, encoding="utf-8")
    print(summary)
    sys.exit(any(state.startswith("failed") for state in states.values()))


def list_steps(folder: Path, serve_python: str, tiny: str) -> list[Step]:
    """The steps, at full size or, with a `tiny` model, at one that a test can wait for."""
    python, runs = sys.executable, f"runs={folder}/runs"
    small = [f"student={tiny}", "engine.dtype=float32", "curate.pool.sums.size=24", "curate.stages.choose.k=12"]
    small += ["attempts.max_tokens=8", "curate.stages.difficulty.at_most=2", "eval.sampling.max_tokens=8"]
    small += ["eval.benchmarks.new_seeds.size=8", "eval.benchmarks.new_templates.size=4", "eval.resamples=100"]
    more = [*small, "train.args.num_train_epochs=1", "train.args.bf16=false"] if tiny else []
    commands = [("curate", "curation.run"), ("train", "limo.train"), ("eval", "eval.run")][: 1 if tiny else 3]
    steps = [Step(f"demo-{name}", [python, "-m", module, "recipe=demo", runs, *more]) for name, module in commands]
    speed = [python, "-m", "bench.peers.train", "--recompute"]
    for size, rows in (("100", 4),) if tiny else (("2048", 64), ("16384", 16)):
        ways = ["padded"] if tiny else ["padded", "padding_free", "packed", "liger"]
        shape = ["--model", tiny or "random:1.5B", "--rows", str(rows), "--at-once", str(min(rows, 4))]
        lengths = ["--median", str(int(size) // 2), "--longest", size, "--packing", size]
        rounds = ["--rounds", "1" if tiny else "3", "--steps", "1" if tiny else "4"]
        steps.append(Step(f"speed-{size}", [*speed, *shape, *lengths, *rounds, "--trl", *ways]))
    train = [
        python,
        "-m",
        "limo.train",
        "recipe=sft",
        runs,
        f"train.data={folder}/rows.jsonl",
        "+train.args.max_steps=4",
    ]
    train += ["train.args.logging_steps=1", "train.args.learning_rate=1e-5", *([f"student={tiny}"] if tiny else [])]
    for kind in ("ddp", "zero3") if tiny else ("ddp", "zero3", "fsdp2"):
        steps.append(Step(kind, [*train, f"name={kind}", f"train.sharding={kind}"], run=kind))
    steps.append(Step("cpu", [*train, "name=cpu"], {"CUDA_VISIBLE_DEVICES": ""}, run="cpu"))
    if serve_python:
        served = ["recipe=demo", runs, "name=served", "engine=vllm", f"engine.serve_python={serve_python}"]
        steps.append(
            Step("serve", [python, "-m", "eval.run", *served, "eval.models={base: ${student}}", "eval.compare=[]"])
        )
    return steps


def write_rows(file: Path, count: int) -> None:
    """Rows to train on: sums worked line by line, of mixed lengths."""
    rows = []
    for n in range(count):
        lines = [f"{n + i} + {i} = {n + 2 * i}" for i in range(1, 2 + 3 * (n % 7))]
        turns = (("user", f"Add up from {n}."), ("assistant", "\n".join([*lines, f"\\boxed{{{n}}}"])))
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, step: Step) -> str:
    """Run a step if it has not finished before. Returns what became of it."""
    log, done = folder / f"{step.name}.log", folder / f"{step.name}.done"
    if done.is_file():
        return done.read_text()
    print(f"{step.name}: {' '.join(step.command)}", flush=True)
    begun = time.monotonic()
    with log.open("w") as out:
        try:
            environment = {**os.environ, **step.environment}
            code = subprocess.run(step.command, stdout=out, stderr=out, env=environment, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            code = -1
    took = clock(time.monotonic() - begun)
    if code:
        return f"failed after {took}, exit code {code}: see {log}"
    done.write_text(took)
    return took


def summarize(folder: Path, steps: list[Step], states: dict[str, str]) -> list[str]:
    """The machine, each step with its end, and the losses beside those of one device."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    lines = [f"# {gpu}, torch {torch.__version__}, Python {platform.python_version()}", ""]
    for step in steps:
        shown = (folder / f"{step.name}.log").read_text(errors="replace").splitlines()[-TAIL:]
        lines += [f"## {step.name}: {states[step.name]}", "", "```text", *shown, "```", ""]
    losses = {step.run: read_losses(folder / "runs" / step.run) for step in steps if step.run}
    for name, found in losses.items():
        pairs = list(zip(found, losses["ddp"], strict=False))
        apart = max((abs(a - b) / abs(b) for a, b in pairs), default=float("nan"))
        verdict = "agree" if apart < CLOSE else "DIFFER"
        lines.append(f"losses of {name}: {', '.join(f'{loss:.5f}' for loss in found)}: {verdict} ({apart:.1e})")
    return lines


def read_losses(folder: Path) -> list[float]:
    """The losses of a training, step by step; empty where it did not run."""
    path = folder / "train_log.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [entry["loss"] for entry in entries if entry.get("loss") is not None]


if __name__ == "__main__":
    with reported():
        main()
