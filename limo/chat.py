"""Converts messages to token ids, in the same way for training and sampling.

    set_template(tokenizer, None)         # or "chatml", or a .jinja file
    input_ids, labels = render(tokenizer, row)

Training uses exactly the ids that sampling sees and produces: the rendered prompt, the chain's own tokens, and the
token that ends the turn. The chat template renders the prompt only, so it cannot drop a chain of thought, and text that
looks like a control token cannot forge a turn. `limo/training/audit.py` checks the result.

Not covered: templates that put a chain of thought into a separate message (channels), and tools.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, wraps
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from limo.data import Example, Message, Row, read_text
from limo.errors import UserError
from limo.rendering import TemplateRefused, render_ahead, render_template

MARK = "\ue000{}\ue001"  # private-use characters stand for a message's text while the template is rendered
CHUNK = 256  # prompts that are rendered at once
MASKED = -100  # the label of a token outside the loss
OPEN, CLOSE = "<think>", "</think>"
CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# Padding tokens, and tokens without a meaning in a chat; the first that a tokenizer has is used
PADS = "<|fim_pad|> <|finetune_right_pad_id|> <pad> <｜▁pad▁｜> <unk> [PAD] <|endoftext|>".split()

_OPENED = re.compile(rf"{OPEN}(\s*)\Z")
_OPENS = re.compile(rf"\s*{OPEN}")
_PRIVATE = [chr(code) for code in range(0xE002, 0xF900)]
_T = TypeVar("_T")


class Rendered(NamedTuple):
    """The token ids of one row, and which of them are in the loss."""

    input_ids: list[int]
    labels: list[int]  # the same ids for loss tokens, MASKED on the prompt


def render(tokenizer: Any, row: Example) -> Rendered:
    """Render a row to token ids: prompt, chain, and end of turn. The chain and the end of turn are in the loss.

    Where the prompt ends with an open think block, the chain's own opening tag is removed; where it ends with a turn
    that the assistant has begun, the chain continues it.
    """
    if row.prompt[-1]["role"] == "assistant":
        asked, text = prompt_ids(tokenizer, row.prompt), row.completion
    else:
        pieces = _split_prompt(tokenizer, row.prompt)
        asked, text = _join_ids(tokenizer, pieces), _drop_opening_tag(pieces[-1], row.completion)
    learned = [*completion_ids(tokenizer, text), turn_end(tokenizer)]
    return Rendered(asked + learned, [MASKED] * len(asked) + learned)


def loss_text(tokenizer: Any, row: Example) -> str:
    """The text of the loss tokens: the completion, without its opening think tag if the prompt already ends
    with one.
    """
    if row.prompt[-1]["role"] == "assistant":
        return row.completion
    return _drop_opening_tag(_split_prompt(tokenizer, row.prompt)[-1], row.completion)


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a prompt, up to and including the template's start of the assistant's turn.

    If a message contains the text of a control token, it is encoded as ordinary characters. If the last message is the
    assistant's, it is an unfinished turn that the model continues: its text follows the start of the turn, as in
    training, and the turn is not ended.
    """
    begun = messages and messages[-1]["role"] == "assistant"
    pieces = _split_prompt(tokenizer, messages[:-1] if begun else messages)
    text = _drop_opening_tag(pieces[-1], messages[-1]["content"]) if begun else ""
    return _join_ids(tokenizer, pieces) + (completion_ids(tokenizer, text) if begun else [])


def carry_opening(tokenizer: Any, messages: Sequence[Message], text: str) -> str:
    """Complete the text that a model generated: if the rendered prompt ends with an opening think tag, put that tag in
    front.

    The templates of R1-Distill, QwQ and Qwen3.5 end the prompt with `<think>`, so the model generates only the closing
    tag.
    """
    if messages[-1]["role"] == "assistant" or _OPENS.match(text):
        return text
    opened = _OPENED.search(_split_prompt(tokenizer, messages)[-1])
    return opened[0] + text if opened else text


