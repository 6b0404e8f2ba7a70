"""The polite urllib opener that img2dataset's processes download with, and how it gets into them.

img2dataset asks with `urllib.request.urlopen`, which uses the opener installed in the process, and asks for a
failed URL again at once, whatever the failure. This opener keeps a limit per host, obeys pauses (`polite`),
follows redirects but not to a placeholder, answers a repeated question from memory where the first answer was
final, and bounds the time and the length of each answer. It speaks HTTP and HTTPS only: a list of URLs must not
make it read files.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from pipeline.fetch.polite import (
    BODY_TIMEOUTS,
    DEADLINE_OVER,
    MAX_BODY_BYTES,
    PLACEHOLDER_REDIRECT,
    RETRY_PAUSE_S,
    TOO_LONG,
    TOO_SLOW,
    Hosts,
    PoliteSettings,
    RefusedError,
    placeholder_name,
    retry_after_s,
)

BEAT_EVERY_S = 5.0
"""Seconds between two touches of the heartbeat file."""
_READ_BYTES = 2**18
_UNSAFE = re.compile(r"[^\x21-\x7e]")
_LATER = frozenset({408, 425, 429})  # and 5xx; every other status is final


class _Turn:
    """A request under way: which host it keeps a place at, since when."""

    def __init__(self, hosts: Hosts, host: str, until: float) -> None:
        self._hosts = hosts
        self._until = until
        self._host: str | None = None
        self.started = 0.0
        self.move(host)

    def move(self, host: str) -> None:
        """Ask this host next: a redirect may lead elsewhere."""
        if host == self._host:
            return
        if self._host is not None:
            self.end(is_good=True)
        self.started = self._hosts.enter(host, until=self._until)
        self._host = host

    def trouble(self, *, status: int = 0, wait_s: float | None = None, is_first: bool) -> None:
        """The host did not answer, or with an error that may pass."""
        if self._host is not None:
            self._hosts.note_trouble(self._host, self.started, status=status, wait_s=wait_s, is_first=is_first)

    def end(self, *, is_good: bool) -> None:
        """Give the place back, once."""
        host, self._host = self._host, None
        if host is not None:
            if is_good:
                self._hosts.note_good(host, self.started)
            self._hosts.leave(host)


class _Memory(threading.local):
    """What a thread remembers of the URL it asked for last: img2dataset's retries come one after the other."""

    url = ""
    tries = 0
    final = ""  # text of an answer that will not change
    turn: _Turn | None = None


class PoliteOpener(urllib.request.OpenerDirector):
    """Opens URLs for all threads of a process, within the limits of `PoliteSettings`."""

    def __init__(self, settings: PoliteSettings) -> None:
        super().__init__()
        # One context for all connections; urllib would read the certificates anew for each (Python 3.11).
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ]
        for handler in handlers:
            self.add_handler(handler)
        self._settings = settings
        self._hosts = Hosts(settings.per_host, sleep=self._sleep)
        self._memory = _Memory()
        self._jitter = random.Random().uniform
        self._next_beat = 0.0
        self.begin_unit()

    def begin_unit(self) -> None:
        """A unit begins: its time is counted from here."""
        self._until = time.monotonic() + self._settings.deadline_s

    def open(self, fullurl: Any, data: Any = None, timeout: Any = None) -> Any:
        """What `urllib.request.urlopen` calls, and urllib itself for a redirect."""
        request = fullurl if isinstance(fullurl, urllib.request.Request) else urllib.request.Request(fullurl)
        memory = self._memory
        if memory.turn is not None:
            if name := placeholder_name(request.full_url):
                raise RefusedError(f"{PLACEHOLDER_REDIRECT} {name}")
            memory.turn.move(request.host)
            return super().open(request, data, timeout)
        self._remember(request.full_url)
        if _UNSAFE.search(request.full_url):  # as lists from the web have them; HTTP cannot say these
            request.full_url = quote(request.full_url, safe="%/:=&?~#+!$,;'@()*[]")
        turn = memory.turn = _Turn(self._hosts, request.host, self._until)
        try:
            response = super().open(request, data, timeout)
        except BaseException as error:
            self._failed(turn, error)
            raise
        finally:
            memory.turn = None
        return _Answer(response, turn, self)

    def _remember(self, url: str) -> None:
        """Refuse what was finally answered before; pause before other repetitions."""
        memory = self._memory
        if memory.url != url:
            memory.url, memory.tries, memory.final = url, 0, ""
        if memory.final:
            raise RefusedError(memory.final)
        if memory.tries:
            pause_s = RETRY_PAUSE_S * 2 ** (memory.tries - 1) * self._jitter(0.5, 1.0)
            if time.monotonic() + pause_s >= self._until:
                raise RefusedError(DEADLINE_OVER)
            self._sleep(pause_s)
        memory.tries += 1

    def _failed(self, turn: _Turn, error: BaseException) -> None:
        """Note what a request that brought nothing says about its host and its URL."""
        is_good = False
        if isinstance(error, HTTPError):
            if error.code >= 500 or error.code in _LATER:
                wait_s = None
                if error.code in {429, 503}:
                    wait_s = retry_after_s(error.headers.get("Retry-After"), time.time())
                turn.trouble(status=error.code, wait_s=wait_s, is_first=self.is_first_try)
            else:
                self.set_final(str(error))
                is_good = True
            error.close()
        elif isinstance(error, RefusedError):
            self.set_final(str(error))
            is_good = True
        elif isinstance(error, (ValueError, http.client.InvalidURL)) or _is_unknown_host(error):
            self.set_final(str(error))
        else:
            turn.trouble(is_first=self.is_first_try)
        self.end(turn, is_good=is_good)

    @property
    def is_first_try(self) -> bool:
        """Whether this thread asks for its URL for the first time."""
        return self._memory.tries <= 1

    def set_final(self, text: str) -> None:
        """Answer this thread's URL with this text from now on."""
        self._memory.final = text

    def end(self, turn: _Turn, *, is_good: bool) -> None:
        """A request is over."""
        turn.end(is_good=is_good)
        self._beat()

    def body_until(self, turn: _Turn) -> float:
        """When an answer must be complete."""
        return turn.started + BODY_TIMEOUTS * self._settings.timeout_s

    def _sleep(self, seconds: float) -> None:
        self._beat()
        time.sleep(seconds)

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + BEAT_EVERY_S
            with suppress(OSError):
                os.utime(self._settings.heartbeat)


