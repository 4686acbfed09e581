"""What a model learns from at last: shares of mended errors by origin and strategy, and of chains without error."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

from curation.stage import stage
from limo.data import Dropped, Example, Row, content_id
from limo.errors import UserError


@stage("pool")
def mix(
    rows: Iterable[Example], /, *, k: int | None, student: float, fix: float, error_free: float, seed: int
) -> Iterator[Row]:
    """`k` rows: `error_free` the share of chains without error; of the others, `student` that of the student's own
    errors and `fix` that mended by fix and continue, the rest being injected and fresh starts.

    With `k` null there are as many as the shares allow. Where a kind has too few rows, others of the errors take their
    place. Raises UserError for a share outside of 0 to 1.
    """
    for name, share in (("student", student), ("fix", fix), ("error_free", error_free)):
        if not 0 <= share <= 1:
            raise UserError(f"mix.{name} is a share between 0 and 1, not {share}")
    listed = sorted(rows, key=lambda row: content_id([seed, row.id], 16))
    wanted = {("", ""): error_free}
    for origin, a in (("student", student), ("injected", 1 - student)):
        for strategy, b in (("fix", fix), ("restart", 1 - fix)):
            wanted[origin, strategy] = (1 - error_free) * a * b
    cells: dict[tuple[str, str], list[Example]] = {cell: [] for cell in wanted}
    for row in listed:
        cells[_cell(row)].append(row)
    if k is None:
        k = min((int(len(cells[c]) / share) for c, share in wanted.items() if share), default=0)
    counts = rounded([wanted[c] * k for c in cells])
    taken = {row.id for cell, n in zip(cells.values(), counts, strict=True) for row in cell[:n]}
    spare = [row for row in listed if row.id not in taken and _cell(row) != ("", "") and wanted[_cell(row)]]
    taken |= {row.id for row in spare[: max(0, min(k, len(listed)) - len(taken))]}
    yield from _taken(listed, taken)


@stage("pool")
def mix_hard(rows: Iterable[Example], /, *, k_max: int, student: float, seed: int) -> Iterator[Row]:
    """LEMMA-Hard (table 4): of each problem as many rows as its failure rate times `k_max`, `student` of them its own.

    Where one origin has too few, the other takes their place. Chains without error and problems that the student
    always solves leave. Raises UserError for a share outside of 0 to 1 or a `k_max` below 1.
    """
    if not 0 <= student <= 1 or k_max < 1:
        raise UserError(f"mix_hard needs k_max of at least 1 and student between 0 and 1, not {k_max} and {student}")
    listed = sorted(rows, key=lambda row: content_id([seed, row.id], 16))
    by_problem: dict[str, list[Example]] = {}
    for row in listed:
        if "error" in row.notes:
            by_problem.setdefault(row.problem, []).append(row)
    taken = set[str]()
    for errors in by_problem.values():
        n = round(errors[0].scores.get("failure_rate", 0.0) * k_max)
        own = [row for row in errors if row.notes["error"]["origin"] == "student"]
        other = [row for row in errors if row.notes["error"]["origin"] != "student"]
        first = min(len(own), max(round(n * student), n - len(other)))
        taken |= {row.id for row in [*own[:first], *other[: n - first]]}
    yield from _taken(listed, taken)


def _taken(listed: Sequence[Example], taken: set[str]) -> Iterator[Row]:
    for row in listed:
        yield row if row.id in taken else Dropped(row.id, "", "not in the mix", "", data=row.to_json())


def _cell(row: Example) -> tuple[str, str]:
    return (row.notes["error"]["origin"], row.notes["strategy"]) if "error" in row.notes else ("", "")


def rounded(counts: Sequence[float]) -> list[int]:
    """Whole numbers next to these with the same sum.

    >>> rounded([1.5, 1.5, 3.0])
    [2, 1, 3]
    """
    sums = [0, *(int(total + 0.5) for total in accumulate(counts))]
    return [b - a for a, b in pairwise(sums)]
