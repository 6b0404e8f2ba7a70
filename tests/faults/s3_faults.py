"""What goes wrong with which GET: the part of `s3_proxy` that is only arithmetic.

In: the shares of each fault and the number of a GET. Out: its fate, the same in every run.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

# A GET with any other parameter is a listing or asks for something about an object.
_OBJECT_PARAMETERS = ("x-id", "versionid", "partnumber", "x-amz-", "response-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is done to GETs of objects, as shares of them; `s3_proxy` says what each means."""

    seed: int = 0
    resets: float = 0.0
    truncated: float = 0.0
    flipped: float = 0.0
    stalls: float = 0.0
    stall_s: float = 75.0
    errors: float = 0.0
    burst: int = 10
    slow_kbps: float = 0.0


KINDS = ("resets", "truncated", "flipped", "stalls")


class Fate(NamedTuple):
    """What happens to one request."""

    kind: str
    """ "" (nothing), "errors" or one of `KINDS`."""
    place: float
    """Where in the body, as a share of it."""
    bit: int
    """Which bit of the byte there is flipped."""
    kbps: float
    """Most kB/s of the body; 0 for as fast as it comes."""


HARMLESS = Fate("", 0.0, 0, 0.0)


def _uniforms(seed: int, purpose: str, number: int) -> tuple[float, float, float]:
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=24).digest()
    first, second, third = struct.unpack("<3Q", digest)
    return first / 2**64, second / 2**64, third / 2**64


def fate(faults: Faults, number: int) -> Fate:
    """What happens to GET `number`; the same for the same faults and number."""
    if _uniforms(faults.seed, "burst", number // faults.burst)[0] < faults.errors:
        return HARMLESS._replace(kind="errors")
    draw, place, bit = _uniforms(faults.seed, "get", number)
    for kind in KINDS:
        share: float = getattr(faults, kind)
        if draw < share:
            return Fate(kind, place, int(bit * 8), faults.slow_kbps)
        draw -= share
    return HARMLESS._replace(kbps=faults.slow_kbps)


def asks_for_object(method: str, target: str) -> bool:
    """Whether this is a plain read: ("GET", "/bucket/a.tar") is, ("GET", "/bucket?list-type=2") is not."""
    parts = urlsplit(target)
    names = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return method == "GET" and not parts.path.endswith("/") and all(n.startswith(_OBJECT_PARAMETERS) for n in names)
