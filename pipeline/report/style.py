"""The report's style sheet: light and dark, wide and narrow, screen and paper; no fonts or pictures from elsewhere."""

from __future__ import annotations

_COLOURS = """
:root{color-scheme:light dark;--bg:#f6f5f1;--card:#fff;--ink:#1c1f24;--soft:#5c6470;--line:#e3e1da;--rule:#eceae4;
--kept:#0f766e;--kept2:#6db3ab;--kept3:#b5d8d3;--lost:#c2541b;--lost2:#e3a47f;--filter:#a3abb7;--link:#0b5c8a;
--shadow:0 1px 2px #1c1f240a,0 4px 16px #1c1f2408}
@media(prefers-color-scheme:dark){:root{--bg:#0f1216;--card:#171b21;--ink:#e8ebef;--soft:#9ba5b2;--line:#2a313a;
--rule:#222830;--kept:#3db5a6;--kept2:#2a7f76;--kept3:#1d544f;--lost:#ef8a5b;--lost2:#96583c;--filter:#5a6573;
--link:#74b9e8;--shadow:none}}
"""

_TEXT = """
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","Noto Sans","Liberation Sans",Arial,sans-serif;font-variant-numeric:tabular-nums}
header,main,footer{max-width:1160px;margin:0 auto;padding:0 28px}header{padding-top:56px}
h1{font-size:clamp(30px,5vw,48px);line-height:1.1;letter-spacing:-.025em;margin:0;overflow-wrap:anywhere}
h2{font-size:26px;line-height:1.2;letter-spacing:-.018em;margin:0 0 6px}
h3{font-size:16px;line-height:1.3;margin:0 0 2px;letter-spacing:-.005em}
p{margin:0 0 10px}a{color:var(--link);text-decoration:none}a:hover,a:focus-visible{text-decoration:underline}
.over{margin:0 0 10px;color:var(--kept);font-weight:650;font-size:13px;letter-spacing:.09em;text-transform:uppercase}
.sub{color:var(--soft);font-size:18px;margin:14px 0 0;max-width:70ch}
.digest{color:var(--soft);font-size:13px;margin:18px 0 0;overflow-wrap:anywhere}
code,pre{font:13px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
nav{display:flex;flex-wrap:wrap;gap:6px 18px;margin:22px 0 0;padding:12px 0 0;border-top:1px solid var(--line);
font-size:14px}
section{padding:52px 0 0}
.lead{color:var(--soft);max-width:74ch;margin:0 0 22px;text-wrap:pretty}.lead b{color:var(--ink);font-weight:650}
.warn{border-left:3px solid var(--lost);padding:2px 0 2px 14px;margin:18px 0 0;max-width:74ch}
footer{color:var(--soft);font-size:13px;padding-top:44px;padding-bottom:56px}
"""

_BOXES = """
.stack{display:grid;gap:18px;min-width:0}.panels{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:18px}
.wide{grid-column:1/-1}
.panel{margin:0;background:var(--card);border:1px solid var(--line);border-radius:14px;padding:20px 22px;
box-shadow:var(--shadow);min-width:0}
.panel>figcaption p,.panel>p.said{color:var(--soft);font-size:14px;line-height:1.45;margin:0 0 16px}
.note{color:var(--soft);font-size:13px;line-height:1.45;margin:12px 0 0}
.tiles{display:grid;grid-template-columns:repeat(6,minmax(0,1fr));margin:34px 0 0;background:var(--card);
border:1px solid var(--line);border-radius:14px;box-shadow:var(--shadow);overflow:hidden}
.tiles div{padding:18px 20px;border-left:1px solid var(--rule);margin-left:-1px}
.tiles dd{margin:0;font-size:28px;line-height:1.15;font-weight:680;letter-spacing:-.025em;white-space:nowrap}
.tiles dt{color:var(--soft);font-size:13px;line-height:1.35;margin-top:4px}.tiles div{display:flex;
flex-direction:column-reverse;justify-content:flex-end}
details{margin:14px 0 0;font-size:13px}summary{cursor:pointer;color:var(--soft);width:max-content}
summary:hover{color:var(--ink)}details table{margin-top:8px;display:block;max-height:300px;overflow:auto}
table{border-collapse:collapse;width:100%;font-size:14px}details table{font-size:13px}details thead,details tbody{
display:table;width:100%;table-layout:fixed}
th,td{text-align:right;padding:6px 4px;border-bottom:1px solid var(--rule);vertical-align:baseline;font-weight:400}
th:first-child,td:first-child{text-align:left;overflow-wrap:anywhere}thead th{color:var(--soft);font-size:13px}
tbody tr:last-child>*{border-bottom:0}
pre{background:var(--bg);border:1px solid var(--line);border-radius:10px;padding:12px 14px;overflow:auto;
margin:0 0 14px}.said{font-size:14px;color:var(--soft);line-height:1.45}.twice td:first-child{white-space:nowrap}
.twice td:last-child,.twice th:last-child{
text-align:left}
"""

