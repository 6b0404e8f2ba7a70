"""Slurm's commands as scripts that answer what a test wants and note what they heard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Commands:
    """The commands there are."""

    folder: Path

    def add(self, name: str, answer: str = "", *, status: int = 0, error: str = "") -> None:
        """A command that prints `answer`."""
        (self.folder / f"{name}.answer").write_text(answer)
        script = (
            f'#!/bin/bash\nprintf "%s\\n" "$*" >> "{self.folder}/{name}.calls"\ncat "{self.folder}/{name}.answer"\n'
        )
        if name == "sbatch":
            script += f'cat "${{@: -1}}" > "{self.folder}/sbatch.script"; env > "{self.folder}/sbatch.env"\n'
        path = self.folder / name
        path.write_text(f"{script}echo '{error}' >&2\nexit {status}\n")
        path.chmod(0o755)

    def remove(self, name: str) -> None:
        """Take a command away."""
        (self.folder / name).unlink()

    def calls(self, name: str) -> list[str]:
        """The arguments of each call."""
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def submitted(self) -> str:
        """The script sbatch was last given."""
        return (self.folder / "sbatch.script").read_text()

    def environment(self) -> dict[str, str]:
        """The environment sbatch had."""
        lines = (self.folder / "sbatch.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


def queue_line(
    job: str, state: str, *, restarts: int = 0, nodes: str = "", reason: str = "None", script: str = ""
) -> str:
    """A line of squeue, columns as wide as asked."""
    return f"{job:<40}{state:<20}{restarts:<10}{nodes:<256}{reason:<80}{script:<4096}\n"
