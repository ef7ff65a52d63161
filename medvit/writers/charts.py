"""Drawings for a report as inline SVG, without script or style attributes: curves with bands, reliability, intervals."""

from collections.abc import Iterable, Sequence

SIDE = 200  # of a square drawing's field, in its own units
Number = float | None

CSS = """
.plots { display: grid; grid-template-columns: repeat(3, 1fr); gap: 20px 24px; align-items: start; }
.plots figcaption { font-size: 12px; color: var(--soft); margin-bottom: 4px; }
.plots svg { width: 100%; height: auto; }
path.band { fill: var(--ok); opacity: 0.18; } path.curve { fill: none; stroke: var(--ok); stroke-width: 1.6; }
path.frame { fill: none; stroke: var(--rule); } path.chance { stroke: var(--soft); stroke-dasharray: 3 3; fill: none; }
circle.dot { fill: var(--ok); } path.whisker { stroke: var(--ok); stroke-width: 1.4; fill: none; }
path.few { stroke: var(--rejected); } circle.few { fill: var(--rejected); } text { font-size: 9px; fill: var(--soft); }
text.name { font-size: 10px; fill: var(--ink); } rect.cell { fill: var(--ok); }
table.points { font-size: 12px; margin-top: 16px; } table + p { margin-top: 16px; }
section > p:last-child { margin-bottom: 0; }
table.points th, table.points td { padding-right: 10px; }
.places { margin-top: 16px; }
details { margin: 8px 0 0; } summary { cursor: pointer; color: var(--soft); }
.warn { color: var(--failed); }
"""


def curve(points: Sequence[Sequence[Number]], label: str, axes: tuple[str, str], chance: str = "") -> str:
    """A curve through points (x, y, low, high), each in [0, 1], with its band; ``chance`` is ``rising`` or nothing."""
    if not points:
        return '<p class="soft">Not defined: a class is absent.</p>'
    known = [(x, y, low, high) for x, y, low, high in points if None not in (x, y, low, high)]
    upper = [_at(x, high) for x, _, _, high in known]
    lower = [_at(x, low) for x, _, low, _ in reversed(known)]
    line = [_at(x, y) for x, y, _, _ in known]
    drawn = f'<path class="band" d="M{" L".join(upper + lower)}Z"/><path class="curve" d="M{" L".join(line)}"/>'
    rising = f'<path class="chance" d="M0 {SIDE}L{SIDE} 0"/>' if chance == "rising" else ""
    return _field(rising + drawn, label, axes)


def steps(points: Sequence[tuple[float, float]], label: str, axes: tuple[str, str], end: str) -> str:
    """A line through points (x, y), each in [0, 1]; what lies further right is cut off, the last height goes on to there."""
    inside = [(x, y) for x, y in points if x <= 1]
    line = [_at(x, y) for x, y in [*inside, (1.0, inside[-1][1])]] if inside else []
    drawn = f'<path class="curve" d="M{" L".join(line)}"/>' if line else ""
    return _field(drawn, label, axes, (end, "1"))


def reliability(bins: Iterable[dict[str, float]], label: str) -> str:
    """Mean probability against the share of positive cases, with Wilson's intervals; the diagonal is perfect."""
    parts = [f'<path class="chance" d="M0 {SIDE}L{SIDE} 0"/>']
    for one in bins:
        x, y = _at(one["probability"], one["share"]).split()
        top, bottom = (SIDE * (1 - one[edge]) for edge in ("high", "low"))
        radius = 2 + min(one["cases"], 400) ** 0.5 / 4
        parts.append(f'<path class="whisker" d="M{x} {top:.1f}V{bottom:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="{radius:.1f}"/>')
    return _field("".join(parts), label, ("mean probability", "share that is positive"))


