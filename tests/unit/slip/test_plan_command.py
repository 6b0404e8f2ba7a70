"""`slip plan`: what it prints for a recipe, what it refuses, and that its numbers are those of training."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from slip.cli import main
from slip.config import OptimConfig, TrainConfig
from slip.peak_flops import known_peak
from slip.recipes import recipe
from slip.run_plan import GPUS
from slip.schedule import total_steps

SLIP = "slip_vitb16_yfcc15m_25ep"
# What the driver calls them.
DRIVER_NAMES = {
    "h100": "NVIDIA H100 80GB HBM3",
    "h100-pcie": "NVIDIA H100 PCIe",
    "h100-nvl": "NVIDIA H100 NVL",
    "h200": "NVIDIA H200",
    "b200": "NVIDIA B200",
    "a100": "NVIDIA A100-SXM4-80GB",
    "a100-40": "NVIDIA A100-SXM4-40GB",
    "l40s": "NVIDIA L40S",
    "l4": "NVIDIA L4",
    "a10": "NVIDIA A10",
    "rtx3090": "NVIDIA GeForce RTX 3090",
    "rtx4090": "NVIDIA GeForce RTX 4090",
    "rtxa6000": "NVIDIA RTX A6000",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without data sets."""
    monkeypatch.chdir(tmp_path)


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["plan", *words, "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a refusal."""
    assert main(["plan", *words]) == 2
    out, err = capfd.readouterr()
    assert not out
    assert err.count("\n") == 1
    return err


def rows_of(table: str) -> dict[str, list[str]]:
    """Label -> cells."""
    lines = [re.split(r"  +", line.strip()) for line in table.splitlines() if line.startswith("  ")]
    return {line[0]: line[1:] for line in lines}


def test_the_table_says_what_slip_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", SLIP, "--gpus", "8", "--price", "2.5"]) == 0
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert out.startswith(f"{SLIP} on 8 H100 SXM, bf16\n")
    assert rows["image tower"] == ["85.8 M", "85.8 M"]
    # 35.1 as published, less what the last block would compute of tokens that are never read; and 334.
    assert rows["image tower, forward"][0] == "32.7"
    assert rows["text tower, forward"][0] == "5.96"
    assert rows["trained, model"][0] == "312"
    assert rows["samples of the data set"][0] == "14,690,000"
    assert "no data/yfcc15m/manifest.json here" in rows["samples of the data set"][1]
    assert rows["steps"][0] == "89,661"
    # 1,185 samples/s of a GPU at this share of its peak with 334 GFLOP a sample.
    rate = 8 * 1185 * 334 / 312
    assert float(rows["samples a second"][0].replace(",", "")) == pytest.approx(rate, rel=0.02)
    hours, gpu_hours, cost = (float(rows[name][0]) for name in ("hours", "GPU-hours", "cost"))
    assert hours == pytest.approx(25 * 14.69e6 / rate / 3600, rel=0.02)
    assert gpu_hours == pytest.approx(8 * hours, abs=0.5)
    assert cost == pytest.approx(2.5 * gpu_hours, abs=0.5)
    assert "does not fit" in rows["total"][-1]
    assert re.search(r"^It fits with --optim\.micro-batch \d+: ", out, re.MULTILINE)


def test_what_is_suggested_fits_and_twice_as_much_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    whole = planned(capsys, SLIP)
    assert not whole["fits"]
    size = whole["suggestion"]["micro_batch"]
    assert size & (size - 1) == 0
    fitting = planned(capsys, SLIP, "--optim.micro-batch", str(size))
    assert fitting["fits"]
    assert fitting["suggestion"] is None
    assert fitting["memory"] == whole["suggestion"]["memory"]
    assert fitting["hours"] == pytest.approx(whole["suggestion"]["hours"])
    double = planned(capsys, SLIP, "--optim.micro-batch", str(2 * size))
    assert not double["fits"]


def test_where_no_part_fits_blocks_are_computed_again(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "clip_vitl16_yfcc15m_25ep", "--gpu", "l4", "--optim.global-batch", "8", "--model.image-size"]
    assert main([*words, "2800"]) == 0
    assert "It fits with --model.activation-checkpointing: " in capsys.readouterr().out
    assert main([*words, "5600"]) == 0
    assert "Nothing fits" in capsys.readouterr().out


def test_computing_twice_costs_time_in_proportion(capsys: pytest.CaptureFixture[str]) -> None:
    once, twice = planned(capsys, SLIP), planned(capsys, SLIP, "--optim.micro-batch", "64")
    assert once["flops"]["model"] == twice["flops"]["model"]
    assert twice["hours"] / once["hours"] == pytest.approx(twice["flops"]["hardware"] / once["flops"]["model"])
    assert twice["hours"] / once["hours"] == pytest.approx(4 / 3, rel=0.01)


def test_hours_follow_gpus_mfu_captions_and_steps(capsys: pytest.CaptureFixture[str]) -> None:
    hours = planned(capsys, SLIP)["hours"]
    assert planned(capsys, SLIP, "--gpus", "16")["hours"] == pytest.approx(hours / 2)
    assert planned(capsys, SLIP, "--mfu", "0.2")["hours"] == pytest.approx(hours * 2)
    assert planned(capsys, SLIP, "--gpu", "A100")["hours"] == pytest.approx(hours * 989.5 / 312)
    assert planned(capsys, SLIP, "--precision", "fp32")["hours"] == pytest.approx(hours * 989.5 / 67)
    assert 0.95 * hours < planned(capsys, SLIP, "--text-length", "32")["hours"] < hours
    assert planned(capsys, SLIP, "--max-steps", "1000")["hours"] == pytest.approx(hours * 1000 / 89_661)


def test_samples_are_those_of_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"name": "small", "variant": "all", "num_samples": 0, "num_bytes": 0, "settings": {}, "shards": []}
    shard = {"name": "0.tar", "num_samples": 5000, "num_bytes": 10240, "sha256": "0" * 64}
    shard |= {"index": "0.parquet", "index_sha256": "0" * 64}
    content |= {"num_samples": 5000, "num_bytes": 10240, "shards": [shard], "version": 1}
    content["funnel"] = {"rows": 5000, "kept": 5000, "rejected": {}}
    Path("manifest.json").write_text(json.dumps(content))
    found = planned(capsys, SLIP, "--data.manifest", "manifest.json")
    assert (found["epoch_samples"], found["samples_source"]) == (5000, "manifest.json")
    assert found["steps"] == total_steps(recipe(SLIP).optim, steps_per_epoch=5000 / 4096)
    assert planned(capsys, SLIP, "--samples", "8192")["epoch_samples"] == 8192


