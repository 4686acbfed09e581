"""Plants flaws that leave the answer of a chain right, to see which scores notice them.

    spoil(row, "false step", rivals, Random(0)).completion

| flaw | what is done to the chain |
|---|---|
| false step | one equation gets a wrong result, proved by exact arithmetic; all that follows stays |
| swapped steps | two neighbouring steps before the last are exchanged |
| steps left out | a step before the last is removed, or half of them where there are four or more |
| other chain | the steps are taken from another problem; the end with the answer stays |
| filler | sentences that say nothing are put between the steps |
| repetition | a step before the last is repeated twice |
| cut off | the text ends before the answer is stated |

Only a cut-off chain loses its answer. `plant_flaws` makes a pool whose faults are known, for studies;
pools that are generated with flaws (the demo's) are those of `limo/sources/known_truth.py`.
`curation/evidence/probe.py` asks which scores notice them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random

from curation.stage import Share, stage
from curation.stages.chains import split_steps
from eval.equations import equations, holds, number, replaced
from limo.data import Example, Row
from limo.errors import UserError

FILLER = (
    "Let me think about this carefully.",
    "Wait, perhaps I should check this again.",
    "Therefore, it might be useful to verify what we have so far.",
    "Alternatively, maybe there is another way to look at it.",
    "Hmm, let me consider the problem once more.",
    "However, this seems to be on the right track, so let me continue.",
)
RIVALS = 50  # rows among which a chain of another problem is looked for


def _false_step(row: Example, steps: list[str], rivals: Sequence[Example], random: Random) -> list[str] | None:
    places = [(at, e) for at, step in enumerate(steps[:-1]) for e in equations(step) if e.result and holds(e)]
    random.shuffle(places)
    for at, e in places:
        assert e.result is not None
        value = number(e.result.text)
        if value.denominator != 1:
            continue
        wrong = str(value + random.choice((-10, -2, -1, 1, 2, 10)))
        changed = replaced(steps[at], [(e.result.start, e.result.end, wrong)])
        if any(holds(other) is False for other in equations(changed)) and Fraction(wrong) != value:
            return [*steps[:at], changed, *steps[at + 1 :]]
    return None


def _swapped(row: Example, steps: list[str], rivals: Sequence[Example], random: Random) -> list[str] | None:
    places = [at for at in range(len(steps) - 2) if steps[at].strip() != steps[at + 1].strip()]
    if not places:
        return None
    at = random.choice(places)
    return [*steps[:at], steps[at + 1], steps[at], *steps[at + 2 :]]


def _left_out(row: Example, steps: list[str], rivals: Sequence[Example], random: Random) -> list[str] | None:
    if len(steps) < 3:
        return None
    gone = set(random.sample(range(len(steps) - 1), max(1, (len(steps) - 1) // 2)))
    return [step for at, step in enumerate(steps) if at not in gone]


def _other_chain(row: Example, steps: list[str], rivals: Sequence[Example], random: Random) -> list[str] | None:
    for rival in random.sample(rivals, min(RIVALS, len(rivals))):
        others = split_steps(rival.completion)
        if len(others) > 1 and rival.problem != row.problem and rival.answer != row.answer:
            return [*others[:-1], steps[-1]]
    return None


def _filler(row: Example, steps: list[str], rivals: Sequence[Example], random: Random) -> list[str]:
    end = "\n" if any("\n" in step for step in steps) else " "
    said = random.sample(FILLER, min(len(FILLER), len(steps) + 1))
    return [
        piece for step, words in zip(steps, [*said, *said] * len(steps), strict=False) for piece in (words + end, step)
    ]


def _repetition(row: Example, steps: list[str], rivals: Sequence[Example], random: Random) -> list[str] | None:
    if len(steps) < 2:
        return None
    at = random.randrange(len(steps) - 1)
    return [*steps[: at + 1], *steps[at : at + 1] * 2, *steps[at + 1 :]]


def _cut_off(row: Example, steps: list[str], rivals: Sequence[Example], random: Random) -> list[str] | None:
    return steps[:-1] if len(steps) > 1 else None


Flaw = Callable[[Example, list[str], Sequence[Example], Random], list[str] | None]
FLAWS: Mapping[str, Flaw] = {
    "false step": _false_step,
    "swapped steps": _swapped,
    "steps left out": _left_out,
    "other chain": _other_chain,
    "filler": _filler,
    "repetition": _repetition,
    "cut off": _cut_off,
}


def spoil(row: Example, flaw: str, rivals: Sequence[Example], random: Random) -> Example | None:
    """The row with a flaw in its chain, a new id and `notes.made`; None if the chain has no place for the flaw."""
    made = FLAWS[flaw](row, split_steps(row.completion), rivals, random)
    text = "".join(made or []).strip()
    if not text or text == row.completion.strip():
        return None
    notes = {**row.notes, "made": flaw}
    return replace(row, id=f"{row.id}/{flaw.replace(' ', '-')}", completion=text, notes=notes)


def _check(*, shares: Mapping[str, float], **_: object) -> None:
    for name in shares:
        if name not in FLAWS:
            raise UserError(f"plant_flaws.shares: there is no flaw '{name}'; there are {', '.join(FLAWS)}")


@stage("pool", check=_check)
def plant_flaws(rows: Iterable[Example], /, *, shares: dict[str, Share], seed: int) -> Iterator[Row]:
    """Add spoiled copies of chains, for a pool with known flaws, which are noted in `notes.made`.

    Args: `shares`, by flaw, of the chains that get a copy with it. Untouched chains have `notes.made: clean`.
    Holds the rows in memory.
    """
    _check(shares=shares)
    kept = list(rows)
    for row in kept:
        yield replace(row, notes={**row.notes, "made": row.notes.get("made", "clean")}) if row.completion else row
        for flaw, share in shares.items():
            random = Random(f"{seed}/{flaw}/{row.id}")
            if row.completion and random.random() < share and (spoiled := spoil(row, flaw, kept, random)):
                yield spoiled
