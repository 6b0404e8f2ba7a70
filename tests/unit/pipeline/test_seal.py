from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import seal, store
from pipeline.config import BuildConfig
from pipeline.errors import InputError, RejectionLimitError, ShardError, StoreError
from pipeline.fetched import fetched_tar, outcomes_path
from pipeline.manifest import load_manifest, read_index
from pipeline.records import OUTCOME_SCHEMA, SELECTION_SCHEMA, Funnel, Reason
from pipeline.selection import part_path

CONFIG = BuildConfig(metadata=("rows.tsv",), subset_list="list.tsv", output="replaced")
REJECTED = {3: Reason.DEAD_LINK, 5: Reason.PLACEHOLDER}


@pytest.fixture(autouse=True)
def _finished_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many units as there are parts, without select's own marker."""
    monkeypatch.setattr(seal, "num_units", lambda work: len(list((work / "selection").glob("part-*"))))


def selection_row(i: int, **changes: Any) -> dict[str, Any]:
    return {
        "key": f"{(i * 7919) % 1000:03d}",  # not in the order of rows
        "row": i,
        "url": f"http://farm1.example/{i}.jpg",
        "title": f'Title {i} "ü" 東京',
        "description": f"A description, number {i}" if i % 3 else "",
        "title_usable": True,
        "description_usable": bool(i % 3),
        "user": "somebody",
        "date_taken": "2008-01-01 00:00:00.0",
        "page_url": f"http://example/{i}/",
        "license": "CC BY",
        "license_url": "http://example/by/",
    } | changes


def picture(i: int) -> bytes:
    return random.Random(i).randbytes(300 + 97 * i)


