"""The style sheet: light and dark by the reader's preference, narrow screens, and paper.

Categorical colours follow Okabe and Ito's palette for colour-blind readers, darkened where their contrast with white is
below 3:1; the ramp r0..r7 follows cividis, pale to strong against the background.
"""

_LIGHT = """
--page:#fff;--ink:#1b1d21;--soft:#565c66;--rule:#d8dbe0;--panel:#f6f7f8;--link:#0a5c9e;--track:#e9ebee;--frame:#1b1d21;
--good:#0a7050;--warn:#8f5a00;--bad:#b3261e;--good-bg:#eaf6f1;--warn-bg:#fdf4e3;--bad-bg:#fdeeec;
--c0:#0072b2;--c1:#c67700;--c2:#00835f;--c3:#a8508a;--c4:#d04f00;--c5:#2a8fcb;--c6:#857a00;--c7:#4a4f57;--quiet:#8a919c;
--r0:#d3c98a;--r1:#bdb47c;--r2:#a29f78;--r3:#858a79;--r4:#6a7480;--r5:#4c5f80;--r6:#2c4a79;--r7:#00224e;
"""
_DARK = """
--page:#15171b;--ink:#e7e9ec;--soft:#a3aab5;--rule:#353a43;--panel:#1d2026;--link:#7cc0f5;--track:#2b2f37;
--frame:#e7e9ec;
--good:#4fd0a3;--warn:#f0b64a;--bad:#ff8a80;--good-bg:#14291f;--warn-bg:#2e2512;--bad-bg:#331a18;
--c0:#4da8e8;--c1:#e69f00;--c2:#1fb98d;--c3:#dc8fc0;--c4:#f27a3a;--c5:#8fd0f7;--c6:#e6dc52;--c7:#c3c8d0;--quiet:#7d8591;
--r0:#3b4d73;--r1:#4a5b7c;--r2:#5f6c7f;--r3:#777e80;--r4:#93927c;--r5:#b2a973;--r6:#d3c265;--r7:#fdea45;
"""

_BASE = """
*{box-sizing:border-box}
html{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","Liberation Sans",Arial,
sans-serif;
color:var(--ink);background:var(--page);-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:1120px;padding:2rem clamp(1rem,3vw,2rem) 4rem;overflow-wrap:anywhere}
h1,h2,h3,p,ul,ol,dl,dd,figure,table{margin:0}
h1{font-size:clamp(1.6rem,5vw,2.3rem);line-height:1.15;font-weight:650;letter-spacing:-.015em;text-wrap:balance}
h2{font-size:1.35rem;line-height:1.25;font-weight:650;letter-spacing:-.01em;margin-bottom:1rem}
h3{font-size:1rem;font-weight:650}
a{color:var(--link);text-underline-offset:.15em}
a:focus-visible,summary:focus-visible,.scroll:focus-visible,pre:focus-visible{outline:2px solid var(--link);
outline-offset:2px}
code,pre{font:.86em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
.skip{position:absolute;left:-999rem}.skip:focus{left:1rem;top:.5rem;background:var(--page);padding:.3rem .6rem;
z-index:1}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.kicker{color:var(--soft);font-size:.85rem;margin-bottom:.3rem}
.about{color:var(--soft);margin-top:.5rem}
nav ol{list-style:none;padding:.7rem 0;margin-top:1.2rem;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.9rem;
border-block:1px solid var(--rule)}
section{margin-top:2.8rem}
section>*+*{margin-top:1.2rem}
h2+*{margin-top:0!important}
p,li{max-width:75ch}
li>p{max-width:none}
.absent,.how,.lead{color:var(--soft)}
.how{font-size:.9rem;margin-top:.5rem}
main{counter-reset:fig}
figure{counter-increment:fig}
figcaption{font-size:.875rem;line-height:1.5;color:var(--soft);margin-top:.8rem;max-width:85ch}
figcaption::before{content:"Figure " counter(fig) ". ";font-weight:650;color:var(--ink)}
footer{margin-top:4rem;padding-top:.8rem;border-top:1px solid var(--rule);font-size:.85rem;color:var(--soft)}
"""

