"""Positive controls: for LEMMA, RISE, DiscoPOP and MAmmoTH2 a setting in which each is known to help.

    python -m bench.proofs.controls FOLDER             # on two idle cores; killed at any time, the same command resumes
    python -m bench.proofs.controls FOLDER lemma rise  # only these
    python -m bench.proofs.controls FOLDER seeds=5,6,7 # with seeds that no setting was chosen by

All start from the model of `bench/data/tiny.py`, which adds and subtracts two or three numbers, and run this project's
own stages, trainings and evaluations. What was expected before the first run, for five seeds each:

    lemma     in "9:12?7=" the sign is hidden and the answer's last digit given. The model notes whether its guess ends
              so, and answers anyway. Errors at temperature 1 become fewer than after error-free chains of the same
              problems and as many steps
    rise      "12?7" hides its sign. A wrong answer tells it, so a second turn is right more often than a fresh sample,
              and more often than after the same rows with the history removed
    discover  with 30 % of the training pairs flipped, the search finds a loss that beats DPO beyond its noise
    mammoth2  pairs mined from pages teach products ("3*27"), which the base does not know; the same pairs with their
              answers exchanged do not
"""

import gzip
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from bench.data.exam_site import record
from bench.data.tiny import ENGINE, make_chain, make_model, make_sum
from curation.methods.lemma.mistakes import Mistake, Rejected, tried
from curation.methods.lemma.teach import Strategy
from curation.methods.rise.turns import Dialogue
from curation.stages.chains import split_steps
from eval.equations import proved_different
from limo.data import Example, chat, read_jsonl, replacing, write_jsonl
from limo.errors import reported
from limo.machine import set_environment
from limo.recipe import bind, trust

STEPS = 3600  # of learning from scratch: 95 % of sums are right at temperature 1
SEEDS = range(5)
WORDS = ["Wait That wrong Once more What The answer"]
TRAIN = {
    "_target_": "limo.train.sft",
    "system": "",
    "max_length": 400,
    "global_batch": 16,
    "dtype": "float32",
    "args": {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "learning_rate": 1e-3},
}
SAMPLING = {"n": 1, "temperature": 1.0, "top_p": 1.0, "max_tokens": 160, "seed": 0}
DIALOGUE = Dialogue(shots=[], first="{problem}", feedback="That is wrong. Once more.\n{problem}", window=2)
Row = Mapping[str, Any]
Result = dict[str, float]


def main() -> None:
    """The command."""
    set_environment()
    trust("bench")
    folder, given = Path(sys.argv[1]), sys.argv[2:]
    asked = [int(seed) for word in given if word.startswith("seeds=") for seed in word[6:].split(",")]
    names = [word for word in given if not word.startswith("seeds=")] or list(CONTROLS)
    model = folder / "model"
    make_model(model, STEPS, WORDS)
    for name in names:
        found = list[Result]()
        for seed in asked or (SEEDS if name != "discover" else [1]):  # a search confirms with five seeds
            place = folder / name / f"seed-{seed}"
            if not (place / "result.json").exists():
                result = CONTROLS[name](place, str(model), seed)
                with replacing(place / "result.json") as file:
                    json.dump(result, file)
            found.append(json.loads((place / "result.json").read_text(encoding="utf-8")))
        print_results(name, found)


def print_results(name: str, found: list[Result]) -> None:
    """Each number's mean over the seeds with its 95 % interval (t), in %."""
    from scipy.stats import t

    print(f"\n{name}, {len(found)} seeds, % (95 % interval)")
    for key in found[0]:
        values = [100 * one[key] for one in found]
        if len(values) == 1:
            print(f"  {key:<58} {values[0]:6.1f}", flush=True)
            continue
        half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
        low, high = fmean(values) - half, fmean(values) + half
        print(f"  {key:<58} {fmean(values):6.1f} ({low:.1f} to {high:.1f})", flush=True)


def write_pool(path: Path, rows: Iterable[tuple[str, str, object]]) -> dict[str, Any]:
    """A pool of problems with chain and answer, each problem once; returns the source's node."""
    with replacing(path) as file:
        for problem, chain, answer in {row[0]: row for row in rows}.values():
            file.write(json.dumps({"problem": problem, "solution": chain, "answer": str(answer)}) + "\n")
    return {"_target_": "limo.sources.file", "path": str(path)}


def curate(out: Path, pool: Row, stages: Row, source: str, kinds: list[str], seed: int) -> None:
    """One curation with its control sets."""
    node = {
        "_target_": "curation.run.curate",
        "out": str(out),
        "system": "",
        "pool": {"pool": pool},
        "stages": stages,
        "controls": {"source": source, "kinds": kinds, "seed": seed},
        "pairs": None,
        "budget": {"samples": None, "tokens": None},
    }
    bind(node, "curate")()


