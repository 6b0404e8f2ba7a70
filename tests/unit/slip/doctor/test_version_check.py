"""Versions: what differs is named with the nodes on either side; the code's digest sees every change."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import torch

from slip.doctor.exchange import Answer
from slip.doctor.finding import Finding
from slip.doctor.version_check import Versions, code_digest, judge_versions, versions

SAME = dict.fromkeys(("python", "torch", "CUDA", "NCCL", "timm", "numpy", "Pillow", "code"), "1.0")


def judged(*told: tuple[str, Versions]) -> list[Finding]:
    return judge_versions([Answer(rank=rank, node=node, value=one) for rank, (node, one) in enumerate(told)])


def test_equal_versions_are_fine_and_shown() -> None:
    (found,) = judged(("a", SAME), ("a", SAME), ("b", SAME))
    assert (found.level, found.where) == ("OK", ("a", "b"))
    assert "torch 1.0" in found.found


def test_a_difference_names_the_nodes_on_each_side() -> None:
    (found,) = judged(("a", SAME), ("b", SAME | {"torch": "2.0"}), ("c", SAME))
    assert (found.level, found.where) == ("BAD", ("b",))
    assert found.found == "torch: 2.0 on b; 1.0 on a, c"


def test_where_no_side_is_larger_both_are_named() -> None:
    (found,) = judged(("a", SAME), ("b", SAME | {"torch": "2.0"}))
    assert (found.where, found.found) == (("a", "b"), "torch: 1.0 on a; 2.0 on b")


def test_each_difference_has_its_row() -> None:
    found = judged(("a", SAME), ("b", SAME | {"code": "x"}), ("c", SAME | {"numpy": "3"}), ("d", SAME))
    assert [(one.level, one.where, one.found.split(":")[0]) for one in found] == [
        ("BAD", ("c",), "numpy"),
        ("BAD", ("b",), "code"),
    ]


def test_what_only_some_have_is_a_difference() -> None:
    (found,) = judged(("a", SAME | {"simplejpeg": "1.7"}), ("b", SAME), ("c", SAME))
    assert found.found == "simplejpeg: 1.7 on a; none on b, c"


def test_what_this_process_runs() -> None:
    found = versions()
    assert found["torch"] == torch.__version__
    assert found["timm"] == metadata.version("timm")
    assert set(SAME) <= set(found)
    assert found == versions()


@pytest.mark.parametrize("change", ["content", "name", "added", "moved", "not code"])
def test_the_digest_sees_changes_of_the_code_only(tmp_path: Path, change: str) -> None:
    for copy in ("one", "two"):
        (tmp_path / copy / "slip/data").mkdir(parents=True)
        (tmp_path / copy / "slip/a.py").write_text("a = 1\n")
        (tmp_path / copy / "slip/data/b.py").write_text("b = 1\n")
    two = tmp_path / "two/slip"
    before = code_digest([tmp_path / "one/slip"])
    assert code_digest([two]) == before
    match change:
        case "content":
            (two / "data/b.py").write_text("b = 2\n")
        case "name":
            (two / "a.py").rename(two / "c.py")
        case "added":
            (two / "c.py").write_text("")
        case "moved":
            (two / "data/b.py").rename(two / "b.py")
        case _:
            (two / "__pycache__").mkdir()
            (two / "__pycache__/a.cpython-311.pyc").write_bytes(b"1")
    assert (code_digest([two]) == before) == (change == "not code")
