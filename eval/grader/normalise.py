r"""One spelling for what is written in many ways, without touching what it means.

    normalise("\\left( \\dfrac12, √3 \\right)")  ->  "( \\frac12, \\sqrt 3 )"

Spaces stay, since they tell a list from a number (`1, 234` and `1,234`). What no answer needs (delimiters of math,
sizes of brackets, invisible characters) goes; what has several spellings (fonts, dots, Unicode) gets one.
"""

import re
import unicodedata
from functools import lru_cache

# Commands and characters that have another spelling, each followed by the one that is used
_NAMES = dict(
    pair.split("=", 1)
    for pair in (
        r"dfrac=\frac tfrac=\frac cfrac=\frac nicefrac=\frac sfrac=\frac dbinom=\binom tbinom=\binom lbrace=\{ "
        r"rbrace=\} lbrack=[ rbrack=] leqslant=\le geqslant=\ge leq=\le geq=\ge neq=\ne lt=< gt=> degree=^\circ "
        r"textdegree=^\circ varnothing=\emptyset backslash=\setminus iff=\Leftrightarrow colon=: cents=\text{cents} "
        r"displaystyle= textstyle= limits= bar=\overline tilde=\overline bf= rm= it= sf= tt= large= Large= LARGE= "
        r"huge= Huge= small= normalsize= bfseries= itshape= centering="
    ).split()
)
_NAME = re.compile(r"\\([a-zA-Z]+)")  # \dfrac12, x \leqslant 3
_SPACE = re.compile(r"\\[,;:> ]|~|\\q?quad(?![a-zA-Z])")  # 10\,000, a~b
_ESCAPED = re.compile(r"\\([%&#_])|\\!|\{([,.:])\}|\{\}(?=\^)")  # 50\%, 7{,}654, {}^{10}C_3
_CHARACTERS = {
    **{pair[0]: pair[1:] + " " * ("\\" in pair) for pair in (
        r"−- –- —- ‐- ‑- ×\times ·\cdot ⋅\cdot ∙\cdot ÷/ ∕/ ⁄/ π\pi θ\theta φ\phi ϕ\phi α\alpha β\beta γ\gamma "
        r"λ\lambda μ\mu µ\mu ω\omega √\sqrt ∛\sqrt[3] ∞\infty ≤\le ≥\ge ⩽\le ⩾\ge ≠\ne ≈\approx ≡\equiv ±\pm "
        r"∓\mp ∪\cup ∩\cap ∈\in ∅\emptyset ∖\setminus ℝ\mathbb{R} ℤ\mathbb{Z} "
        r"ℂ\mathbb{C} °^\circ ∶: …\ldots ′' ’' ‘' " + '“" ”" '
        r"⟨\langle ⟩\rangle 。. 、, £\pounds €\euro ¥\yen ¢\text{cents}"
    ).split()},
    **{"或": " or ", "和": " and ", "且": " and "},
}  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-")

