"""SymPy in a worker process that is killed when its time is up: the last layer of the grader.

It compares LaTeX that the grader's own reader does not know (sums, integrals, limits) and formulas that have no value
at the points it tries. Math-Verify's LaTeX grammar reads them: `parse_expr` and `sympify` execute their
input and are never given text.
"""

from typing import Any

from eval.grader.nodes import Ruling
from limo.machine import count_cores
from limo.processes import Died, Workers, serve

SECONDS = 0.3  # for one comparison
MEMORY = 3 * 2**30  # bytes of address space of the worker
FORBIDDEN = ("!!", "\\prod", "\\sum", "\\int", "\\lim")  # of given answers: work without bound, never a final answer

_workers = Workers("eval.grader.symbolic", limit=count_cores())


def same_by_sympy(given: str, reference: str) -> Ruling:
    """Whether two LaTeX expressions are equal, and how it was found.

    Raises TimedOut after SECONDS of processor time: that says something of the machine too, so nobody keeps it.
    """
    try:
        verdict, how = _workers.ask([given, reference], SECONDS)
    except Died:
        return "unsure", "SymPy's process died"
    except (OSError, RuntimeError) as error:
        return "unsure", f"SymPy does not start: {error}"
    return verdict, how


def _compare(given: str, reference: str) -> Ruling:
    """In the worker: parse both by the LaTeX grammar and ask Math-Verify whether they are equal."""
    from math_verify import verify

    wanted = _read(reference)
    if not wanted or all(isinstance(w, str) for w in wanted):
        return "unsure", "the reference is not readable"
    if any(word in given for word in FORBIDDEN):
        return "unsure", "too much to work out"
    found = _read(given)
    if not found:
        return "wrong", "not readable"
    exact = _exactly(wanted[0], found[0])
    if exact is not None:
        return ("correct" if exact else "wrong"), "sympy"
    same = verify(wanted, found, float_rounding=12, timeout_seconds=None, raise_on_error=True)
    return ("correct" if same else "wrong"), "sympy"


def _read(text: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=-1)
    return parse(f"${text}$", extraction_config=[config], fallback_mode="no_fallback", parsing_timeout=None)


def _exactly(wanted: Any, found: Any) -> bool | None:
    """Whether two numbers without decimals are equal, proved by SymPy; None where there is no such proof to be had.

    Math-Verify compares values to some digits, by which a fraction of 15 digits would pass for pi.
    """
    import sympy

    if not (isinstance(wanted, sympy.Expr) and isinstance(found, sympy.Expr)):
        return None
    if (wanted - found).free_symbols or wanted.has(sympy.Float) or found.has(sympy.Float):
        return None
    return (wanted.doit() - found.doit()).equals(0)  # type: ignore[no-any-return]


def _answer(question: tuple[str, str]) -> Ruling:
    try:
        return _compare(*question)
    except Exception as error:  # noqa: BLE001 - whatever SymPy raises on odd text, the answer is the third verdict
        return "unsure", f"SymPy: {type(error).__name__}"


if __name__ == "__main__":
    import math_verify  # noqa: F401 - before the clock of the first question runs

    _answer(("\\frac{1}{2}", "\\int_0^1 x dx"))  # loads what the first question would wait for
    serve(_answer, MEMORY)
