"""Bar and line charts as SVG, on a light panel of their own, so that they read the same on light and dark pages."""

import math
from dataclasses import dataclass
from html import escape

WIDTH = 860
INK, FAINT, PANEL, EDGE = "#1f2328", "#59636e", "#ffffff", "#d1d9e0"
OURS, PEERS = "#b5541c", "#8fa3b8"
LINES = ["#b5541c", "#2f6f9f", "#4f7f3f", "#7a4fa0"]
FONT = "font-family=\"-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\""


@dataclass
class Bar:
    label: str
    value: float
    shown: str
    ours: bool
    note: str = ""


def text(x: float, y: float, content: str, size: int = 12, fill: str = INK, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}">{escape(content)}</text>'


def page(height: float, parts: list[str], label: str) -> str:
    panel = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="8" fill="{PANEL}" stroke="{EDGE}"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}" {FONT}>'
    return "\n".join([head, panel, *parts, "</svg>"]) + "\n"


def bar_chart(title: str, charts: list[tuple[str, list[Bar]]]) -> str:
    """One small chart under another, each with a scale of its own that begins at 0."""
    left, right, bar_height, gap = 350, 150, 15, 4
    parts, y = [text(20, 30, title, 15, weight="600")], 52.0
    for name, bars in charts:
        parts.append(text(20, y + 12, name, 13, weight="600"))
        y += 20
        longest = max(bar.value for bar in bars)
        for bar in bars:
            length = (WIDTH - left - right) * bar.value / longest
            middle = y + bar_height - 3.5
            parts.append(text(left - 8, middle, bar.label, 12, INK if bar.ours else FAINT, "end", "600" if bar.ours else "normal"))
            parts.append(f'<rect x="{left}" y="{y:.1f}" width="{max(length, 1):.1f}" height="{bar_height}" rx="2" fill="{OURS if bar.ours else PEERS}"/>')
            parts.append(text(left + length + 6, middle, bar.shown + (f"  {bar.note}" if bar.note else ""), 12))
            y += bar_height + gap
        y += 12
    return page(y + 6, parts, title)


def line_charts(title: str, charts: list[tuple[str, str, str, dict[str, list[tuple[float, float]]]]]) -> str:
    """Small charts in two columns, both axes logarithmic; each is (name, x axis, y axis, points of each line)."""
    plot_width, plot_height, left, top = 320, 190, 76, 84
    parts = [text(20, 30, title, 15, weight="600")]
    for at, (name, x_name, y_name, lines) in enumerate(charts):
        x0, y0 = left + at % 2 * 420, top + at // 2 * 290
        points = [point for line in lines.values() for point in line]
        x_of = scale([x for x, _ in points], x0, x0 + plot_width)
        y_of = scale([y for _, y in points], y0 + plot_height, y0)
        parts.append(text(x0, y0 - 22, name, 13, weight="600"))
        parts.append(text(x0, y0 - 7, y_name, 11, FAINT))
        parts.append(text(x0 + plot_width, y0 + plot_height + 34, x_name, 11, FAINT, "end"))
        parts.append(f'<path d="M{x0} {y0}v{plot_height}h{plot_width}" fill="none" stroke="{FAINT}"/>')
        for x in sorted({x for x, _ in points}):
            parts.append(text(x_of(x), y0 + plot_height + 17, short(x), 11, FAINT, "middle"))
        for y in ticks([y for _, y in points]):
            parts.append(text(x0 - 6, y_of(y) + 4, short(y), 11, FAINT, "end"))
            parts.append(f'<path d="M{x0} {y_of(y):.1f}h{plot_width}" stroke="{EDGE}"/>')
        for colour, (label, line) in zip(LINES, lines.items()):
            path = " ".join(f"{'L' if at else 'M'}{x_of(x):.1f} {y_of(y):.1f}" for at, (x, y) in enumerate(line))
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
            x, y = line[-1]
            halo = f'<g paint-order="stroke" stroke="{PANEL}" stroke-width="4">'  # Where a label crosses another line.
            parts += [halo, text(x_of(x), y_of(y) - 8, label, 11, colour, "end"), "</g>"]
    return page(top + (len(charts) + 1) // 2 * 290 - 20, parts, title)


def scale(values: list[float], start: float, end: float):
    low, high = math.log(min(values)), math.log(max(values))
    return lambda value: start + (end - start) * (0.5 if high == low else (math.log(value) - low) / (high - low))


def ticks(values: list[float]) -> list[float]:
    """1, 2 and 5 times powers of ten within the values; their ends where none is."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]
    return found[:: max(1, len(found) // 6)] or sorted({low, high})


def short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.3g}"
