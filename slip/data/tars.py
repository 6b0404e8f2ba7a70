"""Samples out of whole tars that nobody indexed: read from begin to end, grouped by the webdataset library.

In: URLs of tars in WebDataset form (members of one sample follow each other and share their name up to its first dot).
Out: raw samples. What cannot be used is counted by reason; a tar that is cut or unreadable gives what stands before the
damage, and too many such tars end the run. Which tars are read, when, and by whom is decided in
`slip.data.unindexed`.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline import store
from pipeline.errors import ConfigError, ShardError, StoreError
from slip.data.samples import RawSample, usable_texts
from slip.data.tar_members import DamagedTarError, TarStream, Watch

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
CAPTION_EXTENSIONS = ("txt", "text", "caption")
_WANTED = (*IMAGE_EXTENSIONS, *CAPTION_EXTENSIONS, "json")

_META = re.compile(r"__[^/]*__($|/)")
"""Members that describe the tar, by webdataset's convention."""


def missing_package(error: ImportError) -> ConfigError:
    """What to do when webdataset, or a package it needs, is not installed."""
    return ConfigError(
        f"reading tars without a manifest needs the webdataset package ({error}): pip install 'yfcc15m-slip[eval]'; or "
        "write a manifest, which does not need it: slip index URL --output FOLDER"
    )


def _member(members: Mapping[str, bytes], extensions: Sequence[str]) -> tuple[str, bytes] | None:
    return next(((name, members[name]) for name in extensions if members.get(name)), None)


class TarReader:
    """Reads tars one by one, and keeps count of what could not be used. Safe to use from several threads."""

    def __init__(self, *, max_damaged: int, needs_text: bool = True) -> None:
        try:
            from webdataset.tariterators import base_plus_ext, group_by_keys
        except ImportError as error:
            raise missing_package(error) from error
        self._split_name: Callable[[str], tuple[str | None, str | None]] = base_plus_ext
        self._group_by_keys = group_by_keys
        self._max_damaged = max_damaged
        self._needs_text = needs_text
        self._lock = threading.Lock()
        self.skipped: Counter[str] = Counter()
        """Samples and members that could not be used, by reason; again each time a tar is read."""
        self.damaged: dict[str, str] = {}
        """What is wrong with which tar."""

    def samples(self, url: str, watch: Watch) -> Iterator[RawSample]:
        """The usable samples of one tar, with `sample_id` -1; what `watch` raises ends the reading.

        A tar that cannot be read to its end is logged; the `max_damaged` + 1st is a ShardError.
        """
        # Every tar is grouped by itself: in one stream the last sample of a tar and the first of the next would become
        # one when they share a key (webdataset 0.2.86), or a record of its own between them be needed.
        offsets: dict[str, int] = {}
        members = self._members(url, watch, offsets)
        for grouped in self._group_by_keys(members, suffixes=set(_WANTED), handler=self._skip_member):
            sample = self._usable(url, grouped, offsets.pop(grouped["__key__"]))
            if sample is not None:
                yield sample

    def _members(self, url: str, watch: Watch, offsets: dict[str, int]) -> Iterator[dict[str, object]]:
        """A tar's files for webdataset to group; notes in `offsets` where the first of each key begins."""
        try:
            with store.open_stream(url) as stream:
                tar = TarStream(stream, url, watch)
                for member in tar.members():
                    if not member.is_file or _META.match(member.name):
                        continue
                    key, _ = self._split_name(member.name)
                    if key is not None:
                        offsets.setdefault(key, member.start)
                    wanted = member.name.lower().endswith(_WANTED)
                    data = bytes(tar.read(member)[: member.size]) if wanted else b""
                    yield {"fname": member.name, "data": data, "__url__": url}
        except (DamagedTarError, StoreError) as error:
            self._count_damaged(url, str(error))

    def _usable(self, url: str, members: Mapping[str, bytes], offset: int) -> RawSample | None:
        """The sample made of a tar's members of one name, None when it lacks something."""
        key = str(members["__key__"])
        image, caption = _member(members, IMAGE_EXTENSIONS), _member(members, CAPTION_EXTENSIONS)
        text = caption[1].decode("utf-8", errors="replace").strip() if caption is not None else ""
        json = members.get("json", b"")
        if image is None:
            self._skip("no image", f"{url}: sample {key} has no .{', .'.join(IMAGE_EXTENSIONS)} or an empty one")
            return None
        if self._needs_text and not (text or any(usable_texts(json))):
            self._skip("no caption", f"{url}: sample {key} has no .{', .'.join(CAPTION_EXTENSIONS)} or an empty one")
            return None
        return RawSample(
            sample_id=-1,
            shard=url,
            offset=offset,
            key=key,
            image=image[1],
            text=text,
            json=json,
        )

    def _skip_member(self, error: Exception) -> bool:
        """webdataset's handler: a second member of the same name is left out, the tar goes on."""
        if not isinstance(error, ValueError):
            raise error
        self._skip("member twice", str(error.args[0]))
        return True

    def _skip(self, reason: str, example: str) -> None:
        with self._lock:
            self.skipped[reason] += 1
            count = self.skipped[reason]
        if str(count).strip("0") == "1":  # 1, 10, 100, ...
            logger.warning("%s; it is skipped, and so were %d in all: %s", example, count, reason)

    def _count_damaged(self, url: str, detail: str) -> None:
        with self._lock:
            if url in self.damaged:
                return
            self.damaged[url] = detail
            num = len(self.damaged)
        if num > self._max_damaged:
            raise ShardError(
                f"{detail}; that makes {num} cut or unreadable tars, --data.max-damaged allows {self._max_damaged}: "
                "mend them or raise the limit"
            )
        logger.warning("%s; only the samples before are used", detail)
