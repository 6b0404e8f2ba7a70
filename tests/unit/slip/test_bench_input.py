from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from slip.bench_input import main
from tests.tiny_data import picture, write_set, write_shards

FAST = ("--samples", "8", "--image-size", "32", "--batch", "8", "--seconds", "0.05", "--workers", "1")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_shards(tmp_path_factory.mktemp("shards"), [12, 9])


def test_the_table_has_every_part_in_both_modes(
    manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = tmp_path / "views.png"
    assert main(["input", manifest, *FAST, "--views", str(views)]) == 0
    out = capsys.readouterr().out
    heading, *rows = out.splitlines()
    assert re.split(r"  +", heading.strip()) == [
        *("fast, us a sample", "reference", "ratio", "fast, samples/s a core", "cores for 1,185/s"),
    ]
    names = [re.split(r"  +", row)[0] for row in rows[:6]]
    assert names == [
        *("decode", "crops", "jitter, grey, blur, flip", "header, draws, caption, tokens"),
        *("one decode thread, all of it", "loader end to end, reading included"),
    ]
    fast_us, reference_us, ratio, per_s, cores = (
        float(cell.replace(",", "")) for cell in re.split(r"  +", rows[4])[1:]
    )
    assert ratio == pytest.approx(reference_us / fast_us, abs=0.2)
    assert per_s == pytest.approx(1e6 / fast_us, rel=0.05)
    assert cores == pytest.approx(1185 * fast_us / 1e6, abs=0.1)
    assert re.search(r"loader, reference: [\d,]+ samples/s with 1 of \d+ cores decoding, \d+\.\d MB a thread", out)
    with Image.open(io.BytesIO(views.read_bytes())) as page:
        assert page.size == (9 * 38 + 6, 18 + 8 * 38 + 6)


def test_the_same_as_json(manifest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["input", manifest, *FAST, "--objective", "clip", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"parts", "loaders", "device", "device_us", "memory_per_worker"}
    for mode in ("fast", "reference"):
        assert [set(cost) for cost in found["parts"][mode]] == [{"what", "us"}] * 5
        assert found["loaders"][mode]["workers"] == 1
        # A picture of 48 x 40 pixels in three colours at least, and not much beside it.
        assert 48 * 40 * 3 < found["memory_per_worker"][mode] < 10**6


def test_damaged_pictures_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sample(number: int) -> dict[str, bytes]:
        return {"jpg": b"nothing" if number % 4 == 0 else picture("red", number), "json": b"{}", "txt": b"red"}

    write_set(tmp_path / "some", [12], sample)
    assert main(["input", str(tmp_path / "some"), *FAST[2:], "--samples", "12"]) == 0
    assert "3 of the 12 samples that were read are damaged and left out" in capsys.readouterr().err
    write_set(tmp_path / "none", [4], lambda number: {"jpg": b"nothing", "json": b"{}", "txt": b"red"})
    assert main(["input", str(tmp_path / "none"), *FAST]) == 1
    assert "all 4 samples that were read are damaged" in capsys.readouterr().err


def test_what_is_wrong_is_said_in_one_line(manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["input", str(tmp_path / "none")]) == 1
    assert "none/manifest.json: there is no manifest" in capsys.readouterr().err
    assert main(["input", manifest, "--batch", "0"]) == 2
    assert "--batch is 0; it must be at least 1 (see --help)" in capsys.readouterr().err
    for words in ([], ["output"]):
        assert main(words) == 2
        assert "usage: slip bench input MANIFEST" in capsys.readouterr().err
    assert main(["--help"]) == 0
