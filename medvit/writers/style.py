"""What every page that is written shares: its frame, and looks that are calm in a dark reading room, on paper, and for the
colour-blind (Okabe and Ito's colours)."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from string import Template

from medvit import NOTICE

PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src '$allowed'; img-src data:; \
base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">
<meta name="robots" content="noindex"><meta name="color-scheme" content="light dark">
<title>$title</title><style>$css</style></head><body>
<p class="notice">$notice</p>
<header><h1>$headline</h1><p class="by">$by</p></header>
<main>
$sections
</main>
<footer>$foot<p>$notice</p></footer>
</body></html>
""")
CSS = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #ffffff; --ink: #1d2327; --soft: #5d676e; --rule: #e1e4e3;
  --ok: #0072b2; --skipped: #9aa3a8; --rejected: #e69f00; --failed: #d55e00; --left: #d3d8da; --below: #c3cace; }
@media (prefers-color-scheme: dark) { :root { --paper: #101315; --card: #171b1e; --ink: #cfd6da; --soft: #8d989f;
  --rule: #282e32; --ok: #56b4e9; --skipped: #6f7b82; --rejected: #d9a028; --failed: #e0702b; --left: #343b40;
  --below: #49535a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0 32px 32px; max-width: 1280px; background: var(--paper); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 28px; font-weight: 600; letter-spacing: -0.01em; line-height: 1.25; }
h2 { margin: 0 0 12px; font-size: 16px; font-weight: 600; }
header { margin: 20px 0 24px; }
p { margin: 0 0 12px; }
.by, .soft, footer { color: var(--soft); }
.by { margin: 4px 0 0; }
.notice { margin: 0 -32px; padding: 6px 32px; border-bottom: 1px solid var(--rule); color: var(--soft); font-size: 13px; }
footer .notice { margin: 0; padding: 0; border: 0; }
footer { margin-top: 28px; font-size: 12px; }
footer p { margin: 0 0 4px; }
section { margin: 0 0 20px; padding: 20px 24px; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.two { display: grid; grid-template-columns: 3fr 2fr; gap: 20px; }
.two:last-child { grid-template-columns: 2fr 3fr; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: 5px 16px 5px 0; text-align: left; vertical-align: baseline; font-weight: 400;
  border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
tr:last-child > * { border-bottom: 0; }
tfoot > tr > * { border-top: 1px solid var(--rule); font-weight: 600; }
tfoot .soft { font-weight: 400; }
thead th { color: var(--soft); font-size: 12px; }
th[scope=row], .word { white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
code { font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: normal; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 20px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
svg { display: block; overflow: visible; }
.bar { width: 100%; height: 14px; margin-bottom: 12px; }
.mark { display: inline-block; width: 10px; height: 10px; margin-right: 8px; }
rect.ok { fill: var(--ok); } rect.skipped { fill: var(--skipped); } rect.rejected { fill: var(--rejected); }
rect.failed { fill: var(--failed); } rect.left { fill: var(--left); } rect.below { fill: var(--below); }
figure { margin: 0; }
.cards { display: grid; grid-template-columns: repeat(6, 1fr); gap: 20px 16px; }
.cards img, .none { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #000; border-radius: 4px; }
.none { display: grid; place-items: center; background: none; border: 1px dashed var(--rule); color: var(--soft);
  font-size: 12px; }
.cards figcaption { display: grid; grid-template-columns: 1fr max-content; gap: 2px 8px; margin-top: 6px; font-size: 13px; }
.cards figcaption .soft { font-size: 12px; }
.cards figcaption b { font-weight: 600; }
.cards code { grid-column: 1 / 3; color: var(--soft); }
.cards figcaption > .soft { grid-column: 1 / 3; }
.meter { grid-column: 1 / 3; width: 100%; height: 6px; }
rect.track { fill: var(--rule); } rect.tick { fill: var(--ink); }
.grid { display: grid; grid-template-columns: repeat(4, 1fr); gap: 24px 28px; }
.label figcaption { display: flex; justify-content: space-between; gap: 8px; margin-bottom: 4px; }
.label figcaption .soft, .scale { font-size: 12px; white-space: nowrap; }
.label svg { width: 100%; }
.scale { display: flex; justify-content: space-between; color: var(--soft); margin-top: 2px; }
.scale b { color: var(--ink); }
path.axis { stroke: var(--rule); } path.line { stroke: var(--ink); stroke-dasharray: 3 2; }
@media screen and (max-width: 900px) { .two, .two:last-child { grid-template-columns: 1fr; }
  .cards { grid-template-columns: repeat(3, 1fr); } .grid { grid-template-columns: repeat(2, 1fr); } }
@media print { :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #ccc; --ok: #0072b2;
  --skipped: #9aa3a8; --rejected: #e69f00; --failed: #d55e00; --left: #d3d8da; --below: #c3cace; }
  body { padding: 0; font-size: 11px; } .notice { margin: 0; padding: 0 0 4px; } section { padding: 12px 0; border: 0; }
  figure, tr, .cards, .two { break-inside: avoid; } h2, section > p { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def document(title: str, by: str, sections: Sequence[str], foot: str, *, headline: str = "", more_css: str = "") -> str:
    """A page that runs no script and fetches nothing: its style is allowed by its digest, pictures are ``data:``.

    Args:
        title: Of the window, and the headline where there is no other.
        by: Below the headline: who answered, when.
        sections: HTML, one below the other.
        foot: HTML above the last notice.
        headline: Of the page.
        more_css: Behind `CSS`.
    """
    css = CSS + more_css
    return PAGE.substitute(
        allowed=f"sha256-{b64encode(sha256(css.encode()).digest()).decode()}",
        title=title,
        css=css,
        notice=escape(NOTICE),
        headline=headline or title,
        by=by,
        sections="\n".join(sections),
        foot=foot,
    )
