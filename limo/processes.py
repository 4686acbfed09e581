"""Child processes: commands, which end when this process does, and workers that answer questions within limits.

A worker has limits on CPU time and memory, and is replaced after it was killed. It is started by its module's name, so
the caller's `__main__` is never imported: notebooks, scripts without a main guard and any start method work.
`pebble.ProcessPool` imports `__main__` in its workers and limits wall-clock time, which would change verdicts on a busy
machine. A module that is run as a worker calls `serve_questions`; a caller keeps a `Workers`.
"""

import atexit
import contextlib
import ctypes
import gc
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from limo.data import replacing
from limo.errors import Interrupted, UserError

STOPPED = (130, 137, 143)  # exit codes of a command that was interrupted, killed or terminated
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # of glibc's malloc.h
LARGE = 32 * 2**20  # bytes, the largest mmap threshold that glibc accepts
_C_LIBRARY: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)


def run_module(module: str, arguments: Sequence[str], log: Path | None = None) -> int:
    """Run `python -m module arguments` to its end. Returns its exit code: 128 plus the number if a signal ended it.

    Its output is appended to the file `log`, or goes to this process's output. It is killed when this process is
    killed; SIGTERM is passed on, so that a training saves its step.
    """
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") if log else nullcontext() as out:
        call = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(call, stdout=out, stderr=out, preexec_fn=partial(die_with_parent, os.getpid()))
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal sends Ctrl-C to the child as well
            code = process.wait() or 130
        finally:
            signal.signal(signal.SIGTERM, before)
    return 128 - code if code < 0 else code


def run_command(call: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run one of our commands in the same terminal and return its exit code. Ctrl-C is left to the command."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code = subprocess.run(call, env=environment).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return 128 - code if code < 0 else code


@contextmanager
def shielded() -> Iterator[None]:
    """Shield processes started in the block from Ctrl-C; this process receives it after the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_to_end(module: str, arguments: Sequence[str], folder: Path, refused: int = 0) -> str:
    """Run a command that fills `folder`, with its log there. Returns "" if it succeeded, and the last printed line if
    it ended with the exit code `refused`. Raises Interrupted if it was stopped, UserError for any other exit code.
    """
    log = folder / "log.txt"
    code = run_module(module, arguments, log)
    if code in STOPPED:
        raise Interrupted(f"{module} in {folder} was stopped: run the same command again to resume")
    if code not in (0, refused):
        raise UserError(f"{module} in {folder} ended with code {code}: {last_line(log)}. Its whole log is {log}")
    return last_line(log) if code else ""


def run_section_apart(module: str, section: str, node: Mapping[str, Any], folder: Path, refused: int = 0) -> str:
    """Run one section of a recipe by `run_to_end`. The resolved section is written to `folder`/recipe/alone.yaml."""
    recipe = {"name": folder.name, "out": str(folder), section: node}
    with replacing(folder / "recipe" / "alone.yaml") as file:  # JSON is YAML
        file.write("# @package _global_\n" + json.dumps(recipe, indent=1).replace("${", "\\\\${") + "\n")
    return run_to_end(module, ["recipe=alone", "--config-dir", str(folder.resolve())], folder, refused)


def last_line(log: Path) -> str:
    """The last line that a command printed, without the word error. If it ended in tracebacks: the line of the first
    exception.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    trace = text.partition("Traceback")[2]  # before it a warning may name an error that is none
    raised = re.findall(r"\b[A-Z]\w*(?:Error|Exception): .+", trace)
    lines = raised[:1] or [line for line in text.split("\n") if line.strip()]
    return lines[-1].removeprefix("error: ").strip() if lines else "no output"


def give_back_memory() -> None:
    """Release the memory of deleted models to the GPU and to the system."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if hasattr(_C_LIBRARY, "malloc_trim"):
        _C_LIBRARY.malloc_trim(0)


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Keep freed memory in this process during the block, where the C library is glibc: mallopt(3).

    A training step on a CPU frees and allocates gigabytes, and clearing new pages takes a fifth of the step. Blocks of
    `LARGE` bytes or more are still returned at once: when kept, they left gaps that nothing else fitted, and the
    training of a 0.5B model with a vocabulary of 150,000 grew from 11 to 22 GB. After the block all freed memory is
    returned: a process that trains, samples and trains again would otherwise hold ever more.
    """
    if not hasattr(_C_LIBRARY, "mallopt"):
        yield
        return
    _C_LIBRARY.mallopt(M_MMAP_THRESHOLD, LARGE)
    _C_LIBRARY.mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        _C_LIBRARY.mallopt(M_MMAP_THRESHOLD, 128 * 1024)  # glibc's own values
        _C_LIBRARY.mallopt(M_TRIM_THRESHOLD, 128 * 1024)
        give_back_memory()


def die_with_parent(parent: int) -> None:
    """Run in a child before its command starts: on Linux the kernel kills it when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before prctl was called
        os._exit(1)


def override(key: str, value: Any) -> str:
    """Format a setting as an override for Hydra's command line."""
    return f"{key}={_write(value)}"


def _write(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_write(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_write, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    # Backslashes are literal except before a quote
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), value) + "'"


class Overrun(BaseException):
    """Raised in a limited block that takes too long. Not an Exception, so that no `except Exception` swallows it."""


_armed = False
AGAIN = 1.0  # seconds after which the signal is repeated, in case a library swallowed it


@contextmanager
def limited() -> Iterator[Callable[[float], None]]:
    """Yield `restart(seconds)`. The code after a call of it may take that much processor time, and PATIENCE times that
    of wall-clock time; then Overrun is raised there.

    The timers are signals, which Python handles between its own instructions: one long call of a C library ends first.
    Nothing is limited outside the main thread; a nested block restarts the timers of the outer one.
    """
    global _armed

    def restart(seconds: float) -> None:
        if _armed:
            signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds, AGAIN)

    def stop(*_: Any) -> None:
        if _armed:
            raise Overrun

    if _armed or threading.current_thread() is not threading.main_thread():
        yield restart
        return
    before = {kind: signal.signal(kind, stop) for kind in (signal.SIGPROF, signal.SIGALRM)}
    _armed = True
    try:
        yield restart
    finally:
        _armed = False
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextmanager
def limit_time(seconds: float, what: str) -> Iterator[None]:
    """Raise UserError if the block takes more than `seconds` of processor time, or recurses too deep.

    A library may convert the interrupt into another exception, so any exception after the limit counts as a timeout.
    """
    end = time.process_time() + seconds
    try:
        with limited() as restart:
            restart(seconds)
            yield
    except RecursionError:
        raise UserError(f"{what}: it is nested too deep") from None
    except (Overrun, Exception) as error:
        if time.process_time() < end and not isinstance(error, Overrun):
            raise
        raise UserError(f"{what} takes more than {seconds:g} s and was stopped") from None


