from __future__ import annotations

import importlib
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.seal.offsets import idx_name
from slip.torchvision_compat import import_torchvision
from tests.fetched_units import build_units, seal_all, selection_row, without_select, write_unit


@pytest.fixture(autouse=True)
def _finished_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    without_select(monkeypatch)


def as_wds2idx_does(tar: Path) -> list[list[tuple[str, int, int, str]]]:
    """Extension, offset, size and name of each sample's members, by a walk over the tar."""
    samples: list[list[tuple[str, int, int, str]]] = []
    last = None
    with tarfile.open(tar) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            if key != last:
                samples.append([])
            samples[-1].append((extension, member.offset_data, member.size, member.name))
            last = key
    return samples


def parsed(path: Path) -> list[list[tuple[str, int, int, str]]]:
    """An offset index read as DALI reads it: split at white space, four words for each member."""
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    version, count = first.split()
    assert version == "v1.2"
    assert int(count) == len(lines)
    words = [line.split() for line in lines]
    return [
        [(w[i], int(w[i + 1]), int(w[i + 2]), w[i + 3]) for i in range(0, len(w), 4)] for w in words if len(w) % 4 == 0
    ]


def test_offsets_are_those_of_the_tar(tmp_path: Path) -> None:
    config, work = build_units(tmp_path)
    for shard in seal_all(config, work).shards:
        found = parsed(tmp_path / "out" / idx_name(shard.name))
        assert found == as_wds2idx_does(tmp_path / "out" / shard.name)
        assert len(found) == shard.num_samples
        whole = (tmp_path / "out" / shard.name).read_bytes()
        for sample in found:
            assert all(offset % 512 == 0 for _, offset, _, _ in sample)
            extension, offset, size, _ = sample[1]
            assert (extension, json.loads(whole[offset : offset + size])["status"]) == ("json", "success")


def test_a_space_in_a_key_does_not_make_two_words(tmp_path: Path) -> None:
    config, work = build_units(tmp_path)
    write_unit(work, 0, [selection_row(i, key=f"my picture {i}") for i in range(8)])
    shard = seal_all(config, work).shards[0]
    expected = as_wds2idx_does(tmp_path / "out" / shard.name)
    assert parsed(tmp_path / "out" / idx_name(shard.name)) == [
        [(extension, offset, size, name.replace(" ", "%20")) for extension, offset, size, name in sample]
        for sample in expected
    ]


def test_open_clip_finds_the_number_of_samples(tmp_path: Path) -> None:
    import_torchvision()
    get_dataset_size = importlib.import_module("open_clip_train.data").get_dataset_size
    config, work = build_units(tmp_path)
    manifest = seal_all(config, work)
    sizes = json.loads((tmp_path / "out" / "sizes.json").read_bytes())
    assert sizes == {shard.name: shard.num_samples for shard in manifest.shards}
    assert get_dataset_size(f"{config.output}/{{00000..00001}}.tar") == (12, 2)
