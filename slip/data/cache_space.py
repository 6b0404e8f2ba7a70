"""The room of a cache folder, shared by all processes of a node: who may keep a block, what goes, what a crash left.

Blocks lie at FOLDER/<2 hex>/<64 hex of the object>/<start>-<stop>; the name says which bytes of the object they are,
hence their size. `FOLDER/lock` is locked (flock) for every change of names and holds the total in bytes, 20 digits.

- Reserving is making `<start>-<stop>.part-<token>-<pid>-<number>`, still empty, under the lock. The name says how much
  is reserved, so a recount, which adds up names under the lock, counts what others have reserved and not yet written.
  Parts are written without the lock and renamed under it.
- The total is raised before names appear and lowered after they are gone: whoever is killed leaves it too high, which
  the next survey mends, never too low.
- Every process holds a lock on its file `FOLDER/users/<token>`. The system lets go of it however the process ends, in
  whatever container, so a part whose token nobody holds is a dead process's, and a survey removes it. A process id
  would not tell: containers count their own, and ids are used again.
- The modification time of an object's folder says when it was last used. Objects older than the start of the oldest
  living process are foreign: nobody living has used or claimed them. They make room, whole objects, oldest first.
  Among objects in use nothing is evicted: an epoch touches everything once, in another order than the last, so one
  block is worth as much as another and a full cache hits capacity / data, where least-recently-used would hit nothing.

Nothing is flushed to the disk: a block torn by a power cut has the wrong size or is caught by the samples' digests.
Room is counted in bytes of blocks; what the file system rounds up to comes on top.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

MIN_FREE_BYTES = 1 << 30
MIN_FREE_FRACTION = 0.05
"""Of the disk, whichever is more, stays free: other programs, and checkpoints, must not meet a full disk."""

_LOCK_WAIT_S = 30.0
"""After this the lock's holder counts as stuck (suspended, say), and the caller does without the cache."""
_SURVEY_EVERY_S = 600.0
"""A full cache is surveyed again this often: processes may have died, and their objects have become foreign."""

_NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "ceph", "beegfs", "gpfs", "glusterfs", "afs"}

_NAME = re.compile(r"([0-9]+)-([0-9]+)(?:\.part-([0-9a-f]{16})-[0-9]+-[0-9]+)?")
_HEX = re.compile(r"[0-9a-f]{64}")


def block_range(name: str) -> tuple[int, int] | None:
    """First byte and end of a block or part by its name: "0-8388608" -> (0, 8388608); None for any other file."""
    found = _NAME.fullmatch(name)
    return None if found is None else (int(found[1]), int(found[2]))


def network_file_system(folder: Path) -> str:
    """The kind of network file system a folder is on, as /proc/mounts calls it; "" if it is on none, or unknown."""
    longest, kind = 0, ""
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, found = line.split()[:3]
            mount = mount.replace("\\040", " ")
            if folder.is_relative_to(mount) and len(mount) >= longest:
                longest, kind = len(mount), found
    return kind if kind in _NETWORK_FILE_SYSTEMS else ""


def _size(path: Path) -> int:
    start, stop = block_range(path.name) or (0, 0)
    return stop - start


def _unlink(path: Path) -> int:
    """Remove a block or part; the bytes that became free, 0 if it was gone before."""
    try:
        path.unlink()
    except FileNotFoundError:
        return 0
    return _size(path)


