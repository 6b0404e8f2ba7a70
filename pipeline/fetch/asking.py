"""One source's answers for one unit, added to its draft; these functions run in worker processes.

What is asked follows from the draft alone: the rows without a good picture. Rows a source cannot be asked for (no
key, no line) are answered here. Downloads have been made before, by img2dataset; archives and local pictures are
read here. Who runs these functions when is `fetch`'s part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from pipeline.config import BuildConfig
from pipeline.fetch.draft import Draft
from pipeline.fetch.fetched import Job
from pipeline.fetch.img2dataset_output import Leftover
from pipeline.fetch.judging import Answer, judge, limits_of
from pipeline.fetch.sources import Rejected, bucket_url, read_local
from pipeline.fetch.zip_archives import read_zips
from pipeline.records import Reason

Source = Literal["url", "bucket", "zip", "local"]

DOWNLOADED: frozenset[Source] = frozenset({"url", "bucket"})
"""Sources asked through img2dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A job to be put to one source."""

    config: BuildConfig
    work: Path
    folder: Path
    """Where the draft is."""
    job: Job
    source: Source
    is_last: bool
    """Whether nobody is asked for what this source does not give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a task came to."""

    unit: int
    is_finished: bool
    """Whether the unit has its final files; else the next source is to be asked."""
    num_rows: int
    num_bytes: int
    """Of good pictures so far."""


def sources_of(config: BuildConfig) -> tuple[Source, ...]:
    """Who is asked, in this order."""
    return ("local",) if config.dataset == "local" else config.prefer


def questions(task: Task, draft: Draft | None = None) -> pa.Table:
    """What is to be downloaded for a task: columns `unit`, `index` (of the row in the job) and `url`."""
    draft = draft or Draft(task.work, task.folder, task.job)
    column = "url" if task.source == "url" else "bucket_key"
    values, missing = draft.rows[column].to_pylist(), draft.missing
    if task.source == "bucket":
        values = [bucket_url(task.config.bucket, key) for key in values]
    asked = [index for index in missing if values[index]]
    columns = {"unit": [task.job.unit] * len(asked), "index": asked, "url": [values[index] for index in asked]}
    return pa.table(columns, pa.schema([("unit", pa.int64()), ("index", pa.int64()), ("url", pa.string())]))


def read_pictures(task: Task) -> Step:
    """Ask archives or local files for a task."""
    started_unix = time.time()
    draft = Draft(task.work, task.folder, task.job)
    draft.take(task.source, _readable(task, draft), started_unix=started_unix)
    return _end(task, draft)


def take_download(tasks: Mapping[int, Task], output: Path, shard: str) -> Step:
    """Take what img2dataset left under `output/shard.*` for the task of the unit it says it belongs to."""
    left = Leftover(output, shard)
    task = tasks[left.unit]
    draft = Draft(task.work, task.folder, task.job)
    asked = questions(task, draft)
    without = sorted(set(draft.missing) - set(asked["index"].to_pylist()))
    draft.take(
        task.source,
        _chain(left.answers(asked), without, task.source),
        started_unix=left.started_unix,
    )
    left.remove()
    return _end(task, draft)


def take_nothing(task: Task) -> Step:
    """Answer a task of which not one row can be asked for."""
    draft = Draft(task.work, task.folder, task.job)
    draft.take(task.source, _chain(iter(()), draft.missing, task.source), started_unix=time.time())
    return _end(task, draft)


def _readable(task: Task, draft: Draft) -> Iterator[tuple[int, Answer]]:
    """Answers of archives or local files."""
    limits = limits_of(task.config)
    for index, answer in _read(task, draft):
        yield index, answer if isinstance(answer, Rejected) else judge(answer, limits)


def _read(task: Task, draft: Draft) -> Iterator[tuple[int, bytes | Rejected]]:
    missing = draft.missing
    if task.source == "zip":
        assert task.config.zip_root is not None
        lines = draft.rows["line"].to_pylist()
        root = Path(task.config.zip_root).expanduser()
        for index, answer in read_zips(root, [lines[index] for index in missing]):
            yield missing[index], answer
        return
    urls = draft.rows["url"].to_pylist()
    yield from zip(missing, read_local([urls[index] for index in missing]), strict=True)


def _chain(answers: Iterator[tuple[int, Answer]], without: list[int], source: str) -> Iterator[tuple[int, Answer]]:
    yield from answers
    what = "the row has no URL" if source == "url" else "the row has no key of the bucket"
    for index in without:
        yield index, Rejected(reason=Reason.MISSING_FILE, detail=what)


def _end(task: Task, draft: Draft) -> Step:
    """Finish the unit, or leave it for the next source."""
    is_finished = task.is_last or not draft.missing
    if is_finished:
        draft.publish()
    else:
        draft.save()
    num_rows, num_bytes = draft.rows.num_rows, draft.pictures[1]
    return Step(unit=task.job.unit, is_finished=is_finished, num_rows=num_rows, num_bytes=num_bytes)
