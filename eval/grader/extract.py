r"""Extracts the final answer of a completion, as written, by an ordered list of rules of which the first match counts.

    extract("... so it is \\boxed{5}, as \\boxed{5} shows.")  ->  "5"
    find_answer("The answer is 5, since 2 + 3 = 5.")  ->  ("5", "announced")

`RULES` reads from top to bottom: marks (a box, `####`), then "the answer is", then what the last sentence states
(`sentences.py`). Each rule has an example that no rule above it matches. Only the end of the model's own turn counts:
nothing inside of its thinking, and nothing of a next turn that it made up. A value that is denied, doubted or supposed
is not the answer.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from eval.grader import sentences
from eval.grader.doubt import refuted
from eval.grader.nodes import MAX_LENGTH
from eval.grader.prose import plain_prose, unpunctuated
from eval.grader.reader import is_readable
from eval.grader.sentences import Sentence
from limo.marks import Box, after_hashes, boxed

# -- where the answer can be

# Marks of thinking: <think>, <seed:think>, [THINK] (Magistral), ◁think▷ (Kimi), <|channel>thought (Gemma 4), and so on
_THINKING = re.compile(
    r"(?:<\|?|\[|◁)(/|end_of_|END_)?(?:\w{1,9}:|begin_of_|start_of_|START_|inner_)?"
    r"(?:think(?:ing)?|thoughts?|reasoning|reflection)(?:\|?>|\]|▷)|(<channel\|>)|<\|channel>",
    re.IGNORECASE,
)
# gpt-oss's last channel, also as it is decoded without special tokens
_FINAL = re.compile(r"<\|channel\|>final.{0,60}?<\|message\|>|(?<=[.!?\s])assistantfinal(?=\S)")
_SPECIAL = r"<[|｜][^\s<>|｜]{1,40}[|｜]>"  # <|begin_of_solution|>, <|im_end|>
_LEADING = re.compile(rf"\A(?:\s*(?:{_SPECIAL}|<(?:response|output)>))*")
# "5<|im_end|>", "5</s>", "\n\nHuman: What is 2 + 5?"
_NEXT_TURN = re.compile(
    rf"{_SPECIAL}|</?s>|</(?:response|output)>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|\[/?INST\]|<(?:\w+:)?(?:eos|EOS)>|\[(?:eos|EOS)\]"
    r"|\n[ \t]*(?:\#+[ \t]*)?(?:Human|User|USER|Instruction)\s*:|\n\#+\s*(?:Instruction|Human|User)\b"
)
# "#### 72\n\nQuestion: ..." of a base model that writes the next problem
_NEXT_PROBLEM = re.compile(
    r"\n[ \t]*(?:-{3,}[ \t]*)?(?:\n[ \t]*(?:\#+[ \t]*)?(?:Problem|Question|Q|Input|题目|问题)\s*\d*\s*[:：.\n]"
    r"|(?:Q|Question):)"
)


def final_part(text: str) -> str:
    """The text after the thinking, up to the end of the turn. Empty if the thinking is unfinished."""
    if "of_box" in text:  # GLM's box
        text = re.sub(r"<\|?end_of_box\|?>", "}", re.sub(r"<\|?begin_of_box\|?>", r"\\boxed{", text))
    if "<|channel|>" in text or text.startswith("analysis"):
        *_, final = [None, *_FINAL.finditer(text)]
        text = text[final.end() :] if final else "" if "<|channel|>" in text else text
    words = ("hink", "HINK", "hought", "easoning", "eflection", "channel")
    if ("<" in text or "[THINK" in text or "◁" in text) and any(word in text for word in words):
        marks = list(_THINKING.finditer(text))
        *_, closed = [None, *(mark for mark in marks if mark[1] or mark[2])]
        text = "" if marks and marks[-1] is not closed else text[closed.end() :] if closed else text
    text = _LEADING.sub("", text, count=1)
    end = _NEXT_TURN.search(text, len(text) - len(text.lstrip()) + 1)
    text = text[: end.start()] if end else text
    first = _NEXT_PROBLEM.search(text)
    if not first:
        return text
    if re.search(r"\d", text[: first.start()]) and re.search(r"\n\s*(?:A|Answer|Solution):", text[first.end() :]):
        return text[: first.start()]  # "... 12 trees.\n\nQ: ...\nA: ..."
    answered = re.search(r"\\boxed|####", text) or sentences.ANNOUNCED.search(text)
    found = _NEXT_PROBLEM.search(text, answered.end()) if answered else None
    return text[: found.start()] if found else text


_TAGS = re.compile(r"<(?:final_)?answer>(.*?)</(?:final_)?answer>", re.DOTALL)


class Extraction:
    """The forms of a completion that the rules look at. Each form is computed when it is first needed."""

    def __init__(self, text: str) -> None:
        self.text = final_part(text)
        *_, tags = [None, *_TAGS.finditer(self.text)] if "answer>" in self.text else [None]
        self.tagged = tags and tags[1].rpartition("answer>")[2].strip()
        self.inside = self.text if self.tagged is None else self.tagged
        self.boxes = boxed(self.inside)
        *_, before, last = [None, None, *self.boxes]
        if last and refuted(self.inside, last.start, last.end, before.end if before else 0):
            self.inside, self.boxes = self.inside[last.end :], []  # \boxed{7} is wrong: what follows counts

    @cached_property
    def prose(self) -> str:
        """The end of the completion without code and Markdown."""
        return plain_prose(self.inside)

    @cached_property
    def line(self) -> str:
        """The last line of the completion."""
        return self.prose.rpartition("\n")[2].strip().strip("*").strip()

    @cached_property
    def concluding(self) -> list[Sentence]:
        """The sentences that may state the answer, the last sentence first."""
        cut_off = re.search(r"\w[ \t]+\Z", self.inside) is not None
        return [] if cut_off else sentences.concluding(self.prose)


_LEAD = re.compile(  # So 42; it's 42; → 42
    r"^(?:(?:so|thus|hence|therefore|then|and)\b[,:]?\s+)?(?:(?:I think |it must be that )?(?:it|that|this)"
    r"(?:'s| is| makes| gives| equals)\s+|[=→⇒⟹∴]\s*|\\(?:therefore|implies|Rightarrow|to)\s+)?",
    re.IGNORECASE,
)


# -- marks


def _box(completion: Extraction) -> str | None:
    """The answer in the last box, together with the boxes that belong to it."""
    boxes = completion.boxes
    while len(boxes) > 1 and _ROUNDED.fullmatch(
        completion.inside[boxes[-2].end : boxes[-1].start] + boxes[-1].text[:7]
    ):
        boxes = boxes[:-1]  # \boxed{\frac13} \approx \boxed{0.333}
    return _joined(completion.inside, boxes) if boxes else None


def _hashes(completion: Extraction) -> str | None:
    found = after_hashes(completion.inside)
    if found and not is_readable(found):  # #### The answer is 5
        return sentences.announced_answer(found) or found
    return found


def _announced(completion: Extraction) -> str | None:
    return sentences.announced_answer(completion.prose) if sentences.may_announce(completion.inside) else None


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
    """The contents of the last box and of the boxes directly before it, if only separators stand between them."""
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
    """The content of the box, together with a sign, factor, percent sign or power directly beside it."""
    before = _BEFORE.search(text, max(0, box.start - 20), box.start)
    if before and before[1] and before[1] != "-" and box.text[:1].isdigit():
        before = None  # `207\\boxed{360}` boxes the last digits
    behind = _BEHIND.match(text, box.end)
    if not box.text or not (before or behind):
        return box.text
    return f"{(before[1] or before[2]) if before else ''}({box.text}){behind.group().strip() if behind else ''}"


# -- a completion that is one expression, or ends in one


def _expression(completion: Extraction) -> str | None:
    """The whole completion, if it consists of the answer only."""
    text = completion.prose.strip().strip("*").strip()
    if "\n" in text and "\\begin" not in text:
        return None
    whole = _LEAD.sub("", unpunctuated(text))
    if is_readable(whole):
        left, equals, right = whole.rpartition("=")
        return right.strip() if equals and not re.search(r"[a-zA-Z]", re.split("[,;]", left)[-1]) else whole or None
    is_formula = "\\" in whole and whole.isascii() and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3}|box|\n", whole)
    return whole if is_formula and whole.count("{") == whole.count("}") else None  # one that the reader does not know


def _display(completion: Extraction) -> str | None:
    r"""The last formula, if it stands on separate lines between `\[` and `\]`."""
    text = completion.prose[-MAX_LENGTH:].rstrip("*. ")
    opening = {"\\]": "\\[", "$$": "$$"}.get(text[-2:])
    inside = text[:-2].rpartition(opening)[2] if opening else ""
    return " ".join(inside.split()).rstrip(" .,") or None


# Therefore, B is correct; so we pick (D)
_LETTER = re.compile(
    r"\(?\b([A-J])\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
    r"|(?:^|(?:choice|option|answer|is|it's|choose|pick|select|go(?:ing)? with)[:\s]+)\(?([A-J])\)?(?: here)?[.!]?\**$"
)


def _letter(completion: Extraction) -> str | None:
    """The letter of the option that the last line names."""
    clause = sentences.CONSEQUENCE.split(completion.line)[-1].strip(".* \t\r\n")
    clause = re.split(r"(?<=[A-J)]),? (?:since|because|as)\b", clause)[0]
    letter = _LETTER.search(clause)
    return letter[1] or letter[2] if letter and not re.search(r"\bnot\b|n't", clause) else None


def _label(completion: Extraction) -> str | None:
    """The value after a label such as "Answer:" on the last line."""
    plain = completion.inside.rstrip().rpartition("\n")[2] if "```" not in completion.inside else ""
    return _labelled(plain) or _labelled(completion.line)  # the first needs no search through the text


def _labelled(line: str) -> str | None:
    label = _LABEL.match(line)
    value = unpunctuated(line[label.end() :]) if label else ""
    return value if value and is_readable(value) else None


_LABEL = re.compile(
    r"(?:[A-Za-z]\w{0,15}|[^\W\d_a-zA-Z][^\s\d:：=]{0,15}(?: [^\s\d:：=]{1,15})?(?=[:：]))\s*[:：=]\s*"
    r"|[\d(][\d\s.+*/×x()-]{0,39}=\s*"
)  # A: 96, 3 x 4 = 12


# -- the rules


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: how one kind of ending states the answer. An empty answer means that the completion gives none.

    `on_completion` gets the whole completion, `on_sentence` one sentence that may state the answer.
    """

    name: str
    example: str  # extracts `found`, by this rule and none above
    found: str
    on_completion: Callable[[Extraction], str | None] | None = None
    on_sentence: Callable[[Sentence], str | None] | None = None


