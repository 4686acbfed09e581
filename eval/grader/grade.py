r"""Judges a final answer: correct, wrong, or unsure.

    grade("so it is \\boxed{\\frac{1}{2}}.", "0.5")  ->  Grade("correct", "\\frac{1}{2}", "number", rule="box")
    equal("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}")  ->  ("correct", "value")
    grade_all([(completion, answer), ...])  ->  the grade of each

`extract.py` extracts the answer, `equal` compares it, cheapest layer first, each able to stop: plain numbers;
normalised text; choice letters; structure (lists, sets, intervals, equations, units, words, part by part); exact
rationals; values to fifty digits at fixed points; and SymPy, in a worker that is killed on time, exactly where our own
reader cannot read one side. What a model wrote is never executed. docs/grading.md states each rule with examples.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from eval.grader.compare import compare
from eval.grader.extract import explicit, final_part, find_answer
from eval.grader.nodes import (
    MAX_LENGTH,
    Kind,
    Node,
    Quantity,
    Ruling,
    Unreadable,
    Verdict,
    negative,
    rule_by,
    walk,
    written,
    written_number,
)
from eval.grader.reader import is_readable, read_answer
from eval.grader.sentences import last_number
from eval.grader.spelling import compact, normalise
from eval.grader.values import TooMuch, Undefined, by_value
from limo.console import progress
from limo.processes import TimedOut

WHOLE = 40  # characters that a completion may have beyond twice those of the reference, to be an answer as a whole

Pair = tuple[str, str]  # a completion and the reference answer


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict, the answer that it is about, and the rules that gave it."""

    verdict: Verdict
    extracted: str | None
    how: str  # the rule that compared, or the reason
    cut_off: bool = False  # the completion was cut off by its length limit; judged all the same
    rule: str = ""  # the rule of `extract.py` that found the answer

    @property
    def parsed(self) -> str | None:
        """The extracted answer as it was parsed, on one line; None if it cannot be parsed."""
        node = None if self.extracted is None else _read(normalise(self.extracted))
        return None if node is None else written(node)


def grade(completion: str, answer: str, *, kind: Kind = "math", cut_off: bool = False) -> Grade:
    """Judge the final answer of a completion against the reference.

    Args: `kind` says how the reference is meant (`equal`); `cut_off` that the completion hit its length limit, which is
    kept with the grade. If the reference is a worked solution, the answer in its box or after its `####` is compared.
    "unsure" means that one side could not be parsed, or not be computed within bounds. Never raises. A number as the
    answer is converted to text, and None as the completion counts as empty.
    """
    completion, answer = completion or "", answer if isinstance(answer, str) else str(answer)
    if "\\boxed" in answer or "####" in answer:
        answer = explicit(answer) or answer
    given, rule = find_answer(completion)
    if given is None:
        found = Grade("wrong", None, "no answer found", cut_off)
        text = final_part(completion)
        number = last_number(text)
        if number and equal(number, answer, kind)[0] == "correct":
            found = Grade("unsure", number, "not announced as the answer", cut_off)
    else:
        given = _with_base(completion, given, answer)
        verdict, how = equal(given, answer, kind)
        found = Grade(verdict, given, how, cut_off, rule)
    return found if found.verdict == "correct" else _search_again(completion, answer, kind, found)


def _with_base(completion: str, given: str, answer: str) -> str:
    """The extracted digits with the base of the reference, if the completion states that base: `\\boxed{1011}` in base
    2.
    """
    base = re.search(r"_ *\{? *(\d{1,2}) *\}?[ $]*$", answer)
    if base is None or "_" in given:
        return given
    behind = rf"\\boxed *\{{ *{re.escape(given)} *\}}[ $)]*(?:\(?in )?(?:base |_ *\{{?){base[1]}\b"
    return f"{given}_{{{base[1]}}}" if re.search(behind, completion) else given


def _search_again(completion: str, answer: str, kind: Kind, found: Grade) -> Grade:
    """Compare a short completion without marks as a whole with the reference."""
    if len(completion) > WHOLE + 2 * len(answer) or explicit(completion) is not None:
        return found
    text = final_part(completion).strip()
    verdict, how = equal(text, answer, kind)
    if verdict == "correct" and (how in ("text", "choice", "yes or no") or is_readable(text)):
        return replace(found, verdict=verdict, extracted=text, how=how, rule="whole")
    return found


# -- whether two answers are equal


