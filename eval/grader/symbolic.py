"""The last layer of the grader: SymPy, in a worker process that is killed when its time is up.

It decides comparisons that `values.py` cannot: sums, products, integrals, limits and derivatives, and formulas that
have no value at the points that are tried. It gets parsed nodes and never text, so nothing is executed, and no sign of
an answer can be lost.
"""

from typing import Any

from eval.grader.nodes import Based, Call, Name, Node, Number, Ruling, rule_by
from limo.machine import count_cores
from limo.processes import Died, Workers, serve_questions

SECONDS = 0.3  # for one comparison
MEMORY = 3 * 2**30  # bytes of address space of the worker

_workers = Workers("eval.grader.symbolic", limit=count_cores())


def same_by_sympy(given: Node, reference: Node) -> Ruling:
    """Whether two expressions are equal by SymPy; "unsure" where it cannot tell.

    Raises TimedOut after SECONDS of processor time: that depends on the machine too, so the result must not be cached.
    """
    try:
        same = _workers.ask((given, reference), SECONDS)
    except Died:
        return "unsure", "SymPy's process died"
    except (OSError, RuntimeError) as error:
        return "unsure", f"SymPy does not start: {error}"
    return ("unsure", "SymPy cannot tell") if same is None else rule_by(same, "sympy")


# -- in the worker


def _is_same(question: tuple[Node, Node]) -> bool | None:
    try:
        left, right = (_expression(node).doit() for node in question)
        apart = left - right
        same: bool | None = apart == 0 if apart.is_Rational else apart.equals(0)
        return same
    except Exception:  # noqa: BLE001 - SymPy raises anything on odd formulas: it cannot tell
        return None


def _expression(node: Node) -> Any:
    """Convert a node to a SymPy expression. Raises TypeError for a node that is no formula."""
    import sympy

    if isinstance(node, Number | Based):
        return sympy.Rational(node.value.numerator, node.value.denominator)
    if isinstance(node, Name):
        constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}
        return constants.get(node.text, sympy.Symbol(node.text))
    if not isinstance(node, Call):
        raise TypeError(f"{type(node).__name__} is not a formula")
    args = [_expression(arg) for arg in node.args]
    if node.what in _OPERATIONS:
        return _OPERATIONS[node.what](*args)
    if node.what in ("sum", "prod", "int"):
        whole = {"sum": sympy.Sum, "prod": sympy.Product, "int": sympy.Integral}[node.what]
        return whole(args[0], tuple(args[1:]))
    name = _FUNCTIONS.get(node.what, node.what.replace("arc", "a"))
    return getattr(sympy, name)(*args)


_OPERATIONS: dict[str, Any] = {
    "+": lambda *args: sum(args[1:], args[0]),
    "*": lambda a, b: a * b,
    "of": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": lambda a, b: a**b,
    "neg": lambda a: -a,
    "%": lambda a: a / 100,
    "rad": lambda a: a,
}
_FUNCTIONS = {"!": "factorial", "binom": "binomial", "ln": "log", "abs": "Abs", "max": "Max", "min": "Min", "Re": "re",
              "Im": "im", "ceil": "ceiling", "deg": "rad", "lim": "limit"}  # fmt: skip


if __name__ == "__main__":
    _x = Name("x")  # loads what the first question would wait for
    _is_same((Call("int", (_x, _x, Number(0), Number(1))), Call("sum", (_x, _x, Number(1), Name("n")))))  # type: ignore[arg-type]
    serve_questions(_is_same, MEMORY)