def train(out: Path, model: str, data: Path, seed: int, epochs: int, **more: Any) -> str:
    """Fine-tune on a file of rows; returns the model's folder."""
    args = {**TRAIN["args"], "num_train_epochs": epochs, **more.pop("args", {})}
    bind({**TRAIN, "out": str(out), "model": model, "data": str(data), "seed": seed, **more, "args": args}, "train")()
    return str(out / "model")


def evaluate(out: Path, models: dict[str, str], problems: Row, sampling: Row, dialogue: Row | None = None) -> Any:
    """The summary of an evaluation on one benchmark, in several turns where there is a dialogue."""
    node = {"out": str(out), "system": "", "models": models, "engine": ENGINE, "benchmarks": {"new": problems}}
    node |= {"sampling": sampling, "compare": [], "resamples": 1000, "seed": 0}
    kind = {"_target_": "curation.methods.rise.multiturn.evaluate_turns", "dialogue": dialogue}
    return bind({**node, **(kind if dialogue else {"_target_": "eval.run.evaluate", "protocol": None})}, "eval")()


def accuracies(out: Path, models: dict[str, str], problems: Row, sampling: Row) -> Result:
    """The share of right answers of each model."""
    found = evaluate(out, models, problems, sampling)["accuracy"]
    return {name: found[name]["new"]["mean"] for name in models}


def make_guess(rng: random.Random) -> tuple[str, str, int]:
    """A sum whose sign is hidden and whose last digit is given: it takes less to check a guess than to make one."""
    while True:
        less, more = sorted(rng.sample(range(1, 100), 2))
        answer = more + rng.choice([less, -less])
        if less % 5:  # or else both signs end alike
            problem = f"{answer % 10}:{more}?{less}="
            return problem, guess(problem, answer > more), answer


def guess(problem: str, plus: bool) -> str:
    """A chain with one of the signs: its step says whether its last digit is the given one, its end does not care."""
    digit, more, less = map(int, re.findall(r"\d+", problem))
    step, total = make_chain([more, less], ["+" if plus else "-"])
    same = "y" if total % 10 == digit else "n"
    return step.replace("\n", f", {total % 10}?{digit} {same}\n", 1)


class Guesser:
    """The teacher of guesses; see `lemma.teach.Model`. Its reflection is one word, and it starts afresh."""

    kinds = ("OP",)

    def diagnose(self, asked: Sequence[tuple[Example, str]]) -> list[Mistake | Rejected]:
        """The first step is wrong if it ends in another digit than the given one."""
        return [tried(self._diagnose, row, attempt) for row, attempt in asked]

    def _diagnose(self, row: Example, attempt: str) -> Mistake:
        steps, digit = tuple(split_steps(attempt)), row.question[0]
        total = re.match(r"\d+[+-]\d+=-?\d*(\d),", steps[0])
        if not total or not proved_different(total[1], digit):
            raise Rejected("the first step is not proved wrong")
        return Mistake("OP", 0, steps, "It is the other sign.", f"SymPy: {total[1]} is not {digit}")

    def inject(self, asked: Sequence[tuple[Example, str, int]]) -> list[Mistake | Rejected]:
        """The chain of the other sign."""
        return [tried(self._diagnose, row, guess(row.question, "+" not in row.completion)) for row, *_ in asked]

    def agree(self, asked: Sequence[tuple[Example, Mistake]]) -> list[bool | Rejected]:
        """Every mistake has its proof already."""
        return [True for _ in asked]

    def correct(self, asked: Sequence[tuple[Example, Mistake, str]], strategy: Strategy) -> list[str | Rejected]:
        """The right chain once more, whatever the strategy."""
        return [f"Wait\n{row.completion}" for row, *_ in asked]


