"""`slip evaluate` from the command line to table and JSON, against a count made one picture at a time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from slip import checkpoint
from slip.checkpoint_writer import CheckpointWriter
from slip.config import ModelConfig, ObjectiveConfig, TrainConfig
from slip.data.augment import evaluation_view, normalise
from slip.data.decode import decode_rgb
from slip.data.tokenizer import Tokenizer
from slip.evaluate.command import main
from slip.evaluate.datasets import open_labelled_set, read_pictures
from slip.models.ema import WeightAverage
from slip.models.model import Model
from slip.models.registry import build_model
from tests.checkpoint_states import state
from tests.tiny_data import COLOURS, colour_of, picture, write_labelled

SHAPE = ModelConfig(tower="tiny", image_size=16, context_length=8, ssl_hidden=16, ssl_dim=8, embed_dim=32)
CLASSES = (*COLOURS, "dog", "boat", "seven geese", "night")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)


def labelled(folder: Path, count: int) -> str:
    """A labelled set with more than five classes."""
    url = write_labelled(folder, [(picture(colour_of(i), i), i % len(CLASSES)) for i in range(count)])
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    return url


def random_model(objective: ObjectiveConfig, seed: int) -> Model:
    """Not trained, but its weights large enough that what it sees decides what it says."""
    model = build_model(SHAPE, objective, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    return model.eval()


def saved_run(output: Path, *, name: Any = "clip") -> tuple[str, Model, Model]:
    """A run with one checkpoint after step 12, its model, and the model of its average."""
    objective = ObjectiveConfig(name=name)
    config = TrainConfig(model=SHAPE, objective=objective)
    model, average = random_model(objective, 1), random_model(objective, 2)
    with CheckpointWriter(str(output), keep=3) as writer:
        written = state(12, model=model.state_dict(), ema=WeightAverage(average, 0.9).weights, objective=name)
        writer.write(dataclasses.replace(written, config=dataclasses.asdict(config), versions={"torch": "9.9"}))
    return str(output), model, average


@torch.no_grad()
def slow_counts(model: Model, url: str) -> tuple[int, int]:
    """Pictures whose class is first, and among the first five: one picture, one prompt at a time."""
    opened, tokenizer = open_labelled_set(url), Tokenizer(SHAPE.context_length)
    weights = []
    for name in opened.classnames:
        rows = [F.normalize(model.encode_text(torch.from_numpy(tokenizer([p]))))[0] for p in opened.prompts(name)]
        weights.append(F.normalize(torch.stack(rows).mean(dim=0), dim=0))
    places = []
    for found in read_pictures(opened, rank=0, world_size=1):
        view = torch.from_numpy(evaluation_view(decode_rgb(found.image), SHAPE.image_size).copy())
        image = model.encode_image(normalise(view.permute(2, 0, 1)[None]))[0]
        scores = [float(F.normalize(image, dim=0) @ weight) for weight in weights]
        places.append(sum(score > scores[found.label] for score in scores))
    return sum(place < 1 for place in places), sum(place < 5 for place in places)


def counted(path: Path) -> list[tuple[int, int, int, int]]:
    found = json.loads(path.read_text())
    return [(one["pictures"], one["classes"], one["top1"], one["top5"]) for one in found["sets"]]


def test_a_run_is_evaluated_with_its_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model, average = saved_run(tmp_path / "run")
    sets = [labelled(tmp_path / "first", 40), labelled(tmp_path / "second", 9)]
    assert main([run, "--sets", *sets, "--batch", "7"]) == 0
    out, err = capsys.readouterr()
    expected = [(count, 8, *slow_counts(average, url)) for url, count in zip(sets, (40, 9), strict=True)]
    path = tmp_path / "run/evaluation/step-00000012-zeroshot.json"
    assert counted(path) == expected
    assert 0 < expected[0][2] < expected[0][3] < 40
    found = json.loads(path.read_text())
    url = checkpoint.url_of(run, 12)
    assert (found["checkpoint"], found["step"], found["weights"], found["precision"]) == (url, 12, "average", "fp32")
    assert (found["trained_with"], found["versions"]["torch"]) == ({"torch": "9.9"}, torch.__version__)
    assert f"{url} (the newest of its run" in err
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows[2:]] == ["first", "second"]
    assert rows[2][1:4] == ["40", "8", f"{100 * expected[0][2] / 40:.2f}"]

    # The weights themselves are others, and go to a file of their own.
    assert main([url, "--sets", sets[0], "--weights", "model"]) == 0
    assert counted(tmp_path / "run/evaluation/step-00000012-zeroshot-model.json") == [
        (40, 8, *slow_counts(model, sets[0]))
    ]
    assert slow_counts(model, sets[0]) != slow_counts(average, sets[0])
    assert counted(path) == expected


def test_a_set_that_cannot_be_read_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _, average = saved_run(tmp_path / "run")
    good = labelled(tmp_path / "good", 9)
    broken = write_labelled(tmp_path / "broken", [(picture("red", 1), 0), (b"<html>not found</html>", 1)])
    target = tmp_path / "out/results.json"
    assert main([run, "--sets", str(tmp_path / "none"), broken, good, "--json", str(target)]) == 1
    out = capsys.readouterr().out
    assert "none: not evaluated: " in out
    assert "broken: not evaluated: " in out
    none, picture_, kept = json.loads(target.read_text())["sets"]
    assert "classnames.txt" in none["error"]
    assert "0.tar/s0001" in picture_["error"]
    assert (kept["pictures"], kept["top1"], kept["top5"]) == (9, *slow_counts(average, good))
    assert not (tmp_path / "run/evaluation").exists()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status and the one line of a refusal."""
    status = main(words)
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if " ERROR" in line]
    assert (out, len(errors)) == ("", 1)
    return status, errors[0]


def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _, _ = saved_run(tmp_path / "simclr", name="simclr")
    good = labelled(tmp_path / "good", 2)
    status, line = refused(capsys, run, "--sets", good)
    assert status == 2
    assert "objective simclr, which has no text tower" in line
    status, line = refused(capsys, run)
    assert status == 2
    assert "--sets" in line
    assert refused(capsys, run, "--sets", good, good)[0] == 2
    assert refused(capsys, run, "--sets", good, "--batch", "0")[0] == 2
    status, line = refused(capsys, str(tmp_path / "good"), "--sets", good)
    assert status == 1
    assert "neither a checkpoint nor a run" in line
    (tmp_path / "other.pt").write_bytes(b"not a checkpoint")
    status, line = refused(capsys, str(tmp_path / "other.pt"), "--sets", good)
    assert status == 1
    assert "other.pt: not a readable checkpoint" in line


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom slip.evaluate.command import main\ntry:\n    main(['--help'])\nfinally:\n"
    code += "    assert 'torch' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "--sets" in ended.stdout
