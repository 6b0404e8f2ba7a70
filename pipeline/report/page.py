"""The report as a whole: turns collected `Facts` into one HTML page that needs nothing from anywhere.

Pure: values in, text out. Everything that comes from data is escaped, and only http(s) links are made links. Headline,
funnel and the frame are here; the other sections have modules of their own.
"""

from __future__ import annotations

import json
from html import escape

from pipeline.manifest import Manifest
from pipeline.records import SELECT_REASONS, Reason
from pipeline.report.captions import captions_section, comparisons_section
from pipeline.report.charts import Bar, compact, format_bytes, quantile, ranking, share
from pipeline.report.facts import Facts
from pipeline.report.fetching import fetching_section
from pipeline.report.pictures import licenses_section, pictures_section, samples_section
from pipeline.report.style import STYLE
from pipeline.report.words import REASONS, lower_first

_FIRST_EXAMPLES = 8

_VARIANTS = {
    "openai": "the rows of YFCC100M that OpenAI's list names, known as YFCC15M",
    "declip": "the rows of DeCLIP's list, another data set by the name of YFCC15M",
    "english": "the rows of YFCC100M with a text in English, chosen by this project's own rules",
    "cc3m": "the published list of Conceptual Captions (CC3M)",
    "cc12m": "the published list of Conceptual 12M",
    "redcaps": "the published annotations of RedCaps",
    "local": "pictures and captions of one's own",
    "sample": "a small generated stand-in for Flickr",
}


def manifest_mark(manifest: Manifest) -> str:
    """What a page says near its beginning about the manifest it was made from."""
    return f'<meta name="manifest-sha256" content="{manifest.sha256}">'


def _num_selected(manifest: Manifest) -> int:
    rejected = manifest.funnel["rejected"]
    return int(manifest.funnel["rows"]) - sum(int(rejected.get(str(reason), 0)) for reason in SELECT_REASONS)


def _header(facts: Facts) -> str:
    manifest = facts.manifest
    what = _VARIANTS.get(manifest.variant, "")
    notice = ""
    if manifest.variant == "sample":
        notice = (
            "<p class=warn><b>Generated pictures.</b> This data set shows that everything works. It says nothing about "
            "how well a model trained on real photographs does.</p>"
        )
    tiles = [
        ("samples", compact(manifest.num_samples) if manifest.num_samples >= 10**6 else f"{manifest.num_samples:,}"),
        ("shards", f"{len(manifest.shards):,}"),
        ("in all", format_bytes(manifest.num_bytes)),
        ("rows of metadata read", compact(manifest.funnel["rows"])),
        ("of the selected pictures arrived", share(manifest.num_samples, _num_selected(manifest))),
        ("words in the median caption", f"{quantile(facts.captions.words, 0.5):,}"),
    ]
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles)
    return (
        f"<p class=over>Data set report</p>\n<h1>{escape(manifest.name)}</h1>\n"
        f"<p class=sub>Pictures with captions, variant <b>{escape(manifest.variant)}</b>"
        f"{': ' + escape(what) if what else ''}.</p>{notice}\n<dl class=tiles>{listed}</dl>\n"
        f"<p class=digest>Identity (sha256 of the manifest): <code>{manifest.sha256}</code></p>"
    )


def _reasons(counts: dict[Reason, int], whole: int, kind: str) -> str:
    """Bars of the reasons that occurred, and the names of those that did not."""
    found = sorted(((reason, count) for reason, count in counts.items() if count), key=lambda item: -item[1])
    bars = [
        Bar(name=REASONS[reason][0], count=count, said=f"{count:,}", share=share(count, whole), note=REASONS[reason][1])
        for reason, count in found
    ]
    absent = ", ".join(lower_first(REASONS[reason][0]) for reason, count in counts.items() if not count)
    note = f"<p class=note>Did not occur: {escape(absent)}.</p>" if absent else ""
    return (ranking(bars, kind) if bars else "<p class=said>None.</p>") + note


def _band(parts: list[tuple[str, int]]) -> str:
    total = sum(count for _, count in parts) or 1
    return "".join(f'<i class={kind} style="flex:{count / total:.5f}"></i>' for kind, count in parts if count)


