"""Which tars a command line means: brace patterns, URLs and folders to a list, and the folder that holds them all.

"s3://b/cc12m/{00000..01242}.tar" names 1,243 tars as the shell would, "s3://b/cc12m/" all *.tar below it, by name. A
manifest names shards relative to one folder, so all tars of a data set must have one in common.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pipeline import store
from pipeline.errors import ConfigError, InputError

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])")
_MOST_TARS = 10_000_000
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_MAX_NAME = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class TarPlace:
    """One tar of a data set to be."""

    url: str
    name: str
    """Relative to the folder all tars have in common."""
    index: str
    """File name of its index."""


def _closing(pattern: str, start: int) -> int:
    """Where the brace that opens at `start` is closed; -1 when it is not."""
    depth = 0
    for at in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[at], 0)
        if depth == 0:
            return at
    return -1


def _alternatives(inner: str) -> list[str] | None:
    """What stands between two braces: "a,b" -> ["a", "b"], "8..10" -> ["8", "9", "10"]; None for anything else."""
    if match := _RANGE.fullmatch(inner):
        first, last, step = int(match[1]), int(match[2]), abs(int(match[3] or 1)) or 1
        if abs(last - first) // step >= _MOST_TARS:
            raise ConfigError(f"{{{inner}}} names more than {_MOST_TARS:,} tars; is there a digit too many?")
        is_padded = any(text.lstrip("-").startswith("0") and len(text.lstrip("-")) > 1 for text in match.group(1, 2))
        width = max(map(len, match.group(1, 2))) if is_padded else 0
        numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
        return [f"{number:0{width}d}" for number in numbers]
    if match := _LETTERS.fullmatch(inner):
        first, last = ord(match[1]), ord(match[2])
        return [chr(code) for code in (range(first, last + 1) if first <= last else range(first, last - 1, -1))]
    parts, depth, start = [], 0, 0
    for at, char in enumerate(inner):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(inner[start:at])
            start = at + 1
    if not parts:
        return None
    return [text for part in (*parts, inner[start:]) for text in expand_braces(part)]


def expand_braces(pattern: str) -> list[str]:
    """A brace pattern written out, in the order the shell would: "{a,b}{1..2}" -> ["a1", "a2", "b1", "b2"]."""
    start = pattern.find("{")
    end = _closing(pattern, start) if start >= 0 else -1
    if start >= 0 and end < 0:
        raise ConfigError(f"{pattern}: a brace is opened at character {start + 1} and never closed")
    if start < 0:
        return [pattern]
    inner = pattern[start + 1 : end]
    alternatives = _alternatives(inner)
    if alternatives is None:
        alternatives = [f"{{{text}}}" for text in expand_braces(inner)]
    ends = expand_braces(pattern[end + 1 :])
    return [f"{pattern[:start]}{middle}{rest}" for middle, rest in product(alternatives, ends)]


def absolute(url: str) -> str:
    """A local path from the root on, a URL as it is; a slash at the end stays."""
    if "://" in url:
        return url
    return os.path.abspath(url) + ("/" if url.endswith("/") and os.path.abspath(url) != "/" else "")


def _tars_below(folder: str) -> list[str]:
    """URLs of all *.tar in a folder and its folders, by name."""
    if store.is_local(folder):
        root = Path(folder.split("://", 1)[-1])
        names = [path.relative_to(root).as_posix() for path in root.rglob("*.tar") if path.is_file()]
    else:
        store.list_names(folder)  # says clearly what is wrong with a store that cannot be listed
        filesystem, path = store.filesystem(folder)
        found = (str(entry).lstrip("/") for entry in filesystem.find(path))
        names = [name[len(path.strip("/")) + 1 :] for name in found if name.endswith(".tar")]
    if not names:
        raise InputError(f"{folder}: there is no .tar below it; is it the right folder?")
    return [store.join(folder, name) for name in sorted(names)]


def find_tars(arguments: Sequence[str]) -> list[str]:
    """URLs of all tars the arguments name, in their order; local paths become absolute.

    ConfigError when one is named twice, InputError when a folder holds none.
    """
    urls: list[str] = []
    for argument in arguments:
        for url in map(absolute, expand_braces(argument)):
            is_folder = url.endswith("/") or (store.is_local(url) and Path(url.split("://", 1)[-1]).is_dir())
            urls += _tars_below(url) if is_folder else [url]
    if len(urls) > _MOST_TARS:
        raise ConfigError(f"{len(urls):,} tars are named, more than {_MOST_TARS:,}; is there a digit too many?")
    if twice := [url for url, count in Counter(urls).items() if count > 1]:
        raise ConfigError(f"{twice[0]} is named twice; name each tar once")
    return urls


def common_folder(urls: Sequence[str]) -> str:
    """The nearest folder that is above all of them: ["s3://b/x/1.tar", "s3://b/y/1.tar"] -> "s3://b"."""
    common = urls[0].split("/")[:-1]
    for url in urls:
        parts = url.split("/")[:-1]
        num_same = next((i for i, (a, b) in enumerate(zip(common, parts, strict=False)) if a != b), len(parts))
        common = common[:num_same]
        # "s3:", "" and the bucket; "" alone is the root of the local files.
        if len(common) < (3 if "://" in url else 1):
            raise ConfigError(
                f"{urls[0]} and {url} have no folder in common; index them apart and mix them in training"
            )
    return "/".join(common) or "/"


def _index_name(name: str, taken: Counter[str]) -> str:
    plain = _safe(name)
    if taken[plain] == 1 and len(plain) <= _MAX_NAME:
        return f"{plain}.parquet"
    return f"{plain[:_MAX_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.parquet"


def _safe(name: str) -> str:
    """A relative name as a file name: "part 1/00000.tar" -> "part_1_00000"."""
    return _UNSAFE.sub("_", name.removesuffix(".tar")).lstrip(".") or "_"


def place_tars(urls: Sequence[str]) -> tuple[str, list[TarPlace]]:
    """The folder all tars have in common, and their places in it."""
    folder = common_folder(urls)
    names = [url[len(folder.rstrip("/")) + 1 :] for url in urls]
    for url, name in zip(urls, names, strict=True):
        if ".." in name.split("/") or "\\" in name or "://" in name:
            raise ConfigError(f"{url}: a manifest cannot hold this name; write the path without '..' and backslash")
    taken = Counter(map(_safe, names))
    return folder, [
        TarPlace(url=url, name=name, index=_index_name(name, taken)) for url, name in zip(urls, names, strict=True)
    ]
