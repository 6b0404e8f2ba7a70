"""What data a run was trained on, as far as can be told without its checkpoints; imports no torch.

In: a `Run`. Out: name, variant, size and digest of its data, and where the digest is from. A ledger (--ledger) holds
the digest that training saw; without one it is that of the manifest as it is now, and where that is out of reach it is
not known.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import store
from pipeline.errors import YfccError
from slip.data.opening import is_pattern
from slip.data.sets import open_mix
from slip.ledger import Segment, segments
from slip.ledger_format import decode
from slip.pages.run_files import Run

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The captioned data of a run."""

    urls: tuple[str, ...]
    """Of its manifests."""
    names: tuple[str, ...] = ()
    """As the manifests call themselves; () where they are out of reach."""
    variants: tuple[str, ...] = ()
    samples: int | None = None
    digest: str | None = None
    """sha256 of the manifest, or over those of a mix; None where it is not known."""
    source: str = ""
    """Where the digest is from, or why there is none."""
    world_sizes: tuple[int, ...] = ()
    """Ranks of the run's parts, in the order in which they came; () without a ledger."""


def _noted(run: Run) -> tuple[str | None, tuple[int, ...]]:
    """The digest in the newest file of the run's ledger, and the world sizes along it."""
    listed: list[tuple[Segment, dict[tuple[int, int], str]]] = [(one, one.files()) for one in segments(run.url)]
    sizes = [size for _, files in listed for size in {size for _, size in files}]
    newest = next((files for _, files in reversed(listed) if files), {})
    for url in newest.values():
        return decode(store.read_bytes(url), url).header.digest, tuple(dict.fromkeys(sizes))
    return None, ()


def data_facts(run: Run) -> DataFacts:
    """Look the data up; nothing here is an error, since a run outlives its data."""
    data = run.config.data
    try:
        noted, world_sizes = _noted(run)
    except YfccError:
        noted, world_sizes = None, ()
    if any(map(is_pattern, data.manifest)):
        return DataFacts(urls=data.manifest, source="tars without a manifest have no digest")
    try:
        mix = open_mix(data.manifest, data.weights)
    except YfccError as error:
        source = "the run's ledger" if noted is not None else f"the manifest is out of reach: {error}"
        return DataFacts(urls=data.manifest, digest=noted, source=source, world_sizes=world_sizes)
    source = "the manifest as it is now"
    if noted is not None:
        same = noted == mix.digest
        source = "the run's ledger" if same else "the run's ledger; the manifest has another one now"
    return DataFacts(
        urls=data.manifest,
        names=tuple(manifest.name for manifest in mix.manifests),
        variants=tuple(manifest.variant for manifest in mix.manifests),
        samples=mix.num_samples,
        digest=noted or mix.digest,
        source=source,
        world_sizes=world_sizes,
    )
