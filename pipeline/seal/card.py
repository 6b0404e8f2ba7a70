"""The data set card: README.md beside the shards, for whoever meets the data set without this program.

In: the manifest and how often each licence occurs. Out: the page's bytes, which follow from these alone, so the
same data set has the same card, and a lost one can be written again from the manifest and the indexes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa

from pipeline.manifest import Manifest
from pipeline.records import Reason

CARD_NAME = "README.md"

LicenseCounts = Mapping[tuple[str, str], int]
"""Samples by (name, URL) of their licence."""

_WHAT = {
    "openai": "Photographs of [YFCC100M](https://arxiv.org/abs/1503.01817) with titles and descriptions people gave "
    "them: the rows of OpenAI's list, used for [CLIP](https://arxiv.org/abs/2103.00020) and "
    "[SLIP](https://arxiv.org/abs/2112.12750).",
    "declip": "Photographs of [YFCC100M](https://arxiv.org/abs/1503.01817) with cleaned captions: the rows of the list "
    "published with [DeCLIP](https://arxiv.org/abs/2110.05208).",
    "english": "Photographs of [YFCC100M](https://arxiv.org/abs/1503.01817) whose title or description is natural "
    "language in English by the rules of this project.",
    "sample": "Generated pictures with captions: a small stand-in for YFCC15M, for trying things out. It shows nothing "
    "anybody photographed.",
    "cc3m": "Pictures from the web with their alternative texts: "
    "[Conceptual Captions](https://github.com/google-research-datasets/conceptual-captions).",
    "cc12m": "Pictures from the web with their alternative texts: "
    "[Conceptual 12M](https://github.com/google-research-datasets/conceptual-12m).",
    "redcaps": "Pictures from Reddit with the titles of their posts: [RedCaps](https://redcaps.xyz).",
    "local": "Pictures of the owner's own, with captions.",
}

_ATTRIBUTION = """\
These are other people's photographs. Each is under the Creative Commons licence its photographer chose, and these
licences differ: all ask for attribution, some forbid commercial use or changes. The shards as a whole have no
licence of their own. Whoever shows or passes on a photograph must name its author and its licence, and a photograph
that its author has since taken down should be removed.

For every sample `user` (the photographer), `page_url` (the photograph's page), `license` and `license_url` stand in its
`.json` and in the Parquet table beside its shard:

```python
import pyarrow.parquet as pq

rows = pq.read_table("{index}", columns=["key", "user", "page_url", "license", "license_url"]).to_pylist()
```
"""
_UNKNOWN_RIGHTS = """\
The pictures belong to whoever made them; where they come from says nothing of their licences. `url` in each sample's
`.json`, and in the Parquet table beside its shard, says where a picture was found. A picture that its author has since
taken down should be removed.
"""
_GENERATED = """\
The pictures are generated and nobody's; the licences and photographers named with them are made up.
"""

_READING = """\
```python
import webdataset as wds

shards = ["{shard}"]  # all of them: the keys of sizes.json
data = wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg;png;webp", "txt", "json")
```

    python -m slip.train RECIPE --data.manifest manifest.json

`manifest.json` names every shard with its digest, `NNNNN.parquet` says where in its shard each sample lies, `NNNNN.idx`
says it to DALI (`fn.readers.webdataset(paths=..., index_paths=...)`), `sizes.json` gives open_clip the number of
samples.
"""


def count_licenses(index: pa.Table) -> dict[tuple[str, str], int]:
    """How often each (licence, URL) occurs in a shard's index."""
    pairs = zip(index["license"].to_pylist(), index["license_url"].to_pylist(), strict=True)
    return dict(Counter((name or "", url or "") for name, url in pairs))


def _cell(text: str) -> str:
    """Text as it may stand in a table."""
    return " ".join(text.replace("|", "\\|").split())


def _license_table(licenses: LicenseCounts) -> str:
    lines = ["| licence | samples |", "|---|---:|"]
    for (name, url), count in sorted(licenses.items(), key=lambda entry: (-entry[1], entry[0])):
        shown = _cell(name) or "not stated"
        link = f"[{shown}](<{_cell(url)}>)" if url.startswith(("http://", "https://")) else shown
        lines.append(f"| {link} | {count:,} |")
    return "\n".join(lines)


def _funnel_table(manifest: Manifest) -> str:
    lines = ["| rows | count |", "|---|---:|", f"| read | {manifest.funnel['rows']:,} |"]
    rejected = manifest.funnel["rejected"]
    known = [str(reason) for reason in Reason if rejected.get(str(reason))]
    lines += [f"| rejected: {reason.replace('_', ' ')} | {rejected[reason]:,} |" for reason in known]
    return "\n".join([*lines, f"| kept as samples | {manifest.funnel['kept']:,} |"])


def card_bytes(manifest: Manifest, licenses: LicenseCounts) -> bytes:
    """The card of a sealed data set."""
    rights = _ATTRIBUTION if any(name or url for name, url in licenses) else _UNKNOWN_RIGHTS
    if manifest.variant == "sample":
        rights = _GENERATED
    settings = "\n".join(f"| {name} | {_cell(_value(value))} |" for name, value in sorted(manifest.settings.items()))
    first = manifest.shards[0]
    parts = [
        f"# {manifest.name}",
        _WHAT.get(manifest.variant, "Pictures with captions."),
        f"{manifest.num_samples:,} samples in {len(manifest.shards):,} WebDataset shards, {manifest.num_bytes:,} "
        f"bytes, variant `{manifest.variant}`.\nThe sha256 of `manifest.json`, which identifies the data set, is\n"
        f"`{manifest.sha256}`.",
        "## Licences and attribution",
        rights.replace("{index}", first.index).rstrip(),
        _license_table(licenses),
        "## What was left out",
        _funnel_table(manifest),
        "## Reading it",
        _READING.replace("{shard}", first.name).rstrip(),
        "## How it was built",
        f"| setting | value |\n|---|---|\n{settings}",
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _value(value: object) -> str:
    """A setting as it is shown: ["url", "zip"] -> "url, zip", None -> "none"."""
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "none" if value is None else str(value)
