"""`slip card`: every number of a card is one of the run's, and what is not known is said to be unknown."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import store
from pipeline.manifest import load_manifest
from slip.config import TrainConfig
from slip.ledger import Ledger
from slip.model_cost import pieces
from slip.pages.card import front_matter
from slip.pages.card_command import main
from slip.pages.run_data import data_facts
from slip.pages.run_files import read_run
from slip.recipes import recipe
from tests.tiny_data import write_shards
from tests.unit.slip.pages.conftest import MakeRun, demo_records, evaluation, score


def with_data(config: TrainConfig, manifest: str) -> TrainConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, manifest=(manifest,)))


def card_of(url: str, *words: str) -> str:
    assert main([url, *words]) == 0
    return store.read_bytes(store.join(url, "MODEL_CARD.md")).decode()


def tables(card: str) -> list[list[list[str]]]:
    """Rows of cells of every table."""
    found: list[list[list[str]]] = [[]]
    for line in card.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def rows(card: str) -> dict[str, list[str]]:
    """All rows of all tables by their first cell."""
    return {row[0]: row[1:] for table in tables(card) for row in table}


def matter(card: str) -> dict[str, Any]:
    """The front matter; its values are JSON."""
    head = card.split("---\n")[1]
    return {name: json.loads(value) for name, _, value in (line.partition(": ") for line in head.splitlines())}


def test_a_card_says_what_the_run_is(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_shards(tmp_path / "data", [5, 4])
    config = with_data(recipe("demo"), manifest)
    url = make_run("my|run", config, checkpoints=(100, 120))

    card = card_of(url, "--license", "cc-by-4.0")

    assert capsys.readouterr().out == f"{url}/MODEL_CARD.md\n"
    assert "\n# my|run\n" in card
    digest = load_manifest(manifest).sha256
    found = rows(card)
    assert found["Digest (sha256)"] == [f"`{digest}`"]
    assert (found["Variant"], found["Samples"]) == (["local"], ["9"])
    assert found["Digest from"] == ["the manifest as it is now"]
    assert "simclr" in found["Objective"][0]
    towers = {
        part: sum(p.trained + p.frozen for p in pieces(config.model, config.objective) if p.part == part)
        for part in ("image tower", "text tower")
    }
    for part, count in towers.items():
        assert f"{part} {count / 1e6:,.1f} M" in found["Parameters"][0]
    assert found["Trained for"] == ["120 of 200 steps, 6.00 epochs, 7,680 samples (**not finished**)"]
    assert found["Samples a second, all ranks (median)"] == ["640"]
    assert found["MFU (median)"] == ["25.0%"]
    assert "exact" in found["Loss over ranks"][0]
    assert "slip export checkpoints/step-00000120.pt --to open_clip" in card
    assert all(len({len(row) for row in table}) == 1 for table in tables(card))
    head = matter(card)
    assert (head["license"], head["datasets"]) == ("cc-by-4.0", ["tiny"])
    assert "model-index" not in head


def test_the_recipe_marks_what_was_changed(make_run: MakeRun) -> None:
    began = recipe("demo")
    config = dataclasses.replace(began, optim=dataclasses.replace(began.optim, lr=0.5), objective=began.objective)
    found = rows(card_of(make_run(config=config)))
    assert found["`optim.lr`"] == ["**0.5**", "0.002"]
    assert found["`optim.weight_decay`"] == ["0.1", ""]
    assert "`data.workers`" not in found
    assert "`output`" not in found


def test_curves_are_a_picture_and_ten_of_the_records(make_run: MakeRun) -> None:
    records = demo_records(57)
    card = card_of(make_run(records=records))
    losses = next(table for table in tables(card) if table[0][0] == "step")
    assert losses[0] == ["step", "loss", "loss/clip", "loss/simclr", "lr"]
    shown = losses[2:]
    assert len(shown) == 10
    by_step = {f"{record['step']:,}": record for record in records if "loss" in record}
    assert (shown[0][0], shown[-1][0]) == ("10", "570")
    for row in shown:
        assert float(row[1]) == pytest.approx(by_step[row[0]]["loss"], abs=1e-4)
        assert float(row[4]) == pytest.approx(by_step[row[0]]["lr"], rel=1e-2)
    pictures = [base64.b64decode(found) for found in re.findall(r"image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", card)]
    assert [len(list(ET.fromstring(one).iter("{http://www.w3.org/2000/svg}polyline"))) for one in pictures] == [3, 1]


def test_evaluations_stand_beside_the_published_ones(make_run: MakeRun) -> None:
    scores = [
        score(0.41234, name="imagenet", interval95=(0.4, 0.42), pictures=50_000),
        score(0.7, name="imagenet", protocol="linear-sgd"),
        score(0.6, protocol="knn", partial="a | b"),
        score(0.5, name="coco", protocol="retrieval", metric="R@1 image to text", classes=0),
    ]
    older = [score(0.1, name="imagenet")]
    url = make_run(
        config=recipe("slip_vitb16_yfcc15m_25ep"),
        evaluations={"a.json": evaluation(older, step=100), "b.json": evaluation(scores, step=120)},
    )
    card = card_of(url, "--name", "Ours")
    (table,) = (table for table in tables(card) if table[0][0] == "set")
    assert table[2:] == [
        ["imagenet", "zero-shot", "accuracy", "41.23", "40.00 to 42.00", "42.8", "50,000", "step 120, model", ""],
        ["cifar10", "kNN", "accuracy", "60.00", "-", "-", "100", "step 120, model", r"partial: a \| b"],
        ["imagenet", "linear probe (SGD)", "accuracy", "70.00", "-", "72.1", "100", "step 120, model", ""],
        ["coco", "retrieval", "R@1 image to text", "50.00", "-", "-", "100", "step 120, model", ""],
    ]
    assert "SLIP vitb16, YFCC15M, 25 epochs (arXiv 2112.12750)" in card
    assert "Not evaluated: linear probe (L-BFGS), fine-tuned." in card
    (index,) = matter(card)["model-index"]
    assert index["name"] == "Ours"
    values = [(one["dataset"]["name"], one["metrics"][0]["value"]) for one in index["results"]]
    assert values == [("imagenet", 0.41234), ("imagenet", 0.7)]


def test_a_ledger_knows_the_data_that_training_saw(make_run: MakeRun, tmp_path: Path) -> None:
    manifest = write_shards(tmp_path / "data", [4])
    url = make_run(config=with_data(recipe("demo"), manifest))
    for rank in (0, 1):
        ledger = Ledger(url, rank=rank, world_size=2, digest="cd" * 32, seed=0, global_batch=4)
        ledger.add(0, np.arange(2), np.arange(2), np.zeros(2, dtype=np.int64))
        ledger.flush()
    found = data_facts(read_run(url))
    assert (found.digest, found.world_sizes) == ("cd" * 32, (2,))
    assert "another one now" in found.source
    assert rows(card_of(url))["Ranks"] == ["2"]


def test_data_out_of_reach_are_unknown(make_run: MakeRun) -> None:
    for manifest in ("/nowhere/manifest.json", "/nowhere/{0..9}.tar"):
        found = rows(card_of(make_run(config=with_data(recipe("demo"), manifest))))
        assert found["Digest (sha256)"] == ["`unknown`"]
        assert found["Samples"] == ["unknown"]
        assert found["Manifest"] == [f"`{manifest}`"]


def test_a_run_without_text_is_none_of_image_and_text(make_run: MakeRun) -> None:
    card = card_of(make_run(config=recipe("simclr_vits16_yfcc15m_25ep"), records=[], checkpoints=(7,)))
    head = matter(card)
    assert head["pipeline_tag"] == "image-feature-extraction"
    assert "image-text" not in head["tags"]
    assert "--to timm" in card
    assert "zeroshot --suite" not in card


def test_no_name_breaks_out_of_the_front_matter(make_run: MakeRun) -> None:
    run = read_run(make_run(evaluations={"a.json": evaluation([score(name='x"\n---\nlicense: evil')])}))
    text = front_matter(run, data_facts(run), name='a"]\n---', license_id=None)
    assert text.splitlines().count("---") == 2
    assert not any(line.startswith("license") for line in text.splitlines())


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["/nowhere"], 1, "/nowhere: no run"),
        (["/nowhere", "--license", "a b"], 2, "--license is 'a b'"),
        (["/nowhere", "--name", " "], 2, "--name is ' '"),
    ],
)
def test_bad_input_is_one_line(words: list[str], status: int, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == status
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
