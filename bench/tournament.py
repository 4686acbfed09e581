"""The controls of `curation/tournament.py`: a planted best choice must be found, and a clean pool must give none.

    python bench/tournament.py FOLDER            # on two idle cores; killed at any time, the same command resumes

A Llama of 0.6M weights on characters learns sums from scratch for some minutes, into FOLDER/model; a training on 96
chains then takes seconds. In the spoiled pool each chain has a copy with a false step, in the clean pool none. The
candidates are the same: chains whose steps hold, and two that choose at random in other words. Expected, and written
before the first run: `checked` beats random in the spoiled pool, and in the clean pool no candidate does.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from curation.tournament import Sizes, Verdict, tournament
from limo.data import replacing
from limo.engines.protocol import Sampling
from limo.errors import reported
from limo.machine import set_environment

STEPS = 2100  # of learning from scratch: about a third of new sums are right then
CHARS = "0123456789+-=\n\\boxed{}"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<end>{% endif %}{% endfor %}"
SIZES = Sizes(
    k=96, fraction=0.5, screen_blocks=2, final_blocks=16, screen_problems=200, final_problems=100, pool_share=0.5
)


def make_sum(rng: random.Random) -> tuple[str, str, int]:
    """A question without its question mark, its worked chain, and its answer."""
    values = [rng.randint(1, 99) for _ in range(rng.choice([2, 3]))]
    question, lines, total = str(values[0]), list[str](), values[0]
    for value in values[1:]:
        sign = rng.choice("+-")
        after = total + value if sign == "+" else total - value
        lines.append(f"{total}{sign}{value}={after}")
        question, total = f"{question}{sign}{value}", after
    return question + "=", "\n".join([*lines, f"\\boxed{{{total}}}"]), total


def make_tokenizer() -> Any:
    """A token for each character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<pad>": 0, "<end>": 1, "<unk>": 2, **{c: i for i, c in enumerate(sorted(set(CHARS)), 3)}}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=TEMPLATE, **special)


def make_model(folder: Path, steps: int) -> None:
    """Train the model from scratch and save it with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer, rng = make_tokenizer(), random.Random(0)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3, "num_attention_heads": 4}
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes, **ends))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * (1 - 0.95 * step / steps)
        texts = [make_sum(rng) for _ in range(64)]
        rows = [(tokenizer(q)["input_ids"], [*tokenizer(c)["input_ids"], 1]) for q, c, _ in texts]
        width = max(len(q) + len(c) for q, c in rows)
        ids = torch.tensor([q + c + [0] * (width - len(q) - len(c)) for q, c in rows])
        labels = torch.tensor([[-100] * len(q) + c + [-100] * (width - len(q) - len(c)) for q, c in rows])
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def choosing(*, checked: bool, by: str) -> dict[str, Any]:
    """The stages of a candidate."""
    first = {"checked": {"_target_": "curation.stages.chains.check_steps", "arithmetic": True}} if checked else {}
    chains = {"_target_": "curation.stages.choose.chains", "by": by, "prefer": "highest", "at_most": 1, "seed": 0}
    return {
        **first,
        "chains": chains,
        "problems": {"_target_": "curation.stages.choose.problems", "k": 1, "by": "random", "seed": 0},
    }


def run(folder: Path, name: str, shares: dict[str, float], sizes: Sizes, problems: int) -> Verdict:
    """One tournament in FOLDER/name, on a pool with these shares of flaws."""
    rng, pool = random.Random(1), folder / f"{name}.jsonl"
    with replacing(pool) as file:
        for question, chain, total in {row[0]: row for row in (make_sum(rng) for _ in range(problems))}.values():
            file.write(json.dumps({"problem": question, "solution": chain, "answer": str(total)}) + "\n")
    stages = {
        "flaws": {"_target_": "curation.stages.flaws.plant_flaws", "shares": shares, "seed": 0},
        "steps": {"_target_": "curation.stages.chains.check_steps", "arithmetic": False},
        "choose": choosing(checked=False, by="random")["problems"],
    }
    curate = {
        "out": str(folder / name),
        "system": "",
        "pool": {"sums": {"_target_": "limo.sources.file", "path": str(pool)}},
        "stages": stages,
        "controls": {"source": "choose", "kinds": [], "seed": 0},
        "pairs": None,
        "budget": {"samples": None, "tokens": None},
    }
    args = {
        "num_train_epochs": 6,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    train = {
        "_target_": "limo.train.sft",
        "model": str(folder / "model"),
        "system": "",
        "max_length": 128,
        "global_batch": 16,
        "dtype": "float32",
        "args": args,
    }
    return tournament(
        out=str(folder / name),
        curate=curate,
        train=train,
        engine={"_target_": "limo.engines.transformers.TransformersEngine", "dtype": "float32", "batch_size": 100},
        sampling=Sampling(n=1, temperature=0.0, top_p=1.0, max_tokens=48, seed=0),
        source="choose",
        candidates={
            "checked": choosing(checked=True, by="random"),
            "any": choosing(checked=False, by="random"),
            "any other": choosing(checked=False, by="steps_true"),
        },
        sizes=sizes,
        margin=0.03,
        apart=False,
        seed=0,
    )


def main() -> None:
    """The command `python bench/tournament.py`."""
    set_environment()
    folder = Path(sys.argv[1])
    if not (folder / "model" / "config.json").exists():
        make_model(folder / "model", STEPS)
    for name, shares in (("spoiled", {"false step": 1.0}), ("clean", {})):
        begun = time.monotonic()
        verdict = run(folder, name, shares, SIZES, 6000)
        print(f"{name} pool: {verdict.sentence} ({time.monotonic() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    with reported():
        main()
