#!/usr/bin/env python3
"""README's table "How fast" and its picture, from the results of GPUs that are committed in benches/results.

    python3 benches/gpu/summary.py            prints the table, and draws benches/results/summary.svg
    python3 benches/gpu/summary.py --check    or says what README.md and the picture do not have as the results do

Ratios and shares are of one run each: ours, the peers and the ceilings. Plain Python.
"""
import json
import sys
from pathlib import Path

import picture
from report import best, floor, ours

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benches/results"
MODEL, KERNELS = "h200-2026-11-26/model-peers.json", "h200-2026-11-26/kernel-peers.json"
EAGER, FUSED = "eager", "clip, fused AdamW, average, copy"
PEERS = {"torch.compile": "`torch.compile`", "compiled": "compiled", FUSED: "clip, fused AdamW, average and cast"}
# What is told: words, file, op, part of its shape, and peers beside the best one.
TOLD = (
    ("training step, `s184`, 16,384 pairs", MODEL, "step", {"pairs": 16384}, (EAGER,)),
    ("prediction, `s184`, 16,384 cells", MODEL, "prediction", {"pairs": 16384}, (EAGER,)),
    ("attention in a cell, forward / backward", KERNELS, "attention_cell", {"M": 8192}, ()),
    ("set attention, N 512, forward / backward", KERNELS, "attention_set", {"N": 512}, ()),
    ("MMD, 64 x 512 x 2,048, forward / backward", KERNELS, "mmd", {"N": 512}, ()),
    ("AdamW with clip and average, 184 M weights", KERNELS, "adamw", {}, (FUSED,)),
    ("counts to rows, 32,768 x 2,000", KERNELS, "gather", {}, ()),
)


def read(file):
    return json.loads((RESULTS / file).read_text())


def rows_of(file, name, shape):
    """A row for each direction."""
    found = [row for row in read(file)["rows"] if row["name"] == name and shape.items() <= row["shape"].items()]
    assert len(found) in (1, 2), (file, name, shape)
    return found


def times(values):
    """Microseconds of one or two directions, with one unit."""
    if min(values) < 1e3:
        return " / ".join(f"{us:,.0f}" for us in values) + " us"
    digits = 1 if min(values) >= 1e4 else 2
    return " / ".join(f"{us / 1e3:,.{digits}f}" for us in values) + " ms"


def line(*cells):
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def speeds(words, file, name, shape, more):
    """Lines of an op: against the best peer, then against others."""
    rows = rows_of(file, name, shape)
    mine, lowest = [ours(row) for row in rows], [floor(row, read(file)["ceilings"]) for row in rows]
    peers = {best(row)[1] for row in rows}
    assert len(peers) == 1, peers
    shares = " / ".join(f"{us / own:.2f}" for (us, _), own in zip(lowest, mine)) + f" of a {lowest[0][1]}"
    for at, peer in enumerate((*peers, *more)):
        theirs = [min(row["peers"][peer]["us"]) for row in rows]
        ratio = " / ".join(f"{us / own:.2f}" for us, own in zip(theirs, mine))
        first = (words, f"**{times(mine)}**") if at == 0 else ("", "")
        yield line(*first, f"{PEERS.get(peer, peer)} {times(theirs)}", ratio, shares if at == 0 else "")


def memory():
    row, = rows_of(MODEL, "step", {"pairs": 16384})
    own, theirs = (row["peak_gib"][who] for who in ("ours", "torch.compile"))
    return line("memory of that step", f"**{own:.1f} GiB**", f"`torch.compile` {theirs:.1f} GiB", f"{theirs / own:.2f}", "")


def table():
    lines = [line("", "ours", "best peer; others", "peer / ours", "of the ceiling"), "|" + "---|" * 5]
    return lines + [told for op in TOLD for told in speeds(*op)] + [memory()]


def drawing():
    rows = [(row, read(file)["ceilings"]) for _, file, name, shape, _ in TOLD for row in rows_of(file, name, shape)]
    about = [read(file) for file in (MODEL, KERNELS)]
    commits = ", ".join(result["commit"] for result in about)
    return picture.drawn(rows, f"{about[0]['gpu'].split(',')[0]}, commits {commits}")


def main():
    target, lines, svg = RESULTS / "summary.svg", table(), drawing()
    if "--check" not in sys.argv[1:]:
        target.write_text(svg)
        return print("\n".join(lines))
    told = (ROOT / "README.md").read_text().splitlines()
    missing = [line for line in lines if line not in told]
    if not target.exists() or target.read_text() != svg:
        missing.append(f"{target.relative_to(ROOT)}, which is not what the results ask for")
    print(*missing, sep="\n", end="\n" * bool(missing))
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
