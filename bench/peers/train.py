"""Training speed: ours beside TRL as people run it, and beside LLaMA-Factory where a python with it is named.

    python -m bench.peers.train                                   # on the machine's CPU, or its first GPU
    python -m bench.peers.train --trl padded sorted padding_free packed liger
    python -m bench.peers.train --llamafactory /path/to/venv      # in an environment of its own
    python -m bench.peers.train --model random:1.5B --rows 64 --longest 16384 --packing 16384  # GPU: only a shape

The same rows (chains of mixed length), model, precision and global batch in each; all rows are one batch, so that the
losses of the steps can be compared. TRL gets them as our token ids: padded, which is its default, sorted by length,
without padding, packed by best fit, or without padding and with Liger's kernels (on GPUs); LLaMA-Factory renders them
itself. Each runs in a separate process; rounds alternate, and the median counts. It also prints memory at its
fullest (of the GPU, or of the process), the plan's for a GPU, and, on a GPU, the share of
the peak speed that the model's own arithmetic reaches (MFU).
"""

import argparse
import dataclasses
import json
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limo.machine import set_environment

if TYPE_CHECKING:
    from limo.training.settings import Supervised

set_environment()

TRL: dict[str, dict[str, Any]] = {  # how people run it; best-fit packing is its default where packing is on
    "padded": {},
    "sorted": {"train_sampling_strategy": "group_by_length"},
    "padding_free": {"padding_free": True, "max_length": None},
    "packed": {"packing": True},
    "liger": {"padding_free": True, "max_length": None, "use_liger_kernel": True},
}
SYSTEM = "Solve the problem step by step."
SHAPES: dict[str, dict[str, Any]] = {  # of Qwen2.5, as their configurations have them
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip


def main() -> None:
    """Run the rounds and print the table."""
    options = arguments()
    if options.only:
        way, out, folder, model = options.only
        run = {"ours": ours, "LLaMA-Factory": llamafactory}.get(way, partial(run_trl, way))
        Path(f"{out}.json").write_text(json.dumps(run(Path(out), model, Path(folder), options)))
        return
    if options.rows % options.at_once:
        raise SystemExit("error: --rows must be a multiple of --at-once, or the padded trainers would take fewer rows")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model = shaped(options.model, folder)
        lengths = write_rows(folder / "rows.jsonl", model, options)
        ways = ["ours", *(f"TRL {way}" for way in options.trl), *(["LLaMA-Factory"] if options.llamafactory else [])]
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for number in range(options.rounds):
            for way in ways:
                out = folder / f"{way}{number}"
                subprocess.run([sys.executable, *sys.argv, "--only", way, str(out), str(folder), model], check=True)
                found[way].append(json.loads(Path(f"{out}.json").read_text()))
                shutil.rmtree(out, ignore_errors=True)
                print(f"  round {number + 1}, {way}: {found[way][-1]}", flush=True)
        planned = plan_of(model, lengths, options)
    table(found, lengths, planned, options)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="embedded:smollm2-135m-instruct", help="or a folder, or random:1.5B, random:7B"
    )
    parser.add_argument("--rows", type=int, default=24, help="which are one batch")
    parser.add_argument("--at-once", type=int, default=8, help="rows that the padded trainers take at once")
    parser.add_argument("--median", type=int, default=300, help="tokens of the median chain")
    parser.add_argument("--longest", type=int, default=1600)
    parser.add_argument("--packing", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl", nargs="*", choices=list(TRL), default=["padded"])
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing, which is TRL's default")
    parser.add_argument("--gpu", default="H200", help="as limo/training/sizes.py names it: its peak speed")
    parser.add_argument("--only", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--llamafactory", help="the folder of a virtual environment that has it")
    return parser.parse_args()


def shaped(name: str, folder: Path) -> str:
    """A model of one of the shapes with random weights and the embedded model's tokenizer; or the name as it is."""
    if not name.startswith("random:"):
        return name
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from limo.model import load_tokenizer, model_folder

    shape = SHAPES[name.partition(":")[2]]
    torch.manual_seed(0)
    config = Qwen2Config(**shape, max_position_embeddings=32768, use_sliding_window=False)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "model")
    load_tokenizer(model_folder("embedded:smollm2-135m-instruct")).save_pretrained(folder / "model")
    return str(folder / "model")


def write_rows(file: Path, model: str, options: argparse.Namespace) -> list[int]:
    """Worked problems strung together until each row has its length, which is log-normal; returns all tokens by row."""
    import reasoning_gym

    from limo.data import Example, chat, write_jsonl
    from limo.model import load_tokenizer, model_folder
    from limo.training.rows import prepare

    tokenizer = load_tokenizer(model_folder(model))
    source = random.Random(0)
    problems = iter(reasoning_gym.create_dataset("gsm_symbolic", size=options.rows * 400, seed=0))
    rows = []
    for number in range(options.rows):
        wanted = min(options.longest - 80, source.lognormvariate(math.log(options.median), 0.8))
        text = ""
        while len(tokenizer(text)["input_ids"]) < wanted:
            text += next(problems)["metadata"]["answer_cot"] + "\n"
        ids = tokenizer(text)["input_ids"][: round(wanted)]
        rows.append(Example(str(number), chat("How many are there in all?", SYSTEM), "1", tokenizer.decode(ids)))
    write_jsonl(file, rows)
    return prepare(tokenizer, rows, 10**9).lengths


def shared(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that both trainers get."""
    return {
        "max_steps": options.steps,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "bf16": True,
        "activation_checkpointing": options.recompute,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


def settings_of(out: Path, model: str, folder: Path, options: argparse.Namespace) -> "Supervised":
    """Those of our training."""
    from limo.training.settings import Supervised

    return Supervised(
        out=str(out),
        model=model,
        data=str(folder / "rows.jsonl"),
        dtype="float32",
        system=SYSTEM,
        max_length=options.longest + 200,
        too_long="stop",
        seed=0,
        global_batch=options.rows,
        pack_tokens=options.packing,
        devices=1,
        args=shared(options),
    )


def ours(out: Path, model: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """By limo.train.sft."""
    from limo.train import sft

    results = sft(settings_of(out, model, folder, options))
    log = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    return {"tokens/s": results["tokens_per_second"], "losses": [e["loss"] for e in log], **memory()}


def run_trl(way: str, out: Path, model: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """By TRL's own trainer; the length limit is raised, and what `way` names is set."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from limo.data import read_jsonl
    from limo.model import load_model, load_tokenizer, model_folder
    from limo.training.rows import prepare

    tokenizer = load_tokenizer(model_folder(model))
    prepared = prepare(tokenizer, list(read_jsonl(folder / "rows.jsonl")), 10**9)
    rows = [
        {"input_ids": row.input_ids, "completion_mask": [int(label != -100) for label in row.labels]}
        for row in prepared.rendered
    ]
    gpu = torch.cuda.is_available()
    chosen = TRL[way.removeprefix("TRL ")]
    packed = "packing" in chosen
    settings = {
        "max_length": max(options.packing, options.longest + 200) if packed else options.longest + 200,
        "per_device_train_batch_size": 1 if packed else options.at_once,
        **shared(options),
        **chosen,
    }
    config = SFTConfig(
        output_dir=str(out),
        completion_only_loss=True,  # which it would do by itself with text columns
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        gradient_accumulation_steps=options.rows // options.at_once,
        disable_tqdm=True,
        **settings,
    )
    trainer = SFTTrainer(
        load_model(model_folder(model), "float32"),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    if packed:  # all packs are one batch, as all rows are in the others
        trainer.args.gradient_accumulation_steps = len(trainer.train_dataset)
    tokens = sum(prepared.lengths)
    start = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - start
    losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    return {"tokens/s": round(tokens * options.steps / seconds), "losses": [float(x) for x in losses], **memory()}


def llamafactory(out: Path, model: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """By LLaMA-Factory's command, padded, with the same rows, batch and precision."""
    import torch

    from limo.data import read_jsonl
    from limo.model import model_folder

    rows = list(read_jsonl(folder / "rows.jsonl"))
    data = folder / "llamafactory"
    data.mkdir(exist_ok=True)
    alpaca = [{"instruction": r.question, "system": SYSTEM, "input": "", "output": r.completion} for r in rows]
    (data / "rows.json").write_text(json.dumps(alpaca))
    columns = {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}
    (data / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json", "columns": columns}}))
    settings = {
        "stage": "sft", "do_train": True, "finetuning_type": "full", "model_name_or_path": str(model_folder(model)),
        "dataset": "rows", "dataset_dir": str(data), "template": "chatml", "cutoff_len": options.longest + 200,
        "output_dir": str(out), "overwrite_cache": True, "per_device_train_batch_size": options.at_once,
        "gradient_accumulation_steps": options.rows // options.at_once, "max_steps": options.steps,
        "learning_rate": 1e-5, "lr_scheduler_type": "constant", "bf16": True, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_gradient_checkpointing": not options.recompute,
        "dataloader_pin_memory": False, "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip
    file = folder / "llamafactory.yaml"  # of which JSON is a part
    file.write_text(json.dumps(settings))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"USE_MODELSCOPE_HUB": "0"}
    command = [str(Path(options.llamafactory) / "bin" / "llamafactory-cli"), "train", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"LLaMA-Factory failed: {done.stderr[-2000:]}")
    results = json.loads((out / "train_results.json").read_text())
    log = [json.loads(line) for line in (out / "trainer_log.jsonl").read_text().splitlines()]
    from limo.model import load_tokenizer
    from limo.training.rows import prepare

    tokens = sum(prepare(load_tokenizer(model_folder(model)), rows, 10**9).lengths)
    rate = round(tokens * options.steps / results["train_runtime"])
    return {"tokens/s": rate, "losses": [e["loss"] for e in log if "loss" in e]}


def memory() -> dict[str, Any]:
    """The GPU's memory at its fullest since the last call, in GiB; on a CPU that of the process."""
    import torch

    if not torch.cuda.is_available():
        return {"GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)}
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.empty_cache()
    return {"GiB": round(peak, 1)}


def plan_of(model: str, lengths: list[int], options: argparse.Namespace) -> dict[str, float]:
    """What `limo.training.sizes` says of ours: bytes on a device, and floating point operations of a token."""
    from limo.training.sizes import Data, Work, count_memory, measure_model, seconds_per_step

    folder = Path("unused")
    packed = argparse.Namespace(**{**vars(options), "packing": min(options.packing, sum(lengths))})
    settings = settings_of(folder, model, folder, packed)
    work = Work(settings, measure_model(settings), Data(1, 1, settings.max_length, 1))
    attended = sum(n * n for n in lengths) / sum(lengths)
    args = {**settings.args, "gradient_checkpointing": False, "activation_checkpointing": None}
    once = dataclasses.replace(settings, args=args)
    useful = dataclasses.replace(work, settings=once, data=Data(1, 1, 1, attended))
    return {"bytes": count_memory(work, "ddp", 1)["total"], "operations": seconds_per_step(useful, 1)}


def table(
    found: dict[str, list[dict[str, Any]]], lengths: list[int], planned: dict[str, float], options: argparse.Namespace
) -> None:
    """Medians, ratios first."""
    import torch

    from limo.training.sizes import GPUS

    rates = {name: statistics.median(run["tokens/s"] for run in runs) for name, runs in found.items()}
    half = sorted(lengths)[len(lengths) // 2]
    print(
        f"\n{options.model}, {len(lengths)} chains of {min(lengths)} to {max(lengths)} tokens (median {half}), "
        f"one batch, {options.steps} steps, bf16 over float32, recomputation {'on' if options.recompute else 'off'}, "
        f"{options.rounds} rounds, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    print(f"{'trainer':<18}{'ours is':>10}{'tokens/s':>12}{'  losses of the steps'}")
    for name, runs in found.items():
        ratio = f"{rates['ours'] / rates[name]:.2f} x"
        losses = ", ".join(f"{loss:.4f}" for loss in runs[-1]["losses"])
        used = f", {runs[-1]['GiB']} GiB" if "GiB" in runs[-1] else ""
        if torch.cuda.is_available():
            used += f", {rates[name] * planned['operations'] / GPUS[options.gpu][1]:.1%} MFU"
        print(f"{name:<18}{ratio:>10}{rates[name]:>12,.0f}  {losses}{used}")
    print(f"the plan for ours: {planned['bytes'] / 2**30:.1f} GiB on a GPU")


if __name__ == "__main__":
    main()
