"""Prompts and sampling of several turns at a problem.

    episodes = [Episode(row, dialogue) for row in rows]
    turn = sample_turn(engine, episodes, sampling, "turn 1")     # completions for each, all problems in one batch
    for episode, completions in zip(episodes, turn): episode.take(completions[0].text)

RISE (arXiv 2407.18219): a model sees its earlier answers with the feedback that they are wrong. Collection
(`stages.py`) and evaluation (`multiturn.py`) both use this module, and a training row's prompt is the prompt that the
engine was given: the published code trains with one template and samples with another.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from limo.console import progress
from limo.data import Example, Message, content_id
from limo.engines.protocol import Completion, Engine, Prompt, Request, Sampling, taker
from limo.errors import UserError

SLOT = "{problem}"


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The messages to the model: that of the first turn, and the feedback after each of its answers.

    In `first` and `feedback` the text {problem} is replaced by the problem, and nothing else, so LaTeX is unchanged.
    """

    shots: list[dict[str, str]]  # each a problem and its solution, shown as earlier turns of the chat
    first: str  # the problem's message
    feedback: str  # what follows an answer, right or wrong: it never says what is wrong
    window: int | None  # interactions in the prompt: the problem and the last window - 1 answers; null shows all

    def __post_init__(self) -> None:
        if SLOT not in self.first:
            raise UserError(f"dialogue.first must contain {SLOT}, for the problem: {self.first!r}")
        if not self.feedback.strip():
            raise UserError("dialogue.feedback is empty: the model would not be asked to try again")
        if self.window is not None and self.window < 1:
            raise UserError(f"dialogue.window must be at least 1, or null to show everything, not {self.window}")
        for shot in self.shots:
            if set(shot) != {"problem", "solution"}:
                raise UserError(
                    f"dialogue.shots: each needs exactly the keys problem and solution, not {', '.join(shot) or 'none'}"
                )

    def prompt(self, row: Example, actions: Sequence[str]) -> Prompt:
        """The prompt of the turn after `actions`, the model's answers so far.

        With a window of k, the prompt shows the problem and the last k - 1 answers, each with its feedback. In the
        published code a window of 1 shows everything, since it slices a list at -0.
        """
        system = [m for m in row.prompt if m["role"] == "system"]
        problem = self.first.replace(SLOT, row.question)
        again = self.feedback.replace(SLOT, row.question)
        shots = [part for shot in self.shots for part in _pair(self.first.replace(SLOT, shot["problem"]), shot)]
        shown = actions if self.window is None else actions[max(0, len(actions) - self.window + 1) :]
        shown_turns = [part for action in shown for part in (_message("assistant", action), _message("user", again))]
        return (*system, *shots, _message("user", problem), *shown_turns)


@dataclass(slots=True)
class Episode:
    """One problem and the answers that the model has given to it so far."""

    row: Example
    dialogue: Dialogue
    actions: list[str] = field(default_factory=list)
    taken: Counter[str] = field(default_factory=Counter)  # samples taken of each prompt so far

    @property
    def prompt(self) -> Prompt:
        """The prompt of the next turn."""
        return self.dialogue.prompt(self.row, self.actions)

    def take(self, action: str) -> None:
        """Add the model's answer."""
        self.actions.append(action)

    def wanted(self, n: int, at: int) -> list[Request]:
        """What to sample for the next turn: `n` completions of its prompt.

        With a window the same prompt may occur again; with window 1 it always does. Sample i of a prompt is always the
        same text, so a later turn takes samples with higher numbers; otherwise it would repeat earlier answers.
        """
        key = content_id(self.prompt, 16)
        begin = self.taken[key]
        self.taken[key] += n
        return [Request(self.prompt, begin + i, at) for i in range(n)]


def sample_turn(engine: Engine, episodes: Sequence[Episode], sampling: Sampling, what: str) -> list[list[Completion]]:
    """`sampling.n` completions for the next turn of each episode, in order: one batch over all of them."""
    asked = [episode.wanted(sampling.n, at) for at, episode in enumerate(episodes)]
    place = {(r.at, r.index): (at, i) for at, requests in enumerate(asked) for i, r in enumerate(requests)}
    # Longest first, as in `limo.engines.protocol.sample`
    order = sorted(asked, key=lambda requests: -sum(len(m["content"]) for m in requests[0].prompt))
    places: list[list[Completion | None]] = [[None] * sampling.n for _ in episodes]
    with progress(what, len(place), "completion") as advance:
        for request, completion in engine.complete(taker(deque(r for rs in order for r in rs)), sampling):
            at, i = place[request.at, request.index]
            places[at][i] = completion
            advance(1)
    whole = [[c for c in completions if c is not None] for completions in places]
    assert all(len(completions) == sampling.n for completions in whole), "some requests got no answer"
    return whole


def _pair(problem: str, shot: dict[str, str]) -> tuple[Message, Message]:
    return _message("user", problem), _message("assistant", shot["solution"])


def _message(role: str, content: str) -> Message:
    return Message(role=role, content=content)
