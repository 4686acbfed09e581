"""Our evaluation beside EleutherAI's lm-evaluation-harness: one model, the same prompts, greedy decoding, row by row.

    python -m bench.peers.harness $LIMO_DATA/benchmarks/gsm8k_test.jsonl --python .venv-bench/bin/python --taught 20

The harness gets its problems from a task file that is written here: the prompt of each row is the text that `eval.run`
puts to the model (four worked examples of `eval/shots.yaml`), and its filters are those of its own GSM8K task. Printed:
accuracy by either, and every row in which a text or a verdict differs, with the reason. A small model gets none right,
on which any two graders agree: `--taught` first trains it on so many of these problems, for this comparison alone.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.benchmarks import load_benchmarks
from eval.grade import grade
from eval.protocols import sampling_for
from eval.run import grade_rows
from limo.data import Example, write_jsonl
from limo.engines.local import TransformersEngine
from limo.engines.protocol import Sampling, sample
from limo.model import model_folder
from limo.processes import override, run_to_end

STRICT, FLEXIBLE = r"The answer is (\-?[0-9\.\,]+).", r"(-?[$0-9.,]{2,})|(-?[0-9]+)"  # of its task gsm8k_cot
TASK = """task: limo_gsm8k
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["<|im_end|>", "\\nProblem:"], do_sample: false, max_gen_toks: {tokens}}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    regexes_to_ignore: [",", "\\\\$", "(?s).*#### ", "\\\\.$"]
filter_list:
  - {{name: strict, filter: [{{function: regex, regex_pattern: {strict}}}, {{function: take_first}}]}}
  - name: flexible
    filter: [{{function: regex, group_select: -1, regex_pattern: {flexible}}}, {{function: take_first}}]
"""


@dataclass(frozen=True)
class Judged:
    """One problem as either evaluation has it."""

    text: str
    right: bool
    answer: str | None  # what was taken for the answer


def taught(rows: Sequence[Example], file: Path, model: str, folder: Path) -> str:
    """The model after it was trained on `rows` with the solutions that `file` has for them: a leak on purpose."""
    lines = file.read_text(encoding="utf-8").splitlines()[: len(rows)]
    own = [re.sub("<<.*?>>", "", json.loads(line)["answer"]).split("\n####")[0] for line in lines]
    ending = "\nThe answer is {}."
    chains = [replace(row, completion=text + ending.format(row.answer)) for row, text in zip(rows, own, strict=True)]
    write_jsonl(folder / "rows.jsonl", chains)
    values = {"out": folder, "train.data": folder / "rows.jsonl", "train.model": model, "train.system": None}
    values |= {"train.max_length": 2048, "train.args.num_train_epochs": 12, "train.args.save_strategy": "no"}
    run_to_end("limo.train", ["recipe=demo", *(override(key, value) for key, value in values.items())], folder)
    return str(folder / "model")


def ours(rows: list[Any], model: str, tokens: int, shots: int) -> list[Judged]:
    """Sampled and graded as `eval.run` does."""
    drawn = sampling_for(None, Sampling(1, 0.0, 1.0, tokens, 0), len(rows), shots=shots)
    engine = TransformersEngine(model=model, dtype="float32", batch_size=16)
    lines = grade_rows(rows, sample(engine, [row.prompt for row in rows], drawn, "ours"))
    return [Judged(c["text"], c["verdict"] == "correct", c["extracted"]) for c in (r["completions"][0] for r in lines)]


def theirs(rows: list[Any], model: str, tokens: int, python: str) -> dict[str, list[Judged]]:
    """Sampled and judged by the harness in its own environment: by filter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "rows.jsonl").open("w") as file:
            file.writelines(json.dumps({"prompt": row.question, "answer": row.answer}) + "\n" for row in rows)
        given = {"file": folder / "rows.jsonl", "tokens": tokens}
        task = TASK.format(**given, strict=json.dumps(STRICT), flexible=json.dumps(FLEXIBLE))
        (folder / "task.yaml").write_text(task)
        call = [python, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "limo_gsm8k", "--include_path", name]
        call += ["--model_args", f"pretrained={model_folder(model)},dtype=float32", "--device", "cpu"]
        call += ["--apply_chat_template", "--batch_size", "1", "--log_samples", "--output_path", str(folder / "out")]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"lm_eval ended with code {done.returncode}:\n{done.stderr[-3000:]}")
        (samples,) = (folder / "out").rglob("samples_*.jsonl")
        found = [json.loads(line) for line in samples.read_text().splitlines()]
    judged: dict[str, list[Judged]] = {"strict": [], "flexible": []}
    for line in sorted(found, key=lambda line: line["doc_id"]):
        said = Judged(line["resps"][0][0], bool(line["exact_match"]), line["filtered_resps"][0])
        judged[line["filter"]].append(said)
    return judged


