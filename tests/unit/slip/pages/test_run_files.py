"""What a run left is read whole, and what is wrong with it is one error or one note that names the place."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import store
from pipeline.errors import InputError
from slip.evaluate.report import Outcome
from slip.pages.run_files import parse_config, parse_metrics, read_run
from slip.recipes import recipe, recipes
from tests.unit.slip.pages.conftest import MakeRun, demo_records, evaluation, lines, score


def test_a_run_comes_back_as_it_was_written(output: str, make_run: MakeRun) -> None:
    config = dataclasses.replace(recipe("demo"), seed=7, max_steps=120)
    scores = [score(0.25, confusion=None, interval95=(0.2, 0.3)), score(0.5, protocol="knn")]
    url = make_run(
        "one", config, base=output, checkpoints=(100, 120), evaluations={"step-00000120.json": evaluation(scores)}
    )
    store.write_bytes(store.join(url, "checkpoints/best.json"), b'{"step": 100, "metric": "x", "value": 0.5}')
    store.write_bytes(store.join(url, "checkpoints/step-00000200.pt.part-x-1"), b"")
    failure = {"job": "7", "step": 24, "checkpoint": 20, "status": 134, "unix_s": 1.5}
    store.write_bytes(store.join(url, "failures.jsonl"), json.dumps(failure).encode() + b"\n")

    run = read_run(url)

    assert run.config == config
    assert run.name == "one"
    assert [record.step for record in run.records] == [*range(10, 121, 10), 120]
    assert run.points("loss")[3][1] == 9.0 / 4
    assert run.last("zeroshot/top1") == 0.5
    assert (run.checkpoints, run.best, run.step, run.planned_steps) == ((100, 120), (100, 0.5), 120, 120)
    assert run.steps_per_epoch == pytest.approx(20)
    assert [one.scores for one in run.evaluations] == [tuple(scores)]
    assert [dataclasses.asdict(one) for one in run.failures] == [failure]
    assert run.notes == ()


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_survives_its_config_file(name: str) -> None:
    config = recipe(name)
    assert parse_config(json.dumps(dataclasses.asdict(config)).encode(), "config.json") == (config, [])


def test_settings_of_another_version_are_noted(make_run: MakeRun) -> None:
    url = make_run()
    content = json.loads(Path(url, "config.json").read_text())
    content["data"]["colour"] = "green"
    del content["optim"]["eps"], content["seed"]
    Path(url, "config.json").write_text(json.dumps(content))

    run = read_run(url)

    assert run.config == recipe("demo")
    assert len(run.notes) == 3
    unknown, eps, seed = run.notes
    assert "unknown" in unknown
    assert "colour" in unknown
    assert "optim" in eps
    assert "eps" in eps
    assert "seed" in seed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optim": {"lr": "fast"}}, "lr is 'fast'"),
        ({"data": {"manifest": "a.json"}}, "manifest is 'a.json'"),
        ({"optim": {"epochs": -1}}, "must be positive"),
        ({"model": 3}, "model is 3"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_settings_that_cannot_be_are_an_error(change: dict[str, Any], said: str) -> None:
    content = dataclasses.asdict(recipe("demo"))
    content |= {name: {**content[name], **part} if isinstance(part, dict) else part for name, part in change.items()}
    with pytest.raises(InputError, match=said) as caught:
        parse_config(json.dumps(content).encode(), "RUN/config.json")
    assert "RUN/config.json" in str(caught.value)


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run \(config.json is missing, there is nothing\)"):
        read_run(str(tmp_path / "nowhere"))
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"config.json is missing, found 00000.tar\)"):
        read_run(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model": "other"}')
    with pytest.raises(InputError, match="not the settings of a run"):
        read_run(str(tmp_path))


def test_a_torn_last_line_is_left_out_and_noted() -> None:
    data = lines(demo_records(3))
    whole, none = parse_metrics(data, "m")
    for cut in (1, 5, 30):
        records, notes = parse_metrics(data + data[:-1][:cut], "m")
        assert records == whole
        assert len(notes) == 1
        assert "last line (5) is torn" in notes[0]
    assert none == []
    # A line that is whole but for its newline is a record.
    assert parse_metrics(data[:-1], "m") == (whole, [])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"step": 15, "lo', "line 2 is b'"),
        (b'{"loss": 3}', "line 2 has no step"),
        (b'{"step": 1.5}', "line 2 has no step"),
        (b'{"step": true}', "line 2 has no step"),
        (b'{"step": -1}', "line 2 has no step"),
        (b"[3]", "line 2 has no step"),
        (b"\xff\xfe", "line 2 is b'"),
    ],
)
def test_a_damaged_line_amid_others_is_an_error(line: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_metrics(b'{"step": 1, "loss": 2}\n' + line + b'\n{"step": 30}\n', "m")


@pytest.mark.parametrize("data", [b'{"step": 1}\n{"st\n', b'{"st\n{"step": 1}', b'{"st\n{"step": 1}\n{"st'])
def test_only_a_last_line_without_its_end_is_a_torn_one(data: bytes) -> None:
    with pytest.raises(InputError, match="expected one JSON object"):
        parse_metrics(data, "m")


def test_only_finite_numbers_are_kept_and_steps_are_in_order() -> None:
    data = b'{"step": 4, "a": NaN, "b": Infinity, "c": 1, "d": "x", "e": null, "f": true}\n{"step": 2, "c": 5}\n'
    records, notes = parse_metrics(data, "m")
    assert [(record.step, record.values) for record in records] == [(2, {"c": 5}), (4, {"c": 1})]
    assert len(notes) == 1
    assert "line 2 goes back from step 4 to 2" in notes[0]


def test_a_run_that_has_just_begun_is_a_run(make_run: MakeRun) -> None:
    run = read_run(make_run(records=[]))
    assert (run.step, run.planned_steps, run.records) == (0, None, ())
    assert len(run.notes) == 1
    assert "no records yet" in run.notes[0]


def test_evaluations_that_cannot_be_read_are_noted_and_others_kept(make_run: MakeRun) -> None:
    good = evaluation([score()], outstanding=[("zeroshot", "mnist", "mnist")])
    files = {"a.json": b"{", "b.json": b'{"format": "other"}', "c.json": good, "c.html": b"<p>"}
    run = read_run(make_run(evaluations=files))
    assert [one.file for one in run.evaluations] == ["c.json"]
    assert [note.partition(": ")[0].rpartition("/")[2] for note in run.notes] == ["a.json", "b.json", "c.json"]
    assert "not there yet: zeroshot mnist" in run.notes[2]


def test_two_sets_of_one_name_stay_two(make_run: MakeRun) -> None:
    missing = Outcome(asked="zeroshot", set="dtd", url="dtd", settings={}, error="not there", missing=True)
    data = evaluation([score(0.1), score(0.2), score(0.3, name="mnist")], unread=[missing])
    (found,) = read_run(make_run(evaluations={"a.json": data})).evaluations
    assert [(one.set, one.value) for one in found.scores] == [
        ("/0/cifar10", 0.1),
        ("/1/cifar10", 0.2),
        ("mnist", 0.3),
    ]
    assert [(one.set, one.missing) for one in found.unread] == [("dtd", True)]
