"""Safetensors files, read by the package of that name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file

from pipeline.errors import CheckpointError
from slip.interchange.about import Export
from slip.interchange.safetensors_out import write, write_safetensors

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]


def test_tensors_of_every_kind_and_shape_come_back(tmp_path: Path) -> None:
    tensors = {
        f"{kind}-{shape}": torch.randint(0, 9, shape).to(kind)
        for kind in KINDS
        for shape in ((), (0,), (3,), (2, 3), (1, 2, 5))
    }
    tensors["across"] = torch.arange(6.0).reshape(2, 3).T
    tensors["part"] = torch.arange(9)[2:5]
    path = tmp_path / "a.safetensors"
    strings = {"format": "pt", "with": 'quotes " and é'}
    write_safetensors(path, tensors, strings)
    found = load_file(path)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata() == strings


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.int64), "c": torch.ones(1)}
    strings = {"x": "1", "y": "2"}
    write_safetensors(tmp_path / "1", tensors, strings)
    write_safetensors(tmp_path / "2", dict(reversed(tensors.items())), strings)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'odd': torch\.complex64"):
        write_safetensors(tmp_path / "a", {"odd": torch.zeros(1, dtype=torch.complex64)}, {})


def test_the_whole_network_with_its_origin(tmp_path: Path, exported: Callable[..., Export]) -> None:
    export = exported("slip")
    write(export, tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    weights = export.trained.model.state_dict()
    assert set(found) == set(weights)
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as opened:
        strings = opened.metadata()
    assert (strings["format"], strings["step"], strings["data_sha256"]) == ("pt", "3", "a" * 64)
    assert json.loads(strings["objective"])["name"] == "slip"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model"]["embed_dim"] == 24
    assert config["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    readme = (tmp_path / "README.md").read_text()
    assert "# slip tiny after 3 steps\n" in readme
    assert "Left out" not in readme
    assert str(tmp_path) not in json.dumps([strings, config])
