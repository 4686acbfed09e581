"""What a stage declares, the order of stages, and stages on local processes and on Ray, equal to one process."""

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import curation.runner
from curation.controls import Controls
from curation.run import Limits, curate
from curation.runner import RayData, apply
from curation.stage import About, about, check_stages, in_order, stage
from curation.stage_metrics import count, record, take
from curation.stages.chains import box_answers, check_steps, verify, write_out
from curation.stages.choose import chains, problems, subsample
from curation.stages.flaws import FLAWS, plant_flaws
from curation.stages.pairs import pair_by_score, plant_slips
from curation.stages.quality import check_quality
from curation.stages.score import score
from limo.data import Dropped, Example, Row, chat, write_jsonl
from limo.engines.marked import read_last_object
from limo.errors import UserError
from tests.conftest import ROOT, example, lines

HERE = "tests.test_runner."
NODES: dict[str, Any] = {
    "plain": {"_target_": HERE + "plain"},
    "thirds": {"_target_": HERE + "drop_thirds", "reason": "third"},
    "best_chain": {
        "_target_": "curation.stages.choose.chains",
        "by": "value",
        "prefer": "highest",
        "at_most": 1,
        "seed": 0,
    },
    "box": {"_target_": "curation.stages.chains.box_answers"},
}


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
    take()
    return list(apply(name, NODES[name], path, on)), take()


def test_a_stage_says_what_it_is() -> None:
    assert about(chains).scope == "problem" and about(chains).reads == ("{by}",)
    assert about(plain) == About("pool", (), None), "of an ordinary function nothing is known"


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
    whole = {name: result(name, path) for name in NODES}
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
    with pytest.raises(UserError, match=r"on\.parts must be at least 1"):
        RayData(parts=0, address=None)


def test_the_order_of_stages() -> None:
    assert list(in_order(NODES, ["box", "plain", "best_chain", "thirds"])) == ["box", "plain", "best_chain", "thirds"]
    assert in_order(NODES, None) == NODES
    for order, said in (
        (["boxx", *NODES], r"curate\.order: there is no stage 'boxx'; did you mean 'box'"),
        (["plain"], r"curate\.order lacks the stage 'thirds': put it where it is to run, or remove it with ~curate"),
        ([*NODES, "box"], r"curate\.order: 'box' comes twice"),
    ):
        with pytest.raises(UserError, match=said):
            in_order(NODES, order)
    with pytest.raises(UserError, match=r"curate\.order is empty"):
        in_order({}, [])


SOURCE = {"p": {"_target_": "limo.sources.file", "path": "missing.jsonl"}}
CHOOSE = {"_target_": "curation.stages.choose.problems", "k": 3, "by": "tokens", "seed": 0}
HELD = {"_target_": "curation.stages.decontaminate.decontaminate", "rule": "latex", "variants": "keep"}


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"held": {**HELD, "benchmarks": ["aime42"]}}, "curate.stages.held: .*aime42"),
        ({"choose": {**CHOOSE, "by": "tokns"}}, "choose reads the score 'tokns', which no stage before it adds"),
        (
            {"choose": CHOOSE, "tokens": {"_target_": "curation.stages.score.count_tokens", "tokenizer": "t"}},
            "'tokens'",
        ),
        ({"plain": NODES["plain"], "x": {**CHOOSE, "k": 0}}, r"curate\.stages\.x: .* at least 1"),
        ({"x": {"_target_": HERE + "drop_thirds"}}, r"curate\.stages\.x\.reason is missing"),
    ],
)
def test_mistakes_are_reported_before_the_pool_is_read(stages: dict[str, Any], said: str, tmp_path: Path) -> None:
    """The pool's file is missing, which would be the error if it were read."""
    with pytest.raises(UserError, match=said):
        curate(
            out=str(tmp_path / "run"),
            system="",
            pool=SOURCE,
            stages=stages,
            controls=Controls(next(iter(stages)), [], 0),
            pairs=None,
            budget=Limits(None, None),
        )


