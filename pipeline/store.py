"""Files and objects by path or URL: whole reads, atomic writes, listings. The one door to every store.

A plain path or file:// is local, s3:// goes through `pipeline.s3`, every other URL through the fsspec
package that knows it (`pipeline.connections`); ranges are `pipeline.ranged`'s part, long files `pipeline.streamed`'s.
Whoever finds a name may read it whole: local files are written beside their place and renamed, objects
are put in one piece. Every failure is a `StoreError` naming the URL. Safe to use from several threads.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fsspec import AbstractFileSystem

from pipeline.connections import exists, filesystem, is_local, path_of, protocol, size, used
from pipeline.errors import StoreError
from pipeline.ranged import RANGE_BUDGET_S, RangedFile, Watch, read_buffer, read_into, read_range, read_whole
from pipeline.store_faults import Fault, classify, translated
from pipeline.streamed import Stream, open_stream

__all__ = [
    "RANGE_BUDGET_S",
    "RangedFile",
    "Stream",
    "Watch",
    "check_writable",
    "delete",
    "exists",
    "filesystem",
    "is_local",
    "join",
    "list_names",
    "move_file",
    "open_stream",
    "parent",
    "put_file",
    "read_buffer",
    "read_bytes",
    "read_into",
    "read_range",
    "size",
    "write_bytes",
]

# Here a put is one atomic request; elsewhere files are written under another name and moved.
_OBJECT_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "r2", "hf"})


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
    with used(url, "write", upload=True) as (opened, path):
        if protocol(url) in _OBJECT_PROTOCOLS:
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
    """The whole content; a remote store that falters is asked again for about a minute."""
    if is_local(url):
        with translated(url, "read"):
            return path_of(url).read_bytes()
    return read_whole(url)


def write_bytes(url: str, data: bytes) -> None:
    """Write a file or object; readers see the old content or the new, nothing between."""
    if is_local(url):
        with translated(url, "write"), _local_write(path_of(url)) as file:
            file.write(data)
        return
    with _remote_write(url) as (opened, path):
        opened.pipe_file(path, data)


def put_file(local_path: str | Path, url: str) -> None:
    """Copy a local file to `url`, atomically like `write_bytes`."""
    with translated(str(local_path), "read"), open(local_path, "rb") as source:
        num_bytes = os.fstat(source.fileno()).st_size
        if is_local(url):
            with translated(url, "write"), _local_write(path_of(url)) as file:
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
            target = path_of(url)
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


def list_names(url: str) -> list[str]:
    """Base names of what is in a folder, sorted; [] when there is no such folder."""
    if is_local(url):
        with translated(url, "list"):
            folder = path_of(url)
            return sorted(os.listdir(folder)) if folder.exists() else []
    with used(url, "list") as (opened, path):
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
            path_of(url).unlink(missing_ok=True)
        return
    with used(url, "delete", upload=True) as (opened, path), suppress(FileNotFoundError):
        opened.rm_file(path)


def check_writable(url: str) -> None:
    """Write and remove a tiny file in the folder `url`; the StoreError says what stands in the way."""
    probe = join(url, f".writable-{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}")
    try:
        write_bytes(probe, b"probe")
        delete(probe)
    except StoreError as error:
        raise StoreError(str(error).replace(probe, url)) from error
