"""`limo view` in a real browser: every row of its runs, from a server on loopback and from a static copy."""

import functools
import http.client
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from curation.folder import stage_file
from eval.report.listed import list_runs
from eval.view import Server, find_runs, start_server, view, write_bundle
from limo.data import write_jsonl
from limo.errors import UserError
from tests.test_report import evaluation, left
from tests.test_viewer import CHAIN, EVIL, Open, chromium, look, row, run  # noqa: F401

TOKEN = "a-token"


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
    server, address = begun([folder])
    yield address
    server.shutdown()


def begun(folders: list[Path]) -> tuple[Server, str]:
    """A running server, and its address."""
    server = start_server(folders, 0, TOKEN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://localhost:{server.server_address[1]}/?token={TOKEN}"


def asked(server: Server, path: str, host: str = "localhost", token: str | None = TOKEN) -> tuple[int, str]:
    """Status and text of an answer; the token is in the header."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request("GET", path, headers={"Host": host} | ({"Authorization": f"token {token}"} if token else {}))
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


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
    server, address = begun([tmp_path])
    page = opened(look, address)
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


PATHS = ("/", "/index", "/state", "/search?q=chain", "/row/0", "/nothing", "//", "/?token=", "/index?token=x")


def test_without_the_token_or_under_another_name_nothing_is_answered(folder: Path) -> None:
    server, _ = begun([folder])
    for path in PATHS:
        for token in (None, "", "a-toke", "a-tokenn", "A-token", "\xff"):
            status, said = asked(server, path, token=token)
            assert status == 403 and said == "open the address that limo view has printed, with its token", (
                path,
                token,
            )
        assert asked(server, path, "evil.example.org") == (403, "only localhost is served"), "a name that leads here"
    assert asked(server, f"/index?token={TOKEN}", token=None)[0] == asked(server, "/index")[0] == 200
    for path in ("/row/999", "/row/-1", "/row/../../etc/passwd", "/etc/passwd", "/blocks/0"):
        assert asked(server, path) == (404, "there is no such row: read the page again"), path
    server.shutdown()


def changed(folder: Path, name: str, change: Callable[[list[str]], list[str]]) -> None:
    lines = (folder / name).read_text().splitlines()
    (folder / name).write_text("".join(line + "\n" for line in change(lines)))


REWRITES: list[Callable[[list[str]], list[str]]] = [
    lambda lines: lines[::-1],
    lambda lines: [*lines[5:], *lines[:5]],
    lambda lines: [json.dumps({**json.loads(lines[7]), "id": "new"}), *lines],
    lambda lines: ["not a row", "", *lines],
    lambda lines: lines[1:],
]


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_row_is_the_same_after_its_file_is_rewritten(
    rewrite: Callable[[list[str]], list[str]], folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "first"
    shutil.copytree(folder, copy)
    server, _ = begun([copy])
    rows = {row["id"]: row["key"] for row in json.loads(asked(server, "/index")[1])["rows"] if row["state"] == "chosen"}
    before = {name: asked(server, f"/row/{key}")[1] for name, key in rows.items()}
    changed(copy, "curated.jsonl", rewrite)
    for listed_again in (False, True):
        if listed_again:
            asked(server, "/index")
        for name, key in rows.items():
            status, said = asked(server, f"/row/{key}")
            gone = f'"id":"{name}"' not in (copy / "curated.jsonl").read_text().replace('"id": "', '"id":"')
            assert said == before[name] if not gone else status in (404, 500) and "read the page again" in said
    server.shutdown()


BAD_LINES = ["", "{", "\x00", "[1]", "7", "null", '"text"', "{}", '{"id": 1}', '{"id": "x", "data": []}']
BAD_LINES += [
    '{"id": "x", "prompt": 5, "answer": 1}',
    '{"completions": 1}',
    '{"id": [], "completions": [{}]}',
    "[" * 5000,
]
BAD_LINES += ['{"id": "x", "prompt": [{"role": "user", "content": "q"}], "answer": "1", "scores": []}', "\udcff", "NaN"]


@pytest.mark.parametrize("name", ["curated.jsonl", "dropped.jsonl", "eval/2/1.jsonl"])
def test_a_bad_line_is_a_line_of_the_page(name: str, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "first"
    shutil.copytree(folder, copy)
    path = next(iter(sorted(copy.glob("eval/*/*.jsonl")))) if name.startswith("eval") else copy / name
    good = path.read_bytes()
    server, _ = begun([copy])
    known = len(json.loads(asked(server, "/index")[1])["rows"])
    for line in BAD_LINES:
        path.write_bytes(good + line.encode("utf-8", "surrogateescape") + b"\n")
        status, said = asked(server, "/index")
        assert status == 200 and known <= len(json.loads(said)["rows"]) <= known + 1, (line, said[-300:])
        for entry in json.loads(said)["rows"][::9] + json.loads(said)["rows"][-3:]:
            assert asked(server, f"/row/{entry['key']}")[0] == 200, (line, entry)
        assert asked(server, "/search?q=chain")[0] == 200
    path.write_bytes(good)
    for other in ("manifest.json", "eval/summary.json"):
        for text in ("{", "[]", "7", '{"curate": 1}', '{"differences": [1]}', "\x00"):
            (copy / other).parent.mkdir(exist_ok=True)
            (copy / other).write_text(text)
            status, said = asked(server, "/index")
            assert status == 200 and len(json.loads(said)["rows"]) >= known - 4, (other, text, said[-300:])
    server.shutdown()


@pytest.mark.parametrize(
    "name", ["index.html", "index", "blocks/0", "written.json", "notes.txt", "blocks/77", "blocks"]
)
def test_a_static_copy_overwrites_only_what_an_earlier_one_wrote(name: str, folder: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "public", "mine, and not to be lost"
    for earlier in (False, True):
        if earlier:
            write_bundle([folder], out)
            write_bundle([folder], out)
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(mine) if name != "blocks" else path.symlink_to(folder)
        if name == "written.json" and not earlier:
            continue  # the list itself is the toolkit's
        with pytest.raises(UserError, match="holds other files, such as"):
            write_bundle([folder], out)
        assert path.read_text() == mine if name not in ("written.json", "blocks") else not (folder / "0").exists()
        shutil.rmtree(out)
    write_bundle([folder], out)
    (out / "blocks" / "0").unlink()
    write_bundle([folder], out)
    assert (out / "blocks" / "0").is_file(), "one of its own that is missing is written again"


def test_what_a_user_gets_wrong_is_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="there is no run in"):
        view([str(tmp_path)])
    server = start_server([folder], 0, TOKEN)
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
