"""Plants mistakes by rule: changes one step of a right chain in a way that is typical, and proves that it is wrong.

    slip(chain, "CA", Random(0)).prefix  ->  "48 / 2 = 34"

| type | what goes wrong |
|---|---|
| CA | a result is off by one, by a carry, by one operand, or has two digits exchanged |
| OP | one operator is replaced, or the sign of a result is lost |
| MS | a step is left out; steps that needed its result use one of its operands |
| CS | the result of an earlier step is replaced by another number of the chain |
| CV | a quantity of the problem is misread: two digits exchanged, or one digit changed |

The wrong value is carried through all later steps, so the solution ends in a wrong answer. Every mistake is proved: the
prefix is that of the right chain, SymPy shows that the changed step is wrong (its equation is false, or has another
value than the right step), and the grader finds the final answer wrong. If any of this fails, another change is tried.
Chains that solve for an unknown are left out.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import islice
from random import Random
from typing import Literal, get_args

from curation.methods.lemma.mistakes import Chain, Mistake, Rejected, chain_number, write_number
from eval.equations import Equation, Written, equations, number, numbers_in, proved_different, replaced
from eval.grade import grade

Kind = Literal["CA", "OP", "MS", "CS", "CV"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TRIES = 60  # changes that are tried before a chain counts as one without a mistake of this type
OTHER_OPERATOR = {"+": "-", "-": "+", "*": "+", "/": "*"}
VERBS = {"+": "added", "-": "subtracted", "*": "multiplied", "/": "divided"}

Made = Callable[[], Mistake]
Edit = tuple[int, int, str]


def slip(chain: Chain, kind: str, random: Random) -> Mistake:
    """Plant a mistake of one type in a right chain. Raises Rejected if no change that was tried is proved to be a
    mistake, with the reason of the last one.
    """
    if kind not in KINDS:
        raise Rejected("no rule for a mistake of this type", kind)
    why = Rejected("no place for a mistake of this type", kind)
    for make in islice(_changes(chain, kind, random), TRIES):
        try:
            return check_mistake(chain, make())
        except Rejected as found:
            why = found
    raise why


def check_mistake(chain: Chain, mistake: Mistake) -> Mistake:
    """The mistake, checked. Raises Rejected unless its prefix is right, and its step and its answer are wrong."""
    if not mistake.proof:
        raise Rejected("the step is not proved wrong", mistake.wrong)
    if any(step not in chain.steps for step in mistake.steps[: mistake.at]):
        raise Rejected("an earlier step is not that of the right chain")
    found = grade("".join(mistake.steps), chain.answer)
    if found.verdict != "wrong":
        raise Rejected("the error does not reach the answer", f"{found.extracted!r} for {chain.answer!r}")
    return mistake


# A rule yields edits of the left side, the wrong result (None computes it), and a sentence about the mistake

Change = tuple[tuple[Edit, ...], Fraction | None, str]


def _changes(chain: Chain, kind: str, random: Random) -> Iterator[Made]:
    """Changes of all equations, in random order."""
    places = [(at, e) for at, each in enumerate(chain.equations) for e in each]
    random.shuffle(places)
    for at, e in places:
        if kind != "MS":
            for change in _RULES[kind](chain, at, e, random):
                yield partial(_change, chain, at, e, kind, *change)
        elif len(chain.equations[at]) == 1:
            for n in random.sample(e.numbers, len(e.numbers)):
                yield partial(_omit, chain, at, e, number(n.text))


def _calculation(chain: Chain, at: int, e: Equation, random: Random) -> Iterator[Change]:
    right = number(_result(e).text)
    near = [right + d for d in (1, -1, 2, -2, 10, -10)] + [right + s * 100 for s in (1, -1) if abs(right) >= 200]
    if right.denominator != 1:
        near = [right * 10, right / 10, right + 1, right - 1]
    elif "*" in {o.text for o in e.operators}:  # the neighbour in the table
        near += [right + s * number(n.text) for n in e.numbers for s in (1, -1)]
    near += _exchange_digits(right)
    random.shuffle(near)
    for value in near:
        yield (), value, f"{e.left} is {_result(e).text}, not {{}}."


def _operator(chain: Chain, at: int, e: Equation, random: Random) -> Iterator[Change]:
    for o in random.sample(e.operators, len(e.operators)):
        other = OTHER_OPERATOR[o.text]
        said = f"the numbers are to be {VERBS[o.text]}, not {VERBS[other]}: {e.left} is {_result(e).text}."
        yield ((o.start, o.end, other),), None, said
    if (right := number(_result(e).text)) < 0:
        yield (), -right, f"the sign is lost: {e.left} is {_result(e).text}, not {{}}."


def _wrong_operand(chain: Chain, at: int, e: Equation, random: Random) -> Iterator[Change]:
    earlier = _results_before(chain, at, e)
    for n in random.sample(e.numbers, len(e.numbers)):
        if number(n.text) in earlier:
            others = sorted((earlier | chain.given) - {number(m.text) for m in e.numbers})
            for other in random.sample(others, len(others)):
                said = f"here {n.text} is needed, not {write_number(other)}: {e.left} is {_result(e).text}."
                yield ((n.start, n.end, _put(other, n)),), None, said


def _misread(chain: Chain, at: int, e: Equation, random: Random) -> Iterator[Change]:
    for n in random.sample(e.numbers, len(e.numbers)):
        value = number(n.text)
        if value in chain.given and value not in _results_before(chain, at, e):
            others = [v for v in _misreadings(value) if v not in chain.given]
            for other in random.sample(others, len(others)):
                said = f"the problem says {n.text}, not {write_number(other)}: {e.left} is {_result(e).text}."
                yield ((n.start, n.end, _put(other, n)),), None, said


_RULES: dict[str, Callable[[Chain, int, Equation, Random], Iterator[Change]]] = {
    **{"CA": _calculation, "OP": _operator, "CS": _wrong_operand, "CV": _misread},
}


def _change(
    chain: Chain, at: int, e: Equation, kind: str, edits: Sequence[Edit], value: Fraction | None, said: str
) -> Mistake:
    """The chain with one changed equation: `edits` replace numbers of its left side, and `value` is its new result;
    None computes the result.
    """
    step, result = chain.steps[at], _result(e)
    old = number(result.text)
    left = replaced(step, edits)[e.start : e.end + sum(len(new) - (b - a) for a, b, new in edits)]
    if value is None:
        value = next((found.value for found in equations(left)[:1]), None)
    if value is None or value == old or not _plausible(chain, old, value):
        raise Rejected("a wrong value that nobody would write", str(value))
    if any(number(n.text) == old for n in numbers_in(step[: e.start])) and old not in chain.given:
        raise Rejected("the step names its result before the equation")
    new = chain_number(value, result.text)
    shown = replaced(step, [*edits, (result.start, result.end, new)])
    body = shown[: e.end + len(shown) - len(step)]
    tail = _carry(chain, [step[e.end :], *chain.steps[at + 1 :]], {old: value})
    wrong = body[e.start :]
    proof = _prove(e, next(iter(equations(wrong)), None))
    steps = (*chain.steps[:at], body + tail[0], *tail[1:])
    return Mistake(kind, at, steps, said.format(new), proof, wrong, step[e.start : e.end])


def _prove(right: Equation, wrong: Equation | None) -> str:
    """SymPy's proof that the changed equation is wrong; empty if there is none."""
    if wrong is not None and proved_different(wrong.left, wrong.right):
        return f"SymPy: {wrong.left} is not {wrong.right}"
    if wrong is not None and proved_different(wrong.left, right.left):
        return f"SymPy: {wrong.left} is not {right.left}, which the right step works out"
    return ""


