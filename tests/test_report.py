"""The report of whole and of partial runs, as it is written. `test_viewer.py` looks at it in a browser."""

import base64
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from eval.report.curated import gather
from eval.report.funnel import funnel_section
from eval.report.listed import score_parts
from eval.report.outcome import outcome_section
from eval.report.page import run_facts, write_report
from eval.report.viewer import Packer, viewer_section
from eval.run import grade_rows, summarize
from limo.console import Table, clock, print_table, readable
from limo.data import Dropped, Example, chat, write_jsonl
from limo.engines.protocol import Completion
from limo.run import claim, read_entries, read_manifest
from tests.conftest import example

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def line(stage: str, rows_in: int, rows_out: int, **reasons: int) -> dict[str, Any]:
    return {"stage": stage, "in": rows_in, "out": rows_out, "reasons": reasons, "seconds": 1.0, "tokens": 0}


def curation(
    folder: Path,
    chosen: list[Example],
    dropped: list[Dropped],
    funnel: list[dict[str, Any]],
    weights: dict[str, float] | None = None,
) -> Path:
    """A run folder with a finished curation that left these rows."""
    stages = {"verify": {}, "score": {"weights": weights or {"length": 1.0}, "words": ["en"]}, "choose": {}}
    with claim(folder, "curate", {"stages": stages}) as step:
        write_jsonl(folder / "curated.jsonl", chosen)
        write_jsonl(folder / "dropped.jsonl", dropped)
        step.results = {"funnel": funnel}
    return folder


def left(row: Example, stage: str, reason: str) -> Dropped:
    return Dropped(row.id, stage, reason, "", data=row.to_json())


