"""How a selection compares with lists and finished data sets: overlap, precision, recall, and what became of the rest.

In come the selection's photo ids, taken from its parts, and for each `--also-score` the ids it holds: OpenAI's list,
DeCLIP's list, a finished data set (folder or URL with manifest.json) or another build's work folder. Out go
`WORK/selection/scores.json` and a table in the log. The selection does not depend on any of it.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import store
from pipeline.errors import InputError, StoreError
from pipeline.manifest import MANIFEST_NAME, load_manifest
from pipeline.metadata.lines import read_blocks
from pipeline.selection import listed_captions, subset_list

log = logging.getLogger(__name__)

SCORES_NAME = "scores.json"
_WHAT = "OpenAI's or DeCLIP's list, a finished data set, or a work folder"

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One comparison; "here" is the selection, "there" what it is compared with. All numbers count distinct photos."""

    here: int
    there: int
    both: int
    lost: dict[str, int] | None
    """Of the photos that are only there, how many rows were rejected here for which reason; "not_in_metadata" for those
    no row was seen of. None: not counted (only variant `english` counts, while it selects)."""

    @property
    def precision(self) -> float:
        """Share of the photos here that are there too."""
        return self.both / max(self.here, 1)

    @property
    def recall(self) -> float:
        """Share of the photos there that are here too."""
        return self.both / max(self.there, 1)

    @property
    def jaccard(self) -> float:
        """Share of the photos of either side that are on both."""
        return self.both / max(self.here + self.there - self.both, 1)

    def to_json(self) -> dict[str, Any]:
        """As scores.json holds it."""
        return asdict(self) | {
            "only_here": self.here - self.both,
            "only_there": self.there - self.both,
            "precision": round(self.precision, 6),
            "recall": round(self.recall, 6),
            "jaccard": round(self.jaccard, 6),
        }


def read_ids(url: str) -> Ids:
    """The photo ids a list, a data set or a work folder holds: ascending, each once; an InputError when it is none."""
    local = Path(url.removeprefix("file://")).expanduser() if store.is_local(url) else None
    if store.exists(store.join(url, MANIFEST_NAME)):
        ids = _ids_of_data_set(url)
    elif local is not None and local.is_dir():
        folder = next((path for path in (local, local / "selection") if (path / "funnel.json").exists()), None)
        if folder is None:
            raise InputError(f"{url}: neither a finished data set ({MANIFEST_NAME}) nor a selection; expected {_WHAT}")
        ids = selected_ids(folder)
    elif next(iter(read_blocks(url, what=_WHAT))).data.lstrip()[:1] in {b"{", b"["}:
        ids = listed_captions.read_photo_ids(url)
    else:
        ids = subset_list.read_photo_ids(url)
    distinct: Ids = np.unique(ids)
    if not len(distinct):
        raise InputError(f"{url}: there is no photo id in it; expected {_WHAT}")
    return distinct


def selected_ids(folder: Path) -> Ids:
    """The photo ids of a finished selection, in its order; rows without one are left out."""
    parts = [
        pq.read_table(path, columns=["photo_id"])["photo_id"].to_numpy()
        for path in sorted(folder.glob("part-*.parquet"))
    ]
    ids: Ids = np.concatenate([np.zeros(0, np.int64), *parts])
    return ids[ids >= 0]


def _ids_of_data_set(url: str) -> Ids:
    """The keys of a finished data set's samples, which are photo ids where it was made from YFCC100M."""
    parts: list[Ids] = [np.zeros(0, np.int64)]
    for shard in load_manifest(url).shards:
        index = pq.read_table(io.BytesIO(store.read_bytes(store.join(url, shard.index))), columns=["key"])
        try:
            parts.append(pc.cast(index["key"], pa.int64()).to_numpy())
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{store.join(url, shard.index)}: a key is no photo id ({error}); only data sets made from YFCC100M "
                "can be compared"
            ) from error
    return np.concatenate(parts)


def compare(here: Ids, there: Ids, *, lost: Mapping[str, int] | None) -> Score:
    """Two ascending arrays of distinct ids; `lost` counts the rows of `there`'s photos that were rejected here."""
    both = len(np.intersect1d(here, there, assume_unique=True))
    reasons = None
    if lost is not None:
        reasons = {reason: count for reason, count in lost.items() if count}
        # A photo whose rows were rejected twice counts twice, so this is a lower bound.
        reasons["not_in_metadata"] = max(0, len(there) - both - sum(reasons.values()))
    return Score(here=len(here), there=len(there), both=both, lost=reasons)


def write_scores(folder: Path, urls: tuple[str, ...], lost: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Compare the finished selection in `folder` with each URL, unless that is done; all scores so far, by URL.

    `lost` has, by URL, what became of its rows while this selection was made.
    """
    path = folder / SCORES_NAME
    scores = _read_scores(path)
    missing = [url for url in urls if url not in scores or url in lost]
    if missing:
        here = np.unique(selected_ids(folder))
        for url in missing:
            scores[url] = compare(here, read_ids(url), lost=lost.get(url)).to_json()
        store.write_bytes(str(path), (json.dumps(scores, indent=1, sort_keys=True) + "\n").encode())
    for url in urls:
        log.info("%s", format_score(url, scores[url]))
    return scores


def _read_scores(path: Path) -> dict[str, Any]:
    try:
        scores: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run the same command again") from error
    return scores


def format_score(url: str, score: Mapping[str, Any]) -> str:
    """A table for people."""
    rows = [(name, f"{score[name]:,}") for name in ("here", "there", "both", "only_here", "only_there")]
    rows += [(name, f"{score[name]:.4f}") for name in ("precision", "recall", "jaccard")]
    lines = [f"compared with {url}"] + [f"  {name.replace('_', ' '):<20} {value:>15}" for name, value in rows]
    if score["lost"] is None:
        lines.append("  why the others are missing was not counted (variant english counts it, while it selects)")
    else:
        lines += [f"  lost: {reason:<14} {count:>15,}" for reason, count in score["lost"].items()]
    return "\n".join(lines)