def write_unit(
    work: Path,
    unit: int,
    rows: list[dict[str, Any]],
    rejected: dict[int, Reason] | None = None,
    shuffle: int | None = None,
) -> None:
    """What select and fetch leave behind for a unit."""
    rejected = REJECTED if rejected is None else rejected
    outcomes, members = [], {}
    for position, row in enumerate(rows):
        outcome: dict[str, Any] = {name: row[name] for name in ("key", "row", "url")}
        if position in rejected:
            outcome |= {"reason": str(rejected[position]), "detail": "x", "member": "", "format": "", "sha256": ""}
            outcome |= {"width": 0, "height": 0, "num_bytes": 0}
        else:
            data, form = picture(row["row"]), ("jpg", "png", "webp")[position % 3]
            members[f"{position:08d}.{form}"] = data
            outcome |= {"reason": "", "detail": "", "member": f"{position:08d}.{form}", "format": form}
            outcome |= {"width": 40, "height": 30, "num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        outcomes.append(outcome)
    for path in (part_path(work, unit), fetched_tar(work, unit)):
        path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), part_path(work, unit))
    names = list(members)
    if shuffle is not None:
        random.Random(shuffle).shuffle(names)
    with tarfile.open(fetched_tar(work, unit), "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            info.mtime = shuffle or 1
            tar.addfile(info, io.BytesIO(members[name]))
    pq.write_table(pa.Table.from_pylist(outcomes, schema=OUTCOME_SCHEMA), outcomes_path(work, unit))


def build(folder: Path, output: str | None = None, shuffle: int | None = None) -> tuple[BuildConfig, Path]:
    """Three units: two of eight rows, and one whose pictures are all bad."""
    config, work = replace(CONFIG, output=output or str(folder / "out"), max_rejected=0.5), folder / "work"
    for unit in (0, 1):
        write_unit(work, unit, [selection_row(8 * unit + i) for i in range(8)], shuffle=shuffle)
    write_unit(work, 2, [selection_row(16 + i) for i in range(2)], dict.fromkeys(range(2), Reason.DEAD_LINK))
    return config, work


FUNNEL = Funnel(rows=30, rejected={Reason.VIDEO: 2, Reason.NOT_IN_LIST: 10, Reason.NO_CAPTION: 0}, kept=18)


def seal_all(config: BuildConfig, work: Path) -> None:
    for unit in range(3):
        seal.seal_unit(config, work, unit)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_shard_is_what_its_manifest_and_index_say(tmp_path: Path) -> None:
    config, work = build(tmp_path)
    seal_all(config, work)
    sealed = seal.finish(config, work, FUNNEL)
    assert sealed == load_manifest(config.output)
    assert sealed.funnel == {
        "rows": 30,
        "kept": 12,
        "rejected": {"video": 2, "not_in_list": 10, "dead_link": 4, "placeholder": 2},
    }
    assert (sealed.name, sealed.variant, sealed.num_samples) == ("yfcc15m-openai", "openai", 12)
    for unit, shard in enumerate(sealed.shards):
        data = (tmp_path / "out" / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.num_bytes, shard.sha256)
        assert len(data) % 10_240 == 0
        index = read_index(config.output, shard)
        rows = {selection_row(i)["key"]: (i, selection_row(i)) for i in range(8 * unit, 8 * unit + 8)}
        assert index.keys == sorted(k for k, (i, _) in rows.items() if i - 8 * unit not in REJECTED)
        for n, key in enumerate(index.keys):
            i, row = rows[key]
            cut = {
                name: data[getattr(index, f"{name}_offset")[n] :][: getattr(index, f"{name}_size")[n]]
                for name in ("image", "txt", "json")
            }
            assert cut["image"] == picture(i)
            assert cut["txt"].decode() == (row["description"] or row["title"])
            content = json.loads(cut["json"])
            assert (
                cut["json"] == json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
            )
            assert content == {name: value for name, value in row.items() if name != "row"} | {
                "caption": cut["txt"].decode(),
                "width": 40,
                "height": 30,
                "sha256": hashlib.sha256(picture(i)).hexdigest(),
            }
            whole = data[index.offset[n] : index.offset[n] + index.size[n]]
            assert hashlib.sha256(whole).hexdigest() == index.sha256[n]
            assert index.offset[n] == (index.offset[n - 1] + index.size[n - 1] if n else 0)


def test_plain_webdataset_reads_every_sample(tmp_path: Path) -> None:
    import webdataset as wds

    config, work = build(tmp_path)
    seal_all(config, work)
    for unit in range(2):
        samples = list(wds.WebDataset(f"{config.output}/{unit:05d}.tar", shardshuffle=False))
        rows = {selection_row(i)["key"]: i for i in range(8 * unit, 8 * unit + 8) if i - 8 * unit not in REJECTED}
        assert [sample["__key__"] for sample in samples] == sorted(rows)
        for sample in samples:
            form = next(iter({"jpg", "png", "webp"} & sample.keys()))
            assert sample[form] == picture(rows[sample["__key__"]])
            assert sample["txt"].decode() == json.loads(sample["json"])["caption"]


@pytest.mark.parametrize("remote", [False, True])
def test_the_same_bytes_anywhere_and_whatever_the_fetched_order(tmp_path: Path, remote: bool) -> None:
    first = build(tmp_path / "a")
    second = build(tmp_path / "b", f"memory://{uuid.uuid4().hex}/out" if remote else None, shuffle=5)
    digests = []
    for config, work in (first, second):
        seal_all(config, work)
        digests.append(seal.finish(config, work, FUNNEL).sha256)
    assert digests[0] == digests[1]
    names = store.list_names(second[0].output)
    assert names == ["00000.parquet", "00000.tar", "00001.parquet", "00001.tar", "manifest.json"]
    for name in names:
        assert store.read_bytes(store.join(second[0].output, name)) == (tmp_path / "a" / "out" / name).read_bytes()


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    config, work = build(tmp_path)
    seal_all(config, work)
    seal.finish(config, work, FUNNEL)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "out").iterdir()}
    assert [seal.is_sealed(config, work, unit) for unit in range(3)] == [True] * 3
    assert [seal.seal_unit(config, work, unit) is None for unit in range(3)] == [False, False, True]
    seal.finish(config, work, FUNNEL)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "out").iterdir()} == before
    assert not any(fetched_tar(work, unit).exists() for unit in range(3))
    assert {path.name for path in (work / "sealed").iterdir()} == {"00000.json", "00001.json", "00002.json"}


@pytest.mark.parametrize("damage", ["deleted", "cut", "index deleted"])
def test_a_shard_lost_from_the_output_is_made_again(tmp_path: Path, damage: str) -> None:
    config, work = build(tmp_path)
    seal_all(config, work)
    before = contents(tmp_path / "out")
    path = tmp_path / "out" / ("00001.parquet" if damage.startswith("index") else "00001.tar")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-512])
    else:
        path.unlink()
        with pytest.raises(ShardError, match=r"not all units are sealed, missing are 00001"):
            seal.finish(config, work, FUNNEL)
    assert not seal.is_sealed(config, work, 1)
    with pytest.raises(ShardError, match=r"00001\.tar: the unit's pictures are gone; delete .*00001\.\* and run"):
        seal.seal_unit(config, work, 1)
    assert seal.units_to_build(config, work, range(3)) == [1]
    assert not outcomes_path(work, 1).exists()  # so that fetching takes it for new
    write_unit(work, 1, [selection_row(8 + i) for i in range(8)])
    assert seal.units_to_build(config, work, range(3)) == [1]
    assert outcomes_path(work, 1).exists()
    assert seal.seal_unit(config, work, 1) is not None
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("moment", ["tar", "index", "entry"])
def test_interrupted_while_sealing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    config, work = build(tmp_path)
    undisturbed = build(tmp_path / "undisturbed")
    seal_all(*undisturbed)
    with monkeypatch.context() as patch:
        put, write = store.put_file, store.write_bytes

        def broken(*args: Any) -> None:
            name = str(args[-1] if moment == "tar" else args[0])
            if name.endswith({"tar": ".tar", "index": ".parquet", "entry": ".json"}[moment]):
                raise StoreError("broken")
            (put if moment == "tar" else write)(*args)

        patch.setattr(store, "put_file" if moment == "tar" else "write_bytes", broken)
        with pytest.raises(StoreError):
            seal.seal_unit(config, work, 0)
    assert not seal.is_sealed(config, work, 0)
    assert fetched_tar(work, 0).exists()
    assert not list((work / "sealed").glob("*.part"))
    seal_all(config, work)
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed" / "out")


