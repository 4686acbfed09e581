r"""MathML as LaTeX, for pages that give a formula in no other form.

    <msup><mi>x</mi><mn>2</mn></msup>  ->  x^{2}

Presentation markup only, as listed in MathML Core 1 (W3C). Unknown elements are converted to their text, so no sign is
lost.
"""

from collections.abc import Callable
from typing import Any

DEEPEST = 60  # most nested elements; deeper ones are converted to their text
NAMES = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim limsup liminf max min sup inf gcd "
    "det dim ker deg arg hom Pr mod".split()
)
SIGNS = dict(
    pair.split()
    for pair in r"""∑ \sum|∏ \prod|∫ \int|∬ \iint|∮ \oint|√ \sqrt{}|∞ \infty|× \times|⋅ \cdot|· \cdot|÷ \div|± \pm|∓ \mp
≤ \le|≥ \ge|≠ \ne|≈ \approx|≡ \equiv|∼ \sim|≅ \cong|∝ \propto|≪ \ll|≫ \gg|→ \to|← \leftarrow|↦ \mapsto
⇒ \Rightarrow|⇔ \Leftrightarrow|⟹ \implies|⟺ \iff|∂ \partial|∇ \nabla|∈ \in|∉ \notin|∪ \cup|∩ \cap|⊂ \subset
⊆ \subseteq|⊃ \supset|⊇ \supseteq|∅ \emptyset|∖ \setminus|∀ \forall|∃ \exists|¬ \neg|∧ \land|∨ \lor|⊕ \oplus
⊗ \otimes|∘ \circ|⊥ \perp|∥ \parallel|∠ \angle|… \dots|⋯ \cdots|⋮ \vdots|⋱ \ddots|′ '|″ ''|− -|⁢ ~|⁡ ~|⟨ \langle|⟩ \rangle
⌊ \lfloor|⌋ \rfloor|⌈ \lceil|⌉ \rceil|ℝ \mathbb{R}|ℕ \mathbb{N}|ℤ \mathbb{Z}|ℚ \mathbb{Q}|ℂ \mathbb{C}|ℏ \hbar|ℓ \ell
α \alpha|β \beta|γ \gamma|δ \delta|ϵ \epsilon|ε \varepsilon|ζ \zeta|η \eta|θ \theta|ι \iota|κ \kappa|λ \lambda|μ \mu
ν \nu|ξ \xi|π \pi|ρ \rho|σ \sigma|τ \tau|υ \upsilon|ϕ \phi|φ \varphi|χ \chi|ψ \psi|ω \omega
Γ \Gamma|Δ \Delta|Θ \Theta|Λ \Lambda|Ξ \Xi|Π \Pi|Σ \Sigma|Φ \Phi|Ψ \Psi|Ω \Omega
{ \{|} \}|% \%|# \#|& \&""".replace("\n", "|").split("|")
)
ACCENTS = {
    **{"^": "\\hat", "ˆ": "\\hat", "¯": "\\overline", "‾": "\\overline", "―": "\\overline", "→": "\\vec", "⃗": "\\vec"},
    **{"~": "\\tilde", "˜": "\\tilde", "˙": "\\dot", "¨": "\\ddot", "⏞": "\\overbrace", "_": "\\underline"},
    **{"⏟": "\\underbrace", "̲": "\\underline"},
}
LIMITS = r"\sum \prod \lim \max \min \sup \inf \int \gcd \limsup \liminf \det".split()


