"""Does a choice of chains teach more than random ones? In blocks (`recipe/choosing.yaml`) that can stop after any.

    python -m bench.studies.study calibrate                  # which kinds of problems the student learns
    python -m bench.studies.study kept                       # what bench/data/choosing.jsonl says
    python -m bench.studies.study                            # hours; killed at any time, the same command resumes
    python -m bench.studies.study study.doses.0.blocks=12    # more blocks go on from what is trained
    cat runs/choosing/blocks.jsonl >> bench/data/choosing.jsonl    # finished blocks, for other machines to go on from

A block is a new pool of known truth (`limo/sources/known_truth.py`), new test problems and a new order of rows; `seed`
gives others. Every arm is trained in every block, with the same number of rows and of optimizer steps, so an arm's
difference to random is paired by block. Intervals are those of t with blocks - 1 degrees of freedom, and hold for all
arms together (Bonferroni). The truth is hidden from all arms but `oracle`. Recovered is (arm - random) / (oracle -
random). What is in `bench/data/choosing.jsonl` was trained on pools of an earlier maker, which had sums as well.

A second, less noisy endpoint: the mean log-likelihood that the trained model gives to right chains of held-out
problems, written in all three ways.
"""

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from curation.evidence.controls import random_set
from curation.evidence.tournament import choose_by
from curation.evidence.verdict import decide
from curation.run import run_first
from curation.stage import in_order
from eval.metrics import correct_share
from eval.run import grade_rows
from limo.console import Table, print_table, progress, say, terminal
from limo.data import Example, content_id, replacing, write_jsonl
from limo.engines.protocol import Sampling, sample
from limo.errors import reported
from limo.machine import set_environment
from limo.processes import give_back_memory
from limo.recipe import bind, compose, compose_arguments
from limo.run import read_manifest
from limo.sources import chat
from limo.sources.known_truth import FLAWED_CHAINS, Problem, draw_problems, is_good, pool, write_chain

Recipe = Mapping[str, Any]
RECIPES = ["--config-dir", str(Path(__file__).parent)]
RESULTS = Path(__file__).parents[1] / "data" / "choosing.jsonl"  # finished blocks, a line each: an hour on one core
CHAINS = 96  # held-out chains of the second endpoint


