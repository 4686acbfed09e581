r"""Writes the mathematics of a page as text that an extractor keeps: `$...$` and `$$...$$`, exponents and indices.

    keep(tree)      # changes the tree; the extractor that follows sees formulas as text

Known: MathJax 2 (`<script type="math/tex">`), 3 and 4 (`mjx-container`), KaTeX, MathML with and without a TeX
annotation, Wikipedia's `mwe-math`, formulas as images (`alt`, `title`, or LaTeX in the address, as codecogs and
WordPress have it), `data-latex` and the like, `<sup>` and `<sub>`, by which `10<sup>5</sup>` is not read as 105. What a
page writes between `\(..\)`, `\[..\]` or dollars is text already and stays.

Each inserted formula is enclosed in marks (private-use characters, which were removed from the page before), so that
the caller can see which formulas are lost. Left out: formulas that are images without a text.
"""

import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from curation.methods.mammoth2.markup import PRIVATE

OPEN, CLOSE = (
    "\ue010",
    "\ue011",
)  # around a formula; in PRIVATE, like the marks of `markup.py`
RENDERED = (
    "span.MathJax, span.MathJax_Preview, div.MathJax_Display, span.MathJax_SVG, div.MathJax_SVG_Display, "
    "span.MathJax_CHTML, div.MathJax_CHTML, span.mjx-chtml, span.MathJax_Display, span.MJX_Assistive_MathML, "
    ".MathJax_Processing"
)
CARRIED = (
    "[data-latex], [data-tex], [data-math], [data-katex], [data-equation-content], tex-math, tex, span.math, div.math"
)
CARRIES = """data-latex data-tex data-math data-katex data-equation <tex "math math" 'math math'""".split()
IMAGES = re.compile(r"latex|tex\b|math|equation|formula|codecogs|mimetex|\bcht=tx", re.IGNORECASE)
SAYS = re.compile(r"\\[a-zA-Z]+|[\^_]\{?\w|[=<>≤≥±√∑∫]|^\s*\$.*\$\s*$", re.DOTALL)  # an image's text is a formula
DELIMITED = re.compile(r"^\s*(?:\\\(.*\\\)|\\\[.*\\\]|\$.*\$)\s*$", re.DOTALL)
COMMENT = re.compile(r"(?<!\\)%[^\n]*\n")  # a comment of LaTeX; without a line end it may be a percent sign
CDATA = re.compile(r"%?\s*<!\[CDATA\[|%?\s*\]\]>")  # around what XHTML writes into a script
PREFIX = re.compile(r"<(/?)\w+:")  # of a namespace
UNSEEN = re.compile("[\u2061-\u2064]")  # operators that are not printed
NAMES = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lim max min sup inf gcd det".split()
NAMED = re.compile(rf"(?<![a-zA-Z\\])({'|'.join(NAMES)})\b")
LIMIT = re.compile(r"\\underset\{([^{}]*)\}\{(\\[a-z]+)\}")  # of \lim and the like
DISPLAY_STYLE = re.compile(r"^\{\\(?:displaystyle|textstyle|scriptstyle)\s*(.*)\}$", re.DOTALL)


def keep(tree: Any, html: str) -> int:
    """Write the formulas of a parsed page as text that the extractor keeps. Returns how many were inserted.

    `html` is the page's source, used to skip searches for elements that it does not contain.
    """
    body, low = tree.body, html.lower()
    if body is None:
        return 0
    put = _Put(tree)
    if "katex" in low:
        _katex(body, put)
    if "mwe-math" in low:
        _wikipedia(body, put)
    if "mathjax" in low or "mjx" in low or 'type="math/' in low or "type='math/" in low or "type=math/" in low:
        _mathjax(body, low, put)
    if "<math" in low or ":math" in low:
        for node in body.query_selector_all("math")[:]:
            put.formula(node, _of_math(node), _attr(node, "display") == "block" or _attr(node, "mode") == "display")
    if any(sign in low for sign in CARRIES):
        _carried(body, put)
    if "<img" in low:
        _images(body, put)
    if "<sup" in low or "<sub" in low:
        _scripts(body, put)
    return put.count


class _Put:
    """Replaces elements by text and counts the formulas. An element without a parent is left alone."""

    def __init__(self, tree: Any) -> None:
        self.tree, self.count = tree, 0

    def formula(self, node: Any, tex: str | None, display: bool = False) -> bool:
        tex = _bare(tex or "")
        if not tex:
            return False
        self.count += 1
        sign = "$$" if display else "$"
        return self.text(node, f"{OPEN}{sign}{tex}{sign}{CLOSE}")

    def text(self, node: Any, text: str) -> bool:
        if node.parent is None:
            return False
        node.parent.replace_child(self.tree.create_text_node(text), node)
        return True


