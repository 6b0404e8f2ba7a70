"""The console command: verbs are found, handed their words, and imported only when asked for."""

from __future__ import annotations

import importlib

import pytest

from slip.cli import VERBS, main


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert name in shown
        assert verb.help in shown


def test_no_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: slip VERB" in capsys.readouterr().err


def test_an_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian", "--help"]) == 2
    assert "no verb 'trian'; there is: train" in capsys.readouterr().err


def test_a_verb_gets_the_rest_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def fake(argv: list[str]) -> int:
        seen.append(argv)
        return 7

    monkeypatch.setattr("slip.train.main", fake)
    assert main(["train", "demo", "--seed", "3"]) == 7
    assert seen == [["demo", "--seed", "3"]]


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_a_main(name: str) -> None:
    assert callable(importlib.import_module(VERBS[name].module).main)
