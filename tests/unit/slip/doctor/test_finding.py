"""The table: the worst first, what to do below it, colours only when asked for; and the same for programs."""

from __future__ import annotations

import json

import pytest

from slip.doctor.finding import Finding, as_json, in_order, place, table, verdict

FINE = Finding(level="OK", check="clock", where=("a", "b", "c"), found="all the same")
ODD = Finding(level="WARN", check="space", where=("b",), found="little room", advice="make some")
WRONG = Finding(level="BAD", check="versions", where=("c", "a"), found="torch differs", advice="install one")
NODES = ("a", "b", "b", "c")


def test_rows_come_worst_first_and_otherwise_as_found() -> None:
    second = Finding(level="BAD", check="data", where=("a",), found="none")
    assert in_order([FINE, WRONG, ODD, second]) == [WRONG, second, ODD, FINE]


def test_the_table_is_this_one() -> None:
    assert table([FINE, ODD, WRONG], NODES, coloured=False) == (
        "BAD   versions  a, c         torch differs\n"
        "                             -> install one\n"
        "WARN  space     b            little room\n"
        "                             -> make some\n"
        "OK    clock     all 3 nodes  all the same\n"
        "1 BAD, 1 WARN, 1 OK: mend what is BAD before starting a run\n"
    )


def test_bad_rows_are_red_and_warnings_yellow() -> None:
    lines = table([FINE, ODD, WRONG], NODES, coloured=True).splitlines()
    starts = [line[:5] for line in lines]
    assert starts == ["\033[31m", "\033[31m", "\033[33m", "\033[33m", "OK   ", "1 BAD"]
    assert all(line.endswith("\033[0m") == line.startswith("\033") for line in lines)


@pytest.mark.parametrize(
    ("nodes", "shown"),
    [
        (["b", "a", "b"], "a, b"),
        (["a", "b", "c"], "all 3 nodes"),
        (["a"], "a"),
        ([f"n{i}" for i in range(7)], "n0, n1, n2, n3 and 3 more"),
    ],
)
def test_nodes_are_named_in_few_words(nodes: list[str], shown: str) -> None:
    assert place(nodes, NODES) == shown


def test_one_node_is_named_even_if_it_is_all() -> None:
    assert place(["a"], ("a", "a")) == "a"


@pytest.mark.parametrize(
    ("findings", "ending"),
    [
        ([FINE, ODD, WRONG], "mend what is BAD before starting a run"),
        ([FINE, ODD], "read the warnings first"),
        ([FINE], "0 BAD, 0 WARN, 1 OK: a run can start"),
    ],
)
def test_the_verdict_follows_from_the_worst_row(findings: list[Finding], ending: str) -> None:
    assert verdict(findings).endswith(ending)


def test_programs_get_the_same_rows() -> None:
    content = json.loads(as_json([FINE, WRONG], NODES))
    assert content["bad"] == 1
    assert content["nodes"] == ["a", "b", "c"]
    assert [row["level"] for row in content["findings"]] == ["BAD", "OK"]
    assert content["findings"][0] == {
        "level": "BAD",
        "check": "versions",
        "where": ["c", "a"],
        "found": "torch differs",
        "advice": "install one",
    }
