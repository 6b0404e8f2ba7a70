from __future__ import annotations

from typing import Any

import pytest

from pipeline.config import BuildConfig, EstimateConfig, SlurmConfig
from pipeline.errors import ConfigError

REAL: dict[str, Any] = {"metadata": ("rows.bz2",), "output": "out"}


@pytest.mark.parametrize(
    ("settings", "variant", "name"),
    [
        ({}, "openai", "sample"),
        ({**REAL, "subset_list": "list.tsv"}, "openai", "openai"),
        ({**REAL, "variant": "english"}, "english", "english"),
        ({**REAL, "variant": "declip", "subset_list": "list.json"}, "declip", "declip"),
        ({"variant": "declip", "subset_list": "list.json", "output": "out"}, "declip", "declip"),
        ({**REAL, "dataset": "cc3m"}, None, "cc3m"),
        ({**REAL, "dataset": "local"}, None, "local"),
    ],
)
def test_what_is_built(settings: dict[str, Any], variant: str | None, name: str) -> None:
    config = BuildConfig(**settings)
    assert config.chosen_variant == variant
    assert config.data_name == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (REAL, "--variant english"),
        ({"subset_list": "list.tsv", "output": "out"}, "name the metadata"),
        ({"variant": "english"}, "without --metadata"),
        ({**REAL, "variant": "english", "subset_list": "list.tsv"}, "--also-score"),
        ({**REAL, "dataset": "cc12m", "variant": "english"}, "leave out --variant"),
        ({**REAL, "dataset": "redcaps", "subset_list": "list.tsv"}, "leave out --subset-list"),
        ({"dataset": "local", "output": "out"}, "needs --metadata"),
        ({**REAL, "dataset": "local", "captions": "paper"}, "--captions paper"),
        ({"stage": "ingest", "output": "out"}, "--stage ingest needs --metadata"),
        ({**REAL, "dataset": "cc3m", "stage": "ingest"}, "--stage ingest is for"),
        ({"executor": "slurm"}, "--executor slurm is given without --metadata"),
        ({**REAL, "dataset": "local", "prefer": ("bucket",)}, "leave it out"),
        ({"prefer": ("url", "url")}, "each once"),
        ({"prefer": ()}, "one or more"),
        ({"prefer": ("zip",)}, "--zip-root"),
        ({"zip_root": "archives"}, "--prefer zip"),
        ({"threads": 0}, "--threads is 0"),
        ({"per_host": 0}, "--per-host is 0"),
        ({"deadline_s": 0.0}, "--deadline-s"),
        ({"retries": -1}, "--retries -1"),
        ({"resize": 8}, "--resize is 8"),
        ({"max_aspect": 0.5}, "--max-aspect is 0.5"),
        ({"max_aspect": float("nan")}, "--max-aspect is nan"),
        ({"max_rejected": 1.5}, "between 0 and 1"),
        ({"metadata": ("rows.bz2",), "variant": "english"}, "--output is missing"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildConfig(**settings)


def test_ranges_of_the_nested_settings() -> None:
    with pytest.raises(ConfigError, match=r"--slurm\.max-tasks is 0"):
        SlurmConfig(max_tasks=0)
    with pytest.raises(ConfigError, match=r"--estimate\.picture-kb is 0"):
        EstimateConfig(picture_kb=0)
