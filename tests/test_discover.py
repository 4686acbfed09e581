"""The search for losses: proposers, what is kept, what a kill costs, and no verdict by noise."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import limo.discover.search
from curation.stages.pairs import plant_slips
from eval.report.page import _search_section
from eval.report.search import discovered_section
from limo.data import Dropped, Example, chat, read_jsonl, write_jsonl
from limo.discover.archive import (
    CheckResult,
    Entry,
    Proposal,
    add_checks,
    add_proposal,
    keep_value,
    read_candidates,
    read_entry,
)
from limo.discover.candidate import LossRefused
from limo.discover.checks import check_text
from limo.discover.fitness import judge_answers, preference, read_share
from limo.discover.noise import measure_noise
from limo.discover.proposers import (
    Grammar,
    LanguageModel,
    describe_archive,
    find_expression,
    read_proposal,
    system_message,
)
from limo.discover.search import (
    SearchSettings,
    Split,
    check_search,
    discover,
    print_search,
    split_pairs,
    summarize_search,
    write_verdict,
)
from limo.engines.protocol import Completion, Sampling
from limo.engines.reply import code_of
from limo.errors import UserError, reported
from limo.processes import last_line, override, run_section_apart
from limo.recipe import compose, read_settings, run_section
from limo.training.preference import at_margin, examine_loss, load_loss
from tests.conftest import ROOT, Script, asked, lines
from tests.test_preference import prefer, settings

CODE = (
    "def smooth(chosen, rejected, reference_chosen, reference_rejected, beta):\n"
    "    x = beta * margin(chosen, rejected, reference_chosen, reference_rejected)\n"
    "    return logistic(x) + 0.1 * hinge(x)\n"
)
FLOOR = measure_noise([0.70, 0.76, 0.70])


def score(items: dict[str, float]) -> dict[str, Any]:
    return {"scores": {"preference": items}, "failed": "", "seconds": 1}


def fill(out: Path, fitness: dict[str, float | None]) -> list[Entry]:
    """A search's folder with these losses, some of them known; those without a fitness are refused."""
    known = ("dpo", "slic", "ipo", "kto_pair")
    for number, (name, value) in enumerate(fitness.items(), 1):
        loss = f"limo.training.preference.{name}" if name in known else ""
        entry = add_proposal(out, number, Proposal(name, loss, CODE))
        code = "" if loss else CODE
        add_checks(entry, CheckResult(name, code, "" if value is not None else "it is flat", slope=-1.0))
        if value is not None:
            keep_value(entry.folder / "seed-0" / "score.json", score({"1": value}))
    return read_candidates(out)


def test_a_text_in_a_file_is_a_loss(tmp_path: Path) -> None:
    def load(text: str) -> Any:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        return load_loss({"_target_": "limo.discover.candidate.from_file", "path": str(path)}, "train.loss")

    x = 0.5 * torch.tensor([0.3, -1.0])
    expected = torch.nn.functional.softplus(-x) + 0.1 * torch.relu(1 - x)
    assert torch.allclose(load(CODE)(at_margin(x / 0.5), 0.5), expected)
    decides = load(CODE.replace("return", "x = torch.where(x.mean() >= 0, x, 2 * x)\n    return"))
    for loss in (load(CODE), decides):  # vmap cannot follow a decision
        curve = examine_loss(loss, 0.05)
        assert curve.problems == [] and curve.start_slope == pytest.approx(-0.025 - 0.005, abs=1e-5)
    with pytest.raises(LossRefused, match=r"3.py: line 3"):
        load(CODE.replace("return", "if x.mean() > 0:\n        return hinge(x)\n    return"))(at_margin(x), 0.5)
    missing = {"_target_": "limo.discover.candidate.from_file", "path": "none.py"}
    with pytest.raises(UserError, match="the loss: cannot read"):
        load_loss(missing, "loss")(at_margin(x), 0.5)


