"""Several turns: what the model is shown, which answers are learned with which weight, and that training agrees."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from curation.evidence.controls import Controls, write_controls
from curation.methods.rise.stages import Rewards, collect, keep_by_criteria, reward_weights, weigh_by_reward
from curation.methods.rise.turns import Dialogue, Episode
from curation.methods.rise.turns import sample_turn as draw
from curation.stage import check_stages
from limo.chat import prompt_ids
from limo.data import Dropped, Example, chat, read_jsonl, write_jsonl
from limo.engines.protocol import Completion, Sampling, Scripted
from limo.errors import UserError
from limo.model import load_model, load_tokenizer
from limo.recipe import bind, check_node, compose, nodes
from limo.training.rows import prepare
from tests.conftest import Script, asked, example, split
from tests.test_train import ARGS, curve, train

AGAIN = "wrong, again: {problem}"
DIALOGUE = Dialogue(shots=[], first="{problem}", feedback=AGAIN, window=None)
PAPER, RELEASED = Rewards(1, 0, 0), Rewards(1, 0, -1)


def player(engine: dict[str, Any], n: int = 1, **more: Any) -> dict[str, Any]:
    sampling = {"n": n, "temperature": 1.0, "top_p": 1.0, "max_tokens": 9, "seed": 0, **more}
    return {"_target_": "curation.methods.rise.stages.Player", "engine": engine, "sampling": sampling}


def said(prompt: Any) -> list[str]:
    return [m["content"] for m in prompt]


def turned(answers: list[str], engine: Any, rewards: Rewards = PAPER, answer: str = "5") -> list[Example]:
    """The rows of one problem whose turns give these answers."""
    node = engine(lambda question, index: answers[0] if question == "problem a" else rest.pop(0))
    rest = answers[1:]
    players = {f"turn{i}": player(node) for i in range(len(answers))}
    dialogue = replace(DIALOGUE, feedback="again {problem}", window=1)  # one prompt: the samples say which turn it is
    kept, _ = split(collect([example("a", answer=answer)], dialogue=dialogue, players=players, rewards=rewards))
    return kept


def test_what_a_model_is_shown() -> None:
    row = Example("a", chat("1 \\frac{1}{2} {x}?", "Be brief."), "5")
    shots = [{"problem": "2?", "solution": "\\boxed{2}"}]
    whole = Dialogue(shots=shots, first="Solve {problem}", feedback="No. {problem}", window=None)
    prompt = whole.prompt(row, ["one", "two", "three"])
    first, again = "Solve 1 \\frac{1}{2} {x}?", "No. 1 \\frac{1}{2} {x}?"
    assert said(prompt) == ["Be brief.", "Solve 2?", "\\boxed{2}", first, "one", again, "two", again, "three", again]
    assert [m["role"] for m in prompt] == ["system", *["user", "assistant"] * 4, "user"]
    assert said(replace(whole, shots=[], window=2).prompt(row, ["one", "two"])) == ["Be brief.", first, "two", again]
    assert said(replace(whole, shots=[], window=2).prompt(row, [])) == ["Be brief.", first]
    # The published code cuts the history at [-0:] here, and shows all of it
    assert said(replace(whole, shots=[], window=1).prompt(row, ["one", "two"])) == ["Be brief.", first]
    assert replace(whole, window=9).prompt(row, ["one"]) == whole.prompt(row, ["one"])


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"first": "solve it"}, "must contain {problem}"),
        ({"feedback": " "}, "feedback is empty"),
        ({"window": 0}, "window must be at least 1"),
        ({"shots": [{"problem": "x"}]}, "each needs exactly the keys problem and solution, not problem"),
    ],
)
def test_a_dialogue_that_cannot_be(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        replace(DIALOGUE, **wrong)


def test_a_prompt_that_comes_again_gets_further_samples() -> None:
    engine = Scripted(lambda question, index: f"sample {index}", batch_size=2)
    sampling = Sampling(n=1, temperature=1.0, top_p=1.0, max_tokens=9, seed=0)
    episodes = [Episode(example(key), replace(DIALOGUE, window=1)) for key in "ab"]
    for turn in range(3):
        drawn = draw(engine, episodes, replace(sampling, n=2 if not turn else 1), "turn")
        for episode, completions in zip(episodes, drawn, strict=True):
            episode.take(completions[0].text)
    assert [e.actions for e in episodes] == [["sample 0", "sample 2", "sample 3"]] * 2


def test_turns_are_played_in_batches_until_an_answer_is_right(script: Script) -> None:
    replies = {
        "problem a": ["\\boxed{5}"],
        "problem b": ["\\boxed{6}"],
        "problem c": ["no idea"],
        "wrong, again: problem b": ["\\boxed{7}", "first \\boxed{5}", "second \\boxed{5}"],
        "wrong, again: problem c": ["\\boxed{8}", "none", "\\boxed{9}"],
    }
    node = script(replies)
    rows = [example(key) for key in "abc"]
    players = {"first": player(node), "second": player(node, 3)}
    kept, dropped = split(collect(rows, dialogue=DIALOGUE, players=players, rewards=RELEASED))
    found = [(r.id, r.completion, r.scores["reward"], r.notes["turns"]["rewards"]) for r in kept]
    assert not dropped
    assert found == [
        ("a/first/1", "\\boxed{5}", 1, [1]),
        ("b/first/1", "\\boxed{6}", 0, [0, 1]),
        ("b/second/2", "first \\boxed{5}", 1, [0, 1]),  # the first of the best
        ("c/first/1", "no idea", -1, [-1, 0]),
        ("c/second/2", "\\boxed{8}", 0, [-1, 0]),
    ]
    assert said(kept[2].prompt) == ["problem b", "\\boxed{6}", "wrong, again: problem b"]
    questions = [question for question, _ in asked(node)]
    assert sorted(questions[:3]) == ["problem a", "problem b", "problem c"], "all of a turn before the next"
    assert len(questions) == 9, "a right answer ends its episode"
    again = list(collect(rows, dialogue=DIALOGUE, players=players, rewards=RELEASED))
    assert again == kept and len(asked(node)) == 9, "nothing is paid for twice"
    more = {**players, "third": player(node)}
    with pytest.raises(KeyError):  # a third turn shows both failures, which the script does not know
        list(collect(rows[2:], dialogue=replace(DIALOGUE, feedback="{problem}?"), players=more, rewards=PAPER))


def test_a_teacher_goes_on_from_the_student_s_real_failure(script: Script) -> None:
    student, seen = script({"problem a": ["I say \\boxed{6}"]}), []
    teacher = script(lambda question, index: seen.append(question) or "so \\boxed{5}")  # type: ignore[func-returns-value]
    players = {"student": player(student), "teacher": player(teacher, temperature=0.7)}
    kept, _ = split(collect([example("a")], dialogue=DIALOGUE, players=players, rewards=PAPER))
    assert seen == ["wrong, again: problem a"]
    made = [(r.notes["teacher"], r.completion) for r in kept]
    assert made == [("student", "I say \\boxed{6}"), ("teacher", "so \\boxed{5}")]
    assert said(kept[1].prompt) == ["problem a", "I say \\boxed{6}", "wrong, again: problem a"]


def test_what_is_refused_or_cut_off_is_told(script: Script) -> None:
    long = Completion("it is \\boxed{5} and", 9, "length")
    replies: dict[str, list[Any]] = {
        "problem a": [Completion("", 0, "refused", "too long")],
        "problem b": [long],
        "wrong, again: problem b": [Completion("", 0, "refused", "too long now")],
    }
    players = {"first": player(node := script(replies)), "second": player(node)}
    rows = list(collect([example("a"), example("b")], dialogue=DIALOGUE, players=players, rewards=RELEASED))
    kept, dropped = split(rows)
    assert [(d.id, d.reason, d.detail) for d in dropped] == [
        ("a", "not sampled", "turn 1: too long"),
        ("b", "not sampled", "turn 2: too long now"),
    ]
    assert [(r.id, r.scores["reward"]) for r in kept] == [("b/first/1", -1)], "cut off is no answer, right or not"
    assert [d.reason for d in keep_by_criteria(kept, criteria="all") if isinstance(d, Dropped)] == [
        "cut off by its length limit"
    ]


@pytest.mark.parametrize(
    ("rewards", "criteria", "kept"),
    [
        ([0, 1], "success", [2]),
        ([0, 0], "all", [1, 2]),
        ([0, 0], "success", []),
        ([0, 0, 1], "better", [1, 3]),
        ([0, -1, 0], "better", [1, 3]),  # better than the turn before, not than all
        ([0, -1, 0, 1], "best", [1, 3, 4]),
        ([-1, 0, -1, -1], "better", [1, 2]),
    ],
)
def test_the_four_criteria(rewards: list[int], criteria: Any, kept: list[int], script: Script) -> None:
    answers = [{1: "\\boxed{5}", 0: f"\\boxed{{{i + 20}}}", -1: f"no idea {'o' * i}"}[r] for i, r in enumerate(rewards)]
    rows = turned(answers, as_turns(script), RELEASED)
    assert [r.scores["reward"] for r in rows] == rewards
    found, dropped = split(keep_by_criteria(rows, criteria=criteria))
    assert [int(r.scores["turn"]) for r in found] == kept
    assert len(dropped) == len(rewards) - len(kept) and all(d.reason and d.detail for d in dropped)


def as_turns(script: Script) -> Any:
    """An engine whose sample i of the one prompt is the answer of turn i + 1."""
    return lambda reply: script(lambda question, index: reply(question if index == 0 else "later", index))


def test_every_repeated_or_empty_answer_leaves(script: Script) -> None:
    """The published code removes from the list that it goes through, and so skips every second one."""
    rows = turned(["\\boxed{6}", "\\boxed{6}", "\\boxed{6} ", "", "", "\\boxed{6}", "\\boxed{5}"], as_turns(script))
    found, dropped = split(keep_by_criteria(rows, criteria="all"))
    assert [int(r.scores["turn"]) for r in found] == [1, 7]
    same, empty = "same answer as before", "empty answer"
    assert [d.reason for d in dropped] == [same, same, empty, empty, same]
    assert rows[-1].notes["turns"]["rewards"] == [0, 0, 0, 0, 0, 0, 1], "what is not learned still happened"


def test_weights_by_hand(script: Script) -> None:
    high, low = math.exp(2.5), math.exp(-2.5)
    assert [round(w, 3) for w in reward_weights([1, 0, -1], 0.4, None)] == [12.182, 1.0, 0.082]
    assert reward_weights([0, 1], 0.4, None) == pytest.approx([1, high])
    assert reward_weights([0, 0], 0.4, None) == [1, 1], "wrong answers are imitated, by a twelfth of the weight"
    assert reward_weights([0, 1], 0.4, "rewards") == pytest.approx([math.exp(-1.25), math.exp(1.25)])
    assert reward_weights([1], 0.4, "rewards") == [1], "a problem that is always right teaches as much as any"
    assert reward_weights([0, 1], 0.4, "weights") == pytest.approx([(1 - high) / 2, (high - 1) / 2])
    assert math.fsum(reward_weights([1, 0, -1], 0.4, "weights")) == pytest.approx(0, abs=1e-12)
    assert reward_weights([-1], 0.4, None) == pytest.approx([low])
    for tau, said_ in ((0, "tau must be above 0"), (-1, "tau must"), (1e-5, "tau=1e-05 is too small")):
        with pytest.raises(UserError, match=said_):
            reward_weights([0, 1], tau, None)
    rows = turned(["\\boxed{6}", "\\boxed{5}"], as_turns(script))
    assert [r.weight for r in split(weigh_by_reward(rows, tau=0.4, centring=None))[0]] == pytest.approx([1, high])
    only = split(keep_by_criteria(rows, criteria="success"))[0]
    centred = split(weigh_by_reward(only, tau=0.4, centring="rewards"))[0]
    assert [r.weight for r in centred] == pytest.approx([math.exp(1.25)]), "the mean is over all attempts, kept or not"
    found, dropped = split(weigh_by_reward(rows, tau=0.4, centring="weights"))
    assert [r.weight for r in found] == pytest.approx([(high - 1) / 2])
    assert [(d.id, d.reason) for d in dropped] == [("a/turn0/1", "no positive weight")]


@pytest.mark.parametrize("window", [1, 2, None])
def test_the_control_has_the_same_rows_without_their_history(
    window: int | None, script: Script, tmp_path: Path
) -> None:
    node = script(lambda question, index: f"so \\boxed{{{index}}} {len(question)}")
    shots = [{"problem": "2?", "solution": "\\boxed{2}"}]
    dialogue = replace(DIALOGUE, shots=shots, window=window)
    players = {f"turn{i}": player(node) for i in range(3)}
    rows = split(collect([example("a"), example("b")], dialogue=dialogue, players=players, rewards=PAPER))[0]
    write_controls(tmp_path, rows, rows, Controls("weigh", ["history_removed"], 0))
    control = list(read_jsonl(tmp_path / "history_removed.jsonl"))
    first = {row.problem: row.prompt for row in rows if row.scores["turn"] == 1}
    assert len(rows) == 6 and [r.prompt for r in control] == [first[row.problem] for row in rows]
    assert [replace(c, prompt=row.prompt) for c, row in zip(control, rows, strict=True)] == rows


def test_settings_that_cannot_be_are_told_before_anything_is_paid_for(script: Script) -> None:
    engine = script({})
    dialogue = {"shots": [], "first": "{problem}", "feedback": "No.", "window": 2}
    stage = {"_target_": "curation.methods.rise.stages.collect", "dialogue": dialogue}
    for players, what in (
        ({}, r"players .* at least 1"),
        ({"one": player(engine, 4, temperature=0)}, "players.one.sampling: 4 samples at temperature 0 are one"),
    ):
        with pytest.raises(UserError, match=what):
            node = {**stage, "players": players, "rewards": {"right": 1.0, "wrong": 0.0, "none": 0.0}}
            check_stages({"turns": node}, {})
    with pytest.raises(UserError, match=r"players.one.n is not a setting of curation.methods.rise.stages.Player"):
        wrong = {"one": {**player(engine), "n": 3}}
        list(collect([], dialogue=DIALOGUE, players=wrong, rewards=PAPER))
    with pytest.raises(UserError, match="right must be the highest"):
        Rewards(0, 0, -1)
    with pytest.raises(UserError, match="tau must be above 0"):
        list(weigh_by_reward([], tau=0, centring=None))
    with pytest.raises(UserError, match=r"put curation\.methods\.rise\.stages\.collect before"):
        list(keep_by_criteria([example("a")], criteria="all"))


def rise_rows() -> list[Example]:
    """Rows of six problems, most with a second turn, as the stages make them."""
    dialogue = Dialogue(shots=[], first="{problem}", feedback="No. {problem}", window=None)
    rows = []
    for i in range(6):
        row, wrong = Example(str(i), chat(f"What is {i}+{i}?", "Be brief."), str(2 * i)), f"so \\boxed{{{i}}}"
        rewards = [0, 1] if i % 3 else [0, 0]
        for turn, text in enumerate([wrong, "so " * i + f"then \\boxed{{{2 * i}}}"]):
            prompt = dialogue.prompt(row, [wrong][:turn])
            notes = {"turns": {"turn": turn + 1, "rewards": rewards}}
            rows.append(replace(row, id=f"{i}/{turn}", prompt=prompt, completion=text, notes=notes))
    return split(weigh_by_reward(rows, tau=0.4, centring=None))[0]


def test_a_training_row_has_the_very_tokens_that_the_engine_was_given(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code trains under one template and samples under another."""
    import limo.engines.local as engine

    given: list[list[int]] = []

    def watched(tokenizer: Any, messages: Any) -> list[int]:
        given.append(prompt_ids(tokenizer, messages))
        return given[-1]

    monkeypatch.setattr(engine, "prompt_ids", watched)
    settings = {"model": str(tiny), "dtype": "float32", "batch_size": 2}
    node = {"_target_": "limo.engines.local.TransformersEngine", **settings}
    rows = [Example(str(i), chat(f"What is {i}+{i}?", "Be brief."), "99") for i in range(3)]
    players = {name: player(node, seed=4) for name in ("one", "two", "three")}
    shots = [{"problem": "1+1?", "solution": "\\boxed{2}"}]
    dialogue = Dialogue(shots=shots, first="{problem}", feedback="No. {problem}", window=2)
    kept, _ = split(collect(rows, dialogue=dialogue, players=players, rewards=PAPER))
    assert len(kept) == 9
    prepared = prepare(load_tokenizer(tiny), [replace(r, completion=r.completion or "x") for r in kept], 500)
    assert len(prepared.rendered) == 9
    learned = [r.input_ids[: r.labels.count(-100)] for r in prepared.rendered]
    assert sorted(learned) == sorted(given), "only the last answer is learned, after the prompt that was sampled from"