def lemma(folder: Path, model: str, seed: int) -> Result:
    """Error rates after corrected errors, and after error-free chains of the same problems."""
    rng = random.Random(seed)
    with replacing(folder / "boost.jsonl") as file:  # either sign by chance: the model learns to check, not to care
        for number in range(6000):
            problem, *_ = make_guess(rng)
            row = {"id": str(number), "prompt": problem, "completion": guess(problem, rng.random() < 0.5)}
            file.write(json.dumps(row) + "\n")
    either = train(folder / "boost", model, folder / "boost.jsonl", seed, 4)
    pool = write_pool(folder / "pool.jsonl", (make_guess(rng) for _ in range(1500)))
    teacher = {"_target_": "bench.proofs.controls.Guesser"}
    attempts = {"engine": {**ENGINE, "model": either}, "sampling": {**SAMPLING, "max_tokens": 40, "seed": seed}}
    planted = {"teacher": teacher, "per_problem": 1, "otherwise": "uniform", "seed": seed}
    mixed = {"k": 2000, "student": 0.5, "fix": 0.0, "error_free": 0.5, "seed": seed}
    stages = {
        "find": {"_target_": "curation.methods.lemma.errors.find", **attempts, "teacher": teacher},
        "inject": {"_target_": "curation.methods.lemma.errors.inject", **planted},
        "correct": {"_target_": "curation.methods.lemma.errors.correct", "teacher": teacher, "strategies": ["restart"]},
        "mix": {"_target_": "curation.methods.lemma.errors.mix_error_free", **mixed},
    }
    curate(folder, pool, stages, "mix", ["error_free"], seed)
    models = {
        "before": either,
        "error_free": train(folder / "free", either, folder / "controls" / "error_free.jsonl", seed, 4),
        "lemma": train(folder, either, folder / "curated.jsonl", seed, 4),
    }
    new = write_pool(folder / "new.jsonl", (make_guess(random.Random(f"new {seed} {n}")) for n in range(500)))
    right = accuracies(folder, models, new, {**SAMPLING, "n": 4})
    errors = {f"errors, {name}": 1 - share for name, share in right.items()}
    return {**errors, "fewer errors than error_free": right["lemma"] - right["error_free"]}


def make_hidden(rng: random.Random) -> tuple[str, str, int]:
    """A sum of two numbers whose sign is hidden in the question."""
    values = [rng.randint(1, 99), rng.randint(1, 99)]
    return f"{values[0]}?{values[1]}=", *make_chain(values, [rng.choice("+-")])


def make_dialogues(rng: random.Random, count: int, turns: int = 2) -> Iterator[Example]:
    """Answers at a first turn and at a second, each by chance, so that nothing is learned from the first answer."""
    for number in range(count):
        problem, chain, answer = make_hidden(rng)
        values = [int(value) for value in problem[:-1].split("?")]
        earlier = [make_chain(values, [rng.choice("+-")])[0]] if number % turns else []
        row = Example(f"{number}", chat(problem), str(answer), chain, source="sums")
        yield replace(row, prompt=DIALOGUE.prompt(row, earlier))


def rise(folder: Path, model: str, seed: int) -> Result:
    """The second turn beside a fresh sample, and beside the same rows with the history removed."""
    rng = random.Random(seed)
    boost = folder / "boost"
    write_jsonl(boost / "rows.jsonl", make_dialogues(rng, 2400))
    first = train(boost, model, boost / "rows.jsonl", seed, 4)
    pool = write_pool(folder / "pool.jsonl", (make_hidden(rng) for _ in range(800)))
    player = {"_target_": "curation.methods.rise.stages.Player", "engine": {**ENGINE, "model": first}}
    sampling = {**SAMPLING, "max_tokens": 48, "seed": seed}
    stages = {
        "collect": {
            "_target_": "curation.methods.rise.stages.collect",
            "dialogue": asdict(DIALOGUE),
            "players": {
                "first": {**player, "sampling": sampling},
                "second": {**player, "sampling": {**sampling, "n": 8}},
            },
            "rewards": {"right": 1.0, "wrong": 0.0, "none": 0.0},
        },
        "keep": {"_target_": "curation.methods.rise.stages.keep_by_criteria", "criteria": "all"},
        "weigh": {"_target_": "curation.methods.rise.stages.weigh_by_reward", "tau": 0.4, "centring": None},
    }
    curate(folder, pool, stages, "weigh", ["history_removed"], seed)
    more = {"weighting": "rows", "args": {"learning_rate": 7e-4}}
    models = {
        "boost": first,
        "rise": train(folder, first, folder / "curated.jsonl", seed, 4, **more),
        "removed": train(folder / "removed", first, folder / "controls" / "history_removed.jsonl", seed, 4, **more),
    }
    new = write_pool(folder / "new.jsonl", (make_hidden(random.Random(f"new {seed} {n}")) for n in range(500)))
    turns = evaluate(folder, models, new, {**sampling, "n": 2, "seed": 0}, asdict(DIALOGUE))["turns"]["models"]
    by = {name: {key: m["mean"] for key, m in turns[name]["new"]["measures"].items()} for name in models}
    return {
        **{f"turn 1, {name}": by[name]["m1@t1"] for name in models},
        **{f"two turns, {name}": by[name]["p1@t2"] for name in models},
        "two samples, rise": by["rise"]["p2@t1"],
        "a second turn against a fresh sample": by["rise"]["p1@t2"] - by["rise"]["p2@t1"],
        "a second turn against history removed": by["rise"]["p1@t2"] - by["removed"]["p1@t2"],
    }


