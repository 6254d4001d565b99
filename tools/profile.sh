#!/usr/bin/env bash
# A training step under NVIDIA's profilers. NVTX ranges name the phase (losses, gradients, update), the module and its layers, forward
# and backward, ops and kernels: gradients > flow > flow.blocks.3 > matmul backward.
#
#   tools/profile.sh [OUT] [PRESET SETS CELLS]     default target/profile, s184 32 512; needs nsys and, for kernels, ncu
#
# Writes OUT/step.nsys-rep (open it in Nsight Systems) with its table of kernels, and OUT/kernels.ncu-rep for the kernels of one step.
# The program must be built with these ranges: cargo build --release --features nvtx (needs libclang).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/profile} preset=${2:-s184} sets=${3:-32} cells=${4:-512}
program=${PROGRAM:-target/release/scale-engine}
# Not `bench step`: from its fourth step on, a step is one CUDA graph, whose kernels do not carry the names of ranges.
step=("$program" profile --preset "$preset" --sets "$sets" --cells "$cells" --device cuda)
mkdir -p "$out"

# `profile` has the profilers watch its watched steps alone: before them, algorithms are timed and a step is laid out.
nsys profile --capture-range cudaProfilerApi --trace cuda,nvtx,cublas --force-overwrite true --output "$out/step" "${step[@]}" --steps 3
nsys stats --report cuda_gpu_kern_sum,nvtx_sum "$out/step.nsys-rep" | tee "$out/kernels.txt"
if command -v ncu >/dev/null; then
    # The first of the watched step's kernels, each with its ranges.
    ncu --profile-from-start off --set full --nvtx --launch-count 60 --force-overwrite --export "$out/kernels" "${step[@]}" --steps 1
else
    echo "ncu was not found: no kernels.ncu-rep"
fi
