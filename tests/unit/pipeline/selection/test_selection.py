"""The select stage, compared with a plain-Python one on generated rows."""

from __future__ import annotations

import bz2
import itertools
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import BuildConfig
from pipeline.errors import InputError, StoreError
from pipeline.metadata import lines
from pipeline.metadata.text import V2_COLUMNS
from pipeline.records import SELECT_REASONS, SELECTION_SCHEMA, Funnel, Reason
from pipeline.selection.selection import num_units, part_path, read_funnel, select

# As stored, as cleaned, and whether it is a usable caption: the reference needs no rules of its own.
TEXTS = {
    "": ("", False),
    "A+boat": ("A boat", True),
    "%3Cb%3E1%2B1%3C%2Fb%3E%0Adogs": ("1+1 dogs", True),
    "caf%C3%A9+au+lait": ("café au lait", True),
    "%3Cbr%3E": ("", False),
    "http%3A%2F%2Fx.org%2Fy": ("", False),
    "IMG_1234": ("IMG_1234", False),
    "OLYMPUS+DIGITAL+CAMERA": ("OLYMPUS DIGITAL CAMERA", False),
    "2010": ("2010", False),
    "long+" * 40_000: (("long " * 40_000).strip(), False),  # 200 kB
}
SHORT_TEXTS = [text for text in TEXTS if len(text) < 1000]


@dataclass(frozen=True)
class Row:
    line: int
    photo_id: int
    title: str = "A+boat"
    description: str = ""
    marker: str = "0"
    broken: bool = False

    def text(self) -> str:
        if self.broken:
            return f"{self.line}\t{self.photo_id}\tbroken"
        fields = dict.fromkeys(V2_COLUMNS, "")
        fields |= {
            "line": str(self.line),
            "photo_id": str(self.photo_id),
            "user": "J%2BJ+%3C3",
            "date_taken": "2012-02-16 09:56:37.0",
            "title": self.title,
            "description": self.description,
            "page_url": f"http://www.flickr.com/photos/x/{self.photo_id}/",
            "url": f"http://farm1.staticflickr.com/{self.photo_id}.jpg",
            "license": "Attribution License",
            "license_url": "http://creativecommons.org/licenses/by/2.0/",
            "marker": self.marker,
        }
        return "\t".join(fields.values())


def reference(rows: list[Row], listed: dict[int, int]) -> tuple[Funnel, list[dict[str, Any]]]:
    """What select must do, row by row."""
    rejected = dict.fromkeys(SELECT_REASONS, 0)
    kept: list[dict[str, Any]] = []
    seen: set[int] = set()
    for position, row in enumerate(rows):
        title, title_usable = TEXTS[row.title]
        description, description_usable = TEXTS[row.description]
        if row.broken:
            rejected[Reason.MALFORMED_ROW] += 1
        elif row.line not in listed:
            rejected[Reason.NOT_IN_LIST] += 1
        elif listed[row.line] != row.photo_id:
            rejected[Reason.LIST_MISMATCH] += 1
        elif row.photo_id in seen:
            rejected[Reason.DUPLICATE_ROW] += 1
        else:
            seen.add(row.photo_id)
            if row.marker == "1":
                rejected[Reason.VIDEO] += 1
            elif not title and not description:
                rejected[Reason.NO_CAPTION] += 1
            elif not title_usable and not description_usable:
                rejected[Reason.JUNK_CAPTION] += 1
            else:
                kept.append(
                    {
                        "key": str(row.photo_id),
                        "row": position,
                        "photo_id": row.photo_id,
                        "line": row.line,
                        "bucket_key": "key",  # the list's
                        "url": f"http://farm1.staticflickr.com/{row.photo_id}.jpg",
                        "title": title,
                        "description": description,
                        "title_usable": title_usable,
                        "description_usable": description_usable,
                        "user": "J+J <3",
                        "date_taken": "2012-02-16 09:56:37.0",
                        "page_url": f"http://www.flickr.com/photos/x/{row.photo_id}/",
                        "license": "Attribution License",
                        "license_url": "http://creativecommons.org/licenses/by/2.0/",
                    }
                )
    return Funnel(rows=len(rows), rejected=rejected, kept=len(kept)), kept


def configure(
    folder: Path, rows: list[Row] | None = None, listed: dict[int, int] | None = None, **settings: Any
) -> BuildConfig:
    folder.mkdir(parents=True, exist_ok=True)
    if rows is not None:
        (folder / "rows.tsv").write_text("".join(row.text() + "\n" for row in rows))
    if listed is not None:
        (folder / "list.tsv").write_text("".join(f"{line}\t{photo}\tkey\n" for line, photo in listed.items()))
    files = {"metadata": (str(folder / "rows.tsv"),), "subset_list": str(folder / "list.tsv")}
    given: dict[str, Any] = files | {"output": "out", "processes": 1}
    return BuildConfig(**(given | settings))


