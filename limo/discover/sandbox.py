"""Checks candidate losses in a process without rights.

    result = check_candidate(text, beta=0.05)
    result.refused    # "", or why in one line

The first guard is that a candidate is evaluated and never executed (`limo/discover/candidate.py`). The second is this
process. It runs isolated from the user's environment and packages, without keys, in an empty folder that is removed.
Once torch is imported it can open no file or socket, start no process and write no file. Its memory and processor time
are limited, and it is killed when its time is over. The limits are POSIX's; elsewhere it runs without them.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from limo.discover.archive import CheckResult
from limo.discover.checks import check_text

MEMORY = 2**30  # bytes of address space beside what the process has mapped once torch is imported
NOBODY = 65534  # the user without rights, by convention
SECONDS = 20.0  # of processor time for the checks of one candidate
STARTING = 90.0  # seconds for imports on a busy machine, beside them


def check_candidate(text: str, beta: float) -> CheckResult:
    """Check a candidate in a separate process with limited processor time.

    Raises nothing for what a candidate does: if its process ends early, the candidate is refused with the reason.
    """
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")}
    paths = [str(Path(__file__).resolve().parent.parent.parent), *(p for p in sys.path if p)]
    code = f"import sys; sys.path[:0] = {paths!r}; from limo.discover.sandbox import main; main()"
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
    """In the process: read one question from standard input, drop all rights, answer on standard output."""
    question = json.loads(sys.stdin.read())
    check_text(WARM_UP, 1.0)  # torch loads parts of itself at their first use
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
