from __future__ import annotations

import bz2
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.metadata import row_counts
from pipeline.metadata.row_counts import count_rows


@pytest.mark.parametrize(("text", "rows"), [(b"", 0), (b"a\n", 1), (b"a\nb", 2), (b"a\n\nb\n", 3)])
@pytest.mark.parametrize("packed", [False, True])
def test_short_texts_are_counted(tmp_path: Path, text: bytes, rows: int, packed: bool) -> None:
    path = tmp_path / "rows"
    path.write_bytes(bz2.compress(text) if packed else text)
    found = count_rows(str(path))
    assert (found.rows, found.is_exact) == (rows, True)


def test_rows_that_straddle_blocks_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotation = b'{"image_id": "x", "caption": "\\n"}'
    text = b'{"info": {},\n "annotations": [' + b", ".join([annotation] * 50) + b"]}\n"
    path = tmp_path / "boats_2019.json"
    path.write_bytes(text)
    for block_bytes in (60, 61, 64, 100, 10_000):
        monkeypatch.setattr(row_counts, "_BLOCK_BYTES", block_bytes)
        assert count_rows(str(path)).rows == 50


def test_tables_say_it_themselves(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": range(123)}), path)
    assert count_rows(str(path)).rows == 123
    assert count_rows(str(path)).is_exact
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"rows\.parquet.*not a readable Parquet table"):
        count_rows(str(path))


def test_long_texts_are_judged_by_their_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_counts, "COUNTED_TEXT_BYTES", 1000)
    monkeypatch.setattr(row_counts, "COUNTED_BZ2_BYTES", 100)
    monkeypatch.setattr(row_counts, "_HEAD_BYTES", 5000)
    text = b"".join(b"%010d\n" % (7919 * i % 10**10) for i in range(10_000))
    path = tmp_path / "rows.tsv"
    path.write_bytes(text)
    found = count_rows(str(path))
    assert not found.is_exact
    assert found.rows == pytest.approx(10_000, rel=0.01)
    assert "11 bytes a row" in found.how
    packed = tmp_path / "rows.tsv.bz2"
    packed.write_bytes(bz2.compress(text, 1))
    unknown = count_rows(str(packed))  # of the published metadata, where the beginning holds no whole block
    assert unknown.rows == round(packed.stat().st_size * row_counts.BZ2_RATIO / row_counts.V2_ROW_BYTES)
    monkeypatch.setattr(row_counts, "_HEAD_BYTES", packed.stat().st_size - 1000)
    found = count_rows(str(packed))
    assert found.rows == pytest.approx(10_000, rel=0.15)
    assert "11 bytes a row, text 3." in found.how


def test_the_sqlite_file_is_judged_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "yfcc100m_dataset.sql"
    path.write_bytes(b"SQLite format 3\0".ljust(65_644))
    found = count_rows(str(path))
    assert (found.rows, found.is_exact) == (100, False)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.tsv: there is no such file"):
        count_rows(str(tmp_path / "nothing.tsv"))
    path = tmp_path / "cut.bz2"
    path.write_bytes(bz2.compress(b"a\n" * 5000)[:-8])
    with pytest.raises(InputError, match=r"cut\.bz2: the bzip2 data is damaged"):
        count_rows(str(path))
