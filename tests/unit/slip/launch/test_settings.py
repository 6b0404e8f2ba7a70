"""What is read from a command line of `slip launch`, and what cannot be."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from slip.launch.settings import LaunchConfig, check_name, parse


def test_every_recipe_has_its_own_defaults_and_all_get_the_options() -> None:
    request = parse(["clip_vits16_yfcc15m_25ep", "simclr_vits16_yfcc15m_25ep", "--nodes", "2", "--optim.epochs", "3"])
    (first, clip), (second, simclr) = request.configs
    assert (first, second) == ("clip_vits16_yfcc15m_25ep", "simclr_vits16_yfcc15m_25ep")
    assert (clip.run.optim.lr, simclr.run.optim.lr) == (5e-4, 3.2e-3)
    assert (clip.run.optim.epochs, simclr.run.optim.epochs) == (3, 3)
    assert clip.nodes == simclr.nodes == 2
    assert request.name == "clip_vits16_yfcc15m_25ep+simclr_vits16_yfcc15m_25ep"


def test_a_name_may_be_given() -> None:
    assert parse(["demo", "--name", "first.try-2"]).name == "first.try-2"


@pytest.mark.parametrize("name", ["", "a/b", "-a", "..", "a b", "a%j", "ä", "x" * 101])
def test_a_name_is_a_folder_and_a_job_name(name: str) -> None:
    with pytest.raises(ConfigError, match="give a --name"):
        check_name(name)


@pytest.mark.parametrize(
    ("given", "ranks"),
    [
        ({}, 8),
        ({"nodes": 3}, 24),
        ({"gpus_per_node": 0, "nodes": 2}, 2),
        ({"gpus_per_node": 4, "tasks_per_node": 2, "nodes": 2}, 4),
        ({"executor": "debug"}, 1),
    ],
)
def test_one_rank_for_each_gpu_unless_said_otherwise(given: dict[str, int], ranks: int) -> None:
    assert LaunchConfig(**given).ranks == ranks  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name the recipe"),
        (["--nodes", "2"], "name the recipe"),
        (["dmeo"], "no recipe is called 'dmeo'; near: demo"),
        (["demo", "demo"], "named twice"),
        (["demo", "--nodes", "0"], "--nodes is 0"),
        (["demo", "--gpus-per-node", "-1"], "--gpus-per-node is -1"),
        (["demo", "--tasks-per-node", "0"], "--tasks-per-node is 0"),
        (["demo", "--cpus-per-task", "0"], "--cpus-per-task is 0"),
        (["demo", "--array-parallelism", "0"], "--array-parallelism is 0"),
        (["demo", "--mem-gb", "0"], "--mem-gb is 0"),
        (["demo", "--time-min", "2"], "--signal-s is 120, which is not before the end of --time-min 2"),
        (["demo", "--executor", "local", "--nodes", "2"], "this machine is one node"),
        (["demo", "--gpu", "abacus"], "--gpu is 'abacus'; known are h100"),
        (["demo", "--mfu", "40"], "--mfu is 40"),
        (["demo", "--price", "-1"], "--price is -1"),
        (["demo", "--seeds", "1", "2", "1"], "name each seed once"),
        (["demo", "--optim.global-batch", "0"], "--optim.global-batch is 0"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(words)
    assert said in str(caught.value)