def forest(
    rows: Sequence[tuple[str, Number, Number, Number, bool]], label: str, span: tuple[float, float] = (0, 1)
) -> str:
    """A row a group: name, value, low, high, and whether it stands on too few cases; names are escaped already."""
    low_end, high_end = span
    left, width, height = 240, 360, 18

    def place(value: float) -> float:
        return left + width * (min(max(value, low_end), high_end) - low_end) / (high_end - low_end)

    parts = []
    for index, (name, value, low, high, few) in enumerate(rows):
        y = 14 + index * height
        mark = " few" if few else ""
        parts.append(f'<text class="name" x="0" y="{y + 3}">{name}</text>')
        if value is None:
            parts.append(f'<text x="{left}" y="{y + 3}">not defined</text>')
            continue
        if low is not None and high is not None:
            parts.append(f'<path class="whisker{mark}" d="M{place(low):.1f} {y}H{place(high):.1f}"/>')
        parts.append(f'<circle class="dot{mark}" cx="{place(value):.1f}" cy="{y}" r="3.2"/>')
        said = f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")
        parts.append(f'<text x="{left + width + 10}" y="{y + 3}">{said}</text>')
    bottom = 14 + len(rows) * height
    middle = place((low_end + high_end) / 2)
    axis = (
        f'<path class="frame" d="M{left} 4V{bottom}H{left + width}V4"/><path class="chance" d="M{middle} 4V{bottom}"/>'
    )
    ticks = "".join(
        f'<text x="{place(v):.1f}" y="{bottom + 12}" text-anchor="middle">{v:g}</text>'
        for v in (low_end, (low_end + high_end) / 2, high_end)
    )
    return (
        f'<svg viewBox="0 0 780 {bottom + 18}" width="780" height="{bottom + 18}" role="img" aria-label="{label}">'
        f"{axis}{''.join(parts)}{ticks}</svg>"
    )


def lines(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], label: str, axes: tuple[str, str]) -> str:
    """Dots of several series over x and y of any range, the series told apart by their names as tooltips."""
    every = [point for _, points in series for point in points]
    if not every:
        return '<p class="soft">Nothing to draw.</p>'
    most_x, most_y = (max(*(point[axis] for point in every), 1e-9) for axis in (0, 1))
    parts = [
        f'<circle class="dot" cx="{SIDE * x / most_x:.1f}" cy="{SIDE * (1 - y / most_y):.1f}" r="3">'
        f"<title>{name}</title></circle>"
        for name, points in series
        for x, y in points
    ]
    return _field("".join(parts), label, axes, (f"{most_x:g}", f"{most_y:.3g}"))


def matrix(values: Sequence[Sequence[float]], label: str, axes: tuple[str, str]) -> str:
    """Numbers as squares whose strength is their share of the largest; rows from below."""
    most = max((abs(value) for row in values for value in row), default=0) or 1
    rows, columns = len(values), max(len(row) for row in values)
    high, wide = SIDE / rows, SIDE / columns
    parts = [
        f'<rect class="cell" x="{k * wide:.1f}" y="{SIDE - (i + 1) * high:.1f}" width="{wide:.1f}" height="{high:.1f}" '
        f'opacity="{max(value, 0) / most:.3f}"><title>{value:.4g}</title></rect>'
        for i, row in enumerate(values)
        for k, value in enumerate(row)
    ]
    return _field("".join(parts), label, axes, (str(columns - 1), str(rows - 1)))


def _field(content: str, label: str, axes: tuple[str, str], ends: tuple[str, str] = ("1", "1")) -> str:
    frame = f'<path class="frame" d="M0 0V{SIDE}H{SIDE}V0Z"/>'
    words = (
        f'<text x="{SIDE / 2}" y="{SIDE + 14}" text-anchor="middle">{axes[0]}</text>'
        f'<text x="{-SIDE / 2}" y="-8" text-anchor="middle" transform="rotate(-90)">{axes[1]}</text>'
        f'<text x="0" y="{SIDE + 14}">0</text><text x="{SIDE}" y="{SIDE + 14}" text-anchor="end">{ends[0]}</text>'
        f'<text x="-4" y="8" text-anchor="end">{ends[1]}</text>'
    )
    return (
        f'<svg viewBox="-24 -6 {SIDE + 30} {SIDE + 26}" role="img" aria-label="{label}">{frame}{content}{words}</svg>'
    )


def _at(x: Number, y: Number) -> str:
    return f"{SIDE * (x or 0):.1f} {SIDE * (1 - (y or 0)):.1f}"
