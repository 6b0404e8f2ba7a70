"""The report's sections on texts: how long captions are and in which languages, and how the selection compares.

Pure: counts in, HTML out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from pipeline.report.charts import (
    Bar,
    chart,
    compact,
    histogram,
    histogram_table,
    quantile,
    ranking,
    share,
    strip,
    table,
)
from pipeline.report.facts import Captions, Comparison
from pipeline.report.words import LANGUAGES, reason_name

_MOST_LANGUAGES = 12
_MOST_REASONS = 8


def _lengths(words: Counter[int]) -> str:
    if not words:
        return chart("Caption length", "There are no samples.", "")
    low, middle, high = (quantile(words, portion) for portion in (0.05, 0.5, 0.95))
    message = f"Half of the captions have {middle:,} words or fewer; 5 % have at most {low:,}, 5 % more than {high:,}."
    return chart("Caption length", message, histogram(words, "words"), histogram_table(words, "words"))


def _usable(usable: Counter[str]) -> str:
    total = usable.total()
    parts = [
        ("kept", "both", "title and description"),
        ("kept2", "description", "description only"),
        ("kept3", "title", "title only"),
        ("filter", "neither", "neither"),
    ]
    shown = [(kind, usable[key], name, share(usable[key], total)) for kind, key, name in parts if usable[key]]
    with_title, with_description = usable["both"] + usable["title"], usable["both"] + usable["description"]
    message = (
        f"{share(with_description, total)} of the samples have a description and {share(with_title, total)} a title "
        "in natural language. Training draws one of them; plain readers get the description where it is usable."
    )
    rows = [(name, f"{usable[key]:,}", share(usable[key], total)) for _, key, name in parts]
    return chart("Usable texts", message, strip(shown), table(("usable", "samples", "share"), rows))


def _languages(captions: Captions) -> str:
    title, counts = "Languages", captions.languages
    if captions.no_languages:
        return (
            f"<figure class=panel><figcaption><h3>{title}</h3></figcaption>"
            f"<p class=said>Languages were not told: {escape(captions.no_languages)}</p></figure>"
        )
    total, known = counts.total(), sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    known = [(code, count) for code, count in known if code != "und"]
    if not known:
        return chart(title, "No language could be told.", "")
    (first, most), others = known[0], known[1:]
    rest = sum(count for _, count in others)
    message = f"{share(most, total)} of the captions are in {_language(first)}"
    message += f", {share(counts['und'], total)} are too short or too odd to tell." if counts["und"] else "."
    parts = [("kept", most, _language(first)), ("kept2", rest, "other languages"), ("filter", counts["und"], "unsure")]
    drawing = strip([(kind, count, name, share(count, total)) for kind, count, name in parts if count])
    if others:
        bars = [
            Bar(name=_language(code), count=count, said=share(count, total)) for code, count in others[:_MOST_LANGUAGES]
        ]
        drawing += f"<div class=lines style='margin-top:18px'>{ranking(bars, 'kept2')}</div>"
    rows = [(_language(code), f"{count:,}", share(count, total)) for code, count in [*known, ("und", counts["und"])]]
    note = (
        f"Told by a language detector on {total:,} captions evenly spread over the data set. Detectors err on short "
        "texts: a few captions in rare languages are usually errors."
    )
    if len(others) > _MOST_LANGUAGES:
        note = f"{len(others) - _MOST_LANGUAGES} rarer languages are in the table. {note}"
    return chart(title, message, drawing, table(("language", "captions", "share"), rows), note=note)


def _language(code: str) -> str:
    return LANGUAGES.get(code, code)


def captions_section(captions: Captions) -> str:
    """Lengths, usable texts and languages."""
    left = _lengths(captions.words)
    if captions.usable.total():
        left += _usable(captions.usable)
    return f"<div class=panels><div class=stack>{left}</div><div class=stack>{_languages(captions)}</div></div>"


def comparisons_section(comparisons: Sequence[Comparison]) -> str:
    """The selection beside other lists, one panel each."""
    wide = len(comparisons) == 1
    return f"<div class=panels>{''.join(_comparison(found, wide=wide) for found in comparisons)}</div>"


def _comparison(found: Comparison, *, wide: bool) -> str:
    message = (
        f"{share(found.both, found.here)} of the photographs here are there too (precision {found.precision:.3f}), and "
        f"{share(found.both, found.there)} of those there are here (recall {found.recall:.3f}). Of all on either side "
        f"{share(found.both, _union(found))} are on both."
    )
    parts = [
        ("kept2", found.only_here, "only here", compact(found.only_here)),
        ("kept", found.both, "in both", compact(found.both)),
        ("filter", found.only_there, "only there", compact(found.only_there)),
    ]
    drawing = strip([part for part in parts if part[1]])
    lost = sorted(found.lost.items(), key=lambda item: (-item[1], item[0]))
    if shown := [(reason, count) for reason, count in lost if count][:_MOST_REASONS]:
        total = sum(found.lost.values())
        bars = [
            Bar(name=reason_name(reason), count=count, said=f"{count:,}", share=share(count, total))
            for reason, count in shown
        ]
        drawing += f"<h4>Why the others there are not here</h4>{ranking(bars, 'filter')}"
    rows = [
        ("selected here", f"{found.here:,}"),
        ("in the list", f"{found.there:,}"),
        ("in both", f"{found.both:,}"),
        ("only here", f"{found.only_here:,}"),
        ("only there", f"{found.only_there:,}"),
        ("precision", f"{found.precision:.4f}"),
        ("recall", f"{found.recall:.4f}"),
        ("Jaccard index", f"{found.jaccard:.4f}"),
        *((f"not here: {reason_name(reason)}", f"{count:,}") for reason, count in lost),
    ]
    return chart(found.name, message, drawing, table(("what", "photographs"), rows), wide=wide)


def _union(found: Comparison) -> int:
    return found.both + found.only_here + found.only_there
