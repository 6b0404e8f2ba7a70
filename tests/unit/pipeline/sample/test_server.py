"""The small Flickr's server answers as Flickr does: good pictures whole, the others with Flickr's faults."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.sample.sample import SampleFlickr, SamplePaths, make_sample


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> SamplePaths:
    return make_sample(tmp_path_factory.mktemp("sample"), num_rows=60, num_heldout=10)


@pytest.fixture(scope="module")
def flickr(paths: SamplePaths) -> Iterator[SampleFlickr]:
    with SampleFlickr(paths.photos) as server:
        yield server


def urls_by_fate(paths: SamplePaths) -> dict[str, list[str]]:
    ends = json.loads((paths.photos / "fates.json").read_bytes())
    result: dict[str, list[str]] = {"": [], "dead": [], "placeholder": [], "truncated": []}
    for line in paths.metadata.read_text().splitlines():
        url = line.split("\t")[16]
        if "staticflickr" in url:
            result[ends.get(url.rpartition("/")[2], "")].append(url)
    assert all(result.values()), "the small sample has every fate"
    return result


def opener(flickr: SampleFlickr) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({"http": flickr.proxy_url}))


def test_good_photographs_come_byte_for_byte(paths: SamplePaths, flickr: SampleFlickr) -> None:
    for url in urls_by_fate(paths)[""][:20]:
        with opener(flickr).open(url, timeout=10) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "image/jpeg"
            assert answer.read() == (paths.photos / url.rpartition("/")[2]).read_bytes()


def test_dead_and_unknown_photographs_are_404(paths: SamplePaths, flickr: SampleFlickr) -> None:
    unknown = "http://farm1.staticflickr.com/1/1_0123456789.jpg"
    escaping = "http://farm1.staticflickr.com/1/../fates.json"
    for url in (urls_by_fate(paths)["dead"][0], unknown, escaping, "http://www.flickr.com/"):
        with pytest.raises(urllib.error.HTTPError) as error:
            opener(flickr).open(url, timeout=10)
        assert error.value.code == 404


def test_removed_photographs_redirect_to_the_placeholder(paths: SamplePaths, flickr: SampleFlickr) -> None:
    url = urls_by_fate(paths)["placeholder"][0]
    with opener(flickr).open(url, timeout=10) as answer:
        assert answer.geturl() == "http://s.yimg.com/pw/images/en-us/photo_unavailable.png"
        data = answer.read()
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size, len(data)) == ("PNG", (500, 374), 9218)


def test_truncated_photographs_end_early(paths: SamplePaths, flickr: SampleFlickr) -> None:
    for url in urls_by_fate(paths)["truncated"]:
        with opener(flickr).open(url, timeout=10) as answer, pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_plain_requests_are_answered_on_one_connection(paths: SamplePaths, flickr: SampleFlickr) -> None:
    found = urls_by_fate(paths)
    connection = http.client.HTTPConnection(urlsplit(flickr.proxy_url).netloc, timeout=10)
    for method, url in (
        ("GET", found[""][0]),
        ("HEAD", found[""][0]),
        ("GET", found["placeholder"][0]),
        ("GET", found[""][1]),
    ):
        connection.request(method, urlsplit(url).path)
        answer = connection.getresponse()
        data = answer.read()
        if url in found["placeholder"]:
            assert (answer.status, answer.headers["Location"]) == (302, "/pw/images/en-us/photo_unavailable.png")
        else:
            want = (paths.photos / url.rpartition("/")[2]).read_bytes()
            assert (answer.status, int(answer.headers["Content-Length"])) == (200, len(want))
            assert data == (want if method == "GET" else b"")
    connection.close()


def test_many_clients_at_once_and_quietly(
    paths: SamplePaths, flickr: SampleFlickr, capfd: pytest.CaptureFixture[str]
) -> None:
    urls = urls_by_fate(paths)[""][:25]
    got: list[int] = []

    def read_all() -> None:
        for url in urls:
            with opener(flickr).open(url, timeout=20) as answer:
                got.append(len(answer.read()))

    threads = [threading.Thread(target=read_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(got) == Counter(8 * [(paths.photos / url.rpartition("/")[2]).stat().st_size for url in urls])
    hung_up = http.client.HTTPConnection(urlsplit(flickr.proxy_url).netloc)
    hung_up.request("GET", urlsplit(urls[0]).path)
    hung_up.close()
    time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_server_stops_and_says_when_it_does_not_run(paths: SamplePaths) -> None:
    server = SampleFlickr(paths.photos)
    with pytest.raises(RuntimeError, match="with statement"):
        server.proxy_url  # noqa: B018
    with server:
        port = urlsplit(server.proxy_url).port
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/")


def test_server_refuses_a_folder_that_is_no_sample(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fates\.json"), SampleFlickr(tmp_path):
        pass
