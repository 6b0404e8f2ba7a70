"""Ingest: from the parts come the rows, row numbers and funnel of the text; the parts' bytes depend on nothing else."""

from __future__ import annotations

import bz2
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import store
from pipeline.config import BuildConfig
from pipeline.errors import ConfigError, InputError
from pipeline.metadata import ingest as ingest_module
from pipeline.metadata import lines
from pipeline.metadata.ingest import ingest
from pipeline.metadata.metadata import form, open_chunks
from tests.yfcc_files import as_v1, config_of, read_all, row, write_sqlite

LINES = [
    row(number, "x" if number % 7 == 3 else number + 100, title=f"caf%C3%A9+{number}", marker=str(int(number % 5 == 0)))
    for number in range(500)
]
LINES[20:23] = ["malformed"] * 3
LINES[-2:] = ["malformed"] * 2


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "PART_ROWS", 170)
    monkeypatch.setattr(ingest_module, "GROUP_ROWS", 50)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 10_000)


def text(path: Path, content: list[str] = LINES) -> Path:
    path.write_text("".join(f"{line}\n" for line in content))
    return path


def ingest_config(output: Path | str, *paths: Path, **settings: int) -> BuildConfig:
    return config_of(*paths, stage="ingest", variant=None, output=str(output), **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_rows_and_funnel_are_those_of_the_text(tmp_path: Path) -> None:
    path, output = text(tmp_path / "rows.tsv"), tmp_path / "parquet"
    ingest(ingest_config(output, path))
    assert sorted(contents(output)) == ["ingest.json", *(f"part-{number:05d}.parquet" for number in range(3))]
    from_text, malformed, _ = read_all(config_of(path))
    from_parts, still_malformed, batches = read_all(config_of(output))
    assert from_parts.equals(from_text)
    assert malformed == still_malformed > 70
    assert all(rows.is_encoded for rows in batches)
    assert form(config_of(output)) == "v2"
    marker = json.loads((output / "ingest.json").read_bytes())
    assert (marker["rows"], marker["malformed"], marker["form"]) == (500, malformed, "v2")
    assert [part["rows"] for part in marker["parts"]] == [170, 170, 160]
    assert pq.ParquetFile(output / "part-00000.parquet").metadata.row_group(0).num_rows == 50


def test_wanted_rows_only(tmp_path: Path) -> None:
    path, output = text(tmp_path / "rows.tsv"), tmp_path / "parquet"
    ingest(ingest_config(output, path))

    def wanted(batch: pa.RecordBatch) -> pa.Array:
        return batch.column("line").to_numpy() % 11 == 0

    assert read_all(config_of(output), wanted)[0].equals(read_all(config_of(path), wanted)[0])


def test_every_form_can_be_ingested(tmp_path: Path) -> None:
    v1 = text(tmp_path / "v1.tsv", [as_v1(line) if "\t" in line else line for line in LINES])
    database = write_sqlite(tmp_path / "rows.sql", [line for line in LINES if "\t" in line])
    first = tmp_path / "first"
    ingest(ingest_config(first, text(tmp_path / "rows.tsv")))
    for name, path in {"v1": v1, "sqlite": database, "v2": first}.items():
        output = tmp_path / name
        ingest(ingest_config(output, path))
        assert read_all(config_of(output))[0].equals(read_all(config_of(path))[0])
        assert form(config_of(output)) == name
    with pytest.raises(InputError, match=r"holds v1 rows, but .* v2 rows"):
        list(open_chunks(config_of(tmp_path / "v2", tmp_path / "v1")))


def test_bytes_depend_on_the_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text(tmp_path / "rows.tsv")
    packed = tmp_path / "rows.tsv.bz2"
    packed.write_bytes(bz2.compress(path.read_bytes()))
    ingest(ingest_config(tmp_path / "one", path, processes=1))
    monkeypatch.setattr(lines, "BLOCK_BYTES", 33_333)
    ingest(ingest_config(tmp_path / "four", packed, processes=4))
    one, four = contents(tmp_path / "one"), contents(tmp_path / "four")
    del one["ingest.json"], four["ingest.json"]
    assert one == four
    assert len(one) == 3


def test_a_killed_ingest_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, output = text(tmp_path / "rows.tsv"), tmp_path / "parquet"
    ingest(ingest_config(tmp_path / "whole", path))
    real = store.write_bytes

    def dies(url: str, data: bytes) -> None:
        if url.endswith("part-00002.parquet"):
            raise KeyboardInterrupt
        real(url, data)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_bytes", dies)
        with pytest.raises(KeyboardInterrupt):
            ingest(ingest_config(output, path))
    assert sorted(contents(output)) == ["part-00000.parquet", "part-00001.parquet"]
    with pytest.raises(InputError, match=r"ingest\.json: is missing, so --stage ingest has not finished there"):
        list(open_chunks(config_of(output)))
    (output / "part-00000.parquet").write_bytes(b"of another attempt")
    (output / "part-00009.parquet").write_bytes(b"of a longer attempt")
    (output / "part-00002.parquet.part-host-1").write_bytes(b"torn")
    ingest(ingest_config(output, path))
    assert contents(output) == contents(tmp_path / "whole")


def test_a_finished_one_is_left_alone_and_never_mixed(tmp_path: Path) -> None:
    path, output = text(tmp_path / "rows.tsv"), tmp_path / "parquet"
    ingest(ingest_config(output, path))
    os.utime(output / "part-00000.parquet", (1, 1))
    ingest(ingest_config(output, path))
    assert (output / "part-00000.parquet").stat().st_mtime == 1
    text(path, LINES[:100])
    with pytest.raises(ConfigError, match=r"ingest\.json: other metadata was ingested here"):
        ingest(ingest_config(output, path))


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    output = tmp_path / "parquet"
    ingest(ingest_config(output, text(tmp_path / "rows.tsv")))
    (output / "part-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"differing: part-00001\.parquet"):
        list(open_chunks(config_of(output)))


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "parquet"
    output.mkdir()
    (output / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds other files \(manifest\.json\)"):
        ingest(ingest_config(output, text(tmp_path / "rows.tsv")))


def test_damaged_metadata_leaves_no_marker(tmp_path: Path) -> None:
    path, output = tmp_path / "rows.bz2", tmp_path / "parquet"
    path.write_bytes(bz2.compress(text(tmp_path / "rows.tsv").read_bytes() * 10)[:-50])
    with pytest.raises(InputError, match="damaged or cut short"):
        ingest(ingest_config(output, path))
    assert not (output / "ingest.json").exists()


def test_remote_output_and_input(tmp_path: Path) -> None:
    path = text(tmp_path / "rows.tsv")
    ingest(ingest_config("memory://ingested/parquet", path))
    found, *_ = read_all(config_of("memory://ingested/parquet"))
    assert found.equals(read_all(config_of(path))[0])
    store.write_bytes("memory://ingested/rows.tsv", path.read_bytes())
    assert read_all(config_of("memory://ingested/rows.tsv"))[0].equals(found)
