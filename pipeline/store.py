"""Files and objects by path or URL: whole reads, ranged reads, atomic writes, listings.

A plain path or file:// is local, s3:// goes through `pipeline.s3`, every other URL through the fsspec
package that knows it. Whoever finds a name may read it whole: local files are written beside their
place and renamed, objects are put in one piece. Every failure is a `StoreError` naming the URL.
Safe to use from several threads.
"""

from __future__ import annotations

import errno
import glob
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec import AbstractFileSystem

from pipeline.errors import StoreError
from pipeline.s3 import Bucket, open_bucket
from pipeline.store_faults import Fault, classify, is_store_fault, translated

RANGE_BUDGET_S = 60.0
"""Seconds over which a ranged read is tried again."""

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0

# Here a put is one atomic request; elsewhere files are written under another name and moved.
_OBJECT_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "r2", "hf"})

_jitter = random.Random()
_buckets: dict[tuple[int, str, bool], Bucket] = {}
_buckets_lock = threading.Lock()


def _protocol(url: str) -> str:
    """ "s3://b/k" -> "s3"; "" for a plain path."""
    return url.split("://", 1)[0] if "://" in url else ""


def is_local(url: str) -> bool:
    """Whether `url` names something on this machine's file system."""
    return _protocol(url) in {"", "file", "local"}


def _local_path(url: str) -> Path:
    return Path(url.split("://", 1)[1] if "://" in url else url)


def join(base: str, *names: str) -> str:
    """Append names to a folder or URL: ("s3://b/x/", "a.tar") -> "s3://b/x/a.tar"."""
    scheme, sep, path = base.rpartition("://")
    for name in names:
        path = f"{path.rstrip('/')}/{name}" if path else name
    return f"{scheme}{sep}{path}"


def parent(url: str) -> str:
    """The folder a file is in: "s3://b/x/a.tar" -> "s3://b/x", "a.tar" -> ".", "s3://b" -> "s3://b"."""
    scheme, sep, path = url.rstrip("/").rpartition("://")
    head, slash, _ = path.rpartition("/")
    if sep:
        return f"{scheme}{sep}{head or ('/' if slash else path)}"
    return head or ("/" if slash else ".")


def _bucket(url: str, *, upload: bool) -> Bucket:
    """The connection for an s3:// URL, kept per bucket; uploads have their own, with longer time-outs."""
    name = url.split("://", 1)[1].split("/", 1)[0]
    if not name:
        raise StoreError(f"{url}: the bucket's name is missing; expected s3://bucket/prefix")
    key = (os.getpid(), name, upload)
    with _buckets_lock:
        if key not in _buckets:
            _buckets[key] = open_bucket(name, upload=upload)
        return _buckets[key]


def _opened(url: str, *, upload: bool = False) -> tuple[AbstractFileSystem, str, str]:
    """File system, path in it, and the server's name for messages."""
    if _protocol(url) in {"s3", "s3a"}:
        bucket = _bucket(url, upload=upload)
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
    opened, path, _ = _opened(url)
    return opened, path


@contextmanager
def _used(url: str, doing: str, *, upload: bool = False) -> Iterator[tuple[AbstractFileSystem, str]]:
    """A remote file system whose failures inside the block become StoreErrors."""
    opened, path, where = _opened(url, upload=upload)
    with translated(url, doing, where):
        yield opened, path


def _remove_abandoned(path: Path) -> None:
    """Delete what killed writers of this file left behind, on this machine only: others may be alive."""
    prefix = f"{path.name}.part-{socket.gethostname()}-"
    for part in path.parent.glob(f"{glob.escape(prefix)}*"):
        pid = part.name[len(prefix) :].partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            part.unlink(missing_ok=True)


