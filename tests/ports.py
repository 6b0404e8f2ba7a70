"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket

_FIRST, _END = 20_000, 32_000
"""Below the range that Linux hands out to connections and to servers that ask for any port, 32768 to 60999. A port of
that range that is free now may be another process's when the server begins to listen, a second later."""


def free_port(count: int = 1) -> int:
    """The first of `count` consecutive free ports.

    Whoever asked uses them seconds later, so each is given other ones: those at a random place.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(_FIRST, _END - count)
        try:
            for offset in range(count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return port
    raise RuntimeError(f"no {count} free ports in a row were found between {_FIRST} and {_END}")
