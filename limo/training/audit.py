"""Checks row by row, before the first step, what the loss will see, and shows it.

    check_row(tokenizer, row, rendered, system, "rows.jsonl")     # UserError: rows.jsonl, row 7: an empty think block
    show_rows(tokenizer, settings, [("", row, rendered)], 1, [])   # by their loss mask

The checks cover what depends on a run's rows, tokenizer and template; `tests/test_audit.py` tests the rendering itself
with eleven templates. Each reason is one line that states the value and what to do.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from limo.chat import CLOSE, MASKED, OPEN, Rendered, controls, loss_text, prepends_bos
from limo.console import say, terminal
from limo.data import Dropped, Example
from limo.errors import UserError, visible
from limo.machine import is_main
from limo.training.settings import Training

if TYPE_CHECKING:
    from rich.text import Text

SHOWN = 60  # characters of a text in a reason


def check_row(tokenizer: Any, row: Example, rendered: Rendered, system: str | None, file: str) -> None:
    """Raise UserError if a row of `file` must not be trained on; see `reasons`."""
    if why := reasons(tokenizer, row, rendered, system):
        raise UserError(f"{file}, row {row.id}: {'; '.join(why)}. train.look=3 shows rows by their loss mask")


def reasons(tokenizer: Any, row: Example, rendered: Rendered, system: str | None) -> list[str]:
    """List the reasons why a row must not be trained on. `system` is the system prompt of the evaluation; None skips
    that check.
    """
    ids, size = rendered.input_ids, rendered.labels.count(MASKED)
    prompt, completion = _text(tokenizer, ids[:size]), _text(tokenizer, ids[size:-1])
    return [
        *_check_chain(completion, loss_text(tokenizer, row)),
        *_check_thoughts(prompt, completion),
        *_check_bos(tokenizer, ids),
        *_check_prompt(row, prompt, system),
    ]


def show_rows(
    tokenizer: Any, settings: Training, sides: Sequence[tuple[str, Example, Rendered]], count: int, lost: list[Dropped]
) -> dict[str, Any]:
    """Print the first rows, each side after its title, with their loss mask and the reasons against training on them.

    Only rank 0 prints. Returns how many rows can be trained on, and how many cannot.
    """
    if not is_main():
        return {}
    console, dropped = terminal(80), Counter(row.reason for row in lost)
    for title, row, rendered in sides[: settings.look * len(sides) // max(count, 1)]:
        if title:
            console.print(f"{title}:", style="bold")
        console.print(look(tokenizer, row, rendered), soft_wrap=True)
        for reason in reasons(tokenizer, row, rendered, settings.system):
            console.print(f"! {reason}", style="bold red")
    why = f" ({', '.join(f'{reason}: {n}' for reason, n in dropped.most_common())})" if dropped else ""
    say(f"{count} rows can be trained on, {len(lost)} cannot{why}. Nothing was trained: remove train.look to train")
    return {"rows": count, "dropped": len(lost)}


def look(tokenizer: Any, row: Example, rendered: Rendered) -> "Text":
    """Show one row as the loss sees it: loss tokens green, other tokens dim, control tokens yellow, ↵ at each line end.

    Loss tokens are also enclosed in ▶ and ◀, for terminals without colour.
    """
    from rich.text import Text

    ids, labels = rendered
    loss_tokens = sum(label != MASKED for label in labels)
    shown = Text(style="").append(
        visible(
            f"{row.id}: {len(ids):,} tokens, {loss_tokens:,} in the loss (between ▶ and ◀), weight {row.weight:g}\n"
        ),
        "bold",
    )
    special = set(controls(tokenizer)) | set(tokenizer.get_added_vocab().values())
    for trained, part in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != MASKED):
        shown.append("▶" * trained, "bold")
        for control, run in groupby((i for i, _ in part), key=lambda i: i in special):
            colour = "yellow" if control else "green" if trained else ""
            style = f"bold {colour}" if trained and control else colour if trained else f"dim {colour}".strip()
            shown.append(visible(_text(tokenizer, list(run))).replace("\n", "↵\n"), style)
        shown.append("◀" * trained, "bold")
    return shown


def _check_chain(completion: str, expected: str) -> Iterator[str]:
    """Check that the decoded loss tokens are the chain, as far as the tokenizer can distinguish texts."""
    completion, expected = _normal(completion), _normal(expected)
    if completion != expected:
        differ = (at for at, (a, b) in enumerate(zip(completion, expected, strict=False)) if a != b)
        at = next(differ, min(len(completion), len(expected)))
        yield (
            f"the chain is changed: at character {at} the tokens say {_short(completion[at:])}, the row "
            f"{_short(expected[at:])}. Remove what the tokenizer cannot represent, or drop the row"
        )


def _check_thoughts(prompt: str, completion: str) -> Iterator[str]:
    """Check that there is at most one think block, and that it is opened before it is closed and not empty. The prompt
    may open or close it.
    """
    opened = bool(re.search(rf"{OPEN}\s*\Z", prompt))
    text, where = (f"{OPEN}{completion}", "the prompt") if opened else (completion, "the chain")
    tags = re.findall(f"{OPEN}|{CLOSE}", text)
    if OPEN in tags and re.search(rf"{OPEN}\s*{CLOSE}\s*\Z", prompt):
        why = "a second think block: the chat template has put an empty one before the chain"
    elif re.search(rf"{OPEN}\s*{CLOSE}", text):
        why = "an empty think block: the model would learn not to think"
    elif tags.count(OPEN) > 1 and tags[0] == OPEN:
        why = f"a second think block: {tags.count(OPEN)} of {OPEN}, the first in {where}"
    elif tags == [OPEN]:
        why = f"a think block is left open: {where} opens it, no {CLOSE} follows"
    elif tags not in ([], [OPEN, CLOSE]):
        why = f"a think block was never opened: {CLOSE} stands without an {OPEN} before it"
    else:
        return
    yield f"{why}. Correct the tags in the row, or name a template that fits it, chat_template="


def _check_bos(tokenizer: Any, ids: list[int]) -> Iterator[str]:
    """Check that the row begins with exactly one BOS token if the tokenizer begins every text with it."""
    bos = tokenizer.bos_token_id
    if prepends_bos(tokenizer) and (ids[0] != bos or ids[1] == bos):
        name, begins = _short(_text(tokenizer, [bos])), _short(_text(tokenizer, ids[:2]))
        yield (
            f"BOS token out of place: the row begins with {begins}, not with one {name}. Name a template that begins "
            "with {{ bos_token }}, chat_template="
        )


def _check_prompt(row: Example, prompt: str, system: str | None) -> Iterator[str]:
    """Check that the system prompt is the one used in the evaluation, and that the prompt contains every system and
    user message.
    """
    first = row.prompt[0]["content"] if row.prompt and row.prompt[0]["role"] == "system" else ""
    if system is not None and first != system:
        have, want = (f"is {_short(text)}" if text else "is none" for text in (first, system))
        yield (
            f"another system prompt: the row's {have}, that of evaluation {want}. Set the same system= for curation, "
            "training and evaluation"
        )
    for number, message in enumerate(row.prompt, 1):
        if message["role"] in ("system", "user") and _normal(message["content"]).strip() not in _normal(prompt):
            yield (
                f"the template drops a message: message {number} ({message['role']}), "
                f"{_short(message['content'].strip())}, is not in the prompt. Name another template, chat_template="
            )


def _normal(text: str) -> str:
    """Normalise a text in the way of tokenizers that apply Unicode normalisation."""
    return unicodedata.normalize("NFKC", text)


def _text(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _short(text: str) -> str:
    half = SHOWN // 2
    return repr(text if len(text) <= SHOWN else f"{text[:half]} ... {text[-half:]}")