def latex(node: Any, depth: int = 0) -> str:
    """A `<math>` element, or one inside it, as LaTeX; limited in depth, never raises for invalid markup."""
    if depth > DEEPEST:
        return str(node.text or "").strip()
    tag = (node.tag or "").lower().rpartition(":")[2]
    if tag in ("mi", "mn", "mo", "mtext", "ms"):
        return _token(tag, " ".join((node.text or "").split()))
    if tag in ("annotation", "annotation-xml", "mphantom", "maligngroup", "malignmark"):
        return ""
    children = [child for child in node.child_nodes[:] if (child.tag or "#")[0] not in "#!"]
    if tag == "semantics":
        return latex(children[0], depth + 1) if children else ""
    if tag == "mspace":
        return " "
    parts = [latex(child, depth + 1) for child in children]
    if not children and tag not in _SHAPES:
        return str(node.text or "").strip()
    shape = _SHAPES.get(tag)
    if shape and len(parts) >= _LEAST[tag]:
        return shape(parts)
    if tag == "mfenced":
        around = node.getattr("open", "("), (node.getattr("separators", ",") or ",")[0], node.getattr("close", ")")
        return f"{_sign(around[0])}{(around[1] + ' ').join(parts)}{_sign(around[2])}"
    if tag in ("mtr", "mlabeledtr"):
        return " & ".join(parts)
    if tag == "mtable":
        return "\\begin{matrix}" + " \\\\ ".join(parts) + "\\end{matrix}"
    return _joined(parts)


def _token(tag: str, text: str) -> str:
    if tag in ("mtext", "ms"):
        return f"\\text{{{text}}}" if text else " "
    if text in NAMES:
        return f"\\{text}"
    if tag == "mi" and len(text) > 1 and text.isalpha() and text.isascii():
        return f"\\mathrm{{{text}}}"
    return _sign(text)


def _sign(text: str) -> str:
    """A token with each sign replaced by its LaTeX name."""
    named = _joined([SIGNS.get(sign, sign) for sign in text])
    return named.replace("~", "").strip()


def _joined(parts: list[str]) -> str:
    """The joined parts, with a space between a command and a letter."""
    out = ""
    for part in filter(None, parts):
        word = out.rpartition("\\")[2]
        runs_in = "\\" in out and word.isalpha() and part[0].isalpha()
        out += (" " if runs_in else "") + part
    return out


def _script(base: str) -> str:
    """The base of an exponent, grouped if it has several parts."""
    plain = len(base) <= 1 or base.isdigit() or (base.startswith("\\") and base[1:].isalpha()) or base.startswith("{")
    return base if plain or (base[0] in "([|" and base[-1] in ")]|") else f"{{{base}}}"


def _over(parts: list[str]) -> str:
    base, above = parts[0], parts[1].strip()
    if accent := ACCENTS.get(above) or (ACCENTS.get("→") if above == "\\to" else None):
        return f"{accent}{{{base}}}"
    return f"{base}^{{{above}}}" if base in LIMITS else f"\\overset{{{above}}}{{{base}}}"


def _under(parts: list[str]) -> str:
    base, below = parts[0], parts[1].strip()
    if accent := ACCENTS.get(below):
        return f"{accent}{{{base}}}"
    return f"{base}_{{{below}}}" if base in LIMITS else f"\\underset{{{below}}}{{{base}}}"


_SHAPES: dict[str, Callable[[list[str]], str]] = {
    "mfrac": lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}",
    "msup": lambda p: f"{_script(p[0])}^{{{p[1]}}}",
    "msub": lambda p: f"{_script(p[0])}_{{{p[1]}}}",
    "msubsup": lambda p: f"{_script(p[0])}_{{{p[1]}}}^{{{p[2]}}}",
    "munderover": lambda p: f"{p[0]}_{{{p[1]}}}^{{{p[2]}}}",
    "mover": _over,
    "munder": _under,
    "msqrt": lambda p: f"\\sqrt{{{_joined(p)}}}",
    "mroot": lambda p: f"\\sqrt[{p[1]}]{{{p[0]}}}",
    "mmultiscripts": lambda p: _joined([_script(p[0]), *(f"_{{{b}}}" for b in p[1:2]), *(f"^{{{b}}}" for b in p[2:3])]),
}
_LEAST = {
    **dict.fromkeys(("mfrac", "msup", "msub", "mover", "munder", "mroot"), 2),
    **{"msubsup": 3, "munderover": 3, "msqrt": 1, "mmultiscripts": 1},
}
