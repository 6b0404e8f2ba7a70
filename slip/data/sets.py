"""The data sets of a run as one list of samples: manifests in, placed shards out.

A sample's id is its position in the concatenation of all data sets (in the order they were given, shards in the
order of their manifest, samples in the order of the tar). Ids mean the same on every rank and in every run over the
same manifests, which `Mix.digest` tells apart.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from pipeline import store
from pipeline.errors import ConfigError
from pipeline.manifest import Manifest, Shard, load_manifest, manifest_url, shard_url


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedShard:
    """A shard and where it stands."""

    url: str
    """Of the tar."""
    index_base: str
    """The manifest's folder, to which the index's name is relative."""
    shard: Shard
    data_set: int
    first_id: int
    """Id of its first sample."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """One data set, or several mixed by weight."""

    urls: tuple[str, ...]
    """Of the manifests."""
    manifests: tuple[Manifest, ...]
    weights: tuple[Fraction, ...]
    """Share of each data set in the samples of a run; they add up to 1."""

    @cached_property
    def shards(self) -> tuple[PlacedShard, ...]:
        """All shards in the order of sample ids."""
        placed: list[PlacedShard] = []
        first_id = 0
        for number, (url, manifest) in enumerate(zip(self.urls, self.manifests, strict=True)):
            base = store.parent(url)
            for shard in manifest.shards:
                placed.append(
                    PlacedShard(
                        url=shard_url(manifest, base, shard),
                        index_base=base,
                        shard=shard,
                        data_set=number,
                        first_id=first_id,
                    )
                )
                first_id += shard.num_samples
        return tuple(placed)

    @property
    def num_samples(self) -> int:
        """Samples of all data sets together."""
        return sum(manifest.num_samples for manifest in self.manifests)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tars together."""
        return sum(manifest.num_bytes for manifest in self.manifests)

    @cached_property
    def set_starts(self) -> tuple[int, ...]:
        """First sample id of every data set."""
        starts = [0]
        for manifest in self.manifests[:-1]:
            starts.append(starts[-1] + manifest.num_samples)
        return tuple(starts)

    @cached_property
    def counts(self) -> tuple[tuple[int, ...], ...]:
        """Samples per shard, per data set."""
        return tuple(tuple(shard.num_samples for shard in manifest.shards) for manifest in self.manifests)

    @cached_property
    def digest(self) -> str:
        """What a sample id means: the manifest's sha256, or one over all digests and weights of a mix."""
        if len(self.manifests) == 1:
            return self.manifests[0].sha256
        parts = [f"{m.sha256} {w}" for m, w in zip(self.manifests, self.weights, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @cached_property
    def _first_ids(self) -> list[int]:
        return [placed.first_id for placed in self.shards]

    def find(self, sample_id: int) -> tuple[PlacedShard, int]:
        """The shard a sample lies in, and its row there."""
        if not 0 <= sample_id < self.num_samples:
            raise IndexError(f"sample id {sample_id} is not in [0, {self.num_samples})")
        placed = self.shards[bisect_right(self._first_ids, sample_id) - 1]
        return placed, sample_id - placed.first_id


def open_mix(urls: Sequence[str], weights: Sequence[float] = ()) -> Mix:
    """Read the manifests at `urls` (each a manifest or its folder). Without weights, shares follow the sizes.

    Weights are relative (3 1 = three quarters and one quarter) and taken as the decimal numbers they were written as.
    """
    if not urls:
        raise ConfigError("--data.manifest names no manifest; give at least one")
    if weights and len(weights) != len(urls):
        raise ConfigError(f"--data.weights has {len(weights)} numbers for {len(urls)} manifests; give one for each")
    if any(not 0 < weight < float("inf") for weight in weights):
        raise ConfigError(f"--data.weights is {' '.join(map(str, weights))}; every weight must be a positive number")
    manifests = tuple(load_manifest(url) for url in urls)
    parts = [Fraction(str(w)) for w in weights] or [Fraction(manifest.num_samples) for manifest in manifests]
    return Mix(
        urls=tuple(manifest_url(url) for url in urls),
        manifests=manifests,
        weights=tuple(part / sum(parts) for part in parts),
    )
