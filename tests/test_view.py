"""`limo view` in a real browser: every row of its runs, from a server on loopback and from a static copy."""

import functools
import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from curation.folder import stage_file
from eval.report.listed import list_runs
from eval.view import find_runs, serve, view, write_bundle
from limo.data import write_jsonl
from limo.errors import UserError
from tests.test_report import evaluation, left
from tests.test_viewer import CHAIN, EVIL, Open, chromium, look, row, run  # noqa: F401


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 30 chosen rows, three that were dropped for two reasons, and four answers."""
    chosen = [
        row(f"sums/{i}/own/0", f"Problem {i}: $x^{{{i}}}$", CHAIN if i else "short", 0.9 - i / 50) for i in range(30)
    ]
    dropped = [
        left(row("sums/0/own/1", chosen[0].question, "A rival: 7", 0.4), "choose", "better chain of the same problem"),
        left(row("sums/0/own/2", chosen[0].question, "I say 8 " + EVIL[0], 0.1), "verify", "wrong answer"),
        left(row("sums/99/own/0", EVIL[0], "needle in a dropped chain", 0.2), "verify", "wrong answer"),
    ]
    path = tmp_path_factory.mktemp("runs") / "first"
    path.mkdir()
    evaluation(path, "What is $1 + 1$?")
    run(path, chosen, dropped)
    return path


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    server = serve([folder], 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_address[1]}/"
    server.shutdown()


def opened(look: Open, address: str, **options: int) -> Page:  # noqa: F811
    class Address:  # what `look` needs of a path
        def as_uri(self) -> str:
            return address

    return look(Address(), **options)  # type: ignore[arg-type]


def values(page: Page, facet: str) -> list[str]:
    return page.locator(f"#{facet} option").all_inner_texts()[1:]


def test_every_row_is_found_by_what_became_of_it(served: str, look: Open) -> None:  # noqa: F811
    page = opened(look, served)
    assert page.inner_text("#count") == "30 chains" and values(page, "state") == [
        "chosen (30)",
        "answer (4)",
        "dropped (3)",
    ]
    assert "30 of 9" in page.inner_text("#runs")
    page.select_option("#state", "dropped")
    assert values(page, "why") == ["verify: wrong answer (2)", "choose: better chain of the same problem (1)"]
    page.select_option("#why", "verify: wrong answer")
    assert page.inner_text("#count") == "2 of 3 rows"
    page.click(".item >> nth=0")
    page.wait_for_selector("html[data-shown='sums/0/own/2']")
    assert "Dropped by verify: wrong answer" in page.inner_text(".story") and EVIL[0] in page.inner_text("#row")
    page.select_option("#why", "")
    page.select_option("#state", "answer")
    assert values(page, "flip") == ["3 to 2: now right (2)"] and set(values(page, "verdict")) == {
        "✗ wrong (2)",
        "✓ right (2)",
    }
    page.select_option("#verdict", "correct")
    page.click(".item >> nth=0")
    page.wait_for_selector("html[data-shown='a']")
    page.click("#sides")
    page.wait_for_selector(".sides .side >> nth=1")
    assert "3" in page.locator(".side").all_inner_texts()[1], "the other model's answer to the same problem"
    assert page.evaluate("window.hacked") is None


def test_texts_of_dropped_rows_are_searched_and_bars_are_filters(served: str, look: Open) -> None:  # noqa: F811
    page = opened(look, served)
    page.select_option("#state", "")
    page.fill("#search", "needle")
    page.wait_for_selector(".item em")
    assert page.inner_text("#count") == "1 of 37 rows"
    page.fill("#search", "")
    page.select_option("#state", "chosen")
    bars = page.locator(".bars button")
    bars.first.click()
    low = int(page.inner_text("#count").split()[0])
    bars.nth(23).click(modifiers=["Shift"])
    assert low < 5 and page.inner_text("#count") == "30 chains", "from the first bar to the last"
    bars.nth(5).click()
    bars.nth(5).click()
    assert page.inner_text("#count") == "30 chains", "a second click clears"


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(tmp_path: Path, look: Open) -> None:  # noqa: F811
    (tmp_path / "stages").mkdir()
    write_jsonl(stage_file(tmp_path, 0, "pool"), [row(f"s/{i}", f"Problem {i}", "") for i in range(5)])
    server = serve([tmp_path], 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = opened(look, f"http://localhost:{server.server_address[1]}/")
    assert page.inner_text("#count") == "5 rows" and values(page, "state") == ["left so far (5)"]
    write_jsonl(stage_file(tmp_path, 1, "verify"), [row("s/0", "Problem 0", "")])
    write_jsonl(
        stage_file(tmp_path, 1, "verify", ".dropped"), [left(row("s/1", "Problem 1", ""), "verify", "wrong answer")]
    )
    page.wait_for_selector("#count:text-is('2 rows')", timeout=10_000)
    server.shutdown()


def test_several_runs_beside_each_other_and_a_static_copy(folder: Path, tmp_path: Path, look: Open) -> None:  # noqa: F811
    second = run(tmp_path / "runs" / "second", [row("sums/0/own/0", "Problem 0", "short", 0.3)]).parent
    assert find_runs([str(tmp_path / "runs"), str(folder)]) == [second, folder]
    write_bundle([folder, second], tmp_path / "public")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "public"))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = opened(look, f"http://localhost:{server.server_address[1]}/")
    page.wait_for_selector("html[data-shown='sums/0/own/0']")
    assert page.inner_text("#count") == "31 chains" and values(page, "run") == ["first (30)", "second (1)"]
    assert page.locator("#runs tbody tr").count() == 2
    page.select_option("#run", "second")
    page.click(".item >> nth=0")
    page.wait_for_selector("#row .steps")
    assert page.inner_text("#row .steps") == "short" and page.inner_text("#count") == "1 of 31 chains"
    server.shutdown()


def test_only_this_machine_under_its_own_name_is_answered(served: str) -> None:
    port = int(served.rstrip("/").rpartition(":")[2])

    def status(path: str, host: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status

    assert status("/index", f"localhost:{port}") == 200
    assert status("/index", "evil.example.org") == 403, "a name of another site that leads here"
    for path in ("/row/999", "/row/-1", "/row/../../etc/passwd", "/etc/passwd", "/blocks/0"):
        assert status(path, "localhost") == 404, path


def test_what_a_user_gets_wrong_is_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="there is no run in"):
        view([str(tmp_path)])
    server = serve([folder], 0)
    with pytest.raises(UserError, match=r"cannot be used: Address already in use\. Choose another one, such as port="):
        view([str(folder)], port=server.server_address[1], open=False)
    server.server_close()
    with pytest.raises(UserError, match="ports go from 0 to 65535"):
        view([str(folder)], port=99_999, open=False)
    with pytest.raises(UserError, match="holds other files"):
        view([str(folder)], bundle=str(folder))


def test_beyond_a_number_dropped_rows_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.report.listed.DROPPED", 2)
    listed = list_runs([folder])
    assert sum(entry["state"] == "dropped" for entry in listed.entries) == 2
    assert listed.notes == ["1 more dropped rows of first are in dropped.jsonl: 2 are listed"]
    assert json.dumps(listed.index())