_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?(?=[^a-zA-Z]|\\|$)")  # \left( 0, 6 \right)
_DELIMITERS = re.compile(r"\\[()\[\]](?![a-zA-Z])|(?<!\\)\$")  # \( 5 \), $5$
_FUNCTION_IN_TEXT = re.compile(  # \operatorname{cis} 60^\circ
    r"\\(?:operatorname\*?|mathrm|text)\s*\{\s*((?:arc)?(?:sin|cos|tan|cot)h?|sec|csc|ln|log|exp|cis|gcd|lcm|Re|Im)\s*\}"
)
_RATIO = re.compile(r"(\d+) *(?:\\text *\{ *to *\}|to) *(\d+)")  # 4 to 7
_VALUE_IN_TEXT = re.compile(r"\s*\\text\s*\{([^{}]*(?:\d|\b[A-J]\b|\band\b)[^{}]*)\}\s*")  # \text{4:30 p.m.}
_COMMA_IN_TEXT = re.compile(r"\\text\s*\{\s*,\s*(and|or)?\s*\}")  # 6, 8\text{, and }10
_FONT = re.compile(  # \mathbf{even}, \mbox{ miles}
    r"\\(?:mathrm|mathbf|mathit|mathsf|boldsymbol|textbf|textit|textrm|textnormal|mbox|hbox|operatorname\*?|emph|"
    r"underline|texttt|textsc)\s*(?=\{)"
)
_ACCENT = re.compile(
    r"\\(?:vec|hat|widehat|overrightarrow|boldsymbol|mathbf|bm)\s*(?:\{\s*([a-zA-Z])\s*\}|([a-zA-Z])(?![a-zA-Z]))"
)
_WRAPPER = re.compile(  # \textcolor{red}{5}, {\color{red}5}
    r"\\(?:textcolor\s*\{[^{}]*\}|ensuremath|fbox|boxed|colorbox\s*\{[^{}]*\})\s*(?=\{)|\\color\s*\{[^{}]*\}"
)
# \begin{aligned} x &= 5 \end{aligned}
_LAYOUT = re.compile(r"\\(?:begin|end)\s*\{(?:aligned|align\*?|equation\*?|gathered|split|alignedat)\}")
_SYSTEM = re.compile(r"\\begin\s*\{cases\}([^&]*)\\end\s*\{cases\}")  # \begin{cases} x = 1 \\ y = 2 \end{cases}
# 5\tag{1}, \phantom -1, 5</s>
_TAG = re.compile(r"\\tag\*?\s*\{[^{}]*\}|\\phantom\s*(?:\{[^{}]*\}|\S)|<\|[^|<>]*\|>|</?s>")
_LEAD = re.compile(  # \text{The answer is } 5, \sim 5
    r"\\text\s*\{\s*(?:(?:so|thus|hence|therefore),?\s*)?(?:the )?(?:final )?(?:answer|result|value)(?: is)?\s*:?\s*\}|"
    r"\\text\s*\{\s*(?:approximately|approx\.?|about|exactly|roughly)\s*\}|\\sim(?=\s*[\d.])",
    re.IGNORECASE,
)
_THOUSANDS_BY_SPACE = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d])")  # 1 234 567
_CJK_UNIT = re.compile(r"([\d})])\s*([\u4e00-\u9fff]{1,4})$")  # 5元
_PARAMETER = re.compile(  # \frac{\pi}{4} + k\pi, k \in \mathbb{Z}
    r"(?<=.)[,; ]*\(? *[a-z] *\\in *\\mathbb *\{? *[ZN] *\}?(?:_\+|\^[+*])? *\)?\s*\.?$"
)
_TRANSPOSED = re.compile(r"(?<=[\])]) *\^ *\{? *(?:T|\\top) *\}?$")  # [1, 2]^T, beside a column
_TEMPERATURE = re.compile(r"\^ *\{? *\\circ *\}? *(?:\\text *\{ *)?([CF])\b *\}?")  # 32^\circ\text{F}
_POSITIVE = re.compile(r"\\mathbb *\{? *R *\}? *[\^_] *\{? *\+ *\}?")
_TIGHT_COMMA = re.compile(
    r",\\!\s*(?=\d{3}(?!\d))|(?<=\d)\s*\{\s*,\s*\}\s*(?=\d{3}(?!\d))"
)  # MATH's `32,\! 349` is one number
_CHOSEN_FROM = re.compile(  # {}^{10}C_3, C_{10}^3
    r"(?:\{ *\})?\^ *\{? *(\w{1,4}) *\}? *(?:\\(?:mathrm|text) *\{ *C *\}|C) *_ *\{? *(\w{1,4}) *\}?"
    r"|(?<![a-zA-Z\\])C_ *\{? *(\w{1,4}) *\}? *\^ *\{? *(\w{1,4}) *\}?"
)
_PERCENT_WORD = re.compile(  # 50 percent
    r"\s*(?:\\text\s*\{\s*(?:percent(?:age)?|per cent|pct\.?|%)\s*\}|\b(?:percent(?:age)?|per cent|pct)\b\.?)",
    re.IGNORECASE,
)


@lru_cache(maxsize=100_000)
def normalise(text: str) -> str:
    """One spelling of an answer; what it means is not touched."""
    if not text.isascii():
        text = _to_ascii(text)
    if any(c in text for c in "\\~${^"):
        text = _latex(text)
    text = "".join(c if c >= " " else " " for c in text)
    text = re.sub(r"\b(?:np|math|sympy)\.(?=[a-z])", "", text)
    if ratio := _RATIO.fullmatch(text.strip()):
        return f"{ratio[1]}:{ratio[2]}"
    text = _CJK_UNIT.sub(r"\1\\text{\2}", text)
    text = re.sub(r"\^ ?\{? ?o ?\}?(?![a-zA-Z])", r"^\\circ ", text) if "^" in text else text
    text = text.strip("*` ") if text.startswith(("**", "`")) else text
    text = _PERCENT_WORD.sub("%", text)
    text = text if text.rstrip().endswith("...") else text.rstrip("., ")
    text = _THOUSANDS_BY_SPACE.sub(lambda m: m.group().replace(" ", ""), text)
    return " ".join(text.split())


