"""SymPy at arm's length: two LaTeX answers are compared in a worker process that is killed when its time is up.

Symbolic work on text that a model wrote can run forever or eat all memory, so it never happens in the caller. The
worker is a plain subprocess that reads and writes lines of JSON: without signals, it serves threads and notebooks, and
nothing of the caller's `__main__` is imported. Reading is by Math-Verify's LaTeX grammar alone: `parse_expr` and
`sympify`, which execute their input, are never given text.

Run by itself (`python -m eval.symbolic`) it is the worker.
"""

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import Any, Literal

Verdict = Literal["correct", "wrong", "unsure"]
SECONDS = 1.0  # for one comparison
START_SECONDS = 120.0  # for importing SymPy on a busy machine
MEMORY = 3 * 2**30  # bytes of address space of the worker
FORBIDDEN = ("!!", "\\prod", "\\sum", "\\int", "\\lim")  # of given answers: work without bound, never a final answer


def same_by_sympy(given: str, reference: str) -> tuple[Verdict, str]:
    """Whether two LaTeX expressions are equal, and how it was found. Never raises, never takes much over a second."""
    return _worker.ask(given, reference)


class _Worker:
    """One subprocess, started at the first question and again after it was killed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str] = queue.Queue()

    def ask(self, given: str, reference: str) -> tuple[Verdict, str]:
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self._start()
            assert self.process is not None and self.process.stdin is not None
            try:
                self.process.stdin.write(json.dumps([given, reference]) + "\n")
                self.process.stdin.flush()
                verdict, how = json.loads(self.answers.get(timeout=SECONDS))
            except queue.Empty:
                self.stop()
                return "unsure", "out of time"
            except (OSError, ValueError):
                self.stop()
                return "unsure", "the worker died"
            return verdict, how

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "eval.symbolic"],
            text=True,
            encoding="utf-8",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.answers = queue.Queue()
        threading.Thread(target=_forward, args=(self.process, self.answers), daemon=True).start()
        if self.answers.get(timeout=START_SECONDS) != "ready":
            raise RuntimeError(f"{sys.executable} -m eval.symbolic does not start; run it by hand to see why")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError, AttributeError):
                    pipe.close()  # type: ignore[union-attr]
            self.process = None


def _forward(process: "subprocess.Popen[str]", answers: "queue.Queue[str]") -> None:
    """Lines of a worker into a queue, which, unlike a pipe, can be waited on with a limit; `closed` at their end."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError):
        for line in process.stdout:
            answers.put(line.strip())
    answers.put("closed")


_worker = _Worker()
atexit.register(_worker.stop)


def _compare(given: str, reference: str) -> tuple[Verdict, str]:
    """In the worker: parse both by the LaTeX grammar and ask Math-Verify whether they are equal."""
    from math_verify import LatexExtractionConfig, parse, verify

    def read(text: str) -> Any:
        config = LatexExtractionConfig(boxed_match_priority=-1)
        return parse(f"${text}$", extraction_config=[config], fallback_mode="no_fallback", parsing_timeout=None)

    wanted = read(reference)
    if not wanted or all(isinstance(w, str) for w in wanted):
        return "unsure", "the reference is not readable"
    if any(word in given for word in FORBIDDEN):
        return "unsure", "too much to work out"
    found = read(given)
    if not found:
        return "wrong", "not readable"
    exact = _exactly(wanted[0], found[0])
    if exact is not None:
        return ("correct" if exact else "wrong"), "sympy"
    same = verify(wanted, found, float_rounding=12, timeout_seconds=None, raise_on_error=True)
    return ("correct" if same else "wrong"), "sympy"


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


def _serve() -> None:
    import logging
    import resource

    import math_verify  # noqa: F401

    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        given, reference = json.loads(line)
        try:
            reply = _compare(given, reference)
        except Exception as error:  # noqa: BLE001 - whatever SymPy raises on odd text, the answer is the third verdict
            reply = ("unsure", f"SymPy: {type(error).__name__}")
        print(json.dumps(reply), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve()
