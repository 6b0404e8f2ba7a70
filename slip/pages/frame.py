"""The frame of a page that needs nothing from anywhere: style, script, tables; the script only shows numbers on hover.

Pure: texts in, HTML out. Whatever comes from a run is escaped by whoever puts it in; the page's policy lets it load
nothing and run no script but the one here, by its digest. Curves appear on linear and logarithmic axes, and runs
disappear, by the style alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from slip.pages.curves import COLOURS

_DARK = ("#5cb8e6", "#f08c5a", "#7cc474", "#c79be6", "#dcb53c", "#ec86b0", "#a9b4c2", "#4fc4cc")

_STYLE = """
:root{color-scheme:light dark;--bg:#f6f5f1;--card:#fff;--ink:#1c1f24;--soft:#5c6470;--line:#e3e1da;--mark:#fdf3dc;
--warn:#c2541b}
@media(prefers-color-scheme:dark){:root{--bg:#0f1216;--card:#171b21;--ink:#e8ebef;--soft:#9ba5b2;--line:#2a313a;
--mark:#2d2a1c;--warn:#ef8a5b}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1240px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:32px;line-height:1.15;letter-spacing:-.02em;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:22px;letter-spacing:-.015em;margin:40px 0 4px}h3{font-size:15px;margin:0 0 6px}
p{margin:0 0 10px;max-width:80ch}.soft,small{color:var(--soft)}
.warn{border-left:3px solid var(--warn);padding:2px 0 2px 14px;margin:8px 0}
.panels{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:16px}
.panel{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px;min-width:0}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px}
table{border-collapse:collapse;width:100%;font-size:14px}th,td{padding:7px 12px;text-align:right;vertical-align:top}
th:first-child,td:first-child{text-align:left}thead th{color:var(--soft);font-weight:600;border-bottom:1px solid
var(--line)}tbody th{font-weight:400}tbody tr+tr>*{border-top:1px solid var(--line)}
td{overflow-wrap:break-word;max-width:44ch}td small{display:block;font-weight:400}
td.best{font-weight:700;background:var(--mark)}
.controls{display:flex;flex-wrap:wrap;gap:6px 18px;position:sticky;top:0;z-index:1;background:var(--bg);
padding:10px 0;margin:0 0 6px}.controls label{cursor:pointer}
.key{display:inline-block;width:22px;height:10px;margin:0 6px 0 4px}.key line{stroke-width:3}
svg.plot{display:block;width:100%;height:auto}svg.plot line{stroke:var(--line)}svg text{fill:var(--soft);font-size:12px}
svg.plot path{stroke-width:.6;stroke-opacity:.5}
svg.plot .cursor{stroke:var(--soft);stroke-dasharray:2 3}.log{display:none!important}
body:has(#log:checked) .log{display:block!important}body:has(#log:checked) .has-log .linear{display:none}
#tip{position:fixed;pointer-events:none;background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:6px 10px;font-size:13px;box-shadow:0 2px 10px #0003;white-space:pre;display:none;z-index:2}
@media(max-width:820px){.panels{grid-template-columns:minmax(0,1fr)}main{padding:20px 14px}}
@media print{.controls{position:static}.panel{break-inside:avoid}}
"""

# Places along a curve are told from its drawing: the page holds every number once.
_SCRIPT = """
(() => {
  const tip = document.getElementById("tip");
  const say = (v) => Math.abs(v) >= 1e5 || (v && Math.abs(v) < 1e-3) ? v.toExponential(2) : String(+v.toPrecision(4));
  for (const svg of document.querySelectorAll("svg.plot")) {
    const [x0, x1, y0, y1, log] = svg.dataset.ends.split(" ").map(Number);
    const [left, right, top, bottom] = svg.dataset.box.split(" ").map(Number);
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("y1", top);
    cursor.setAttribute("y2", bottom);
    svg.append(cursor);
    const hide = () => { tip.style.display = "none"; cursor.style.display = "none"; };
    hide();
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      if (at.x < left || at.x > right) return hide();
      cursor.style.display = "";
      cursor.setAttribute("x1", at.x);
      cursor.setAttribute("x2", at.x);
      const lines = [];
      for (const group of svg.querySelectorAll("g.run")) {
        if (getComputedStyle(group).display === "none") continue;
        let best = null;
        for (const p of group.querySelector("polyline").points) {
          if (!best || Math.abs(p.x - at.x) < Math.abs(best.x - at.x)) best = p;
        }
        if (!best) continue;
        const part = (bottom - best.y) / (bottom - top);
        const y = log ? y0 * Math.pow(y1 / y0, part) : y0 + part * (y1 - y0);
        const x = x0 + (best.x - left) / (right - left) * (x1 - x0);
        lines.push(group.querySelector("title").textContent + "  " + say(y) + "  at " + say(x));
      }
      tip.textContent = lines.join("\\n");
      tip.style.display = lines.length ? "block" : "none";
      tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = event.clientY + 14 + "px";
    });
  }
})();
"""


def _colours() -> str:
    def rules(colours: Sequence[str]) -> str:
        return "".join(
            f".c{i} polyline,.c{i} line,.c{i} path{{stroke:{c}}}.c{i} circle,.c{i} path{{fill:{c}}}"
            for i, c in enumerate(colours)
        )

    return f"{rules(COLOURS)}@media(prefers-color-scheme:dark){{{rules(_DARK)}}}"


def hiding(num_runs: int) -> str:
    """Style that hides the curves of run n where the box #run-n is not ticked."""
    return "".join(f"body:has(#run-{i}:not(:checked)) .r{i}{{display:none}}" for i in range(num_runs))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; a cell that begins with "*" is the best of its row."""
    head = "".join(f"<th scope=col>{name}</th>" for name in heads)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td class=best>{one[1:]}</td>" if one[:1] == "*" else f"<td>{one}</td>" for one in others)
        lines.append(f"<tr><th scope=row>{first}</th>{cells}</tr>")
    body = "".join(lines)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def warning(text: str) -> str:
    """A sentence that must not be missed."""
    return f"<p class=warn>{escape(text)}</p>"


def page(title: str, body: str, *, style: str = "") -> str:
    """The page around `body`."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}{_colours()}{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n<div id=tip></div>\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )
