#!/usr/bin/env bash
# A training step under NVIDIA's profilers, with ops, layers and phases named (NVTX).
#
#   tools/profile.sh [OUT] [PRESET SETS CELLS]     default target/profile, s184 32 512; needs nsys and, for kernels, ncu
#
# Writes OUT/step.nsys-rep (open it in Nsight Systems) with its table of kernels, and OUT/kernels.ncu-rep for the kernels of one step.
# The program must be built with the ranges in it: cargo build --release --features nvtx (needs libclang).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/profile} preset=${2:-s184} sets=${3:-32} cells=${4:-512}
program=${ENGINE:-target/release/scale-engine}
step=("$program" bench step --preset "$preset" --sets "$sets" --cells "$cells" --device cuda)
mkdir -p "$out"

nsys profile --trace cuda,nvtx,cublas --force-overwrite true --output "$out/step" "${step[@]}" --steps 5
nsys stats --report cuda_gpu_kern_sum,nvtx_sum "$out/step.nsys-rep" | tee "$out/kernels.txt"
if command -v ncu >/dev/null; then
    # Behind the three steps in which algorithms are chosen: every kernel of one update and the start of the next step.
    ncu --set full --nvtx --nvtx-include "update/" --launch-count 40 --force-overwrite --export "$out/kernels" "${step[@]}" --steps 1
else
    echo "ncu was not found: no kernels.ncu-rep"
fi
