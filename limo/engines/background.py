"""Answer many requests at once for a caller that iterates: an event loop in a thread of its own."""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from limo.engines.protocol import Completion, Request, Take
from limo.errors import UserError

Answer = Callable[[Request], Coroutine[Any, Any, Completion]]


class Loop:
    """An event loop in a daemon thread, so that a process can end even when something in it hangs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="limo-engine", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Begin a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel all running work, await `last`, and end the thread."""
        self.start(_cancel_all()).result()
        self.start(last).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def answer_all(
    loop: Loop, answer: Answer, room: int, take: Take, first: Sequence[Request]
) -> Iterator[tuple[Request, Completion]]:
    """Yield each request with its completion as soon as it is finished, `room` requests at a time.

    `take` is called in the caller's thread only; `first` are requests already taken. After a UserError in `answer`
    nothing more is taken, but running requests are finished and yielded, since they are paid for; then it is raised.
    """
    done = queue.SimpleQueue[tuple[Request, "Future[Completion]"]]()
    running = dict[int, "Future[Completion]"]()
    fatal: UserError | None = None
    asked = first
    try:
        while asked or running:
            for request in asked:
                work = loop.start(answer(request))
                running[id(work)] = work
                work.add_done_callback(partial(_put, done, request))
            request, finished = done.get()
            del running[id(finished)]
            error = finished.exception()
            if error is None:
                yield request, finished.result()
            elif isinstance(error, UserError):
                fatal = fatal or error
            else:
                raise error
            asked = () if fatal else take(room - len(running))
    finally:
        for work in running.values():  # the caller stopped iterating, or a bug
            work.cancel()
    if fatal:
        raise fatal


def _put(done: "queue.SimpleQueue[tuple[Request, Future[Completion]]]", request: Request, work: Any) -> None:
    done.put((request, work))
