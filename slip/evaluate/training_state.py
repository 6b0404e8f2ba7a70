"""The newest state of a classifier in training, so that the same command goes on after a kill; at any fsspec URL.

One file a set and protocol, replaced after every epoch. It holds what was trained with what, and is refused when that
is not the same: nobody gets a number out of two recipes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipeline import store
from pipeline.errors import CheckpointError, StoreError

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


def _differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {was.get(name)!r:.80} and is now {now.get(name)!r:.80}"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]


class TrainingState:
    """Where the state of one training lies.

    Args:
        output: folder or URL; None keeps nothing.
        name: of the file, without its ending.
        trained_with: see `identity`.
    """

    def __init__(self, output: str | None, name: str, trained_with: Plain) -> None:
        self._url = None if output is None else store.join(output, f"{name}.pt")
        self._identity = trained_with

    def load(self) -> Plain | None:
        """The newest state; None where there is none yet. CheckpointError when it is damaged or of other settings."""
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
        if not isinstance(found, dict) or set(found) != {"identity", "state"}:
            raise CheckpointError(f"{self._url}: not a state of slip evaluate; delete it to begin again")
        changed = _differences(found["identity"], self._identity)
        if changed:
            raise CheckpointError(
                f"{self._url} is of another training: {', '.join(changed)}; go back to that, delete the file, or give "
                "another folder"
            )
        state: Plain = found["state"]
        return state

    def save(self, state: Plain) -> None:
        """Replace the state; one rank calls it."""
        if self._url is None:
            return
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, "state": state}, buffer)
        store.write_bytes(self._url, buffer.getvalue())
