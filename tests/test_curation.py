"""The stages, by values worked by hand."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.attempt import attempt, outcome, own_chains, window
from curation.chains import box_answers, verify
from curation.choose import top
from curation.pool import decontaminate, distinct, gather
from curation.run import curate
from curation.score import features, percentile_ranks, score, word_patterns
from limo.data import Dropped, Example, chat, read_jsonl, write_jsonl
from limo.engine import Completion, Sampling, Scripted
from limo.errors import UserError
from tests.conftest import lines

WEIGHTS = {"length": 0.30, "verification": 0.20, "exploration": 0.25, "connectives": 0.25}


def example(key: str, completion: str = "", answer: str = "5", **more: Any) -> Example:
    return Example(key, chat(f"problem {key.partition('/')[0]}"), answer, completion, source="s", **more)


def split(rows: Iterable[Example | Dropped]) -> tuple[list[Example], list[Dropped]]:
    listed = list(rows)
    return [r for r in listed if isinstance(r, Example)], [r for r in listed if isinstance(r, Dropped)]


def test_features_by_hand() -> None:
    found = features(
        "Wait, I should check this: 2+2 = 4. Therefore we may check again, perhaps.", word_patterns("published")
    )
    # 11 words (numbers are none), 14 pieces between spaces; check twice, perhaps once, therefore once
    assert found == {"length": 14.0, "verification": 2 / 11, "exploration": 1 / 11, "connectives": 1 / 11}


def test_a_word_counts_whole_and_a_phrase_once() -> None:
    counts = features("because sinceWhatever checkmate double-check it follows", word_patterns("en"))
    assert counts["verification"] == 1 / 7 and counts["connectives"] == 2 / 7


def test_the_published_words_are_in_the_longer_list() -> None:
    import yaml

    from curation.score import WORDS

    short, long = (yaml.safe_load((WORDS / f"{name}.yaml").read_text()) for name in ("published", "en"))
    assert all(set(short[k]) <= set(long[k]) for k in short)
    assert all(len(v) == len(set(v)) for v in long.values())


def test_ranks_share_ties_and_ignore_scale() -> None:
    assert percentile_ranks(np.array([3.0, 1.0, 3.0, 1000.0])).tolist() == [0.5, 0.0, 0.5, 1.0]
    assert percentile_ranks(np.array([7.0, 7.0])).tolist() == [0.5, 0.5]
    assert percentile_ranks(np.array([7.0])).tolist() == [0.5]


def test_score_by_hand() -> None:
    rows = [example("a", "check this"), example("b", "so it is therefore long"), example("c", "one")]
    scored, dropped = split(score(rows, weights=WEIGHTS, words="published"))
    assert not dropped
    # ranks: length 0.5, 1, 0; verification 1, .25, .25; exploration all .5; connectives .25, 1, .25
    expected = [0.15 + 0.2 + 0.125 + 0.0625, 0.3 + 0.05 + 0.125 + 0.25, 0 + 0.05 + 0.125 + 0.0625]
    assert [round(r.scores["score"], 6) for r in scored] == pytest.approx(expected)


def test_score_refuses_weights_that_do_not_sum_to_one_and_unknown_words() -> None:
    with pytest.raises(UserError, match="sum to 1"):
        list(score([], weights={**WEIGHTS, "length": 0.4}, words="en"))
    with pytest.raises(UserError, match="shipped are en, published"):
        list(score([example("a", "x")], weights=WEIGHTS, words="klingon"))


def test_top_keeps_one_chain_a_problem_and_says_why_the_rest_went() -> None:
    rows = [
        example("a", scores={"score": 0.9}),
        example("a/own0", scores={"score": 0.8}),
        example("b", scores={"score": 0.7}),
        example("c", scores={"score": 0.7}),
        example("d", scores={"score": 0.1}),
    ]
    kept, dropped = split(top(list(reversed(rows)), k=2, by="score"))
    assert [r.id for r in kept] == ["a", "b"]
    assert {d.id: d.reason for d in dropped} == {
        "a/own0": "better chain of the same problem",
        "c": "not among the best 2",
        "d": "not among the best 2",
    }
    assert next(d.detail for d in dropped if d.id == "a/own0") == "a has score 0.900, this one 0.800"


def test_top_respects_the_quota_of_a_source() -> None:
    rows = [replace(example(str(i), scores={"score": 1 - i / 10}), source="x" if i < 3 else "y") for i in range(5)]
    kept, dropped = split(top(rows, k=3, by="score", per_source={"x": 1}))
    assert [r.id for r in kept] == ["0", "3", "4"]
    assert {d.reason for d in dropped} == {"quota of its source is full"}
    pair = [example("a", scores={"score": 0.9}), replace(example("a/own0", scores={"score": 0.8}), source="y")]
    kept, _ = split(top(pair, k=3, by="score", per_source={"s": 0}))
    assert [r.id for r in kept] == ["a/own0"], "a chain that is not taken bars no rival"
    with pytest.raises(UserError, match=r"no score 'scor'; did you mean 'score'"):
        list(top(pair, k=1, by="scor"))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An engine node for recipes; its script: problem a is easy, b half, c hopeless, d cut off, e not readable."""
    replies = {
        "problem a": ["\\boxed{5}", "\\boxed{5}"],
        "problem b": ["so \\boxed{5}", "\\boxed{6}"],
        "problem c": ["\\boxed{6}", "no idea"],
        "problem d": [Completion("thinking", 9, "length")] * 2,
        "problem e": [Completion("", 0, "refused", "too long")] * 2,
    }
    import limo.engine

    monkeypatch.setattr(limo.engine, "script", lambda: Scripted(lambda q, i: replies[q][i], "curation"), raising=False)
    return {"_target_": "limo.engine.script"}


