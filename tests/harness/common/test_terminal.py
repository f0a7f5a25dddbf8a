"""What commands say on the way: lines in a log, bars on a terminal."""

from __future__ import annotations

import io
import sys

import pytest
import rich.console

from vhsbench.harness.common.terminal import Bars, Lines, duration, open_output


@pytest.fixture
def log():
    """Lines by a clock of the test's own: what was written, and a function that sets the time and updates."""
    said: list[str] = []
    now = [0.0]
    lines = Lines(said.append, lambda: now[0])

    def at(seconds: float, *update):
        now[0] = seconds
        lines.update(*update)

    return said, at, lines


def test_a_phase_is_told_at_its_start_at_its_end_and_once_a_minute(log):
    said, at, lines = log
    for second in range(1, 201):
        at(second, f"head (loss {second / 100:.2f})", second, 200, "head")
    lines.close()
    assert said == [
        "0:00:01 head (loss 0.01): 1 of 200",
        "0:01:01 head (loss 0.61): 61 of 200",
        "0:02:01 head (loss 1.21): 121 of 200",
        "0:03:01 head (loss 1.81): 181 of 200",
        "0:03:20 head (loss 2.00): 200 of 200, in 0:03:19",
    ]


def test_what_was_complete_is_said_once(log):
    said, at, lines = log
    for _ in range(2):
        at(3, "costs", 4, 4, "costs")
    lines.close()
    assert said == ["0:00:03 costs: 4 of 4"]


def test_where_an_unfinished_phase_stopped_is_told(log):
    said, at, lines = log
    at(0, "images", 0, 9, "images")
    at(5, "images", 2, 9, "images")
    lines.close()
    assert said == ["0:00:00 images: 0 of 9", "0:00:05 images: 2 of 9"]


def test_a_phases_time_begins_when_its_work_does_not_where_all_are_announced(log):
    said, at, _ = log
    at(0, "candidates of a", 0, 2, "a")
    at(0, "candidates of b", 3, 4, "b")  # three are there from before
    at(100, "candidates of a", 1, 2, "a")
    at(200, "candidates of a", 2, 2, "a")
    at(290, "candidates of b", 4, 4, "b")
    at(300, "costs", 0, 1, "costs")
    at(310, "costs", 0, 1, "costs")
    at(330, "costs", 1, 1, "costs")
    assert [line.partition(", in ")[::2] for line in said if ", in " in line] == [
        ("0:03:20 candidates of a: 2 of 2", "0:03:20"),
        ("0:04:50 candidates of b: 4 of 4", "0:01:30"),
        ("0:05:30 costs: 1 of 1", "0:00:30"),
    ]


def test_durations_of_days_are_hours():
    assert [duration(s) for s in (0, 59.9, 3723, 86400, 49 * 3600 + 61)] == [
        "0:00:00", "0:00:59", "1:02:03", "24:00:00", "49:01:01"
    ]  # fmt: skip


class Stream(io.StringIO):
    """Counts flushes, and may call itself a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal, self.flushed = terminal, 0

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def stderr(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def as_terminal(terminal: bool) -> Stream:
        monkeypatch.setattr(sys, "stderr", stream := Stream(terminal))
        return stream

    return as_terminal


def test_a_log_has_flushed_lines_at_once(stderr, monkeypatch):
    stream = stderr(False)
    monkeypatch.setattr("vhsbench.harness.common.terminal.Lines", lambda: Lines(clock=lambda: 7.0))
    with Bars() as bars:
        bars.say("stage clip: begins")
        assert stream.getvalue() == "0:00:00 stage clip: begins\n"
        bars.update("clip", 1, 3)
        assert stream.getvalue().endswith("0:00:00 clip: 1 of 3\n")
        assert stream.flushed >= 2
        bars.update("clip", 3, 3)
    assert stream.getvalue().splitlines()[2:] == ["0:00:00 clip: 3 of 3, in 0:00:00"]


def test_colours_that_are_forced_make_no_terminal(stderr, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = stderr(False)
    with Bars() as bars:
        bars.update("clip", 3, 3)
    assert stream.getvalue() == "0:00:00 clip: 3 of 3\n"


def test_a_terminal_has_bars(stderr, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = stderr(True)
    with Bars() as bars:
        assert rich.console.Console(stderr=True).is_terminal
        bars.say("stage clip: begins")
        bars.update("clip", 3, 3)
    assert "stage clip: begins" in stream.getvalue()
    assert "3/3" in stream.getvalue()
    assert "3 of 3" not in stream.getvalue()


def test_a_bar_whose_phase_grows_shows_the_new_total(stderr, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = stderr(True)
    with Bars() as bars:
        bars.update("costs", 12, 12)
        bars.update("costs", 13, 18)
    assert "13/18" in stream.getvalue()
    assert "13/12" not in stream.getvalue()


@pytest.mark.parametrize(
    ("terminal", "shown"), [(False, "\u732b \\ud800\n".encode()), (True, b"\\u732b \\ud800\n")]
)
def test_any_text_can_be_printed_in_an_ascii_locale(monkeypatch, terminal, shown):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    open_output()
    print("\u732b \ud800", flush=True)
    assert written.getvalue() == shown
