"""What models are evaluated on: named benchmarks, or your own file, with reference answers.

    python -m eval.run recipe=evaluate 'eval.benchmarks=[aime24,math500]'
    python -m eval.run recipe=evaluate 'eval.benchmarks=[math500.json, {mine: {path: my.csv, fields: {answer: gold}}}]'

`TABLE` says where each named benchmark lives on the Hub and at which commit, how it is put to the model, and what its
answers are. A local copy comes first: `path`, or a file named after the benchmark in the folder $LIMO_BENCHMARKS. A
benchmark that cannot be had, or that has rows which cannot be used, is an error; it is never left out.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from eval.prompts import LETTERS, behind_examples, plain, with_options, worked
from eval.verdicts import Kind
from limo.data import Dropped, Example, Row, chat
from limo.errors import UserError
from limo.files import Raw, read_rows
from limo.progress import say
from limo.recipe import bind, near
from limo.sources import examples, hub_rows

DRAWN_AGAIN = "same problem drawn again"  # a generator's repetition costs nothing; a row of a file that is lost does
ENDINGS = (".jsonl", ".json", ".parquet", ".csv")

Flat = dict[str, Any]  # a row in our columns: problem, answer, and notes
Reader = Callable[[Mapping[str, Any], int], Flat]  # of a benchmark's own columns, and the row's number from 0


def as_it_is(row: Mapping[str, Any], _: int) -> Flat:
    """Columns that `limo.sources` knows. Several answers become a list, a mapping of answers its values."""
    answer = row.get("answer", row.get("final_answer"))
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        answer = ", ".join(map(str, answer))
    return {**row, "answer": answer} if answer is not None else dict(row)


def gaokao(row: Mapping[str, Any], number: int) -> Flat:
    """Multiple choices have their letter in a column of its own."""
    return as_it_is({**row, "answer": row.get("choice_answer") or row.get("answer")}, number)


def gpqa(row: Mapping[str, Any], number: int) -> Flat:
    """The right option among three wrong ones, in an order drawn once: every four rows have each letter once."""
    if "Correct Answer" not in row:
        return dict(row)
    block = list(range(4))
    random.Random(f"gpqa/{number // 4}").shuffle(block)
    options = [row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3)]
    random.Random(f"gpqa/{number}/options").shuffle(options)
    right = block[number % 4]
    options.insert(right, row["Correct Answer"].strip())
    return {
        "problem": with_options(row["Question"].strip(), options),
        "answer": LETTERS[right],
        "subject": row.get("High-level domain", ""),
        "id": row.get("Record ID", ""),
    }


def mmlu(row: Mapping[str, Any], _: int) -> Flat:
    """Options as a list, the answer as its position."""
    if "choices" not in row:
        return dict(row)
    return {
        "problem": with_options(row["question"], row["choices"]),
        "answer": LETTERS[int(row["answer"])],
        "subject": row["subject"],
    }


def arc(row: Mapping[str, Any], _: int) -> Flat:
    """Options with labels of their own, A to D or 1 to 4: the answer is the position of its label."""
    if "answerKey" not in row:
        return dict(row)
    labels = list(row["choices"]["label"])
    return {
        "problem": with_options(row["question"], row["choices"]["text"]),
        "answer": LETTERS[labels.index(row["answerKey"])],
        "id": row["id"],
    }


def theoremqa(row: Mapping[str, Any], _: int) -> Flat:
    """Numbers, truth values, lists such as `[1, 2]`, and options such as `(a)`."""
    if "Question" not in row:
        return dict(row)
    answer = str(row["Answer"]).strip()
    if answer.startswith("[") and answer.endswith("]"):
        answer = answer[1:-1]
    if row.get("Answer_type") == "option":
        answer = answer.upper()
    return {"problem": row["Question"], "answer": answer, "type": row.get("Answer_type", "")}


def bbh(row: Mapping[str, Any], _: int) -> Flat:
    """Options stand inside the input; the task is the name of the configuration."""
    return {**row, "problem": row["input"], "answer": row["target"]} if "input" in row else dict(row)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Where a benchmark lives, what its answers are, and how it is put to the model."""

    hub: str  # dataset on the Hub; "" if it has no home there
    revision: str  # commit of that dataset, so that it is the same set tomorrow
    rows: int
    config: str | tuple[str, ...] | None = None  # several are read one after the other
    split: str = "test"
    kind: Kind = "math"
    read: Reader = as_it_is
    shots: int = 0  # worked examples before the problem
    group: str = "problems"  # of those examples
    fields: Mapping[str, str] = field(default_factory=dict)
    get: str = ""  # how to come by it where the Hub does not simply have it