def reason(mine: Judged, strict: Judged, flexible: Judged, answer: str) -> str:
    """Why two verdicts on one problem differ, told by what each would say of the other's text."""
    if mine.text.strip() != strict.text.strip():
        again = grade(strict.text, answer)
        if (again.verdict == "correct") == strict.right:
            return "other text: float32 sums of another batch chose another token"
    taken = re.findall(STRICT, strict.text)
    if mine.right != strict.right and not taken:
        return f"strict wants 'The answer is'; we take {mine.answer!r} ({grade(mine.text, answer).how})"
    if mine.right != strict.right:
        return f"strict takes the first, {taken[0]!r}; we take {mine.answer!r}"
    return f"flexible takes the last number, {flexible.answer!r}; we take {mine.answer!r}"


def main() -> None:
    """Print both, side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="GSM8K's test problems")
    parser.add_argument("--python", required=True, help="of the environment that has lm-eval")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--limit", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--shots", type=int, default=4, help="worked examples in the prompt")
    parser.add_argument("--taught", type=int, default=0, help="train on so many of the problems first")
    args = parser.parse_args()
    node = {"gsm8k": {"path": args.file, "shots": args.shots, "limit": args.limit}}
    rows = load_benchmarks(node, "")["gsm8k"]
    with tempfile.TemporaryDirectory() as name:
        known = rows[: args.taught]
        model = taught(known, Path(args.file), args.model, Path(name)) if known else args.model
        mine = ours(rows, model, args.tokens, args.shots)
        harness = theirs(rows, model, args.tokens, args.python)
    n, strict, flexible = len(rows), harness["strict"], harness["flexible"]
    assert len(strict) == len(flexible) == n, (n, len(strict), len(flexible))
    learned = f" after training on the first {args.taught} of them" if args.taught else ""
    print(f"{args.model}, GSM8K's first {n}, {args.shots} worked examples, greedy, {args.tokens} tokens{learned}")
    print(
        f"same text        {sum(a.text.strip() == b.text.strip() for a, b in zip(mine, strict, strict=True)):>3} of {n}"
    )
    for name, side in (("ours", mine), ("harness, strict", strict), ("harness, flexible", flexible)):
        same = sum(a.right == b.right for a, b in zip(mine, side, strict=True))
        print(f"{name:<18} {sum(s.right for s in side):>3} right   same verdict as ours: {same} of {n}")
    print(f"{'row':>4} {'reference':>10} {'ours':>14} {'strict':>14} {'flexible':>14}  why")
    kinds = Counter[str]()
    for at, (row, a, b, c) in enumerate(zip(rows, mine, strict, flexible, strict=True)):
        if a.right == b.right == c.right:
            continue
        why = reason(a, b, c, row.answer)
        kinds[why.split(",")[0].split(":")[0]] += 1
        marks = [f"{str(j.answer)[:12]} {'+' if j.right else '-'}" for j in (a, b, c)]
        print(f"{at:>4} {row.answer:>10} {marks[0]:>14} {marks[1]:>14} {marks[2]:>14}  {why}")
    print("; ".join(f"{count} x {kind}" for kind, count in kinds.most_common()) or "no verdict differs")


if __name__ == "__main__":
    main()
