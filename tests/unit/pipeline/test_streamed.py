from __future__ import annotations

import io
import itertools
import random
import tarfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import ranged, store, streamed
from pipeline.errors import StoreError
from tests.faults.broken_bodies import Answer, BrokenBodies

DATA = random.Random(0).randbytes(3_000_000)
URL = "s3://bucket/a/00000.tar"
Serve = Callable[..., BrokenBodies]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "PIECE_BYTES", 400_000)


def _is_reading() -> bool:
    return any(thread.name.startswith("stream") for thread in threading.enumerate())


@pytest.mark.parametrize("place", ["local", "memory"])
@pytest.mark.parametrize("length", [0, 1, 400_000, 3_000_000])
def test_a_whole_file_comes_in_order(tmp_path: Path, place: str, length: int) -> None:
    url = str(tmp_path / "a.bin") if place == "local" else f"memory://{uuid.uuid4().hex}/a.bin"
    store.write_bytes(url, DATA[:length])
    draw, found = random.Random(2), bytearray()
    with store.open_stream(url) as stream:
        assert stream.size == length
        while part := stream.read(wanted := draw.choice([1, 512, 10_240, 700_000])):
            found += part
            assert len(part) == wanted or len(found) == length
    assert found == DATA[:length]
    assert stream.closed
    with store.open_stream(url) as stream:
        assert stream.read() == DATA[:length]


def test_breaks_are_continued(serve: Serve) -> None:
    draw = random.Random(1)
    kinds = ["reset", "closed", "good"]
    server = serve(DATA, [Answer(draw.choice(kinds), draw.randrange(300_000)) for _ in range(10)])
    with store.open_stream(URL) as stream:
        assert stream.size == len(DATA)
        assert stream.read() == DATA
    assert len(server.asked) > 10


def test_only_a_few_pieces_are_read_ahead(serve: Serve) -> None:
    server = serve(DATA)
    with store.open_stream(URL) as stream:
        assert stream.read(10) == DATA[:10]
        assert max(end for _, end in server.asked) <= 1_200_000
        assert stream.read(1_000_000) == DATA[10:1_000_010]
        assert max(end for _, end in server.asked) <= 2_000_000


def test_an_object_replaced_between_two_pieces_is_an_error(serve: Serve) -> None:
    serve(DATA, [*[Answer()] * 4, *[Answer(tag="second")] * 9])
    with store.open_stream(URL) as stream, pytest.raises(StoreError, match="was replaced"):
        stream.read()


def test_what_failed_is_never_skipped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "RANGE_BUDGET_S", 0.0)
    monkeypatch.setattr(streamed, "PIECES_AHEAD", 1)
    serve(DATA, [Answer(), *[Answer("503")] * 99])
    with store.open_stream(URL) as stream:
        assert stream.read(400_000) == DATA[:400_000]
        for _ in range(3):
            with pytest.raises(StoreError, match=rf"{URL}: cannot read 400000 bytes at offset 400000"):
                stream.read(10)


def test_closing_ends_the_reads_ahead(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "PIECES_AHEAD", 1)
    server = serve(DATA, itertools.chain([Answer()], itertools.repeat(Answer("503"))))
    stream = store.open_stream(URL)
    assert stream.read(10) == DATA[:10]
    while len(server.asked) < 2:
        threading.Event().wait(0.01)
    stream.close()
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("stream"):
            thread.join(10)
    assert not _is_reading()
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


def test_a_tar_is_read_in_one_pass(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(5):
            entry = tarfile.TarInfo(f"{number}.bin")
            entry.size = 300_000
            tar.addfile(entry, io.BytesIO(DATA[number * 300_000 :]))
    with store.open_stream(str(tmp_path / "a.tar")) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        contents = b"".join(file.read() for entry in tar if (file := tar.extractfile(entry)))
    assert contents == DATA[:1_500_000]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for url in (str(tmp_path / "none.tar"), "memory://nowhere/none.tar", str(tmp_path)):
        with pytest.raises(StoreError, match=rf"{url}: cannot read: it does not exist"):
            store.open_stream(url)
