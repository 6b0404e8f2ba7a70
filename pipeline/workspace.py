"""The folder a build works in: where it is, that one build at a time uses it, and that its settings stay the same.

A data set is finished over hours and many runs; a run with other settings in the same folder would mix two
data sets into one. Nothing here reads or writes what the stages make.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import ConfigError, InputError, StoreError
from pipeline.manifest import MANIFEST_NAME
from pipeline.metadata import metadata
from pipeline.selection.selection import read_funnel

_CONTENT_SETTINGS = (
    "dataset",
    "variant",
    "join_by",
    "caption_fields",
    "captions",
    "prefer",
    "bucket",
    "samples_per_shard",
    "resize",
    "min_side",
    "max_aspect",
    "max_pixels",
    "keep_duplicates",
)


def work_folder(config: BuildConfig) -> Path:
    """Where intermediate files go: beside a local output, else in ~/.cache under a name made from the output's URL."""
    if config.work is not None:
        return Path(config.work).expanduser().resolve()
    if store.is_local(config.output):
        output = Path(config.output.split("://", 1)[-1]).expanduser().resolve()
        return output.with_name(f"{output.name}_work")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    url = config.output.rstrip("/")
    return cache / "yfcc15m" / f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def absolute(path: str) -> str:
    """A local path as it is found from anywhere; URLs stay."""
    return str(Path(path).expanduser().resolve()) if store.is_local(path) and "://" not in path else path


def prepare(config: BuildConfig, work: Path) -> None:
    """Find out now, not after hours, that something cannot be read or written."""
    for name in (*config.metadata, *filter(None, [config.subset_list, config.zip_root]), *config.also_score):
        if store.is_local(name) and not Path(name.split("://", 1)[-1]).expanduser().exists():
            raise InputError(f"{name}: no such file")
    if config.stage not in {"select", "fetch"}:
        store.check_writable(config.output)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{work}: {error.strerror}; pass --work with a folder that can be written") from error


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Hold the work folder for this build; the system lets go of it however the process ends."""
    path = work / "lock"
    try:
        file = path.open("ab")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; pass --work with a folder that can be written") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{work}: another build is at work here; wait for it, or pass another --work") from None
        yield


def check_settings(config: BuildConfig, work: Path) -> None:
    """Refuse to go on in a work folder with settings that would mix two data sets; note them in a new one.

    Before a selection is finished nothing binds: a mistyped path is mended by typing it right. The report and repairs
    begin nothing, and what they need to know the manifest says.
    """
    if config.stage in {"report", "repair"}:
        return
    settings = _content_settings(config)
    path = work / "config.json"
    if not path.exists() or read_funnel(work) is None:
        _check_output_is_free(config, work)
        store.write_bytes(str(path), (json.dumps(settings, indent=1, sort_keys=True) + "\n").encode())
        return
    try:
        earlier = json.loads(path.read_bytes())
    except ValueError:
        raise StoreError(f"{path}: not JSON; delete the folder {work} to start anew") from None
    changed = [name for name in sorted(settings | earlier) if settings.get(name) != earlier.get(name)]
    if changed:
        differences = "; ".join(f"{name} was {earlier.get(name)}, is {settings.get(name)}" for name in changed)
        raise ConfigError(
            f"{path}: an earlier build had other settings ({differences}); give the earlier ones to resume it, "
            f"or another --work and --output to build anew, or delete {work} and the output to start over"
        )


def _check_output_is_free(config: BuildConfig, work: Path) -> None:
    """Refuse to begin a build where another one's shards lie: overwriting them would belie their manifest."""
    found = [name for name in store.list_names(config.output) if name == MANIFEST_NAME or name.endswith(".tar")]
    if found:
        what = "a sealed data set" if MANIFEST_NAME in found else f"shards of another build ({found[0]} ...)"
        raise ConfigError(
            f"{config.output}: holds {what}, which {work} knows nothing of; to resume that build pass its --work, "
            "to build anew pass another --output or delete what is there"
        )


def _content_settings(config: BuildConfig) -> dict[str, Any]:
    """What decides the bytes of the data set, and where it goes, as JSON would give it back."""
    settings: dict[str, Any] = {name: getattr(config, name) for name in _CONTENT_SETTINGS}
    settings["variant"] = config.chosen_variant
    settings["prefer"] = list(config.prefer)
    settings["max_aspect"] = str(config.max_aspect)  # JSON has no infinity
    settings["output"] = absolute(config.output)
    files = {"metadata": metadata.files(config), "subset_list": filter(None, [config.subset_list])}
    for name, found in files.items():
        paths = list(found)
        settings[name] = [absolute(path) for path in paths]
        settings[f"{name}_bytes"] = [store.size(path) for path in paths]
    return settings
