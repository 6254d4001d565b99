#!/usr/bin/env python3
"""gpu.json to an SVG: how much of what the device can do each op reaches, ours above the best peer.

    python3 benches/gpu/picture.py OUT/gpu.json > OUT/gpu.svg        run.py draws it too

A bar that fills the frame runs at the ceiling. The number at the right is the peer's time over ours. Rows whose ceiling is not
known are left out. Plain Python.
"""
import json
import sys
from html import escape

from report import best, figure, floor, ours, size

LEFT, WIDE, RIGHT, ROW, TOP, BAR = 390, 480, 150, 34, 64, 11  # pixels
OURS, PEER = "#1b6ca8", "#b8b8b8"


def text(x, y, what, more=""):
    return f'<text x="{x}" y="{y}" {more}>{escape(what)}</text>'


def bar(y, share, us, colour):
    width = WIDE * min(share, 1)
    # Next to the bar, or inside it if there is no room.
    inside = width > WIDE - 70
    beside, anchor = (-5, "end") if inside else (5, "start")
    ink = "white" if inside and colour == OURS else "#444"
    label = text(LEFT + width + beside, y + BAR - 2, figure(us), f'font-size="9" text-anchor="{anchor}" fill="{ink}"')
    return f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>{label}'


def svg(result):
    return drawn([(row, result["ceilings"]) for row in result["rows"]], f"{result['gpu']}, commit {result['commit'][:12]}")


def drawn(rows, about):
    """Rows with the ceilings of their runs."""
    rows = [(row, lowest) for row, ceilings in rows if (lowest := floor(row, ceilings))]
    high, whole = TOP + ROW * len(rows) + 12, LEFT + WIDE + RIGHT
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {high}" width="{whole}" height="{high}" '
             'font-family="system-ui, sans-serif" font-size="11" fill="#222">',
             f'<rect width="{whole}" height="{high}" fill="white"/>',
             text(10, 20, "Share of the device's ceiling (copy or large product) that is reached", 'font-size="14"'),
             text(10, 38, about, 'fill="#666"'),
             f'<rect x="{LEFT}" y="30" width="10" height="10" fill="{OURS}"/>', text(LEFT + 15, 39, "ours"),
             f'<rect x="{LEFT + 60}" y="30" width="10" height="10" fill="{PEER}"/>', text(LEFT + 75, 39, "best peer"),
             text(LEFT + WIDE + 12, 39, "peer / ours", 'fill="#666"')]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = LEFT + WIDE * share
        parts += [f'<line x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{high - 10}" stroke="#ddd"/>',
                  text(x, TOP - 9, f"{share:.0%}", 'font-size="9" text-anchor="middle" fill="#888"')]
    for at, (row, (lowest, _)) in enumerate(rows):
        y, peer = TOP + ROW * at, best(row)
        parts += [text(10, y + 12, f"{row['name']} {row['direction']}"), text(10, y + 24, size(row), 'font-size="9" fill="#666"'),
                  bar(y, lowest / ours(row), ours(row), OURS)]
        if peer:
            parts += [bar(y + BAR + 1, lowest / peer[0], peer[0], PEER),
                      text(LEFT + WIDE + 12, y + 12, f"{peer[0] / ours(row):.2f}", 'font-weight="bold"'),
                      text(LEFT + WIDE + 12, y + 24, peer[1][:24], 'font-size="9" fill="#666"')]
    return "\n".join(parts + ["</svg>"]) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print(svg(json.load(file)), end="")
