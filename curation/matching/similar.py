"""Normalises problems for comparison: tokens in one spelling, for duplicates and for leaks.

Words are the wrong unit for mathematics: two problems that differ in one number are different problems in nearly the
same words, and the same problem in other LaTeX has other words. So a text becomes LaTeX tokens in one spelling, with
number words as digits. `curation/matching/match.py` compares them.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from html import unescape

ASKING = frozenset(
    "an and answer are as at be by calculate common compute could determine each evaluate express find following form "
    "fraction given how if in is it its know let many me need number of on please possible simplest so solve such "
    "suppose tell that the then there these this those to value values was we what when where which with write you "
    "your".split()
)
_CAPITALS = re.compile(r"(?<!\\)\b[^\W\d_]{2,}")
_GONE = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|qquad)(?![a-z])"
    r"|\\[,;!:> ()\[\]]|~|\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname|emph)(?=\s*\{)",
    re.DOTALL,
)
_SAME = {
    **{"\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac"},
    **{"\\leq": "\\le", "\\geq": "\\ge", "\\neq": "\\ne", "{,}": ""},
    **{"\\cdots": "...", "\\cdot": "*", "\\times": "*", "\\ldots": "...", "\\dots": "...", "\\lt": "<", "\\gt": ">"},
}
_SYMBOLS = {
    **{"×": "*", "·": "*", "−": "-", "–": "-", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "°": "^\\circ ", "²": "^2"},
    **{"³": "^3", "√": "\\sqrt ", "∠": "\\angle ", "△": "\\triangle ", "∞": "\\infty ", "’": "'"},
    **dict(zip("асеорухі", "aceopyxi", strict=True)),  # Cyrillic letters that look like these
}
_MARKDOWN = re.compile(r"\*\*|^[ \t]*(?:#+|-{3,})(?=\s|$)|(?<=\n\n)[->*] (?=[A-Z])", re.M)
_NUMBERED = re.compile(
    r"\A\s*(?:(?:question|problem|exercise|example|task|q)\s*(?:\d+(?:\.\d+)*\s*[.):]?|[.):])|\d+[.)])\s+", re.I
)
_TWO_DIGITS = re.compile(r"\\(frac|binom)\s*(\d)\s*(\d)")
_QUOTIENT = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}|\\frac (\d) (\d)")
_DECIMAL = re.compile(r"\.(?<![\d.]\.)(?=\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TOKEN = re.compile(r"\\[A-Za-z]+|\d+(?:\.\d+)?|[A-Za-z]+|[^\s\w]|\w")
_TAG = re.compile(
    r"</?(?:p|br|div|span|b|i|u|em|strong|sup|sub|li|ul|ol|h\d|code|pre|a|font)\b[^<>]{0,200}>"
    r"|\[/?(?:quote|tex|latex|math|b|i)\]",
    re.IGNORECASE,
)
_IMAGE = re.compile(r"<img\b[^<>]{0,300}?\balt=[\"']([^\"'<>]{0,2000})[\"'][^<>]{0,300}>", re.IGNORECASE)
SILENT = frozenset("~{}()[],.;:?!'\"`&\\$")

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_LARGE = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_UNITS = {word: number for number, word in enumerate(_SMALL)} | {w: 20 + 10 * i for i, w in enumerate(_TENS)}
SPELLED = {str(number): word for word, number in _UNITS.items()}
_NUMERALS = (_UNITS.keys() | _LARGE.keys()) - {"one"}  # alone, one is a pronoun too


def digest(text: str) -> int:
    """A 64-bit hash of a text: in a pool of a million texts, two collide once in 40 million pools."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def squeezed(text: str) -> str:
    """Text for exact comparison: white space becomes one space; words become lower case, but not single letters.

    >>> squeezed("Find  THE value of $N - n$ and \\\\Delta")
    'find the value of $N - n$ and \\\\Delta'
    """
    return _CAPITALS.sub(lambda word: word.group().lower(), re.sub(r"\s+", " ", text).strip())


def tokens(text: str) -> list[str]:
    """LaTeX tokens of a text in one spelling and in lower case, without brackets and punctuation.

    >>> tokens("Find $\\\\dfrac{1}{2}+x$.") == tokens("find \\\\(\\\\frac12 + x\\\\)")
    True
    >>> tokens("twenty-five dogs, two hundred and one cats")
    ['25', 'dogs', '201', 'cats']
    """
    return [token for token in tokenize(text.lower()) if token not in SILENT]


