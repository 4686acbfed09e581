"""A source for evaluation: problems together with the beginning of a solution, which the model has to continue.

    wrong: {_target_: curation.methods.lemma.begun.begun, source: {...}, types: [CA, OP], right: false, seed: 0}

A wrong beginning ends with its first wrong step, planted and proved by `slips.py`; a right beginning ends with a step
of the right chain, or is the whole chain. The model continues from there: `eval/repair.py` measures how often it
notices and corrects a wrong step, and how often it rejects a right one. The problems must be held out like any others.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

from curation.methods.lemma.mistakes import Rejected, read_chain
from curation.methods.lemma.slips import KINDS, Kind, slip
from curation.stages.chains import box_answers, write_out
from limo.console import say
from limo.data import Example, Message, Row
from limo.errors import UserError
from limo.recipe import bind


def begun(
    name: str, system: str, /, *, source: dict[str, Any], types: list[Kind], right: bool, seed: int
) -> Iterator[Row]:
    """The problems of `source`, each with the beginning of a solution as an unfinished turn of the assistant.

    Args: `types` of mistakes, used in turn, so that each has its share; with `right`, beginnings end with a right step
    instead. Adds `notes.type` (a code; "right", or "whole" if the answer is already stated) and `notes.begun` with the
    text, the wrong equation and its correction. Problems whose chain cannot be read, or that have no place for the next
    type, are left out; their number and the reasons are logged. Raises UserError if no problem is left.
    """
    if not types and not right:
        raise UserError(f"{name}: types names none of {', '.join(KINDS)}")
    left, kept = Counter[str](), 0
    rows = bind(source, f"{name}.source")(name, system)
    # The chains have the form of training: equations in the text, the answer in a box
    for row in box_answers(write_out(row for row in rows if isinstance(row, Example))):
        random = Random(f"{seed}/{row.id}")
        try:
            chain = read_chain(row)
            if right:  # at a step with a result, or at the answer, after which nothing is left to do
                last = len(chain.steps) - 1
                at = random.choice([*(at for at, each in enumerate(chain.equations[:last]) if each), last])
                text, kind = "".join(chain.steps[: at + 1]).rstrip(), "whole" if at == last else "right"
                about = {"text": text}
            else:
                kind = types[kept % len(types)]
                mistake = slip(chain, kind, random)
                text = mistake.prefix
                about = {"text": text, "wrong": mistake.wrong, "right": mistake.right, "proof": mistake.proof}
        except Rejected as why:
            left[why.reason] += 1
            continue
        kept += 1
        prompt = (*row.prompt, Message(role="assistant", content=text))
        yield replace(row, prompt=prompt, completion="", notes={**row.notes, "type": kind, "begun": about})
    if left:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left.most_common())
        say(f"{name}: {left.total()} problems left out ({reasons})")
    if not kept:
        raise UserError(f"{name}: no problem of the source has a chain that can be begun ({dict(left)})")
