"""Batches from anybody's tars, named by brace patterns, without a manifest: shards drawn with replacement.

Every reader thread draws tars (webdataset's ResampledShards), reads them whole and shuffles their samples in a buffer
of its own. Samples are taken from the threads in turns, so the order does not depend on time: it follows from patterns,
seed, rank, world size, number of threads, shuffle buffer, webdataset's version and the position a run was (re)started
from. Nothing else is promised: `UnindexedSource` logs what is not.

There are no positions in a list of samples here. A sample's id is rank * 2**40 + a running number (consumed samples
of all ranks before its batch, plus its row), unique in a run however often it is resumed on whatever world size.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice

from pipeline.errors import ConfigError, ShardError
from slip.data.samples import RawSample
from slip.data.source import Slot
from slip.data.tar_lists import find_tars
from slip.data.tars import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS, TarReader, missing_package
from slip.data.turns import Reader, Stopped, Turns

logger = logging.getLogger(__name__)

_RANK_IDS = 1 << 40
"""Sample ids of one rank."""
_MOST_BARREN = 50
"""Different tars in a row without one usable sample after which a thread gives up."""
_CLOSE_S = 5.0
"""Seconds to wait for a thread that is in the middle of a read; it does not keep the process alive."""


def _named_tars(patterns: Sequence[str]) -> list[str]:
    """URLs of the tars that are meant: the same as `slip index` takes."""
    for pattern in patterns:
        if pattern.startswith("pipe:"):
            raise ConfigError(
                f"--data.manifest is {pattern!r}; commands are not run. Give the URL itself (s3://, gs://, https://), "
                "whose reading is continued where the network breaks"
            )
    urls = find_tars(patterns)
    if not urls:
        raise ConfigError("--data.manifest names no tar; give at least one")
    return urls


class UnindexedSource:
    """A `slip.data.source.Source` of tars without a manifest. `lanes` is 0: there is no plan.

    Args:
        patterns: brace patterns, URLs or folders of tars, for example "s3://bucket/cc12m/{00000..01242}.tar".
        samples_per_epoch: samples of all ranks that count as one epoch.
        max_damaged: cut or unreadable tars this process tolerates before it raises ShardError.
        shuffle: samples of this rank among which the next one is drawn, over all threads.
        threads: tars read at the same time by this rank.
        prefetch_bytes: most bytes of pictures that wait for a batch, beside those in the shuffle buffer.
        needs_text: whether samples without a caption are left out.
    """

    lanes = 0

    def __init__(
        self,
        patterns: Sequence[str],
        *,
        seed: int,
        global_batch: int,
        rank: int,
        world_size: int,
        samples_per_epoch: int,
        max_damaged: int,
        shuffle: int = 5000,
        threads: int = 2,
        prefetch_bytes: int = 128_000_000,
        needs_text: bool = True,
    ) -> None:
        if samples_per_epoch <= 0:
            raise ConfigError(
                f"--data.samples-per-epoch is {samples_per_epoch}; tars without a manifest do not say how many samples "
                "they hold: give the number that counts as one epoch (it decides the learning rate's schedule)"
            )
        if global_batch % world_size:
            raise ConfigError(f"--optim.global-batch is {global_batch}, not a multiple of the {world_size} processes")
        if threads < 1:
            raise ConfigError(f"tars need at least one thread that reads them, not {threads}")
        try:
            from webdataset.filters import shuffle as shuffled
            from webdataset.shardlists import ResampledShards
        except ImportError as error:
            raise missing_package(error) from error
        self._shuffled, self._resampled_shards = shuffled, ResampledShards
        self._urls = _named_tars(patterns)
        self._tars = TarReader(max_damaged=max_damaged, needs_text=needs_text)
        self._seed, self._rank, self._global_batch = seed, rank, global_batch
        self._batch_per_rank = global_batch // world_size
        self._shuffle, self._threads, self._prefetch_bytes = shuffle, threads, prefetch_bytes
        self.num_samples = samples_per_epoch
        names = sorted(url.rpartition("/")[2] for url in self._urls)
        self.digest = hashlib.sha256("\n".join(["tars without a manifest", *names]).encode()).hexdigest()
        self._turns: Turns | None = None
        self._running: list[threading.Thread] = []
        self._samples = self._stop = 0
        if rank == 0:
            missed = 100 * (1 - 1 / len(self._urls)) ** len(self._urls)
            logger.warning(
                "%s, without a manifest. Not guaranteed: that an epoch holds every sample once (tars are drawn with "
                "replacement; of as many draws as there are tars, %.1f %% of them are missed and others repeat); that "
                "a resumed run continues where it stopped (it draws other tars); that batches are the same on another "
                "world size; that damaged bytes are noticed (there are no digests). For all of these write a "
                "manifest: slip index URL --output FOLDER, then train with --data.manifest FOLDER/manifest.json",
                self.describe(), missed,
            )  # fmt: skip

    def describe(self) -> str:
        """The data in a few words, for the log."""
        return (
            f"{len(self._urls)} tars ({self._urls[0]} ...), {self.num_samples} samples called an epoch, up to "
            f"{self._shuffle} in a process's shuffle buffer"
        )

    @property
    def skipped(self) -> dict[str, int]:
        """Samples this process could not use, by reason; a tar that is drawn twice counts twice."""
        return dict(self._tars.skipped)

    @property
    def damaged(self) -> dict[str, str]:
        """Cut or unreadable tars this process has met, and what is wrong with them."""
        return dict(self._tars.damaged)

    def start(self, samples: int, stop: int) -> None:
        """Batches from `samples` consumed samples on, to `stop`; every position begins a stream of its own."""
        self.close()
        self._samples, self._stop = samples, stop
        turns = Turns(threads=self._threads, size=self._batch_per_rank, queue_bytes=self._prefetch_bytes)
        needed = -(-(stop - samples) // self._global_batch) * self._batch_per_rank
        self._turns = turns
        self._running = [
            threading.Thread(
                target=self._read,
                args=(turns, reader, f"{self._seed}/{self._rank}/{samples}/{i}", -(-(needed - i) // self._threads)),
                name=f"tar-{i}",
                daemon=True,
            )
            for i, reader in enumerate(turns.readers)
        ]
        for thread in self._running:
            thread.start()

    def next_batch(self) -> list[Slot]:
        """This rank's slots of the next global batch; one window of as many samples, so a damaged one finds others."""
        if self._turns is None or self._samples >= self._stop:
            raise RuntimeError(f"no batch at position {self._samples}: the source was started up to {self._stop}")
        first_id = self._rank * _RANK_IDS + self._samples
        window = self._turns.request(first_id)
        epoch = self._samples // self.num_samples
        self._samples += self._global_batch
        return [
            Slot(window=window, number=row, sample_id=first_id + row, epoch=epoch)
            for row in range(self._batch_per_rank)
        ]

    def release(self, samples: int) -> None:
        """Nothing to do: a batch is held by its slots alone."""

    def waiting_for(self) -> str:
        """The tar a batch waits for and since when nothing of it came; "" when no batch waits."""
        waiting = self._turns.waiting() if self._turns is not None else None
        if waiting is None:
            return ""
        number, reader = waiting
        silent_s = time.monotonic() - reader.heard
        return (
            f"{reader.url or 'the first tar'} in thread {number} of {self._threads}: {reader.num_read} bytes of it "
            f"came, nothing for {silent_s:.0f} s"
        )

    def close(self) -> None:
        """End all threads; one that is in the middle of a read is waited for at most a few seconds."""
        if self._turns is None:
            return
        self._turns.close()
        deadline = time.monotonic() + _CLOSE_S
        for thread in self._running:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._turns, self._running = None, []
        if self._tars.skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self._tars.skipped.items()))
            logger.warning("samples of the tars that were skipped so far: %s", reasons)

    def _read(self, turns: Turns, reader: Reader, seed: str, needed: int) -> None:
        """What a reader thread does: hand over `needed` samples."""
        try:
            number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
            shards = self._resampled_shards(self._urls, deterministic=True, worker_seed=lambda: number)
            size = self._shuffle // self._threads
            mixed = self._shuffled(size, initial=size // 2, rng=random.Random(number))
            for sample in islice(mixed(self._usable(shards, turns, reader)), needed):
                turns.put(reader, sample)
        except Stopped:
            pass
        except BaseException as error:
            turns.fail(error)

    def _usable(self, shards: Iterator[dict[str, str]], turns: Turns, reader: Reader) -> Iterator[RawSample]:
        """The usable samples of one tar after the other, without end."""

        def watch(num_bytes: int) -> None:
            reader.num_read += num_bytes
            reader.heard = time.monotonic()
            if turns.stopped:
                raise Stopped

        barren: set[str] = set()
        for shard in shards:
            reader.url, reader.num_read = shard["url"], 0
            watch(0)
            found = False
            for sample in self._tars.samples(reader.url, watch):
                found = True
                yield sample
            barren = set() if found else barren | {reader.url}
            if len(barren) >= min(_MOST_BARREN, len(set(self._urls))):
                raise ShardError(
                    f"{reader.url}: no usable sample, nor in any of the {len(barren)} tars read last; expected members "
                    f"KEY.{'/'.join(IMAGE_EXTENSIONS)} and KEY.{'/'.join(CAPTION_EXTENSIONS)}, found "
                    f"{self.skipped or 'none of these'}: check the pattern"
                )
