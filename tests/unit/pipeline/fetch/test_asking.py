from __future__ import annotations

import hashlib
import importlib.util
import io
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import BuildConfig
from pipeline.errors import InputError
from pipeline.fetch import fetch
from pipeline.fetch.asking import Task, questions, sources_of
from pipeline.fetch.fetched import Job, fetched_tar, read_outcomes
from pipeline.fetch.judging import limits_of
from pipeline.fetch.sources import bucket_url
from pipeline.fetch.zip_archives import member_of
from pipeline.records import SELECTION_SCHEMA
from pipeline.selection.selection import part_path

BUCKET = "http://bucket.test/data/images"
ROWS = 24
# Which of the sources have row i's picture; a row without a key or a line cannot be asked of the source at all.
HAS = {"url": lambda i: i % 2 == 0, "bucket": lambda i: i % 3 == 0, "zip": lambda i: i % 5 == 0}
NO_KEY, NO_LINE = 7, 11


def jpeg(text: str) -> bytes:
    shade = hashlib.sha256(text.encode()).digest()
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (shade[0], shade[1], shade[2])).save(out, "JPEG", comment=text.encode())
    return out.getvalue()


def key_of(i: int) -> str:
    return hashlib.md5(str(i).encode()).hexdigest()[:30]


class Handler(BaseHTTPRequestHandler):
    """Flickr and the bucket, as a proxy: a row's number is in its URL, or known by its key."""

    asked: ClassVar[Counter[str]] = Counter()
    keys: ClassVar[dict[str, int]] = {key_of(i): i for i in range(2 * ROWS)}

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        name = self.path.rpartition("/")[2].removesuffix(".jpg")
        source = "bucket" if self.path.startswith(BUCKET) else "url"
        i = self.keys[name] if source == "bucket" else int(name)
        if source == "bucket":
            assert self.path == bucket_url(BUCKET, name)
        data = jpeg(f"{source} {i}") if HAS[source](i) else b"gone"
        self.send_response(200 if HAS[source](i) else 404 if source == "url" else 403)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def row(i: int) -> dict[str, Any]:
    found = dict.fromkeys(SELECTION_SCHEMA.names, "") | {"key": f"k{i}", "row": i, "photo_id": i}
    found |= {"line": -1 if i % ROWS == NO_LINE else 12_345_000 + i, "url": f"http://flickr.test/{i}.jpg"}
    found |= {"bucket_key": "" if i % ROWS == NO_KEY else key_of(i)}
    return found | {"title_usable": True, "description_usable": False}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Two units, and archives with what the archives have."""
    (tmp_path / "selection").mkdir()
    for unit in range(2):
        rows = [row(i) for i in range(unit * ROWS, (unit + 1) * ROWS)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), part_path(tmp_path, unit))
    name = member_of(12_345_000)[0]
    (tmp_path / "zips" / name).parent.mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "zips" / name, "w") as archive:
        for i in range(2 * ROWS):
            if HAS["zip"](i):
                archive.writestr(member_of(12_345_000 + i)[1], jpeg(f"zip {i}"))
    return tmp_path


def config(work: Path, *prefer: str, **settings: Any) -> BuildConfig:
    defaults: dict[str, Any] = {"output": str(work / "out"), "processes": 1, "threads": 8, "timeout_s": 5.0}
    defaults |= {"bucket": BUCKET, "zip_root": str(work / "zips") if "zip" in prefer else None}
    return BuildConfig(**{**defaults, "prefer": prefer, **settings})


@pytest.mark.parametrize("prefer", [("url", "bucket", "zip"), ("zip", "bucket"), ("zip",)])
def test_rows_fall_back_from_source_to_source(prefer: tuple[str, ...], work: Path, proxy: str) -> None:
    Handler.asked.clear()
    assert sorted(fetch.fetch_units(config(work, *prefer), work, range(2), proxy=proxy)) == [0, 1]
    asked = Counter[str]()
    for unit in range(2):
        with tarfile.open(fetched_tar(work, unit)) as tar:
            pictures = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for outcome in read_outcomes(work, unit).to_pylist():
            i = outcome["row"]
            at = {"bucket": i % ROWS != NO_KEY, "zip": i % ROWS != NO_LINE, "url": True}
            having = [source for source in prefer if HAS[source](i) and at[source]]
            tried = prefer[: prefer.index(having[0]) + 1] if having else prefer
            assert [attempt["source"] for attempt in outcome["attempts"]] == list(tried)
            assert [attempt["reason"] == "" for attempt in outcome["attempts"]][-1] == bool(having)
            if having:
                assert outcome["source"] == tried[-1]
                assert pictures.pop(outcome["member"]) == jpeg(f"{having[0]} {i}")
            else:  # the last that was asked in vain; the first where none could be asked
                dead = [source for source in tried if source != "zip" and at[source]]
                assert outcome["reason"] == ("dead_link" if dead else "missing_file")
                assert outcome["source"] == (dead[-1] if dead else tried[0])
            asked.update(source for source in tried if source in {"url", "bucket"} and at[source])
        assert not pictures
    expected = {"url": asked["url"], "bucket": asked["bucket"]}
    found = Counter("bucket" if path.startswith(BUCKET) else "url" for path in Handler.asked.elements())
    assert {source: found[source] for source in expected} == expected, "each source is asked once, for what is missing"


def test_the_same_bytes_with_other_processes_and_archives_below_images(work: Path, proxy: str, tmp_path: Path) -> None:
    def fetched(settings: BuildConfig, units: list[int]) -> dict[str, bytes]:
        for path in (work / "fetched").glob("*.tar"):
            path.unlink()
        list(fetch.fetch_units(settings, work, units, proxy=proxy))
        files = [path for path in (work / "fetched").iterdir() if path.suffix in {".tar", ".parquet"}]
        return {path.name: path.read_bytes() for path in files}

    first = fetched(config(work, "url", "zip"), [0, 1])
    (work / "images").mkdir()
    (work / "zips" / "12").rename(work / "images" / "12")
    settings = config(work, "url", "zip", processes=2, threads=3, zip_root=str(work))
    assert fetched(settings, [1, 0]) == first


def test_a_source_that_can_be_asked_for_no_row_is_not_asked(work: Path, proxy: str) -> None:
    rows = [row(i) | {"bucket_key": ""} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), part_path(work, 0))
    Handler.asked.clear()
    assert list(fetch.fetch_units(config(work, "bucket"), work, [0], proxy=proxy)) == [0]
    assert set(read_outcomes(work, 0)["reason"].to_pylist()) == {"missing_file"}
    assert not Handler.asked


def test_questions_follow_from_the_draft(work: Path) -> None:
    settings = {"config": config(work, "url", "bucket"), "work": work, "folder": work, "is_last": False}
    job = Job(unit=1, positions=(0, NO_KEY, 9))
    url = questions(Task(job=job, source="url", **settings))  # type: ignore[arg-type]
    assert url["index"].to_pylist() == [0, 1, 2]
    assert url["url"].to_pylist() == [f"http://flickr.test/{ROWS + i}.jpg" for i in (0, NO_KEY, 9)]
    bucket = questions(Task(job=job, source="bucket", **settings))  # type: ignore[arg-type]
    assert bucket.to_pylist() == [
        {"unit": 1, "index": 0, "url": bucket_url(BUCKET, key_of(ROWS))},
        {"unit": 1, "index": 2, "url": bucket_url(BUCKET, key_of(ROWS + 9))},
    ]


def test_the_placeholder_is_flickrs(tmp_path: Path) -> None:
    lists = BuildConfig(dataset="cc12m", metadata=("list.tsv",), output=str(tmp_path))
    assert (sources_of(lists), limits_of(lists).from_flickr) == (("url",), False)
    local = BuildConfig(dataset="local", metadata=("t.parquet",), output=str(tmp_path))
    assert (sources_of(local), limits_of(local).from_flickr) == (("local",), False)
    assert limits_of(config(tmp_path, "url")).from_flickr


@pytest.mark.parametrize(("executor", "package"), [("spark", "pyspark"), ("ray", "ray")])
def test_executors_that_are_not_installed_are_refused(
    executor: str, package: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else real(name))
    settings = config(work, "url", executor=executor, metadata=("rows.tsv",), variant="english")
    with pytest.raises(InputError, match=f"pip install {package}"):
        list(fetch.fetch_units(settings, work, [0]))


def test_the_buckets_layout() -> None:
    assert bucket_url("https://b/data/images/", "d29e7c6a3028418c64eb15e3cf577c2") == (
        "https://b/data/images/d29/e7c/d29e7c6a3028418c64eb15e3cf577c2.jpg"
    )
    assert bucket_url("https://b", "") == ""