def without_tags(text: str) -> str:
    """The text of a page or a forum post: entities decoded, tags removed, images of formulas replaced by their text.

    >>> without_tags("<p>If $x&lt;2$, find <img src='a' alt='$x^2$'/>.</p>").split()
    ['If', '$x<2$,', 'find', '$x^2$', '.']
    """
    if "&" in text:
        text = unescape(text)
    return _TAG.sub(" ", _IMAGE.sub(r" \1 ", text)) if "<" in text or "[/" in text else text


def tokenize(text: str) -> list[str]:
    """Tokens of a text in one spelling, with punctuation, in upper and lower case as written."""
    text = without_tags(text)
    text = split_drawings(text if text.isascii() else _in_latex(text))[0]
    text = _NUMBERED.sub("", _MARKDOWN.sub(" ", text).strip().strip("*"), count=1)
    if "\\" in text or "{," in text:
        for old, new in _SAME.items():
            text = text.replace(old, new)
        text = _QUOTIENT.sub(r"{\1\3}/{\2\4}", _TWO_DIGITS.sub(r"\\\1 \2 \3", _GONE.sub(" ", text)))
    return _read_numerals(_TOKEN.findall(_THOUSANDS.sub("", _DECIMAL.sub("0.", text))))


def _in_latex(text: str) -> str:
    """Replace Unicode mathematics by LaTeX and other characters by their plain form; remove invisible characters."""
    for letter in {letter for letter in text if not letter.isascii()}:
        name = unicodedata.name(letter, "")
        greek = f"\\{name.split()[-1].lower()} " if name.startswith("GREEK SMALL LETTER") else letter
        text = text.replace(letter, "" if unicodedata.category(letter) == "Cf" else _SYMBOLS.get(letter, greek))
    return unicodedata.normalize("NFKC", text)


def split_drawings(text: str) -> tuple[str, str]:
    """The text without its drawings, which are between [asy] and [/asy], and the drawings. Linear in the text."""
    kept, drawn, at = list[str](), list[str](), 0
    while (start := text.find("[asy]", at)) >= 0 and (end := text.find("[/asy]", start)) >= 0:
        kept.append(text[at:start])
        drawn.append(text[start + len("[asy]") : end])
        at = end + len("[/asy]")
    return " ".join([*kept, text[at:]]), " ".join(drawn)


def _read_numerals(parts: list[str]) -> list[str]:
    """The tokens with number words as digits: `twenty - five` is 25, `two hundred and one` is 201."""
    if _NUMERALS.isdisjoint(map(str.lower, parts)):
        return parts
    read, end, lower = list[str](), 0, [part.lower() for part in parts]
    for at, part in enumerate(parts):
        if at >= end:
            value, end = _numeral(lower, at) if lower[at] in _NUMERALS or lower[at] == "one" else (None, at + 1)
            read.append(part if value is None else str(value))
    return read


def _numeral(parts: list[str], at: int) -> tuple[int | None, int]:
    """The number in words that begins at a position, or None, and the position after it."""
    total, current, unit, end = 0, 0, 0, at
    words = parts[at : at + 20]
    for place, word in enumerate(words):
        joined = [*words[place + 1 : place + 3], "", ""]
        if word in _LARGE and (current or not place):
            unit, current = 100, max(current, 1) * _LARGE[word]
            if word != "hundred":
                total, current = total + current, 0
        elif word in _UNITS and (not place or unit == 100 or (unit >= 20 and _UNITS[word] < 10)):
            unit = _UNITS[word]
            current += unit
        elif word == "-" and 20 <= unit < 100 and _UNITS.get(joined[0], 10) < 10:
            continue
        elif not (word == "and" and unit == 100 and joined[0] in _UNITS and joined[1] not in _LARGE):
            break
        end = at + place + 1
    if end == at or words[: end - at] == ["one"]:
        return None, at + 1
    return total + current, end


def numbers(parts: Sequence[str]) -> Counter[str]:
    """The numerals among tokens, each as often as it occurs."""
    return Counter(part for part in parts if part[0].isdigit())
