"""The search for losses: what proposers say, what is kept, what a kill costs, and no verdict by noise."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from curation.pairs import by_score, from_errors, slipped
from eval.discovered import discovered_section
from limo.allowed import Refused
from limo.archive import Proposal, begin, entries, entry, keep, write_archive
from limo.candidate import from_file
from limo.data import Dropped, Example, chat, read_jsonl, write_jsonl
from limo.discover import Split, _check, _cut
from limo.discovered import concluded, show, verdict
from limo.duel import judged, pair_prompt, read_verdict
from limo.engine import Completion, Sampling
from limo.errors import UserError, reported
from limo.fitness import preference
from limo.lossplot import look_at, resolved
from limo.noise import Gain, noise
from limo.prefer import prefer
from limo.processes import last_line, override
from limo.proposers import Grammar, LanguageModel, read_reply, system, told, tree_of
from limo.recipe import compose, run_section
from tests.conftest import ROOT, Script, asked, build_tiny, lines
from tests.test_preference import settings

CODE = (
    "def smooth(chosen, rejected, reference_chosen, reference_rejected, beta):\n"
    "    x = beta * margin(chosen, rejected, reference_chosen, reference_rejected)\n"
    "    return logistic(x) + 0.1 * hinge(x)\n"
)
FLOOR = noise([0.70, 0.76, 0.70])


def tried(out: Path, fitness: dict[str, float | None], code: str = CODE) -> None:
    """A search's folder with these losses, the first of which are known."""
    known = ("dpo", "slic", "ipo", "kto_pair")
    for number, (name, value) in enumerate(fitness.items(), 1):
        loss = f"limo.preference.{name}" if name in known else ""
        one = begin(out, number, Proposal(name, loss, code))
        keep(one.folder / "report.json", {"refused": "" if value is not None else "is flat", "slope": -1.0})
        if value is not None:
            score = {"scores": {"preference": {"1": value}}, "failed": "", "seconds": 1}
            keep(one.folder / "seed-0" / "score.json", score)


def test_a_text_in_a_file_is_a_loss(tmp_path: Path) -> None:
    (tmp_path / "l.py").write_text(CODE)
    node = {"_target_": "limo.candidate.from_file", "path": str(tmp_path / "l.py")}
    loss = resolved(node, "train.loss")
    inputs = [torch.tensor([0.3, -1.0]), torch.zeros(2), torch.zeros(2), torch.zeros(2)]
    x = 0.5 * inputs[0]
    assert torch.allclose(loss(*inputs, 0.5), torch.nn.functional.softplus(-x) + 0.1 * torch.relu(1 - x))
    assert look_at(loss, 0.05).wrong == [] and look_at(loss, 0.05).at_start == pytest.approx(-0.025 - 0.005, abs=1e-5)
    (tmp_path / "decides.py").write_text(CODE.replace("return", "if x.mean() > 0:\n        return dpo(x)\n    return"))
    with pytest.raises(Refused, match="line 4"):
        from_file(*inputs, 0.5, path=str(tmp_path / "decides.py"))
    (tmp_path / "decides.py").write_text(
        CODE.replace("return", "if x.mean() > 0:\n        return hinge(x)\n    return")
    )
    decides = resolved({**node, "path": str(tmp_path / "decides.py")}, "train.loss")
    assert look_at(decides, 0.05).at_start == pytest.approx(-0.03, abs=1e-5), "vmap cannot follow a decision"
    with pytest.raises(UserError, match="cannot read the loss"):
        from_file(*inputs, 0.5, path=str(tmp_path / "none.py"))