def completion_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a chain, without the end of the turn; control tokens in it stay ordinary characters.

    `<think>` and other added tokens that no template writes around a message stay tokens, as the model produces them.
    """
    text, gap = _split_controls(tokenizer, text, text)
    return _join_ids(tokenizer, text.split(gap))


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text without BOS or end token; control tokens in it are control tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def template_text(tokenizer: Any, messages: Sequence[Any], ask: bool = True) -> str:
    """The text that the chat template renders; with `ask`, up to the start of the assistant's turn."""
    try:
        return render_template(tokenizer.get_chat_template(), messages, ask, _named_tokens(tokenizer))
    except TemplateRefused as error:
        roles = ", ".join(m["role"] for m in messages)
        raise UserError(
            f"the chat template refuses messages of {roles}: {error}. Set system= if it takes no system message"
        ) from error


def _named_tokens(tokenizer: Any) -> dict[str, str]:
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items()}


def in_chunks(tokenizer: Any, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows unchanged. Before each group of CHUNK rows their prompts are rendered together, which is
    faster.
    """
    left = iter(rows)
    while chunk := list(islice(left, CHUNK)):
        prepare_prompts(tokenizer, [row.prompt for row in chunk if isinstance(row, Example)])
        yield from chunk


def prepare_prompts(tokenizer: Any, prompts: Iterable[Sequence[Message]]) -> None:
    """Render the prompts that are needed next, in a single request to the rendering process."""
    asked = [list(p[:-1] if p and p[-1]["role"] == "assistant" else p) for p in prompts]
    if len(asked) > 1:
        render_ahead(tokenizer.get_chat_template(), asked, True, _named_tokens(tokenizer))


def of_template(function: Callable[..., _T]) -> Callable[..., _T]:
    """Cache a function of a tokenizer until the tokenizer's template or tokens change."""

    @lru_cache(maxsize=64)
    def kept(_: Any, *args: Any) -> _T:
        return function(*args)

    @wraps(function)
    def remembered(tokenizer: Any, *args: Any) -> _T:
        state = (str(tokenizer.chat_template), len(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id)
        return kept(state, tokenizer, *args)

    return remembered


@of_template
def turn_end(tokenizer: Any) -> int:
    """The id of the token that ends an assistant turn in the chat template, or else the tokenizer's end token."""
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": MARK.format(0)}]
    _, shown, after = template_text(tokenizer, turn, ask=False).rpartition(MARK.format(0))
    ids = encode_text(tokenizer, after.lstrip()) if shown and after.strip() else []
    if ids and ids[0] in set(tokenizer.get_added_vocab().values()) | set(tokenizer.all_special_ids):
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise UserError("the chat template ends a turn with no control token, and the tokenizer has no end token")
    return int(tokenizer.eos_token_id)


@of_template
def controls(tokenizer: Any) -> dict[int, str]:
    """Id and text of the tokens that no message may forge: special ones, and those that the template writes.

    Those that the template writes must be found separately, since some models declare the tokens that begin a turn as
    ordinary ones. Think tags are not control tokens, since chains contain them.
    """
    added = {int(i): str(token.content) for i, token in tokenizer.added_tokens_decoder.items()}
    special = {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    written = set(_conversation(tokenizer)) & set(added)
    found = {i: added[i] for i in special | written} | {int(i): str(text) for i, text in named.items()}
    return {i: text for i, text in sorted(found.items()) if text not in (OPEN, CLOSE) and len(text.strip()) > 1}


def set_template(tokenizer: Any, template: str | None) -> None:
    """Choose the chat template: None keeps the tokenizer's, "chatml" is plain ChatML, any other text a .jinja file."""
    from jinja2 import TemplateSyntaxError

    before = tokenizer.chat_template
    if template is None:
        if not before:
            raise UserError("the tokenizer has no chat template: name one, chat_template=chatml or a .jinja file")
        return
    chatml = "{{- bos_token }}\n" * prepends_bos(tokenizer) + CHATML
    tokenizer.chat_template = chatml if template == "chatml" else _read_template(template)
    try:
        render_template(tokenizer.chat_template, [{"role": "user", "content": "q"}], True, {})
    except TemplateSyntaxError as error:
        tokenizer.chat_template = before
        raise UserError(
            f"chat_template={template}: not a Jinja template, line {error.lineno}: {error.message}"
        ) from error
    except TemplateRefused:  # it may accept other messages; rendering the rows will show
        pass


def prepends_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself begins every text with its BOS token."""
    first = list(tokenizer("x")["input_ids"])[:1]
    return tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]


def pad_id(tokenizer: Any, end: int) -> int:
    """The id for padding. If possible it is neither `end`, the token that ends a turn, nor the tokenizer's end
    token.
    """
    eos = tokenizer.eos_token_id
    known = tokenizer.get_added_vocab()
    for token in (tokenizer.pad_token_id, *(known.get(name) for name in PADS)):
        if token is not None and token not in (end, eos):
            return int(token)
    return int(end if eos is None else eos)


def _split_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[str]:
    """Split the rendered prompt inside each control token that a message spells. Usually the result is a single
    piece.
    """
    whole = "".join(m["content"] for m in messages)
    if not _control_pattern(tokenizer).search(whole):
        return [template_text(tokenizer, messages)]
    cut = [{**m, "content": _split_controls(tokenizer, m["content"], whole)[0]} for m in messages]
    return template_text(tokenizer, cut).split(_split_controls(tokenizer, "", whole)[1])


def _split_controls(tokenizer: Any, text: str, whole: str) -> tuple[str, str]:
    """Put a gap character, which does not occur in `whole`, inside each control token that the text spells. Returns the
    text and the character.
    """
    gap = next(c for c in _PRIVATE if c not in whole)
    return _control_pattern(tokenizer).sub(lambda found: found[0][0] + gap + found[0][1:], text), gap


def _join_ids(tokenizer: Any, pieces: Sequence[str]) -> list[int]:
    """The ids of a text that was split into pieces. Some tokenizers add a space before every text; a line end in front
    absorbs it.
    """
    ids = encode_text(tokenizer, pieces[0])
    for piece in pieces[1:]:
        guard, guarded = encode_text(tokenizer, "\n"), encode_text(tokenizer, f"\n{piece}")
        ids += guarded[len(guard) :] if guarded[: len(guard)] == guard else encode_text(tokenizer, piece)
    return ids


def _drop_opening_tag(asked: str, completion: str) -> str:
    opened, opens = _OPENED.search(asked), _OPENS.match(completion)
    if not (opened and opens):
        return completion
    rest = completion[opens.end() :]
    for space in opened[1]:  # the prompt already has it
        rest = rest.removeprefix(space)
    return rest


@of_template
def _control_pattern(tokenizer: Any) -> re.Pattern[str]:
    longest_first = sorted(controls(tokenizer).values(), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _conversation(tokenizer: Any) -> list[int]:
    """The ids of a small conversation in this template; empty if the template accepts no such conversation."""
    asked = [{"role": "user", "content": "x"}]
    for messages in ([*asked, {"role": "assistant", "content": "x"}, *asked], asked) if tokenizer.chat_template else ():
        try:
            return encode_text(tokenizer, template_text(tokenizer, messages))
        except UserError:
            continue
    return []


def _read_template(template: str) -> str:
    if not Path(template).expanduser().exists():
        raise UserError(f"chat_template={template}: no such template. Give chatml, or the path of a .jinja file")
    text = read_text(template, f"chat_template={template}")
    if not text.strip():
        raise UserError(f"chat_template={template}: the file is empty. Give chatml, or the path of a .jinja file")
    return text
