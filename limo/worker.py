"""Subprocesses that answer questions, with a limit on CPU time and memory, replaced after they were killed.

A worker is started by its module's name, so the caller's `__main__` is never imported: notebooks, scripts without a
main guard and any start method work. That is why this is no `pebble.ProcessPool`, which imports `__main__` in its
workers and limits wall-clock time: on a busy machine it would change verdicts. A module that is run as a worker calls
`serve`; a caller keeps a `Workers`.
"""

import atexit
import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

START_SECONDS = 120.0  # for its imports, on a busy machine
PATIENCE = 10  # wall-clock time that a question may take, as a multiple of its CPU time: the machine may be busy


class TimedOut(Exception):
    """The worker did not answer within its limit and was killed."""


class Died(Exception):
    """The worker ended by itself, for lack of memory for example."""


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
        """The answer to a question, within `seconds` of the worker's CPU time and PATIENCE times that by the clock.

        Raises TimedOut or Died; another worker starts at the next question.
        """
        with self.slots:
            worker = self._take()
            try:
                return worker.ask(question, seconds)
            finally:
                if worker.alive():
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
        except BaseException:  # after an interrupt, no later question may get this one's answer
            self.kill()
            raise

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def _end_with_parent(parent: int) -> None:
    """A parent that was killed cannot kill its workers, so they watch for its end."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def serve(answer: Callable[[Any], Any], memory: int | None = None) -> None:
    """In the worker: answer questions until the input ends.

    `answer` must not raise; `memory` bounds the address space in bytes, so that a question that needs more ends in a
    MemoryError here instead of in another process.
    """
    logging.disable()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if memory is not None:
        with contextlib.suppress(ImportError, ValueError, OSError):
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process inside any library
    pipe = Connection(int(sys.argv[1]))
    pipe.send("ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            seconds, question = pipe.recv()
            signal.setitimer(signal.ITIMER_PROF, seconds or 0)
            reply = answer(question)
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(reply)
