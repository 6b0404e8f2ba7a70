"""The style sheet of an evaluation's page: light and dark, screen and paper, nothing from elsewhere."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--bg:#f6f5f1;--card:#fff;--ink:#1c1f24;--soft:#5c6470;--line:#e3e1da;--good:#0f766e;
--bad:#c2541b}
@media(prefers-color-scheme:dark){:root{--bg:#0f1216;--card:#171b21;--ink:#e8ebef;--soft:#9ba5b2;--line:#2a313a;
--good:#3db5a6;--bad:#ef8a5b}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1160px;margin:0 auto;padding:36px 24px 64px}
h1{font-size:30px;line-height:1.15;letter-spacing:-.02em;margin:0 0 8px;overflow-wrap:anywhere}
h2{font-size:22px;letter-spacing:-.015em;margin:44px 0 4px}h3{font-size:16px;margin:20px 0 6px}
p{margin:0 0 10px;max-width:84ch;overflow-wrap:anywhere}.soft{color:var(--soft)}
.warn{border-left:3px solid var(--bad);padding:2px 0 2px 14px}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px;margin:10px 0}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:6px 10px;text-align:right;font-weight:400;white-space:nowrap}
thead th{color:var(--soft);border-bottom:1px solid var(--line)}tbody tr+tr>*{border-top:1px solid var(--line)}
.text{text-align:left}tr.mean>*{font-weight:600}
.bar{min-width:110px;width:30%;text-align:left}.bar i{display:block;height:10px;border-radius:2px;
background:var(--good)}.bar{background:linear-gradient(var(--line),var(--line)) 10px 50%/calc(100% - 20px) 1px
no-repeat}
.heat{width:auto;font-size:12px;margin:4px 14px 10px}
.heat td,.heat th{padding:0;width:34px;height:30px;text-align:center;border:0!important}
.heat th.row{width:auto;text-align:right;padding-right:8px}.heat thead th{vertical-align:bottom;height:auto;
padding:6px 0;border:0}.heat thead span{writing-mode:vertical-rl;transform:rotate(180deg)}
.heat td{background:color-mix(in srgb,var(--tone) var(--p),var(--card));outline:1px solid var(--bg)}
.heat td.right{--tone:var(--good)}.heat td.wrong{--tone:var(--bad)}
details{margin:8px 0}summary{cursor:pointer;color:var(--soft)}
@media print{section{break-inside:avoid}}
"""
