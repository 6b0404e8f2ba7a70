"""The look of the report: turns collected `Facts` into one HTML page that needs nothing from anywhere.

Pure: values in, text out. Everything that comes from data is escaped, and only http(s) links are made links.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from pipeline.manifest import Manifest
from pipeline.records import SELECT_REASONS, Reason
from pipeline.report_charts import STYLE, bins, columns, format_bytes, quantile, year_groups

_LABELS = {
    Reason.MALFORMED_ROW: "row cannot be read",
    Reason.NOT_IN_LIST: "not in the subset list",
    Reason.LIST_MISMATCH: "list and metadata disagree",
    Reason.DUPLICATE_ROW: "duplicate row",
    Reason.VIDEO: "video",
    Reason.NO_CAPTION: "no caption",
    Reason.JUNK_CAPTION: "caption is junk",
    Reason.DEAD_LINK: "dead link",
    Reason.PLACEHOLDER: "‘photo unavailable’ picture",
    Reason.SERVER_ERROR: "server error",
    Reason.UNREACHABLE: "unreachable",
    Reason.TRUNCATED: "truncated picture",
    Reason.MISSING_FILE: "missing file",
    Reason.NOT_AN_IMAGE: "not a picture",
    Reason.TOO_SMALL: "too small",
    Reason.BOMB: "decompression bomb",
}
_MAX_LICENSES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sample of the grid."""

    key: str
    thumbnail: str
    """data: URL."""
    caption: str
    size: str
    user: str
    page_url: str
    license: str
    license_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything the page shows."""

    manifest: Manifest
    base_url: str
    """Where manifest and shards are."""
    caption_bytes: Counter[int]
    """Samples per length of the caption in bytes."""
    shorter_side: Counter[int]
    """Samples per length of the picture's shorter side in pixels."""
    licenses: Counter[tuple[str, str]]
    """Samples per name and URL of the licence."""
    years: Counter[str]
    """Samples per year taken; "" = unknown."""
    fetched_by_year: Counter[str]
    """Rows whose picture was asked for, per year; empty when unknown."""
    rejected_by_year: Counter[str]
    """Rows of them without a good picture."""
    examples: Sequence[Example]


def manifest_mark(manifest: Manifest) -> str:
    """What a page says near its beginning about the manifest it was made from."""
    return f'<meta name="manifest-sha256" content="{manifest.sha256}">'


def _notice(manifest: Manifest) -> str:
    if manifest.variant != "sample":
        return ""
    return (
        "\n<p><strong>Generated pictures and captions</strong>: the embedded sample shows that everything works. "
        "It is not YFCC100M, and its licences and photographers are invented.</p>"
    )


def render(facts: Facts) -> str:
    """The whole page."""
    manifest = facts.manifest
    title = escape(manifest.name)
    sections = [
        _headline(facts),
        _card("Where the rows went", _funnel(manifest), wide=True),
        _card("Caption length", _histogram(facts.caption_bytes, "bytes of UTF-8"), note="of the caption in .txt"),
        _card("Picture size", _histogram(facts.shorter_side, "pixels"), note="shorter side, as downloaded"),
        *_years(facts),
        _card("Licences", _licenses(facts.licenses), wide=True),
        _card("Samples", _grid(facts.examples), wide=True, note="evenly spread over the data set"),
        _card("Use it", _usage(facts), wide=True),
    ]
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Captions and names come from strangers: the page may load and run nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"{manifest_mark(manifest)}\n<title>{title} · data set report</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n<header>\n"
        f"<p class=over>Data set report</p>\n<h1>{title}</h1>\n"
        f"<p class=sub>variant <b>{escape(manifest.variant)}</b> · manifest sha256 "
        f"<code>{manifest.sha256}</code></p>{_notice(manifest)}\n</header>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _card(title: str, content: str, *, note: str = "", wide: bool = False) -> str:
    small = f" <small>{escape(note)}</small>" if note else ""
    return f'<section class="card{" wide" if wide else ""}">\n<h2>{escape(title)}{small}</h2>\n{content}\n</section>'


def _headline(facts: Facts) -> str:
    manifest = facts.manifest
    selected = manifest.num_samples + sum(
        count for reason, count in manifest.funnel["rejected"].items() if Reason(reason) not in SELECT_REASONS
    )
    tiles = [
        (f"{manifest.num_samples:,}", "samples"),
        (f"{len(manifest.shards):,}", "shards"),
        (format_bytes(manifest.num_bytes), "in all"),
        (f"{manifest.funnel['rows']:,}", "rows read"),
        (_share(manifest.num_samples, selected), "of the selected pictures arrived"),
        (f"{quantile(facts.caption_bytes, 0.5):,}", "bytes in the median caption"),
    ]
    items = "".join(
        f"<div class=tile><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in tiles
    )
    return f'<div class="tiles wide">{items}</div>'


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _funnel(manifest: Manifest) -> str:
    rows = manifest.funnel["rows"]
    rejected = manifest.funnel["rejected"]
    bars = [("rows read", "", rows, "all")]
    for reason in Reason:
        kind = "filter" if reason in SELECT_REASONS else "lost"
        bars.append((_LABELS[reason], str(reason), rejected.get(reason, 0), kind))
    bars.append(("samples", "", manifest.num_samples, "kept"))
    lines = []
    for label, code, count, kind in bars:
        width = 100 * count / rows if rows else 0
        lines.append(
            f'<div class="bar{"" if count else " none"}"><span title="{code}">{escape(label)}</span>'
            f'<span class=track><i class={kind} style="width:{width:.3f}%"></i></span>'
            f"<b>{count:,}</b><em>{_share(count, rows)}</em></div>"
        )
    legend = (
        "<p class=legend><i class=filter></i> set aside by select <i class=lost></i> lost in fetch "
        "<i class=kept></i> kept</p>"
    )
    return f"{''.join(lines)}{legend}"


