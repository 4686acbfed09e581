"""The notebook and the functions it calls, on a curation of our own making."""

import ast
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curation.explore import load, reweigh, show, table
from limo.data import chat
from limo.errors import UNPRINTABLE, UserError
from tests.conftest import ROOT, curate_pool

NOTEBOOK = ROOT / "curation" / "explore.ipynb"
WEIGHTS = {"length": 0.5, "exploration": 0.5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six problems, of which the three with the best chains are chosen; `p/6` is long and says nothing else."""
    folder = tmp_path_factory.mktemp("explore")
    chains = ["so 1", "perhaps 2", "maybe, perhaps 3", "4 <b>", "perhaps it might be 5", "6 " * 40 + "= 6"]
    rows = [
        {"problem": f"Which number is called {i}?", "answer": str(i), "solution": f"{text} so it is \\boxed{{{i}}}"}
        for i, text in enumerate(chains, 1)
    ]
    (folder / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    score = {"weights": WEIGHTS, "words": ["en"], "scaling": "rank"}
    stages = {
        "verify": {"_target_": "curation.stages.chains.verify", "keep_unverified": False},
        "score": {"_target_": "curation.stages.score.score", **score},
        "choose": {"_target_": "curation.stages.choose.problems", "k": 3, "by": "score", "seed": 0},
    }
    curate_pool(folder, stages, ["random"], out=str(folder / "runs" / "mine"))
    return folder / "runs" / "mine"


def test_a_run_is_found_and_what_is_none_is_told_in_one_line(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIMO_RUN", raising=False)
    monkeypatch.chdir(finished.parent.parent)
    assert load().path == finished
    monkeypatch.setenv("LIMO_RUN", str(finished))
    monkeypatch.chdir(tmp_path)
    assert [line["stage"] for line in load().funnel] == ["pool", "verify", "score", "choose"]
    monkeypatch.delenv("LIMO_RUN")
    with pytest.raises(UserError, match="there is no run below runs/ yet") as told:
        load()
    assert told.value._render_traceback_() == [f"error: {told.value}"]
    with pytest.raises(UserError, match="no finished curation in"):
        load(tmp_path)


def test_tables_of_what_is_there(finished: Path) -> None:
    run = load(finished)
    assert list(table(run.chosen)["id"]) == [row.id for row in run.chosen] and len(run.chosen) == 3
    rows = table(run.candidates())
    assert set(rows[rows["chain"].str.contains("perhaps")]["id"]) == {"p/2", "p/3", "p/5"}
    assert list(rows.query("length >= 30")["id"]) == ["p/6"] and table([]).empty
    assert len(run.control("random")) == 3
    with pytest.raises(UserError, match="no control set 'randem'; did you mean 'random'"):
        run.control("randem")


def test_rows_are_read_whole_and_sorted_and_text_stays_text(finished: Path) -> None:
    run = load(finished)
    page = show(run.candidates(), by="-length").to_html()
    assert page.index("6 6 6") < page.index("perhaps 3") and "4 &lt;b&gt;" in page and "4 <b>" not in page
    with pytest.raises(UserError, match=r"no row has a column 'lenght'; did you mean 'length'"):
        show(run.chosen, by="lenght")
    assert show([]) == "no row"


def test_the_same_weights_choose_the_same_and_others_what_they_ask_for(finished: Path) -> None:
    run = load(finished)
    same = reweigh(run, WEIGHTS)
    assert [row.id for row in same.chosen] == [row.id for row in run.chosen]
    assert repr(same) == "3 chosen: 3 stay, 0 come, 0 go"
    # Alone, length ranks the 44 words of p/6 first; the run had three rows with words of exploration before it
    longest = reweigh(run, {"length": 1.0}, k=1)
    assert [row.id for row in longest.chosen] == ["p/6"] and len(longest.goes) >= 2
    shortest = reweigh(run, {"length": -1.0}, k=1)
    assert [row.id for row in shortest.chosen] == ["p/1"]
    with pytest.raises(UserError, match="must sum to 1"):
        reweigh(run, {"length": 0.4})
    with pytest.raises(UserError, match=r"curate\.stages\.choose\.kk is not a setting"):
        reweigh(run, WEIGHTS, kk=1)


def test_the_notebook_runs_and_is_kept_without_outputs(finished: Path, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells: list[dict[str, Any]] = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 5 <= len(cells) <= 9
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    logic = (ast.FunctionDef, ast.Lambda, ast.For, ast.If, ast.comprehension)
    assert not [n for cell in cells for n in ast.walk(ast.parse(cell["source"])) if isinstance(n, logic)]
    kept = {name: os.environ.get(name) for name in ("LIMO_RUN", "PYTHONPATH")}
    os.environ |= {"LIMO_RUN": str(finished), "PYTHONPATH": str(ROOT)}
    try:
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    outputs = [cell["outputs"][0]["data"] for cell in cells if cell["outputs"]]
    assert "maybe, perhaps 3" in outputs[1]["text/html"] and "<table" in outputs[2]["text/html"]


def test_control_characters_are_written_out_in_every_table(finished: Path, tmp_path: Path) -> None:
    hostile = "a\x1b[2Jb\x9b\u202e"
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    row = replace(load(folder).chosen[0], id=hostile, source=hostile, completion=hostile, answer=hostile)
    row = replace(row, prompt=chat(hostile), scores={hostile: 1.0}, notes={f"note {hostile}": hostile})
    run = replace(load(folder), chosen=[row])
    shown: list[Any] = [table([row]), run]
    for one in shown:
        texts = [repr(one), one.to_csv() if hasattr(one, "to_csv") else str(one)]
        assert all(r"\x1b[2J" in text and not UNPRINTABLE.search(text) for text in texts), texts


def test_the_shown_notebook_is_todays_with_outputs() -> None:
    """docs/explore.ipynb is curation/explore.ipynb after a run: the same cells, no error, no path of a machine."""
    text = (ROOT / "docs" / "explore.ipynb").read_text(encoding="utf-8")
    shown, source = (
        [cell for cell in json.loads(part)["cells"] if cell["cell_type"] == "code"]
        for part in (text, NOTEBOOK.read_text(encoding="utf-8"))
    )
    assert ["".join(cell["source"]) for cell in shown] == ["".join(cell["source"]) for cell in source]
    outputs = [output for cell in shown for output in cell["outputs"]]
    assert len(outputs) >= 6 and not any(output["output_type"] == "error" for output in outputs)
    assert not re.search(r"/(?:root|tmp|home|work)/", text)
