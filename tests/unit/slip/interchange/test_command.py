"""`slip export` from the command line to a folder that another library loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slip.interchange.command import main


def test_a_run_becomes_a_folder(tmp_path: Path, saved: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    url = saved("clip")
    run, output = str(tmp_path / "run"), tmp_path / "out"
    for words in ("", " was there already, the same"):
        assert main([run, "--to", "safetensors", "--output", str(output)]) == 0
        assert f"{output}{words}: clip tiny after 3 steps, the average of its weights" in capsys.readouterr().out
    written = torch.load(url, weights_only=True)
    average = load_file(output / "model.safetensors")
    assert torch.equal(average["text_projection"], written["model"]["text_projection"] / 2)

    # The other weights are another export.
    assert main([run, "--to", "safetensors", "--output", str(output), "--weights", "model"]) == 1
    assert "is there already, with other content" in capsys.readouterr().err
    assert main([url, "--to", "safetensors", "--output", str(tmp_path / "other"), "--weights", "model"]) == 0
    model = load_file(tmp_path / "other/model.safetensors")
    assert torch.equal(model["text_projection"], written["model"]["text_projection"])
    assert json.loads((tmp_path / "other/config.json").read_text())["checkpoint"] == "step-00000003.pt"


def test_what_cannot_be_is_said_in_a_line(
    tmp_path: Path, saved: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    url, output = saved("simclr"), tmp_path / "out"
    capsys.readouterr()
    assert main([url, "--to", "open_clip", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert "was trained with objective simclr, which has no text tower; its image tower goes to timm" in error
    assert "Traceback" not in error
    assert main([str(tmp_path / "none"), "--to", "timm", "--output", str(output)]) == 1
    assert "neither a checkpoint nor a run" in capsys.readouterr().err
    assert main([str(tmp_path / "run"), "--to", "timm", "--output", "/"]) == 2
    assert "--output is '/'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
