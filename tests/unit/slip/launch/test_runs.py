"""Recipes x seeds: outputs that differ, and arguments from which `slip train` reads the same settings."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.errors import ConfigError
from slip import train
from slip.config import DataConfig
from slip.launch.runs import runs_of, train_arguments
from slip.launch.settings import parse
from slip.recipes import recipe, recipes


def outputs(*words: str) -> list[str]:
    return [run.config.output for run in runs_of(parse(words))]


def test_one_run_has_the_output_of_its_settings() -> None:
    assert outputs("demo") == ["runs/demo"]
    assert outputs("demo", "--output", "s3://b/x") == ["s3://b/x"]
    assert outputs("demo", "--seeds", "4") == ["runs/demo"]


def test_several_runs_have_outputs_of_their_own() -> None:
    assert outputs("demo", "--seeds", "0", "7") == ["runs/demo/seed-0", "runs/demo/seed-7"]
    two = ("clip_vits16_yfcc15m_25ep", "slip_vits16_yfcc15m_25ep")
    assert outputs(*two, "--output=s3://b/x/") == [f"s3://b/x/{name}" for name in two]
    both = [f"o/{name}/seed-{seed}" for name in two for seed in (1, 2)]
    assert outputs(*two, "--seeds", "1", "2", "--output", "o") == both


def test_each_run_has_its_seed() -> None:
    assert [run.config.seed for run in runs_of(parse(["demo", "--seeds", "3", "5"]))] == [3, 5]
    assert [run.config.seed for run in runs_of(parse(["demo", "--seed", "9"]))] == [9]
    with pytest.raises(ConfigError, match="give one of the two"):
        runs_of(parse(["demo", "--seed", "9", "--seeds", "3", "5"]))


def test_arguments_hold_what_differs_from_the_recipe() -> None:
    words = ["demo", "--optim.lr", "0.001", "--eval.zeroshot", "None", "--ledger", "--nodes", "2", "--output=-x"]
    (run,) = runs_of(parse(words))
    assert run.arguments == (*("demo", "--optim.lr", "0.001", "--eval.zeroshot", "None", "--output=-x", "--ledger"),)


@pytest.mark.parametrize("name", ["demo", "aclip_vitb16_yfcc15m_25ep"])
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--data.manifest", "a b/m.json", "s3://b/ü.json", "--data.weights", "3", "1.5"),
        ("--data.workers", "0", "--data.cache", "/tmp/c 1", "--model.activation-checkpointing"),
        ("--max-steps", "6", "--wandb", "p", "--optim.betas", "0.5", "0.25", "--optim.eps", "1e-12"),
    ],
)
def test_slip_train_reads_the_same_settings(name: str, words: tuple[str, ...]) -> None:
    asked = train.parse([name, *words])
    assert train.parse(train_arguments(name, asked)) == asked
    (run,) = runs_of(parse([name, *words, "--nodes", "2"]))
    assert run.config == asked


def test_every_recipe_is_its_own_arguments() -> None:
    assert [train_arguments(name, recipe(name)) for name in recipes()] == [(name,) for name in recipes()]


def test_what_would_be_read_otherwise_is_refused() -> None:
    config = dataclasses.replace(recipe("demo"), data=DataConfig(manifest=("--ledger",)))
    with pytest.raises(ConfigError, match="cannot be handed on"):
        train_arguments("demo", config)
