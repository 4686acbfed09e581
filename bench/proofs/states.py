"""Memory that a plan foretells for weights, gradients and optimizer, beside what two ranks on this CPU really hold.

    python -m bench.proofs.states                # in mixed precision, as the recipes train
    python -m bench.proofs.states --float32

A small model with random weights is trained for three steps under each sharding. Each rank adds up the storages of all
tensors that there are when training begins, and what torch allocates and frees from then on; the most that it ever
holds counts.
Exits with 1 if a plan is off by more than 15 %.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from itertools import accumulate
from pathlib import Path
from typing import Any

from limo.machine import set_environment

set_environment()

SHARDINGS = ("ddp", "zero2", "zero3", "fsdp2")
RANKS, ALLOWED, STEPS = 2, 0.15, 3
TOKENS = 74  # of a forward pass: two rows


def main() -> None:
    """Train under each sharding, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--float32", dest="bf16", action="store_false", help="instead of mixed precision")
    parser.add_argument("--rank-of", nargs=2, metavar=("SHARDING", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        measure(options.rank_of[0], Path(options.rank_of[1]), options.bf16)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder)
        print(f"{'sharding':<15}{'planned MB':>12}{'held MB':>10}{'off by':>9}", flush=True)
        worst = max(abs(compare(sharding, folder, options.bf16)) for sharding in SHARDINGS)
    print(f"bytes of weights, gradients and optimizer on the fullest of {RANKS} ranks; worst {worst:.0%}")
    raise SystemExit(worst > ALLOWED)


def prepare(folder: Path) -> None:
    """A model of about 50 million numbers, and rows to train it on."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from limo.data import Example, chat, write_jsonl
    from limo.model import load_tokenizer, model_folder

    tokenizer = load_tokenizer(model_folder("embedded:smollm2-135m-instruct"))
    shape = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 16, "num_attention_heads": 4}
    config = Qwen2Config(**shape, num_key_value_heads=2, vocab_size=len(tokenizer), tie_word_embeddings=True)
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_jsonl(folder / "rows.jsonl", [Example(str(n), chat(f"{n} + 1?"), str(n + 1), f"{n + 1}") for n in range(8)])


def compare(sharding: str, folder: Path, bf16: bool) -> float:
    """Train under a sharding, print a line; returns by what share the plan is off."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), __file__]
    command = [*launch, "--rank-of", sharding, str(folder), *([] if bf16 else ["--float32"])]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    if done.returncode:
        raise SystemExit(f"{sharding} failed: {done.stderr[-6000:]}")
    held = max(json.loads((folder / f"{sharding}.{rank}.json").read_text()) for rank in range(RANKS))
    planned = planned_bytes(sharding, folder, bf16)
    off = planned / held - 1
    print(f"{sharding:<15}{planned / 1e6:>12.1f}{held / 1e6:>10.1f}{off:>+9.1%}", flush=True)
    return off


def section(sharding: str, folder: Path, bf16: bool) -> dict[str, Any]:
    """The settings of the training."""
    return {
        **{
            "out": str(folder / f"{sharding}{bf16}"),
            "model": str(folder / "model"),
            "data": str(folder / "rows.jsonl"),
        },
        **{"dtype": "float32", "system": None, "max_length": 128, "too_long": "stop", "seed": 0, "global_batch": 4},
        **{"pack_tokens": 128, "devices": RANKS, "sharding": sharding},
        "args": {
            **{"max_steps": STEPS, "learning_rate": 1e-5, "bf16": bf16, "activation_checkpointing": False},
            **{"save_strategy": "no", "report_to": "none"},
        },
    }


def planned_bytes(sharding: str, folder: Path, bf16: bool) -> float:
    """What the plan says that a rank holds at its fullest."""
    from limo.recipe import read_settings
    from limo.training.settings import Supervised
    from limo.training.sizes import Work, count_memory, measure_data, measure_model

    settings = read_settings(Supervised, section(sharding, folder, bf16) | {"pack_tokens": TOKENS}, "train")
    work = Work(settings, measure_model(settings), measure_data(settings, 4, TOKENS / 2))
    return count_memory(work, sharding, RANKS)["total"]


def measure(sharding: str, folder: Path, bf16: bool) -> None:
    """Run as one rank: train, and write down the most that it holds."""
    import torch

    from limo.training import fit
    from limo.training.launch import process_group
    from tests.ranks import train

    torch.set_num_threads(1)
    peak, add_callbacks = peak_of(), fit.add_callbacks

    def watch(trainer: Any, *rest: Any) -> Any:
        trainer.add_callback(peak)
        return add_callbacks(trainer, *rest)

    fit.add_callbacks = watch
    with process_group():
        train(section(sharding, folder, bf16))
    (folder / f"{sharding}.{os.environ['RANK']}.json").write_text(json.dumps(peak.bytes))


def peak_of() -> Any:
    """A callback that knows the most bytes of tensors that were held in training: those before it, and allocations."""
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    class Peak(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.before = reachable()
            self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profile.start()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.profile.stop()
            events = self.profile.profiler.kineto_results.events()  # type: ignore[union-attr]
            changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
            self.bytes = self.before + max(accumulate(size for _, size in changes))

    return Peak()


def reachable() -> int:
    """Bytes of all storages of tensors that Python can reach, each counted once."""
    import torch

    gc.collect()
    sizes: dict[int, int] = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor):
            local: Any = found.to_local() if hasattr(found, "to_local") else found
            storage = local.untyped_storage()
            sizes[storage.data_ptr()] = max(sizes.get(storage.data_ptr(), 0), storage.nbytes())
    return sum(sizes.values())


if __name__ == "__main__":
    main()
