"""Numbers that a model in this process gives to a chain: its perplexity, IFD, and the number of a reward model.

Perplexity is exp of the mean negative log-likelihood (NLL), in nats, of the chain's tokens after the prompt:

    s(A|Q) = -1/N sum_i log P(a_i | Q, a_1 ... a_(i-1)),    perplexity = exp(s(A|Q))

Instruction-following difficulty (Li et al., "From Quantity to Quality", arXiv 2308.12032, section 2.2) is the ratio of
the conditioned to the direct answer score, IFD = s(A|Q) / s(A). It is the ratio of mean NLLs, as in the paper and the
authors' `data_by_IFD.py`. Above 1 the problem hinders; they drop such rows as misaligned. That is left to a later
stage.

What the paper leaves open is decided so. Prompt and chain have the ids that training sees (`limo/chat.py`). The end
of the turn is not counted: it is the template's and not the chain's. For s(A), the chain stands after an empty user
turn without a system message: its first token needs something before it to be predicted from.

A reward model is an `AutoModelForSequenceClassification` with one label (Skywork-Reward and others), read at the end of
the conversation as the model's chat template writes it. Such numbers compare chains, first of all those of one problem;
they are no probabilities. Left out: models that bring their own code (ArmoRM) or have several objectives.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.parallel import chunked
from curation.stage import drop, stage
from limo.chat import MARK, completion_ids, encode_text, loss_text, prompt_ids, template_text, turn_end
from limo.data import Example, Message, Row, chat
from limo.errors import UserError
from limo.machine import quiet_deepspeed
from limo.model import load, load_tokenizer, model_folder
from limo.recipe import InputPath

if TYPE_CHECKING:
    import torch

CHUNK = 1000  # rows in memory at once, and sorted by length among themselves
PIECE = 1024  # tokens whose logits are held at once: 600 MB of floats at a vocabulary of 150,000

Ids = tuple[list[int], list[int]]  # of what stands before the tokens that are scored, and of these


@stage("pool", writes=("perplexity", "ifd"), samples=True)
def add_perplexity(
    rows: Iterable[Example], /, *, model: InputPath, dtype: str, batch_size: int, max_length: int
) -> Iterator[Row]:
    """Add `scores.perplexity` and `scores.ifd` of each chain; the module says which form they have.

    Args: `model` as `limo.model.model_folder` takes it, `dtype` of its weights, `batch_size` texts at once (each chain
    is two, with its prompt and without), `max_length` tokens of prompt and chain together; a longer row is dropped,
    never cut. So is a row without a chain, and one whose likelihood is not finite. Goes through `rows` once, a thousand
    at a time. Raises UserError for a model that does not load or has fewer positions than `max_length`.
    """
    loaded, tokenizer = load(model_folder(model), dtype)
    _check_limits("perplexity", loaded, batch_size, max_length)

    def context(messages: Sequence[Message]) -> list[int]:
        # Where a template renders nothing, the end token, which parts texts in pretraining
        return prompt_ids(tokenizer, messages) or [turn_end(tokenizer)]

    nothing = context(chat(""))

    def encode(row: Example) -> Ids:
        return context(row.prompt), completion_ids(tokenizer, loss_text(tokenizer, row))

    def measure(encoded: Sequence[Ids]) -> Iterator[dict[str, float]]:
        given = mean_losses(loaded, encoded, batch_size)
        alone = mean_losses(loaded, [(nothing, chain) for _, chain in encoded], batch_size)
        for nll, direct in zip(given, alone, strict=True):
            yield {"perplexity": math.exp(nll), "ifd": nll / direct if direct else math.nan}

    yield from _score_rows(rows, encode, measure, max_length)


@stage("pool", writes=("reward",), samples=True)
def add_reward(
    rows: Iterable[Example], /, *, model: InputPath, dtype: str, batch_size: int, max_length: int
) -> Iterator[Row]:
    """Add `scores.reward`, the number that a reward model gives to the prompt answered by the chain.

    Args: `model`, a folder or a name on the Hub, `dtype` of its weights, `batch_size` conversations at once,
    `max_length` tokens of a conversation; a longer row is dropped, never cut. So is a row without a chain, and one
    whose reward is not finite. Goes through `rows` once, a thousand at a time. Raises UserError for a model that does
    not load, lacks weights, a chat template or a token to pad with, has several labels or fewer positions than
    `max_length`, or whose template refuses the messages.
    """
    loaded, tokenizer, pad = _load_reward(model_folder(model), dtype)
    _check_limits("reward", loaded, batch_size, max_length)

    def encode(row: Example) -> Ids:
        return [], conversation_ids(tokenizer, row.prompt, row.completion)

    def measure(encoded: Sequence[Ids]) -> Iterator[dict[str, float]]:
        for value in _rewards(loaded, [ids for _, ids in encoded], pad, batch_size):
            yield {"reward": value}

    yield from _score_rows(rows, encode, measure, max_length)


def _score_rows(
    rows: Iterable[Example],
    encode: Callable[[Example], Ids],
    measure: Callable[[Sequence[Ids]], Iterator[dict[str, float]]],
    max_length: int,
) -> Iterator[Row]:
    """Each row with the scores of `measure`, or dropped with the reason."""
    for chunk in chunked(rows, CHUNK):
        encoded = [encode(row) if row.completion.strip() else ([], []) for row in chunk]
        fit = [ids for ids in encoded if ids[1] and len(ids[0]) + len(ids[1]) <= max_length]
        measured = iter(measure(fit) if fit else ())
        for row, (before, ids) in zip(chunk, encoded, strict=True):
            length = len(before) + len(ids)
            if not ids:
                yield drop(row, "no chain")
            elif length > max_length:
                detail = f"{length} tokens; the limit is max_length={max_length}"
                yield drop(row, "too long to score", detail)
            elif all(map(math.isfinite, (scores := next(measured)).values())):
                yield replace(row, scores={**row.scores, **scores})
            else:
                detail = ", ".join(f"{name} {value}" for name, value in scores.items())
                yield drop(row, "cannot be scored", detail)


def mean_losses(model: Any, texts: Sequence[Ids], batch_size: int) -> list[float]:
    """Mean negative log-likelihood, in nats, of each chain's tokens after its context; `texts` are (context, chain).

    No context or chain may be empty. Nothing depends on what shares a batch but the last bits of floating-point sums.
    """
    import torch
    from torch.nn.functional import cross_entropy

    found = [math.nan] * len(texts)
    for batch in _by_length([len(context) + len(chain) for context, chain in texts], batch_size):
        ids, mask = _pad([[*texts[at][0], *texts[at][1]] for at in batch], 0, model.device)
        pieces, cache = [], None
        with torch.inference_mode():
            for start in range(0, ids.shape[1], max(1, PIECE // len(batch))):
                end = start + max(1, PIECE // len(batch))
                seen = {"attention_mask": mask[:, :end], "past_key_values": cache}
                out = model(input_ids=ids[:, start:end], use_cache=True, **seen)
                wanted = ids[:, start + 1 : end + 1]
                logits, cache = out.logits[:, : wanted.shape[1]].float(), out.past_key_values
                pieces.append(cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted))
        for at, losses in zip(batch, torch.cat(pieces, dim=1), strict=True):
            context, chain = texts[at]
            found[at] = losses[len(context) - 1 : len(context) + len(chain) - 1].mean().item()
    return found


def _rewards(model: Any, conversations: Sequence[list[int]], pad: int, batch_size: int) -> list[float]:
    """The reward of each conversation. Nothing depends on what shares a batch but the last bits of sums."""
    import torch

    found = [math.nan] * len(conversations)
    for batch in _by_length([len(ids) for ids in conversations], batch_size):
        ids, mask = _pad([conversations[at] for at in batch], pad, model.device)
        with torch.inference_mode():
            values = model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
        for at, value in zip(batch, values, strict=True):
            found[at] = value
    return found


def _by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Positions in batches of about one length, longest first: what does not fit in memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    return (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def _pad(rows: Sequence[list[int]], pad: int, device: Any) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Ids and attention mask (rows, longest), padded on the right, so that every token keeps its position."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def _check_limits(stage: str, model: Any, batch_size: int, max_length: int) -> None:
    """Raise UserError for an empty batch, or a `max_length` for which the model has not enough positions."""
    if batch_size < 1:
        raise UserError(f"{stage}.batch_size must be at least 1, not {batch_size}")
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and max_length > context:
        raise UserError(f"{stage}.max_length is {max_length}, the model takes {context} tokens")


def _load_reward(folder: Path, dtype: str) -> tuple[Any, Any, int]:
    """(model, tokenizer, id to pad with) of a reward model, on the first GPU if there is one. Raises UserError.

    Weights that are missing make an error: transformers would fill them at random, and so score by chance.
    """
    quiet_deepspeed()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(folder)
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot load the reward model in '{folder}': {str(error).splitlines()[0]}") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise UserError(f"'{folder}' is no reward model that can be used: it has no weights for {missing}")
    if model.config.num_labels != 1:
        raise UserError(f"'{folder}' is no reward model: it has {model.config.num_labels} labels, not one")
    pad = _pad_id(model, tokenizer, folder)
    model.config.get_text_config().pad_token_id = pad
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, pad


def _pad_id(model: Any, tokenizer: Any, folder: Path) -> int:
    """The id to pad with: the model's, else one that ends no conversation. Raises UserError if there is none.

    The model reads its reward at the last token that is not this one. Where its configuration names none, that is the
    last token there is, and must stay so.
    """
    known = range(model.get_input_embeddings().num_embeddings)
    last = conversation_ids(tokenizer, chat("q"), "a")[-1]
    configured = model.config.get_text_config().pad_token_id
    if configured in known:
        return int(configured)
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id):
        if token in known and token != last:
            return int(token)
    raise UserError(f"the reward model in '{folder}' has no token to pad with: set pad_token_id in its config.json")


def conversation_ids(tokenizer: Any, prompt: Sequence[Message], chain: str) -> list[int]:
    """Token ids of a prompt answered by a chain, the end of the last turn included.

    Text of a control token in a message is encoded as ordinary characters: no chain can end its turn and praise itself
    in the next. Raises UserError if the template refuses the messages.
    """
    answer = Message(role="assistant", content=MARK.format(0))
    end = template_text(tokenizer, [*chat("q"), answer], ask=False).rpartition(MARK.format(0))[2]
    answered = [*prompt, Message(role="assistant", content=chain)]
    return [*prompt_ids(tokenizer, answered), *encode_text(tokenizer, end)]
