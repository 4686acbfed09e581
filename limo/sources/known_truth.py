r"""Generates pools in which the flaws of each chain are known, for the demo, the studies and the tests.

    rows = pool("made", "", size=300, seed=1, kinds=["shop", "change"], dirt={"wrong": 0.3}, flaws={"no steps": 0.5})
    new = problems("new", "", size=100, seed=2, kinds=["shop", "change"])

Each kind of problem is a story with two or three steps that a model of 135M weights learns from a few dozen chains. A
pool has several chains for each problem, as generated pools do. `notes.made` says how a chain was made:

| made | the chain |
|---|---|
| clean, wording, long | right: line by line, in sentences, or with a sentence around each step |
| false step | one step has a wrong value; the answer is right |
| no steps | states the right answer and nothing else |
| steps left out | a step before the last is missing |
| other steps | the steps are those of another problem of the kind; the answer is right |
| filler | sentences that say nothing stand between the steps |
| wrong | ends in a wrong answer: the usual misreading of the kind, or a slip |
| cut off | breaks off before the answer |

These flaws are made while the chain of a generated problem is written; `curation/evidence/flaws.py` plants flaws in any
chain. A row with `notes.copy` repeats an earlier row of its problem, with the problem slightly reworded. No stage may
read `notes.made`: choices are judged by it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from limo.data import Example, Row, chat
from limo.errors import UserError

LEGS = {"dog": 4, "bird": 2, "ant": 6, "spider": 8, "cat": 4, "duck": 2, "horse": 4, "bee": 6}
NAMES = "Ana Ben Carla David Emma Finn Grace Hugo Iris Jonas Kira Leo".split()
GOODS = "pens books cups apples tickets cards lamps bags".split()
STYLES = {"clean": 0.7, "wording": 0.2, "long": 0.1}  # fractions of the right chains
RIVALS = (2, 3, 4)  # possible numbers of chains of a problem
FILLER = (
    "Let me think about this carefully.",
    "Wait, perhaps I should check this again.",
    "Hmm, let me consider the problem once more.",
    "This seems to be on the right track, so let me continue.",
)
TRIES = 100_000


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with its steps in order. The last step gives the answer."""

    kind: str
    question: str
    steps: tuple[tuple[str, int], ...]  # left side, value
    misread: tuple[tuple[str, int], ...]  # the steps of somebody who misunderstands the problem

    @property
    def answer(self) -> int:
        """The value of the last step."""
        return self.steps[-1][1]


