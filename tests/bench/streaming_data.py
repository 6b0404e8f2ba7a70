"""What `streaming.py` reads: data sets of random bytes on disk and on a real S3 server, and the server itself.

A data set of 1,500 full shards is one shard under 1,500 names: hard links on disk; on S3 copies made by the
server, which keeps the bytes once when the object was put in parts.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.manifest import Shard
from pipeline.seal.shard import Sample, build_shard
from tests.tiny_data import seal

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "bench"
_PART_BYTES = 64 << 20
_RANDOM_BYTES = 64 << 20


def key_of(shard: int, row: int) -> str:
    """The key of a sample tells where it stands."""
    return f"{shard:05d}{row:06d}"


def _samples(shard: int, count: int, picture_bytes: int) -> Iterator[tuple[Sample, bytes]]:
    draw = random.Random(shard)
    noise = draw.randbytes(_RANDOM_BYTES)
    text = " ".join(draw.choices(("a", "boat", "on", "the", "lake", "near", "our", "house", "in", "Zürich"), k=30))
    for row in range(count):
        num_bytes = draw.randrange(picture_bytes // 2, picture_bytes * 3 // 2)
        start = draw.randrange(_RANDOM_BYTES - num_bytes)
        picture, key = noise[start : start + num_bytes], key_of(shard, row)
        yield (
            Sample(
                key=key,
                title=f"Boat {key}",
                description=text,
                title_usable=True,
                description_usable=True,
                user=f"user {draw.randrange(3000)}",
                date_taken="2008-01-01 12:00:00.0",
                page_url=f"http://www.flickr.com/photos/{draw.randrange(10**8)}@N00/{key}/",
                license="Attribution-NonCommercial License",
                license_url="http://creativecommons.org/licenses/by-nc/2.0/",
                url=f"http://farm1.staticflickr.com/{row % 7000}/{key}_{draw.getrandbits(40):010x}.jpg",
                width=500,
                height=375,
                image_ext="jpg",
                image_size=num_bytes,
                image_sha256=hashlib.sha256(picture).hexdigest(),
            ),
            picture,
        )


def _write_manifest(base_url: str, shards: list[Shard]) -> str:
    seal(base_url, shards)
    return base_url


def write_set(folder: Path, *, num_shards: int, samples: int, picture_bytes: int) -> list[Shard]:
    """A sealed data set on disk; its shards."""
    folder.mkdir()
    shards = []
    for number in range(num_shards):
        path = folder / f"{number:05d}.tar"
        built = build_shard(number, _samples(number, samples, picture_bytes), path, is_resized=False)
        (folder / built.shard.index).write_bytes(built.index_data)
        path.rename(folder / built.shard.name)
        shards.append(built.shard)
    _write_manifest(str(folder), shards)
    return shards


def _named(shard: Shard, count: int) -> list[Shard]:
    names = [f"copy-{number:05d}" for number in range(count)]
    return [replace(shard, name=f"{name}.tar", index=f"{name}.parquet") for name in names]


def linked_set(folder: Path, source: Path, shard: Shard, count: int) -> str:
    """A data set of `count` hard links to one shard and its index; its folder."""
    folder.mkdir()
    shards = _named(shard, count)
    for copy in shards:
        os.link(source / shard.name, folder / copy.name)
        os.link(source / shard.index, folder / copy.index)
    return _write_manifest(str(folder), shards)


def put_set(source: Path, shards: list[Shard], url: str) -> str:
    """Copy a data set to S3; its URL."""
    for shard in shards:
        for name in (shard.name, shard.index):
            store.put_file(source / name, store.join(url, name))
    return _write_manifest(url, shards)


def _client() -> Any:
    import botocore.session
    from botocore.config import Config

    return botocore.session.get_session().create_client("s3", config=Config(max_pool_connections=16))


def copied_set(source: Path, shard: Shard, prefix: str, count: int) -> str:
    """A data set of `count` copies of one shard and its index on S3; its URL."""
    client, shards = _client(), _named(shard, count)
    for name in (shard.name, shard.index):
        data, parts = (source / name).read_bytes(), []
        at = {"Bucket": BUCKET, "Key": f"{prefix}/{name}"}
        upload = at | {"UploadId": client.create_multipart_upload(**at)["UploadId"]}
        for number, start in enumerate(range(0, len(data), _PART_BYTES), 1):
            put = client.upload_part(**upload, PartNumber=number, Body=data[start : start + _PART_BYTES])
            parts.append({"ETag": put["ETag"], "PartNumber": number})
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})

    def copy(names: tuple[str, str]) -> None:
        origin = {"Bucket": BUCKET, "Key": f"{prefix}/{names[0]}"}
        client.copy_object(Bucket=BUCKET, Key=f"{prefix}/{names[1]}", CopySource=origin)

    with ThreadPoolExecutor(8) as pool:
        tars, indexes = ((shard.name, c.name) for c in shards), ((shard.index, c.index) for c in shards)
        list(pool.map(copy, [*tars, *indexes]))
    return _write_manifest(f"s3://{BUCKET}/{prefix}", shards)


def _wait_for(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"nothing answers on port {port}; see tests/s3/README.md")


@contextmanager
def s3_server(folder: Path, port: int) -> Iterator[str]:
    """Ceph on this machine with an empty bucket; sets the environment for every S3 client. The server's URL."""
    url = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": "127.0.0.1,localhost",
    }
    command = [str(ROOT / "tests/s3/start_ceph.sh"), str(folder), str(port)]
    started = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    try:
        _wait_for(port)
        _client().create_bucket(Bucket=BUCKET)
        yield url
    finally:
        for pid in reversed(started.stdout.split()):
            os.kill(int(pid), signal.SIGKILL)
