"""The frame of a page and its style: light and dark, wide and narrow screens, paper."""

from collections.abc import Iterable, Iterator
from html import escape

from configs.pages.colours import DARK, LIGHT, style_sheet
from configs.pages.crosshair import SCRIPT

_LIGHT = (
    "color-scheme: light; --text: #1d2329; --quiet: #5d6873; --line: #d9dee3; --back: #ffffff; "
    "--soft: #f3f5f7; " + style_sheet(LIGHT)
)
_DARK = (
    "color-scheme: dark; --text: #e3e7eb; --quiet: #9aa5b0; --line: #3a424a; --back: #15191d; "
    "--soft: #20262c; " + style_sheet(DARK)
)


def page(title: str, parts: Iterable[str]) -> str:
    """An HTML file named `title` of `parts`, pieces of HTML, without external files.

    Names of files inside `parts` may hold characters that a terminal or UTF-8 does not take:
    `configs.terminal.visible` of the whole page shows them as escapes.
    """
    return "".join(page_pieces(title, parts))


def page_pieces(title: str, parts: Iterable[str]) -> Iterator[str]:
    """`page` piece by piece, for pages of many parts."""
    yield _HEAD.format(title=escape(title), style=_STYLE)
    for part in parts:
        yield part
        yield "\n"
    yield _END.format(script=SCRIPT)


def contents(titles: Iterable[tuple[str, str]]) -> str:
    """Links to sections, (id, title) each."""
    links = "".join(f'<li><a href="#{escape(i)}">{escape(title)}</a></li>' for i, title in titles)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


_STYLE = (
    f"""
:root {{ {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ {_LIGHT} }} }}
"""
    + """
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto;
       padding: 0 1rem; color: var(--text); background: var(--back); }
h1, h2, h3 { line-height: 1.25; }
h2 { margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.4rem 0 .4rem; }
a { color: var(--c0); }
code { overflow-wrap: anywhere; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; }
.scroll { overflow-x: auto; margin: .5rem 0 1.5rem; }
.quiet, figcaption { color: var(--quiet); }
.warning { border-left: 4px solid var(--c1); padding: .3rem .8rem; background: var(--soft); }
table { border-collapse: collapse; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
th[scope=row] { font-weight: normal; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { max-width: 26rem; overflow-wrap: anywhere; vertical-align: top; }
svg { display: block; max-width: 60rem; }
svg.wide { min-width: 32rem; }
svg text { font-size: 12px; fill: var(--text); }
svg .axis { fill: var(--quiet); }
svg .inside { fill: var(--back); }
svg .grid { stroke: var(--line); }
figure { margin: 0; }
.charts { display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
.charts figure { margin: 0 0 1rem; width: 300px; font-size: 13px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
         gap: 1.2rem 2rem; }
.plots figure { break-inside: avoid; }
.plots h3 { margin: .2rem 0; font-size: 1rem; }
.plots svg { width: 100%; }
.legend { margin: .2rem 0; font-size: 13px; }
.legend span { margin-right: 1.2rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; }
.legend svg.key { display: inline-block; width: 24px; height: 10px; margin-right: .35rem; }
.readout { min-height: 1.5em; font-size: 13px; font-variant-numeric: tabular-nums; margin: 0; }
.plot:focus { outline: 2px solid var(--c0); outline-offset: 2px; }
details > summary { cursor: pointer; }
"""
)
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style></head><body>
"""
_END = """{script}
</body></html>
"""
