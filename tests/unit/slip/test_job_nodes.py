from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from slip.job_nodes import main, usable_nodes
from tests.tiny_data import write_shards


@pytest.mark.parametrize(
    ("given", "per_node", "batch", "used"),
    [(8, 8, 4096, 8), (7, 8, 4096, 4), (3, 2, 8, 2), (5, 1, 15, 5), (1, 8, 8, 1)],
)
def test_the_batch_divides_over_the_nodes_used(given: int, per_node: int, batch: int, used: int) -> None:
    assert usable_nodes(given, per_node, batch) == used


def test_a_batch_that_never_divides() -> None:
    with pytest.raises(ConfigError, match="multiple of the ranks of a node, 3"):
        usable_nodes(4, 3, 4096)


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    return write_shards(tmp_path / "shards", [9])


def test_the_command(manifest: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["4", "demo", "--data.manifest", manifest, "--eval.zeroshot", "None", "--optim.global-batch"]
    assert main([*words, "8"]) == 0
    said = capsys.readouterr()
    assert said.out == "2\n"
    assert "2 nodes are used" in said.err
    assert main([*words, "6"]) == 2
    assert "--gpus-per-node" in capsys.readouterr().err


def test_what_would_end_every_rank_is_said_once(manifest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["4", "demo", "--data.manifest", manifest + ".not-there"]) == 1
    assert capsys.readouterr().err.count("no manifest there") == 1
