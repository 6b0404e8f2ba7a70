"""One builder per output: who builds holds `OUTPUT/.building.json`, whoever comes second is told by whom.

In comes the output's URL and the builder's own work folder; out goes a `Lease`, kept while the build runs. In a
local folder the file is locked, and the system lets go of it however the process ends. In an object store, where
nothing is locked, it is written only if it is absent, renewed every `RENEW_S`, and after `STALE_S` without a renewal
another builder may put its own in place of exactly the one it has seen. How is `lease_objects`' part.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from io import BufferedWriter
from pathlib import Path
from typing import Protocol

from pipeline import store
from pipeline.errors import ConfigError, StoreError
from pipeline.lease_objects import SharedObject, open_object
from pipeline.store_faults import translated

log = logging.getLogger(__name__)

LEASE_NAME = ".building.json"
RENEW_S = 30.0
"""Seconds between two signs of life of a builder on an object store."""
STALE_S = 300.0
"""Seconds without a sign of life after which a builder counts as gone."""
WATCH_S = 2.5 * RENEW_S
"""Seconds a lease that looks abandoned is watched before it is taken over: clocks of two machines may differ, but
whoever is alive renews it in that time."""


class Lease(Protocol):
    """The right to write to an output."""

    def check(self) -> None:
        """Raise StoreError when the right was lost; called between groups of units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds an output, as written there."""

    host: str
    pid: int
    user: str
    work: str
    """The builder's work folder."""
    token: str
    """Random, one per work folder: by it a build that was killed knows its own lease again."""
    started: float
    """Unix time in seconds."""
    seen: float
    """Unix time in seconds of the last sign of life."""

    def same_process(self, other: Holder) -> bool:
        """Whether two notes were written by one builder, at whatever time."""
        return replace(self, seen=0.0) == replace(other, seen=0.0)

    def __str__(self) -> str:
        return f"{self.user}'s process {self.pid} on {self.host}, since {_clock(self.started)}, with --work {self.work}"


def _clock(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().isoformat(" ", "seconds")


def _encode(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), sort_keys=True) + "\n").encode()


def _decode(url: str, data: bytes) -> Holder:
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        raise StoreError(f"{url}: not the note of a builder ({data[:60]!r}); delete it if nobody is building") from None


def _token(work: Path) -> str:
    """The work folder's own token, drawn when it is first asked for."""
    path = work / "token"
    if not path.exists():
        store.write_bytes(str(path), secrets.token_hex(16).encode())
    return path.read_text()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container a user may have a number only
        return f"user {os.getuid()}"


def _myself(work: Path) -> Holder:
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        user=_user(),
        work=str(work),
        token=_token(work),
        started=time.time(),
        seen=time.time(),
    )


def check_holder(output_url: str, work: Path) -> None:
    """StoreError unless the builder with this work folder holds the output: for its tasks on other machines.

    A task may outlive the process that submitted it, and the output may have gone to somebody else since.
    """
    url = store.join(output_url, LEASE_NAME)
    if not store.exists(url):
        raise StoreError(f"{url}: is gone, so the build this task belongs to has ended; nothing was written")
    holder = _decode(url, store.read_bytes(url))
    if holder.token != _token(work):
        raise StoreError(f"{url}: the output is held by another builder by now, {holder}; nothing was written")


