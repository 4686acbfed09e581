"""Runs a model server on this machine while an engine needs it: vLLM, SGLang or `transformers serve`.

The server starts at the first request, is restarted once if it dies, and is stopped when the engine or this process
ends, so that the GPUs are free for the next stage. Its output is written to a log in the cache folder.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from limo.console import clock, say
from limo.errors import UserError
from limo.machine import cache_folder
from limo.processes import die_with_parent, last_line

# Linux kills a child when the thread that started it ends, so that thread must live as long as this process
_SPAWNER = ThreadPoolExecutor(1, "limo-servers")


def command_line(
    kind: str, model: str, port: int, sizes: tuple[int, int], options: Sequence[str], python: str | None
) -> list[str]:
    """The command that starts a server; `sizes` are the tensor-parallel and the data-parallel size."""
    interpreter = str(Path(python).expanduser()) if python else sys.executable
    tensor, data = map(str, sizes)
    vllm = str(Path(interpreter).with_name("vllm"))
    program, parallel = {
        "vllm": ([vllm, "serve", model], ["--tensor-parallel-size", tensor, "--data-parallel-size", data]),
        "sglang": (
            [interpreter, "-m", "sglang.launch_server", "--model-path", model],
            ["--tp-size", tensor, "--dp-size", data],
        ),
        "transformers": ([interpreter, "-m", "transformers.cli.transformers", "serve", model], []),
    }[kind]
    return [*program, "--host", "127.0.0.1", "--port", str(port), *parallel, *options]


def find_program(command: Sequence[str]) -> None:
    """Raise UserError if the program of the command is not installed."""
    if not os.access(command[0], os.X_OK):
        raise UserError(
            f"cannot run '{command[0]}': there is no such program. Install the server there, or set "
            "engine.serve_python to the Python of the environment that has it"
        )


class LocalServer:
    """One server process. `start` and `restart` return once it is healthy, or raise UserError with its last output."""

    def __init__(
        self, kind: str, model: str, sizes: tuple[int, int], options: Sequence[str], python: str | None, timeout: float
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.kind, self.timeout, self.address = kind, timeout, f"http://127.0.0.1:{port}"
        self.command = command_line(kind, model, port, sizes, options, python)
        self.log = cache_folder() / "servers" / f"{kind}-{os.getpid()}-{port}.log"
        self.restarted = self.starting = False
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: weakref.finalize[Any, Any] | None = None  # ends the process, at the latest with this object
        self._lock = threading.Lock()

    def is_running(self) -> bool:
        """Whether the server process is running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start the server unless it runs. Returns its address, in the form of `base_urls`, once it is healthy."""
        with self._lock:
            if not self.is_running():
                self._launch()
        return f"{self.address}/v1"

    def restart(self) -> None:
        """Restart the server after it died. Raises UserError the second time."""
        with self._lock:
            if self.is_running():  # another request has restarted it
                return
            if self.restarted:
                raise UserError(f"the {self.kind} server died twice: {self._last_words()}")
            self.restarted = True
            say(f"the {self.kind} server died ({self._last_words()}); starting it again")
            self._launch()

    def _launch(self) -> None:
        find_program(self.command)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        say(f"starting {' '.join(self.command[:4])} ... (log: {self.log})")
        self.starting, begun = True, time.monotonic()
        try:
            with self.log.open("ab") as log:
                self._process = _SPAWNER.submit(_spawn, self.command, log).result()
            self._ended = weakref.finalize(self, _stop, self._process, _watch(self._process))
            while not self._is_healthy():
                if not self.is_running():
                    raise UserError(f"the {self.kind} server did not start: {self._last_words()}")
                if time.monotonic() - begun > self.timeout:
                    self.stop()
                    raise UserError(
                        f"the {self.kind} server was not healthy after {clock(self.timeout)}: {self._last_words()} "
                        "Raise engine.start_timeout if it only needs longer"
                    )
                time.sleep(0.2)
        finally:
            self.starting = False
        say(f"the {self.kind} server is ready after {clock(time.monotonic() - begun)}")

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _last_words(self) -> str:
        return f"{last_line(self.log)[:300]} (its log is {self.log})."

    def stop(self) -> None:
        """Stop the server."""
        if self._ended is not None:
            self._ended()


def _spawn(command: Sequence[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a process in a new session, so that it can be killed together with its workers. It is killed if this
    process is.
    """
    return subprocess.Popen(
        command, stdout=log, stderr=log, start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid())
    )


def _watch(server: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """Start a watchdog that kills the server's whole process group when this process ends, for any reason.

    When this process is killed, the kernel kills only the server's first process; vLLM's workers, which hold the
    memory, would stay. The watchdog notices the end of this process because the pipe that it reads is closed.
    """
    code = 'cat > /dev/null; kill -s KILL -- "-$0" 2> /dev/null'
    nothing = subprocess.DEVNULL
    command = ["sh", "-c", code, str(server.pid)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, start_new_session=True)


def _stop(process: "subprocess.Popen[bytes]", watchdog: "subprocess.Popen[bytes]") -> None:
    """Stop a server; its watchdog kills the remaining processes of its group."""
    if process.poll() is None:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
    assert watchdog.stdin is not None
    watchdog.stdin.close()
    watchdog.wait()
    process.wait()
