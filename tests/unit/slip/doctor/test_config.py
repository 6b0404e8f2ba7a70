"""Settings out of range are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import ConfigError
from slip.doctor.config import DoctorConfig


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("read_mb", 0, "--read-mb is 0; it must be a positive number"),
        ("connections", -1, "--connections is -1; it must be a positive number"),
        ("timeout_s", float("nan"), "--timeout-s is nan"),
        ("min_free_gb", -0.5, "--min-free-gb is -0.5; it must be at least 0"),
    ],
)
def test_out_of_range(name: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        DoctorConfig(**{name: value})


def test_a_limit_of_zero_asks_for_nothing() -> None:
    assert DoctorConfig(min_free_gb=0, min_write_mb_s=0).min_free_gb == 0