def test_a_damaged_fetched_tar(tmp_path: Path) -> None:
    config, work = build(tmp_path)
    path = fetched_tar(work, 0)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[512 + 10] ^= 1
    for content, message in (
        (bytes(damaged), r"member 00000000\.jpg of key 000 has sha256 .*delete .*00000\.\* and run"),
        (whole[:2048], r"delete .*00000\.\* and run"),
        (b"<html>" * 1000, r"not a tar .*delete .*00000\.\* and run"),
    ):
        path.write_bytes(content)
        with pytest.raises(ShardError, match=message):
            seal.seal_unit(config, work, 0)
        assert store.list_names(config.output) == []
        assert not list((work / "sealed").glob("*"))
    path.write_bytes(whole)
    assert seal.seal_unit(config, work, 0) is not None


def test_outcomes_of_another_selection(tmp_path: Path) -> None:
    config, work = build(tmp_path)
    outcomes_path(work, 0).write_bytes(outcomes_path(work, 1).read_bytes())
    with pytest.raises(ShardError, match=r"00000\.parquet: its 8 rows are not the 8 of .*part-00000\.parquet"):
        seal.seal_unit(config, work, 0)


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "a\nb", "x" * 96, "é" * 48])
def test_keys_that_cannot_name_a_sample(tmp_path: Path, key: str) -> None:
    config = replace(CONFIG, output=str(tmp_path / "out"))
    write_unit(tmp_path, 0, [selection_row(0), selection_row(1, key=key)])
    with pytest.raises(InputError, match="cannot name a sample"):
        seal.seal_unit(config, tmp_path, 0)


def test_keys_of_the_greatest_length_and_twice(tmp_path: Path) -> None:
    config = replace(CONFIG, output=str(tmp_path / "out"))
    write_unit(tmp_path, 0, [selection_row(0, key="x" * 95), selection_row(1, key="é" * 47)])
    shard = seal.seal_unit(config, tmp_path, 0)
    assert shard is not None
    assert read_index(config.output, shard).keys == ["x" * 95, "é" * 47]
    write_unit(tmp_path, 1, [selection_row(0), selection_row(1, key="000")])
    with pytest.raises(InputError, match="key '000' occurs twice"):
        seal.seal_unit(config, tmp_path, 1)


def test_finish_names_what_is_not_sealed(tmp_path: Path) -> None:
    config, work = build(tmp_path)
    seal.seal_unit(config, work, 1)
    with pytest.raises(ShardError, match="not all units are sealed, missing are 00000, 00002"):
        seal.finish(config, work, FUNNEL)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_too_many_rejections(tmp_path: Path) -> None:
    config, work = build(tmp_path)
    seal_all(config, work)
    seal.finish(replace(config, max_rejected=6 / 18), work, FUNNEL)
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(
        RejectionLimitError, match=r"6 of 18 selected rows were rejected \(dead_link 4, placeholder 2\).*--max-rejected"
    ):
        seal.finish(replace(config, max_rejected=0.33), work, FUNNEL)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_no_samples_at_all(tmp_path: Path) -> None:
    config, work = replace(CONFIG, output=str(tmp_path / "out"), max_rejected=1.0), tmp_path / "work"
    with pytest.raises(InputError, match="none of 5 rows was selected"):
        seal.finish(config, work, Funnel(rows=5, rejected={Reason.NOT_IN_LIST: 5}, kept=0))
    write_unit(work, 0, [selection_row(0)], {0: Reason.DEAD_LINK})
    assert seal.seal_unit(config, work, 0) is None
    with pytest.raises(InputError, match=r"no picture of 1 selected rows is good \(dead_link 1\)"):
        seal.finish(config, work, Funnel(rows=1, rejected={}, kept=1))


def test_outcomes_that_do_not_add_up(tmp_path: Path) -> None:
    config, work = build(tmp_path)
    seal_all(config, work)
    with pytest.raises(ShardError, match="20 rows were selected, 18 have an outcome"):
        seal.finish(config, work, Funnel(rows=20, rejected={}, kept=20))


def test_variants() -> None:
    assert seal.variant_of(CONFIG) == "openai"
    assert seal.variant_of(BuildConfig()) == "sample"
    assert seal.variant_of(BuildConfig(source="local", metadata=("a.parquet",), output="out")) == "local"