def write_run(config: TrainConfig, *records: dict[str, float]) -> None:
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(dataclasses.asdict(config)))
    Path("run/metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_measured_run_gives_the_mfu(capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"step": i, "mfu": mfu, "images_per_s": 7000.0 + i} for i, mfu in enumerate((0.1, 0.5, 0.3))]
    write_run(recipe(SLIP), *records, {"step": 9, "zeroshot/top1": 0.2})
    found = planned(capsys, SLIP, "--measured", "run")
    assert found["mfu"] == 0.3
    assert found["mfu_source"] == "run: 0.300 at 7,001 samples/s, median of 3 records"
    assert found["hours"] == pytest.approx(planned(capsys, SLIP, "--mfu", "0.3")["hours"])


def test_a_measured_run_that_computed_twice_is_taken_as_if_it_had_not(capsys: pytest.CaptureFixture[str]) -> None:
    parts = dataclasses.replace(recipe(SLIP), optim=OptimConfig(micro_batch=64))
    write_run(parts, {"step": 1, "mfu": 0.3})
    assert planned(capsys, SLIP, "--measured", "run")["mfu"] == pytest.approx(0.4, rel=0.01)
    same = planned(capsys, SLIP, "--measured", "run", "--optim.micro-batch", "64")
    samples_per_s = same["samples"] / (same["hours"] * 3600)
    assert samples_per_s * same["flops"]["model"] / (8 * 989.5e12) == pytest.approx(0.3), "the MFU it had"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "metrics.jsonl: there is no such file"),
        ({"step": 1}, "no record has an MFU"),
        ({"step": 1, "mfu": "many"}, "line 1 is no record of a run"),
    ],
)
def test_a_run_without_an_mfu_is_refused(
    capfd: pytest.CaptureFixture[str], written: dict[str, Any] | None, said: str
) -> None:
    if written is not None:
        write_run(recipe(SLIP), written)
    assert main(["plan", SLIP, "--measured", "run"]) == 1
    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "0"), "--gpus is 0; it must be at least 1"),
        (("--gpu", "tpu"), "--gpu is 'tpu'; known are h100, "),
        (("--gpus", "3"), "--optim.global-batch is 4096; it must be a multiple of --gpus, 3"),
        (("--optim.micro-batch", "1024"), "--optim.micro-batch 1024 is more than a GPU has"),
        (("--mfu", "40"), "--mfu is 40.0; it must be above 0 and at most 1"),
        (("--price", "-1"), "--price is -1.0"),
        (("--samples", "0"), "--samples is 0"),
        (("--text-length", "78"), "--text-length is 78; it must be from 3 to 77"),
        (("--data.manifest", "nowhere"), "give --samples"),
        (("--data.manifest", "{00..99}.tar"), "give --samples"),
        (("--optim.epochs", "0"), "--optim.epochs is 0"),
    ],
)
def test_what_cannot_be_is_refused(capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    assert said in refused(capfd, SLIP, *words)


@pytest.mark.parametrize("name", GPUS)
def test_peaks_are_those_of_training(name: str) -> None:
    for dtype, peak in ((torch.bfloat16, GPUS[name].bf16), (torch.float32, GPUS[name].fp32)):
        known = known_peak(DRIVER_NAMES[name], dtype, tf32=False)
        assert known is not None
        assert known[0] == pytest.approx(peak * 1e12)
        assert f"NVIDIA {GPUS[name].name}," in known[1]


def test_help_explains_units(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", SLIP, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("a multiply-add is 2", "GiB are 2^30 bytes", "within about 15 %", "--optim.micro-batch", "h200"):
        assert words in shown


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys; from slip.cli import main; "
        f"assert main(['plan', {SLIP!r}]) == 0; assert 'torch' not in sys.modules and 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