def _histogram(counts: Counter[int], unit: str) -> str:
    if not counts:
        return "<p class=empty>no samples</p>"
    marks = " · ".join(
        f"{name} <b>{quantile(counts, share):,}</b>" for name, share in (("5 %", 0.05), ("median", 0.5), ("95 %", 0.95))
    )
    return f"{columns(bins(counts), unit)}<p class=legend>{marks} {escape(unit)}</p>"


def _years(facts: Facts) -> list[str]:
    groups = year_groups(facts.fetched_by_year or facts.years)
    order = {label: i for i, label in enumerate(dict.fromkeys(groups[year] for year in sorted(groups) if year))}
    order["unknown"] = len(order)
    taken = _grouped(facts.years, groups, order)
    cards = [_card("Year taken", columns(list(taken.items()), ""), note="samples")]
    if facts.rejected_by_year:
        asked = _grouped(facts.fetched_by_year, groups, order)
        lost = _grouped(facts.rejected_by_year, groups, order)
        shares = [(label, lost.get(label, 0) / count) for label, count in asked.items() if count]
        chart = columns(shares, "", percent=True, kind="lost")
        cards.append(_card("Lost in fetch by year taken", chart, note="share of the selected rows"))
    return cards


def _grouped(counts: Counter[str], groups: dict[str, str], order: dict[str, int]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for year, count in counts.items():
        totals[groups.get(year, "unknown")] += count
    return {label: totals[label] for label in sorted(totals, key=lambda label: order[label])}


def _licenses(licenses: Counter[tuple[str, str]]) -> str:
    total = licenses.total()
    ranked = sorted(licenses.items(), key=lambda item: (-item[1], item[0]))
    lines = [
        f"<tr><td>{_link(url, name or 'not stated')}</td><td>{count:,}</td><td>{_share(count, total)}</td></tr>"
        for (name, url), count in ranked[:_MAX_LICENSES]
    ]
    if rest := sum(count for _, count in ranked[_MAX_LICENSES:]):
        lines.append(f"<tr><td>others</td><td>{rest:,}</td><td>{_share(rest, total)}</td></tr>")
    return f"<table><tr><th>licence</th><th>samples</th><th>share</th></tr>{''.join(lines)}</table>"


def _link(url: str, text: str) -> str:
    if not url.startswith(("http://", "https://")):
        return escape(text)
    return f'<a href="{escape(url)}" rel="noopener noreferrer">{escape(text)}</a>'


def _grid(examples: Iterable[Example]) -> str:
    figures = []
    for example in examples:
        by = _link(example.page_url, f"by {example.user}" if example.user else example.key)
        terms = _link(example.license_url, example.license or "licence not stated")
        figures.append(
            f'<figure><img src="{example.thumbnail}" alt="" loading="lazy"><figcaption dir="auto">'
            f"<p>{escape(example.caption)}</p><small>{by} · {terms} · {escape(example.size)}</small>"
            "</figcaption></figure>"
        )
    return f"<div class=grid>{''.join(figures)}</div>"


def _usage(facts: Facts) -> str:
    base = facts.base_url.rstrip("/")
    if "://" not in base:  # the page says nothing about the machine it was made on, and is the same everywhere
        base = "path/to/this-folder"
    names = [shard.name for shard in facts.manifest.shards] or ["00000.tar"]
    first, last = names[0].removesuffix(".tar"), names[-1].removesuffix(".tar")
    shards = f"{base}/{first}.tar" if first == last else f"{base}/{{{first}..{last}}}.tar"
    train = f"python -m slip.train --data.manifest {base}/manifest.json"
    plain = (
        "import webdataset\n"
        f'samples = webdataset.WebDataset("{shards}", shardshuffle=False)\n'
        'samples = samples.decode("pil").to_tuple("jpg;png;webp", "txt", "json")'
    )
    return (
        f"<p>Train on it:</p><pre>{escape(train)}</pre><p>Or read the plain WebDataset shards "
        f"(<code>KEY.jpg</code>, <code>KEY.txt</code>, <code>KEY.json</code>):</p><pre>{escape(plain)}</pre>"
        "<p>Beside every shard lies a Parquet table of the same name with each sample's offsets, digest, photographer "
        "and licence. Every photograph belongs to its photographer and stays under its own licence.</p>"
    )
