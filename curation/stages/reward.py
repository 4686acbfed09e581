"""Scores each step of a chain with a process reward model, and adds the same scores as `check_steps` for equations.

Such a model is a language model that was trained to answer every step, which is a user turn, with one mark: `+` if the
step is right and `-` if not. The first turn is the problem and the first step. p_i is the probability of the mark for
right after step i, with all steps before it marked as right.

| score | definition |
|---|---|
| steps_true, steps_false | number of steps with a p_i of at least a half, and below |
| reward | the smallest p_i of the chain: a chain is as good as its worst step (arXiv 2312.08935, section 3.4) |

Left out: models with a separate head, which need remote code, and the probability among the two marks alone.
"""

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from typing import Any

from pydantic import PositiveInt

from curation.parallel import chunked
from curation.stage import drop, stage
from curation.stages.chains import split_steps
from curation.stages.likelihood import CHUNK
from curation.stages.measure import Kept, load_measure
from limo.chat import completion_ids, prompt_ids
from limo.console import progress
from limo.data import Example, Message, Row, content_id
from limo.errors import UserError
from limo.machine import cache_folder
from limo.recipe import InputPath


@stage(
    "pool",
    writes=("steps_true", "steps_false", "reward"),
    samples=True,
    better={"steps_true": "higher", "steps_false": "lower", "reward": "higher"},
)
def reward_steps(
    rows: Iterable[Example],
    /,
    *,
    model: InputPath,
    dtype: str,
    batch_size: PositiveInt,
    max_length: int,
    right: str = "+",
    server: str | None = None,
    api_key_env: str | None = None,
) -> Iterator[Row]:
    """Add `steps_true`, `steps_false` and `reward` (see the module's table) of each chain.

    Args: `right` is the mark for right, one token; the others as in `likelihood.add_fit`, with the reward model as
    `model`. Each finished score is kept in the cache. A chain that is empty or longer than `max_length` with its marks
    is dropped. Raises UserError for a mark of several tokens, and for a template that changes earlier turns.
    """
    tokenizer, name, measure = load_measure(model, dtype, batch_size, max_length, server, api_key_env)
    mark = completion_ids(tokenizer, right)
    if len(mark) != 1:
        raise UserError(f"reward: the mark {right!r} is {len(mark)} tokens of '{model}': give one that is a token")
    kept = Kept(cache_folder() / "fit" / f"{content_id([name, 'reward'], 16)}.jsonl")
    with progress("reward", len(rows) if isinstance(rows, Sized) else None, "chain") as advance:
        for chunk in chunked(rows, CHUNK):
            asked = [marked_steps(tokenizer, row, right, mark[0], max_length) for row in chunk]
            keys = [content_id(ids, 16) for ids, _ in asked]
            missing = {
                key: (ids, places)
                for key, (ids, places) in zip(keys, asked, strict=True)
                if places and len(ids) <= max_length and key not in kept.scores
            }
            found = measure([(ids[: places[0]], ids[places[0] :]) for ids, places in missing.values()])
            kept.add(
                {
                    key: _scores([math.exp(-fit.nll[at - places[0]]) for at in places])
                    for (key, (_, places)), fit in zip(missing.items(), found, strict=True)
                }
            )
            for row, key, (ids, places) in zip(chunk, keys, asked, strict=True):
                if not places:
                    yield drop(row, "no chain")
                elif len(ids) > max_length:
                    yield drop(row, "too long to score", f"the limit is max_length={max_length} tokens")
                else:
                    yield replace(row, scores={**row.scores, **kept.scores[key]})
            advance(len(chunk))


def marked_steps(tokenizer: Any, row: Example, right: str, mark: int, most: int) -> tuple[list[int], list[int]]:
    """The token ids of the problem and the steps, with a mark after each step, and the positions of the marks. Empty
    for an empty chain.

    Stops soon after `most` ids: each step renders the whole conversation so far, which is slow for very many steps.
    """
    messages, ids, places = list[Message](), list[int](), list[int]()
    for step in filter(None, map(str.strip, split_steps(row.completion))):
        asked = step if messages else f"{row.question} {step}"
        messages.append(Message(role="user", content=asked))
        prompt = prompt_ids(tokenizer, messages)
        if prompt[: len(ids)] != ids:
            raise UserError("reward: the chat template changes earlier turns, so steps cannot be marked in one pass")
        ids, places = [*prompt, mark], [*places, len(prompt)]
        if len(ids) > most:
            break
        messages.append(Message(role="assistant", content=right))
    return ids, places


def _scores(likely: Sequence[float]) -> dict[str, float]:
    true = sum(p >= 0.5 for p in likely)
    return {
        "steps_true": float(true),
        "steps_false": float(len(likely) - true),
        "reward": round(min(likely), 6),
    }
