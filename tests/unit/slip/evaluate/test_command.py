"""`slip evaluate` from the command line to table, JSON and page, against a count made one picture at a time."""

from __future__ import annotations

import dataclasses
import functools
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
from slip.data.tokenizer import Tokenizer
from slip.evaluate import evaluation
from slip.evaluate.catalogue import Catalogue, open_set
from slip.evaluate.command import main
from slip.evaluate.encode import decode_picture
from slip.models.ema import WeightAverage
from slip.models.model import Model
from slip.models.registry import build_model
from tests.checkpoint_states import state
from tests.tiny_data import COLOURS, colour_of, picture, write_labelled

SHAPE = ModelConfig(tower="tiny", image_size=16, context_length=8, ssl_hidden=16, ssl_dim=8, embed_dim=32)
CLASSES = (*COLOURS, "dog", "boat", "seven geese", "night")
NOWHERE = Catalogue(url="", entries={})


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_ID", "SLIP_CATALOGUE"):
        monkeypatch.delenv(name, raising=False)


def labelled(folder: Path, count: int) -> str:
    """A labelled set with more than five classes."""
    url = write_labelled(folder, [(picture(colour_of(i), i), i % len(CLASSES)) for i in range(count)])
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    return url


@functools.cache
def random_model(name: Any, seed: int) -> Model:
    """Not trained, but its weights large enough that what it sees decides what it says."""
    model = build_model(SHAPE, ObjectiveConfig(name=name), seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    return model.eval()


def saved_run(output: Path, *, name: Any = "clip") -> tuple[str, Model, Model]:
    """A run with one checkpoint after step 12, its model, and the model of its average."""
    config = TrainConfig(model=SHAPE, objective=ObjectiveConfig(name=name))
    model, average = random_model(name, 1), random_model(name, 2)
    with CheckpointWriter(str(output), keep=3) as writer:
        written = state(12, model=model.state_dict(), ema=WeightAverage(average, 0.9).weights, objective=name)
        writer.write(dataclasses.replace(written, config=dataclasses.asdict(config), versions={"torch": "9.9"}))
    return str(output), model, average


@torch.no_grad()
def slow_counts(model: Model, url: str) -> tuple[int, int]:
    """Pictures whose class is first, and among the first five: one picture, one prompt at a time."""
    opened, tokenizer = open_set(url, NOWHERE), Tokenizer(SHAPE.context_length)
    weights = []
    for (name,) in opened.classnames:
        texts = [template.replace("{c}", name) for template in opened.templates]
        rows = [F.normalize(model.encode_text(torch.from_numpy(tokenizer([text]))))[0] for text in texts]
        weights.append(F.normalize(torch.stack(rows).mean(dim=0), dim=0))
    places = []
    for _, found in opened.splits["test"].share(0, 1):
        view = torch.from_numpy(evaluation_view(decode_picture(found), SHAPE.image_size).copy())
        image = model.encode_image(normalise(view.permute(2, 0, 1)[None]))[0]
        scores = [float(F.normalize(image, dim=0) @ weight) for weight in weights]
        places.append(sum(score > scores[found.label] for score in scores))
    return sum(place < 1 for place in places), sum(place < 5 for place in places)


def counted(path: Path) -> list[tuple[int, int, int, int]]:
    found = json.loads(path.read_text())
    return [(one["pictures"], one["classes"], one["counts"]["top1"], one["counts"]["top5"]) for one in found["scores"]]


def test_a_run_is_evaluated_with_its_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model, average = saved_run(tmp_path / "run")
    sets = [labelled(tmp_path / "first", 40), labelled(tmp_path / "second", 9)]
    assert main([run, "--sets", *sets, "--batch", "7"]) == 0
    out, err = capsys.readouterr()
    expected = [(count, 8, *slow_counts(average, url)) for url, count in zip(sets, (40, 9), strict=True)]
    path = tmp_path / "run/evaluation/step-00000012.json"
    assert counted(path) == expected
    assert 0 < expected[0][2] < expected[0][3] < 40
    found = json.loads(path.read_text())
    url = checkpoint.url_of(run, 12)
    assert (found["checkpoint"], found["step"], found["weights"], found["precision"]) == (url, 12, "average", "fp32")
    assert (found["trained_with"], found["versions"]["torch"]) == ({"torch": "9.9"}, torch.__version__)
    assert (found["partial"], found["not_evaluated"]) == (False, [])
    assert f"{url} (the newest of its run" in err
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows[2:]] == ["first", "second", "mean"]
    assert rows[2][1:4] == ["zeroshot", "accuracy", f"{100 * expected[0][2] / 40:.2f}"]
    assert f"{100 * expected[0][2] / 40:.2f} %" in path.with_suffix(".html").read_text()

    # The weights themselves are others, and go to a file of their own.
    assert main([url, "--sets", sets[0], "--weights", "model"]) == 0
    of_model = (40, 8, *slow_counts(model, sets[0]))
    assert counted(tmp_path / "run/evaluation/step-00000012-model.json") == [of_model]
    assert of_model != expected[0]
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
    none, picture_ = json.loads(target.read_text())["not_evaluated"]
    assert "nothing there" in none["error"]
    assert "0.tar/s0001" in picture_["error"]
    assert counted(target) == [(9, 8, *slow_counts(average, good))]
    assert not (tmp_path / "run/evaluation").exists()