_BBH = tuple(
    "boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages formal_fallacies "
    "geometric_shapes hyperbaton logical_deduction_five_objects logical_deduction_seven_objects "
    "logical_deduction_three_objects movie_recommendation multistep_arithmetic_two navigate object_counting "
    "penguins_in_a_table reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks "
    "sports_understanding temporal_sequences tracking_shuffled_objects_five_objects "
    "tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies word_sorting".split()
)
_LIMO = "it is in the LIMO repository (GAIR-NLP/LIMO) as eval/data/{}/test.jsonl"

# Revisions are commits that public evaluation code pins for these sets
TABLE: dict[str, Benchmark] = {
    "aime24": Benchmark("HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", 30, split="train"),
    "aime25": Benchmark("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", 30),
    "amc23": Benchmark("math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057", 40),
    "math500": Benchmark("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", 500),
    "gsm8k": Benchmark("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", 1319, config="main", group="words"),
    "olympiadbench": Benchmark(
        "Hothan/OlympiadBench",
        "91184b52131e7fc9455fef848035173aea8cc01a",
        674,
        config="OE_TO_maths_en_COMP",
        split="train",
    ),
    "minerva": Benchmark("math-ai/minervamath", "ee46ddc498933b1977577953250ca5c66be64f96", 272, kind="physics"),
    "gpqa": Benchmark(
        "Idavidrein/gpqa",
        "633f5ee89ab8ad4522a9f850766b73f62147ffdd",
        198,
        config="gpqa_diamond",
        split="train",
        kind="choice",
        read=gpqa,
        group="choices",
        get="accept its terms on the Hub and set HF_TOKEN",
    ),
    "chmath24": Benchmark("", "", 30, get=_LIMO.format("cn_math_2024")),
    "gaokao24": Benchmark("", "", 79, read=gaokao, get=_LIMO.format("gaokao")),
    "kaoyan": Benchmark("", "", 199, get=_LIMO.format("kaoyan")),
    "gradeschool": Benchmark("", "", 210, get=_LIMO.format("grade_school_math")),
    "math": Benchmark("DigitalLearningGmbH/MATH-lighteval", "0530c78699ea5e8eb5530600900e1f328b48acad", 5000, shots=4),
    "theoremqa": Benchmark(
        "TIGER-Lab/TheoremQA", "a340b1782960a712843aae3ed25f1e013cc008a5", 800, kind="physics", read=theoremqa, shots=5
    ),
    "mmlu_stem": Benchmark(
        "TIGER-Lab/MMLU-STEM",
        "78a4b40757f31688d00426d1372dbbc6070d33a8",
        3153,
        kind="choice",
        read=mmlu,
        shots=5,
        group="choices",
    ),
    "bbh": Benchmark(
        "lukaemon/bbh", "982bb89fd79532a8ac676a61fc42eb1aeec63f99", 6511, config=_BBH, read=bbh, shots=3, group="tasks"
    ),
    "arc_c": Benchmark(
        "allenai/ai2_arc",
        "210d026faf9955653af8916fad021475a3f00453",
        1172,
        config="ARC-Challenge",
        kind="choice",
        read=arc,
        shots=8,
        group="choices",
    ),
}
OWN = Benchmark("", "", 0)  # what a file of your own is taken for