def test_a_loss_that_is_refused_ends_a_training_with_an_exit_code_of_its_own(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So the search knows that the loss is at fault, and not a disk."""
    (tmp_path / "l.py").write_text(CODE.replace("return", "y = 1 / (beta - beta)\n    return"))
    node = {"_target_": "limo.discover.candidate.from_file", "path": str(tmp_path / "l.py")}
    with pytest.raises(SystemExit) as ended, reported():
        prefer(**settings(tiny, tmp_path, loss=node))
    assert ended.value.code == LossRefused.code == 3
    assert capsys.readouterr().err.endswith(f"error: {tmp_path / 'l.py'}: line 3: float division by zero\n")


def test_a_slip_is_all_that_differs() -> None:
    rows = [
        Example("a", chat("7 + 4 - 2 ="), "9", "7 + 4 = 11\n11 - 2 = 9\nThe answer is \\boxed{9}."),
        Example("b", chat("16 - 21 ="), "-5", "16 - 21 = -5\nThe answer is \\boxed{-5}."),
        Example("c", chat("?"), "x", "it is so"),
    ]
    found = list(plant_slips(rows, seed=0))
    assert found == list(plant_slips(rows, seed=0)) and found != list(plant_slips(rows, seed=3))
    assert isinstance(found[2], Dropped) and found[2].reason == "no result to change"
    for row in found[:2]:
        assert isinstance(row, Example) and row.completion != row.rejected
        ours, theirs = row.completion.split("\n"), row.rejected.split("\n")
        assert ours[:-2] == theirs[:-2], "what comes before the last result stays"
        wrong = theirs[-2].rpartition("= ")[2]
        assert theirs[-1] == f"The answer is \\boxed{{{wrong}}}." and abs(int(wrong) - int(row.answer)) in (1, 2, 10)


def test_pairs_are_split_by_prompt(tmp_path: Path) -> None:
    rows = [Example(f"{i}/{k}", chat(f"problem {i}"), "1", f"so {k}", "no") for i in range(20) for k in range(2)]
    pool = str(tmp_path / "all.jsonl")
    write_jsonl(pool, [*rows, Example("same", chat("x"), "1", "a", "a")])
    files = split_pairs(tmp_path / "pairs", pool, Split(train=8, held_out=7, fresh=10))
    parts = {name: list(read_jsonl(file)) for name, file in files.items()}
    assert {name: len(part) for name, part in parts.items()} == {"held_out": 8, "fresh": 10, "train": 8}
    prompts = [{row.prompt[0]["content"] for row in part} for part in parts.values()]
    assert not prompts[0] & prompts[1] and not prompts[0] & prompts[2] and not prompts[1] & prompts[2]
    assert lines(tmp_path / "pairs" / "dropped.jsonl")[0]["reason"] == "both sides are the same"
    rest = split_pairs(tmp_path / "rest", pool, Split(train=None, held_out=4, fresh=4))
    assert len(list(read_jsonl(rest["train"]))) == 32
    with pytest.raises(UserError, match="has 40 pairs, too few for "):
        split_pairs(tmp_path / "few", pool, Split(train=5, held_out=20, fresh=20))


def test_entries_are_read_from_their_folders(tmp_path: Path) -> None:
    found = fill(tmp_path, {"dpo": 0.7, "smooth": 0.8, "flat": None})
    kept = [(e.number, e.name, e.known, e.fitness, e.why_not) for e in found]
    assert kept == [(1, "dpo", True, 0.7, ""), (2, "smooth", False, 0.8, ""), (3, "flat", False, None, "it is flat")]
    files = [e.folder / "candidate.py" for e in found]
    assert [file.exists() for file in files] == [False, True, False], "a refused loss has no file"
    assert found[1].loss == {"_target_": "limo.discover.candidate.from_file", "path": str(files[1])}


def test_the_grammar_repeats_its_proposals_and_keeps_its_expressions(tmp_path: Path) -> None:
    archive = fill(tmp_path, {"dpo": 0.7, "slic": 0.6, "ipo": 0.5, "kto_pair": 0.4})
    assert all(find_expression(entry) for entry in archive)
    first = Grammar(seed=0).propose(5, archive, FLOOR)
    assert first == Grammar(seed=0).propose(5, archive, FLOOR) != Grammar(seed=1).propose(5, archive, FLOOR)
    assert first.name == "grown_5" and "def grown_5(" in first.code
    assert find_expression(add_proposal(tmp_path, 5, first)) == first.expression
    seen = [replace(archive[0], checks=check_text(first.code, 0.05)), *archive[1:]]
    assert Grammar(seed=0).propose(5, seen, FLOOR).expression != first.expression, (
        "what was tried is not proposed again"
    )


def reply(code: str = CODE, **more: object) -> str:
    return json.dumps({"thought": "softer", "name": "smooth", "code": code, **more})


def model(node: dict[str, Any], tries: int = 3, temperature: float = 1.0) -> LanguageModel:
    sampling = Sampling(n=1, temperature=temperature, top_p=1.0, max_tokens=2048, seed=0)
    return LanguageModel(engine=node, sampling=sampling, beta=0.05, tries=tries, shown=4)


def test_a_language_model_proposes(script: Script, tmp_path: Path) -> None:
    replies = ["I would try hinge.", reply(thought=1), f"Well:\n```json\n{reply()}\n```"]
    node = script(lambda question, index: replies[index])
    archive = fill(tmp_path, {"dpo": 0.72, "smooth": 0.71, "flat": None})
    found = model(node).propose(4, archive, FLOOR)
    assert (found.name, found.code, found.thought) == ("smooth", CODE, "softer")
    assert [r["why_not"] for r in found.replies] == [
        "it does not end with a JSON object of thought, name and code",
        "thought, name and code must be texts",
        "",
    ]
    said = asked(node)[0][0]
    assert "standard deviation of 0.0346" in said and f"less than {FLOOR.half(1):.4f} from it means nothing" in said
    assert "dpo: fitness 0.7200" in said and "flat: not trained with: it is flat" in said and CODE.strip() in said
    assert model(node).propose(4, archive, FLOOR) == found and len(asked(node)) == 3, "nothing is paid for twice"
    archive = fill(tmp_path / "many", {"dpo": 0.7, **{f"new_{i}": 0.5 + i / 100 for i in range(9)}, "last": 0.1})
    listed = re.findall(r"^(\w+): fitness", describe_archive(archive, FLOOR, 4), re.MULTILINE)
    assert listed == ["dpo", "new_7", "new_8", "last"], "the known, the best and the last"
    assert "beta is 0.05" in system_message(0.05) and "softplus" in system_message(0.05)
    assert "no reply could be read: thought" in model(node, tries=2).propose(4, archive, FLOOR).refused
    greedy = script(lambda question, index: "I would try hinge.")
    assert model(greedy, temperature=0.0).propose(4, archive, FLOOR).refused
    assert len(asked(greedy)) == 1, "at temperature 0 the same question is asked once"


def test_replies_without_a_loss() -> None:
    good = {"thought": "t", "name": "n", "code": "def n():\n    return {}"}
    text = json.dumps(good)
    for whole in (text, f"so: {text}", f"{{so}} ```json\n{text}\n```", text.replace("\\n", "\n")):
        assert read_proposal(Completion(whole, 1, "stop"))[0] == good, whole
    for wrong, why in (
        (Completion(text, 1, "length"), "cut off"),
        (Completion(text + " Done.", 1, "stop"), "does not end"),
        (Completion(json.dumps({**good, "more": 1}), 1, "stop"), "does not end"),
        (Completion(json.dumps({**good, "name": "../x"}), 1, "stop"), "short one"),
        (Completion("{" * 20_000, 1, "stop"), "does not end"),
        (Completion(text.replace("return", "\\ud800"), 1, "stop"), "surrogate"),
        (Completion("", 0, "refused", "too long"), "no reply: too long"),
    ):
        found, reason = read_proposal(wrong)
        assert found is None and why in reason


def demo(**changed: Any) -> SearchSettings:
    node = {key: value for key, value in compose("recipe=discover_demo")["discover"].items() if key != "_target_"}
    return read_settings(SearchSettings, {**node, **changed}, "discover")


def test_impossible_settings_are_refused() -> None:
    check_search(demo())
    confirm = compose("recipe=discover_demo")["discover"]["confirm"]
    for change, reason in (
        ({"baseline": "nope"}, "not in discover.known"),
        ({"baseline_seeds": [0]}, "at least two seeds"),
        ({"confirm": {**confirm, "seeds": [1]}}, "1 is in both"),
        ({"fitness": {}}, "must not be empty"),
        ({"known": {"dpo": "limo.training.preference.nope"}}, "'limo.training.preference.nope' does not exist"),
    ):
        with pytest.raises(UserError, match=reason):
            check_search(demo(**change))


def test_a_search_refuses_a_loss_that_it_has_had_and_resumes_for_free(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A language model proposes the same loss in other words, then a known one, then a new one."""
    again = CODE.replace("logistic(x) + 0.1 * hinge(x)", "2 * (F.softplus(-x) + hinge(x) / 10) + 3")
    known = CODE.replace("logistic(x) + 0.1 * hinge(x)", "-F.logsigmoid(x)")
    other = CODE.replace("0.1", "0.9")
    codes = iter([CODE, again, known, other])
    trained: list[str] = []

    def train_and_score(entry: Entry, seeds: Sequence[int], trial: Any) -> Entry:
        for seed in seeds:
            folder = entry.folder / f"{trial.prefix}{seed}"
            if not (folder / "score.json").exists():
                trained.append(entry.name)
                keep_value(folder / "score.json", score({str(i): float(i % (2 + seed) == 0) for i in range(8)}))
        return read_entry(entry.folder)

    monkeypatch.setattr(limo.discover.search, "train_and_score", train_and_score)
    monkeypatch.setattr(limo.discover.search, "check_candidate", check_text)
    rows = [Example(str(i), chat(f"problem {i}"), "1", "so", "no") for i in range(9)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    proposer = {
        "_target_": "limo.discover.proposers.LanguageModel",
        **{"engine": script(lambda question, index: reply(next(codes))), "beta": 0.05, "tries": 1, "shown": 4},
        "sampling": {"n": 1, "temperature": 1.0, "top_p": 1.0, "max_tokens": 2048, "seed": 0},
    }
    confirm = {**compose("recipe=discover_demo")["discover"]["confirm"], "finalists": 2}
    more = {"split": {"train": 3, "held_out": 3, "fresh": 3}, "proposer": proposer, "candidates": 1, "confirm": confirm}
    first = demo(out=str(tmp_path), data=str(tmp_path / "pairs.jsonl"), **more)
    assert [one["name"] for one in discover(first)["tried"]] == ["dpo", "slic", "ipo", "kto_pair", "smooth"]
    count = len(trained)
    found = discover(replace(first, candidates=2, proposals=70))
    assert [one["name"] for one in found["tried"][5:]] == ["smooth_8"] and trained[count:].count("smooth_8") == 3
    assert found["refused"] == [
        {"number": 6, "name": "smooth_6", "why": "it differs from smooth by a constant or a factor only"},
        {"number": 7, "name": "smooth_7", "why": "it differs from dpo by a constant or a factor only"},
    ]
    assert discover(replace(first, candidates=2, proposals=70)) == found and next(codes, None) is None
    with pytest.raises(UserError, match="made with other settings for 'discover'"):
        discover(replace(first, warmup=0.5))


def finished_search(out: Path, better: float) -> dict[str, Any]:
    """A finished search whose finalist is right on this fraction of 40 fresh pairs, DPO on half of them."""
    for entry in fill(out, {"dpo": 0.70, "slic": 0.60, "flat": None, "smooth": 0.95}):
        assert entry.checks
        if not entry.checks.refused:
            add_checks(entry, replace(entry.checks, warmup=0.3 if entry.name == "slic" else 0.0))
    dpo, finalist = read_candidates(out)[0], read_candidates(out)[3]
    for seed, value in ((1, 0.76), (2, 0.70)):
        keep_value(dpo.folder / f"seed-{seed}" / "score.json", score({"1": value}))
    for entry, fraction in ((dpo, 0.5), (finalist, better)):
        for seed in (7, 8):
            items = {str(i): float(i < 40 * fraction) for i in range(40)}
            keep_value(entry.folder / f"confirm-seed-{seed}" / "score.json", score(items))
    found = summarize_search(out, "dpo", FLOOR, 1, [dpo.number, finalist.number])
    keep_value(out / "discovered.json", found)
    return found


def test_the_result_of_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = finished_search(tmp_path / "good", 0.9)
    assert found["noise"]["half"] == pytest.approx(FLOOR.half(1))
    assert [(o["name"], o["above_noise"]) for o in found["tried"]] == [
        ("dpo", False),
        ("slic", False),
        ("smooth", FLOOR.mean + FLOOR.half(1) < 0.95),
    ]
    assert found["tried"][0]["fitness"] == pytest.approx(0.72), "over its seeds"
    assert found["refused"] == [{"number": 3, "name": "flat", "why": "it is flat"}]
    (gain,) = found["confirmed"]
    assert gain["beats"] and gain["mean"] == 0.9 and gain["difference"] == pytest.approx(0.4)
    assert found["baseline_confirmed"] == 0.5
    print_search(found)
    printed = capsys.readouterr().out
    assert "smooth of 1 finalists beats dpo by more than noise" in printed
    assert re.search(r"2 slic +0.6000 -0.1200  known, after a warm-up\n", printed)
    assert re.search(r"3 flat +refused: it is flat\n", printed)
    finished_search(tmp_path / "none", 0.55)
    page = discovered_section(tmp_path / "none")
    assert "None of 1 finalists beats dpo by more than noise on fresh data." in page
    assert page.count("<svg") == 1 and "it is flat" in page and "return logistic(x) + 0.1 * hinge(x)" in page
    assert _search_section(tmp_path / "nothing") == ""
    assert write_verdict([], "dpo").startswith("No new loss was trained")


def test_the_measure_of_pairs(tmp_path: Path) -> None:
    rows = [{"id": "a", "chosen": 1.0, "rejected": 0.5}, {"id": "b", "chosen": 0.0, "rejected": 0.0}]
    rows += [{"id": "c", "chosen": -2.0, "rejected": 0.0}]
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert preference(tmp_path, tmp_path) == {"a": 1.0, "b": 0.5, "c": 0.0}
    (tmp_path / "held_out.jsonl").write_text('{"id": "a", "chosen": null, "rejected": null}\n')
    with pytest.raises(LossRefused, match="no finite"):
        preference(tmp_path, tmp_path)


def verdicts(value: dict[str, object]) -> Callable[[str, int], str]:
    def verdict(question: str, index: int) -> str:
        return "Because. " + json.dumps({"code": question.partition("code ")[2][:9], **value})

    return verdict


def judge(script: Script, answer: Callable[[str, int], str], temperature: float) -> dict[str, Any]:
    sampling = Sampling(n=3, temperature=0.0, top_p=1.0, max_tokens=4, seed=0)
    engine = {"_target_": "limo.engines.local.TransformersEngine", "dtype": "float32", "batch_size": 3}
    longer = replace(sampling, max_tokens=100, temperature=temperature)
    answers: dict[str, Any] = {"engine": engine, "sampling": sampling, "limit": 2}
    return {**answers, "judge": script(answer), "judge_sampling": longer}


def test_a_judge_rates_answers(script: Script, tmp_path: Path, tiny: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    write_jsonl(pairs, [Example(f"p{i}", chat(f"problem {i}"), "1", "good", "bad") for i in range(3)])
    (tmp_path / "model").symlink_to(tiny)
    node = judge(script, verdicts({"score": 10}), 0.0)
    assert judge_answers(tmp_path, pairs, **node) == {"p0": 1.0, "p1": 1.0}
    assert len(asked(node["judge"])) == 2, "at temperature 0 the same question is asked once"
    node = judge(script, verdicts({"score": 4}), 1.0)
    assert judge_answers(tmp_path, pairs, **node)["p0"] == pytest.approx(1 / 3)
    assert judge_answers(tmp_path, pairs, **node) and len(asked(node["judge"])) == 6, "and nothing is paid for twice"
    with pytest.raises(UserError, match="no readable verdict on 'p0'"):
        judge_answers(tmp_path, pairs, **judge(script, verdicts({"score": 11}), 1.0))


def test_replies_without_a_verdict() -> None:
    code = code_of("who?", 'you {"code": "x00000000", "score": 10}')
    for text, value in (
        (f'So: {{"code": "{code}", "score": 1}}', 0.0),
        (f'Not {{a}}.\n```json\n{{"code": "{code}", "score": 10}}\n```', 1.0),
        (f'{{"code": "{code}", "score": 10}} I am sure.', None),
        ('{"code": "x00000000", "score": 10}', None),
        (f'{{"code": "{code}", "score": 11}}', None),
        (f'{{"code": "{code}", "score": true}}', None),
        (f'{{"code": "{code}", "score": [10]}}', None),
        (f'{{"code": "{code}", "better": "first"}}', None),
        (f'{{"code": "{code}", "score": 1, "score": 10}}', None),
        (f'{{"quoted": {{"code": "{code}", "score": 10}}}}', None),
        ("10", None),
    ):
        assert read_share(Completion(text, 9, "stop"), code) == value, text
    assert read_share(Completion(f'{{"code": "{code}", "score": 10}}', 9, "length"), code) is None


def test_a_section_runs_apart_as_it_is(tmp_path: Path) -> None:
    """Values reach the other process as they are, and its last line comes back."""
    given = {"a": "it's \\ ${name} {c}", "b": [None, True, 1e-5, "1e-5", "a b"], "c": 2}
    node = {"_target_": "tests.judging.fail_with", "given": given}
    with pytest.raises(UserError, match="ended with code 2: ") as failed:
        run_section_apart("eval.pick", "pick", node, tmp_path / "one")
    assert json.dumps(given) in str(failed.value)
    (tmp_path / "log.txt").write_text("one\nerror: two\n\n")
    assert last_line(tmp_path / "log.txt") == "two"


JUDGE = {
    "_target_": "limo.discover.fitness.judge_answers",
    "engine": {"_target_": "limo.engines.local.TransformersEngine", "dtype": "float32", "batch_size": 8},
    "sampling": {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 4, "seed": 0},
    "judge": {"_target_": "tests.judging.Judge"},
    "judge_sampling": {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 64, "seed": 0},
    "limit": 8,
}


def small(tiny: Path, runs: Path) -> list[str]:
    preference = {"_target_": "limo.discover.fitness.preference"}
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
        override("+discover.confirm.fitness", {"preference": preference, "judge": JUDGE}),
        "engine.dtype=float32",
    ]


@pytest.mark.slow
def test_a_search_that_is_killed_resumes(
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
    assert score.stat().st_mtime_ns == before, "what was scored is not repeated"
    found = json.loads((out / "discovered.json").read_text())
    assert found["noise"]["n"] == 2 and found["baseline"] == "dpo" and found["verdict"]
    assert [one["known"] for one in found["tried"]] == [True, False] and len(found["confirmed"]) == 1
    assert found["confirmed"][0]["low"] < found["confirmed"][0]["difference"] < found["confirmed"][0]["high"]
    new = found["tried"][1]
    folder = out / "candidates" / f"{new['number']:03d}-{new['name']}"
    assert (folder / "candidate.py").exists() and (folder / "seed-0" / "train_log.jsonl").exists()
    assert not (folder / "seed-0" / "model").exists() and (folder / "confirm-seed-7" / "model").exists()
    assert new["number"] == len(found["tried"]) + len(found["refused"])
    held_out = [row["id"] for row in lines(folder / "seed-0" / "held_out.jsonl")]
    fresh = [row["id"] for row in lines(folder / "confirm-seed-7" / "held_out.jsonl")]
    assert len(held_out) == len(fresh) == 8 and not set(held_out) & set(fresh)
    measured = json.loads((folder / "confirm-seed-7" / "score.json").read_text())["scores"]
    assert set(measured["judge"]) == set(fresh) and set(measured["judge"].values()) <= {i / 9 for i in range(10)}
    assert set(measured["preference"].values()) <= {0.0, 0.5, 1.0}
    mean = [sum(values.values()) / len(values) for values in measured.values()]
    assert found["confirmed"][0]["mean"] == pytest.approx(sum(mean) / 2), "the mean of the measures' means"
    assert found["verdict"] in done.stdout and "fresh data: " in done.stdout
    recipe = compose(*small(tiny, tmp_path))
    assert run_section(recipe, "discover") == found, "a finished search is reported, not repeated"
    with pytest.raises(UserError, match="made with other settings for 'discover'"):
        run_section(compose(*small(tiny, tmp_path), "train.args.beta=0.2"), "discover")
    run_section(recipe, "report")
    page = (out / "report.html").read_text()
    assert "id=discovered" in page and found["verdict"].split(" on ")[0] in page and page.count("<svg") >= 1