def test_what_is_done_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite whose sets are mostly missing, ended after its first set; then the same command, and others."""
    run, _, average = saved_run(tmp_path / "run")
    sets = {name: labelled(tmp_path / name, 9) for name in ("mnist", "own")}
    # The published prompts of mnist go with ten classes; these are the set's own.
    (tmp_path / "sets.toml").write_text(
        f'[mnist]\nurl = "{sets["mnist"]}"\nclassnames = {json.dumps(CLASSES)}\n[own]\nurl = "{sets["own"]}"\n'
    )
    command = [run, "--suite", "paper", "own", "--catalogue", str(tmp_path / "sets.toml")]
    asked: list[str] = []
    real = evaluation._run

    def counting(target: evaluation.Target, *rest: Any) -> Any:
        if target.name == "own" and not asked.count("end"):
            asked.append("end")
            raise KeyboardInterrupt
        asked.append(target.name)
        return real(target, *rest)

    monkeypatch.setattr(evaluation, "_run", counting)
    path = tmp_path / "run/evaluation/step-00000012.json"
    assert main(command) == 130
    found = json.loads(path.read_text())
    assert (len(found["scores"]), found["partial"], found["outstanding"]) == (1, True, ["zeroshot own"])
    assert "Partial: still to come are own (zeroshot)" in path.with_suffix(".html").read_text()
    capsys.readouterr()

    assert main(command) == 0
    out = capsys.readouterr().out
    assert asked == ["mnist", "end", "own"]
    assert "not found: food101, cifar10, " in out
    assert "sets.toml; write where it lies into that file: [food101]" in out
    assert "mean of 2 of 27 sets" in out
    assert [one["set"] for one in json.loads(path.read_text())["scores"]] == ["mnist", "own"]
    # Other prompts are another measurement, and so is one that is asked for.
    assert main(command) == 0
    assert asked[3:] == []
    (tmp_path / "own/zeroshot_classification_templates.txt").write_text("only {c}\n")
    assert main(command) == 0
    assert asked[3:] == ["own"]
    assert main([*command, "--again"]) == 0
    assert asked[4:] == ["mnist", "own"]
    # Another command adds to the file.
    assert main([run, "--sets", labelled(tmp_path / "third", 5)]) == 0
    found = json.loads(path.read_text())
    assert [(one["set"], one["pictures"]) for one in found["scores"]] == [("mnist", 9), ("own", 9), ("third", 5)]
    assert found["scores"][1]["counts"]["top1"] == slow_counts(average, sets["own"])[0]


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
    for words, reason in (
        ([], "--suite or --sets"),
        (["--sets", good, good], "twice"),
        (["--sets", good, "--batch", "0"], "--batch is 0"),
        (["--protocol", "retrieval"], "--captioned"),
        (["--protocol", "retrieval", "--captioned", good, "--sets", good], "of no use"),
        (["--sets", good, "--captioned", good], "--captioned is of no use"),
        (["--sets", good, "--json", "results"], "must end in .json"),
        (["--sets", good, "--knn.neighbours", "0"], "--knn.neighbours is 0"),
    ):
        status, line = refused(capsys, run, *words)
        assert (status, reason in line) == (2, True), line
    status, line = refused(capsys, str(tmp_path / "good"), "--sets", good)
    assert status == 1
    assert "neither a checkpoint nor a run" in line
    (tmp_path / "other.pt").write_bytes(b"not a checkpoint")
    status, line = refused(capsys, str(tmp_path / "other.pt"), "--sets", good)
    assert status == 1
    assert "other.pt: not a readable checkpoint" in line


def test_a_tower_without_text_votes_by_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _, _ = saved_run(tmp_path / "simclr", name="simclr")
    good = Path(labelled(tmp_path / "good", 12))
    assert main([run, "--protocol", "knn", "--sets", str(good)]) == 1
    assert "good: not evaluated: " in capsys.readouterr().out
    (good / "train").symlink_to(good / "test")
    assert main([run, "--protocol", "knn", "--sets", str(good), "--knn.neighbours", "1"]) == 0
    # Each picture finds itself.
    assert capsys.readouterr().out.splitlines()[2].split()[1:4] == ["knn", "accuracy", "100.00"]
    (score,) = json.loads((tmp_path / "simclr/evaluation/step-00000012.json").read_text())["scores"]
    assert score["settings"] == {"metric": "accuracy", "classes": 8, "neighbours": 1, "temperature": 0.07}


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom slip.evaluate.command import main\ntry:\n    main(['--help'])\nfinally:\n"
    code += "    assert 'torch' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "--sets" in ended.stdout