_VERDICT = """
.verdict{--tone:var(--soft);--tone-bg:var(--panel);display:grid;grid-template-columns:1fr;gap:1.2rem 2.5rem;
padding:1.2rem 1.4rem;
background:var(--tone-bg);border-left:4px solid var(--tone);border-radius:3px}
@media(min-width:760px){.verdict:has(.figures){grid-template-columns:minmax(0,1.25fr) minmax(0,1fr)}}
.good{--tone:var(--good);--tone-bg:var(--good-bg)}.warn{--tone:var(--warn);--tone-bg:var(--warn-bg)}
.bad{--tone:var(--bad);--tone-bg:var(--bad-bg)}.unknown{--tone:var(--soft);--tone-bg:var(--panel)}
.verdict .words>*+*{margin-top:.7rem}
.verdict ul{padding-left:1.1rem}
.verdict li+li{margin-top:.3rem}
.judged{display:grid;gap:.9rem 2rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));
list-style:none;padding:0}
.judged>li{border-left:4px solid var(--tone);background:var(--tone-bg);border-radius:3px;padding:.7rem 1rem;
max-width:none}
.judged ul{list-style:disc;padding-left:1.1rem;font-size:.9rem;margin-top:.3rem}.judged h3{margin-bottom:.1rem}
.badge{color:var(--tone);font-weight:650;white-space:nowrap;display:inline-flex;align-items:center;gap:.4em}
.status .badge{font-size:1.4rem;line-height:1.2;white-space:normal}
.icon{width:1.05em;height:1.05em;flex:none}.icon .shape{fill:var(--tone)}
.icon .sign{fill:none;stroke:var(--page);stroke-width:2.4;stroke-linecap:round;stroke-linejoin:round}
.big{font-size:2.7rem;line-height:1;font-weight:650;letter-spacing:-.03em;font-variant-numeric:tabular-nums}
.what{font-size:.9rem;color:var(--soft);margin-top:.3rem}.gain{font-size:.9rem}
.gain.worse{color:var(--bad);font-weight:600}.figures .chart{margin-top:.7rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,9.5rem),1fr));gap:.8rem 1.5rem;
margin-top:.5rem!important}
.tiles>div{border-top:1px solid var(--rule);padding-top:.5rem}
.tiles dt{font-size:.85rem;color:var(--soft)}
.tiles b{font-size:1.35rem;font-weight:650;font-variant-numeric:tabular-nums}
.tiles dd span,.before{font-size:.82rem;color:var(--soft)}.tiles dd span{white-space:nowrap;display:inline-block}
.notes{background:var(--panel);border-radius:3px;padding:.9rem 1.2rem;font-size:.9rem}.notes ul{padding-left:1.1rem;
margin-top:.3rem}
"""

_CHARTS = """
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:1.6rem 1.8rem}
.panels.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
.panel{display:flex;flex-direction:column;min-width:0;max-width:600px}
.panel .legend{margin:.2rem 0 0 2.9rem}.wide .panel .legend{margin-left:0}
.panel-title{font-size:.9rem;margin-bottom:.2rem}
.chart{display:block;width:100%;height:auto;overflow:visible;font-size:11px}
.chart text{fill:var(--soft);font-variant-numeric:tabular-nums}.chart .value{fill:var(--ink);font-weight:600;
font-size:12px}
.chart .label{font-size:11.5px}
.wide .chart{font-size:9.5px}.wide .chart .label{font-size:10px}
.chart.map{max-width:620px}.chart.bars{max-width:440px}
.map text,.map .label{font-size:12px}
@media(max-width:520px){.chart,.wide .chart,.chart .label,.wide .chart .label{font-size:12px}.map text,
.map .label{font-size:14px}.chart.bars text,.chart.bars .label,.chart .value{font-size:14px}}
.grid{stroke:var(--rule);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1;fill:none}
.event{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}
.plot{fill:none;stroke:var(--rule)}.whisker{stroke:var(--ink);stroke-width:1.3;fill:none}.track{fill:var(--track)}
.line{fill:none;stroke:var(--c);stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
.line.strong{stroke-width:2.6}
.band{fill:var(--c);fill-opacity:.2}.dots circle{fill:var(--c)}
.bars rect:not(.track){fill:var(--c)}
.map path{fill:var(--c);fill-opacity:.8}.map path:hover{stroke:var(--ink);stroke-width:1.2;fill-opacity:1}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.85rem;color:var(--ink)}
figure>.legend{margin:.5rem 0 .8rem}
.legend li{display:inline-flex;align-items:center;gap:.4em;max-width:100%}
.swatch{height:12px;width:22px;flex:none}.swatch .mark{fill:var(--c)}.swatch:has(.mark){width:20px;height:15px}
@media(min-width:760px){.mapped{display:grid;grid-template-columns:minmax(0,620px) 1fr;gap:0 2rem;align-items:start}
.mapped>.legend{flex-direction:column;margin:0}.mapped>.legend.many{flex-direction:row}
.mapped>figcaption{grid-column:1/-1}}
""" + "".join(f".{name}{{--c:var(--{name})}}" for name in [f"{k}{i}" for k in "cr" for i in range(8)] + ["quiet"])

