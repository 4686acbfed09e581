"""Does a choice of chains beat a random one, for your pool and your model? Small trainings, then one sentence.

    python -m curation.evidence.tournament recipe=demo

Candidates are named lists of choosing stages. Each first chooses from pairs with known flaws (`probe.py`), and flaws
that it prefers are printed. All candidates and `random` (the arms) are trained at a fraction of the size, in blocks.
The arms of a block share a random part of the pool and an order of rows, so that differences are paired. The worse half
is dropped after each round (successive halving). The best two and random are then trained at full size in fresh blocks,
each measured on problems that nothing else has used, and compared by the paired differences of the blocks
(`verdict.py`). The outcome is one of three:

    nll beats random by 8.1 points (4.0 to 12.2), more than 3 points.
    No candidate beats random by more than 3 points (nll +0.4 points (-1.1 to 1.9)): use random chains, ...
    Undecided: nll +4.0 points (-2.1 to 10.1); the margin is 3 points. About 5 more blocks are needed: ...

Every training has a folder below `tournament/`, and a killed tournament resumes. Problems to measure on are those of
`measured`, or a part of the recipe's own pool, and are never trained on. A training that diverges counts as 0 right.
`tournament.dry_run=true` prints the cost, and neither samples nor trains.

`search` lets Optuna choose the weights of one candidate's score by small trainings before the first round, as R-Select
does; the fresh blocks of the last round judge the weights that it found.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from curation.evidence.controls import random_set
from curation.evidence.probe import apply_calls, plant, scoring_calls
from curation.evidence.verdict import Sizes, Verdict, decide, detectable
from curation.run import read_pool, run_first
from curation.stage import in_order
from curation.stages.choose import read_target
from eval.intervals import wilson
from eval.metrics import correct_share
from eval.run import grade_rows
from limo.chat import render
from limo.command import command
from limo.console import Table, clock, print_table, progress, say, terminal
from limo.data import CHARACTERS, Example, content_id, read_jsonl, replacing, write_jsonl
from limo.engines.protocol import Sampling, sample
from limo.errors import MissingModel, UserError
from limo.model import load_tokenizer, tokenizer_folder
from limo.processes import give_back_memory, run_section_apart
from limo.recipe import bind, bound_settings, suggest
from limo.run import lasting, lock_run, read_manifest
from limo.training.sizes import GPUS, Data, Work, measure_or_read_name, seconds_per_step

RANDOM, RANDOM_TOKENS, UNTRAINED = "random", "random_tokens", "untrained"
SEEDS_OF_TIES = 5
SEARCH_BLOCKS = 500  # the number of the first block of a search; those of the last round begin at 1000
DIVERGED = "training diverged"  # how the trainer's error begins
HOUR_OF, UTILISATION = "H100", 0.4  # the GPU whose hours are printed, and the share of its peak that is reached
READ = 200  # chains of the pool whose lengths a dry run reads

Candidates = Mapping[str, Mapping[str, Any]]  # by name the choosing stages, by their names


@dataclass(frozen=True, slots=True)
class Search:
    """A search for one candidate's weights with Optuna's tree-structured Parzen estimator (TPE)."""

    candidate: str
    stage: str  # the candidate's stage whose setting `weights` is replaced
    scores: Annotated[list[str], Field(min_length=2)]  # scores with a weight from -1 to 1; absolute values sum to 1
    trials: PositiveInt  # each takes `screen_blocks` trainings


def tournament(
    *,
    out: str,
    curate: dict[str, Any] | None,
    train: dict[str, Any] | None,
    engine: dict[str, Any] | None,
    sampling: Sampling | None,
    source: str | None,
    candidates: dict[str, dict[str, Any]] | None,
    sizes: Sizes | None,
    margin: float,
    shows: float,
    apart: bool,
    seed: int,
    measured: dict[str, Any] | None = None,
    search: Search | None = None,
    dry_run: bool = False,
) -> Verdict | None:
    """Measure whether a candidate's choice beats random chains; print and return the verdict.

    Args: candidates choose from the input rows of the stage `source`, null for that of the control sets; the stages
    before it run as in `curation.run`. `candidates` are named lists of choosing stages, the last with a size `k` that
    is set here; null takes the recipe's stages from `source` on. `train` is the recipe's section; `engine` (without its
    model) and `sampling` measure a model. `margin` is the accuracy difference that matters, from 0 to 1; with `sizes`
    null they are chosen to show a true gain of `shows`. `measured` is a pool source of problems to measure on, null
    takes them from the pool. `apart` runs each training in a process (needed for several GPUs), which costs seconds of
    start-up. A `dry_run` returns None and runs no stage. Raises UserError for too few problems, an unknown stage or
    candidate, and a gain that is no more than the margin.
    """
    if not (curate and train and engine and sampling):
        raise UserError(
            "tournament: the recipe needs the sections curate and train, an engine and eval.sampling, since small "
            "trainings judge a choice"
        )
    stages, folder = in_order(curate["stages"], curate.get("order")), Path(out) / "tournament"
    source = source or str(curate["controls"]["source"])
    if source not in stages:
        raise UserError(f"tournament.source: there is no stage '{source}'{suggest(source, stages)}")
    at = list(stages).index(source)
    candidates = candidates or {"recipe": dict(list(stages.items())[at:])}
    if {RANDOM, RANDOM_TOKENS, UNTRAINED} & set(candidates):
        raise UserError(f"tournament.candidates: {RANDOM}, {RANDOM_TOKENS} and {UNTRAINED} are measured in any case")
    if search and "weights" not in candidates.get(search.candidate, {}).get(search.stage, {}):
        raise UserError(f"tournament.search: the candidate '{search.candidate}' has no weights in a '{search.stage}'")
    if not 0 <= margin < shows:
        raise UserError(f"tournament.shows={shows} must be above tournament.margin={margin}, and that 0 or more")
    before = dict(list(stages.items())[:at])
    free = read_target(measured, "tournament.measured") if measured else None
    count = None if free is None else len(free)
    trainer = Trainer(train, engine, sampling, apart)
    if dry_run:
        pool = [row for row in read_pool(curate["pool"], curate["system"]) if isinstance(row, Example)]
        given = sizes or Sizes.to_show(shows, margin, len({row.problem for row in pool}), count)
        print_costs(list_rounds(given, len(candidates), search), trainer, pool, folder)
        say(describe_power(given, margin))
        return None
    rows = list(run_first(curate, before))
    sizes = sizes or Sizes.to_show(shows, margin, len({row.problem for row in rows}), count)
    counts = {key: value for key, value in asdict(sizes).items() if key != "final_blocks"}
    texts = [row.question for row in free or ()]
    made = [curate, train, engine, asdict(sampling), seed, counts, texts]
    made_from = content_id(json.loads(json.dumps(lasting(made))))
    with lock_run(folder, "running a tournament"):
        arms = Arms(folder, made_from, rows, candidates, sizes, trainer, seed, scoring_calls(before), free)
        if search:
            arms = search_weights(arms, search)
        for name in arms.candidates:
            arms.warn_of_flaws(name)
        trainings = sum(count for _, count, _ in list_rounds(sizes, len(candidates), search))
        say(f"{len(candidates)} candidates and random: {trainings} trainings at most")
        say(describe_power(sizes, margin))
        verdict = arms.run(list(arms.candidates), margin)
    with replacing(folder / "verdict.json") as file:
        json.dump(asdict(verdict), file, indent=1)
    return verdict


@dataclass(frozen=True)
class Trainer:
    """Trains on a set of rows and measures the accuracy of the model."""

    train: Mapping[str, Any]
    engine: Mapping[str, Any]
    sampling: Sampling
    apart: bool

    def measure(self, place: Path, data: Path, steps: int, seed: int, problems: Sequence[Example]) -> dict[str, Any]:
        """Train on a file, sample the problems, and return accuracy, rows and tokens; the model is not kept."""
        args = {**self.train["args"], "max_steps": steps}
        node = {**self.train, "out": str(place), "data": str(data), "seed": seed, "args": args}
        try:
            if self.apart:
                run_section_apart("limo.train", "train", node, place)
            else:
                bind(node, "train")()
        except UserError as error:
            if DIVERGED not in str(error):
                raise
            say(f"{place.name} counts as 0 right: {error}")
            return {"accuracy": 0.0, "rows": sum(1 for _ in read_jsonl(data)), "tokens": 0}
        accuracy = self.accuracy(str(place / "model"), problems, place.name)
        shutil.rmtree(place / "model")
        done = read_manifest(place)["train"]
        return {"accuracy": accuracy, "rows": done["results"]["rows"], "tokens": done["tokens"]}

    def accuracy(self, model: str, problems: Sequence[Example], name: str) -> float:
        """The share of the problems that a model solves."""
        engine = bind({**self.engine, "model": model}, "tournament.engine")()
        completions = sample(engine, [row.prompt for row in problems], self.sampling, name)
        shares = correct_share(grade_rows(problems, completions))
        del engine
        give_back_memory()
        return fmean(shares.values())


@dataclass(frozen=True)
class Arms:
    """The arms of a tournament, with the pool and its held-out problems."""

    folder: Path
    made_from: str
    rows: Sequence[Example]  # rows to choose from
    candidates: Candidates
    sizes: Sizes
    trainer: Trainer
    seed: int
    scoring: Mapping[str, Callable[..., Any]] = field(default_factory=dict)  # the recipe's stages that add scores
    free: Sequence[Example] | None = None  # problems to measure on; None takes them from the pool

    def __post_init__(self) -> None:
        if self.free is not None and len(self.free) < self.wanted:
            raise UserError(
                f"tournament.measured has {len(self.free)} problems, and {self.wanted} are measured on: "
                f"{self.sizes.screen_problems} in the rounds and {self.sizes.final_problems} in each final block"
            )
        left = int((len(self.problems) - self.reserved) * self.sizes.pool_share)
        if left < self.sizes.k:
            raise UserError(
                f"the pool has {len(self.problems)} problems: {self.reserved} are held out, and {max(left, 0)} of the "
                f"others are in a block, too few for k={self.sizes.k}. Lower tournament.sizes, or take a larger pool"
            )

    @cached_property
    def problems(self) -> list[str]:
        """The pool's problems in random order: held-out problems first, training problems after them."""
        return sorted({row.problem for row in self.rows}, key=lambda name: content_id([self.seed, "held out", name]))

    @property
    def reserved(self) -> int:
        """How many problems of the pool are held out."""
        return 0 if self.free is not None else self.wanted

    @property
    def wanted(self) -> int:
        """The number of problems that the models are evaluated on."""
        return self.sizes.screen_problems + self.sizes.final_problems * self.sizes.final_blocks

    def held_out(self, final_block: int | None) -> list[Example]:
        """The problems of the screening rounds, or of one block of the last round."""
        start, count = 0, self.sizes.screen_problems
        if final_block is not None:
            start, count = count + final_block * self.sizes.final_problems, self.sizes.final_problems
        if self.free is not None:
            return list(self.free[start : start + count])
        chosen = set(self.problems[start : start + count])
        one = {row.problem: row for row in self.rows if row.problem in chosen}
        return [replace(row, completion="") for row in one.values()]

    def block(self, number: int) -> list[Example]:
        """The rows that a block sees: all chains of a random part of the problems that are not held out."""
        free = sorted(self.problems[self.reserved :], key=lambda name: content_id([self.seed, number, name]))
        chosen = set(free[: math.ceil(len(free) * self.sizes.pool_share)])
        return [row for row in self.rows if row.problem in chosen]

    @cached_property
    def flawed(self) -> dict[str, list[tuple[Example, Example]]]:
        """By flaw, pairs of a chain and its spoiled copy, with the scores of both."""
        with_chain = [row for row in self.rows if row.completion]
        clean = [row for row in with_chain if row.notes.get("made", "clean") == "clean"] or with_chain
        pairs = plant(random_set(clean, 50, self.seed), clean, self.seed)
        both = {row.id: row for listed in pairs.values() for pair in listed for row in pair}
        again = {row.id: row for row in apply_calls(list(both.values()), self.scoring)[0]}
        return {flaw: [(again[a.id], again[b.id]) for a, b in listed] for flaw, listed in pairs.items()}

    def warn_of_flaws(self, name: str) -> None:
        """Print which flaws a candidate prefers. The candidate stays in the tournament, since only training shows what
        a flaw costs.

        The intervals hold for all flaws together (Bonferroni): otherwise chance alone would often make one of the six
        flaws look preferred.
        """
        z = NormalDist().inv_cdf(1 - 0.025 / max(len(self.flawed), 1))
        preferred = []
        for flaw, pairs in self.flawed.items():
            points = prefers_untouched(self.candidates[name], pairs, self.seed)
            if points and wilson(fmean(points), len(points), z)[1] < 0.5:
                preferred.append(f"{flaw} ({100 * fmean(points):.0f} %)")
        if preferred:
            say(
                f"'{name}' prefers chains with a flaw to their untouched copies (50 % is blind): {', '.join(preferred)}"
            )

    def gains(self, names: Sequence[str], first: int) -> dict[str, float]:
        """The mean difference to random of each arm, at a fraction of the size, in the blocks from `first` on."""
        blocks = [(first + at, None) for at in range(self.sizes.screen_blocks)]
        small = max(1, round(self.sizes.k * self.sizes.fraction))
        scores = {arm: self._train(arm, blocks, small) for arm in [RANDOM, *names]}
        return {arm: fmean(scores[arm]) - fmean(scores[RANDOM]) for arm in names}

    def run(self, names: list[str], margin: float) -> Verdict:
        """Run all rounds: half of the candidates are dropped after each, until the last two are measured."""
        sizes, number, table = self.sizes, 0, list[tuple[str, str, str]]()
        while len(names) > 2:
            gain = self.gains(names, number)
            ranked = sorted(names, key=lambda arm: -gain[arm])
            table += [(f"round of {len(names)}", arm, f"{100 * gain[arm]:+.1f}") for arm in reversed(ranked)]
            names = ranked[: math.ceil(len(names) / 2)]
            number += sizes.screen_blocks
        last = [(1000 + at, at) for at in range(sizes.final_blocks)]
        scores, by_tokens = {arm: self._train(arm, last, sizes.k) for arm in [RANDOM, *names]}, dict[str, float]()
        if names:
            best = max(names, key=lambda arm: fmean(scores[arm]))
            scores[RANDOM_TOKENS] = self._train(RANDOM_TOKENS, last, sizes.k, like=best)
            by_tokens[best] = fmean(scores[best]) - fmean(scores[RANDOM_TOKENS])
        differences = {arm: [a - r for a, r in zip(scores[arm], scores[RANDOM], strict=True)] for arm in names}
        verdict = decide(differences, margin, by_tokens, 1 / sizes.final_problems, self._look())
        means = {UNTRAINED: self._untrained()} | {arm: fmean(values) for arm, values in scores.items()}
        if means[UNTRAINED] > max(fmean(values) for values in scores.values()):
            damage = (
                f" But no arm reaches the untrained student's {100 * means[UNTRAINED]:.1f} %: what differs here is the "
                "damage that these trainings do. Lower train.args.learning_rate or the epochs, or take problems that "
                "the student cannot do yet."
            )
            verdict = replace(verdict, sentence=verdict.sentence + damage)
        print_verdict(verdict, table, means)
        return verdict

    def _untrained(self) -> float:
        """The accuracy of the student as it is, on all problems of the last round."""
        problems = [row for at in range(self.sizes.final_blocks) for row in self.held_out(at)]
        made_from, path = (
            content_id([self.made_from, [row.problem for row in problems]]),
            self.folder / "untrained.json",
        )
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if kept.get("made_from") != made_from:
            accuracy = self.trainer.accuracy(self.trainer.train["model"], problems, UNTRAINED)
            kept = {"made_from": made_from, "accuracy": accuracy}
            with replacing(path) as file:
                json.dump(kept, file)
        return float(kept["accuracy"])

    def _look(self) -> int:
        """How often these finalists were judged, this time included. Judging the same number of blocks again does not
        count.
        """
        path, blocks = self.folder / "looks.json", self.sizes.final_blocks
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        looks = kept.get(self.made_from, [])
        if blocks not in looks:
            looks = [*looks, blocks]
            with replacing(path) as file:
                json.dump({**kept, self.made_from: looks}, file)
        return int(looks.index(blocks)) + 1

    def _train(self, arm: str, blocks: Sequence[tuple[int, int | None]], k: int, like: str = "") -> list[float]:
        """Train an arm in each of `blocks` and return its accuracies. A block is a pair: its number, and the block of
        held-out problems of the last round.
        """
        found = []
        with progress(f"{arm}, {k} problems", len(blocks), "training") as advance:
            for number, final_block in blocks:
                found.append(float(self._score(arm, number, k, final_block, like)["accuracy"]))
                advance(1, f"{100 * found[-1]:.1f} %")
        return found

    def _score(self, arm: str, number: int, k: int, final_block: int | None, like: str) -> dict[str, Any]:
        place = self.folder / f"block-{number}" / f"{arm}-{k}"
        rows, problems = self.block(number), self.held_out(final_block)
        # Other sizes hold out other problems: arms of a block are paired only if all saw the same problems
        seen = [sorted({row.problem for row in part}) for part in (rows, problems)]
        made = content_id([self.made_from, self.candidates.get(arm), like, seen])
        if (place / "score.json").exists():
            kept: dict[str, Any] = json.loads((place / "score.json").read_text(encoding="utf-8"))
            if kept["made_from"] == made:
                return kept
        shutil.rmtree(place, ignore_errors=True)
        seed, stages = self.seed + number, self.candidates.get(like or arm)
        chosen = choose_by(stages, rows, k, seed) if stages else random_set(rows, k, seed)
        if arm == RANDOM_TOKENS:
            chosen = random_set(rows, k, seed, chosen)
        write_jsonl(place / "rows.jsonl", chosen)
        train = self.trainer.train
        steps = max(1, math.ceil(k / train["global_batch"])) * round(train["args"]["num_train_epochs"])
        begun = time.monotonic()
        found = self.trainer.measure(place, place / "rows.jsonl", steps, seed, problems) | {"made_from": made}
        found["seconds"] = round(time.monotonic() - begun, 1)
        with replacing(place / "score.json") as file:
            json.dump(found, file)
        return found