def test_a_loss_that_is_refused_ends_a_training_with_a_code_of_its_own(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So the search knows that the loss is at fault, and not a disk."""
    (tmp_path / "l.py").write_text(CODE.replace("return", "y = 1 / (beta - beta)\n    return"))
    node = {"_target_": "limo.candidate.from_file", "path": str(tmp_path / "l.py")}
    with pytest.raises(SystemExit) as ended, reported():
        prefer(**settings(tiny, tmp_path, loss=node))
    assert ended.value.code == Refused.code == 3
    said = capsys.readouterr().err
    assert said.endswith(f"error: {tmp_path / 'l.py'}: line 3: float division by zero\n")


def test_a_slip_is_all_that_differs() -> None:
    rows = [
        Example("a", chat("7 + 4 - 2 ="), "9", "7 + 4 = 11\n11 - 2 = 9\nThe answer is \\boxed{9}."),
        Example("b", chat("16 - 21 ="), "-5", "16 - 21 = -5\nThe answer is \\boxed{-5}."),
        Example("c", chat("?"), "x", "it is so"),
    ]
    found = list(slipped(rows, seed=0))
    assert found == list(slipped(rows, seed=0)) and found != list(slipped(rows, seed=3))
    assert isinstance(found[2], Dropped) and found[2].reason == "no result to change"
    for row in found[:2]:
        assert isinstance(row, Example) and row.completion != row.rejected
        ours, theirs = row.completion.split("\n"), row.rejected.split("\n")
        assert ours[:-2] == theirs[:-2], "what comes before the last result stays"
        wrong = theirs[-2].rpartition("= ")[2]
        assert theirs[-1] == f"The answer is \\boxed{{{wrong}}}." and abs(int(wrong) - int(row.answer)) in (1, 2, 10)


def test_pairs_of_turns_and_of_errors() -> None:
    opening, turns = chat("p", "Be brief."), [{"role": "assistant", "content": "5"}, {"role": "user", "content": "No."}]
    rows = [
        Example("p/1", opening, "4", "so 5", scores={"reward": 0.1}),
        Example("p/2", (*opening, *turns), "4", "so 4", scores={"reward": 1.0}),  # type: ignore[arg-type]
        Example("p/3", opening, "4", "so 3", scores={"reward": 0.5}),
        Example("q/1", chat("q"), "4", "so 1", scores={"reward": 0.0}),
        Example("r/1", chat("r"), "4", "so 1"),
    ]
    found = list(by_score(rows, by="reward"))
    (pair,) = [row for row in found if isinstance(row, Example)]
    assert (pair.id, pair.prompt, pair.completion, pair.rejected) == ("p/2", opening, "so 4", "so 5")
    assert {row.id: row.reason for row in found if isinstance(row, Dropped)} == {
        "p/3": "neither best nor worst",
        "q/1": "no better and no worse chain",
        "r/1": "no score to pair by",
    }
    error = {"steps": ["6 - 5 = 1\n", "So 1."], "at": 0}
    row = Example("s", chat("6 + 5 ="), "11", "6 - 5 = 1", notes={"error": error, "chain": "6 + 5 = 11"})
    pair, without = from_errors([row, rows[0]])  # type: ignore[assignment]
    assert (pair.completion, pair.rejected) == ("6 + 5 = 11", "6 - 5 = 1\nSo 1.")
    assert isinstance(without, Dropped) and without.reason == "no error"


def test_pairs_are_cut_by_prompt(tmp_path: Path) -> None:
    rows = [Example(f"{i}/{k}", chat(f"problem {i}"), "1", f"so {k}", "no") for i in range(20) for k in range(2)]
    write_jsonl(tmp_path / "all.jsonl", [*rows, Example("same", chat("x"), "1", "a", "a")])
    files = _cut(tmp_path / "pairs", str(tmp_path / "all.jsonl"), Split(8, 7, 10))
    parts = {name: list(read_jsonl(file)) for name, file in files.items()}
    assert {name: len(part) for name, part in parts.items()} == {"held_out": 8, "fresh": 10, "train": 8}
    prompts = [{row.prompt[0]["content"] for row in part} for part in parts.values()]
    assert not prompts[0] & prompts[1] and not prompts[0] & prompts[2] and not prompts[1] & prompts[2]
    assert lines(tmp_path / "pairs" / "dropped.jsonl")[0]["reason"] == "both sides are the same"
    whole = _cut(tmp_path / "rest", str(tmp_path / "all.jsonl"), Split(None, 4, 4))
    assert len(list(read_jsonl(whole["train"]))) == 32
    with pytest.raises(UserError, match="has 40 pairs, too few for "):
        _cut(tmp_path / "few", str(tmp_path / "all.jsonl"), Split(5, 20, 20))


def test_the_archive_is_what_the_folders_say(tmp_path: Path) -> None:
    tried(tmp_path, {"dpo": 0.7, "smooth": 0.8, "flat": None})
    found = entries(tmp_path)
    assert [(e.number, e.name, e.known, e.fitness, e.why_not) for e in found] == [
        (1, "dpo", True, 0.7, ""),
        (2, "smooth", False, 0.8, ""),
        (3, "flat", False, None, "is flat"),
    ]
    assert found[0].loss == "limo.preference.dpo"
    assert (found[1].folder / "candidate.py").read_text() == CODE and not (found[0].folder / "candidate.py").exists()
    write_archive(tmp_path, found)
    assert [line["fitness"] for line in lines(tmp_path / "archive.jsonl")] == [0.7, 0.8, None]
    (found[1].folder / "candidate.py").unlink()  # killed between the two files
    assert entry(found[1].folder).folder.joinpath("candidate.py").read_text() == CODE


def test_the_grammar_proposes_the_same_again_and_learns_from_fitness(tmp_path: Path) -> None:
    tried(tmp_path, {"dpo": 0.7, "slic": 0.6, "ipo": 0.5, "kto_pair": 0.4})
    archive = entries(tmp_path)
    assert all(tree_of(one) is not None for one in archive)
    first = Grammar(seed=0).propose(5, archive, FLOOR)
    assert first == Grammar(seed=0).propose(5, archive, FLOOR) != Grammar(seed=1).propose(5, archive, FLOOR)
    assert first.name == "grown_5" and "def grown_5(" in first.code
    one = begin(tmp_path, 5, first)
    assert tree_of(entry(one.folder)) == first.tree, "a tree comes back from JSON as it was"
    assert Grammar(seed=0).propose(6, entries(tmp_path), FLOOR).tree != first.tree


def test_a_language_model_proposes(script: Script, tmp_path: Path) -> None:
    reply = json.dumps({"thought": "softer", "name": "smooth", "code": CODE})
    replies = ["I would try hinge.", '{"thought": 1, "name": "x", "code": ""}', f"Well:\n```json\n{reply}\n```"]
    node = script(lambda question, index: replies[index])
    sampling = Sampling(n=1, temperature=1.0, top_p=1.0, max_tokens=2048, seed=0)
    tried(tmp_path, {"dpo": 0.72, "smooth": 0.71, "flat": None})
    made = LanguageModel(engine=node, sampling=sampling, beta=0.05, tries=3, shown=4)
    found = made.propose(4, entries(tmp_path), FLOOR)
    assert (found.name, found.code, found.thought) == ("smooth", CODE, "softer")
    assert [r["why_not"] for r in found.replies] == [
        "it does not end with a JSON object of thought, name and code",
        "thought, name and code must be texts",
        "",
    ]
    said = asked(node)[0][0]
    assert "standard deviation of 0.0346" in said and f"less than {FLOOR.half(1):.4f} from it means nothing" in said
    assert "dpo: fitness 0.7200" in said and "flat: not trained with: is flat" in said and CODE.strip() in said
    assert made.propose(4, entries(tmp_path), FLOOR) == found and len(asked(node)) == 3, "nothing is paid for twice"
    gives_up = LanguageModel(engine=node, sampling=sampling, beta=0.05, tries=2, shown=4)
    assert "no reply could be read: thought" in gives_up.propose(4, entries(tmp_path), FLOOR).refused


def test_replies_that_are_none() -> None:
    good = {"thought": "t", "name": "n", "code": "def n():\n    return {}"}
    text = json.dumps(good)
    for reply in (text, f"so: {text}", f"```json\n{text}\n```", text.replace("\\n", "\n")):
        assert read_reply(Completion(reply, 1, "stop"))[0] == good, reply
    for reply, why in (
        (Completion(text, 1, "length"), "cut off"),
        (Completion(text + " Done.", 1, "stop"), "does not end"),
        (Completion(json.dumps({**good, "more": 1}), 1, "stop"), "does not end"),
        (Completion(json.dumps({**good, "name": "../x"}), 1, "stop"), "short one"),
        (Completion("{" * 20_000, 1, "stop"), "does not end"),
        (Completion(text.replace("return", "\\ud800"), 1, "stop"), "surrogate"),
        (Completion("", 0, "refused", "too long"), "no reply: too long"),
    ):
        found, said = read_reply(reply)
        assert found is None and why in said


def test_what_the_proposer_is_told_stays_short(tmp_path: Path) -> None:
    tried(tmp_path, {"dpo": 0.7, **{f"new_{i}": 0.5 + i / 100 for i in range(9)}, "last": 0.1})
    said = told(entries(tmp_path), FLOOR, 4)
    assert [n for n in ("dpo", "new_0", "new_6", "new_7", "new_8", "last") if f"{n}: fitness" in said] == [
        "dpo",
        "new_7",
        "new_8",
        "last",
    ]
    assert "beta is 0.05" in system(0.05) and "softplus" in system(0.05)


def test_settings_that_cannot_be() -> None:
    recipe = compose("recipe=discover_demo")["discover"]
    good = {k: v for k, v in recipe.items() if k not in ("_target_", "out")}
    _check(good)
    for change, said in (
        ({"baseline": "nope"}, "none of discover.known"),
        ({"baseline_seeds": [0]}, "two seeds at least"),
        ({"confirm": {**good["confirm"], "seeds": [2]}}, "2 is in both"),
        ({"fitness": {}}, "must not be empty"),
        ({"known": {"dpo": "limo.preference.nope"}}, "there is no 'limo.preference.nope'"),
        ({"fitness": {"a": {"_target_": "limo.fitness.task"}}}, "benchmarks is missing"),
    ):
        with pytest.raises(UserError, match=said):
            _check({**good, **change})


def searched(out: Path, better: float) -> dict[str, Any]:
    """A finished search whose finalist is right on this share of 40 fresh pairs, DPO on half of them."""
    tried(out, {"dpo": 0.70, "slic": 0.60, "flat": None, "smooth": 0.95})
    for one in entries(out):
        if one.report.get("refused"):
            continue
        keep(one.folder / "report.json", {**one.report, "warmup": 0.3 if one.name == "slic" else 0.0, "curve": {
            "rho": [-8.0, -1.0, 0.0, 1.0, 8.0], "value": [4.0, 1.5, 1.0, 0.6, 0.1], "slope": [-1.0] * 5}})  # fmt: skip
    dpo, finalist = entries(out)[0], entries(out)[3]
    for seed, value in ((1, 0.76), (2, 0.70)):
        keep(dpo.folder / f"seed-{seed}" / "score.json", score({"1": value}))
    for one, share in ((dpo, 0.5), (finalist, better)):
        for seed in (7, 8):
            items = {str(i): float(i < 40 * share) for i in range(40)}
            keep(one.folder / f"confirm-seed-{seed}" / "score.json", score(items))
    found = concluded(out, "dpo", FLOOR, 1, [one.number for one in (dpo, finalist)])
    keep(out / "discovered.json", found)
    return found


def score(items: dict[str, float]) -> dict[str, Any]:
    return {"scores": {"preference": items}, "failed": "", "seconds": 1}


def test_what_comes_of_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = searched(tmp_path, 0.9)
    assert found["noise"]["half"] == pytest.approx(FLOOR.half(1))
    assert [(o["name"], o["above_noise"]) for o in found["tried"]] == [
        ("dpo", False),
        ("slic", False),
        ("smooth", FLOOR.mean + FLOOR.half(1) < 0.95),
    ]
    assert found["tried"][0]["fitness"] == pytest.approx(0.72), "over its seeds"
    assert found["refused"] == [{"number": 3, "name": "flat", "why": "is flat"}]
    (gain,) = found["confirmed"]
    assert gain["beats"] and gain["mean"] == 0.9 and gain["difference"] == pytest.approx(0.4)
    assert found["baseline_confirmed"] == 0.5
    show(found)
    said = capsys.readouterr().out
    assert "smooth of 1 finalists beats dpo by more than noise" in said and "slic (known) after a warm-up" in said


def test_a_search_without_a_find_says_so_in_its_report(tmp_path: Path) -> None:
    searched(tmp_path, 0.55)
    page = discovered_section(tmp_path)
    assert "None of 1 finalists beats dpo by more than noise on fresh data." in page
    assert page.count("<svg") == 3 and "is flat" in page and "return logistic(x) + 0.1 * hinge(x)" in page
    assert discovered_section(tmp_path / "nothing") == ""


def test_a_verdict_says_when_there_is_nothing() -> None:
    def gain(name: str, low: float) -> Gain:
        return Gain(name, 0.8, 0.1, low, 0.2, 2)

    assert verdict([], "dpo").startswith("No new loss was trained")
    none = "None of 2 finalists beats dpo by more than noise on fresh data."
    assert verdict([gain("a", -0.1), gain("b", 0.0)], "dpo") == none
    assert verdict([gain("a", 0.01), gain("b", -0.1)], "dpo").startswith("a of 2 finalists beats dpo by more")


def test_measures(tmp_path: Path) -> None:
    rows = [{"id": "a", "chosen": 1.0, "rejected": 0.5}, {"id": "b", "chosen": 0.0, "rejected": 0.0}]
    rows += [{"id": "c", "chosen": -2.0, "rejected": 0.0}]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert preference(tmp_path, []) == {"a": 1.0, "b": 0.5, "c": 0.0}
    (tmp_path / "held_out.jsonl").write_text('{"id": "a", "chosen": null, "rejected": null}\n')
    with pytest.raises(Refused, match="no finite"):
        preference(tmp_path, [])
    (tmp_path / "log.txt").write_text("one\nerror: two\n\n")
    assert last_line(tmp_path / "log.txt") == "two"


def held_out(tmp_path: Path, tiny: Path) -> Path:
    """A training's folder as the judge's measure reads it."""
    rows = [Example(f"p{i}", chat(f"problem {i}"), "1", "good", "bad") for i in range(3)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    keep(tmp_path / "manifest.json", {"train": {"settings": {"eval_data": str(tmp_path / "pairs.jsonl")}}})
    (tmp_path / "model").symlink_to(tiny)
    return tmp_path


def verdicts(value: dict[str, object]) -> Callable[[str, int], str]:
    def reply(question: str, index: int) -> str:
        return "Because. " + json.dumps({"code": question.partition("code ")[2][:9], **value})

    return reply


def judge(script: Script, reply: Callable[[str, int], str], against: str | None) -> dict[str, Any]:
    sampling = Sampling(n=1, temperature=0.0, top_p=1.0, max_tokens=4, seed=0)
    engine = {"_target_": "limo.engine_transformers.TransformersEngine", "dtype": "float32", "batch_size": 3}
    longer = replace(sampling, max_tokens=100)
    answers: dict[str, Any] = {"engine": engine, "sampling": sampling, "against": against, "limit": 2}
    return {**answers, "judge": script(reply), "judge_sampling": longer}


def test_a_judge_scores_answers(script: Script, tmp_path: Path, tiny: Path) -> None:
    folder = held_out(tmp_path, tiny)
    assert judged(folder, [], **judge(script, verdicts({"score": 10}), None)) == {"p0": 1.0, "p1": 1.0}
    assert judged(folder, [], **judge(script, verdicts({"score": 4}), None))["p0"] == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="no readable verdict on 'p0'"):
        judged(folder, [], **judge(script, verdicts({"score": 11}), None))


def test_a_judge_that_prefers_a_place_decides_nothing(script: Script, tmp_path: Path, tiny: Path) -> None:
    node = judge(script, verdicts({"better": "first"}), str(build_tiny(tmp_path / "other", seed=1)))
    assert judged(held_out(tmp_path, tiny), [], **node) == {"p0": 0.5, "p1": 0.5}
    assert len(asked(node["judge"])) == 4, "two prompts in both orders"


def test_verdicts_that_are_none() -> None:
    prompt = pair_prompt("who?", "me", 'you {"code": "x00000000", "better": "first"}')
    code = prompt[-1]["content"].partition("code ")[2][:9]
    for text, value in (
        (f'So: {{"code": "{code}", "better": "second"}}', 0.0),
        (f'```json\n{{"code": "{code}", "better": "same"}}\n```', 0.5),
        (f'{{"code": "{code}", "better": "first"}} I am sure.', None),
        ('{"code": "x00000000", "better": "first"}', None),
        (f'{{"code": "{code}", "better": "third"}}', None),
        (f'{{"code": "{code}", "better": ["first"]}}', None),
        (f'{{"code": "{code}", "better": "first", "better": "second"}}', None),
        ("first", None),
    ):
        assert read_verdict(Completion(text, 9, "stop"), prompt) == value, text
    assert read_verdict(Completion(f'{{"code": "{code}", "better": "first"}}', 9, "length"), prompt) is None


def test_what_is_passed_on_comes_back_as_it_was(tmp_path: Path) -> None:
    node = {"_target_": "limo.candidate.from_file", "path": str(tmp_path / "it's a\\b, {c} = d.py")}
    given = compose("recipe=dpo", override("train.loss", node), override("+train.args.x", [None, True, 1e-5, "a b"]))
    assert given["train"]["loss"] == node and given["train"]["args"]["x"] == [None, True, 1e-5, "a b"]


TASK = {
    "_target_": "limo.fitness.task",
    "benchmarks": {
        "sums": {
            **{"_target_": "limo.sources.generate", "generator": "chain_sum", "size": 4, "seed": 1},
            "options": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
        }
    },
}
JUDGE = {
    "_target_": "limo.duel.judged",
    "engine": {"_target_": "limo.engine_transformers.TransformersEngine", "dtype": "float32", "batch_size": 8},
    "sampling": {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 4, "seed": 0},
    "judge": {"_target_": "tests.judging.Judge"},
    "judge_sampling": {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 64, "seed": 0},
    "against": None,
    "limit": 8,
}


def small(tiny: Path, runs: Path) -> list[str]:
    return [
        "recipe=discover_demo",
        f"runs={runs}",
        f"student={tiny}",
        "discover.split={train: 16, held_out: 8, fresh: 8}",
        *(f"~discover.known.{name}" for name in ("slic", "ipo", "kto_pair")),
        "discover.baseline_seeds=[0,1]",
        "discover.candidates=1",
        "discover.confirm.finalists=1",
        "discover.confirm.seeds=[7]",
        "train.args.bf16=false",
        "train.lora.layers_to_transform=null",
        "~discover.confirm.fitness",
        override("+discover.confirm.fitness", {"task": TASK, "judge": JUDGE}),
        "eval.engine.dtype=float32",
        "eval.sampling.max_tokens=4",
    ]


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_to_its_end(
    tiny: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    rows = [Example(str(i), chat(f"{i} + {i} ="), str(2 * i), f"so = {2 * i}", f"so = {2 * i + 1}") for i in range(40)]
    out = tmp_path / "discover_demo"
    write_jsonl(out / "curated.jsonl", rows)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "limo.discover", *small(tiny, tmp_path)]
    first = subprocess.Popen(call, env=environment, stderr=subprocess.DEVNULL)
    score = out / "candidates" / "001-dpo" / "seed-0" / "score.json"
    deadline = time.monotonic() + 120
    while not score.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = score.stat().st_mtime_ns
    done = run("limo.discover", *small(tiny, tmp_path))
    assert done.returncode == 0, done.stderr
    assert score.stat().st_mtime_ns == before, "what was scored is not done again"
    found = json.loads((out / "discovered.json").read_text())
    assert found["noise"]["n"] == 2 and found["baseline"] == "dpo" and found["verdict"]
    assert [one["known"] for one in found["tried"]] == [True, False] and len(found["confirmed"]) == 1
    assert found["confirmed"][0]["low"] < found["confirmed"][0]["difference"] < found["confirmed"][0]["high"]
    new = found["tried"][1]
    folder = out / "candidates" / f"{new['number']:03d}-{new['name']}"
    assert (folder / "candidate.py").exists() and (folder / "seed-0" / "train_log.jsonl").exists()
    assert not (folder / "seed-0" / "model").exists() and (folder / "confirm-seed-7" / "model").exists()
    assert len(lines(out / "archive.jsonl")) == new["number"] == len(found["tried"]) + len(found["refused"])
    held_out = [row["id"] for row in lines(folder / "seed-0" / "held_out.jsonl")]
    fresh = [row["id"] for row in lines(folder / "confirm-seed-7" / "held_out.jsonl")]
    assert len(held_out) == len(fresh) == 8 and not set(held_out) & set(fresh)
    measured = json.loads((folder / "confirm-seed-7" / "score.json").read_text())["scores"]
    assert set(measured["judge"]) == set(fresh) and set(measured["judge"].values()) <= {i / 9 for i in range(10)}
    assert len(measured["task"]) == 4 and set(measured["task"].values()) <= {0.0, 1.0}
    mean = [sum(values.values()) / len(values) for values in measured.values()]
    assert found["confirmed"][0]["mean"] == pytest.approx(sum(mean) / 2), "the mean of the measures' means"
    assert found["verdict"] in done.stdout and "finalists on fresh data" in done.stdout
    recipe = compose(*small(tiny, tmp_path))
    assert run_section(recipe, "discover") == found, "an ended search is told, not made again"
    with pytest.raises(UserError, match="made with other settings for 'discover'"):
        run_section(compose(*small(tiny, tmp_path), "train.args.beta=0.2"), "discover")
    run_section(recipe, "report")
    page = (out / "report.html").read_text()
    assert "id=discovered" in page and found["verdict"].split(" on ")[0] in page and page.count("<svg") >= 3
