"""Tokens a second of the transformers engine beside a plain loop of `generate` over batches of fixed size.

    python -m bench.peers.sample                        # the embedded model: some minutes on two cores
    python -m bench.peers.sample --model tiny-folder --prompts 16 --max-tokens 32 --rounds 1

Both have the same model, precision, prompts, sampling and batch size, and the samples of a prompt stand side by side in
both. The prompts are sums of 2 to 30 terms in random order, so prompts and completions are of mixed lengths; a loop of
batches waits for the longest of each. Rounds alternate, so that other work on the machine meets both; medians count,
and tokens are those up to the end of each completion. The plain loop gets its own best: padding on the left, no
gradients, the library's cache.
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from limo.chat import prompt_ids, turn_end
from limo.console import say
from limo.data import chat
from limo.engines.local import TransformersEngine
from limo.engines.protocol import Prompt, Sampling, sample
from limo.model import load_both, model_folder


def prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Sums as the demo has them, of 2 to 30 terms, mostly short, in random order."""
    draw = random.Random(seed)
    terms = [int(2 + 28 * draw.random() ** 4) for _ in range(count)]
    sums = [" + ".join(str(draw.randint(1, 99)) for _ in range(n)) for n in terms]
    asked = "State the final answer to the following arithmetic problem: {} ="
    return [
        chat(asked.format(text), "Solve the problem step by step. Put the final answer in \\boxed{}.") for text in sums
    ]


def plain(model: Any, tokenizer: Any, asked: Sequence[Prompt], sampling: Sampling, batch_size: int) -> int:
    """The loop that people write. Returns the tokens of all completions."""
    rows = [prompt_ids(tokenizer, prompt) for prompt in asked for _ in range(sampling.n)]
    end, tokens = turn_end(tokenizer), 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([[end] * (width - len(row)) + row for row in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch], device=model.device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_tokens,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=0,
                eos_token_id=end,
                pad_token_id=end,
            )
        for row in out[:, width:].tolist():
            tokens += row.index(end) + 1 if end in row else len(row)
    return tokens


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--n", type=int, default=4, help="samples of each prompt")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    asked = prompts(given.prompts)
    engine = TransformersEngine(model=given.model, dtype=given.dtype, batch_size=given.batch_size)
    model, tokenizer = load_both(model_folder(given.model), given.dtype)
    rates: dict[str, list[float]] = {"engine": [], "plain": []}
    sampling = Sampling(n=1, temperature=0.7, top_p=0.95, max_tokens=4, seed=0)
    sample(engine, asked[:2], sampling)  # loaded and warm, both of them
    plain(model.eval(), tokenizer, asked[:2], sampling, given.batch_size)
    for number in range(given.rounds):
        sampling = Sampling(given.n, 0.7, 0.95, given.max_tokens, seed=number)
        for name in ("engine", "plain") if number % 2 == 0 else ("plain", "engine"):
            torch.manual_seed(number)
            begun = time.perf_counter()
            if name == "engine":
                tokens = sum(c.tokens for row in sample(engine, asked, sampling) for c in row)
            else:
                tokens = plain(model, tokenizer, asked, sampling, given.batch_size)
            seconds = time.perf_counter() - begun
            rates[name].append(tokens / seconds)
            say(f"round {number + 1}: {name:<6} {tokens:>7,} tokens in {seconds:6.1f} s, {tokens / seconds:7.1f}/s")
    mid = {name: statistics.median(found) for name, found in rates.items()}
    lengths = [len(prompt_ids(tokenizer, prompt)) for prompt in asked]
    print(f"{mid['engine'] / mid['plain']:.2f} times the tokens/s of plain generate (medians of {given.rounds} rounds)")
    for name, found in rates.items():
        print(f"  {name:<6} {mid[name]:8.1f} tokens/s   ({', '.join(f'{rate:.1f}' for rate in found)})")
    where = "GPU" if model.device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(
        f"  {given.prompts} prompts of {min(lengths)} to {max(lengths)} tokens, {given.n} samples each up to "
        f"{given.max_tokens}, batch {given.batch_size}, {given.dtype}, {where}"
    )


if __name__ == "__main__":
    main()
