#!/usr/bin/env python3
"""gpu.json to Markdown.

    python3 benches/gpu/report.py OUT/gpu.json > OUT/gpu.md        run.py writes it too

"of the ceiling" is a floor over the time: the bytes an op must move at the speed of the device's copy, or its FLOPs at that of
a large product, whichever takes longer. A ratio above 1: ours is faster. "host-bound": the device waited for the host, so the time
is the host's; where nothing is said, the device had work queued, or the file is older than the question.
"""
import json
import sys


def ours(row):
    """Microseconds: the mean of the rounds."""
    return sum(row["ours_us"]) / len(row["ours_us"])


def timed(row):
    """-> [(microseconds, peer)], the best first; those that do less work come with a name that says so."""
    return sorted((min(found["us"]), peer) for peer, found in row["peers"].items() if found.get("us"))


def best(row):
    """The best peer that does the same work: (microseconds, peer), or None."""
    return next(((us, peer) for us, peer in timed(row) if "less" not in row["peers"][peer]), None)


def floor(row, ceilings):
    """-> microseconds that the device cannot beat, and which ceiling says so; None where none is known."""
    speeds = {"copy": (row["bytes"], ceilings.get("copy_gb_per_s", 0) * 1e3),
              "product": (row["flops"], ceilings.get("matmul_tflop_per_s", 0) * 1e6)}
    floors = [(amount / speed, name) for name, (amount, speed) in speeds.items() if amount and speed]
    return max(floors) if floors else None


def size(row):
    return ", ".join(f"{letter} {value:,}" if isinstance(value, int) else str(value) for letter, value in row["shape"].items())


def figure(us):
    return f"{us:,.1f} us" if us < 1e4 else f"{us / 1e3:,.1f} ms"


def bound(found, field="host_bound"):
    return ", host-bound" if found.get(field) else ""


def turns(row):
    """How many turns a time is the median of, where the file tells it."""
    told = {"ours": row.get("ours_turns")} | {peer: found.get("turns") for peer, found in row["peers"].items()}
    told = {who: number for who, number in told.items() if number}
    if len(set(told.values())) == 1:
        return [f"{told.popitem()[1]} turns"]
    return ["turns: " + ", ".join(f"{who} {number}" for who, number in told.items())] if told else []


def line(row, ceilings):
    us, peer, lowest = ours(row), best(row), floor(row, ceilings)
    cells = [f"{row['name']} {row['direction']}", size(row), figure(us) + bound(row, "ours_host_bound")]
    cells += [figure(peer[0]) + bound(row["peers"][peer[1]]), peer[1], f"{peer[0] / us:.2f}"] if peer else ["", "none is here", ""]
    cells.append(f"{lowest[0] / us:.2f} of {lowest[1]}" if lowest else "")
    return f"| {' | '.join(cells)} |"


def others(row):
    """What is told of each peer that is not the best, that could not run, or that computes something else."""
    first = best(row)
    told = [f"{peer} {figure(us)}" + bound(row["peers"][peer]) + (f" ({row['peers'][peer]['less']})" if "less" in row["peers"][peer] else "")
            for us, peer in timed(row) if not first or peer != first[1]]
    told += [f"{peer} {word}: {found[field]}" for field, word in (("wrong", "WRONG, not timed"), ("absent", "absent"))
             for peer, found in row["peers"].items() if field in found]
    told += [f"{who} {gib:.1f} GiB" for who, gib in row.get("peak_gib", {}).items() if gib]
    return f"- {row['name']} {row['direction']}, {size(row)}: " + ("; ".join(told + turns(row)) or "no other")


def markdown(result):
    packages = ", ".join(f"{name} {version}" for name, version in result["packages"].items())
    ceilings = result["ceilings"]
    known = (f"matmul {ceilings['matmul_tflop_per_s']:.1f} TFLOP/s, copy {ceilings['copy_gb_per_s']:.0f} GB/s (read and written)"
             if ceilings else "not measured")
    program = result["program"] + (f" (sha256 {result['sha256'][:12]})" if "sha256" in result else "")
    lines = ["# Ours against the best of every peer", "", f"- commit {result['commit']}, {program}, {result['date']}",
             f"- `{result['command']}`", f"- {result['gpu']}; {result['cpu']}; Python {result['python']}; {packages}",
             f"- ceilings: {known}", ""]
    lines += ["| op | size | ours | best peer | which | peer / ours | of the ceiling |", "|---|---|---|---|---|---|---|"]
    lines += [line(row, ceilings) for row in result["rows"]]
    if result["skipped"]:
        lines += ["", "Skipped:", ""] + [f"- {name}: {reason}" for name, reason in result["skipped"].items()]
    lines += ["", "Other peers:", ""] + [others(row) for row in result["rows"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print(markdown(json.load(file)), end="")
