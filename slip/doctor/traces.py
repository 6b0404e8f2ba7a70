"""What a check-up writes, so that nothing of it stays: also when it fails half-way or is interrupted.

In: names, before anything is written under them. Out: nothing is left there.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pipeline import store
from pipeline.errors import StoreError


class Traces:
    """Files and folders of this process, removed by `clear` and at the end of the block."""

    def __init__(self) -> None:
        self._files: list[str] = []
        self._own: list[Path] = []
        self._parents: list[Path] = []

    def __enter__(self) -> Traces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def file(self, url: str) -> str:
        """Remember a file that will be written; its URL again."""
        self._files.append(url)
        return url

    def folder(self, path: Path) -> Path:
        """Make a folder that will be removed with all that is in it; folders above that had to be made go if empty."""
        for above in (path, *path.parents):
            if above.exists():
                break
            (self._own if above == path else self._parents).append(above)
        path.mkdir(parents=True)
        return path

    def clear(self) -> list[str]:
        """Remove all of it; what could not be removed, and why."""
        left: list[str] = []
        kept: list[str] = []
        for url in self._files:
            try:
                store.delete(url)
            except StoreError as error:
                left.append(str(error))
                kept.append(url)
        self._files = kept
        for folder in self._own:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                left.append(f"{folder}: the folder of the trial files cannot be removed")
        for folder in self._parents:
            with suppress(OSError):
                folder.rmdir()
        return left
