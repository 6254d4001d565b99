#!/usr/bin/env python3
"""How a training step scales over the GPUs of this machine: weak (so many sets for each GPU) and strong (so many for all).

    python3 tools/scaling.py DATA SPLIT [--out FOLDER] [--gpus 1,2,4,8] [--ctas default,4,8,16]      DATA as `preprocess` writes it
    python3 tools/scaling.py DATA SPLIT --device cpu --gpus 1,2 --preset tiny --sets 4 --cells 16    ranks as processes, a thread each
    python3 tools/scaling.py --count                                                                 how many GPUs there are

Writes FOLDER/scaling.json and FOLDER/scaling.md after each run of `train`. A step's time is the median of those from one line of
the run's metrics.jsonl to the next, so with loader and log; the first lines, while algorithms are chosen, do not count. Each number
of GPUs runs with each rank's whole optimizer and with optim.shard, and with NCCL_MAX_CTAS (how many blocks a sum may take from the
kernels beside it) as NCCL has it and at each of --ctas. Efficiency is, weak, one GPU's time over the time, and strong, that over the
number of GPUs. A run is stopped after --limit seconds; what would begin after --seconds is left out, and told. The loss of the last
line shows whether the ranks did the same work: strong runs differ in it by rounding alone.

On GPUs the ranks are threads of one process, or, with --processes, one each, as torchrun starts them. Plain Python.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
EVERY = 10  # steps from line to line of the log


class Case(NamedTuple):
    gpus: int
    sets: int
    kinds: list  # weak, strong; of one GPU both
    shard: bool = False
    ctas: str = "default"


def present():
    """GPUs that a program would see."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([name for name in visible.split(",") if name])
    return sum(line.startswith("GPU ") for line in said("nvidia-smi", "-L").splitlines())


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def cases(asked):
    """In such an order that what is left out for want of time is what tells least."""
    found = [Case(1, asked.sets, ["weak", "strong"])]
    for ctas in asked.ctas:
        for shard in (False, True):
            for gpus in sorted(set(asked.gpus) - {1}, reverse=True):
                sets = {"weak": asked.sets * gpus, "strong": asked.sets}
                found += [Case(gpus, sets[kind], [kind], shard, ctas) for kind in sets]
    return found


