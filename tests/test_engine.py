"""The local engine equals the library; order and economy of a stream. What all engines promise: test_engines.py."""

from collections.abc import Iterator
from pathlib import Path

import torch

from limo.chat import prompt_ids
from limo.data import chat
from limo.engines.local import TransformersEngine, sample_tokens
from limo.engines.protocol import OPEN, Completion, Prompt, Sampling, Scripted, sample, stream
from limo.model import load_both

GREEDY = Sampling(n=1, temperature=0, top_p=1, max_tokens=12, seed=0)
WARM = Sampling(n=3, temperature=1.0, top_p=0.9, max_tokens=12, seed=0)
PROMPTS = [chat(f"Question number {i}: {'why ' * (i % 5)}?", "Answer.") for i in range(12)]


def engine(tiny: Path, batch_size: int = 4) -> TransformersEngine:
    return TransformersEngine(model=str(tiny), dtype="float32", batch_size=batch_size)


def texts(done: list[list[Completion]]) -> list[list[str]]:
    return [[c.text for c in completions] for completions in done]


def test_greedy_equals_the_library_s_generate(tiny: Path) -> None:
    model, tokenizer = load_both(tiny, "float32")
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt_ids(tokenizer, prompt)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[
            0, ids.shape[1] :
        ].tolist()
        cut = out[: out.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in out else out
        expected.append([tokenizer.decode(cut, clean_up_tokenization_spaces=False)])
    assert texts(sample(engine(tiny), PROMPTS, GREEDY)) == expected


def test_choose_inverts_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.3]]))

    def at(u: float, top_p: float) -> int:
        return int(sample_tokens(logits, torch.tensor([u]), 1.0, top_p)[0])

    assert [at(u, 1.0) for u in (0.0, 0.49, 0.51, 0.69, 0.71, 0.999)] == [0, 0, 1, 1, 2, 2]
    # the nucleus of 0.8 is {0.5, 0.3}, so 0.5/0.8 = 0.625 is where the second begins
    assert [at(u, 0.79) for u in (0.0, 0.62, 0.63, 0.999)] == [0, 0, 2, 2]
    assert at(0.999, 0.4) == 0
    assert int(sample_tokens(logits, torch.tensor([0.9]), 0.0, 1.0)[0]) == 0


def test_a_stream_is_in_order_and_reads_no_further_than_it_must() -> None:
    read = []

    def wanted() -> Iterator[tuple[Prompt, int]]:
        for at in range(3 * OPEN):
            read.append(at)
            yield chat(str(at)), at % 3

    got = stream(Scripted(lambda q, i: f"{q}.{i}", batch_size=7), wanted(), WARM)
    assert [c.text for c in next(got)] == [] and [c.text for c in next(got)] == ["1.0"]
    assert len(read) < 20
    rest = [[c.text for c in completions] for completions in got]
    assert (
        rest[0] == ["2.0", "2.1"] and len(rest) == 3 * OPEN - 2 and rest[-1] == [f"{3 * OPEN - 1}.{i}" for i in (0, 1)]
    )
    nothing = list(stream(Scripted(lambda q, i: ""), ((chat("x"), 0) for _ in range(2 * OPEN)), WARM))
    assert nothing == [[]] * (2 * OPEN)


def test_a_token_of_probability_0_is_never_sampled() -> None:
    """In float32 the uniform times the total may round up to the total, past the last token that has any mass."""
    logits = torch.full((1, 8), float("-inf"))
    logits[0, :3] = 0.0
    for top_p in (1.0, 0.9):
        for uniform in (0.99999999, 1 - 2**-25, 0.9999999403953552, 0.0):
            token = int(sample_tokens(logits, torch.tensor([uniform]), 1.0, top_p))
            assert token < 3, (top_p, uniform)
