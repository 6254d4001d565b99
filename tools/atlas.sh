#!/usr/bin/env bash
# `preprocess` against scanpy: seconds, processor time and peak memory on the same files and threads, taking turns in one run.
#
#   tools/atlas.sh [THREADS] [CELLS GENES] [TIMES]     default 2, 100000 20000 and 10; about ten minutes and 5 GB of disk
#
# Ours       h5ad to shards: check, normalise, choose 2,000 genes, write, verify
# scanpy     read_h5ad, normalize_total, log1p, highly_variable_genes, write_h5ad, in memory
# TIMES      factor by which a last file has more cells; only we preprocess it: how memory grows
#
# Needs python3 and PyPI. The environment and the files are made once under WORK (default target/atlas). PROGRAM names a built
# scale-engine; without it cargo builds one. Prints a Markdown table; atlas.json under WORK holds every run.
set -euo pipefail
cd "$(dirname "$0")/.."
threads=${1:-2} cells=${2:-100000} genes=${3:-20000} times=${4:-10}
work=${WORK:-target/atlas}
mkdir -p "$work"
python=$work/scanpy/bin/python
[ -e "$python" ] || {
    "${PYTHON:-python3}" -m venv "$work/scanpy"
    "$work/scanpy/bin/pip" install --quiet --disable-pip-version-check scanpy==1.11.4 anndata==0.12.19 h5py
}
if [ -z "${PROGRAM:-}" ]; then
    cargo build --release --quiet
    PROGRAM=target/release/scale-engine
fi
made() { # file, cells, packing
    [ -e "$work/$1" ] || { "$python" tools/atlas.py make "$work/$1.partial" "$2" "$genes" ${3:+"$3"} && mv "$work/$1.partial" "$work/$1"; }
}
made gzip.h5ad "$cells" gzip
made plain.h5ad "$cells"
[ -e "$work/many.h5ad" ] || { "$python" tools/atlas.py repeat "$work/gzip.h5ad" "$work/many.partial" "$times" && mv "$work/many.partial" "$work/many.h5ad"; }
"$python" tools/atlas.py compare "$work" --engine "$PROGRAM" --threads "$threads"
