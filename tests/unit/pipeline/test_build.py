from __future__ import annotations

import fcntl
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import build as build_module
from pipeline.build_yfcc15m import main
from pipeline.config import BuildConfig
from pipeline.lease import hold
from pipeline.manifest import load_manifest
from pipeline.records import Reason
from pipeline.workspace import work_folder
from tests.yfcc_files import row

NUM_ROWS = 40
SCRIPT = Path(__file__).resolve().parents[3] / "pipeline" / "build_yfcc15m.py"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Forty pictures with captions; five of them are missing, one is text."""
    pictures: list[bytes | None] = []
    for i in range(NUM_ROWS):
        out = io.BytesIO()
        Image.new("RGB", (32 + i, 24), (i, 99, 7)).save(out, "JPEG")
        pictures.append(None if i % 8 == 5 else b"no picture" if i == 0 else out.getvalue())
    captions = [f"A photograph of boat number {i} in the <harbour>" for i in range(NUM_ROWS)]
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"image": pa.array(pictures, pa.binary()), "caption": captions}), path)
    return path


def arguments(table: Path, *more: str) -> list[str]:
    output = str(table.parent / "out")
    fixed = ["--dataset", "local", "--metadata", str(table), "--output", output, "--samples-per-shard", "16"]
    return [*fixed, "--processes", "1", *more]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def data_set(folder: Path) -> dict[str, bytes]:
    """What a build decides; the report also says when pictures came."""
    return {name: data for name, (data, _) in contents(folder).items() if name != "report.html"}


def test_a_build_then_the_same_again_changes_nothing(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert main(arguments(table)) == 0
    output = table.parent / "out"
    manifest = load_manifest(str(output))
    assert manifest.funnel["rows"] == NUM_ROWS
    assert manifest.num_samples == NUM_ROWS - 6
    assert {k: v for k, v in manifest.funnel["rejected"].items() if v} == {"missing_file": 5, "not_an_image": 1}
    assert sum(shard.num_samples for shard in manifest.shards) == manifest.num_samples
    assert manifest.sha256 in caplog.text
    before = contents(table.parent)
    assert main(arguments(table)) == 0
    assert contents(table.parent) == before


def test_stages_one_by_one_give_the_same_bytes(table: Path, tmp_path: Path) -> None:
    for stage in ("select", "fetch", "seal", "report"):
        assert main(arguments(table, "--stage", stage)) == 0
    output = table.parent / "out"
    again = arguments(table)
    again[again.index(str(output))] = str(tmp_path / "elsewhere" / "out")
    assert main(again) == 0
    assert data_set(tmp_path / "elsewhere" / "out") == data_set(output)


def test_damage_is_found_and_repaired(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(arguments(table)) == 0
    output = table.parent / "out"
    before = data_set(output)
    assert main(arguments(table, "--stage", "verify")) == 0
    shard = output / "00001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert main(arguments(table, "--stage", "verify")) == 1
    assert "00001.tar" in caplog.text
    assert "--stage repair" in caplog.text
    assert main(arguments(table, "--stage", "repair")) == 0
    assert data_set(output) == before
    assert main(arguments(table, "--stage", "verify")) == 0


@pytest.mark.parametrize("work_is_left", [True, False])
def test_a_finished_data_set_is_repaired_without_its_metadata(
    work_is_left: bool, table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody remembers the flags of a build of last year; the output says all that is needed."""
    assert main(arguments(table)) == 0
    output = table.parent / "out"
    before = data_set(output)
    shard = output / "00001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    if not work_is_left:
        shutil.rmtree(table.parent / "out_work")
    assert main(["--output", str(output), "--stage", "repair"]) == 0
    assert data_set(output) == before
    (output / "manifest.json").unlink()
    assert main(["--output", str(output), "--stage", "repair"]) == 2
    assert "name the build's --metadata" in caplog.text


