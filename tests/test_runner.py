"""What a stage declares, the order of stages, and stages on local processes and on Ray, equal to one process."""

import gc
import importlib
import itertools
import pkgutil
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import curation
import curation.runner
from curation.evidence.flaws import FLAWS, plant_flaws
from curation.methods.lemma.errors import correct, find, inject, mix_error_free
from curation.methods.lemma.mistakes import Mistake
from curation.methods.mammoth2.harvest import extract_by_model, extract_by_rules
from curation.methods.mammoth2.refine import Bounds, refine, verify_pairs
from curation.methods.rise.stages import Rewards, collect, keep_by_criteria, weigh_by_reward
from curation.methods.rise.turns import Dialogue
from curation.runner import PerRow, RayData, apply
from curation.stage import About, about, check_stages, collecting, count, in_order, record, stage
from curation.stages.attempts import add_chains, import_rates, measure_difficulty
from curation.stages.chains import box_answers, check_steps, drop_marked, verify, write_out
from curation.stages.choose import chains, problems, subsample
from curation.stages.decontaminate import decontaminate, drop_overlap
from curation.stages.dedup import exact_dedup, near_dedup
from curation.stages.judge import judge_chains
from curation.stages.keep import keep_between
from curation.stages.pairs import plant_slips
from curation.stages.quality import check_quality
from curation.stages.score import count_tokens, score
from limo.data import Dropped, Example, Row, chat, write_jsonl
from limo.engines.protocol import Sampling, Scripted
from limo.engines.reply import read_last_object
from limo.errors import UserError
from limo.recipe import resolve, validate
from tests import growth
from tests.conftest import ROOT, curate_pool, example, lines

HERE = "tests.test_runner."
NODES: dict[str, Any] = {
    "plain": {"_target_": HERE + "plain"},
    "thirds": {"_target_": HERE + "drop_thirds", "reason": "third"},
    "box": {"_target_": "curation.stages.chains.box_answers"},
}
BEST = {"by": "value", "prefer": "highest", "at_most": 1, "seed": 0}
NODES["best_chain"] = {"_target_": "curation.stages.choose.chains", **BEST}


def plain(rows: Iterable[Example], /) -> Iterator[Row]:
    """An ordinary stage of a user's own, which nothing is known of: it needs rows."""
    listed = list(rows)
    assert listed, "it was called without rows"
    longest = max(listed, key=lambda row: len(row.completion))
    yield from (replace(row, scores={**row.scores, "value": float(row is longest)}) for row in listed)


@stage("row")
def drop_thirds(rows: Iterable[Example], /, *, reason: str) -> Iterator[Row]:
    """Splits a row, drops one and counts."""
    for row in rows:
        number = int(row.id.partition("/")[0])
        count("seen")
        record("reason", reason)
        if number < 0:
            raise UserError(f"the row {row.id} is below zero")
        yield replace(row, id=f"{row.id}/copy") if number % 3 else Dropped(row.id, "", reason, data=row.to_json())
        if number % 5 == 0:
            yield row