@contextmanager
def _local_write(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name only when it is complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    part = path.with_name(f"{path.name}.part-{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def _remote_write(url: str) -> Iterator[tuple[AbstractFileSystem, str]]:
    """File system and path to put to; what is put appears under `url` only after the block."""
    with _used(url, "write", upload=True) as (opened, path):
        if _protocol(url) in _OBJECT_PROTOCOLS:
            yield opened, path
            return
        part = f"{path}.part-{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}"
        opened.makedirs(path.rpartition("/")[0] or "/", exist_ok=True)
        try:
            yield opened, part
            opened.mv(part, path)
        except BaseException:
            with suppress(Exception):
                opened.rm_file(part)
            raise


def read_bytes(url: str) -> bytes:
    """The whole content."""
    if is_local(url):
        with translated(url, "read"):
            return _local_path(url).read_bytes()
    with _used(url, "read") as (opened, path):
        data: bytes = opened.cat_file(path)
        return data


def _read_range_once(url: str, start: int, length: int) -> bytes:
    if is_local(url):
        with _local_path(url).open("rb") as file:
            file.seek(start)
            return file.read(length)
    opened, path, _ = _opened(url)
    data: bytes = opened.cat_file(path, start=start, end=start + length)
    return data


def read_range(url: str, start: int, length: int) -> bytes:
    """Exactly `length` bytes from `start`; tried again for about a minute when the store falters."""
    if length == 0:
        return b""
    deadline = time.monotonic() + RANGE_BUDGET_S
    pause_s = _FIRST_PAUSE_S
    what = f"read {length} bytes at offset {start}"
    while True:
        try:
            data = _read_range_once(url, start, length)
        except Exception as error:
            if not is_store_fault(error):
                raise
            fault, _ = classify(error)
            if is_local(url) or not fault.may_pass or time.monotonic() + pause_s > deadline:
                with translated(url, what, "" if is_local(url) else _opened(url)[2]):
                    raise
        else:
            if len(data) == length:
                return data
            found = size(url)
            if found is None or found < start + length or time.monotonic() + pause_s > deadline:
                raise StoreError(f"{url}: cannot {what}: got {len(data)} bytes, the file has {found}; it is cut short")
        time.sleep(pause_s * _jitter.uniform(0.5, 1.5))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def write_bytes(url: str, data: bytes) -> None:
    """Write a file or object; readers see the old content or the new, nothing between."""
    if is_local(url):
        with translated(url, "write"), _local_write(_local_path(url)) as file:
            file.write(data)
        return
    with _remote_write(url) as (opened, path):
        opened.pipe_file(path, data)


def put_file(local_path: str | Path, url: str) -> None:
    """Copy a local file to `url`, atomically like `write_bytes`."""
    with translated(str(local_path), "read"), open(local_path, "rb") as source:
        num_bytes = os.fstat(source.fileno()).st_size
        if is_local(url):
            with translated(url, "write"), _local_write(_local_path(url)) as file:
                shutil.copyfileobj(source, file, 1 << 20)
            return
    with _remote_write(url) as (opened, path):
        opened.put_file(str(local_path), path)
    found = size(url)
    if found != num_bytes:
        raise StoreError(f"{url}: has {found} bytes after writing {num_bytes}; run the same command again")


def move_file(local_path: str | Path, url: str) -> None:
    """Like `put_file`, but the local file is gone afterwards; within one file system nothing is copied."""
    if is_local(url):
        with translated(url, "write"):
            target = _local_path(url)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(local_path, "rb") as file:
                os.fsync(file.fileno())
            try:
                os.replace(local_path, target)
                return
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
    put_file(local_path, url)
    Path(local_path).unlink()


def _info(url: str) -> dict[str, Any] | None:
    """What the store says of a remote name, or None when there is none."""
    with _used(url, "look up") as (opened, path):
        opened.invalidate_cache()
        try:
            found: dict[str, Any] = opened.info(path)
        except FileNotFoundError as error:
            if classify(error)[0] is not Fault.MISSING:
                raise
            return None
        return found


def exists(url: str) -> bool:
    """Whether there is a file, an object or a folder of this name."""
    if is_local(url):
        with translated(url, "look up"):
            return _local_path(url).exists()
    return _info(url) is not None


def size(url: str) -> int | None:
    """Bytes of a file or object; None when there is none of this name."""
    if is_local(url):
        with translated(url, "look up"):
            local = _local_path(url)
            return local.stat().st_size if local.is_file() else None
    found = _info(url)
    return None if found is None or found["type"] == "directory" else int(found["size"])


def list_names(url: str) -> list[str]:
    """Base names of what is in a folder, sorted; [] when there is no such folder."""
    if is_local(url):
        with translated(url, "list"):
            folder = _local_path(url)
            return sorted(os.listdir(folder)) if folder.exists() else []
    with _used(url, "list") as (opened, path):
        opened.invalidate_cache()
        try:
            entries = opened.ls(path, detail=False)
        except FileNotFoundError as error:
            if classify(error)[0] is not Fault.MISSING:
                raise
            return []
        names = {str(entry).rstrip("/").rpartition("/")[2] for entry in entries}
        return sorted(names - {""})


def delete(url: str) -> None:
    """Remove a file or object; nothing happens when there is none."""
    if is_local(url):
        with translated(url, "delete"):
            _local_path(url).unlink(missing_ok=True)
        return
    with _used(url, "delete", upload=True) as (opened, path), suppress(FileNotFoundError):
        opened.rm_file(path)


def check_writable(url: str) -> None:
    """Write and remove a tiny file in the folder `url`; the StoreError says what stands in the way."""
    probe = join(url, f".writable-{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}")
    try:
        write_bytes(probe, b"probe")
        delete(probe)
    except StoreError as error:
        raise StoreError(str(error).replace(probe, url)) from error
