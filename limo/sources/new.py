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
from pathlib import Path
from typing import Any

from limo import sources
from limo.command import run_function
from limo.data import Dropped, Example, content_id, dump, replacing
from limo.errors import UserError
from limo.progress import say
from limo.recipe import recipe_names
from limo.sources.files import read_rows
from limo.sources.formats import find_columns

HELD_OUT, MOST = 10, 200  # one problem in so many, and at most so many
SHARE = 3  # one problem in so many is chosen, 800 at most as in LIMO
RECIPE = """\
# @package _global_
# {file}: {rows:,} chains or rows, {problems:,} problems. limo curate --config-dir {folder} recipe={name}
defaults: [/recipe/base, _self_] # limo curate ... --cfg job prints the whole
name: {name} # of the run's folder, runs/{name}
student: embedded:smollm2-135m-instruct # what is trained: a folder, or a name on the Hub
k: {k} # problems to choose
curate:
  pool:
    {name}: # {mapping}
      _target_: limo.sources.file
      path: {path}
{more}      fields: {fields} # which column is what
{stages}measured: # {count} problems each, which leave the pool: for limo eval, and for limo sweep
  held_out: {{path: {held_out}}}
  dev: {{path: {dev}}}
"""
UNCHECKED = "  stages: {verify: {unchecked: keep}} # the answers were read from the chains: nothing has checked them\n"
REPLACE = "      replace_system: true # rows have a system message of their own: this recipe's takes its place\n"


def make_recipe(
    file: str,
    *,
    name: str = "",
    folder: Path = Path("my"),
    fields: dict[str, Any] | None = None,
    encoding: str = "utf-8",
) -> None:
    """Write a recipe for the rows of a file, and its held-out problems, and print it: the command `limo new`.

    `name` of the recipe and the run is the file's by default. `fields` say which column is what where that cannot be
    told, as in 'fields={problem: Aufgabe, answer: Ergebnis}'.
    Raises UserError for a file without usable rows, or a name that is none.
    """
    name = name or re.sub(r"\W+", "_", Path(file).name.partition(".")[0]).strip("_") or "mine"
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"name={name}: letters, digits, '_', '-' and '.' only, since it names a file and a folder")
    recipe = folder / "recipe" / f"{name}.yaml"
    if name in recipe_names() or recipe.exists():
        raise UserError(f"there is a recipe '{name}' already: give another with name=")
    read = [*sources.file(name, "", path=file, fields=fields, encoding=encoding)]
    rows = [row for row in read if isinstance(row, Example)]
    if lost := Counter(row.reason for row in read if isinstance(row, Dropped)):
        say(f"{name}: not usable: {', '.join(f'{reason}: {count}' for reason, count in lost.most_common())}")
    problems = {row.question: row.answer for row in rows}
    if len(problems) < 20:
        raise UserError(
            f"'{file}' has {len(problems)} usable problems: 20 are needed to hold some out and choose from the rest"
        )
    order = sorted(problems, key=content_id)
    count = min(MOST, max(1, len(order) // HELD_OUT))
    sets = {folder / f"{name}_held_out.jsonl": order[:count], folder / f"{name}_dev.jsonl": order[count : 2 * count]}
    for target, questions in sets.items():
        with replacing(target) as lines:
            lines.writelines(dump({"problem": question, "answer": problems[question]}) for question in questions)
    raw = next(raw for _, raw in read_rows(file, encoding=encoding) if isinstance(raw, dict) and any(raw.values()))
    columns = find_columns(raw, fields or {})
    mapped = {"problem": columns.problem, "chain": columns.chain, "answer": columns.answer, "id": columns.id}
    single = {key: value[0] if isinstance(value, tuple) and len(value) == 1 else value for key, value in mapped.items()}
    with replacing(recipe) as text:
        text.write(
            RECIPE.format(
                file=Path(file).name,
                rows=len(rows),
                problems=len(problems),
                folder=folder,
                name=name,
                k=max(1, min(800, (len(problems) - 2 * count) // SHARE)),
                mapping=columns.describe(()).partition(";")[0],
                path=json.dumps(file, ensure_ascii=False),
                more=(f"      encoding: {encoding}\n" if encoding != "utf-8" else "")
                + (REPLACE if any(row.prompt[0]["role"] == "system" for row in rows) else ""),
                fields=json.dumps({key: value for key, value in single.items() if value}, ensure_ascii=False),
                stages=UNCHECKED if any(row.notes.get("unchecked") for row in rows) else "",
                count=count,
                **{key: json.dumps(str(place)) for key, place in zip(("held_out", "dev"), sets, strict=True)},
            )
        )
    commands = "\n".join(f"limo {c} --config-dir {folder} recipe={name}" for c in ("check", "curate", "train", "eval"))
    print(f"{recipe}\n\n{recipe.read_text(encoding='utf-8')}\n{commands}")  # noqa: T201


if __name__ == "__main__":
    run_function(make_recipe, "limo new", __doc__)