class Block:
    """A pool, its test, and the arms that are trained on it."""

    def __init__(self, recipe: Recipe, folder: Path, spoiled: float, number: int) -> None:
        self.recipe, self.study = recipe, recipe["study"]
        self.seed = 100_000 * int(recipe["seed"]) + 1000 * number + round(100 * spoiled)
        self.folder = folder / f"spoiled-{round(100 * spoiled)}" / f"block-{number}"
        study, seen, rng = self.study, set[str](), Random(f"study {self.seed}")
        self.test = self._rows(draw_problems(rng, study["target"], study["test"], seen), "test")
        held_out = draw_problems(rng, study["target"], study["validation"], seen)
        self.validation = self._rows(held_out, "validation", "clean")
        self.styles = self._rows(draw_problems(rng, study["target"], CHAINS, seen), "style", "clean", "wording", "long")
        self.pool = [
            {"problem": row.question, "chain": row.completion, "answer": row.answer, **row.notes}
            for row in (self._taught(number, rng) if "teachers" in study else self._made(spoiled))
            if row.question not in seen
        ]

    def _made(self, spoiled: float) -> Iterator[Example]:
        """A pool of one writer."""
        flaws = {flaw: spoiled * share for flaw, share in self.study["flaws"].items()}
        given = {name: self.study[name] for name in ("kinds", "dirt")}
        made = pool("made", "", size=self.study["problems"], seed=self.seed, flaws=flaws, **given)
        return (row for row in made if isinstance(row, Example))

    def _taught(self, number: int, rng: Random) -> Iterator[Example]:
        """A chain of each teacher for every problem. A teacher has a style of its own, and spoils another share of its
        chains in the next block.
        """
        styles, shares = list(self.study["teachers"]), list(self.study["teachers"].values())
        flaws = self.study["flaws"]
        for at, problem in enumerate(draw_problems(rng, self.study["kinds"], self.study["problems"], set())):
            for style, share in zip(styles, [*shares[number % 3 :], *shares[: number % 3]], strict=True):
                flaw = rng.choices(list(flaws), list(flaws.values()))[0] if rng.random() < share else ""
                chain = FLAWED_CHAINS[flaw](problem, rng, style) if flaw else write_chain(problem, style)
                notes = {"topic": problem.kind, "made": flaw or style, "writer": style, "spoils": share}
                yield Example(f"{at}/{style}", chat(problem.question, ""), str(problem.answer), chain, notes=notes)

    def _rows(self, problems: Sequence[Problem], name: str, *styles: str) -> list[Example]:
        """Problems as rows, with a chain in one of the styles in turn."""
        return [
            Example(
                f"{name}/{at}",
                chat(problem.question, self.recipe["system"]),
                str(problem.answer),
                write_chain(problem, styles[at % len(styles)]) if styles else "",
                source=name,
                notes={"topic": problem.kind, "made": "clean"},
                scores={"tokens": 0.0},
            )
            for at, problem in enumerate(problems)
        ]

    def candidates(self) -> list[Example]:
        """The pool after deduplication, attempts, verification and scoring."""
        path, target = self.folder / "pool.jsonl", self.folder / "target.jsonl"
        if not path.exists():
            known = [{"problem": r.question, "chain": r.completion, "answer": r.answer} for r in self.validation]
            for name, rows in ((target, known), (path, self.pool)):
                with replacing(name) as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
        curate = {**self.recipe["curate"], "out": str(self.folder)}
        curate["pool"] = {name: {**node, "path": str(path)} for name, node in curate["pool"].items()}
        stages = {
            name: {**node, "target": {**node["target"], "path": str(target)}} if "target" in node else node
            for name, node in in_order(curate["stages"], curate.get("order")).items()
        }
        rows = run_first({**curate, "stages": stages}, stages)
        return [replace(row, notes={**row.notes, "made": "own"}) if "/own/" in row.id else row for row in rows]

    def choose(self, arm: str, rows: Sequence[Example]) -> list[Example]:
        """The rows of an arm."""
        k, stages = self.study["k"], self.recipe["arms"]
        if arm == "oracle":
            good = [row for row in rows if is_good(row)]
            return (
                choose_by(stages["target"], good, k, self.seed)
                if "target" in stages
                else random_set(good, k, self.seed)
            )
        if arm in TEACHERS:
            return random_set(_rows_of(TEACHERS[arm], rows), k, self.seed)
        if arm == "everything":
            return random_set(rows, len({row.problem for row in rows}), self.seed)
        if arm == "random_tokens":  # as many tokens as the arm `default` has
            return random_set(rows, k, self.seed, choose_by(stages["default"], rows, k, self.seed))
        if arm == "random_and_validation":
            return [*self.validation, *random_set(rows, k - len(self.validation), self.seed)]
        return random_set(rows, k, self.seed) if arm == "random" else choose_by(stages[arm], rows, k, self.seed)

    def made_from(self, arm: str) -> str:
        """A name of all that an arm's score depends on."""
        sizes = [self.study["k"], self.study["test"]]
        train = {key: value for key, value in self.recipe["train"].items() if key not in ("out", "data")}
        return content_id([train, *sizes, self.recipe["arms"].get(arm), self.pool])

    def known(self, arms: Sequence[str]) -> dict[str, Any] | None:
        """The scores of all arms, if a whole block of these settings is among the results that are kept here."""
        for line in RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else ():
            found = json.loads(line)
            if all(found.get(arm, {}).get("made_from") == self.made_from(arm) for arm in arms):
                return {arm: found[arm] for arm in arms}
        return None

    def score(self, arm: str, rows: Callable[[], Sequence[Example]]) -> dict[str, Any]:
        """What an arm's model reaches, trained where it is not known yet."""
        place = self.folder / arm
        made_from = self.made_from(arm)
        kept = place / "score.json"
        if kept.exists() and (found := dict(json.loads(kept.read_text())))["made_from"] == made_from:
            return found
        shutil.rmtree(place, ignore_errors=True)
        if arm == "untrained":
            found = measure(self.recipe, self.recipe["student"], self.test, self.styles)
            found |= {"rows": 0, "tokens": 0, "good": 0.0, "made_from": made_from}
            with replacing(kept) as file:
                json.dump(found, file)
            return found
        chosen = self.choose(arm, rows())
        write_jsonl(place / "rows.jsonl", chosen)
        found = {**train_and_measure(self.recipe, place, self.seed, self.test, self.styles), "made_from": made_from}
        found["good"] = fmean(is_good(row) for row in chosen)
        with replacing(kept) as file:
            json.dump(found, file)
        return found


