"""What a check found, and the one table of all that was found.

In: findings, one for each check and kind of trouble. Out: lines for people, bad ones first, or one JSON object for
programs. What is measured, and what counts as bad, is left to the modules of the checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["BAD", "WARN", "OK"]

LEVELS: tuple[Level, ...] = ("BAD", "WARN", "OK")
"""The worst first, as in the table."""

_COLOURS: dict[Level, str] = {"BAD": "\033[31m", "WARN": "\033[33m", "OK": ""}
_PLAIN = "\033[0m"
_MOST_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the table."""

    level: Level
    check: str
    """Name of the check."""
    where: tuple[str, ...]
    """Nodes it is true of."""
    found: str
    advice: str = ""
    """What to do about it; "" where nothing is to be done."""


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, otherwise as the checks were made."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def place(nodes: Iterable[str], all_nodes: Sequence[str]) -> str:
    """Nodes in few words: (["b", "a"], ["a", "b", "c"]) -> "a, b"; all of several -> "all 3 nodes"."""
    named = sorted(set(nodes))
    if len(named) > 1 and set(named) == set(all_nodes):
        return f"all {len(named)} nodes"
    more = len(named) - _MOST_NAMED
    return ", ".join(named[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def verdict(findings: Sequence[Finding]) -> str:
    """The last line: how many rows of each level, and what follows from that."""
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    if counts["BAD"]:
        follows = "mend what is BAD before starting a run"
    elif counts["WARN"]:
        follows = "a run can start; read the warnings first"
    else:
        follows = "a run can start"
    return f"{', '.join(f'{count} {level}' for level, count in counts.items())}: {follows}"


def table(findings: Sequence[Finding], all_nodes: Sequence[str], *, coloured: bool) -> str:
    """All rows, the worst first, what to do below each; the verdict is the last line."""
    rows = [
        (finding, (finding.level, finding.check, place(finding.where, all_nodes))) for finding in in_order(findings)
    ]
    widths = [max((len(cells[i]) for _, cells in rows), default=0) for i in range(3)]
    lines: list[str] = []
    for finding, cells in rows:
        first = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        shown = [f"{first}  {finding.found}"]
        if finding.advice:
            shown.append(" " * (len(first) + 2) + f"-> {finding.advice}")
        colour = _COLOURS[finding.level] if coloured else ""
        lines += [f"{colour}{line}{_PLAIN}" if colour else line for line in shown]
    return "\n".join([*lines, verdict(findings)]) + "\n"


def as_json(findings: Sequence[Finding], all_nodes: Sequence[str]) -> str:
    """The same for programs: {"verdict": ..., "bad": number, "nodes": [...], "findings": [{...}]}."""
    content = {
        "verdict": verdict(findings),
        "bad": sum(finding.level == "BAD" for finding in findings),
        "nodes": sorted(set(all_nodes)),
        "findings": [asdict(finding) for finding in in_order(findings)],
    }
    return json.dumps(content, indent=1) + "\n"
