"""How often what is random is tried: THOROUGH=1 as often as it takes to be sure, usually less will do."""

from __future__ import annotations

import os


def times(thorough: int, usual: int) -> int:
    """`thorough` where the environment has THOROUGH, else `usual`."""
    return thorough if os.environ.get("THOROUGH") else usual