def _funnel(manifest: Manifest) -> str:
    """Two bars, the second a magnification of what the first one keeps, then every reason in words."""
    rows, samples = int(manifest.funnel["rows"]), manifest.num_samples
    rejected = {reason: int(manifest.funnel["rejected"].get(str(reason), 0)) for reason in Reason}
    before = {reason: count for reason, count in rejected.items() if reason in SELECT_REASONS}
    after = {reason: count for reason, count in rejected.items() if reason not in SELECT_REASONS}
    selected = _num_selected(manifest)
    lost = selected - samples
    part = 100 * selected / rows if rows else 0
    drawing = (
        f"<p class=stage><span><b>{rows:,}</b> rows of metadata</span><span>{rows - selected:,} set aside "
        f"({share(rows - selected, rows)})</span></p>"
        f"<div class=strip>{_band([('kept', selected), ('filter', rows - selected)])}</div>"
        f'<svg class=zoom viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden=true>'
        f'<path d="M0,0 L{part:.3f},0 L100,10 L0,10Z"/></svg>'
        f"<p class=stage><span><b>{selected:,}</b> selected ({share(selected, rows)})</span>"
        f"<span class=right>{lost:,} pictures lost ({share(lost, selected)})</span></p>"
        f"<div class=strip>{_band([('kept', samples), ('lost', lost)])}</div>"
        f"<p class=stage style='margin-top:10px'><span><b>{samples:,}</b> samples ({share(samples, selected)} of those "
        "selected)</span></p>"
    )
    return (
        f"<div class='panel funnel'>{drawing}</div><div class=panels>"
        f"<figure class=panel><figcaption><h3>Set aside before downloading</h3><p>Shares of the rows read.</p>"
        f"</figcaption>{_reasons(before, rows, 'filter')}</figure>"
        f"<figure class=panel><figcaption><h3>Lost in downloading</h3><p>Shares of the rows selected.</p>"
        f"</figcaption>{_reasons(after, selected, 'lost')}</figure></div>"
    )


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
    settings = json.dumps(facts.manifest.settings, indent=1, sort_keys=True, ensure_ascii=False)
    return (
        f"<div class=panels><div class=panel><h3>Train on it</h3><pre>{escape(train)}</pre>"
        "<h3>Read the plain WebDataset shards</h3>"
        f"<pre>{escape(plain)}</pre><p class=said>Each sample is <code>KEY.jpg</code>, <code>KEY.txt</code> (the "
        "caption) and <code>KEY.json</code> (title, description, photographer, licence). Beside every shard lies a "
        "Parquet table of the same name with each sample's offsets and digest.</p></div>"
        f"<div class=panel><h3>Settings that decided the content</h3><pre>{escape(settings)}</pre></div></div>"
    )


def _sections(facts: Facts) -> list[tuple[str, str, str, str]]:
    """Anchor, title, what to know first, and content of each section that has any."""
    examples = list(facts.examples)
    step = max(1, len(examples) // _FIRST_EXAMPLES)
    first = examples[step // 2 :: step][:_FIRST_EXAMPLES]
    found = [
        (
            "look",
            "A first look",
            "Samples evenly spread over the data set.",
            samples_section(first, even=True) if first else "",
        ),
        (
            "funnel",
            "From rows to samples",
            "Every row of metadata ends as a sample or under exactly one reason, so the numbers add up.",
            _funnel(facts.manifest),
        ),
        ("captions", "Captions", "What a model reads.", captions_section(facts.captions)),
        ("pictures", "Pictures", "What a model sees.", pictures_section(facts.pictures)),
        (
            "downloads",
            "Downloads",
            "What the Web still gave, and how fast."
            if facts.fetched is not None
            else "The work folder of the build is gone; losses by year and sources are not shown.",
            fetching_section(facts.manifest, facts.fetched, facts.timings),
        ),
        (
            "comparison",
            "Compared with other lists",
            "By photograph, not by caption.",
            comparisons_section(facts.comparisons) if facts.comparisons else "",
        ),
        (
            "licences",
            "Licences",
            "Every photograph belongs to its photographer and stays under its own licence; the index beside each shard "
            "and KEY.json name both. What a licence demands binds everyone who uses or passes on the picture.",
            licenses_section(facts.pictures.licenses) if facts.pictures.licenses else "",
        ),
        (
            "samples",
            "More samples",
            "Not chosen: positions are evenly spread. Captions stand as models read them, whatever they say.",
            samples_section([example for example in examples if example not in first]) if len(examples) > 1 else "",
        ),
        ("use", "Use it", "", _usage(facts)),
    ]
    return [section for section in found if section[3]]


def render(facts: Facts) -> str:
    """The page."""
    manifest, title = facts.manifest, escape(facts.manifest.name)
    sections = _sections(facts)
    links = "".join(f"<a href='#{anchor}'>{escape(name)}</a>" for anchor, name, _, _ in sections)
    body = "\n".join(
        f"<section id={anchor} aria-labelledby={anchor}-title>\n<h2 id={anchor}-title>{escape(name)}</h2>\n"
        f"<p class=lead>{escape(lead)}</p>\n{content}\n</section>"
        for anchor, name, lead, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Captions and names come from strangers: the page may load and run nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"{manifest_mark(manifest)}\n<title>{title} · data set report</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n<header>\n{_header(facts)}\n"
        f"<nav aria-label=Sections>{links}</nav>\n</header>\n<main>\n{body}\n</main>\n"
        f"<footer><p>Made from the manifest of {title}, its shards' indexes and the build's work folder.</p></footer>\n"
        "</body>\n</html>\n"
    )
