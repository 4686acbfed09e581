"""A recipe for a file of your own: `limo new FILE` looks at its rows and writes what a person would have to.

    limo new problems.csv                  # my/recipe/problems.yaml, my/problems_held_out.jsonl, my/problems_dev.jsonl
    limo curate --config-dir my recipe=problems

The recipe builds on `recipes/recipe/base.yaml`. One problem in ten, 200 at most, is held out for the evaluation, and as
many for `limo sweep` to choose a checkpoint by. Both leave the pool as leaks: nothing that is measured is trained
on.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limo.arguments import run_function
from limo.data import Dropped, Example, content_id, replacing
from limo.errors import UserError
from limo.files import read_rows
from limo.formats import Columns, find_columns
from limo.progress import say
from limo.recipe import recipe_names
from limo.sources import file

HELD_OUT, MOST = 10, 200  # one problem in so many, and at most so many
SHARE = 3  # one problem in so many is chosen, 800 at most as in LIMO


def new(path: str, name: str, folder: Path, fields: Mapping[str, Any] | None = None, encoding: str = "utf-8") -> Path:
    """Write a recipe for the rows of a file, and its held-out problems; returns the recipe's path.

    Raises UserError for a file without usable rows, a name that is taken, and fewer than 20 problems.
    """
    recipe = folder / "recipe" / f"{name}.yaml"
    if name in recipe_names() or recipe.exists():
        raise UserError(f"there is a recipe '{name}' already: give another with name=")
    read = [*file(name, "", path=path, fields=fields, encoding=encoding)]
    rows = [row for row in read if isinstance(row, Example)]
    if lost := Counter(row.reason for row in read if isinstance(row, Dropped)):
        say(f"{name}: not usable: {', '.join(f'{reason}: {count}' for reason, count in lost.most_common())}")
    problems = {row.question: row.answer for row in rows}
    if len(problems) < 20:
        raise UserError(
            f"'{path}' has {len(problems)} usable problems: 20 are needed to hold some out and choose from the rest"
        )
    order = sorted(problems, key=content_id)
    count = min(MOST, max(1, len(order) // HELD_OUT))
    sets = {folder / f"{name}_held_out.jsonl": order[:count], folder / f"{name}_dev.jsonl": order[count : 2 * count]}
    for target, questions in sets.items():
        with replacing(target) as lines:
            for question in questions:
                lines.write(json.dumps({"problem": question, "answer": problems[question]}, ensure_ascii=False) + "\n")
    with replacing(recipe) as text:
        columns = next(
            find_columns(row, "auto", fields or {}) for _, row in read_rows(path, encoding=encoding) if _is_usable(row)
        )
        more = [f"      encoding: {encoding}"] if encoding != "utf-8" else []
        if any(row.prompt[0]["role"] == "system" for row in rows):
            more.append(
                "      replace_system: true # rows have a system message of their own: this recipe's takes its place"
            )
        text.write(write_recipe(path, name, rows, len(problems), count, [*sets], columns, more))
    return recipe


def write_recipe(
    path: str,
    name: str,
    rows: list[Example],
    problems: int,
    count: int,
    sets: list[Path],
    columns: Columns,
    more: list[str],
) -> str:
    """The recipe's text: `count` problems in each of the two `sets`, and `more` lines of the source."""
    unchecked = any(row.notes.get("unchecked") for row in rows)
    chosen = max(1, min(800, (problems - 2 * count) // SHARE))
    own = ["  stages: {verify: {unchecked: keep}} # the answers were read from the chains: nothing has checked them"]
    held_out, dev = (json.dumps(str(place)) for place in sets)
    return "\n".join(
        [
            "# @package _global_",
            f"# {Path(path).name}: {len(rows):,} chains or rows, {problems:,} problems. limo curate --config-dir "
            f"{sets[0].parent} recipe={name}",
            "defaults: [/recipe/base, _self_] # limo curate ... --cfg job prints the whole",
            f"name: {name} # of the run's folder, runs/{name}",
            "student: embedded:smollm2-135m-instruct # what is trained: a folder, or a name on the Hub",
            f"k: {chosen} # problems to choose",
            "curate:",
            "  pool:",
            f"    {name}: # {columns.describe(())}".partition(";")[0],
            "      _target_: limo.sources.file",
            f"      path: {json.dumps(path, ensure_ascii=False)}",
            *more,
            f"      fields: {_fields(columns)} # which column is what",
            *(own if unchecked else []),
            f"measured: # {count} problems each, which leave the pool: for limo eval, and for limo sweep",
            f"  held_out: {{path: {held_out}}}",
            f"  dev: {{path: {dev}}}",
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
        {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in found.items()},
        ensure_ascii=False,
    )


def make_recipe(
    file: str,
    *,
    name: str = "",
    folder: Path = Path("my"),
    fields: dict[str, Any] | None = None,
    encoding: str = "utf-8",
) -> None:
    """The command `limo new`: `name` of the recipe and the run, the file's by default, and the `folder` it goes into.

    `fields` say which column is what where that cannot be told, as in 'fields={problem: Aufgabe, answer: Ergebnis}'.
    Raises UserError as `new` does, and for a name that is none.
    """
    name = name or re.sub(r"\W+", "_", Path(file).name.partition(".")[0]).strip("_") or "mine"
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"name={name}: letters, digits, '_', '-' and '.' only, since it names a file and a folder")
    recipe = new(file, name, folder, fields, encoding)
    commands = "\n".join(f"limo {c} --config-dir {folder} recipe={name}" for c in ("check", "curate", "train", "eval"))
    print(f"{recipe}\n\n{recipe.read_text(encoding='utf-8')}\n{commands}")  # noqa: T201


if __name__ == "__main__":
    run_function(make_recipe, "limo new", __doc__)
