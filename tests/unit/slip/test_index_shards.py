"""`slip index` over little tars: the manifest, what it refuses, and that the same command again reads nothing twice."""

from __future__ import annotations

import hashlib
import logging
import uuid
from pathlib import Path

import pytest

from pipeline import store
from pipeline.errors import StoreError
from pipeline.manifest import Manifest, load_manifest, read_index, shard_url, write_manifest
from slip import index_shards
from slip.data.samples import cut_sample
from tests.tars_of_others import GOOD, members, tar_of


def put_tars(folder: str) -> list[str]:
    """Three tars of 3, 2 and 3 samples, one of which has no caption."""
    names = ["a/00000.tar", "a/00001.tar", "b/00000.tar"]
    for name, keys in zip(names, ("012", "01", "789"), strict=True):
        entries = [m for key in keys for m in members(key, {"jpg": GOOD["jpg"]} if key == "8" else GOOD)]
        store.write_bytes(store.join(folder, name), tar_of(entries))
    return names


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    put_tars(str(tmp_path / "cc"))
    return tmp_path / "cc"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """URLs of the tars that are read."""
    urls: list[str] = []
    real = store.open_stream

    def note(url: str) -> store.Stream:
        urls.append(url)
        return real(url)

    monkeypatch.setattr(store, "open_stream", note)
    return urls


def run(output: Path | str, *words: str | Path) -> Manifest:
    assert index_shards.main([*map(str, words), "--output", str(output)]) == 0
    return load_manifest(str(output))


def captions(output: str, manifest: Manifest) -> list[str]:
    """Keys and captions of all samples, cut out of the tars by the index as training does."""
    found = []
    for shard in manifest.shards:
        url, index = shard_url(manifest, output, shard), read_index(output, shard)
        for row in range(len(index)):
            data = store.read_buffer(url, int(index.offset[row]), int(index.size[row]))
            assert index.damage(row, data) == ""
            sample = cut_sample(data, row, url, index, row)
            assert sample.image == GOOD["jpg"]
            found += [f"{shard.name} {sample.key} {caption}" for caption in sample.captions]
    return found


EXPECTED = [
    *("a/00000.tar 0 a boat", "a/00000.tar 1 a boat", "a/00000.tar 2 a boat"),
    *("a/00001.tar 0 a boat", "a/00001.tar 1 a boat", "b/00000.tar 7 a boat", "b/00000.tar 9 a boat"),
]