FLIPPED = 0.3


def discover(folder: Path, model: str, seed: int) -> Result:
    """The best of 16 new losses, grown from a grammar, against DPO."""
    found = search_losses(folder, model, seed, {"_target_": "limo.discover.proposers.Grammar", "seed": seed})
    best = found["confirmed"][0]
    gain = {"low": best["low"], "high": best["high"]}  # over five seeds and the pairs
    return {"dpo": found["baseline_confirmed"], "the best of 16 new losses minus dpo": best["difference"], **gain}


def search_losses(folder: Path, model: str, seed: int, proposer: dict[str, Any]) -> dict[str, Any]:
    """A search on pairs of which 30 % are flipped, measured on pairs that are not; the content of discovered.json.

    The sign of "12?7" is hidden again, and the model has learned to take either. Preferred is plus where the first
    number is the larger one.
    """
    rng = random.Random(seed)
    write_jsonl(folder / "boost" / "rows.jsonl", make_dialogues(rng, 1200, turns=1))
    either = train(folder / "boost", model, folder / "boost" / "rows.jsonl", seed, 4)
    pairs = folder / "pairs.jsonl"
    with replacing(pairs) as file:
        for number in range(1100):
            values = [rng.randint(1, 99), rng.randint(1, 99)]
            plus, minus = (make_chain(values, [sign])[0] for sign in "+-")
            good, bad = (plus, minus) if values[0] > values[1] else (minus, plus)
            chosen, rejected = (good, bad) if rng.random() >= FLIPPED else (bad, good)
            problem = f"{values[0]}?{values[1]}="
            row = {"id": str(number), "prompt": problem, "chosen": chosen, "rejected": rejected, "good": good}
            file.write(json.dumps(row) + "\n")
    section = {key: value for key, value in TRAIN.items() if key != "args"}
    args = {**TRAIN["args"], "learning_rate": 5e-4, "num_train_epochs": 10, "beta": 1.0}
    args |= {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 100, "precompute_ref_log_probs": True}
    measure = {"unflipped": {"_target_": "bench.proofs.controls.unflipped", "pairs": str(pairs)}}
    node = {
        "_target_": "limo.discover.search.discover",
        "out": str(folder),
        "train": {**section, "_target_": "limo.prefer.prefer", "model": either, "args": args},
        "data": str(pairs),
        "split": {"train": 320, "held_out": 300, "fresh": 400},
        "known": {name: f"limo.training.preference.{name}" for name in ("dpo", "slic", "ipo", "kto_pair")},
        "baseline": "dpo",
        "seeds": [0],
        "baseline_seeds": [0, 1],
        "warmup": 0.3,
        "proposer": proposer,
        "candidates": 16,
        "proposals": 60,
        "fitness": measure,
        "confirm": {"finalists": 1, "seeds": [10, 11, 12, 13, 14], "fitness": measure},
    }
    return dict(bind(node, "discover")())


