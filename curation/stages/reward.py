"""What a reward model thinks of a chain: one number, higher is better, on the model's own scale.

For models of the usual kind (Skywork-Reward and others): `AutoModelForSequenceClassification` with one label, read at
the end of the conversation as the model's chat template writes it. Such numbers compare chains, first of all those of
one problem; they are no probabilities. Left out: models with code of their own (ArmoRM) and with several objectives.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from curation.stage import stage
from curation.stages.perplexity import CHUNK, by_length, check_limits, padded, why_not
from limo.chat import MARK, completion_ids
from limo.data import Dropped, Example, Message, Row
from limo.errors import UserError
from limo.machine import quiet_deepspeed
from limo.model import load_tokenizer, model_folder
from limo.parallel import chunked
from limo.recipe import InputPath


@stage("pool", writes=("reward",), samples=True)
def add_reward(
    rows: Iterable[Example], /, *, model: InputPath, dtype: str, batch_size: int, max_length: int
) -> Iterator[Row]:
    """Add `scores.reward`, the number that a reward model gives to the prompt answered by the chain.

    Args: `model`, a folder or a name on the Hub, `dtype` of its weights, `batch_size` conversations at once,
    `max_length` tokens of a conversation; a longer row is dropped, never cut. So is a row without a chain, and one
    whose reward is no number. Goes through `rows` once, a thousand at a time. Raises UserError for a model that does
    not load, lacks weights, a chat template or a token to pad with, has several labels or fewer positions than
    `max_length`, or whose template refuses the messages.
    """
    loaded, tokenizer, pad = load_reward(model_folder(model), dtype)
    check_limits("reward", loaded, batch_size, max_length)
    for chunk in chunked(rows, CHUNK):
        conversations = [conversation_ids(tokenizer, _messages(row)) for row in chunk]
        unfit = [why_not(row, len(ids), max_length) for row, ids in zip(chunk, conversations, strict=True)]
        fit = [ids for ids, why in zip(conversations, unfit, strict=True) if why is None]
        values = iter(rewards(loaded, fit, pad, batch_size))
        for row, why in zip(chunk, unfit, strict=True):
            yield why or _scored(row, next(values))


def _messages(row: Example) -> list[Message]:
    return [*row.prompt, Message(role="assistant", content=row.completion)]


def _scored(row: Example, value: float) -> Row:
    if not math.isfinite(value):
        return Dropped(row.id, "", "cannot be scored", f"the reward is {value}", data=row.to_json())
    return replace(row, scores={**row.scores, "reward": value})


def rewards(model: Any, conversations: Sequence[list[int]], pad: int, batch_size: int) -> list[float]:
    """The reward of each conversation. Nothing depends on what shares a batch but the last bits of sums."""
    import torch

    found = [math.nan] * len(conversations)
    for batch in by_length([len(ids) for ids in conversations], batch_size):
        ids, mask = padded([conversations[at] for at in batch], pad, model.device)
        with torch.inference_mode():
            values = model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
        for at, value in zip(batch, values, strict=True):
            found[at] = value
    return found


def load_reward(folder: Path, dtype: str) -> tuple[Any, Any, int]:
    """(model, tokenizer, id to pad with) of a reward model, on the first GPU if there is one. Raises UserError.

    Weights that are missing make an error: transformers would fill them at random, and so score by chance.
    """
    quiet_deepspeed()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    tokenizer = load_tokenizer(folder)
    disable_progress_bar()
    try:
        model, told = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot load the reward model in '{folder}': {str(error).splitlines()[0]}") from error
    if told["missing_keys"]:
        missing = ", ".join(sorted(told["missing_keys"])[:3])
        raise UserError(f"'{folder}' is no reward model that can be used: it has no weights for {missing}")
    if model.config.num_labels != 1:
        raise UserError(f"'{folder}' is no reward model: it has {model.config.num_labels} labels, not one")
    pad = _pad(model, tokenizer, folder)
    model.config.get_text_config().pad_token_id = pad
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, pad


def _pad(model: Any, tokenizer: Any, folder: Path) -> int:
    """The id to pad with: the model's, else one that ends no conversation. Raises UserError if there is none.

    The model reads its reward at the last token that is not this one. Where its configuration names none, that is the
    last token there is, and must stay so.
    """
    known = range(model.get_input_embeddings().num_embeddings)
    configured = model.config.get_text_config().pad_token_id
    if configured in known:
        return int(configured)
    said = [Message(role="user", content="q"), Message(role="assistant", content="a")]
    last = conversation_ids(tokenizer, said)[-1]
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id):
        if token in known and token != last:
            return int(token)
    raise UserError(f"the reward model in '{folder}' has no token to pad with: set pad_token_id in its config.json")


def conversation_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a whole conversation as the chat template writes it, the end of the last turn included.

    Text of a control token in a message is encoded as ordinary characters, as in `limo.chat.prompt_ids`: no chain
    can end its turn and praise itself in the next. Raises UserError if the template refuses the messages.
    """
    controls = [str(token) for token in tokenizer.get_added_vocab()]
    if not any(control in m["content"] for m in messages for control in controls):
        return _ids(tokenizer, _rendered(tokenizer, messages))
    marked = [Message(role=m["role"], content=MARK.format(i)) for i, m in enumerate(messages)]
    # Template, number of a message, template, number ...
    pieces = re.split(MARK.format(r"(\d+)"), _rendered(tokenizer, marked))
    if [int(i) for i in pieces[1::2]] != list(range(len(messages))):
        raise UserError("the chat template of the reward model does not show each message once, in order")
    ids = _ids(tokenizer, pieces[0])
    for message, after in zip(messages, pieces[2::2], strict=True):
        ids += completion_ids(tokenizer, message["content"]) + _ids(tokenizer, after)
    return ids


def _rendered(tokenizer: Any, messages: Sequence[Message]) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False))
    except TemplateError as error:
        roles = ", ".join(m["role"] for m in messages)
        raise UserError(f"the chat template of the reward model refuses messages of {roles}: {error}") from error


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