def _attr(node: Any, name: str) -> str:
    return str(node.getattr(name) or "")


def _bare(tex: str) -> str:
    """LaTeX on one line, without the delimiters and style commands that enclose it."""
    tex = CDATA.sub("\n", PRIVATE.sub("", tex)) if "CDATA" in tex else PRIVATE.sub("", tex)
    tex = " ".join(COMMENT.sub("\n", tex).split()).removeprefix("% ")
    for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if tex.startswith(left) and tex.endswith(right) and len(tex) > len(left + right):
            tex = tex[len(left) : -len(right)].strip()
            break
    while found := DISPLAY_STYLE.match(tex):
        tex = found[1].strip()
    return tex.strip("$").strip() if tex.count("$") % 2 == 0 else tex.replace("$", "").strip()


def _of_math(node: Any) -> str:
    """The LaTeX of a `<math>` element: its annotation or attribute, or else converted from its markup."""
    for note in node.query_selector_all("annotation")[:]:
        if "tex" in _attr(note, "encoding").lower() and (note.text or "").strip():
            return str(note.text)
    return _attr(node, "alttext") or _attr(node, "data-latex") or _converted(node)


def _converted(node: Any) -> str:
    """Convert the markup of a `<math>` element to LaTeX; if that fails, return the element's plain text."""
    from mathml_to_latex.converter import MathMLToLaTeX

    try:
        found = MathMLToLaTeX().convert(PREFIX.sub(r"<\1", node.html))
    except Exception:  # noqa: BLE001  what a page may hold has no end, and the converter raises many kinds of errors
        found = ""
    found = UNSEEN.sub("", found) or " ".join((node.text or "").split())
    return LIMIT.sub(r"\2_{\1}", NAMED.sub(r"\\\1", found))


def _katex(body: Any, put: _Put) -> None:
    for node in [*body.query_selector_all(".katex-display")[:], *body.query_selector_all(".katex")[:]]:
        if node.closest("body") is None:  # it was in a display that has been replaced
            continue
        note = node.query_selector("annotation, math")
        if note is not None:
            math = node.query_selector("math")
            put.formula(node, _of_math(math) if math is not None else note.text, "display" in _attr(node, "class"))


def _wikipedia(body: Any, put: _Put) -> None:
    for node in body.query_selector_all(".mwe-math-element")[:]:
        math, image = node.query_selector("math"), node.query_selector("img")
        said = _of_math(math) if math is not None else _attr(image, "alt") if image is not None else ""
        block = image is not None and "display" in _attr(image, "class")
        put.formula(node, said, block or (math is not None and _attr(math, "display") == "block"))


def _mathjax(body: Any, low: str, put: _Put) -> None:
    sources = body.query_selector_all('script[type^="math/"]')[:]
    written = bool(len(sources))
    for node in body.query_selector_all(RENDERED)[:] if "mathjax" in low or "mjx" in low else []:
        if written:  # the source of the rendering is beside it
            if node.parent is not None:
                node.parent.remove_child(node)
        elif "MathJax" in _attr(node, "class") and _attr(node, "data-mathml"):
            put.formula(node, _of_text(_attr(node, "data-mathml")))
    for node in sources:
        kind, text = _attr(node, "type"), node.text or ""
        if "math/mml" in kind:
            put.formula(node, _of_text(text), "block" in text[:200])
        elif "asciimath" in kind:
            put.text(node, f"{OPEN}`{' '.join(text.split())}`{CLOSE}")
        else:
            put.formula(node, text, "display" in kind)
    for node in body.query_selector_all("mjx-container")[:] if "mjx-container" in low else []:
        math = node.query_selector("math")
        said = _attr(node, "data-latex") or (_of_math(math) if math is not None else "")
        inner = node.query_selector("[data-latex]") if not said else None
        said = said or (_attr(inner, "data-latex") if inner is not None else _attr(node, "aria-label"))
        put.formula(node, said, _attr(node, "display") == "true")


def _of_text(markup: str) -> str:
    """The LaTeX of MathML that an attribute or a script element contains."""
    from resiliparse.parse.html import HTMLTree

    body = HTMLTree.parse(markup).body
    math = body.query_selector("math") if body is not None else None
    return _of_math(math) if math is not None else ""


