"""Many answers at once, over all cores: worker processes grade them in chunks, in order.

grades = grade_all([(completion, answer), ...])
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from eval.grader.grade import Grade, Kind, grade
from eval.grader.worker import Died, TimedOut, Workers, serve
from limo.machine import count_cores
from limo.progress import progress

FEW = 5_000  # answers that are graded sooner than workers start
CHUNK_CHARACTERS = 1_600_000
CHUNK_ANSWERS = 2000

Pair = tuple[str, str]  # a completion and the reference answer


def grade_all(
    pairs: Sequence[Pair], *, kind: Kind = "math", processes: int | None = None, what: str = "grading"
) -> list[Grade]:
    """The grade of each pair, in their order.

    Args: `processes` is how many grade at once, all cores if None; few pairs are graded here, without processes. A
    completion that a worker dies of is "unsure". Safe from threads and notebooks and under any start method.
    """
    processes = count_cores() if processes is None else processes
    with progress(what, len(pairs), "answer") as advance:
        if len(pairs) <= FEW or processes < 2:
            found = list[Grade]()
            for i, (completion, answer) in enumerate(pairs, 1):
                found.append(grade(completion, answer, kind=kind))
                if i % 100 == 0 or i == len(pairs):
                    advance((i - 1) % 100 + 1)
            return found
        workers = Workers("eval.grader.bulk", processes)
        try:
            with ThreadPoolExecutor(processes) as threads:
                found = []
                for grades in threads.map(lambda chunk: _graded(workers, chunk, kind), _chunks(pairs)):
                    found.extend(grades)
                    advance(len(grades))
                return found
        finally:
            workers.stop()


def _chunks(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    start = size = 0
    for i, (completion, answer) in enumerate(pairs):
        if i > start and (size > CHUNK_CHARACTERS or i - start >= CHUNK_ANSWERS):
            yield pairs[start:i]
            start, size = i, 0
        size += len(completion or "") + len(str(answer))
    if start < len(pairs):
        yield pairs[start:]


def _graded(workers: Workers, chunk: Sequence[Pair], kind: Kind) -> list[Grade]:
    """The grades of a chunk; where the worker dies, of each alone, so that only the one it dies of is lost."""
    try:
        return [Grade(*found) for found in workers.ask((list(chunk), kind), seconds=60 + 2.0 * len(chunk))]
    except (Died, TimedOut) as error:
        if len(chunk) == 1:
            return [Grade("unsure", None, "the worker died" if isinstance(error, Died) else "out of time")]
    return [grade for pair in chunk for grade in _graded(workers, [pair], kind)]


def _answer(question: tuple[list[Pair], Kind]) -> list[list[str | None]]:
    pairs, kind = question
    grades = [grade(completion, answer, kind=kind) for completion, answer in pairs]
    return [[g.verdict, g.extracted, g.how] for g in grades]


if __name__ == "__main__":
    serve(_answer)