_PICTURES = """
img{display:block;height:auto;border-radius:2px;background:var(--track)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr));gap:1.6rem 2rem}
.card{display:grid;grid-template-columns:5.2rem 1fr;gap:.4rem .9rem;align-content:start;min-width:0}
.who{grid-column:1/-1;font-size:.9rem;border-bottom:1px solid var(--rule);padding-bottom:.25rem;color:var(--soft)}
.who b{color:var(--ink);font-weight:650;margin-right:.4em}
.query img{outline:2px solid var(--frame);outline-offset:1px}
.card img{width:100%;image-rendering:auto}
.card .query img{width:5rem}
.found{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(3.6rem,1fr));gap:.5rem}
.found li{min-width:0;max-width:5rem}
.under{font-size:.78rem;color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
.same{color:var(--good);font-weight:700}.other{color:var(--bad);font-weight:700}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,27rem),1fr));gap:1rem 2.2rem}
.views{display:grid;grid-template-columns:repeat(var(--n),minmax(0,4.6rem));gap:.5rem;align-items:center}
.views img{width:100%}
"""

_TABLES = """
.scroll{overflow-x:auto;max-width:100%;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption,.caption{text-align:left;font-size:.875rem;color:var(--soft);padding-bottom:.4rem}
.data th,.data td{padding:.35rem .9rem .35rem 0;text-align:right;vertical-align:top;border-bottom:1px solid var(--rule)}
.data{overflow-wrap:normal}.data th,.data td{white-space:nowrap}
.data th:first-child,.data .words{text-align:left;white-space:normal}.events th:last-child{text-align:left}
.data th:first-child{min-width:7.5rem;max-width:24rem;overflow-wrap:anywhere}
.data .words{min-width:14rem;max-width:40rem;overflow-wrap:anywhere}
.data code{white-space:normal;overflow-wrap:break-word}
.data thead th{white-space:normal;overflow-wrap:normal;max-width:8rem}.differences thead th{max-width:12rem}
.differences td{text-align:left}.differences thead th{text-align:left}
thead th{font-weight:600;color:var(--soft);font-size:.85rem;border-bottom:1.5px solid var(--soft)!important;
vertical-align:bottom!important}
tbody th{font-weight:500}
.data tbody th,.data thead th:first-child{position:sticky;left:0;background:var(--page)}
.best strong{font-weight:700;border-bottom:2px solid var(--c0)}
.groups{columns:20rem 3;column-gap:2.2rem}
.settings{width:100%;margin-bottom:1.3rem;break-inside:avoid}
.settings caption{font-weight:650;color:var(--ink);font-size:.95rem;padding-bottom:.25rem}
.settings th,.settings td{padding:.22rem 0;text-align:left;vertical-align:top;border-top:1px solid var(--rule)}
.settings th{font-weight:400;color:var(--soft);padding-right:1rem;width:44%}
.settings td{overflow-wrap:anywhere}section>.settings th{width:12rem}
.duo{display:grid;gap:1rem 2.5rem;align-items:center;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}
.duo>*{min-width:0}.duo .caption{display:none}
summary{cursor:pointer;color:var(--link);font-size:.95rem}details[open]>summary{margin-bottom:.7rem}
pre{background:var(--panel);padding:.9rem 1.1rem;border-radius:3px;overflow-x:auto;max-height:36rem;margin:0;
overflow-wrap:normal}
"""

_PAPER = """
@media print{
@page{margin:16mm 14mm}
html{font-size:10pt;background:#fff}body{max-width:none;padding:0}
nav,.skip,footer{display:none}a{color:inherit;text-decoration:none}
section{margin-top:1.6rem}h2,h3,.panel-title,caption,summary{break-after:avoid}
figure .panel,.verdict,.card,.views,tr,.duo,.map,.tiles>div,.notes{break-inside:avoid}
.verdict:has(.figures){grid-template-columns:1.25fr 1fr}
.panels{grid-template-columns:repeat(3,1fr);gap:1rem}.panels.wide{grid-template-columns:repeat(2,1fr)}
.cards,.pairs{grid-template-columns:repeat(2,1fr)}.groups{columns:3}.card{grid-template-columns:1.6cm 1fr}
.card .query img{width:1.5cm}.found{grid-template-columns:repeat(auto-fill,minmax(.95cm,1fr));gap:.15cm}
.views{padding:4px}
.data tbody th,.data thead th:first-child{position:static}
.chart.map{max-width:11cm}.panels:not(.wide) .chart,.panels:not(.wide) .label{font-size:14px}
.scroll{overflow:visible}.data th,.data td{padding-right:.5rem;white-space:normal}.data{font-size:8pt}
pre{max-height:none;white-space:pre-wrap;overflow:visible}
details.print::details-content{content-visibility:visible;block-size:auto;display:block}
details:not(.print):not([open]){display:none}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
"""

STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    f"{_BASE}{_VERDICT}{_CHARTS}{_PICTURES}{_TABLES}{_PAPER}"
)
