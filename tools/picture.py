#!/usr/bin/env python3
"""Draws benches/results/peers.svg: how many times as long the field's tools take, from the results committed beside it.

    tools/picture.py

Bars are ratios within one run on one machine, on a logarithmic scale. What was not measured is not drawn. The picture says how
many times as long a peer takes as ours does, whatever is compared: kernels and their ceilings are benches/gpu/picture.py's.
"""
import json
from html import escape
from math import log10
from pathlib import Path
from statistics import mean, median

RESULTS = Path(__file__).resolve().parent.parent / "benches/results"
LEFT, WIDTH, ROW, FULL = 250, 430, 22, 10_000
TITLE = "How many times as long other tools take for the same work (1: as long as ours)"


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
        yield "loading dense sets of cells, time of one core", [(n, ours / r) for n, r in rate.items() if not n.startswith("ours")]


def on_gpu():
    """The whole model against PyTorch, as benches/gpu/model.py has timed it: presets and sizes are of several runs."""
    rows = [row for file in sorted(RESULTS.glob("h200-*/model-peers.json")) for row in json.loads(file.read_text())["rows"]]
    for what, title in (("step", "PyTorch's training step on one H200: preset, pairs"), ("prediction", "PyTorch's prediction on one H200: preset, cells")):
        bars = []
        for row in (row for row in rows if row["name"] == what):
            ours, size = mean(row["ours_us"]), f"{row['shape']['preset']}, {row['shape']['pairs']:,}"
            peers = {name: found for name, found in row["peers"].items() if "us" in found and "less" not in found}
            bars += [(f"{size}; {name}", min(found["us"]) / ours) for name, found in peers.items()]
        if bars:
            yield title, bars


def on_cpu():
    if told := read("step.json"):
        turns = {name: [turn for turn in told["turns"] if turn["step"] == name] for name in dict.fromkeys(t["step"] for t in told["turns"])}
        bars = [(name, median(turn["torch"]["median_s"] for turn in of) / median(turn["ours_s"] for turn in of)) for name, of in turns.items()]
        yield f"PyTorch's training step on {told['threads']} CPU threads", bars


def draw(groups):
    def wide(ratio):
        return WIDTH * max(log10(ratio), 0) / log10(FULL)

    marks = [10**i for i in range(5)]
    parts, y = [f'<text x="8" y="20" class="t">{escape(TITLE)}</text>'], 54
    parts += [f'<text x="{LEFT + wide(mark):.1f}" y="46" text-anchor="middle" class="s">{mark:,}</text>' for mark in marks]
    for title, bars in groups:
        y += ROW
        parts.append(f'<text x="8" y="{y}" class="t">{escape(title)}</text>')
        for name, ratio in sorted(bars, key=lambda bar: bar[1]):
            y += ROW
            parts.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="{LEFT}" y="{y - 13}" width="{wide(ratio):.1f}" height="16" rx="2"/>')
            shown = f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"
            parts.append(f'<text x="{LEFT + wide(ratio) + 6:.1f}" y="{y}">{shown}</text>')
        y += 6
    # Ticks at 2 to 9 of each decade show that the scale is logarithmic.
    ticks = [digit * mark for mark in marks[:-1] for digit in range(2, 10)]
    lines = [f'<line x1="{LEFT + wide(at):.1f}" x2="{LEFT + wide(at):.1f}" y1="51" y2="{y if at in marks else 56}"/>' for at in marks + ticks]
    style = ("text{font:13px system-ui,sans-serif;fill:#57606a}text.t{font-weight:600}text.s{font-size:11px}rect{fill:#2f6f9f}"
             "line{stroke:#888;stroke-opacity:.4;stroke-width:1}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 120} {y + 8}" role="img" '
            f'aria-label="{escape(TITLE)}"><style>{style}</style>{"".join(lines + parts)}</svg>\n')


if __name__ == "__main__":
    groups = [group for source in (on_gpu, on_cpu, preprocessing, loading, tests) for group in source()]
    text = draw(groups)
    (RESULTS / "peers.svg").write_text(text)
    for title, bars in groups:
        print(title, *(f"  {name}: {ratio:.1f}" for name, ratio in bars), sep="\n")