TEACHERS: Mapping[str, Callable[[Example], float]] = {  # arms with the chains of one teacher, that of the lowest mean
    "likely_teacher": lambda row: row.scores["nll_inner"],
    "right_teacher": lambda row: row.notes["spoils"],
}


def _rows_of(low: Callable[[Example], float], rows: Sequence[Example]) -> list[Example]:
    by_teacher: dict[str, list[Example]] = {}
    for row in rows:
        by_teacher.setdefault(row.notes["writer"], []).append(row)
    return min(by_teacher.values(), key=lambda own: fmean(map(low, own)))


def train_and_measure(
    recipe: Recipe, place: Path, seed: int, test: Sequence[Example], styles: Sequence[Example]
) -> dict[str, Any]:
    """Train on `place`/rows.jsonl and measure; the model is not kept. Every training has as many optimizer steps."""
    train, study = recipe["train"], recipe["study"]
    steps = math.ceil(study["k"] / train["global_batch"]) * train["args"]["num_train_epochs"]
    node = {**train, "out": str(place), "data": str(place / "rows.jsonl"), "seed": seed}
    bind({**node, "args": {**train["args"], "max_steps": steps}}, "train")()
    model = str(place / "model")
    found = {**measure(recipe, model, test, styles), **_trained(place)}
    shutil.rmtree(model)
    return found


def _trained(place: Path) -> dict[str, Any]:
    done = read_manifest(place)["train"]
    return {"rows": done["results"]["rows"], "tokens": done["tokens"], "seconds": done["seconds"]}


def measure(recipe: Recipe, model: str, test: Sequence[Example], styles: Sequence[Example]) -> dict[str, Any]:
    """Accuracy over the test and by kind, and the mean log-likelihood of a token of right chains."""
    engine = bind({**recipe["engine"], "model": model}, "engine")()
    completions = sample(engine, [row.prompt for row in test], Sampling(**recipe["study"]["sampling"]), "test")
    shares = correct_share(grade_rows(test, completions))
    del engine
    give_back_memory()
    by_kind: dict[str, list[float]] = {}
    for row in test:
        by_kind.setdefault(row.notes["topic"], []).append(shares[row.id])
    fit = bind({**recipe["curate"]["stages"]["fit"], "model": model, "scores": ["nll"]}, "fit")
    likelihood = -fmean(row.scores["nll"] for row in fit(styles))
    kinds = {kind: fmean(values) for kind, values in by_kind.items()}
    return {"accuracy": fmean(shares.values()), "kinds": kinds, "likelihood": likelihood}


def calibrate(recipe: Recipe, folder: Path) -> None:
    """Accuracy by kind before and after a training on 256 right chains of that kind."""
    block, rows = Block(recipe, folder / "calibration", 0.0, 0), []
    for kind in recipe["study"]["kinds"]:
        problems = draw_problems(Random(kind), {kind: 1.0}, 376, set())
        test, place = block._rows(problems[:120], "test"), folder / "calibration" / kind
        if not (place / "score.json").exists():
            before = measure(recipe, recipe["student"], test, block.styles)["accuracy"]
            write_jsonl(place / "rows.jsonl", block._rows(problems[120:], "train", "clean", "wording"))
            after = train_and_measure(recipe, place, 0, test, block.styles)
            (place / "score.json").write_text(json.dumps({"before": before, "after": after["accuracy"]}))
        found = json.loads((place / "score.json").read_text())
        rows.append((kind, f"{100 * found['before']:.1f}", f"{100 * found['after']:.1f}"))
        say(f"{kind}: {rows[-1][1]} % before, {rows[-1][2]} % after")
    print_table(Table(("kind", "before, %", "after, %"), rows, (1, 2)), terminal(80))