def numbered(folder: Path, size: int = 40) -> Path:
    rows = [example(f"{i % 17}/{i}", f"chain {i}", scores={"value": float(i * 7 % 10)}) for i in range(size)]
    write_jsonl(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def result(name: str, path: Path, on: RayData | None = None) -> tuple[list[Row], dict[str, Any]]:
    with collecting() as metrics:
        return list(apply(name, NODES[name], path, on)), metrics


def test_a_stage_says_what_it_is() -> None:
    assert about(chains).scope == "pool" and about(chains).reads == ("{by}",)
    assert about(plain) == About("pool", writes=None), "of an ordinary function nothing is known"


@pytest.mark.parametrize("name", ["thirds", "box", "best_chain", "plain"])
def test_processes_give_what_one_gives_metrics_included(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = numbered(tmp_path)
    one = result(name, path)
    if name == "thirds":
        assert one[1] == {"seen": 40, "reason": "third"} and len(one[0]) > 40
    monkeypatch.setattr(curation.runner, "BATCH", 7)
    monkeypatch.setenv("LIMO_CORES", "2")
    assert result(name, path) == one


@pytest.mark.slow
def test_ray_gives_what_one_process_gives_metrics_included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'limo-toolkit[dev]'")
    path = numbered(tmp_path)
    whole = {name: result(name, path) for name in ("thirds", "best_chain")}
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    ray.init(num_cpus=2, log_to_driver=False, logging_level="error", include_dashboard=False)
    try:
        for name, one in whole.items():
            assert result(name, path, RayData(parts=5, address=None)) == one, name
        write_jsonl(path, [example("1"), example("-2"), example("3")])
        with pytest.raises(UserError, match=r"^the row -2 is below zero$"):
            result("thirds", path, RayData(parts=3, address=None))
    finally:
        ray.shutdown()


def test_the_order_of_stages() -> None:
    turned = list(reversed(NODES))
    assert list(in_order(NODES, turned)) == turned
    assert in_order(NODES, None) == NODES
    for nodes, order, said in (
        (NODES, ["boxx", *NODES], r"curate\.order: there is no stage 'boxx'; did you mean 'box'"),
        (
            NODES,
            ["plain"],
            r"curate\.order lacks 'thirds', 'box', 'best_chain' of the stages: put it where it is to run",
        ),
        (
            NODES,
            ["plane", "third"],
            r"there is no stage 'plane'; did you mean 'plain'\?; there is no stage 'third'; did",
        ),
        (NODES, [*NODES, "box"], r"curate\.order: 'box' comes twice"),
        ({}, [], r"curate\.order is empty"),
    ):
        with pytest.raises(UserError, match=said):
            in_order(nodes, order)


SOURCE = {"p": {"_target_": "limo.sources.file", "path": "missing.jsonl"}}
CHOOSE = {"_target_": "curation.stages.choose.problems", "k": 3, "by": "tokens", "prefer": "highest", "seed": 0}
HELD = {"_target_": "curation.stages.decontaminate.decontaminate", "variants": "keep"}


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"held": {**HELD, "benchmarks": ["aime42"]}}, "curate.stages.held: .*aime42"),
        ({"choose": {**CHOOSE, "by": "tokns"}}, "choose: reads the score 'tokns', which no stage before it adds"),
        (
            {"choose": CHOOSE, "tokens": {"_target_": "curation.stages.score.count_tokens", "tokenizer": "t"}},
            "'tokens'",
        ),
        ({"choose": {**CHOOSE, "by": "random", "tokens": 900}}, "choose: reads the score 'tokens', which no stage"),
        ({"b": {"_target_": "curation.stages.keep.keep_between", "by": "tokens", "at_most": 9}}, "the score 'tokens'"),
        ({"choose": {**CHOOSE, "k": 1, "by": "random", "prefer": "low"}}, "choose.prefer must be"),
        ({"plain": NODES["plain"], "x": {**CHOOSE, "k": 0}}, r"curate\.stages\.x\.k must be greater than 0, not 0"),
        ({"x": {"_target_": HERE + "drop_thirds"}}, r"curate\.stages\.x\.reason is missing"),
    ],
)
def test_mistakes_are_reported_before_the_pool_is_read(stages: dict[str, Any], said: str, tmp_path: Path) -> None:
    """The pool's file is missing, which would be the error if it were read."""
    with pytest.raises(UserError, match=said):
        curate_pool(tmp_path, stages)


@pytest.mark.parametrize(
    ("target", "setting", "value", "said"),
    [
        ("curation.stages.choose.chains", "at_most", 0, "greater than 0"),
        ("curation.stages.decontaminate.drop_overlap", "run", 1, "greater than or equal to 2"),
        ("curation.evidence.flaws.plant_flaws", "shares", {"filler": 2}, "less than or equal to 1"),
        (
            "curation.stages.likelihood.add_fit",
            "scores",
            ["nlll"],
            "'nll', 'nll_inner', 'nll_local', 'rsr', 'ifd', 'hes' or 'early'",
        ),
        ("curation.methods.lemma.errors.inject", "per_problem", -1, "greater than or equal to 0"),
        ("curation.methods.lemma.errors.correct", "strategies", ["fixed"], "'fix' or 'restart'"),
        ("curation.methods.lemma.teach.Model", "tries", 0, "greater than 0"),
        ("curation.methods.mammoth2.harvest.extract_by_rules", "rules", ["faq"], "'faq heading'"),
        ("curation.evidence.controls.Controls", "kinds", ["shortest"], "'longest'"),
        ("curation.runner.PerRow", "seconds", 0, "greater than 0"),
        ("curation.evidence.verdict.Sizes", "final_blocks", 1, "greater than or equal to 2"),
        ("curation.cost.plan", "pilot", 0, "greater than 0"),
    ],
)
def test_a_setting_out_of_range_is_one_line_that_names_it(target: str, setting: str, value: Any, said: str) -> None:
    function = resolve(target, "x")
    is_class = isinstance(function, type) and not is_dataclass(function)
    hints = get_type_hints(function.__init__ if is_class else function, include_extras=True)
    with pytest.raises(UserError, match=rf"^x\.{setting}\S* must be .*{said}"):
        validate(hints[setting], value, f"x.{setting}")


