"""What a run reads: the sources and loaders its objective asks for, behind one object that yields whole batches.

In: settings and the place among the ranks. Out: batches from any sample on, and what identifies the data.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType

from pipeline.errors import ConfigError
from slip.config import TrainConfig
from slip.data.loader import Batch, Loader
from slip.data.opening import open_source
from slip.data.pairing import paired
from slip.data.patch_choice import PatchChoice
from slip.data.source import Source
from slip.distributed import sum_over_ranks
from slip.models.shapes import num_hidden, num_kept, patch_grid
from slip.objectives.needs import Needs
from slip.world import World


def colours_on_device(config: TrainConfig, world: World) -> bool:
    """Whether jitter, grey, blur and flip are left to the device."""
    on_gpu = world.device.type == "cuda"
    return config.data.augment == "fast" and (
        config.data.colours == "device" or (config.data.colours == "auto" and on_gpu)
    )


def _check_same(digest: str, world: World) -> None:
    """Every rank read the manifests itself; nodes may have found different ones under the same path."""
    number = int(digest[:8], 16)
    if sum_over_ranks([number])[0] != number * world.world_size:
        raise ConfigError(
            f"rank {world.rank} found the data with sha256 {digest} behind --data.manifest, other ranks found "
            "others; is it the same file on all nodes?"
        )


class RunData:
    """The data of a run. Close it, or use it in a `with` statement."""

    def __init__(self, config: TrainConfig, needs: Needs, world: World) -> None:
        self._loaders: list[Loader] = []
        self._global_batch = config.optim.global_batch
        masks = config.model.masking == "random"
        apart = bool(config.data.ssl_manifest)
        colours = not colours_on_device(config, world)

        def add(of: TrainConfig, numbers: tuple[int, ...], *, text: bool) -> Source:
            source = open_source(of, world.rank, world.world_size, needs_text=text)
            hides = needs.hidden_view in numbers
            patches = PatchChoice(
                grid=patch_grid(config.model),
                kept=num_kept(config.model) if masks else 0,
                hidden=num_hidden(config.model) if hides else 0,
            )
            kinds = tuple(needs.views[number] for number in numbers)
            self._loaders.append(Loader(of, source, kinds, needs_text=text, colours=colours, patches=patches))
            return source

        if apart:
            self.source = add(config, needs.caption_views, text=True)
            data = dataclasses.replace(config.data, manifest=config.data.ssl_manifest, weights=())
            # A seed of its own: pictures of equal number would else get equal crops.
            others = add(dataclasses.replace(config, data=data, seed=config.seed + 1), needs.own_views, text=False)
            self.digest = hashlib.sha256(f"{self.source.digest} {others.digest}".encode()).hexdigest()
            self._described = f"{self.source.describe()}; SSL terms on {others.describe()}"
        else:
            self.source = add(config, tuple(range(len(needs.views))), text=needs.text)
            self.digest = self.source.digest
            self._described = self.source.describe()
        _check_same(self.digest, world)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch: those of the captioned pictures where there are two data sets."""
        return self.source.num_samples

    @property
    def lanes(self) -> int:
        """Ordered streams an epoch is cut into."""
        return self.source.lanes

    @property
    def damaged(self) -> list[str]:
        """The distinct damaged samples this process has met, each in words."""
        return [what for loader in self._loaders for what in loader.damaged]

    def describe(self) -> str:
        """In words, for the log."""
        return self._described

    def batches(self, step: int, last_step: int) -> Iterator[Batch]:
        """The batches of steps [step, last_step)."""
        found = [loader.batches(step * self._global_batch, last_step * self._global_batch) for loader in self._loaders]
        return found[0] if len(found) == 1 else paired(*found)

    def close(self) -> None:
        """End all threads."""
        with ExitStack() as stack:
            for loader in self._loaders:
                stack.callback(loader.close)

    def __enter__(self) -> RunData:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
