r"""Reduces a completion to prose: removes code and Markdown, and recognises formulas, points and numbers."""

import re

from eval.grader.doubt import CLOSING
from eval.grader.nodes import NUMERALS

TAIL = 20_000  # characters of a completion's end in which an unmarked answer is looked for

# $5$, \(5\), \[5\]; "$5 and $7" is money
FORMULA = re.compile(
    r"(?<!\\)\$\$?((?:\\\$|[^$])+?)(?<!\\)\$\$?(?!\d)|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]", re.DOTALL
)
ATOM = re.compile(  # a formula, a point (2, -1) or a list of lists
    rf"{FORMULA.pattern}|(?<![\w)])(?:[(\[][^()\[\]]*\d[^()\[\]]*,(?!\d{{3}}\b)[^()\[\]]*[)\]]"
    r"|\[(?:\[[^()\[\]]*\],? ?)+\])",
    re.DOTALL,
)
# Possessive quantifiers: a run of digits is read once, however long
NUMBER = re.compile(
    r"(?<![a-zA-Z0-9_.,^/{\\:])(?<!\d[-–])[-−+]?\s?\$?(?:\d{1,3}(?: \d{3})+(?!\d)|\d(?>(?:,?\d)*)\.?\d*+|\.\d++)"
    r"(?:/\d++|:\d++(?::\d++)*(?:\s?[ap]\.?m\b)?)?(?:\\?%|e[-+]?\d++)?(?:\s+(?:thousand|million|billion|trillion))?"
    r"(?![-–]\d)(?:(?![a-zA-Z0-9_])|(?=(?:[ckm]?m[²³]|[ckm]m|kg|mg|ml|mL|km/h)(?![a-zA-Z0-9_])))"
)
HIDDEN = "\ue000-\uf8ff"
VALUE = re.compile(rf"[{HIDDEN}]|{NUMBER.pattern}")


WORDS = re.compile(rf"[{HIDDEN}\u4e00-\u9fff]|[a-zA-Z]{{2,}}[^a-zA-Z].*?[a-zA-Z]{{2,}}")  # more than a word


def plain_prose(text: str) -> str:
    """The end of a text without code, Markdown, denied values ("not 6 but 8"), and remarks after the answer."""
    text = text[-TAIL:]
    text = _CODE.sub("\n", text) if "```" in text else text
    text = re.sub(r"<<[^<>\n]{1,200}>>", "", text) if "<<" in text else text  # GSM8K's 3 + 5 = <<3+5=8>>8
    text = _NOT_BUT.sub(" ", text) if "but" in text or "不是" in text else text
    text = _TWICE.sub(r"\1", text) if re.search(r"[a-z] \(\d", text) else text
    text = (_BOLD.sub(r"\2", text) if re.search(r"[*_`]", text) else text).rstrip()
    while behind := CLOSING.search(text, max(0, len(text) - 160, len(text[: text.rfind("\n") + 1].rstrip()))):
        text = text[: behind.start()].rstrip()
    return text


NUMERAL = rf"(?:{'|'.join(NUMERALS)})"
_TWICE = re.compile(rf"\b{NUMERAL}(?:[- ]{NUMERAL})* \((\d[\d,]*)\)", re.IGNORECASE)  # seventy-five (75)
_CODE = re.compile(r"```(?!(?:math|json|output|text|latex)?\s)\w.*?(?:```|\Z)|```\w*[ \t]*$", re.DOTALL | re.MULTILINE)
_NOT_BUT = re.compile(
    r"(?:\bnot|n't) [-\d$\\(][^.\n]{0,60}?\bbut (?:rather )?(?=[-\d$\\(])|不是[^。\n]{1,30}?而(?=是)"
)  # not 6 but 8
_BOLD = re.compile(
    r"(?<![\w*)}`])(\*{1,3}|__?|`)(?=[^\s*_])([^*`\n]+?)(?<=[^\s*_])\1(?![\w(*])"
)  # **25%** of them, not 2**3


def unpunctuated(text: str) -> str:
    """Remove the punctuation that ends a sentence. Three dots stay, since they belong to a list."""
    text = re.sub(r"(?<=[$*])!+\s*\Z|(?<=[\d$)])\s*(?:です|입니다)[.。]?\s*\Z", "", text)
    return text if text.rstrip().endswith("...") else text.rstrip('.,;:*" \t\r\n。；')
