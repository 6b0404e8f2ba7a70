"""The towers as graphs: the same embeddings from onnxruntime, for other numbers of rows."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pipeline.errors import CheckpointError, ConfigError
from slip.interchange import onnx_out
from slip.interchange.about import Export
from slip.interchange.onnx_out import write

onnxruntime: Any = importlib.import_module("onnxruntime")


def test_onnxruntime_computes_the_same(tmp_path: Path, exported: Callable[..., Export]) -> None:
    export = exported("slip")
    model = export.trained.model
    # One block of each tower: the exporter takes seconds for each.
    del model.visual.blocks[:-1], model.transformer.resblocks[1:]
    write(export, tmp_path)

    image = onnxruntime.InferenceSession(tmp_path / "image.onnx")
    text = onnxruntime.InferenceSession(tmp_path / "text.onnx")
    draw = torch.Generator().manual_seed(0)
    for rows in (1, 2, 7):
        images = torch.randn(rows, 3, 32, 32, generator=draw)
        tokens = torch.randint(1, 49000, (rows, 12), generator=draw)
        tokens[torch.arange(rows), torch.arange(rows) % 11 + 1] = 49407
        with torch.no_grad():
            wanted = [model.image_features(images), model.encode_image(images), model.encode_text(tokens)]
        found = [*image.run(None, {"image": images.numpy()}), *text.run(["text_embedding"], {"tokens": tokens.numpy()})]
        for ours, theirs in zip(wanted, found, strict=True):
            assert np.abs(ours.numpy() - theirs).max() < 1e-5

    for name in ("image.onnx", "text.onnx"):
        proto = onnx.load(tmp_path / name)
        onnx.checker.check_model(proto)
        assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
        assert b".py" not in proto.SerializeToString()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    assert (config["context_length"], config["preprocess"]["size"]) == (12, 32)


def test_files_that_compute_something_else_are_not_given_out(
    tmp_path: Path, exported: Callable[..., Export], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(tower: torch.nn.Module, example: torch.Tensor, path: Path, **_: object) -> None:
        path.touch()

    monkeypatch.setattr(onnx_out, "_write_graph", nothing)
    for differs in (2e-5, float("nan")):
        monkeypatch.setattr(onnx_out, "largest_difference", lambda *_, differs=differs: differs)
        with pytest.raises(CheckpointError, match=r"image\.onnx: onnxruntime gives other embeddings"):
            write(exported("simclr"), tmp_path)


def test_missing_packages_are_named(
    tmp_path: Path, exported: Callable[..., Export], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    util = SimpleNamespace(find_spec=lambda name: None if name == "onnxscript" else find(name))
    monkeypatch.setattr(onnx_out, "importlib", SimpleNamespace(util=util))
    with pytest.raises(ConfigError, match="--to onnx needs onnxscript, not installed here: pip install"):
        write(exported("simclr"), tmp_path)
