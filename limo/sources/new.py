"""Writes a recipe for your own file: `limo new FILE` reads its rows and writes the recipe.

    limo new problems.csv                  # my/recipe/problems.yaml, my/problems_held_out.jsonl, my/problems_dev.jsonl
    limo curate --config-dir my recipe=problems

The recipe builds on `recipes/recipe/base.yaml`. One problem in ten, 200 at most, is held out for the evaluation, and as
many for `limo pick` to choose a checkpoint by. Both are dropped from the pool as leaks, so no measured problem is
trained on. With `target=FILE2` problems are chosen in the shares of that file, and half of that file is held out.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limo import sources
from limo.command import run_function
from limo.console import say
from limo.data import CHARACTERS, Dropped, Example, content_id, dump, replacing
from limo.errors import UserError, visible
from limo.recipe import recipe_names
from limo.sources.columns import comparable, find_columns, unfold
from limo.sources.files import read_rows

HELD_OUT, MOST = 10, 200  # one problem in HELD_OUT is held out, and at most MOST
SHARE = 3  # one problem in SHARE is chosen, at most 800 as in LIMO
VISIBLE = 139  # points times the root of the problems: half a 95 % interval, where half of the problems may change
CONTEXT = 8192  # tokens of the embedded model
SHORT = 256  # tokens of a completion in recipes/recipe/base.yaml
LEAST = 20  # fewest problems of a file, and of a target whose shares mean something
RECIPE = """\
# @package _global_
# {file}: {rows:,} chains or rows, {problems:,} problems. limo curate --config-dir {folder} recipe={name}
defaults: [/recipe/base, _self_] # limo curate ... --cfg job prints the whole
name: {name} # of the run's folder, runs/{name}
student: embedded:smollm2-135m-instruct # what is trained: a folder, or a name on the Hub
k: {k} # problems to choose
control: [random] # trained beside the chosen set and compared with it; null trains the chosen set alone
curate:
  pool:
    {name}: # {mapping}
      _target_: limo.sources.file
      path: {path}
{more}      fields: {fields} # which column is what
{stages}measured: # {count} problems each, which leave the pool: for limo eval, and for limo pick
  held_out: {{path: {held_out}}}{from_target}
  dev: {{path: {dev}}}
{lengths}"""
LENGTHS = """\
attempts: {{max_tokens: {most}}} # 95 % of the chains have at most about {tokens:,} tokens
eval: {{sampling: {{max_tokens: {most}}}}}
train: {{max_length: {row}, pack_tokens: {row}}} # of problem and chain{beyond}
"""
UNCHECKED = "    verify: {unchecked: keep} # the answers were read from the chains: nothing has checked them\n"
TARGET = """\
    choose: # problems in the shares that the target has, by groups of similar texts
      shares: {{cluster: target}}
      target: {{_target_: limo.sources.file, path: {path}}}