_CHARTS = """
.kept{background:var(--kept);fill:var(--kept)}.kept2{background:var(--kept2)}.kept3{background:var(--kept3)}
.lost{background:var(--lost)}.lost2{background:var(--lost2)}.filter{background:var(--filter)}
.plot{display:grid;grid-template-columns:46px minmax(0,1fr);grid-template-rows:190px 24px;margin-top:8px}
.small .plot{grid-template-rows:56px 24px}
.area{position:relative;border-bottom:1px solid var(--soft)}.area hr{position:absolute;left:0;right:0;margin:0;border:0;
border-top:1px solid var(--rule)}
.y{position:relative}.y span{position:absolute;right:8px;transform:translateY(50%);color:var(--soft);font-size:12px;
line-height:1;white-space:nowrap}
.x{grid-column:2;position:relative;font-size:12px;color:var(--soft)}.x span{position:absolute;top:6px;line-height:1;
transform:translateX(-50%);white-space:nowrap}
.cols{position:absolute;inset:0;display:flex;align-items:stretch;gap:2px}
.cols i{flex:1 1 0;min-width:0;display:flex;flex-direction:column-reverse}.cols s{display:block;min-height:1px}
.cols s:last-child{border-radius:2px 2px 0 0}.cols i:hover{opacity:.7}.dense .minor{display:none}
.mark{position:absolute;top:-6px;bottom:0;border-left:1.5px dashed var(--ink);font-weight:600;font-size:12px}
.mark span{position:absolute;top:-2px;left:7px;white-space:nowrap;line-height:1;background:var(--card);padding:1px 3px}
.mark.before span{left:auto;right:8px}
.ranking{list-style:none;margin:0;padding:0}.ranking li{display:grid;grid-template-columns:minmax(0,1fr) auto;
gap:0 16px;padding:9px 0;border-top:1px solid var(--rule)}.ranking li:first-child{border-top:0;padding-top:0}
.name small{display:block;color:var(--soft);font-size:13px;line-height:1.35}.name{overflow-wrap:anywhere}
.num{text-align:right;white-space:nowrap}.num b{font-weight:600}.num em{display:block;font-style:normal;
color:var(--soft);font-size:13px;line-height:1.35}
.track{grid-column:1/-1;height:7px;margin-top:6px;background:var(--rule);border-radius:4px;overflow:hidden}
.track i{display:block;height:100%;min-width:2px;border-radius:4px}
.lines .ranking li{grid-template-columns:128px minmax(0,1fr) 96px;align-items:center;padding:4px 0;border:0}
.lines .track{grid-column:2;grid-row:1;margin:0;height:12px}.lines .num em{display:inline;margin-left:8px}
.lines .name{font-size:14px;line-height:1.3}.lines .num b{font-size:14px}
.strip{display:flex;gap:2px;height:26px;border-radius:7px;overflow:hidden;background:var(--rule)}.strip i{min-width:2px}
.keys{list-style:none;display:flex;flex-wrap:wrap;gap:4px 20px;margin:10px 0 0;padding:0;font-size:14px;
color:var(--soft)}.keys b{color:var(--ink);font-weight:600}
.keys i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px;vertical-align:-1px}
.stage{display:flex;flex-wrap:wrap;justify-content:space-between;align-items:baseline;gap:0 20px;margin:0 0 6px}
.stage b{font-size:21px;letter-spacing:-.015em;color:var(--ink)}.funnel{margin-bottom:18px}
.stage span{color:var(--soft);font-size:14px}
.stage .right{color:var(--lost)}.zoom{display:block;width:100%;height:34px;fill:var(--kept);opacity:.13}
.sizes{display:block;width:100%;max-width:470px;height:auto;margin:0 auto}.sizes text{fill:var(--soft);font-size:12px}
.sizes .grid{stroke:var(--rule)}.sizes .diag{stroke:var(--soft);stroke-dasharray:2 4}
.sizes circle{fill:var(--kept);fill-opacity:.62;stroke:var(--card)}.sizes text.big{fill:var(--ink);font-weight:600;
paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
.rate{position:absolute;inset:0;width:100%;height:100%;overflow:visible}.rate path{fill:var(--kept);fill-opacity:.25;
stroke:var(--kept);stroke-width:1.5;vector-effect:non-scaling-stroke}
.mean{position:absolute;left:0;right:0;border-top:1.5px dashed var(--ink);font-size:12px;font-weight:600}
.mean span{position:absolute;right:0;bottom:4px;line-height:1;background:var(--card);padding:1px 3px}
.pause{position:absolute;top:0;bottom:0;border-left:1px dotted var(--soft)}
"""