RULES = (
    Rule("box", "So $x = \\boxed{5}$, as 2 + 3 = 5.", "5", _box),
    Rule("hashes", "2 + 3 = 5\n#### 5", "5", _hashes),
    Rule("announced", "The answer is 5, since 2 + 3 = 5.", "5", _announced),
    Rule("tag", "<answer>about five\nor so</answer>", "about five\nor so", lambda c: c.tagged),
    Rule("label", "We add both.\nA: $\\frac{1}{2}$", "$\\frac{1}{2}$", _label),
    Rule("expression", "$\\frac{1}{2}$", "$\\frac{1}{2}$", _expression),
    Rule("display", "Adding both gives\n\\[\n\\frac{1}{2}\n\\]", "\\frac{1}{2}", _display),
    Rule("letter", "The slope is 2, so it is (D).", "D", _letter),
    Rule("calculation", "They pay $33 + $99 = $132 in total.", "132", None, sentences.calculated),
    Rule("formula", "Let n be even. So $n = 2k$.", "n = 2k", None, sentences.formula),
    Rule("said", "So the area of both is 12.", "12", None, sentences.said),
    Rule("value", "So Oliver needs 9 shelves.", "9", None, sentences.value),
    Rule("repeated", "2 + 3 = 5. They walked 5 miles.", "5", None, sentences.repeated),
)


def find_answer(text: str) -> tuple[str | None, str]:
    """The final answer of a completion and the rule that found it; None if it gives none."""
    completion = Extraction(text)
    for rule in RULES:
        if rule.on_completion is None:
            break
        if (found := rule.on_completion(completion)) is not None:
            return found[: MAX_LENGTH + 1] or None, rule.name
    for sentence in completion.concluding:
        for rule in RULES:
            found = rule.on_sentence(sentence) if rule.on_sentence else None
            if found is not None:
                return found, rule.name
        if sentence.states_something_else:
            break
    return None, "no rule"


def extract(text: str) -> str | None:
    """The final answer of a completion; None if it gives none."""
    return find_answer(text)[0]


def explicit(text: str) -> str | None:
    r"""The answer in the last complete `\boxed{}`, or after `####`, within `<answer>` tags if there are any.

    Boxes with only a separator or a name between them are several answers, or a hedge. A sign or percent sign that
    touches the box belongs to it. Returns "" for an empty box, None if there is no box.
    """
    completion = Extraction(text)
    found = _box(completion)
    return _hashes(completion) if found is None else found[: MAX_LENGTH + 1]
