"""`slip ledger` as people and programs see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slip.data.sets import Mix, open_mix
from slip.ledger import main
from tests.ledger_runs import batches, consume
from tests.tiny_data import write_shards


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_shards(tmp_path_factory.mktemp("ledger") / "set", [20, 30])


@pytest.fixture(scope="module")
def mix(manifest: str) -> Mix:
    return open_mix([manifest])


def new_run(folder: Path, mix: Mix, world_size: int = 2, **options: object) -> str:
    consume(str(folder), mix, batches(mix, global_batch=10, steps=7), stop=7, world_size=world_size, **options)  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps({"data": {"manifest": mix.urls, "weights": []}}))
    return str(folder)


def test_a_proof_is_a_table_and_a_verdict(tmp_path: Path, mix: Mix, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", new_run(tmp_path, mix)]) == 0
    head, first, second, verdict = capsys.readouterr().out.splitlines()
    assert " ".join(head.split()) == "data set epoch steps samples exactly once missed doubled replaced"
    assert " ".join(first.split()) == "0 tiny 0 finished 0-4 50 50 0 0 0"
    assert " ".join(second.split()) == "0 tiny 1 under way 5-6 20 20 0 0 0"
    assert len(first) == len(second) == len(head)
    assert verdict == (
        "proved: every sample exactly once in 1 finished epoch, at most once in 1 under way; "
        "7 steps of 10 samples; ranks: 2"
    )


def test_what_is_wrong_is_named_below_the_table(tmp_path: Path, mix: Mix, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path, mix, world_size=10, every=1)
    (tmp_path / "ledger/00000002-00000003/rank-00004-of-00010.ledger").unlink()
    assert main(["verify", run]) == 1
    lines = capsys.readouterr().out.splitlines()
    lost = int(batches(mix, global_batch=10, steps=7)[2].ids[4])
    shard, row = ("00000.tar", lost) if lost < 20 else ("00001.tar", lost - 20)
    assert lines[3] == f"missed: sample {lost} ({shard}, row {row}, key {lost:06d}) in epoch 0 of data set 0"
    assert lines[4].startswith("ledger: ")
    assert lines[5] == "NOT proved: 1 sample missed, 1 fault of the ledger; 7 steps of 10 samples; ranks: 10"


def test_more_faults_than_are_named_are_counted(tmp_path: Path, mix: Mix, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path, mix, every=1, world_size=5)
    for path in sorted(tmp_path.glob("ledger/*/rank-0000[0-3]*"))[:24]:
        path.write_bytes(b"")
    assert main(["verify", run]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("missed: sample ") for line in lines) == 20
    assert "missed: 20 more samples" in lines
    assert "ledger: 4 more faults" in lines


def test_replaced_samples_are_said_in_the_verdict(tmp_path: Path, mix: Mix, capsys: pytest.CaptureFixture[str]) -> None:
    made = batches(mix, global_batch=10, steps=7)
    damaged, other = int(made[0].ids[0]), int(made[0].ids[1])
    assert main(["verify", new_run(tmp_path, mix, replaced={damaged: other})]) == 0
    text = capsys.readouterr().out
    assert f"replaced: sample {damaged} (" in text
    assert f"by sample {other} in step 0" in text
    assert "but for 1 damaged sample that others replaced" in text
    assert main(["show", str(tmp_path), "--step", "0"]) == 0
    assert f"rank 0: sample {other} in place of {damaged}, which is damaged" in capsys.readouterr().out


def test_a_program_reads_json(tmp_path: Path, mix: Mix, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", new_run(tmp_path, mix), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["proved"] is True
    assert [epoch["exactly_once"] for epoch in found["epochs"]] == [50, 20]
    assert found["faults"] == found["problems"] == []


def test_other_manifests_can_be_given(
    tmp_path: Path, mix: Mix, manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path, mix)
    (tmp_path / "config.json").unlink()
    assert main(["verify", run, "--manifest", manifest]) == 0
    assert main(["verify", run, "--manifest", manifest, manifest, "--weights", "1", "2"]) == 1
    assert "NOT proved" in capsys.readouterr().out
    assert main(["verify", run, "--manifest", manifest, "--weights", "1", "2"]) == 2
    assert main(["verify", run]) == 1
    assert "config.json: there is no such file" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"data": {}}')
    assert main(["verify", run]) == 1
    assert "expected a run's settings with data.manifest" in capsys.readouterr().err


def test_a_step_is_shown_by_rank(tmp_path: Path, mix: Mix, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path, mix)
    batch = batches(mix, global_batch=10, steps=7)[6]
    assert main(["show", run, "--step", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for rank in range(2):
        ids = sorted(batch.ids[rank::2].tolist())
        assert lines[rank] == f"rank {rank} of 2, epoch 1: {' '.join(map(str, ids))}"
    assert main(["show", run, "--step", "6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [rank["epochs"]["1"] for rank in found["ranks"]] == [sorted(batch.ids[r::2].tolist()) for r in range(2)]
    assert main(["show", run, "--step", "7"]) == 1
    assert "step 7 is not in the ledger; its last step is 6" in capsys.readouterr().err


def test_checksums_tell_runs_apart_and_layouts_not(
    tmp_path: Path, mix: Mix, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for name, options in (("a", {}), ("b", {"world_size": 5, "every": 3})):
        assert main(["checksum", new_run(tmp_path / name, mix, **options)]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert [line.split()[0] for line in texts[0].splitlines()] == [*map(str, range(7)), "all"]

    made = batches(mix, global_batch=10, steps=7)
    made[5].ids[3] = made[0].ids[0]
    consume(str(tmp_path / "c"), mix, made, stop=7)
    assert main(["checksum", str(tmp_path / "c")]) == 0
    differ = [a[0] for a, c in zip(texts[0].splitlines(), capsys.readouterr().out.splitlines(), strict=True) if a != c]
    assert differ == ["5", "a"]

    assert main(["checksum", str(tmp_path / "a"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {"steps": 7, "samples": 70, "sha256": texts[0].split()[-1]}


def test_what_is_not_whole_is_not_summed(tmp_path: Path, mix: Mix, capsys: pytest.CaptureFixture[str]) -> None:
    run = new_run(tmp_path, mix)
    path = tmp_path / "ledger/00000004-00000007/rank-00001-of-00002.ledger"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["checksum", run]) == 1
    assert f"{path}: damaged" in capsys.readouterr().err
    path.unlink()
    for words in (["checksum", run], ["show", run, "--step", "5"]):
        assert main(words) == 1
        assert "missing: rank 1" in capsys.readouterr().err


def test_a_run_without_a_ledger_is_an_error(tmp_path: Path, manifest: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["verify", "--manifest", manifest], ["show", "--step", "0"], ["checksum"]):
        assert main([words[0], str(tmp_path), *words[1:]]) == 1
        assert f"{tmp_path}: no ledger" in capsys.readouterr().err
