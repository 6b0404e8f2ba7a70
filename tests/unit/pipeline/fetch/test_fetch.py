from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import BuildConfig
from pipeline.errors import StoreError
from pipeline.fetch.fetch import fetch_again, fetch_units, fetched_tar, read_outcomes
from pipeline.fetch.fetched import again_tar, read_again, temp_prefix
from pipeline.fetch.timing import read_timing
from pipeline.records import OUTCOME_SCHEMA, SELECTION_SCHEMA, Reason
from pipeline.selection.selection import part_path

FAKE_PATH = Path(__file__).with_name("fake_img2dataset.py")

KINDS = [
    "good",
    "good",
    "dead",
    "placeholder",
    "removed",
    "truncated",
    "flaky",
    "html",
    "bomb",
    "reset",
    "pixel",
    "cut",
    "robots",
]
EXPECTED = {
    "good": "",
    "flaky": "",
    "dead": Reason.DEAD_LINK,
    "robots": Reason.DEAD_LINK,
    "placeholder": Reason.PLACEHOLDER,
    "removed": Reason.PLACEHOLDER,
    "truncated": Reason.TRUNCATED,
    "cut": Reason.TRUNCATED,
    "html": Reason.NOT_AN_IMAGE,
    "bomb": Reason.BOMB,
    "reset": Reason.UNREACHABLE,
    "pixel": Reason.TOO_SMALL,
}


