"""Numbers made visible for the report: grouping counts, column charts as SVG, and the page's style sheet.

Pure: counts in, text out. What is shown where is `report_page`'s part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

_MAX_YEARS = 16
_CHART_W, _CHART_H, _AXIS_H = 520, 190, 26


def format_bytes(num_bytes: int) -> str:
    """1234567 -> "1.2 MB"."""
    value, unit = float(num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest value with at least this share of the samples at or below it; 0 when there are none."""
    needed, seen = share * counts.total(), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= needed:
            return value
    return 0


def bins(counts: Counter[int], num_bins: int = 26) -> list[tuple[str, int]]:
    """Bins of a round width up to the 99th percentile; what lies above goes into the last one.

    bins(Counter({3: 2, 14: 1}), 2) -> [("0-9", 2), ("10 and more", 1)]
    """
    top = max(1, quantile(counts, 0.99))
    width = next(step * 10**power for power in range(12) for step in (1, 2, 5) if step * 10**power * num_bins > top)
    heights = [0] * (top // width + 1)
    for value, count in counts.items():
        heights[min(value // width, len(heights) - 1)] += count
    labels = [f"{i * width}-{(i + 1) * width - 1}" if width > 1 else str(i) for i in range(len(heights))]
    if max(counts, default=0) >= len(heights) * width:
        labels[-1] = f"{(len(heights) - 1) * width} and more"
    return list(zip(labels, heights, strict=True))


def year_groups(counts: Counter[str]) -> dict[str, str]:
    """Label of each year: itself, or "before Y" when it lies long before most; "" becomes "unknown".

    A handful of mis-set cameras say 1904; without this the chart would have a century of empty columns.
    """
    known = sorted(year for year in counts if year)
    groups = {"": "unknown"}
    if not known:
        return groups
    last = str(quantile(Counter({int(y): counts[y] for y in known}), 0.999))
    first = max(int(known[0]), int(last) - _MAX_YEARS + 1)
    for year in known:
        groups[year] = f"before {first}" if int(year) < first else f"after {last}" if year > last else year
    return groups


def columns(values: Sequence[tuple[str, float]], unit: str, *, percent: bool = False, kind: str = "kept") -> str:
    """A column chart; labels that would touch are left out, every column says its numbers when pointed at."""
    top = max((value for _, value in values), default=0) or 1
    step = _CHART_W / max(len(values), 1)
    shown_every = max(1, -(-len(values) * max((len(label) for label, _ in values), default=1) * 8 // _CHART_W))
    parts = []
    for i, (label, value) in enumerate(values):
        height = (_CHART_H - 18) * value / top
        said = f"{value:.1%}" if percent else f"{value:,.0f}"
        parts.append(
            f'<rect class={kind} x="{i * step + 1:.1f}" y="{_CHART_H - height:.1f}" width="{max(step - 2, 1):.1f}" '
            f'height="{height:.1f}" rx="2"><title>{escape(f"{label} {unit}".strip())}: {said}</title></rect>'
        )
        if i % shown_every == 0:
            short = label.split("-")[0].removesuffix(" and more")
            parts.append(f'<text x="{(i + 0.5) * step:.1f}" y="{_CHART_H + 17}">{escape(short)}</text>')
    peak = f"{top:.1%}" if percent else f"{top:,.0f}"
    return (
        f'<svg viewBox="0 0 {_CHART_W} {_CHART_H + _AXIS_H}" role="img">{"".join(parts)}'
        f'<line x1="0" x2="{_CHART_W}" y1="{_CHART_H}" y2="{_CHART_H}"/>'
        f'<text class=peak x="0" y="10">{peak}</text></svg>'
    )


STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#667080;--line:#e4e7ec;--kept:#2f7d6d;
--lost:#c8643c;--filter:#9aa7b8;--all:#4d5b70;--link:#1f5fa8}
@media(prefers-color-scheme:dark){:root{--bg:#111418;--card:#1a1f25;--ink:#e8ebef;--soft:#95a0ae;--line:#2b323b;
--kept:#4fb39d;--lost:#e08a62;--filter:#6a788a;--all:#8b9bb2;--link:#7fb2ec}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums}
header,main{max-width:1160px;margin:0 auto;padding:0 24px}header{padding-top:44px}
h1{font-size:36px;line-height:1.15;letter-spacing:-.02em;margin:0;overflow-wrap:anywhere}
.over{margin:0 0 6px;color:var(--kept);font-weight:600;font-size:13px;letter-spacing:.08em;text-transform:uppercase}
.sub{color:var(--soft);margin:10px 0 24px;overflow-wrap:anywhere}code{font:12.5px ui-monospace,Menlo,Consolas,monospace}
main{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:18px;padding-bottom:60px}
.wide{grid-column:1/-1}.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:20px 22px}
h2{font-size:17px;margin:0 0 14px;letter-spacing:-.01em}
h2 small{color:var(--soft);font-weight:400;font-size:13px;margin-left:6px}
.tiles{display:grid;grid-template-columns:repeat(6,minmax(0,1fr));gap:14px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:16px 18px}
.tile b{display:block;font-size:25px;line-height:1.2;letter-spacing:-.02em}.tile span{color:var(--soft);font-size:13px}
.bar{display:grid;grid-template-columns:240px 1fr 110px 64px;gap:14px;align-items:center;padding:3px 0}
.bar b{text-align:right;font-weight:600}.bar em{font-style:normal;color:var(--soft);text-align:right}.none{opacity:.45}
.track{background:var(--line);border-radius:5px;height:14px;overflow:hidden}
.track i{display:block;height:100%;border-radius:5px}
.kept{background:var(--kept);fill:var(--kept)}.lost{background:var(--lost);fill:var(--lost)}
.filter{background:var(--filter)}.all{background:var(--all)}
.legend{color:var(--soft);font-size:13px;margin:12px 0 0}.legend b{color:var(--ink)}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin:0 5px 0 12px;vertical-align:-1px}
.legend i:first-child{margin-left:0}.empty{color:var(--soft)}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px;text-anchor:middle}
svg text.peak{text-anchor:start}svg line{stroke:var(--line)}rect:hover{opacity:.75}
table{border-collapse:collapse;width:100%}th,td{text-align:right;padding:7px 4px;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:500;font-size:13px}
tr:last-child td{border:0}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:16px}
figure{margin:0;border:1px solid var(--line);border-radius:10px;overflow:hidden;background:var(--bg)}
figure img{display:block;width:100%;aspect-ratio:4/3;object-fit:cover}figcaption{padding:10px 12px 12px}
figcaption p{margin:0 0 6px;font-size:14px;line-height:1.35;display:-webkit-box;-webkit-line-clamp:4;
-webkit-box-orient:vertical;
overflow:hidden;overflow-wrap:anywhere}figcaption small{color:var(--soft);font-size:12px;overflow-wrap:anywhere}
pre{background:var(--bg);border:1px solid var(--line);border-radius:10px;padding:12px 14px;overflow:auto;
font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace}
@media(max-width:860px){main{grid-template-columns:minmax(0,1fr)}.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
.bar{grid-template-columns:1fr 84px}.bar .track{grid-row:2;grid-column:1/-1}.bar em{display:none}}
"""
