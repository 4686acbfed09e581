"""The stages, by values worked by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.run import read_pool
from curation.stage import collecting
from curation.stages.chains import box_answers, verify
from curation.stages.choose import subsample
from curation.stages.decontaminate import decontaminate
from curation.stages.dedup import exact_dedup
from curation.stages.score import count_tokens, percentile_ranks, score, z_scores
from curation.why import tell_history
from eval.words import COUNTED, FOLDER, features, word_lists
from limo.data import Example, chat, read_jsonl, write_jsonl
from limo.errors import UserError
from limo.run import lock_run
from tests.conftest import Script, curate_pool, example, lines, split

ATTEMPT = {
    "_target_": "curation.stages.attempts.measure_difficulty",
    "by": "m",
    "sampling": {"n": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 9, "seed": 0},
    "at_least": 0,
    "at_most": 2,
    "unknown": "keep",
    "early_stop": False,
    "suspect": None,
}
CHOOSE = {"_target_": "curation.stages.choose.problems", "k": 2, "by": "pass_rate", "prefer": "highest", "seed": 0}
REPLIES = {
    "problem a": ["\\boxed{5}", "\\boxed{5}"],
    "problem b": ["so \\boxed{5}", "\\boxed{6}"],
    "problem c": ["\\boxed{6}", "no idea"],
    "problem d": ["\\boxed{7}", "\\boxed{6}"],
}
WEIGHTS = {"length": 0.30, "verification": 0.20, "exploration": 0.25, "connectives": 0.25}


def test_features_by_hand() -> None:
    found = features(
        "Wait, I should check this: 2+2 = 4. Therefore we may check again, perhaps.", word_lists(("published",))
    )
    # 11 words (numbers are none), 14 pieces between spaces; check twice, perhaps once, therefore once
    assert found == (14.0, 2 / 11, 1 / 11, 1 / 11)


def test_a_word_counts_whole_and_a_phrase_once() -> None:
    length, verification, _, connectives = features(
        "because sinceWhatever checkmate double-check it follows", word_lists(("en",))
    )
    assert (length, verification, connectives) == (6.0, 1 / 7, 2 / 7)


def test_chinese_has_no_spaces_and_lists_add_up() -> None:
    # 8 signs and 2 words; 检查 and 验证 verify, 因此 connects; "check" only with the English list
    text = "检查 验证 因此 x = 5 所以 check it"
    assert features(text, word_lists(("zh",))) == (8 + 9, 2 / 11, 0.0, 2 / 11)
    assert features(text, word_lists(("en", "zh"))) == (8 + 9, 3 / 11, 0.0, 2 / 11)


def test_the_shipped_lists_are_whole() -> None:
    import yaml

    lists = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.yaml")}
    assert set(lists) == {"published", "branching", "en", "de", "es", "fr", "zh"}
    assert all(set(lists["published"][k]) <= set(lists["en"][k]) for k in COUNTED)
    for name, features_ in lists.items():
        assert set(features_) == set(COUNTED), name
        terms = [term for k in COUNTED for term in features_[k]]
        assert len(terms) == len(set(terms)) and all(t == t.lower() for t in terms), name


def test_ranks_share_ties_and_ignore_scale() -> None:
    assert percentile_ranks(np.array([3.0, 1.0, 3.0, 1000.0])).tolist() == [0.5, 0.0, 0.5, 1.0]
    assert percentile_ranks(np.array([7.0, 7.0])).tolist() == [0.5, 0.5]
    assert percentile_ranks(np.array([7.0])).tolist() == [0.5]


def test_score_by_hand() -> None:
    rows = [example("a", "check this"), example("b", "so it is therefore long"), example("c", "one")]
    scored, dropped = split(score(rows, weights=WEIGHTS, words=["published"], scaling="rank"))
    assert not dropped
    # ranks: length 0.5, 1, 0; verification 1, .25, .25; connectives .25, 1, .25; exploration is constant
    expected = [0.15 + 0.2 + 0.0625, 0.3 + 0.05 + 0.25, 0 + 0.05 + 0.0625]
    assert [round(r.scores["score"], 6) for r in scored] == pytest.approx(expected)


@pytest.mark.parametrize("scaling", ["rank", "zscore"])
@pytest.mark.parametrize("values", [[0.3], [0.0, 0.0], [0.3, 0.1 + 0.2], [-1e9, -1e9]])
def test_a_feature_in_which_all_chains_are_equal_counts_nothing(values: list[float], scaling: Any) -> None:
    rows = [example(str(i), "x", scores={"mine": value}) for i, value in enumerate(values)]
    with collecting() as metrics:
        scored, _ = split(score(rows, weights={"mine": 1.0}, words=["en"], scaling=scaling))
    assert [row.scores["score"] for row in scored] == [0.0] * len(values)
    assert f"mine_{scaling}" not in scored[0].scores and metrics == {"constant, not counted": "mine"}


def test_other_numbers_weigh_in_and_less_may_be_better() -> None:
    rows = [example("a", "x y", scores={"perplexity": 1.0}), example("b", "x", scores={"perplexity": 9.0})]
    scored, _ = split(score(rows, weights={"length": 0.5, "perplexity": -0.5}, words=["en"], scaling="zscore"))
    assert [r.scores["score"] for r in scored] == [1.0, -1.0]
    assert [r.scores["perplexity_zscore"] for r in scored] == [-1.0, 1.0]
    assert "verification_zscore" not in scored[0].scores, "only what is weighed is scaled"
    assert z_scores(np.array([2.0, 2.0])).tolist() == [0.0, 0.0]


def test_score_refuses_what_cannot_be() -> None:
    def run(**settings: Any) -> None:
        list(score([example("a", "x")], **{"weights": WEIGHTS, "words": ["en"], "scaling": "rank", **settings}))

    for settings, said in [
        ({"weights": {**WEIGHTS, "length": 0.4}}, "sum to 1"),
        ({"words": ["klingon"]}, "shipped are branching, de, en, es, fr, published, zh"),
        ({"weights": {"lenght": 1.0}}, "no score 'lenght'; did you mean 'length'"),
    ]:
        with pytest.raises(UserError, match=said):
            run(**settings)


def test_tokens_are_those_of_the_named_model(tiny: Path) -> None:
    from limo.model import load_tokenizer

    (row,), _ = split(count_tokens([example("a", "The answer is 12")], tokenizer=str(tiny)))
    assert row.scores["tokens"] == len(load_tokenizer(tiny).encode("The answer is 12")) > 2


def test_verify_keeps_right_chains_only() -> None:
    texts = {"a": "\\boxed{5}", "b": "\\boxed{6}", "c": "hm", "d": " "}
    rows = [*(example(key, text) for key, text in texts.items()), example("e", "\\boxed{5}", "")]
    kept, dropped = split(verify(rows, keep_unverified=False))
    wrong, unsure = "wrong answer", "cannot be graded"
    assert [r.id for r in kept] == ["a"]
    assert {d.id: d.reason for d in dropped} == {"b": wrong, "c": wrong, "d": "no chain", "e": unsure}
    kept, dropped = split(verify(rows, keep_unverified=True))
    assert {r.id: r.notes["verdict"] for r in kept} == {"a": "correct", "b": "wrong", "c": "wrong", "e": "unsure"}
    assert [d.reason for d in dropped] == ["no chain"]


def test_every_chain_ends_in_a_box() -> None:
    texts = ["2+3=<<2+3=5>>5\n#### 5", "it is \\boxed{5}.", "it is 5"]
    kept, _ = split(box_answers([example(str(i), text) for i, text in enumerate(texts)]))
    assert [r.completion for r in kept] == [
        "2+3=5\nThe answer is \\boxed{5}.",
        "it is \\boxed{5}.",
        "it is 5\nThe answer is \\boxed{5}.",
    ]


def test_doubles_and_benchmark_problems_leave(tmp_path: Path) -> None:
    rows = [example("a"), replace(example("b"), prompt=chat(" PROBLEM  a ")), example("c")]
    kept, dropped = split(exact_dedup(rows))
    assert [r.id for r in kept] == ["a", "c"] and dropped[0].detail == "as a"
    rivals, dropped = split(exact_dedup([example("a", "one"), replace(rows[1], completion="two"), example("a", "ONE")]))
    assert [(r.id, r.question) for r in rivals] == [("a", "problem a"), ("b", " PROBLEM  a ")], "another chain stays"
    assert rivals[0].problem == rivals[1].problem and dropped[0].detail == "as a"
    (tmp_path / "bench.jsonl").write_text('{"problem": "PROBLEM c", "answer": "1"}')
    node = {"_target_": "limo.sources.file", "path": str(tmp_path / "bench.jsonl")}
    kept, dropped = split(decontaminate(kept, benchmarks={"mine": node}, variants="drop"))
    assert [r.id for r in kept] == ["a"] and dropped[0].detail == "holds 100 % of mine/1"
    assert dropped[0].data["matched"] == {"id": "mine/1", "problem": "PROBLEM c", "contained": 1.0}


def test_an_answer_that_is_missing_contradicts_none() -> None:
    """Of the same question on three pages, two may mark their final answer."""
    for answers in (("4", "4", ""), ("", "4"), ("4", "")):
        rows = [replace(example("a", f"chain {i}", answer), id=str(i)) for i, answer in enumerate(answers)]
        kept, dropped = split(exact_dedup(rows))
        assert len(kept) == len(answers) and not dropped, answers


def test_one_problem_with_two_answers_is_told() -> None:
    def rows(*answers: str) -> list[Example]:
        return [replace(example("a", f"chain {i % 3}", answer), id=str(i)) for i, answer in enumerate(answers)]

    kept, dropped = split(exact_dedup(rows("5", "4", "4.0", "8/2", "4")))
    assert [r.id for r in kept] == ["1", "2", "3"]
    assert [(d.id, d.reason, d.detail) for d in dropped] == [
        ("0", "same problem, another answer", "its answer is '5', of most others it is '4'"),
        ("4", "same problem", "as 1"),
    ]
    assert dropped[1].data["matched"] == {"id": "1", "problem": "problem a"}
    kept, dropped = split(exact_dedup(rows("5", "4")))
    assert not kept and {d.detail for d in dropped} == {
        "its answer is '5', others have another, none a majority",
        "its answer is '4', others have another, none a majority",
    }


def test_case_is_that_of_words_and_not_of_symbols() -> None:
    pairs = [("If $n=3$ and $N=5$, find $n$.", "If $n=3$ and $N=5$, find $N$."), ("FIND it", "Find  it")]
    rows = [
        replace(example(f"{i}/{j}"), prompt=chat(text)) for i, pair in enumerate(pairs) for j, text in enumerate(pair)
    ]
    assert [r.id for r in split(exact_dedup(rows))[0]] == ["0/0", "0/1", "1/0"]


def test_a_draw_keeps_whole_problems_and_grows(tmp_path: Path) -> None:
    rows = [example(f"{i}", chain) for i in range(50) for chain in ("one", "two")]
    few, left = split(subsample(rows, k=10, seed=1))
    more, _ = split(subsample(list(reversed(rows)), k=20, seed=1))
    assert len(few) == 20 and len(left) == 80 and {r.problem for r in few} < {r.problem for r in more}
    assert {r.problem for r in split(subsample(rows, k=10, seed=2))[0]} != {r.problem for r in few}
    assert len(split(subsample(rows, k=99, seed=1))[0]) == 100 and not split(subsample([], k=3, seed=1))[0]


def test_a_benchmark_problem_with_other_numbers_leaves_or_stays(tmp_path: Path) -> None:
    (tmp_path / "bench.jsonl").write_text('{"problem": "What is the sum of $12$ and $34$, doubled?", "answer": "92"}')
    rows = [
        replace(example("a"), prompt=chat("What is the sum of 12 and 34, doubled? Think.")),
        replace(example("b"), prompt=chat("What is the sum of 12 and 35, doubled?")),
        replace(example("c"), prompt=chat("What is the product of 12 and 34?")),
    ]
    held = [str(tmp_path / "bench.jsonl")]
    kept, dropped = split(decontaminate(rows, benchmarks=held, variants="drop"))
    assert [r.id for r in kept] == ["c"]
    assert [d.reason for d in dropped] == ["in a benchmark", "a benchmark problem with other numbers"]
    kept, _ = split(decontaminate(rows, benchmarks=held, variants="keep"))
    assert [r.id for r in kept] == ["b", "c"]


def test_two_sources_with_one_id(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "x", "problem": "1", "answer": "1"}\n{"id": "x", "problem": "2", "answer": "2"}\n')
    node = {"_target_": "limo.sources.file", "path": str(path), "limit": 1}
    kept, dropped = split(read_pool({"one": node, "two": node}, "s"))
    assert [r.id for r in kept] == ["one/x", "two/x"] and not dropped, "ids are those of a source"
    kept, dropped = split(read_pool({"one": {**node, "limit": None}}, "s"))
    assert len(kept) == 1
    assert (dropped[0].reason, dropped[0].file, dropped[0].row) == ("duplicate id", path.name, 2)


def test_curate_as_a_function_and_going_on_after_a_failure(tmp_path: Path, script: Script) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text(
        "".join(f'{{"problem": "problem {k}", "answer": "5", "solution": "\\\\boxed{{5}} is {k}"}}\n' for k in "abcx")
        + "broken\n"
    )
    settings = tmp_path, {"attempt": {**ATTEMPT, "engine": script(REPLIES)}, "choose": CHOOSE}, ["random", "easiest"]
    with pytest.raises(KeyError):  # the script knows no problem x: the engine fails midway
        curate_pool(*settings)
    left = sorted(path.name.partition(".")[0] for path in (tmp_path / "run" / "stages").iterdir())
    assert left == ["00-pool"] * 3, "a failed stage must leave nothing that looks finished"
    pool.write_text(pool.read_text().replace("problem x", "problem d"))  # the pool is repaired and read anew
    with (
        lock_run(tmp_path / "run" / "work", "curating"),
        pytest.raises(UserError, match="another process is curating in"),
    ):
        curate_pool(*settings)
    funnel = curate_pool(*settings)
    assert [(f["stage"], f["in"], f["out"]) for f in funnel] == [("pool", 5, 4), ("attempt", 4, 4), ("choose", 4, 2)]
    assert [r.id for r in read_jsonl(tmp_path / "run" / "curated.jsonl")] == ["p/1", "p/2"]
    with pytest.raises(UserError, match="has other content"):
        pool.write_text(pool.read_text().replace("problem d", "problem e"))
        curate_pool(*settings)
    reasons = [(d["stage"], d["reason"], d["row"]) for d in lines(tmp_path / "run" / "dropped.jsonl")]
    assert reasons == [("pool", "invalid JSON", 5), *[("choose", "not among the best 2", 0)] * 2]


def test_rows_of_a_source_that_fails_are_kept_with_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text('{"problem": "q"}\nbroken\n')
    with pytest.raises(UserError, match=r"no usable row .*no answer: 1; invalid JSON: 1.*stages/00-pool.dropped.jsonl"):
        curate_pool(tmp_path, {"choose": {**CHOOSE, "by": "random"}})
    left = lines(tmp_path / "run" / "stages" / "00-pool.dropped.jsonl")
    assert [(row["reason"], row["row"]) for row in left] == [("no answer", 1), ("invalid JSON", 2)]


def test_a_marked_chain_is_not_chosen_and_the_next_best_moves_up(tmp_path: Path) -> None:
    pool, marks = tmp_path / "pool.jsonl", tmp_path / "marks.jsonl"
    pool.write_text("".join(f'{{"id": {n}, "problem": "q{n}", "answer": "5", "length": {n}}}\n' for n in range(5)))
    count = {"_target_": "tests.test_curation.count_ids"}

    def chosen(**more: Any) -> list[str]:
        curate_pool(tmp_path, {"count": count, "choose": {**CHOOSE, "by": "number"}}, **more)
        return [row.id for row in read_jsonl(tmp_path / "run" / "curated.jsonl")]

    assert chosen() == ["p/4", "p/3"]
    before = (tmp_path / "run" / "stages" / "01-count.jsonl").stat().st_mtime_ns
    marks.write_text('{"id": "p/4"}\n\np/2\n')
    assert chosen(exclude=str(marks)) == ["p/3", "p/1"], "the same run, chosen again"
    assert (tmp_path / "run" / "stages" / "01-count.jsonl").stat().st_mtime_ns == before, "nothing else is done again"
    left = [(d["id"], d["stage"], d["reason"]) for d in lines(tmp_path / "run" / "dropped.jsonl")]
    assert left[:2] == [("p/2", "by_hand", "by hand"), ("p/4", "by_hand", "by hand")]
    assert any("by_hand" in line for line in tell_history(tmp_path / "run", "p/4"))
    assert chosen() == ["p/4", "p/3"]
    marks.write_text('{"id": "p/4"}\n{"key": 3}\n')
    with pytest.raises(UserError, match=r"curate.exclude: .*marks.jsonl, line 2: no id"):
        chosen(exclude=str(marks))
    with pytest.raises(UserError, match=r"curate\.exclude: cannot read 'gone'"):
        chosen(exclude="gone")


def count_ids(rows: Any) -> Any:
    """A stage of a user's own: a score from the id."""
    return (replace(row, scores={"number": float(row.id[2:])}) for row in rows)


def test_a_stage_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text('{"problem": "q", "answer": "5", "solution": "\\\\boxed{6}"}\n')
    with pytest.raises(UserError, match=r"'verify' leaves no row of 1 \(wrong answer: 1\)"):
        curate_pool(tmp_path, {"verify": {"_target_": "curation.stages.chains.verify", "keep_unverified": False}})


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
