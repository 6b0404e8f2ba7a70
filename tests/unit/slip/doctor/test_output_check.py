"""The output: nodes that see another folder than rank 0's are named, and nothing of the trial stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import store
from slip.doctor.exchange import Exchange
from slip.doctor.finding import Finding
from slip.doctor.output_check import Sight, check_output, judge_output, look_for
from slip.doctor.traces import Traces

Together = Callable[..., Any]
SEEN = Sight(seconds=0.1)
UNSEEN = Sight(seconds=None, detail="no such file")


def test_a_folder_that_all_see_is_fine() -> None:
    (found,) = judge_output("runs", [("a", SEEN), ("b", SEEN)], [("a", SEEN), ("b", SEEN)])
    assert (found.level, found.where, found.found) == ("OK", ("a", "b"), "runs is the same for all")


def test_nodes_that_do_not_see_it_are_bad() -> None:
    (found,) = judge_output(
        "runs", [("a", SEEN), ("b", UNSEEN), ("c", SEEN), ("d", UNSEEN)], [("a", SEEN), ("c", SEEN)]
    )
    assert (found.level, found.where) == ("BAD", ("b", "d"))
    assert found.found == "what a writes to runs is not seen here (no such file)"


def test_nodes_that_are_not_seen_are_bad() -> None:
    (found,) = judge_output("runs", [("a", SEEN), ("b", SEEN)], [("a", SEEN), ("b", UNSEEN)])
    assert (found.level, found.where) == ("BAD", ("b",))
    assert "here is not seen on a" in found.found


def test_a_late_sight_is_a_warning() -> None:
    late = Sight(seconds=12.34)
    (found,) = judge_output("runs", [("a", SEEN), ("b", late)], [("a", SEEN), ("b", SEEN)])
    assert (found.level, found.where) == ("WARN", ("b",))
    assert "12.3 s" in found.found


def test_a_file_is_looked_for_until_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "x"
    assert look_for(str(file), b"12", within_s=0).seconds is None
    file.write_bytes(b"1")
    assert "other content" in look_for(str(file), b"12", within_s=0).detail
    file.write_bytes(b"12")
    assert look_for(str(file), b"12", within_s=0).seconds is not None


def checked(together: Together, nodes: list[str], outputs: list[str]) -> list[list[Finding]]:
    def work(exchange: Exchange, rank: int) -> list[Finding]:
        ranks = exchange.meet()
        with Traces() as traces:
            found = check_output(outputs[rank], exchange, ranks, traces, within_s=0.2)
            exchange.gather("others", traces.clear if rank else None)
        return found

    results: list[list[Finding]] = together(nodes, work)
    assert results[1:] == [[]] * (len(nodes) - 1)
    return results


@pytest.mark.parametrize("kind", ["folder", "file://", "memory://"])
def test_nodes_that_share_an_output(together: Together, tmp_path: Path, kind: str) -> None:
    output = str(tmp_path / "runs") if kind == "folder" else f"{kind}{tmp_path}/runs"
    (found,) = checked(together, ["a", "b", "b", "c"], [output] * 4)[0]
    assert (found.level, found.where) == ("OK", ("a", "b", "c"))
    assert list(tmp_path.iterdir()) == []
    if kind == "memory://":
        assert store.list_names(output) == []


def test_a_node_with_a_folder_of_its_own(together: Together, tmp_path: Path) -> None:
    shared, own = str(tmp_path / "shared"), str(tmp_path / "own")
    (found,) = checked(together, ["a", "b", "c"], [shared, own, shared])[0]
    assert (found.level, found.where) == ("BAD", ("b",))
    assert found.found.startswith(f"what a writes to {shared} is not seen here")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be(together: Together, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (found,) = checked(together, ["a", "b"], [str(tmp_path / "file/runs")] * 2)[0]
    assert (found.level, found.where) == ("BAD", ("a",))
    assert "Not a directory" in found.found
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
