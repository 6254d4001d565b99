#!/usr/bin/env python3
"""Our kernels, our step and our prediction against the best of every peer that is installed, in one run on one GPU.

    python3 benches/gpu/run.py [--out OUT]                    all families; default OUT is benches/results/gpu-HOST-DATE
    python3 benches/gpu/run.py --only attention,mmd           these; other rows of an earlier run in OUT stay
    python3 benches/gpu/run.py --only model --preset s280     the whole model of one preset; sizes, modes and what they cost: model.py
    python3 benches/gpu/run.py --compile                      torch.compile's part of the model goes before it, instead of in its time
    python3 benches/gpu/run.py --only attention,mmd,matmul --modes default,max-autotune
                                                              torch.compile chooses among products too: a call of its own
    python3 benches/gpu/run.py --smoke                        everything at tiny sizes on the CPU: does it run?

Takes target/release/scale-engine, or --program, as it is. Peers are what `python3` can import: PyTorch, geomloss, pykeops,
CuPy; one that is absent is told as absent. geomloss and KeOps are plain Python and can be carried to a machine without a network
(KeOps compiles there, with g++ and CUDA's headers): `pip install --no-deps --target peers geomloss pykeops keopscore pybind11` here,
PYTHONPATH=peers there. Ours and theirs take turns, A B A B, under the rule in common.py. The ceilings, a large product and a device
copy, are measured before the rest and after it; the better of both counts. A peer whose values are not what they should be is told as
wrong, not timed (common.py, model.py).
Writes OUT/gpu.json, OUT/gpu.md and OUT/gpu.svg. A gpu.json of another program (by its bytes), commit or GPU is put aside as
gpu-1.json, gpu-2.json and so on: rows of two programs are never mixed. Ends within --minutes: what has no time left is skipped, and said.
"""
import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import picture
import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Each family's share of the time; what it leaves over goes to those after it. Last come those whose peers have all been measured.
FAMILIES = {"attention": 36, "mmd": 24, "matmul": 16, "compile": 100, "model": 40, "rows": 14, "adamw": 8, "gather": 5}
CEILINGS = 20  # seconds reserved for them, at each end; they may take twice as long
PACKAGES = "torch", "triton", "geomloss", "pykeops", "cupy", "nvidia-cublas"
ALSO = {"cupy": ("cupy-cuda13x", "cupy-cuda12x"), "nvidia-cublas": ("nvidia-cublas-cu12",)}  # names they go by too


def libraries():
    """cuBLASLt is looked for in PyTorch's wheels where the system has none."""
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) / part for folder in (found.submodule_search_locations if found else [])
               for part in ("cu13/lib", "cublas/lib")]
    paths = [str(folder) for folder in folders if folder.is_dir()] + [os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def version(package):
    from importlib import metadata
    names = [package, *ALSO.get(package, ())]
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return "absent"


def about(asked):
    """Commit, command and machine."""
    changed = " with changes" if said("git", "status", "--porcelain", "--untracked-files=no") else ""
    asks = "nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"
    gpu = "none (smoke)" if asked.smoke else said(*asks)
    cpu = next((line.split(":")[1].strip() for line in said("lscpu").splitlines() if line.startswith("Model name")), "")
    return {"commit": (asked.commit or said("git", "rev-parse", "HEAD") or "unknown") + changed,
            "program": said(str(asked.program), "--version"), "sha256": hashlib.sha256(asked.program.read_bytes()).hexdigest(),
            "command": " ".join(sys.argv), "date": str(date.today()),
            "gpu": gpu or "unknown", "cpu": f"{cpu}, {os.cpu_count()} cores", "python": platform.python_version(),
            "packages": {package: version(package) for package in PACKAGES}}


def family(name, asked, seconds):
    """Runs one file of this folder -> its rows, and why it ended early if it did."""
    told = asked.out / f"{name}.rows.json"
    told.unlink(missing_ok=True)
    of_model = name in ("compile", "model")
    command = [sys.executable, HERE / f"{'model' if of_model else name}.py", "--out", told, "--program", asked.program]
    # What begins late is stopped with the file, so nothing begins in the last part.
    command += ["--seconds", f"{0.85 * seconds:.0f}"] + ["--smoke"] * asked.smoke
    command += ["--modes", asked.modes] if asked.modes else []
    if name == "compile":
        command += ["--compile"]
    if of_model:
        command += [word for preset in asked.preset for word in ("--preset", preset)]
        command += [word for size in asked.size for word in ("--size", size)]
    with open(asked.out / f"{name}.log", "w") as log:
        # A process group of its own: a compiler's workers must not outlive it.
        child = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, start_new_session=True)
        try:
            code, early = child.wait(timeout=seconds), ""
            if code != 0:
                early = f"ended with exit code {code}, see {name}.log"
        except subprocess.TimeoutExpired:
            early = f"stopped after {seconds:.0f} s"
        finally:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
    rows = json.loads(told.read_text()) if told.exists() else []
    told.unlink(missing_ok=True)
    return rows, early