def visible(page: str) -> str:
    """A page without its scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def evaluation(folder: Path, question: str, level: int = 1) -> None:
    """Two models on one problem, of which the second solves it."""
    row = Example("a", chat(question), "2", notes={"level": level})
    more = Example("b", chat("other"), "2", notes={"level": level + 1})
    results = {
        m: {"set": grade_rows([row, more], [[Completion(f"{question} \\boxed{{{m}}}", 5, "stop")]] * 2)}
        for m in ("3", "2")
    }
    for model, by in results.items():
        write = folder / "eval" / model / "set.jsonl"
        write.parent.mkdir(parents=True)
        write.write_text("".join(json.dumps(r) + "\n" for r in by["set"]))
    (folder / "eval" / "summary.json").write_text(
        json.dumps(summarize({model: [by] for model, by in results.items()}, [["3", "2"]], 100, 0))
    )


def test_text_in_a_report_is_only_text(tmp_path: Path) -> None:
    row = Example(EVIL, chat(EVIL), EVIL, EVIL, source=EVIL, scores={"score": 0.5, "length": 3.0, "pass_rate": 0.0})
    other = Example("x", chat("?"), "1", "2", source="y")
    curation(tmp_path, [row], [left(other, "y", EVIL)], [line(EVIL, 2, 1, **{EVIL: 1})])
    evaluation(tmp_path, EVIL)
    page = write_report(tmp_path).read_text()
    seen = visible(page)
    assert "<script" not in seen and "<img" not in seen and "http://" not in seen.replace("http://www.w3.org", "")
    assert seen.count("&lt;script&gt;alert(1)") >= 6
    assert "<script>alert" not in page and "default-src 'none'" in page
    assert len(re.findall(r"<script>", page)) == len(re.findall("'sha256-", page)) == 2


@pytest.mark.parametrize("made", ["nothing", "no rows", "bare rows", "rows only", "training", "evaluation"])
def test_a_partial_run_has_a_report_of_what_there_is(tmp_path: Path, made: str) -> None:
    bare = [Example(f"p/{i}", chat(f"{i}?"), str(i), f"it is {10**i}") for i in range(3)]
    if made in ("nothing", "training"):
        with claim(tmp_path, "train", {}) as step:
            step.results = {"last_loss": None, "optimizer_bytes": 2_500_000_000, "devices": 2}
    if made == "training":
        entries = [{"loss": 2.0 - i, "step": i, "learning_rate": 1e-4, "tokens_per_second": 90.5} for i in range(2)]
        (tmp_path / "train_log.jsonl").write_text(
            "".join(json.dumps(e) + "\n" for e in [*entries, {"eval_loss": 1.5, "step": 1}])
        )
    if made == "no rows":
        curation(tmp_path, [], [left(bare[0], "verify", "wrong answer")], [line("pool", 1, 1), line("verify", 1, 0)])
    if made == "bare rows":
        curation(tmp_path, bare[:2], [left(bare[2], "choose", "not drawn")], [line("pool", 3, 3), line("choose", 3, 2)])
    if made == "rows only":
        write_jsonl(tmp_path / "curated.jsonl", bare)
    if made == "evaluation":
        evaluation(tmp_path, "1 + 1?")
    page = visible(write_report(tmp_path).read_text())
    sections = re.findall(r"<section id=(\w+)>", page)
    assert (
        sections
        == {
            "nothing": ["training", "manifest"],
            "no rows": ["funnel", "manifest"],
            "bare rows": ["funnel", "chosen", "chains", "manifest"],
            "rows only": ["chosen", "chains"],
            "training": ["training", "manifest"],
            "evaluation": ["outcome", "flips"],
        }[made]
    )
    if made == "evaluation":
        summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
        (tmp_path / "eval" / "summary.json").write_text(json.dumps({**summary, "differences": []}))
        page = visible(write_report(tmp_path).read_text())
        assert re.findall(r"<section id=(\w+)>", page) == ["outcome", "answers"], "no flips: the first answers"
    if made == "training":
        assert "<td>optimizer</td><td>2.5 GB</td>" in page and "last loss" not in page
        assert page.count("<svg") == 3 and "held out" in page and "tokens per second" in page
        assert readable("weights_bytes", 1_250_000) == ("weights", "1.2 MB")
        assert readable("tokens_per_second", 18945) == ("tokens per second", "18,945")


def test_a_table_has_three_renderings(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(("name", "n"), [("a|b [red]<i>", 1), (EVIL, None)], (1,), "[bold]Title")
    assert table.markdown().splitlines()[:3] == ["| name | n |", "| --- | ---: |", "| a\\|b [red]<i> | 1 |"]
    page = table.__html__()
    assert "<th class=number>n</th>" in page and "<td>a|b [red]&lt;i&gt;</td><td class=number>1</td>" in page
    assert EVIL not in page and "<td class=number></td>" in page
    print_table(table)
    shown = capsys.readouterr().out
    assert "None" not in shown + table.markdown() and "a|b [red]<i>" in shown and "[bold]Title" in shown, (
        "never read as markup"
    )


def test_completions_that_were_cut_off_are_warned_about(tmp_path: Path) -> None:
    row = Example("a", chat("?"), "2")
    results = {"<m>": {"set": grade_rows([row], [[Completion("it is", 5, "length")]])}}
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "summary.json").write_text(
        json.dumps(summarize({model: [by] for model, by in results.items()}, [], 100, 0))
    )
    page = write_report(tmp_path).read_text()
    assert "100 % of the completions of &lt;m&gt; on set were cut off: this measures max_tokens" in page


def test_accuracy_by_level_and_what_flipped(tmp_path: Path) -> None:
    evaluation(tmp_path, "1 + 1?")
    page = visible(write_report(tmp_path).read_text())
    assert "2 against 3: +100.0 points" in page and "set, 3 to 2: 2 now right" in page
    assert "By level, subject" in page and "<td>level 2</td>" in page
    assert "✗ wrong" in page and "✓ correct" in page


def test_chains_of_one_problem_are_no_growth(tmp_path: Path) -> None:
    # Three problems; solving makes five chains of the two that are left, verifying leaves one problem with two of them
    chains = [example(f"{p}/t/{i}", "it is 5") for p, i in (("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1))]
    dropped = [left(row, "verify", "wrong answer") for row in chains[2:]] + [left(chains[1], "choose", "better chain")]
    funnel = [line("pool", 3, 3), line("hard", 3, 2), line("solve", 2, 5), line("verify", 5, 2), line("choose", 2, 1)]
    for known, problems in zip(funnel, (3, 2, 2, 1, 1), strict=True):
        known["problems"] = problems
    found = gather(curation(tmp_path, [chains[0]], dropped, funnel))
    assert found
    drawn = funnel_section(found)
    assert "5 rows" in drawn and 'aria-label="Problems left after each stage, from 3 to 1"' in drawn
    rivals = found.rivals[chains[0].problem]
    assert [(entry["why"], entry["verdict"]) for entry, _ in rivals] == [
        ("verify: wrong answer", "wrong"),
        ("choose: better chain", ""),
    ]


def test_pages_are_no_problems(tmp_path: Path) -> None:
    funnel = [line("pool", 1, 1), line("pages", 1, 2), line("overlap", 2, 1), line("pairs", 1, 3), line("choose", 3, 2)]
    for known, problems in zip(funnel, (1, 2, 1, 3, 2), strict=True):
        known["problems"] = problems
    found = gather(curation(tmp_path, [example(name, "it is 5") for name in "ab"], [], funnel))
    assert found and found.problems == []
    assert 'aria-label="Rows left after each stage, from 1 to 2"' in funnel_section(found)


def test_a_score_is_split_by_feature() -> None:
    scores = {"length": 90.0, "length_rank": 0.5, "exploration": 0.1, "exploration_rank": 0.25, "score": 0.6}
    parts = score_parts(scores, {"length": 0.6, "exploration": -0.4, "judge": 0.0})
    # 0.6 x 0.5, and under a negative weight what lacks to 1: 0.4 x (1 - 0.25)
    assert [(p.name, round(p.share, 6)) for p in parts] == [("length", 0.3), ("exploration", 0.3)]


def test_texts_are_packed_in_blocks_and_one_that_does_not_fit_is_known() -> None:
    packer = Packer(room=400_000)
    rows = [{"text": text} for text in ("the word", "a😀b", "x" * 300_000, "é\ud800")]
    assert [packer.add(row) for row in rows] == [[0, 0], [0, 1], [0, 2], [1, 0]]
    packer.close()
    blocks = [json.loads(gzip.decompress(base64.b64decode(block))) for block in packer.blocks]
    assert blocks == [rows[:3], [{"text": "é\ufffd"}]] and packer.room == 400_000 - sum(map(len, packer.blocks))
    assert packer.fits({"text": "y" * 600_000}) and not packer.fits({"text": "y" * 800_000})


def test_what_does_not_fit_is_left_out_and_reported(tmp_path: Path) -> None:
    rng = random.Random(0)
    text = {i: " ".join(str(rng.random()) for _ in range(500)) for i in range(20)}
    chosen = [example(f"{i}/t/0", text[i]) for i in range(10)]
    others = [left(example(f"{i}/t/1", text[10 + i]), "verify", "wrong answer") for i in range(10)]
    found = gather(curation(tmp_path, chosen, others, [line("verify", 20, 10)]))
    assert found
    whole = viewer_section(tmp_path, found, 1_000_000)
    assert "without their text" not in whole
    some = viewer_section(tmp_path, found, 60_000)
    assert re.search(r"(\d+) of 10 other chains of these problems are listed without their text", some)
    assert "chosen chains" not in some and len(some) < 70_000 < len(whole)
    assert "10 of 10 chosen chains are listed without their text" in viewer_section(tmp_path, found, 1_000)


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    odd = example("a/t/0", "it is 5", scores={"score": float("nan"), "pass_rate": float("inf"), "length": 3.0})
    even = example("b/t/0", "it is 5", scores={"score": 0.5, "pass_rate": 0.5, "length": 2.0})
    curation(tmp_path, [odd, even], [], [line("pool", 2, 2)])
    (tmp_path / "train_log.jsonl").write_text('{"loss": null, "step": 1, "grad_norm": 1.0}\n{"loss": 2.0, "step": 2}\n')
    found = gather(tmp_path)
    assert found and list(found.kept.numbers["score"]) == [0.5] and list(found.kept.numbers["pass_rate"]) == [0.5]
    page = visible(write_report(tmp_path).read_text())
    assert "loss (nats per token) by optimizer step, from 2 to 2" in page and "NaN" not in page


def test_the_time_of_a_run_counts_the_trainings_of_its_control_sets(tmp_path: Path) -> None:
    evaluation(tmp_path, "What is 1 + 1?")
    before = sum(entry["seconds"] for entry in read_entries(tmp_path).values())
    for inner, seconds in (("random", 100.0), ("random/seed-1", 20.0)):
        with claim(tmp_path / inner, "train", {}) as step:
            step.results = {}
        entries = read_manifest(tmp_path / inner)
        entries["train"]["seconds"] = seconds
        (tmp_path / inner / "manifest.json").write_text(json.dumps(entries))
    assert sum(entry["seconds"] for entry in read_entries(tmp_path).values()) == pytest.approx(before + 120)
    assert dict(run_facts(tmp_path))["time"] == clock(before + 120)


@pytest.mark.parametrize(("each", "said"), [([0.4], False), ([0.3, 0.4, 0.5], True)])
def test_each_of_several_trainings_has_a_tick(each: list[float], said: bool) -> None:
    one = {"mean": 0.4, "low": 0.3, "high": 0.5, "n": 10, "by_training": each, "parts": {}, "unsure_listed": []}
    one |= {
        "truncated": 0.0,
        "unsure": 0.0,
        "tokens_per_answer": 3.0,
        "pass_at": {},
        "maj_at": {},
        "problems": 10,
        "completions": 10,
    }
    drawn = outcome_section({"accuracy": {"chosen": {"held_out": one}}, "differences": []})
    assert ("a tick is one training" in drawn) == said
