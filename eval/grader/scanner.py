r"""Where the reader of answers is in its text: tokens, one ahead, and numbers as they are written.

read_number("1{,}234.50 m", 0, thousands=True)  ->  (Number(2469/2, step=1/100), 8)
"""

import re
from fractions import Fraction
from typing import NamedTuple

from eval.grader.nodes import Based, Number, Unreadable

MAX_LENGTH = 2000  # characters
MAX_EXPONENT = 10_000  # of ten, in a number like 1e400


class Token(NamedTuple):
    """A piece of the text: its kind, its content, and its place."""

    kind: str
    text: str
    start: int
    end: int


_TOKEN = re.compile(
    r"""(?P<number>\d+(?:\.\d+)?|\.\d+)
      | (?P<words>\\text\s*\{(?P<inside>[^{}]*)\})
      | (?P<begin>\\begin\s*\{(?P<kind>[a-z]+)\*?\}(?:\s*\{[lcr|\s]*\})?)
      | (?P<end>\\end\s*\{[a-z]+\*?\})
      | (?P<command>\\(?:[a-zA-Z]+|[{}|]))
      | (?P<letters>[a-zA-Z]+)
      | (?P<sign>\*\*|<=|>=|!=|==|\.\.\.|.)""",
    re.VERBOSE | re.DOTALL,
)


class Scanner:
    """A place in a text and the token there."""

    def __init__(self, text: str, short_units: bool, grouped: bool) -> None:
        self.text, self.short_units, self.grouped = text, short_units, grouped
        self.at = 0
        self.depth = 0  # of brackets in which commas separate
        self.bars = 0
        self.ahead: Token | None = None

    def peek(self) -> Token:
        """The token ahead, which stays."""
        if self.ahead is None:
            start = self.at
            while start < len(self.text) and self.text[start] == " ":
                start += 1
            match = _TOKEN.match(self.text, start)
            if match is None:
                self.ahead = Token("end of text", "", start, start)
            else:
                kind = match.lastgroup or ""
                kind = {"inside": "words", "kind": "begin"}.get(kind, kind)
                inner = match["inside"] if kind == "words" else match["kind"] if kind == "begin" else match.group()
                self.ahead = Token(kind, inner, start, match.end())
        return self.ahead

    def take(self) -> Token:
        """The token ahead, which is passed."""
        token = self.peek()
        self.jump(token.end)
        return token

    def jump(self, to: int) -> None:
        """Continue at another place."""
        self.at, self.ahead = to, None

    def accept(self, *texts: str) -> str | None:
        """Pass the sign or command ahead if it is one of these, and return it."""
        token = self.peek()
        if token.kind in ("command", "sign") and token.text in texts:
            return self.take().text
        return None

    def accept_match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Pass what a pattern matches here, and return the match."""
        match = pattern.match(self.text, self.at)
        if match:
            self.jump(match.end())
        return match

    def expect(self, text: str) -> None:
        """Pass this sign or command. Raises Unreadable if another one is ahead."""
        if not self.accept(text):
            raise Unreadable(f"no {text} at {self.peek().start}")


# -- numbers

_DIGITS = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?!\d)(?:\.\d+)?")  # 1,234.5
_EXPONENT = re.compile(r"[eE]([-+]?\d{1,6})(?![\d.a-zA-Z])")  # 4.5e33
_BARRED = re.compile(r"(\d*+)\.(\d*+)(?:\\(?:overline|bar)\s*\{(\d+)\}|\\dot\s*\{?(\d)\}?)")  # 0.1\overline{6}
_DOTTED = re.compile(r"(\d*+)\.(\d++)(?:\.\.\.|\\[lc]?dots)")  # 0.333...
_FRACTION = re.compile(r" ?\\frac *(?:\{ *(\d+) *\}|(\d)) *(?:\{ *(\d+) *\}|(\d))|(?<=\d) (\d+) ?/ ?(\d+)(?![\d.])")
IN_BASE = re.compile(r"(?=[A-F]*\d)([0-9A-F]*[A-F][0-9A-F]*) *_ *\{? *(\d{1,2})\b *\}?")  # 2A7_{16}


def read_number(text: str, at: int, *, thousands: bool) -> tuple[Number | Based, int]:
    """The number that begins at `at`, and where it ends; `thousands` says whether commas may group its digits.

    Raises Unreadable for an exponent out of bounds or a digit that its base does not have.
    """
    barred = _BARRED.match(text, at)
    if barred:
        return _with_period(barred[1], barred[2], barred[3] or barred[4]), barred.end()
    dotted = _DOTTED.match(text, at)
    parts = _period(dotted[2]) if dotted else None
    if dotted and parts:
        return _with_period(dotted[1], *parts), dotted.end()
    based = IN_BASE.match(text, at)
    if based:
        return Based(Fraction(in_base(based[1], int(based[2]))), int(based[2])), based.end()
    match = (_THOUSANDS.match(text, at) if thousands else None) or _DIGITS.match(text, at)
    assert match is not None, text[at : at + 20]
    exponent = _EXPONENT.match(text, match.end())
    if exponent and abs(int(exponent[1])) > MAX_EXPONENT:
        raise Unreadable("an exponent out of bounds")
    number = written_number(match.group().replace(",", ""), int(exponent[1]) if exponent else None)
    return _mixed(number, text, exponent.end() if exponent else match.end())


def written_number(written: str, exponent: int | None = None) -> Number:
    """An integer or decimal as written, with the step of its last place if it has one."""
    whole, dot, decimals = written.partition(".")
    value = Fraction(int((whole or "0") + decimals), 10 ** len(decimals))
    step = Fraction(1, 10 ** len(decimals)) if dot else None
    if exponent is None:
        return Number(value, step)
    power = Fraction(10) ** exponent
    step = step * power if step is not None else power if exponent < 0 else None
    return Number(value * power, step, scientific=True)


def _mixed(whole: Number, text: str, at: int) -> tuple[Number, int]:
    """A whole number and a proper fraction behind it: `1\\frac12` and `1 1/2`."""
    match = _FRACTION.match(text, at) if whole.step is None and not whole.scientific else None
    if not match:
        return whole, at
    top, bottom = [int(g) for g in match.groups() if g]
    return (Number(whole.value + Fraction(top, bottom)), match.end()) if 0 < top < bottom else (whole, at)


def _period(decimals: str) -> tuple[str, str] | None:
    """The digits before the period and the period, if the last digits repeat: one digit thrice, several twice."""
    match = re.fullmatch(r"(\d*?)(?:(\d)\2{2,}|(\d{2,8}?)\3+)", decimals)
    return (match[1], match[2] or match[3]) if match else None


def _with_period(whole: str, before: str, period: str) -> Number:
    """After the digits a, a period p of n digits is worth p/(10^n - 1) of a unit of the last place before it."""
    value = Fraction(int((whole or "0") + before), 10 ** len(before))
    return Number(value + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(before)))


def in_base(digits: str, base: int) -> int:
    """The value of digits in a base of 2 to 36. Raises Unreadable for a digit that the base does not have."""
    sign, digits = (-1, digits[1:]) if digits.startswith("-") else (1, digits)
    try:
        return sign * int(digits, base)
    except ValueError:
        raise Unreadable(f"'{digits}' in base {base}") from None