SAMPLING = Sampling(n=2, temperature=1.0, top_p=1.0, max_tokens=9, seed=0)


def test_attempts_are_counted_and_cut_ones_are_unknown(scripted: dict[str, Any]) -> None:
    kept, dropped = split(attempt([example(k) for k in "abcde"], engine=scripted, sampling=SAMPLING))
    tried = {r.id: r.notes["attempts"] for r in kept}
    assert tried["a"] == {"right": 2, "wrong": 0, "unsure": 0, "cut": 0}
    assert tried["b"] == {"right": 1, "wrong": 1, "unsure": 0, "cut": 0}
    assert tried["c"] == {"right": 0, "wrong": 2, "unsure": 0, "cut": 0}
    assert tried["d"] == {"right": 0, "wrong": 0, "unsure": 0, "cut": 2}
    assert {r.id: r.scores["pass_rate"] for r in kept} == {"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.0}
    assert [(d.id, d.reason, d.detail) for d in dropped] == [("e", "not sampled", "too long")]
    inside, outside = split(window(kept, at_least=1, at_most=1))
    assert [r.id for r in inside] == ["b"]
    assert {d.id: d.reason for d in outside} == {"a": "too easy", "c": "too hard", "d": "difficulty unknown"}


def test_a_cut_off_attempt_counts_only_with_an_explicit_answer() -> None:
    assert outcome(Completion("First, 5 + 7 = 12", 9, "length"), "12") == "cut"
    assert outcome(Completion("so \\boxed{12} and then", 9, "length"), "12") == "right"
    assert outcome(Completion("First, 5 + 7 = 12", 9, "stop"), "12") == "right"


def test_own_right_chains_become_rivals(scripted: dict[str, Any]) -> None:
    rows = [example("a", "official"), example("b"), example("c"), example("d", "official")]
    kept, dropped = split(own_chains(rows, engine=scripted, sampling=SAMPLING))
    # a's two attempts are the same text: one rival
    assert [(r.id, r.completion) for r in kept] == [
        ("a", "official"),
        ("a/own0", "\\boxed{5}"),
        ("b/own0", "so \\boxed{5}"),
        ("d", "official"),
    ]
    assert kept[0].problem == kept[1].problem != kept[2].problem
    assert [(d.id, d.reason) for d in dropped] == [("c", "no chain")]


def test_verify_keeps_right_chains_only() -> None:
    rows = [
        example("a", "\\boxed{5}"),
        example("b", "\\boxed{6}"),
        example("c", "hm"),
        example("d", " "),
        example("e", "\\boxed{5}", ""),
    ]
    kept, dropped = split(verify(rows))
    assert [r.id for r in kept] == ["a"]
    assert [(d.id, d.reason) for d in dropped] == [
        ("b", "wrong answer"),
        ("c", "wrong answer"),
        ("d", "no chain"),
        ("e", "cannot be graded"),
    ]


def test_every_chain_ends_in_a_box() -> None:
    texts = ["2+3=<<2+3=5>>5\n#### 5", "it is \\boxed{5}.", "it is 5"]
    kept, _ = split(box_answers([example(str(i), text) for i, text in enumerate(texts)]))
    assert [r.completion for r in kept] == [
        "2+3=5\nThe answer is \\boxed{5}.",
        "it is \\boxed{5}.",
        "it is 5\nThe answer is \\boxed{5}.",
    ]


def test_doubles_and_benchmark_problems_leave(tmp_path: Path) -> None:
    rows = [example("a"), replace(example("b"), prompt=chat(" Problem  A ")), example("c")]
    kept, dropped = split(distinct(rows))
    assert [r.id for r in kept] == ["a", "c"] and dropped[0].detail == "as a"
    rivals, dropped = split(distinct([example("a", "one"), replace(rows[1], completion="two"), example("a", "ONE")]))
    assert [(r.id, r.question) for r in rivals] == [("a", "problem a"), ("b", "problem a")], "another chain is a rival"
    assert rivals[0].problem == rivals[1].problem and dropped[0].detail == "as a"
    (tmp_path / "bench.jsonl").write_text('{"problem": "PROBLEM c", "answer": "1"}')
    node = {"_target_": "limo.sources.file", "path": str(tmp_path / "bench.jsonl")}
    kept, dropped = split(decontaminate(kept, benchmarks={"mine": node}, rule="latex", variants="drop"))
    assert [r.id for r in kept] == ["a"] and dropped[0].detail == "holds 100 % of mine/1"
    assert dropped[0].data["matched"] == {"id": "mine/1", "problem": "PROBLEM c", "contained": 1.0}


def test_a_benchmark_problem_with_other_numbers_leaves_or_stays(tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text('{"problem": "What is the sum of $12$ and $34$, doubled?", "answer": "92"}')
    rows = [
        replace(example("a"), prompt=chat("What is the sum of 12 and 34, doubled? Think.")),
        replace(example("b"), prompt=chat("What is the sum of 12 and 35, doubled?")),
        replace(example("c"), prompt=chat("What is the product of 12 and 34?")),
    ]
    held = [str(tmp_path / "bench.jsonl")]
    kept, dropped = split(decontaminate(rows, benchmarks=held, rule="latex", variants="drop"))
    assert [r.id for r in kept] == ["c"]
    assert [d.reason for d in dropped] == ["in a benchmark", "a benchmark problem with other numbers"]
    kept, _ = split(decontaminate(rows, benchmarks=held, rule="latex", variants="keep"))
    assert [r.id for r in kept] == ["b", "c"]
    with pytest.raises(UserError, match="there is no rule 'words-9'"):
        split(decontaminate(rows, benchmarks=held, rule="words-9", variants="keep"))
    with pytest.raises(UserError, match="must be drop or keep"):
        split(decontaminate(rows, benchmarks=held, rule="latex", variants="perhaps"))


def test_two_sources_with_one_id(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "x", "problem": "1", "answer": "1"}\n{"id": "x", "problem": "2", "answer": "2"}\n')
    node = {"_target_": "limo.sources.file", "path": str(path), "limit": 1}
    kept, dropped = split(gather({"one": node, "two": node}, "s"))
    assert [r.id for r in kept] == ["one/x", "two/x"] and not dropped, "ids are those of a source"
    kept, dropped = split(gather({"one": {**node, "limit": None}}, "s"))
    assert len(kept) == 1
    assert (dropped[0].reason, dropped[0].file, dropped[0].row) == ("duplicate id", str(path), 2)


def test_curate_as_a_function_and_going_on_after_a_failure(tmp_path: Path, scripted: dict[str, Any]) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text(
        "".join(f'{{"problem": "problem {k}", "answer": "5", "solution": "\\\\boxed{{5}} is {k}"}}\n' for k in "abcx")
        + "broken\n"
    )
    settings: dict[str, Any] = {
        "out": str(tmp_path / "run"),
        "system": "",
        "pool": {"mine": {"_target_": "limo.sources.file", "path": str(pool)}},
        "stages": {
            "attempt": {"_target_": "curation.attempt.attempt", "engine": scripted, "sampling": asdict(SAMPLING)},
            "choose": {"_target_": "curation.choose.top", "k": 2, "by": "pass_rate"},
        },
    }
    with pytest.raises(KeyError):  # the script knows no problem x: the engine fails midway
        curate(**settings)
    assert [p.name for p in sorted((tmp_path / "run" / "stages").iterdir())] == [
        "00-pool.done.json",
        "00-pool.dropped.jsonl",
        "00-pool.jsonl",
    ], "a failed stage must leave nothing that looks finished"
    pool.write_text(pool.read_text().replace("problem x", "problem d"))  # the pool is repaired and read anew
    funnel = curate(**settings)
    assert [(f["stage"], f["in"], f["out"]) for f in funnel] == [("pool", 5, 4), ("attempt", 4, 4), ("choose", 4, 2)]
    assert [r.id for r in read_jsonl(tmp_path / "run" / "curated.jsonl")] == ["mine/1", "mine/2"]
    with pytest.raises(UserError, match="has other content"):
        pool.write_text(pool.read_text().replace("problem d", "problem e"))
        curate(**settings)
    reasons = [(d["stage"], d["reason"], d["row"]) for d in lines(tmp_path / "run" / "dropped.jsonl")]
    assert reasons == [
        ("pool", "invalid JSON", 5),
        ("choose", "not among the best 2", 0),
        ("choose", "not among the best 2", 0),
    ]


def test_a_stage_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    write = tmp_path / "pool.jsonl"
    write.write_text('{"problem": "q", "answer": "5", "solution": "\\\\boxed{6}"}\n')
    with pytest.raises(UserError, match=r"'verify' leaves no row of 1 \(wrong answer: 1\)"):
        curate(
            out=str(tmp_path / "run"),
            system="",
            pool={"p": {"_target_": "limo.sources.file", "path": str(write)}},
            stages={"verify": {"_target_": "curation.chains.verify"}},
        )


def test_rows_survive_jsonl_and_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from limo.data import write_parquet

    rows = [example("ä", "line\n\u2028 😀", scores={"score": 0.5}, notes={"level": 3}, weight=2.0)]
    write_jsonl(tmp_path / "r.jsonl", rows)
    assert list(read_jsonl(tmp_path / "r.jsonl")) == rows
    write_parquet(tmp_path / "r.parquet", rows)
    back = pq.read_table(tmp_path / "r.parquet").to_pylist()[0]
    assert back["completion"] == [{"role": "assistant", "content": rows[0].completion}]
    assert (back["id"], back["score_score"], back["prompt"]) == ("ä", 0.5, list(rows[0].prompt))
    assert "rejected" not in back, "an empty column would tell TRL another format"
    write_parquet(tmp_path / "p.parquet", [replace(rows[0], rejected="worse")])
    pair = pq.read_table(tmp_path / "p.parquet").to_pylist()[0]
    assert [m["content"] for m in (*pair["chosen"], *pair["rejected"])] == [rows[0].completion, "worse"]
