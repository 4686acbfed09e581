"""Who teaches: what the stages of `curation/lemma/errors.py` ask of a teacher, and the one that is a language model.

The model's questions and the readers of its replies are in `curation/lemma/prompts.py`. A reply that cannot be read is
asked for again, `tries` times in all; then the row is set aside with the reason. The other teacher is
`curation/lemma/rules.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from curation.lemma.mistakes import TYPES, Mistake, Unusable, tried
from curation.lemma.prompts import (
    Strategy,
    agree_prompt,
    correct_prompt,
    diagnose_prompt,
    inject_prompt,
    read_agreement,
    read_continuation,
    read_diagnosis,
    read_injection,
    read_smooth,
    smooth_prompt,
)
from limo.data import Example, chat
from limo.engines.ledger import Cached
from limo.engines.protocol import Completion, Sampling, sample
from limo.errors import UserError
from limo.recipe import bind

T = TypeVar("T")


class Teacher(Protocol):
    """What the stages of `curation/lemma/errors.py` ask of a teacher. Each answer is in the place of its question."""

    kinds: tuple[str, ...]  # the types of mistakes that it can plant

    def diagnose(self, asked: Sequence[tuple[Example, str]]) -> list[Mistake | Unusable]:
        """The first wrong step of a wrong attempt at each row, whose completion is a right chain, if there is one."""

    def inject(self, asked: Sequence[tuple[Example, str, int]]) -> list[Mistake | Unusable]:
        """A wrong solution of each row with a mistake of a type; another one for another number."""

    def agree(self, asked: Sequence[tuple[Example, Mistake]]) -> list[bool | Unusable]:
        """Whether all before the step is right and the step wrong, asked as if nobody had said so."""

    def correct(self, asked: Sequence[tuple[Example, Mistake, str]], strategy: Strategy) -> list[str | Unusable]:
        """What follows the first wrong step: a reflection and the rest. The text is another right solution, if any."""

    def smooth(self, asked: Sequence[tuple[Example, str]]) -> list[str | Unusable]:
        """The same solution as one piece."""


class Model:
    """A teacher behind an engine.

    Args: `engine` node, `sampling` of each reply (its n is not used), `tries` replies that a question may have until
    one can be read. Raises UserError for tries that cannot be, and where the engine's key is not set.
    """

    kinds = tuple(kind for kind in TYPES if kind != "NO")  # nobody learns from nonsense that is asked for

    def __init__(self, *, engine: dict[str, Any], sampling: Sampling, tries: int) -> None:
        if tries < 1:
            raise UserError(f"teacher.tries must be at least 1, not {tries}")
        if tries > 1 and not sampling.temperature:
            raise UserError(
                f"teacher.tries={tries} at temperature 0 is {tries} times the same reply: raise it, or tries=1"
            )
        self.sampling, self.tries = sampling, tries
        self.engine = Cached(bind(engine, "teacher.engine")())  # loads nothing yet, but tells of a key that is not set

    def _replies(self, prompts: Sequence[str], read: Callable[[int, Completion], T], what: str) -> list[T | Unusable]:
        """What `read` makes of a reply to each prompt, the first of `tries` that it can read, or why of the last."""
        found: list[T | Unusable] = [Unusable("no reply of the teacher")] * len(prompts)
        for attempt in range(self.tries):
            open_ = [i for i, value in enumerate(found) if isinstance(value, Unusable)]
            # The ledger has the replies before this one, so only the new one is paid for
            drawing = replace(self.sampling, n=attempt + 1)
            drawn = sample(self.engine, [chat(prompts[i]) for i in open_], drawing, what) if open_ else []
            for i, replies in zip(open_, drawn, strict=True):
                found[i] = tried(read, i, replies[attempt])
        return found

    def diagnose(self, asked: Sequence[tuple[Example, str]]) -> list[Mistake | Unusable]:
        """See `Teacher`."""
        prompts = [diagnose_prompt(row, attempt) for row, attempt in asked]
        return self._replies(prompts, lambda i, reply: read_diagnosis(reply, *asked[i]), "teacher: diagnose")

    def inject(self, asked: Sequence[tuple[Example, str, int]]) -> list[Mistake | Unusable]:
        """See `Teacher`. The number goes into the prompt, so that a second mistake of a type is another one."""
        prompts = [inject_prompt(*each) for each in asked]
        return self._replies(prompts, lambda i, reply: read_injection(reply, *asked[i]), "teacher: inject")

    def agree(self, asked: Sequence[tuple[Example, Mistake]]) -> list[bool | Unusable]:
        """See `Teacher`."""
        prompts = [agree_prompt(*each) for each in asked]
        return self._replies(prompts, lambda i, reply: read_agreement(reply, *asked[i]), "teacher: second opinion")

    def correct(self, asked: Sequence[tuple[Example, Mistake, str]], strategy: Strategy) -> list[str | Unusable]:
        """See `Teacher`."""
        prompts = [correct_prompt(*each, strategy) for each in asked]
        return self._replies(prompts, lambda i, reply: read_continuation(reply, *asked[i]), f"teacher: {strategy}")

    def smooth(self, asked: Sequence[tuple[Example, str]]) -> list[str | Unusable]:
        """See `Teacher`."""
        prompts = [smooth_prompt(*each) for each in asked]
        return self._replies(prompts, lambda i, reply: read_smooth(reply, *asked[i]), "teacher: smooth")
