"""Checks a candidate loss before it is trained with, and describes any loss that is trained with.

A loss must give one finite value per pair, and finite slopes in policy and reference, at random inputs, at rho = 0
where every pair begins, and up to |beta rho| = 10,000; and a lower loss for a larger margin. Nothing in the language of
candidates depends on a pair's place in the batch. A loss need not use the reference. The validator published with arXiv
2406.08414 refuses KTO, whose output is twice as long, losses without a reference, and, after a change of its code, DPO;
all known losses pass here.

The first guard is that a candidate is evaluated and never executed (`limo/discover/candidate.py`). The second is that
`check_candidate` does this in a process without rights: isolated from the user's environment and packages, without
keys, in an empty folder that is removed. Once torch is imported it can open no file or socket, start no process and
write no file. Its memory and processor time are limited. The limits are POSIX's; elsewhere it runs without them.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from limo.discover.archive import CheckResult
from limo.discover.candidate import Candidate, LossRefused
from limo.errors import UserError
from limo.training.preference import FAR, PairLogProbs, PairLoss, at_margin, examine_loss

PAIRS = 10  # pairs of a random batch
LARGE = 5.0  # the loss at beta rho = LARGE must be lower than at -LARGE
# Chosen and rejected log-ratios and the reference's margin, all times beta; the first point is the start of training
PROBES = [(0.0, 0.0, 0.0), (-1.5, 0.5, 0.3), (-0.5, -0.5, -0.4), (-0.2, 0.3, 1.0), (0.1, 0.0, 0.2), (0.2, -0.6, -1.0)]
PROBES += [(0.8, 0.8, 0.5), (1.0, -0.5, -0.2), (1.5, -0.7, 0.6)]
SAME = 1e-3  # difference, relative to the largest, below which two losses train alike


def check_text(text: str, beta: float) -> CheckResult:
    """Check a candidate in this process. If the text is refused, the result holds the reason."""
    try:
        loss = Candidate(text)
        _check(loss, beta)
        return describe_loss(loss, beta, loss.__name__, loss.code)
    except UserError as error:
        return CheckResult(refused=str(error)[:500])
    except (RecursionError, MemoryError, OverflowError) as error:
        return CheckResult(refused=type(error).__name__)


def describe_loss(loss: PairLoss, beta: float, name: str, code: str = "") -> CheckResult:
    """The result for a loss that may be trained with. Raises LossRefused or UserError if it cannot be evaluated."""
    found = examine_loss(loss, beta)
    return CheckResult(name, code, "", found.problems, found.start_slope, probe_loss(loss, beta))


def probe_loss(loss: PairLoss, beta: float) -> list[float]:
    """Compute values and slopes at fixed points, normalised so that they are equal for losses that differ by a constant
    or a factor only.

    An adaptive optimizer trains the same with such losses. Raises LossRefused if a value or slope is not finite.
    """
    c, r, margin = (torch.tensor(column, dtype=torch.float64) / beta for column in zip(*PROBES, strict=True))
    found: list[torch.Tensor] = []
    for sign in (1, -1):  # a loss may decide by the mean of the batch
        pairs = PairLogProbs(sign * c + margin, sign * r, margin, torch.zeros_like(r))
        values, slopes = _evaluate(loss, pairs, beta, "the probes")
        found += [values - values[0], *(s / beta for s in slopes[:2] if s is not None)]
    together = torch.cat(found)
    return [round(x, 6) for x in (together / together.abs().max().clamp(min=1e-12)).tolist()]


def train_alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether training with two losses is the same, given their results of `probe_loss`."""
    return len(one) == len(other) > 0 and all(abs(a - b) <= SAME for a, b in zip(one, other, strict=True))


