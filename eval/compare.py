"""Two models on the same problems: the paired difference, its interval and p-value, and the problems that flipped.

    python -m eval.compare runs/a runs/b
    python -m eval.compare runs/demo:base runs/demo:tuned benchmark=new_seeds

Each side is a run that `eval.run` has evaluated, followed by `:` and one of its models, which may be left out where the
run has only one. For every benchmark that both have: accuracies, the difference of b minus a with its 95 % interval and
p-value, and the smallest difference that so many problems could have shown; then the problems that flipped.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from limo.command import run_function
from limo.data import replacing
from limo.errors import UserError
from limo.recipe import suggest
from limo.run import read_manifest
from limo.tables import Table, print_table, terminal

Rows = list[dict[str, Any]]
LISTED = 10  # flipped problems on the terminal; out= has them all
RESAMPLES, SEED = 10_000, 0  # of the command's intervals and tests
BATCH = 500  # resamples that are in memory at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval, all as shares of 1."""

    mean: float
    low: float
    high: float
    n: int  # problems


@dataclass(frozen=True, slots=True)
class Difference:
    """b minus a over the same problems."""

    mean: float
    low: float
    high: float
    p: float  # of a difference at least this large if a and b were exchangeable on each problem
    n: int
    gained: list[str]  # ids that b solves more often
    lost: list[str]  # ids that a solves more often
    detectable: float  # the smallest true difference that so many problems would have shown, four times in five

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)


def share(correct: Mapping[str, float], resamples: int, seed: int) -> Interval:
    """Mean accuracy over problems, given each problem's share of right completions.

    With one completion a problem the interval is Wilson's (1927), which is valid at 0 and 1. With several it is the
    percentile bootstrap over problems, since completions of one problem are not independent, widened to Wilson's at the
    effective number of completions (p (1 - p) over the variance of the mean, Kish 1965): near 0 and 1 the bootstrap of
    a few problems is too narrow.
    """
    values = np.array(list(correct.values()), dtype=float)
    n = len(values)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(values.mean())
    if set(values.tolist()) <= {0.0, 1.0}:
        return Interval(mean, *wilson(mean, n), n)
    low, high = _bootstrap(values, resamples, seed)
    variance = float(values.var(ddof=1)) / n if n > 1 else 0.0
    around = wilson(mean, max(n, mean * (1 - mean) / variance) if variance else n)
    return Interval(mean, min(low, around[0]), max(high, around[1]), n)


