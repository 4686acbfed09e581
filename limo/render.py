"""Messages to token ids, the same for training and sampling.

Training learns exactly the ids that sampling would see and produce: the rendered prompt, the chain's own tokens, and
the token that ends the turn. So a chat template cannot lose a chain of thought, and text that looks like a control
token cannot forge a turn.
"""

from collections.abc import Sequence
from typing import Any

from limo.data import Message
from limo.errors import UserError

MARK = "\ue000{}\ue001"  # private-use characters stand for a message's text while the template is rendered


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a prompt, up to and including the template's start of the assistant's turn.

    Where a message contains the text of a control token, that text is encoded as ordinary characters.
    """
    controls = [str(token) for token in tokenizer.get_added_vocab()]
    if not any(control in m["content"] for m in messages for control in controls):
        return _ids(tokenizer, _rendered(tokenizer, messages))
    marked = [{**m, "content": MARK.format(i)} for i, m in enumerate(messages)]
    rest, ids = _rendered(tokenizer, marked), list[int]()
    for i, message in enumerate(messages):
        before, found, rest = rest.partition(MARK.format(i))
        if not found:
            raise UserError(f"the chat template does not show message {i + 1} ({message['role']}) of a prompt as it is")
        ids += _ids(tokenizer, before) + completion_ids(tokenizer, message["content"])
    return ids + _ids(tokenizer, rest)


def completion_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a chain, without the end of the turn; control tokens in it stay ordinary characters."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def turn_end(tokenizer: Any) -> int:
    """The id of the token that ends an assistant turn in the chat template, for instance that of `<|im_end|>`.

    Where the template ends a turn with none, it is the tokenizer's end token. Raises UserError if there is none either:
    such a model would never learn to stop.
    """
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": MARK.format(0)}]
    after = tokenizer.apply_chat_template(turn, tokenize=False).rpartition(MARK.format(0))[2]
    ids = _ids(tokenizer, after.lstrip()) if after.strip() else []
    if ids and ids[0] in set(tokenizer.get_added_vocab().values()) | set(tokenizer.all_special_ids):
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise UserError("the chat template ends a turn with no control token, and the tokenizer has no end token")
    return int(tokenizer.eos_token_id)


def _rendered(tokenizer: Any, messages: Sequence[Any]) -> str:
    from jinja2 import TemplateError

    try:
        return _render(tokenizer, messages)
    except TemplateError as error:
        roles = ", ".join(m["role"] for m in messages)
        raise UserError(
            f"the chat template refuses messages of {roles}: {error}. Set system= if it takes none"
        ) from error


def _render(tokenizer: Any, messages: Sequence[Any]) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
