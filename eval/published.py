"""The published benchmarks: where each is on the Hub and at which commit, its columns, what its answers are.

`TABLE` has them by name. A reader maps a benchmark's columns to ours; a row that already has ours,
such as one of a local copy, is unchanged.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.grader.nodes import Kind
from eval.prompts import LETTERS, with_options

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
    """Multiple choices have their letter in another column."""
    return as_it_is({**row, "answer": row.get("choice_answer") or row.get("answer")}, number)


def gpqa(row: Mapping[str, Any], number: int) -> Flat:
    """The right option among three wrong ones, in a fixed random order: every four rows have each letter once."""
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
