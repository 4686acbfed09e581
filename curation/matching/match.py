"""Decides whether two texts are the same problem: aligns them and counts what differs.

The alignment treats numbers in digits and in words alike, allows typos, added or missing words, sentences around a
problem, and renamed people and variables. All other differences decide about the outcome:

- same: there are none. A replaced word makes another problem, unless it is a typo.
- variant: only numbers differ.
- related: a large part is the same, such as the first half, or the set-up with another question.

Candidates share rare runs of tokens. Left out: paraphrases, which need a model.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from operator import eq

from curation.matching.similar import ASKING, SPELLED, split_drawings, tokenize, without_tags

SILENT = frozenset("~{}()[],;'\"`&\\")
BREAKS = frozenset(".?!:")
PRONOUNS = frozenset("he she him his her hers they them their".split())
TURNING = frozenset("not no never neither nor without except unless odd even prime least most more less fewer".split())
DATES = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
    "september october november december".split()
)
AFTER_NAMES = frozenset(
    "' had can and will bought sold went made ate spent took won gave got ran wrote read began drove bakes".split()
)
GREEK = frozenset("\\alpha \\beta \\gamma \\delta \\theta \\phi \\varphi \\rho \\omega \\lambda \\mu \\sigma".split())
_FORMULA = re.compile(r"\$\$?|\\[\[\]()]|\\(?:begin|end)\{(?:align|gather|equation|eqnarray)\*?\}")
_PROSE = re.compile(r"\\(?:text|mbox|mathrm|operatorname)\s*\{([^{}]*)\}")
LONG, ALIKE = 2, 0.75
_DRAWN = re.compile(r"(?<!\\)\b\w+")  # names and numbers of a drawing, not its spacing and brackets
_REST = (
    (re.compile(r"\\\$|\\(?:begin|end)\{[a-z]+\*?\}"), " "),
    (_PROSE, r" $ \1 $ "),
    (_FORMULA, " $ "),
    (re.compile(r"\n\s*\n(?:[->*] (?=[A-Z])|-{3,})?"), " . "),
)


class Text:
    """A problem in the form that is aligned.

    `parts` are its tokens without question words: formulas letter by letter, numbers in digits, words in lower case.
    `names` are capitalised words within a sentence, `breaks` the positions at which a sentence begins or ends.
    """

    def __init__(self, text: str) -> None:
        self.parts: list[str] = []
        self.breaks = {0}
        self.names: set[str] = set()
        text = without_tags(text)
        self.drawing = _DRAWN.findall(split_drawings(text)[1])
        for pattern, new in _REST:
            text = pattern.sub(new, text)
        found = tokenize(text)
        shouted = [token.isupper() for token in found if len(token) > 1 and token.isalpha()]
        capitals = 2 * sum(shouted) <= len(shouted)  # mean something
        inside = False  # of a formula
        for at, token in enumerate(found):
            if token == "$":
                inside = not inside and _begins_formula(found, at + 1)
            elif token in BREAKS:
                self.breaks.add(len(self.parts))
            elif token not in SILENT:
                before, after = found[at - 1] if at else ".", found[at + 1] if at + 1 < len(found) else ""
                named = capitals and (before not in BREAKS or after.endswith(("s", "ed")) or after in AFTER_NAMES)
                if before != "'" or token not in ("s", "t"):
                    self._add(token, inside, capitals, named, after)
        self.breaks.add(len(self.parts))
        self.numbers = Counter(part for part in self.parts if part[0].isdigit())
        self.variables = Counter(part for part in self.parts if is_variable(part))

    def _add(self, token: str, formula: bool, capitals: bool, named: bool, after: str) -> None:
        lower = token.lower()
        if not token.isalpha() or len(token) == 1:
            article = token in ("a", "A", "I") and not formula and (len(after) > 1 or after.isdigit())
            self.parts += [] if article else [token]
        elif (formula and len(token) <= 4) or (capitals and token.isupper()):
            self.parts += token
        elif lower not in ASKING and lower not in PRONOUNS:
            if named and token[0].isupper() and lower not in DATES:
                self.names.add(lower)
            self.parts.append(lower)

    def stands_apart(self, start: int, end: int) -> bool:
        """Whether the extra tokens at the beginning or at the end are complete sentences."""
        return (end if start == 0 else start) in self.breaks


def _begins_formula(found: Sequence[str], at: int) -> bool:
    """Whether a formula begins here: no words precede the next dollar sign, whereas words follow a price."""
    before = ""
    for token in found[at : at + 200]:
        if token == "$":
            return True
        if token.isalpha() and (
            (len(token) > 3 and token.islower()) or (len(token) > 1 and before.isalpha() and before)
        ):
            return False
        before = token if len(token) > 1 else ""
    return False


def is_variable(part: str) -> bool:
    """Whether a token is a variable: a single letter."""
    return (len(part) == 1 and part.isalpha()) or part in GREEK


def is_word(part: str) -> bool:
    """Whether a token is a word of the language."""
    return len(part) > 1 and part[0].isalpha()


def is_typo(one: str, other: str) -> bool:
    """Whether two words differ only by one added, missing or changed letter, or by two swapped letters.

    >>> is_typo("center", "cnter"), is_typo("circle", "cricle"), is_typo("even", "odd"), is_typo("sine", "cosine")
    (True, True, False, False)
    """
    if max(len(one), len(other)) < 4 or not (is_word(one) and is_word(other)):
        return one == other
    long = min(len(one), len(other)) > 5
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    size = max(len(one), len(other))
    return (
        size < 2
        or (size == 2 and long and one != "" != other and len(one) != len(other))
        or (len(one) == len(other) == 2 and one == other[::-1])
    )


@dataclass(slots=True)
class Alignment:
    """The differences that an alignment of two texts found."""

    known: Text
    text: Text
    words: int = 0  # added or missing words
    typos: int = 0
    numbers: int = 0  # that differ
    others: int = 0  # replaced words, letters and signs
    aligned: int = 0  # tokens that both have
    in_runs: int = 0  # aligned tokens in runs of at least LONG, most of which are equal
    framed: int = 0  # tokens of sentences around one of the two
    _names: dict[str, str] = field(default_factory=dict)

    def count_equal(self, one: Sequence[str], other: Sequence[str]) -> None:
        """Count aligned tokens; numbers may differ, letters and names may be renamed consistently."""
        for at, (a, b) in enumerate(zip(one, other, strict=True)):
            if a[0].isdigit():
                self.numbers += a != b
            elif a != b or is_variable(a):
                renamed = self._names.setdefault(a, b) == b and self._names.setdefault(f"{b} to", a) == a
                once = a != b and self.known.variables[a] == 1  # as the axis in "$x$-intercept", or "problem a"
                label = once and (len(self.known.parts) < 3 or one[at + 1 : at + 2] == ["-"])
                self.others += not (renamed and not label) and not (is_word(a) and is_typo(a, b))
        self.aligned += len(one)
        said = (
            any(map(is_word, one)) or [a for a in one if a[0].isdigit()] == [b for b in other if b[0].isdigit()] != []
        )
        if said and len(one) >= LONG and sum(map(eq, one, other)) >= ALIKE * len(one):
            self.in_runs += len(one)

    def count_gap(self, one: Sequence[str], other: Sequence[str]) -> None:
        """Count replaced tokens: pairs that are typos or numbers, and others."""
        if len(one) != len(other) and "".join(one).lower() == "".join(other).lower():
            return
        short, long = sorted((one, other), key=len)
        left = list(long)
        for part in short:
            at = next((i for i, candidate in enumerate(left) if _is_pair(part, candidate)), None)
            if at is None:
                self.others += 1
            else:
                self.count_more(left[:at])
                self.typos += is_word(part)
                self.numbers += part != left[at] and part[0].isdigit() and left[at][0].isdigit()
                left = left[at + 1 :]
        if len(one) != len(other):
            self.count_more(left)

    def count_more(self, parts: Sequence[str]) -> None:
        """Count tokens that only one text has."""
        for part in parts:
            if is_word(part) and part not in TURNING:
                self.words += 1
            else:
                self.others += 1

    def count_frame(self, parts: Sequence[str], apart: bool, holds: bool) -> None:
        """Count tokens around the known problem: a frame if they are whole sentences that do not change its meaning."""
        own = sum(part in self.known.variables for part in parts)
        numbers = sum(part[0].isdigit() for part in parts)
        if apart and (holds or (not own and (numbers < 2 or self.aligned))):
            self.framed += len(parts)
        else:
            self.count_more(parts)

    @property
    def same(self) -> bool:
        """Whether only a few words differ, and the frame is not larger than the problem."""
        enough = self.aligned >= min(3, self.framed)
        return not (self.others or self.numbers) and self.few_words and enough

    @property
    def few_words(self) -> bool:
        """Whether there are few typos and few words that only one text has."""
        return self.words <= max(2, self.aligned // 6) and self.typos <= max(2, self.aligned // 4)

    @property
    def shorter(self) -> int:
        """The number of tokens of the shorter text."""
        return min(len(self.known.parts), len(self.text.parts))


def _is_pair(one: str, other: str) -> bool:
    if one[0].isdigit() and other[0].isdigit():
        return True
    return is_typo(SPELLED.get(one, one), SPELLED.get(other, other))


def align(known: Text, text: Text, holds: bool) -> Alignment:
    """Align two problems and count what differs. With `holds`, extra sentences around the known problem are not
    counted.
    """
    found = Alignment(known, text, others=_swap_names(known, text))
    if len(known.parts) != len(text.parts) and "".join(known.parts).lower() == "".join(text.parts).lower():
        found.aligned = len(known.parts)
        return found
    one, other = _masked(known, text), _masked(text, known)
    for tag, i, j, k, m in SequenceMatcher(None, one, other).get_opcodes():
        a, b = known.parts[i:j], text.parts[k:m]
        if tag == "equal":
            found.count_equal(a, b)
        elif a and b:
            found.count_gap(a, b)
        elif b and (i == 0 or i == len(one)):
            found.count_frame(b, text.stands_apart(k, m), holds)
        elif b and {k, m} <= text.breaks:
            found.count_frame(b, True, False)
        else:
            found.count_more(a or b)
    return found


def _swap_names(one: Text, other: Text) -> bool:
    """Whether the two texts name the same people equally often, but in different places."""
    names = one.names & other.names
    orders = [[part for part in text.parts if part in names] for text in (one, other)]
    return orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def _masked(text: Text, other: Text) -> list[str]:
    """The tokens with numbers, variables and names masked, since copies of a problem may differ in them."""
    names = text.names.difference(other.parts)
    numbers, variables = text.numbers != other.numbers, text.variables.keys() != other.variables.keys()
    if not (numbers or variables or names):
        return text.parts
    return [
        "#" if numbers and part[0].isdigit()
        else "x" if variables and is_variable(part)
        else "@" if part in names
        else part
        for part in text.parts
    ]  # fmt: skip