def earlier(file, result):
    """What lies in OUT, if it is of the same program and GPU; otherwise it is put aside."""
    if not file.exists():
        return {}
    old, same = json.loads(file.read_text()), ("sha256", "commit", "gpu")
    if all(old.get(field) == result[field] for field in same):
        return old
    aside = next(path for path in (file.with_name(f"gpu-{at}.json") for at in itertools.count(1)) if not path.exists())
    file.rename(aside)
    print(f"{file} is of another program, commit or GPU: now {aside}", file=sys.stderr)
    return {}


def merge(old, new):
    """A row that is measured again replaces the earlier one."""
    key = lambda row: (row["name"], json.dumps(row["shape"]), row["direction"])
    fresh = {key(row) for row in new}
    return [row for row in old if key(row) not in fresh] + new


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / f"benches/results/gpu-{platform.node()}-{date.today()}")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/scale-engine")
    parser.add_argument("--only", default=",".join(name for name in FAMILIES if name != "compile"), help="families, comma between")
    parser.add_argument("--preset", action="append", default=[], help="of the model; may be given again")
    parser.add_argument("--size", action="append", default=[], help="of the model: SETSxCELLS, or default; may be given again")
    parser.add_argument("--modes", help="of torch.compile, comma between: default, max-autotune, reduce-overhead (the model alone)")
    parser.add_argument("--compile", action="store_true", help="torch.compile's part of the model before it; minutes")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--commit", help="of the program, where no git tells it")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    asked.out, asked.program = asked.out.absolute(), asked.program.absolute()
    chosen = set(asked.only.split(","))
    if asked.compile and "model" in chosen:
        chosen.add("compile")
    names = [name for name in FAMILIES if name in chosen]
    if not names or not asked.program.exists():
        parser.error(f"--only knows {', '.join(FAMILIES)}" if not names else f"no program at {asked.program}")
    asked.out.mkdir(parents=True, exist_ok=True)
    libraries()
    until = time.monotonic() + 60 * asked.minutes

    result = about(asked) | {"ceilings": {}, "skipped": {}, "rows": []}
    told = asked.out / "gpu.json"
    old = earlier(told, result)
    result |= {field: old[field] for field in ("rows", "ceilings") if old}

    def ceilings():
        for found in family("ceilings", asked, 2 * CEILINGS)[0]:
            for name, value in found.items():
                result["ceilings"][name] = max(value, result["ceilings"].get(name, 0))

    def write():
        told.write_text(json.dumps(result, indent=1) + "\n")
        (asked.out / "gpu.md").write_text(report.markdown(result))
        (asked.out / "gpu.svg").write_text(picture.svg(result))

    ceilings()
    for at, name in enumerate(names):
        left = until - time.monotonic() - CEILINGS
        share = FAMILIES[name] / sum(FAMILIES[other] for other in names[at:])
        if left * share < 5:
            result["skipped"][name] = "no time was left"
            continue
        print(f"{name}: up to {left * share:.0f} s", file=sys.stderr)
        rows, early = family(name, asked, left * share)
        result["rows"] = merge(result["rows"], rows)
        if early:
            result["skipped"][name] = early
        write()  # what there is so far, in case the machine goes away
    ceilings()
    write()
    print((asked.out / "gpu.md").read_text())


if __name__ == "__main__":
    main()
