"""Stages that turn several attempts at a problem, made one after another, into training rows: RISE (arXiv 2407.18219).

    collect   plays the turns on-policy, and takes the best of some answers at each; a row for every (history -> answer)
    keep      which of these answers are imitated: all, better, best, success
    weigh     exp(reward / tau), with or without the paper's centring

The three are ordinary stages: only `collect` samples, and the ledger keeps its samples. Each row's prompt is the prompt
of the engine, with history and feedback, and its completion is the answer, so only the last answer is in the loss, and
training sees the same prompts as sampling.

    self-distillation   players: first samples 1 answer, second 16 with the same engine; the grader picks the best
    distillation        players: second is another engine, a teacher that continues from the student's wrong answer

The best of several answers is picked by the reference, so self-distillation needs references too.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from curation.methods.rise.turns import Dialogue, Episode, sample_turn
from curation.stage import drop, stage
from eval.run import grade_rows
from limo.data import Example, Row
from limo.engines.ledger import Cached
from limo.engines.protocol import Completion, Prompt, Sampling
from limo.errors import UserError
from limo.recipe import bind

Centring = Literal["rewards", "weights"]


@dataclass(frozen=True, slots=True)
class Player:
    """The model that answers at one turn: the first of `sampling.n` answers with the highest reward is taken."""

    engine: dict[str, Any]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Rewards:
    """The reward of an answer. The paper: 1, 0, 0. The released code on GSM8K: 1, 0, -1."""

    right: float
    wrong: float  # also for answers that cannot be graded
    none: float  # no answer in it, or cut off by its length limit

    def __post_init__(self) -> None:
        if not self.right > max(self.wrong, self.none):
            raise UserError(f"rewards.right must be the highest, since an episode ends with it: {self}")


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer that one turn contributes: the first one with the highest reward; completions that were not cut off
    come first.
    """

    prompt: Prompt  # of the engine
    completion: Completion
    verdict: str
    reward: float
    player: str


@stage("pool", writes=("reward", "turn"), samples=True, better={"reward": "higher"})
def collect(
    rows: Iterable[Example],
    /,
    *,
    dialogue: Dialogue,
    players: Annotated[Mapping[str, Any], Field(min_length=1)],
    rewards: Rewards,
) -> Iterator[Row]:
    """Play `players`, one per turn and in order, on every problem until its answer is right.

    Args: `dialogue` is the messages to the model; `players` by name, each a `Player`; `rewards` of an answer.
    Yields a row for every turn that was played: prompt and completion of that turn, `scores.reward`, `scores.turn`, and
    `notes.turns` with the rewards of the whole episode. The row's id is the problem's, the player's name and the number
    of the turn. A problem whose prompt an engine refuses ends there and is dropped.
    All problems of a turn are sampled as one batch, with one model in memory, so all rows are in memory at once.
    Raises UserError for wrong players.
    """
    turns = {name: bind(node, f"collect.players.{name}")() for name, node in players.items()}
    episodes = [Episode(row, dialogue) for row in rows]
    played: list[list[Taken]] = [[] for _ in episodes]
    refused: dict[int, str] = {}
    node, runner = None, None
    for number, (name, player) in enumerate(turns.items(), 1):
        going = [
            at
            for at, taken in enumerate(played)
            if at not in refused and not (taken and taken[-1].reward >= rewards.right)
        ]
        if not going:
            break
        if player.engine != node:  # a player of several turns is loaded once; the previous one is removed from memory
            runner = None
            node, runner = player.engine, Cached(bind(player.engine, f"collect.players.{name}.engine")())
        assert runner is not None
        prompts = [episodes[at].prompt for at in going]
        sampled = sample_turn(runner, [episodes[at] for at in going], player.sampling, f"turn {number}, {name}")
        judged = grade_rows([episodes[at].row for at in going], sampled, f"grading turn {number}")
        for at, prompt, completions, line in zip(going, prompts, sampled, judged, strict=True):
            if all(c.finish == "refused" for c in completions):
                refused[at] = f"turn {number}: {completions[0].why}"
                continue
            values = [_reward(graded, rewards) for graded in line["completions"]]
            best = max(range(len(values)), key=lambda i: (values[i], completions[i].finish == "stop"))
            verdict = line["completions"][best]["verdict"]
            played[at].append(Taken(prompt, completions[best], verdict, values[best], name))
            episodes[at].take(completions[best].text)
    for at, (episode, taken) in enumerate(zip(episodes, played, strict=True)):
        yield from _rows(episode.row, taken)
        if at in refused:
            yield drop(episode.row, "not sampled", refused[at])


def _reward(graded: Mapping[str, Any], rewards: Rewards) -> float:
    """The reward of a graded completion. A completion that was cut off gets the reward of a missing answer, even if it
    states one.
    """
    if graded["finish"] != "stop" or graded["extracted"] is None:
        return rewards.none
    return rewards.right if graded["verdict"] == "correct" else rewards.wrong


