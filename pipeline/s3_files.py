"""One S3 bucket as an fsspec file system whose requests are made by the thread that asks.

obstore's own fsspec class goes through an event loop in another thread; when a process ended soon after a request,
one time in four it was aborted while Python shut down (obstore 0.12.1). Its plain calls, used here, never were.
Paths are `bucket/key`, as fsspec has them; only opening a file is left to obstore's class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem


class BucketFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """What `pipeline.store` asks of a file system, for one bucket."""

    protocol = ("s3", "s3a")
    cachable = False  # fsspec would hand one bucket's object out for another's

    def __init__(self, bucket: str, objects: Any, opener: AbstractFileSystem) -> None:
        super().__init__()
        self._bucket, self._objects, self._opener = bucket, objects, opener

    def _key(self, path: str) -> str:
        """ "bucket/a/b.tar" -> "a/b.tar"."""
        return path.partition("/")[2]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The object, or its bytes [start, end)."""
        if start is None or end is None:
            return bytes(self._objects.get(self._key(path)).bytes())
        return bytes(self._objects.get_range(self._key(path), start=start, end=end))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Put an object."""
        self._objects.put(self._key(path), value)

    def put_file(self, lpath: str, rpath: str, callback: Any = None, mode: str = "overwrite", **_: Any) -> None:
        """Put a local file, in parts when it is long; it appears when all of it is there."""
        self._objects.put(self._key(rpath), Path(lpath))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size of an object, or that there is something below this name; FileNotFoundError when there is neither."""
        key = self._key(path)
        try:
            if key:
                return {"name": path, "size": self._objects.head(key)["size"], "type": "file"}
        except FileNotFoundError:
            if not self._names(key):
                raise
        return {"name": path, "size": 0, "type": "directory"}

    def _names(self, key: str) -> list[str]:
        """Full keys of what is directly below a key."""
        found = self._objects.list_with_delimiter(prefix=key or None)
        return [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is directly below a name."""
        names = [f"{self._bucket}/{name}" for name in self._names(self._key(path))]
        return [self.info(name) for name in names] if detail else names

    def rm_file(self, path: str) -> None:
        """Delete an object; S3 does not say whether there was one."""
        self._objects.delete(self._key(path))

    def open(self, path: str, mode: str = "rb", **options: Any) -> BinaryIO:
        """An object as a file, read ahead in pieces."""
        file: BinaryIO = self._opener.open(path, mode, **options)
        return file