def _is_unknown_host(error: BaseException) -> bool:
    """Whether the name server says there is no such host (and not that it cannot tell for the moment)."""
    reason = error.reason if isinstance(error, URLError) else error
    return isinstance(reason, socket.gaierror) and reason.errno in {socket.EAI_NONAME, socket.EAI_NODATA}


class _Answer:
    """A response as img2dataset uses one: its headers, its whole body, and closing, which gives the turn back."""

    def __init__(self, response: http.client.HTTPResponse, turn: _Turn, opener: PoliteOpener) -> None:
        self._response = response
        self._turn = turn
        self._opener = opener
        self._is_read = False
        self._is_good = True
        self.headers = response.headers

    def read(self) -> bytes:
        """The body; IncompleteRead when it ends too early, RefusedError when it drips or never ends."""
        self._is_read = True
        try:
            return self._read()
        except RefusedError as error:
            self._is_good = False
            self._opener.set_final(str(error))
            raise
        except http.client.IncompleteRead:
            raise
        except OSError:
            self._is_good = False
            self._turn.trouble(is_first=self._opener.is_first_try)
            raise

    def _read(self) -> bytes:
        response, until = self._response, self._opener.body_until(self._turn)
        announced = response.length  # None: chunked, or up to the end of the connection
        parts, num_bytes = [], 0
        while announced is None or num_bytes < announced:
            # One read of the socket at a time, which returns what there is: `read` would wait for all of it.
            part = response.read1(_READ_BYTES if announced is None else min(_READ_BYTES, announced - num_bytes))
            if not part:
                break
            parts.append(part)
            num_bytes += len(part)
            if num_bytes > MAX_BODY_BYTES:
                raise RefusedError(TOO_LONG)
            if time.monotonic() > until:
                raise RefusedError(TOO_SLOW)
        if announced is not None and num_bytes < announced:
            raise http.client.IncompleteRead(b"".join(parts), announced - num_bytes)
        return b"".join(parts)

    def close(self) -> None:
        """Close the connection and give the turn back."""
        if not self._is_read and "X-Robots-Tag" in self.headers:
            # img2dataset closes without reading what a server forbids to use, and asks again all the same.
            self._opener.set_final("Use of image disallowed by X-Robots-Tag directive")
        self._response.close()
        self._opener.end(self._turn, is_good=self._is_good)

    def __enter__(self) -> _Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@cache
def _opener(settings: PoliteSettings) -> PoliteOpener:
    return PoliteOpener(settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliteDownloader:
    """img2dataset's downloader of one shard, asking politely; picklable, so it goes wherever img2dataset sends it."""

    downloader: Callable[[Any], Any]
    settings: PoliteSettings

    def __call__(self, row: Any) -> Any:
        """Download a shard in this process."""
        opener = _opener(self.settings)
        urllib.request.install_opener(opener)
        opener.begin_unit()
        return self.downloader(row)
