"""Other people's programs read the shards: open_clip's training loader, and tools made for img2dataset's output."""

from __future__ import annotations

import argparse
import functools
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.integration.conftest import FirstBuild

BATCH = 16


@pytest.fixture(scope="module")
def shards(first_build: FirstBuild) -> Path:
    """The embedded sample, as a newcomer builds it."""
    return first_build.folder / "data/yfcc15m-sample"


def braces(shards: Path) -> str:
    names = sorted(path.stem for path in shards.glob("*.tar"))
    return str(shards / f"{{{names[0]}..{names[-1]}}}.tar")


@pytest.mark.parametrize("is_train", [True, False])
def test_open_clip_trains_from_the_shards(shards: Path, is_train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip's own loader, which takes the number of samples from `sizes.json`."""
    from slip.torchvision_compat import import_torchvision

    import_torchvision()
    import open_clip
    import open_clip_train.data
    from open_clip_train.data import get_dataset_size, get_wds_dataset

    # open_clip asks for webdataset <= 0.2.86; later ones say where a tar ends by a record its grouping does not know.
    # This is its own loop over files with that record switched off.
    without_ends = functools.partial(open_clip_train.data.tar_file_expander, eof_value=None)
    monkeypatch.setattr(open_clip_train.data, "tar_file_expander", without_ends)

    manifest = json.loads((shards / "manifest.json").read_bytes())
    pattern = braces(shards)
    assert get_dataset_size(pattern) == (manifest["num_samples"], len(manifest["shards"]))
    args = argparse.Namespace(
        train_data=pattern,
        val_data=pattern,
        train_num_samples=None,
        val_num_samples=manifest["num_samples"],
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=BATCH,
        workers=1,
        world_size=1,
        seed=0,
    )
    preprocess = open_clip.image_transform(32, is_train=is_train)
    data = get_wds_dataset(args, preprocess, is_train=is_train, tokenizer=open_clip.get_tokenizer("ViT-B-32"))
    assert data.dataloader.num_batches == -(-manifest["num_samples"] // BATCH)
    num_read = 0
    for images, texts in data.dataloader:
        assert images.shape[1:] == (3, 32, 32)
        assert texts.shape == (len(images), 77)
        num_read += len(images)
    if is_train:  # open_clip fills its last batch from the next round
        assert num_read == data.dataloader.num_batches * BATCH
    else:
        assert num_read == manifest["num_samples"]


def members(shards: Path) -> Iterator[dict[str, bytes]]:
    for path in sorted(shards.glob("*.tar")):
        sample: dict[str, bytes] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if sample and sample["__key__"] != key.encode():
                    yield sample
                    sample = {}
                file = tar.extractfile(member)
                assert file is not None
                sample |= {"__key__": key.encode(), extension: file.read()}
        yield sample


def test_the_json_has_the_fields_that_tools_for_img2dataset_expect(shards: Path) -> None:
    """Names and types as img2dataset writes them into its own tars (writer.py, downloader.py)."""
    expected: dict[str, type] = {
        "key": str,
        "caption": str,
        "url": str,
        "width": int,
        "height": int,
        "original_width": int,
        "original_height": int,
        "status": str,
        "sha256": str,
    }
    num_read = 0
    for sample in members(shards):
        record: dict[str, Any] = json.loads(sample["json"])
        for name, kind in expected.items():
            assert isinstance(record[name], kind), (name, record)
        assert record["status"] == "success"
        assert record["error_message"] is None
        assert record["key"].encode() == sample["__key__"]
        assert record["caption"].encode() == sample["txt"]
        (extension,) = {"jpg", "png", "webp"} & sample.keys()
        with Image.open(io.BytesIO(sample[extension])) as image:
            assert image.size == (record["width"], record["height"])
        num_read += 1
    assert num_read == sum(json.loads((shards / "sizes.json").read_bytes()).values())
