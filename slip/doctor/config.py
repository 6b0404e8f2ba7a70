"""Settings of `slip doctor`: what a run would use, how much is tried, and what counts as too little."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorConfig:
    """What the planned run uses, and the limits."""

    manifest: tuple[str, ...] = ()
    """Path or URL of the data set's manifest, or of the folder it is in; several are read alike. None: no reading is
    tried."""
    output: str = "runs"
    """Folder or URL the run would write to. Nothing that is tried stays there."""
    read_mb: int = 256
    """MB that each node reads from the data set."""
    connections: int = 8
    """Ranged requests in flight per process, as in training (--data.connections)."""
    write_mb: int = 256
    """MB of the trial checkpoint that rank 0 writes."""
    reduce_mb: int = 64
    """MB of the message that the ranks sum up."""
    max_skew_s: float = 1.0
    """Seconds a node's clock may be off that of rank 0's node."""
    max_late: float = 0.25
    """How much later than the first a rank may arrive where all wait for each other, as a share of the time that the
    work before it takes. Not asked of CPUs, which ranks may share."""
    min_free_gb: float = 10.0
    """GB that must be free where --output is, if that is a folder. Checkpoints of SLIP with ViT-B/16 have about 2 GB;
    a run keeps three, the best, and the one being written."""
    min_tmp_gb: float = 2.0
    """GB that should be free in the temporary folder (TMPDIR) of each node. Checkpoints for a URL are written there
    first."""
    min_memory_gb: float = 4.0
    """GB of host memory that should be available to each rank."""
    min_write_mb_s: float = 50.0
    """MB/s at which the trial checkpoint should be written."""
    min_reduce_gb_s: float = 1.0
    """GB/s of bus bandwidth that summing up should reach on GPUs; not asked of CPUs."""
    gpu_rate: float = 1185.0
    """Samples a second that one GPU trains; reading should keep up with the GPUs of a node. Default: SLIP with ViT-B/16
    at 40 % of an H100's dense bf16 rate. Not asked of CPUs."""
    timeout_s: float = 150.0
    """Seconds a check may take on a node before it counts as stuck. At the start ranks wait twice as long for each
    other."""
    json: bool = False
    """Print one JSON object instead of the table."""

    def __post_init__(self) -> None:
        for name in ("read_mb", "connections", "write_mb", "reduce_mb", "max_skew_s", "max_late", "timeout_s"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be a positive number")
        for name in ("min_free_gb", "min_tmp_gb", "min_memory_gb", "min_write_mb_s", "min_reduce_gb_s", "gpu_rate"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least 0")
