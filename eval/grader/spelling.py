r"""Normalises the spelling of an answer, for the reader.

    normalise("\\left( \\dfrac12, √3 \\right)")  ->  "( \\frac12, \\sqrt 3 )"

Math delimiters, sizes of brackets and invisible characters are removed. Spaces stay, since they distinguish a list from
a number.
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

from eval.grader.nodes import BASES, NUMERALS, same_unit

# Commands and characters that have another spelling, each followed by the one that is used
_NAMES = dict(
    pair.split("=", 1)
    for pair in (
        r"dfrac=\frac tfrac=\frac cfrac=\frac nicefrac=\frac sfrac=\frac dbinom=\binom tbinom=\binom lbrace=\{ "
        r"rbrace=\} lbrack=[ rbrack=] leqslant=\le geqslant=\ge leq=\le geq=\ge neq=\ne lt=< gt=> degree=^\circ "
        r"textdegree=^\circ varnothing=\emptyset backslash=\setminus iff=\Leftrightarrow colon=: cents=\text{cents} "
        r"displaystyle= textstyle= limits= bar=\overline bf= rm= it= sf= tt= large= Large= LARGE= "
        r"overrightarrow=\vec widehat=\hat widetilde=\tilde huge= Huge= small= normalsize= bfseries= itshape= "
        r"centering="
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
        r"⟨\langle ⟩\rangle 。. 、, £\pounds ₹\rupee €\euro ¥\yen ¢\text{cents}"
    ).split()},
    **{"或": " or ", "和": " and ", "且": " and "},
}  # fmt: skip
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?(?=[^a-zA-Z]|\\|$)")  # \left( 0, 6 \right)
_DELIMITERS = re.compile(r"\\[()\[\]](?![a-zA-Z])|(?<!\\)\$")  # \( 5 \), $5$
_FUNCTION_IN_TEXT = re.compile(  # \operatorname{cis} 60^\circ
    r"\\(?:operatorname\*?|mathrm|text)\s*\{\s*((?:arc)?(?:sin|cos|tan|cot)h?|sec|csc|ln|log|exp|cis|gcd|lcm|Re|Im)\s*\}"
)
_RATIO = re.compile(r"(\d+) *(?:\\text *\{ *)?(?:to|(out of|in))(?: *\})? *(\d+)")  # 4 to 7, 3 out of 8
_VALUE_IN_TEXT = re.compile(r"\s*\\text\s*\{([^{}]*(?:\d|\b[A-J]\b|\band\b)[^{}]*)\}\s*")  # \text{4:30 p.m.}
_COMMA_IN_TEXT = re.compile(r"\\text\s*\{\s*,\s*(and|or)?\s*\}")  # 6, 8\text{, and }10
_FONT = re.compile(  # \mathbf{even}, \mbox{ miles}
    r"\\(?:mathrm|mathbf|mathit|mathsf|boldsymbol|textbf|textit|textrm|textnormal|mbox|hbox|operatorname\*?|emph|bm|"
    r"underline|texttt|textsc)\s*(?=\{)"
)
_FONT_OF_MATH = re.compile(
    r"\\(?:mathbf|boldsymbol|textbf|bm|text)\s*(?=\{(?:[^a-zA-Z{}$%]*\d[^a-zA-Z{}$%]*|[-+\d.(]*\\(?!text|\w*dollar)[^$]*)\})"
)  # \mathbf{5}
_VECTOR = re.compile(  # \vec{a} and \mathbf{a} are one vector, \hat{i} and \mathbf{i} the first unit vector
    r"\\(vec|hat|boldsymbol|mathbf|bm)\s*(?:\{\s*([a-zA-Z])\s*\}|([a-zA-Z])(?![a-zA-Z]))"
)
_PRIME = re.compile(r"\^ *\{? *\\prime *\}?")
_OVER = re.compile(r"(?:^|\{)([^{}]*)\\(over|choose)(?![a-z])([^{}]*)(?:\}|$)")  # {1 \over 2}
_WRAPPER = re.compile(  # \textcolor{red}{5}, {\color{red}5}
    r"\\(?:textcolor\s*\{[^{}]*\}|ensuremath|fbox|boxed|colorbox\s*\{[^{}]*\})\s*(?=\{)|\\color\s*\{[^{}]*\}"
)
# \begin{aligned} x &= 5 \end{aligned}
_LAYOUT = re.compile(r"\\(?:begin|end)\s*\{(?:aligned|align\*?|equation\*?|gathered|split|alignedat)\}")
_SYSTEM = re.compile(r"\\begin\s*\{cases\}([^&]*)\\end\s*\{cases\}")  # \begin{cases} x = 1 \\ y = 2 \end{cases}
# 5\tag{1}, \phantom -1
_TAG = re.compile(r"\\text\s*(?:\{\s*\.?\s*\}|\.|,\s*$)|\\tag\*?\s*\{[^{}]*\}|\\phantom\s*(?:\{[^{}]*\}|\S)")
_LEAD = re.compile(  # \text{The answer is } 5, \sim 5
    r"\\text\s*\{\s*(?:(?:so|thus|hence|therefore),?\s*)?(?:the )?(?:final )?(?:answer|result|value)(?: is)?\s*:?\s*\}|"
    r"\\text\s*\{\s*(?:approximately|approx\.?|about|exactly|roughly)\s*\}|\\sim(?=\s*[\d.])",
    re.IGNORECASE,
)
_THOUSANDS_BY_SPACE = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d])")  # 1 234 567
_CJK_UNIT = re.compile(r"([\d})])\s*([\u4e00-\u9fff]{1,4})$")  # 5元
_TRANSPOSED = re.compile(r"(?<=[\])]) *\^ *\{? *(?:T|\\top) *\}?$")  # [1, 2]^T, beside a column
_POSITIVE = re.compile(r"\\mathbb *\{? *R *\}? *[\^_] *\{? *\+ *\}?")
_TIGHT_COMMA = re.compile(
    r",\\!\s*(?=\d{3}(?!\d))|(?<=\d)\s*\{\s*,\s*\}\s*(?=\d{3}(?!\d))"
)  # MATH's `32,\! 349` is one number
_CHOSEN_FROM = re.compile(  # {}^{10}C_3, C_{10}^3
    r"(?:\{ *\})?\^ *\{? *(\w{1,4}) *\}? *C *_ *\{? *(\w{1,4}) *\}?"
    r"|(?<![a-zA-Z\\])C_ *\{? *(\w{1,4}) *\}? *\^ *\{? *(\w{1,4}) *\}?"
)
_CHOOSE = re.compile(
    r"(?<![\w.\\])(\d{1,4}|n) *(?:C|choose|\\text *\{ *choose *\}) *(\d{1,4}|k|r)(?![\w.])"
)  # 10C3, 10 choose 3
_PERCENT_WORD = re.compile(
    r"\s*\b(?:percent(?:age)?|per cent|pct)\b\.?|\s*\\text *\{ *% *\}", re.IGNORECASE
)  # 50 percent
_TENS, _DIGITS = (
    "|".join(word for word, n in NUMERALS.items() if low <= n <= high) for low, high in ((20, 90), (1, 9))
)
_SPELLED = re.compile(rf"\b({_TENS})[- ]({_DIGITS})\b", re.IGNORECASE)  # twenty-one
_NEGATIVE = re.compile(  # negative five, \text{negative } 5
    r"(?:^|(?<=[={])) *(?:\\text *\{ *(?:negative|minus) *\}|(?:negative|minus) ) *"
    rf"({'|'.join(NUMERALS)}|(?=[\d\\]))(?![a-z])",
    re.IGNORECASE,
)
_REMARK = re.compile(  # 6 \text{ (since } x > 0), f(x) = cx \text{ for any constant } c, 2k\pi, k \in \mathbb{Z}
    r"[ ,]*(?:\\text *\{)? *(?:\((?:\\text *\{)? *(?:since|because|rejecting|discarding|the only)\b[^()]*\)"
    r"|(?:for|where) (?:(?:any|some|every|all) )?(?:real |arbitrary )?(?:constants?|integers?) *\}? *[a-zA-Z]?"
    r"(?: *(?:>|\\ge) *\d)?|for (?:all|any|every|each)(?: real| complex| integers?| numbers?)* *\}? *[a-zA-Z]"
    r"(?: *\\in *\\mathbb *\{? *[RCQZN] *\}?)?"
    r"|\\text *\{ *(?:(?:attained|achieved|reached) )?(?:when|at) *\} *[a-zA-Z] *=[^,;]*"
    r"|(?<=[\w)}])[ ,;]*\(?(?:\\text *\{ *)?(?:(?:for|where|with) *\}? *)?[kmn] *\\in *(?:\\mathbb *)?\{? *[NZ] *\}?"
    r" *(?:[\^_]? *\{? *[*+] *\}?)? *\)?)"
    r"[ .}]*$"
)
_MONIES = {"USD": "dollar", "US": "dollar", "Rs": "rupee", "INR": "rupee", "EUR": "euro"}
_PREFIXED = re.compile(r"^(?:\\text *\{)? *(USD|US|Rs|INR|EUR)\.? *\}? *(?:\\dollar )?(?=\d)")  # Rs. 250
_EXCEPT = re.compile(r"^(?:\\text *\{)? *(?:all )?(?:reals|real numbers)(?: \w)? except(?: for)? *\}? *(.+)$")
_OPEN = re.compile(r"([\[\](])([^\[\]()]*,[^\[\]()]*)([\[\])])")  # ]0, 1[
_NESTED = re.compile(r"\\text *\{(?:[^{}]|\{[^{}]*\})*\}")  # \text{m s^{-1}}
_ASIDE = re.compile(
    r"(?<=[\d}]) *(?:\\text *\{ *)?(?:in total|altogether|each|\(?approx(?:imately|\.)?\)?) *\}?$"
)  # 5 each
_ORDINAL = re.compile(r"(?<=\d) *\^ *\{ *(?:\\text *\{ *)?(?:st|nd|rd|th) *\}? *\}")  # 5^{\text{th}}
_SQUARED_UNIT = re.compile(r"(?<=\d)\s*([kcmd]?m)([²³])")  # 12m²
_SIGNS = re.compile(r"(?:^|(?<==)) *(?:\+ ?/? ?-|- ?\+) ?(?=[\d\\(])")  # x = +-7
_IN_BASE = re.compile(rf"(?<=[\dA-F}}]) *(?:\\text *\{{)? *\(?(?:in )?base *\}}? *(\d+|{'|'.join(BASES)})[ )}}]*$")
_MODULO = re.compile(
    r"\\pmod(?![a-z])|(?:\( *|\\text *\{ *\()(?:\\[bp]?mod|\\text *\{ *mod *\}|mod *\}?)(?![a-z]) *([^()]+)\)"
)  # 3 (mod 7)
_MOD_BEHIND = re.compile(r"(?<![a-zA-Z\\])\\?b?mod(?![a-zA-Z])")  # x \equiv 3 \mod 7
_MEASURE = re.compile(r" *(\d+(?:\.\d+)?) *(?:\\text *\{)? *([a-zA-Z]+)\.?(?:,? and\b)? *\}? *(?:and\b)?")  # 2 h 30 min


@lru_cache(maxsize=100_000)
def normalise(text: str) -> str:
    """Normalise the spelling of an answer, without changing its meaning."""
    if not text.isascii():
        text = _to_ascii(_SQUARED_UNIT.sub(r"\\text{\1\2}", text))
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _MODULO.sub(lambda m: f"\\pmod {{{m[1]}}}" if m[1] else m[0], _in_digits(text))
    text = _MOD_BEHIND.sub(r"\\pmod ", text) if "\\equiv" in text else text
    if any(c in text for c in "\\~${^"):
        text = _latex(text)
    text = " ".join("".join(c if c >= " " else " " for c in text).split())
    text = _SIGNS.sub(r"\\pm ", re.sub(r"\b(?:np|math|sympy)\.(?=[a-z])", "", text))  # np.arcsin(10/13)
    if ratio := _RATIO.fullmatch(text.strip()):
        return f"{ratio[1]}{'/' if ratio[2] else ':'}{ratio[3]}"
    text = re.sub(r"^(\d\d?:\d\d):00$", r"\1", text)  # 20:34:00
    text = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", text)  # June 20th
    text = _EXCEPT.sub(r"\\mathbb{R} \\setminus \\{\1\\}", _PREFIXED.sub(lambda m: f"\\{_MONIES[m[1]]} ", text))
    if text.startswith("]") or text.endswith("["):
        text = _OPEN.sub(lambda m: m[1].replace("]", "(") + m[2] + m[3].replace("[", ")"), text)
    text = _CJK_UNIT.sub(r"\1\\text{\2}", text)
    text = re.sub(r"\^ ?\{? ?o ?\}?(?![a-zA-Z])", r"^\\circ ", text) if "^" in text else text
    text = text.strip("*` ") if text.startswith(("**", "`")) else text
    text = _IN_BASE.sub(r"_{\1}", _REMARK.sub("", _ASIDE.sub("", _PERCENT_WORD.sub("%", text))))
    text = text if text.rstrip().endswith("...") else text.rstrip(".,; \\")
    text = _THOUSANDS_BY_SPACE.sub(lambda m: m.group().replace(" ", ""), text)
    return _in_one_unit(" ".join(text.split()))


def _in_digits(text: str) -> str:
    """Write number words above twenty, and negative ones, in digits."""
    text = _SPELLED.sub(lambda m: str(NUMERALS[m[1].lower()] + NUMERALS[m[2].lower()]), text)
    return _NEGATIVE.sub(lambda m: f"-{NUMERALS[m[1].lower()] if m[1] else ''}", text)


def _in_one_unit(text: str) -> str:
    """Convert `2 hours and 30 minutes` to 150 minutes. Each part must be less than one of the previous unit."""
    total, before, at = Fraction(0), "", 0
    while match := _MEASURE.match(text, at):
        worth = same_unit(before, match[2]) if before else Fraction(1)
        if worth is None or (before and Fraction(match[1]) >= worth):
            return text
        total, before, at = total * worth + Fraction(match[1]), match[2], match.end()
    is_whole = at == len(text) and total.denominator == 1
    return f"{total} \\text{{{before}}}" if is_whole and len(_MEASURE.findall(text)) > 1 else text


def compact(text: str) -> str:
    """Remove the spaces without a meaning from a normalised answer, to compare it as text."""
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
    category, (form, _, _) = unicodedata.category(c), unicodedata.decomposition(c).partition(" ")
    plain = unicodedata.normalize("NFKC", c)
    if form in ("<super>", "<sub>"):  # x²³ is one exponent
        begun = unicodedata.decomposition(before or " ").startswith(form)
        return ("" if begun else "^" if form == "<super>" else "_") + plain.replace("−", "-")
    if category == "Cf" or c in "✓✔✅":  # marks of direction, joiners, the byte-order mark: nobody sees them
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(c))
    if form == "<fraction>":
        top, _, bottom = plain.partition("⁄")
        return f"\\frac{{{top}}}{{{bottom}}}" if bottom else c
    return " " if category == "Zs" else plain if form == "<wide>" else c


def _latex(text: str) -> str:
    text = _ORDINAL.sub("", _TIGHT_COMMA.sub(",", text.rstrip(" \\")))
    text = re.sub(r"\^ *(\w|\{[^{}]*\}) *_ *(\w|\{[^{}]*\})", r"_\2^\1", text)  # v^2_0
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
    if "\\vec" in text:  # a cross product is not a product of numbers
        text = text.replace("\\times", "\\otimes")
    text = _PRIME.sub("'", _VECTOR.sub(_vector, text))
    if "\\over" in text or "\\choose" in text:
        text = _OVER.sub(lambda m: f"\\{'frac' if m[2] == 'over' else 'binom'}{{{m[1]}}}{{{m[3]}}}", text)
    text = _FUNCTION_IN_TEXT.sub(r"\\\1 ", text)
    text = _FONT.sub(r"\\text", _FONT_OF_MATH.sub("", text))
    whole = _VALUE_IN_TEXT.fullmatch(text)
    text = _NESTED.sub(lambda m: re.sub(r"\^ *\{ *(-?\d) *\}", r"^\1", m[0]), text)
    text = _COMMA_IN_TEXT.sub(lambda m: f", {m[1] or ''} ", text)
    return _LEAD.sub("", whole[1] if whole else _POSITIVE.sub(r"(0, \\infty)", _TRANSPOSED.sub("", text)))


def _vector(match: re.Match[str]) -> str:
    mark, letter = match[1], match[2] or match[3]
    if letter in "ijk" or (mark not in ("vec", "hat") and letter.isupper()):  # bold capitals are matrices or choices
        return f" {letter}"
    return f"\\{'hat' if mark == 'hat' else 'vec'}{{{letter}}}"


def _one_line(text: str) -> str:
    """Write layout environments on one line. A system of equations, and `cases` without conditions, become a list."""
    text = re.sub(r"\\\{\s*\\begin\{array\}(?:\{[^{}]*\})?(.*?)\\end\{array\}", r"\\begin{cases}\1\\end{cases}", text)
    text = _SYSTEM.sub(lambda m: m[1].strip().removesuffix("\\cr").replace("\\cr", ","), text)
    if _LAYOUT.search(text):
        text = _LAYOUT.sub(" ", text).replace("&", " ").strip().removesuffix("\\cr").replace("\\cr", ",")
    return text
