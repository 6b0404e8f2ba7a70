from __future__ import annotations

import io
import logging
import tarfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pytest

from pipeline import store
from pipeline.errors import ConfigError, ShardError
from slip.data.samples import RawSample
from slip.data.source import Slot, Source
from slip.data.unindexed import UnindexedSource

NUM_TARS, PER_TAR = 8, 25


class Make(Protocol):
    """Makes a source over the tars of `tars`; all are closed after the test."""

    def __call__(self, patterns: list[str] | None = None, **settings: Any) -> UnindexedSource: ...


def write_tar(path: Path, tar_number: int, num_samples: int = PER_TAR) -> None:
    with tarfile.open(path, "w") as tar:
        for n in range(num_samples):
            for extension, data in (("jpg", b"picture %d/%d" % (tar_number, n)), ("txt", b"%d/%d" % (tar_number, n))):
                info = tarfile.TarInfo(f"{n:06d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Make:
    for i in range(NUM_TARS):
        write_tar(tmp_path / f"{i:02d}.tar", i)

    def source(patterns: list[str] | None = None, **settings: Any) -> UnindexedSource:
        given: dict[str, Any] = {"seed": 1, "global_batch": 12, "rank": 0, "world_size": 1, "shuffle": 40}
        given |= {"samples_per_epoch": 100, "max_damaged": 0}
        made = UnindexedSource(patterns or [f"{tmp_path}/{{00..{NUM_TARS - 1:02d}}}.tar"], **(given | settings))
        request.addfinalizer(made.close)
        return made

    return source


def used(slots: list[Slot]) -> list[RawSample]:
    samples = [slot.window.result(timeout=60)[slot.number] for slot in slots]
    assert all(isinstance(sample, RawSample) for sample in samples)
    return [sample for sample in samples if isinstance(sample, RawSample)]


def texts(source: Source, samples: int = 0, num_batches: int = 10) -> list[str]:
    """Captions of some batches from a position on; the picture must be the caption's."""
    source.start(samples, samples + 10**6)
    found = [sample for _ in range(num_batches) for sample in used(source.next_batch())]
    assert all(bytes(sample.image).decode() == f"picture {sample.text}" for sample in found)
    return [sample.text for sample in found]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_samples_whatever_the_time(make: Make, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first = texts(make(threads=threads))
    assert len(first) == 120

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            threading.Event().wait(0.003)
            return super().read(min(size or 0, 4096))

    monkeypatch.setattr(store, "open_stream", lambda url: Slow(Path(url).read_bytes()))
    assert texts(make(threads=threads)) == first


def test_what_decides_the_order(make: Make) -> None:
    one = texts(make())
    assert texts(make(seed=2)) != one
    assert texts(make(), samples=12) != one[12:] + one[:12]
    ranks = [texts(make(world_size=3, rank=rank)) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [40, 40, 40]
    assert len({tuple(rank) for rank in ranks}) == 3
    by_thread = texts(make(threads=2, shuffle=0))
    assert by_thread[0::2] != by_thread[1::2]
    again = make()
    assert texts(again) == texts(again) == one  # a second start begins anew


def test_samples_are_drawn_widely(make: Make) -> None:
    counts = Counter(text.partition("/")[0] for text in texts(make(shuffle=400, threads=1), num_batches=100))
    assert set(counts) == {str(i) for i in range(NUM_TARS)}
    first_batch = texts(make(shuffle=400), num_batches=1)
    assert len({text.partition("/")[0] for text in first_batch}) > 2
    in_order = texts(make(shuffle=0, threads=1), num_batches=2)
    assert [int(text.partition("/")[2]) for text in in_order] == list(range(24))


def test_slots_and_ids(make: Make) -> None:
    source = make(world_size=2, rank=1, samples_per_epoch=30)
    source.start(24, 72)
    batches = [source.next_batch() for _ in range(4)]
    with pytest.raises(RuntimeError, match="up to 72"):
        source.next_batch()
    for i, batch in enumerate(batches):
        assert [slot.number for slot in batch] == list(range(6))
        assert [slot.sample_id for slot in batch] == [(1 << 40) + 24 + 12 * i + row for row in range(6)]
        assert [sample.sample_id for sample in used(batch)] == [slot.sample_id for slot in batch]
        assert len({slot.window for slot in batch}) == 1
    assert [batch[0].epoch for batch in batches] == [0, 1, 1, 2]
    assert (source.num_samples, source.lanes) == (30, 0)


def test_the_digest_follows_the_names_of_the_tars(make: Make, tmp_path: Path) -> None:
    assert make().digest == make([f"{tmp_path}/0{{7..0}}.tar"], seed=3).digest == make([str(tmp_path)]).digest
    assert make().digest != make([f"{tmp_path}/0{{1..7}}.tar"]).digest


def test_bytes_of_a_cut_tar_are_not_silently_lost(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "03.tar"
    with tarfile.open(path) as tar:
        path.write_bytes(path.read_bytes()[: tar.getmember("000010.jpg").offset])
    tolerant = texts(make(max_damaged=1), num_batches=60)
    assert not {f"3/{n}" for n in range(10, PER_TAR)} & set(tolerant)
    assert "3/9" in tolerant
    assert str(path) in caplog.text
    with pytest.raises(ShardError, match=r"03\.tar: .*--data\.max-damaged allows 0"):
        texts(make(), num_batches=60)


def test_tars_without_samples_stop_the_run(make: Make, tmp_path: Path) -> None:
    for name in ("x0.tar", "x1.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            info = tarfile.TarInfo("000.flac")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"sound"))
    with pytest.raises(ShardError, match=r"x.\.tar: no usable sample.*KEY\.jpg/jpeg.*'no image'"):
        texts(make([f"{tmp_path}/x{{0..1}}.tar"]))
    # One good tar among them is enough.
    assert set(texts(make([f"{tmp_path}/x{{0..1}}.tar", f"{tmp_path}/00.tar"]))) <= {f"0/{n}" for n in range(PER_TAR)}


class Blocking(io.RawIOBase):
    """A tar of which nothing more comes after the first bytes, until `released`."""

    def __init__(self, url: str, num_bytes: int, released: threading.Event, stuck: threading.Event) -> None:
        self._file: BinaryIO = io.BytesIO(Path(url).read_bytes()[:num_bytes])
        self._released, self._stuck = released, stuck

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        if not data:
            self._stuck.set()
            self._released.wait(60)
        return data


def test_a_stall_is_named_and_close_does_not_wait_for_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    released, stuck = threading.Event(), threading.Event()
    monkeypatch.setattr(store, "open_stream", lambda url: Blocking(url, 700, released, stuck))
    monkeypatch.setattr("slip.data.unindexed._CLOSE_S", 0.2)
    source = make([f"{tmp_path}/05.tar"], threads=1)
    assert source.waiting_for() == ""
    source.start(0, 120)
    assert source.waiting_for() == ""
    slots = source.next_batch()
    assert stuck.wait(60)
    assert f"{tmp_path}/05.tar in thread 0 of 1: 700 bytes of it came, nothing for 0 s" in source.waiting_for()
    source.close()
    with pytest.raises(CancelledError):
        slots[0].window.result(timeout=60)
    released.set()


@pytest.mark.parametrize("stop_by", [UnindexedSource.close, lambda source: source.start(0, 12)])
def test_threads_end_though_their_queues_are_full(make: Make, stop_by: Callable[[UnindexedSource], None]) -> None:
    source = make(threads=3, prefetch_bytes=100)
    before = set(threading.enumerate())
    source.start(0, 10**6)
    used(source.next_batch())
    threads = set(threading.enumerate()) - before
    readers = [thread for thread in threads if thread.name.startswith("tar-")]
    assert len(readers) == 3
    stop_by(source)
    assert not any(thread.is_alive() for thread in readers)
    for thread in threads:  # those of the store, which read ahead, have been told to end
        thread.join(60)
        assert not thread.is_alive()


def test_threads_end_by_themselves_when_all_was_read(make: Make) -> None:
    source = make(threads=2, global_batch=15)
    before = set(threading.enumerate())
    source.start(30, 100)
    threads = set(threading.enumerate()) - before
    assert sum(len(used(source.next_batch())) for _ in range(5)) == 75
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_the_log_says_what_is_not_guaranteed(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    make(world_size=2, rank=1)
    assert not caplog.records
    make()
    assert caplog.records[0].levelno == logging.WARNING
    for words in ("8 tars", "34.4 % of them are missed", "a resumed run", "world size", "digests", "slip index"):
        assert words in caplog.text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples_per_epoch": 0}, "--data.samples-per-epoch is 0; tars without a manifest"),
        ({"world_size": 5}, "--optim.global-batch is 12, not a multiple of the 5 processes"),
        ({"threads": 0}, "at least one thread"),
    ],
)
def test_settings_that_cannot_work(make: Make, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(None, **wrong)


def test_commands_are_not_run(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"'pipe:cat a\.tar'; commands are not run"):
        make(["pipe:cat a.tar"])