def _carried(body: Any, put: _Put) -> None:
    """Write the formulas of elements that hold LaTeX in an attribute, or as text without delimiters (Pandoc, JATS)."""
    for node in body.query_selector_all(CARRIED)[:]:
        named = ("data-latex", "data-tex", "data-math", "data-katex", "data-equation-content")
        if node.closest("body") is None:  # it was in an element that has been replaced
            continue
        said = next((_attr(node, name) for name in named if _attr(node, name)), "")
        text = node.text or ""
        block = node.tag == "div" or "display" in _attr(node, "class") or "block" in _attr(node, "class")
        if said and SAYS.search(said + "="):
            put.formula(node, said, block)
            continue
        bare = text.strip() and OPEN not in text and not DELIMITED.match(text) and "\\(" not in text
        tex = node.tag in ("tex-math", "tex") or (re.search(r"\\[a-zA-Z]|[\^_]", text) and "$" not in text)
        if not said and bare and tex:
            put.formula(node, text, block)


def _images(body: Any, put: _Put) -> None:
    for node in body.query_selector_all("img")[:]:
        alt, source, kind = _attr(node, "alt"), _attr(node, "src"), _attr(node, "class")
        said = alt or _attr(node, "title")
        if IMAGES.search(f"{source} {kind}"):
            within = _in_address(source)
            if within and not SAYS.search(said):
                said = within
            if said.strip() and not re.fullmatch(r"(?i)(?:formula|equation|math|latex|image|img)\W*\d*", said.strip()):
                put.formula(node, said, "display" in kind or "block" in kind)
                continue
        elif re.search(r"\\[a-zA-Z]+\b|^\s*\$.+\$\s*$", said):
            put.formula(node, said)


def _in_address(source: str) -> str:
    """The LaTeX in the address of an image, such as `latex.codecogs.com/png.latex?x^2` or WordPress's
    `latex.php?latex=x%5E2`.
    """
    try:
        parts = urlsplit(source)
    except ValueError:
        return ""
    for key in ("latex", "chl", "tex", "eq", "formula", "math"):
        if key + "=" in parts.query:
            return parse_qs(parts.query, max_num_fields=50).get(key, [""])[0]
    if "latex" in parts.path or "mimetex" in parts.path or "mathtex" in parts.path:
        said = unquote(parts.query)
        return re.sub(r"^\\(?:dpi\{\d+\}|bg_\w+|large|small|inline|fn_\w+|\s)+\s*", "", said).strip()
    return ""


def _scripts(body: Any, put: _Put) -> None:
    """Write the exponents and indices of plain HTML, and fractions made of them. Footnotes and ordinals stay
    unchanged.
    """
    nodes = body.query_selector_all("sup, sub")[:]
    if body.query_selector("sup sup, sup sub, sub sup, sub sub") is not None:
        # Inner elements come first
        nodes = sorted(nodes, key=lambda node: len(node.query_selector_all("sup, sub")))
    for node in nodes:
        text = " ".join((node.text or "").split())
        sup = node.tag == "sup"
        if not text or node.parent is None or OPEN in text:
            continue
        before = node.prev
        stands_on = (before.text or "")[-1:] if before is not None else ""
        after = node.next
        slash = after is not None and not after.tag.isalpha() and (after.text or "").strip()[:1] in ("⁄", "/", "∕")
        if sup and slash and after.next is not None and after.next.tag == "sub":
            below = " ".join((after.next.text or "").split())
            node.parent.remove_child(after.next)
            node.parent.remove_child(after)
            gap = " " if stands_on.isdigit() else ""
            put.text(node, f"{gap}{_grouped(text)}/{_grouped(below)}")
            continue
        if sup and (node.query_selector("a") is not None or _footnote(text, stands_on)):
            continue
        if not stands_on or stands_on.isspace():
            continue
        put.text(node, ("^" if sup else "_") + (text if len(text) == 1 else f"{{{text}}}"))


def _grouped(text: str) -> str:
    return text if re.fullmatch(r"\w+|\d+(?:\.\d+)?", text) else f"({text})"


def _footnote(text: str, stands_on: str) -> bool:
    """Whether a raised text is something other than an exponent: the ending of an ordinal (1st), a footnote mark, a
    trade mark.
    """
    if re.fullmatch(r"(?i)(?:st|nd|rd|th)", text):
        return stands_on.isdigit()
    return bool(re.fullmatch(r"(?:TM|SM|®|™|©|\*{2,}|†|‡|§|\[.{0,6}\])", text))
