"""How one process behaves towards the servers it asks: how many requests at once, and when to hold back.

In come the names of hosts and what became of requests to them; out come turns to ask, given when it is time.
Sending requests is left to `polite_opener`, what an answer is worth to `sources`. Only time is measured here, so
whatever waits, what is fetched in the end is the same.
"""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

FIRST_PAUSE_S = 1.0
"""First pause for a host that says "slow down" or fails throughout; each further one is twice as long."""
LONGEST_PAUSE_S = 60.0
"""No pause of our own is longer."""
LONGEST_WAIT_S = 120.0
"""A server that asks for a longer pause (Retry-After) gets it, but nobody waits: its rows fail, and can heal later."""
TROUBLES_IN_A_ROW = 8
"""Failures without a good answer between them after which a host is taken to be overloaded. Single ones are not: with
one answer in twenty an error 503, eight in a row come once in 10^10 requests."""
RETRY_PAUSE_S = 0.25
"""Before a URL is asked for a second time; twice as long before each further time."""
BODY_TIMEOUTS = 4
"""A picture may take this many times `timeout_s` from request to last byte. A server that sends a byte now and then
would otherwise hold a thread for ever."""
MAX_BODY_BYTES = 256 * 2**20
"""Longer answers are not read: the pictures of a hundred megapixels are shorter."""

DEADLINE_OVER = "deadline of the unit is over"
HOST_ASKS_FOR_PAUSE = "the host asks for a long pause"
PLACEHOLDER_REDIRECT = "redirected to"
TOO_SLOW = "the answer was not complete in time"
TOO_LONG = f"the answer is longer than {MAX_BODY_BYTES} bytes"

_PLACEHOLDER_NAME = re.compile(r"photo_unavailable\w*\.(?:gif|png|jpg)")


class RefusedError(OSError):
    """A request that is not sent, or not answered with a picture; its text is what img2dataset notes for the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliteSettings:
    """What every process of a download is told; passed as JSON."""

    per_host: int
    """Concurrent requests to one host from this process."""
    timeout_s: float
    """Seconds without a byte after which a request fails."""
    deadline_s: float
    """Seconds after the start of a unit from which on no request is sent for it."""
    heartbeat: str
    """File that is touched now and then while requests are answered."""


def placeholder_name(url: str) -> str:
    """Name of the placeholder a redirect leads to, "" when it leads to something else.

    "http://s.yimg.com/pw/images/en-us/photo_unavailable.png" -> "photo_unavailable.png" (Flickr),
    "https://i.imgur.com/removed.png" -> "removed.png" (Imgur, which RedCaps links to).
    """
    parts = urlsplit(url)
    name = parts.path.rpartition("/")[2]
    is_imgur = (parts.hostname or "").endswith("imgur.com") and name == "removed.png"
    return name if is_imgur or _PLACEHOLDER_NAME.fullmatch(name) else ""


def retry_after_s(value: str | None, now_unix: float) -> float | None:
    """Seconds a `Retry-After` header asks for (RFC 9110, 10.2.3: a number, or a date); None when it says nothing.

    ("30", _) -> 30.0, ("Sat, 01 Jan 2022 00:00:10 GMT", 1640995200.0) -> 10.0, ("soon", _) -> None
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now_unix)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


@dataclass(slots=True)
class _Host:
    """What is known of a host; times are the clock's."""

    free: threading.Condition
    active: int = 0
    waiting: int = 0
    not_before: float = -math.inf
    closed_until: float = -math.inf
    troubles: int = 0  # in a row
    level: int = 0  # of the last pause
    paused_at: float = -math.inf


@dataclass(slots=True)
class Hosts:
    """The hosts a process asks, for all its threads."""

    per_host: int
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[float, float], float] = field(default_factory=lambda: random.Random().uniform)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _hosts: dict[str, _Host] = field(default_factory=dict, init=False)

    def enter(self, name: str, *, until: float) -> float:
        """Wait for a turn to ask this host and take it; returns the time. RefusedError when `until` comes first."""
        while True:
            with self._lock:
                host = self._hosts.get(name)
                if host is None:
                    host = self._hosts[name] = _Host(threading.Condition(self._lock))
                now = self.clock()
                if now >= until:
                    raise RefusedError(DEADLINE_OVER)
                if host.closed_until > now:
                    raise RefusedError(HOST_ASKS_FOR_PAUSE)
                wait_s = host.not_before - now
                if wait_s <= 0:
                    if host.active < self.per_host:
                        host.active += 1
                        return now
                    host.waiting += 1
                    host.free.wait(min(1.0, until - now))
                    host.waiting -= 1
                    continue
            # A little longer, each thread differently, so that they do not all come at once.
            self.sleep(min(wait_s * self.jitter(1.0, 1.2), until - now, 1.0))

    def leave(self, name: str) -> None:
        """Give the turn back."""
        with self._lock:
            host = self._hosts[name]
            host.active -= 1
            host.free.notify()
            # Lists such as CC12M's name a hundred thousand hosts.
            if not (host.active or host.waiting or host.troubles or host.level):
                del self._hosts[name]

    def note_good(self, name: str, started: float) -> None:
        """A request, sent at `started`, was answered as by a host that is well (a 404 too)."""
        with self._lock:
            host = self._hosts[name]
            host.troubles = 0
            if started > host.paused_at:
                host.level = 0

    def note_trouble(
        self, name: str, started: float, *, status: int = 0, wait_s: float | None = None, is_first: bool = True
    ) -> None:
        """A request failed: with 429 or 5xx (`wait_s`: the pause asked for), or its connection did (`status` 0).

        A URL that fails again (not `is_first`) says little of its host: when all others are done, such are left.
        """
        with self._lock:
            host, now = self._hosts[name], self.clock()
            host.troubles += is_first
            if wait_s is not None:
                if wait_s > LONGEST_WAIT_S:
                    host.closed_until = max(host.closed_until, now + wait_s)
                host.not_before = max(host.not_before, now + wait_s)
                host.level = max(host.level, 1)
                host.paused_at = now
            elif status != 429 and not (is_first and host.troubles >= TROUBLES_IN_A_ROW):
                return
            elif started > host.paused_at:
                # Answers to requests from before the last pause say nothing about whether it was long enough.
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**host.level) * self.jitter(0.5, 1.0)
                host.not_before = max(host.not_before, now + pause_s)
                host.level = min(host.level + 1, 10)
                host.paused_at = now
