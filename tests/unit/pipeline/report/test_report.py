from __future__ import annotations

import io
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis.strategies import integers
from PIL import Image

from pipeline.captions import language
from pipeline.config import BuildConfig
from pipeline.errors import InputError, ShardError
from pipeline.manifest import load_manifest
from pipeline.report import report
from pipeline.report.facts import Pictures
from pipeline.report.report import is_current, write_report
from tests.small_build import finished_build, picture, settings


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    return settings(tmp_path)


def read(config: BuildConfig) -> str:
    return (Path(config.output) / "report.html").read_text(encoding="utf-8")


def test_a_finished_build_gets_its_page(config: BuildConfig, tmp_path: Path) -> None:
    manifest = finished_build(config, tmp_path / "work")
    assert not is_current(config, manifest)
    assert write_report(config, tmp_path / "work", manifest) == str(tmp_path / "out" / "report.html")
    assert is_current(config, manifest)
    assert not is_current(config, replace(manifest, name="another"))
    page = read(config)
    for said in (
        "100</b> rows of metadata",
        "12</b> selected",
        "&lt;b&gt;user &amp; 0&lt;/b&gt;",
        "Seven quiet boats on the water 1",
        "16.7 % of the photographs asked for are gone",
        "2 pictures (25.0 % of the good ones) were left out",
        "Download rate",
        "33.3 % of the samples have a description and 66.7 % a title",
    ):
        assert said in page, said
    assert page.count("<img ") == 6


def test_equal_data_sets_give_equal_pages(config: BuildConfig, tmp_path: Path) -> None:
    manifest = finished_build(config, tmp_path / "work")
    write_report(config, tmp_path / "work", manifest)
    first = read(config)
    write_report(config, tmp_path / "work", load_manifest(config.output))
    assert read(config) == first


def test_the_page_can_be_made_without_the_work_folder(config: BuildConfig, tmp_path: Path) -> None:
    manifest = finished_build(config, tmp_path / "work")
    shutil.rmtree(tmp_path / "work")
    write_report(config, tmp_path / "work", manifest)
    assert "The work folder of the build is gone" in read(config)
    assert "Usable texts" in read(config)


def test_without_the_language_package_the_page_says_how_to_get_it(
    config: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> str:
        raise InputError("telling languages apart needs the package x: pip install y")

    monkeypatch.setattr(language, "detect", fail)
    write_report(config, tmp_path / "work", finished_build(config, tmp_path / "work"))
    assert "needs the package x: pip install y" in read(config)


def test_languages_are_told_of_few_captions_evenly_spread(
    config: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def detect(text: str) -> str:
        asked.append(text)
        return "en"

    monkeypatch.setattr(language, "detect", detect)
    monkeypatch.setattr(report, "NUM_LANGUAGE_CAPTIONS", 2)
    write_report(config, tmp_path / "work", finished_build(config, tmp_path / "work"))
    assert asked == ["Seven quiet boats on the water 1", "Seven quiet boats on the water 7"]
    assert "on 2 captions evenly spread" in read(config)


def test_a_damaged_index_is_named(config: BuildConfig, tmp_path: Path) -> None:
    manifest = finished_build(config, tmp_path / "work")
    (tmp_path / "out" / "00001.parquet").write_bytes(b"no table")
    with pytest.raises(ShardError, match=r"00001\.parquet: cannot be read as the index of 00001\.tar"):
        write_report(config, tmp_path / "work", manifest)
    shutil.copy(tmp_path / "out" / "00000.parquet", tmp_path / "out" / "00001.parquet")
    shards = (replace(manifest.shards[0], num_samples=4), manifest.shards[1])
    with pytest.raises(ShardError, match="3 samples, the manifest says 4"):
        write_report(config, tmp_path / "work", replace(manifest, num_samples=7, shards=shards))


@given(integers(0, 100), integers(0, 3000))
def test_positions_are_spread_and_found_in_their_shards(at_most: int, total: int) -> None:
    positions = report._spread(at_most, total)
    assert len(positions) == min(at_most, total)
    assert len(set(positions.tolist())) == len(positions)
    assert all(0 <= position < total for position in positions.tolist())
    found = []
    for first in range(0, total, 700):
        here = report._inside(positions, first, min(700, total - first)).to_pylist()
        assert all(0 <= row < 700 for row in here)
        found += [first + row for row in here]
    assert found == positions.tolist()


def test_words_are_counted_between_white_space() -> None:
    texts = pa.chunked_array([["one", "", "  ", "two words", "a\nb  c", "ein\u00a0paar W\u00f6rter", "日本語"]])
    assert report._num_words(texts).to_pylist() == [1, 0, 0, 2, 3, 3, 1]


def test_pictures_are_counted_by_class() -> None:
    index = pa.table(
        {
            "width": pa.array([512, 256, 300, 1], pa.int32()),
            "height": pa.array([256, 512, 290, 4000], pa.int32()),
            "image_size": [999, 1000, 2500, 1],
            "date_taken": ["2008-01-01", "2008-01-02", "", "x"],
            "license": ["a", "a", "b", "a"],
            "license_url": ["u", "u", "u", "v"],
        }
    )
    found = Pictures()
    report._count_pictures(found, index)
    assert found.size_classes == {(72, 64): 1, (64, 72): 1, (66, 65): 1, (0, 96): 1}
    assert found.shorter_side == {256: 2, 290: 1, 1: 1}
    assert found.kilobytes == {0: 2, 1: 1, 2: 1}
    assert found.aspects == {200: 2, 103: 1, 400_000: 1}
    assert found.shapes == {"landscape": 1, "portrait": 2, "square": 1}
    assert found.years == {"2008": 2, "": 2}
    assert found.licenses == {("a", "u"): 2, ("b", "u"): 1, ("a", "v"): 1}


def test_counters_are_bounded() -> None:
    counter = Counter({("own", str(i)): i for i in range(1, 101)})
    report._keep_largest(counter, 100)
    assert len(counter) == 100
    report._keep_largest(counter, 99, ("others", ""))
    assert len(counter) == 50
    assert counter.total() == 5050
    assert counter["own", "100"] == 100


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "RGBA", "P", "CMYK"])
def test_thumbnails_are_small_jpegs(mode: str) -> None:
    image = Image.fromarray((np.arange(900 * 700).reshape(700, 900) % 65536).astype(np.uint16))
    if mode != "I;16":
        image = Image.open(io.BytesIO(picture(0))).resize((900, 700)).convert(mode)
    out = io.BytesIO()
    image.save(out, "JPEG" if mode == "CMYK" else "PNG")
    url = report._thumbnail(out.getvalue())
    assert url.startswith("data:image/jpeg;base64,")
    assert len(url) < 200_000
