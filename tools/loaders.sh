#!/usr/bin/env bash
# `scale-engine bench loader` against its peers: sets of cells of one condition from a file, on the same cells and threads.
#
#   tools/loaders.sh [THREADS] [CELLS GENES]     default 2, 40000 2000; about five minutes
#
# Every loader hands out dense float32 rows, 4 sets of 256 random cells of one cell type and perturbation at a time, from a
# file that is in memory already. Ours reads counts and normalises them; the others hand out what is stored.
#
# Needs python3 (3.11), python3.12 for annbatch, and PyPI; a peer that cannot be installed is reported as absent. Environments
# are made once under LOADERS (default target/loaders) or found there: v311 (cell-load, bionemo-scdl, anndata, and torch, which
# is large) and v312 (annbatch). PROGRAM names a built scale-engine; without it cargo builds one.
# Prints a Markdown table; loaders.json next to the cells holds every run. See loaders.py for the rules.
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${1:-2} cells=${2:-40000} genes=${3:-2000}
peers=${LOADERS:-target/loaders}
work=$peers/cells-$cells-$genes

environment() { # name, python, packages
    local folder=$peers/$1
    [ -e "$folder/bin/python" ] && return
    "$2" -m venv "$folder" && "$folder/bin/pip" install --quiet --disable-pip-version-check "${@:3}" && return
    rm -rf "$folder"
    echo "absent: $1 (${*:3})" >&2
}
mkdir -p "$work"
environment v311 "${PYTHON:-python3}" cell-load==0.10.4 bionemo-scdl==0.1.3 anndata==0.12.19 psutil
environment v312 "${PYTHON312:-python3.12}" annbatch==0.3.1 psutil

if [ -z "${PROGRAM:-}" ]; then
    cargo build --release --quiet
    PROGRAM=target/release/scale-engine
fi
if [ ! -e "$work/data" ]; then
    "$PROGRAM" simulate --out "$work/counts.h5ad" --cells "$cells" --genes "$genes" --perturbations 20 --cell-types 4 --batches 2 >/dev/null
    "$PROGRAM" preprocess "$work/counts.h5ad" --out "$work/data" --pert-col perturbation --control-pert non-targeting \
        --celltype-col cell_type --batch-col batch --n-top-genes "$genes" >/dev/null
fi
"${PYTHON:-python3}" tools/loaders.py run "$work" --engine "$PROGRAM" --peers "$peers" --threads "$threads"
