"""Subprocesses that answer questions, with a limit on CPU time and memory, replaced after they were killed.

Questions and answers are plain values (texts, numbers, lists), sent as frames: four bytes of length, then Python's own
`marshal`, which is four times as fast as JSON and cannot run code either. A worker is started by its module's name, so
the caller's `__main__` is never imported: notebooks, scripts without a main guard and any start method work. That is
why this is no `pebble.ProcessPool`, which imports `__main__` in its workers and limits wall-clock time: on a busy
machine it would change verdicts. A module that is run as a worker calls `serve`; a caller keeps a `Workers`.
"""

import atexit
import contextlib
import logging
import marshal
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any

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
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--worker"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        # A queue, unlike a pipe, can be waited on with a limit
        self.answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._forward, daemon=True).start()
        try:
            ready = self.answers.get(timeout=START_SECONDS)
        except queue.Empty:
            ready = b""
        if not ready:
            self.kill()
            raise RuntimeError(f"{sys.executable} -m {module} --worker does not start; run it by hand to see why")

    def _forward(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            while frame := _read_frame(self.process.stdout):
                self.answers.put(frame)
        self.answers.put(b"")

    def ask(self, question: Any, seconds: float | None) -> Any:
        assert self.process.stdin is not None
        try:
            _write_frame(self.process.stdin, [seconds, question])
            frame = self.answers.get(timeout=None if seconds is None else PATIENCE * seconds)
            if frame:
                return marshal.loads(frame)
        except queue.Empty:
            self.kill()
            raise TimedOut from None
        except (OSError, ValueError):
            pass  # it has ended
        except BaseException:  # after an interrupt, no later question may get this one's answer
            self.kill()
            raise
        self.kill()
        raise (TimedOut if self.process.returncode == -signal.SIGPROF else Died) from None

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError, AttributeError):
                pipe.close()  # type: ignore[union-attr]


def _write_frame(pipe: IO[bytes], value: Any) -> None:
    frame = marshal.dumps(value)
    pipe.write(struct.pack(">I", len(frame)) + frame)
    pipe.flush()


def _read_frame(pipe: IO[bytes]) -> bytes:
    """The next frame; empty where the other side has gone."""
    header = pipe.read(4)
    if len(header) < 4:
        return b""
    size = struct.unpack(">I", header)[0]
    frame = pipe.read(size)
    return frame if len(frame) == size else b""


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
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # a library that prints must not write into the frames
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process inside any library
    _write_frame(out, "ready")
    while frame := _read_frame(sys.stdin.buffer):
        seconds, question = marshal.loads(frame)
        signal.setitimer(signal.ITIMER_PROF, seconds or 0)
        reply = answer(question)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write_frame(out, reply)
