"""What GPUs could compute at most, from the vendor's data sheets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Dense TFLOP/s of a GPU by number type; None where it has no unit for that type."""

    bf16: float | None
    tf32: float | None
    fp32: float


# Vendors print the numbers of the tensor cores with 2:4 sparsity; dense ones, as here, are half of them. Sources, all
# by NVIDIA: data sheets "A100 Tensor Core GPU" (2021), "H100 Tensor Core GPU" (SXM, PCIe 2023; NVL 2024), "H200 Tensor
# Core GPU" (2024), "HGX B200" (its lines for one GPU), "L4", "L40S", "L40", "A10", "V100"; white papers "GA102"
# appendix A (RTX 3090, RTX A6000) and "Ada GPU Architecture" appendix A (RTX 4090), bf16 with sums in float32.
# The names are what the driver says after "NVIDIA", "Tesla", "GeForce", whole: an A10G is no A10, a part of a GPU (MIG)
# no GPU, a 4090 Laptop no 4090.
PEAKS: dict[str, tuple[str, Peak]] = {
    r"A100-(SXM4|PCIE|PCIe)-(40|80)GB|A100 80GB PCIe": ("A100", Peak(bf16=312, tf32=156, fp32=19.5)),
    r"H100( SXM5?)?|H100 \d+GB HBM3": ("H100 SXM", Peak(bf16=989.5, tf32=494.5, fp32=67)),
    r"H100 (80GB )?PCIe": ("H100 PCIe", Peak(bf16=756.5, tf32=378, fp32=51)),
    r"H100 NVL": ("H100 NVL", Peak(bf16=835.5, tf32=417.5, fp32=60)),
    r"H200": ("H200 SXM", Peak(bf16=989.5, tf32=494.5, fp32=67)),
    r"H200 NVL": ("H200 NVL", Peak(bf16=835.5, tf32=417.5, fp32=60)),
    r"B200": ("B200", Peak(bf16=2250, tf32=1100, fp32=75)),
    r"L4": ("L4", Peak(bf16=121, tf32=60, fp32=30.3)),
    r"L40S": ("L40S", Peak(bf16=362.05, tf32=183, fp32=91.6)),
    r"L40": ("L40", Peak(bf16=181.05, tf32=90.5, fp32=90.5)),
    r"A10": ("A10", Peak(bf16=125, tf32=62.5, fp32=31.2)),
    r"V100-SXM2-(16|32)GB": ("V100 SXM2", Peak(bf16=None, tf32=None, fp32=15.7)),
    r"V100-PCIE-(16|32)GB": ("V100 PCIe", Peak(bf16=None, tf32=None, fp32=14)),
    r"V100S-PCIE-32GB": ("V100S PCIe", Peak(bf16=None, tf32=None, fp32=16.4)),
    r"RTX 3090": ("RTX 3090", Peak(bf16=71, tf32=35.6, fp32=35.6)),
    r"RTX 4090": ("RTX 4090", Peak(bf16=165.2, tf32=82.6, fp32=82.6)),
    r"RTX A6000": ("RTX A6000", Peak(bf16=154.8, tf32=77.4, fp32=38.7)),
}
"""Pattern of the driver's name -> the model's name and its peaks."""

BY_MODEL: dict[str, Peak] = dict(PEAKS.values())
