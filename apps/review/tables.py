"""Tables and bars of the pages that count, as plain HTML: every text escaped, nothing to click by mistake."""

import math
from collections.abc import Iterable, Sequence

STYLE = """<style>
.medvit-table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
.medvit-table th, .medvit-table td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid #20262b;
  font-weight: 400; }
.medvit-table thead th { color: #96a1a9; font-size: 12px; } .medvit-table .n { text-align: right; white-space: nowrap; }
.medvit-h { font-size: 15px; font-weight: 600; margin: 4px 0 2px; }
.medvit-p { color: #96a1a9; font-size: 13px; margin: 0 0 6px; }
</style>"""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; a column whose name ends in # holds numbers."""
    head = "".join(f"<th{_numbers(name)}>{plain(name.removesuffix('#'))}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td{_numbers(name)}>{plain(cell)}</td>' for name, cell in zip(columns, row, strict=True))}</tr>"
        for row in rows
    )
    return f'{STYLE}<table class="medvit-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def heading(title: str, text: str = "") -> str:
    """A heading with a sentence under it."""
    said = f'<div class="medvit-p">{plain(text)}</div>' if text else ""
    return f'{STYLE}<div class="medvit-h">{plain(title)}</div>{said}'


def interval(value: float, low: float, high: float) -> str:
    """A number with its interval; a dash where it is not defined."""
    return (
        "–"
        if math.isnan(value)
        else f"{value:.2f} ({low:.2f} to {high:.2f})"
        if not math.isnan(low)
        else f"{value:.2f}"
    )


def share(value: float) -> str:
    """A share in per cent; a dash where it is not defined."""
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def plain(text: object) -> str:
    """Text for HTML: letters, digits and harmless signs as they are, everything else escaped."""
    return "".join(c if c.isalnum() or c in " .,:;()+-/_" else f"&#{ord(c)};" for c in str(text))


def _numbers(name: str) -> str:
    return ' class="n"' if name.endswith("#") else ""
