"""A Llama of 0.6M weights that learns sums from scratch in minutes: for controls in which a training takes seconds.

A token is a character, or a whole word of the texts that some method adds ("Wait", " again"). At temperature 1 it
is right on 89 % of new sums after 2,600 steps and on 95 % after 3,600, some six minutes on two idle cores.
"""

import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CHARS = "0123456789+-*=?#.,:;!()'\" \n\\{}abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<end>{% endif %}{% endfor %}"
ENGINE = {"_target_": "limo.engines.local.TransformersEngine", "dtype": "float32", "batch_size": 100}


def make_chain(values: list[int], signs: list[str]) -> tuple[str, int]:
    """A sum worked out with running totals, a line a step, and its answer."""
    lines, total = list[str](), values[0]
    for value, sign in zip(values[1:], signs, strict=True):
        after = total + value if sign == "+" else total - value
        lines.append(f"{total}{sign}{value}={after}")
        total = after
    return "\n".join([*lines, f"\\boxed{{{total}}}"]), total


def make_sum(rng: random.Random, terms: tuple[int, ...] = (2, 3)) -> tuple[str, str, int]:
    """A question without its question mark, its worked chain, and its answer."""
    values = [rng.randint(1, 99) for _ in range(rng.choice(terms))]
    signs = [rng.choice("+-") for _ in values[1:]]
    question = str(values[0]) + "".join(sign + str(v) for sign, v in zip(signs, values[1:], strict=True))
    return question + "=", *make_chain(values, signs)


def make_tokenizer(texts: Iterable[str] = ()) -> Any:
    """A token for each character, and for each word of three letters or more in `texts`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in re.findall(r" ?[A-Za-z]{3,}", text)} - {"boxed"})
    names = ["<pad>", "<end>", "<unk>", *dict.fromkeys(CHARS), *words]
    split = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    made = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token="<unk>"))
    pattern = rf"(?:{split})(?![A-Za-z])|[\s\S]" if words else r"[\s\S]"
    made.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    made.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=TEMPLATE, **special)


def draw_sum(rng: random.Random) -> tuple[str, str]:
    """A question with its worked chain."""
    question, chain, _ = make_sum(rng)
    return question, chain


def make_model(
    folder: Path,
    steps: int,
    texts: Iterable[str] = (),
    draw: Callable[[random.Random], tuple[str, str]] = draw_sum,
) -> None:
    """Train the model from scratch on what `draw` gives and save it with its tokenizer, unless it is there."""
    if (folder / "config.json").exists():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer, rng = make_tokenizer(texts), random.Random(0)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3, "num_attention_heads": 4}
    ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes, **ends))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * (1 - 0.95 * step / steps)
        rows = [(tokenizer(q)["input_ids"], [*tokenizer(c)["input_ids"], 1]) for q, c in (draw(rng) for _ in range(64))]
        width = max(len(q) + len(c) for q, c in rows)
        ids = torch.tensor([q + c + [0] * (width - len(q) - len(c)) for q, c in rows])
        labels = torch.tensor([[-100] * len(q) + c + [-100] * (width - len(q) - len(c)) for q, c in rows])
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
