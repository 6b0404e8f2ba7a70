"""The indexes of the shards in use: each is read once, by whoever asks first, and the least recently used go."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future

from pipeline.manifest import ShardIndex, read_index
from slip.data.sets import PlacedShard


class IndexCache:
    """Up to `capacity` indexes, for several threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, Future[ShardIndex]] = OrderedDict()

    def get(self, placed: PlacedShard) -> ShardIndex:
        """The shard's index. StoreError or ShardError when it is missing or damaged."""
        with self._lock:
            found = self._indexes.get(placed.url)
            future: Future[ShardIndex] = Future() if found is None else found
            self._indexes[placed.url] = future
            self._indexes.move_to_end(placed.url)
            while len(self._indexes) > self._capacity:
                self._indexes.popitem(last=False)
        if found is None:
            try:
                future.set_result(read_index(placed.index_base, placed.shard))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._indexes.pop(placed.url, None)
        return future.result()