def _omit(chain: Chain, at: int, e: Equation, instead: Fraction) -> Mistake:
    """The chain without one step. Where later steps used the result of that step, they use `instead`, one of its
    operands.

    Without its last step a chain answers with the result of the step before.
    """
    old = number(_result(e).text)
    rest = list(chain.steps[at + 1 :])
    last = not any(chain.equations[at + 1 :])
    if last:
        before = [x for each in chain.equations[:at] for x in each]
        if not before:
            raise Rejected("no place for a mistake of this type", "MS: the only step")
        instead = number(_result(before[-1]).text)
    uses = [i for i, step in enumerate(rest) if any(number(n.text) == old for n in numbers_in(step))]
    if not uses or instead == old:
        raise Rejected("the error does not reach the answer", "MS")
    first = uses[0]
    tail = _carry(chain, rest, {old: instead})
    now, was = equations(tail[first]), chain.equations[at + 1 + first]
    if last:
        proof = f"SymPy: {chain_number(instead)} is not {e.left}" if proved_different(e.left, str(instead)) else ""
    else:
        proof = _prove(was[0], now[0]) if was and now else ""
        if not _plausible(chain, was[0].value if was else old, now[0].value if now else instead):
            raise Rejected("a wrong value that nobody would write", "MS")
    wrong = tail[first].strip() if last or not now else tail[first][now[0].start : now[0].end]
    said = f"a step is missing before this: {e.left} = {_result(e).text}."
    return Mistake("MS", at + first, (*chain.steps[:at], *tail), said, proof, wrong, chain.steps[at].strip())