def test_a_folder_of_tars(tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = run(out, f"{tars}/")
    assert (manifest.version, manifest.shards_url, manifest.name) == (2, str(tars), "cc")
    assert manifest.funnel == {"rows": 8, "kept": 7, "rejected": {"no_caption": 1}}
    assert manifest.settings == {"urls": [f"{tars}/"]}
    assert [s.name for s in manifest.shards] == ["a/00000.tar", "a/00001.tar", "b/00000.tar"]
    assert sorted(p.name for p in out.iterdir()) == [
        *("a_00000.parquet", "a_00001.parquet", "b_00000.parquet", "manifest.json"),
    ]
    for shard in manifest.shards:
        data = (tars / shard.name).read_bytes()
        assert (shard.num_bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert captions(str(out), manifest) == EXPECTED


def test_equal_tars_give_equal_bytes(tars: Path, tmp_path: Path) -> None:
    run(tmp_path / "1", tars, "--connections", "1")
    run(tmp_path / "2", tars, "--connections", "3")
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_a_store_and_a_brace_pattern() -> None:
    base = f"memory://{uuid.uuid4().hex}"
    put_tars(f"{base}/in")
    manifest = run(f"{base}/out", f"{base}/in/{{b,a}}/00000.tar", "--name", "mine")
    assert (manifest.name, [s.name for s in manifest.shards]) == ("mine", ["b/00000.tar", "a/00000.tar"])
    assert captions(f"{base}/out", manifest) == [*EXPECTED[5:], *EXPECTED[:3]]
    manifest = run(f"{base}/out2", f"{base}/in/")
    assert captions(f"{base}/out2", manifest) == EXPECTED


def test_the_same_command_again_reads_only_what_changed(tars: Path, tmp_path: Path, opened: list[str]) -> None:
    out = tmp_path / "out"
    before = run(out, tars)
    assert len(opened) == 3
    opened.clear()
    assert run(out, tars) == before
    assert opened == []
    with (tars / "a/00001.tar").open("ab") as file:
        file.write(bytes(512))
    (out / "b_00000.parquet").write_bytes(b"no")
    assert run(out, tars).shards[1].num_bytes == before.shards[1].num_bytes + 512
    assert sorted(opened) == [f"{tars}/a/00001.tar", f"{tars}/b/00000.tar"]


def test_a_dry_run_reads_and_writes_nothing(
    tars: Path, tmp_path: Path, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert (
            index_shards.index(index_shards.IndexConfig(urls=(str(tars),), output=str(tmp_path / "out"), dry_run=True))
            is None
        )
    assert "3 tars below" in caplog.text
    assert "3 to read" in caplog.text
    assert (opened, (tmp_path / "out").exists()) == ([], False)


def test_all_damages_are_named_before_the_end(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    whole = (tars / "a/00000.tar").read_bytes()
    (tars / "a/00000.tar").write_bytes(whole[:2048])
    words = [str(tars), f"{tars}/c.tar", "--output", str(out)]
    assert index_shards.main(words) == 1
    shown = capsys.readouterr().err
    assert "a/00000.tar: it is cut: it ends" in shown
    assert "c.tar: there is no such file" in shown
    assert "2 of 4 tars are damaged or missing" in shown
    assert not (out / "manifest.json").exists()
    left_out = run(out, *words[:2], "--skip-damaged")
    assert left_out.settings["skipped"] == ["a/00000.tar", "c.tar"]
    assert captions(str(out), left_out) == EXPECTED[3:]
    (tars / "a/00000.tar").write_bytes(whole)
    assert captions(str(out), run(out, tars)) == EXPECTED


def test_a_store_that_fails_is_no_damage(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> None:
        raise StoreError(f"{url}: cannot read: refused")

    monkeypatch.setattr(store, "open_stream", refuse)
    words = [str(tars), "--output", str(tmp_path / "out"), "--skip-damaged"]
    assert index_shards.main(words) == 1
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_tar_that_grows_while_it_is_read(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = store.size
    monkeypatch.setattr(store, "size", lambda url: (real(url) or 0) - 512)
    assert index_shards.main([str(tars), "--output", str(tmp_path / "out")]) == 1
    assert "somebody is writing it" in capsys.readouterr().err


def test_tars_without_a_usable_sample(tars: Path, tmp_path: Path, opened: list[str]) -> None:
    (tars / "c.tar").write_bytes(tar_of([*members("1", {"txt": b"x"}), ("README", b"none")]))
    for _ in range(2):
        manifest = run(tmp_path / "out", tars)
        assert manifest.settings["without_samples"] == ["c.tar"]
        assert manifest.funnel == {"rows": 9, "kept": 7, "rejected": {"no_caption": 1, "no_image": 1}}
    assert len(opened) == 4
    words = [f"{tars}/c.tar", "--output", str(tmp_path / "empty")]
    assert index_shards.main(words) == 1


def test_another_data_set_is_not_touched(tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, tars)
    data = (out / "manifest.json").read_bytes().replace(b'"indexed"', b'"openai"')
    (out / "manifest.json").write_bytes(data)
    with (tars / "a/00001.tar").open("ab") as file:
        file.write(bytes(512))
    assert index_shards.main([str(tars), "--output", str(out)]) == 2
    assert (out / "manifest.json").read_bytes() == data
    write_manifest(load_manifest(str(out)), str(out))


@pytest.mark.parametrize(
    "words", [[], ["x.tar"], ["{1..3.tar", "--output", "o"], ["x.tar", "--output", "o", "--connections", "0"]]
)
def test_usage_errors(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status: object = index_shards.main(words)
    except SystemExit as error:
        status = error.code
    assert status == 2
