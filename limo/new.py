"""A recipe for a file of your own: `limo new FILE` looks at its rows and writes what a person would have to.

    limo new problems.csv                  # my/recipe/problems.yaml and my/problems_held_out.jsonl
    limo curate --config-dir my recipe=problems

The recipe builds on `recipes/recipe/base.yaml`. One problem in ten, 200 at most, is held out for evaluation; they leave
the pool as leaks, so nothing that is measured is trained on.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from limo.data import Example, content_id, replacing
from limo.errors import UserError, reported
from limo.files import read_rows
from limo.formats import Columns, find_columns
from limo.recipe import recipe_names
from limo.sources import file

HELD_OUT, MOST = 10, 200  # one problem in so many, and at most so many
SHARE = 3  # one problem in so many is chosen, 800 at most as in LIMO


def new(path: str, name: str, folder: Path) -> Path:
    """Write a recipe for the rows of a file, and its held-out problems; returns the recipe's path.

    Raises UserError for a file without usable rows, a name that is taken, and fewer than 20 problems.
    """
    recipe = folder / "recipe" / f"{name}.yaml"
    if name in recipe_names() or recipe.exists():
        raise UserError(f"there is a recipe '{name}' already: give another with --name")
    rows = [row for row in file(name, "", path=path) if isinstance(row, Example)]
    problems = {row.question: row.answer for row in rows}
    if len(problems) < 20:
        raise UserError(
            f"'{path}' has {len(problems)} usable problems: too few to hold some out and choose from the rest"
        )
    order = sorted(problems, key=content_id)
    held_out = order[: min(MOST, max(1, len(order) // HELD_OUT))]
    target = folder / f"{name}_held_out.jsonl"
    with replacing(target) as lines:
        for question in held_out:
            lines.write(json.dumps({"problem": question, "answer": problems[question]}, ensure_ascii=False) + "\n")
    with replacing(recipe) as text:
        text.write(write_recipe(path, name, rows, len(problems), target, len(held_out)))
    return recipe


def write_recipe(path: str, name: str, rows: list[Example], problems: int, held_out: Path, count: int) -> str:
    """The recipe's text."""
    columns = next(find_columns(row, "auto", {}) for _, row in read_rows(path) if _is_usable(row))
    unchecked = any(row.notes.get("unchecked") for row in rows)
    chosen = max(1, min(800, (problems - count) // SHARE))
    own = ["  stages: {verify: {unchecked: keep}} # the answers were read from the chains: nothing has checked them"]
    return "\n".join(
        [
            "# @package _global_",
            f"# {Path(path).name}: {len(rows):,} chains or rows, {problems:,} problems. limo curate --config-dir "
            f"{held_out.parent} recipe={name}",
            "defaults: [/recipe/base, _self_] # limo curate ... --cfg job prints the whole",
            f"name: {name} # of the run's folder, runs/{name}",
            "student: embedded:smollm2-135m-instruct # what is trained: a folder, or a name on the Hub",
            f"k: {chosen} # problems to choose",
            "curate:",
            *(own if unchecked else []),
            "  pool:",
            f"    {name}: # {columns.describe(())}".partition(";")[0],
            "      _target_: limo.sources.file",
            f"      path: {json.dumps(path)}",
            f"      fields: {_fields(columns)} # which column is what",
            "eval:",
            f"  benchmarks: # {count} problems, which leave the pool",
            f"    held_out: {{path: {json.dumps(str(held_out))}}}",
            "",
        ]
    )


def _is_usable(row: Any) -> bool:
    return isinstance(row, dict) and any(row.values())


def _fields(columns: Columns) -> str:
    """The mapping as the setting `fields`."""
    found: dict[str, Any] = {
        **({"problem": list(columns.problem)} if columns.problem else {}),
        **({"chain": list(columns.chain)} if columns.chain else {}),
        **{key: value for key, value in (("answer", columns.answer), ("id", columns.id)) if value},
    }
    return json.dumps(
        {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in found.items()}
    )


def main() -> None:
    """The command `limo new`."""
    parser = argparse.ArgumentParser(
        prog="limo new", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="JSONL, JSON, Parquet, CSV, TSV or Excel; a pattern; a folder")
    parser.add_argument("--name", help="of the recipe and the run; the file's by default")
    parser.add_argument("--folder", type=Path, default=Path("my"), help="where the recipe is written (my)")
    given = parser.parse_args()
    with reported():
        name = (
            given.name or re.sub(r"[^A-Za-z0-9_]+", "_", Path(given.file).name.partition(".")[0]).strip("_") or "mine"
        )
        recipe = new(given.file, name, given.folder)
        flags = f"--config-dir {given.folder} recipe={name}"
        commands = "\n".join(f"limo {command} {flags}" for command in ("curate", "train", "eval"))
        print(f"{recipe}\n\n{recipe.read_text(encoding='utf-8')}\n{commands}")  # noqa: T201


if __name__ == "__main__":
    main()
