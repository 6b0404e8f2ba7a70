"""Which file system a path or URL belongs to, and what that says of a name.

In comes a URL; out comes the fsspec file system it belongs to, the path in it and the server's name for messages.
Connections to buckets are kept, one per bucket and purpose in every process. Reading and writing are
left to `pipeline.store` and `pipeline.ranged`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from pipeline.errors import StoreError
from pipeline.s3 import Bucket, open_bucket
from pipeline.store_faults import Fault, classify, translated

_buckets: dict[tuple[int, str, bool], Bucket] = {}
_buckets_lock = threading.Lock()


def protocol(url: str) -> str:
    """ "s3://b/k" -> "s3"; "" for a plain path."""
    return url.split("://", 1)[0] if "://" in url else ""


def is_local(url: str) -> bool:
    """Whether `url` names something on this machine's file system."""
    return protocol(url) in {"", "file", "local"}


def is_s3(url: str) -> bool:
    """Whether `url` names an object in an S3 bucket."""
    return protocol(url) in {"s3", "s3a"}


def path_of(url: str) -> Path:
    """ "file:///a/b" -> "/a/b"."""
    return Path(url.split("://", 1)[1] if "://" in url else url)


def bucket_of(url: str, *, upload: bool = False) -> Bucket:
    """The connection for an s3:// URL, kept per bucket; uploads have their own, with longer time-outs."""
    name = url.split("://", 1)[1].split("/", 1)[0]
    if not name:
        raise StoreError(f"{url}: the bucket's name is missing; expected s3://bucket/prefix")
    key = (os.getpid(), name, upload)
    with _buckets_lock:
        if key not in _buckets:
            _buckets[key] = open_bucket(name, upload=upload)
        return _buckets[key]


def opened(url: str, *, upload: bool = False) -> tuple[AbstractFileSystem, str, str]:
    """File system, path in it, and the server's name for messages."""
    if is_s3(url):
        bucket = bucket_of(url, upload=upload)
        if upload and bucket.anonymous:
            raise StoreError(
                f"{url}: cannot write: no AWS credentials were found; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        return bucket.filesystem, url.split("://", 1)[1].rstrip("/"), bucket.endpoint
    with translated(url, "open this kind of URL"):
        filesystem, path = fsspec.core.url_to_fs(url)
        return filesystem, path, ""


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system a URL belongs to, and the path in it."""
    found, path, _ = opened(url)
    return found, path


@contextmanager
def used(url: str, doing: str, *, upload: bool = False) -> Iterator[tuple[AbstractFileSystem, str]]:
    """A remote file system whose failures inside the block become StoreErrors."""
    found, path, where = opened(url, upload=upload)
    with translated(url, doing, where):
        yield found, path


def _info(url: str) -> dict[str, Any] | None:
    """What the store says of a remote name, or None when there is none."""
    with used(url, "look up") as (files, path):
        files.invalidate_cache()
        try:
            found: dict[str, Any] = files.info(path)
        except FileNotFoundError as error:
            if classify(error)[0] is not Fault.MISSING:
                raise
            return None
        return found


def exists(url: str) -> bool:
    """Whether there is a file, an object or a folder of this name."""
    if is_local(url):
        with translated(url, "look up"):
            return path_of(url).exists()
    return _info(url) is not None


def size(url: str) -> int | None:
    """Bytes of a file or object; None when there is none of this name, or its server does not say."""
    if is_local(url):
        with translated(url, "look up"):
            local = path_of(url)
            return local.stat().st_size if local.is_file() else None
    found = _info(url)
    if found is None or found["type"] == "directory" or found["size"] is None:
        return None
    return int(found["size"])
