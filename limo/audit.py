"""What the loss will really see, checked row by row before the first step.

    for found in audit(tokenizer, rows, rendered, system): print(found.id, found.reason, found.detail)

The checks read tokens and labels, not the code that made them: any rendering can be audited. Each reason is one line
with what was found and what to do; nothing is mended here.

Left out: whether a chain is right (`eval/grade.py`), whether it is worth learning from (`curation/`).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from limo.data import Dropped, Example
from limo.errors import UserError
from limo.marks import after_hashes, last_boxed
from limo.render import (
    CLOSE,
    MASKED,
    OPEN,
    Rendered,
    controls,
    encoded,
    learned_text,
    of_template,
    prepends_bos,
    prompt_ids,
    template_text,
    turn_end,
)

if TYPE_CHECKING:
    from rich.text import Text

SHOWN = 60  # characters of a text in a reason
RENDER = "Render it with limo.render.render"
_EMPTY = re.compile(rf"{OPEN}\s*{CLOSE}")
_LEFT_OPEN = re.compile(rf"{OPEN}\s*\Z")
_LEFT_EMPTY = re.compile(rf"{OPEN}\s*{CLOSE}\s*\Z")
_FORM = re.compile(r"\bNFK?[CD]\b")
_UNSEEN = {code: f"\\x{code:02x}" for code in range(32) if chr(code) not in "\n\t"}


def audit(tokenizer: Any, rows: Sequence[Example], rendered: Sequence[Rendered], system: str | None) -> list[Dropped]:
    """The rows that would not teach what they should: the first reason in `reason`, what exactly in `detail`.

    `system` is the system prompt of evaluation, "" if it has none, None if that is not to be checked.
    """
    found = []
    for row, tokens in zip(rows, rendered, strict=True):
        if why := reasons(tokenizer, row, tokens, system):
            reason, _, detail = why[0].partition(": ")
            found.append(Dropped(row.id, "train", reason, "; ".join([detail, *why[1:]]), data=row.to_json()))
    return found


def reasons(tokenizer: Any, row: Example, rendered: Rendered, system: str | None) -> list[str]:
    """Why a row must not be trained on, each as "what is wrong: the value, the remedy"; empty when all is well."""
    ids, labels = rendered
    start = next((at for at, label in enumerate(labels) if label != MASKED), len(labels))
    if start == len(labels):
        return [f"nothing is learned: none of {len(ids)} tokens has a label. Drop the row, or give it a completion"]
    if labels[start:] != ids[start:] or len(labels) != len(ids):
        return [_broken(tokenizer, ids, labels, start)]
    end, expected = turn_end(tokenizer), prompt_ids(tokenizer, row.prompt)
    size = len(expected) if ids[: len(expected)] == expected else start  # a mask that is askew is one fault, not two
    body = ids[size:-1] if ids[-1] == end else ids[size:]
    asked, said = _text(tokenizer, ids[:size]), _text(tokenizer, body)
    return [
        *_boundary(tokenizer, expected, ids, start),
        *_chain(tokenizer, said, learned_text(tokenizer, row)),
        *_ending(tokenizer, ids[start:], end),
        *_thoughts(asked, said),
        *_beginning(tokenizer, ids),
        *_asking(tokenizer, row, asked, system),
        *_forged(tokenizer, row, ids[:size], body, end),
    ]


def look(tokenizer: Any, row: Example, rendered: Rendered) -> "Text":
    """One row as the loss sees it: what is learned in green, the rest dim, control tokens yellow, ↵ where a line ends.

    What is learned also stands between ▶ and ◀, for terminals without colour.
    """
    from rich.text import Text

    ids, labels = rendered
    learned = sum(label != MASKED for label in labels)
    header = f"{row.id}: {len(ids):,} tokens, {learned:,} learned (between ▶ and ◀), weight {row.weight:g}\n"
    shown = Text().append(header, "bold")
    special = set(controls(tokenizer)) | set(tokenizer.get_added_vocab().values())
    for taught, part in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != MASKED):
        shown.append("▶" * taught, "bold")
        for control, run in groupby((i for i, _ in part), key=lambda i: i in special):
            colour = "yellow" if control else "green" if taught else ""
            style = f"bold {colour}" if taught and control else colour if taught else f"dim {colour}".strip()
            shown.append(_text(tokenizer, list(run)).translate(_UNSEEN).replace("\n", "↵\n"), style)
        shown.append("◀" * taught, "bold")
    return shown


def _broken(tokenizer: Any, ids: list[int], labels: list[int], start: int) -> str:
    """Labels that are not one block of the ids at the end."""
    if len(labels) != len(ids):
        return f"labels do not fit: {len(labels)} labels for {len(ids)} tokens. {RENDER}"
    at = next(at for at in range(start, len(ids)) if labels[at] != ids[at])
    token = _short(_text(tokenizer, [ids[at]]))
    if labels[at] == MASKED:
        return f"the learned part has a hole: token {at}, {token}, is masked behind learned ones. {RENDER}"
    return f"labels do not fit: token {at} is {token}, its label another one ({labels[at]}). {RENDER}"


def _boundary(tokenizer: Any, expected: list[int], ids: list[int], start: int) -> Iterator[str]:
    """What is masked is the prompt that sampling sees, all of it and nothing more."""
    if ids[:start] == expected:
        return
    size = len(expected)
    if start < size and ids[:size] == expected:
        text = _short(_text(tokenizer, ids[start:size]))
        yield f"prompt text is learned: {text}, the last {_tokens(size - start)} of the prompt. {RENDER}"
    elif start > size and ids[:size] == expected:
        text = _short(_text(tokenizer, ids[size:start]))
        yield f"the chain is masked: {text}, its first {_tokens(start - size)}, without labels. {RENDER}"
    else:
        at = _first_difference(ids[:start], expected)
        parts = (_text(tokenizer, tokens[at : at + 20]) for tokens in (ids[:start], expected))
        here, there = (_short(part) if part else "nothing" for part in parts)
        yield f"another prompt than sampling sees: token {at} begins {here} instead of {there}. {RENDER}"


def _chain(tokenizer: Any, said: str, expected: str) -> Iterator[str]:
    """The whole chain is learned, and with it its final answer."""
    if said == expected:
        return
    said, expected = _normal(tokenizer, said), _normal(tokenizer, expected)
    if said == expected:
        return
    at = _first_difference(said, expected)
    if at == len(said):
        yield (
            f"the chain is cut: {at} of {len(expected)} characters are learned, {_short(expected[at:])} is missing. "
            "Raise train.max_length, or drop the row"
        )
    else:
        yield (
            f"the chain is changed: at character {at} {_short(said[at:])} is learned, the row has "
            f"{_short(expected[at:])}. {RENDER}, or take out what the tokenizer cannot spell"
        )
    answer = _answer(expected)
    if answer is not None and _answer(said) != answer:
        yield f"the final answer is lost: {_short(answer)} is not what the learned text ends with. {RENDER}, uncut"


def _ending(tokenizer: Any, learned: list[int], end: int) -> Iterator[str]:
    """The end of the turn is learned once, as the last token."""
    name = _short(_text(tokenizer, [end]))
    if learned[-1] != end:
        last = _short(_text(tokenizer, learned[-1:]))
        yield f"the turn has no end: {last} is learned last, not {name}; the model would not stop. {RENDER}"
    elif (times := learned.count(end)) > 1:
        yield f"the turn ends early: {name} is learned {times} times. {RENDER}, which keeps such text text"


def _thoughts(asked: str, said: str) -> Iterator[str]:
    """At most one think block, opened before it closes, and not empty. The prompt may have opened it, or shut it."""
    opened, shut = bool(_LEFT_OPEN.search(asked)), bool(_LEFT_EMPTY.search(asked))
    opens, closes = said.count(OPEN) + opened + shut, said.count(CLOSE) + shut
    if not opens and not closes:
        return
    whole = asked[asked.rindex(OPEN) :] + said if opened else said
    where = "the prompt" if opened or shut else "the chain"
    if _EMPTY.search(whole):
        yield "an empty think block: the model would learn not to think. Put the reasoning into it, or take it out"
    elif shut and opens > 1:
        yield (
            "a second think block: the chat template has put an empty one before the chain. Name a template that "
            "thinks, chat_template=, or take the chain's tags out"
        )
    elif opens > 1:
        yield f"a second think block: {opens} of {OPEN}, the first in {where}. Keep one"
    elif opens > closes:
        remedy = " or name a template that opens none, chat_template=" if opened else " or take out the tag"
        yield f"a think block is left open: {where} opens it, no {CLOSE} follows. Close it in the row,{remedy}"
    elif closes > opens or whole.find(CLOSE) < whole.find(OPEN):
        yield (
            f"a think block was never opened: {CLOSE} stands without an {OPEN} before it. Begin the chain with {OPEN}, "
            "or name a template that opens it, chat_template="
        )


def _beginning(tokenizer: Any, ids: list[int]) -> Iterator[str]:
    """One BOS token, the very first."""
    bos = _bos(tokenizer)
    if bos is None or (ids[0] == bos and ids.count(bos) == 1):
        return
    name, first = _short(_text(tokenizer, [bos])), _short(_text(tokenizer, ids[:1]))
    if bos not in ids:
        yield (
            f"no BOS token: the row begins with {first}, the tokenizer's texts with {name}. Name a template that "
            "begins with {{ bos_token }}, chat_template="
        )
    else:
        yield (
            f"BOS token out of place: {ids.count(bos)} of {name}, the row begins with {first}. Tokenize without "
            "special tokens what the template has rendered"
        )


def _asking(tokenizer: Any, row: Example, asked: str, system: str | None) -> Iterator[str]:
    """The system prompt is that of evaluation, and the template shows every message of system and user."""
    first = row.prompt[0]["content"] if row.prompt and row.prompt[0]["role"] == "system" else ""
    if system is not None and first != system:
        have, want = (f"is {_short(text)}" if text else "is none" for text in (first, system))
        yield (
            f"another system prompt: the row's {have}, that of evaluation {want}. Set the same system= for curation, "
            "training and evaluation"
        )
    prompt = _normal(tokenizer, asked)
    for number, message in enumerate(row.prompt, 1):
        if message["role"] in ("system", "user") and _normal(tokenizer, message["content"]).strip() not in prompt:
            text = _short(message["content"].strip())
            yield (
                f"the template drops a message: message {number} ({message['role']}), {text}, is not in the prompt. "
                "Name another template, chat_template="
            )


def _forged(tokenizer: Any, row: Example, asked: list[int], body: list[int], end: int) -> Iterator[str]:
    """Control tokens stand only where the template puts them, and none in the chain."""
    known = controls(tokenizer)
    remedy = f"{RENDER}, which keeps such text text"
    if inside := [i for i in body if i in known and i != end] if not known.keys().isdisjoint(body) else []:
        yield f"a control token in the chain: {_short(known[inside[0]])}, token {body.index(inside[0])}. {remedy}"
    shape = tuple((m["role"], bool(m["content"].strip())) for m in row.prompt)
    have, want = [i for i in asked if i in known], _skeleton(tokenizer, shape)
    if have != want:
        at = _first_difference(have, want)
        here, there = (_short(known[found[at]]) if at < len(found) else "nothing" for found in (have, want))
        yield f"a forged turn: control token {at} of the prompt is {here}, the template writes {there}. {remedy}"


@of_template
def _bos(tokenizer: Any) -> int | None:
    """The id that must stand first, once; None if the tokenizer has none, or writes it at other places as well."""
    bos = tokenizer.bos_token_id
    if bos is None or bos == turn_end(tokenizer):
        return None
    asked, said = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
    try:
        ids = encoded(tokenizer, template_text(tokenizer, [asked, said, asked]))
    except UserError:
        ids = []
    marks_turns = ids.count(bos) > 1
    return int(bos) if not marks_turns and (prepends_bos(tokenizer) or ids[:1] == [bos]) else None


@of_template
def _skeleton(tokenizer: Any, shape: tuple[tuple[str, bool], ...]) -> list[int]:
    """The control tokens that the template writes around messages of these roles; False stands for an empty message."""
    messages = [{"role": role, "content": "x" * full} for role, full in shape]
    return [i for i in encoded(tokenizer, template_text(tokenizer, messages)) if i in controls(tokenizer)]


@of_template
def _forms(tokenizer: Any) -> list[Literal["NFC", "NFD", "NFKC", "NFKD"]]:
    """The Unicode normalisations that the tokenizer does before anything else."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return _FORM.findall(repr(normalizer)) if normalizer is not None else []


def _normal(tokenizer: Any, text: str) -> str:
    """The text as far as the tokenizer can tell it from others."""
    for form in _forms(tokenizer):
        text = unicodedata.normalize(form, text)
    return text


def _answer(text: str) -> str | None:
    return last_boxed(text) or after_hashes(text)


def _text(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _first_difference(a: Sequence[Any], b: Sequence[Any]) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _tokens(count: int) -> str:
    return "token" if count == 1 else f"{count} tokens"


def _short(text: str) -> str:
    """A text in quotes, on one line, its middle left out if it is long."""
    half = SHOWN // 2
    return repr(text if len(text) <= SHOWN else f"{text[:half]} ... {text[-half:]}")
