r"""Reads an answer, LaTeX or plain, into the nodes of `expression.py`, or says that it cannot.

    read("\\frac{1}{2}, 3\\text{ cm}")  ->  Group("", (Call("/", ...), Quantity(Number(3), "cm")))

It takes all of its input or raises Unreadable: an answer half understood is not understood. It executes nothing, and
does work linear in the text, with bounds on length and depth. Input is expected in the spelling of
`normalise.normalise`.

How ambiguous writing is read: `2x` and `2 x` are products, `1/2x` is (1/2)x, `xy` is x times y, `sin 2x` is sin(2x),
`1\frac12` and `1 1/2` are mixed numbers, `2^10` is two to the tenth, `1,234` outside of brackets is one number and
`(1,234)` a pair, words of three letters and more are words, a word behind a number is its unit.
"""

import re
from fractions import Fraction

from eval.grader.nodes import (
    BASES,
    IN_BASE,
    MAX_EXPONENT,
    SCALES,
    Based,
    Call,
    Clock,
    Group,
    Matrix,
    Name,
    Node,
    Number,
    Quantity,
    Relation,
    Unreadable,
    Words,
    in_base,
    read_number,
)
from eval.grader.scanner import MAX_LENGTH, Scanner, Token

MAX_MARKS = 6  # powers, factorials, primes and percent signs behind one value


_RELATIONS = {
    "=": "=",
    "==": "=",
    "<": "<",
    ">": ">",
    "<=": "<=",
    ">=": ">=",
    "!=": "!=",
    "\\le": "<=",
    "\\ge": ">=",
    "\\ne": "!=",
    "\\in": "in",
    "\\approx": "approx",
    "\\simeq": "approx",
    "\\equiv": "equiv",
}
_TIMES = {"*", "\\cdot", "\\times", "\\ast"}
_SETS = {"\\cup": "∪", "\\cap": "∩", "\\setminus": "∖"}
_GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar triangle angle".split()
)
_CONSTANTS = {"pi": "pi", "infty": "oo", "infinity": "oo", "inf": "oo", "oo": "oo", "emptyset": "∅", "ldots": "...",
              "dots": "...", "cdots": "...", "imath": "i"}  # fmt: skip
FUNCTIONS = set(
    "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan arccot asin acos atan arcsinh arccosh arctanh ln log "
    "lg exp sqrt cbrt abs max min gcd lcm cis floor ceil Re Im det".split()
)
_ONE_SPELLING = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_OPENING = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil",
            "\\lvert": "\\rvert", "\\lVert": "\\rVert"}  # fmt: skip
_CURRENCY = {"\\dollar": "dollar", "\\pounds": "pound sterling", "\\euro": "euro", "\\yen": "yen"}
_SEPARATORS = {"and", "or"}
_SHORT_WORDS = {"no", "on", "up", "in", "am", "pm", "if", "is", "it", "at", "to", "of", "be", "by", "we", "he"}
_UNIT_TEXT = re.compile(
    r"\\text\s*\{(?P<text>[a-zA-Z\u4e00-\u9fff ./()-]*(?:\^?\{?-?\d\}?[a-zA-Z ./-]*)*)\}"
    r"|(?P<word>[a-zA-Z]{1,30}\.?)"
)
_HALF_OF_DAY = re.compile(r" *(?:\\text *\{ *)?([ap])(?: ?\. ?m|m)\b\.* *\}?", re.IGNORECASE)
_CONDITION = re.compile(r" *([a-zA-Z]) *(?:\\in *\\mathbb *\{? *R *\}? *)?(?:\\mid|\||:) *")
_ARTICLE = re.compile(r"an? [a-zA-Z]{3,}", re.IGNORECASE)
_REST_OF_TIME = re.compile(
    r" *: *([0-5]\d)(?: *: *([0-5]\d))? *(?:\\text *\{ *)?([ap])(?: *\.? *m)?\b\.* *\}?",
    re.IGNORECASE,
)


