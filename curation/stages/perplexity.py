"""How likely a chain is to a model: its perplexity, and how much the problem helps to foresee it.

Perplexity is exp of the mean negative log-likelihood (NLL), in nats, of the chain's tokens after the prompt:

    s(A|Q) = -1/N sum_i log P(a_i | Q, a_1 ... a_(i-1)),    perplexity = exp(s(A|Q))

Instruction-following difficulty (Li et al., "From Quantity to Quality", arXiv 2308.12032, section 2.2) is the ratio of
the conditioned to the direct answer score, IFD = s(A|Q) / s(A). It is the ratio of mean NLLs, as in the paper and the
authors' `data_by_IFD.py`, and not that of perplexities, which the same authors take in a later paper. Above 1 the
problem hinders; they set such rows aside as misaligned. That is left to a later stage.

What the paper leaves open is decided so. Prompt and chain have the ids that training sees (`limo/chat.py`). The end
of the turn is not counted: it is the template's and not the chain's, and a model that was never taught the template
would make short chains look unlikely by that one token. For s(A), the chain stands after an empty user turn without a
system message: its first token needs something before it to be foreseen from; every template can render such a turn;
and nothing is taken away but the instruction. The authors do nearly that: they leave the header `### Response:`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any

from curation.stage import stage
from limo.chat import completion_ids, loss_text, prompt_ids, turn_end
from limo.data import Dropped, Example, Message, Row, chat
from limo.errors import UserError
from limo.model import load, model_folder
from limo.parallel import chunked
from limo.recipe import InputPath

if TYPE_CHECKING:
    import torch

CHUNK = 1000  # rows in memory at once, and sorted by length among themselves
PIECE = 1024  # tokens whose logits are held at once: 600 MB of floats at a vocabulary of 150,000


@stage("pool", writes=("perplexity", "ifd"), samples=True)
def add_perplexity(
    rows: Iterable[Example], /, *, model: InputPath, dtype: str, batch_size: int, max_length: int
) -> Iterator[Row]:
    """Add `scores.perplexity` and `scores.ifd` of each chain; the module says which form they have.

    Args: `model` as `limo.model.model_folder` takes it, `dtype` of its weights, `batch_size` texts at once (each chain
    is two, with its prompt and without), `max_length` tokens of prompt and chain together; a longer row is dropped,
    never cut. So is a row without a chain, and one whose likelihood is no number. Goes through `rows` once, a thousand
    at a time. Raises UserError for a model that does not load or has fewer positions than `max_length`.
    """
    loaded, tokenizer = load(model_folder(model), dtype)
    check_limits("perplexity", loaded, batch_size, max_length)
    nothing = _context(tokenizer, chat(""))
    for chunk in chunked(rows, CHUNK):
        pairs = [
            (_context(tokenizer, row.prompt), completion_ids(tokenizer, loss_text(tokenizer, row))) for row in chunk
        ]
        lengths = [len(chain) and max(len(prompt), len(nothing)) + len(chain) for prompt, chain in pairs]
        unfit = [why_not(row, length, max_length) for row, length in zip(chunk, lengths, strict=True)]
        fit = [pair for pair, why in zip(pairs, unfit, strict=True) if why is None]
        given = iter(mean_losses(loaded, fit, batch_size))
        alone = iter(mean_losses(loaded, [(nothing, chain) for _, chain in fit], batch_size))
        for row, why in zip(chunk, unfit, strict=True):
            yield why or _scored(row, next(given), next(alone))


def _context(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The ids of a prompt. Where a template makes none of it, the end token, which parts texts in pretraining."""
    return prompt_ids(tokenizer, messages) or [turn_end(tokenizer)]


def _scored(row: Example, given: float, alone: float) -> Row:
    """The row with both scores, from its mean NLL after the prompt and alone."""
    if not (math.isfinite(given) and 0 < alone < math.inf):
        detail = f"mean negative log-likelihood: {given} after the prompt, {alone} alone"
        return Dropped(row.id, "", "cannot be scored", detail, data=row.to_json())
    return replace(row, scores={**row.scores, "perplexity": math.exp(given), "ifd": given / alone})


def mean_losses(model: Any, pairs: Sequence[tuple[list[int], list[int]]], batch_size: int) -> list[float]:
    """Mean negative log-likelihood, in nats, of each chain's tokens after its context; `pairs` are (context, chain).

    No context or chain may be empty. Nothing depends on what shares a batch but the last bits of floating-point sums.
    """
    found = [math.nan] * len(pairs)
    for batch in by_length([len(context) + len(chain) for context, chain in pairs], batch_size):
        for at, loss in zip(batch, _batch_losses(model, [pairs[at] for at in batch]), strict=True):
            found[at] = loss
    return found


def _batch_losses(model: Any, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """As `mean_losses`, in one batch. Only states from which a chain's token is foreseen go on to the vocabulary."""
    import torch
    from torch.nn.functional import cross_entropy

    ids, mask = padded([context + chain for context, chain in pairs], 0, model.device)
    foresees = torch.zeros_like(mask, dtype=torch.bool)
    for row, (context, chain) in enumerate(pairs):
        foresees[row, len(context) - 1 : len(context) + len(chain) - 1] = True
    with torch.inference_mode():
        hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        states, wanted = hidden[foresees], ids.roll(-1, 1)[foresees]
        pieces = [slice(start, start + PIECE) for start in range(0, len(wanted), PIECE)]
        losses = torch.cat(
            [cross_entropy(logits(model, states[p]).float(), wanted[p], reduction="none") for p in pieces]
        )
    each = iter(losses.tolist())
    return [fmean(islice(each, len(chain))) for _, chain in pairs]


def logits(model: Any, states: "torch.Tensor") -> "torch.Tensor":
    """The model's logits (n, vocabulary) for the last hidden states (n, width) of its body.

    The output layer alone would be wrong for models that scale or cap what comes out of it (Granite, Gemma 2). So the
    whole model runs, on a single token, and its body's result is exchanged on the way.
    """

    def exchange(_body: Any, _inputs: Any, output: Any) -> Any:
        output.last_hidden_state = states[None]
        return output

    hook = model.get_decoder().register_forward_hook(exchange)
    try:
        found: torch.Tensor = model(input_ids=states.new_zeros(1, 1).long(), use_cache=False).logits[0]
    finally:
        hook.remove()
    assert len(found) == len(states), f"{type(model).__name__} gave {len(found)} logits for {len(states)} states"
    return found


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Positions in batches of about one length, longest first: what does not fit in memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    return (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def padded(rows: Sequence[list[int]], pad: int, device: Any) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Ids and attention mask (rows, longest), padded on the right, so that every token keeps its position."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def why_not(row: Example, length: int, max_length: int) -> Dropped | None:
    """The dropped row, if it has no chain (`length` 0 tokens, or blank) or is longer than the limit; else None."""
    if not length or not row.completion.strip():
        return Dropped(row.id, "", "no chain", "", data=row.to_json())
    if length > max_length:
        detail = f"{length} tokens; the limit is max_length={max_length}"
        return Dropped(row.id, "", "too long to score", detail, data=row.to_json())
    return None


def check_limits(stage: str, model: Any, batch_size: int, max_length: int) -> None:
    """Raise UserError for an empty batch, or a `max_length` for which the model has not enough positions."""
    if batch_size < 1:
        raise UserError(f"{stage}.batch_size must be at least 1, not {batch_size}")
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and max_length > context:
        raise UserError(f"{stage}.max_length is {max_length}, the model takes {context} tokens")