def test_a_score_that_an_unknown_stage_or_source_could_bring_is_no_mistake() -> None:
    check_stages({"plain": NODES["plain"], "choose": CHOOSE}, SOURCE)
    check_stages({"choose": CHOOSE}, {"p": {"_target_": HERE + "plain"}})


def test_an_ordinary_stage_runs_where_the_order_puts_it(tmp_path: Path) -> None:
    pool = "\n".join(f'{{"id": "{i}", "problem": "p{i}", "answer": "1", "solution": "{"1" * i}"}}' for i in range(1, 5))
    (tmp_path / "pool.jsonl").write_text(pool)
    funnel = curate(
        out=str(tmp_path / "run"),
        system="",
        pool={"p": {"_target_": "limo.sources.file", "path": str(tmp_path / "pool.jsonl")}},
        stages={"choose": {**CHOOSE, "by": "value", "k": 1}, "mine": NODES["plain"]},
        order=["mine", "choose"],
        controls=Controls("choose", [], 0),
        pairs=None,
        budget=Limits(None, None),
    )
    assert [(line["stage"], line["out"], line["problems"]) for line in funnel] == [
        ("pool", 4, 4), ("mine", 4, 4), ("choose", 1, 1)
    ]  # fmt: skip
    assert [row["problem"] for row in lines(tmp_path / "run" / "curated.jsonl")] == ["p/4"]


EVEN: dict[str, Any] = {"length": 0.5, "verification": 0.5}
STAGES: dict[Callable[..., Iterable[Row]], dict[str, Any]] = {
    write_out: {},
    verify: {"keep_unverified": False},
    check_steps: {"arithmetic": True},
    box_answers: {},
    plant_slips: {"seed": 0},
    check_quality: {"languages": ["en"], "repeat_words": 10, "max_repeats": 3},
    plant_flaws: {"shares": dict.fromkeys(FLAWS, 0.5), "seed": 0},
    score: {"weights": EVEN, "words": ["en"], "scaling": "rank"},
    chains: {"by": "value", "prefer": "highest", "at_most": 1, "seed": 0},
    problems: {"k": 10, "by": "value", "prefer": "highest", "seed": 0},
    pair_by_score: {"by": "value"},
    subsample: {"k": 10, "seed": 0},
}


def seconds(function: Callable[..., Iterable[Row]], rows: list[Example]) -> float:
    """Processor time of a stage, the least of three."""
    gc.disable()
    times = []
    for _ in range(3):
        begun = time.process_time()
        list(function(rows, **STAGES[function]))
        times.append(time.process_time() - begun)
    gc.enable()
    return min(times)


@pytest.mark.parametrize("same", [False, True], ids=["problems", "one problem"])
@pytest.mark.parametrize("function", STAGES, ids=lambda function: function.__name__)
def test_twice_the_rows_take_twice_the_time(function: Callable[..., Iterable[Row]], same: bool) -> None:
    def rows(count: int) -> list[Example]:
        made = (f"{n} + 1 = {n + 1}. Wait, so\nthen {n} + 2 = {n + 2}\nIt is \\boxed{{{n}}}." for n in range(count))
        scores = {"value": 0.5}
        return [
            Example(str(n), chat(f"What is {n}?"), str(n), text, problem="p" if same else str(n), scores=scores)
            for n, text in enumerate(made)
        ]

    few = 40 if function in (check_steps, plant_flaws) else 400
    assert seconds(function, rows(4 * few)) < 6 * seconds(function, rows(few)) + 0.02


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
    row, begun = Example("1", chat("q"), "5", text, scores={"value": 0.5}), time.process_time()
    for function, settings in STAGES.items():
        list(function([row], **settings))
    read_last_object(text)
    assert time.process_time() - begun < 3


def test_a_plain_script_needs_no_main_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "print('once')\nfrom curation.parallel import spread\nprint(list(spread(len, ['a', 'bb', 'c'], processes=2)))"
    )
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.stdout.split("\n") == ["once", "[1, 2, 1]", ""], done.stderr
