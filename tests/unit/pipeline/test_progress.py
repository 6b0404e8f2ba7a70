"""Progress on a terminal and in a log."""

from __future__ import annotations

import io
import logging

import pytest

from pipeline.progress import Progress, format_line


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_names_share_count_rate_and_remaining_time() -> None:
    line = format_line("fetch", 50, total=200, elapsed_s=10, unit="samples", note="3 dead")
    assert line == "fetch:  25 % · 50.0 of 200 · 5.00 samples/s · 00:10 gone, 00:30 to go, 3 dead"


def test_a_line_without_total_has_no_remaining_time() -> None:
    assert format_line("select", 3_000_000, total=None, elapsed_s=2, unit="bytes") == (
        "select: 3.00M · 1.50MB/s · 00:02 gone"
    )


def test_lines_come_at_intervals_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("select", unit="rows", total=100, stream=io.StringIO(), line_every_s=1e9) as progress:
        for _ in range(100):
            progress.advance(1, note="all well")
        assert not caplog.messages
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("select: 100 % · 100 of 100 ·")
    assert caplog.messages[0].endswith("all well")

    caplog.clear()
    with Progress("select", unit="rows", total=3, stream=io.StringIO(), line_every_s=0) as progress:
        for done in (1, 2, 3):
            progress.advance_to(done)
    assert len(caplog.messages) == 4


def test_what_an_earlier_run_did_does_not_count_into_the_rate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("fetch", unit="samples", total=100, initial=90, stream=io.StringIO()) as progress:
        progress.advance(5)
    assert "50 % · 5.00 of 10.0" in caplog.messages[0]


def test_a_terminal_gets_a_bar(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    terminal = _Terminal()
    with Progress("select", unit="bytes", total=1000, stream=terminal) as progress:
        progress.advance_to(1000, note="7 rows")
    assert "100%" in terminal.getvalue()
    assert "7 rows" in terminal.getvalue()
    assert not caplog.messages


def test_what_does_not_take_long_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    terminal = _Terminal()
    for stream in (terminal, io.StringIO()):
        with Progress("texts", unit="texts", total=8, stream=stream, delay_s=1e9) as progress:
            progress.advance(8)
    assert terminal.getvalue() == ""
    assert not caplog.messages