def unflipped(folder: Path, held_out: Path, /, *, pairs: str) -> dict[str, float]:
    """For each held-out pair 1 if the model came to prefer the right chain, whichever side it stands on."""
    good = {row["id"]: row["good"] == row["chosen"] for row in map(json.loads, Path(pairs).read_text().splitlines())}
    rows = map(json.loads, (folder / "held_out.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["id"]: float((row["chosen"] > row["rejected"]) == good[row["id"]]) for row in rows}


def make_product(rng: random.Random) -> tuple[str, str, int]:
    """A small number times a larger one, worked out by adding, and its answer."""
    times, value = rng.randint(2, 4), rng.randint(2, 99)
    chain, total = make_chain([value] * times, ["+"] * (times - 1))
    return f"{times}*{value}=", chain, total


def mammoth2(folder: Path, model: str, seed: int) -> Result:
    """Accuracy on new products after pairs mined from pages, and after the same pairs with other answers."""
    rng = random.Random(seed)
    everything = {row[0]: row for row in (make_product(rng) for _ in range(5000))}
    products = list(everything.values())
    rng.shuffle(products)
    new = write_pool(folder / "new.jsonl", ((f"What is {p[:-1]}?", c, a) for p, c, a in products[:90]))
    write_pages(folder / "web.warc.gz", products[90:], rng)
    fives = [(f"5*{n}=", *make_chain([n] * 5, ["+"] * 4)) for n in range(2, 100)]  # neither mined nor tested
    write_pages(folder / "seeds.warc.gz", [*fives, *(make_sum(rng) for _ in range(100))], rng, shops=0)
    read = {
        "_target_": "curation.methods.mammoth2.pages.read",
        "columns": None,
        "max_bytes": 1_000_000,
        "seconds": 5,
        "memory": 1024,
        "deny": [],
        "robots": [],
    }
    archives, listed = "curation.methods.mammoth2.pages.archives", "curation.methods.mammoth2.domains.listed"
    decide = {"_target_": listed, "keep": [], "drop": [], "otherwise": "keep"}
    stages = {
        "pages": read,
        "recall": {
            "_target_": "curation.methods.mammoth2.recall.recall",
            "seeds": {
                "positives": {"exams": {"_target_": archives, "paths": [str(folder / "seeds.warc.gz")]}},
                "read": read,
                "per_class": 300,
            },
            "learning": {"ngrams": 3, "features": 262144, "epochs": 20, "rate": 1.0},
            "threshold": 0.5,
            "held_out": 0.3,
            "least": 5,
            "first": decide,
            "second": decide,
            "seed": seed,
        },
        "pairs": {
            "_target_": "curation.methods.mammoth2.harvest.extract_by_rules",
            "rules": ["problem and solution", "q&a markup", "labelled lines"],
            "least": 3,
            "most": 80,
        },
        "exact_dedup": {"_target_": "curation.stages.dedup.exact_dedup"},
        "decontaminate": {
            "_target_": "curation.stages.decontaminate.decontaminate",
            "benchmarks": {"new": new},
            "variants": "keep",
        },
        "verified": {"_target_": "curation.methods.mammoth2.refine.verify_pairs", "unverified": "drop"},
    }
    pool = {"_target_": archives, "paths": [str(folder / "web.warc.gz")]}
    curate(folder, pool, stages, "verified", [], seed)
    rows = list(read_jsonl(folder / "curated.jsonl"))
    write_jsonl(folder / "exchanged.jsonl", exchanged(rows, rng))
    models = {
        "base": model,
        "exchanged": train(folder / "exchanged", model, folder / "exchanged.jsonl", seed, 20),
        "mined": train(folder, model, folder / "curated.jsonl", seed, 20),
    }
    right = accuracies(folder, models, new, {**SAMPLING, "temperature": 0.0})
    return {
        "mined pairs / 1000": len(rows) / 1000,
        **right,
        "mined minus exchanged": right["mined"] - right["exchanged"],
    }


def exchanged(rows: list[Any], rng: random.Random) -> list[Any]:
    """The rows, each with the answer of another."""
    order = rng.sample(rows, len(rows))
    return [
        replace(row, completion=o.completion, answer=o.answer)
        for row, o in zip(rows, [*order[1:], *order[:1]], strict=True)
    ]


def write_pages(path: Path, problems: list[tuple[str, str, int]], rng: random.Random, shops: int = 3000) -> None:
    """A web archive: three problems a page in one of three layouts at schools, and pages of shops."""
    pages = list[tuple[str, str]]()
    for at in range(0, len(problems), 3):
        layout, parts = rng.choice(LAYOUTS), []
        for number, (problem, chain, answer) in enumerate(problems[at : at + 3], 1):
            solution = chain.partition("\\boxed")[0].replace("\n", "<br>") + f"The answer is {answer}."
            parts.append(layout.format(n=number, q=f"What is {problem[:-1]}?", a=solution))
        pages.append((f"https://school{at % 7}.example/{at}", "".join(parts)))
    for at in range(shops):
        pages.append((f"https://shop{at % 9}.example/{at}", f"<p>Number {at}: {' '.join(rng.choices(SHOP, k=40))}</p>"))
    whole = "<!DOCTYPE html><html lang='en'><head><title>Page</title></head><body><main>{}</main></body></html>"
    path.parent.mkdir(parents=True, exist_ok=True)
    records = b"".join(record(url, whole.format(page)) for url, page in pages)
    path.write_bytes(gzip.compress(records, mtime=0))


LAYOUTS = (
    "<h2>Problem {n}</h2><p>{q}</p><h3>Solution</h3><p>{a}</p>",
    "<p>Q: {q}</p><p>A: {a}</p>",
    "<div class='question'>{q}</div><div class='answer'>{a}</div>",
)
SHOP = "warm red shoes for rain and snow new this week only half price order today we send the same day free".split()


CONTROLS: dict[str, Callable[[Path, str, int], Result]] = {
    "lemma": lemma,
    "rise": rise,
    "discover": discover,
    "mammoth2": mammoth2,
}

if __name__ == "__main__":
    with reported():
        main()