def equal(given: str, reference: str, kind: Kind = "math") -> Ruling:
    """Whether a given answer equals the reference, and the rule that decided. The order of arguments matters.

    Args: both as written, LaTeX or plain. `kind` "math" lets an answer leave out the reference's sign of percent or
    unit, "strict" does not; "physics" is strict, and treats every decimal reference as a rounded measurement; "choice"
    is compared as "math" is, since a reference that is a letter is known by itself. "unsure" means that one side could
    not be parsed, or not be computed within bounds. Never raises, and takes about a second at most. Results are cached,
    except after a timeout.
    """
    try:
        return _equal(given, reference, kind)
    except RecursionError:
        return "unsure", "nested too deeply"
    except TimedOut:
        return "unsure", "out of time"


@lru_cache(maxsize=200_000)
def _equal(given: str, reference: str, kind: Kind) -> Ruling:
    if not reference.strip():
        return "unsure", "empty reference"
    if len(given) > MAX_LENGTH:
        return "wrong", "longer than any answer"
    if len(reference) > MAX_LENGTH:
        return ("correct", "text") if given.strip() == reference.strip() else ("unsure", "the reference is too long")
    if _PLAIN.fullmatch(given) and _PLAIN.fullmatch(reference):
        return by_value(_number(given), _number(reference), kind)
    left, right = normalise(given), normalise(reference)
    if not left:
        return "wrong", "empty answer"
    if compact(left) == compact(right):
        return "correct", "text"
    if not right:
        return "unsure", "the reference has no content"
    return _by_choice(left, right) or _by_yes(left, right) or _by_structure(left, right, kind)


_PLAIN = re.compile(r"-?(?:[1-9]\d{0,2}(?:,\d{3})+|\d{1,400})(?:\.\d{1,400})?", re.ASCII)  # 1,234.5 needs no reader


def _number(text: str) -> Node:
    number = written_number(text.lstrip("-").replace(",", ""))
    return negative(number) if text.startswith("-") else number


def _by_structure(left: str, right: str, kind: Kind) -> Ruling:
    reference = _read(right)
    short_units = reference is not None and any(isinstance(n, Quantity) for n in walk(reference))
    given = _read(left, short_units)
    try:
        if reference is None:
            return _without_reader(left, right)
        if given is None:
            return "unsure", "the answer is not readable"
        ruling = compare(given, reference, kind)
        if ruling[0] == "wrong":
            others = ((g, r) for g in _readings(left, short_units) for r in _readings(right, False))
            ruling = next((found for g, r in others if (found := compare(g, r, kind))[0] == "correct"), ruling)
        return ruling
    except TooMuch as error:
        return "unsure", f"not within bounds: {error}"
    except Undefined as error:
        return "unsure", f"no value: {error}"


_COMPOUND_UNIT = re.compile(
    r"[-+]?[\d.,]+ [a-zA-Z]{1,5}(?:\^\{?-?\d\}?)? ?/ ?[a-zA-Z]"
)  # 5 m/s is not a product of names


def _readings(text: str, short_units: bool) -> list[Node]:
    """The possible readings of a text: as usual, with every comma as a separator, and with a single letter as a
    unit.
    """
    readings = [_read(text, short_units)]
    if text.count(",") > 1 and re.search(r"\d,\d{3}(?!\d)", text):  # `1,2,100` may be three numbers
        readings.append(_read(text, short_units, False))
    if _COMPOUND_UNIT.match(text):
        readings.append(_read(text, True))
    return [node for node in readings if node is not None]


# k_{\\max} = 4, P(A|B) = \\frac16: the name of the value may be of any kind
_NAMED = re.compile(r"(?:[^=<>,;()]|\([^()]*\))+=([^=<>]+)")
_NO_NAME = re.compile(r"\b(?:or|and|not)\b|[-+*/^]\s*=|\\(?:not|ne|le|ge|in|lor|vee|approx)\b")


@lru_cache(maxsize=50_000)
def _read(text: str, short_units: bool = False, grouped: bool = True) -> Node | None:
    try:
        return read_answer(text, short_units=short_units, grouped=grouped)
    except Unreadable:
        named = _NAMED.fullmatch(text)
        if named is None or _NO_NAME.search(text):
            return None
    return _read(named[1].strip(), short_units, grouped)


