"""What is said of a pass over pictures."""

from __future__ import annotations

import logging

import pytest

from slip.evaluate import progress
from slip.evaluate.progress import counted


def test_rank_0_speaks_for_all(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "_DELAY_S", 0.0)
    with counted("pictures", 10, ranks=4) as advance:
        advance(2)
        advance(1)  # the others' last ones are fewer
    assert caplog.messages[0].startswith("pictures: 100 % · 10.0 of 10.0 ·")
    caplog.clear()
    monkeypatch.setattr(progress, "rank", lambda: 1)
    with counted("texts", 10) as advance:
        advance(10)
    assert not caplog.messages


def test_a_short_pass_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with counted("texts", 3) as advance:
        advance(3)
    assert not caplog.messages
