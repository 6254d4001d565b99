#!/usr/bin/env python3
"""Draws benches/results/peers.svg: how many times as long the field's tools take, from the results committed beside it.

    tools/picture.py

Bars are ratios within one run on one machine, on a logarithmic scale. What was not measured is not drawn.
"""
import json
from html import escape
from math import log10
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).resolve().parent.parent / "benches/results"
LEFT, WIDTH, ROW, FULL = 230, 430, 22, 10_000


def read(name):
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def tests():
    """Seconds of commands, without a first call that compiles; ours makes the tables of two files, theirs of one."""
    if told := read("peers-evaluate.json"):
        runs = told["runs"]
        ours = {name: median(run["wall_s"] for run in runs.pop(f"ours {name}")) for name in ("DE", "full")}

        def best(name):
            return min(run["wall_s"] - run["said"].get("warm_up_s", 0) for run in runs[name])

        whole = [name for name in runs if name.startswith("cell-eval")]
        of_one = [name for name in runs if name not in whole]
        yield "rank sums, 40,000 cells x 2,000 genes x 100 perturbations", [(n, 2 * best(n) / ours["DE"]) for n in of_one]
        yield "the whole cell-eval profile of the same cells", [(n, best(n) / ours["full"]) for n in whole]


def preprocessing():
    if told := read("atlas.json"):
        def seconds(who, file):
            return median(run["s"] for run in told["runs"] if (run["who"], run["file"]) == (who, file))

        files = {"gzip": "scanpy, gzip", "plain": "scanpy, uncompressed"}
        bars = [(name, seconds("scanpy", file) / seconds("ours", file)) for file, name in files.items()]
        yield "preprocess, 100,000 cells x 20,000 genes", bars


def loading():
    if told := read("peers-loader.json"):
        rate = {name: max(run["cells_per_core_s"] for run in runs) for name, runs in told["runs"].items()}
        ours = rate["ours, dense"]
        yield "sets of cells a core, dense", [(n, ours / r) for n, r in rate.items() if not n.startswith("ours")]


def training():
    """Each run has the peers that it had time for; a later run measures a later version of ours."""
    if told := read("h200-2026-11-26/step-peers.json"):
        bars = {}
        for run in told:
            for row in run["rows"]:
                ours = sum(row["ours_us"]) / len(row["ours_us"])
                peers = {name: min(found["us"]) / ours for name, found in row["peers"].items() if "us" in found}
                bars |= {f"PyTorch, {name}": ratio for name, ratio in peers.items()}
        yield "training step of s184, 16,384 pairs, one H200", list(bars.items())


def draw(groups):
    def wide(ratio):
        return WIDTH * max(log10(ratio), 0) / log10(FULL)

    parts, y = [], 8
    for title, bars in groups:
        y += ROW
        parts.append(f'<text x="8" y="{y}" class="t">{escape(title)}</text>')
        for name, ratio in sorted(bars, key=lambda bar: bar[1]):
            y += ROW
            parts.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="{LEFT}" y="{y - 13}" width="{wide(ratio):.1f}" height="16" rx="2"/>')
            shown = f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
            parts.append(f'<text x="{LEFT + wide(ratio) + 6:.1f}" y="{y}">{shown} times as long</text>')
        y += 6
    lines = [f'<line x1="{LEFT + wide(10**i):.1f}" x2="{LEFT + wide(10**i):.1f}" y1="14" y2="{y}"/>' for i in range(5)]
    style = ("text{font:13px system-ui,sans-serif;fill:#57606a}.t{font-weight:600}rect{fill:#2f6f9f}"
             "line{stroke:#8886;stroke-width:1}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 120} {y + 8}" role="img" '
            f'aria-label="How many times as long other tools take"><style>{style}</style>{"".join(lines + parts)}</svg>\n')


if __name__ == "__main__":
    groups = [group for source in (training, preprocessing, loading, tests) for group in source()]
    text = draw(groups)
    (RESULTS / "peers.svg").write_text(text)
    for title, bars in groups:
        print(title, *(f"  {name}: {ratio:.1f}" for name, ratio in bars), sep="\n")
