"""Comparing a selection with lists, data sets and other selections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import BuildConfig
from pipeline.errors import InputError, StoreError
from pipeline.metadata.text import V2_COLUMNS
from pipeline.selection.score import compare, format_score, read_ids
from pipeline.selection.selection import select

ENGLISH = "The+old+lighthouse+stood+on+the+cliff"
GERMAN = "Der+alte+Leuchtturm+steht+auf+der+Klippe"


def write_rows(path: Path, descriptions: list[str], markers: str = "") -> Path:
    lines = []
    for number, description in enumerate(descriptions):
        fields = dict.fromkeys(V2_COLUMNS, "") | {
            "line": str(number),
            "photo_id": str(100 + number),
            "description": description,
            "url": f"http://farm1.staticflickr.com/5/{100 + number}_ab.jpg",
            "marker": markers[number] if markers else "0",
        }
        lines.append("\t".join(fields.values()) + "\n")
    path.write_text("".join(lines))
    return path


def write_list(path: Path, photos: list[int]) -> str:
    path.write_text("".join(f"{photo - 100}\t{photo}\tkey\n" for photo in photos))
    return str(path)


def run(folder: Path, rows: Path, scored: tuple[str, ...], **settings: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"variant": "english", "output": "out", "processes": 1} | settings
    select(BuildConfig(metadata=(str(rows),), also_score=scored, **given), folder)
    scores: dict[str, Any] = json.loads((folder / "selection" / "scores.json").read_bytes())
    return scores


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_numbers_equal_those_of_sets(here: set[int], there: set[int]) -> None:
    score = compare(np.array(sorted(here), np.int64), np.array(sorted(there), np.int64), lost=None)
    assert (score.here, score.there, score.both) == (len(here), len(there), len(here & there))
    if here and there:
        assert score.precision == len(here & there) / len(here)
        assert score.recall == len(here & there) / len(there)
        assert score.jaccard == len(here & there) / len(here | there)
    assert score.lost is None


def test_english_is_scored_by_a_list_with_reasons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rows = write_rows(tmp_path / "rows", [ENGLISH, GERMAN, "", ENGLISH, ENGLISH, "DSC00123", ENGLISH], "0000100")
    url = write_list(tmp_path / "list", [100, 101, 102, 104, 105, 999])
    (score,) = run(tmp_path / "work", rows, (url,)).values()
    assert score == {
        "here": 3,
        "there": 6,
        "both": 1,
        "only_here": 2,
        "only_there": 5,
        "precision": 0.333333,
        "recall": 0.166667,
        "jaccard": 0.125,
        "lost": {"not_english": 1, "no_caption": 1, "video": 1, "junk_caption": 1, "not_in_metadata": 1},
    }
    assert f"compared with {url}" in caplog.text
    assert "lost: not_english" in caplog.text


def test_a_finished_selection_is_scored_without_reasons_and_keeps_its_scores(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows", [ENGLISH, GERMAN, ENGLISH])
    first = write_list(tmp_path / "first", [100, 101])
    scores = run(tmp_path / "work", rows, (first,))
    parts = {path: path.read_bytes() for path in (tmp_path / "work" / "selection").glob("[pf]*")}
    second = write_list(tmp_path / "second", [102, 103])
    rows.unlink()  # what it was made from is not looked at any more
    again = run(tmp_path / "work", rows, (first, second))
    assert again[first] == scores[first]
    assert again[first]["lost"] == {"not_english": 1, "not_in_metadata": 0}
    assert (again[second]["both"], again[second]["lost"]) == (1, None)
    assert "was not counted" in format_score(second, again[second])
    assert {path: path.read_bytes() for path in parts} == parts


def test_scores_leave_the_selection_as_it_is(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows", [ENGLISH, GERMAN, ENGLISH])
    run(tmp_path / "scored", rows, (write_list(tmp_path / "list", [100]),))
    select(BuildConfig(metadata=(str(rows),), variant="english", output="out", processes=1), tmp_path / "plain")
    for path in (tmp_path / "plain" / "selection").iterdir():
        assert (tmp_path / "scored" / "selection" / path.name).read_bytes() == path.read_bytes()


def test_everything_that_can_be_compared_with(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows", [ENGLISH, GERMAN, ENGLISH])
    listed = write_list(tmp_path / "list", [102, 100, 100])
    declip = tmp_path / "declip.json"
    declip.write_text(
        "".join(
            json.dumps({"filename": "x", "url": f"http://farm1.staticflickr.com/5/{photo}_ab.jpg", "caption": "c"})
            + "\n"
            for photo in (102, 100)
        )
    )
    run(tmp_path / "work", rows, (listed,))
    for url in (listed, str(declip), str(tmp_path / "work"), str(tmp_path / "work" / "selection")):
        assert read_ids(url).tolist() == [100, 102]


def test_a_finished_data_set_is_known_by_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shard:
        index = "0.parquet"

    class Manifest:
        shards = (Shard(),)

    (tmp_path / "manifest.json").write_bytes(b"{}")
    monkeypatch.setattr("pipeline.selection.score.load_manifest", lambda url: Manifest())
    pq.write_table(pa.table({"key": ["30", "4"]}), tmp_path / "0.parquet")
    assert read_ids(str(tmp_path)).tolist() == [4, 30]
    pq.write_table(pa.table({"key": ["mine"]}), tmp_path / "0.parquet")
    with pytest.raises(InputError, match=r"0.parquet: a key is no photo id .*only data sets made from YFCC100M"):
        read_ids(str(tmp_path))


def test_what_cannot_be_compared_with_is_said_before_anything_is_read(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows", [ENGLISH])
    for url, message in (
        (str(tmp_path), "neither a finished data set"),
        (str(tmp_path / "absent"), "no such file"),
        (str(rows), "line 1 has 25 columns"),
    ):
        with pytest.raises(InputError, match=message):
            run(tmp_path / "work", rows, (url,))
        assert not (tmp_path / "work" / "selection").exists()


def test_damaged_scores_are_said(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows", [ENGLISH])
    url = write_list(tmp_path / "list", [100])
    run(tmp_path / "work", rows, (url,))
    (tmp_path / "work" / "selection" / "scores.json").write_bytes(b"{")
    with pytest.raises(StoreError, match=r"damaged.*delete it"):
        run(tmp_path / "work", rows, (url,))