def test_what_has_healed_is_fetched_and_only_its_shard_sealed_anew(tmp_path: Path) -> None:
    """Three of forty files come later; two of three shards gain samples, the manifest follows."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    late = {3: b"", 4: b"", 20: b""}
    for i in range(NUM_ROWS):
        out = io.BytesIO()
        Image.new("RGB", (32 + i, 24), (i, 99, 7)).save(out, "JPEG")
        if i in late:
            late[i] = out.getvalue()
        else:
            (pictures / f"{i}.jpg").write_bytes(out.getvalue())
    captions = [f"A photograph of boat number {i} in the harbour" for i in range(NUM_ROWS)]
    paths = [f"pictures/{i}.jpg" for i in range(NUM_ROWS)]
    pq.write_table(pa.table({"path": paths, "caption": captions}), tmp_path / "mine.parquet")
    run = arguments(tmp_path / "mine.parquet")
    assert main(run) == 0
    before = contents(tmp_path / "out")
    assert load_manifest(str(tmp_path / "out")).funnel["rejected"] == {"missing_file": 3}
    for i, data in late.items():
        (pictures / f"{i}.jpg").write_bytes(data)
    assert main([*run, "--retry-failed"]) == 0
    manifest = load_manifest(str(tmp_path / "out"))
    assert manifest.num_samples == NUM_ROWS
    assert {reason: count for reason, count in manifest.funnel["rejected"].items() if count} == {}
    after = contents(tmp_path / "out")
    assert {name for name in before if name.endswith(".tar") and before[name] != after[name]} == {
        "00000.tar",
        "00001.tar",
    }
    assert main([*run, "--stage", "verify"]) == 0
    fresh = [*run, "--work", str(tmp_path / "fresh_work")]
    fresh[fresh.index(str(tmp_path / "out"))] = str(tmp_path / "fresh")
    assert main(fresh) == 0
    assert data_set(tmp_path / "fresh") == data_set(tmp_path / "out")


def test_status_and_dry_run_write_nothing(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert main(arguments(table, "--dry-run")) == 0
    assert main(arguments(table, "--stage", "status")) == 0
    assert [path.name for path in table.parent.iterdir()] == ["mine.parquet"]
    assert main(arguments(table)) == 0
    before = contents(table.parent)
    caplog.clear()
    assert main(arguments(table, "--stage", "status")) == 0
    assert main(arguments(table, "--dry-run")) == 0
    assert "sealed" in caplog.text
    assert contents(table.parent) == before


@pytest.mark.parametrize("stage", ["fetch", "seal", "report"])
def test_a_stage_too_early_says_so(stage: str, table: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(arguments(table, "--stage", stage)) == 1
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None


def test_other_settings_in_the_same_folder_are_refused(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(arguments(table, "--stage", "select")) == 0
    assert main(arguments(table, "--stage", "select", "--min-side", "20")) == 2
    assert "min_side was 16, is 20" in caplog.text
    assert "--work" in caplog.text
    assert main(arguments(table, "--stage", "select", "--threads", "3", "--max-rejected", "0.9")) == 0


@pytest.mark.parametrize("sealed", [True, False])
def test_shards_of_another_build_are_not_overwritten(
    sealed: bool, table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a finished data set nor one in the making, whatever the work folder of the newcomer."""
    output = table.parent / "out"
    assert main(arguments(table)) == 0
    if not sealed:
        (output / "manifest.json").unlink()
    before = contents(output)
    other = arguments(table, "--work", str(tmp_path / "other_work"))
    other[other.index("--samples-per-shard") + 1] = "7"
    assert main(other) == 2
    assert ("a sealed data set" if sealed else "shards of another build") in caplog.text
    assert contents(output) == before
    assert main(arguments(table, "--stage", "report", "--work", str(tmp_path / "third"))) == (0 if sealed else 1)
    assert main(arguments(table)) == 0


def test_a_changed_metadata_file_is_refused(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(arguments(table, "--stage", "select")) == 0
    pq.write_table(pq.read_table(table).slice(0, 30), table)
    assert main(arguments(table)) == 2
    assert "metadata_bytes" in caplog.text


def test_two_builds_at_once_are_refused(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = work_folder(BuildConfig(output=str(table.parent / "out")))
    work.mkdir()
    with (work / "lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(arguments(table)) == 2
    assert "another build" in caplog.text


def test_too_many_rejections_end_with_3_and_without_a_manifest(table: Path) -> None:
    assert main(arguments(table, "--max-rejected", "0.1")) == 3
    assert not (table.parent / "out" / "manifest.json").exists()
    assert main(arguments(table, "--max-rejected", "0.5")) == 0


def test_too_many_rejections_end_the_fetching(
    table: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build_module, "LIMIT_FROM_ROWS", 16)
    assert main(arguments(table, "--max-rejected", "0.1")) == 3
    assert "fetched so far" in caplog.text
    assert Reason.MISSING_FILE in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        ["--no-such-flag"],
        ["--samples-per-shard", "many"],
        ["--samples-per-shard", "0"],
        ["--metadata", "rows.tsv"],
        ["--subset-list", "list.tsv"],
        ["--dataset", "local"],
        ["--stage", "nonsense"],
    ],
)
def test_usage_errors_end_with_2(wrong: list[str]) -> None:
    try:
        code: object = main(wrong)
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2


def test_two_ingests_at_once_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "rows.tsv").write_text("".join(f"{row(i, 1000 + i)}\n" for i in range(50)))
    output = str(tmp_path / "parquet")
    run = ["--stage", "ingest", "--metadata", str(tmp_path / "rows.tsv"), "--output", output]
    other = tmp_path / "other_work"
    other.mkdir()
    with hold(output, other):
        assert main(run) == 2
    assert "another build writes to this output" in caplog.text
    assert main(run) == 0
    assert main(run) == 0
    assert sorted(path.name for path in (tmp_path / "parquet").iterdir()) == ["ingest.json", "part-00000.parquet"]


def test_an_executor_that_cannot_be_had_is_found_out_before_selecting(
    table: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(table.parent))
    assert main(arguments(table, "--executor", "slurm")) == 2
    assert "sbatch" in caplog.text
    assert not (table.parent / "out_work" / "selection").exists()


def test_a_missing_file_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = tmp_path / "gone.parquet"
    assert main(["--dataset", "local", "--metadata", str(missing), "--output", str(tmp_path / "out")]) == 1
    assert [record.getMessage() for record in caplog.records] == [f"{missing}: no such file"]


def test_an_output_that_cannot_be_written_is_found_out_first(table: Path) -> None:
    (table.parent / "file").write_text("not a folder")
    wrong = arguments(table)
    wrong[wrong.index(str(table.parent / "out"))] = str(table.parent / "file" / "out")
    assert main(wrong) == 1
    assert sorted(path.name for path in table.parent.iterdir()) == ["file", "mine.parquet"]


def test_interruption_says_how_to_resume(
    table: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "select", interrupted)
    assert main(arguments(table)) == 130
    assert "run the same command again" in caplog.text


def test_the_script_runs_from_anywhere_without_shadowing(table: Path, tmp_path: Path) -> None:
    """From another folder, uninstalled, and although pipeline/ holds modules with common names."""
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments(table, "--stage", "select")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr
    settings = json.loads((table.parent / "out_work" / "config.json").read_text())
    assert settings["samples_per_shard"] == 16


def test_work_folders_of_remote_outputs_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {work_folder(BuildConfig(output=f"s3://{bucket}/yfcc")) for bucket in ("one", "two")}
    assert len(folders) == 2
    assert all(tmp_path in folder.parents for folder in folders)
