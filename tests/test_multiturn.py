"""Measures over turns by hand, the evaluation that makes them, and the loop around it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curation.methods.rise.improve import Command, improve
from curation.methods.rise.multiturn import evaluate_turns
from curation.methods.rise.turns import Dialogue
from eval.metrics import count_transitions, measure_turns, measures, tokens_per_problem
from eval.report.outcome import turns_section
from limo.engines.protocol import Sampling
from limo.errors import UserError
from limo.recipe import bind, check_node, compose, nodes
from limo.run import read_manifest
from tests.conftest import ROOT, Script, lines
from tests.test_docs import ALL, bare


def said(text: str) -> list[dict[str, Any]]:
    """`ab-` is three answers: the right one, a wrong one, none. An answer has 10 tokens, its prompt 5."""
    return [
        {"extracted": None if c == "-" else c, "verdict": "correct" if c == "a" else "wrong", "tokens": 10, "asked": 5}
        for c in text
    ]


def row(key: str, turns: str, samples: str) -> dict[str, Any]:
    return {"id": key, "turns": said(turns), "completions": said(samples)}


ROWS = [  # five measures with five values
    row("1", "aaabb", "aaabb"),
    row("2", "babbb", "baaac"),
    row("3", "bcaaa", "bcbbb"),
    row("4", "bbbbb", "bbaac"),
    row("5", "bcdea", "bbbbb"),
]


def test_each_measure_is_what_its_name_says() -> None:
    """A public reproduction has p1@t5 under the name of m5@t1, and pass@5 under that of m1@t5."""
    values = {name: [of(r) for r in ROWS] for name, of in measures(5).items()}
    assert values == {
        "m1@t1": [1, 0, 0, 0, 0],
        "m5@t1": [1, 1, 0, 0.5, 0],
        "m1@t5": [1, 0, 1, 0, 0.2],  # five different answers: each wins a fifth
        "p1@t5": [1, 1, 1, 0, 1],
        "p5@t1": [1, 1, 0, 1, 0],
    }
    assert list(measures(3)) == ["m1@t1", "m3@t1", "m1@t3", "p1@t3", "p3@t1"]


def test_everything_about_the_turns_of_a_model() -> None:
    found = measure_turns(ROWS, 200, 0)
    assert {name: v["mean"] for name, v in found["measures"].items()} == pytest.approx(
        {"m1@t1": 0.2, "m5@t1": 0.5, "m1@t5": 0.44, "p1@t5": 0.8, "p5@t1": 0.6}
    )
    assert all(v["low"] <= v["mean"] <= v["high"] and v["n"] == 5 for v in found["measures"].values())
    without, oracle, second = found["against"]
    assert (without["of"], without["minus"], without["mean"]) == ("m1@t5", "m5@t1", pytest.approx(-0.06))
    assert (oracle["of"], oracle["minus"], oracle["mean"]) == ("p1@t5", "p5@t1", pytest.approx(0.2))
    fresh = sum(c["verdict"] == "correct" for row in ROWS for c in row["completions"][1:]) / 4
    assert (second["of"], second["minus"]) == ("turn 2", "a fresh sample")
    assert second["mean"] == pytest.approx(0.4 - fresh / 5)
    curves = {key: [at[key]["mean"] for at in found["by_turn"]] for key in found["by_turn"][0]}
    assert curves["turn"] == pytest.approx([0.2, 0.4, 0.4, 0.2, 0.4])
    assert curves["p1@tk"] == pytest.approx([0.2, 0.4, 0.6, 0.6, 0.8])
    assert curves["m1@tk"][1] == pytest.approx((1 + 0.5) / 5) and curves["pk@t1"][4] == pytest.approx(0.6)
    assert found["transitions"][0] == {"wrong_right": 1, "right_wrong": 0}
    assert count_transitions(ROWS, 2) == {"wrong_right": 1, "right_wrong": 1}
    assert tokens_per_problem(ROWS) == {
        "samples": {"written": 50, "read": 25},
        "turns": {"written": 50, "read": 25},
    }
    unknown = [{**ROWS[0], "turns": [{**turn, "asked": None} for turn in ROWS[0]["turns"]]}]
    assert tokens_per_problem(unknown)["turns"] == {"written": 50, "read": None}


def settings(folder: Path, engine: dict[str, Any], **changed: Any) -> dict[str, Any]:
    pool = folder / "sums.jsonl"
    pool.write_text("".join(f'{{"problem": "problem {key}", "answer": "5"}}\n' for key in "abc"))
    return {
        "out": str(folder / "run"),
        "system": "",
        "models": {"m": "m"},
        "engine": engine,
        "benchmarks": [str(pool)],
        "sampling": Sampling(n=3, temperature=1.0, top_p=1.0, max_tokens=9, seed=0),
        "dialogue": Dialogue(shots=[], first="{problem}", feedback="wrong: {problem}", window=2),
        "compare": [],
        "resamples": 100,
        "seed": 0,
        **changed,
    }


def test_turns_go_on_after_a_right_answer_and_use_no_reference(
    tmp_path: Path, script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import limo.engines.protocol
    from limo.engines.protocol import Scripted

    prompts: list[list[str]] = []

    class Watched(Scripted):
        def __init__(self, *, model: str) -> None:
            super().__init__(self.answer, "watched", batch_size=2)

        def answer(self, question: str, index: int) -> str:
            if question.startswith("wrong"):
                return "\\boxed{6}" if question.endswith("a") else "\\boxed{5}"
            return "\\boxed{5}" if question.endswith("a") else f"\\boxed{{{index}}}"

        def _reply(self, request: Any, sampling: Any) -> Any:
            prompts.append([m["content"] for m in request.prompt])
            return super()._reply(request, sampling)

    monkeypatch.setattr(limo.engines.protocol, "Watched", Watched, raising=False)
    given = settings(tmp_path, {"_target_": "limo.engines.protocol.Watched"})
    summary = evaluate_turns(**given)
    written = lines(tmp_path / "run" / "eval" / "m" / "sums.jsonl")
    verdicts = [[turn["verdict"] for turn in line["turns"]] for line in written]
    assert verdicts == [["correct", "wrong", "wrong"], ["wrong", "correct", "correct"], ["wrong", "correct", "correct"]]
    assert [[c["extracted"] for c in line["completions"]] for line in written] == [["5"] * 3, *[["0", "1", "2"]] * 2]
    assert ["problem a", "\\boxed{5}", "wrong: problem a"] in prompts, "told that it is wrong when it is right"
    assert len(prompts) == 3 * 3 + 2 * 3, "the first turn is the first sample"
    found = summary["turns"]["models"]["m"]["sums"]
    assert found["measures"]["p1@t3"]["mean"] == 1 and found["measures"]["m1@t3"]["mean"] == pytest.approx(2 / 3)
    assert summary["accuracy"]["m"]["sums"]["mean"] == pytest.approx(1 / 3)
    out = capsys.readouterr().out
    assert "3 turns against 3 parallel samples" in out and "+2 -1" in out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Turn by turn" in page and page.count("<svg") >= 2 and "became right" in page
    asked = len(prompts)
    evaluate_turns(**given)
    assert len(prompts) == asked
    with pytest.raises(UserError, match=r"dialogue\.feedback"):
        evaluate_turns(**{**given, "dialogue": Dialogue(shots=[], first="{problem}", feedback="No.", window=2)})
    with pytest.raises(UserError, match="at least 2, not 1"):
        evaluate_turns(**{**given, "sampling": Sampling(n=1, temperature=1.0, top_p=1.0, max_tokens=9, seed=0)})


def test_a_report_without_turns_has_no_such_part() -> None:
    assert turns_section({"accuracy": {}}) == ""
    models = {"<b>": {"sums": measure_turns(ROWS, 50, 0)}}
    shown = turns_section({"turns": {"models": models, "differences": []}})
    assert shown.count("<svg") == 1 and "<b>" not in shown and "&lt;b&gt;" in shown
    assert "5 turns against 5 samples -6.0" in shown


def commands(typed: list[str], out: str, boost: Any, iterations: int, train_from: Any = "first") -> list[Command]:
    return improve(typed, out=out, student="base", boost=boost, iterations=iterations, train_from=train_from)


def test_the_commands_of_the_iterations() -> None:
    typed = ["--config-dir", "my", "recipe=x", "seed=1", "out=elsewhere", "student=other"]
    boost = {"curate": {"pool": {}}, "train": {"args": {"learning_rate": 1e-3}, "weighting": None}}
    listed = commands(typed, "r", boost, 2, "first")
    assert [(str(c.out), c.module) for c in listed] == [
        ("r/boost", "curation.run"),
        ("r/boost", "limo.train"),
        *[(f"r/iteration-{i}", module) for i in (1, 2) for module in ("curation.run", "limo.train", "eval.run")],
        ("r", "eval.run"),
    ]
    own = ("--config-dir", "my", "recipe=x", "seed=1")
    assert listed[0].overrides == (
        *(*own, "out='r/boost'", "student='base'"),
        *("curate.pool=${boost.curate.pool}", "train.args.learning_rate=${boost.train.args.learning_rate}"),
        "train.weighting=${boost.train.weighting}",
    )
    first = (*own, "out='r/iteration-1'", "student='r/boost/model'", "train.model='r/boost/model'")
    assert listed[2].overrides == listed[4].overrides == first
    again = (*own, "out='r/iteration-2'", "student='r/iteration-1/model'", "train.model='r/boost/model'")
    assert listed[5].overrides == again, "the last model answers, the first one is trained anew"
    assert listed[8].overrides[-3:] == (
        "~eval.models",
        "+eval.models={first: 'r/boost/model', iteration_1: 'r/iteration-1/model', iteration_2: 'r/iteration-2/model'}",
        "eval.compare=[[first,iteration_1],[iteration_1,iteration_2],[first,iteration_2]]",
    )
    on = commands(typed, "r", None, 2, "last")
    assert on[0].overrides[-3:] == ("out='r/iteration-1'", "student='base'", "train.model='base'")
    assert on[3].overrides[-1] == "train.model='r/iteration-1/model'"
    with pytest.raises(UserError, match="not 'eval'"):
        commands([], "r", {"eval": {"seed": 1}}, 1, "first")
    with pytest.raises(UserError, match="at least 1, not 0"):
        commands([], "r", None, 0)


def test_hydra_reads_the_commands_as_they_are_meant(tmp_path: Path) -> None:
    boost = compose("recipe=rise_demo")["boost"]
    folder = tmp_path / "a b, {c}='d"
    listed = commands(["recipe=rise_demo"], str(folder), boost, 1, "first")
    first = compose(*listed[0].overrides)
    for section in ("curate", "train"):
        bind(first[section], section)
        for where, node in nodes(first[section], section):
            check_node(node, where)
    assert first["curate"]["pool"] == boost["curate"]["pool"] and first["curate"]["stages"] == boost["curate"]["stages"]
    assert (first["out"], first["train"]["weighting"]) == (str(folder / "boost"), None)
    assert (first["train"]["args"]["learning_rate"], first["train"]["args"]["bf16"]) == (2e-4, True)
    assert first["train"]["data"] == str(folder / "boost" / "curated.jsonl")
    second = compose(*listed[3].overrides)
    assert second["train"]["model"] == second["curate"]["stages"]["collect"]["players"]["first"]["engine"]["model"]
    assert second["train"]["model"] == str(folder / "boost" / "model") and second["train"]["weighting"] == "rows"
    last = compose(*listed[-1].overrides)["eval"]
    assert last["models"] == {
        "first": str(folder / "boost" / "model"),
        "iteration_1": str(folder / "iteration-1" / "model"),
    }
    assert last["compare"] == [["first", "iteration_1"]] and last["out"] == str(folder)


IMPROVE = "curation.methods.rise.improve"
SMALL = (
    *("boost.curate.pool.sums.size=8", "boost.curate.stages.choose.k=6", "curate.pool.sums.size=8"),
    *("curate.stages.collect.players.first.sampling.max_tokens=8", "eval.benchmarks.new_seeds.size=4"),
    *("curate.stages.collect.players.second.sampling.max_tokens=8", "eval.sampling.max_tokens=6", "eval.sampling.n=2"),
    *("engine.dtype=float32", "train.args.bf16=false", "train.args.num_train_epochs=1", "eval.resamples=50"),
    *("train.args.warmup_steps=0", "train.args.logging_steps=1"),
)


@pytest.mark.slow
def test_iterations_go_on_after_a_kill_and_do_nothing_twice(
    tiny: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The README's command, killed while it trains; what the commands of its first iteration had done stays."""
    typed = next(
        bare(command) for _, command in ALL if "curation.methods.rise.improve recipe=rise_demo" in command
    ).split()
    arguments = [*typed[2:], *SMALL, f"runs={tmp_path}", f"student={tiny}", "improve.boost=null"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    folder = tmp_path / "rise_demo" / "iteration-1"
    begun = time.monotonic()
    while "train" not in read_manifest(folder):
        assert started.poll() is None and time.monotonic() - begun < 200
        time.sleep(0.02)
    child = next(p for p in Path("/proc").glob("[0-9]*") if _child_of(p, started.pid))
    started.send_signal(signal.SIGKILL)
    started.communicate()
    _gone(child)
    before = (folder / "manifest.json").stat().st_mtime_ns, (folder / "curated.jsonl").stat().st_mtime_ns
    curated = read_manifest(folder)["curate"]
    assert curated["finished"] and not read_manifest(folder)["train"]["finished"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "already curated" in done.stderr and (folder / "curated.jsonl").stat().st_mtime_ns == before[1]
    assert read_manifest(folder)["curate"] == curated
    manifest = read_manifest(tmp_path / "rise_demo")
    assert list(manifest) == ["eval/first/new_seeds", "eval/iteration_1/new_seeds"]
    drawn = [entry["results"]["found_in_ledger"] for entry in manifest.values()]
    assert drawn[0] >= 4 * 3 and all(entry["tokens"] == 0 for entry in manifest.values()), "the ledger had all of it"
    summary = json.loads((tmp_path / "rise_demo" / "eval" / "summary.json").read_text())
    assert {d["measure"] for d in summary["turns"]["differences"]} == {"m1@t1", "m2@t1", "m1@t2", "p1@t2", "p2@t1"}
    assert "Turn by turn" in (tmp_path / "rise_demo" / "report.html").read_text()


def _child_of(process: Path, parent: int) -> bool:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent
    except OSError:
        return False


def _gone(process: Path) -> None:
    """Wait until a killed command's own process has ended too."""
    begun = time.monotonic()
    while process.exists() and "\nState:\tZ" not in (process / "status").read_text():
        assert time.monotonic() - begun < 30, f"{process} lives on after its parent"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_command_that_fails_ends_the_iterations_with_its_own_line(
    tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run(
        "curation.methods.rise.improve",
        "recipe=rise_demo",
        f"runs={tmp_path}",
        "student=./nowhere",
        "improve.boost=null",
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: no such model folder './nowhere'. Train it first, or give a folder or a Hub name such as org/name"
    ]
    assert f"stopped at curation.run in {tmp_path}/rise_demo/iteration-1" in done.stderr
    late = run(
        "curation.methods.rise.improve",
        "recipe=rise_demo",
        f"runs={tmp_path}",
        "curate.stages.keep.criteria=al",
        "name=late",
    )
    assert "curate.stages.keep.criteria must be 'all'" in late.stderr and not (tmp_path / "late").exists()
    wrong = run(IMPROVE, "recipe=demo")
    assert wrong.returncode == 2 and "the recipe 'demo' has no section 'improve'" in wrong.stderr
