"""Files beside the shards that other WebDataset tools want: DALI's offset index and open_clip's sizes.

In: a shard's index, a manifest. Out: bytes that follow from them alone, so verifying is making them again and
comparing, and the manifest need not know them.
"""

from __future__ import annotations

import json

import pyarrow as pa

from pipeline.manifest import Manifest

SIZES_NAME = "sizes.json"
_IDX_VERSION = "v1.2"


def idx_name(shard_name: str) -> str:
    """The offset index of a shard: "00003.tar" -> "00003.idx"."""
    return f"{shard_name.removesuffix('.tar')}.idx"


def idx_bytes(index: pa.Table) -> bytes:
    """The offset index DALI's `fn.readers.webdataset` takes as `index_paths`, in the format of its tool wds2idx.

    A line "v1.2 SAMPLES", then one line per sample with "EXT OFFSET SIZE NAME" of each member in the order of the
    tar, where OFFSET is that of the member's first byte (NVIDIA/DALI, tools/wds2idx.py; read by
    dali/operators/reader/loader/webdataset_loader.cc). DALI splits at white space and uses NAME only to say where
    a sample came from, so a space in a key is written as %20.
    """
    lines = [f"{_IDX_VERSION} {index.num_rows}"]
    names = ["key", "image_ext"]
    names += [f"{member}_{what}" for member in ("image", "json", "txt") for what in ("offset", "size")]
    for key, ext, *places in zip(*(index[name].to_pylist() for name in names), strict=True):
        image_offset, image_size, json_offset, json_size, txt_offset, txt_size = places
        name = key.replace(" ", "%20")
        lines.append(
            f"{ext} {image_offset} {image_size} {name}.{ext} json {json_offset} {json_size} {name}.json "
            f"txt {txt_offset} {txt_size} {name}.txt"
        )
    return ("\n".join(lines) + "\n").encode()


def sizes_bytes(manifest: Manifest) -> bytes:
    """`sizes.json`, by which open_clip knows the length of an epoch: {shard file name: samples}.

    Read by `get_dataset_size` of open_clip_train/data.py from the folder of the first shard.
    """
    sizes = {shard.name: shard.num_samples for shard in manifest.shards}
    return (json.dumps(sizes, indent=1, sort_keys=True) + "\n").encode()
