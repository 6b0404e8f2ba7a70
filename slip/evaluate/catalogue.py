"""Which labelled sets there are, where each lies, in what form, and how it is evaluated.

In: a set's name, or its path or URL, and the user's catalogue, a TOML file:

    [imagenet]
    url = "/data/imagenet"        # or any fsspec URL, or "torchvision:CIFAR10:/data/cifar10"
    test = "val"                  # what the split is called there; train likewise

Out: the set, opened. Its form (folders, tars, parquet, torchvision) is found out unless the catalogue says it. A set of
the published evaluation gets its class names and prompts by its name; everything else has its own. Reading is
`slip.evaluate.readers`' part.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import store
from pipeline.errors import InputError
from slip.evaluate.labelled import LabelledSet
from slip.evaluate.published_prompts import KNOWN, METRICS, PAPER, Metric, published_prompts
from slip.evaluate.readers.classes import Names, Wanted
from slip.evaluate.readers.folders import find_split, open_folders
from slip.evaluate.readers.library import PREFIX, open_library
from slip.evaluate.readers.parquet import open_parquet
from slip.evaluate.readers.tars import is_tars, open_tars

DEFAULT = "datasets.toml"
VARIABLE = "SLIP_CATALOGUE"

_READERS: Mapping[str, Callable[[str, Wanted], LabelledSet]] = {
    "folders": open_folders,
    "tars": open_tars,
    "parquet": open_parquet,
    "torchvision": open_library,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a catalogue says of one set."""

    url: str
    form: str = ""
    """One of `_READERS`; "" = find out."""
    train: str = ""
    """What the split is called there; "" = find out."""
    test: str = ""
    prompts: str = ""
    """The published set whose class names, prompts and metric it is evaluated with; "" = that of its own name."""
    classnames: Names = ()
    """In the order of the data's labels, instead of all others."""
    templates: tuple[str, ...] = ()
    """With {c} where the name goes, instead of all others."""
    metric: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Where sets lie, by name."""

    url: str
    """Of the file, which need not be there."""
    entries: Mapping[str, Entry]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)


def _entry(name: str, content: Any, url: str) -> Entry:
    """One table of the file, checked."""
    where = f"{url}: [{name}]"
    known = [field.name for field in dataclasses.fields(Entry)]
    if not isinstance(content, dict) or "url" not in content:
        raise InputError(f'{where} has no url; write url = "/folder/of/the/set"')
    values = dict(content)
    for option in values:
        if option not in known:
            raise InputError(f"{where} has {option!r}, expected one of {', '.join(known)}")
    if isinstance(values.get("classnames"), list):
        names = [[one] if isinstance(one, str) else one for one in values["classnames"]]
        if len(names) < 2 or not all(map(_texts, names)):
            raise InputError(f"{where} classnames: expected a list of at least 2 names (or lists of names)")
        values["classnames"] = tuple(tuple(one) for one in names)
    if isinstance(values.get("templates"), list):
        if not _texts(values["templates"]) or not all("{c}" in one for one in values["templates"]):
            raise InputError(f"{where} templates: expected a list of prompts, each with {{c}} where the name goes")
        values["templates"] = tuple(values["templates"])
    for option, value in values.items():
        if not isinstance(value, tuple if option in {"classnames", "templates"} else str):
            raise InputError(f"{where} {option} is {value!r}, expected a {'list' if option[-1] == 's' else 'text'}")
    entry = Entry(**values)
    for option, value, accepted in (
        ("form", entry.form, tuple(_READERS)),
        ("prompts", entry.prompts, KNOWN),
        ("metric", entry.metric, METRICS),
    ):
        if value and value not in accepted:
            raise InputError(f"{where} {option} is {value!r}, expected one of {', '.join(accepted)}")
    return entry


def load_catalogue(url: str | None = None) -> Catalogue:
    """The catalogue at a path or URL; without one, that of SLIP_CATALOGUE, else ./datasets.toml if it is there."""
    found = url or os.environ.get(VARIABLE)
    if found is None and not store.exists(DEFAULT):
        return Catalogue(url=DEFAULT, entries={})
    found = found or DEFAULT
    try:
        content = tomllib.loads(store.read_bytes(found).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{found}: not a catalogue in TOML ({error})") from error
    return Catalogue(url=found, entries={name: _entry(name, table, found) for name, table in content.items()})


def _placed(url: str, catalogue: Catalogue) -> str:
    """A set's URL; plain relative paths are meant from the catalogue's folder, "~" from the user's."""
    prefix = ""
    if url.startswith(PREFIX):
        name, _, folder = url.removeprefix(PREFIX).partition(":")
        prefix, url = f"{PREFIX}{name}:", folder
    if "://" not in url:
        path = os.path.expanduser(url)
        url = path if os.path.isabs(path) else store.join(store.parent(catalogue.url), path)
    return prefix + url


