"""A folder that appears whole or not at all, on disk or in a store.

In: a function that fills a local folder. Out: the folder at a path or URL, or the finding that it is there already with
the same content. Anything else that is there is left alone, and refused.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline import store
from pipeline.errors import InputError, StoreError


def _files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _refused(url: str, what: str) -> InputError:
    return InputError(f"{url}: is there already, {what}; delete it, or give another --output")


def _same_local(made: Path, target: Path) -> bool:
    """Whether a folder holds exactly these files."""
    names = _files(made)
    return _files(target) == names and filecmp.cmpfiles(made, target, names, shallow=False)[0] == names


def _write_local(output: str, fill: Callable[[Path], None]) -> bool:
    target = Path(os.path.abspath(store.filesystem(output)[1]))
    if target.exists() and not target.is_dir():
        raise _refused(output, "a file")
    part = target.with_name(f"{target.name}.part")
    try:
        # What a killed export left behind.
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        fill(part)
        if target.exists() and _files(target):
            if _same_local(part, target):
                return False
            raise _refused(output, "with other content")
        os.replace(part, target)
    except OSError as error:
        raise StoreError(f"{output}: cannot write: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def _same_remote(made: Path, url: str) -> bool:
    return store.size(url) == made.stat().st_size and store.read_bytes(url) == made.read_bytes()


def _write_remote(output: str, fill: Callable[[Path], None], last: str) -> bool:
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        fill(made)
        names = _files(made)
        there = store.list_names(output)
        for found in there:
            if found not in names or not _same_remote(made / found, store.join(output, found)):
                raise _refused(store.join(output, found), "with other content")
        missing = sorted(set(names) - set(there), key=lambda found: (found == last, found))
        for found in missing:
            store.put_file(made / found, store.join(output, found))
    return bool(missing)


def write_folder(output: str, fill: Callable[[Path], None], *, last: str) -> bool:
    """Make a folder; False when it was there with the same content.

    Args:
        output: path or URL.
        fill: writes the files into a local folder that is empty; the same bytes each time.
        last: the file that is written last where files come one by one: whoever finds it finds the others.
    """
    if store.is_local(output):
        return _write_local(output, fill)
    return _write_remote(output, fill, last)