def _legs(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    (a, b), (n, m) = rng.sample(sorted(LEGS), 2), (rng.randint(2, 9), rng.randint(2, 9))
    one, two = n * LEGS[a], m * LEGS[b]
    question = f"How many legs do {n} {a}s and {m} {b}s have?"
    return question, (f"{n} * {LEGS[a]}", f"{m} * {LEGS[b]}", f"{one} + {two}"), (f"{n} + {m}", f"{n + m} * 4")


def _sum(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    values = [rng.randint(1, 99) for _ in range(rng.randint(3, 4))]
    signs = [rng.choice("+-") for _ in values[1:]]
    asked = " ".join([str(values[0]), *(f"{sign} {value}" for sign, value in zip(signs, values[1:], strict=True))])
    return f"What is {asked}?", _running(values, signs), _running(values, [*signs[:-1], "+"])


def _running(values: Sequence[int], signs: Sequence[str]) -> list[str]:
    """The left sides of the steps that solve a sum by running totals."""
    lefts, total = list[str](), values[0]
    for value, sign in zip(values[1:], signs, strict=True):
        lefts.append(f"{total} {sign} {value}")
        total += value if sign == "+" else -value
    return lefts


def _product(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    one, tens, units = rng.randint(3, 9), 10 * rng.randint(1, 4), rng.randint(2, 9)
    steps = f"{one} * {tens}", f"{one} * {units}", f"{one * tens} + {one * units}"
    return f"What is {one} * {tens + units}?", steps, (f"{one} * {tens}", f"{one * tens} + {units}")


def _equation(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    factor, x, added = rng.randint(2, 9), rng.randint(3, 12), rng.randint(2, 20)
    total = factor * x + added
    steps = f"{total} - {added}", f"{factor * x} / {factor}"
    return f"Solve {factor}x + {added} = {total} for x.", steps, (f"{total} - {added}", f"{factor * x} - {factor}")


def _shop(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    who, (a, b) = rng.choice(NAMES), rng.sample(GOODS, 2)
    n, m, p, q = (rng.randint(2, 9) for _ in range(4))
    question = f"{who} buys {n} {a} for {p} coins each and {m} {b} for {q} coins each. How many coins does {who} pay?"
    return question, (f"{n} * {p}", f"{m} * {q}", f"{n * p} + {m * q}"), (f"{n} * {p}", f"{n * p} + {q}")


def _change(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    who, what, n, p = rng.choice(NAMES), rng.choice(GOODS), rng.randint(2, 9), rng.randint(2, 9)
    coins = n * p + rng.randint(3, 40)
    question = f"{who} has {coins} coins and buys {n} {what} for {p} coins each. How many coins are left?"
    return question, (f"{n} * {p}", f"{coins} - {n * p}"), (f"{n} + {p}", f"{coins} - {n + p}")


def _sharing(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    each, friends, boxes = rng.randint(2, 9), rng.randint(2, 6), rng.randint(2, 6)
    per_box = each * friends
    question = (
        f"{friends} friends share {boxes} boxes of {per_box} sweets equally. How many sweets does each friend get?"
    )
    total = boxes * per_box
    return question, (f"{boxes} * {per_box}", f"{total} / {friends}"), (f"{boxes} * {per_box}", f"{total} - {friends}")


def _saving(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    who, start, daily, days = rng.choice(NAMES), rng.randint(5, 40), rng.randint(2, 9), rng.randint(3, 9)
    question = (
        f"{who} has {start} coins and saves {daily} coins a day. How many coins does {who} have after {days} days?"
    )
    total = days * daily
    return question, (f"{days} * {daily}", f"{start} + {total}"), (f"{start} + {daily}", f"{start + daily} + {days}")


def _fence(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    long, wide = rng.randint(12, 40), rng.randint(3, 20)
    question = f"A field is {long} m long and {wide} m wide. How many metres of fence go around it?"
    return question, (f"{long} + {wide}", f"2 * {long + wide}"), (f"2 * {long}", f"{2 * long} + {wide}")


def _seats(rng: Random) -> tuple[str, Sequence[str], Sequence[str]]:
    rows, chairs, halls = rng.randint(3, 9), rng.randint(3, 9), rng.randint(2, 4)
    taken = rng.randint(2, rows * chairs - 1)
    one = rows * chairs
    question = f"{halls} halls have {rows} rows of {chairs} seats each. {taken} seats are taken. How many are free?"
    steps = f"{rows} * {chairs}", f"{halls} * {one}", f"{halls * one} - {taken}"
    return question, steps, (f"{rows} * {chairs}", f"{one} - {taken}")


KINDS: Mapping[str, Callable[[Random], tuple[str, Sequence[str], Sequence[str]]]] = {
    "legs": _legs,
    "sums": _sum,
    "products": _product,
    "equations": _equation,
    "shop": _shop,
    "change": _change,
    "sharing": _sharing,
    "saving": _saving,
    "fence": _fence,
    "seats": _seats,
}


def _worked(lefts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    return tuple((left, _value(left)) for left in lefts)


def _value(left: str) -> int:
    a, sign, b = left.split()
    one, two = int(a), int(b)
    return {"+": one + two, "-": one - two, "*": one * two, "/": one // two}[sign]


def make_problem(kind: str, rng: Random) -> Problem:
    """Generate a random problem of a kind."""
    question, steps, misread = KINDS[kind](rng)
    return Problem(kind, question, _worked(steps), _worked(misread))


def draw_problems(rng: Random, kinds: Mapping[str, float], count: int, seen: set[str]) -> list[Problem]:
    """Generate `count` problems that are not in `seen`, in the shares of their kinds, and add them to `seen`."""
    found = list[Problem]()
    for kind, share in kinds.items():
        wanted, tries = round(share * count), 0
        while wanted and tries < TRIES:
            tries, problem = tries + 1, make_problem(kind, rng)
            if problem.question not in seen:
                seen.add(problem.question)
                found.append(problem)
                wanted -= 1
    rng.shuffle(found)
    return found


def write_chain(problem: Problem, style: str) -> str:
    """Write a right chain in one of three styles: `clean` (line by line), `wording` (in sentences), or `long` (a
    sentence around each step).
    """
    return _written([f"{left} = {value}" for left, value in problem.steps], str(problem.answer), style)


def _written(equations: Sequence[str], answer: str, style: str) -> str:
    end = f"The answer is \\boxed{{{answer}}}."
    if style == "wording":
        said = [f"{'Then' if at else 'First,'} {equation}." for at, equation in enumerate(equations)]
        return " ".join([*said, f"So we get \\boxed{{{answer}}}."])
    if style == "long":
        lines = [line for e in equations for line in (f"We need {e.partition(' =')[0]}.", e)]
        return "\n".join(["We go step by step.", *lines, f"The last value is {answer}.", end])
    return "\n".join([*equations, end])


def _false_step(problem: Problem, rng: Random, style: str) -> str:
    at = rng.randrange(len(problem.steps) - 1)
    lines = [f"{left} = {value}" for left, value in problem.steps]
    lines[at] = f"{problem.steps[at][0]} = {problem.steps[at][1] + rng.choice((-10, -2, -1, 1, 2, 10))}"
    return _written(lines, str(problem.answer), style)


def _no_steps(problem: Problem, rng: Random, style: str) -> str:
    return _written([], str(problem.answer), style)


def _left_out(problem: Problem, rng: Random, style: str) -> str:
    lines = [f"{left} = {value}" for left, value in problem.steps]
    del lines[rng.randrange(len(lines) - 1)]
    return _written(lines, str(problem.answer), style)


def _other_steps(problem: Problem, rng: Random, style: str) -> str:
    other = make_problem(problem.kind, rng)
    return _written([f"{left} = {value}" for left, value in other.steps], str(problem.answer), style)


def _filler(problem: Problem, rng: Random, style: str) -> str:
    lines = write_chain(problem, style).split("\n")
    return "\n".join(piece for line in lines for piece in (rng.choice(FILLER), line))


def _wrong(problem: Problem, rng: Random, style: str) -> str:
    if rng.random() < 0.7 and problem.misread[-1][1] != problem.answer:
        return _written([f"{a} = {b}" for a, b in problem.misread], str(problem.misread[-1][1]), "clean")
    (left, _), answer = problem.steps[-1], problem.answer + rng.choice((-10, -2, -1, 1, 2, 10))
    lines = [*(f"{a} = {b}" for a, b in problem.steps[:-1]), f"{left} = {answer}"]
    return _written(lines, str(answer), "clean")


def _cut_off(problem: Problem, rng: Random, style: str) -> str:
    text = write_chain(problem, "long")
    return text[: rng.randint(len(text) // 3, len(text) * 2 // 3)]


Maker = Callable[[Problem, Random, str], str]  # the last is the style
FLAWED_CHAINS: Mapping[str, Maker] = {  # the answer is right
    "false step": _false_step,
    "no steps": _no_steps,
    "steps left out": _left_out,
    "other steps": _other_steps,
    "filler": _filler,
}
DIRT: Mapping[str, Maker] = {"wrong": _wrong, "cut off": _cut_off}  # the answer is wrong or missing


def is_good(row: Example) -> bool:
    """Whether a row of a pool of known truth has a right chain without a flaw."""
    return row.notes.get("made") in STYLES


def problems(
    name: str,
    system: str,
    /,
    *,
    size: int,
    seed: int,
    kinds: Sequence[str] | Mapping[str, float],
    part: str = "problems",
) -> Iterator[Row]:
    """Generate new problems, each with a clean chain, for a benchmark or for the target of a choice.

    Args: `kinds` in equal shares, or with the share of each; another `part` has other problems for the same seed.
    Raises UserError for a kind that does not exist.
    """
    rng = Random(f"{part} {seed}")
    for number, problem in enumerate(draw_problems(rng, _shares(name, kinds), size, set()), 1):
        yield _row(name, system, f"{number}", problem, "clean", write_chain(problem, "clean"))


def pool(
    name: str,
    system: str,
    /,
    *,
    size: int,
    seed: int,
    kinds: Sequence[str] | Mapping[str, float],
    dirt: Mapping[str, float],
    flaws: Mapping[str, float],
    licence: str = "",
) -> Iterator[Row]:
    """Generate a pool: two to four chains for each of `size` problems, many of them flawed.

    Args: `kinds` as in `problems`. `dirt` is the share of chains that are wrong, cut off or a copy, by kind of dirt;
    `flaws` the share of the other chains that have a flaw, by flaw. Raises UserError for an unknown kind or flaw, or
    for shares above 1 in sum.
    """
    for given, known, where in ((dirt, {*DIRT, "copy"}, "dirt"), (flaws, set(FLAWED_CHAINS), "flaws")):
        if wrong := set(given) - known:
            raise UserError(f"pool source '{name}': {where} has no {sorted(wrong)[0]!r}; there are {sorted(known)}")
        if not 0 <= sum(given.values()) <= 1:
            raise UserError(f"pool source '{name}': the shares of {where} sum to {sum(given.values()):g}, not 0 to 1")
    rng = Random(f"pool {seed}")
    for number, problem in enumerate(draw_problems(rng, _shares(name, kinds), size, set()), 1):
        drawn, more = ("", ""), {"licence": licence} if licence else {}
        for rival in range(1, rng.choice(RIVALS) + 1):
            copied = rival > 1 and rng.random() < dirt.get("copy", 0.0)
            drawn = drawn if copied else _draw_chain(rng, problem, dirt, flaws)
            row = _row(name, system, f"{number}/{rival}", problem, *drawn, f"{name}/{number}")
            if copied:
                said = chat(_reworded(problem.question), system)
                row = replace(row, prompt=said, notes={**row.notes, "copy": True})
            yield replace(row, notes={**row.notes, **more})


def _draw_chain(
    rng: Random, problem: Problem, dirt: Mapping[str, float], flaws: Mapping[str, float]
) -> tuple[str, str]:
    for makers, shares in ((DIRT, dirt), (FLAWED_CHAINS, flaws)):
        drawn = rng.random()
        for made, share in shares.items():
            if made in makers and drawn < share:
                return made, makers[made](problem, rng, "clean")
            drawn -= share if made in makers else 0.0
    style = rng.choices(list(STYLES), list(STYLES.values()))[0]
    return style, write_chain(problem, style)


def _shares(name: str, kinds: Sequence[str] | Mapping[str, float]) -> Mapping[str, float]:
    if wrong := set(kinds) - set(KINDS):
        raise UserError(f"source '{name}': there is no kind {sorted(wrong)[0]!r}; there are {', '.join(KINDS)}")
    given = kinds if isinstance(kinds, Mapping) else dict.fromkeys(kinds, 1.0)
    total = sum(given.values())
    return {kind: share / total for kind, share in given.items()}


def _reworded(question: str) -> str:
    return question.replace(". How", ". So how").replace("What is", "Compute").replace("How many", "how many")


def _row(name: str, system: str, number: str, problem: Problem, made: str, chain: str, key: str = "") -> Example:
    notes: dict[str, Any] = {"topic": problem.kind, "made": made}
    return Example(
        f"{name}/{number}",
        chat(problem.question, system),
        str(problem.answer),
        chain,
        source=name,
        notes=notes,
        problem=key,
    )
