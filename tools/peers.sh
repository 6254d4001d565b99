#!/usr/bin/env bash
# `evaluate` against its peers: seconds and peak memory on the same cells and threads, on one machine, in one run.
#
#   tools/peers.sh [THREADS] [CELLS GENES PERTURBATIONS] [full|DE]     default 2, 40000 2000 100 and both; about 20 minutes
#
# full    `evaluate --profile full` against `cell-eval run --profile full` 0.6.6 and 0.8.2: whole commands, which read both files
# DE      rank sums and Benjamini-Hochberg of one file: half of our `evaluate --profile de`, which makes two tables,
#         against pdex 0.1.27, pdex 0.3.0 and illico 0.6.0, as whole commands and as the function alone, data in memory
#
# Needs python3 (3.11 or newer) and PyPI. Environments are made once under PEERS (default target/peers), or found there
# under the names below, with cells and results next to them. PROGRAM names a built scale-engine; without it cargo builds one.
# Prints a Markdown table and how far p-values agree; peers.json next to the cells holds every run. See peers.py for the rules.
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${1:-2} cells=${2:-40000} genes=${3:-2000} perturbations=${4:-100} only=${5:-}
peers=${PEERS:-target/peers}
work=$peers/cells-$cells-$genes-$perturbations

environment() { # name, packages
    local folder=$peers/$1
    [ -e "$folder/bin/python" ] && return
    "${PYTHON:-python3}" -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check "${@:2}" || { rm -rf "$folder"; exit 1; }
}
mkdir -p "$work"
environment cell-eval-0.6.6 cell-eval==0.6.6 pdex==0.1.27 scipy==1.16.3 polars==1.35.2 anndata==0.12.6 numpy==2.3.5 pandas==2.3.3
environment cell-eval-0.8.2 cell-eval==0.8.2 pdex==0.3.0 scipy==1.17.1 polars==2.1.0 anndata==0.12.19 numpy==2.4.6
# illico imports statsmodels without declaring it.
environment illico illico==0.6.0 statsmodels==0.15.0 scipy==1.17.1 anndata==0.12.19 numpy==2.4.6

if [ -z "${PROGRAM:-}" ]; then
    cargo build --release --quiet
    PROGRAM=target/release/scale-engine
fi
python=$peers/cell-eval-0.6.6/bin/python

# One simulated world of twice the size is halved: the prediction has the real cells' labels, genes and truth, but other noise.
"$PROGRAM" simulate --out "$work/counts.h5ad" --cells $((2 * cells)) --genes "$genes" \
    --perturbations "$perturbations" --cell-types 1 --batches 1 >/dev/null
"$python" tools/peers.py halves "$work"
"$python" tools/peers.py run "$work" --engine "$PROGRAM" --peers "$peers" --threads "$threads" ${only:+--only "$only"}
