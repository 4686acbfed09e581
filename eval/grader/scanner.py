"""Where the reader of answers is in its text: tokens, one ahead, and the bounds on length and depth."""

import re
from typing import NamedTuple

from eval.grader.nodes import Unreadable

MAX_LENGTH = 2000  # characters
MAX_DEPTH = 60  # of brackets within brackets


class Token(NamedTuple):
    """A piece of the text: its kind, what it says, and where it stands."""

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
    """A place in a text, the token there, and how deep in brackets it is."""

    def __init__(self, text: str, short_units: bool, grouped: bool) -> None:
        self.text, self.short_units, self.grouped = text, short_units, grouped
        self.at = 0
        self.depth = 0  # of brackets that separate by commas
        self.nested = 0
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
        """Go on at a place further on."""
        self.at, self.ahead = to, None

    def accept(self, *texts: str) -> str | None:
        """Pass the sign or command ahead if it is one of these, and say which."""
        token = self.peek()
        if token.kind in ("command", "sign") and token.text in texts:
            return self.take().text
        return None

    def expect(self, text: str) -> None:
        """Pass this sign or command. Raises Unreadable if it is not there."""
        if not self.accept(text):
            raise Unreadable(f"no {text} at {self.peek().start}")

    def expect_end(self) -> None:
        """Raises Unreadable if anything is left."""
        if self.peek().kind != "end of text":
            raise Unreadable(f"'{self.text[self.at : self.at + 20]}' left over")

    def deeper(self) -> None:
        """Count one level of nesting more. Raises Unreadable beyond MAX_DEPTH."""
        self.nested += 1
        if self.nested > MAX_DEPTH:
            raise Unreadable("nested too deeply")