def squeezed(text: str) -> str:
    """A normalised answer without the spaces that carry no meaning, for comparing as text."""
    text = re.sub(r"\\text *\{([^{}]*)\}", r"\1", text)
    return re.sub(
        r" ?([=+\-*/^(){}\[\],<>|:;%_]) ?", r"\1", re.sub(r"([_^]|\\[a-zA-Z]+) *\{(\w)\}", r"\1 \2", text)
    ).strip()


def _to_ascii(text: str) -> str:
    out = []
    for i, c in enumerate(text):
        if c < "\x80":
            out.append(c)
        elif c in _CHARACTERS:
            out.append(_CHARACTERS[c])
        else:
            out.append(_one_character(c, text[i - 1] if i else ""))
    return "".join(out)


def _one_character(c: str, before: str) -> str:
    if ord(c) in _RAISED:
        raised = chr(_RAISED[ord(c)])
        # x²³ is one exponent: the braces of the character before are opened again
        return ("" if ord(before or " ") in _RAISED else "^") + raised
    if ord(c) in _LOWERED:
        return ("" if ord(before or " ") in _LOWERED else "_") + chr(_LOWERED[ord(c)])
    category = unicodedata.category(c)
    if category == "Cf":  # marks of direction, joiners, the byte-order mark: nobody sees them
        return ""
    if category == "Zs":
        return " "
    if category == "Nd":
        return str(unicodedata.decimal(c))
    if unicodedata.decomposition(c).startswith("<fraction>"):
        top, _, bottom = unicodedata.normalize("NFKC", c).partition("⁄")
        return f"\\frac{{{top}}}{{{bottom}}}" if bottom else c
    if "\uff01" <= c <= "\uff5e":  # full-width forms
        return chr(ord(c) - 0xFEE0)
    return c


def _latex(text: str) -> str:
    text = _TIGHT_COMMA.sub(",", text)
    text = _CHOSEN_FROM.sub(lambda m: f"\\binom{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}", text)
    text = text.replace("\\\\", "\\cr ")  # before the backslash of a row's end is taken for another's
    text = re.sub(r"\\cr \[[^\]]*\]", r"\\cr ", text) if "\\begin" in text else text
    text = _SIZES.sub("", text)
    text = _NAME.sub(lambda m: _NAMES.get(m[1], m[0]), text)
    text = _SPACE.sub(" ", _ESCAPED.sub(lambda m: m[1] or m[2] or "", text.replace(",\\,", ",")))
    text = text.replace("\\$", "\\dollar ").replace("\\not=", "\\ne ").replace("\\not =", "\\ne ")
    text = _DELIMITERS.sub(" ", text)
    text = _one_line(text) if "\\begin" in text else text
    text = _WRAPPER.sub("", _TAG.sub("", text))
    if "\\vec" in text:  # a cross product is no product of numbers
        text = text.replace("\\times", "\\otimes")
    text = _ACCENT.sub(r"\1\2", text)
    text = _FUNCTION_IN_TEXT.sub(r"\\\1 ", text)
    text = _FONT.sub(r"\\text", text)
    whole = _VALUE_IN_TEXT.fullmatch(text)
    text = _COMMA_IN_TEXT.sub(lambda m: f", {m[1] or ''} ", text)
    text = _TEMPERATURE.sub(lambda m: r"\text{ celsius}" if m[1] == "C" else r"\text{ fahrenheit}", text)
    text = _POSITIVE.sub(r"(0, \\infty)", _TRANSPOSED.sub("", text))
    return _PARAMETER.sub("", _LEAD.sub("", whole[1] if whole else text))


def _one_line(text: str) -> str:
    """Layout environments as one line; a system of equations, `cases` without conditions, as a list."""
    text = re.sub(r"\\\{\s*\\begin\{array\}(?:\{[^{}]*\})?(.*?)\\end\{array\}", r"\\begin{cases}\1\\end{cases}", text)
    text = _SYSTEM.sub(lambda m: m[1].strip().removesuffix("\\cr").replace("\\cr", ","), text)
    if _LAYOUT.search(text):
        text = _LAYOUT.sub(" ", text).replace("&", " ").strip().removesuffix("\\cr").replace("\\cr", ",")
    return text