def _without_reader(left: str, right: str) -> Ruling:
    """Compare as words, for a reference that cannot be parsed."""
    words = re.sub(r"\\text|[^a-z0-9]+", " ", right.lower()).split()
    if not re.search(r"[\\=^_+*/]", right.replace("\\text", "")) and any(w.isalpha() and len(w) > 2 for w in words):
        return rule_by(words == re.sub(r"\\text|[^a-z0-9]+", " ", left.lower()).split(), "words")
    if not re.search(r"[a-zA-Z0-9]", right):
        return "wrong", "other signs"
    return "unsure", "the reference is not readable"


# -- choice letters

# (B), B., B) 12, (B) 12 apples, Option B: 12
_OPTION = re.compile(
    r"(?:(?:the )?(?:option|choice|answer) *:? *(?:is)? *)?(?:[(\[]([A-J])[)\]]|([A-J])([.:)]|(?= |$)))"
    r" *(?![,;/]|(?:and|or)\b)(.*)",
    re.IGNORECASE,
)
_NOT_CHOSEN = re.compile(  # A. 5 or b. 6; B is incorrect
    r"\banswer\b|\([A-Ja-j]\)|(?:^| )[A-J](?:[).:]|$)|\b(?:or|and) [A-Ja-j][).]"
    r"|^\W*(?:(?i:is |are |was )?(?i:incorrect|wrong|false|not\b|no\b|none\b(?! of (?:the|these|them))|isn't"
    r"|maybe|perhaps|\?))"
)


def _option(text: str) -> tuple[str, bool, str] | None:
    """Read an option: its letter, whether it is marked as one, such as `(B)` or `B.`, and the text after it."""
    match = _OPTION.fullmatch(re.sub(r",? (?:since|because|as)\b.*", "", text))
    return match and (
        match[1] or match[2],
        bool(match[1] or match[3]),
        re.sub(r"\(not [^()]*\)|^[选選]?[项項]", "", match[4]).strip(),
    )


def _by_choice(given: str, reference: str) -> Ruling | None:
    """Compare letters of a multiple choice, with or without the text of the option. An answer with two letters never
    equals a reference with one.
    """
    given, reference = _bare(given), _bare(reference)
    chosen, wanted = (re.sub(r"[\s,;()、.]|\band\b", "", text) for text in (given, reference))
    if re.fullmatch(r"A?B?C?D?E?F?", wanted) and len(wanted) > 1 and (chosen, wanted) != (given, reference):
        return rule_by("".join(sorted(chosen)) == wanted, "choices")  # several are right: A, C for AC
    said, option = _option(given), _option(reference)
    if option is None or option[0].islower() or (option[2] and not option[1]):
        if said and said[1] and said[2] and said[0] not in reference:  # (B) 12 for 12
            return equal(said[2], reference)
        return None
    letter, _, text = option
    if said is None:
        return (equal(given, text)[0] if text else "wrong"), "choice by its text"
    if text:
        same = said[0].upper() == letter and (not said[2] or equal(said[2], text)[0] == "correct")
    else:
        same = said[0].upper() == letter and not _NOT_CHOSEN.search(said[2])
        same = same and (not said[2] or (said[1] and said[0].isupper()))
    return rule_by(same, "choice")


_YES = re.compile(r"(yes|no)(?:[,.;:!](?!.*\b(?:yes|no|wait|sorry|but|if|unless|sometimes)\b).*)?", re.IGNORECASE)


def _by_yes(given: str, reference: str) -> Ruling | None:
    """Compare yes and no, also as the first word of a sentence: `Yes, it is isosceles.`"""
    said, wanted = _YES.fullmatch(_bare(given)), _bare(reference).lower()
    return rule_by(said[1].lower() == wanted, "yes or no") if said and wanted in ("yes", "no") else None


def _bare(text: str) -> str:
    text = re.sub(r"\\text *\{([^{}]*)\}|\\text ", lambda m: m[1] or "", text)
    return re.sub(r"^ *\{([^{}]*)\} *$", r"\1", text.replace("**", "")).strip()


# -- many answers at once


def grade_all(pairs: Sequence[Pair], *, kind: Kind = "math", what: str = "grading") -> list[Grade]:
    """The grade of each pair, in their order, with a progress bar called `what`."""
    found = list[Grade]()
    with progress(what, len(pairs), "answer") as advance:
        for i, (completion, answer) in enumerate(pairs, 1):
            found.append(grade(completion, answer, kind=kind))
            if i % 100 == 0 or i == len(pairs):
                advance((i - 1) % 100 + 1)
    return found
