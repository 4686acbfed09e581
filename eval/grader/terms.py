"""Parses a single value, from a sum down to a digit: tokens and the lower half of the grammar. `reader.py` has the
upper half.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from eval.grader.nodes import (
    BASES,
    Based,
    Call,
    Group,
    Name,
    Node,
    Number,
    Quantity,
    Relation,
    Unreadable,
    below,
    in_base,
    negative,
    product_of,
    read_number,
    time_of_day,
    walk,
)

MAX_MARKS = 6  # powers, factorials, primes and percent signs behind one value

SEPARATORS = {"and", "or"}
FUNCTIONS = set(
    "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan arccot asin acos atan ln log lg exp sqrt abs max min "
    "gcd lcm cis floor ceil Re Im det".split()
)
OPENING = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil",
           "\\lvert": "\\rvert"}  # fmt: skip
_TIMES = {"*", "\\cdot", "\\times", "\\ast"}
_GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar triangle angle".split()
)
_CONSTANTS = {"pi": "pi", "infty": "oo", "infinity": "oo", "inf": "oo", "oo": "oo", "emptyset": "∅", "ldots": "...",
              "dots": "...", "cdots": "..."}  # fmt: skip
CURRENCY = {"\\dollar": "dollar", "\\pounds": "pound sterling", "\\euro": "euro", "\\yen": "yen",
            "\\rupee": "rupee"}  # fmt: skip
_SHORT_WORDS = {"no", "on", "up", "in", "am", "pm", "if", "is", "it", "at", "to", "of", "be", "by", "we", "he"}
_SHORT_UNITS = {"cm", "mm", "km", "kg", "mg", "mL", "ml", "ft", "yd", "mi", "lb", "oz", "Hz", "kJ", "mph", "hr", "hrs",
                "sec", "min", "cc", "dm", "nm", "Pa", "kPa", "lbs", "kW", "rpm", "ms", "eV", "MeV", "GeV", "keV", "psi",
                "USD", "EUR", "th", "st", "nd", "rd", "sq", "cts"}  # fmt: skip
_HALF_OF_DAY = re.compile(r" *(?:\\text *\{ *)?([ap])(?: ?\. ?m|m)\b\.* *\}?", re.IGNORECASE)  # 4 p.m.
_DEGREES = re.compile(r" *\{ *\\circ *\}| *\\circ(?![a-z])")
_BASE = re.compile(r" *\{? *(?:\\text *\{)? *(\d{1,2}|[a-z]{3,7}) *\}? *\}?")  # 52_{\text{eight}}
_SUBSCRIPT = re.compile(r" *(?:\{ *(?:\\text *\{([\w+,\- ]{1,20})\}|([\w+,\- ]{1,20})) *\}|(\w)|\{? *\\[a-zA-Z]+ *\}?)")
_ACCENTS = ("overline", "mathbb", "dot", "ddot", "vec", "hat", "tilde")
_LIMIT = re.compile(r" *_ *\{ *([a-zA-Z]) *\\(?:to|rightarrow) *((?:[^{}]|\{[^{}]*\})*)\}")  # \lim_{x \to 0}
_LETTER = re.compile(r" *\{? *([A-Za-z]{1,4}) *\}?")  # \mathbb{R}, \overline{AB}


# The same value again, in brackets: 2 (\approx 2.01), 0.625 (62.5%), 5/8 (0.625); `3(2.5)` is a product
AGAIN = re.compile(
    r" *\( *(?:(?:\\approx|\\sim|=|(?:\\text *\{ *)?(?:approximately|approx\.?|about|roughly) *\}?)|(?=[\d.]+ *% *\)))"
    r"| *(?<= )\( *(?=\d*\.\d+ *\))| *(?:(?<=% )|(?<=\.\d )|(?<=\.\d\d ))\( *(?=(?:\d+ )?\d+/\d+ *\))"
    r"| *\\text *\{ *\((?:approximately|approx\.?|about|roughly) *\}"
)


class Token(NamedTuple):
    """A token: its kind, its content, and its position."""

    kind: str
    text: str
    start: int
    end: int


_TOKEN = re.compile(
    r"""(?P<number>\d+(?:\.\d+)?|\.\d+)
      | (?P<words>\\text\s*\{(?P<inside>[^{}]*)\})
      | (?P<begin>\\begin\s*\{(?P<kind>[a-zA-Z]+)\*?\}(?:\s*\{[lcr|\s]*\})?)
      | (?P<end>\\end\s*\{[a-zA-Z]+\*?\})
      | (?P<command>\\(?:[a-zA-Z]+|[{}|]))
      | (?P<letters>[a-zA-Z]+)
      | (?P<sign>\*\*|<=|>=|!=|==|\.\.\.|.)""",
    re.VERBOSE | re.DOTALL,
)


class Scanner:
    """A position in a text, and the token there."""

    def __init__(self, text: str, short_units: bool, grouped: bool) -> None:
        self.text, self.short_units, self.grouped = text, short_units, grouped
        self.at = 0
        self.depth = 0  # of brackets in which commas separate
        self.bars = 0
        self.ahead: Token | None = None

    def peek(self) -> Token:
        """Return the next token without consuming it."""
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
        """Consume the next token and return it."""
        token = self.peek()
        self.jump(token.end)
        return token

    def jump(self, to: int) -> None:
        """Continue at another position."""
        self.at, self.ahead = to, None

    def accept(self, *texts: str) -> str | None:
        """Consume the next sign or command if it is one of these, and return it."""
        token = self.peek()
        if token.kind in ("command", "sign") and token.text in texts:
            return self.take().text
        return None

    def accept_match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Consume the text that a pattern matches here, and return the match."""
        match = pattern.match(self.text, self.at)
        if match:
            self.jump(match.end())
        return match

    def expect(self, text: str) -> None:
        """Consume this sign or command. Raises Unreadable if another one comes next."""
        if not self.accept(text):
            raise Unreadable(f"no {text} at {self.peek().start}")


