"""Drops chains that must not be trained on even if their answer is right: chains with loops, unfinished thinking, the
wrong language, or control tokens of a chat template.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from curation.stage import drop, stage
from limo.data import Example, Row

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# <|im_end|>, <｜end▁of▁sentence｜>, [INST], <start_of_turn>: texts that may be a control token. <s> counts at the ends
# only, since it may be a side of a triangle, and bars around one letter are an absolute value
_CONTROL = re.compile(
    r"<\|[a-z][a-z0-9_]{2,40}\|>|<｜[\w▁ ]{1,40}｜>|\[/?INST\]|<</?SYS>>|\A\s*<s>|</s>\s*\Z|<(?:bos|eos|pad|unk)>"
    r"|<(?:start|end)_of_turn>"
)
_THINK = re.compile(r"<(/?)think>")
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[a-zA-Z]+|\{[^{}]*\}", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
TAIL, PACKED = 1200, 0.08  # the end of a chain is a loop if so many characters compress to less than this fraction
LETTERS = 120  # fewest letters of prose that show a language
SURE = 0.95  # probability from which a language counts as recognised
FOREIGN = 0.05  # fraction of letters in a script that none of the languages is written in
_HAN_LANGUAGES, _OTHER_SCRIPTS = {"zh", "ja"}, {"ja", "ko", "ru", "uk", "bg", "sr", "el", "ar", "fa", "he", "hi", "th"}


@stage("row")
def check_quality(
    rows: Iterable[Example], /, *, languages: list[str] | None, repeat_words: int, max_repeats: int
) -> Iterator[Row]:
    """Keep chains that are whole, in one of `languages`, and free of loops and control tokens.

    Args: `languages` as two-letter codes, None for any; a run of `repeat_words` words that occurs more than
    `max_repeats` times is a loop, and so is an end that repeats itself exactly.
    """
    for row in rows:
        reason, detail = find_flaw(row.completion, languages, repeat_words, max_repeats)
        yield drop(row, reason, detail) if reason else row


def find_flaw(text: str, languages: Sequence[str] | None, repeat_words: int, max_repeats: int) -> tuple[str, str]:
    """Find the first flaw of a chain. Returns its kind and detail, or two empty strings."""
    if control := _CONTROL.search(text):
        return "control token", f"{control.group()!r} at character {control.start() + 1}"
    if thinking := _unfinished(text):
        return "unfinished thinking", thinking
    if loop := find_loop(text, repeat_words, max_repeats):
        return "loop", loop
    if languages is not None and (found := _language(text, tuple(languages))):
        return "wrong language", found
    return "", ""


def _unfinished(text: str) -> str:
    """Describe what is wrong with a chain's <think> tags; empty if the chain has none, or one pair followed by text."""
    tags = _THINK.findall(text)
    if not tags:
        return ""
    if tags not in (["", "/"], ["/"]):  # the opening tag may stand in the prompt
        return f"{tags.count('')} times <think>, {tags.count('/')} times </think>"
    return "" if text.rpartition("</think>")[2].strip() else "nothing behind </think>"


def find_loop(text: str, words: int, most: int) -> str:
    """Describe how a text repeats itself; empty if it does not. Linear in the length of the text."""
    tail = text[-TAIL:].encode()
    if len(tail) >= TAIL and len(zlib.compress(tail, 1)) < PACKED * len(tail):
        return f"its last {TAIL} characters repeat themselves"
    parts = text.split()
    runs = Counter(zip(*(parts[i:] for i in range(words)), strict=False))
    if runs and (first := runs.most_common(1)[0])[1] > most:
        return f"{first[1]} times {' '.join(first[0])[:80]!r}"
    return ""


def _language(text: str, languages: tuple[str, ...]) -> str:
    """The detected language of a text, if it is not one of `languages`; empty if it is, or if the text is too short to
    tell.
    """
    prose = " ".join(_WORD.findall(_FORMULA.sub(" ", text)))
    letters = len(prose.replace(" ", ""))
    if not letters:
        return ""
    foreign = Counter(script for script in map(_script, prose) if script)
    for script, count in foreign.most_common(1):
        known = _HAN_LANGUAGES if script == "Chinese" else _OTHER_SCRIPTS
        if count > FOREIGN * letters and not known & set(languages):
            return f"{100 * count / letters:.0f} % of its letters are {script}"
    if letters < LETTERS:
        return ""
    found, probability = _identifier().classify(prose)
    return f"{found} ({100 * probability:.0f} %)" if found not in languages and probability >= SURE else ""


@cache
def _script(letter: str) -> str:
    """The script of a letter; empty for Latin and Greek, which mathematics uses in every language."""
    code = ord(letter)
    if code < 0x0400 or 0x1E00 <= code < 0x2200 or 0x1D400 <= code < 0x1D800:
        return ""
    return "Chinese" if 0x3400 <= code <= 0x9FFF else "of another script"


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