def nodes(benchmarks: Sequence[Any] | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The benchmarks of a recipe as nodes, by name.

    A list has names of TABLE, paths of files (named after the file), and mappings {name: node}; a mapping has nodes. A
    node is empty, `{path: ...}` for a local copy or a file of your own, or names any source with `_target_`.
    Raises UserError for anything else, or a name that comes twice.
    """
    pairs = list(benchmarks.items()) if isinstance(benchmarks, Mapping) else [p for b in benchmarks for p in _pairs(b)]
    found: dict[str, dict[str, Any]] = {}
    for name, node in pairs:
        if node is not None and not isinstance(node, Mapping):
            raise UserError(f"eval.benchmarks.{name} must be empty or such as {{path: file.jsonl}}, not {node!r}")
        if str(name) in found:
            raise UserError(f"eval.benchmarks has '{name}' twice")
        found[str(name)] = {"_target_": "eval.benchmarks.named", **(node or {})}
    return found


def _pairs(listed: Any) -> list[tuple[str, Any]]:
    if isinstance(listed, Mapping):
        return list(listed.items())
    path = Path(str(listed))
    if path.suffix in ENDINGS or "/" in str(listed):
        return [(path.stem, {"path": str(listed)})]
    return [(str(listed), None)]


def published(name: str) -> int:
    """How many problems a benchmark of TABLE has; 0 for a file of your own."""
    return TABLE.get(name, OWN).rows


def origin(name: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's record says of where a benchmark came from, its commit on the Hub included."""
    entry = TABLE.get(name)
    if node["_target_"] != "eval.benchmarks.named" or entry is None:
        return dict(node)
    path = node.get("path") or _local_copy(name)
    where = {"path": path} if path else {"hub": entry.hub, "revision": entry.revision}
    return {**node, **where}


def load(benchmarks: Sequence[Any] | Mapping[str, Any], system: str) -> dict[str, list[Example]]:
    """The problems of each benchmark, by its name. `notes["kind"]` says what an answer is, for the grader.

    Raises UserError if a benchmark cannot be had or a row cannot be used: a benchmark with rows missing gives numbers
    nobody can compare.
    """
    loaded = {}
    for name, node in nodes(benchmarks).items():
        rows = list(bind(node, f"benchmarks.{name}")(name, system))
        bad = [row for row in rows if isinstance(row, Dropped) and row.reason != DRAWN_AGAIN]
        if bad:
            raise UserError(
                f"benchmark '{name}': {len(bad)} of {len(rows)} rows cannot be used; the first is {bad[0].file}, row "
                f"{bad[0].row}: {bad[0].reason} ({bad[0].detail}). Map its columns with fields, or repair the file"
            )
        loaded[name] = [row for row in rows if isinstance(row, Example)]
        _check(name, loaded[name])
    return loaded


def _check(name: str, rows: Sequence[Example]) -> None:
    twice = next((key for key, count in Counter(row.id for row in rows).items() if count > 1), None)
    if twice:
        raise UserError(f"benchmark '{name}': two rows have the id '{twice}'. Results are kept by id: make them differ")
    letters = {row.answer for row in rows}
    if len(rows) >= 20 and len(letters) == 1 and all(row.notes.get("kind") == "choice" for row in rows):
        raise UserError(
            f"benchmark '{name}': the right option is {letters.pop()} in all {len(rows)} rows, so a model that always "
            "says so would have 100 %. Shuffle the options, or use the benchmark from the Hub, which is shuffled here"
        )


def named(
    name: str,
    system: str,
    /,
    *,
    path: str | None = None,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
    kind: str | None = None,
    shots: int | None = None,
) -> Iterator[Row]:
    """A benchmark of TABLE, from a local copy or the Hub, or a file of your own.

    Args: `path` of a local copy (JSONL, JSON, Parquet, CSV); `fields` (our name -> its column); `limit` takes the first
    rows only; `kind` is math, physics or choice; `shots` worked examples go before the problem (at most those of
    `eval/shots.yaml`). The last two are TABLE's where they are not given. Raises UserError if there is no such
    benchmark, or it cannot be had.
    """
    entry = TABLE.get(name, OWN)
    chosen = next((k for k in get_args(Kind) if k == kind), entry.kind)
    if kind not in (None, chosen):
        raise UserError(f"benchmark '{name}': kind must be one of {', '.join(get_args(Kind))}, not '{kind}'")
    shots = entry.shots if shots is None else shots
    if not 0 <= shots <= len(worked(entry.group)):
        raise UserError(
            f"benchmark '{name}': shots must be between 0 and {len(worked(entry.group))}, the worked examples of "
            f"'{entry.group}' in eval/shots.yaml, not {shots}"
        )
    entry = replace(entry, kind=chosen, shots=shots)
    path = path or _local_copy(name)
    raws = _read(name, path, entry)
    flat = ((number, _flat(entry, raw, number)) for number, raw in raws)
    where = path or entry.hub
    count = 0
    for row in _of_benchmark(name, examples(flat, name, system, where, {**entry.fields, **(fields or {})}, limit)):
        count += isinstance(row, Example)
        yield _asked(row, entry, system) if isinstance(row, Example) else row
    if entry.rows and limit is None and count != entry.rows:
        say(f"benchmark '{name}': {count} problems in {where}, {entry.rows} are published; numbers may not compare")


def _local_copy(name: str) -> str | None:
    folder = os.environ.get("LIMO_BENCHMARKS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise UserError(f"LIMO_BENCHMARKS is set to '{folder}', which is no folder")
    found = [Path(folder, name + ending) for ending in ENDINGS if Path(folder, name + ending).exists()]
    return str(found[0]) if found else None


def _read(name: str, path: str | None, entry: Benchmark) -> Iterator[Raw]:
    if path:
        return read_rows(path)
    if name not in TABLE:
        raise UserError(f"there is no benchmark '{name}'{near(name, TABLE)}; for a file of your own, its path")
    if not entry.hub:
        raise UserError(f"benchmark '{name}' is not on the Hub: {entry.get}. {_locally(name)}")
    return _from_hub(name, entry)


def _from_hub(name: str, entry: Benchmark) -> Iterator[Raw]:
    configs = entry.config if isinstance(entry.config, tuple) else (entry.config,)
    number = 0
    for config in configs:
        try:
            for _, raw in hub_rows(entry.hub, config, entry.split, entry.revision):
                number += 1
                yield number, {**raw, "task": config} if len(configs) > 1 and isinstance(raw, dict) else raw
        except UserError as error:
            how = f" To get it: {entry.get}." if entry.get else ""
            raise UserError(f"benchmark '{name}': {error}.{how} {_locally(name)}") from None


def _locally(name: str) -> str:
    return (
        f"Such a copy: eval.benchmarks=[<folder>/{name}.jsonl] (or .json, .parquet, .csv), or the variable "
        "LIMO_BENCHMARKS set to that folder"
    )


def _of_benchmark(name: str, rows: Iterator[Row]) -> Iterator[Row]:
    try:
        yield from rows
    except UserError as error:
        said = str(error).replace(f"pool source '{name}'", f"benchmark '{name}'")
        raise UserError(said if said.startswith("benchmark") else f"benchmark '{name}': {said}") from None


def _flat(entry: Benchmark, raw: Any, number: int) -> Any:
    if not isinstance(raw, dict):
        return raw
    try:
        return entry.read(raw, number - 1)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        return Dropped("", "", "not as published", f"{type(error).__name__}: {error}", data={"row": str(raw)[:500]})


def _asked(row: Example, entry: Benchmark, system: str) -> Example:
    """The row with the prompt of its benchmark. The bare problem stays in the notes, for decontamination."""
    problem = row.question
    if entry.shots:
        prompt = chat(behind_examples(problem, entry.group, entry.shots), "")
    else:
        prompt = chat(plain(problem, entry.kind == "choice"), system)
    shown = {"kind": entry.kind, "problem": problem, "shots": entry.shots}
    return replace(row, prompt=prompt, notes={**row.notes, **shown})