def wilson(mean: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share of n.

    >>> [round(x, 4) for x in wilson(0.0, 200)]
    [0.0, 0.0188]
    """
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half))  # the mean is always inside


def paired(a: Mapping[str, float], b: Mapping[str, float], resamples: int, seed: int) -> Difference:
    """b minus a, paired by problem id, with a 95 % interval and a p-value.

    With one completion a problem the interval is `matched`, which does not shrink to nothing where no problem flipped,
    and the p-value is McNemar's exact test: of the problems that flipped, as many would be gained as lost. With several
    completions they are the percentile bootstrap and the sign-flip permutation test over problems, which is exact where
    there are no more than `resamples` sign patterns.

    Args: share of right completions of each problem for each model, over the same ids.
    Raises ValueError if the ids differ or there are none.
    """
    if set(a) != set(b) or not a:
        shared = len(set(a) & set(b))
        raise ValueError(f"the two runs must have the same problems: {len(a)} and {len(b)}, {shared} shared")
    ids = sorted(a)
    differences = np.array([b[i] - a[i] for i in ids])
    gained = [i for i, d in zip(ids, differences, strict=True) if d > 0]
    lost = [i for i, d in zip(ids, differences, strict=True) if d < 0]
    if set(differences.tolist()) <= {-1.0, 0.0, 1.0}:
        low, high = matched(differences)
        flips = len(gained) + len(lost)
        p = float(stats.binomtest(len(gained), flips).pvalue) if flips else 1.0
    else:
        low, high = _bootstrap(differences, resamples, seed)
        p = _flip_signs(differences, resamples, seed + 1)
    return Difference(float(differences.mean()), low, high, p, len(ids), gained, lost, detectable(differences))


def p_value(p: float) -> str:
    """A p-value as a table shows it."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def beyond_chance(difference: Mapping[str, Any]) -> bool:
    """Whether both the interval and the test of a difference, as JSON, exclude zero."""
    return bool(difference["p"] < 0.05 and (difference["low"] > 0 or difference["high"] < 0))


def detectable(differences: np.ndarray) -> float:
    """The smallest difference that a test at 5 % detects with a power of 80 %, given each problem's difference (n,).

    (1.96 + 0.84) s / sqrt(n), where s is the standard deviation of the problems' differences. One half is added to
    either kind of flip, as in `matched`, so that a few problems without a flip do not seem to detect anything.

    >>> round(detectable(np.zeros(30)), 3)
    0.088
    """
    n = len(differences) + 2
    total, squares = float(differences.sum()), float((differences**2).sum()) + 1
    return (1.959964 + 0.841621) * math.sqrt(max(squares / n - (total / n) ** 2, 0.0) / n)


def matched(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of a difference of matched proportions, given each problem's difference (n,) in {-1, 0, 1}.

    Agresti and Min (2005), Statistics in Medicine 24, pages 729 to 740: Wald's interval after adding one half to each
    of the four cells of the paired table.

    >>> [round(x, 3) for x in matched(np.zeros(60))]
    [-0.032, 0.032]
    """
    n = len(differences) + 2
    gained, lost = (differences > 0).sum() + 0.5, (differences < 0).sum() + 0.5
    centre = (gained - lost) / n
    half = 1.959964 * math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
    return max(-1.0, float(centre - half)), min(1.0, float(centre + half))


def _bootstrap(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of values (n,)."""
    if len(values) < 2:  # scipy refuses a single value, whose resamples are all alike
        return float(values[0]), float(values[0])
    result = stats.bootstrap((values,), np.mean, n_resamples=resamples, batch=BATCH, method="percentile", rng=seed)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _flip_signs(differences: np.ndarray, resamples: int, seed: int) -> float:
    """The p-value of a sum of differences (n,) at least as far from zero when signs are flipped."""
    result = stats.permutation_test(
        (differences,), lambda x, axis: np.abs(x.sum(axis=axis)), permutation_type="samples", vectorized=True,
        alternative="greater", n_resamples=resamples, batch=BATCH, rng=seed,
    )  # fmt: skip
    return float(result.pvalue)


@dataclass(frozen=True, slots=True)
class Side:
    """One model of one run, and its rows by benchmark."""

    run: Path
    model: str
    files: Mapping[str, Path]

    @property
    def name(self) -> str:
        """The run and its model, as on the command line."""
        return f"{self.run.name}:{self.model}"


def compare_runs(*, a: str, b: str, benchmark: list[str] | None = None, out: str | None = None) -> dict[str, Any]:
    """Compare two models on every benchmark that both have, print it, and return it as plain JSON.

    Raises UserError if a run or model is missing, they share no benchmark, or their problems differ.
    """
    left, right = _find_side(a), _find_side(b)
    if (left.run.resolve(), left.model) == (right.run.resolve(), right.model):
        raise UserError(f"a and b are the same model of the same run, {left.name}")
    names = _common(left, right, benchmark)
    results = {name: _compare(left, right, name) for name in names}
    if out:
        with replacing(Path(out)) as file:
            json.dump({"a": left.name, "b": right.name, "benchmarks": results}, file, indent=2, ensure_ascii=False)
    _print(left, right, results, out)
    return results


def _find_side(text: str) -> Side:
    """A run and one of its models. Raises UserError if there is none, or several and none is named."""
    path, _, model = text.rpartition(":") if not Path(text).is_dir() else (text, "", "")
    run = Path(path or text)
    if not (run / "eval").is_dir():
        raise UserError(
            f"'{run}' is no evaluated run: there is no folder '{run / 'eval'}'. Run python -m eval.run first"
        )
    models = sorted(folder.name for folder in (run / "eval").iterdir() if folder.is_dir())
    if not model and len(models) != 1:
        raise UserError(
            f"'{run}' has the models {', '.join(models) or 'none'}: name one, as {run}:{(models or ['x'])[0]}"
        )
    model = model or models[0]
    if model not in models:
        raise UserError(f"'{run}' has no model '{model}'{suggest(model, models)}")
    return Side(run, model, {file.stem: file for file in sorted((run / "eval" / model).glob("*.jsonl"))})


def _common(left: Side, right: Side, wanted: Sequence[str] | None) -> list[str]:
    both = [name for name in left.files if name in right.files]
    for name in wanted or ():
        if name not in both:
            raise UserError(f"not both have the benchmark '{name}'{suggest(name, both)}")
    if not both:
        raise UserError(
            f"{left.name} and {right.name} share no benchmark: {', '.join(left.files) or 'none'} "
            f"and {', '.join(right.files) or 'none'}"
        )
    return [name for name in both if not wanted or name in wanted]


def _compare(left: Side, right: Side, name: str) -> dict[str, Any]:
    a, b = _read_rows(left.files[name]), _read_rows(right.files[name])
    ids = [key for key in a if key in b and all(a[key][what] == b[key][what] for what in ("question", "answer"))]
    if len(ids) != len(a) or len(ids) != len(b):
        raise UserError(f"benchmark '{name}': the problems differ ({len(a)} and {len(b)}, {len(ids)} the same)")
    shares = [{i: _share_correct(rows[i]) for i in ids} for rows in (a, b)]
    difference = paired(shares[0], shares[1], RESAMPLES, SEED)
    return {
        "a": float(np.mean(list(shares[0].values()))),
        "b": float(np.mean(list(shares[1].values()))),
        **difference.to_json(),
        "unsure": [_count(rows, ids, "verdict", "unsure") for rows in (a, b)],
        "cut_off": [_count(rows, ids, "finish", "length") for rows in (a, b)],
        "sampling": [_sampling(side, name) for side in (left, right)],
        "questions": {i: str(a[i]["question"])[:200] for i in (*difference.gained, *difference.lost)},
    }


def _read_rows(file: Path) -> dict[str, dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        try:
            return {row["id"]: row for row in map(json.loads, lines)}
        except (ValueError, KeyError) as error:
            raise UserError(f"{file} is not an evaluation by eval.run: {error}") from None


def _share_correct(row: Mapping[str, Any]) -> float:
    """The share of a problem's completions that are correct."""
    return float(np.mean([c["verdict"] == "correct" for c in row["completions"]]))


def _count(rows: Mapping[str, Mapping[str, Any]], ids: Sequence[str], key: str, value: str) -> int:
    return sum(c[key] == value for i in ids for c in rows[i]["completions"])


def _sampling(side: Side, name: str) -> dict[str, Any]:
    entry = read_manifest(side.run).get(f"eval/{side.model}/{name}", {})
    return dict(entry.get("settings", {}).get("sampling", {}))


def _print(left: Side, right: Side, results: Mapping[str, dict[str, Any]], out: str | None) -> None:
    head = ("benchmark", "a", "b", "b - a", "95 % interval", "p", "detectable", "n", "flipped")
    rows = [
        (
            name,
            f"{100 * d['a']:.1f}",
            f"{100 * d['b']:.1f}",
            f"{100 * d['mean']:+.1f}",
            f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}",
            p_value(d["p"]),
            f"{100 * d['detectable']:.1f}",
            d["n"],
            f"+{len(d['gained'])} -{len(d['lost'])}",
        )
        for name, d in results.items()
    ]
    console = terminal()
    print_table(Table(head, rows, range(1, 9), f"a = {left.name}, b = {right.name}: accuracy in %"), console)
    lines = ["detectable: the smallest true difference that so many problems would have shown, four times in five"]
    lines += [line for name, d in results.items() for line in _describe(name, d)]
    lines += [f"Everything: {out}"] if out else []
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def _describe(name: str, d: Mapping[str, Any]) -> list[str]:
    """What a reader must know of one benchmark beside the table, and the first problems that flipped."""
    lines = []
    a, b = d["sampling"]
    differ = [f"{key} {a.get(key)} and {b.get(key)}" for key in a if a.get(key) != b.get(key)]
    if differ:
        lines.append(f"{name}: sampled differently: {'; '.join(differ)}")
    if any(d["unsure"]) or any(d["cut_off"]):
        unsure, cut = (f"{d[key][0]} and {d[key][1]}" for key in ("unsure", "cut_off"))
        lines.append(f"{name}: unsure {unsure}, cut off {cut} completions")
    for what, ids in (("b solves more often", d["gained"]), ("a solves more often", d["lost"])):
        lines += [f"{name}: {what} ({len(ids)}):"] if ids else []
        lines += [f"  {i}  {' '.join(d['questions'][i].split())[:80]}" for i in ids[:LISTED]]
        lines += [f"  and {len(ids) - LISTED} more (out=FILE lists them all)"] if len(ids) > LISTED else []
    return lines


if __name__ == "__main__":
    run_function(compare_runs, "limo compare", __doc__)
