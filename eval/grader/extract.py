r"""The final answer that a completion gives, as it wrote it.

    extract("... so it is \\boxed{5}, as \\boxed{5} shows.")  ->  "5"

What marks an answer beyond doubt comes first (a box, `####`), then "the answer is", then what the last sentence
states. Text inside an unfinished `<think>` is no answer: the model had not begun to give one. Nor is text after the
end of the turn, or of a next turn that the model made up.
"""

import re

from eval.grader.nodes import MAX_LENGTH, NUMERALS
from eval.grader.reader import is_readable
from eval.grader.sentences import ANNOUNCED, LINE, TAIL, after_announcement, labelled, last_said
from limo.marks import Box, after_hashes, boxed

# -- where the answer can be


def final_part(text: str) -> str:
    """What follows the thinking, up to the end of the turn; nothing if the thinking is unfinished."""
    if "think>" in text:
        _, closed, after = text.rpartition("</think>")
        text = "" if "<think>" in after else after if closed else text
    ends = (match.start() for match in _NEXT_TURN.finditer(text))
    text = text[: next((end for end in ends if text[:end].strip()), len(text))]
    if not _NEXT_PROBLEM.search(text):
        return text
    answered = re.search(r"\\boxed|####", text) or ANNOUNCED.search(text)
    first = _NEXT_PROBLEM.search(text)
    if (
        first
        and re.search(r"\d", text[: first.start()])
        and re.search(r"\n\s*(?:A|Answer|Solution):", text[first.end() :])
    ):
        return text[: first.start()]  # "... 12 trees.\n\nQ: ...\nA: ..."
    found = _NEXT_PROBLEM.search(text, answered.end()) if answered else None
    return text[: found.start()] if found else text


# "5<|im_end|>", "5</s>", "\n\nHuman: What is 2 + 5?"
_NEXT_TURN = re.compile(
    r"<[|｜][^\s<>|｜]{1,40}[|｜]>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]"
    r"|\n[ \t]*(?:\#+[ \t]*)?(?:Human|User|USER|Instruction)\s*:|\n\#+\s*(?:Instruction|Human|User)\b"
)
# "#### 72\n\nQuestion: ..." of a base model that writes the next problem
_NEXT_PROBLEM = re.compile(
    r"\n[ \t]*(?:-{3,}[ \t]*)?(?:\n[ \t]*(?:\#+[ \t]*)?(?:Problem|Question|Q|Input|题目|问题)\s*\d*\s*[:：.\n]"
    r"|(?:Q|Question):)"
)


def plain_prose(text: str) -> str:
    """A text's end without code, Markdown, what is denied ("not 6 but 8") and what is said behind the answer."""
    text = _sensible(text[-TAIL:])
    text = _CODE.sub("\n", text) if "```" in text else text
    text = re.sub(r"<<[^<>\n]{1,200}>>", "", text) if "<<" in text else text  # GSM8K's 3 + 5 = <<3+5=8>>8
    text = _NOT_BUT.sub("", text) if "but" in text or "不是" in text else text
    text = re.sub(r"</?(?:b|i|u|em|strong)>", "", text) if "</" in text else text
    text = (_BOLD.sub(r"\2", text) if re.search(r"[*_`]", text) else text).rstrip()
    text = _TWICE.sub(r"\1", text) if re.search(r"[a-z] \(\d", text) else text
    behind = _BEHIND_ALL.search(text, max(0, len(text) - 160))
    return text[: behind.start()] if behind else text


def _sensible(text: str) -> str:
    """A text up to where it begins to mix three scripts besides the Latin one: a model that has lost its way."""
    seen: dict[int, int] = {}
    for match in () if text.isascii() else _SCRIPT.finditer(text):
        seen[match.lastindex or 0] = match.start()
        near = [place for place in seen.values() if place > match.start() - LINE]
        if len(near) > 2:
            return text[: min(near)].rpartition("\n\n" if "\n\n" in text[: min(near)] else " ")[0]
    return text


_SCRIPT = re.compile("([\u0400-\u04ff])|([\u0590-\u06ff])|([\u0e00-\u0e7f])|([\uac00-\ud7af])|([\u3040-\u9fff])")


_NUMERAL = rf"(?:{'|'.join(NUMERALS)})"
_TWICE = re.compile(rf"\b{_NUMERAL}(?:[- ]{_NUMERAL})* \((\d[\d,]*)\)", re.IGNORECASE)  # seventy-five (75)
_CODE = re.compile(
    r"```(?!(?:text|tex|latex|math|json|output)?\s)\w.*?(?:```|\Z)|```\w*[ \t]*$", re.DOTALL | re.MULTILINE
)
_NOT_BUT = re.compile(
    r"\bnot [-\d$\\(][^.\n]{0,60}?\bbut (?:rather )?(?=[-\d$\\(])|不是[^。\n]{1,30}?而(?=是)"
)  # not 6 but 8
_BOLD = re.compile(
    r"(?<![\w*)}`])(\*{1,3}|__?|`)(?=[^\s*_])([^*`\n]+?)(?<=[^\s*_])\1(?![\w(*])"
)  # **25%** of them, not 2**3
# 9 is the final answer. So $x = 9$. $\\blacksquare$
_BEHIND_ALL = re.compile(
    r"(?:(?:,[ \t]+which)?[ \t]+is[ \t]+(?:the|our|my)[ \t]+(?:final |correct |right )?(?:answer|result|solution)\b"
    r"|[ \t]*\$?(?:\\blacksquare|\\square|\\Box|\\qed|QED|[∎■□✓✔])\$?"
    r"|\s+\((?:If|This|Or|In|That|Note)\b[^()\n]{0,120}\)"
    r"|(?:\s+(?:(?:I hope|Hope|Let me know|Feel free|Please (?:let|feel)|If you (?:have|need|want|would)|Would you like"
    r"|Happy to)\b[^.!?\n]{0,120}|Nice|Great|Done|Perfect)[.!?]*)+|\n\W*(?i:confidence|certainty)\W*\d+\s*%?)[^\w$]*\Z"
)