_SAMPLES = """
.samples{columns:4 240px;column-gap:16px}.samples figure{margin:0 0 16px;background:var(--card);
border:1px solid var(--line);border-radius:12px;overflow:hidden;break-inside:avoid;box-shadow:var(--shadow)}
.samples img{display:block;width:100%;height:auto;background:var(--rule)}
.samples figcaption{padding:11px 14px 12px}.samples p{margin:0 0 7px;font-size:15px;line-height:1.38;
display:-webkit-box;-webkit-line-clamp:6;-webkit-box-orient:vertical;overflow:hidden;overflow-wrap:anywhere}
.samples small{display:block;color:var(--soft);font-size:12px;line-height:1.45;overflow-wrap:anywhere}
.samples.even{columns:auto;display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:16px}
.even figure{margin:0}.even img{aspect-ratio:4/3;object-fit:cover}
.chips{display:flex;flex-wrap:wrap;gap:5px;margin:7px 0 0}.chips span{font-size:12px;line-height:1;padding:5px 8px;
border-radius:99px;background:var(--rule);color:var(--soft)}
"""

_MEDIA = """
@media(max-width:1000px){.tiles{grid-template-columns:repeat(3,minmax(0,1fr))}
.tiles div{border-top:1px solid var(--rule);
margin-top:-1px}}
@media(max-width:780px){header,main,footer{padding-left:16px;padding-right:16px}header{padding-top:32px}
.panels{grid-template-columns:minmax(0,1fr)}.panel{padding:16px}.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
.tiles dd{font-size:23px}section{padding-top:40px}.minor{display:none}.samples{columns:2 150px;column-gap:10px}
.samples.even{grid-template-columns:repeat(2,minmax(0,1fr));gap:10px}
.samples figure{margin-bottom:10px}.samples p{font-size:14px}.samples figcaption{padding:9px 10px 10px}
.lines .ranking li{grid-template-columns:96px minmax(0,1fr) 60px;gap:0 10px}}
@media print{:root{color-scheme:light;--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#ccc;--rule:#e6e6e6;
--kept:#0f766e;--kept2:#6db3ab;--kept3:#b5d8d3;--lost:#c2541b;--lost2:#e3a47f;--filter:#a3abb7;--link:#000;--shadow:none}
body{zoom:.76}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}nav,details{display:none}
header,main,footer{max-width:none;padding-left:0;padding-right:0}header{padding-top:0}section{padding-top:26px}
.samples.even{grid-template-columns:repeat(4,minmax(0,1fr))}.panel,.tiles,tr,.ranking li{break-inside:avoid}
h2,h3,.lead{break-after:avoid}.samples{columns:4}
.panels{grid-template-columns:repeat(2,minmax(0,1fr))}.tiles{grid-template-columns:repeat(6,minmax(0,1fr))}
.minor{display:inline}.dense .minor{display:none}@page{margin:14mm}}
"""

STYLE = _COLOURS + _TEXT + _BOXES + _CHARTS + _SAMPLES + _MEDIA