def ranks(asked, case, run):
    """-> [(command, environment)], a process each."""
    settings = {"data.sets": case.sets, "data.cells": asked.cells, "train.val_every": 0, "train.checkpoint_every": asked.steps,
                "train.log_every": EVERY, "optim.shard": str(case.shard).lower()}
    command = [str(asked.program), "train", "--data", str(asked.data), "--split", str(asked.split), "--preset", asked.preset,
               "--steps", str(asked.steps), "--device", asked.device, "--out", str(run)]
    command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    environment = os.environ | ({} if case.ctas == "default" else {"NCCL_MAX_CTAS": case.ctas})
    if asked.device == "cpu":
        command += ["--threads", "1"]
    if not asked.processes:
        return [(command + ["--gpus", str(case.gpus)], environment)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] - 1  # ranks meet one above it
    meet = {"WORLD_SIZE": str(case.gpus), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [(command, environment | meet | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(case.gpus)]


def train(asked, case, run):
    """Runs it to its end -> its metrics."""
    children = []
    log = run.with_suffix(".log")
    try:
        with open(log, "w") as told:
            for command, environment in ranks(asked, case, run):
                children.append(subprocess.Popen(command, env=environment, stdout=told, stderr=told))
        until = time.monotonic() + asked.limit
        codes = [child.wait(timeout=max(until - time.monotonic(), 0.1)) for child in children]
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"stopped after {asked.limit:.0f} s") from None
    finally:
        for child in children:
            child.kill()
            child.wait()
    if any(codes):
        raise RuntimeError((log.read_text().strip().splitlines() or [f"exit code {max(codes)}"])[-1])
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timed(case, lines, cells):
    """-> what a run's metrics say."""
    lines = [line for line in lines if "cells_per_second" in line]
    took = sorted(2 * cells * case.sets / line["cells_per_second"] for line in lines[1:])  # seconds of a step
    step = took[len(took) // 2]
    return {"step_ms": 1e3 * step, "times": len(took), "pairs_per_s": cells * case.sets / step, "loss": lines[-1]["loss"]}


def efficiency(row, kind, alone):
    """Of a weak or a strong run; `alone` is one GPU's step."""
    share = alone / row["step_ms"]
    return share if kind == "weak" else share / row["gpus"]


def markdown(result):
    lines = ["# Training over several GPUs", "", f"- commit {result['commit']}, {result['program']}, {result['date']}",
             f"- `{result['command']}`", f"- {result['gpus']}", f"- {result['step']}", "",
             "| | GPUs | sets | optimizer | NCCL_MAX_CTAS | step | pairs/s | efficiency | loss | times |", "|---|---|---|---|---|---|---|---|---|---|"]
    alone = next((row["step_ms"] for row in result["rows"] if row["gpus"] == 1 and "step_ms" in row), None)
    for kind in ("weak", "strong"):
        for row in sorted((row for row in result["rows"] if kind in row["kinds"]), key=lambda row: row["gpus"]):
            cells = [kind, row["gpus"], row["sets"], "sharded" if row["shard"] else "whole", row["ctas"] if row["gpus"] > 1 else ""]
            if "absent" in row:
                cells += ["absent: " + row["absent"].replace("|", "/"), "", "", "", ""]
            else:
                share = f"{efficiency(row, kind, alone):.2f}" if alone else ""
                cells += [f"{row['step_ms']:.2f} ms", f"{row['pairs_per_s']:,.0f}", share, f"{row['loss']:.4f}", row["times"]]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("split", type=Path, nargs="?")
    parser.add_argument("--count", action="store_true", help="print how many GPUs there are, and end")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/scale-engine")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--processes", action="store_true", help="one for each GPU, as always on a CPU")
    parser.add_argument("--gpus", default="1,2,4,8", help="those that there are of these; comma between")
    parser.add_argument("--ctas", default="default,4,8,16", help="comma between")
    parser.add_argument("--preset", default="s184")
    parser.add_argument("--sets", type=int, default=32)
    parser.add_argument("--cells", type=int, default=512)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--limit", type=float, default=90, help="seconds that one run may take")
    parser.add_argument("--seconds", type=float, default=500, help="what would begin later is left out")
    parser.add_argument("--commit", help="of the program, where no git tells it")
    asked = parser.parse_args()
    if asked.count:
        return asked
    if not asked.split or asked.steps < 2 * EVERY:
        parser.error(f"--steps of at least {2 * EVERY}" if asked.split else "DATA and SPLIT are missing")
    asked.processes |= asked.device == "cpu"
    most = present() if asked.device == "cuda" else os.cpu_count()
    asked.gpus = [number for number in map(int, asked.gpus.split(",")) if number <= most]
    # Between processes of a CPU there is no NCCL.
    asked.ctas = asked.ctas.split(",") if asked.device == "cuda" else ["default"]
    asked.program = asked.program.absolute()
    return asked


def main():
    asked = arguments()
    if asked.count:
        return print(present())
    until = time.monotonic() + asked.seconds
    asks = "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"
    machine = said(*asks).splitlines() if asked.device == "cuda" else [f"CPU, {os.cpu_count()} cores"]
    result = {"commit": asked.commit or said("git", "rev-parse", "HEAD") or "unknown", "program": said(str(asked.program), "--version"),
              "command": " ".join(sys.argv), "date": str(date.today()), "gpus": f"{len(machine)} x {machine[0]}" if machine else "unknown",
              "step": f"{asked.preset}, sets of {asked.cells} cells, {'processes' if asked.processes else 'threads of one process'}",
              "rows": []}
    asked.out.mkdir(parents=True, exist_ok=True)
    for case in cases(asked):
        row = case._asdict()
        with tempfile.TemporaryDirectory() as folder:
            try:
                if time.monotonic() > until:
                    raise RuntimeError("no time was left")
                row |= timed(case, train(asked, case, Path(folder) / "run"), asked.cells)
            except (RuntimeError, OSError, LookupError, ValueError) as error:  # what fails is told, and the others go on
                row["absent"] = f"{error}"[:160] or type(error).__name__
        print(row, file=sys.stderr)
        result["rows"].append(row)
        (asked.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
        (asked.out / "scaling.md").write_text(markdown(result))
    print((asked.out / "scaling.md").read_text())
    # Wanting time is no failure.
    return any(row.get("absent", "no time was left") != "no time was left" for row in result["rows"])


if __name__ == "__main__":
    sys.exit(main())
