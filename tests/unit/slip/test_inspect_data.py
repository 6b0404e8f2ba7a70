"""`slip inspect` from its command line to what it prints and draws."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.manifest import load_manifest, read_index
from slip.data.plan import make_plan
from slip.data.samples import DamagedSample, RawSample
from slip.data.sets import open_mix
from slip.inspect_data import fitting_batch, main, read_samples
from tests.tiny_data import COLOURS, colour_of, write_set, write_shards


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set in three shards; the current folder is a fresh one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return write_shards(tmp_path / "data", (30, 50, 20))


def flip(folder: Path, number: int) -> None:
    """Change one byte in the picture of a sample in the first shard."""
    shard = load_manifest(str(folder)).shards[0]
    at = int(read_index(str(folder), shard).image_offset[number]) + 100
    content = bytearray((folder / shard.name).read_bytes())
    content[at] ^= 1
    (folder / shard.name).write_bytes(content)


def test_tables_and_the_picture(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([data, "--global-batch", "20", "--samples", "6"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "data set: tiny (local)",
        "100 in 3 shards",
        load_manifest(data).sha256,
        "5.00 steps",
        "shuffle quality: 5 of 5 steps of epoch 0",
        "verdict",
        "6 samples, 0 of them damaged, are shown in inspect.png",
    ):
        assert words in shown
    with Image.open("inspect.png") as page:
        assert page.format == "PNG"
    assert [path.name for path in Path().iterdir()] == ["inspect.png"]


def test_json_names_the_samples_of_the_first_batch(
    data: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    grid = tmp_path / "page.png"
    assert main([data, "--global-batch", "20", "--epoch", "1", "--seed", "3", "--grid", str(grid), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    plan = make_plan(open_mix([data]), seed=3, global_batch=20)
    assert [sample["id"] for sample in content["samples"]] == plan.batch(100).tolist()
    for sample in content["samples"]:
        assert sample["caption"] == f"a {colour_of(sample['id'])} picture"
        assert (sample["key"], sample["damage"]) == (f"{sample['id']:06d}", "")
    assert content["run"]["global_batch"] == 20
    assert content["shuffle_quality"]["epoch"] == 1
    assert content["grid"] == str(grid)
    with Image.open(grid) as page:
        pixels = np.asarray(page.convert("RGB")).reshape(-1, 3).astype(int)
    seen = {name for name, ink in COLOURS.items() if (np.abs(pixels - ink).max(axis=1) < 20).sum() > 1000}
    assert seen == {colour_of(sample["id"]) for sample in content["samples"]}


def test_the_picture_can_be_left_out(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([data, "--grid", "", "--global-batch", "20"]) == 0
    assert "shown" not in capsys.readouterr().out
    assert list(Path().iterdir()) == []


def test_damaged_samples_are_shown_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_shards(tmp_path / "data", (8, 4))
    flip(Path(data).parent, 7)
    assert main([data, "--global-batch", "12", "--grid", str(tmp_path / "page.png")]) == 0
    shown = capsys.readouterr()
    assert "12 samples, 1 of them damaged" in shown.out
    (warning,) = [line for line in shown.err.splitlines() if "WARNING" in line]
    assert "00000.tar: sample 000007 at byte" in warning
    assert "the index says" in warning


def test_a_sealed_sample_that_is_no_picture_is_shown_as_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    pictures = [buffer.getvalue(), b"no picture", b""]
    write_set(tmp_path, (3,), lambda number: {"png": pictures[number], "txt": "\N{SNOWMAN}".encode(), "json": b"[]"})
    grid = str(tmp_path / "page.png")
    assert main([str(tmp_path), "--global-batch", "3", "--grid", grid, "--json"]) == 0
    samples = {sample["id"]: sample for sample in json.loads(capsys.readouterr().out)["samples"]}
    assert samples[0]["damage"] == ""
    assert "cannot be decoded" in samples[1]["damage"]
    assert "cannot be decoded" in samples[2]["damage"]
    assert {sample["caption"] for sample in samples.values()} == {"\N{SNOWMAN}"}


def test_samples_are_read_by_id(data: str) -> None:
    mix = open_mix([data])
    flip(Path(data).parent, 7)
    found = read_samples(mix, [99, 0, 30, 7])
    assert [sample.sample_id for sample in found] == [99, 0, 30, 7]
    assert [type(sample) for sample in found] == [RawSample, RawSample, RawSample, DamagedSample]
    assert [sample.key for sample in found] == ["000099", "000000", "000030", "000007"]


def test_several_data_sets(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_shards(tmp_path / "other", (40,))
    assert main([data, other, "--weights", "3", "1", "--global-batch", "16", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [facts["share"] for facts in content["data_sets"]] == [0.75, 0.25]
    assert sum(sample["id"] >= 100 for sample in content["samples"]) == 4
    assert len(content["shuffle_quality"]["sets"]) == 2


@pytest.mark.parametrize(
    ("counts", "expected"), [((100_000,), 4096), ((640,), 64), ((9,), 1), ((3,), 1), ((32_767,), 2048)]
)
def test_default_batch_fits_the_data(tmp_path: Path, counts: tuple[int, ...], expected: int) -> None:
    class Sized:
        num_samples = sum(counts)

    mix = open_mix([write_shards(tmp_path / "data", (1,))])
    object.__setattr__(mix, "manifests", (Sized(),))
    assert fitting_batch(mix) == expected


@pytest.mark.parametrize("counts", [(1,), (2,), (1, 1, 1), (9,)])
def test_tiny_data_sets(tmp_path: Path, counts: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    data = write_shards(tmp_path / "data", counts)
    assert main([data, "--grid", str(tmp_path / "page.png")]) == 0
    assert "as good as random" in capsys.readouterr().out
    assert main([data, "--grid", "", "--global-batch", str(sum(counts)), "--epoch", "1"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--global-batch", "101"], "--global-batch is 101: a batch would take 101 samples"),
        (["--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--samples", "401"], "--samples is 401"),
        (["--weights", "1", "2"], "--weights has 2 numbers for 1 manifests"),
    ],
)
def test_contradicting_settings_are_usage_errors(
    data: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([data, *words]) == 2
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if "INFO" not in line]
    assert f"ERROR: {said}" in line
    assert shown.out == ""


def test_nothing_to_inspect_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "no manifest given" in capsys.readouterr().err


def test_a_missing_manifest_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere/manifest.json: there is no manifest" in capsys.readouterr().err


def test_a_missing_shard_is_an_error(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(data).parent / "00001.tar").unlink()
    assert main([data, "--global-batch", "20"]) == 1
    shown = capsys.readouterr()
    assert "00001.tar" in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert list(Path().iterdir()) == []
