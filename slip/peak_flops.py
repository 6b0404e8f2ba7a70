"""What a device could compute at most, and which share of it a training does (MFU: PaLM, 2204.02311, appendix B).

In: a device and a number type. Out: dense FLOP/s with the source of the number: the vendor's data sheet for the GPUs
below, a matrix product measured here for all others. A product's multiplications and additions are counted one each.
"""

from __future__ import annotations

import re
import time

import torch

from slip.gpu_peaks import PEAKS

_MEASURED_S = 0.15
# One product this long hides what starting it costs; larger matrices than these bring no more.
_PRODUCT_S = 0.01
_SMALLEST, _LARGEST = 512, 8192
_TERA = 1e12


def known_peak(name: str, dtype: torch.dtype, *, tf32: bool) -> tuple[float, str] | None:
    """Dense FLOP/s of the GPU that the driver calls `name`, and where they are from; None when none is known.

    `tf32`: whether float32 products may be computed in TF32.
    ("NVIDIA A100-SXM4-80GB", bfloat16) -> (312e12, "data sheet of NVIDIA A100, bf16 dense")
    """
    bare = re.sub(r"^(NVIDIA |Tesla |GeForce )+", "", name.strip())
    for pattern, (model, peak) in PEAKS.items():
        if re.fullmatch(pattern, bare) is None:
            continue
        if dtype == torch.bfloat16:
            found, unit = peak.bf16, "bf16"
        elif dtype == torch.float32 and tf32 and peak.tf32 is not None:
            found, unit = peak.tf32, "tf32"
        elif dtype == torch.float32:
            found, unit = peak.fp32, "fp32"
        else:
            found, unit = None, ""
        return None if found is None else (found * _TERA, f"data sheet of NVIDIA {model}, {unit} dense")
    return None


def _product_s(size: int, device: torch.device, dtype: torch.dtype, *, limit_s: float) -> float:
    """The shortest time of a product of two square matrices, over about `limit_s` seconds but at least two tries."""
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    # The first one chooses and loads its kernel.
    once()
    until = time.perf_counter() + limit_s
    best_s = min(once(), once())
    while time.perf_counter() < until:
        best_s = min(best_s, once())
    return best_s


def measured_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """FLOP/s of the best of some large matrix products, tried for a moment; on a CPU with the threads torch has."""
    size = _SMALLEST
    while size < _LARGEST and _product_s(size, device, dtype, limit_s=0.0) < _PRODUCT_S:
        size *= 2
    best_s = _product_s(size, device, dtype, limit_s=_MEASURED_S)
    who = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    kind = str(dtype).removeprefix("torch.")
    return 2 * size**3 / best_s, f"measured with matrices of {size} x {size} in {kind} on {who}"


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Dense FLOP/s that `device` reaches at most in `dtype`, and where the number is from."""
    if device.type == "cuda":
        tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
        known = known_peak(torch.cuda.get_device_name(device), dtype, tf32=tf32)
        if known is not None:
            return known
    return measured_flops(device, dtype)


def mfu(flops_per_sample: float, samples_per_s: float, world_size: int, peak: float) -> float:
    """Share of the devices' peak that a training uses, 0 to 1: model FLOPs of a sample times samples per second.

    `flops_per_sample` are those of the model, forward and backward, without what is computed twice to save memory;
    `samples_per_s` is the rate of all ranks together, `peak` FLOP/s of one. (2e9, 1000, 4, 1e12) -> 0.5
    """
    return flops_per_sample * samples_per_s / (world_size * peak)