class _FileLease:
    """The lock on the file in a local folder."""

    def __init__(self, url: str, me: Holder) -> None:
        self._url, self._me = url, me
        self._path = Path(url.split("://", 1)[-1])
        with translated(url, "write"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._locked_file()
            self._file.truncate(0)
            self._file.write(_encode(me))
            self._file.flush()

    def _locked_file(self) -> BufferedWriter:
        while True:
            file = self._path.open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                    raise
                data = self._path.read_bytes() if self._path.exists() else b""
                who = _decode(self._url, data) if data else "another process"
                raise ConfigError(
                    f"{self._url}: another build writes to this output: {who}; wait for it, or pass another --output"
                ) from None
            # Whoever had it before removes it at the end: what was locked may no longer be what has the name.
            with suppress(FileNotFoundError):
                if os.fstat(file.fileno()).st_ino == self._path.stat().st_ino:
                    return file
            file.close()

    def check(self) -> None:
        """See `Lease`."""
        data = store.read_bytes(self._url) if self._path.exists() else b""
        if not data or not _decode(self._url, data).same_process(self._me):
            raise StoreError(
                f"{self._url}: is no longer what this build wrote there; was the output deleted? Run again"
            )

    def release(self) -> None:
        """Let go of it; done by the system when this process dies."""
        with suppress(OSError):  # the output may have been deleted
            if os.fstat(self._file.fileno()).st_ino == self._path.stat().st_ino:
                self._path.unlink()
        self._file.close()


class _ObjectLease:
    """The object in a store, renewed by a thread."""

    def __init__(self, url: str, me: Holder) -> None:
        self._url, self._me, self._object = url, me, open_object(url)
        self._tag = _acquire(self._object, me)
        self._renewed = time.time()  # not perf_counter: it must go on while the machine sleeps
        self._lost: str | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                self._renew()
            except StoreError as error:
                log.warning("%s; trying again in %.0f s", error, RENEW_S)
            if self._lost is not None:
                return

    def _renew(self) -> None:
        with self._lock:
            if self._lost is not None:
                return
            now = time.time()
            tag = self._object.replace(_encode(replace(self._me, seen=now)), self._tag)
            if tag is None:  # taken over; or it was ours that got through, and its answer that got lost
                found = self._object.read()
                holder = None if found is None else _decode(self._url, found.data)
                if found is None or holder is None or not holder.same_process(self._me):
                    self._lost = "was deleted" if holder is None else f"was taken over by {holder}"
                    return
                tag = found.tag
            self._tag, self._renewed = tag, now

    def check(self) -> None:
        """See `Lease`."""
        if time.time() - self._renewed > STALE_S / 2:  # somebody may be about to take it over
            self._renew()
        if self._lost is not None:
            raise StoreError(
                f"{self._url}: {self._lost}, so this build must not go on writing; run it again once the output is free"
            )

    def release(self) -> None:
        """Take the object away; when that fails, it is taken over later."""
        self._ended.set()
        self._thread.join()
        try:
            self._renew()  # so that nobody can have taken it over between the question whose it is and the deletion
            if self._lost is None:
                self._object.remove()
        except StoreError as error:
            log.warning("%s; the next builder waits %.0f s for it", error, STALE_S)


def _acquire(shared: SharedObject, me: Holder) -> str:
    """Write this builder's note, as the only one who does; its tag. ConfigError when somebody else is building."""
    while True:
        note = _encode(replace(me, seen=time.time()))
        tag = shared.create(note)
        if tag is not None:
            return tag
        found = shared.read()
        if found is None:
            continue  # let go of just now
        holder = _decode(shared.url, found.data)
        if holder.same_process(me):
            return found.tag  # written, and the answer got lost
        if holder.token != me.token:
            silent_s = time.time() - holder.seen
            refusal = ConfigError(
                f"{shared.url}: another build writes to this output: {holder}, last seen {_clock(holder.seen)}; wait "
                f"for it, or pass another --output. If it was killed: go on with its --work, or start again "
                f"{STALE_S / 60:.0f} minutes after that, or delete {shared.url}"
            )
            if silent_s < STALE_S:
                raise refusal
            log.warning("%s: %s gives no sign of life; watching for %.0f s", shared.url, holder, WATCH_S)
            time.sleep(WATCH_S)
            if shared.read() != found:
                raise refusal
        tag = shared.replace(note, found.tag)
        if tag is not None:
            log.info("%s: taken over from %s", shared.url, holder)
            return tag


@contextmanager
def hold(output_url: str, work: Path) -> Iterator[Lease]:
    """Be the only builder that writes to the output; the caller holds the lock on the work folder.

    ConfigError, naming the holder, when there is one. On an object store a build that was killed is followed at
    once by one with the same work folder, and `STALE_S` later by any other.
    """
    url = store.join(output_url, LEASE_NAME)
    lease = _FileLease(url, _myself(work)) if store.is_local(url) else _ObjectLease(url, _myself(work))
    try:
        yield lease
    finally:
        lease.release()