def _carry(chain: Chain, texts: Sequence[str], changed: dict[Fraction, Fraction]) -> list[str]:
    """Rewrite the later steps after some values have `changed` (old -> new): operands, results, and numbers outside
    equations.

    An operand with an old value is taken for the result of the earlier step; a number outside equations that the
    problem states is left unchanged, except in the last line, which has the answer. Raises Rejected for a value that
    nobody would write.
    """
    changed, found = dict(changed), list[str]()
    for text in texts:
        edits = list[Edit]()
        listed = [e for e in equations(text) if e.result]
        for e in listed:
            result = _result(e)
            inner = [(n, changed[number(n.text)]) for n in e.numbers if number(n.text) in changed]
            if not inner:
                changed.pop(number(result.text), None)  # recomputed, and right
                continue
            left = replaced(text, [(n.start, n.end, _put(v, n)) for n, v in inner])
            now = equations(left[e.start :])
            if not now or now[0].result is None:
                raise Rejected("the error cannot be carried on", text.strip())
            value = now[0].value
            changed[number(result.text)] = value
            edits += [(n.start, n.end, _put(v, n)) for n, v in inner]
            edits.append((result.start, result.end, chain_number(value, result.text)))
        ends = text is texts[-1]
        for n in numbers_in(text):
            inside = any(e.start <= n.start < e.end for e in listed)
            value = number(n.text)
            if not inside and value in changed and (ends or value not in chain.given):
                edits.append((n.start, n.end, chain_number(changed[value])))
        found.append(replaced(text, edits))
    return found


def _results_before(chain: Chain, at: int, equation: Equation) -> frozenset[Fraction]:
    """The results of the steps before an equation."""
    found = [e for each in chain.equations[:at] for e in each if e.result]
    found += [e for e in chain.equations[at] if e.start < equation.start and e.result]
    return frozenset(number(_result(e).text) for e in found)


def _plausible(chain: Chain, old: Fraction, new: Fraction) -> bool:
    """Whether a wrong value looks like a right one: it is whole if the right value is, and positive if the right value
    is.
    """
    signed = any(number(_result(e).text) < 0 for each in chain.equations for e in each if e.result)
    if old.denominator == 1 and new.denominator != 1:
        return False
    return signed or new > 0


def _misreadings(value: Fraction) -> list[Fraction]:
    """Misreadings: a whole number with two digits exchanged or one digit changed; a decimal with its point moved."""
    if value.denominator != 1:
        return [value * 10, value / 10]
    digits = str(abs(value.numerator))
    found = _exchange_digits(value)
    for i, digit in enumerate(digits):
        for near in {(int(digit) + d) % 10 for d in (1, -1, 3)}:
            other = int(digits[:i] + str(near) + digits[i + 1 :])
            if other > 1 and len(str(other)) == len(digits):
                found.append(Fraction(other) if value > 0 else Fraction(-other))
    return [v for v in dict.fromkeys(found) if v != value]


def _exchange_digits(value: Fraction) -> list[Fraction]:
    """All versions of a whole number with two neighbouring digits exchanged."""
    if value.denominator != 1:
        return []
    digits = str(abs(value.numerator))
    swapped = {digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :] for i in range(len(digits) - 1)} - {digits}
    sign = 1 if value >= 0 else -1
    return [Fraction(sign * int(s)) for s in sorted(swapped) if not s.startswith("0")]


def _put(value: Fraction, instead_of: Written) -> str:
    """A number as text in place of another one. A negative number after an operator gets brackets."""
    text = chain_number(value, instead_of.text)
    return f"({text})" if text.startswith("-") and not instead_of.text.startswith("-") else text


def _result(e: Equation) -> Written:
    assert e.result is not None, e
    return e.result
