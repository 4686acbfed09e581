"""The command `python -m eval.compare`: two evaluated models, on the problems that both were given."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import compare
from eval.compare import p_value, paired, share
from limo.data import replacing
from limo.errors import UserError, reported
from limo.manifest import read_manifest
from limo.recipe import near

Rows = list[dict[str, Any]]
SHOWN = 10  # flipped problems on the terminal; the file has them all


@dataclass(frozen=True, slots=True)
class Side:
    """One model of one run, and its rows by benchmark."""

    run: Path
    model: str
    files: Mapping[str, Path]

    @property
    def name(self) -> str:
        """As a person would name it."""
        return f"{self.run.name}:{self.model}"


def main() -> None:
    """The command `python -m eval.compare`."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare",
        description=compare.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", help="a run, or run:model")
    parser.add_argument("b", help="a run, or run:model")
    parser.add_argument("--benchmark", action="append", help="only this one (may be given again)")
    parser.add_argument("--shared", action="store_true", help="where the problems differ, compare those that both have")
    parser.add_argument("--resamples", type=int, default=10_000, help="of intervals and tests (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of intervals and tests (default: 0)")
    parser.add_argument("--out", metavar="FILE", help="write everything, all flipped problems included, as JSON")
    args = parser.parse_args()
    with reported():
        versus(**vars(args))


def versus(
    *, a: str, b: str, benchmark: list[str] | None, shared: bool, resamples: int, seed: int, out: str | None
) -> dict[str, Any]:
    """Compare two models on every benchmark that both have, print it, and return it as plain JSON.

    Raises UserError if a run or model is not there, they share no benchmark, or their problems differ.
    """
    if resamples < 1:
        raise UserError(f"--resamples must be at least 1, not {resamples}")
    left, right = _side(a), _side(b)
    if (left.run.resolve(), left.model) == (right.run.resolve(), right.model):
        raise UserError(f"a and b are the same model of the same run, {left.name}")
    names = _common(left, right, benchmark)
    found = {name: _compared(left, right, name, shared, resamples, seed) for name in names}
    if out:
        with replacing(Path(out)) as file:
            json.dump({"a": left.name, "b": right.name, "benchmarks": found}, file, indent=2, ensure_ascii=False)
    _print(left, right, found, out)
    return found


def _side(text: str) -> Side:
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
        raise UserError(f"'{run}' has no model '{model}'{near(model, models)}")
    return Side(run, model, {file.stem: file for file in sorted((run / "eval" / model).glob("*.jsonl"))})


def _common(left: Side, right: Side, wanted: Sequence[str] | None) -> list[str]:
    both = [name for name in left.files if name in right.files]
    for name in wanted or ():
        if name not in both:
            raise UserError(f"not both have the benchmark '{name}'{near(name, both)}")
    if not both:
        raise UserError(
            f"{left.name} and {right.name} share no benchmark: {', '.join(left.files) or 'none'} "
            f"and {', '.join(right.files) or 'none'}"
        )
    return [name for name in both if not wanted or name in wanted]


def _compared(left: Side, right: Side, name: str, shared: bool, resamples: int, seed: int) -> dict[str, Any]:
    a, b = _rows(left.files[name]), _rows(right.files[name])
    ids = [key for key in a if key in b and _same_problem(a[key], b[key])]
    if len(ids) != len(a) or len(ids) != len(b):
        _refuse_unless_shared(name, len(a), len(b), len(ids), shared)
    shares = [{i: _share(rows[i]) for i in ids} for rows in (a, b)]
    difference = paired(shares[0], shares[1], resamples, seed)
    return {
        "a": share(shares[0], resamples, seed).mean,
        "b": share(shares[1], resamples, seed).mean,
        **difference.to_json(),
        "unsure": [_counted(rows, ids, "verdict", "unsure") for rows in (a, b)],
        "cut_off": [_counted(rows, ids, "finish", "length") for rows in (a, b)],
        "sampling": [_sampling(side, name) for side in (left, right)],
        "questions": {i: str(a[i]["question"])[:200] for i in (*difference.gained, *difference.lost)},
    }


def _refuse_unless_shared(name: str, a: int, b: int, same: int, shared: bool) -> None:
    if not (shared and same):
        raise UserError(
            f"benchmark '{name}': the problems differ ({a} and {b}, {same} the same). "
            + ("--shared compares those that are the same" if same else "They cannot be compared")
        )


def _rows(file: Path) -> dict[str, dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        try:
            return {row["id"]: row for row in map(json.loads, lines)}
        except (ValueError, KeyError) as error:
            raise UserError(f"{file} is not what eval.run writes: {error}") from None


def _same_problem(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a["question"] == b["question"] and a["answer"] == b["answer"])


def _share(row: Mapping[str, Any]) -> float:
    verdicts = [bool(c["verdict"] == "correct") for c in row["completions"]]
    return sum(verdicts) / len(verdicts)


def _counted(rows: Mapping[str, Mapping[str, Any]], ids: Sequence[str], key: str, value: str) -> int:
    return sum(c[key] == value for i in ids for c in rows[i]["completions"])


def _sampling(side: Side, name: str) -> dict[str, Any]:
    entry = read_manifest(side.run).get(f"eval/{side.model}/{name}", {})
    return dict(entry.get("settings", {}).get("sampling", {}))


def _print(left: Side, right: Side, found: Mapping[str, dict[str, Any]], out: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(title=f"a = {left.name}, b = {right.name}: accuracy in %", title_justify="left")
    for head in ("benchmark", "a", "b", "b - a", "95 % interval", "p", "detectable", "n", "flipped"):
        table.add_column(head, justify="left" if head == "benchmark" else "right")
    for name, d in found.items():
        interval = f"{100 * d['low']:+.1f} to {100 * d['high']:+.1f}"
        flips = f"+{len(d['gained'])} -{len(d['lost'])}"
        shown = (f"{100 * d['a']:.1f}", f"{100 * d['b']:.1f}", f"{100 * d['mean']:+.1f}", interval, p_value(d["p"]))
        table.add_row(name, *shown, f"{100 * d['detectable']:.1f}", str(d["n"]), flips)
    console.print(table)
    console.print("detectable: the smallest true difference that so many problems would have shown, four times in five")
    for name, d in found.items():
        _print_one(console, name, d)
    if out:
        console.print(f"Everything: {out}", soft_wrap=True)


def _print_one(console: Any, name: str, d: Mapping[str, Any]) -> None:
    from rich.markup import escape

    a, b = d["sampling"]
    differ = [f"{key} {a.get(key)} and {b.get(key)}" for key in a if a.get(key) != b.get(key)]
    if differ:
        console.print(f"{name}: sampled differently: {'; '.join(differ)}", soft_wrap=True, markup=False)
    if any(d["unsure"]) or any(d["cut_off"]):
        console.print(
            f"{name}: unsure {d['unsure'][0]} and {d['unsure'][1]}, cut off {d['cut_off'][0]} and {d['cut_off'][1]} "
            "completions",
            markup=False,
        )
    for what, ids in (("b solves more often", d["gained"]), ("a solves more often", d["lost"])):
        if ids:
            console.print(f"{name}: {what} ({len(ids)}):", markup=False)
        for i in ids[:SHOWN]:
            console.print(f"  {escape(i)}  {escape(' '.join(d['questions'][i].split())[:80])}", soft_wrap=True)
        if len(ids) > SHOWN:
            console.print(f"  and {len(ids) - SHOWN} more (--out keeps them all)", markup=False)
