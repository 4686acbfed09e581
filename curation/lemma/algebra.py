r"""Mistakes by rule in chains that solve for an unknown: `3x + 5 = 20`, `3x = 15`, `x = 5`.

An equation of such a chain is right if it holds at the chain's own value of the unknown, and a change of it is proved
wrong when SymPy finds that it does not. The wrong equation is solved for the wrong answer, which everything after it
then says. The first equation states the problem, so only a misreading changes it.

| type | rule |
|---|---|
| CA | the number on one side is worked out wrongly |
| OP | a term is brought to the other side without changing its sign |
| MS | the last division is left out: `x = 15` for `3x = 15` |
| CS | a number is taken from an earlier line instead |
| CV | a number of the problem is misread |

Left out: equations of the second degree, several unknowns, fractions of the unknown beyond the first degree.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from random import Random

from curation.lemma.mistakes import Chain, Mistake, Unusable, written
from eval.equations import Equation, Written, equations, holds, number, numbers_in, proved_different, replaced, root

Made = Callable[[], Mistake]


def _lines(chain: Chain, random: Random, after: int) -> list[tuple[int, Equation, Equation | None]]:
    """Step, its equation in the unknown, and the one before it; in random order, without the first `after`."""
    found = [(at, e) for at, each in enumerate(chain.equations) for e in each if e.unknown]
    before = [None, *(e for _, e in found)]
    listed = [(at, e, b) for (at, e), b in zip(found, before, strict=False)][after:]
    random.shuffle(listed)
    return listed


def _right_number(e: Equation) -> Written | None:
    """The number that is all of the right side, where the left has the unknown."""
    last = e.numbers[-1] if e.numbers else None
    return last if last and e.right.replace(" ", "") == last.text.replace(" ", "") else None


def _calculation(chain: Chain, random: Random) -> Iterator[Made]:
    for at, e, _ in _lines(chain, random, 1):
        if n := _right_number(e):
            near = [number(n.text) + d for d in (1, -1, 2, -2, 10, -10)]
            for value in random.sample(near, len(near)):
                said = f"the right side is {n.text}, not {written(value)}."
                yield partial(_changed, chain, at, e, "CA", n, value, said)


def _operator(chain: Chain, random: Random) -> Iterator[Made]:
    for at, e, before in _lines(chain, random, 1):
        n = _right_number(e)
        m = _right_number(before) if before else None
        if n and m and before and before.operators and any(o.text in "+-" for o in before.operators):
            value = 2 * number(m.text) - number(n.text)  # c - b where c + b belongs, or the other way round
            said = f"a term that goes to the other side changes its sign: the right side is {n.text}."
            yield partial(_changed, chain, at, e, "OP", n, value, said)


def _left_out(chain: Chain, random: Random) -> Iterator[Made]:
    for at, e, before in _lines(chain, random, 1):
        n = _right_number(e)
        m = _right_number(before) if before else None
        if n and m and e.left.strip() == e.unknown and before and before.left.strip() != e.unknown:
            said = f"a step is missing: {before.left} = {m.text} still has to be solved for {e.unknown}."
            yield partial(_changed, chain, at, e, "MS", n, number(m.text), said)


def _from_elsewhere(chain: Chain, random: Random) -> Iterator[Made]:
    for at, e, before in _lines(chain, random, 1):
        n = _right_number(e)
        if n and before:
            for other in random.sample(before.numbers, len(before.numbers)):
                said = f"the right side is {n.text}; {other.text} belongs elsewhere."
                yield partial(_changed, chain, at, e, "CS", n, number(other.text), said)


def _misread(chain: Chain, random: Random) -> Iterator[Made]:
    found = [(at, e) for at, each in enumerate(chain.equations) for e in each if e.unknown][:1]
    for at, e in found:
        for n in random.sample(e.numbers, len(e.numbers)):
            if number(n.text) in chain.given:
                for d in random.sample((1, -1, 3, 10), 4):
                    value = number(n.text) + d
                    said = f"the problem says {n.text}, not {written(value)}."
                    yield partial(_changed, chain, at, e, "CV", n, value, said)


SLIPS: dict[str, Callable[[Chain, Random], Iterator[Made]]] = {
    "CA": _calculation,
    "OP": _operator,
    "MS": _left_out,
    "CS": _from_elsewhere,
    "CV": _misread,
}


def _changed(chain: Chain, at: int, e: Equation, kind: str, n: Written, value: Fraction, said: str) -> Mistake:
    """The chain with one number of one equation changed, and solved from there."""
    step = chain.steps[at]
    wrong = replaced(step[: e.end], [(n.start, n.end, written(value))])[e.start :]
    now = next((x for x in equations(wrong) if x.unknown), None)
    found = root(now) if now else None
    if now is None or found is None or found == chain.unknown_is:
        raise Unusable("the changed equation has no other solution", wrong)
    assert chain.unknown_is is not None
    at_right = {e.unknown: chain.unknown_is}
    proof = f"SymPy: {wrong} does not hold at {e.unknown} = {chain.unknown_is}"
    if holds(now, chain.unknown_is) is not False or not proved_different(now.left, now.right, at_right):
        raise Unusable("the step is not proved wrong", wrong)
    solved = f"{e.unknown} = {written(found)}"
    rest = [f"{solved}\n"] if wrong.strip() != solved else []
    last = chain.steps[-1]
    said_last = replaced(
        last, [(m.start, m.end, written(found)) for m in numbers_in(last) if number(m.text) == chain.unknown_is]
    )
    changed = step[: e.start] + wrong + step[e.end :]
    ends = [said_last] if at + 1 < len(chain.steps) else []
    return Mistake(kind, at, (*chain.steps[:at], changed, *rest, *ends), said, proof, wrong, step[e.start : e.end])
