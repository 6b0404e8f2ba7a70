from __future__ import annotations

import itertools
import os
import random
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import ranged, s3, store
from pipeline.errors import StoreError
from tests.faults.broken_bodies import Answer, BrokenBodies

DATA = random.Random(0).randbytes(3_000_000)
URL = "s3://bucket/a/00000.tar"
Serve = Callable[..., BrokenBodies]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses asked for; none is made."""
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


@pytest.mark.parametrize("kind", ["reset", "closed"])
def test_a_body_that_breaks_is_continued_at_once_from_where_it_broke(
    serve: Serve, pauses: list[float], kind: str
) -> None:
    server = serve(DATA, [Answer(kind, 700_000), Answer(kind, 900_000), Answer(kind, 400_000)])
    assert store.read_buffer(URL, 1000, 2_500_000) == DATA[1000:2_501_000]
    assert pauses == []
    starts = [start for start, _ in server.asked]
    assert {end for _, end in server.asked} == {2_501_000}
    assert len(starts) == 4
    # What was being gathered is lost; a reset may also throw away what the client's kernel has received.
    for before, start, sent in zip(starts, starts[1:], [700_000, 900_000, 400_000], strict=False):
        assert 0 <= before + sent - start < ranged._GATHERED_BYTES or (kind == "reset" and before < start)


def test_connections_that_always_break_early_still_bring_it_home(serve: Serve, pauses: list[float]) -> None:
    server = serve(DATA, itertools.repeat(Answer("closed", 30_000)))
    assert store.read_buffer(URL, 5, 100_000) == DATA[5:100_005]
    assert [start for start, _ in server.asked] == [5, 5, 30_005, 60_005, 90_005]
    assert pauses == []


def test_a_body_that_stalls_is_given_up_and_continued(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "STALL_TIMEOUT_S", 1)
    server = serve(DATA, [Answer("stall", 1_000_000), Answer("stall", 0)])
    assert store.read_buffer(URL, 0, 2_000_000) == DATA[:2_000_000]
    assert len(server.asked) == 3
    starts = [start for start, _ in server.asked]
    assert starts[0] == 0
    assert 1_000_000 - ranged._GATHERED_BYTES < starts[1] == starts[2] <= 1_000_000


def test_a_slow_line_takes_several_requests_and_no_failure(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "RANGE_TIMEOUT_S", 1)
    monkeypatch.setattr(ranged, "RANGE_BUDGET_S", 2.0)
    server = serve(DATA, [Answer("slow")] * 3)
    assert store.read_buffer(URL, 0, len(DATA)) == DATA
    starts = [start for start, _ in server.asked]
    assert len(starts) == 4
    assert starts == sorted(set(starts))


def test_pauses_grow_while_nothing_comes(serve: Serve, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged._jitter, "uniform", lambda low, high: high)
    serve(DATA, [Answer("503")] * 9 + [Answer("reset", 500_000), Answer("503")])
    assert store.read_buffer(URL, 0, 1_000_000) == DATA[:1_000_000]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 0.1]


def test_whole_objects_are_asked_for_until_the_store_has_recovered(serve: Serve, pauses: list[float]) -> None:
    server = serve(DATA, [Answer("503")] * 9 + [Answer("reset", 500_000), Answer("closed", 10), Answer("503")])
    assert store.read_bytes(URL) == DATA
    assert len(server.asked) == 13 == len(pauses) + 1


def test_a_whole_object_that_is_not_there_is_asked_for_once(serve: Serve, pauses: list[float]) -> None:
    server = serve(DATA, [Answer("404")])
    with pytest.raises(StoreError, match=f"^{URL}: cannot read at .*it does not exist"):
        store.read_bytes(URL)
    assert (len(server.asked), pauses) == (1, [])


def test_an_object_replaced_meanwhile_is_an_error_even_when_it_has_the_same_size(serve: Serve) -> None:
    serve(DATA, [Answer("reset", 500_000), Answer(tag="second")])
    with pytest.raises(StoreError, match=rf"^{URL}: the object was replaced while it was being read.*second.*first"):
        store.read_buffer(URL, 0, 1_000_000)


def test_what_reads_several_ranges_sees_that_the_object_was_replaced_between_them(serve: Serve) -> None:
    serve(DATA, [Answer(), Answer(tag="second")])
    file = store.RangedFile(URL)
    assert file.read(0, 10) == DATA[:10]
    with pytest.raises(StoreError, match="was replaced"):
        file.read(10, 10)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (Answer("503"), "HTTP 503"),
        (Answer("reset"), r"the answer broke off \(connection reset\)"),
        (Answer("closed"), r"the answer broke off \(the connection was closed early\)"),
    ],
)
def test_giving_up_says_how_far_it_came(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, last: Answer, words: str
) -> None:
    monkeypatch.setattr(ranged, "RANGE_BUDGET_S", 0.5)
    server = serve(DATA, [Answer("reset", 500_000), *[last] * 99])
    with pytest.raises(StoreError) as caught:
        store.read_buffer(URL, 7, 1_000_000)
    assert re.fullmatch(
        rf"{URL}: cannot read 1000000 bytes at offset 7 at {server.url}: got [1-9]\d{{5}} bytes in "
        rf"{len(server.asked)} attempts and \d s, none in the last \d s; the last failure was: {words}; the store or "
        "the network falters: run the same command again when it has recovered",
        str(caught.value),
    )


@pytest.mark.parametrize(
    ("answer", "start", "words"),
    [
        (Answer("404"), 0, "does not exist"),
        (Answer("403"), 0, "access is denied"),
        (Answer(), len(DATA) + 5, "outside the object"),
        (Answer(), len(DATA) - 5, f"the file has {len(DATA)} bytes"),
    ],
)
def test_what_cannot_pass_is_asked_once(serve: Serve, answer: Answer, start: int, words: str) -> None:
    server = serve(DATA, [answer] * 9)
    with pytest.raises(StoreError, match=rf"{URL}: cannot read 10 bytes at offset {start}.*{words}"):
        store.read_buffer(URL, start, 10)
    assert len(server.asked) == 1


def test_the_watch_sees_attempts_and_bytes_and_can_end_the_read(serve: Serve) -> None:
    calls: list[tuple[int, int]] = []
    serve(DATA, [Answer("reset", 800_000)])
    store.read_buffer(URL, 0, 1_000_000, watch=lambda num_bytes, attempt: calls.append((num_bytes, attempt)))
    assert calls[0] == (0, 1)
    assert calls[-1] == (1_000_000, 2)
    assert calls == sorted(calls)
    # How many parts come is the network's business; every call says something new, and both attempts are told of.
    assert len(calls) == len(set(calls))
    assert {attempt for _, attempt in calls} == {1, 2}
    assert any(0 < num_bytes < 1_000_000 for num_bytes, _ in calls)

    def enough(num_bytes: int, attempt: int) -> None:
        if num_bytes:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        store.read_buffer(URL, 0, 1_000_000, watch=enough)


def test_many_threads_at_once_under_faults(serve: Serve, pauses: list[float]) -> None:
    draw = random.Random(1)
    kinds = ["reset", "closed", "503", "good", "good"]
    serve(DATA, [Answer(draw.choice(kinds), draw.randrange(300_000)) for _ in range(60)])
    spans = [(draw.randrange(2_000_000), draw.randrange(1, 900_000)) for _ in range(40)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda span: store.read_buffer(URL, *span), spans))
    assert all(data == DATA[start : start + length] for data, (start, length) in zip(found, spans, strict=True))


def test_http_is_continued_too(serve: Serve, pauses: list[float]) -> None:
    server = serve(DATA, [Answer("closed", 40_000), Answer("503"), Answer("reset", 0)])
    url = f"{server.url}/a.tar"
    assert store.read_buffer(url, 50, 1_000_000) == DATA[50:1_000_050]
    with pytest.raises(StoreError, match=r"a\.tar: cannot read 10 bytes at offset 4000000: .*outside"):
        store.read_buffer(url, 4_000_000, 10)


def test_a_server_without_ranges_is_named(serve: Serve) -> None:
    server = serve(DATA, [Answer("whole")])
    with pytest.raises(StoreError, match=r"got 3000000 bytes when asked for 10 at offset 0.*does not serve ranges"):
        store.read_buffer(f"{server.url}/a.tar", 0, 10)


def test_pieces_of_other_stores_that_falter_are_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    url = f"memory://{uuid.uuid4().hex}/a.bin"
    store.write_bytes(url, b"0123456789")
    filesystem, _ = store.filesystem(url)
    real, answers, asked = filesystem.cat_file, iter(["reset", "short", "reset", "good"]), []

    def faltering(path: str, start: int, end: int) -> bytes:
        answer = next(answers)
        asked.append((start, end))
        if answer == "reset":
            raise ConnectionResetError("Connection reset by peer")
        return bytes(real(path, start=start, end=end if answer == "good" else end - 1))

    monkeypatch.setattr(filesystem, "cat_file", faltering)
    assert store.read_range(url, 2, 5) == b"23456"
    assert asked == [(2, 7), (2, 7), (6, 7), (6, 7)]
    assert len(pauses) == 2


def test_a_long_range_of_another_store_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}/a.bin"
    store.write_bytes(url, DATA)
    monkeypatch.setattr(ranged, "_PIECE_BYTES", 1 << 20)
    calls: list[tuple[int, int]] = []
    data = store.read_buffer(url, 1, len(DATA) - 1, watch=lambda num_bytes, attempt: calls.append((num_bytes, attempt)))
    assert data == DATA[1:]
    assert calls == [(0, 1), (1 << 20, 1), (2 << 20, 1), (len(DATA) - 1, 1)]


def test_a_read_that_keeps_failing_gives_up_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}/a.bin"
    store.write_bytes(url, b"0123456789")
    filesystem, _ = store.filesystem(url)
    now = [0.0]

    def failing(path: str, start: int, end: int) -> bytes:
        raise ConnectionResetError("Connection reset by peer")

    def sleep(pause_s: float) -> None:
        now[0] += pause_s

    monkeypatch.setattr(filesystem, "cat_file", failing)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with pytest.raises(StoreError, match=r"a\.bin: cannot read 5 bytes at offset 2: got 0 bytes in .*be reached"):
        store.read_range(url, 2, 5)
    assert 50 <= now[0] <= store.RANGE_BUDGET_S


def test_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin").write_bytes(DATA)
    url, calls = f"file://{tmp_path}/a.bin", []
    found = store.read_buffer(url, 3, 100_000, watch=lambda num_bytes, attempt: calls.append((num_bytes, attempt)))
    assert found == DATA[3:100_003]
    assert calls == [(0, 1), (100_000, 1)]
    assert len(store.read_buffer(url, 3, 0)) == 0
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, start: real(file, min(length, 7), start))
    assert store.read_range(url, 3, 100) == DATA[3:103]
    with pytest.raises(StoreError, match=r"cannot read 10 bytes at offset 2999995: the file has 3000000 bytes"):
        store.read_buffer(url, len(DATA) - 5, 10)
