"""The teacher that needs no model: it finds, plants and corrects mistakes in chains whose equations it can read.

Planting is `slips.py`. **Finding** compares a wrong attempt with the right chain, equation by equation,
and names the first wrong step only if it is proved: an equation is false, one number of a right equation is misread,
its numbers are combined by another operation, or the answer comes before the last step. **Correcting** writes a
reflection on the mistake, and continues the right chain, at the first missing step or, for a restart, from its
beginning.

Left out: mistakes in words. An attempt that takes another way than the right chain is dropped, since its first wrong
step cannot be proved.
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from random import Random

from curation.methods.lemma.mistakes import Chain, Mistake, Rejected, read_chain, tried, write_number
from curation.methods.lemma.slips import KINDS, slip
from curation.methods.lemma.teach import OPENINGS, Strategy
from curation.stages.chains import split_steps
from eval.equations import Equation, equations, holds, number, numbers_in, proved_different
from limo.data import Example

# Numbers that a solver may add to those of the problem: of days, months, minutes, dozens, percent
COMMON = frozenset(Fraction(n) for n in (0, 1, 2, 3, 4, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)) | {Fraction(1, 2)}

RESTART = (
    "Let me start again from the beginning.",
    "I will begin afresh.",
    "Let me work it out anew from the start.",
    "It is safer to start over.",
)


class RuleTeacher:
    """The rule-based teacher. `curation.methods.lemma.teach.Model` describes the methods of a teacher."""

    kinds = KINDS

    def diagnose(self, asked: Sequence[tuple[Example, str]]) -> list[Mistake | Rejected]:
        """For each wrong attempt its first proved mistake, found by comparison with the row's right chain; or why no
        mistake is proved.
        """
        return [tried(_diagnose, row, attempt) for row, attempt in asked]

    def inject(self, asked: Sequence[tuple[Example, str, int]]) -> list[Mistake | Rejected]:
        """Plant a mistake of the given type in the right chain of each row. The same row, type and number give the same
        mistake.
        """
        return [tried(_inject, *each) for each in asked]

    def agree(self, asked: Sequence[tuple[Example, Mistake]]) -> list[bool | Rejected]:
        """This teacher has no second opinion: a step that the rules do not prove wrong is unusable."""
        return [Rejected("the step is not proved wrong", mistake.wrong) for _, mistake in asked]

    def correct(self, asked: Sequence[tuple[Example, Mistake, str]], strategy: Strategy) -> list[str | Rejected]:
        """For each row, the text that follows the first wrong step: a reflection and the right continuation."""
        return [tried(_correct, row, mistake, other, strategy) for row, mistake, other in asked]


def _diagnose(row: Example, attempt: str) -> Mistake:
    return diagnose(read_chain(row), attempt)


def _inject(row: Example, kind: str, at: int) -> Mistake:
    return slip(read_chain(row), kind, Random(f"{row.id}/{kind}/{at}"))


def diagnose(chain: Chain, attempt: str) -> Mistake:
    """Find the first mistake of an attempt with a wrong answer. Raises Rejected if no mistake can be proved."""
    steps = tuple(split_steps(attempt))
    listed = [equations(step) for step in steps]
    if not any(listed):
        raise Rejected("no parsable step")
    right = [e for each in chain.equations for e in each]
    keys, found = {key(e) for e in right}, set[Fraction]()
    known = chain.given | COMMON | {number(n.text) for e in right for n in e.numbers}
    for at, each in enumerate(listed):
        for e in each:
            mistake = _first_wrong(chain, steps, at, e, right, frozenset(known))
            if mistake:
                return mistake
            # A value that occurs a second time may be right by chance: `12 - 6 = 6` after `12 / 2 = 6`
            if e.unknown or key(e) not in keys or key(e) in found or holds(e) is not True:
                raise Rejected("the first wrong step is not proved", f"{e.left} = {e.right} is not of the chain")
            found.add(key(e))
            known |= {e.value}
        step = steps[at]
        if step.count("=") > len(each):
            raise Rejected("the first wrong step is not proved", f"an equation that cannot be read: {step.strip()}")
        if nowhere := [n.text for n in numbers_in(step) if number(n.text) not in known]:
            raise Rejected("the first wrong step is not proved", f"{nowhere[0]} comes from nowhere: {step.strip()}")
    missing = [e for e in right if key(e) not in found]
    answered = max(at for at, each in enumerate(listed) if each) + 1
    if not missing or answered >= len(steps):
        raise Rejected("the first wrong step is not proved", "every equation is one of the right chain")
    said = f"a step is missing before this: {missing[0].left} = {missing[0].right}."
    proof = f"the chain's {missing[0].left} = {missing[0].right} comes nowhere before the answer"
    return Mistake(
        "MS", answered, steps, said, proof, steps[answered].strip(), f"{missing[0].left} = {missing[0].right}"
    )


def _first_wrong(
    chain: Chain, steps: tuple[str, ...], at: int, e: Equation, right: Sequence[Equation], known: frozenset[Fraction]
) -> Mistake | None:
    """The mistake in an equation; None if no mistake in it can be proved."""
    shown = steps[at][e.start : e.end]
    if e.unknown:
        return None
    if not holds(e):
        if not proved_different(e.left, e.right) or any(number(n.text) not in known for n in e.numbers):
            return None
        kind, value = "OP" if _by_other_operator(e) else "CA", write_number(e.value)
        said = f"{e.left} is {value}, not {e.right}."
        return Mistake(kind, at, steps, said, f"SymPy: {e.left} is not {e.right}", shown, f"{e.left} = {value}")
    operands = Counter(number(n.text) for n in e.numbers)
    same = [r for r in right if Counter(number(n.text) for n in r.numbers) == operands]
    if same and all(proved_different(r.left, e.left) for r in same):
        r = same[0]
        said = f"the operation is the wrong one: {r.left} = {r.right} is needed, not {e.left}."
        return Mistake("OP", at, steps, said, f"SymPy: {e.left} is not {r.left}", shown, f"{r.left} = {r.right}")
    for r in right:
        read, meant = _one_other(e, r)
        if read and read not in known and meant in chain.given:
            said = f"the problem says {write_number(meant)}, not {write_number(read)}: {r.left} is {r.right}."
            proof = f"{write_number(read)} is neither in the problem nor in a step; SymPy: {e.left} is not {r.left}"
            return Mistake("CV", at, steps, said, proof, shown, f"{r.left} = {r.right}")
    return None


def _one_other(e: Equation, r: Equation) -> tuple[Fraction | None, Fraction]:
    """If an equation differs from a right one in a single number: that number and the right number; otherwise None."""
    if [o.text for o in e.operators] != [o.text for o in r.operators]:
        return None, Fraction(0)
    pairs = [(number(a.text), number(b.text)) for a, b in zip(e.numbers, r.numbers, strict=False)]
    other = [(a, b) for a, b in pairs if a != b]
    one = len(e.numbers) == len(r.numbers) and len(other) == 1 and proved_different(e.left, r.left)
    return other[0] if one else (None, Fraction(0))


def _by_other_operator(e: Equation) -> bool:
    """Whether another operation on the same numbers gives the false result, or the false result is the right one with
    the wrong sign.
    """
    wrong = number(e.right)
    if len(e.numbers) != 2 or len(e.operators) != 1:
        return wrong == -e.value
    a, b = (number(n.text) for n in e.numbers)
    return wrong in {a + b, a - b, b - a, a * b, -e.value} | ({a / b} if b else set())


def key(e: Equation) -> Fraction:
    """The value of an equation, by which equations are compared."""
    return number(e.right)


def _correct(row: Example, mistake: Mistake, other: str, strategy: Strategy) -> str:
    """Reflection and continuation. `other` is another right solution for a restart; empty if there is none."""
    random = Random(f"{row.id}/{mistake.at}/{strategy}")
    noticed = f"{random.choice(OPENINGS)} {mistake.said[:1].upper()}{mistake.said[1:]}"
    if strategy == "restart":
        return f"{noticed} {random.choice(RESTART)}\n{other.strip() or row.completion.strip()}"
    return f"{noticed}\n{_continue(read_chain(row), mistake)}"


def _continue(chain: Chain, mistake: Mistake) -> str:
    """The right chain from its first step that the prefix lacks. Raises Rejected if the prefix does not follow that
    chain.
    """
    before = mistake.steps[: mistake.at]
    found, keys = (
        {key(e) for step in some for e in equations(step) if not e.unknown} for some in (before, chain.steps)
    )
    if not found <= keys or not {key(e) for e in equations(mistake.right)} <= keys:
        raise Rejected("the attempt went another way than the chain")  # a restart can still correct it
    missing = [at for at, each in enumerate(chain.equations) if any(key(e) not in found for e in each)]
    if not missing:
        raise Rejected("nothing is left to go on with")
    there = {step.strip() for step in before}
    return "".join(step for step in chain.steps[missing[0] :] if step.strip() not in there).strip()