def _check(loss: PairLoss, beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(PAIRS, generator=generator) for _ in range(4)]
    _, slopes = _evaluate(loss, PairLogProbs(*inputs), beta, "random inputs")
    if slopes[0] is None or slopes[1] is None:
        raise LossRefused("it has no slope in the policy's log-probabilities")
    _evaluate(loss, PairLogProbs(*(i[:1] for i in inputs)), beta, "a batch of one pair")
    _evaluate(loss, PairLogProbs(*(torch.zeros(PAIRS) for _ in range(4))), beta, "rho = 0, where every pair begins")
    for x in (FAR, -FAR, 88.8, -88.8):
        for part in (1.0, 0.5):  # the whole margin in the chosen completion, or half in each
            far = [torch.full((PAIRS,), x / beta * p) for p in (part, part - 1, 0.0, 0.0)]
            _evaluate(loss, PairLogProbs(*far), beta, f"beta rho = {x:g}")
    worse, better = (loss(at_margin(torch.full((2,), x / beta)), beta)[0] for x in (-LARGE, LARGE))
    if not worse > better:
        raise LossRefused(f"a pair with beta rho = {LARGE:g} has no lower loss than one with {-LARGE:g}")


def _evaluate(loss: PairLoss, pairs: PairLogProbs, beta: float, where: str) -> tuple[torch.Tensor, list[Any]]:
    """Evaluate a loss. Returns values (pairs,) and the slopes of the four inputs, None for an unused input. Raises
    LossRefused if one is not finite.
    """
    inputs = [i.clone().requires_grad_() for i in vars(pairs).values()]
    values = loss(PairLogProbs(*inputs), beta)
    if values.shape != inputs[0].shape:
        raise LossRefused(
            f"it gives {tuple(values.shape)} for {tuple(inputs[0].shape)} pairs; one value per pair is needed"
        )
    if not values.isfinite().all():
        raise LossRefused(f"it is not finite at {where}")
    if not values.requires_grad:
        raise LossRefused("it has no slope in any of its inputs")
    slopes = torch.autograd.grad(values.sum(), inputs, allow_unused=True)
    if any(s is not None and not s.isfinite().all() for s in slopes):
        raise LossRefused(f"it has a slope that is not finite at {where}")
    return values.detach(), list(slopes)


MEMORY = 2**30  # bytes of address space beside what the process has mapped once torch is imported
NOBODY = 65534  # the user without rights, by convention
SECONDS = 20.0  # of processor time for the checks of one candidate
STARTING = 90.0  # further seconds for imports on a busy machine


def check_candidate(text: str, beta: float) -> CheckResult:
    """Check a candidate in a separate process with limited processor time. Crashes and timeouts become a result too."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")}
    paths = [str(Path(__file__).resolve().parent.parent.parent), *(p for p in sys.path if p)]
    code = f"import sys; sys.path[:0] = {paths!r}; from limo.discover.checks import main; main()"
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", code],
                input=json.dumps({"text": text, "beta": beta}),
                capture_output=True,
                text=True,
                timeout=STARTING + 2 * SECONDS,
                cwd=empty,
                env={**kept, "OMP_NUM_THREADS": "1", "HOME": empty},
            )
        except subprocess.TimeoutExpired:
            return CheckResult(refused=f"it took longer than {SECONDS:g} s and was killed")
    try:
        return CheckResult(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        if done.returncode in (-24, -9):  # SIGXCPU, or killed for memory
            return CheckResult(refused="it took too much time or memory and was killed")
        last = done.stderr.strip().splitlines()[-1:] or [f"its process ended with code {done.returncode}"]
        return CheckResult(refused=last[0][:300])


def main() -> None:
    """The program of that process: read a candidate from standard input, drop all rights, check it, and write the
    result to standard output.
    """
    question = json.loads(sys.stdin.read())
    check_text(WARM_UP, 1.0)  # torch loads some of its parts at first use
    drop_rights(SECONDS)
    sys.stdout.write(json.dumps(asdict(check_text(question["text"], question["beta"]))) + "\n")


WARM_UP = """def f(chosen, rejected, reference_chosen, reference_rejected, beta):
    return logistic(chosen - rejected)
"""


def drop_rights(seconds: float) -> None:
    """Limit this process for good: no file, socket, process or thread, little memory, `seconds` of processor time."""
    with contextlib.suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        limits = {"FSIZE": 0, "NPROC": 0, "CORE": 0, "CPU": int(used.ru_utime + used.ru_stime + seconds + 1)}
        with contextlib.suppress(OSError):  # a build of torch for CUDA maps far more than it uses
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            limits["AS"] = mapped + MEMORY
        for name, value in {**limits, "NOFILE": 0}.items():
            with contextlib.suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # the limit of processes does not hold for root
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
