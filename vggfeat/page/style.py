"""The stylesheet of a page: light and dark, wide and narrow, print."""

COLOURS = {"ink": "#1c1f23", "muted": "#5b6169", "line": "#d5d9de", "accent": "#0b62b8", "second": "#b34700"}
"""Colours of the light page and of the plot files; embedded plots use the page's variables."""

_DARK = {"ink": "#e7e9ec", "muted": "#a3abb5", "line": "#3b4149", "accent": "#6cb2ff", "second": "#ff9d5c"}


def _variables(colours: dict[str, str], **more: str) -> str:
    return " ".join(f"--{name}: {value};" for name, value in {**colours, **more}.items())


STYLE = (
    f"""
:root {{ color-scheme: light dark; {_variables(COLOURS, paper="#ffffff", soft="#f3f5f7")} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK, paper="#15181c", soft="#1f242a")} }} }}
"""
    + """
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem); max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; background: var(--paper); padding: .5rem; }
.headline { max-width: none; font-size: 2.75rem; font-weight: 650; line-height: 1.1; margin: .75rem 0 0; }
.headline small { font-size: 1.1rem; font-weight: 400; color: var(--muted); margin-left: .6rem; }
.sub, figcaption, footer, .note { color: var(--muted); }
.note { border-left: 3px solid var(--line); padding-left: .75rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; padding: 0; margin: 1.25rem 0 0; list-style: none; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { min-width: min(100%, 24rem); border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding-bottom: .35rem; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: middle; }
th { font-weight: 600; } thead > tr > * { border-bottom: 2px solid var(--line); white-space: nowrap; }
th.text, td.text { text-align: left; max-width: 40rem; }
.images td, .images th { vertical-align: top; }
tbody th { font-weight: 500; }
th:first-child, td:first-child { padding-left: 0; }
.wide { width: 100%; }
tr.ours > * { background: var(--soft); font-weight: 600; }
.bars { width: 45%; min-width: 8rem; }
.bar { display: block; height: .7rem; border-radius: .15rem; background: var(--accent); print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; max-width: 46rem; }
figure svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.map circle.right { fill: var(--accent); } .map circle.mistaken { fill: var(--second); }
.map rect { fill: var(--soft); stroke-width: 6; } .map rect.right { stroke: var(--accent); }
.map rect.mistaken { stroke: var(--second); }
.map text { font-size: 24px; font-weight: 650; fill: var(--ink); stroke: var(--paper); stroke-width: 6px;
  paint-order: stroke; stroke-linejoin: round; }
.boxes { display: flex; flex-wrap: wrap; gap: .75rem; margin: 0; padding: 0; list-style: none; font-size: .8rem; }
.boxes li { width: 11rem; overflow-wrap: anywhere; color: var(--muted); } .boxes li.named { width: 100%; }
.boxes svg { display: block; width: 100%; height: auto; max-height: 11rem; background: var(--soft); }
.boxes rect, .key rect { fill: none; stroke-width: 3px; vector-effect: non-scaling-stroke; }
.boxes .edge { stroke: #000; stroke-width: 5px; } .boxes .true, .key .true { stroke: #ffffff; stroke-dasharray: 6 3; }
.boxes .right, .key .right { stroke: #5ad65a; } .boxes .mistaken, .key .mistaken { stroke: #ff9d5c; }
.key svg { width: 2rem; height: 1.1rem; vertical-align: middle; background: #444; margin-right: .3rem; }
.key span { margin-right: 1rem; white-space: nowrap; }
.half { max-width: 40rem; } .square { max-width: 46rem; }
.thumbs { display: flex; flex-wrap: wrap; gap: .5rem; margin: 0; padding: 0; list-style: none; }
.thumbs li { width: 5.25rem; font-size: .75rem; line-height: 1.25; color: var(--muted); text-align: left; }
.thumbs img, .thumbs .gone { display: block; width: 5.25rem; height: 5.25rem; object-fit: contain;
  background: var(--soft); border-radius: .25rem; }
.thumbs span.gone { height: auto; min-height: 4.9rem; font-size: .7rem; padding: .3rem; overflow-wrap: anywhere; }
.thumbs .named { width: 100%; overflow-wrap: anywhere; }
.mistakes .wrong { display: block; }
.mistakes li { width: 7.5rem; } .mistakes img, .mistakes .gone { width: 7.5rem; height: 7.5rem; }
.thumbs .wrong { color: var(--second); overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .75rem 1rem; border-radius: .35rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
pre code > span { display: inline-block; width: 100%; padding-left: 1.5rem; text-indent: -1.5rem; }
pre .flag { white-space: nowrap; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .88rem; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); font-size: .9rem; }
@media (max-width: 40rem) {
  th, td { padding: .25rem; } thead > tr > * { white-space: normal; } .headline { font-size: 2.2rem; }
  .map text { font-size: 34px; } .boxes li { width: calc(50% - .4rem); }
  .headline small { display: block; margin: .25rem 0 0; }
  table { font-size: .8rem; min-width: 0; } td { white-space: nowrap; }
  th.text, td.text { white-space: normal; } .many svg { min-width: 44rem; }
  .bars, thead td:empty:not(:first-child) { display: none; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
  caption > span { display: block; max-width: calc(100vw - 2rem); }
  .thumbs li, .thumbs img, .thumbs .gone { width: 4.9rem; } .thumbs img, .thumbs .gone { height: 4.9rem; }
  .images, .images caption, .images tbody, .images tr, .images th, .images td { display: block; border: 0;
    padding: .15rem 0; text-align: left; }
  .images thead { position: absolute; left: -100rem; } .images tr { border-bottom: 1px solid var(--line); }
  .images td::before { content: attr(data-label); display: block; font-size: .8rem; color: var(--muted); }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; } nav, .skip { display: none; }
  .scroll { overflow: visible; }
  tr, figure, li { break-inside: avoid; } h2, h3, caption { break-after: avoid; } thead { display: table-header-group; }
  .thumbs li, .thumbs img, .thumbs .gone { width: 4rem; } .thumbs img, .thumbs .gone { height: 4rem; }
}
"""
)