def read_parts(work: Path) -> list[list[dict[str, Any]]]:
    tables = [pq.read_table(part_path(work, unit)) for unit in range(num_units(work))]
    assert all(table.schema.equals(SELECTION_SCHEMA) for table in tables)
    return [table.to_pylist() for table in tables]


def contents(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((work / "selection").iterdir())}


ROWS = st.lists(
    st.builds(
        Row,
        line=st.integers(0, 15),
        photo_id=st.integers(1, 8),
        title=st.sampled_from(SHORT_TEXTS),
        description=st.sampled_from(SHORT_TEXTS),
        marker=st.sampled_from("0001"),
        broken=st.sampled_from([False] * 9 + [True]),
    ),
    min_size=1,
    max_size=40,
)


@given(
    rows=ROWS,
    listed=st.dictionaries(st.integers(0, 15), st.integers(1, 8), min_size=1),
    samples_per_shard=st.integers(1, 7),
    block_bytes=st.sampled_from([300, 2000, 1 << 20]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
def test_select_equals_the_plain_reference(
    tmp_path: Path, rows: list[Row], listed: dict[int, int], samples_per_shard: int, block_bytes: int
) -> None:
    # Rows that are surely kept: what is wrong as a whole has tests of its own.
    rows = [Row(line=100, photo_id=100), *(Row(line=200 + n, photo_id=200 + n) for n in range(len(rows))), *rows]
    listed = {**listed, 100: 100}
    work = tmp_path / "work"
    shutil.rmtree(work, ignore_errors=True)
    config = configure(tmp_path, rows, listed, samples_per_shard=samples_per_shard)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", block_bytes)
        funnel = select(config, work)

    expected_funnel, expected = reference(rows, listed)
    assert funnel == expected_funnel == read_funnel(work)
    parts = read_parts(work)
    assert [row for part in parts for row in part] == expected
    assert all(len(part) == samples_per_shard for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= samples_per_shard
    assert sorted(contents(work)) == ["funnel.json", *(f"part-{unit:05d}.parquet" for unit in range(len(parts)))]


def test_several_files_are_one(tmp_path: Path) -> None:
    rows = [Row(line=n, photo_id=n + 10) for n in range(20)]
    listed = {n: n + 10 for n in range(0, 20, 2)}
    config = configure(tmp_path, rows, listed)
    one = select(config, tmp_path / "one")
    (tmp_path / "a.tsv").write_text("".join(row.text() + "\n" for row in rows[:7]))
    (tmp_path / "b.tsv").write_text("".join(row.text() + "\n" for row in rows[7:]))
    split = configure(tmp_path, metadata=(str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv")))
    assert select(split, tmp_path / "two") == one
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_bzip2_and_text_give_the_same_bytes(tmp_path: Path) -> None:
    config = configure(tmp_path, [Row(line=n, photo_id=n) for n in range(50)], {n: n for n in range(50)})
    select(config, tmp_path / "text")
    for name in ("rows.tsv", "list.tsv"):
        (tmp_path / f"{name}.bz2").write_bytes(bz2.compress((tmp_path / name).read_bytes()))
    packed = configure(tmp_path, metadata=(str(tmp_path / "rows.tsv.bz2"),), subset_list=str(tmp_path / "list.tsv.bz2"))
    select(packed, tmp_path / "packed")
    assert contents(tmp_path / "text") == contents(tmp_path / "packed")


def test_a_caption_of_200_kb_is_junk_but_no_error(tmp_path: Path) -> None:
    long = next(text for text in TEXTS if len(text) >= 200_000)
    rows = [
        Row(line=0, photo_id=1, title="", description=long),
        Row(line=1, photo_id=2, title="A+boat", description=long),
        Row(line=2, photo_id=3),
    ]
    listed = {0: 1, 1: 2, 2: 3}
    funnel = select(configure(tmp_path, rows, listed), tmp_path / "work")
    assert funnel == reference(rows, listed)[0]
    assert funnel.rejected[Reason.JUNK_CAPTION] == 1
    (part,) = read_parts(tmp_path / "work")
    assert [(row["title_usable"], row["description_usable"]) for row in part] == [(True, False), (True, False)]


def test_the_marker_ends_the_work_and_a_killed_run_leaves_nothing(tmp_path: Path) -> None:
    rows = [Row(line=n, photo_id=n) for n in range(30)]
    config = configure(tmp_path, rows, {n: n for n in range(30)}, samples_per_shard=4)
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    select(config, clean)

    (killed / "selection.part").mkdir(parents=True)
    (killed / "selection.part" / "part-00099.parquet").write_bytes(b"half")
    (killed / "selection.part" / "funnel.json").write_bytes(b"{}")
    (killed / "listed.part-killed").mkdir()
    assert read_funnel(killed) is None
    select(config, killed)
    assert contents(killed) == contents(clean)
    assert [path.name for path in killed.iterdir()] == ["selection"]

    (tmp_path / "rows.tsv").unlink()  # the input is not even looked at any more
    assert select(config, killed) == read_funnel(clean)


def test_a_run_that_dies_at_any_part_is_repeated_to_the_same_bytes(tmp_path: Path) -> None:
    config = configure(
        tmp_path, [Row(line=n, photo_id=n) for n in range(10)], {n: n for n in range(10)}, samples_per_shard=3
    )
    select(config, tmp_path / "clean")
    for die_at in range(5):
        work = tmp_path / f"work{die_at}"
        calls = 0

        def die(descriptor: int, *, die_at: int = die_at) -> None:
            nonlocal calls
            calls += 1
            if calls > die_at:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
            patch.setattr(os, "fsync", die)
            select(config, work)
        assert read_funnel(work) is None
        assert not (work / "selection").exists()
        select(config, work)
        assert contents(work) == contents(tmp_path / "clean")


@pytest.mark.parametrize("variant", ["openai", "english"])
def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path, variant: Literal["openai", "english"]) -> None:
    random = Random(5)
    texts = [*SHORT_TEXTS, "A+dog+runs+on+the+beach"]
    rows = [
        Row(n, random.randrange(900), title, description, random.choice("00001"), random.random() < 0.1)
        for n, (title, description) in enumerate(random.choices(list(itertools.product(texts, texts)), k=1000))
    ]
    listed = {row.line: row.photo_id for row in rows if random.random() < 0.7}
    given = {"samples_per_shard": 60, "variant": variant} | ({"subset_list": None} if variant == "english" else {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", 20_000)
        alone = select(configure(tmp_path, rows, listed, processes=1, **given), tmp_path / "alone")
        together = select(configure(tmp_path, rows, listed, processes=4, **given), tmp_path / "together")
    assert alone == together
    assert alone.rejected[Reason.DUPLICATE_ROW] > 5
    assert alone.kept > 120
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")


def test_one_row(tmp_path: Path) -> None:
    funnel = select(configure(tmp_path, [Row(line=3, photo_id=4)], {3: 4}, samples_per_shard=1), tmp_path / "work")
    assert (funnel.rows, funnel.kept, num_units(tmp_path / "work")) == (1, 1, 1)
    marker = json.loads((tmp_path / "work" / "selection" / "funnel.json").read_text())
    assert marker == {"rows": 1, "kept": 1, "num_units": 1, "rejected": {str(reason): 0 for reason in SELECT_REASONS}}


def test_a_list_that_matches_nothing(tmp_path: Path) -> None:
    rows = [Row(line=0, photo_id=10), Row(line=1, photo_id=11)]
    with pytest.raises(InputError, match=r"matches nothing.*line 7 with photo 8.*line 0 with photo 10.*0 rows have"):
        select(configure(tmp_path, rows, {7: 8}), tmp_path / "work")
    with pytest.raises(InputError, match=r"matches nothing.*line 0 with photo 99.*line 0 with photo 10.*1 rows have"):
        select(configure(tmp_path, rows, {0: 99}), tmp_path / "work")
    assert not (tmp_path / "work" / "selection").exists()


def test_a_list_mostly_absent_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [Row(line=0, photo_id=10), Row(line=1, photo_id=11)]
    select(configure(tmp_path, rows, {0: 10, 5: 6, 7: 8}), tmp_path / "work")
    assert "only 1 of 3 listed rows are in the metadata" in caplog.text
    caplog.clear()
    caplog.set_level(logging.WARNING)
    select(configure(tmp_path, rows, {0: 10, 5: 6}), tmp_path / "work2")
    assert not caplog.messages


def test_nothing_left_is_an_error_with_the_counts(tmp_path: Path) -> None:
    rows = [Row(line=0, photo_id=1, marker="1"), Row(line=1, photo_id=2, title="IMG_1234"), Row(line=2, photo_id=3)]
    with pytest.raises(InputError, match=r"none of 3 rows is left \(1 not_in_list, 1 video, 1 junk_caption\)"):
        select(configure(tmp_path, rows, {0: 1, 1: 2}), tmp_path / "work")
    assert read_funnel(tmp_path / "work") is None


def test_a_damaged_marker_is_said(tmp_path: Path) -> None:
    (tmp_path / "selection").mkdir()
    (tmp_path / "selection" / "funnel.json").write_bytes(b"{")
    with pytest.raises(StoreError, match="damaged"):
        read_funnel(tmp_path)
    with pytest.raises(InputError, match="no finished selection"):
        num_units(tmp_path / "absent")
