"""What the loss will see, checked row by row before the first step, and shown.

    for found in audit(tokenizer, rows, rendered, system): print(found.id, found.reason, found.detail)

`limo/chat.py` renders a row as the prompt that sampling sees, the completion and the end of the turn, and tests of it
hold that for eleven templates (`tests/test_audit.py`). Checked here is what depends on the rows, the tokenizer and the
template that a run has. Each reason is one line with the value and the remedy.

Left out: whether a chain is right (`eval/grade.py`), and whether it is good (`curation/`).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from limo.chat import (
    CLOSE,
    MASKED,
    OPEN,
    Rendered,
    controls,
    encode_text,
    loss_text,
    of_template,
    prepends_bos,
    template_text,
    turn_end,
)
from limo.data import Dropped, Example
from limo.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

SHOWN = 60  # characters of a text in a reason
_EMPTY = re.compile(rf"{OPEN}\s*{CLOSE}")
_LEFT_OPEN = re.compile(rf"{OPEN}\s*\Z")
_LEFT_EMPTY = re.compile(rf"{OPEN}\s*{CLOSE}\s*\Z")
_FORM = re.compile(r"\bNFK?[CD]\b")
_UNSEEN = {code: f"\\x{code:02x}" for code in range(32) if chr(code) not in "\n\t"}


def audit(tokenizer: Any, rows: Sequence[Example], rendered: Sequence[Rendered], system: str | None) -> list[Dropped]:
    """The rows that would train something else than they should, with the first reason and all details.

    `system` is the system prompt of evaluation, "" if it has none, None if that is not to be checked.
    """
    found = []
    for row, tokens in zip(rows, rendered, strict=True):
        if why := reasons(tokenizer, row, tokens, system):
            reason, _, detail = why[0].partition(": ")
            found.append(Dropped(row.id, "train", reason, "; ".join([detail, *why[1:]]), data=row.to_json()))
    return found


def reasons(tokenizer: Any, row: Example, rendered: Rendered, system: str | None) -> list[str]:
    """Why a row must not be trained on, each as "what is wrong: the value, the remedy"; empty when nothing is."""
    ids, size = rendered.input_ids, rendered.labels.count(MASKED)
    asked, said = _text(tokenizer, ids[:size]), _text(tokenizer, ids[size:-1])
    return [
        *_check_chain(tokenizer, said, loss_text(tokenizer, row)),
        *_check_thoughts(asked, said),
        *_check_bos(tokenizer, ids),
        *_check_prompt(tokenizer, row, asked, system),
    ]


def look(tokenizer: Any, row: Example, rendered: Rendered) -> "Text":
    """One row as the loss sees it: loss tokens in green, the rest dim, control tokens yellow, ↵ where a line ends.

    Loss tokens also stand between ▶ and ◀, for terminals without colour.
    """
    from rich.text import Text

    ids, labels = rendered
    loss_tokens = sum(label != MASKED for label in labels)
    header = f"{row.id}: {len(ids):,} tokens, {loss_tokens:,} in the loss (between ▶ and ◀), weight {row.weight:g}\n"
    shown = Text().append(header, "bold")
    special = set(controls(tokenizer)) | set(tokenizer.get_added_vocab().values())
    for trained, part in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != MASKED):
        shown.append("▶" * trained, "bold")
        for control, run in groupby((i for i, _ in part), key=lambda i: i in special):
            colour = "yellow" if control else "green" if trained else ""
            style = f"bold {colour}" if trained and control else colour if trained else f"dim {colour}".strip()
            shown.append(_text(tokenizer, list(run)).translate(_UNSEEN).replace("\n", "↵\n"), style)
        shown.append("◀" * trained, "bold")
    return shown


def _check_chain(tokenizer: Any, said: str, expected: str) -> Iterator[str]:
    """The loss tokens, decoded, are the chain as far as the tokenizer can distinguish texts."""
    if said == expected:
        return
    said, expected = _normal(tokenizer, said), _normal(tokenizer, expected)
    if said != expected:
        differ = (at for at, (a, b) in enumerate(zip(said, expected, strict=False)) if a != b)
        at = next(differ, min(len(said), len(expected)))
        yield (
            f"the chain is changed: at character {at} the tokens say {_short(said[at:])}, the row "
            f"{_short(expected[at:])}. Remove what the tokenizer cannot represent, or drop the row"
        )


def _check_thoughts(asked: str, said: str) -> Iterator[str]:
    """At most one think block, opened before it closes, and not empty. The prompt may open it, or close it."""
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


def _check_bos(tokenizer: Any, ids: list[int]) -> Iterator[str]:
    """One BOS token, the very first."""
    bos = _bos(tokenizer)
    if bos is None or (ids[0] == bos and ids.count(bos) == 1):
        return
    name, first = _short(_text(tokenizer, [bos])), _short(_text(tokenizer, ids[:1]))
    yield (
        f"BOS token out of place: {ids.count(bos)} of {name}, the row begins with {first}. Name a template that "
        "begins with {{ bos_token }}, chat_template="
    )


def _check_prompt(tokenizer: Any, row: Example, asked: str, system: str | None) -> Iterator[str]:
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


@of_template
def _bos(tokenizer: Any) -> int | None:
    """The id that must stand first, once; None if the tokenizer has none, or writes it at other places as well."""
    bos = tokenizer.bos_token_id
    if bos is None or bos == turn_end(tokenizer):
        return None
    asked, said = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
    try:
        ids = encode_text(tokenizer, template_text(tokenizer, [asked, said, asked]))
    except UserError:
        ids = []
    marks_turns = ids.count(bos) > 1
    return int(bos) if not marks_turns and (prepends_bos(tokenizer) or ids[:1] == [bos]) else None


@of_template
def _forms(tokenizer: Any) -> list[Literal["NFC", "NFD", "NFKC", "NFKD"]]:
    """The Unicode normalisations that the tokenizer does before anything else."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return _FORM.findall(repr(normalizer)) if normalizer is not None else []


def _normal(tokenizer: Any, text: str) -> str:
    """The text as far as the tokenizer can distinguish it from others."""
    for form in _forms(tokenizer):
        text = unicodedata.normalize(form, text)
    return text


def _text(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _short(text: str) -> str:
    """A text in quotes, on one line, its middle left out if it is long."""
    half = SHOWN // 2
    return repr(text if len(text) <= SHOWN else f"{text[:half]} ... {text[-half:]}")