def test_a_score_that_an_unknown_stage_or_source_could_bring_is_no_mistake() -> None:
    check_stages({"plain": NODES["plain"], "choose": CHOOSE}, SOURCE)
    check_stages({"choose": CHOOSE}, {"p": {"_target_": HERE + "plain"}})


def test_an_ordinary_stage_runs_where_the_order_puts_it(tmp_path: Path) -> None:
    pool = "\n".join(f'{{"id": "{i}", "problem": "p{i}", "answer": "1", "solution": "{"1" * i}"}}' for i in range(1, 5))
    (tmp_path / "pool.jsonl").write_text(pool)
    stages = {"choose": {**CHOOSE, "by": "value", "k": 1}, "mine": NODES["plain"]}
    funnel = curate_pool(tmp_path, stages, order=["mine", "choose"])
    assert [(line["stage"], line["out"], line["problems"]) for line in funnel] == [
        ("pool", 4, 4), ("mine", 4, 4), ("choose", 1, 1)
    ]  # fmt: skip
    assert [row["problem"] for row in lines(tmp_path / "run" / "curated.jsonl")] == ["p/4"]


def hang(text: str) -> None:
    """What a stage of a user's own may do on one row."""
    match text:
        case "loop":
            while True:
                pass
        case "swallow":
            while True:
                with suppress(Exception):
                    hang("loop")
        case "regex":
            re.match(r"(a+)+$", "a" * 40 + "b")
        case "sleep":
            time.sleep(3600)
        case "memory":
            "x" * 10**15


@stage("row")
def hang_by_row(rows: Iterable[Example], /) -> Iterator[Row]:
    for row in rows:
        count("begun")
        hang(row.completion)
        while row.completion == "endless":
            yield row
        yield row


@stage("row")
def hang_in_batches(rows: Iterable[Example], /) -> Iterator[Row]:
    listed = list(rows)
    for row in listed:
        hang(row.completion)
    yield from listed


@stage("row", samples=True)
def sample_slowly(rows: Iterable[Example], /) -> Iterator[Row]:
    for row in rows:
        begun = time.process_time()
        while time.process_time() < begun + 0.25:
            pass
        yield row


HANGS = ("loop", "swallow", "regex", "sleep", "memory", "endless")