class Space:
    """One process's hold on the cache folder, at most `capacity_bytes` of blocks. Every method may raise OSError.

    Safe to use from several threads. A process that is forked off must open its own: it would share the lock.
    """

    def __init__(self, folder: Path, capacity_bytes: int) -> None:
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._token = secrets.token_hex(8)
        self._serial = itertools.count()
        self._mutex = threading.Lock()
        self._foreign: list[Path] = []
        self._oldest_start_ns = 0
        self._next_survey = 0.0
        self._told_disk_full = False
        (folder / "users").mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
        self._lock_file = (folder / "lock").open("r+b", buffering=0)
        self._user_path = folder / "users" / self._token
        with self._locked():
            self._user_file = self._user_path.open("xb", buffering=0)
            fcntl.flock(self._user_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._user_file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            # The capacity may be smaller than the last run's.
            self._store_total(self._make_room(self._survey(), 0))

    def close(self) -> None:
        """Let go of the folder; what this process kept stays."""
        with suppress(OSError):
            self._user_path.unlink()
        self._user_file.close()
        self._lock_file.close()

    def reserve(self, blocks: Sequence[Path]) -> list[Path]:
        """Make the parts of the first blocks, as many as there is room for: [] when the cache is full."""
        with self._locked():
            sizes = [_size(block) for block in blocks]
            total = self._make_room(self._total(), sum(sizes))
            room = self._room(total)
            if room < sum(sizes) and time.monotonic() >= self._next_survey:
                room = self._room(total := self._make_room(self._survey(), sum(sizes)))
            count = sum(end <= room for end in itertools.accumulate(sizes))
            self._store_total(total + sum(sizes[:count]))
            parts: list[Path] = []
            try:
                for block in blocks[:count]:
                    block.parent.mkdir(parents=True, exist_ok=True)
                    part = block.with_name(f"{block.name}.part-{self._token}-{os.getpid()}-{next(self._serial)}")
                    part.touch(exist_ok=False)
                    parts.append(part)
            except OSError:
                for part in parts:
                    part.unlink(missing_ok=True)
                self._store_total(total)
                raise
            return parts

    def settle(self, parts: Iterable[Path]) -> None:
        """Give written parts their names. Where another process was faster, its block stays and the room is free."""
        with self._locked():
            total = self._total()
            for part in parts:
                block = part.with_name(part.name.partition(".part-")[0])
                if block.exists():
                    total -= _unlink(part)
                else:
                    part.rename(block)
            self._store_total(total)

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove blocks, or parts with what they reserve; what is gone already is no error."""
        with self._locked():
            total = self._total()
            for path in paths:
                total -= _unlink(path)
            self._store_total(total)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._folder / "lock"
        stuck = TimeoutError(errno.ETIMEDOUT, f"held by another process for over {_LOCK_WAIT_S:.0f} s", str(path))
        deadline = time.monotonic() + _LOCK_WAIT_S
        pause_s = 0.0002
        if not self._mutex.acquire(timeout=_LOCK_WAIT_S):
            raise stuck
        try:
            while True:
                try:
                    fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise stuck from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.02)
            try:
                # Whoever empties the folder removes the lock too; others would take a second one beside this.
                if os.fstat(self._lock_file.fileno()).st_nlink == 0:
                    raise FileNotFoundError(errno.ENOENT, "deleted while in use", str(path))
                yield
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def _total(self) -> int:
        try:
            return int(os.pread(self._lock_file.fileno(), 20, 0))
        except ValueError:
            return self._survey()

    def _store_total(self, total: int) -> None:
        os.pwrite(self._lock_file.fileno(), b"%020d" % max(total, 0), 0)

    def _room(self, total: int) -> int:
        """Bytes that may be added; below zero when there is too much already."""
        disk = shutil.disk_usage(self._folder)
        spare = disk.free - max(MIN_FREE_BYTES, int(MIN_FREE_FRACTION * disk.total))
        if spare <= 0 and not self._told_disk_full:
            self._told_disk_full = True
            logger.warning(
                "cache %s: only %.1f GB of the disk are free, and %.0f %% (1 GiB at least) must stay so; nothing is "
                "added to the cache until there is more: make room, or name another folder with --data.cache",
                self._folder,
                disk.free / 1e9,
                100 * MIN_FREE_FRACTION,
            )
        return min(self._capacity_bytes - total, spare)

    def _make_room(self, total: int, wanted: int) -> int:
        """Evict foreign objects until there is room for `wanted` bytes or none is left; the new total."""
        while self._foreign and self._room(total) < wanted:
            folder = self._foreign.pop()
            with suppress(FileNotFoundError):
                if folder.stat().st_mtime_ns < self._oldest_start_ns:  # not claimed since the survey
                    total -= sum(_unlink(path) for path in folder.iterdir() if block_range(path.name))
                    with suppress(OSError):
                        folder.rmdir()
        return total

    def _survey(self) -> int:
        """Remove what dead processes left half-written, find the foreign objects, and count the bytes afresh."""
        living = self._living()
        self._oldest_start_ns = min(living.values(), default=0)
        total, foreign = 0, []
        for folder in self._objects():
            used_ns, num_bytes, num_dead = folder.stat().st_mtime_ns, 0, 0
            with os.scandir(folder) as entries:
                found = [match for entry in entries if (match := _NAME.fullmatch(entry.name))]
            for match in found:
                if match[3] is None or match[3] in living:
                    num_bytes += int(match[2]) - int(match[1])
                else:
                    (folder / match[0]).unlink(missing_ok=True)
                    num_dead += 1
            if num_dead:
                os.utime(folder, ns=(used_ns, used_ns))  # being swept is no use
            if num_bytes and used_ns < self._oldest_start_ns:
                foreign.append((used_ns, folder))
            total += num_bytes
        self._foreign = [folder for _, folder in sorted(foreign, reverse=True)]
        self._next_survey = time.monotonic() + _SURVEY_EVERY_S
        return total

    def _living(self) -> dict[str, int]:
        """Tokens of the processes that hold their file, this one's among them, with the time of their start in ns."""
        living = {}
        for path in (self._folder / "users").iterdir():
            with path.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    living[path.name] = os.fstat(file.fileno()).st_mtime_ns
                else:
                    path.unlink()
        return living

    def _objects(self) -> Iterator[Path]:
        for group in self._folder.iterdir():
            if len(group.name) == 2 and group.is_dir():
                yield from (folder for folder in group.iterdir() if _HEX.fullmatch(folder.name) and folder.is_dir())
