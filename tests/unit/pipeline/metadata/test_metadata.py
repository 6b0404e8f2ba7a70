"""All forms of metadata through one door: told apart by content, in order, together or refused."""

from __future__ import annotations

import bz2
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import BuildConfig
from pipeline.errors import InputError
from pipeline.metadata.metadata import files, form, open_chunks, read_chunk, total_bytes
from tests.yfcc_files import ROW, as_v1, config_of, read_all, row, write_sqlite

LINES = [row(number, number + 100, title=f"t{number}", marker=str(int(number % 5 == 0))) for number in range(2000)]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def pack(path: Path, lines: list[str]) -> Path:
    path.write_bytes(bz2.compress("".join(f"{line}\n" for line in lines).encode()))
    return path


def test_every_field_arrives_as_it_is_stored(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", [ROW])
    config = config_of(path)
    table, num_malformed, (rows,) = read_all(config)
    assert num_malformed == 0
    assert rows.is_encoded
    assert [chunk.done_bytes for chunk in open_chunks(config)] == [path.stat().st_size] == [total_bytes(config)]
    assert table.to_pylist() == [
        {
            "row": 0,
            "line": 0,
            "photo_id": 6985418911,
            "bucket_key": b"4e2f7a26a1dfbf165a7e30bdabf7e72a",
            "is_video": False,
            "key": "",
            "url": b"http://farm8.staticflickr.com/7205/6985418911_df7747990d.jpg",
            "title": b"The+title",
            "description": b"The+description",
            "user": b"nino63004",
            "date_taken": b"2012-02-16 09:56:37.0",
            "page_url": b"http://www.flickr.com/photos/x/1/",
            "license": b"Attribution License",
            "license_url": b"http://creativecommons.org/by",
        }
    ]


def test_all_forms_hold_the_same_rows(tmp_path: Path) -> None:
    text = write(tmp_path / "rows.tsv", LINES)
    reference, *_ = read_all(config_of(text))
    v1 = [as_v1(line) for line in LINES]
    less = reference.set_column(1, "line", pa.array([-1] * len(LINES)))
    less = less.set_column(3, "bucket_key", pa.array([b""] * len(LINES), pa.binary()))
    forms = {
        "v2": pack(tmp_path / "packed.bin", LINES),  # known by its content, not its name
        "v1": write(tmp_path / "rows_v1.tsv", v1),
        "sqlite": write_sqlite(tmp_path / "yfcc100m_dataset.sql", LINES),
    }
    for name, path in forms.items():
        config = config_of(path)
        assert form(config) == name
        assert read_all(config)[0].equals(reference if name == "v2" else less), name
        assert list(open_chunks(config))[-1].done_bytes == total_bytes(config) == path.stat().st_size
        assert read_all(config_of(f"file://{path}"))[0].num_rows == len(LINES)


def test_several_files_are_one(tmp_path: Path) -> None:
    whole, *_ = read_all(config_of(write(tmp_path / "whole.tsv", LINES)))
    parts = [
        write(tmp_path / "0.tsv", LINES[:700]),
        pack(tmp_path / "1.tsv.bz2", LINES[700:1200]),
        write(tmp_path / "2.tsv", LINES[1200:]),
    ]
    config = config_of(*parts)
    assert read_all(config)[0].equals(whole)
    assert list(open_chunks(config))[-1].done_bytes == total_bytes(config)


def test_a_folder_stands_for_its_files_in_the_order_of_names(tmp_path: Path) -> None:
    for number in reversed(range(10)):
        lines = [as_v1(line) for line in LINES[200 * number : 200 * (number + 1)]]
        pack(tmp_path / f"yfcc100m_dataset-{number}.bz2", lines)
    (tmp_path / "README").write_text("read me")
    config = config_of(tmp_path)
    table, *_ = read_all(config)
    assert table["photo_id"].to_pylist() == list(range(100, 2100))
    assert [Path(path).name[-5] for path in files(config)] == list("0123456789")
    assert form(config) == "v1"


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file of this folder ends with \.parquet or \.bz2"):
        list(open_chunks(config_of(tmp_path)))


def test_only_wanted_rows_are_built(tmp_path: Path) -> None:
    whole = write(tmp_path / "rows.tsv", [*LINES, "malformed"])
    v1 = write(tmp_path / "v1.tsv", [as_v1(line) for line in LINES] + ["malformed"])
    for path in (whole, v1, write_sqlite(tmp_path / "rows.sql", [*LINES, row(1, "x")])):
        config = config_of(path)
        every, num_malformed, _ = read_all(config)
        some, still_malformed, rows = read_all(config, lambda batch: batch.column("photo_id").to_numpy() % 3 == 0)
        assert num_malformed == still_malformed == 1
        expected = every.take([index for index, photo in enumerate(every["photo_id"].to_pylist()) if photo % 3 == 0])
        assert some.equals(expected)
        assert sum(one.num_unwanted for one in rows) == len(LINES) - expected.num_rows
        none, *_ = read_all(config, lambda batch: batch.column("photo_id").to_numpy() < 0)
        assert none.num_rows == 0


def test_v1_and_v2_together_are_refused(tmp_path: Path) -> None:
    v2, v1 = write(tmp_path / "a.tsv", LINES[:5]), write(tmp_path / "b.tsv", [as_v1(line) for line in LINES[:5]])
    with pytest.raises(InputError, match=r"b\.tsv: holds v1 rows, but .*a\.tsv v2 rows"):
        list(open_chunks(config_of(v2, v1)))


def test_the_second_file_is_looked_at_before_the_first_is_read(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.tsv", [ROW]), write(tmp_path / "bad.tsv", ["a\tb"])
    with pytest.raises(InputError, match=r"bad\.tsv: wrong column count"):
        next(open_chunks(config_of(good, bad)))


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_bzip2_is_an_error_and_never_wrong_rows(tmp_path: Path, damage: str) -> None:
    path = pack(tmp_path / "rows.bz2", LINES * 3)
    packed = bytearray(path.read_bytes())
    if damage == "cut":
        del packed[-100:]
    else:
        packed[len(packed) * 2 // 3] ^= 16
    path.write_bytes(packed)
    with pytest.raises(InputError, match=r"rows\.bz2: the bzip2 data is damaged or cut short near byte \d+.*again"):
        read_all(config_of(path))


def test_missing_files_are_found_before_anything_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", [ROW])
    config = config_of(path, tmp_path / "absent")
    with pytest.raises(InputError, match=r"absent: there is no such file; expected YFCC100M's metadata"):
        total_bytes(config)
    with pytest.raises(InputError, match="no such file"):
        next(open_chunks(config))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.gz", b"\x1f\x8b" + bytes(50), "gzip file; expected YFCC100M's metadata"),
        ("rows.sql", b"SQLite format 3\0" + bytes(84), "SQLite file cannot be read|no table"),
        ("rows.parquet", b"PAR1" + bytes(100), "Parquet file is damaged"),
        ("rows.bin", bytes(range(256)) * 10, "binary data"),
    ],
)
def test_other_files_are_said_to_be_what_they_are(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(open_chunks(config_of(tmp_path / name)))
    assert str(tmp_path / name) in str(caught.value)


def test_declips_list_alone_gives_rows(tmp_path: Path) -> None:
    path = tmp_path / "declip.json"
    url = "http://farm1.staticflickr.com/2/357_a5.jpg"
    path.write_text(f'{{"filename": "1.jpg", "url": "{url}", "caption": "A boat"}}\n')
    config = BuildConfig(variant="declip", subset_list=str(path), output="unused")
    table, num_malformed, (rows,) = read_all(config)
    assert (form(config), num_malformed, rows.is_encoded) == ("declip", 0, False)
    assert table.select(["photo_id", "url", "description"]).to_pylist() == [
        {"photo_id": 357, "url": url, "description": "A boat"}
    ]
    assert total_bytes(config) == path.stat().st_size


def test_local_tables_go_through_the_same_door(tmp_path: Path) -> None:
    for number in range(2):
        table = pa.table({"path": [f"{number}.jpg"], "caption": ["A boat"]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    config = config_of(tmp_path, dataset="local")
    table, _, (first, _) = read_all(config)
    assert table["row"].to_pylist() == [0, 1]
    assert table["photo_id"].to_pylist() == table["line"].to_pylist() == [-1, -1]
    assert not first.is_encoded


def test_chunks_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    import pickle

    for path in (write(tmp_path / "a.tsv", LINES), pack(tmp_path / "a.bz2", LINES)):
        for chunk in open_chunks(config_of(path)):
            sent = pickle.loads(pickle.dumps(chunk))
            assert pickle.loads(pickle.dumps(read_chunk(sent))).batch.equals(read_chunk(chunk).batch)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", LINES)
    (chunk,) = open_chunks(config_of(path))
    write(path, LINES[:1000])
    with pytest.raises(InputError, match="changed while it was read"):
        read_chunk(chunk)