def describe_power(sizes: Sizes, margin: float) -> str:
    """A sentence about the gain that a tournament of these sizes can show."""
    shown = 100 * detectable(sizes.final_blocks, sizes.final_problems, margin)
    return (
        f"{sizes.final_blocks} final blocks of {sizes.final_problems} problems show a true gain of {shown:.0f} points, "
        f"four times in five, as more than {100 * margin:g} points"
    )


Round = tuple[str, int, int]  # name, number of trainings, and rows of each


def list_rounds(sizes: Sizes, candidates: int, search: Search | None) -> list[Round]:
    """The rounds of a tournament with so many candidates, the search first."""
    rounds, small = list[Round](), max(1, round(sizes.k * sizes.fraction))
    if search:
        rounds.append((f"search, {search.trials} trials", (search.trials + 1) * sizes.screen_blocks, small))
    while candidates > 2:
        rounds.append((f"round of {candidates}", (candidates + 1) * sizes.screen_blocks, small))
        candidates = math.ceil(candidates / 2)
    return [*rounds, ("last round", (candidates + 2) * sizes.final_blocks, sizes.k)] if candidates else rounds


def print_costs(rounds: Sequence[Round], trainer: Trainer, pool: Sequence[Example], folder: Path) -> None:
    """Print the cost of the rounds: trainings, hours here (from finished trainings in `folder`), and GPU hours."""
    print_table(Table(("round", "trainings", "rows of each"), rounds, (1, 2), "At most"), terminal(110))
    done = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("block-*/*/score.json")]
    total = sum(trainings * k for _, trainings, k in rounds)
    if done:
        each = sum(one["seconds"] for one in done) / sum(one["rows"] for one in done)
        say(f"{clock(each * total)} here with all measurements, by {len(done)} trainings that are finished")
    settings = bound_settings(trainer.train, "tournament.train")
    some = [row for row in pool if row.completion][:READ]
    try:
        tokenizer = load_tokenizer(tokenizer_folder(settings.model))
        lengths = [len(render(tokenizer, row).input_ids) for row in some] or [settings.max_length]
    except MissingModel:
        lengths = [len(row.question + row.completion) // CHARACTERS for row in some] or [settings.max_length]
    epochs = float(settings.args.get("num_train_epochs", 3))
    work = Work(settings, measure_or_read_name(settings), Data(total, fmean(lengths), max(lengths), fmean(lengths)))
    steps = math.ceil(total / settings.global_batch) * epochs
    hours = seconds_per_step(work, GPUS[HOUR_OF][1] * UTILISATION) * steps / 3600
    say(
        f"the trainings take about {hours:,.2g} {HOUR_OF}-hours at {100 * UTILISATION:.0f} % of its peak, "
        f"{fmean(lengths):,.0f} tokens a row; before them the stages up to tournament.source run, see limo plan"
    )


def search_weights(arms: Arms, search: Search) -> Arms:
    """Search the weights of a candidate. Returns the arms with the best weights found; finished trials are not trained
    again.

    TPE (Bergstra et al. 2011) by Optuna, which R-Select uses on metrics of chains; the objective here is the gain over
    random. Nearly all weights prefer some flaw, if only because flawed copies are longer or shorter: training decides
    which flaws matter.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise UserError("tournament.search needs Optuna: pip install 'limo-toolkit[optuna]'") from None

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    node = arms.candidates[search.candidate]

    def with_weights(name: str, weights: Mapping[str, float]) -> Arms:
        stages = {**node, search.stage: {**node[search.stage], "weights": weights}}
        return replace(arms, candidates={**arms.candidates, name: stages})

    def gain(trial: Any) -> float:
        drawn = {score: trial.suggest_float(score, -1, 1) for score in search.scores}
        total = sum(map(abs, drawn.values())) or 1.0
        weights = {score: value / total for score, value in drawn.items()}
        trial.set_user_attr("weights", weights)
        name = f"{search.candidate}-trial-{trial.number}"
        return with_weights(name, weights).gains([name], SEARCH_BLOCKS)[name]

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=arms.seed))
    study.optimize(gain, n_trials=search.trials)  # the same seed and results give the same weights again
    best = study.best_trial.user_attrs["weights"]
    shown = ", ".join(f"{score} {weight:+.2f}" for score, weight in best.items())
    say(f"{search.candidate}: of {search.trials} trials the best weights are {shown} ({100 * study.best_value:+.1f})")
    return with_weights(search.candidate, best)


def choose_by(stages: Mapping[str, Any], rows: Sequence[Example], k: int, seed: int) -> list[Example]:
    """The rows that choosing stages keep; `k` and `seed` replace the settings of stages that have them."""
    chosen = list(rows)
    for name, node in stages.items():
        own = {key: value for key, value in (("k", k), ("seed", seed)) if key in node}
        chosen = [row for row in bind({**node, **own}, f"candidates.{name}")(chosen) if isinstance(row, Example)]
    return chosen


def prefers_untouched(stages: Mapping[str, Any], pairs: Sequence[tuple[Example, Example]], seed: int) -> list[float]:
    """For each pair (untouched, flawed): how often the choice takes the untouched chain, among choices that take
    exactly one of the two.

    The choice is repeated with several seeds: if it only breaks ties, it takes each chain about as often.
    """
    taken: dict[str, list[bool]] = {clean.id: [] for clean, _ in pairs}
    for again in range(SEEDS_OF_TIES if pairs else 0):
        kept = {row.id for row in choose_by(stages, [row for pair in pairs for row in pair], len(pairs), seed + again)}
        for clean, spoiled in pairs:
            if (clean.id in kept) != (spoiled.id in kept):
                taken[clean.id].append(clean.id in kept)
    return [fmean(points) for points in taken.values() if points]


def print_verdict(verdict: Verdict, rounds: Sequence[tuple[str, str, str]], accuracy: Mapping[str, float]) -> None:
    """Print the rounds, the finalists, and the verdict's sentence."""
    console = terminal(110)
    if rounds:
        print_table(Table(("round", "candidate", "to random, points"), rounds, (2,)), console)
    finalists, rows = {f.name: f for f in verdict.finalists}, list[tuple[str, ...]]()
    for arm, value in accuracy.items():
        shown = ("", "", "")
        if f := finalists.get(arm):
            tokens = "" if f.tokens is None else f"{100 * f.tokens:+.1f}"
            shown = f"{100 * f.mean:+.1f}", f"{100 * f.low:+.1f} to {100 * f.high:+.1f}", tokens
        rows.append((arm, f"{100 * value:.1f}", *shown))
    head = ("arm", "accuracy, %", "to random, points", "95 % interval", "at equal tokens")
    print_table(Table(head, rows, range(1, 5), "Last round"), console)
    console.print(verdict.sentence, markup=False, soft_wrap=True)


if __name__ == "__main__":
    command("tournament", "curation.evidence.tournament")