def read(text: str, *, short_units: bool = False, grouped: bool = True) -> Node:
    """The node of a normalised answer. With `short_units`, one letter behind a number and a space is a unit (`5 m`).

    Without `grouped`, a comma never groups digits: `1,2,100` is three numbers.

    Raises Unreadable if any of it is not understood.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable("too long")
    reader = _Reader(text, short_units, grouped)
    node = reader.listed()
    reader.expect_end()
    return node


class _Reader(Scanner):
    """A recursive descent over one text; a method for each level of the grammar."""

    # -- lists, relations, sets

    def listed(self) -> Node:
        """Items with commas, semicolons, "and" and "or" between them."""
        parts, joined = [self.item()], ""
        while (how := self.separator()) is not None:
            joined = how if joined in ("", ",") else joined
            parts.append(self.item())
        return parts[0] if len(parts) == 1 else Group({"and": "&", "or": "|"}.get(joined, ""), tuple(parts))

    def separator(self) -> str | None:
        found = None
        while True:
            token = self.peek()
            word = token.text.strip().lower() if token.kind in ("words", "letters") else ""
            if token.kind == "sign" and token.text in ",;" and found in (None, "or", "and"):
                found = found or ","
            elif word in _SEPARATORS:
                found = word
            elif token.kind == "command" and token.text in ("\\lor", "\\vee", "\\land", "\\wedge"):
                found = "or" if token.text in ("\\lor", "\\vee") else "and"
            else:
                return found
            self.take()
            if found == ",":
                # one comma, or a comma and a word
                token = self.peek()
                word = token.text.strip().lower() if token.kind in ("words", "letters") else ""
                if word not in _SEPARATORS:
                    return found

    def item(self) -> Node:
        self.accept("\\approx", "=")  # `= 5` goes on from what was said before
        sides, signs = [self.side()], list[str]()
        while True:
            token = self.peek()
            sign = _RELATIONS.get(token.text) if token.kind in ("sign", "command") else None
            if sign is None:
                break
            self.take()
            signs.append(sign)
            sides.append(self.side())
        node: Node = Relation(tuple(sides), tuple(signs)) if signs else sides[0]
        return node

    def side(self) -> Node:
        words = self.words_only()
        if words is not None:
            return words
        node = self.total()
        while (sign := self.accept(*_SETS)) is not None:
            node = Call(_SETS[sign], (node, self.total()))
        if self.peek().text == ":" and self.peek().kind == "sign":
            node = self.ratio(node)
        return self.with_unit(node)

    def ratio(self, first: Node) -> Node:
        """`3:2`, or a time of day where a half of the day follows."""
        time = _REST_OF_TIME.match(self.text, self.at)
        if time and isinstance(first, Number) and first.value in range(1, 13):
            self.jump(time.end())
            return _clock(int(first.value), int(time[1]), int(time[2] or 0), time[3])
        parts = [first]
        while self.accept(":"):
            parts.append(self.total())
        return Call("ratio", tuple(parts))

    def words_only(self) -> Words | Name | None:
        """An item that is words and nothing else, up to a separator."""
        at, said = self.at, list[str]()
        while True:
            token = self.peek()
            bare = token.text.strip().lower() if token.kind in ("words", "letters") else None
            if bare is None or (bare in _SEPARATORS and said):
                break
            article = _ARTICLE.match(self.text, token.start)
            if token.kind == "letters" and not said and not self.is_word(token.text) and not article:
                break
            said.append(token.text)
            self.take()
            while self.accept(".", "'", '"', "!", "?"):
                pass
        token = self.peek()
        ends = token.kind == "end of text" or (token.kind == "sign" and token.text in ",;)]}=") or token.text == "\\}"
        separated = token.kind in ("words", "letters")
        text = plain_words(" ".join(said))
        if len(said) == 1 and len(said[0].strip()) == 1 and ends:
            return Name(said[0].strip())  # `\text{x}`
        if text and (ends or separated) and not any(c.isdigit() for c in text):
            return Words(text)
        self.jump(at)
        return None

    def is_word(self, letters: str) -> bool:
        """Whether a run of letters is a word, and not a product of names."""
        low = letters.lower()
        if re.fullmatch(r"pi[rhdx]", letters):
            return False
        if letters in FUNCTIONS or low in _CONSTANTS or low in ("sqrt", "deg") or letters in _GREEK:
            return False
        if letters.isupper() and len(letters) <= 3 and letters not in ("YES", "NO", "ALL", "DNE"):
            return False  # the points of a triangle
        return low in _SHORT_WORDS or (len(letters) > 2 and any(c in "aeiou" for c in low))

    # -- sums, products, powers

    def total(self) -> Node:
        self.deeper()
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
        self.nested -= 1
        return _sum(parts)

    def product(self) -> Node:
        node = self.signed()
        while True:
            token = self.peek()
            if token.kind in ("sign", "command") and token.text in _TIMES:
                self.take()
                node = _scientific(node, self.signed())
            elif token.kind in ("sign", "command") and token.text in ("/", "\\div"):
                self.take()
                node = Call("/", (node, self.signed()))
            elif self.starts_factor(token):
                called = token.text == "(" and _is_function_name(node)
                factor = self.power()
                simple = isinstance(factor, Name | Number | Group) and called
                node = Call("of" if simple and not isinstance(factor, Group) else "*", (node, factor))
            else:
                return node

    def signed(self) -> Node:
        sign = self.accept("-", "+")
        if sign:
            self.deeper()
            node = self.signed()
            self.nested -= 1
            return negative(node) if sign == "-" else node
        return self.power()

    def starts_factor(self, token: Token) -> bool:
        """Whether what follows is multiplied without a sign."""
        if token.kind == "letters":
            if self.short_units and re.fullmatch(r"[a-zA-Z]{1,2}", token.text) and self.text[token.start - 1] == " ":
                return False
            return token.text.lower() not in _SEPARATORS and not self.is_unit(token)
        if token.kind == "command":
            name = token.text[1:]
            return name in _GREEK or name in _CONSTANTS or name in FUNCTIONS or token.text in _OPENING or name in (
                "frac", "sqrt", "binom", "overline", "mathbb"
            )  # fmt: skip
        if token.kind == "begin":
            return True
        if token.kind == "number":
            return self.text[: token.start].rstrip()[-1:] in (")", "}", "]", "!")
        return token.kind == "sign" and (token.text in "({[" or (token.text == "|" and not self.bars))

    def is_unit(self, token: Token) -> bool:
        """Letters that are a word behind a number, not names multiplied with it."""
        if token.text in FUNCTIONS or token.text.lower() in _CONSTANTS:
            return False
        return self.is_word(token.text) or token.text in _SHORT_UNITS

    def power(self) -> Node:
        node = self.atom()
        for _ in range(MAX_MARKS):
            if self.accept("!"):
                node = Call("!!" if self.accept("!") else "!", (node,))
            elif self.accept("%"):
                node = Call("%", (node,))
            elif self.accept("^", "**"):
                node = self.raised(node)
            elif self.accept("'"):
                node = Name(node.text + "'") if isinstance(node, Name) else _unreadable("a prime")
            elif self.peek().text == "_" and isinstance(node, Number | Call | Group):
                self.take()
                node = self.based(node)
            else:
                return node
        raise Unreadable("too many marks behind a value")

    def raised(self, node: Node) -> Node:
        mark = re.compile(r" *\{ *\\circ *\}| *\\circ(?![a-z])").match(self.text, self.at)
        if mark:
            self.jump(mark.end())
            return self.degrees(node)
        if self.accept("\\prime"):
            return Name(node.text + "'") if isinstance(node, Name) else _unreadable("a prime")
        self.deeper()
        power = self.exponent()
        self.nested -= 1
        chosen_from = re.fullmatch(r"C_(\d{1,4})", node.text) if isinstance(node, Name) else None
        if chosen_from and isinstance(power, Number):  # C_{10}^{3}
            return Call("binom", (Number(Fraction(chosen_from[1])), power))
        return Call("^", (node, power))

    def degrees(self, node: Node) -> Node:
        return Call("deg", (node,))

    def exponent(self) -> Node:
        if self.accept("-"):
            return negative(self.exponent())
        token = self.peek()
        if token.kind == "letters" and len(token.text) > 1 and token.text not in FUNCTIONS:
            self.jump(token.start + 1)
            return Name(token.text[0])
        node = self.atom()
        if self.accept("^", "**"):
            node = self.raised(node)
        return node

    def based(self, node: Node) -> Node:
        """A number with its base as a subscript; digits above 9 are letters."""
        match = re.compile(r" *\{? *(?:\\text *\{)? *(\d{1,2}|[a-z]{3,7}) *\}? *\}?").match(self.text, self.at)
        if not match:
            raise Unreadable("a subscript of a number")
        base = int(match[1]) if match[1].isdigit() else BASES.get(match[1], 0)
        self.jump(match.end())
        value = node.value if isinstance(node, Number) else None
        if value is None or value.denominator != 1 or not 2 <= base <= 36:
            raise Unreadable("a subscript that is no base")
        return Based(Fraction(in_base(str(value), base)), base)

    # -- atoms

    def atom(self) -> Node:
        token = self.peek()
        if token.kind == "number":
            return self.number()
        if token.kind == "letters":
            return self.letters() if not IN_BASE.match(self.text, token.start) else self.number()
        if token.kind == "begin":
            return self.matrix()
        if token.kind == "command":
            return self.command()
        if token.kind == "sign" and token.text in "([":
            return self.bracketed()
        if token.kind == "sign" and token.text == "{":
            return self.braced()
        if token.kind == "sign" and token.text == "|":
            return self.absolute()
        if token.kind == "sign" and token.text == "...":
            self.take()
            return Name("...")
        raise Unreadable(f"'{self.text[token.start : token.start + 20]}'")

    def number(self) -> Node:
        node, end = read_number(self.text, self.peek().start, thousands=self.grouped and not self.depth)
        self.jump(end)
        half = _HALF_OF_DAY.match(self.text, end)
        if half and isinstance(node, Number) and node.step is None and node.value in range(1, 13):
            self.jump(half.end())
            return _clock(int(node.value), 0, 0, half[1])
        return node

    def letters(self) -> Node:
        token = self.take()
        word = token.text
        if word in FUNCTIONS:
            return self.function(word)
        if word.lower() in _CONSTANTS:
            return Name(_CONSTANTS[word.lower()])
        if word in _GREEK:
            return self.subscripted(word)
        if word.startswith("pi") and len(word) == 3:  # `pir`
            self.jump(token.start + 2)
            return Name("pi")
        if self.is_word(word):
            raise Unreadable(f"the word '{word}'")
        if len(word) > 1:
            self.jump(token.start + 1)
        return self.subscripted(word[0])

    def subscripted(self, name: str) -> Name:
        if self.accept("_"):
            match = re.compile(r" *(?:\{ *((?:\\text *\{)?[\w+,\- ]{1,20}\}?) *\}|(\w)|\\(?:infty|circ)\b)").match(
                self.text, self.at
            )
            if not match:
                raise Unreadable("a subscript")
            self.jump(match.end())
            name = f"{name}_{(match[1] or match[2] or match.group()).strip()}"
        return Name(name)

    def command(self) -> Node:
        token = self.peek()
        name = token.text[1:]
        if token.text in _OPENING:
            return self.bracketed()
        self.take()
        if token.text in _CURRENCY:
            return Quantity(self.product(), _CURRENCY[token.text])
        if name == "frac":
            return Call("/", (self.argument(), self.argument()))
        if name == "sqrt":
            return self.root()
        if name == "binom":
            return Call("binom", (self.argument(), self.argument()))
        if name in FUNCTIONS:
            return self.function(name)
        if name in ("operatorname", "mathrm"):
            return self.atom()
        if name in _CONSTANTS:
            return Name(_CONSTANTS[name])
        if name == "Gamma" and self.peek().text == "(":
            return Call("gamma", (self.bracketed(),))
        if name in _GREEK:
            return self.subscripted(name)
        if name in ("overline", "mathbb", "mathcal", "mathfrak"):
            return self.lettered(name)
        if token.text == "\\|":
            node = self.total()
            self.expect("\\|")
            return Call("norm", (node,))
        raise Unreadable(f"\\{name}")

    def lettered(self, name: str) -> Name:
        match = re.compile(r" *\{? *([A-Za-z]{1,4}) *\}?").match(self.text, self.at)
        if not match:
            raise Unreadable(f"\\{name}")
        self.jump(match.end())
        return Name(f"{name} {match[1]}")

    def argument(self) -> Node:
        """What a command takes: a group in braces, or one digit, letter or command."""
        token = self.peek()
        if token.kind == "sign" and token.text == "{":
            return self.braced()
        if token.kind == "number":
            self.jump(token.start + 1)
            return Number(Fraction(int(self.text[token.start]))) if token.text[0] != "." else _unreadable("a dot")
        if token.kind == "letters":
            self.jump(token.start + 1)
            return Name(token.text[0])
        return self.atom()

    def braced(self) -> Node:
        self.deeper()
        self.expect("{")
        depth, self.depth = self.depth, 0
        bars, self.bars = self.bars, 0
        node = self.listed()
        self.expect("}")
        self.depth, self.bars = depth, bars
        self.nested -= 1
        return node

    def root(self) -> Node:
        index: Node | None = None
        if self.accept("["):
            index = self.total()
            self.expect("]")
        inside = self.argument() if self.peek().kind != "number" else self.number()
        return Call("root", (inside, index)) if index is not None else Call("sqrt", (inside,))

    def function(self, name: str) -> Node:
        """A function with its argument in brackets or bare: `sin 2x` takes 2x, `sin(2x)y` takes 2x."""
        name = _ONE_SPELLING.get(name, name)
        base: Node | None = None
        power: Node | None = None
        if name == "log" and self.accept("_"):
            base = self.argument() if self.peek().kind != "number" else self.number()
        if self.accept("^", "**"):
            power = self.braced() if self.peek().text == "{" else self.exponent()
            if isinstance(power, Number) and power.value == -1 and name in ("sin", "cos", "tan", "cot"):
                name, power = "arc" + name, None
        if name == "sqrt" and self.peek().text in ("{", "["):
            return self.root()
        args = self.arguments()
        if base is not None:
            args = (*args, base)
        node: Node = Call(name, args)
        return node if power is None else Call("^", (node, power))

    def arguments(self) -> tuple[Node, ...]:
        token = self.peek()
        if (token.kind == "sign" and token.text in "({[") or token.text == "\\{":
            node = self.bracketed() if token.text != "{" else self.braced()
            if isinstance(node, Group) and node.brackets in ("()", "[]", "", "{}"):
                return node.parts
            if self.accept("^"):
                node = self.raised(node)
            return (node,)
        self.deeper()
        sign = self.accept("-")
        node = self.power()
        while True:
            token = self.peek()
            follows = token.kind == "number" or self.starts_factor(token)
            name = token.text.lstrip("\\")
            if not follows or name in FUNCTIONS or token.text in ("(", "[", "|"):
                break
            node = Call("*", (node, self.power()))
        if self.peek().text == "/" and isinstance(node, Name | Number | Call) and _is_plain(node):
            self.take()  # `\sin \pi/3`
            node = Call("/", (node, self.power()))
        self.nested -= 1
        return (negative(node) if sign else node,)

    def bracketed(self) -> Node:
        self.deeper()
        opening = self.take().text
        closings = {"(": (")", "]"), "[": ("]", ")")}.get(opening, (_OPENING[opening],))
        bars, self.bars = self.bars, 0
        self.depth += 1
        if opening == "\\{" and self.accept("\\}"):
            node: Node = Name("∅")
            self.depth, self.bars, self.nested = self.depth - 1, bars, self.nested - 1
            return node
        condition = _CONDITION.match(self.text, self.at) if opening == "\\{" else None
        if condition:
            self.jump(condition.end())
        inner = self.listed()
        closing = self.accept(*closings)
        if closing is None:
            raise Unreadable(f"{opening} is not closed")
        self.depth -= 1
        self.bars = bars
        self.nested -= 1
        if condition:
            return inner if isinstance(inner, Relation) else _unreadable("a set by its property")
        return _in_brackets(opening, closing, inner)

    def absolute(self) -> Node:
        self.expect("|")
        self.bars += 1
        self.deeper()
        node = self.total()
        self.expect("|")
        self.bars -= 1
        self.nested -= 1
        return Call("abs", (node,))

    def matrix(self) -> Node:
        kind = self.take().text
        if kind not in ("pmatrix", "bmatrix", "matrix", "smallmatrix", "array", "vmatrix", "Bmatrix"):
            raise Unreadable(f"the environment {kind}")
        self.deeper()
        depth, self.depth = self.depth, 0
        rows, row = [], [self.total()]
        while self.peek().kind != "end":
            if self.accept("&"):
                row.append(self.total())
            elif self.accept("\\cr"):
                rows.append(tuple(row))
                if self.peek().kind == "end":
                    row = []
                    break
                row = [self.total()]
            else:
                raise Unreadable("a matrix")
        self.take()
        if row:
            rows.append(tuple(row))
        self.depth = depth
        self.nested -= 1
        if len({len(r) for r in rows}) != 1:
            raise Unreadable("rows of different lengths")
        node = Matrix(tuple(rows))
        return Call("det", (node,)) if kind == "vmatrix" else node

    # -- units

    def with_unit(self, node: Node) -> Node:
        """The node with the unit that stands behind it, if one does."""
        token = self.peek()
        if token.kind not in ("words", "letters") or token.text.strip().lower() in _SEPARATORS:
            return node
        scale = SCALES.get(token.text.strip().lower().rstrip("s"))
        if scale:
            self.take()
            size = Number(Fraction(scale))
            if isinstance(node, Quantity):
                return self.with_unit(Quantity(Call("*", (node.value, size)), node.unit))
            return self.with_unit(Call("*", (node, size)))
        if isinstance(node, Quantity) and plain_words(token.text) in ("dollars", "dollar", "usd"):
            self.take()
            return node
        said = list[str]()
        while True:
            match = re.compile(r" *").match(self.text, self.at)
            at = match.end() if match else self.at
            unit = _UNIT_TEXT.match(self.text, at)
            more = re.compile(r"(?: *\^ *\{? *(-?\d) *\}?)|( */ *)|( *\\cdot *)").match(self.text, at)
            if unit and (unit["word"] or unit["text"]).strip().lower() not in _SEPARATORS:
                said.append((unit["text"] or unit["word"] or "").strip())
                self.jump(unit.end())
            elif more and said:
                said.append(f"^{more[1]}" if more[1] else "/" if more[2] else " ")
                self.jump(more.end())
            else:
                break
        text = " ".join(" ".join(said).split())
        if not text or len(text.split()) > 6 or _NOT_UNITS & set(re.findall(r"[a-z]+", text.lower())):
            raise Unreadable("words behind a value that are no unit")
        if text.lower() in ("degree", "degrees", "deg", "radian", "radians", "rad"):
            return Call("deg" if text.lower().startswith("deg") else "rad", (node,))
        return Quantity(node, text)


_NOT_UNITS = {"and", "or", "not", "is", "maybe", "if", "when", "where", "for", "but", "with", "wrong", "to", "over",
              "the", "answer", "mod", "base", "approximately", "about", "am", "pm"}  # fmt: skip
_SHORT_UNITS = {"cm", "mm", "km", "kg", "mg", "mL", "ml", "ft", "yd", "mi", "lb", "oz", "Hz", "kJ", "pm", "am", "mph",
                "hr", "hrs", "sec", "min", "cc", "dm", "nm", "Pa", "kPa", "lbs", "kW", "rpm", "km/h", "ms", "eV", "MeV",
                "GeV", "keV", "psi", "th", "st", "nd", "rd", "sq", "cts"}  # fmt: skip


def plain_words(text: str) -> str:
    """Words without punctuation, wrapping and case."""
    return " ".join(re.sub(r"[().'\"!?:$*]+", " ", text).lower().split())


def negative(node: Node) -> Node:
    """A node with the other sign."""
    if isinstance(node, Number):
        return Number(-node.value, node.step, node.scientific)
    if isinstance(node, Based):
        return Based(-node.value, node.base)
    if isinstance(node, Quantity):
        return Quantity(negative(node.value), node.unit)
    return Call("neg", (node,))


def _sum(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Call("+", tuple(parts))


def _scientific(left: Node, right: Node) -> Node:
    """A product; `4.5 \\times 10^{33}` is one written number with its own precision."""
    if isinstance(left, Number) and not left.scientific and isinstance(right, Call) and right.what == "^":
        base, power = right.args
        if base == Number(Fraction(10)) and isinstance(power, Number) and power.value.denominator == 1:
            exponent = int(power.value)
            if abs(exponent) <= MAX_EXPONENT:
                scale = Fraction(10) ** exponent
                step = left.step * scale if left.step is not None else scale if exponent < 0 else None
                return Number(left.value * scale, step, scientific=True)
    return Call("*", (left, right))


def _in_brackets(opening: str, closing: str, inner: Node) -> Node:
    if opening in ("\\lfloor", "\\lceil", "\\lvert", "\\lVert"):
        return Call({"\\lfloor": "floor", "\\lceil": "ceil", "\\lvert": "abs", "\\lVert": "norm"}[opening], (inner,))
    brackets = {"\\{": "{}", "\\langle": "<>"}.get(opening, opening + closing)
    parts = inner.parts if isinstance(inner, Group) and inner.brackets in ("", "&", "|") else (inner,)
    if len(parts) == 1 and brackets in ("()", "[]"):
        return inner  # only a grouping
    if brackets in ("(]", "[)") and len(parts) != 2:
        raise Unreadable("an interval needs two ends")
    return Group(brackets, parts)


def _clock(hours: int, minutes: int, seconds: int, half: str) -> Clock:
    return Clock((hours % 12 + (12 if half in "pP" else 0)) * 3600 + minutes * 60 + seconds)


def _is_function_name(node: Node) -> bool:
    """`f`, `P`, `f'` or `f^{-1}`, which a bracket behind makes a function and not a factor."""
    if isinstance(node, Call) and node.what == "^":
        return _is_function_name(node.args[0])
    return isinstance(node, Name) and (len(node.text.rstrip("'")) == 1 or node.text.startswith("mathbb"))


def _is_plain(node: Node) -> bool:
    return isinstance(node, Name | Number) or (
        isinstance(node, Call) and node.what == "*" and all(_is_plain(a) for a in node.args)
    )


def _unreadable(what: str) -> Node:
    raise Unreadable(what)