def _rows(row: Example, taken: Sequence[Taken]) -> Iterator[Example]:
    """A row for each turn of an episode."""
    first: dict[str, int] = {}
    for turn, t in enumerate(taken, 1):
        earlier = first.setdefault(t.completion.text.strip(), turn)
        turns = {
            "turn": turn,
            "rewards": [other.reward for other in taken],
            "right": t.verdict == "correct" and t.completion.finish == "stop",
            "finish": t.completion.finish,
            "history": len(t.prompt) - len(taken[0].prompt),  # messages after the problem
            "same_as": earlier if earlier < turn else None,
        }
        yield replace(
            row,
            id=f"{row.id}/{t.player}/{turn}",
            prompt=t.prompt,
            completion=t.completion.text,
            scores={**row.scores, "reward": t.reward, "turn": float(turn)},
            notes={**row.notes, "teacher": t.player, "verdict": t.verdict, "turns": turns},
        )


@stage("row")
def keep_by_criteria(
    rows: Iterable[Example], /, *, criteria: Literal["all", "better", "best", "success"]
) -> Iterator[Row]:
    """The rows of `collect` whose answer is imitated.

    `all` keeps every answer, as the paper does; `better` those with a higher reward than the previous one; `best` those
    that no earlier one beats; `success` the right ones. The first answer stays except with `success`. Empty answers,
    cut-off answers, and exact repetitions of an earlier turn's answer are dropped in any case; later prompts still
    show them, as they were sampled.
    """
    for row in rows:
        reason, detail = _unfit(row, criteria)
        yield drop(row, reason, detail) if reason else row


def reward_weights(rewards: Sequence[float], tau: float, centring: Centring | None) -> list[float]:
    """Weights of the attempts at one problem from their `rewards` (attempts,), for reward-weighted regression.

    With r the reward of an attempt, mean the average over all attempts at this problem, tau the temperature:

        None      exp(r / tau)                       RISE (arXiv 2407.18219, eq. 3.6 in its NeurIPS version) and its
                                                     released code
        rewards   exp((r - mean r) / tau)            advantage-weighted regression (arXiv 1910.00177), to which the
                                                     paper compares its centring
        weights   exp(r / tau) - mean exp(r / tau)   the paper's words taken literally; negative for attempts that are
                                                     worse than the mean

    The released code has no centring, and the paper does not state which of the two it means. Raises UserError unless
    tau is above 0 and large enough for exp not to overflow.

    >>> [round(w, 3) for w in reward_weights([0, 1], 0.4, None)]
    [1.0, 12.182]
    """
    if not tau > 0:
        raise UserError(f"tau must be above 0, not {tau}: it divides the rewards")
    mean = math.fsum(rewards) / len(rewards) if centring == "rewards" else 0.0
    try:
        weights = [math.exp((r - mean) / tau) for r in rewards]
    except OverflowError:
        raise UserError(f"tau={tau} is too small for rewards up to {max(rewards)}: exp(r / tau) overflows") from None
    if centring != "weights":
        return weights
    middle = math.fsum(weights) / len(weights)
    return [w - middle for w in weights]


def _check_tau(*, tau: float, centring: Centring | None) -> None:
    reward_weights([0.0], tau, centring)


@stage("row", check=_check_tau)
def weigh_by_reward(rows: Iterable[Example], /, *, tau: float, centring: Centring | None) -> Iterator[Row]:
    """Each row with its weight, see `reward_weights`; for `train.weighting: rows`.

    The centring's mean is over all answers taken at the problem, kept or not. With `centring: weights` a weight may be
    0 or negative; such a row is dropped, since lowering a probability has no bound.
    """
    _check_tau(tau=tau, centring=centring)
    for row in rows:
        turns = _turns(row)
        weight = reward_weights(turns["rewards"], tau, centring)[turns["turn"] - 1]
        if weight > 0:
            yield replace(row, weight=weight)
        else:
            yield drop(row, "no positive weight", f"{weight:.4g}")


def _turns(row: Example) -> dict[str, Any]:
    if "turns" not in row.notes:
        raise UserError(
            f"row {row.id} was not made by collect: put curation.methods.rise.stages.collect before this stage"
        )
    return dict(row.notes["turns"])


def _unfit(row: Example, criteria: str) -> tuple[str, str]:
    """The reason, with detail, why an answer is not imitated; two empty strings if it is imitated."""
    turns = _turns(row)
    turn, rewards = turns["turn"], turns["rewards"]
    mine, earlier = rewards[turn - 1], rewards[: turn - 1]
    if not row.completion.strip():
        return "empty answer", f"turn {turn}"
    if turns["finish"] != "stop":
        return "cut off by its length limit", f"turn {turn}"
    if turns["same_as"]:
        return "same answer as before", f"turn {turn} repeats turn {turns['same_as']}"
    if criteria == "success":
        return ("", "") if turns["right"] else ("not right", f"reward {mine:g} at turn {turn}")
    if criteria == "better" and earlier and not mine > earlier[-1]:
        return "not better than the turn before", f"reward {mine:g} after {earlier[-1]:g}"
    if criteria == "best" and earlier and mine < max(earlier):
        return "an earlier turn was better", f"reward {mine:g} after {max(earlier):g}"
    return "", ""