def test_the_loss_is_the_published_one_and_the_same_however_a_step_is_split(tiny: Path, tmp_path: Path) -> None:
    """Sum of w times the row's mean token loss, over the rows: 4x1 is 1x4, packed is padded. Ranks: test_ranks.py."""
    rows = rise_rows()
    curves = []
    batches = [{"args": {**ARGS, "per_device_train_batch_size": size}} for size in (4, 1)]
    for n, how in enumerate([*batches, {"pack_tokens": 250}]):
        folder = tmp_path / str(n)
        folder.mkdir()
        write_jsonl(folder / "rows.jsonl", rows)
        train(tiny, folder, weighting="rows", **how)  # type: ignore[arg-type]
        curves.append(curve(folder / "run"))
    assert all(other == pytest.approx(curves[0], rel=1e-4) for other in curves[1:])
    folder = tmp_path / "whole"
    folder.mkdir()
    write_jsonl(folder / "rows.jsonl", rows)
    whole = {**ARGS, "per_device_train_batch_size": 4, "max_steps": 1}
    train(tiny, folder, weighting="rows", global_batch=12, args=whole)
    model, prepared = load_model(tiny, "float32"), prepare(load_tokenizer(tiny), rows, 200)
    by_hand = 0.0
    for row, tokens in zip(prepared.rows, prepared.rendered, strict=True):
        ids, labels = torch.tensor([tokens.input_ids]), torch.tensor([tokens.labels])
        by_hand += row.weight * model(input_ids=ids, labels=labels).loss.item() / len(rows)
    assert curve(folder / "run")[0][0].item() == pytest.approx(by_hand, rel=1e-4)


def test_the_recipes_choices_fit() -> None:
    for change in (
        ("curate.stages.collect.players=${distillation}",),
        ("curate.stages.keep.criteria=success", "curate.stages.weigh.centring=rewards", "dialogue.window=null"),
    ):
        recipe = compose("recipe=rise", *change)
        bind(recipe["curate"], "curate")
        for where, node in nodes(recipe["curate"], "curate"):
            check_node(node, where)
