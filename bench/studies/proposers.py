"""Does a language model find better losses than a grammar? Five searches each, at equal numbers of trainings.

    export LIMO_TEACHER=<model folder> LIMO_VLLM=<python of vLLM's environment>
    python -m bench.studies.proposers FOLDER            # hours; resumes
    python -m bench.studies.proposers FOLDER table      # what is finished

The search of `bench/proofs/controls.py`: a 0.6M model, pairs of which 30 % are flipped, 16 new losses that are trained,
60 proposals at most, DPO as the baseline, the best confirmed with five fresh seeds on fresh pairs. Expected, and
written before the first search: of the language model's proposals half cannot be read or are refused, since a 1.5B
model copies what it is shown; it beats DPO in fewer searches than the grammar, which finds something in most.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.data.tiny import make_model
from bench.proofs.controls import STEPS, WORDS, search_losses
from limo.console import Table, print_table, terminal
from limo.errors import reported
from limo.machine import set_environment

SEEDS = range(5)
SERVER = ["--max-model-len", "8192", "--max-num-seqs", "8", "--no-enable-chunked-prefill"]


def proposers(seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and node of each proposer."""
    yield "grammar", {"_target_": "limo.discover.proposers.Grammar", "seed": seed}
    engine = {
        "_target_": "limo.engines.server.ServerEngine",
        "model": os.environ["LIMO_TEACHER"],
        "serve": "vllm",
        "serve_python": os.environ["LIMO_VLLM"],
        "serve_args": SERVER,
        "send": "tokens",
    }
    sampling = {"n": 1, "temperature": 1.0, "top_p": 1.0, "max_tokens": 768, "seed": seed}
    writes = {"engine": engine, "sampling": sampling, "beta": 1.0, "tries": 3, "shown": 8}
    yield "language model", {"_target_": "limo.discover.proposers.LanguageModel", **writes}


def count(folder: Path) -> Mapping[str, Any]:
    """What became of a search's proposals, and of its best loss."""
    found = json.loads((folder / "discovered.json").read_text(encoding="utf-8"))
    read = [json.loads(path.read_text()) for path in folder.glob("candidates/*/proposal.json")]
    new = [one for one in read if one["thought"] != "known"]
    trained = [one for one in found["tried"] if not one["known"]]
    best = found["confirmed"][0] if found["confirmed"] else None
    return {
        "proposals": len(new),
        "read": sum(not one["refused"] for one in new),
        "trained": len(trained),
        "above noise": sum(one["above_noise"] for one in trained),
        "best": "none" if best is None else f"{100 * best['difference']:+.1f}",
        "interval": "" if best is None else f"{100 * best['low']:+.1f} to {100 * best['high']:+.1f}",
        "beats": bool(best and best["beats"]),
    }


def main() -> None:
    """The command `python -m bench.studies.proposers`."""
    set_environment()
    folder, rows = Path(sys.argv[1]), []
    make_model(folder / "model", STEPS, WORDS)
    for seed in SEEDS:
        for name, node in proposers(seed):
            place = folder / f"{name.replace(' ', '-')}-{seed}"
            if "table" not in sys.argv and not (place / "discovered.json").is_file():
                place.mkdir(parents=True, exist_ok=True)
                search_losses(place, str(folder / "model"), seed, node)
            if (place / "discovered.json").is_file():
                rows.append((name, seed, *count(place).values()))
    head = ("proposer", "search", "proposals", "read", "trained", "above noise", "best - dpo", "95 %", "beats")
    print_table(Table(head, sorted(rows), range(2, 7), "Points on fresh pairs"), terminal(120))


if __name__ == "__main__":
    with reported():
        main()
