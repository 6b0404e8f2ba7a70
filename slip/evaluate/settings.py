"""Settings of the protocols that train nothing; imports no torch, so the command line reads them at once."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How pictures and texts pass the network."""

    batch: int = 256
    """Pictures (and prompts) per forward pass and process."""
    workers: int | None = None
    """Threads per process that decode. None: as many as it has cores."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"--batch is {self.batch}; it must be at least 1")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers is {self.workers}; it must be at least 1")

    def threads(self) -> int:
        """The number of threads."""
        from slip.data.worker_count import cores_of_this_rank

        return self.workers or cores_of_this_rank()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnConfig:
    """Classification by nearest neighbours."""

    neighbours: int = 20
    """How many pictures of the train split vote."""
    temperature: float = 0.07
    """A neighbour votes with exp(cosine similarity / temperature)."""

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigError(f"--knn.neighbours is {self.neighbours}; it must be at least 1")
        if self.temperature <= 0:
            raise ConfigError(f"--knn.temperature is {self.temperature}; it must be positive")
