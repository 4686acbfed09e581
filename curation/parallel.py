"""A pure function over many chunks of values on all cores, the results in order.

    for result in spread(function, chunks): ...

Chunks are read as there is room, so memory does not grow with their number. The processes are started afresh (no fork),
import the function's module and nothing of ours beside it. A single chunk, or a single core, is worked here.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar

from limo.machine import count_cores

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
    """`function` of each chunk, in order. `start(*given)` is called first in each process, for what all chunks need.

    Function, chunks and results are sent between processes, so they must be picklable; the function is a module's own.
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
        waiting = deque[Future[R]]()
        for chunk in chain(first, listed):
            waiting.append(pool.submit(function, chunk))
            if len(waiting) > processes * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def chunked(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` values, the last one shorter."""
    listed = iter(values)
    while chunk := list(islice(listed, size)):
        yield chunk
