"""Plain lines where there is no terminal."""

import io

import pytest

import limo.console
from limo.console import Table, clock, print_table, progress, say, terminal
from limo.errors import UNPRINTABLE, UserError, reported


def test_lines_tell_count_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(limo.console.time, "monotonic", lambda: float(next(now)))
    with progress("sampling", 10, "completion") as advance:
        for i in range(10):
            advance(1, f"loss {i}")
    lines = capsys.readouterr().err.splitlines()
    assert "left" not in lines[0], "one completion says nothing of the rate"
    assert lines[1].startswith("sampling: 2/10 completions, ") and " left, loss 1" in lines[1]
    assert lines[-1].startswith("sampling: 10/10 completions") and "left" not in lines[-1]


@pytest.mark.parametrize("terminal", [False, True])
def test_more_units_than_were_said_have_no_total(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 100_000, 20))
    monkeypatch.setattr(limo.console.time, "monotonic", lambda: float(next(now)))
    screen = io.StringIO()
    if terminal:
        monkeypatch.setattr(screen, "isatty", lambda: True)
        monkeypatch.setattr(limo.console.sys, "stderr", screen)
    with progress("solve", 4) as advance:
        for _ in range(5):
            advance(3)
    last = (screen.getvalue() if terminal else capsys.readouterr().err).replace("\r", "\n").strip().splitlines()[-1]
    assert "15" in last and "/4" not in last and "-" not in last, last


def test_control_characters_reach_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2Jb\x9b\u202e\ud800\tc"
    say(hostile)
    with pytest.raises(SystemExit), reported():
        raise UserError(hostile)
    print_table(Table((hostile,), [[hostile]], title="t"))
    terminal().print(hostile, markup=False)
    shown = capsys.readouterr()
    assert shown.err.splitlines()[0] == r"a\x1b[2Jb\x9b\u202e\ud800" + "\tc"
    assert not UNPRINTABLE.search(shown.err + shown.out) and (shown.err + shown.out).count(r"\x1b") == 5


def test_clock() -> None:
    assert [clock(s) for s in (9.4, 200, 7500)] == ["9 s", "3 min 20 s", "2 h 05 min"]


def test_bars_may_stand_below_each_other_and_end_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(limo.console.sys, "stderr", screen)
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress("attempts", None, "completion") as advance_first:
        advance_first(3)
        second = progress("rows", 5)
        advance_second = second.__enter__()
        advance_second(5, "done")
    advance_second(0)
    second.__exit__(None, None, None)
    assert "attempts" in screen.getvalue() and "rows" in screen.getvalue() and "5/5" in screen.getvalue()