def _form(url: str, wanted: Wanted) -> str:
    """In which form a set lies; InputError naming what was looked for when in none."""
    if url.startswith(PREFIX):
        return "torchvision"
    if url.endswith(".parquet"):
        return "parquet"
    if not store.exists(url) and store.is_local(url):
        raise InputError(f"{url}: nothing there; give the folder of a labelled set, or a name from the catalogue")
    if is_tars(url):
        return "tars"
    if find_split(url, "test", wanted) is not None:
        return "folders"
    names = store.list_names(url)
    if any(name.endswith(".parquet") for name in names):
        return "parquet"
    found = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "nothing"
    raise InputError(
        f"{url}: not a labelled set: looked for folders {' or '.join(wanted.split_names('test'))} with a folder per "
        f"class, for test/nshards.txt and classnames.txt (WebDataset tars) and for *.parquet; found {found}"
    )


def _wanted(name: str, entry: Entry) -> Wanted:
    published = published_prompts(entry.prompts or name)
    classnames = entry.classnames or (published.classnames if published else ())
    return Wanted(
        name=name,
        classnames=classnames,
        in_label_order=bool(entry.classnames),
        templates=entry.templates or (published.templates if published else ()),
        splits={split: there for split, there in (("train", entry.train), ("test", entry.test)) if there},
    )


def _is_place(name: str) -> bool:
    """Whether something may lie under this name, so that it need not stand in the catalogue."""
    return any(mark in name for mark in "/:.~") or store.exists(name)


def place_of(name_or_url: str, catalogue: Catalogue) -> str:
    """Where a set of the catalogue lies; what is not in it is a place itself."""
    entry = catalogue.entries.get(name_or_url)
    return name_or_url if entry is None else _placed(entry.url, catalogue)


def open_set(name_or_url: str, catalogue: Catalogue) -> LabelledSet:
    """A set by its name in the catalogue, or by its path or URL; all but its pictures is read (of some, labels too)."""
    entry = catalogue.entries.get(name_or_url)
    if entry is not None:
        wanted, url = _wanted(name_or_url, entry), _placed(entry.url, catalogue)
    elif name_or_url in KNOWN or not _is_place(name_or_url):
        raise InputError(
            f"{name_or_url}: not in the catalogue {catalogue.url}; write where it lies into that file: [{name_or_url}] "
            'and below it url = "/folder/of/the/set" (slip/evaluate/datasets.example.toml shows all sets)'
        )
    else:
        url = name_or_url
        wanted, entry = Wanted(name=url.rstrip("/").rpartition("/")[2]), Entry(url=url)
    found = _READERS[entry.form or _form(url, wanted)](url, wanted)
    return dataclasses.replace(found, metric=metric_of(wanted.name, catalogue))


def suite(name: str) -> tuple[str, ...]:
    """The sets of a suite: "paper" -> the paper's 26; any other name is that of one set."""
    return PAPER if name == "paper" else (name,)


def metric_of(name: str, catalogue: Catalogue | None = None) -> Metric:
    """By what a set is judged: as the catalogue says, else as published, else accuracy."""
    entry = catalogue.entries.get(name) if catalogue is not None else None
    if entry is not None and entry.metric:
        return next(metric for metric in METRICS if metric == entry.metric)
    published = published_prompts(entry.prompts if entry is not None and entry.prompts else name)
    return published.metric if published is not None else "accuracy"
