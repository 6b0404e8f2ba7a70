"""The newest state of a classifier in training, so that the same command goes on after a kill; at any fsspec URL.

One file for each set, protocol and recipe, replaced after an epoch. Its name has a digest of what is trained with what,
so that nobody gets a number out of two recipes. It stays: after the last epoch it holds the trained network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import time
from typing import Any

import torch
from torch import nn

from pipeline import store
from pipeline.errors import CheckpointError, StoreError

logger = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0
"""Seconds that are between two states at least: an epoch may be shorter than the writing of a large network."""

Plain = dict[str, Any]
"""Numbers, strings, tensors, and lists and dicts of them."""


def digest(module: nn.Module) -> str:
    """SHA-256 of a network's weights and their names."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def identity(config: Any, **others: Any) -> Plain:
    """What a state was trained with: settings that decide the result (not where, nor how fast), and `others`."""
    free = {"output", "workers", "forward_batch"}
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in free}
    return {**settings, **others}


class TrainingState:
    """Where the state of one training lies.

    Args:
        output: folder or URL; None keeps nothing.
        name: how the file's name begins.
        trained_with: see `identity`.
    """

    def __init__(self, output: str | None, name: str, trained_with: Plain) -> None:
        which = hashlib.sha256(json.dumps(trained_with, sort_keys=True).encode()).hexdigest()[:12]
        self._url = None if output is None else store.join(output, f"{name}-{which}.pt")
        self._identity = trained_with
        self._saved_s = time.monotonic()

    def load(self) -> Plain | None:
        """The newest state; None where there is none yet. CheckpointError when it is damaged."""
        if self._url is None or not store.exists(self._url):
            return None
        try:
            found = torch.load(io.BytesIO(store.read_bytes(self._url)), map_location="cpu", weights_only=True)
        except StoreError:
            raise
        # As many kinds as there are ways in which bytes can be wrong.
        except Exception as error:
            raise CheckpointError(
                f"{self._url}: not a readable state ({type(error).__name__}); delete it to begin again"
            ) from error
        if not isinstance(found, dict) or set(found) != {"identity", "state"} or not isinstance(found["state"], dict):
            raise CheckpointError(f"{self._url}: not a state of slip evaluate; delete it to begin again")
        state: Plain = found["state"]
        return state

    def save(self, state: Plain, *, last: bool) -> None:
        """Replace the state, unless that was done a moment ago and this is not the last one; one rank calls it."""
        if self._url is None or not (last or time.monotonic() - self._saved_s >= SAVE_EVERY_S):
            return
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, "state": state}, buffer)
        store.write_bytes(self._url, buffer.getvalue())
        self._saved_s = time.monotonic()
        if last:
            logger.info("what was trained is kept in %s", self._url)