@pytest.mark.parametrize("name", ["hang_by_row", "hang_in_batches", "sample_slowly"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_row_that_takes_too_long_is_dropped_and_no_other(
    name: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if processes == 2:
        monkeypatch.setattr(curation.runner, "BATCH", 4)
        monkeypatch.setattr(curation.runner, "FEW", 1)
        monkeypatch.setenv("LIMO_CORES", "2")
    texts = ["fine", *HANGS, "fine too"]
    rows = [example(f"p{at}/{n}", text) for n in range(2) for at, text in enumerate(texts)]
    rows = [row if n < 1 else replace(row, completion="fine") for n, row in ((int(row.id[-1]), row) for row in rows)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with collecting() as metrics:
        found = list(apply(name, {"_target_": HERE + name}, tmp_path / "rows.jsonl", None, PerRow(seconds=0.2)))
    assert [row.id for row in found] == [row.id for row in rows]
    hung = {"sample_slowly": (), "hang_by_row": HANGS}.get(name, HANGS[:-1])
    expected = [
        "" if row.completion not in hung
        else "takes too much memory" if row.completion == "memory" else "takes too long"
        for row in rows
    ]  # fmt: skip
    assert [row.reason if isinstance(row, Dropped) else "" for row in found] == expected
    expected_counts = {"begun": len(rows) - len(HANGS)} if name == "hang_by_row" else {}
    assert metrics == expected_counts, "of dropped rows none counts"


def test_a_row_that_is_too_large_is_dropped_where_it_appears(tmp_path: Path) -> None:
    pool = "\n".join(f'{{"id": "{i}", "problem": "p{i}", "answer": "1", "solution": "{"1" * i}"}}' for i in (9, 900))
    (tmp_path / "pool.jsonl").write_text(pool)
    funnel = curate_pool(tmp_path, {"box": NODES["box"]}, per_row={"characters": 800})
    assert [(line["out"], line["reasons"]) for line in funnel] == [(1, {"too large": 1}), (1, {})]


def scripted() -> Scripted:
    """An engine whose samples are in no ledger yet."""
    return Scripted(lambda question, index: f"1 + 1 = {index}\nIt is \\boxed{{{index}}}.", f"linear {next(made)}", 100)


made = itertools.count()
ENGINE = {"_target_": HERE + "scripted"}
ONCE: dict[str, Any] = {"n": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 99, "seed": 0}
SAMPLING, RULES = Sampling(**ONCE), {"_target_": "curation.methods.lemma.rules.RuleTeacher"}
SUMS = {"sums": {"_target_": "limo.sources.generate", "generator": "chain_sum", "size": 50, "seed": 1}}
TEACHERS = {"t": {"_target_": "curation.stages.attempts.Teacher", "engine": ENGINE, "sampling": ONCE}}
PLAYERS = {"p": {"_target_": "curation.methods.rise.stages.Player", "engine": ENGINE, "sampling": ONCE}}
EVEN: dict[str, Any] = {"length": 0.5, "verification": 0.5}
MIX: dict[str, Any] = {"k": 10, "student": 0.5, "fix": 0.5, "error_free": 0.5, "seed": 0}
WINDOW: dict[str, Any] = {"at_least": 0, "at_most": 2, "unknown": "keep", "early_stop": True, "suspect": 0.5}
REFINERS: dict[str, Any] = {"r": {"engine": ENGINE, "sampling": ONCE}}
STAGES: dict[Callable[..., Iterable[Row]], dict[str, Any]] = {
    exact_dedup: {},
    near_dedup: {},
    decontaminate: {"benchmarks": SUMS, "variants": "keep"},
    drop_overlap: {"benchmarks": SUMS, "run": 8},
    import_rates: {"by": "m", "n": 4, "rate": "rate"},
    write_out: {},
    verify: {"keep_unverified": False},
    check_steps: {"arithmetic": True},
    box_answers: {},
    drop_marked: {"ids": ["x"]},
    plant_slips: {"seed": 0},
    check_quality: {"languages": ["en"], "repeat_words": 10, "max_repeats": 3},
    plant_flaws: {"shares": dict.fromkeys(FLAWS, 0.5), "seed": 0},
    score: {"weights": EVEN, "words": ["en"], "scaling": "rank"},
    count_tokens: {"tokenizer": "the tiny model"},
    chains: BEST,
    problems: {"k": 10, "by": "value", "prefer": "highest", "seed": 0},
    subsample: {"k": 10, "seed": 0},
    keep_between: {"by": "value", "at_most": 0.6},
    keep_by_criteria: {"criteria": "better"},
    weigh_by_reward: {"tau": 1.0, "centring": "rewards"},
    mix_error_free: MIX,
    extract_by_rules: {"rules": ["definition"], "least": 1, "most": 99},
    verify_pairs: {"unverified": "keep"},
}
SAMPLED: dict[Callable[..., Iterable[Row]], dict[str, Any]] = {
    measure_difficulty: {"by": "m", "engine": ENGINE, "sampling": SAMPLING, "chains": "all", **WINDOW},
    add_chains: {"teachers": TEACHERS, "reference_solution": True},
    judge_chains: {"engine": ENGINE, "sampling": SAMPLING, "rubric": "reasoning"},
    collect: {"dialogue": Dialogue([], "{problem}", "again", 2), "players": PLAYERS, "rewards": Rewards(1, 0, -1)},
    find: {"engine": ENGINE, "sampling": SAMPLING, "teacher": RULES},
    inject: {"teacher": RULES, "per_problem": 2, "otherwise": "uniform", "seed": 0},
    correct: {"teacher": RULES, "strategies": ["fix", "restart"]},
    extract_by_model: {"engine": ENGINE, "sampling": SAMPLING, "piece": 99, "least": 1, "most": 99},
    refine: {"refiners": REFINERS, "bounds": Bounds(0.5, 2, 99), "otherwise": "keep"},
}
# Whose time is that of a model, a classifier, and processes that parse pages within limits of their own
NOT_TIMED = {"keep_true_steps", "add_fit", "reward_steps", "smooth", "recall", "read", "add_loss_drop", "add_less"}


def test_every_stage_is_timed_below() -> None:
    found = set()
    for info in pkgutil.walk_packages(curation.__path__, "curation."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(getattr(value, "about", None), About) and value.__module__ == info.name:
                found.add(value.__name__)
    assert found == {function.__name__ for function in STAGES | SAMPLED} | NOT_TIMED


def seconds(function: Callable[..., Iterable[Row]], rows: list[Example], settings: dict[str, Any]) -> float:
    """Processor time of a stage, the least of three."""
    gc.disable()
    times = []
    for _ in range(3):
        begun = time.process_time()
        list(function(rows, **settings))
        times.append(time.process_time() - begun)
    gc.enable()
    return min(times)


SLIP = Mistake("CA", 0, ("1 + 1 = 3\n", "It is 3."), "It is 2.", "p", "1 + 1 = 3", "2").to_notes()
NOTES: dict[str, Any] = {
    "rate": 0.5,
    "turns": {"turn": 2, "rewards": [0.0, 1.0], "right": True, "finish": "stop", "same_as": None},
    "page": {"title": "Sums", "url": "https://example.org", "words": 9},
    "stated": [["definition", "What is a sum?", "What is added up.", [0, 5, 6, 9]]],
    "errors": {"CA": 1},
}


@pytest.mark.parametrize("same", [False, True], ids=["problems", "one problem"])
@pytest.mark.parametrize("function", STAGES | SAMPLED, ids=lambda function: function.__name__)
def test_twice_the_rows_take_twice_the_time(function: Callable[..., Iterable[Row]], same: bool, tiny: Path) -> None:
    settings = {**(STAGES | SAMPLED)[function]}
    settings |= {"tokenizer": str(tiny)} if "tokenizer" in settings else {}
    erring = {"error": {**SLIP, "origin": "student", "other": ""}, "chain": "1 + 1 = 2", "strategy": "fix"}
    notes = NOTES | (erring if function in (mix_error_free, correct) else {})

    def rows(count: int) -> list[Example]:
        made = (f"{n} + 1 = {n + 1}. Wait, so\nthen {n} + 2 = {n + 2}\nIt is \\boxed{{{n}}}." for n in range(count))
        scores = {"value": 0.5}
        return [
            Example(str(n), chat(f"What is {n}?"), str(n), text, "", 1.0, "s", scores, notes, "p" if same else str(n))
            for n, text in enumerate(made)
        ]

    slow = function in SAMPLED or function in (check_steps, plant_flaws, verify_pairs, near_dedup)
    few = 40 if slow else 400
    seconds(function, rows(few), settings)  # what is read once in a process
    assert seconds(function, rows(4 * few), settings) < 6 * seconds(function, rows(few), settings) + 0.02


HOSTILE = (
    "<<1=1>>" * 14_000,
    " " * 100_000,
    "=" + "7" * 100_000,
    '{"a":' * 20_000,
    "$" * 100_000,
    "x" + "\n " * 50_000,
)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:7])
def test_a_long_row_takes_a_second(text: str) -> None:
    rows = [Example("1", chat(question), "5", text, scores={"value": 0.5}, notes=NOTES) for question in ("q", text)]

    def work() -> None:
        for function, settings in STAGES.items():
            if function is not count_tokens:
                list(function(rows, **settings))
        read_last_object(text)

    assert min(growth.seconds(work) for _ in range(2)) < 3


def test_a_plain_script_needs_no_main_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "print('once')\nfrom curation.parallel import spread\nprint(list(spread(len, ['a', 'bb', 'c'], processes=2)))"
    )
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.stdout.split("\n") == ["once", "[1, 2, 1]", ""], done.stderr