READING = 5.0  # seconds of processor time for a small file
START_SECONDS = 120.0  # wall-clock limit of a worker's imports, on a busy machine
PATIENCE = 10  # wall-clock limit of a question as a multiple of its CPU limit: the machine may be busy


class TimedOut(Exception):
    """The worker did not answer within its limit and was killed."""


class Died(Exception):
    """The worker ended by itself, for example for lack of memory."""


class Workers:
    """At most `limit` subprocesses of one module, started when they are needed; safe to use from several threads."""

    def __init__(self, module: str, limit: int) -> None:
        self.module, self.limit = module, limit
        self.slots = threading.BoundedSemaphore(limit)
        self.idle: list[_Worker] = []
        self.lock = threading.Lock()
        self.owner = os.getpid()
        atexit.register(self.stop)

    def ask(self, question: Any, seconds: float | None) -> Any:
        """Ask a worker a question. Its answer may take `seconds` of CPU time, and PATIENCE times as many of wall-clock
        time.
        """
        with self.session() as ask:
            return ask(question, seconds)

    @contextmanager
    def session(self, keep: bool = True) -> Iterator[Callable[[Any, float | None], Any]]:
        """Yield the `ask` of a worker that is reserved for the block. Afterwards it is kept for others, or ended."""
        with self.slots:
            worker = self._take()
            try:
                yield worker.ask
            except GeneratorExit:  # the caller was abandoned, perhaps with an answer left in the worker's pipe
                keep = False
                raise
            finally:
                if not keep:
                    worker.kill()
                elif worker.alive():
                    with self.lock:
                        self.idle.append(worker)

    def _take(self) -> "_Worker":
        with self.lock:
            if self.owner != os.getpid():  # a forked child must not share its parent's pipes
                self.idle, self.owner = [], os.getpid()
            while self.idle:
                worker = self.idle.pop()
                if worker.alive():
                    return worker
        return _Worker(self.module)

    def stop(self) -> None:
        """Kill the idle workers."""
        with self.lock:
            workers, self.idle = (self.idle if self.owner == os.getpid() else []), []
        for worker in workers:
            worker.kill()


class _Worker:
    def __init__(self, module: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.pipe, theirs = multiprocessing.Pipe()
        with shielded():
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a library may print
                stderr=subprocess.DEVNULL,
            )
        theirs.close()
        try:
            self._receive(START_SECONDS)
        except (TimedOut, OSError, EOFError):
            self.kill()
            raise RuntimeError(f"{sys.executable} -m {module} does not start; run it by hand to see why") from None

    def _receive(self, seconds: float | None) -> Any:
        if not self.pipe.poll(seconds):
            raise TimedOut
        return self.pipe.recv()

    def ask(self, question: Any, seconds: float | None) -> Any:
        try:
            self.pipe.send((seconds, question))
            return self._receive(None if seconds is None else PATIENCE * seconds)
        except (OSError, EOFError):  # it has ended
            self.kill()
            raise (TimedOut if self.process.returncode == -signal.SIGPROF else Died) from None
        except BaseException:  # after an interrupt, a later question must not get this answer
            self.kill()
            raise

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self.pipe.close()


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent has ended, since a parent that was killed cannot kill its workers."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def serve_questions(answer: Callable[[Any], Any], memory: int | None = None) -> None:
    """The main loop of a worker: answer questions until the input ends. `answer` must not raise.

    `memory` limits the address space in bytes: a question that needs more ends in a MemoryError here.
    """
    logging.disable()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if memory is not None:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default action ends the process, even inside a library
    pipe = Connection(int(sys.argv[1]))
    pipe.send("ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            seconds, question = pipe.recv()
            signal.setitimer(signal.ITIMER_PROF, seconds or 0)
            reply = answer(question)
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(reply)
