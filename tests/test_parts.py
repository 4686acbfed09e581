"""Stages over parts give what one process gives: the same rows in the same order, with the same reasons."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curation.parts import Job, Task, kind_of, over_parts
from limo.data import Example, Row, chat, write_jsonl
from limo.errors import UserError
from limo.recipe import bind
from tests.conftest import split
from tests.test_near import in_other_latex, in_other_space, renumbered

NODES: dict[str, dict[str, Any]] = {
    "distinct": {"_target_": "curation.pool.distinct"},
    "near": {"_target_": "curation.near.near", "jaccard": 0.6, "variants": None},
    "variants": {"_target_": "curation.near.near", "jaccard": 0.6, "variants": 2},
    "verify": {"_target_": "curation.chains.verify", "keep_unverified": False},
    "sound": {"_target_": "curation.sound.sound", "languages": ["en"], "loop_words": 5, "loop_times": 3},
    "score": {
        "_target_": "curation.score.score",
        "weights": {"length": 0.5, "verification": 0.2, "rate": -0.3},
        "words": ["en"],
        "scaling": "rank",
    },
    "minmax": {
        "_target_": "curation.score.score",
        "weights": {"length": 0.5, "connectives": 0.5},
        "words": ["en"],
        "scaling": "minmax",
    },
    "best": {"_target_": "curation.choose.best", "by": "rate"},
}


class Here:
    """Calls each task here, in another order, some of them twice: as an engine may."""

    def __init__(self, parts: int, seed: int = 0, per_row: tuple[str, ...] = ()) -> None:
        self.parts, self.per_row, self.draw = parts, per_row, random.Random(seed)
        self.calls = 0

    def run(self, task: Task, count: int) -> None:
        numbers = [*range(count), *(self.draw.randrange(count) for _ in range(2))]
        self.draw.shuffle(numbers)
        for number in numbers:
            task(number)
            self.calls += 1


def pool(data: Path | None = None, count: int = 150) -> list[Example]:
    """Problems with copies, chains, other answers, other numbers; from MATH where it is there."""
    draw = random.Random(3)
    if data:
        found = json.loads((data / "pools" / "math_train.json").read_text())[:count]
        texts = [(r["problem"], str(r["answer"])) for r in found]
    else:
        texts = [
            (f"A train needs {i % 9} hours for ${i * i} + {i}$ km; how fast is number {i}?", str(i % 7))
            for i in range(count)
        ]
    rows = [row(f"m/{i}", text, answer, draw) for i, (text, answer) in enumerate(texts)]
    for i, one in enumerate(draw.choices(rows, k=count)):
        text = draw.choice((in_other_latex, in_other_space, renumbered, lambda t, _: t, lambda t, _: t.upper()))
        answer = one.answer if draw.random() < 0.8 else "11"
        rows.append(row(f"x/{i}", text(one.question, draw), answer, draw))
    draw.shuffle(rows)
    return rows


def row(key: str, question: str, answer: str, draw: random.Random) -> Example:
    boxed = f"So \\boxed{{{answer}}}."
    chain = draw.choice(("", boxed, "Wait, check it: \\boxed{4} or " + "on and on it goes " * 9))
    tail = "perhaps " * draw.randrange(4) if chain else ""
    # Half a surrogate pair and a long number must come through the files between
    notes = {"odd": "half \ud835", "long": 12345678901234567890123} if draw.random() < 0.1 else {}
    return Example(key, chat(question), answer, chain + tail, source="s", scores={"rate": draw.random()}, notes=notes)


def texts(rows: list[Row]) -> list[Any]:
    return [r.to_json() for r in rows]


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("parts", [1, 3, 40])
def test_parts_give_what_one_process_gives(name: str, parts: int, tmp_path: Path) -> None:
    rows = pool()
    write_jsonl(tmp_path / "rows.jsonl", rows)
    machines, node = Here(parts, seed=parts), NODES[name]
    kind = kind_of(node, machines)
    found = list(over_parts(node, kind, tmp_path / "rows.jsonl", tmp_path / "work", machines))
    alone = list(bind(node, "here")(rows))
    assert texts(found) == texts(alone)
    dropped = split(alone)[1]
    assert name in ("score", "minmax") or len(dropped) > 10, "the rows give the stage something to do"
    assert machines.calls >= parts + 2 and not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", ["near", "variants"])
def test_near_over_parts_on_real_problems(name: str, data: Path, tmp_path: Path) -> None:
    rows = pool(data, 600)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    found = list(over_parts(NODES[name], "keyed", tmp_path / "rows.jsonl", tmp_path / "work", Here(7)))
    alone = list(bind(NODES[name], "here")(rows))
    assert texts(found) == texts(alone)
    assert {r.reason for r in split(alone)[1]} >= {"same problem"}


def test_decontaminate_over_parts_makes_its_index_once(data: Path, tmp_path: Path) -> None:
    from curation.pool import _index

    held_out = str(data / "benchmarks" / "amc23.jsonl")
    node = {
        "_target_": "curation.pool.decontaminate",
        "benchmarks": [held_out],
        "rule": "latex",
        "variants": "drop",
    }
    leaked = [json.loads(line)["problem"] for line in Path(held_out).read_text().splitlines()[:5]]
    rows = pool(data, 60) + [replace(pool()[0], id=f"leak/{i}", prompt=chat(text)) for i, text in enumerate(leaked)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    _index.cache_clear()
    found = list(over_parts(node, "per_row", tmp_path / "rows.jsonl", tmp_path / "work", Here(6)))
    assert _index.cache_info().misses == 1
    assert texts(found) == texts(list(bind(node, "here")(rows)))
    assert {r.id for r in split(found)[1]} >= {f"leak/{i}" for i in range(5)}


def test_a_file_is_cut_between_rows(tmp_path: Path) -> None:
    rows = pool(count=20)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    for parts in (1, 2, 7, 39, 200):
        job = Job({}, tmp_path / "rows.jsonl", tmp_path, parts)
        assert [r.id for part in range(parts) for r in job.part(part)] == [r.id for r in rows]


def test_a_stopped_step_goes_on_with_the_parts_that_are_missing(tmp_path: Path) -> None:
    class Stops(Here):
        def run(self, task: Task, count: int) -> None:
            for number in range(count // 2):
                task(number)
            raise KeyboardInterrupt

    rows = pool(count=30)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        list(over_parts(NODES["verify"], "per_row", tmp_path / "rows.jsonl", work, Stops(8)))
    before = {path.name: path.stat().st_mtime_ns for path in (work / "out").iterdir()}
    assert len(before) == 4
    given = over_parts(NODES["verify"], "per_row", tmp_path / "rows.jsonl", work, Here(8))
    first = next(given)
    assert {p.name: p.stat().st_mtime_ns for p in (work / "out").iterdir() if p.name in before} == before
    assert texts([first, *given]) == texts(list(bind(NODES["verify"], "here")(rows)))


def test_which_stages_are_spread() -> None:
    mine = {"_target_": "my.stage"}
    assert kind_of(mine, Here(2)) == "" and kind_of(mine, Here(2, per_row=("my.stage",))) == "per_row"
    assert [kind_of(node, Here(2)) for node in NODES.values()] == [
        *("keyed", "keyed", "keyed", "per_row", "per_row", "scored", "scored", "keyed")
    ]
    assert kind_of({"_target_": "curation.choose.top"}, Here(2)) == ""


def test_a_mistake_in_a_stage_is_told_as_in_one_process(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", pool(count=5))
    node = {**NODES["score"], "weights": {"length": 0.5, "reward": 0.5}}
    with pytest.raises(UserError, match="has no 'reward'"):
        list(over_parts(node, "scored", tmp_path / "rows.jsonl", tmp_path / "work", Here(2)))
