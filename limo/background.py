"""Answering many requests at once for a caller that knows nothing of it: an event loop in a thread of its own.

    with Loop() as loop:
        yield from driven(loop, answer, room=64, take=take, first=take(64))

`answer` is a coroutine from a request to its completion. It goes on while the caller grades, writes or waits, and the
caller's `take` is called in the caller's own thread only. Engines that wait (for a server, for a process that decodes)
are built on it.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from limo.engine import Completion, Request, Take
from limo.errors import UserError

T = TypeVar("T")
Answer = Callable[[Request], Coroutine[Any, Any, Completion]]


class Loop:
    """An event loop in a daemon thread, so that a process ends even where something in it hangs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="limo-engine", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns there."""
        return self.start(work).result()

    def cancel(self) -> None:
        """Cancel what is under way, and wait until it has ended."""
        self.run(_cancel_all())

    def close(self) -> None:
        """Cancel what is under way and end the thread."""
        self.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> "Loop":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def driven(
    loop: Loop, answer: Answer, room: int, take: Take, first: Sequence[Request]
) -> Iterator[tuple[Request, Completion]]:
    """As `Engine.complete`, with up to `room` requests under way; `first` are taken already.

    A UserError of `answer` ends the run: nothing more is taken, what is under way is finished and yielded, since it is
    paid for, and then the first such error is raised. Any other exception is raised at once.
    """
    done = queue.SimpleQueue[tuple[Request, "Future[Completion]"]]()
    under_way, fatal = dict[int, "Future[Completion]"](), None
    asked = first
    try:
        while asked or under_way:
            for request in asked:
                work = loop.start(answer(request))
                under_way[id(work)] = work
                work.add_done_callback(partial(_put, done, request))
            request, found = done.get()
            del under_way[id(found)]
            error = found.exception()
            if error is None:
                yield request, found.result()
            elif isinstance(error, UserError):
                fatal = fatal or error
            else:
                raise error
            asked = () if fatal else take(room - len(under_way))
    finally:
        for work in under_way.values():  # the caller went away, or an error of ours
            work.cancel()
    if fatal:
        raise fatal


def _put(done: "queue.SimpleQueue[tuple[Request, Future[Completion]]]", request: Request, found: Any) -> None:
    done.put((request, found))