def _tagged(text: str) -> str | None:
    tags = list(_TAGS.finditer(text)) if "answer>" in text else []
    if not tags or not tags[-1].group().startswith("</"):
        return None
    opening = next((tag for tag in reversed(tags[:-1]) if not tag.group().startswith("</")), None)
    return text[opening.end() : tags[-1].start()].strip() if opening else None


_TAGS = re.compile(r"</?(?:final_)?answer>")


def extract(text: str) -> str | None:
    """The final answer of a completion; None if it gives none.

    In this order: what `explicit` finds; what follows "the answer is"; all of an `<answer>`; a completion that is one
    bare expression; the letter, formula or value that the last sentence states.
    """
    text = final_part(text)
    stated = _marked(text)
    if stated is not None:
        return stated or None
    if number := labelled(text):
        return number
    tagged = _tagged(text)
    within = plain_prose(text if tagged is None else tagged)
    said = after_announcement(within)
    if said is not None:
        return said
    if tagged is not None:
        return tagged[: MAX_LENGTH + 1] or None
    return last_said(within, cut_off=re.search(r"\w[ \t]+\Z", text) is not None)


def explicit(text: str) -> str | None:
    r"""The answer in the last complete `\boxed{}`, or after `####`, within `<answer>` tags if there are any.

    Several boxes with only a separator or a name between them are several answers, or a hedge; a sign or a percent sign
    that touches the box belongs to it. Empty if it is empty; None if there is none.
    """
    return _marked(final_part(text))


def _marked(text: str) -> str | None:
    tagged = _tagged(text)
    text = text if tagged is None else tagged
    boxes = boxed(text)
    while len(boxes) > 1 and _ROUNDED.fullmatch(text[boxes[-2].end : boxes[-1].start] + boxes[-1].text[:7]):
        boxes = boxes[:-1]  # \boxed{\frac13} \approx \boxed{0.333}
    if boxes:
        return _joined(text, boxes)[: MAX_LENGTH + 1]
    found = after_hashes(text)
    if found and not is_readable(found):  # #### The answer is 5
        found = after_announcement(found) or found
    return found if found is None else found[: MAX_LENGTH + 1]


# What may stand between boxes that belong together: separators, the name of the next one, and marks of math
_CONNECTING = re.compile(
    r"\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\\q?quad|\\[()\[\],;! ]|\b(?:and|or|maybe|perhaps|possibly|vs|versus)\b"
    r"|[a-zA-Z](?:_\{?\w{1,3}\}?)?\s*=|[\s$,;*&+./:]"
)
_ROUNDED = re.compile(r"[^.]{0,30}(?:\\approx|≈).{0,7}", re.S)
_SEPARATING = re.compile(r"[,;+&/:]|\b(?:and|or|vs|versus)\b")  # \boxed{1} and \boxed{2}
_NAMED = re.compile(r"([a-zA-Z](?:_\{?\w{1,3}\}?)?) ?= ?\$?$")  # x = \boxed{1}, y = \boxed{2}
# What touches a box and belongs to it: -\boxed{5}, 2\boxed{\sqrt{3}}, x = - \boxed{5}, \boxed{5}\%, \boxed{5}^2
_BEFORE = re.compile(r"(?:(?<=[=$(\[{,:\s])|^)(\d+(?:\.\d+)?|-)\Z|[=$(:][ \t]*(-)[ \t]\Z")
_BEHIND = re.compile(r"[ \t]*\$?[ \t]*\\?%|\\pi(?![a-zA-Z])|\^\s*\{?\s*-?\d+\s*\}?")


def _joined(text: str, boxes: list[Box]) -> str:
    """The last box, with those directly before it that only a separator separates."""
    taken, between = [boxes[-1]], list[str]()
    for box in reversed(boxes[:-1]):
        gap = text[box.end : taken[0].start]
        near = len(gap) <= 40 and not _CONNECTING.sub("", gap)
        if not near or not (_SEPARATING.search(gap) or not gap.strip(" $")):
            break
        taken.insert(0, box)
        between.append(gap)
    if len(taken) == 1:
        return _with_what_touches(text, taken[0])
    named = [_NAMED.search(text, max(0, box.start - 12), box.start) for box in taken]
    if all(named):
        return ", ".join(f"{n[1]} = {box.text}" for n, box in zip(named, taken, strict=True) if n)
    if text[: taken[0].start].endswith("(") and text[taken[-1].end :].startswith(")"):
        return f"({', '.join(box.text for box in taken)})"
    either = any(re.search(r"\b(?:or|vs|versus)\b", gap) for gap in between)
    return (" or " if either else ", ").join(box.text for box in taken)


def _with_what_touches(text: str, box: Box) -> str:
    """The box's content with a sign, a factor, a percent sign or a power that stands directly beside it."""
    before = _BEFORE.search(text, max(0, box.start - 20), box.start)
    if before and before[1] and before[1] != "-" and box.text[:1].isdigit():
        before = None  # `207\\boxed{360}` boxes the last digits
    behind = _BEHIND.match(text, box.end)
    if not box.text or not (before or behind):
        return box.text
    return f"{(before[1] or before[2]) if before else ''}({box.text}){behind.group().strip() if behind else ''}"