def jpeg(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (seed % 256, seed // 256 % 256, 77)).save(out, "JPEG")
    return out.getvalue()


def body(kind: str, seed: int) -> bytes:
    if kind == "placeholder":
        out = io.BytesIO()
        Image.new("RGB", (500, 374)).save(out, "PNG")
        return out.getvalue()
    if kind == "html":
        return b"<html>hello</html>"
    if kind == "bomb":
        data = bytearray(jpeg(seed))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 30_000, 30_000)
        return bytes(data)
    if kind == "pixel":
        return jpeg(seed, (1, 1))
    return jpeg(seed)[: -100 if kind == "cut" else None]


class Handler(BaseHTTPRequestHandler):
    """Answers GET http://flickr.test/KIND/SEED.jpg, as a proxy."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        kind, name = self.path.split("/")[-2:]
        self.asked[self.path] += 1
        data = body(kind, int(name.removesuffix(".jpg")))
        status = 404 if kind == "dead" else 503 if kind == "flaky" and self.asked[self.path] < 3 else 200
        status = 302 if kind == "removed" else status
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) + (500 if kind == "truncated" else 0)))
        if kind == "removed":
            self.send_header("Location", "http://s.yimg.com/pw/images/en-us/photo_unavailable.png")
        if kind == "robots":
            self.send_header("X-Robots-Tag", "noai")
        self.end_headers()
        if kind == "reset":
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.wfile.write(data)

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            return  # this is the reset connection

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def write_part(work: Path, unit: int, urls: list[str]) -> None:
    rows = [
        dict.fromkeys(SELECTION_SCHEMA.names, "")
        | {"key": f"{unit * 1000 + i}", "row": unit * 1000 + i, "url": url, "photo_id": -1, "line": -1}
        | {"title_usable": True, "description_usable": False}
        for i, url in enumerate(urls)
    ]
    part_path(work, unit).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), part_path(work, unit))


def config(work: Path, **settings: object) -> BuildConfig:
    defaults = {"output": str(work / "out"), "processes": 2, "threads": 8, "retries": 3, "timeout_s": 5.0}
    return BuildConfig(**{**defaults, **settings})  # type: ignore[arg-type]


def flickr_urls(unit: int, count: int) -> list[str]:
    return [f"http://flickr.test/{KINDS[(i + unit) % len(KINDS)]}/{unit * 1000 + i}.jpg" for i in range(count)]


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix not in {".log", ".jsonl"}]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def fetched(proxy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three units of 29, 40 and 5 rows, fetched once."""
    work = tmp_path_factory.mktemp("work")
    for unit, count in enumerate((29, 40, 5)):
        write_part(work, unit, flickr_urls(unit, count))
    with subprocess.Popen(["true"]) as ended:
        killed = temp_prefix().replace(str(os.getpid()), str(ended.pid))
    stale = work / "fetched" / f"{killed}old"
    stale.mkdir(parents=True)
    (stale / "00000.tar").write_bytes(b"of a build that was killed")
    assert sorted(fetch_units(config(work), work, range(3), proxy=proxy)) == [0, 1, 2]
    return work


def test_every_row_has_one_outcome_and_the_right_one(fetched: Path) -> None:
    for unit, count in enumerate((29, 40, 5)):
        table = read_outcomes(fetched, unit)
        assert table.schema.equals(OUTCOME_SCHEMA)
        urls = flickr_urls(unit, count)
        assert table["url"].to_pylist() == urls
        assert table["row"].to_pylist() == [unit * 1000 + i for i in range(count)]
        expected = [EXPECTED[url.split("/")[-2]] for url in urls]
        assert [str(r) for r in table["reason"].to_pylist()] == [str(e) for e in expected]
        for row in table.to_pylist():
            assert bool(row["detail"]) == bool(row["reason"]), row
            assert row["source"] == "url"
            assert row["attempts"] == [{name: row[name] for name in ("source", "reason", "detail")}]


def test_good_pictures_are_in_the_tar_as_served(fetched: Path) -> None:
    for unit in range(3):
        good = [row for row in read_outcomes(fetched, unit).to_pylist() if not row["reason"]]
        with tarfile.open(fetched_tar(fetched, unit)) as tar:
            assert tar.getnames() == [row["member"] for row in good]
            for row in good:
                member = tar.extractfile(row["member"])
                assert member is not None
                data = member.read()
                kind, name = row["url"].split("/")[-2:]
                assert data == body(kind, int(name.removesuffix(".jpg")))
                assert row["sha256"] == hashlib.sha256(data).hexdigest()
                found = (row["format"], row["width"], row["height"], row["num_bytes"])
                assert found == ("jpg", 40, 30, len(data))
                start = row["offset"]
                assert fetched_tar(fetched, unit).read_bytes()[start : start + len(data)] == data


def test_nothing_else_is_left(fetched: Path) -> None:
    names = {f"{unit:05d}.{kind}" for unit in range(3) for kind in ("tar", "parquet")}
    assert set(contents(fetched / "fetched")) == names


def test_what_is_final_is_asked_for_once_and_what_may_pass_again(fetched: Path) -> None:
    for path, times in Handler.asked.items():
        kind = path.split("/")[-2]
        assert "photo_unavailable" not in path
        if kind in {"good", "dead", "removed", "placeholder", "robots", "html", "bomb", "pixel", "cut"}:
            assert times == 1, path
        else:
            assert times in {3, 4}, path


def test_times_are_noted(fetched: Path) -> None:
    timings = {timing.unit: timing for timing in read_timing(fetched)}
    for unit, count in enumerate((29, 40, 5)):
        good = [row["num_bytes"] for row in read_outcomes(fetched, unit).to_pylist() if not row["reason"]]
        found = timings[unit]
        assert (found.rows, found.pictures, found.num_bytes) == (count, len(good), sum(good))
        assert found.seconds > 0


def test_some_rows_are_asked_for_again(fetched: Path, proxy: str, tmp_path: Path) -> None:
    shutil.copytree(fetched, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path / "fetched")
    wanted = {1: [2, 3, 17, 39], 0: [0]}
    for _ in range(2):
        asked = Handler.asked.total()
        assert sorted(fetch_again(config(tmp_path), tmp_path, wanted, proxy=proxy)) == [0, 1]
        assert {
            name: digest for name, digest in contents(tmp_path / "fetched").items() if "again" not in name
        } == before
    assert Handler.asked.total() == asked, "what is there is not asked for once more"
    for unit, positions in wanted.items():
        found, expected = read_again(tmp_path, unit).to_pylist(), read_outcomes(tmp_path, unit).to_pylist()
        assert [row | {"offset": 0} for row in found] == [expected[at] | {"offset": 0} for at in positions]
        with tarfile.open(again_tar(tmp_path, unit)) as tar:
            assert tar.getnames() == [row["member"] for row in found if row["member"]]
    assert list(fetch_again(config(tmp_path), tmp_path, {1: [2, 3]}, proxy=proxy)) == [1]
    assert read_again(tmp_path, 1).num_rows == 2, "the answer to another question is replaced"


def test_a_second_run_asks_for_nothing(fetched: Path) -> None:
    before, asked = contents(fetched / "fetched"), Handler.asked.total()
    assert list(fetch_units(config(fetched), fetched, range(3), proxy="http://127.0.0.1:9")) == [0, 1, 2]
    assert (contents(fetched / "fetched"), Handler.asked.total()) == (before, asked)


def test_order_and_threads_do_not_change_the_bytes(fetched: Path, proxy: str, tmp_path: Path) -> None:
    (tmp_path / "selection").symlink_to(fetched / "selection")
    units = [2, 1]
    assert set(fetch_units(config(tmp_path, threads=3, processes=1), tmp_path, units, proxy=proxy)) == {1, 2}
    expected = contents(fetched / "fetched")
    assert contents(tmp_path / "fetched") == {name: expected[name] for name in expected if name[:5] != "00000"}


@pytest.fixture
def fake_download(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces img2dataset by a script that leaves a tar cut at a member boundary in its first calls.

    The list holds one number: how many calls spoil their tar.
    """
    calls = [0]
    spoiled = [1]
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        spoil = calls[0] < spoiled[0]
        calls[0] += 1
        return real([sys.executable, str(FAKE_PATH), command[-1], str(int(spoil))], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr("subprocess.Popen", popen)
    return spoiled


def test_files_that_do_not_verify_are_downloaded_again(fake_download: list[int], tmp_path: Path) -> None:
    write_part(tmp_path, 0, flickr_urls(0, 12))
    write_part(tmp_path, 1, flickr_urls(1, 12))
    assert sorted(fetch_units(config(tmp_path), tmp_path, [0, 1])) == [0, 1]
    assert read_outcomes(tmp_path, 0)["reason"].to_pylist() == [""] * 12


def test_giving_up_names_unit_and_log(fake_download: list[int], tmp_path: Path) -> None:
    fake_download[0] = 99
    write_part(tmp_path, 7, flickr_urls(0, 12))
    with pytest.raises(StoreError, match=r"00007.*3 attempts.*or cut.*img2dataset\.log"):
        list(fetch_units(config(tmp_path), tmp_path, [7]))
    assert list((tmp_path / "fetched").iterdir()) == [tmp_path / "fetched" / "img2dataset.log"]


def test_a_child_that_fails_at_once_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(tmp_path, 0, flickr_urls(0, 3))
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(StoreError, match="left nothing"):
        list(fetch_units(config(tmp_path), tmp_path, [0]))


def test_local_pictures(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    pictures = [jpeg(i) if i % 5 else None for i in range(60)]
    pq.write_table(pa.table({"image": pa.array(pictures, pa.binary())}), table)
    for unit in range(3):
        write_part(tmp_path, unit, [f"parquet://{table}#{i}" for i in range(unit * 20, unit * 20 + 20)])
    local = config(tmp_path, dataset="local", metadata=(str(table),))
    assert sorted(fetch_units(local, tmp_path, range(3))) == [0, 1, 2]
    reasons = [r for unit in range(3) for r in read_outcomes(tmp_path, unit)["reason"].to_pylist()]
    assert reasons == ["" if i % 5 else "missing_file" for i in range(60)]
    with tarfile.open(fetched_tar(tmp_path, 2)) as tar:
        member = tar.extractfile("00000001.jpg")
        assert member is not None
        assert member.read() == pictures[41]
