"""How a report looks, and what draws its curves."""

STYLE = """
:root { color-scheme: light; --ink: #222; --quiet: #5c5c5c; --line: #d8d8d8; --blue: #0b5a94; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem clamp(0.8rem, 3vw, 2rem) 4rem;
  background: #fff; color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 0; }
h2 { font-size: 1.4rem; margin: 3rem 0 0.5rem; padding-top: 0.6rem;
  border-top: 3px solid var(--blue); }
h3 { font-size: 1.12rem; margin: 2.2rem 0 0.6rem; }
h4 { font-size: 0.88rem; margin: 0 0 0.3rem; }
p { margin: 0.4rem 0; max-width: 46rem; }
a { color: var(--blue); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; margin: 0.8rem 0; padding: 0;
  list-style: none; }
.quiet { color: var(--quiet); font-size: 0.88rem; }
.note { border-left: 4px solid #c77700; background: #fff6e5; padding: 0.5rem 0.8rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; overflow-wrap: normal; }
caption { text-align: left; padding-bottom: 0.3rem; color: var(--quiet); }
th, td { padding: 0.28rem 0.8rem 0.28rem 0; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; font-variant-numeric: tabular-nums; }
tbody th { font-weight: normal; min-width: 8rem; }
td.number { text-align: right; white-space: nowrap; }
th.number { text-align: right; }
table.confusion { text-align: center; }
table.confusion th, table.confusion td { border: 1px solid #fff;
  padding: 0.5rem clamp(0.3rem, 1.5vw, 0.9rem); text-align: center; vertical-align: middle; }
.share { white-space: nowrap; }
table.confusion tbody th { min-width: 0; }
table.confusion thead th, table.confusion tbody th { font-weight: 600; }
summary { cursor: pointer; color: var(--blue); padding: 0.2rem 0; }
figure { margin: 0; min-width: 0; }
.wide img { display: block; max-width: 100%; min-width: 40rem; height: auto; }
figcaption { color: var(--quiet); font-size: 0.9rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 1.4rem 1.6rem; }
.charts figcaption { color: var(--ink); font-weight: 600; }
.chart { height: 300px; }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr));
  gap: 0.9rem; margin: 0.8rem 0; padding: 0; list-style: none; }
.cases > li { border: 1px solid var(--line); border-radius: 6px; padding: 0.6rem 0.7rem;
  min-width: 0; }
.cases > li.wrong { border-color: #c2410c; }
.pair { display: flex; gap: 0.5rem; }
.pair img { width: calc(50% - 0.25rem); height: auto; border-radius: 3px; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 0.7rem; margin: 0.4rem 0 0;
  font-size: 0.86rem; }
dt { color: var(--quiet); }
dd { margin: 0; font-variant-numeric: tabular-nums; }
"""

# A finger that moves over a chart scrolls the page; with a mouse one zooms.
DRAW = """
"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const touched = matchMedia("(pointer: coarse)").matches;
charts.forEach((chart, index) => {
  if (touched) chart.layout.dragmode = false;
  Plotly.newPlot(`chart-${index}`, chart.data, chart.layout,
    {displaylogo: false, responsive: true, displayModeBar: touched ? false : "hover"});
});
"""