class Terms(Scanner):
    """A recursive descent over one text; a method for each level of the grammar."""

    def listed(self) -> Node:
        """Parse the content of brackets; implemented by the upper half of the grammar."""
        raise NotImplementedError

    def within(self, inner: Callable[[], Node], depth: int = 0, bars: int = 0) -> Node:
        """Call `inner` inside of brackets. Inside of brackets that have a depth, commas separate and never group
        digits.
        """
        outer = self.depth, self.bars
        self.depth, self.bars = depth, bars
        node = inner()
        self.depth, self.bars = outer
        return node

    # -- sums, products, powers

    def total(self) -> Node:
        """Parse a sum of terms with signs."""
        sign = self.accept("+", "-", "\\pm", "\\mp")
        node = self.product()
        if sign == "-":
            node = negative(node)
        elif sign in ("\\pm", "\\mp"):
            node = Call("±" if sign == "\\pm" else "∓", (node,))
        parts = [node]
        while (sign := self.accept("+", "-", "\\pm", "\\mp")) is not None:
            part = self.product()
            if sign in ("\\pm", "\\mp"):
                parts = [Call("±" if sign == "\\pm" else "∓", (_sum(parts), part))]
            else:
                parts.append(negative(part) if sign == "-" else part)
        return _sum(parts)

    def product(self) -> Node:
        """Parse a product; signs between the factors may be missing."""
        node = self.signed()
        while True:
            token = self.peek()
            if token.kind in ("sign", "command") and token.text in _TIMES:
                self.take()
                node = product_of(node, self.signed())
            elif token.kind in ("sign", "command") and token.text in ("/", "\\div"):
                self.take()
                node = Call("/", (node, self.signed()))
            elif self.starts_factor(token):
                called = token.text == "("
                factor = self.power()
                is_point = isinstance(node, Name) and node.text.isupper() and isinstance(factor, Group)  # P(1, 2)
                node = Call("of" if called and (is_point or _is_argument(factor)) else "*", (node, factor))
            else:
                return node

    def signed(self) -> Node:
        """Parse a factor with its signs."""
        sign = self.accept("-", "+")
        if sign:
            return negative(self.signed()) if sign == "-" else self.signed()
        return self.power()

    def starts_factor(self, token: Token) -> bool:
        """Whether a factor follows that is multiplied without a sign."""
        if token.kind == "letters":
            if self.short_units and re.fullmatch(r"[a-zA-Z]{1,2}", token.text) and self.text[token.start - 1] == " ":
                return False
            return token.text.lower() not in SEPARATORS and not is_unit(token.text)
        if token.kind == "command":
            name = token.text[1:]
            return name in _GREEK or name in _CONSTANTS or name in FUNCTIONS or token.text in OPENING or name in (
                "frac", "sqrt", "binom", "sum", "prod", "int", "lim", *_ACCENTS
            )  # fmt: skip
        if token.kind == "number":
            return self.text[: token.start].rstrip()[-1:] in (")", "}", "]", "!")
        if token.text == "(" and AGAIN.match(self.text, token.start):
            return False
        return token.kind == "begin" or (token.kind == "sign" and token.text in ("(", "{", "[", *"|"[self.bars :]))

    def power(self) -> Node:
        """Parse a value and what follows it: powers, factorials, percent signs, primes, a base."""
        node = self.atom()
        for _ in range(MAX_MARKS):
            if self.accept("!"):
                node = Call("!", (node,))
            elif self.accept("%"):
                node = Call("%", (node,))
            elif self.accept("^", "**"):
                node = self.raised(node)
            elif isinstance(node, Name) and self.accept("'"):
                node = Name(node.text + "'")
            elif self.peek().text == "_" and isinstance(node, Number):
                self.take()
                node = self.based(node)
            else:
                return node
        raise Unreadable("too many marks behind a value")

    def raised(self, node: Node) -> Node:
        """Parse the exponent of a value, or its degree sign."""
        if self.accept_match(_DEGREES):
            return Call("deg", (node,))
        return Call("^", (node, self.exponent()))

    def exponent(self) -> Node:
        """Parse what follows `^`: `2^10` is two to the tenth, `x^ab` is x^a times b."""
        if self.accept("-"):
            return negative(self.exponent())
        node = self.atom()
        return self.raised(node) if self.accept("^", "**") else node

    def based(self, node: Number) -> Node:
        """Parse the subscript of a number as its base; digits above 9 are letters."""
        match = self.accept_match(_BASE)
        base = 0 if match is None else int(match[1]) if match[1].isdigit() else BASES.get(match[1], 0)
        if node.value.denominator != 1 or not 2 <= base <= 36:
            raise Unreadable("a subscript that is not a base")
        return Based(Fraction(in_base(str(node.value), base)), base)

    # -- atoms

    def atom(self) -> Node:
        """Parse a number, name, function or bracket."""
        token = self.peek()
        if token.kind == "number":
            return self.number()
        if token.kind == "letters":
            return self.letters()
        if token.kind == "command":
            return self.command()
        if token.kind == "begin":
            return self.matrix()
        if token.kind == "sign" and token.text in "([":
            return self.bracketed()
        if token.kind == "sign" and token.text == "{":
            return self.braced()
        if self.accept("|"):
            node = self.within(self.total, self.depth, 1)
            self.expect("|")
            return Call("abs", (node,))
        if self.accept("..."):
            return Name("...")
        raise Unreadable(f"'{self.text[token.start : token.start + 20]}'")

    def matrix(self) -> Node:
        """Parse a matrix; implemented by the upper half of the grammar."""
        raise NotImplementedError

    def bracketed(self) -> Node:
        """Parse brackets; implemented by the upper half of the grammar."""
        raise NotImplementedError

    def number(self) -> Node:
        """Parse a number, or an hour with a.m. or p.m."""
        node, end = read_number(self.text, self.peek().start, thousands=self.grouped and not self.depth)
        self.jump(end)
        if isinstance(node, Number) and node.step is None and node.value in range(1, 13):
            half = self.accept_match(_HALF_OF_DAY)
            if half:
                return time_of_day(int(node.value), 0, half[1])
        return node

    def letters(self) -> Node:
        """Parse a function, a constant, or the first of several names."""
        token = self.take()
        word = token.text
        if word in FUNCTIONS:
            return self.function(word)
        if word.lower() in _CONSTANTS:
            return Name(_CONSTANTS[word.lower()])
        if word in _GREEK:
            return self.subscripted(word)
        if spells_word(word) and len(word) > 2:
            raise Unreadable(f"the word '{word}'")
        self.jump(token.start + 1)
        return self.subscripted(word[0])

    def subscripted(self, name: str) -> Name:
        """Parse the subscript of a name, if one follows."""
        if self.accept("_"):
            match = self.accept_match(_SUBSCRIPT)
            if not match:
                raise Unreadable("a subscript")
            name += "_" + (match[1] or match[2] or match.group()).strip(" {}")
        return Name(name)

    def command(self) -> Node:
        """Parse a command, which begins with a backslash."""
        token = self.peek()
        name = token.text[1:]
        if token.text in OPENING:
            return self.bracketed()
        self.take()
        if token.text in CURRENCY:
            return Quantity(self.product(), CURRENCY[token.text])
        if name in ("frac", "binom"):
            above, under = self.argument(), self.argument()
            if Name("d") in (above, *below(above)) and Name("d") in below(under):
                return self.derivative(above, under)
            return Call("/" if name == "frac" else name, (above, under))
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("sum", "prod", "int", "lim"):
            return self.integral() if name == "int" else self.limit() if name == "lim" else self.series(name)
        if name in _CONSTANTS:
            return Name(_CONSTANTS[name])
        if name in _GREEK:
            return self.subscripted(name)
        match = self.accept_match(_LETTER) if name in _ACCENTS else None
        if match:
            return self.subscripted(f"{name} {match[1]}")
        raise Unreadable(f"\\{name}")

    # -- sums, integrals, limits and derivatives: `symbolic.py` works them out

    def series(self, what: str) -> Node:
        """Parse a sum or product such as `\\sum_{k=1}^{n} k`. Its term ends at the next plus or minus."""
        self.expect("_")
        index = self.argument()
        self.expect("^")
        end = self.argument()
        if not (isinstance(index, Relation) and index.signs == ("=",) and isinstance(index.sides[0], Name)):
            raise Unreadable("a sum over a set")
        body, name = self.product(), index.sides[0]
        if any(isinstance(n, Name) and n != name and re.search(rf"_.*{name.text}", n.text) for n in walk(body)):
            raise Unreadable("a sum of members of a sequence")  # a_k
        return Call(what, (body, *index.sides, end))

    def integral(self) -> Node:
        """Parse an integral such as `\\int_0^1 x dx`; without bounds it is an antiderivative."""
        low = self.argument() if self.accept("_") else None
        high = self.argument() if self.accept("^") else None
        start = self.at
        while (token := self.take()).kind != "end of text":
            if token.kind == "letters" and token.text[-2:-1] == "d":  # dx, or xdx
                name = Name(token.text[-1])
                integrand = self.text[start : token.end - 2]
                body = self.apart(integrand) if integrand.strip() else Number(Fraction(1))
                return Call("int", (body, name) if low is None or high is None else (body, name, low, high))
        raise Unreadable("an integral without its variable")

    def limit(self) -> Node:
        """Parse a limit such as `\\lim_{x \\to 0} x`."""
        match = self.accept_match(_LIMIT)
        if not match:
            raise Unreadable("a limit")
        return Call("lim", (self.product(), Name(match[1]), self.apart(match[2])))

    def derivative(self, above: Node, under: Node) -> Node:
        """Parse a derivative such as `\\frac{d}{dx} x^2`."""
        if above != Name("d") or not isinstance(under, Call) or under.what != "*" or under.args[0] != Name("d"):
            raise Unreadable("a derivative of a name")
        return Call("diff", (self.product(), under.args[1]))

    def apart(self, text: str) -> Node:
        """Parse a part of the text as a formula."""
        reader = type(self)(text, False, False)
        node = reader.total()
        if reader.peek().kind != "end of text":
            raise Unreadable(text[:20])
        return node

    def argument(self) -> Node:
        """Parse the argument of a command: a group in braces, or one digit, letter or command."""
        token = self.peek()
        if token.kind == "sign" and token.text == "{":
            return self.braced()
        if token.kind == "number" and token.text[0] != ".":
            self.jump(token.start + 1)
            return Number(Fraction(int(self.text[token.start])))
        return self.atom()

    def argument_or_number(self) -> Node:
        """Parse an argument as `argument` does, except that `\\sqrt23` is the root of 23."""
        return self.number() if self.peek().kind == "number" else self.argument()

    def braced(self) -> Node:
        """Parse a group in braces."""
        self.expect("{")
        node = self.within(self.listed)
        self.expect("}")
        return node

    def root(self) -> Node:
        """Parse a root, with or without an index."""
        if not self.accept("["):
            return Call("sqrt", (self.argument_or_number(),))
        index = self.total()
        self.expect("]")
        return Call("root", (self.argument_or_number(), index))

    def function(self, name: str) -> Node:
        """Parse a function and its argument, with or without brackets: in `sin 2x` and in `sin(2x)y` it is 2x."""
        name = f"arc{name[1:]}" if name in ("asin", "acos", "atan") else name
        if name == "sqrt" and self.peek().text != "(":
            return self.root()
        base = (self.argument_or_number(),) if name == "log" and self.accept("_") else ()
        power: Node | None = None
        if self.accept("^", "**"):
            power = self.braced() if self.peek().text == "{" else self.exponent()
            if isinstance(power, Number) and power.value == -1 and name in ("sin", "cos", "tan", "cot"):
                name, power = "arc" + name, None
        node: Node = Call(name, (*self.arguments(), *base))
        return node if power is None else Call("^", (node, power))

    def arguments(self) -> tuple[Node, ...]:
        """Parse the arguments of a function."""
        token = self.peek()
        if token.text in ("(", "[", "{", "\\{"):
            node = self.bracketed() if token.text != "{" else self.braced()
            return node.parts if isinstance(node, Group) and node.brackets in ("()", "[]", "", "{}") else (node,)
        sign = self.accept("-")
        node = self.power()
        while True:
            token = self.peek()
            follows = token.kind == "number" or self.starts_factor(token)
            if not follows or token.text.lstrip("\\") in FUNCTIONS or token.text in ("(", "[", "|"):
                return (negative(node) if sign else node,)
            node = Call("*", (node, self.power()))


def spells_word(letters: str) -> bool:
    """Whether a run of letters is a word, and not a product of names."""
    low = letters.lower()
    if letters in FUNCTIONS or low in _CONSTANTS or low in ("sqrt", "deg") or letters in _GREEK:
        return False
    if letters.isupper() and len(letters) <= 3 and letters not in ("YES", "NO", "ALL", "DNE"):
        return False  # the points of a triangle
    return low in _SHORT_WORDS or (len(letters) > 2 and any(c in "aeiou" for c in low))


def is_unit(letters: str) -> bool:
    """Whether letters after a number are a word, and not variables multiplied with it."""
    return (
        letters not in FUNCTIONS
        and letters.lower() not in _CONSTANTS
        and (spells_word(letters) or letters in _SHORT_UNITS)
    )


def _sum(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Call("+", tuple(parts))


def _is_argument(node: Node) -> bool:
    """Whether the text in brackets after a name is the argument of a function: `x`, `2`, `x, t` or `g(x)`."""
    if isinstance(node, Group):
        return node.brackets == "()" and all(isinstance(part, Name) for part in node.parts)
    return isinstance(node, Name | Number) or (isinstance(node, Call) and node.what == "of")
