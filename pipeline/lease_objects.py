"""One small object in a store that two machines may want to write: put if absent, put in place of what was seen.

In comes its URL, out go four operations. On S3 the server decides who is first (If-None-Match, If-Match); where it
cannot, and in other stores, what was written is read back after a pause, which two machines that start at the same
moment pass only one of. What the object means is `lease`'s part.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from fsspec import AbstractFileSystem

from pipeline import store
from pipeline.s3 import open_bucket
from pipeline.store_faults import Fault, classify, translated

log = logging.getLogger(__name__)

SETTLE_S = 2.0
"""Seconds after which what was written is read back in stores that cannot decide who was first."""


@dataclass(frozen=True, slots=True)
class Found:
    """The object's content and the mark by which exactly this version is replaced."""

    data: bytes
    tag: str


class SharedObject:
    """The object in any store fsspec knows."""

    def __init__(self, url: str, filesystem: AbstractFileSystem, path: str) -> None:
        self.url, self._filesystem, self._path = url, filesystem, path

    def read(self) -> Found | None:
        """What is there; None when nothing is."""
        with translated(self.url, "read"):
            self._filesystem.invalidate_cache()
            try:
                data: bytes = self._filesystem.cat_file(self._path)
            except FileNotFoundError as error:
                if classify(error)[0] is not Fault.MISSING:
                    raise
                return None
            return Found(data, hashlib.sha256(data).hexdigest())

    def create(self, data: bytes) -> str | None:
        """Write it unless it is there; its tag, or None when somebody else was first."""
        return self._write(data) if self.read() is None else None

    def replace(self, data: bytes, tag: str) -> str | None:
        """Write it in place of the version with this tag; the new tag, or None when that is no longer there."""
        found = self.read()
        return self._write(data) if found is not None and found.tag == tag else None

    def remove(self) -> None:
        """Delete it."""
        store.delete(self.url)

    def _write(self, data: bytes) -> str | None:
        store.write_bytes(self.url, data)
        time.sleep(SETTLE_S)
        found = self.read()
        return found.tag if found is not None and found.data == data else None


class _S3Object(SharedObject):
    """The object on S3, where the server decides who is first."""

    def __init__(self, url: str) -> None:
        name, _, key = url.split("://", 1)[1].partition("/")
        bucket = open_bucket(name, upload=False)  # tiny puts: with the short time-outs of reads
        super().__init__(url, bucket.filesystem, f"{name}/{key}")
        self._objects, self._key, self._where = bucket.objects, key, bucket.endpoint
        self._server_decides = True

    def read(self) -> Found | None:
        with translated(self.url, "read", self._where):
            try:
                answer = self._objects.get(self._key)
            except FileNotFoundError as error:
                if classify(error)[0] is not Fault.MISSING:
                    raise
                return None
            return Found(bytes(answer.bytes()), answer.meta["e_tag"])

    def create(self, data: bytes) -> str | None:
        if self._server_decides:
            done, tag = self._put(data, "create")
            if done:
                return tag
        return super().create(data)

    def replace(self, data: bytes, tag: str) -> str | None:
        if self._server_decides:
            # Ceph up to 16 at least compares If-Match with the ETag without the quotes it comes in.
            for expected in dict.fromkeys((tag, tag.strip('"'))):
                done, new_tag = self._put(data, {"e_tag": expected})
                if new_tag is not None:
                    return new_tag
            if done:
                return None
        return super().replace(data, tag)

    def _put(self, data: bytes, mode: Any) -> tuple[bool, str | None]:
        """Whether the server has decided, and the new tag when the condition held."""
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        with translated(self.url, "write", self._where):
            try:
                tag: str = self._objects.put(self._key, data, mode=mode)["e_tag"]
            except (AlreadyExistsError, PreconditionError):
                return True, None
            except NotSupportedError:
                pass
            except Exception as error:
                if "501 Not Implemented" not in str(error):
                    raise
            else:
                return True, tag
        log.warning("%s cannot put an object only if it is absent: do not start two builders at once", self._where)
        self._server_decides = False
        return False, None


def open_object(url: str) -> SharedObject:
    """The object at a remote URL; nothing is sent yet."""
    if url.startswith(("s3://", "s3a://")):
        return _S3Object(url)
    return SharedObject(url, *store.filesystem(url))
