"""Peak FLOP/s: data sheets by the driver's names, measured elsewhere."""

from __future__ import annotations

import pytest
import torch

from slip.peak_flops import known_peak, measured_flops, mfu, peak_flops

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("name", "bf16", "tf32", "fp32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 156, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312, 156, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 156, 19.5),
        ("NVIDIA H100 80GB HBM3", 989.5, 494.5, 67),
        ("NVIDIA H100 PCIe", 756.5, 378, 51),
        ("NVIDIA H100 NVL", 835.5, 417.5, 60),
        ("NVIDIA H200", 989.5, 494.5, 67),
        ("NVIDIA B200", 2250, 1100, 75),
        ("NVIDIA L4", 121, 60, 30.3),
        ("NVIDIA L40S", 362.05, 183, 91.6),
        ("NVIDIA A10", 125, 62.5, 31.2),
        ("NVIDIA GeForce RTX 3090", 71, 35.6, 35.6),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
        ("NVIDIA RTX A6000", 154.8, 77.4, 38.7),
        # It has neither of the two.
        ("Tesla V100-SXM2-32GB", None, 15.7, 15.7),
    ],
)
def test_gpus_by_name(name: str, bf16: float | None, tf32: float, fp32: float) -> None:
    found = known_peak(name, BF16, tf32=False)
    assert (found and found[0]) == (None if bf16 is None else pytest.approx(bf16 * 1e12))
    for allowed, expected in ((True, tf32), (False, fp32)):
        found = known_peak(name, FP32, tf32=allowed)
        assert found is not None
        assert found[0] == pytest.approx(expected * 1e12)
        assert found[1].startswith("data sheet of NVIDIA ")


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA RTX 6000 Ada Generation",
        "NVIDIA H20",
        "AMD Instinct MI300X",
    ],
)
def test_a_similar_name_is_another_gpu(name: str) -> None:
    assert known_peak(name, BF16, tf32=True) is None


def test_types_without_a_number_are_not_guessed() -> None:
    assert known_peak("NVIDIA L4", torch.float64, tf32=True) is None


def test_the_name_decides_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    assert peak_flops(torch.device("cuda"), BF16) == (312e12, "data sheet of NVIDIA A100, bf16 dense")


def test_a_cpu_is_measured() -> None:
    flops, source = peak_flops(torch.device("cpu"), FP32)
    # Any CPU does a billion a second; none does 10^15.
    assert 1e9 < flops < 1e15
    assert source.startswith("measured with matrices of ")
    assert source.endswith(f" in float32 on {torch.get_num_threads()} threads")


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_a_device_reaches_its_peak(device: str) -> None:
    peak, _ = peak_flops(torch.device(device), BF16)
    measured, _ = measured_flops(torch.device(device), BF16)

    assert measured > 0
    if device == "cuda":
        assert 0.3 * peak < measured < 1.1 * peak


def test_mfu_is_per_device() -> None:
    assert mfu(2e9, 1000.0, 4, 1e12) == pytest.approx(0.5)
