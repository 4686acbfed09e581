"""Rules for two single values: how far an answer may be from its reference, and angles in degrees or radians."""

from fractions import Fraction

from eval.grader.exact import TooMuch, Undefined, exact
from eval.grader.expression import Call, Clock, Group, Matrix, Name, Node, Number, Quantity, Relation, Words, walk
from eval.grader.values import approximately, same_value
from eval.grader.verdicts import Kind, Told, told

ROUNDED = Fraction(1, 500)  # a decimal reference may be a rounded value if its last place is this fine, relatively
COMPUTED = Fraction(1, 10**6)  # a physics reference with a finer last place was printed by a program, not measured
COMPUTED_TO = Fraction(1, 200)
PHYSICS = Fraction(1, 50)  # and in scientific notation or a physics benchmark if it is this fine
_NO_NUMBER = {"oo", "∅", "...", "mathbb R", "mathbb Z", "mathbb C", "mathbb Q", "mathbb N"}


def tolerance(reference: Node, kind: Kind = "math") -> Fraction:
    """How far an answer may be from a reference: half a unit of its last place where it can be a rounded value.

    That is: a decimal whose last place is at most ROUNDED of it (3.14, but not 2.5, which is more likely exact), any
    number in scientific notation with a decimal point or a negative exponent, and any decimal of a physics benchmark;
    the last two to PHYSICS of the value at most. Zero for everything else: integers and fractions are exact.
    """
    if isinstance(reference, Call) and reference.what in ("%", "neg", "deg", "rad"):
        return tolerance(reference.args[0], kind) / (100 if reference.what == "%" else 1)
    if not isinstance(reference, Number) or reference.step is None or not reference.value:
        return Fraction(0)
    half, size = reference.step / 2, abs(reference.value)
    if kind == "physics" and reference.step < size * COMPUTED:
        return size * COMPUTED_TO
    if reference.scientific or kind == "physics":
        return min(half, size * PHYSICS)
    return half if half <= size * ROUNDED else Fraction(0)


def by_value(given: Node, reference: Node, kind: Kind) -> Told:
    """Two values: exactly where both are rational, within the reference's own precision, to fifty digits otherwise."""
    special = [n.text for e in (given, reference) for n in walk(e) if isinstance(n, Name) and n.text in _NO_NUMBER]
    if special:
        return "wrong", f"not the same as {special[-1]}"
    if any(isinstance(n, Words | Group | Matrix | Relation | Clock | Quantity) for n in walk(given)):
        return "wrong", "not a value"
    try:
        found, wanted = exact(given), exact(reference)
    except Undefined:
        return "wrong", "division by zero"
    except TooMuch:  # as exact numbers: their first digits may tell them apart, but not prove them equal
        if same_value(given, reference):
            raise
        return "wrong", "value"
    within = tolerance(reference, kind)
    if found is not None and wanted is not None:
        return told(found == wanted or abs(found - wanted) <= within, "number")
    if within:
        near = approximately(given)
        value = exact(reference)
        if near is not None and value is not None and abs(near - value) <= within:
            return "correct", "the reference is this value, rounded"
    return told(same_value(given, reference), "value")


def by_degrees(given: Node, reference: Node, kind: Kind) -> Told | None:
    """A degree sign may be left out or said; otherwise degrees are worth pi/180 each."""
    ours, theirs = degrees(given), degrees(reference)
    if (ours is None and theirs is None) or is_radians(given):
        return None
    if ours is not None and (theirs is not None or is_radians(reference)):
        return by_value(given, reference, kind) if theirs is None else by_value(ours, theirs, kind)
    verdict, how = by_value(ours or given, theirs or reference, kind)
    return (verdict, how) if verdict == "correct" else by_value(given, reference, kind)


def is_radians(node: Node) -> bool:
    """Whether it is said to be in radians."""
    return isinstance(node, Call) and node.what == "rad"


def degrees(node: Node) -> Node | None:
    """How many degrees an angle is, if it is written in degrees."""
    if not isinstance(node, Call):
        return None
    if node.what == "deg":
        return node.args[0]
    if node.what in ("neg", "+"):
        parts = [degrees(arg) for arg in node.args]
        return None if any(p is None for p in parts) else Call(node.what, tuple(p for p in parts if p is not None))
    if node.what == "*":
        inner = degrees(node.args[1])
        return None if inner is None else Call("*", (node.args[0], inner))
    return None
