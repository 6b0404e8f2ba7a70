"""The data set: every rank reads its own part of it, slow nodes and other data sets are named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists

from pipeline.errors import StoreError
from slip.doctor.config import DoctorConfig
from slip.doctor.data_check import Opened, Pace, Piece, check_data, judge_opened, judge_pace, pieces, read_pieces
from slip.doctor.exchange import Answer, Exchange
from slip.doctor.finding import Finding
from tests.tiny_data import write_shards

Together = Callable[..., Any]
MB = 10**6


@settings(deadline=None)
@given(
    sizes=lists(integers(1, 40 * MB), min_size=1, max_size=12),
    world_size=integers(1, 9),
    share=integers(MB, 80 * MB),
    connections=integers(1, 16),
)
def test_all_ranks_together_read_what_was_asked(
    sizes: list[int], world_size: int, share: int, connections: int
) -> None:
    shards = [(f"{i}.tar", size) for i, size in enumerate(sizes)]
    by_rank = [
        pieces(shards, rank=rank, world_size=world_size, share=share, connections=connections)
        for rank in range(world_size)
    ]
    every = [piece for part in by_rank for piece in part]
    for piece in every:
        assert piece.start >= 0
        assert piece.length > 0
        assert piece.start + piece.length <= dict(shards)[piece.url]
    # No rank has nothing to do beside one that has two reads more, unless there is less than a byte for each.
    counts = [len(part) for part in by_rank]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1 or sum(sizes) < world_size
    assert sum(piece.length for piece in every) <= max(min(share * world_size, sum(sizes)), 1)


def test_a_large_data_set_is_read_in_as_many_bytes_as_asked_and_nowhere_twice() -> None:
    shards = [(f"{i}.tar", 100 * MB) for i in range(10)]
    every = [p for rank in range(4) for p in pieces(shards, rank=rank, world_size=4, share=16 * MB, connections=8)]
    assert sum(piece.length for piece in every) == 64 * MB
    assert {piece.url for piece in every} == {url for url, _ in shards}
    ends: dict[str, int] = {}
    for piece in sorted(every):
        assert piece.start >= ends.get(piece.url, 0)
        ends[piece.url] = piece.start + piece.length


def test_pieces_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    assert read_pieces([Piece(str(tmp_path / "x"), 2, 3), Piece(str(tmp_path / "x"), 0, 10)], 2).num_bytes == 13
    with pytest.raises(StoreError, match="fewer than expected"):
        read_pieces([Piece(str(tmp_path / "x"), 8, 3), Piece(str(tmp_path / "x"), 0, 1)], 1)


def opened(*digests: str) -> list[Finding]:
    return judge_opened(
        [
            Answer(
                rank=rank, node="abcd"[rank], value=Opened(digest=digest * 64, num_samples=1000, sample_bytes=54_000)
            )
            for rank, digest in enumerate(digests)
        ]
    )


def test_one_data_set_is_fine() -> None:
    (found,) = opened("1", "1")
    assert (found.level, found.found) == ("OK", "1,000 samples of 54.0 KB, sha256 111111111111")


def test_another_data_set_names_both_sides() -> None:
    (found,) = opened("1", "1", "2")
    assert (found.level, found.where) == ("BAD", ("c",))
    assert found.found == "not the same: sha256 222222222222 on c; sha256 111111111111 on a, b"


def paced(*rates: tuple[str, float], on_gpu: bool = True) -> Finding:
    """Ranks' MB in two seconds; a GPU trains 100 samples of 50 KB a second: 5 MB/s."""
    answers = [
        Answer(rank=rank, node=node, value=Pace(num_bytes=int(mb * MB), seconds=2.0))
        for rank, (node, mb) in enumerate(rates)
    ]
    (found,) = judge_pace(answers, sample_bytes=50_000, gpu_rate=100.0, on_gpu=on_gpu)
    return found


def test_rates_add_up_over_ranks_and_nodes() -> None:
    found = paced(("a", 100), ("a", 100), ("b", 60), ("b", 40))
    assert found.level == "OK"
    assert found.found == (
        "150 MB/s (300 MB came), that is 3,000 samples/s over all nodes; the slowest, b, 50 MB/s or 1,000 samples/s"
    )


def test_a_node_that_reads_slower_than_its_gpus_train_is_a_warning() -> None:
    found = paced(("a", 100), ("a", 100), ("b", 12), ("b", 7))
    assert (found.level, found.where) == ("WARN", ("b",))
    assert "its 2 GPUs train 200 samples/s" in found.found
    assert paced(("a", 100), ("a", 100), ("b", 12), ("b", 7), on_gpu=False).level == "OK"


def test_the_slowest_rank_decides_for_its_node() -> None:
    answers = [
        Answer(rank=0, node="a", value=Pace(num_bytes=20 * MB, seconds=1.0)),
        Answer(rank=1, node="a", value=Pace(num_bytes=20 * MB, seconds=4.0)),
    ]
    (found,) = judge_pace(answers, sample_bytes=50_000, gpu_rate=100.0, on_gpu=True)
    assert found.found.startswith("10 MB/s")


def test_little_data_says_nothing_of_the_rate() -> None:
    found = paced(("a", 1), ("b", 1))
    assert (found.level, found.found[:11]) == ("OK", "2.0 MB came")


def checked(together: Together, *manifests: str) -> list[Finding]:
    def work(exchange: Exchange, rank: int) -> list[Finding]:
        config = DoctorConfig(manifest=(manifests[rank],) if manifests[rank] else (), connections=2)
        return check_data(exchange, exchange.meet(), config, on_gpu=False)

    found: list[Finding] = together("abc"[: len(manifests)], work)[0]
    return found


def test_it_is_opened_and_read_on_all_nodes(together: Together, tmp_path: Path) -> None:
    manifest = write_shards(tmp_path / "d", [4, 3])
    found = checked(together, manifest, str(tmp_path / "d"))
    assert [(one.level, one.check, one.where) for one in found] == [
        ("OK", "manifest", ("a", "b")),
        ("OK", "reading", ("a", "b")),
    ]
    assert found[0].found.startswith("7 samples of ")


def test_a_node_without_the_data_set_is_named_and_the_others_read(together: Together, tmp_path: Path) -> None:
    manifest = write_shards(tmp_path / "d", [4])
    found = checked(together, manifest, str(tmp_path / "none"), manifest)
    assert [(one.level, one.check, one.where) for one in found] == [
        ("BAD", "manifest", ("b",)),
        ("OK", "manifest", ("a", "c")),
        ("OK", "reading", ("a", "c")),
    ]
    assert "there is no manifest" in found[0].found


def test_a_missing_shard_is_named(together: Together, tmp_path: Path) -> None:
    manifest = write_shards(tmp_path / "d", [4])
    shutil.copytree(tmp_path / "d", tmp_path / "e")
    (tmp_path / "e/00000.tar").unlink()
    found = checked(together, manifest, str(tmp_path / "e"))
    assert [(one.level, one.check, one.where) for one in found] == [
        ("OK", "manifest", ("a", "b")),
        ("BAD", "reading", ("b",)),
        ("OK", "reading", ("a",)),
    ]
    assert "00000.tar" in found[1].found


def test_without_a_manifest_it_says_what_was_not_tried(together: Together) -> None:
    (found,) = checked(together, "", "")
    assert (found.level, found.check, found.where) == ("WARN", "manifest", ("a", "b"))
