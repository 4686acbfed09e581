"""A candidate loss is looked at in a process that has nothing to lose, before anybody trains with it.

    report = checked(text, beta=0.05, seconds=20)
    report.refused    # "" or why, in one line
    report.warnings   # what a person should know of a loss that is not refused

`limo/candidate.py` reads the text and never executes it: the first wall. The second is this process: isolated from the
user's environment and packages, without keys, in an empty folder that is removed; it may open no file, make no socket,
start no process and write nothing once torch is imported; its memory and processor time are bounded, and it is killed
on time. Where the system has no such limits (they are POSIX's) it runs with those that there are.

What is checked: one finite value a pair, finite slopes in policy and reference, at random inputs and as far out as
|beta rho| = 10,000; that a pair may stand anywhere in the batch; that a larger margin is the better one; the slope at
rho = 0. A reference that a loss does not use is allowed. All losses of the burn-in pass, which the validator published
with arXiv 2406.08414 does not: it rejects KTO, whose output is twice as long, and, since a reformatting, DPO.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAIRS, FAR, LARGE = 10, 1e4, 5.0  # of a random batch; of |beta rho|; of beta rho at which better must be better
MEMORY = 6 * 2**30  # bytes of address space: torch alone maps about four
NOBODY = 65534  # the user without rights, by convention
STARTING = 90.0  # seconds for imports on a busy machine, beside the candidate's own


@dataclass(frozen=True)
class Report:
    """What came of a look at a candidate."""

    name: str = ""
    refused: str = ""  # why it is not trained with, in one line; empty if it may be
    warnings: list[str] = field(default_factory=list)
    slope: float = float("nan")  # d loss / d rho at rho = 0


def checked(text: str, beta: float, seconds: float) -> Report:
    """Look at a candidate in a process of its own, for at most `seconds` of its processor time.

    Never raises for what a candidate does: whatever ends the process is a refusal with its reason.
    """
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")}
    root = str(Path(__file__).resolve().parent.parent)
    code = f"import sys; sys.path[:0] = {[root, *(p for p in sys.path if p)]!r}; from limo.sandbox import main; main()"
    asked = json.dumps({"text": text, "beta": beta, "seconds": seconds})
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", code],
                input=asked,
                capture_output=True,
                text=True,
                timeout=STARTING + 2 * seconds,
                cwd=empty,
                env={**kept, "OMP_NUM_THREADS": "1", "HOME": empty},
            )
        except subprocess.TimeoutExpired:
            return Report(refused=f"took longer than {seconds:g} s and was killed")
    try:
        return Report(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        said = done.stderr.strip().splitlines()[-1:] or [f"its process ended with code {done.returncode}"]
        out_of_time = done.returncode in (-24, -9)  # SIGXCPU, or killed for memory
        return Report(refused="took too much time or memory and was killed" if out_of_time else said[0][:300])


def main() -> None:
    """In the process: read one question from standard input, give up all rights, answer on standard output."""
    asked = json.loads(sys.stdin.read())
    from torch.nn import functional  # noqa: F401  all that is ever needed is imported before the doors are closed

    from limo import candidate, preference  # noqa: F401

    _warm_up()
    _close_doors(asked["seconds"])
    sys.stdout.write(json.dumps(look(asked["text"], asked["beta"]).__dict__) + "\n")


def _warm_up() -> None:
    """Use what torch loads late: afterwards no file can be opened."""
    import torch

    x = torch.zeros(2, requires_grad=True)
    torch.nn.functional.softplus(x).sum().backward()  # type: ignore[no-untyped-call]


def _close_doors(seconds: float) -> None:
    with contextlib.suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        processor = int(used.ru_utime + used.ru_stime + seconds + 1)
        limits = {"AS": MEMORY, "FSIZE": 0, "NPROC": 0, "CORE": 0, "NOFILE": 0, "CPU": processor}
        for name, value in limits.items():
            kind = getattr(resource, f"RLIMIT_{name}", None)
            if kind is not None:
                with contextlib.suppress(ValueError, OSError):
                    resource.setrlimit(kind, (value, value))
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # whom a limit of processes does not hold
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)


def look(text: str, beta: float) -> Report:
    """The checks themselves, in this process. A candidate is walked, never executed, so that this is safe as well."""
    from limo.allowed import Refused
    from limo.candidate import candidate

    try:
        loss = candidate(text)
        slope, warnings = _checks(loss, beta)
    except Refused as refusal:
        return Report(refused=str(refusal)[:500])
    except (RecursionError, MemoryError, OverflowError) as error:
        return Report(refused=type(error).__name__)
    return Report(loss.name, "", warnings, slope)


def _checks(loss: Any, beta: float) -> tuple[float, list[str]]:
    """(slope at the start, what to know). Raises Refused with the first check that fails."""
    import torch

    from limo.allowed import Refused

    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(PAIRS, generator=draw) for _ in range(4)]
    values, _ = _with_slopes(loss, inputs, beta, "random inputs")
    order = torch.randperm(PAIRS, generator=draw)
    moved = loss(*(i[order] for i in inputs), beta)
    if not torch.allclose(moved, values[order], rtol=1e-4, atol=1e-5):
        raise Refused("a pair's loss depends on its place in the batch")
    _with_slopes(loss, [i[:1] for i in inputs], beta, "a batch of one pair")
    for x in (FAR, -FAR, 88.8, -88.8):
        for share in (1.0, 0.5):  # all in the chosen one, or half of it in the rejected one
            far = [torch.full((PAIRS,), x / beta * s) for s in (share, share - 1, 0.0, 0.0)]
            _with_slopes(loss, far, beta, f"beta rho = {x:g}")
    rho = torch.tensor([-LARGE, LARGE]) / beta
    worse, better = (loss(*_at(r.repeat(2)), beta)[0] for r in rho)
    if not worse > better:
        raise Refused(f"a pair with beta rho = {LARGE:g} costs as much as one with {-LARGE:g}, or more")
    start = torch.zeros(2, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(*_at(start), beta).sum(), start, allow_unused=True)
    at_start = 0.0 if slope is None else float(slope.mean())
    warnings = []
    if at_start >= 0:
        way = "pushes the wrong way" if at_start > 0 else "teaches nothing"
        warnings.append(f"at rho = 0, where every pair begins, it {way}: slope {at_start:+.4f}")
    return at_start, warnings


def _at(rho: Any) -> tuple[Any, Any, Any, Any]:
    """Four inputs (pairs,) whose margin is rho."""
    zero = rho.detach() * 0
    return rho / 2, -rho / 2, zero, zero


def _with_slopes(loss: Any, inputs: list[Any], beta: float, where: str) -> tuple[Any, list[Any]]:
    """Values (pairs,) and slopes. Raises Refused where one is not finite, or not one value a pair."""
    from limo.allowed import Refused

    given = [i.clone().requires_grad_() for i in inputs]
    values = loss(*given, beta)
    if values.shape != inputs[0].shape:
        raise Refused(f"gives {tuple(values.shape)} for {tuple(inputs[0].shape)} pairs; it must give one value a pair")
    if not values.isfinite().all():
        raise Refused(f"is not finite at {where}")
    if not values.requires_grad:
        raise Refused("has no slope in any of its inputs")
    values.sum().backward()
    slopes = [i.grad for i in given]
    if slopes[0] is None or slopes[1] is None:
        raise Refused("has no slope in the policy's log-probabilities")
    if any(s is not None and not s.isfinite().all() for s in slopes):
        raise Refused(f"has a slope that is not finite at {where}")
    return values.detach(), slopes
