"""Applies a pure function to many chunks of values on all cores, with the results in order.

    for result in spread(function, chunks): ...

Chunks are read when there is room, so memory does not grow with their number. The processes are spawned (no fork) and
import only the function's module: a plain script needs no `if __name__ == "__main__"`. With a single chunk or a single
core the function is called in this process.
"""

import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from types import ModuleType
from typing import Any, TypeVar

from limo.machine import count_cores
from limo.processes import shielded

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # chunks for each process that wait for it


def spread(
    function: Callable[[T], R],
    chunks: Iterable[T],
    *,
    start: Callable[..., None] | None = None,
    given: tuple[Any, ...] = (),
    processes: int | None = None,
) -> Iterator[R]:
    """Yield `function(chunk)` for each chunk, in order. `start(*given)` first prepares each process.

    Function, chunks and results must be picklable; the function is defined at the top level of a module.
    """
    processes = count_cores() if processes is None else processes
    listed = iter(chunks)
    first = list(islice(listed, 2))
    if processes < 2 or len(first) < 2:
        if start:
            start(*given)
        yield from map(function, chain(first, listed))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=start, initargs=given) as pool:

        def submit(chunk: T) -> Future[R]:
            with _hidden_main(), shielded():
                return pool.submit(function, chunk)

        try:
            yield from in_turn(submit, chain(first, listed), processes * AHEAD)
        except BaseException:  # waiting chunks are cancelled, running ones are useless
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.kill()
            raise


def in_turn(submit: Callable[[T], Future[R]], values: Iterable[T], ahead: int) -> Iterator[R]:
    """Submit each value and yield the results in order. At most `ahead` values are in progress."""
    waiting = deque[Future[R]]()
    for value in values:
        waiting.append(submit(value))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _hidden_main() -> Iterator[None]:
    """In this block, new processes do not import this process's main module, since that may be a script without a main
    guard.
    """
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def chunked(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` values, the last one shorter."""
    listed = iter(values)
    while chunk := list(islice(listed, size)):
        yield chunk