"""
REPLACE = "      replace_system: true # rows have a system message of their own: this recipe's takes its place\n"


def make_recipe(
    file: str,
    *,
    name: str = "",
    folder: Path = Path("my"),
    fields: dict[str, Any] | None = None,
    where: dict[str, Any] | None = None,
    encoding: str = "utf-8",
    target: str = "",
) -> None:
    """Write a recipe for the rows of a file, write its held-out problems, and print the recipe: the command `limo new`.

    `name` of the recipe and the run is by default the file's name. `fields` says which column is what if the names do
    not show it, as in 'fields={problem: Aufgabe, answer: Ergebnis}'; `where` keeps rows by columns, as in
    'where={level: {at_least: 4}}'. `target` is a file of problems like those that the model is to solve: one half sets
    the shares to choose in, the other half is held out.
    Raises UserError for a file without usable rows, an invalid name, or a target problem that is in the file.
    """
    name = name or re.sub(r"\W+", "_", Path(file).name.partition(".")[0]).strip("_") or "mine"
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"name={name}: letters, digits, '_', '-' and '.' only, since it names a file and a folder")
    recipe = folder / "recipe" / f"{name}.yaml"
    if name in recipe_names() or recipe.exists():
        raise UserError(f"there is a recipe '{name}' already: give another with name=")
    rows = _read(name, file, fields, encoding, where)
    problems = _answers(name, rows)
    if len(problems) < LEAST:
        raise UserError(
            f"'{file}' has only {len(problems)} usable problems. At least {LEAST} are needed, "
            "since some are held out for the evaluation and the training set is chosen from the rest"
        )
    order = sorted(problems, key=content_id)
    count = min(MOST, max(1, len(order) // HELD_OUT))
    sets = {"held_out": order[:count], "dev": order[count : 2 * count]}
    paths = {key: folder / f"{name}_{key}.jsonl" for key in (*sets, "target")}
    if target:
        wanted = _read_target(target, encoding, rows)
        half = sorted(wanted, key=content_id)[: len(wanted) // 2]
        sets["held_out"] = [question for question in wanted if question not in half]
        sets["target"] = half
        problems |= wanted
    for key, questions in sets.items():
        with replacing(paths[key]) as lines:
            lines.writelines(dump({"problem": question, "answer": problems[question]}) for question in questions)
    (raw,) = (unfold(raw) for number, raw in read_rows(file, encoding=encoding) if number == rows[0].notes["row"])
    columns = find_columns(raw, fields or {})
    mapped = {key: getattr(columns, key) for key in ("problem", "chain", "answer", "id", "thought")}
    single: dict[str, Any] = {key: value for key, value in mapped.items() if value}
    single |= {key: value[0] for key, value in single.items() if isinstance(value, tuple) and len(value) == 1}
    single.setdefault("answer", [])  # no answer column, so that the question does not come up again
    stages = UNCHECKED if any(row.notes.get("unchecked") for row in rows) else ""
    stages += TARGET.format(path=_yaml(str(paths["target"]))) if target else ""
    with replacing(recipe) as text:
        text.write(
            RECIPE.format(
                file=_comment(Path(file).name),
                rows=len(rows),
                problems=len({row.question for row in rows}),
                folder=_comment(str(folder)),
                name=name,
                k=max(1, min(800, (len(order) - 2 * count) // SHARE)),
                mapping=_comment(columns.with_chain(rows[0].completion).describe(()).partition(";")[0]),
                path=_yaml(file),
                more=(f"      encoding: {_yaml(encoding)}\n" if encoding != "utf-8" else "")
                + (f"      where: {_yaml(where)}\n" if where else "")
                + (REPLACE if any(row.prompt[0]["role"] == "system" for row in rows) else ""),
                fields=_yaml(single),
                stages=f"  stages:\n{stages}" if stages else "",
                count=" and ".join(dict.fromkeys(str(len(sets[key])) for key in ("held_out", "dev"))),
                from_target=" # of the target" if target else "",
                lengths=_lengths(rows),
                **{key: _yaml(str(paths[key])) for key in ("held_out", "dev")},
            )
        )
    held = len(sets["held_out"])
    say(
        f"held out: {held} problems. With one training each, two models differ visibly from about "
        f"{VISIBLE / math.sqrt(held):.0f} points on (100 problems: {VISIBLE / 10:.0f}, 400: {VISIBLE / 20:.0f})"
    )
    commands = "\n".join(f"limo {c} --config-dir {folder} recipe={name}" for c in ("check", "curate", "train", "eval"))
    print(f"{recipe}\n\n{recipe.read_text(encoding='utf-8')}\n{commands}")  # noqa: T201


def _lengths(rows: Sequence[Example]) -> str:
    """Print how long the chains are. Returns the settings that long chains need."""
    sizes = sorted(len(row.completion) // CHARACTERS for row in rows if row.completion)
    if not sizes:
        return ""
    middle, tokens = (sizes[int(share * (len(sizes) - 1))] for share in (0.5, 0.95))
    say(f"chains: about {middle:,} tokens (median), {tokens:,} (95 %), {sizes[-1]:,} (longest)")
    if tokens <= SHORT:
        return ""
    most = min(CONTEXT, 1 << (tokens - 1).bit_length())
    row = min(CONTEXT, max(2048, 2 * most))
    beyond = "; longer rows need another student" if tokens > row else ""
    return LENGTHS.format(most=most, tokens=tokens, row=row, beyond=beyond)


def _read(
    name: str, file: str, fields: dict[str, Any] | None, encoding: str, where: dict[str, Any] | None = None
) -> list[Example]:
    """Read the usable rows of a file. Prints the number of unusable rows for each reason."""
    read = [*sources.file(name, "", path=file, fields=fields, where=where, encoding=encoding)]
    if lost := Counter(row.reason for row in read if isinstance(row, Dropped)):
        say(f"{name}: not usable: {', '.join(f'{reason}: {count}' for reason, count in lost.most_common())}")
    return [row for row in read if isinstance(row, Example)]


def _read_target(target: str, encoding: str, pool: Sequence[Example]) -> dict[str, str]:
    """Read the target's problems and answers. Raises UserError if one of them is also in the pool, or if there are too
    few.
    """
    rows, known = _read("target", target, None, encoding), {_plain(row.question): row for row in pool}
    for row in rows:
        if same := known.get(_plain(row.question)):
            here, there = (f"row {one.notes.get('row')}" for one in (row, same))
            raise UserError(
                f"target={target}, {here}, is {there} of the pool: {row.question[:80]!r}. A target is measured on, so "
                "none of it may be trained on: remove it from one of the two"
            )
    found = _answers("target", rows)
    if len(found) < 4:
        raise UserError(f"target={target} has {len(found)} usable problems: 4 are needed, {LEAST} or more are better")
    if len(found) < LEAST:
        say(f"target={target} has {len(found)} problems: shares and results of so few are rough; {LEAST} are better")
    return found


def _answers(name: str, rows: Sequence[Example]) -> dict[str, str]:
    """The answer of each problem; problems with two answers are left out, and their number is printed."""
    found = defaultdict[str, list[Example]](list)
    for row in rows:
        found[_plain(row.question)].append(row)
    several = [same for same in found.values() if len({comparable(row.answer) for row in same}) > 1]
    if several:
        one, *others = several[0]
        other = next(row.answer for row in others if comparable(row.answer) != comparable(one.answer))
        say(
            f"{name}: {len(several)} problems have two answers, such as {one.question[:80]!r}: {one.answer!r} and "
            f"{other!r}. None of them is measured on"
        )
    return {same[0].question: same[0].answer for same in found.values() if same not in several}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _comment(text: str) -> str:
    """Put a text on one line, for a comment in the recipe, since it comes from a foreign file."""
    return visible(" ".join(text.split()))


def _yaml(value: Any) -> str:
    """Format a value as YAML, escaped so that Hydra resolves nothing in it."""
    return json.dumps(value, ensure_ascii=False).replace("${", "\\\\${")


if __name__ == "__main__":
    run_function(make_recipe, "limo new", __doc__)