def study(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """All blocks of all doses; writes and returns what is known after each block."""
    arms = ["random", "oracle", *recipe["arms"], *recipe["study"]["extra"]]
    arms = [arm for arm in arms if arm in recipe["study"].get("only", arms)]
    found: dict[str, Any] = {}
    for dose in recipe["study"]["doses"]:
        spoiled = float(dose["spoiled"])
        scores: list[dict[str, Any]] = []
        for number in range(dose["blocks"]):
            block, kept = Block(recipe, folder, spoiled, number), list[Example]()

            def rows(block: Block = block, kept: list[Example] = kept) -> Sequence[Example]:
                kept[:] = kept or block.candidates()
                return kept

            scores.append(block.known(arms) or {})
            left = [arm for arm in arms if arm not in scores[-1]]
            with progress(f"{100 * spoiled:.0f} % spoiled, block {number}", len(left), "training") as advance:
                for arm in left:
                    scores[-1][arm] = block.score(arm, rows)
                    advance(1, f"{arm}: {100 * scores[-1][arm]['accuracy']:.1f} %")
            if left:
                with (folder / "blocks.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(scores[-1]) + "\n")
            found[str(spoiled)] = conclude(scores, recipe["study"])
            with replacing(folder / "study.json") as file:
                json.dump(found, file, indent=1)
            (folder / "study.md").write_text(write_page(found), encoding="utf-8")
    return found


def conclude(scores: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """By arm the accuracy of each block, its difference to random with an interval, and the share recovered."""
    accuracy = {arm: [block[arm]["accuracy"] for block in scores] for arm in scores[0]}
    means = {arm: fmean(values) for arm, values in accuracy.items()}
    differences = {
        arm: [mine - other for mine, other in zip(values, accuracy["random"], strict=True)]
        for arm, values in accuracy.items()
        if arm != "random"
    }
    intervals = {}
    if len(scores) > 1:
        verdict = decide(differences, settings["margin"], {}, 1 / settings["test"])
        intervals = {versus.name: (versus.low, versus.high) for versus in verdict.finalists}
    room = means["oracle"] - means["random"]
    return {
        arm: {
            "accuracy": values,
            "mean": means[arm],
            "difference": means[arm] - means["random"],
            "interval": intervals.get(arm),
            "recovered": (means[arm] - means["random"]) / room if room > 0 else None,
            **{name: fmean(block[arm][name] for block in scores) for name in ("likelihood", "rows", "tokens", "good")},
            "kinds": {kind: fmean(block[arm]["kinds"][kind] for block in scores) for kind in scores[0][arm]["kinds"]},
        }
        for arm, values in accuracy.items()
    }


HEAD = (
    "arm",
    "accuracy, %",
    "to random",
    "95 % interval",
    "recovered",
    "good chains",
    "rows",
    "tokens seen",
    "log-likelihood",
)


def write_page(found: Mapping[str, Any]) -> str:
    """The study as Markdown."""
    lines = list[str]()
    for spoiled, arms in found.items():
        blocks = len(arms["random"]["accuracy"])
        lines += [
            "",
            f"## {100 * float(spoiled):.0f} % spoiled, {blocks} blocks",
            "",
            "| " + " | ".join(HEAD) + " |",
            "|---|" + "---:|" * 8,
        ]
        for arm, one in sorted(arms.items(), key=lambda item: -item[1]["mean"]):
            interval = (
                "{:+.1f} to {:+.1f}".format(*(100 * value for value in one["interval"])) if one["interval"] else ""
            )
            recovered = "" if one["recovered"] is None else f"{100 * one['recovered']:.0f} %"
            difference = "" if arm == "random" else f"{100 * one['difference']:+.1f}"
            cells = [arm, f"{100 * one['mean']:.1f}", difference, interval, recovered, f"{100 * one['good']:.0f} %"]
            lines.append(
                "| "
                + " | ".join([*cells, f"{one['rows']:.0f}", f"{one['tokens']:,.0f}", f"{one['likelihood']:.3f}"])
                + " |"
            )
    return "\n".join(lines).strip() + "\n"


def main() -> None:
    """The command `python -m bench.studies.study`."""
    set_environment()
    arguments = sys.argv[1:]
    calibrating = "calibrate" in arguments
    with reported():
        if "kept" in arguments:
            lines = map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())
            print(
                write_page(
                    {"0.5": conclude(list(lines), compose(*compose_arguments([*RECIPES, "recipe=choosing"]))["study"])}
                )
            )
            return
        given = [argument for argument in arguments if argument != "calibrate"]
        recipe = compose(*compose_arguments([*RECIPES, "recipe=choosing", *given]))
        folder = Path(recipe["out"])
        folder.mkdir(parents=True, exist_ok=True)
        if calibrating:
            calibrate(recipe, folder)
        else:
            print(write_page(study(recipe, folder)))


if __name__ == "__main__":
    main()
