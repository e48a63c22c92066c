"""The style sheet of reports."""

from __future__ import annotations

N_COLORS = 10
"""Series colors there are, ``--c0`` to ``--c9``; further series start again."""

CSS = """
:root {
  color-scheme: light dark;
  --ground: #f7f6f3; --panel: #ffffff; --ink: #1d2026; --soft: #5a606b; --line: #dfdcd5; --wash: #f0eee9;
  --accent: #0f6b63; --accent-wash: #dff1ee; --new: #7a4a00; --new-wash: #fdeccb;
  --c0: #80868f; --c1: #2b6cd4; --c2: #cf5a1d; --c3: #2a8a57; --c4: #8a4fc2; --c5: #a8821a;
  --c6: #b3325f; --c7: #12838f; --c8: #6f5a3c; --c9: #5b5fc7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #121418; --panel: #1a1d23; --ink: #e9eaed; --soft: #a3a9b4; --line: #30353f; --wash: #22262e;
    --accent: #66cfc3; --accent-wash: #173a37; --new: #ffd58a; --new-wash: #43310f;
    --c0: #a0a6b0; --c1: #74a7f7; --c2: #f2915b; --c3: #62c491; --c4: #bd93ec; --c5: #d9b74e;
    --c6: #f07fa5; --c7: #56c5d0; --c8: #c7ab82; --c9: #9ea2ff;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
.wrap { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding: 48px 0 12px; }
h1 { font-size: clamp(1.75rem, 4.5vw, 2.6rem); line-height: 1.15; letter-spacing: -.02em;
    margin: 14px 0 12px; }
h2 { font-size: 1.35rem; letter-spacing: -.01em; line-height: 1.3; margin: 0 0 6px; }
h3 { font-size: 1.02rem; margin: 0 0 2px; }
p { margin: 0 0 12px; max-width: 74ch; }
.lead { font-size: 1.1rem; color: var(--soft); }
.pill {
  display: inline-block; padding: 3px 12px; border-radius: 99px; background: var(--new-wash);
    color: var(--new);
  font-size: .8rem; font-weight: 650; letter-spacing: .06em; text-transform: uppercase;
}
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 10px 0 0; font-size: .92rem; }
a { color: var(--accent); text-underline-offset: 3px; }
section {
  background: var(--panel); border: 1px solid var(--line); border-radius: 14px; padding: 26px 28px;
    margin: 20px 0;
}
.about { color: var(--soft); margin-bottom: 16px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 0; }
.facts div { background: var(--wash); border-radius: 10px; padding: 12px 14px; }
.facts dt { color: var(--soft); font-size: .84rem; line-height: 1.35; }
.facts dd { margin: 0; font-size: 1.5rem; font-weight: 650; letter-spacing: -.01em;
    font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 0 -6px; padding: 0 6px; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; font-variant-numeric: tabular-nums; }
caption span, th.group > span {
  display: block; position: sticky; left: 0; width: fit-content; max-width: min(100%, calc(100vw - 62px));
  white-space: normal;
}
caption { text-align: left; color: var(--soft); font-size: .88rem; padding: 0 0 10px; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line);
    vertical-align: baseline; }
thead th { font-size: .84rem; color: var(--soft); font-weight: 600; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 2px; }
tbody th { font-weight: 500; }
th.group small { color: var(--soft); font-weight: 400; font-size: .84rem; margin-left: 10px; }
th.group { text-align: left; padding-top: 18px; font-weight: 650; border-bottom-color: var(--soft); }
td { white-space: nowrap; }
.left td { white-space: normal; }
.left th, .left td { text-align: left; }
td small { display: block; color: var(--soft); font-size: .78rem; white-space: nowrap; font-weight: 400; }
.best { font-weight: 750; color: var(--accent); }
.second { text-decoration: underline; text-decoration-color: var(--soft); text-underline-offset: 3px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 28px; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: 4px; }
svg { display: block; width: 100%; min-width: 420px; max-width: 720px; height: auto; }
svg { font-size: 12px; overflow: visible; }
svg text { fill: var(--soft); }
svg text.value { fill: var(--ink); font-size: 11.5px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .whisker { stroke: var(--ink); stroke-width: 1.3; opacity: .75; }
svg .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
svg .point { stroke: var(--panel); stroke-width: 1; }
svg .touch { fill: transparent; }
svg g:hover > .point { stroke: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 4px 0 6px; padding: 0;
    font-size: .88rem; }
.legend span { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 7px;
    vertical-align: -1px; }
.person { border-top: 1px solid var(--line); margin-top: 26px; padding-top: 22px; }
.person > p { color: var(--soft); font-size: .92rem; margin-bottom: 6px; }
.strip { margin: 14px 0 0; }
.strip h4 { font-size: .92rem; margin: 0 0 6px; font-weight: 650; }
.strip h4 small { color: var(--soft); font-weight: 400; font-size: .86rem; margin-left: 8px; }
.cards { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: 10px; list-style: none;
    margin: 0; padding: 0; }
.card { border-radius: 10px; background: var(--wash); overflow: hidden; border: 2px solid transparent;
    min-width: 0; }
.card img, .card .none { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; }
.card .none {
  display: grid; place-items: center; color: var(--soft); font-size: .72rem; line-height: 1.25;
    text-align: center;
  padding: 8px; border-bottom: 1px dashed var(--line);
  background: repeating-linear-gradient(45deg, transparent 0 9px, var(--line) 9px 10px);
}
.card .none span { background: var(--wash); padding: 2px 5px; border-radius: 4px; }
.card b { display: block; font-weight: 500; font-size: .78rem; line-height: 1.3; padding: 6px 8px 2px;
    overflow-wrap: anywhere; }
.marks { display: flex; flex-wrap: wrap; gap: 4px; padding: 2px 8px 8px; min-height: 8px; }
.mark { font-size: .68rem; font-weight: 650; border-radius: 4px; padding: 1px 6px; line-height: 1.5; }
.mark.new { background: var(--new-wash); color: var(--new); }
.mark.hit { background: var(--accent); color: var(--panel); }
.card.is-hit { border-color: var(--accent); background: var(--accent-wash); }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--wash);
    padding: 1px 5px; border-radius: 4px; }
pre { background: var(--wash); border-radius: 10px; padding: 12px 16px; overflow-x: auto; margin: 0 0 12px; }
pre code { padding: 0; background: none; }
footer { color: var(--soft); font-size: .88rem; padding: 6px 0 44px; }
@media (max-width: 720px) {
  .wrap { padding: 0 12px; }
  header { padding-top: 28px; }
  section { padding: 20px 16px; border-radius: 12px; }
  th, td { padding: 7px 6px; }
  .cards { display: flex; overflow-x: auto; scroll-snap-type: x proximity; padding-bottom: 6px; }
  .card { flex: 0 0 104px; scroll-snap-align: start; }
}
@media print { body { background: #fff; } section { break-inside: avoid-page; } nav { display: none; } }
"""
