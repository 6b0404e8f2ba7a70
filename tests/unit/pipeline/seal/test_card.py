from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.manifest import load_manifest
from pipeline.seal.card import card_bytes, count_licenses
from tests.fetched_units import build_units, seal_all, without_select


@pytest.fixture(autouse=True)
def _finished_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    without_select(monkeypatch)


def test_the_card_says_what_it_is_and_whose(tmp_path: Path) -> None:
    config, work = build_units(tmp_path)
    seal_all(config, work)
    manifest = load_manifest(config.output)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# yfcc15m-openai\n")
    assert manifest.sha256 in text
    assert "12 samples in 2 WebDataset shards" in text
    # Of rows 0-15 without 3, 5, 11 and 13, which were rejected.
    assert "| [CC BY-NC](<http://example/by-nc/>) | 8 |\n| [CC BY](<http://example/by/>) | 4 |" in text
    assert "| read | 30 |" in text
    assert "| rejected: dead link | 2 |" in text
    assert "| kept as samples | 12 |" in text
    assert "some forbid commercial use" in text
    assert '"00000.parquet", columns=["key", "user", "page_url", "license", "license_url"]' in text
    assert "| max_pixels | 100000000 |" in text


def test_code_in_the_card_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, work = build_units(tmp_path)
    seal_all(config, work)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(config.output)
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == 2
    found: dict[str, object] = {}
    for block in blocks:
        exec(block, found)
    rows = found["rows"]
    assert isinstance(rows, list)
    assert {row["user"] for row in rows} <= {f"user {i}" for i in range(4)}


def test_nothing_is_claimed_where_nothing_is_known(tmp_path: Path) -> None:
    config, work = build_units(tmp_path)
    manifest = seal_all(config, work)
    text = card_bytes(replace(manifest, variant="cc12m", name="cc12m"), {("", ""): 12}).decode()
    assert "| not stated | 12 |" in text
    assert "Creative Commons licence" not in text
    sample = card_bytes(replace(manifest, variant="sample"), {("CC BY", "http://example/by/"): 12}).decode()
    assert "generated and nobody's" in sample


def test_text_of_others_cannot_break_the_table(tmp_path: Path) -> None:
    config, work = build_units(tmp_path)
    manifest = seal_all(config, work)
    text = card_bytes(manifest, {("a|b\nc", "javascript:x"): 2, ("", "http://h/"): 1}).decode()
    assert "| a\\|b c | 2 |\n| [not stated](<http://h/>) | 1 |" in text


def test_licences_are_counted_by_name_and_address() -> None:
    table = pa.table({"license": ["a", "a", None, "a"], "license_url": ["x", "x", None, "y"]})
    assert count_licenses(table) == {("a", "x"): 2, ("", ""): 1, ("a", "y"): 1}
